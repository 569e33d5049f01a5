/* Matrix products of float32 from pieces of bfloat16: on a tile unit with one or two of each number, by AVX512-BF16 with one.
 *
 * A. The operand with fewer lines is packed and kept, as many panels as fit; the panels of the other are packed one after another
 *    and pass by.
 * B. An element of C is computed by the same operations on the same numbers in any tile: divisions of rows and columns change no
 *    bit.
 */
#include "packing.h"
#include "ending.h"
#include "tile_sums.h"
#include "dot_sums.h"
#include "range.h"

enum {
    KEPT_BYTES = 512 * 1024, /* of packed panels in the L2 cache: half of it, or a quarter */
    KEPT_PANELS = 32         /* the largest number of kept panels */
};

static double whole(fbp_size size, int unit) { return (double)((size + unit - 1) / unit * unit); }

/* Whether pieces are faster: the time of the unit, of packing and of the epilogue, in multiply-adds of float32 on the vector
 * unit. The factors are measured: those of tiles for three pieces of each number and six products, so that they are on the safe
 * side here, those of AVX512-BF16 on Zen 4. */
static int pieces_pay(int unit, fbp_size M, fbp_size N, fbp_size K)
{
    const double m = whole(M, GROUP), n = whole(N, GROUP), k = whole(K, STEPS), sums = (double)M * (double)N;
    if (unit == FBP_TILES) return 0.3 * m * n * k + 28 * (m + n) * k + 12 * sums < sums * (double)K;
    return unit == FBP_DOT && 0.5 * whole(M, STRIP) * n * k + 7 * (m + n) * k + 12 * sums < sums * (double)K;
}

/* Bytes of a packed panel; the number of kept panels; elements of scratch, which grow with M, N and K */
static fbp_size panel_bytes(int pieces, fbp_size depth)
{
    return (depth + STEPS - 1) / STEPS * STEPS * SIDE * PIECE_BYTES * pieces;
}
static fbp_size kept_panels(int pieces, fbp_size depth) { return smaller(KEPT_PANELS, KEPT_BYTES / panel_bytes(pieces, depth)); }
static fbp_size pieces_scratch(int pieces, fbp_size M, fbp_size N, fbp_size K)
{
    const fbp_size panels = (smaller(M, N) + SIDE - 1) / SIDE, deepest = panel_bytes(pieces, smaller(K, DEEPEST));
    const fbp_size bytes = smaller(smaller(panels, KEPT_BYTES) * deepest, KEPT_BYTES) + 2 * deepest;
    return bytes / (fbp_size)sizeof(real) + ordinary_scratch(SIDE, K);
}

/* A product in work: its operands, the steps [k, k + depth), kept panels from line `first` on, and the last two tiles of C */
typedef struct {
    int unit, pieces, keeps_a, plain_update, follows;
    operand a, b;
    const fbp_epilogue *e;
    real *C, *ordinary; /* ordinary: scratch of the ordinary product */
    fbp_size C_row, K, k, depth, bytes, kept_lines, first;
    char *packed_kept, *packed[2];
    panel next_kept, next_passing;
    extent of_kept[KEPT_PANELS], of_passing;
    ending tiles[2];
    int turn, round;
    real sums[2][SIDE * SIDE];
} work;

static const operand *kept(const work *w) { return w->keeps_a ? &w->a : &w->b; }
static const operand *passing(const work *w) { return w->keeps_a ? &w->b : &w->a; }

static void begin_kept(work *w, fbp_size i)
{
    char *to = w->packed_kept + i * w->bytes;
    begin_panel(&w->next_kept, kept(w), w->pieces, w->keeps_a, w->first + i * SIDE, w->k, w->depth, to);
}

/* The tile of C at (row, column), whose sums are to be formed */
static void begin_tile(work *w, fbp_size row, fbp_size column)
{
    const int adds = w->k > 0 || w->e->accumulate || w->plain_update, buffered = w->follows && w->k + w->depth == w->K;
    const fbp_size n = smaller(SIDE, w->b.lines - column), at = row * w->C_row + column, width = width_of(n);
    real *const sums = w->sums[w->turn], *const C = w->C + at;
    w->tiles[w->turn] = (ending){
        .rows = smaller(SIDE, w->a.lines - row), .n = n, .buffered = buffered, .e = w->e, .row = row, .column = column, .C = C,
        .C_row = w->C_row, .sums = sums,
        .t = {
            .n = n, .C = C, .C_row = w->C_row, .e = w->e, .at = at,
            .factor = w->plain_update ? (real)-w->e->update->learning_rate : 1, .base_row = adds ? w->C_row : 0,
            .base = adds ? C : w->e->bias ? (const real *)w->e->bias + column : NULL,
            .to = buffered ? sums : C, .to_row = buffered ? width : w->C_row, .to_n = buffered ? width : n,
        },
    };
}

