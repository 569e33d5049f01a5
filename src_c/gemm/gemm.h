/* Matrix product C (M, N) = A (M, K) B (K, N) with any strides of A and B, and its epilogue fused into the store of a tile.
 *
 * The loops are those of BLIS (F. G. Van Zee & R. A. van de Geijn, ACM TOMS 41, 2015) without the outermost: blocks of K, blocks
 * of rows of A, panels of columns of B; a tile of C in registers. A block of A stays in the L2 cache, and a panel of B near it
 * while the block passes by. A panel of B is packed again for each block of A, which costs 1/ROWS of the work and saves a buffer
 * for all of B. An element of C is the sum over k in order, DEPTH terms at a time, for any blocking of rows and columns: any
 * division of C over threads gives the same bits.
 *
 * Products of less precision may be formed from pieces of bfloat16 instead: pieces/; product.h chooses.
 */
#include "tiles.h"

enum { TILE_COLUMNS = TILE_VECTORS * W };

/* At each step of k a tile reads `rows` lines of A and TILE_COLUMNS columns of B, in place or from a packed copy:
 *
 *   A row-major      a[line · a_stride + k]     in place, as in X W and δ Wᵀ
 *   A column-major   a[k · a_stride + line]     in place, as in Xᵀ δ; and every packed panel, one stream for the prefetcher
 *   B                b[k · b_stride + column]   packed panels are padded with columns of zeros
 */

/* Transpose x (W, W) in log2 W rounds, each of which interleaves the two halves of the rows. */
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

/* One column-major panel, from lines that are adjacent in memory */
static ALWAYS_INLINE void pack_neighbours(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_k, real *panel)
{
    for (fbp_size k = 0; k < K; k++, x += x_k, panel += width) {
        for (int i = 0; i < width; i += W) v_store(panel + i, i < count ? load_at(x + i, count - i, 0) : v_all(0));
    }
}

/* One column-major panel, from lines that are contiguous in k: squares of W x W are transposed; `width` is a multiple of W. */
static ALWAYS_INLINE void pack_square(fbp_size lines, fbp_size steps, const real *x, fbp_size x_line, int width, real *panel)
{
    vec square[W];
    UNROLL for (int i = 0; i < W; i++) square[i] = i < lines ? load_at(x + i * x_line, steps, 0) : v_all(0);
    transpose(square);
    UNROLL for (int i = 0; i < W; i++)
        if (i < steps) v_store(panel + i * width, square[i]);
}
static void pack_transposed(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, real *panel)
{
    for (int line = 0; line < width; line += W, x += W * x_line, panel += W) {
        for (fbp_size k = 0; k < K; k += W) {
            if (line + W <= count && k + W <= K)
                pack_square(W, W, x + k, x_line, width, panel + k * width);
            else
                pack_square(count - line, K - k, x + k, x_line, width, panel + k * width);
        }
    }
}

/* One column-major panel, from any strides */
static void pack_any(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, fbp_size x_k, real *panel)
{
    for (fbp_size k = 0; k < K; k++)
        for (int i = 0; i < width; i++) panel[k * width + i] = i < count ? x[i * x_line + k * x_k] : 0;
}

static void pack(fbp_size count, fbp_size K, int width, const real *x, fbp_size x_line, fbp_size x_k, real *panel)
{
    assert(count > 0 && count <= width && width % W == 0);
    if (x_line == 1 && count == width)
        pack_neighbours(width, K, width, x, x_k, panel);
    else if (x_line == 1)
        pack_neighbours(count, K, width, x, x_k, panel);
    else if (x_k == 1)
        pack_transposed(count, K, width, x, x_line, panel);
    else
        pack_any(count, K, width, x, x_line, x_k, panel);
}

