/* Matrix products of float32 on the tile unit of Intel's AMX, which multiplies tiles of bfloat16 and adds in float32.
 *
 * A. A float32 is the sum of three pieces of 8 bits: x = x₁ + x₂ + x₃, where x₁ is x rounded to bfloat16, x₂ the remainder
 *    rounded, and x₃ the remainder of that. Six of the nine products of the pieces of a and b are formed,
 *
 *        a b ≈ a₁ b₁ + a₁ b₂ + a₂ b₁ + a₂ b₂ + a₁ b₃ + a₃ b₁,    where |x₂| <= 2⁻⁸ |x|, |x₃| <= 2⁻¹⁶ |x|,
 *
 *    which omits at most 2⁻²³ |a b|, and 2⁻²⁷ on average, of either sign. A tile adds 32 terms among themselves before it adds
 *    them to a sum, so it rounds less often than a chain of multiply-adds. (Henry, Tang & Heinecke, "Leveraging the bfloat16
 *    artificial intelligence datatype for higher-precision computations", ARITH 2019.)
 * B. The unit flushes pieces and sums below 2⁻¹²⁶ to 0, and pieces near the largest number overflow. Elements of C for which that
 *    could matter are computed by the ordinary product: see in_range() and mend_sums().
 * C. Packing takes the vector unit about a third of the time of the sums. It is interleaved with the instructions of the tile
 *    unit, which run in the background: a sixth of a packing unit after each four products. So is the epilogue of the previous
 *    tile.
 * D. An element of C is computed by the same operations on the same numbers in any tile: divisions of rows and columns change no
 *    bit.
 */
#include <float.h>
#include <immintrin.h>

/* A panel is up to SIDE lines, rows of A or columns of B, in groups of 16, cut into blocks of STEPS steps of k. A block has three
 * pieces of each group; a piece is a tile of 16 rows of 64 bytes. In A a row of a tile is 32 steps of one line, in B it is two
 * steps of 16 lines. Steps i and i + 16 of a block share a 32-bit word, low half first, so that one vector operation makes it
 * from two vectors. */
enum {
    GROUP = 16, STEPS = 32, SIDE = 2 * GROUP, PIECES = 3, TILE_BYTES = 1024,
    STEP_BYTES = PIECES * (int)sizeof(uint16_t), /* of one step of one line */
    KEPT = 256 * 512,                            /* lines · steps of packed panels kept in the L2 cache, most of it */
    KEPT_PANELS = 32,                            /* the largest number of kept panels */
    ROWS_AT_ONCE = 4                             /* rows of a tile whose epilogue runs at a time */
};

static double whole(fbp_size size, int unit) { return (double)((size + unit - 1) / unit * unit); }

/* Whether pieces are faster: the time of the tile unit, of packing and of the epilogue, in units of a multiply-add of the vector
 * unit. The factors are measured. */
static int pieces_pay(fbp_size M, fbp_size N, fbp_size K)
{
    const double m = whole(M, GROUP), n = whole(N, GROUP), k = whole(K, STEPS), sums = (double)M * (double)N;
    return 0.3 * m * n * k + 28 * (m + n) * k + 12 * sums < sums * (double)K;
}

/* -- the tile unit -------------------------------------------------------------------------------------------------------- */

typedef struct {
    char bytes[TILE_BYTES];
} amx_tile;

#ifdef FBP_TILE_MODEL
#include "tile_model.h"
#else

#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, p)                                                                                                        \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((fbp_size)64), "m"(*(const amx_tile *)(p)))
#define TILE_STORE(t, p, row) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((fbp_size)(row)) : "memory")
#define TILE_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* Eight tiles of 16 rows of 64 bytes */
static void configure_tiles(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
}
static void release_tiles(void) { __asm__ volatile("tilerelease" ::); }

#endif

/* -- packing -------------------------------------------------------------------------------------------------------------- */

/* A panel that is being packed, in units of 16 lines and 32 steps */
typedef struct {
    int is_a; /* of A, where a row of a tile is one line; else of B */
    int groups;
    fbp_size lines, K, x_line, x_k;
    const real *x;
    char *to;
    fbp_size unit, units;
    __m512i largest[2][GROUP];     /* by group, in 16-bit lanes: the largest first pieces, for each line of A, all of B */
    __m512i smallest[2][GROUP];    /* likewise in 32-bit lanes: the bits of the smallest magnitudes but 0, times 2, minus 1 */
    real square[2][STEPS * GROUP]; /* scratch for the units packed at a time */
} panel;

