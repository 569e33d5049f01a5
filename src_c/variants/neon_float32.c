#include "../primitives.h"
#include "../isa/machine.h"
#ifdef FBP_ARM
#define FBP_NEON
#define FBP_FLOAT32
#define FBP_TABLE fbp_neon_float32
#include "../real.h"
#include "../simd/neon.h"
#include "../kernels.h"
#endif