/* Panels of TILE_ROWS lines of A, padded to whole vectors */
enum { A_ROOM = (TILE_ROWS + W - 1) / W * W };
static void pack_a(fbp_size rows, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, real *panels)
{
    for (fbp_size i = 0; i < rows; i += TILE_ROWS, panels += K * A_ROOM)
        pack(smaller(TILE_ROWS, rows - i), K, A_ROOM, A + i * A_row, A_row, A_column, panels);
}

/* A paced tile pauses every PACE steps, to do two things that should overlap with its sums:
 *
 *   It copies `rows_per_pace` rows of the next panel of B. They may be pages apart, out of reach of the hardware prefetcher, so
 *   each is prefetched COPY_AHEAD rows before.
 *   It prefetches PREFETCHED_ROWS rows of C, if a tile is high or the update has state. Prefetching all at once would exceed
 *   the line fill buffers and stall the sums. */
enum { PACE = 32, COPY_AHEAD = 4, PREFETCHED_ROWS = 2, HIGH = TILE_ROWS > 8, DEEP = TILE_ROWS / PREFETCHED_ROWS * PACE };
typedef struct {
    fbp_size left, row, rows_per_pace; /* left: rows still to copy; row: their stride */
    const real *from;
    real *to;
} copying;

static ALWAYS_INLINE void copy_rows(copying *c, fbp_size rows)
{
    for (c->left -= rows; rows > 0; rows--, c->from += c->row, c->to += TILE_COLUMNS) {
        UNROLL for (int j = 0; j < TILE_COLUMNS; j += CACHE_LINE) PREFETCH(c->from + COPY_AHEAD * c->row + j);
        UNROLL for (int j = 0; j < TILE_COLUMNS; j += W) v_store(c->to + j, v_load(c->from + j));
    }
}

/* How a tile's sums S are stored: `to` = base + factor S, or S if base is NULL */
typedef struct {
    fbp_size n; /* columns */
    const real *base;
    fbp_size base_row; /* 0 if base is a bias, the same for every row */
    real factor;
    real *to; /* C or a buffer */
    fbp_size to_row, to_n; /* to_n: n, or whole vectors in a buffer */
    real *C; /* the tile of C, to be prefetched */
    fbp_size C_row;
    const fbp_epilogue *e;
    fbp_size at; /* offset of the tile in C and in the state vectors of e */
    copying *next;
} tile;

static ALWAYS_INLINE void store_tile(int rows, int vectors, int whole, vec acc[TILE_ROWS][TILE_VECTORS], const tile *given)
{
    const tile t = *given; /* a local copy, since a store to C might alias *given */
    if (t.base) {
        const vec factor = v_all(t.factor);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < vectors; j++)
                acc[i][j] = v_fma(factor, acc[i][j], load_at(t.base + i * t.base_row + j * W, whole ? W : t.n - j * W, 0));
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++)
            store_at(t.to + i * t.to_row + j * W, acc[i][j], whole ? W : t.to_n - j * W);
}

/* Line i of A at this step of k. An x86 address scales the stride by 1, 2 or 4; with 3 strides in a register five lines share a
 * base, and the fourteen lines of a tile need five registers. Fourteen pointers would be spilled. */
enum { LINES = 5, BASES = (TILE_ROWS + LINES - 1) / LINES };
static ALWAYS_INLINE const real *a_row_at(const char *const base[BASES], fbp_size stride, fbp_size three, int i)
{
    return (const real *)(base[i / LINES] + (i % LINES == 3 ? three : i % LINES * stride));
}

static ALWAYS_INLINE void prefetch_row_of_c(int vectors, const tile *t, fbp_size i)
{
    PREFETCH_TO_WRITE(t->C + i * t->C_row);
    if (vectors > 1) PREFETCH_TO_WRITE(t->C + i * t->C_row + t->n - 1);
}

/* Row i of C, and of the state of its update */
static ALWAYS_INLINE void prefetch_rows_of_c(const tile *t, fbp_size i)
{
    prefetch_row_of_c(TILE_VECTORS, t, i);
    UNROLL for (int s = 0; s < FBP_STATES; s++) {
        if (!t->e->state[s]) continue;
        const real *row = (const real *)t->e->state[s] + t->at + i * t->C_row;
        PREFETCH_TO_WRITE(row);
        PREFETCH_TO_WRITE(row + t->n - 1);
    }
}