/* A or B; a line is a row of A, or a column of B. */
typedef struct {
    const real *x;
    fbp_size lines, line, step; /* number of lines; strides of lines and of steps of k */
} operand;

/* The panel from `line` on, over the steps [k, k + depth) */
static void begin_panel(panel *p, const operand *o, int is_a, fbp_size line, fbp_size k, fbp_size depth, char *to)
{
    p->is_a = is_a;
    p->lines = smaller(SIDE, o->lines - line), p->K = depth;
    p->groups = p->lines > GROUP ? 2 : 1;
    p->x = o->x + line * o->line + k * o->step, p->x_line = o->line, p->x_k = o->step;
    p->to = to;
    p->unit = 0;
    p->units = p->groups * ((depth + STEPS - 1) / STEPS);
    memset(p->largest, 0, sizeof p->largest);
    memset(p->smallest, 0xff, sizeof p->smallest);
}

/* One unit: its source, its destination, and its size within the matrix */
typedef struct {
    fbp_size lines, steps, x_line, x_k, apart;
    const real *x;
    real *square;
    char *to;
    __m512i *largest, *smallest;
} unit;

static ALWAYS_INLINE unit next_unit(panel *p)
{
    const fbp_size block = p->groups == 2 ? p->unit / 2 : p->unit, g = p->groups == 2 ? p->unit % 2 : 0;
    const unit u = {
        .lines = p->lines - g * GROUP, .steps = p->K - block * STEPS, .x_line = p->x_line, .x_k = p->x_k,
        .apart = p->groups * TILE_BYTES, .x = p->x + g * GROUP * p->x_line + block * STEPS * p->x_k,
        .square = p->square[p->unit % 2], .to = p->to + (block * PIECES * p->groups + g) * TILE_BYTES, .largest = p->largest[g],
        .smallest = p->smallest[g],
    };
    p->unit++;
    if (u.x_k == 1 && u.x_line > PAGE && u.steps >= 2 * STEPS) { /* lines so far apart defeat the prefetcher */
        const real *next = u.x + STEPS;
        for (int i = 0; i < GROUP && i < u.lines; i++)
            PREFETCH_LATER(next + i * u.x_line), PREFETCH_LATER(next + i * u.x_line + W);
    }
    return u;
}

static ALWAYS_INLINE __m512i twice_less_1(vec x)
{
    const __m512i bits = _mm512_castps_si512(x);
    return _mm512_add_epi32(_mm512_add_epi32(bits, bits), _mm512_set1_epi32(-1)); /* 0 becomes the largest number */
}
/* The three pieces of two vectors, to tiles `apart` bytes from each other */
static ALWAYS_INLINE void split(vec low, vec high, char *to, fbp_size apart, __m512i *largest, __m512i *smallest)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000);
    *smallest = _mm512_min_epu32(*smallest, _mm512_min_epu32(twice_less_1(low), twice_less_1(high)));
    UNROLL for (int piece = 0; piece < PIECES; piece++, to += apart) {
        __m512i l = _mm512_castps_si512(low), h = _mm512_castps_si512(high);
        if (piece < 2) { /* the last piece is exact */
            l = _mm512_and_si512(_mm512_add_epi32(l, half), upper);
            h = _mm512_and_si512(_mm512_add_epi32(h, half), upper);
            low = v_sub(low, _mm512_castsi512_ps(l));
            high = v_sub(high, _mm512_castsi512_ps(h));
        }
        const __m512i units = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(l, 16), h);
        if (piece == 0) *largest = _mm512_max_epu16(*largest, _mm512_and_si512(units, _mm512_set1_epi16(0x7fff)));
        _mm512_storeu_si512(to, units);
    }
}

/* Up to `left` elements at p, the rest 0; all 0 unless `is_there` */
static ALWAYS_INLINE vec there(int is_there, const real *p, fbp_size left)
{
    return is_there && left > 0 ? load_at(p, left, 0) : v_all(0);
}

