/* A team: the calling thread, number 0, and its helpers. Thread 0 shares one task after another; each thread takes the next part
 * that nobody has taken.
 *
 * A task ends when all its parts are done, whoever did them, so a helper on a busy core is not waited for. An idle helper spins
 * for 0.1 ms, long enough for the next task of a loop, then sleeps on a condition variable; spinning longer would waste the time
 * slice of a busy core. Thread 0, waiting for the last part, spins, then yields, then naps: a thread of lower priority that has
 * the part would not get the core otherwise.
 *
 * The scheduler may wake a helper on the core of the thread that woke it, and let both share it for tens of milliseconds. So each
 * helper checks where thread 0 runs, and moves off that core. */
#ifndef FASTBP_TEAM_H
#define FASTBP_TEAM_H

#include "system.h" /* first: it defines _GNU_SOURCE */

#include <assert.h>
#include <stddef.h>

typedef void (*fbp_part)(const void *task, ptrdiff_t i, int thread);

#if FBP_THREADS

typedef struct {
    int threads; /* size of the team in this call */
    fbp_part part;
    const void *task;
    _Atomic uint64_t open;        /* one word: number of the task, threads, parts that nobody has taken */
    _Atomic ptrdiff_t unfinished; /* parts that are not done */
    _Atomic uint32_t generation;  /* number of tasks so far */
    _Atomic int core;             /* the core of thread 0 */
    _Atomic int asleep;           /* helpers waiting for `wake` */
    fbp_lock lock;
    fbp_condition wake;
} fbp_team;

enum {
    FBP_PARTS_BITS = 20,
    FBP_THREADS_BITS = 12,
    FBP_SPINS = 10000, /* some 0.1 ms */
    FBP_FEW_SPINS = 3000,
    FBP_YIELDS = 3000 /* some ms */
};
#define FBP_PARTS_OF(open) ((open) & ((1u << FBP_PARTS_BITS) - 1))
#define FBP_THREADS_OF(open) ((open) >> FBP_PARTS_BITS & ((1u << FBP_THREADS_BITS) - 1))

static inline void fbp_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Does parts of the task until all are taken. The task is only read by a thread that has taken a part: until the part is done,
 * the task exists. */
static inline void fbp_take_parts(fbp_team *team, int thread)
{
    uint64_t open = atomic_load(&team->open);
    while (FBP_PARTS_OF(open) > 0 && (uint64_t)thread < FBP_THREADS_OF(open)) {
        if (!atomic_compare_exchange_weak(&team->open, &open, open - 1)) continue;
        team->part(team->task, (ptrdiff_t)FBP_PARTS_OF(open) - 1, thread);
        atomic_fetch_sub(&team->unfinished, 1);
        open = atomic_load(&team->open);
    }
}

/* Announces a new task, and wakes the sleeping helpers. */
static inline void fbp_team_wake(fbp_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->asleep) == 0) return;
    fbp_acquire(&team->lock); /* a helper about to wait has released the lock, and waits */
    fbp_release(&team->lock);
    fbp_wake_all(&team->wake);
}

/* For thread 0: part(task, i, thread) for all i < parts, in any order, on any threads. */
static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    const ptrdiff_t most = (1 << FBP_PARTS_BITS) - 1;
    assert(parts >= 0 && team->threads > 0 && team->threads < 1 << FBP_THREADS_BITS);
    while (team->threads == 1 ? parts > 0 : parts == 1 || parts > most) part(task, --parts, 0);
    if (parts == 0) return;
    team->part = part;
    team->task = task;
    atomic_store_explicit(&team->core, fbp_core(), memory_order_relaxed);
    atomic_store(&team->unfinished, parts);
    const uint64_t number = (atomic_load(&team->open) >> (FBP_PARTS_BITS + FBP_THREADS_BITS)) + 1;
    atomic_store(&team->open, (number << FBP_THREADS_BITS | (uint64_t)team->threads) << FBP_PARTS_BITS | (uint64_t)parts);
    fbp_team_wake(team);
    fbp_take_parts(team, 0);
    for (int spins = 0; spins < FBP_FEW_SPINS && atomic_load(&team->unfinished) > 0; spins++) fbp_pause();
    for (int yields = 0; yields < FBP_YIELDS && atomic_load(&team->unfinished) > 0; yields++) fbp_yield();
    while (atomic_load(&team->unfinished) > 0) fbp_nap();
}

/* For helpers: help with the current task, then wait for the next one; returns 0 if none came within `patience` ms. */
static inline int fbp_team_serve(fbp_team *team, int thread, int patience)
{
    const uint32_t seen = atomic_load(&team->generation);
    const int core = fbp_core();
    if (core == atomic_load_explicit(&team->core, memory_order_relaxed)) fbp_leave_core(core);
    fbp_take_parts(team, thread);
    for (int spins = 0; spins < FBP_SPINS; spins++) {
        if (atomic_load(&team->generation) != seen) return 1;
        fbp_pause();
    }
    const fbp_moment until = fbp_in(patience);
    int late = 0;
    fbp_acquire(&team->lock);
    atomic_fetch_add(&team->asleep, 1); /* before `generation` is read: a new task is seen here, or fbp_team_wake sees `asleep` */
    while (atomic_load(&team->generation) == seen && !late) late = fbp_wait(&team->wake, &team->lock, until);
    atomic_fetch_sub(&team->asleep, 1);
    fbp_release(&team->lock);
    return atomic_load(&team->generation) != seen;
}

#else /* a team of one */

typedef struct { int threads; } fbp_team;

static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    assert(parts >= 0 && team->threads == 1);
    (void)team;
    while (parts > 0) part(task, --parts, 0);
}

#endif
#endif
