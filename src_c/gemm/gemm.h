/* Matrix product C (M, N) = A (M, K) B (K, N) with any strides of A and B, and what follows it fused into the store of a tile.
 *
 * The loops are those of BLIS (F. G. Van Zee & R. A. van de Geijn, ACM TOMS 41, 2015): blocks of columns, of depth, of rows; packed
 * panels; a tile of C in registers. Each element is the sum over k in order, DEPTH terms at a time, whatever the blocking of rows
 * and columns: any division of C over threads gives the same bits.
 */
#include "tiles.h"

enum { TILE_COLUMNS = TILE_VECTORS * W };

/* Packed panels hold `width` lines of a matrix (rows of A, columns of B), zeros past the last line, in one of two orders:
 *
 *   by step of k   panel[k · width + line]        B, and A where its lines are neighbours in memory (the A of Xᵀ δ)
 *   by line        panel[line · LINE_ROOM + k]    A where its steps of k are (the A of X W): copies of runs, no transposition
 *
 * Either way the distances are constants where the panel is read. Whole vectors are written, so a panel may run over into what is
 * packed after it, by less than a vector. */
enum { LINE_ROOM = DEPTH + 64 / sizeof(real) }; /* lines apart by a cache line more than a power of two: they do not collide */

/* x (W, W) is transposed: log2 W rounds, each of which merges the lines of one half with those of the other. */
static ALWAYS_INLINE void transpose(vec x[W])
{
    for (int round = 1; round < W; round *= 2) {
        vec y[W];
        UNROLL for (int i = 0; i < W / 2; i++)
            y[2 * i] = v_zip(x[i], x[i + W / 2], &y[2 * i + 1]);
        UNROLL for (int i = 0; i < W; i++)
            x[i] = y[i];
    }
}

/* One panel by step of k, from lines that are neighbours */
static ALWAYS_INLINE void pack_neighbours(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_k, real *panel)
{
    for (fbp_size k = 0; k < K; k++, x += x_k, panel += width) {
        for (int i = 0; i < width; i += W) v_store(panel + i, i < count ? load_at(x + i, count - i, 0) : v_all(0));
    }
}

/* One panel by step of k, from lines whose steps of k are neighbours: squares of W x W are transposed; width = n W. */
static void pack_transposed(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, real *panel)
{
    for (int line = 0; line < width; line += W) {
        for (fbp_size k = 0; k < K; k += W) {
            vec square[W];
            UNROLL for (int i = 0; i < W; i++)
                square[i] = line + i < count ? load_at(x + (line + i) * x_line + k, K - k, 0) : v_all(0);
            transpose(square);
            UNROLL for (int i = 0; i < W; i++)
                if (k + i < K) v_store(panel + (k + i) * width + line, square[i]);
        }
    }
}

/* One panel by step of k, from any strides */
static void pack_any(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, fbp_size x_k, real *panel)
{
    for (fbp_size k = 0; k < K; k++)
        for (int i = 0; i < width; i++) panel[k * width + i] = i < count ? x[i * x_line + k * x_k] : 0;
}

/* One panel by line */
static void pack_lines(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, real *panel)
{
    for (int i = 0; i < width; i++) {
        if (i < count)
            for (fbp_size k = 0; k < K; k += W) v_store(panel + i * LINE_ROOM + k, load_at(x + i * x_line + k, K - k, 0));
        else
            fill(K, 0, panel + i * LINE_ROOM);
    }
}

static void pack_b(fbp_size columns, fbp_size K, const real *B, fbp_size B_row, fbp_size B_column, real *panels)
{
    for (fbp_size j = 0; j < columns; j += TILE_COLUMNS, panels += K * TILE_COLUMNS) {
        fbp_size count = smaller(TILE_COLUMNS, columns - j);
        const real *b = B + j * B_column;
        if (B_column == 1)
            pack_neighbours(count, K, TILE_COLUMNS, b, B_row, panels);
        else if (B_row == 1)
            pack_transposed(count, K, TILE_COLUMNS, b, B_column, panels);
        else
            pack_any(count, K, TILE_COLUMNS, b, B_column, B_row, panels);
    }
}

/* Where a tile lies and what happens to it: m x n elements from C on; `first` and `last` of the blocks of depth. */
typedef struct {
    real *C;
    fbp_size C_row, m, n;
    int first, last;
    const real *bias;  /* at the tile's first column, or NULL */
    const real *slope; /* at the tile's first element, or NULL */
    fbp_size slope_row;
    int activation;
} tile;