/* Sixth 0 … 5 of a unit. `transposed`: A is column-major, or B is; then squares of 16 x 16 are transposed. */
static ALWAYS_INLINE void pack_sixth(int is_a, int transposed, int sixth, const unit *u)
{
    if (transposed && sixth < 2 && (is_a ? u->x_line : u->x_k) != 1) { /* not contiguous along either axis */
        for (int i = 0; i < GROUP; i++)
            for (int j = sixth * W; j < sixth * W + W; j++)
                u->square[is_a ? 2 * W * i + j : 2 * W * (j % W) + W * (j / W) + i] =
                    i < u->lines && j < u->steps ? u->x[i * u->x_line + j * u->x_k] : 0;
    } else if (transposed && sixth < 2) {
        const fbp_size line = is_a ? u->x_k : u->x_line, left = is_a ? u->lines : u->steps - sixth * W;
        const fbp_size count = is_a ? u->steps - sixth * W : u->lines;
        const real *x = u->x + sixth * W * u->x_k; /* x_k is 1 if lines are rows */
        vec square[W];
        UNROLL for (int i = 0; i < W; i++) square[i] = there(i < count, x + i * line, left);
        transpose(square);
        UNROLL for (int i = 0; i < W; i++) v_store(u->square + (2 * i + sixth) * W, square[i]);
    } else if (transposed) {
        UNROLL for (int i = 4 * sixth - 8; i < 4 * sixth - 4; i++)
            split(v_load(u->square + 2 * i * W), v_load(u->square + (2 * i + 1) * W), u->to + i * 64, u->apart,
                  u->largest + i * is_a, u->smallest + i * is_a);
    } else {
        const int from = (8 * sixth + 1) / 3, to = (8 * sixth + 9) / 3; /* 0, 3, 5, 8, 11, 13, 16 */
        const fbp_size line = is_a ? u->x_line : u->x_k, further = is_a ? W : W * line;
        UNROLL for (int i = from; i < to; i++) {
            const real *x = u->x + i * line;
            if (!is_a && line > PAGE) { /* rows so far apart defeat the prefetcher: prefetch those of the next block */
                PREFETCH_LATER(x + STEPS * line);
                PREFETCH_LATER(x + further + STEPS * line);
            }
            const vec low = is_a ? there(i < u->lines, x, u->steps) : there(i < u->steps, x, u->lines);
            const vec high = is_a ? there(i < u->lines, x + further, u->steps - W)
                                  : there(i + W < u->steps, x + further, u->lines);
            split(low, high, u->to + i * 64, u->apart, u->largest + i * is_a, u->smallest + i * is_a);
        }
    }
}

static __attribute__((noinline)) void pack_any_sixth(int is_a, int transposed, int sixth, const unit *u)
{
    pack_sixth(is_a, transposed, sixth, u);
}

/* A full unit that is contiguous along one axis is packed by inlined code without tests; any other by a function call. */
static ALWAYS_INLINE void pack_sixth_quickly(int is_a, int transposed, int sixth, const unit *u)
{
    if (u->lines >= GROUP && u->steps >= STEPS && (u->x_line == 1 || u->x_k == 1)) {
        unit full = *u;
        full.lines = GROUP, full.steps = STEPS;
        if (is_a == transposed) full.x_line = 1;
        else full.x_k = 1;
        pack_sixth(is_a, transposed, sixth, &full);
    } else {
        pack_any_sixth(is_a, transposed, sixth, u);
    }
}

static int is_transposed(const panel *p) { return (p->is_a ? p->x_k : p->x_line) != 1; }

static ALWAYS_INLINE void pack_the_rest(int is_a, int transposed, panel *p)
{
    while (p->unit < p->units) {
        const unit u = next_unit(p);
        UNROLL for (int sixth = 0; sixth < 6; sixth++) pack_sixth_quickly(is_a, transposed, sixth, &u);
    }
}

/* For each line of a panel the largest magnitude, rounded to its first piece, and the smallest other than 0 (1 if all are 0); for
 * the panel the extremes of both */
typedef struct {
    real largest_of_line[SIDE], smallest_of_line[SIDE], largest, smallest;
} extent;