/* The tile of kept panel i and the passing panel from `line` on; packs units of p up to number `limit` beside it */
static void form_tile(work *w, fbp_size i, fbp_size line, panel *p, fbp_size limit)
{
    const fbp_size at = w->first + i * SIDE, row = w->keeps_a ? at : line, column = w->keeps_a ? line : at;
    const fbp_size blocks = (w->depth + STEPS - 1) / STEPS;
    const char *keeps = w->packed_kept + i * w->bytes, *passes = w->packed[w->round % 2];
    const char *a = w->keeps_a ? keeps : passes, *b = w->keeps_a ? passes : keeps;
    const extent *of_a = w->keeps_a ? &w->of_kept[i] : &w->of_passing, *of_b = w->keeps_a ? &w->of_passing : &w->of_kept[i];
    ending *now = &w->tiles[w->turn], *before = &w->tiles[!w->turn];
    begin_tile(w, row, column);
    if (w->unit == FBP_TILES)
        form_sums_on_tiles(w->pieces, blocks, a, b, p, limit, before, now);
    else
        form_dot_sums(blocks, a, b, p, limit, before, now);
    if (!in_range(of_a, of_b))
        mend_sums(now, w->depth, w->a.x + row * w->a.line + w->k * w->a.step, w->a.line, w->a.step, of_a,
                  w->b.x + column * w->b.line + w->k * w->b.step, w->b.line, w->b.step, of_b, w->ordinary);
    w->turn = !w->turn;
}

/* The tiles of the passing panel from `line` on and all kept panels. Beside the first passing panel the kept ones are packed,
 * each beside the tile before it; then the next passing panel. Nothing is packed beside a tile of a single group. */
static void pass(work *w, fbp_size line)
{
    const fbp_size lines = smaller(w->kept_lines, kept(w)->lines - w->first), panels = (lines + SIDE - 1) / SIDE;
    const fbp_size wide = (lines + SIDE - GROUP - 1) / SIDE; /* panels of two groups */
    const int first_round = line == 0, ends = line + SIDE >= passing(w)->lines;
    const fbp_size next_k = ends && w->first + w->kept_lines >= kept(w)->lines ? w->k + w->depth : w->k;
    const int more = next_k < w->K;
    end_panel(&w->next_passing, &w->of_passing);
    if (more) /* at the end it is the first one again */
        begin_panel(&w->next_passing, passing(w), w->pieces, !w->keeps_a, ends ? 0 : line + SIDE, next_k,
                    smaller(w->depth, w->K - next_k), w->packed[(w->round + 1) % 2]);
    for (fbp_size i = 0; i < panels; i++) {
        const int last = i + 1 == panels, keeping = first_round && !last;
        const fbp_size units = w->next_passing.units, share = first_round || i + 1 >= wide ? units : units * (i + 1) / wide;
        if (first_round) end_panel(&w->next_kept, &w->of_kept[i]);
        if (keeping) begin_kept(w, i + 1);
        form_tile(w, i, line, keeping ? &w->next_kept : &w->next_passing, keeping ? w->next_kept.units : more ? share : 0);
    }
    w->round++;
}

static void multiply_pieces(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                            fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch, real *C, fbp_size C_row)
{
    const fbp_size full_depth = (block_of(K, DEEPEST) + STEPS - 1) / STEPS * STEPS;
    const int plain_update = e->update && is_plain_sgd(e->update, e->state);
    work w;
    w.unit = fbp_unit_for(e->pieces), w.pieces = e->pieces, w.keeps_a = M <= N, w.plain_update = plain_update;
    w.follows = e->activation != FBP_IDENTITY || (e->update && !plain_update);
    w.a = (operand){A, M, A_row, A_column}, w.b = (operand){B, N, B_column, B_row};
    w.e = e, w.C = C, w.C_row = C_row, w.K = K;
    w.bytes = panel_bytes(w.pieces, full_depth), w.kept_lines = SIDE * kept_panels(w.pieces, full_depth);
    w.packed[0] = (char *)scratch, w.packed[1] = w.packed[0] + w.bytes, w.packed_kept = w.packed[1] + w.bytes;
    w.ordinary = (real *)(w.packed_kept + (smaller(kept(&w)->lines, w.kept_lines) + SIDE - 1) / SIDE * w.bytes);
    w.tiles[0].rows = w.tiles[0].done = w.tiles[1].rows = w.tiles[1].done = 0, w.turn = w.round = 0;
    assert(w.ordinary - scratch + ordinary_scratch(SIDE, K) <= pieces_scratch(w.pieces, M, N, K));
    assert(!e->update || K <= full_depth);
    if (w.unit == FBP_TILES) configure_tiles();
    begin_panel(&w.next_passing, passing(&w), w.pieces, !w.keeps_a, 0, 0, smaller(full_depth, K), w.packed[0]);
    for (w.k = 0; w.k < K; w.k += full_depth) {
        w.depth = smaller(full_depth, K - w.k);
        for (w.first = 0; w.first < kept(&w)->lines; w.first += w.kept_lines) {
            begin_kept(&w, 0);
            for (fbp_size line = 0; line < passing(&w)->lines; line += SIDE) pass(&w, line);
        }
    }
    for (int i = 0; i < 2; i++)
        while (w.tiles[i].done < w.tiles[i].rows) end_rows(&w.tiles[i]);
    if (w.unit == FBP_TILES) release_tiles();
}