/* S = a (rows, K) b (K, n). The first four arguments are compile-time constants: the tile is rows x vectors registers. */
static ALWAYS_INLINE void multiply_tile(int rows, int vectors, int row_major, int paced, fbp_size K, const real *a,
                                        fbp_size a_stride, const real *b, fbp_size b_stride, const tile *t)
{
    vec acc[TILE_ROWS][TILE_VECTORS];
    const int prefetches = paced && (HIGH || t->e->state[0]);
    fbp_size prefetched = 0;
    if (!prefetches) UNROLL for (int i = 0; i < rows; i++) prefetch_row_of_c(vectors, t, i);
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++)
            acc[i][j] = v_all(0);
    const fbp_size stride = a_stride * (fbp_size)sizeof(real), three = 3 * stride;
    const char *base[BASES];
    UNROLL for (int i = 0; i < BASES; i++) base[i] = (const char *)(a + i * LINES * a_stride);
    for (fbp_size steps; K > 0; K -= steps) {
        steps = paced ? smaller(PACE, K) : K;
        UNROLL_FOUR for (fbp_size k = 0; k < steps; k++, b += b_stride) {
            vec v_b[TILE_VECTORS];
            UNROLL for (int j = 0; j < vectors; j++)
                v_b[j] = v_load(b + j * W);
            UNROLL for (int i = 0; i < rows; i++) {
                vec v_a = v_all(row_major ? *a_row_at(base, stride, three, i) : a[i]);
                UNROLL for (int j = 0; j < vectors; j++)
                    acc[i][j] = v_fma(v_a, v_b[j], acc[i][j]);
            }
            a += a_stride;
            UNROLL for (int i = 0; i < BASES; i++) base[i] += sizeof(real);
        }
        if (paced) {
            if (prefetches && prefetched < rows)
                UNROLL for (int i = 0; i < PREFETCHED_ROWS; i++) prefetch_rows_of_c(t, prefetched + i);
            prefetched += PREFETCHED_ROWS;
            copy_rows(t->next, smaller(t->next->rows_per_pace, t->next->left));
        }
    }
    if (t->n == vectors * W)
        store_tile(rows, vectors, 1, acc, t);
    else
        store_tile(rows, vectors, 0, acc, t);
}

/* A tile of at most W columns is one vector wide. */
static fbp_size width_of(fbp_size n) { return n > W ? TILE_COLUMNS : W; }

static ALWAYS_INLINE void tile_of_height(int rows, int row_major, fbp_size K, const real *a, fbp_size a_stride, const real *b,
                                         fbp_size b_stride, const tile *t)
{
    if (rows == TILE_ROWS && (t->next->left > 0 || (K >= DEEP && !row_major && t->n > W && (HIGH || t->e->state[0]))))
        multiply_tile(rows, TILE_VECTORS, 0, 1, K, a, a_stride, b, b_stride, t);
    else if (row_major && t->n > W)
        multiply_tile(rows, TILE_VECTORS, 1, 0, K, a, a_stride, b, b_stride, t);
    else if (row_major)
        multiply_tile(rows, 1, 1, 0, K, a, a_stride, b, b_stride, t);
    else if (t->n > W)
        multiply_tile(rows, TILE_VECTORS, 0, 0, K, a, a_stride, b, b_stride, t);
    else
        multiply_tile(rows, 1, 0, 0, K, a, a_stride, b, b_stride, t);
}