/* Packs the units of a panel that were not packed beside sums, and finds its extent. */
static void end_panel(panel *p, extent *e)
{
    enum { ONE = 0x3f800000 }; /* the bits of 1 */
    if (p->is_a && is_transposed(p)) pack_the_rest(1, 1, p);
    else if (p->is_a) pack_the_rest(1, 0, p);
    else if (is_transposed(p)) pack_the_rest(0, 1, p);
    else pack_the_rest(0, 0, p);
    __m512i largest = _mm512_setzero_si512(), smallest = _mm512_set1_epi32(ONE);
    for (int g = 0; g < p->groups; g++) {
        __m512i *m = p->largest[g], *l = p->smallest[g];
        if (p->is_a) {
            transpose((vec *)m);
            transpose((vec *)l);
            for (int i = 1; i < GROUP; i++) *m = _mm512_max_epu16(*m, m[i]), *l = _mm512_min_epu32(*l, l[i]);
        }
        const mask some = _mm512_cmp_epu32_mask(*l, _mm512_set1_epi32(-1), _MM_CMPINT_NE);
        const __m512i one = _mm512_set1_epi32(1), magnitudes = _mm512_add_epi32(_mm512_srli_epi32(*l, 1), one);
        const __m512i smallest_of_lines = _mm512_mask_mov_epi32(_mm512_set1_epi32(ONE), some, magnitudes);
        /* The largest magnitude of a line is the larger of its two halves; compared as integers, NaN is the largest. A line that
         * is not all 0 gets at least the smallest subnormal, since its first pieces may all be 0. */
        const __m512i halves = _mm512_slli_epi32(_mm512_max_epu16(*m, _mm512_srli_epi32(*m, 16)), 16);
        const __m512i largest_of_lines = _mm512_max_epi32(halves, _mm512_maskz_mov_epi32(some, one));
        v_store(e->largest_of_line + g * GROUP, _mm512_castsi512_ps(largest_of_lines));
        v_store(e->smallest_of_line + g * GROUP, _mm512_castsi512_ps(smallest_of_lines));
        largest = _mm512_max_epi32(largest, largest_of_lines), smallest = _mm512_min_epi32(smallest, smallest_of_lines);
    }
    const int bits[] = {_mm512_reduce_max_epi32(largest), _mm512_reduce_min_epi32(smallest)};
    memcpy(&e->largest, bits, sizeof bits);
}

/* -- sums ------------------------------------------------------------------------------------------------------------------ */

/* A tile of C, up to SIDE x SIDE. Its epilogue runs some rows at a time, while the sums of the next tile are formed. */
typedef struct {
    fbp_size rows, n;
    fbp_size done;       /* rows whose epilogue has run */
    fbp_size prefetched; /* rows of C that were prefetched */
    tile t;
    int buffered;
    const fbp_epilogue *e;
    fbp_size row, column, C_row;
    real *C, *sums;
} ending;

/* `vectors` is a compile-time constant: 2 whole vectors, or 0 for any number of columns. */
static ALWAYS_INLINE void store_sums(int vectors, fbp_size rows, const real *sums, tile t)
{
    const fbp_size columns = vectors ? vectors * W : t.n, to_columns = vectors ? vectors * W : t.to_n, width = width_of(columns);
    const vec factor = v_all(t.factor);
    for (; rows > 0; rows--, sums += width, t.base += t.base_row, t.to += t.to_row) {
        UNROLL for (fbp_size j = 0; j < columns; j += W)
            store_at(t.to + j, v_fma(factor, v_load(sums + j), load_at(t.base + j, columns - j, 0)), to_columns - j);
    }
}

static __attribute__((noinline)) void end_rows(ending *d)
{
    static const real nothing[SIDE] = {0};
    const fbp_size i = d->done, rows = smaller(ROWS_AT_ONCE, d->rows - i);
    real *sums = d->sums + i * width_of(d->n);
    if (rows <= 0) return;
    d->done += rows;
    if (d->t.base || !d->buffered) {
        tile t = d->t;
        t.to += i * t.to_row;
        t.base = t.base ? t.base + i * t.base_row : nothing;
        if (t.n == SIDE)
            store_sums(SIDE / W, rows, sums, t);
        else
            store_sums(0, rows, sums, t);
    }
    if (d->buffered) finish_tile(rows, d->n, sums, d->e, d->row + i, d->column, d->C + i * d->C_row, d->C_row);
}

