/* The table of one instruction set and dtype: a file in variants/ names them and includes this once. Where it names FBP_TABLE_ON_TILES
 * as well, there is a second table: that of a machine with a tile unit, with other matrix products and the same of everything else. */
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

/* The functions above take pointers to real; those of the table take void pointers and pass them on. */
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
