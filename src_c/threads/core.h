/* The core a thread runs on, and its affinity. On systems other than Linux the core is -1 and threads are not moved; the set of
 * cores is that of the process on Windows, where threads follow it by themselves, and elsewhere empty. */
#ifndef FASTBP_CORE_H
#define FASTBP_CORE_H

#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for cpu_set_t */
#endif
#include <sched.h>
#include <time.h>
#include <unistd.h>

typedef cpu_set_t fbp_cores;

static inline int fbp_core(void) { return sched_getcpu(); }

/* Moves the calling thread off this core at once, if it may use another. Its affinity is unchanged afterwards. */
static inline void fbp_leave_core(int core)
{
    cpu_set_t allowed, others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return;
    if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
}

/* The affinity of the main thread, from any thread; returns the number of cores. */
static inline int fbp_main_cores(fbp_cores *cores)
{
    return sched_getaffinity(getpid(), sizeof *cores, cores) == 0 ? CPU_COUNT(cores) : 0;
}

/* Sets the affinity of the calling thread. */
static inline void fbp_use_cores(const fbp_cores *cores) { sched_setaffinity(0, sizeof *cores, cores); }

static inline int fbp_same_cores(const fbp_cores *a, const fbp_cores *b) { return CPU_EQUAL(a, b); }

static inline void fbp_add_core(fbp_cores *cores, int core)
{
    if (core >= 0 && core < CPU_SETSIZE) CPU_SET(core, cores);
}

/* Monotonic seconds; a hundred times cheaper than reading an affinity */
static inline long fbp_seconds(void)
{
    struct timespec now;
    return clock_gettime(CLOCK_MONOTONIC_COARSE, &now) == 0 ? (long)now.tv_sec : 0;
}

#else

static inline int fbp_core(void) { return -1; }
static inline void fbp_leave_core(int core) { (void)core; }

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#undef near
#undef far

typedef DWORD_PTR fbp_cores;

/* 0 where the process has cores in several groups of 64 */
static inline int fbp_main_cores(fbp_cores *cores)
{
    DWORD_PTR of_machine;
    int count = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), cores, &of_machine)) return 0;
    for (DWORD_PTR rest = *cores; rest; rest &= rest - 1) count++;
    return count;
}

static inline int fbp_same_cores(const fbp_cores *a, const fbp_cores *b) { return *a == *b; }
static inline long fbp_seconds(void) { return (long)(GetTickCount64() / 1000); }

#else

typedef struct { char none; } fbp_cores;

static inline int fbp_main_cores(fbp_cores *cores) { return (void)cores, 0; }
static inline int fbp_same_cores(const fbp_cores *a, const fbp_cores *b) { return (void)a, (void)b, 1; }
static inline long fbp_seconds(void) { return 0; }

#endif

static inline void fbp_use_cores(const fbp_cores *cores) { (void)cores; }
static inline void fbp_add_core(fbp_cores *cores, int core) { (void)cores, (void)core; }

#endif
#endif
