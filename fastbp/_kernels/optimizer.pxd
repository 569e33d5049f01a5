from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_kernels

# An optimizer's update of a flat vector: its name, its numbers, and its state vectors (n).
cdef enum Rule:
    SGD
    ADAM

cdef struct Update:
    Rule rule
    double learning_rate, weight_decay
    double momentum
    bint nesterov
    double beta_1, beta_2, epsilon
    int64_t step                  # of the update to come, from 1
    char *first                   # SGD: velocity or NULL; Adam: first moment
    char *second                  # Adam: second moment

cdef void update_parameters(const Update *u, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, char *w,
                            int n_threads) noexcept nogil
