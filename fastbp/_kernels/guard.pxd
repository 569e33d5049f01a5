"""All that is known about overflow: whether an update could make anything infinite, and what is done if it could."""

from fastbp._kernels.net cimport Batch, Net
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.team cimport fbp_team

# Bounds of the magnitudes of all parameters, and of each state vector; NaN where any number is.
cdef struct Bounds:
    double w
    double state[4]  # FBP_STATES of them

cdef Bounds measured(const Net *net, const Update *u) noexcept nogil

# Whether an update by a gradient whose elements are up to `gradient` might make a parameter or a state infinite; of NaN it might.
cdef bint may_overflow(const Update *u, double gradient, const Bounds *most) noexcept nogil

# Make `most` bounds of what there is after such an update.
cdef void grow(const Update *u, double gradient, Bounds *most) noexcept nogil

# Memory for updates on trial.
cdef int prepare_trial(Net *net) except -1 nogil

# From the deltas: make the update; if anything is not finite after it take it back and return 0, else 1.
cdef int update_on_trial(Net *net, const Batch *batch, Update *u, fbp_team *team) except -1 nogil
# The same by a gradient, a vector of `count`, as set_norm has said
cdef int trial_by_scaled(Net *net, const char *g, Update *u, fbp_team *team) except -1 nogil
