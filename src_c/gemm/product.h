/* The primitives for matrix products: those of gemm.h, or those of pieces/ where less precision is asked for and is faster. */

#if defined(FBP_AVX512) && defined(FBP_FLOAT32)
#include "pieces/product.h"
#define FBP_HAS_PIECES
#endif

/* Of how many pieces a number is in this product: `pieces`, or 0 for float32 as it is. It is asked for the whole product, so that
 * no division changes a bit. */
static int product_pieces(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(0 <= pieces && pieces <= 2);
#ifdef FBP_HAS_PIECES
    if (pieces > 0 && pieces_pay(fbp_unit_for(pieces), M, N, K)) return pieces;
#endif
    return (void)M, (void)N, (void)K, (void)pieces, 0;
}

/* Elements of scratch. With `pieces` it is enough for either way, and it grows with M, N and K: the scratch of a batch is enough
 * for a smaller one. */
static fbp_size matrix_product_scratch(fbp_size M, fbp_size N, fbp_size K, int pieces)
{
    assert(M >= 0 && N >= 0 && K >= 0);
    fbp_size scratch = ordinary_scratch(M, K);
#ifdef FBP_HAS_PIECES
    if (pieces > 0 && pieces_scratch(pieces, M, N, K) > scratch) scratch = pieces_scratch(pieces, M, N, K);
#endif
    return (void)N, (void)pieces, scratch;
}

static void matrix_product(fbp_size M, fbp_size N, fbp_size K, const real *A, fbp_size A_row, fbp_size A_column, const real *B,
                           fbp_size B_row, fbp_size B_column, const fbp_epilogue *e, real *scratch, real *C, fbp_size C_row)
{
    assert(are_operands(M, N, K, A, B, C, C_row) && is_epilogue(M, N, e, C, C_row));
    assert(!e->update || K <= tile_depth());
    assert(is_scratch(matrix_product_scratch(M, N, K, e->pieces), scratch, M, N, K, A, A_row, A_column, B, B_row, B_column, C,
                      C_row));
#ifdef FBP_HAS_PIECES
    if (K > 0 && fbp_unit_for(e->pieces) != FBP_NO_UNIT) {
        multiply_pieces(M, N, K, A, A_row, A_column, B, B_row, B_column, e, scratch, C, C_row);
        return;
    }
#endif
    multiply_ordinarily(M, N, K, A, A_row, A_column, B, B_row, B_column, e, scratch, C, C_row);
}
#undef FBP_HAS_PIECES
