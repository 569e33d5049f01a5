/* Whether this process may use the tiles of AMX. A system must know of their 8 KB to save them with a thread's registers, and Linux wants to
 * be asked: once for the process, whose threads and children may then, too. */
#ifndef FASTBP_PERMISSION_H
#define FASTBP_PERMISSION_H

#if defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>

long syscall(long number, ...); /* of unistd.h, where the C standard alone is asked for */

static inline int fbp_may_use_tiles(void)
{
    enum { BFLOAT16 = 1 << 22, TILES = 1 << 24, REQUEST = 0x1023, TILE_DATA = 18 }; /* CPUID 7:0, EDX; asm/prctl.h */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (BFLOAT16 | TILES)) return 0;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

#else

static inline int fbp_may_use_tiles(void) { return 0; }

#endif
#endif
