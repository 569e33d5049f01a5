#include "../primitives.h"
#include "../isa/machine.h"
#define FBP_GENERIC
#define FBP_FLOAT32
#define FBP_TABLE fbp_generic_float32
#include "../real.h"
#include "../simd/generic.h"
#include "../kernels.h"