/* Prefetches some rows of C and of the update's state, if rows are too far apart for the hardware prefetcher. */
static ALWAYS_INLINE void prefetch_far_rows(ending *d)
{
    if (d->C_row <= PAGE || d->prefetched >= d->rows) return;
    for (int i = 0; i < ROWS_AT_ONCE; i++) prefetch_rows_of_c(&d->t, d->prefetched + i);
    d->prefetched += ROWS_AT_ONCE;
}

/* Tile registers 0 … 3 hold C, 4 and 5 A, 6 and 7 B; 5 and 7 are the second groups. */
#define LOAD_A(piece)                                                                                                          \
    do {                                                                                                                       \
        TILE_LOAD(4, a + (piece)*a_groups * TILE_BYTES);                                                                       \
        if (a_groups > 1) TILE_LOAD(5, a + ((piece)*a_groups + 1) * TILE_BYTES);                                               \
    } while (0)
#define LOAD_B(piece)                                                                                                          \
    do {                                                                                                                       \
        TILE_LOAD(6, b + (piece)*b_groups * TILE_BYTES);                                                                       \
        if (b_groups > 1) TILE_LOAD(7, b + ((piece)*b_groups + 1) * TILE_BYTES);                                               \
    } while (0)
#define MULTIPLY(sixth)                                                                                                        \
    do {                                                                                                                       \
        TILE_MULTIPLY(0, 4, 6);                                                                                                \
        if (b_groups > 1) TILE_MULTIPLY(1, 4, 7);                                                                              \
        if (a_groups > 1) TILE_MULTIPLY(2, 5, 6);                                                                              \
        if (a_groups > 1 && b_groups > 1) TILE_MULTIPLY(3, 5, 7);                                                              \
        for (int i = 0; i < packs; i++) pack_sixth_quickly(is_a, transposed, sixth, &u[i]);                                     \
    } while (0)

/* Adds a block to a tile's sums; meanwhile packs up to two units of a panel, runs the epilogue of some rows of the previous tile,
 * and prefetches some rows of this one. All integers are compile-time constants. */
static ALWAYS_INLINE void add_block(int a_groups, int b_groups, int packs, int is_a, int transposed, const char *a, const char *b,
                                    panel *p, ending *before, ending *now)
{
    unit u[2];
    for (int i = 0; i < packs; i++) u[i] = next_unit(p);
    LOAD_A(0);
    LOAD_B(2);
    MULTIPLY(0);
    LOAD_B(1);
    MULTIPLY(1);
    end_rows(before);
    prefetch_far_rows(now);
    LOAD_A(1);
    MULTIPLY(2);
    LOAD_B(0);
    MULTIPLY(3);
    end_rows(before);
    prefetch_far_rows(now);
    LOAD_A(2);
    MULTIPLY(4);
    LOAD_A(0);
    MULTIPLY(5);
    end_rows(before);
    prefetch_far_rows(now);
}

/* Adds all blocks, and packs `units` units of p, evenly distributed over them. */
static ALWAYS_INLINE void add_blocks(int a_groups, int b_groups, int is_a, int transposed, fbp_size blocks, const char *a,
                                     const char *b, panel *p, fbp_size units, ending *before, ending *now)
{
    fbp_size share = blocks - 1;
    for (fbp_size k = 0; k < blocks; k++, a += a_groups * PIECES * TILE_BYTES, b += b_groups * PIECES * TILE_BYTES) {
        share += units;
        if (share >= 2 * blocks) {
            add_block(a_groups, b_groups, 2, is_a, transposed, a, b, p, before, now);
            share -= 2 * blocks;
        } else if (share >= blocks) {
            add_block(a_groups, b_groups, 1, is_a, transposed, a, b, p, before, now);
            share -= blocks;
        } else {
            add_block(a_groups, b_groups, 0, is_a, transposed, a, b, p, before, now);
        }
    }
}

