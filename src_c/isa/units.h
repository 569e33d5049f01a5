/* The units that multiply pieces of bfloat16, beside the vector unit of an instruction set: whether the machine has them, and
 * whether this process may use them.
 *
 *   amx           tiles, of Intel. Linux saves their 8 KB with a thread's registers only for a process that has requested it; the
 *                 permission holds for its threads and children. It is requested at the first product on tiles, since from then
 *                 on Linux refuses signal stacks without room for the tiles.
 *   avx512_bf16   the instruction vdpbf16ps, twice as many multiply-adds as in float32: enough for one piece, not for three
 *                 products of two.
 */
#ifndef FASTBP_UNITS_H
#define FASTBP_UNITS_H

#include <string.h>

enum { FBP_NO_UNIT, FBP_TILES, FBP_DOT };

#if defined(FBP_UNIT_MODELS) /* for tests: models of the units, of which the environment names one */
#include <stdlib.h>

static inline int fbp_is_model(const char *name)
{
    const char *model = getenv("FBP_MODEL");
    return model && strcmp(model, name) == 0;
}
static inline int fbp_has_tiles(void) { return fbp_is_model("amx"); }
static inline int fbp_may_use_tiles(void) { return fbp_has_tiles(); }
static inline int fbp_has_dot(void) { return fbp_is_model("avx512_bf16"); }

#else

#if defined(_WIN32) /* nothing answers there: see cpuid.h */
static inline int fbp_has_dot(void) { return 0; }
#else
static inline int fbp_has_dot(void) { return __builtin_cpu_supports("avx512bf16"); }
#endif

#if defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>

long syscall(long number, ...); /* of unistd.h, where the C standard alone is asked for */

static inline int fbp_finds_tiles(void)
{
    enum { OSXSAVE = 1 << 27, BFLOAT16 = 1 << 22, TILES = 1 << 24, SAVED = 3 << 17 }; /* CPUID 1, ECX; 7:0, EDX; XCR0 */
    unsigned a, b, c, d, saved, upper;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (BFLOAT16 | TILES)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    return (saved & SAVED) == SAVED;
}

static inline int fbp_requests_tiles(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* asm/prctl.h */
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

/* What `find` says the first time: CPUID is slow in virtual machines. Threads that ask at the same time get the same answer. */
static inline int fbp_remembered(int *answer, int (*find)(void)) /* 0 unknown, 1 yes, -1 no */
{
    int known = __atomic_load_n(answer, __ATOMIC_RELAXED);
    if (!known) {
        known = find() ? 1 : -1;
        __atomic_store_n(answer, known, __ATOMIC_RELAXED);
    }
    return known > 0;
}

static inline int fbp_has_tiles(void)
{
    static int answer;
    return fbp_remembered(&answer, fbp_finds_tiles);
}
static inline int fbp_may_use_tiles(void)
{
    static int answer;
    return fbp_has_tiles() && fbp_remembered(&answer, fbp_requests_tiles);
}

#else

static inline int fbp_has_tiles(void) { return 0; }
static inline int fbp_may_use_tiles(void) { return 0; }

#endif
#endif

/* The unit for products of so many pieces of each number, and what it is before the first such product */
static inline int fbp_unit_for(int pieces)
{
    if (pieces == 0) return FBP_NO_UNIT;
    if (fbp_may_use_tiles()) return FBP_TILES;
    return pieces == 1 && fbp_has_dot() ? FBP_DOT : FBP_NO_UNIT;
}
static inline const char *fbp_unit_name(int pieces)
{
    if (pieces == 0) return "";
    if (fbp_has_tiles()) return "amx";
    return pieces == 1 && fbp_has_dot() ? "avx512_bf16" : "";
}

#endif
