/* The tiles of AMX: whether the machine has them, and whether this process may use them. Linux saves their 8 KB with a thread's
 * registers only for a process that has requested it; the permission holds for its threads and children. It is requested at the
 * first product on tiles, since from then on Linux refuses signal stacks without room for the tiles. */
#ifndef FASTBP_PERMISSION_H
#define FASTBP_PERMISSION_H

#if defined(FBP_TILE_MODEL) /* see gemm/tile_model.h */

static inline int fbp_has_tiles(void) { return 1; }
static inline int fbp_may_use_tiles(void) { return 1; }

#elif defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>

long syscall(long number, ...); /* of unistd.h, where the C standard alone is asked for */

static inline int fbp_has_tiles(void)
{
    enum { OSXSAVE = 1 << 27, BFLOAT16 = 1 << 22, TILES = 1 << 24, SAVED = 3 << 17 }; /* CPUID 1, ECX; 7:0, EDX; XCR0 */
    unsigned a, b, c, d, saved, upper;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (BFLOAT16 | TILES)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    return (saved & SAVED) == SAVED;
}

static inline int fbp_may_use_tiles(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* asm/prctl.h */
    static int answer; /* 0 unknown, 1 yes, -1 no; concurrent requests have the same answer */
    int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (!known) {
        known = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0 ? 1 : -1;
        __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
    }
    return known > 0;
}

#else

static inline int fbp_has_tiles(void) { return 0; }
static inline int fbp_may_use_tiles(void) { return 0; }

#endif
#endif
