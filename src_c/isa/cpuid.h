/* Whether the processor has AVX2 or AVX-512, and the system saves their registers. On Windows the processor itself is asked:
 * clang-cl does not link the library that answers __builtin_cpu_supports. The bits of CPUID and XCR0 stand in Intel's manual,
 * volume 2 (CPUID) and volume 1 (13.3). */
#ifndef FASTBP_CPUID_H
#define FASTBP_CPUID_H

#include <cpuid.h>

static inline int fbp_finds(unsigned vectors, unsigned saved)
{
    const unsigned fma_and_xgetbv = 1u << 12 | 1u << 27; /* CPUID 1, ECX */
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & fma_and_xgetbv) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~b & vectors) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & saved) == saved;
}

#define FBP_RUNS_AVX2 fbp_finds(1u << 5, 0x06)                                       /* EBX: AVX2 */
#define FBP_RUNS_AVX512 fbp_finds(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 0xe6) /* F, DQ, BW, VL */

#endif
