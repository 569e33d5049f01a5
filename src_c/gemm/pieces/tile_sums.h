/* The sums of a tile of C on the tile unit, from packed panels.
 *
 * Packing takes the vector unit about as long as the sums of a narrow panel. It is interleaved with the instructions of the tile
 * unit, which run in the background: a share of a packing unit after each four products. So is the epilogue of the previous
 * tile. With two pieces of each number a term is a₁b₁ + a₁b₂ + a₂b₁, which lacks at most 2⁻¹⁵ |a b|: 2⁻¹⁶ in a₂b₂, and 2⁻¹⁷ in
 * what two pieces leave of either number. (Henry, Tang & Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for
 * higher-precision computations", ARITH 2019.)
 */
#include "tile_unit.h"

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
/* The product of the pieces in the registers, and that share of the units that are packed beside it */
#define MULTIPLY(product)                                                                                                      \
    do {                                                                                                                       \
        TILE_MULTIPLY(0, 4, 6);                                                                                                \
        if (b_groups > 1) TILE_MULTIPLY(1, 4, 7);                                                                              \
        if (a_groups > 1) TILE_MULTIPLY(2, 5, 6);                                                                              \
        if (a_groups > 1 && b_groups > 1) TILE_MULTIPLY(3, 5, 7);                                                              \
        for (int i = 0; i < packs; i++) pack_share(p, product, &u[i]);                                                         \
        end_rows(before);                                                                                                      \
        prefetch_far_rows(now);                                                                                                \
    } while (0)

/* Adds a block to a tile's sums; meanwhile packs up to two units of a panel, runs the epilogue of some rows of the previous tile,
 * and prefetches some rows of this one. All integers are compile-time constants. Each piece is loaded once. */
static ALWAYS_INLINE void add_block(int pieces, int a_groups, int b_groups, int packs, const char *a, const char *b, panel *p,
                                    ending *before, ending *now)
{
    unit u[2];
    for (int i = 0; i < packs; i++) u[i] = next_unit(p);
    LOAD_A(0);
    LOAD_B(pieces - 1);
    MULTIPLY(0); /* a₁ b₂, or a₁ b₁ if that is all */
    if (pieces == 1) return;
    LOAD_B(0);
    MULTIPLY(1); /* a₁ b₁ */
    LOAD_A(1);
    MULTIPLY(2); /* a₂ b₁ */
}

/* Adds all blocks, and packs `units` units of p, evenly distributed over them. */
static ALWAYS_INLINE void add_blocks(int pieces, int a_groups, int b_groups, fbp_size blocks, const char *a, const char *b,
                                     panel *p, fbp_size units, ending *before, ending *now)
{
    fbp_size share = blocks - 1;
    for (fbp_size k = 0; k < blocks; k++, a += a_groups * pieces * TILE_BYTES, b += b_groups * pieces * TILE_BYTES) {
        share += units;
        if (share >= 2 * blocks) add_block(pieces, a_groups, b_groups, 2, a, b, p, before, now);
        else if (share >= blocks) add_block(pieces, a_groups, b_groups, 1, a, b, p, before, now);
        else add_block(pieces, a_groups, b_groups, 0, a, b, p, before, now);
        share -= share >= 2 * blocks ? 2 * blocks : share >= blocks ? blocks : 0;
    }
}

static ALWAYS_INLINE void add_pieces(int pieces, fbp_size blocks, const char *a, const char *b, panel *p, fbp_size units,
                                     ending *before, ending *now)
{
    const int a_groups = now->rows > GROUP ? 2 : 1, b_groups = now->n > GROUP ? 2 : 1;
    if (a_groups == 2 && b_groups == 2) add_blocks(pieces, 2, 2, blocks, a, b, p, units, before, now);
    else if (a_groups == 2) add_blocks(pieces, 2, 1, blocks, a, b, p, 0, before, now);
    else if (b_groups == 2) add_blocks(pieces, 1, 2, blocks, a, b, p, 0, before, now);
    else add_blocks(pieces, 1, 1, blocks, a, b, p, 0, before, now);
}

/* Forms the sums of a tile, and packs units of a panel up to number `limit` beside them, as far as they fit. */
static void form_sums_on_tiles(int pieces, fbp_size blocks, const char *a, const char *b, panel *p, fbp_size limit,
                               ending *before, ending *now)
{
    const fbp_size units = units_beside(p, limit, blocks), row = width_of(now->n) * (fbp_size)sizeof(real);
    const int wide = now->n > GROUP, high = now->rows > GROUP;
    char *sums = (char *)now->sums;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    if (pieces == 1) add_pieces(1, blocks, a, b, p, units, before, now);
    else add_pieces(2, blocks, a, b, p, units, before, now);
    while (before->done < before->rows) end_rows(before);
    TILE_STORE(0, sums, row);
    if (wide) TILE_STORE(1, sums + 64, row);
    if (high) TILE_STORE(2, sums + GROUP * row, row);
    if (wide && high) TILE_STORE(3, sums + GROUP * row + 64, row);
}

#undef TILE_ZERO
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_MULTIPLY
#undef LOAD_A
#undef LOAD_B
#undef MULTIPLY
