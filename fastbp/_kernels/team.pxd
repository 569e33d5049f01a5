"""The threads of one call, which share one task after another. See src_c/threads/team.h."""

cdef extern from "threads/team.h" nogil:
    ctypedef void (*fbp_part)(const void *task, Py_ssize_t i, int thread) noexcept nogil
    ctypedef struct fbp_team:
        int threads

    # part(task, i, thread) for all i < parts; thread < team.threads tells which scratch is free
    void fbp_team_share(fbp_team *team, fbp_part part, const void *task, Py_ssize_t parts)

# The work of a call, run on the calling thread, which shares tasks with the team
ctypedef int (*Work)(void *call, fbp_team *team) except -1 nogil

# work(call, team) with a team of so many threads, the calling thread included, or as many as the system grants
cdef int on_team(Work work, void *call, int threads) except -1 nogil

# Polls for signals, unless this thread is in a call that leaves them to its caller and never enters Python.
cdef int check_signals() except -1 nogil
cdef void leave_signals(bint leave) noexcept nogil

# Adds `work` nanoseconds to `unpolled`, and polls for signals if that is enough since the last poll. Whether it polled.
cdef bint poll(double *unpolled, double work) except -1 nogil

# The default number of threads of a call. See src_c/threads/counts.h.
cdef int default_threads() noexcept nogil

# Whether this process is the child of a fork, which has no helpers and uses one thread
cdef bint is_forked() noexcept nogil
