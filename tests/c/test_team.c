/* Teams of threads, without what they are for: each part of each task is done once, and what it wrote is seen when the task is
 * over; a thread that leaves a core may come back to it; helpers end and are made again; the child of a fork goes on alone;
 * limits hold where they were set. Prints one line per check, exits with 1 if one fails. */
#define FBP_PATIENCE 20 /* so that helpers end, and teams are dissolved, between the checks and during them */
#include "threads/pool.h"

#include <pthread.h> /* on Windows too, for the threads of this program: there it is MinGW's */
#include <stdio.h>
#include <string.h>
#include <time.h>
#if FBP_FORKS
#include <sys/wait.h>
#include <unistd.h>
#endif

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

static void pause_ms(int ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

/* Whether no crew has helpers; one that never had any stays. */
static int all_have_ended(void)
{
    int helpers = 0;
    fbp_acquire(&fbp_pool.lock);
    for (fbp_crew *crew = fbp_pool.first; crew; crew = crew->next) helpers += crew->helpers;
    fbp_release(&fbp_pool.lock);
    return helpers == 0;
}

/* Whether a team that is at work keeps its helpers for longer than they wait, and all end some time after it. */
static int wrong_end(int threads)
{
    work w;
    const work *task = &w;
    int wrong = 0;
    memset(&w, 0, sizeof w);
    fbp_team *team = fbp_hire(threads);
    w.threads = &team->threads;
    pause_ms(3 * FBP_PATIENCE);
    wrong += ((fbp_crew *)team)->helpers < threads - 1 || atomic_load(&((fbp_crew *)team)->ended);
    fbp_team_share(team, do_part, &task, 10);
    for (int i = 0; i < 10; i++) wrong += w.done[i] != 1;
    fbp_give_back(team);
    for (int ms = 0; ms < 20000 && !all_have_ended(); ms++) pause_ms(1);
    return wrong + !all_have_ended() + wrong_parts(threads);
}

/* How often the main thread has gone to sleep or waited; a yield does not count. -1 where the system does not tell. */
static long sleeps_of_main(void)
{
    long sleeps = -1;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) sscanf(line, "voluntary_ctxt_switches: %ld", &sleeps);
    if (status) fclose(status);
    return sleeps;
}

typedef struct {
    _Atomic int slow; /* whether the slow part has been taken */
    int slept;        /* whether thread 0 slept meanwhile */
} handover;

/* Two parts, one of them for each of two threads: the helper's lasts until thread 0 sleeps. */
static void do_slow_part(const void *task, ptrdiff_t i, int thread)
{
    handover *h = *(handover *const *)task;
    (void)i;
    if (thread == 0) {
        while (!atomic_load(&h->slow)) fbp_yield();
        return;
    }
    atomic_store(&h->slow, 1);
    const long before = sleeps_of_main();
    for (int ms = 0; ms < 60000 && !h->slept; ms += 10) {
        pause_ms(10);
        h->slept = before < 0 || sleeps_of_main() - before >= 10;
    }
}

/* Whether thread 0 sleeps, and so leaves its core to whom it may, while it waits for a slow part. */
static int wrong_wait(void)
{
    handover h = {0, 0};
    const handover *task = &h;
    fbp_team *team = fbp_hire(2);
    fbp_team_share(team, do_slow_part, &task, 2);
    fbp_give_back(team);
    return !h.slept;
}

#if FBP_FORKS

typedef struct {
    fbp_lock *lock;
    _Atomic int held, over;
} holder;

static void *hold(void *given)
{
    holder *h = given;
    fbp_acquire(h->lock);
    atomic_store(&h->held, 1);
    while (!atomic_load(&h->over)) pause_ms(1);
    fbp_release(h->lock);
    return NULL;
}

/* Whether the child of a fork goes on with a call that was under way, though the helpers slept and one of them was about to
 * wake. */
static int wrong_fork(void)
{
    work w;
    const work *task = &w;
    pthread_t thread;
    int status, wrong = 0;
    memset(&w, 0, sizeof w);
    fbp_team *team = fbp_hire(3);
    w.threads = &team->threads;
    while (atomic_load(&team->asleep) < 2) pause_ms(1);
    holder h = {&team->lock, 0, 0};
    pthread_create(&thread, NULL, hold, &h);
    while (!atomic_load(&h.held)) pause_ms(1);
    const pid_t child = fork();
    if (child == 0) {
        alarm(10);
        fbp_team_share(team, do_part, &task, 10);
        for (int i = 0; i < 10; i++) wrong += w.done[i] != 1;
        fbp_give_back(team);
        _exit(wrong + (fbp_hire(2) != NULL) + !fbp_is_forked());
    }
    waitpid(child, &status, 0);
    atomic_store(&h.over, 1);
    pthread_join(thread, NULL);
    wrong += !WIFEXITED(status) || WEXITSTATUS(status) != 0 || fbp_is_forked();
    fbp_team_share(team, do_part, &task, 10);
    for (int i = 0; i < 10; i++) wrong += w.done[i] != 1;
    fbp_give_back(team);
    return wrong;
}

#else

static int wrong_fork(void) { return fbp_is_forked(); }

#endif

/* In a thread that is not the main one, where 3 holds for all: a limit of its own, and back. */
static void *limit_this_thread(void *none)
{
    int wrong = fbp_get_num_threads() != 3;
    fbp_set_num_threads(5);
    wrong += fbp_get_num_threads() != 5;
    fbp_set_num_threads(3);
    wrong += fbp_limit != 0;
    fbp_set_num_threads(4); /* and it ends with a limit, which nobody else sees */
    return wrong ? &fbp_machine : none;
}

static int wrong_limits(void)
{
    pthread_t thread;
    void *failed;
    const int before = fbp_get_num_threads();
    int wrong = before < 1;
    fbp_set_num_threads(3);
    pthread_create(&thread, NULL, limit_this_thread, NULL);
    pthread_join(thread, &failed);
    wrong += failed != NULL;
    wrong += fbp_get_num_threads() != 3;
    fbp_set_num_threads(0);
    wrong += fbp_get_num_threads() != 1;
    fbp_set_num_threads(before);
    return wrong + (fbp_get_num_threads() != before) + (fbp_machine.limit != 0);
}

static int failures;

static void report(const char *what, int threads, int wrong)
{
    printf("%s, %d threads: %s\n", what, threads, wrong ? "FAILED" : "ok");
    failures += wrong != 0;
}

static void check_all(void)
{
    for (int threads = 1; threads <= 5; threads++) {
        report("every part once", threads, wrong_parts(threads));
        report("several callers", threads, wrong_callers(threads));
        if (threads > 1) report("what was shared", threads, wrong_report(threads));
    }
    report("helpers end", 4, wrong_end(4));
    report("waiting", 2, wrong_wait());
    report("a fork", 3, wrong_fork());
    report("limits", 1, wrong_limits());
    report("leaving a core", 1, wrong_cores());
}

int main(int argc, char **argv)
{
    const int rounds = argc > 1 ? atoi(argv[1]) : 1; /* of some 6000 tasks each */
    fbp_begin(fbp_self(), 0, 0, 2, NULL);
    fbp_prepare_for_forks();
    for (int round = 0; round < rounds; round++) check_all();
    return failures > 0;
}
