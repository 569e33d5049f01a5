/* The thread pool of a process. A call takes a team from the pool and gives it back; the helpers of the team then sleep until the
 * next call, and end if none comes for some seconds. Concurrent calls from several threads have separate teams.
 *
 * The child of a fork has no helpers: its calls run on one thread. A call in progress when a signal handler forked goes on alone
 * in the child, and takes no lock that a helper may have held. */
#ifndef FASTBP_POOL_H
#define FASTBP_POOL_H

#include "counts.h"

#include <stdlib.h>

#if FBP_THREADS

#ifndef FBP_PATIENCE
#define FBP_PATIENCE 5000 /* ms that a helper sleeps before it ends */
#endif

typedef struct fbp_crew {
    fbp_team team; /* first member: the address of a team is that of its crew */
    struct fbp_crew *next;
    int helpers;
    int hired;
    _Atomic int ended; /* removed from the pool; its last helper frees it */
    uint32_t counted;  /* tasks of this crew that are in fbp_pool.tasks */
} fbp_crew;

typedef struct {
    fbp_crew *crew;
    int thread;
} fbp_helper;

static struct {
    fbp_lock lock;
    fbp_crew *first; /* list of all crews */
    int threads;     /* size of the team that was given back last */
    uint32_t tasks;  /* number of tasks of all teams, as of when they were given back */
    int forked;      /* whether this process is a child without helpers */
} fbp_pool = {.lock = FBP_UNLOCKED};

/* Removes a crew from the pool if it is idle, and ends its helpers. Returns whether the crew has ended. */
static int fbp_dissolve(fbp_crew *crew)
{
    fbp_acquire(&fbp_pool.lock);
    if (!crew->hired && !atomic_load(&crew->ended)) {
        fbp_crew **link = &fbp_pool.first;
        while (*link != crew) link = &(*link)->next;
        *link = crew->next;
        atomic_store(&crew->ended, 1);
        fbp_team_wake(&crew->team);
    }
    const int ended = atomic_load(&crew->ended);
    fbp_release(&fbp_pool.lock);
    return ended;
}

static void fbp_free_crew(fbp_crew *crew)
{
    fbp_drop_lock(&crew->team.lock);
    fbp_drop_condition(&crew->team.wake);
    free(crew);
}

/* A helper leaves a crew that has ended; the last one frees it. */
static void fbp_leave(fbp_crew *crew)
{
    fbp_acquire(&fbp_pool.lock);
    const int left = --crew->helpers;
    fbp_release(&fbp_pool.lock);
    if (left == 0) fbp_free_crew(crew);
}

static FBP_THREAD fbp_help(void *given)
{
    const fbp_helper helper = *(fbp_helper *)given;
    fbp_crew *crew = helper.crew;
    uint32_t cores_seen = 0;
    free(given);
    do {
        fbp_follow_cores(&cores_seen);
    } while (fbp_team_serve(&crew->team, helper.thread, FBP_PATIENCE) ? !atomic_load(&crew->ended) : !fbp_dissolve(crew));
    fbp_leave(crew);
    return 0;
}

/* Adds a thread to the crew. */
static int fbp_add_helper(fbp_crew *crew)
{
    fbp_helper *helper = malloc(sizeof *helper);
    if (!helper) return 0;
    *helper = (fbp_helper){crew, crew->helpers + 1};
    if (!fbp_start(fbp_help, helper)) {
        free(helper);
        return 0;
    }
    crew->helpers++;
    return 1;
}

static fbp_crew *fbp_new_crew(void)
{
    fbp_crew *crew = calloc(1, sizeof *crew);
    if (!crew) return NULL;
    fbp_make_lock(&crew->team.lock);
    fbp_make_condition(&crew->team.wake);
    return crew;
}

/* The first idle crew, so that later ones time out; a new crew if none is idle; NULL if there is no memory for it. */
static fbp_crew *fbp_idle_crew(void)
{
    fbp_acquire(&fbp_pool.lock);
    fbp_crew **link = &fbp_pool.first;
    while (*link && (*link)->hired) link = &(*link)->next;
    if (!*link) *link = fbp_new_crew();
    fbp_crew *crew = *link;
    if (crew) crew->hired = 1;
    fbp_release(&fbp_pool.lock);
    return crew;
}

/* A team of `threads` threads, or as many as the system grants; NULL without memory for it, and in the child of a fork. */
static fbp_team *fbp_hire(int threads)
{
    assert(threads > 0);
    fbp_crew *crew = fbp_pool.forked ? NULL : fbp_idle_crew();
    if (!crew) return NULL;
    fbp_look();
    if (threads >= 1 << FBP_THREADS_BITS) threads = (1 << FBP_THREADS_BITS) - 1;
    while (crew->helpers < threads - 1 && fbp_add_helper(crew)) {}
    crew->team.threads = threads <= crew->helpers ? threads : crew->helpers + 1;
    return &crew->team;
}

static void fbp_give_back(fbp_team *team)
{
    fbp_crew *crew = (fbp_crew *)team;
    assert(crew->hired && team->threads <= crew->helpers + 1);
    const uint32_t tasks = atomic_load(&team->generation);
    fbp_acquire(&fbp_pool.lock);
    fbp_pool.threads = team->threads;
    fbp_pool.tasks += tasks - crew->counted;
    crew->counted = tasks;
    crew->hired = 0;
    fbp_release(&fbp_pool.lock);
}

/* The size of the team that was given back last, and the number of tasks of all teams so far */
static void fbp_last_team(int *threads, uint32_t *tasks)
{
    fbp_acquire(&fbp_pool.lock);
    *threads = fbp_pool.threads;
    *tasks = fbp_pool.tasks;
    fbp_release(&fbp_pool.lock);
}

#if FBP_FORKS

static void fbp_before_fork(void)
{
    fbp_acquire(&fbp_pool.lock);
    fbp_acquire(&fbp_machine.lock);
}

static void fbp_after_fork(void)
{
    fbp_release(&fbp_machine.lock);
    fbp_release(&fbp_pool.lock);
}

static void fbp_after_fork_in_child(void)
{
    fbp_after_fork();
    fbp_pool.forked = 1;
    for (fbp_crew *crew = fbp_pool.first; crew; crew = crew->next) crew->team.threads = 1;
}

/* To be called before the first team */
static void fbp_prepare_for_forks(void) { pthread_atfork(fbp_before_fork, fbp_after_fork, fbp_after_fork_in_child); }

#else

static void fbp_prepare_for_forks(void) {}

#endif

static int fbp_is_forked(void) { return fbp_pool.forked; }

#else

static fbp_team *fbp_hire(int threads) { return NULL; }
static void fbp_give_back(fbp_team *team) {}
static void fbp_last_team(int *threads, uint32_t *tasks) { *threads = 0, *tasks = 0; }
static void fbp_prepare_for_forks(void) {}
static int fbp_is_forked(void) { return 0; }

#endif
#endif
