from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_kernels, fbp_update
from fastbp._kernels.team cimport fbp_team

# The updates that an optimizer of fastbp.optimizers makes: its numbers at this step, which differ between the weights and the
# biases of a network, and its state vectors, with an element for each parameter.
cdef struct Update:
    fbp_update weights, biases
    fbp_update matrices      # of hidden matrices, if their steps are orthogonalised
    int iterations           # by which they are, or 0
    double epsilon           # the least norm by which what is orthogonalised is divided
    bint as_long_as_adamw    # whether its step is to be as long as one of AdamW
    char *state[4]           # FBP_STATES of them; NULL those that there are not
    bint decay_biases
    double average           # from the second step on
    const double *rates      # of update n of a call from rates[n * rates_row] on: learning rate, the rule's own, weight decay
    Py_ssize_t rates_row
    int n_rates
    double clip_norm         # the largest norm that a gradient keeps, or 0

# An optimizer with its `state`, a dict of vectors, which the caller keeps alive; with its rates at one step, or to be set.
cdef Update update_of(optimizer, dict state) except *
cdef Update update_at(optimizer, tuple rates, dict state) except *

# Before an update: which step it is, from 1, and which of this call, from 0.
cdef void set_step(Update *u, int64_t step, Py_ssize_t of_call) noexcept nogil
# Before an update whose gradient, as soon as it is divided, has this norm: it is scaled down to clip_norm, if there is one.
cdef void set_norm(Update *u, double norm, double divisor) noexcept nogil

# The state of the parameters from `at` bytes after the start on, to state[FBP_STATES].
cdef void state_at(const Update *u, Py_ssize_t at, void **state) noexcept nogil

# The update, by u's numbers of weights or of biases, of n parameters of `element` bytes, which lie `at` bytes from the start of w
# and of the state vectors.
cdef void update_parameters(const Update *u, const fbp_update *numbers, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n,
                            const char *g, char *w, Py_ssize_t at, fbp_team *team) noexcept nogil

# All updates of a flat vector of n parameters, by u.weights
cdef void update_vector(const Update *u, Py_ssize_t element, Py_ssize_t n, const char *g, char *w, int n_threads) noexcept nogil

# √Σ g² over n elements, the same bits for any number of threads; `sums` has room for so many numbers.
cdef Py_ssize_t norm_sums(Py_ssize_t n) noexcept nogil
cdef double norm(const fbp_kernels *k, Py_ssize_t element, Py_ssize_t n, const char *g, double *sums,
                 fbp_team *team) noexcept nogil
