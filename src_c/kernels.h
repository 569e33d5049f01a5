/* The table of one instruction set and dtype, which a file in variants/ names before it includes this. */
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
#undef REAL
