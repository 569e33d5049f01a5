"""Teams of threads. They are the package's own, and OpenMP only says how many: the end of an OpenMP loop waits for every thread,
and so for cores that are busy with something else, and its threads spin for milliseconds when the loop is over."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t

cdef extern from "pool.h" nogil:
    bint FBP_THREADS
    fbp_team *fbp_hire(int threads)
    void fbp_give_back(fbp_team *team)
    void fbp_last_team(int *threads, uint32_t *tasks)

cdef double POLL_WORK = 2e7  # nanoseconds of work between two looks at pending signals

SEVERAL_THREADS = bool(FBP_THREADS)  # whether there are teams of more than one on this system


cdef int on_team(Work work, void *call, int threads) except -1 nogil:
    cdef fbp_team alone
    cdef fbp_team *team = fbp_hire(threads) if threads > 1 else NULL
    if team == NULL:
        alone.threads = 1
        return work(call, &alone)
    try:
        return work(call, team)
    finally:
        fbp_give_back(team)


cdef bint poll(double *unpolled, double work) except -1 nogil:
    unpolled[0] += work
    if unpolled[0] < POLL_WORK:
        return False
    unpolled[0] = 0
    with gil:
        PyErr_CheckSignals()
    return True


def last_team() -> tuple[int, int]:
    """The threads of the last call that had a team, and how many tasks that team has ever shared out. Tests watch them."""
    cdef int threads
    cdef uint32_t tasks
    fbp_last_team(&threads, &tasks)
    return threads, tasks
