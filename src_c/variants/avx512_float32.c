#include "../primitives.h"
#include "../isa/machine.h"
#ifdef FBP_X86
#define FBP_AVX512
#define FBP_FLOAT32
#define FBP_TABLE fbp_avx512_float32
#include "../real.h"
#include "../simd/avx512.h"
#include "../kernels.h"
#include "../simd/target_end.h"
#endif
