"""Optimizer updates of flat vectors, cut into equal runs over threads.

A rule, applied to W parameters at a time, is a primitive of src_c/rows/updates.h; src_c/updates.def lists the rules. Here is what
holds for all of them: which numbers apply at a step, and to which parameters.
"""

from libc.math cimport NAN, isfinite, pow, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastbp._kernels.dispatch cimport FBP_AVERAGE, FBP_RATES, FBP_STATES, kernels_for, threads_for
from fastbp._kernels.memory cimport READ, WRITE, vector_of
from fastbp._kernels.team cimport Work, fbp_team_share, on_team

cdef extern from *:
    """
    #include "primitives.h"
    #include "glibc.h"
    typedef struct { const char *name; int corrected; } fbp_rule;
    static const fbp_rule fbp_rules[] = {
    #define FBP_UPDATE(name, states, corrected) {#name, corrected},
    #include "updates.def"
    #undef FBP_UPDATE
    };
    """
    ctypedef struct fbp_rule:
        const char *name
        int corrected
    const fbp_rule fbp_rules[]
    int FBP_UPDATES

RULES = {fbp_rules[i].name.decode(): i for i in range(FBP_UPDATES)}

cdef double ELEMENT_WORK = 0.5     # nanoseconds that one thread needs for a parameter, roughly
cdef Py_ssize_t RUN = 16 * 1024    # parameters of one call of the primitive
cdef enum:
    OF_MATRICES = 4                # rates of hidden matrices, between the learning rate and the rule's own; see Muon
    MOST_RATES = FBP_RATES + 6


# -- the numbers of an update ------------------------------------------------------------------------------------------------


cdef Update update_of(optimizer, dict state) except *:
    cdef Update u
    memset(&u, 0, sizeof(u))
    u.weights.rule, u.weights.decoupled, u.weights.gradient_scale = RULES[optimizer.rule], optimizer.decoupled, 1
    u.decay_biases, u.n_rates = optimizer.decay_biases, len(optimizer.rates)
    if optimizer.of_matrices:
        u.matrices.rule = RULES["muon"]
        u.iterations, u.as_long_as_adamw = optimizer.ns_steps, optimizer.adjust_lr_fn == "match_rms_adamw"
    assert u.n_rates <= MOST_RATES and optimizer.of_matrices in (0, OF_MATRICES)
    for i, name in enumerate(optimizer.vectors):
        if name in state:
            u.state[<int>i] = vector_of(state[name], WRITE)
    if optimizer.average is not None:
        u.state[<int>FBP_AVERAGE], u.average = vector_of(state["average"], WRITE), optimizer.average
    return u


cdef void set_rates(Update *u, const double *rates) noexcept nogil:
    cdef int i, of_matrices = OF_MATRICES if u.iterations > 0 else 0
    u.weights.learning_rate, u.weights.weight_decay = rates[0], rates[u.n_rates - 1]
    for i in range(u.n_rates - 2 - of_matrices):
        u.weights.rate[i] = rates[1 + of_matrices + i]
    if of_matrices:
        u.matrices.learning_rate, u.matrices.rate[0], u.matrices.rate[1], u.epsilon = rates[0], rates[1], rates[2], rates[3]
        u.weights.learning_rate *= rates[4]


cdef Update update_at(optimizer, tuple rates, dict state) except *:
    cdef Update u = update_of(optimizer, state)
    cdef double numbers[MOST_RATES]
    cdef int i = 0
    memset(numbers, 0, sizeof(numbers))
    for rate in rates:
        numbers[i] = rate
        i += 1
    set_rates(&u, numbers)
    return u


cdef void set_step(Update *u, int64_t step, Py_ssize_t of_call) noexcept nogil:
    cdef int i
    cdef bint corrected = fbp_rules[u.weights.rule].corrected
    if u.rates != NULL:
        set_rates(u, u.rates + of_call * u.rates_row)
    for i in range(2):
        u.weights.bias[i] = 1 - pow(u.weights.rate[i], step) if corrected else 1
    u.weights.average = u.average if step > 1 else 0
    u.biases = u.weights
    if not u.decay_biases:
        u.biases.weight_decay = 0
    u.matrices.weight_decay, u.matrices.decoupled = u.weights.weight_decay, u.weights.decoupled
    u.matrices.clip, u.matrices.average = u.weights.clip, u.weights.average
    u.matrices.gradient_scale = u.matrices.bias[0] = u.matrices.bias[1] = 1


