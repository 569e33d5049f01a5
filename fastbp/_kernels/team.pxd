"""The threads of one call: started together, then sharing one task after another. See src_c/team.h."""

cdef extern from "team.h" nogil:
    ctypedef void (*fbp_part)(const void *task, Py_ssize_t i, int thread) noexcept nogil
    ctypedef struct fbp_team:
        int threads

    void fbp_team_open(fbp_team *team, int threads)
    void fbp_team_share(fbp_team *team, fbp_part part, const void *task, Py_ssize_t parts)
    void fbp_team_serve(fbp_team *team, int thread)
    void fbp_team_close(fbp_team *team)

# What the first thread of a team does: -1 with a Python exception set if it fails.
ctypedef int (*Work)(void *call, fbp_team *team) except -1 nogil

# work(call, team) on the calling thread, with threads - 1 others at its service.
cdef int on_team(Work work, void *call, int threads) except -1 nogil
