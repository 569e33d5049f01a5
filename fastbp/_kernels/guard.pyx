"""Finite parameters stay finite.

Below the limits an update of finite parameters is finite. It adds less to a parameter than half the distance between the two
largest numbers of float32, 1e31, so no parameter overflows, however large; or it is a decay, which makes the parameter smaller.
Bounds of the state follow from the bound of the gradient, without a look at the state; where they have grown too far from it the
state is measured. An update that could overflow all the same is made on trial.
"""

from libc.math cimport isfinite
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from fastbp._kernels.dispatch cimport FBP_AVERAGE, FBP_STATES, fbp_update
from fastbp._kernels.step cimport gradient as form_gradient
from fastbp._kernels.step cimport clip, update_by_scaled

cdef extern from "primitives.h" nogil:
    int FBP_UPDATE_rmsprop, FBP_UPDATE_adagrad, FBP_UPDATE_adam, FBP_UPDATE_lion

cdef double LARGE_NUMBER = 1e15    # of a gradient, of what weight decay adds to it, or of a state of the optimizer
cdef double LARGE_RATE = 1e3       # of a learning rate, by which Adam multiplies the first moment over its bias
cdef double LARGE_DECAY = 1.0      # of a weight decay, and of its product with the learning rate
cdef double SMALL_EPSILON = 1e-12  # of what a rule divides by


# -- what the rules do -------------------------------------------------------------------------------------------------------


cdef double epsilon_of(const fbp_update *u) noexcept nogil:
    """The least that the rule divides by"""
    if u.rule == FBP_UPDATE_adam:
        return u.rate[2]
    if u.rule == FBP_UPDATE_rmsprop:
        return u.rate[1]
    if u.rule == FBP_UPDATE_adagrad:
        return u.rate[0]
    return 1


cdef double longest_step(const fbp_update *u, double g, double *state) noexcept nogil:
    """A bound of the step of a rule by a gradient up to g; `state` are bounds, and become those after it."""
    if u.rule == FBP_UPDATE_adam:
        state[0], state[1] = max(state[0], g), max(state[1], g * g)
        state[2] = max(state[2], state[1])
        return state[0] / epsilon_of(u)
    if u.rule == FBP_UPDATE_rmsprop:
        state[0], state[1] = max(state[0], g * g), max(state[1], g)
        state[2] = u.rate[2] * state[2] + g / epsilon_of(u)
        return state[2]
    if u.rule == FBP_UPDATE_adagrad:
        state[0] += g * g
        return g / epsilon_of(u)
    if u.rule == FBP_UPDATE_lion:
        state[0] = max(state[0], g)
        return 1
    state[0] = u.rate[0] * state[0] + g
    return g + u.rate[0] * state[0] if u.rate[1] != 0 else state[0]


# -- bounds ------------------------------------------------------------------------------------------------------------------


cdef double largest_in(const Net *net, const char *x) noexcept nogil:
    return 0 if x == NULL else net.k.largest_magnitude(net.count, x, NULL)


cdef bint has_state(const Update *u) noexcept nogil:
    return u.state[0] != NULL


cdef Bounds measured(const Net *net, const Update *u) noexcept nogil:
    cdef Bounds most
    cdef int i
    # Nothing is to be known of parameters that only shrink, by the decay of plain SGD or a decoupled one.
    # A schedule may decay later.
    cdef bint decays = u.weights.weight_decay != 0 or u.rates != NULL
    cdef bint matters = decays and has_state(u) and not u.weights.decoupled
    most.w = largest_in(net, net.w if matters else NULL)
    for i in range(FBP_STATES):
        most.state[i] = 0 if i == FBP_AVERAGE else largest_in(net, u.state[i])
    return most


cdef bint has_large_numbers(const fbp_update *u) noexcept nogil:
    cdef double rate = u.learning_rate / u.bias[0], decay = u.weight_decay
    return rate > LARGE_RATE or decay > LARGE_DECAY or rate * decay > LARGE_DECAY or epsilon_of(u) < SMALL_EPSILON


cdef bint may_overflow(const Update *u, double gradient, const Bounds *most) noexcept nogil:
    # What was orthogonalised has no singular value above 1.21, and its factor is below 1e5 for all matrices that fit in memory.
    cdef double decay = u.weights.weight_decay
    cdef int i
    if has_large_numbers(&u.weights) or (u.iterations > 0 and has_large_numbers(&u.matrices)):
        return True
    for i in range(FBP_STATES):
        if not most.state[i] < LARGE_NUMBER:
            return True
    return not (gradient < LARGE_NUMBER and decay * most.w < LARGE_NUMBER)


cdef void grow(const Update *u, double gradient, Bounds *most) noexcept nogil:
    cdef double g = gradient if u.weights.decoupled else gradient + u.weights.weight_decay * most.w
    if has_state(u):
        most.w += u.weights.learning_rate / u.weights.bias[0] * longest_step(&u.weights, g, most.state)


# -- on trial ----------------------------------------------------------------------------------------------------------------


cdef int prepare_trial(Net *net) except -1 nogil:
    if net.trial == NULL:
        net.trial = <char *>malloc((FBP_STATES + 2) * net.count * net.element)
    if net.trial == NULL:
        with gil:
            raise MemoryError(f"no memory for a trial update of {net.count} parameters")
    return 0


cdef int update_on_trial(Net *net, const Batch *batch, Update *u, fbp_team *team) except -1 nogil:
    cdef char *g
    prepare_trial(net)
    g = net.trial + (FBP_STATES + 1) * net.count * net.element
    form_gradient(net, batch, g, team)
    clip(net, g, u, team)
    return trial_by_scaled(net, g, u, team)


cdef int trial_by_scaled(Net *net, const char *g, Update *u, fbp_team *team) except -1 nogil:
    cdef Py_ssize_t bytes = net.count * net.element
    cdef char *vectors[FBP_STATES + 1]
    cdef bint finite = isfinite(largest_in(net, g))
    cdef int i
    prepare_trial(net)
    vectors[FBP_STATES] = net.w
    for i in range(FBP_STATES):
        vectors[i] = u.state[i]
    for i in range(FBP_STATES + 1):
        if vectors[i] != NULL:
            memcpy(net.trial + i * bytes, vectors[i], bytes)
    update_by_scaled(net, g, u, team)  # which no signal interrupts once it writes
    for i in range(FBP_STATES + 1):
        finite = finite and isfinite(largest_in(net, vectors[i]))
    for i in range(FBP_STATES + 1):
        if vectors[i] != NULL and not finite:
            memcpy(vectors[i], net.trial + i * bytes, bytes)
    return finite
