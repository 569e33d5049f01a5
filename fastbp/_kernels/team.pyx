"""Teams of threads are started here, by the OpenMP runtime that a process has: its limits hold for them, and its threads stay."""

from cython.parallel cimport prange

# As `Work`, but an exception stays set in the thread, and is not looked for.
ctypedef int (*Quiet)(void *call, fbp_team *team) noexcept nogil

cdef struct Session:
    Quiet work
    void *call
    fbp_team team
    int status


cdef void take_part(Session *s, int thread) noexcept nogil:
    """Thread 0 is the one that called, and may have the GIL."""
    if thread == 0:
        s.status = s.work(s.call, &s.team)
        fbp_team_close(&s.team)
    else:
        fbp_team_serve(&s.team, thread)


cdef int on_team(Work work, void *call, int threads) except -1 nogil:
    cdef Session s
    cdef int i
    s.work, s.call = <Quiet>work, call
    fbp_team_open(&s.team, threads)
    if threads == 1:
        return work(call, &s.team)
    for i in prange(threads, schedule="static", chunksize=1, num_threads=threads):
        take_part(&s, i)
    return s.status