cdef void set_norm(Update *u, double norm, double divisor) noexcept nogil:
    cdef double scale = u.clip_norm / norm if u.clip_norm > 0 and norm > u.clip_norm else 1
    scale = scale / divisor if isfinite(norm) else NAN  # which makes no update
    u.weights.gradient_scale = u.biases.gradient_scale = u.matrices.gradient_scale = scale


# -- over threads ------------------------------------------------------------------------------------------------------------


cdef void state_at(const Update *u, Py_ssize_t at, void **state) noexcept nogil:
    cdef int i
    for i in range(FBP_STATES):
        state[i] = NULL if u.state[i] == NULL else u.state[i] + at


cdef struct Flat:
    const Update *u
    const fbp_update *numbers
    const fbp_kernels *k
    Py_ssize_t element, n, at
    const char *g
    char *w


cdef void update_run(const void *flat, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Flat *f = <const Flat *>flat
    cdef Py_ssize_t start = i * RUN * f.element
    cdef void *state[FBP_STATES]
    state_at(f.u, f.at + start, state)
    f.k.update(min(RUN, f.n - i * RUN), f.g + start, f.numbers, state, f.w + f.at + start)


cdef void update_parameters(const Update *u, const fbp_update *numbers, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n,
                            const char *g, char *w, Py_ssize_t at, fbp_team *team) noexcept nogil:
    cdef Flat f = Flat(u, numbers, k, element, n, at, g, w)
    fbp_team_share(team, update_run, &f, (n + RUN - 1) // RUN)


cdef struct Squares:
    const fbp_kernels *k
    Py_ssize_t element, n
    const char *g
    double *sums


cdef void squares_of_run(const void *squares, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Squares *s = <const Squares *>squares
    s.sums[i] = s.k.sum_of_squares(min(RUN, s.n - i * RUN), s.g + i * RUN * s.element)


cdef Py_ssize_t norm_sums(Py_ssize_t n) noexcept nogil:
    return (n + RUN - 1) // RUN


cdef double norm(const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, double *sums,
                 fbp_team *team) noexcept nogil:
    cdef Squares s = Squares(k, element, n, g, sums)
    cdef double total = 0
    cdef Py_ssize_t i
    fbp_team_share(team, squares_of_run, &s, norm_sums(n))
    for i in range(norm_sums(n)):
        total += sums[i]
    return sqrt(total)


# -- calls from Python -------------------------------------------------------------------------------------------------------


cdef int update_all(Flat *f, fbp_team *team) except -1 nogil:
    update_parameters(f.u, f.numbers, f.k, f.element, f.n, f.g, f.w, 0, team)
    return 0


cdef void update_vector(const Update *u, Py_ssize_t element, Py_ssize_t n, const char *g, char *w, int n_threads) noexcept nogil:
    cdef Flat f = Flat(u, &u.weights, kernels_for(element), element, n, 0, g, w)
    on_team(<Work>update_all, &f, threads_for(n_threads, ELEMENT_WORK * n))


def update(optimizer, tuple rates, dict state, int64_t step, parameters, gradient, int n_threads) -> None:
    """Make update number `step`, from 1, of all parameters, and of the state; no signal is looked for meanwhile."""
    cdef Update u = update_at(optimizer, rates, state)
    cdef Py_ssize_t element = parameters.itemsize, n = parameters.size
    cdef const char *g = vector_of(gradient, READ)
    cdef char *w = vector_of(parameters, WRITE)
    set_step(&u, step, 0)
    with nogil:
        update_vector(&u, element, n, g, w, n_threads)


def optimizer_update(optimizer, parameters, gradient, int n_threads) -> None:
    """Update parameters, state and `steps` in one call, during which no signal is looked for."""
    rates, state, steps = optimizer.hyper_parameters(parameters.dtype), optimizer.state(parameters), optimizer.steps + 1
    update(optimizer, rates, state, steps, parameters, gradient, n_threads)
    optimizer.steps = steps
