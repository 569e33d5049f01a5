"""The threads of one call, which share one task after another. See src_c/threads/team.h."""

cdef extern from "threads/team.h" nogil:
    ctypedef void (*fbp_part)(const void *task, Py_ssize_t i, int thread) noexcept nogil
    ctypedef struct fbp_team:
        int threads

    # part(task, i, thread) for all i < parts; thread < team.threads tells which scratch is free
    void fbp_team_share(fbp_team *team, fbp_part part, const void *task, Py_ssize_t parts)

# What a call does, on the thread that made it, with a team at its service.
ctypedef int (*Work)(void *call, fbp_team *team) except -1 nogil

# work(call, team) with a team of so many threads, itself included, or of as many as the system grants.
cdef int on_team(Work work, void *call, int threads) except -1 nogil

# Look at pending signals if, with `work` nanoseconds more, enough has been done since the last time, which `unpolled` counts.
cdef bint poll(double *unpolled, double work) except -1 nogil

# The threads of a call that does not say how many. See src_c/threads/counts.h.
cdef int default_threads() noexcept nogil

# Whether this is the child of a fork, which has none of its parent's threads: it uses one.
cdef bint is_forked() noexcept nogil
