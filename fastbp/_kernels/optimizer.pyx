"""Optimizer updates of flat vectors, cut into equal runs over threads."""

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastbp._kernels.dispatch cimport kernels_for, real, threads_for

cdef double ELEMENT_WORK = 0.5     # nanoseconds that one thread needs for a parameter, roughly
cdef Py_ssize_t RUN = 16 * 1024    # parameters of one call of a primitive


cdef void update_run(const Update *u, const fbp_kernels *k, Py_ssize_t n, const char *g, Py_ssize_t at, char *w) noexcept nogil:
    """The update of n parameters, `at` bytes from the start of every vector."""
    cdef void *first = NULL if u.first == NULL else u.first + at
    if u.rule == ADAM:
        k.adam_update(n, g + at, u.step, u.learning_rate, u.beta_1, u.beta_2, u.epsilon, u.weight_decay, first, u.second + at,
                      w + at)
    else:
        k.sgd_update(n, g + at, u.learning_rate, u.momentum, u.nesterov, u.weight_decay, first, w + at)


cdef void update_parameters(const Update *u, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, char *w,
                            int n_threads) noexcept nogil:
    cdef int threads = threads_for(n_threads, ELEMENT_WORK * n)
    cdef Py_ssize_t i, runs = (n + RUN - 1) // RUN
    if threads == 1:
        for i in range(runs):
            update_run(u, k, min(RUN, n - i * RUN), g, i * RUN * element, w)
    else:
        for i in prange(runs, schedule="static", num_threads=threads):
            update_run(u, k, min(RUN, n - i * RUN), g, i * RUN * element, w)


cdef int run(Update *u, const real[::1] gradient, real[::1] parameters, int n_threads) except -1:
    cdef Py_ssize_t n = parameters.shape[0]
    if n > 0:
        with nogil:
            update_parameters(u, kernels_for(sizeof(real)), sizeof(real), n, <const char *>&gradient[0], <char *>&parameters[0],
                              n_threads)
    return 0


def sgd_update(real[::1] parameters, const real[::1] gradient, real[::1] velocity, double learning_rate, double momentum,
               bint nesterov, double weight_decay, int n_threads):
    cdef Update u
    memset(&u, 0, sizeof(u))
    u.rule, u.learning_rate, u.momentum, u.nesterov, u.weight_decay = SGD, learning_rate, momentum, nesterov, weight_decay
    if velocity is not None and velocity.shape[0] > 0:
        u.first = <char *>&velocity[0]
    run[real](&u, gradient, parameters, n_threads)


def adam_update(real[::1] parameters, const real[::1] gradient, real[::1] first_moment, real[::1] second_moment, int64_t step,
                double learning_rate, double beta_1, double beta_2, double epsilon, double weight_decay, int n_threads):
    cdef Update u
    memset(&u, 0, sizeof(u))
    u.rule, u.learning_rate, u.beta_1, u.beta_2, u.epsilon = ADAM, learning_rate, beta_1, beta_2, epsilon
    u.weight_decay, u.step = weight_decay, step
    if parameters.shape[0] > 0:
        u.first, u.second = <char *>&first_moment[0], <char *>&second_moment[0]
    run[real](&u, gradient, parameters, n_threads)
