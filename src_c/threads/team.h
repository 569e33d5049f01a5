/* A team: the thread that made a call, and others at its service. The first, number 0, shares out one task after another; each
 * takes the next part that nobody has taken.
 *
 * Nobody waits for a thread that has not come: a task is over when its parts are, whoever did them. So a core that is busy
 * with something else costs no more than its help. A thread without work spins for 0.1 ms, so that it is there for the next
 * task and the next step of a loop, then it sleeps. It should not spin for longer: on a busy core that is time it does not
 * have when work comes. Thread 0, which waits for the last part, first spins, then yields its core, and then sleeps for
 * moments: a thread of a lower priority that has the part would not get the core otherwise.
 *
 * The system may wake a thread on the core of the one that woke it, and leave both there for tens of milliseconds, taking
 * turns. So each looks where thread 0 runs, and goes elsewhere. */
#ifndef FASTBP_TEAM_H
#define FASTBP_TEAM_H

#include "core.h" /* first: it asks the system headers for more */

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

typedef void (*fbp_part)(const void *task, ptrdiff_t i, int thread);

#if !defined(_MSC_VER) && !defined(__STDC_NO_ATOMICS__)
#define FBP_THREADS 1

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

typedef struct {
    int threads; /* of this call */
    fbp_part part;
    const void *task;
    _Atomic uint64_t open;        /* number of the task, threads, parts that nobody has taken: one word, changed as a whole */
    _Atomic ptrdiff_t unfinished; /* parts */
    _Atomic uint32_t generation;  /* counts tasks */
    _Atomic int core;             /* on which thread 0 runs */
    _Atomic int asleep;
    pthread_mutex_t mutex; /* of the sleepers */
    pthread_cond_t wake;
} fbp_team;

enum {
    FBP_PARTS_BITS = 20,
    FBP_THREADS_BITS = 12,
    FBP_SPINS = 10000, /* some 0.1 ms */
    FBP_FEW_SPINS = 3000,
    FBP_YIELDS = 3000, /* some ms */
    FBP_NAP = 50000    /* ns */
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

/* There is a new task: whoever sleeps wakes. */
static inline void fbp_team_wake(fbp_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->asleep) == 0) return;
    pthread_mutex_lock(&team->mutex); /* who is about to sleep sleeps now */
    pthread_mutex_unlock(&team->mutex);
    pthread_cond_broadcast(&team->wake);
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
    for (int yields = 0; yields < FBP_YIELDS && atomic_load(&team->unfinished) > 0; yields++) sched_yield();
    while (atomic_load(&team->unfinished) > 0) nanosleep(&(struct timespec){0, FBP_NAP}, NULL);
}

/* The clock of fbp_team_serve. */
#if defined(__APPLE__) /* has no other for condition variables */
#define FBP_CLOCK CLOCK_REALTIME
#else
#define FBP_CLOCK CLOCK_MONOTONIC
#endif

/* For the others: help with the task there is, then wait for the next one; returns 0 if none came for `patience` ms. */
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
    struct timespec until;
    clock_gettime(FBP_CLOCK, &until);
    until.tv_nsec += patience % 1000 * 1000000L;
    until.tv_sec += patience / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int late = 0;
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->asleep, 1); /* before the last look at the generation: one of the two sees the other */
    while (atomic_load(&team->generation) == seen && !late)
        late = pthread_cond_timedwait(&team->wake, &team->mutex, &until) == ETIMEDOUT;
    atomic_fetch_sub(&team->asleep, 1);
    pthread_mutex_unlock(&team->mutex);
    return atomic_load(&team->generation) != seen;
}

#else /* a team of one */
#define FBP_THREADS 0

typedef struct { int threads; } fbp_team;

static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    assert(parts >= 0 && team->threads == 1);
    (void)team;
    while (parts > 0) part(task, --parts, 0);
}

#endif
#endif