/* A tile of the largest height there is code for, at most `rows`; returns its height. */
static int compute_tile(fbp_size rows, int row_major, fbp_size K, const real *a, fbp_size a_stride, const real *b,
                        fbp_size b_stride, const tile *t)
{
    enum { EIGHT = TILE_ROWS > 8 ? 8 : TILE_ROWS };
    assert(rows > 0 && t->n > 0 && t->n <= TILE_COLUMNS);
    if (rows >= TILE_ROWS) {
        tile_of_height(TILE_ROWS, row_major, K, a, a_stride, b, b_stride, t);
        return TILE_ROWS;
    }
    if (rows >= EIGHT) {
        tile_of_height(EIGHT, row_major, K, a, a_stride, b, b_stride, t);
        return EIGHT;
    }
    if (rows >= 4) {
        tile_of_height(4, row_major, K, a, a_stride, b, b_stride, t);
        return 4;
    }
    if (rows >= 2) {
        tile_of_height(2, row_major, K, a, a_stride, b, b_stride, t);
        return 2;
    }
    tile_of_height(1, row_major, K, a, a_stride, b, b_stride, t);
    return 1;
}

/* The length of equal blocks, none longer than `largest`: full blocks might leave a thin remainder. */
static fbp_size block_of(fbp_size length, fbp_size largest)
{
    fbp_size blocks = (length + largest - 1) / largest;
    return length == 0 ? 0 : (length + blocks - 1) / blocks;
}

/* The largest number of rows in a block of A */
static fbp_size most_rows(fbp_size depth) { return depth > DEPTH ? ROWS / 2 / TILE_ROWS * TILE_ROWS : ROWS; }

/* Elements of a packed block of A; elements of the scratch of multiply_ordinarily(): a block of A and two panels of B */
static fbp_size packed_block(fbp_size rows, fbp_size depth)
{
    return (smaller(rows, most_rows(depth)) + TILE_ROWS - 1) / TILE_ROWS * A_ROOM * depth;
}
static fbp_size ordinary_scratch(fbp_size M, fbp_size K)
{
    const fbp_size usual = packed_block(M, smaller(K, DEPTH)), deep = packed_block(M, smaller(K, DEEPEST));
    return 2 * smaller(K, DEEPEST) * TILE_COLUMNS + (usual > deep ? usual : deep);
}

/* The unit in which threads divide the columns of C; the largest K of an update */
static fbp_size tile_columns(void) { return TILE_COLUMNS; }
static fbp_size tile_depth(void) { return DEEPEST; }

/* The epilogue of the tile of C at (row, column), from sums in a buffer in the L1 cache with rows of whole vectors: C = f(sums),
 * or C = sums ⊙ f'(slope), or an update of C by the sums. */
static ALWAYS_INLINE void finish_tile(fbp_size rows, fbp_size n, real *sums, const fbp_epilogue *e, fbp_size row, fbp_size column,
                                      real *C, fbp_size C_row)
{
    const fbp_size width = width_of(n), at = row * C_row + column;
    const real *slope = e->slope;
    if (e->update) {
        void *state[FBP_STATES];
        UNROLL for (int s = 0; s < FBP_STATES; s++) state[s] = e->state[s] ? (real *)e->state[s] + at : NULL;
        update_rows(rows, n, sums, width, e->update, state, C, C_row);
    } else if (slope) {
        slope += row * e->slope_row + column;
        activate_backward_rows(e->activation, rows, n, sums, width, slope, e->slope_row, C, C_row);
    } else {
        activate(e->activation, rows * width, sums, sums);
        for (fbp_size i = 0; i < rows; i++)
            for (fbp_size j = 0; j < n; j += W) store_at(C + i * C_row + j, v_load(sums + i * width + j), n - j);
    }
}

/* A block of A: packed for tiles, or where it lies; `stride` leads to the next step of the sums, `row` to the next row of A */
typedef struct {
    const real *at;
    fbp_size rows, depth, row, stride;
    int row_major, packed;
} block;

static ALWAYS_INLINE const real *rows_of_block(const block *a, fbp_size i)
{
    return a->packed ? a->at + i / TILE_ROWS * a->depth * A_ROOM + i % TILE_ROWS : a->at + i * a->row;
}

