/* Which instruction sets are compiled in, best first: FBP_ISA(name, can this CPU run it). */
#if defined(__x86_64__) && defined(__GNUC__)
#define FBP_X86
#define FBP_ISAS                                                                                                               \
    FBP_ISA(avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&                                 \
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))                              \
    FBP_ISA(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                             \
    FBP_ISA(generic, 1)
#elif defined(__aarch64__)
#define FBP_ARM
#define FBP_ISAS FBP_ISA(neon, 1) FBP_ISA(generic, 1)
#else
#define FBP_ISAS FBP_ISA(generic, 1)
#endif
