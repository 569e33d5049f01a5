/* The table of one instruction set and dtype, which a file in variants/ names before it includes this. If the file also defines
 * FBP_TABLE_ON_TILES, there is a second table for a machine with a tile unit, which differs in the matrix products alone. */
#include "math/elementary.h"
#include "rows/row.h"
#include "rows/activations.h"
#include "rows/softmax.h"
#include "rows/many_classes.h"
#include "rows/softmax_cross_entropy.h"
#include "rows/softmax_cross_entropy_options.h"
#include "rows/cross_entropy.h"
#include "rows/elementwise_errors.h"
#include "rows/dropout.h"
#include "rows/updates.h"
#include "gemm/gemm.h"
#include "gemm/product.h"

/* Wrappers with void pointers around the functions above, which take pointers to real */
#define REAL void
#define FBP_KERNEL(result, name, parameters, arguments) static result name##_of_table parameters { return name arguments; }
#include "kernels.def"
#undef FBP_KERNEL

const fbp_kernels FBP_TABLE = {
#define FBP_KERNEL(result, name, parameters, arguments) .name = name##_of_table,
#include "kernels.def"
#undef FBP_KERNEL
};

#ifdef FBP_TABLE_ON_TILES
#define FBP_KERNEL(result, name, parameters, arguments)
#define FBP_PRODUCT(result, name, parameters, arguments)                                                                       \
    static result name##_on_tiles_of_table parameters { return name##_on_tiles arguments; }
#include "kernels.def"
#undef FBP_KERNEL
#undef FBP_PRODUCT

const fbp_kernels FBP_TABLE_ON_TILES = {
#define FBP_KERNEL(result, name, parameters, arguments) .name = name##_of_table,
#define FBP_PRODUCT(result, name, parameters, arguments) .name = name##_on_tiles_of_table,
#include "kernels.def"
#undef FBP_KERNEL
#undef FBP_PRODUCT
};
#endif
#undef REAL