/* The tiles of a block of A and a panel of B, from (row, column) of C downwards. `t` has what they share. They start from C
 * itself if `adds`, or from `bias`, or from 0. With `buffered`, what follows the sums is applied to a tile in a buffer. */
static ALWAYS_INLINE void multiply_panel(const block *a, const real *b, fbp_size b_stride, tile t, fbp_size row, fbp_size column,
                                         int adds, const real *bias, int buffered, real *C)
{
    real buffer[TILE_ROWS * TILE_COLUMNS];
    const fbp_size width = width_of(t.n);
    t.to_row = buffered ? width : t.C_row, t.to_n = buffered ? width : t.n;
    for (fbp_size i = 0; i < a->rows;) {
        t.at = (row + i) * t.C_row + column, t.C = C + t.at;
        t.base = adds ? t.C : bias ? bias + column : NULL, t.to = buffered ? buffer : t.C;
        const int height = compute_tile(a->rows - i, a->row_major, a->depth, rows_of_block(a, i), a->stride, b, b_stride, &t);
        if (buffered) finish_tile(height, t.n, buffer, t.e, row + i, column, t.C, t.C_row);
        i += height;
    }
}

/* Panels of B, read where they lie or packed; or, with `copies`, copied during the tiles of the panel before */
typedef struct {
    const real *B;
    fbp_size depth, row, column;
    int stands, copies, copied;
    real *packed, *other;
    copying next;
} panels;

/* The panel of n columns from column j of N on, and the stride of its rows; `tiles` will be made with it. */
static ALWAYS_INLINE const real *next_panel(panels *p, fbp_size j, fbp_size n, fbp_size N, fbp_size tiles, fbp_size *stride)
{
    const real *b = p->B + j * p->column;
    *stride = p->row;
    if (p->copied) {
        copy_rows(&p->next, p->next.left);
        real *const before = p->packed;
        b = p->packed = p->other, p->other = before;
        *stride = TILE_COLUMNS;
    } else if (!p->stands || n < TILE_COLUMNS) {
        *stride = width_of(n);
        pack(n, p->depth, (int)*stride, b, p->column, p->row, p->packed);
        b = p->packed;
    }
    p->copied = p->copies && j + 2 * TILE_COLUMNS <= N;
    if (p->copied)
        p->next = (copying){.left = p->depth, .row = p->row, .rows_per_pace = (PACE + tiles - 1) / tiles,
                            .from = p->B + j + TILE_COLUMNS, .to = p->other};
    return b;
}

