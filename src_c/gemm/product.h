/* The primitives for matrix products: those of gemm.h, or on a tile unit those of amx.h where they are faster. */

static int product_pieces(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(0 <= pieces && pieces <= 2);
    return (void)M, (void)N, (void)K, 0;
}

static fbp_size matrix_product_scratch(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(M >= 0 && N >= 0 && K >= 0);
    return (void)N, (void)pieces, ordinary_scratch(M, K);
}

static void matrix_product(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                           fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch, real *C, fbp_size C_row)
{
    assert(are_operands(M, N, K, A, B, C, C_row) && is_epilogue(M, N, e, C, C_row));
    assert(!e->update || K <= tile_depth());
    assert(is_scratch(ordinary_scratch(M, K), scratch, M, N, K, A, A_row, A_column, B, B_row, B_column, C, C_row));
    multiply_ordinarily(M, N, K, A, A_row, A_column, B, B_row, B_column, e, scratch, C, C_row);
}

#ifdef FBP_TABLE_ON_TILES
#include "amx.h"

/* Whether a product is formed from pieces of its numbers. It is asked for the whole product, so that no division changes a
 * bit. */
static int product_pieces_on_tiles(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(0 <= pieces && pieces <= 2);
    return pieces_pay(M, N, K) && fbp_may_use_tiles() ? PIECES : 0;
}

/* Elements of scratch. With `pieces` it is enough for either way, and it grows with M, N and K: the scratch of a batch is enough
 * for a smaller one. */
static fbp_size matrix_product_scratch_on_tiles(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(M >= 0 && N >= 0 && K >= 0);
    const fbp_size ordinary = ordinary_scratch(M, K), tiles = pieces ? pieces_scratch(M, N, K) : 0;
    return ordinary > tiles ? ordinary : tiles;
}

static void matrix_product_on_tiles(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column,
                                    const real *B, fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch,
                                    real *C, fbp_size C_row)
{
    assert(are_operands(M, N, K, A, B, C, C_row) && is_epilogue(M, N, e, C, C_row));
    assert(!e->update || K <= tile_depth());
    assert(is_scratch(matrix_product_scratch_on_tiles(M, N, K, e->pieces), scratch, M, N, K, A, A_row, A_column, B, B_row,
                      B_column, C, C_row));
    if (e->pieces && K > 0)
        multiply_pieces(M, N, K, A, A_row, A_column, B, B_row, B_column, e, scratch, C, C_row);
    else
        multiply_ordinarily(M, N, K, A, A_row, A_column, B, B_row, B_column, e, scratch, C, C_row);
}
#endif
