/* Packing a panel of A or B into pieces of bfloat16.
 *
 * A float32 is nearly the sum of two pieces of 8 bits: x = x₁ + x₂ + r, where x₁ is x rounded to bfloat16, x₂ the remainder
 * rounded, |x₂| <= 2⁻⁸ |x| and |r| <= 2⁻¹⁷ |x|. Arguments named pieces, is_a, transposed and share are compile-time constants in
 * what is inlined.
 *
 * A panel is up to SIDE lines, rows of A or columns of B, in groups of 16, cut into blocks of STEPS steps of k. A block has the
 * pieces of each group; a piece is a tile of 16 rows of 64 bytes. In A a row of a tile is 32 steps of one line, in B it is two
 * steps of 16 lines. Steps i and i + 16 of a block share a 32-bit word, low half first, so that one vector operation makes it
 * from two vectors.
 */
#include <float.h>
#include <immintrin.h>

enum {
    GROUP = 16, STEPS = 32, SIDE = 2 * GROUP, TILE_BYTES = 1024,
    PIECE_BYTES = (int)sizeof(uint16_t) /* of one step of one line */
};

/* A panel that is being packed, in units of 16 lines and 32 steps */
typedef struct {
    int is_a; /* of A, where a row of a tile is one line; else of B */
    int pieces;
    int groups;
    fbp_size lines, K, x_line, x_k;
    const real *x;
    char *to;
    fbp_size unit, units;
    __m512i largest[2][GROUP];     /* by group, for each line of A, all of B: twice the bits of the largest magnitudes */
    __m512i smallest[2][GROUP];    /* likewise of the smallest but 0, minus 1 */
    real square[2][STEPS * GROUP]; /* scratch for the units packed at a time */
} panel;

/* A or B; a line is a row of A, or a column of B. */
typedef struct {
    const real *x;
    fbp_size lines, line, step; /* number of lines; strides of lines and of steps of k */
} operand;

/* The panel from `line` on, over the steps [k, k + depth) */
static void begin_panel(panel *p, const operand *o, int pieces, int is_a, fbp_size line, fbp_size k, fbp_size depth, char *to)
{
    p->is_a = is_a, p->pieces = pieces;
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
        .square = p->square[p->unit % 2], .to = p->to + (block * p->pieces * p->groups + g) * TILE_BYTES,
        .largest = p->largest[g], .smallest = p->smallest[g],
    };
    p->unit++;
    if (u.x_k == 1 && u.x_line >= PAGE && u.steps >= 2 * STEPS) { /* lines so far apart defeat the prefetcher */
        const real *next = u.x + STEPS;
        for (int i = 0; i < GROUP && i < u.lines; i++)
            PREFETCH_LATER(next + i * u.x_line), PREFETCH_LATER(next + i * u.x_line + W);
    }
    return u;
}

/* Twice the bits of a number, which loses the sign. Compared as integers, NaN is larger than any number. */
static ALWAYS_INLINE __m512i twice_bits(vec x) { return _mm512_slli_epi32(_mm512_castps_si512(x), 1); }

/* The pieces of two vectors, to tiles `apart` bytes from each other */
static ALWAYS_INLINE void split(int pieces, vec low, vec high, char *to, fbp_size apart, __m512i *largest, __m512i *smallest)
{
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int)0xffff0000), minus_1 = _mm512_set1_epi32(-1);
    const __m512i l2 = twice_bits(low), h2 = twice_bits(high);
    *largest = _mm512_max_epu32(*largest, _mm512_max_epu32(l2, h2));
    *smallest = _mm512_min_epu32(*smallest, _mm512_min_epu32(_mm512_add_epi32(l2, minus_1), _mm512_add_epi32(h2, minus_1)));
    UNROLL for (int piece = 0; piece < pieces; piece++, to += apart) {
        const __m512i l = _mm512_add_epi32(_mm512_castps_si512(low), half), h = _mm512_add_epi32(_mm512_castps_si512(high), half);
        _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(l, 16), h));
        if (piece + 1 < pieces) {
            low = v_sub(low, _mm512_castsi512_ps(_mm512_and_si512(l, upper)));
            high = v_sub(high, _mm512_castsi512_ps(_mm512_and_si512(h, upper)));
        }
    }
}

