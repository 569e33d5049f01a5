#include "../primitives.h"
#include "../isa/machine.h"
#ifdef FBP_X86
#define FBP_AVX2
#define FBP_FLOAT64
#define FBP_TABLE fbp_avx2_float64
#include "../real.h"
#include "../simd/avx2.h"
#include "../kernels.h"
#include "../simd/target_end.h"
#endif
