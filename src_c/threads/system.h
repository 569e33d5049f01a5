/* Threads, locks and conditions: those of POSIX, or those of Windows. Without C11's atomics there are no threads. */
#ifndef FASTBP_SYSTEM_H
#define FASTBP_SYSTEM_H

#include "core.h" /* first: it defines _GNU_SOURCE, and includes windows.h */

#include <stdint.h>

#if defined(__STDC_NO_ATOMICS__)
#define FBP_THREADS 0
#else
#define FBP_THREADS 1
#include <stdatomic.h>

#if defined(_WIN32)

#include <process.h>

#define FBP_FORKS 0
#define FBP_THREAD unsigned __stdcall /* what the function of a thread returns */

typedef SRWLOCK fbp_lock;
typedef CONDITION_VARIABLE fbp_condition;
typedef ULONGLONG fbp_moment; /* in ms */
#define FBP_UNLOCKED SRWLOCK_INIT

static inline void fbp_make_lock(fbp_lock *lock) { InitializeSRWLock(lock); }
static inline void fbp_drop_lock(fbp_lock *lock) { (void)lock; }
static inline void fbp_acquire(fbp_lock *lock) { AcquireSRWLockExclusive(lock); }
static inline void fbp_release(fbp_lock *lock) { ReleaseSRWLockExclusive(lock); }

static inline void fbp_make_condition(fbp_condition *condition) { InitializeConditionVariable(condition); }
static inline void fbp_drop_condition(fbp_condition *condition) { (void)condition; }
static inline void fbp_wake_all(fbp_condition *condition) { WakeAllConditionVariable(condition); }
static inline fbp_moment fbp_in(int ms) { return GetTickCount64() + (ULONGLONG)ms; }

/* Waits, without the lock meanwhile; returns whether that moment has come. */
static inline int fbp_wait(fbp_condition *condition, fbp_lock *lock, fbp_moment until)
{
    const ULONGLONG now = GetTickCount64();
    if (now >= until) return 1;
    return !SleepConditionVariableSRW(condition, lock, (DWORD)(until - now), 0) && GetLastError() == ERROR_TIMEOUT;
}

static inline void fbp_yield(void) { SwitchToThread(); }
static inline void fbp_nap(void) { Sleep(1); } /* the shortest one */

/* Python's name of the calling thread */
static inline uintptr_t fbp_self(void) { return GetCurrentThreadId(); }

/* Starts a thread that nobody waits for; returns whether there is one. */
static inline int fbp_start(unsigned(__stdcall *work)(void *), void *given)
{
    const uintptr_t thread = _beginthreadex(NULL, 0, work, given, 0, NULL);
    return thread && CloseHandle((HANDLE)thread);
}

#else

#include "glibc.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#define FBP_FORKS 1
#define FBP_THREAD void *

typedef pthread_mutex_t fbp_lock;
typedef pthread_cond_t fbp_condition;
typedef struct timespec fbp_moment;
#define FBP_UNLOCKED PTHREAD_MUTEX_INITIALIZER

/* The clock of conditions */
#if defined(__APPLE__) /* the only one that they have there */
#define FBP_CLOCK CLOCK_REALTIME
#else
#define FBP_CLOCK CLOCK_MONOTONIC
#endif

static inline void fbp_make_lock(fbp_lock *lock) { pthread_mutex_init(lock, NULL); }
static inline void fbp_drop_lock(fbp_lock *lock) { pthread_mutex_destroy(lock); }
static inline void fbp_acquire(fbp_lock *lock) { pthread_mutex_lock(lock); }
static inline void fbp_release(fbp_lock *lock) { pthread_mutex_unlock(lock); }

static inline void fbp_make_condition(fbp_condition *condition)
{
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&clock, FBP_CLOCK);
#endif
    pthread_cond_init(condition, &clock);
    pthread_condattr_destroy(&clock);
}
static inline void fbp_drop_condition(fbp_condition *condition) { pthread_cond_destroy(condition); }
static inline void fbp_wake_all(fbp_condition *condition) { pthread_cond_broadcast(condition); }

static inline fbp_moment fbp_in(int ms)
{
    struct timespec until;
    clock_gettime(FBP_CLOCK, &until);
    until.tv_nsec += ms % 1000 * 1000000L;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

/* Waits, without the lock meanwhile; returns whether that moment has come. */
static inline int fbp_wait(fbp_condition *condition, fbp_lock *lock, fbp_moment until)
{
    return pthread_cond_timedwait(condition, lock, &until) == ETIMEDOUT;
}

static inline void fbp_yield(void) { sched_yield(); }
static inline void fbp_nap(void) { nanosleep(&(struct timespec){0, 50000}, NULL); }

/* Python's name of the calling thread */
static inline uintptr_t fbp_self(void) { return (uintptr_t)pthread_self(); }

/* Starts a thread that nobody waits for; returns whether there is one. It blocks all signals, which belong to the threads of the
 * program. */
static inline int fbp_start(void *(*work)(void *), void *given)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&thread, NULL, work, given);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed && pthread_detach(thread) == 0;
}

#endif
#endif
#endif
