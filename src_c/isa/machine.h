/* The instruction sets that are compiled in, in the order of choice: FBP_ISA(name, whether this machine can run it).
 *
 * On Windows gcc does not align the stack for vectors of more than 16 bytes, so that only clang compiles those there. */
#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && !defined(_WIN32)))
#define FBP_X86
#include "units.h"
#ifdef _WIN32
#include "cpuid.h"
#else
#define FBP_RUNS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define FBP_RUNS_AVX512                                                                                                        \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&          \
     __builtin_cpu_supports("avx512vl"))
#endif
#define FBP_ISAS FBP_ISA(avx512, FBP_RUNS_AVX512) FBP_ISA(avx2, FBP_RUNS_AVX2) FBP_ISA(generic, 1)
#elif defined(__aarch64__)
#define FBP_ARM
#define FBP_ISAS FBP_ISA(neon, 1) FBP_ISA(generic, 1)
#else
#define FBP_ISAS FBP_ISA(generic, 1)
#endif
