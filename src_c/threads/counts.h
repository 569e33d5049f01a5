/* The default number of threads of a call, and the cores they may use. One extension holds this state.
 *
 * The number is a limit that was set (by threadpoolctl, for instance), else OMP_NUM_THREADS, else the smallest of the number of
 * cores in the affinity, the CPU quota of the control group, and OMP_THREAD_LIMIT. A limit set in the main thread is the default
 * of all threads; a limit set in another thread holds for that thread alone, so threads that set and restore limits at the same
 * time do not interfere.
 *
 * The cores are the affinity of the main thread. It is read once a second, and helpers follow its changes. If an OpenMP library
 * has bound the main thread to a core, its affinity says nothing about the process: fbp_begin is then given the cores, and they
 * stay. */
#ifndef FASTBP_COUNTS_H
#define FASTBP_COUNTS_H

#include "team.h"

#if defined(_MSC_VER)
#define FBP_EXPORT __declspec(dllexport)
#else
#define FBP_EXPORT __attribute__((visibility("default")))
#endif

/* Found and called by threadpoolctl */
FBP_EXPORT int fbp_get_num_threads(void);
FBP_EXPORT void fbp_set_num_threads(int threads);

#if FBP_THREADS

static struct {
    uintptr_t main_thread;
    int chosen;  /* OMP_NUM_THREADS, or 0 */
    int ceiling; /* the CPU quota or OMP_THREAD_LIMIT, whichever is less, or 0 */
    int fixed;   /* whether the cores never change */
    fbp_cores cores;
    fbp_lock lock;            /* protects `cores` */
    _Atomic uint32_t changes; /* generation of `cores`; 0 while they are unknown */
    _Atomic int count;        /* number of cores */
    _Atomic long looked;      /* when the affinity was read last, in seconds */
    _Atomic int limit;        /* default limit of all threads, or 0 */
} fbp_machine = {.lock = FBP_UNLOCKED, .count = 1};

static _Thread_local int fbp_limit; /* limit of this thread alone, or 0 */

static void fbp_set_cores(const fbp_cores *cores, int count)
{
    fbp_acquire(&fbp_machine.lock);
    if (count > 0 && (atomic_load(&fbp_machine.changes) == 0 || !fbp_same_cores(cores, &fbp_machine.cores))) {
        fbp_machine.cores = *cores;
        atomic_store(&fbp_machine.count, count);
        atomic_fetch_add(&fbp_machine.changes, 1);
    }
    fbp_release(&fbp_machine.lock);
}

/* To be called first. The cores are `fixed`, `count` of them, for good; if `fixed` is NULL, the affinity of the main thread, and
 * `count` if that is unknown. */
static void fbp_begin(uintptr_t main_thread, int chosen, int ceiling, int count, const fbp_cores *fixed)
{
    fbp_cores cores;
    fbp_machine.main_thread = main_thread;
    fbp_machine.chosen = chosen;
    fbp_machine.ceiling = ceiling;
    fbp_machine.fixed = fixed != NULL;
    atomic_store(&fbp_machine.count, count);
    atomic_store(&fbp_machine.looked, fbp_seconds());
    if (fixed)
        fbp_set_cores(fixed, count);
    else
        fbp_set_cores(&cores, fbp_main_cores(&cores));
}

/* Reads the affinity again, at most once a second. */
static void fbp_look(void)
{
    fbp_cores cores;
    const long now = fbp_seconds();
    if (fbp_machine.fixed || now == atomic_load_explicit(&fbp_machine.looked, memory_order_relaxed)) return;
    atomic_store_explicit(&fbp_machine.looked, now, memory_order_relaxed);
    fbp_set_cores(&cores, fbp_main_cores(&cores));
}

/* Lets the calling thread use the cores of the process, if they have changed since generation `seen`. */
static void fbp_follow_cores(uint32_t *seen)
{
    if (*seen == atomic_load(&fbp_machine.changes)) return;
    fbp_acquire(&fbp_machine.lock);
    const fbp_cores cores = fbp_machine.cores;
    *seen = atomic_load(&fbp_machine.changes);
    fbp_release(&fbp_machine.lock);
    fbp_use_cores(&cores);
}

static int fbp_default_threads(void)
{
    if (fbp_machine.chosen > 0) return fbp_machine.chosen;
    fbp_look();
    const int count = atomic_load_explicit(&fbp_machine.count, memory_order_relaxed);
    return fbp_machine.ceiling > 0 && fbp_machine.ceiling < count ? fbp_machine.ceiling : count;
}

/* The number for threads without a limit of their own */
static int fbp_threads_of_all(void)
{
    const int limit = atomic_load_explicit(&fbp_machine.limit, memory_order_relaxed);
    return limit > 0 ? limit : fbp_default_threads();
}

int fbp_get_num_threads(void) { return fbp_limit > 0 ? fbp_limit : fbp_threads_of_all(); }

/* Setting the default clears the limit: code that saves and restores a number keeps following later changes of the default. */
void fbp_set_num_threads(int threads)
{
    if (threads < 1) threads = 1;
    if (fbp_self() == fbp_machine.main_thread)
        atomic_store(&fbp_machine.limit, threads == fbp_default_threads() ? 0 : threads);
    else
        fbp_limit = threads == fbp_threads_of_all() ? 0 : threads;
}

#else

static void fbp_begin(uintptr_t main_thread, int chosen, int ceiling, int count, const fbp_cores *fixed) {}
int fbp_get_num_threads(void) { return 1; }
void fbp_set_num_threads(int threads) { (void)threads; }

#endif
#endif
