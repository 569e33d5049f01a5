/* The teams of a process. A call hires one and gives it back; its threads stay, asleep, for the next call. Calls at the same time,
 * from several threads, have teams of their own. */
#ifndef FASTBP_POOL_H
#define FASTBP_POOL_H

#include "team.h"

#include <stdlib.h>

#if FBP_THREADS

#include <signal.h>

typedef struct fbp_crew {
    fbp_team team; /* first: a team is the crew that it belongs to */
    struct fbp_crew *next;
    int helpers;
} fbp_crew;

typedef struct {
    fbp_team *team;
    int thread;
} fbp_helper;

static fbp_crew *fbp_idle;
static pthread_mutex_t fbp_office = PTHREAD_MUTEX_INITIALIZER;

static void *fbp_help(void *given)
{
    fbp_helper helper = *(fbp_helper *)given;
    free(given);
    fbp_team_serve(helper.team, helper.thread);
    return NULL;
}

/* One more thread for the crew. It takes no signals: they are for the threads of the program. */
static int fbp_add_helper(fbp_crew *crew)
{
    fbp_helper *helper = malloc(sizeof *helper);
    pthread_t thread;
    sigset_t all, before;
    if (!helper) return 0;
    *helper = (fbp_helper){&crew->team, crew->helpers + 1};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, fbp_help, helper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(helper);
        return 0;
    }
    pthread_detach(thread);
    crew->helpers++;
    return 1;
}

static fbp_crew *fbp_new_crew(void)
{
    fbp_crew *crew = calloc(1, sizeof *crew);
    if (!crew) return NULL;
    pthread_mutex_init(&crew->team.bed, NULL);
    pthread_cond_init(&crew->team.alarm, NULL);
    return crew;
}

/* A team of `threads` threads, or of as many as the system grants; NULL if it has no memory for any. */
static fbp_team *fbp_hire(int threads)
{
    pthread_mutex_lock(&fbp_office);
    fbp_crew *crew = fbp_idle;
    if (crew) fbp_idle = crew->next;
    pthread_mutex_unlock(&fbp_office);
    if (!crew) crew = fbp_new_crew();
    if (!crew) return NULL;
    if (threads >= 1 << FBP_THREADS_BITS) threads = (1 << FBP_THREADS_BITS) - 1;
    while (crew->helpers < threads - 1 && fbp_add_helper(crew)) {}
    crew->team.threads = threads <= crew->helpers ? threads : crew->helpers + 1;
    return &crew->team;
}

static void fbp_give_back(fbp_team *team)
{
    fbp_crew *crew = (fbp_crew *)team;
    pthread_mutex_lock(&fbp_office);
    crew->next = fbp_idle;
    fbp_idle = crew;
    pthread_mutex_unlock(&fbp_office);
}

/* Of the team that was given back last: the threads of its call, and how many tasks it has ever shared out. Both are 0 before the
 * first. */
static void fbp_last_team(int *threads, uint32_t *tasks)
{
    pthread_mutex_lock(&fbp_office);
    *threads = fbp_idle ? fbp_idle->team.threads : 0;
    *tasks = fbp_idle ? atomic_load(&fbp_idle->team.news) : 0;
    pthread_mutex_unlock(&fbp_office);
}

#else

static fbp_team *fbp_hire(int threads) { return NULL; }
static void fbp_give_back(fbp_team *team) {}
static void fbp_last_team(int *threads, uint32_t *tasks) { *threads = 0, *tasks = 0; }

#endif
#endif
