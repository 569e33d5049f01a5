/* A team: the thread that made a call, and others at its service. The first, number 0, shares out one task after another; each
 * takes the next part that nobody has taken.
 *
 * Nobody waits for a thread that has not come: a task is over when its parts are, whoever did them. So a core that is busy with
 * something else costs no more than its help. A thread without work spins for 0.1 ms, so that it is there for the next task and the
 * next step of a loop, then it sleeps. It should not spin for longer: on a busy core that is time it does not have when work comes.
 *
 * The system may wake a thread on the core of the one that woke it, and leave both there for tens of milliseconds, taking turns. So
 * each looks where thread 0 runs, and goes elsewhere.
 */
#ifndef FASTBP_TEAM_H
#define FASTBP_TEAM_H

#include "core.h" /* first: it asks the system headers for more */

#include <stddef.h>
#include <stdint.h>

typedef void (*fbp_part)(const void *task, ptrdiff_t i, int thread);

#if !defined(_MSC_VER) && !defined(__STDC_NO_ATOMICS__)
#define FBP_THREADS 1

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

typedef struct {
    int threads; /* of this call */
    fbp_part part;
    const void *task;
    _Atomic uint64_t open;        /* number of the task, threads, parts that nobody has taken: one word, changed as a whole */
    _Atomic ptrdiff_t unfinished; /* parts */
    _Atomic uint32_t news;        /* counts tasks */
    _Atomic int core;             /* on which thread 0 runs */
    _Atomic int asleep;
    pthread_mutex_t bed;
    pthread_cond_t alarm;
} fbp_team;

enum { FBP_PARTS_BITS = 20, FBP_THREADS_BITS = 12, FBP_SPINS = 10000 /* some 0.1 ms */, FBP_FEW_SPINS = 3000 };
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

/* Do parts of the task until all are taken. The task may be read once a part of it is taken: until that is finished it stays. */
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

/* For thread 0: part(task, i, thread) for all i < parts, in any order, on any threads. */
static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    const ptrdiff_t most = (1 << FBP_PARTS_BITS) - 1;
    while (team->threads == 1 ? parts > 0 : parts == 1 || parts > most) part(task, --parts, 0);
    if (parts == 0) return;
    team->part = part;
    team->task = task;
    atomic_store_explicit(&team->core, fbp_core(), memory_order_relaxed);
    atomic_store(&team->unfinished, parts);
    const uint64_t number = (atomic_load(&team->open) >> (FBP_PARTS_BITS + FBP_THREADS_BITS)) + 1;
    atomic_store(&team->open, (number << FBP_THREADS_BITS | (uint64_t)team->threads) << FBP_PARTS_BITS | (uint64_t)parts);
    atomic_fetch_add(&team->news, 1);
    if (atomic_load(&team->asleep) > 0) {
        pthread_mutex_lock(&team->bed); /* who is about to sleep sleeps now */
        pthread_mutex_unlock(&team->bed);
        pthread_cond_broadcast(&team->alarm);
    }
    fbp_take_parts(team, 0);
    for (int spins = 0; atomic_load(&team->unfinished) > 0; spins++) {
        if (spins < FBP_FEW_SPINS)
            fbp_pause();
        else
            sched_yield(); /* who has the part may want this core */
    }
}

/* For the others: help for ever. */
static inline void fbp_team_serve(fbp_team *team, int thread)
{
    for (;;) {
        const uint32_t seen = atomic_load(&team->news);
        const int core = fbp_core();
        if (core == atomic_load_explicit(&team->core, memory_order_relaxed)) fbp_leave_core(core);
        fbp_take_parts(team, thread);
        for (int spins = 0; spins < FBP_SPINS && atomic_load(&team->news) == seen; spins++) fbp_pause();
        pthread_mutex_lock(&team->bed);
        atomic_fetch_add(&team->asleep, 1); /* before the last look at the news: either it is seen, or the alarm is rung */
        while (atomic_load(&team->news) == seen) pthread_cond_wait(&team->alarm, &team->bed);
        atomic_fetch_sub(&team->asleep, 1);
        pthread_mutex_unlock(&team->bed);
    }
}

#else /* a team of one */
#define FBP_THREADS 0

typedef struct { int threads; } fbp_team;

static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    (void)team;
    while (parts > 0) part(task, --parts, 0);
}

#endif
#endif