/* The number of units of p, up to number `limit`, to pack beside `blocks` blocks; 0 if p is not contiguous along either axis */
static fbp_size units_beside(const panel *p, fbp_size limit, fbp_size blocks)
{
    const fbp_size left = p->x_line != 1 && p->x_k != 1 ? 0 : smaller(p->units, limit) - p->unit;
    return left < 0 ? 0 : smaller(2 * blocks, left);
}

/* Forms the sums of a tile, and packs units of a panel up to number `limit` beside them, as far as they fit. */
static void form_sums(fbp_size blocks, const char *a, const char *b, panel *p, fbp_size limit, ending *before, ending *now)
{
    const int a_groups = now->rows > GROUP ? 2 : 1, b_groups = now->n > GROUP ? 2 : 1;
    const fbp_size units = units_beside(p, limit, blocks), row = width_of(now->n) * (fbp_size)sizeof(real);
    char *sums = (char *)now->sums;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    if (a_groups == 2 && b_groups == 2) {
        if (p->is_a && is_transposed(p))
            add_blocks(2, 2, 1, 1, blocks, a, b, p, units, before, now);
        else if (p->is_a)
            add_blocks(2, 2, 1, 0, blocks, a, b, p, units, before, now);
        else if (is_transposed(p))
            add_blocks(2, 2, 0, 1, blocks, a, b, p, units, before, now);
        else
            add_blocks(2, 2, 0, 0, blocks, a, b, p, units, before, now);
    } else if (a_groups == 2) {
        add_blocks(2, 1, 0, 0, blocks, a, b, p, 0, before, now);
    } else if (b_groups == 2) {
        add_blocks(1, 2, 0, 0, blocks, a, b, p, 0, before, now);
    } else {
        add_blocks(1, 1, 0, 0, blocks, a, b, p, 0, before, now);
    }
    while (before->done < before->rows) end_rows(before);
    TILE_STORE(0, sums, row);
    if (b_groups == 2) TILE_STORE(1, sums + 64, row);
    if (a_groups == 2) TILE_STORE(2, sums + GROUP * row, row);
    if (a_groups == 2 && b_groups == 2) TILE_STORE(3, sums + GROUP * row + 64, row);
}

/* -- what the pieces cannot hold ------------------------------------------------------------------------------------------- */

/* Whether all sums over two panels are as exact as those of float32. Then nothing overflows; no piece is lost, since the last bit
 * of a number >= 2⁻¹⁰² is at least 2⁻¹²⁵; what a sum loses below 2⁻¹²⁶ is small beside the smallest product; and no number is NaN
 * or inf. */
#define EXACT_FROM 0x1p-102f
#define LEAST_PRODUCT 0x1p-92f
#define MOST_PRODUCT 0x1p100f
#define MOST_FACTOR 0x1p126f
static int in_range(const extent *a, const extent *b)
{
    return a->smallest >= EXACT_FROM && b->smallest >= EXACT_FROM && a->smallest * b->smallest >= LEAST_PRODUCT &&
           a->largest * b->largest <= MOST_PRODUCT && a->largest <= MOST_FACTOR && b->largest <= MOST_FACTOR;
}

/* A mask of the sums of row i, from column j on, that must be computed again. It depends on the two lines of a sum and on the sum
 * alone, so divisions change no bit. A term a b loses at most three pieces of a times b, three pieces of b times a, and some
 * eight products and sums, where each piece, product and sum is below 2⁻¹²⁶. Compared with a sum 2²⁴ times the loss of K terms,
 * that is less than a rounding. */
