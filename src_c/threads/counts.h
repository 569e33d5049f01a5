/* How many threads a call takes that does not say, and which cores they may use. One extension holds this state.
 *
 * The number: a limit that was set (threadpoolctl does), else OMP_NUM_THREADS, else the cores that the process may use or the
 * processor time that its control group grants, whichever is less. A limit set in the main thread holds for all threads that
 * have none of their own; set in another thread it holds there alone, so that threads which set and restore limits at the same
 * time do not restore each other's.
 *
 * The cores are those of the main thread. They are looked at once a second: a helper takes over what has changed since. Where
 * OpenMP libraries bind the main thread to a core, that tells nothing of the process: then fbp_begin is told the cores, and they
 * stay. */
#ifndef FASTBP_COUNTS_H
#define FASTBP_COUNTS_H

#include "team.h"

#if defined(_MSC_VER)
#define FBP_EXPORT __declspec(dllexport)
#else
#define FBP_EXPORT __attribute__((visibility("default")))
#endif

/* What threadpoolctl finds and calls. */
FBP_EXPORT int fbp_get_num_threads(void);
FBP_EXPORT void fbp_set_num_threads(int threads);

#if FBP_THREADS

static struct {
    uintptr_t main_thread;
    int chosen; /* OMP_NUM_THREADS, 0 if it says nothing */
    int most;   /* where it says nothing; 0 if there is no such limit */
    int fixed;  /* whether the cores stay as they are */
    fbp_cores cores;
    pthread_mutex_t lock; /* of the cores */
    _Atomic uint32_t changes; /* of the cores; 0 while they are unknown */
    _Atomic int count;        /* of the cores */
    _Atomic long looked;      /* at the cores, in seconds */
    _Atomic int limit;        /* of all threads, 0 if there is none */
} fbp_machine = {.lock = PTHREAD_MUTEX_INITIALIZER, .count = 1};

static _Thread_local int fbp_limit; /* of this thread, 0 if it has none of its own */

static void fbp_set_cores(const fbp_cores *cores, int count)
{
    pthread_mutex_lock(&fbp_machine.lock);
    if (count > 0 && (atomic_load(&fbp_machine.changes) == 0 || !fbp_same_cores(cores, &fbp_machine.cores))) {
        fbp_machine.cores = *cores;
        atomic_store(&fbp_machine.count, count);
        atomic_fetch_add(&fbp_machine.changes, 1);
    }
    pthread_mutex_unlock(&fbp_machine.lock);
}

/* Before anything else. There are `count` cores: those of `fixed`, which stay, or, if it is NULL, those that the system tells. */
static void fbp_begin(uintptr_t main_thread, int chosen, int most, int count, const fbp_cores *fixed)
{
    fbp_cores cores;
    fbp_machine.main_thread = main_thread;
    fbp_machine.chosen = chosen;
    fbp_machine.most = most;
    fbp_machine.fixed = fixed != NULL;
    atomic_store(&fbp_machine.count, count);
    atomic_store(&fbp_machine.looked, fbp_seconds());
    if (fixed)
        fbp_set_cores(fixed, count);
    else
        fbp_set_cores(&cores, fbp_main_cores(&cores));
}

/* See whether the cores have changed, if this is another second than that of the last look. */
static void fbp_look(void)
{
    fbp_cores cores;
    const long now = fbp_seconds();
    if (fbp_machine.fixed || now == atomic_load_explicit(&fbp_machine.looked, memory_order_relaxed)) return;
    atomic_store_explicit(&fbp_machine.looked, now, memory_order_relaxed);
    fbp_set_cores(&cores, fbp_main_cores(&cores));
}

/* Let the calling thread use the cores of the process, if they have changed since `seen`. */
static void fbp_follow_cores(uint32_t *seen)
{
    if (*seen == atomic_load(&fbp_machine.changes)) return;
    pthread_mutex_lock(&fbp_machine.lock);
    const fbp_cores cores = fbp_machine.cores;
    *seen = atomic_load(&fbp_machine.changes);
    pthread_mutex_unlock(&fbp_machine.lock);
    fbp_use_cores(&cores);
}

static int fbp_default_threads(void)
{
    if (fbp_machine.chosen > 0) return fbp_machine.chosen;
    fbp_look();
    const int count = atomic_load_explicit(&fbp_machine.count, memory_order_relaxed);
    return fbp_machine.most > 0 && fbp_machine.most < count ? fbp_machine.most : count;
}

/* Of a thread without a limit of its own. */
static int fbp_threads_of_all(void)
{
    const int limit = atomic_load_explicit(&fbp_machine.limit, memory_order_relaxed);
    return limit > 0 ? limit : fbp_default_threads();
}

int fbp_get_num_threads(void) { return fbp_limit > 0 ? fbp_limit : fbp_threads_of_all(); }

/* What would hold without it is no limit: so whoever restores a number goes on to follow what comes later. */
void fbp_set_num_threads(int threads)
{
    if (threads < 1) threads = 1;
    if ((uintptr_t)pthread_self() == fbp_machine.main_thread)
        atomic_store(&fbp_machine.limit, threads == fbp_default_threads() ? 0 : threads);
    else
        fbp_limit = threads == fbp_threads_of_all() ? 0 : threads;
}

#else

static void fbp_begin(uintptr_t main_thread, int chosen, int most, int count, const fbp_cores *fixed) {}
int fbp_get_num_threads(void) { return 1; }
void fbp_set_num_threads(int threads) { (void)threads; }

#endif
#endif