/* Rows [from, to) of the tiles of a full unit, from the scratch of transposed squares or from lines that are rows */
static ALWAYS_INLINE void split_rows(int pieces, int is_a, int transposed, int from, int to, const unit *u)
{
    const fbp_size line = is_a ? u->x_line : u->x_k, further = is_a ? W : W * line;
    __m512i largest = *u->largest, smallest = *u->smallest; /* of B's lines, in registers */
    UNROLL for (int i = from; i < to; i++) {
        const real *low = transposed ? u->square + 2 * i * W : u->x + i * line, *high = low + (transposed ? W : further);
        if (!transposed && !is_a && line >= PAGE) { /* rows so far apart defeat the prefetcher: those of the next block */
            PREFETCH_LATER(low + STEPS * line);
            PREFETCH_LATER(high + STEPS * line);
        }
        split(pieces, v_load(low), v_load(high), u->to + i * 64, u->apart, is_a ? u->largest + i : &largest,
              is_a ? u->smallest + i : &smallest);
    }
    if (!is_a) *u->largest = largest, *u->smallest = smallest;
}

/* Half of a full unit, into the scratch: where A is column-major, or B is, squares of 16 x 16 are transposed. */
static ALWAYS_INLINE void transpose_half(int is_a, int half, const unit *u)
{
    const fbp_size line = is_a ? u->x_k : u->x_line;
    const real *x = u->x + half * W * (is_a ? line : 1);
    vec square[W];
    UNROLL for (int i = 0; i < W; i++) square[i] = v_load(x + i * line);
    transpose(square);
    UNROLL for (int i = 0; i < W; i++) v_store(u->square + (2 * i + half) * W, square[i]);
}

/* Share number `share` of a full unit: of one piece there is one, of two there are three */
static ALWAYS_INLINE void pack_full(int pieces, int is_a, int transposed, int share, const unit *u)
{
    if (pieces == 1) {
        if (transposed) transpose_half(is_a, 0, u), transpose_half(is_a, 1, u);
        split_rows(1, is_a, transposed, 0, GROUP, u);
    } else if (transposed && share == 0) {
        transpose_half(is_a, 0, u), transpose_half(is_a, 1, u);
    } else if (transposed) {
        split_rows(2, is_a, 1, (share - 1) * GROUP / 2, share * GROUP / 2, u);
    } else {
        split_rows(2, is_a, 0, (GROUP * share + 1) / 3, (GROUP * share + GROUP + 1) / 3, u);
    }
}
static ALWAYS_INLINE void pack_full_share(int pieces, int is_a, int transposed, int share, const unit *u)
{
    if (share == 0) pack_full(pieces, is_a, transposed, 0, u);
    else if (share == 1) pack_full(pieces, is_a, transposed, 1, u);
    else pack_full(pieces, is_a, transposed, 2, u);
}

/* Up to `left` elements at p, the rest 0; all 0 unless `is_there` */
static ALWAYS_INLINE vec there(int is_there, const real *p, fbp_size left)
{
    return is_there && left > 0 ? load_at(p, left, 0) : v_all(0);
}

/* Into the scratch: a unit whose rows are not contiguous */
static void gather(int is_a, const unit *u)
{
    const fbp_size line = is_a ? u->x_k : u->x_line, lines = is_a ? u->steps : u->lines, left = is_a ? u->lines : u->steps;
    if ((is_a ? u->x_line : u->x_k) != 1) { /* contiguous along no axis */
        for (int i = 0; i < GROUP; i++)
            for (int j = 0; j < STEPS; j++)
                u->square[is_a ? 2 * W * i + j : 2 * W * (j % W) + W * (j / W) + i] =
                    i < u->lines && j < u->steps ? u->x[i * u->x_line + j * u->x_k] : 0;
        return;
    }
    for (int half = 0; half < 2; half++) {
        const real *x = u->x + half * W * u->x_k;
        const fbp_size count = is_a ? lines - half * W : lines, length = is_a ? left : left - half * W;
        vec square[W];
        for (int i = 0; i < W; i++) square[i] = there(i < count, x + i * line, length);
        transpose(square);
        for (int i = 0; i < W; i++) v_store(u->square + (2 * i + half) * W, square[i]);
    }
}

static int is_transposed(const panel *p) { return (p->is_a ? p->x_k : p->x_line) != 1; }