/* C by blocks of A and panels of B. Operands are read where they lie if that costs less than packing them. */
static void multiply_ordinarily(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column,
                                const real *B, fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch, real *C,
                                fbp_size C_row)
{
    const int row_major = A_column == 1 && N <= FEW_PANELS * TILE_COLUMNS && A_row % PAGE != 0;
    const int column_major = A_row == 1 && N <= MORE_PANELS * TILE_COLUMNS;
    const int b_stands = B_column == 1 && M <= (B_row < PAGE ? FEW_TILES : 1) * TILE_ROWS;
    const int copies_b = B_column == 1 && B_row >= PAGE && !b_stands && !row_major;
    const fbp_size full_depth = block_of(K, A_row == 1 ? DEEPEST : DEPTH), panel = full_depth * TILE_COLUMNS;
    const fbp_size block_rows = (block_of(M, most_rows(full_depth)) + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    const int plain_update = e->update && is_plain_sgd(e->update, e->state);
    const int follows = e->activation != FBP_IDENTITY || (e->update && !plain_update);
    real *const packed_a = scratch + 2 * panel;
    block a = {.row = A_row, .stride = row_major ? A_row : column_major ? A_column : A_ROOM, .row_major = row_major,
               .packed = !row_major && !column_major};
    panels b = {.row = B_row, .column = B_column, .stands = b_stands, .copies = copies_b,
                .packed = scratch, .other = scratch + panel};
    tile t = {.factor = plain_update ? (real)-e->update->learning_rate : 1, .C_row = C_row, .e = e, .next = &b.next};
    fbp_size k = 0, b_stride;
    assert(packed_a - scratch + block_rows / TILE_ROWS * A_ROOM * full_depth <= ordinary_scratch(M, K));
    assert(!e->update || K <= full_depth);
    do { /* once for K = 0 as well */
        a.depth = b.depth = smaller(full_depth, K - k), b.B = B + k * B_row;
        const int adds = k > 0 || e->accumulate || plain_update, buffered = follows && k + a.depth == K;
        t.base_row = adds ? C_row : 0;
        for (fbp_size row = 0; row < M; row += block_rows) {
            a.rows = smaller(block_rows, M - row), a.at = A + row * A_row + k * A_column;
            if (a.packed) {
                pack_a(a.rows, a.depth, a.at, A_row, A_column, packed_a);
                a.at = packed_a;
            }
            b.next.left = b.copied = 0;
            for (fbp_size j = 0; j < N; j += TILE_COLUMNS) {
                t.n = smaller(TILE_COLUMNS, N - j);
                const real *at = next_panel(&b, j, t.n, N, (a.rows + TILE_ROWS - 1) / TILE_ROWS, &b_stride);
                multiply_panel(&a, at, b_stride, t, row, j, adds, e->bias, buffered, C);
            }
        }
        k += a.depth;
    } while (k < K);
}

/* sums_o = Σ_n x_no in the order of n, added to sums_o with `accumulate`, so that parts of the rows give the same bits as all at
 * once. Returns Σ |x_no|, roughly; inf or NaN if any x_no is. */
static double column_sums(fbp_size N, fbp_size O, const real *x, fbp_size x_row, int accumulate, real *sums)
{
    assert(N >= 0 && are_elements(sums, O) && (N == 0 || are_elements(x, O)) && apart_from_rows(O, sums, N, O, x, x_row));
    enum { VECTORS = 4 };
    vec magnitude[VECTORS];
    UNROLL for (int j = 0; j < VECTORS; j++) magnitude[j] = v_all(0);
    for (fbp_size o = 0; o < O; o += VECTORS * W) {
        vec sum[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++)
            sum[j] = accumulate && O - o - j * W > 0 ? load_at(sums + o + j * W, O - o - j * W, 0) : v_all(0);
        for (fbp_size n = 0; n < N; n++) {
            UNROLL for (int j = 0; j < VECTORS; j++) {
                fbp_size left = O - o - j * W;
                if (left <= 0) break;
                vec v = load_at(x + n * x_row + o + j * W, left, 0);
                sum[j] = v_add(sum[j], v);
                magnitude[j] = v_add(magnitude[j], v_abs(v));
            }
        }
        for (int j = 0; j < VECTORS; j++)
            if (O - o - j * W > 0) store_at(sums + o + j * W, sum[j], O - o - j * W);
    }
    return (double)v_sum(v_add(v_add(magnitude[0], magnitude[1]), v_add(magnitude[2], magnitude[3])));
}

/* The peak rate of a core: 12 independent chains of multiply-adds in registers. Returns the number of operations. */
static double multiply_adds(int64_t repetitions)
{
    assert(repetitions >= 0);
    enum { CHAINS = 12 };
    vec chain[CHAINS];
    const vec a = v_all((real)0.999), b = v_all((real)0.001);
    UNROLL for (int i = 0; i < CHAINS; i++)
        chain[i] = v_all((real)i);
    for (int64_t r = 0; r < repetitions; r++)
        UNROLL for (int i = 0; i < CHAINS; i++)
            chain[i] = v_fma(chain[i], a, b);
    for (int i = 1; i < CHAINS; i++) chain[0] = v_add(chain[0], chain[i]);
    volatile real kept = v_sum(chain[0]); /* keeps the compiler from dropping the loop */
    (void)kept;
    return 2.0 * CHAINS * W * (double)repetitions;
}
