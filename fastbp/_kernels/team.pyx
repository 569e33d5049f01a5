"""Teams of threads, and the default number of threads of a call.

The threads are the package's own, not OpenMP's: the end of an OpenMP loop waits for every thread, and so for busy cores, and its
threads spin for milliseconds after a loop.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

import os
import threading
from pathlib import Path

from fastbp._kernels import processors

cdef extern from "threads/pool.h" nogil:
    bint FBP_THREADS
    ctypedef struct fbp_cores:
        pass
    fbp_team *fbp_hire(int threads)
    void fbp_give_back(fbp_team *team)
    void fbp_last_team(int *threads, uint32_t *tasks)
    void fbp_prepare_for_forks()
    bint fbp_is_forked()
    void fbp_add_core(fbp_cores *cores, int core)
    void fbp_begin(uintptr_t main_thread, int chosen, int ceiling, int count, const fbp_cores *fixed)
    int fbp_get_num_threads()

cdef extern from "threads/arithmetic.h" nogil:
    uint64_t fbp_usual_arithmetic()
    void fbp_arithmetic_as_before(uint64_t before)

cdef extern from * nogil:
    """
    #if defined(_MSC_VER)
    static __declspec(thread) int fbp_signals_left;
    #else
    static _Thread_local int fbp_signals_left; /* how many calls of this thread leave signals to their callers */
    #endif
    """
    int signals_left "fbp_signals_left"

cdef double POLL_WORK = 2e7  # nanoseconds of work between two polls for signals

SEVERAL_THREADS = bool(FBP_THREADS)  # whether this system has teams of more than one thread


cdef int on_team(Work work, void *call, int threads) except -1 nogil:
    cdef fbp_team alone
    cdef uint64_t arithmetic = fbp_usual_arithmetic()  # that of helpers, too, who begin with ours
    cdef fbp_team *team = fbp_hire(threads) if threads > 1 else NULL
    alone.threads = 1
    try:
        return work(call, &alone if team == NULL else team)
    finally:
        if team != NULL:
            fbp_give_back(team)
        fbp_arithmetic_as_before(arithmetic)


cdef int check_signals() except -1 nogil:
    if signals_left == 0:
        with gil:
            PyErr_CheckSignals()
    return 0


cdef void leave_signals(bint leave) noexcept nogil:
    global signals_left
    signals_left += 1 if leave else -1


cdef bint poll(double *unpolled, double work) except -1 nogil:
    unpolled[0] += work
    if unpolled[0] < POLL_WORK:
        return False
    unpolled[0] = 0
    check_signals()
    return True


cdef int default_threads() noexcept nogil:
    return 1 if fbp_is_forked() else fbp_get_num_threads()


cdef bint is_forked() noexcept nogil:
    return fbp_is_forked()


def last_team() -> tuple[int, int]:
    """The threads of the last call that had a team, and the number of tasks of all teams so far, for tests"""
    cdef int threads
    cdef uint32_t tasks
    fbp_last_team(&threads, &tasks)
    return threads, tasks


def has_threads() -> bool:
    """Whether the kernels were compiled with threads of their own; without, a call takes one."""
    return SEVERAL_THREADS


def _begin() -> None:
    cdef fbp_cores fixed
    cdef bint bound = processors.is_bound(os.environ)
    cores = processors.cores_before_binding(Path("/proc/self/maps")) if bound else processors.cores()
    memset(&fixed, 0, sizeof(fixed))
    for core in cores:
        fbp_add_core(&fixed, core)
    fbp_begin(threading.main_thread().ident, processors.chosen(os.environ), processors.most(os.environ, Path("/")), len(cores),
              &fixed if bound else NULL)
    fbp_prepare_for_forks()


_begin()
