"""Optimizer updates of flat vectors, cut into equal runs over threads."""

from libc.math cimport pow
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastbp._kernels.dispatch cimport FBP_ADAM, FBP_SGD, kernels_for, real, threads_for
from fastbp._kernels.memory cimport READ, WRITE, vector_of
from fastbp._kernels.team cimport Work, fbp_team_share, on_team

cdef double ELEMENT_WORK = 0.5     # nanoseconds that one thread needs for a parameter, roughly
cdef Py_ssize_t RUN = 16 * 1024    # parameters of one call of the primitive


cdef struct Flat:
    const Update *u
    const fbp_kernels *k
    Py_ssize_t element, n, at
    const char *g
    char *w


cdef void update_run(const void *flat, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Flat *f = <const Flat *>flat
    cdef Py_ssize_t start = i * RUN * f.element, at = f.at + start
    f.k.update(min(RUN, f.n - i * RUN), f.g + start, &f.u.numbers, NULL if f.u.first == NULL else f.u.first + at,
               NULL if f.u.second == NULL else f.u.second + at, f.w + at)


cdef Update update_of(optimizer, tuple rates, tuple state) except *:
    cdef Update u
    memset(&u, 0, sizeof(u))
    if len(state) > 0:
        u.first = vector_of(state[0], WRITE)
    if len(state) > 1:
        u.second = vector_of(state[1], WRITE)
    if optimizer.name == "adam":
        u.numbers.rule = FBP_ADAM
        rate, u.numbers.beta_1, u.numbers.beta_2, u.numbers.epsilon, decay = rates
    else:
        u.numbers.rule = FBP_SGD
        rate, u.numbers.momentum, u.numbers.nesterov, decay = rates
    u.numbers.learning_rate, u.numbers.weight_decay = rate, decay
    return u


cdef void set_step(Update *u, int64_t step) noexcept nogil:
    if u.numbers.rule == FBP_ADAM:
        u.numbers.bias_1, u.numbers.bias_2 = 1 - pow(u.numbers.beta_1, step), 1 - pow(u.numbers.beta_2, step)


cdef void update_parameters(const Update *u, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, char *w,
                            Py_ssize_t at, fbp_team *team) noexcept nogil:
    cdef Flat f = Flat(u, k, element, n, at, g, w)
    fbp_team_share(team, update_run, &f, (n + RUN - 1) // RUN)


cdef int update_all(Flat *f, fbp_team *team) except -1 nogil:
    update_parameters(f.u, f.k, f.element, f.n, f.g, f.w, 0, team)
    return 0


cdef int run(Update *u, Py_ssize_t element, Py_ssize_t n, const char *gradient, char *parameters, int n_threads) except -1:
    cdef Flat f = Flat(u, kernels_for(element), element, n, 0, gradient, parameters)
    with nogil:
        on_team(<Work>update_all, &f, threads_for(n_threads, ELEMENT_WORK * n))
    return 0


def optimizer_update(optimizer, parameters, gradient, int n_threads) -> None:
    """Update parameters, state and `steps` in one call, during which no signal is looked for."""
    rates, state, steps = optimizer.hyper_parameters(parameters.dtype), optimizer.state(parameters), optimizer.steps + 1
    cdef Update u = update_of(optimizer, rates, state)
    set_step(&u, steps)
    run(&u, parameters.itemsize, parameters.size, vector_of(gradient, READ), vector_of(parameters, WRITE), n_threads)
    optimizer.steps = steps


def sgd_update(real[::1] parameters, const real[::1] gradient, real[::1] velocity, double learning_rate, double momentum,
               bint nesterov, double weight_decay, int n_threads):
    cdef Update u
    memset(&u, 0, sizeof(u))
    u.numbers.rule, u.numbers.learning_rate, u.numbers.momentum = FBP_SGD, learning_rate, momentum
    u.numbers.nesterov, u.numbers.weight_decay = nesterov, weight_decay
    if velocity is not None and velocity.shape[0] > 0:
        u.first = <char *>&velocity[0]
    if parameters.shape[0] > 0:
        run(&u, sizeof(real), parameters.shape[0], <const char *>&gradient[0], <char *>&parameters[0], n_threads)


def adam_update(real[::1] parameters, const real[::1] gradient, real[::1] first_moment, real[::1] second_moment, int64_t step,
                double learning_rate, double beta_1, double beta_2, double epsilon, double weight_decay, int n_threads):
    cdef Update u
    memset(&u, 0, sizeof(u))
    u.numbers.rule, u.numbers.learning_rate, u.numbers.beta_1, u.numbers.beta_2 = FBP_ADAM, learning_rate, beta_1, beta_2
    u.numbers.epsilon, u.numbers.weight_decay = epsilon, weight_decay
    set_step(&u, step)
    if parameters.shape[0] > 0:
        u.first, u.second = <char *>&first_moment[0], <char *>&second_moment[0]
    if parameters.shape[0] > 0:
        run(&u, sizeof(real), parameters.shape[0], <const char *>&gradient[0], <char *>&parameters[0], n_threads)
