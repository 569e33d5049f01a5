from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_kernels, fbp_update
from fastbp._kernels.team cimport fbp_team

# An optimizer's update of flat vectors: its numbers, and its state vectors (n).
cdef struct Update:
    fbp_update numbers
    char *first                   # SGD: velocity or NULL; Adam: first moment
    char *second                  # Adam: second moment

# What an optimizer of fastbp.optimizers does at these rates, with the state vectors that it keeps: the caller keeps them alive.
cdef Update update_of(optimizer, tuple rates, tuple state) except *

# Before an update: which step it is, from 1.
cdef void set_step(Update *u, int64_t step) noexcept nogil

# The update of n parameters of `element` bytes, those that lie `at` bytes from the start of w and of the state vectors.
cdef void update_parameters(const Update *u, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, char *w,
                            Py_ssize_t at, fbp_team *team) noexcept nogil
