/* The threads of one call. They are started once, by an OpenMP loop; then the first shares out one task after another, and the
 * others serve: each takes the next part of the task that nobody has taken.
 *
 * Nobody waits for a thread that has not come: a task is over when its parts are, whoever did them. So a core that is busy with
 * something else costs no more than its help. A thread without work spins for some microseconds, then it sleeps.
 */
#ifndef FASTBP_TEAM_H
#define FASTBP_TEAM_H

#include <stddef.h>
#include <stdint.h>

typedef void (*fbp_part)(const void *task, ptrdiff_t i, int thread);

#if defined(_OPENMP) && !defined(_MSC_VER)

#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <time.h>
#endif

typedef struct {
    int threads;
    fbp_part part;
    const void *task;
    _Atomic uint64_t parts;       /* number of the task << 32 | parts that nobody has taken: one word, taken from as a whole */
    _Atomic ptrdiff_t unfinished; /* parts */
    _Atomic uint32_t news;        /* counts tasks; closing is one, too */
    _Atomic int asleep, closed;
} fbp_team;

enum { FBP_SPINS = 3000 }; /* some 30 µs: about what it takes to wake a thread */

static inline void fbp_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleep unless there is other news than `seen`; where the system offers nothing better, for a moment. */
static inline void fbp_sleep(fbp_team *team, uint32_t seen)
{
#ifdef __linux__
    syscall(SYS_futex, (uint32_t *)&team->news, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    struct timespec moment = {0, 50000};
    (void)team, (void)seen;
    nanosleep(&moment, NULL);
#endif
}

static inline void fbp_announce(fbp_team *team)
{
    atomic_fetch_add(&team->news, 1);
#ifdef __linux__
    if (atomic_load(&team->asleep) > 0) syscall(SYS_futex, (uint32_t *)&team->news, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
}

static inline void fbp_team_open(fbp_team *team, int threads)
{
    team->threads = threads;
    atomic_init(&team->parts, 0);
    atomic_init(&team->unfinished, 0);
    atomic_init(&team->news, 0);
    atomic_init(&team->asleep, 0);
    atomic_init(&team->closed, 0);
}

/* Do parts of the task until all are taken. What a task is may be read once a part of it is taken: until that is finished it stays. */
static inline void fbp_take_parts(fbp_team *team, int thread)
{
    uint64_t parts = atomic_load(&team->parts);
    while ((uint32_t)parts > 0) {
        if (!atomic_compare_exchange_weak(&team->parts, &parts, parts - 1)) continue;
        team->part(team->task, (ptrdiff_t)(uint32_t)parts - 1, thread);
        atomic_fetch_sub(&team->unfinished, 1);
        parts = atomic_load(&team->parts);
    }
}

/* For the first thread, number 0: part(task, i, thread) for i < parts, in any order, on any thread. */
static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    if (team->threads == 1 || parts <= 1) {
        for (ptrdiff_t i = 0; i < parts; i++) part(task, i, 0);
        return;
    }
    team->part = part;
    team->task = task;
    atomic_store(&team->unfinished, parts);
    atomic_store(&team->parts, ((atomic_load(&team->parts) >> 32) + 1) << 32 | (uint32_t)parts);
    fbp_announce(team);
    fbp_take_parts(team, 0);
    for (int spins = 0; atomic_load(&team->unfinished) > 0; spins++) {
        if (spins < FBP_SPINS)
            fbp_pause();
        else
            sched_yield();
    }
}

/* For the others: help until the team is closed. */
static inline void fbp_team_serve(fbp_team *team, int thread)
{
    while (!atomic_load(&team->closed)) {
        uint32_t seen = atomic_load(&team->news);
        fbp_take_parts(team, thread);
        for (int spins = 0; spins < FBP_SPINS && atomic_load(&team->news) == seen; spins++) fbp_pause();
        atomic_fetch_add(&team->asleep, 1);
        if (atomic_load(&team->news) == seen && !atomic_load(&team->closed)) fbp_sleep(team, seen);
        atomic_fetch_sub(&team->asleep, 1);
    }
}

static inline void fbp_team_close(fbp_team *team)
{
    atomic_store(&team->closed, 1);
    fbp_announce(team);
}

#else /* a team of one */

typedef struct { int threads; } fbp_team;

static inline void fbp_team_open(fbp_team *team, int threads) { (void)threads, team->threads = 1; }
static inline void fbp_team_share(fbp_team *team, fbp_part part, const void *task, ptrdiff_t parts)
{
    (void)team;
    for (ptrdiff_t i = 0; i < parts; i++) part(task, i, 0);
}
static inline void fbp_team_serve(fbp_team *team, int thread) { (void)team, (void)thread; }
static inline void fbp_team_close(fbp_team *team) { (void)team; }

#endif
#endif
