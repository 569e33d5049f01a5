/* On which core a thread runs. Where the system does not tell, core -1, and no thread can be moved. */
#ifndef FASTBP_CORE_H
#define FASTBP_CORE_H

#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for the cores of a thread */
#endif
#include <sched.h>

static inline int fbp_core(void) { return sched_getcpu(); }

/* Go on on another core than this one, if the calling thread may use one: the system moves it at once. It may use the same cores
 * afterwards as before. */
static inline void fbp_leave_core(int core)
{
    cpu_set_t allowed, others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return;
    if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

static inline int fbp_core(void) { return -1; }
static inline void fbp_leave_core(int core) { (void)core; }

#endif
#endif
