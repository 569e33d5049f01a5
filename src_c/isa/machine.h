/* Which instruction sets are compiled in, in the order in which they are chosen: FBP_ISA(name, whose primitives for float64, can this
 * machine run it). What stands behind another one that any such machine can run is chosen only by its name: `amx`, whose speed is that of
 * a unit which the neighbours on a rented machine may slow down to a quarter, so that nobody can foresee it. */
#if defined(__x86_64__) && defined(__GNUC__)
#define FBP_X86
#include "permission.h"
#define FBP_RUNS_AVX512                                                                                                        \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&          \
     __builtin_cpu_supports("avx512vl"))
#define FBP_ISAS                                                                                                               \
    FBP_ISA(avx512, avx512, FBP_RUNS_AVX512)                                                                                   \
    FBP_ISA(amx, avx512, FBP_RUNS_AVX512 && fbp_has_tiles())                                                                   \
    FBP_ISA(avx2, avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                       \
    FBP_ISA(generic, generic, 1)
#elif defined(__aarch64__)
#define FBP_ARM
#define FBP_ISAS FBP_ISA(neon, neon, 1) FBP_ISA(generic, generic, 1)
#else
#define FBP_ISAS FBP_ISA(generic, generic, 1)
#endif
