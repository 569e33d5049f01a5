/* Teams of threads, without what they are for: each part of each task is done once, and what it wrote is seen when the task is over;
 * a thread that leaves a core may come back to it. Prints one line per check, exits with 1 if one fails. */
#include "pool.h"

#include <stdio.h>
#include <string.h>

enum { PARTS = 1000, TASKS = 300, CALLERS = 3 };

typedef struct {
    const int *threads;
    int done[PARTS]; /* how often, plain memory: a lost or doubled write is a race */
    int stranger;    /* a part that was done by a thread the team does not have */
} work;

static void do_part(const void *task, ptrdiff_t i, int thread)
{
    work *w = *(work *const *)task;
    w->done[i]++;
    if (thread < 0 || thread >= *w->threads) w->stranger = 1;
}

/* Tasks of all lengths, one after another, on one team; returns the number of parts that were not done once. */
static int wrong_parts(int threads)
{
    fbp_team *team = fbp_hire(threads);
    work w;
    int wrong = 0;
    for (int parts = 0; parts < TASKS; parts++) {
        const work *task = &w;
        memset(&w, 0, sizeof w);
        w.threads = &team->threads;
        fbp_team_share(team, do_part, &task, parts);
        for (int i = 0; i < PARTS; i++) wrong += w.done[i] != (i < parts);
        wrong += w.stranger;
    }
    wrong += team->threads != threads;
    fbp_give_back(team);
    return wrong;
}

static void *call(void *threads) { return wrong_parts(*(int *)threads) ? threads : NULL; }

/* Several callers at a time, each of which has a team of its own; returns how many went wrong. */
static int wrong_callers(int threads)
{
    pthread_t callers[CALLERS];
    int wrong = 0;
    for (int i = 0; i < CALLERS; i++) wrong += pthread_create(&callers[i], NULL, call, &threads) != 0;
    for (int i = 0; i < CALLERS; i++) {
        void *failed;
        pthread_join(callers[i], &failed);
        wrong += failed != NULL;
    }
    return wrong;
}

/* Whether it is told that a team has shared out two tasks more. */
static int wrong_report(int threads)
{
    work w;
    const work *task = &w;
    int reported;
    uint32_t before, after;
    memset(&w, 0, sizeof w);
    fbp_team *team = fbp_hire(threads);
    w.threads = &team->threads;
    fbp_give_back(team);
    fbp_last_team(&reported, &before);
    team = fbp_hire(threads);
    fbp_team_share(team, do_part, &task, 1); /* which thread 0 does alone */
    for (int i = 0; i < 2; i++) fbp_team_share(team, do_part, &task, 10);
    fbp_give_back(team);
    fbp_last_team(&reported, &after);
    return (reported != threads) + (after - before != 2);
}

/* Whether leaving a core leaves this thread the same cores to run on, also where there is but one. */
static int wrong_cores(void)
{
#if defined(__linux__)
    cpu_set_t before, one, after;
    sched_getaffinity(0, sizeof before, &before);
    fbp_leave_core(fbp_core());
    sched_getaffinity(0, sizeof after, &after);
    int wrong = !CPU_EQUAL(&before, &after);
    const int core = fbp_core();
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    fbp_leave_core(core);
    sched_getaffinity(0, sizeof after, &after);
    wrong += !CPU_EQUAL(&one, &after) + (fbp_core() != core);
    sched_setaffinity(0, sizeof before, &before);
    return wrong;
#else
    fbp_leave_core(fbp_core());
    return 0;
#endif
}

static int failures;

static void report(const char *what, int threads, int wrong)
{
    printf("%s, %d threads: %s\n", what, threads, wrong ? "FAILED" : "ok");
    failures += wrong != 0;
}

int main(void)
{
    for (int threads = 1; threads <= 5; threads++) {
        report("every part once", threads, wrong_parts(threads));
        report("several callers", threads, wrong_callers(threads));
        if (threads > 1) report("what was shared", threads, wrong_report(threads));
    }
    report("leaving a core", 1, wrong_cores());
    return failures > 0;
}
