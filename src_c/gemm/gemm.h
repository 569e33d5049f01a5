/* Matrix product C (M, N) = A (M, K) B (K, N) with any strides of A and B, and what follows it fused into the store of a tile.
 *
 * The loops are those of BLIS (F. G. Van Zee & R. A. van de Geijn, ACM TOMS 41, 2015): blocks of columns, of depth, of rows; packed
 * panels; a tile of C in registers. Each element is the sum over k in order, DEPTH terms at a time, whatever the blocking of rows
 * and columns: any division of C over threads gives the same bits.
 */
#include "tiles.h"

enum { TILE_COLUMNS = TILE_VECTORS * W };

/* Panels of up to `width` lines of a matrix, line-major inside each step of k: panel[k · width + line], zeros past the last line. */
static void pack(fbp_size lines, fbp_size K, fbp_size width, const real *x, fbp_size x_line, fbp_size x_k, real *panels)
{
    for (fbp_size first = 0; first < lines; first += width, panels += K * width) {
        fbp_size count = smaller(width, lines - first);
        const real *from = x + first * x_line;
        if (x_line == 1) { /* lines are neighbours: copy runs of them */
            for (fbp_size k = 0; k < K; k++) {
                memcpy(panels + k * width, from + k * x_k, (size_t)count * sizeof(real));
                for (fbp_size i = count; i < width; i++) panels[k * width + i] = 0;
            }
            continue;
        }
        for (fbp_size i = 0; i < width; i++)
            for (fbp_size k = 0; k < K; k++) panels[k * width + i] = i < count ? from[i * x_line + k * x_k] : 0;
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

/* C (m, n) = bias or what stands there + a (K, rows)ᵀ b (K, TILE_COLUMNS), both packed. `rows` and `vectors` are constants where
 * this is inlined, so that the tile is rows x vectors registers. */
static ALWAYS_INLINE void multiply_tile(int rows, int vectors, fbp_size K, const real *a, const real *b, const tile *t)
{
    vec acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++)
            acc[i][j] = v_all(0);
    for (fbp_size k = 0; k < K; k++, a += rows, b += TILE_COLUMNS) {
        vec v_b[TILE_VECTORS];
        UNROLL for (int j = 0; j < vectors; j++)
            v_b[j] = v_load(b + j * W);
        UNROLL for (int i = 0; i < rows; i++) {
            vec v_a = v_all(a[i]);
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

static ALWAYS_INLINE void tile_of_height(int rows, fbp_size K, const real *a, const real *b, const tile *t)
{
    if (t->n > W)
        multiply_tile(rows, TILE_VECTORS, K, a, b, t);
    else
        multiply_tile(rows, 1, K, a, b, t);
}

static void compute_tile(int height, fbp_size K, const real *a, const real *b, const tile *t)
{
    switch (height) {
    case 1: tile_of_height(1, K, a, b, t); break;
    case 2: tile_of_height(2, K, a, b, t); break;
    case 4: tile_of_height(4, K, a, b, t); break;
    default:
        if (TILE_ROWS > 8 && height == 8)
            tile_of_height(TILE_ROWS > 8 ? 8 : 1, K, a, b, t);
        else
            tile_of_height(TILE_ROWS, K, a, b, t);
    }
    if (t->last) finish_tile(t);
}

static fbp_size round_up(fbp_size n, fbp_size unit) { return (n + unit - 1) / unit * unit; }

/* Elements of scratch that matrix_product needs: one packed block of A and one of B. */
static fbp_size matrix_product_scratch(fbp_size M, fbp_size N, fbp_size K)
{
    return smaller(K, DEPTH) * (round_up(smaller(M, ROWS), TILE_ROWS) + round_up(smaller(N, COLUMNS), TILE_COLUMNS));
}

/* The unit in which threads divide the columns of C. */
static fbp_size tile_columns(void) { return TILE_COLUMNS; }

static void matrix_product(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                           fbp_size B_row, fbp_size B_column, const fbp_epilogue *epilogue, real *scratch, real *C, fbp_size C_row)
{
    const real *bias = epilogue->bias, *slope = epilogue->slope;
    /* B comes first: its panels are whole vectors, and stay aligned where scratch is */
    real *packed_b = scratch, *packed_a = scratch + smaller(K, DEPTH) * round_up(smaller(N, COLUMNS), TILE_COLUMNS);
    for (fbp_size column = 0; column < N; column += COLUMNS) {
        fbp_size columns = smaller(COLUMNS, N - column), k = 0;
        do { /* once for K = 0 as well */
            fbp_size depth = smaller(DEPTH, K - k);
            pack(columns, depth, TILE_COLUMNS, B + k * B_row + column * B_column, B_column, B_row, packed_b);
            for (fbp_size row = 0; row < M; row += ROWS) {
                fbp_size rows = smaller(ROWS, M - row), full = rows / TILE_ROWS * TILE_ROWS;
                const real *a = A + row * A_row + k * A_column;
                pack(full, depth, TILE_ROWS, a, A_row, A_column, packed_a);
                if (full < rows)
                    pack(rows - full, depth, tile_height(rows - full), a + full * A_row, A_row, A_column, packed_a + full * depth);
                for (fbp_size j = 0; j < columns; j += TILE_COLUMNS) {
                    for (fbp_size i = 0; i < rows; i += TILE_ROWS) {
                        fbp_size m = smaller(TILE_ROWS, rows - i), at = (row + i) * C_row + column + j;
                        tile t = {
                            .C = C + at, .C_row = C_row, .m = m, .n = smaller(TILE_COLUMNS, columns - j),
                            .first = k == 0, .last = k + depth == K,
                            .bias = bias ? bias + column + j : NULL,
                            .slope = slope ? slope + (row + i) * epilogue->slope_row + column + j : NULL,
                            .slope_row = epilogue->slope_row, .activation = epilogue->activation,
                        };
                        compute_tile(tile_height(m), depth, packed_a + i * depth, packed_b + j * depth, &t);
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
