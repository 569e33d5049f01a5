"""A dense network prepared for batches of some size, and a training step of it: everything that needs no Python."""

from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_kernels
from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.rows cimport RowError
from fastbp._kernels.team cimport fbp_team

cdef struct Layer:
    Py_ssize_t inputs, outputs
    Py_ssize_t weight, bias  # bytes from the start of the parameters, and of their gradient
    char *z                  # (rows, outputs) what the slope of the activation takes: the output, or its input
    char *a                  # (rows, outputs) the output; of the last layer the logits, perhaps of a block of rows at a time
    char *delta              # (rows, outputs) dE/dz; of the last layer over the logits

# A network, and its work space for up to `capacity` rows.
cdef struct Net:
    const fbp_kernels *k
    Py_ssize_t element, count    # bytes of a parameter, number of parameters
    char *w
    Layer *layers
    int depth, kind              # number of layers; the hidden layers' activation
    bint keeps_input             # the activation's slope is a function of its input
    RowError error
    int n_threads                # of the call under way

    Py_ssize_t capacity
    int most_threads             # for which the scratch is large enough
    Py_ssize_t target_row        # bytes of a row of targets
    char *memory
    Py_ssize_t used
    char *batch_x                # (rows, inputs) and
    char *batch_t                # (rows, ...) a batch that was gathered, with
    double *batch_most           # the largest magnitude of each of its rows
    char *bias_gradients         # (outputs) of all layers, one after another
    char *gradient               # (count), or NULL where no batch needs it
    char *trial                  # (4, count) for updates on trial: NULL until there is one
    Py_ssize_t usual             # rows of the last call
    char *formed                 # the gradient in which that of the last layer stands already, since the deltas; or NULL
    char *scratch                # of a product, or of the error
    double unpolled              # nanoseconds of work since the last look at pending signals

# Before a call on `rows` rows: make sure that the work space holds them, with targets of so many bytes each, and scratch for
# n_threads, and that the primitives are those of the instruction set in use. After it, and at the end: give memory back.
cdef int prepare(Net *net, Py_ssize_t rows, Py_ssize_t target_row, int n_threads) except -1
cdef void tidy(Net *net, Py_ssize_t rows) noexcept nogil
cdef void give_back(Net *net) noexcept nogil

# Whether so many bytes from `part` on are in the work space.
cdef bint in_space(Net *net, const char *part, Py_ssize_t bytes) noexcept nogil

# Memory for updates on trial.
cdef int prepare_trial(Net *net) except -1 nogil

# Nanoseconds that one thread needs for the forward pass, and for a whole step.
cdef double forward_work(Net *net, Py_ssize_t rows) noexcept nogil
cdef double step_work(Net *net, Py_ssize_t rows) noexcept nogil

# The logits of the rows of x, at most `capacity`, to `out`, whose rows lie out_row elements apart.
cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil

# The mean error of the rows of x; the deltas of all layers to the work space. Where the last layer goes by blocks of rows, its
# deltas are used up, and its gradient stands in `to`, a vector of `count`.
cdef double deltas(Net *net, Matrix x, Matrix t, char *to, fbp_team *team) except? -1 nogil

# From the deltas: the gradient, to a vector of `count`.
cdef int gradient(Net *net, Matrix x, char *to, fbp_team *team) except -1 nogil

# The largest magnitude of what layer i of the network gets; NaN if any number is.
cdef double largest_input(Net *net, Py_ssize_t i, Matrix x) except? -1 nogil

# From the deltas, and `most`, the largest magnitude of x: the bias gradients to the work space, and a bound of every element of
# the gradient; it is no finite number if not all of the deltas and activations are.
cdef double gradient_bound(Net *net, Matrix x, double most) except? -1 nogil

# From the deltas and bias gradients: the update of all parameters.
cdef int update(Net *net, Matrix x, const Update *u, fbp_team *team) except -1 nogil