/* C = f(C), or C ⊙ f'(slope), over a finished tile that is still in the L1 cache */
static void finish_tile(const tile *t)
{
    if (t->activation == FBP_IDENTITY) return;
    for (fbp_size i = 0; i < t->m; i++) {
        real *c = t->C + i * t->C_row;
        if (t->slope)
            activate_backward(t->activation, t->n, c, t->slope + i * t->slope_row, c);
        else
            activate(t->activation, t->n, c, c);
    }
}

/* C (m, n) = bias or what stands there + a (rows, K) b (K, TILE_COLUMNS), both packed, a by line or by step of k. The first three
 * are constants where this is inlined, so that the tile is rows x vectors registers, and an element of a at a known distance. */
static ALWAYS_INLINE void multiply_tile(int rows, int vectors, int by_line, fbp_size K, const real *a, const real *b, const tile *t)
{
    const int a_row = by_line ? LINE_ROOM : 1, a_k = by_line ? 1 : rows;
    vec acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++)
            acc[i][j] = v_all(0);
    for (fbp_size k = 0; k < K; k++, a += a_k, b += TILE_COLUMNS) {
        vec v_b[TILE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++)
            v_b[j] = v_load(b + j * W);
        UNROLL for (int i = 0; i < rows; i++) {
            vec v_a = v_all(a[i * a_row]);
            UNROLL for (int j = 0; j < vectors; j++)
                acc[i][j] = v_fma(v_a, v_b[j], acc[i][j]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++) {
        if (i >= t->m) break;
        UNROLL for (int j = 0; j < vectors; j++) {
            fbp_size left = t->n - j * W;
            real *c = t->C + i * t->C_row + j * W;
            if (!t->first)
                acc[i][j] = v_add(load_at(c, left, 0), acc[i][j]);
            else if (t->bias)
                acc[i][j] = v_add(load_at(t->bias + j * W, left, 0), acc[i][j]);
            store_at(c, acc[i][j], left);
        }
    }
}

/* The heights for which there is code: TILE_ROWS, 8, 4, 2, 1. A lower panel is padded with zeros to the next of them. */
static int tile_height(fbp_size rows)
{
    if (rows > 4) return rows <= 8 && TILE_ROWS > 8 ? 8 : TILE_ROWS;
    return rows > 2 ? 4 : (int)rows;
}

static ALWAYS_INLINE void tile_of_height(int rows, int by_line, fbp_size K, const real *a, const real *b, const tile *t)
{
    if (by_line && t->n > W)
        multiply_tile(rows, TILE_VECTORS, 1, K, a, b, t);
    else if (by_line)
        multiply_tile(rows, 1, 1, K, a, b, t);
    else if (t->n > W)
        multiply_tile(rows, TILE_VECTORS, 0, K, a, b, t);
    else
        multiply_tile(rows, 1, 0, K, a, b, t);
}

static void compute_tile(int height, int by_line, fbp_size K, const real *a, const real *b, const tile *t)
{
    enum { EIGHT = TILE_ROWS > 8 ? 8 : TILE_ROWS };
    switch (height) {
    case 1: tile_of_height(1, by_line, K, a, b, t); break;
    case 2: tile_of_height(2, by_line, K, a, b, t); break;
    case 4: tile_of_height(4, by_line, K, a, b, t); break;
    default:
        if (height < TILE_ROWS)
            tile_of_height(EIGHT, by_line, K, a, b, t);
        else
            tile_of_height(TILE_ROWS, by_line, K, a, b, t);
    }
    if (t->last) finish_tile(t);
}

/* Panels of TILE_ROWS rows of A, the last one as high as tile_height() says; `panel_size` elements from one to the next */
static void pack_a(fbp_size rows, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, fbp_size panel_size, real *panels)
{
    for (fbp_size i = 0; i < rows; i += TILE_ROWS, panels += panel_size) {
        fbp_size count = smaller(TILE_ROWS, rows - i);
        const real *a = A + i * A_row;
        if (A_column == 1)
            pack_lines(count, K, tile_height(count), a, A_row, panels);
        else if (A_row == 1 && count == TILE_ROWS)
            pack_neighbours(TILE_ROWS, K, TILE_ROWS, a, A_column, panels);
        else if (A_row == 1)
            pack_neighbours(count, K, tile_height(count), a, A_column, panels);
        else
            pack_any(count, K, tile_height(count), a, A_row, A_column, panels);
    }
}

static fbp_size round_up(fbp_size n, fbp_size unit) { return (n + unit - 1) / unit * unit; }

/* Elements of one panel of A of depth `depth`, in whichever order, with room for the last vector to run over. */
static fbp_size a_panel_size(fbp_size depth, int by_line)
{
    return by_line ? TILE_ROWS * LINE_ROOM : round_up(TILE_ROWS * depth + W, W);
}

/* K is cut into blocks of equal depth, not into full ones and a thin rest. */
static fbp_size depth_of_blocks(fbp_size K)
{
    fbp_size blocks = (K + DEPTH - 1) / DEPTH;
    return K == 0 ? 0 : (K + blocks - 1) / blocks;
}

/* Elements of scratch that matrix_product needs, never less for a larger product: one packed block of A and one of B. */
static fbp_size matrix_product_scratch(fbp_size M, fbp_size N, fbp_size K)
{
    fbp_size depth = smaller(K, DEPTH), panels = (smaller(M, ROWS) + TILE_ROWS - 1) / TILE_ROWS;
    return depth * round_up(smaller(N, COLUMNS), TILE_COLUMNS) + panels * a_panel_size(DEPTH, 1) + W;
}

/* The unit in which threads divide the columns of C. */
static fbp_size tile_columns(void) { return TILE_COLUMNS; }

static void matrix_product(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                           fbp_size B_row, fbp_size B_column, const fbp_epilogue *epilogue, real *scratch, real *C, fbp_size C_row)
{
    const real *bias = epilogue->bias, *slope = epilogue->slope;
    const int by_line = A_column == 1;
    const fbp_size full_depth = depth_of_blocks(K), panel_size = a_panel_size(full_depth, by_line);
    /* B comes first: its panels are whole vectors, and stay aligned where scratch is */
    real *packed_b = scratch, *packed_a = scratch + full_depth * round_up(smaller(N, COLUMNS), TILE_COLUMNS);
    for (fbp_size column = 0; column < N; column += COLUMNS) {
        fbp_size columns = smaller(COLUMNS, N - column), k = 0;
        do { /* once for K = 0 as well */
            fbp_size depth = smaller(full_depth, K - k);
            pack_b(columns, depth, B + k * B_row + column * B_column, B_row, B_column, packed_b);
            for (fbp_size row = 0; row < M; row += ROWS) {
                fbp_size rows = smaller(ROWS, M - row);
                pack_a(rows, depth, A + row * A_row + k * A_column, A_row, A_column, panel_size, packed_a);
                for (fbp_size j = 0; j < columns; j += TILE_COLUMNS) {
                    for (fbp_size i = 0; i < rows; i += TILE_ROWS) {
                        fbp_size m = smaller(TILE_ROWS, rows - i), at = (row + i) * C_row + column + j;
                        tile t = {
                            .C = C + at, .C_row = C_row, .m = m, .n = smaller(TILE_COLUMNS, columns - j),
                            .first = k == 0 && !epilogue->accumulate, .last = k + depth == K,
                            .bias = bias ? bias + column + j : NULL,
                            .slope = slope ? slope + (row + i) * epilogue->slope_row + column + j : NULL,
                            .slope_row = epilogue->slope_row, .activation = epilogue->activation,
                        };
                        compute_tile(tile_height(m), by_line, depth, packed_a + i / TILE_ROWS * panel_size, packed_b + j * depth, &t);
                    }
                }
            }
            k += depth;
        } while (k < K);
    }
}

/* sums_o = Σ_n x_no, in the order of n */
static void column_sums(fbp_size N, fbp_size O, const real *x, fbp_size x_row, real *sums)
{
    enum { VECTORS = 4 };
    for (fbp_size o = 0; o < O; o += VECTORS * W) {
        vec sum[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++)
            sum[j] = v_all(0);
        for (fbp_size n = 0; n < N; n++) {
            UNROLL for (int j = 0; j < VECTORS; j++) {
                fbp_size left = O - o - j * W;
                if (left > 0) sum[j] = v_add(sum[j], load_at(x + n * x_row + o + j * W, left, 0));
            }
        }
        for (int j = 0; j < VECTORS; j++)
            if (O - o - j * W > 0) store_at(sums + o + j * W, sum[j], O - o - j * W);
    }
}

/* The machine's peak, for comparison: 12 independent chains of multiply-adds in registers. Returns the number of operations. */
static double multiply_adds(int64_t repetitions)
{
    enum { CHAINS = 12 };
    vec chain[CHAINS];
    const vec a = v_all((real)0.999), b = v_all((real)0.001);
    UNROLL for (int i = 0; i < CHAINS; i++)
        chain[i] = v_all((real)i);
    for (int64_t r = 0; r < repetitions; r++)
        UNROLL for (int i = 0; i < CHAINS; i++)
            chain[i] = v_fma(chain[i], a, b);
    for (int i = 1; i < CHAINS; i++) chain[0] = v_add(chain[0], chain[i]);
    volatile real kept = v_sum(chain[0]); /* or the compiler would drop the loop */
    (void)kept;
    return 2.0 * CHAINS * W * (double)repetitions;
}