/* A unit that is not full, or contiguous along no axis: packed without constants */
static void pack_ragged(const panel *p, const unit *u)
{
    const int is_a = p->is_a, transposed = is_transposed(p);
    const fbp_size row = is_a ? u->x_line : u->x_k, rows = is_a ? u->lines : u->steps, further = is_a ? W : W * u->x_k;
    if (transposed) gather(is_a, u);
    for (int i = 0; i < GROUP; i++) {
        const real *x = transposed ? u->square + 2 * i * W : u->x + i * row;
        const vec low = transposed ? v_load(x) : there(i < rows, x, is_a ? u->steps : u->lines);
        const vec high = transposed ? v_load(x + W)
                                    : there(i + (is_a ? 0 : W) < rows, x + further, is_a ? u->steps - W : u->lines);
        split(p->pieces, low, high, u->to + i * 64, u->apart, u->largest + i * is_a, u->smallest + i * is_a);
    }
}

/* Packs a share of a unit; one that is not full with the first share. */
static __attribute__((noinline)) void pack_share(const panel *p, int share, const unit *u)
{
    const int is_a = p->is_a, transposed = is_transposed(p);
    if (u->lines < GROUP || u->steps < STEPS || (u->x_line != 1 && u->x_k != 1)) {
        if (share == 0) pack_ragged(p, u);
    } else if (p->pieces == 1) {
        if (is_a && transposed) pack_full(1, 1, 1, 0, u);
        else if (is_a) pack_full(1, 1, 0, 0, u);
        else if (transposed) pack_full(1, 0, 1, 0, u);
        else pack_full(1, 0, 0, 0, u);
    } else {
        if (is_a && transposed) pack_full_share(2, 1, 1, share, u);
        else if (is_a) pack_full_share(2, 1, 0, share, u);
        else if (transposed) pack_full_share(2, 0, 1, share, u);
        else pack_full_share(2, 0, 0, share, u);
    }
}

/* The number of units of p, up to number `limit`, to pack beside `blocks` blocks; 0 if p is not contiguous along either axis */
static fbp_size units_beside(const panel *p, fbp_size limit, fbp_size blocks)
{
    const fbp_size left = p->x_line != 1 && p->x_k != 1 ? 0 : smaller(p->units, limit) - p->unit;
    return left < 0 ? 0 : smaller(2 * blocks, left);
}

/* For each line of a panel the largest magnitude, and the smallest other than 0 (1 if all are 0); for the panel the extremes of
 * both */
typedef struct {
    real largest_of_line[SIDE], smallest_of_line[SIDE], largest, smallest;
} extent;

/* Packs the units of a panel that were not packed beside sums, and finds its extent. */
static void end_panel(panel *p, extent *e)
{
    enum { ONE = 0x3f800000 }; /* the bits of 1 */
    while (p->unit < p->units) {
        const unit u = next_unit(p);
        for (int share = 0; share < (p->pieces == 1 ? 1 : 3); share++) pack_share(p, share, &u);
    }
    __m512i largest = _mm512_setzero_si512(), smallest = _mm512_set1_epi32(ONE);
    for (int g = 0; g < p->groups; g++) {
        __m512i *m = p->largest[g], *l = p->smallest[g];
        if (p->is_a) {
            transpose((vec *)m);
            transpose((vec *)l);
            for (int i = 1; i < GROUP; i++) *m = _mm512_max_epu32(*m, m[i]), *l = _mm512_min_epu32(*l, l[i]);
        }
        const __mmask16 some = _mm512_cmp_epu32_mask(*l, _mm512_set1_epi32(-1), _MM_CMPINT_NE);
        const __m512i one = _mm512_set1_epi32(1), magnitudes = _mm512_add_epi32(_mm512_srli_epi32(*l, 1), one);
        const __m512i smallest_of_lines = _mm512_mask_mov_epi32(_mm512_set1_epi32(ONE), some, magnitudes);
        const __m512i largest_of_lines = _mm512_srli_epi32(*m, 1);
        v_store(e->largest_of_line + g * GROUP, _mm512_castsi512_ps(largest_of_lines));
        v_store(e->smallest_of_line + g * GROUP, _mm512_castsi512_ps(smallest_of_lines));
        largest = _mm512_max_epi32(largest, largest_of_lines), smallest = _mm512_min_epi32(smallest, smallest_of_lines);
    }
    const int bits[] = {_mm512_reduce_max_epi32(largest), _mm512_reduce_min_epi32(smallest)};
    memcpy(&e->largest, bits, sizeof bits);
}