static mask at_least(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static mask sums_lost(const ending *d, fbp_size K, fbp_size i, fbp_size j, const extent *of_a, const extent *of_b)
{
    const vec largest_a = v_all(of_a->largest_of_line[i]), smallest_a = v_all(of_a->smallest_of_line[i]), zero = v_all(0);
    const vec largest_b = v_load(of_b->largest_of_line + j), smallest_b = v_load(of_b->smallest_of_line + j);
    const vec greatest = v_all(FLT_MAX);
    const vec sum = v_abs(v_load(d->sums + i * width_of(d->n) + j)), largest = v_max(largest_a, largest_b);
    const vec lost = v_mul(v_all((real)K * 0x1p-101f), v_fma(v_all(4), largest, v_all(8))); /* 2⁻¹²⁶ 2²⁵ */
    const mask finite = at_least(greatest, largest_a) & at_least(greatest, largest_b);
    const mask empty = finite & (v_eq(largest_a, zero) | v_eq(largest_b, zero));
    const mask low = finite & at_least(v_all(MOST_PRODUCT), v_mul(largest_a, largest_b)) & at_least(v_all(MOST_FACTOR), largest);
    const mask whole = at_least(smallest_a, v_all(EXACT_FROM)) & at_least(smallest_b, v_all(EXACT_FROM)) &
                       at_least(v_mul(smallest_a, smallest_b), v_all(LEAST_PRODUCT));
    return (mask)~(empty | (low & (whole | at_least(sum, lost)))) & first_lanes(smaller(W, d->n - j));
}

/* For panels that are not in range: replaces sums that may have lost too much by those of the ordinary product. */
static void mend_sums(const ending *d, fbp_size K, const real *a, fbp_size a_line, fbp_size a_k, const extent *of_a,
                      const real *b, fbp_size b_line, fbp_size b_k, const extent *of_b, real *scratch)
{
    real ordinary[SIDE * SIDE];
    const fbp_size width = width_of(d->n);
    const fbp_epilogue plain = {.activation = FBP_IDENTITY};
    int multiplied = 0;
    for (fbp_size i = 0; i < d->rows; i++) {
        for (fbp_size j = 0; j < d->n; j += W) {
            const mask lost = sums_lost(d, K, i, j, of_a, of_b);
            if (!lost) continue;
            if (!multiplied)
                multiply_ordinarily(d->rows, d->n, K, a, a_line, a_k, b, b_k, b_line, &plain, scratch, ordinary, width);
            multiplied = 1;
            v_store(d->sums + i * width + j,
                    v_select(lost, load_at(ordinary + i * width + j, d->n - j, 0), v_load(d->sums + i * width + j)));
        }
    }
}

/* -- the product ----------------------------------------------------------------------------------------------------------- */

/* Bytes of a packed panel; the number of kept panels; elements of scratch, which grow with M, N and K */
static fbp_size panel_bytes(fbp_size depth) { return (depth + STEPS - 1) / STEPS * STEPS * SIDE * STEP_BYTES; }
static fbp_size kept_panels(fbp_size depth) { return smaller(KEPT_PANELS, KEPT * STEP_BYTES / panel_bytes(depth)); }
static fbp_size pieces_scratch(fbp_size M, fbp_size N, fbp_size K)
{
    const fbp_size panels = (smaller(M, N) + SIDE - 1) / SIDE, deepest = panel_bytes(smaller(K, DEEPEST));
    const fbp_size bytes = smaller(smaller(panels, KEPT) * deepest, KEPT * STEP_BYTES) + 2 * deepest;
    return bytes / (fbp_size)sizeof(real) + ordinary_scratch(SIDE, K);
}

/* The operand with fewer lines is packed and kept, as many panels as fit; the panels of the other are packed one after another
 * and pass by. */
static void multiply_pieces(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                            fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch, real *C, fbp_size C_row)
{
    const operand a = {A, M, A_row, A_column}, b = {B, N, B_column, B_row};
    const int keeps_a = M <= N;
    const operand kept = keeps_a ? a : b, passing = keeps_a ? b : a;
    const fbp_size full_depth = (block_of(K, DEEPEST) + STEPS - 1) / STEPS * STEPS;
    const fbp_size bytes = panel_bytes(full_depth), kept_lines = SIDE * kept_panels(full_depth);
    const int plain_update = e->update && is_plain_sgd(e->update, e->state);
    const int follows = e->activation != FBP_IDENTITY || (e->update && !plain_update);
    char *packed[2] = {(char *)scratch, (char *)scratch + bytes}, *packed_kept = packed[1] + bytes;
    real *ordinary = (real *)(packed_kept + (smaller(kept.lines, kept_lines) + SIDE - 1) / SIDE * bytes);
    real sums[2][SIDE * SIDE];
    extent of_kept[KEPT_PANELS], of_passing;
    panel next_kept, next_passing;
    ending tiles[2] = {{.rows = 0}, {.rows = 0}};
    int turn = 0;
    fbp_size round = 0;
    assert(ordinary - scratch + ordinary_scratch(SIDE, K) <= pieces_scratch(M, N, K));
    assert(!e->update || K <= full_depth);
    configure_tiles();
    begin_panel(&next_passing, &passing, !keeps_a, 0, 0, smaller(full_depth, K), packed[0]);
    for (fbp_size k = 0; k < K; k += full_depth) {
        const fbp_size depth = smaller(full_depth, K - k), blocks = (depth + STEPS - 1) / STEPS;
        const int adds = k > 0 || e->accumulate || plain_update, buffered = follows && k + depth == K;
        for (fbp_size first = 0; first < kept.lines; first += kept_lines) {
            const fbp_size lines = smaller(kept_lines, kept.lines - first), panels = (lines + SIDE - 1) / SIDE;
            const fbp_size wide = (lines + SIDE - GROUP - 1) / SIDE; /* panels of two groups; nothing is packed beside others */
            begin_panel(&next_kept, &kept, keeps_a, first, k, depth, packed_kept);
            for (fbp_size line = 0; line < passing.lines; line += SIDE, round++) {
                const char *passes = packed[round % 2];
                end_panel(&next_passing, &of_passing);
                const int ends = line + SIDE >= passing.lines; /* the next panel to pass is the first one again */
                const fbp_size next_k = ends && first + kept_lines >= kept.lines ? k + full_depth : k;
                const int more = next_k < K;
                if (more)
                    begin_panel(&next_passing, &passing, !keeps_a, ends ? 0 : line + SIDE, next_k,
                                smaller(full_depth, K - next_k),
                               packed[(round + 1) % 2]);
                for (fbp_size i = 0; i < panels; i++, turn = !turn) {
                    const int first_round = line == 0, last = i + 1 == panels;
                    if (first_round) {
                        end_panel(&next_kept, &of_kept[i]);
                        if (!last)
                            begin_panel(&next_kept, &kept, keeps_a, first + (i + 1) * SIDE, k, depth,
                                        packed_kept + (i + 1) * bytes);
                    }
                    const fbp_size row = keeps_a ? first + i * SIDE : line, column = keeps_a ? line : first + i * SIDE;
                    const fbp_size n = smaller(SIDE, N - column), at = row * C_row + column, width = width_of(n);
                    ending *now = &tiles[turn], *before = &tiles[!turn];
                    *now = (ending){
                        .rows = smaller(SIDE, M - row), .n = n, .buffered = buffered, .e = e, .row = row, .column = column,
                        .C = C + at, .C_row = C_row, .sums = sums[turn],
                        .t = {
                            .n = n, .C = C + at, .C_row = C_row, .e = e, .at = at,
                            .factor = plain_update ? (real)-e->update->learning_rate : 1, .base_row = adds ? C_row : 0,
                            .base = adds ? C + at : e->bias ? (const real *)e->bias + column : NULL,
                            .to = buffered ? sums[turn] : C + at, .to_row = buffered ? width : C_row,
                            .to_n = buffered ? width : n,
                        },
                    };
                    const char *keeps = packed_kept + i * bytes;
                    const int keeping = first_round && !last;
                    const fbp_size share =
                        first_round || i + 1 >= wide ? next_passing.units : next_passing.units * (i + 1) / wide;
                    form_sums(blocks, keeps_a ? keeps : passes, keeps_a ? passes : keeps, keeping ? &next_kept : &next_passing,
                              keeping ? next_kept.units : more ? share : 0, before, now);
                    if (!in_range(&of_kept[i], &of_passing))
                        mend_sums(now, depth, A + row * A_row + k * A_column, A_row, A_column,
                                  keeps_a ? &of_kept[i] : &of_passing, B + column * B_column + k * B_row, B_column, B_row,
                                  keeps_a ? &of_passing : &of_kept[i], ordinary);
                }
            }
        }
    }
    while (tiles[!turn].done < tiles[!turn].rows) end_rows(&tiles[!turn]);
    release_tiles();
}

#undef TILE_ZERO
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_MULTIPLY
#undef EXACT_FROM
#undef LEAST_PRODUCT
#undef MOST_PRODUCT
#undef MOST_FACTOR
#undef LOAD_A
#undef LOAD_B
#undef MULTIPLY
