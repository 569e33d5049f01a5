"""Teams of threads. They are the package's own, and OpenMP only says how many: the end of an OpenMP loop waits for every thread,
and so for cores that are busy with something else, and its threads spin for milliseconds when the loop is over."""

cdef extern from "pool.h" nogil:
    fbp_team *fbp_hire(int threads)
    void fbp_give_back(fbp_team *team)


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
