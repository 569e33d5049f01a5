"""A dense network prepared for batches of some size: what is in memory, and where. Everything that needs no Python."""

from libc.stdint cimport uint64_t

from fastbp._kernels.dispatch cimport FBP_IDENTITY, fbp_kernels
from fastbp._kernels.last_layer cimport LastLayer
from fastbp._kernels.layer cimport Dense, set_forward_product, set_gradient_product, set_recursion_product
from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.product cimport Product
from fastbp._kernels.rows cimport RowError, Rows

# Some examples: x (rows, inputs), their targets t, and their weights (rows), or NULL where each is 1.
cdef struct Batch:
    Matrix x, t
    const double *weight
    double largest           # a bound of |x|, NaN if any x is

cdef struct Layer:
    Dense dense
    Py_ssize_t weight, bias  # where they begin in the parameters, and in all that is laid out like them: bytes from the start
    int kind                 # the activation; identity for the last layer
    bint keeps_input         # its slope is a function of its input
    double bound             # of its magnitude, perhaps infinity
    double dropout           # how much of the outputs is dropped while the network trains
    char *z                  # (rows, outputs) what the slope takes, where that is not `a`
    char *a                  # (rows, outputs) the output; of the last layer the logits, perhaps of a block of rows at a time
    char *delta              # (rows, outputs) dE/dz; of the last layer over the logits
    char *bias_gradient      # (outputs)

# How batches of a number of rows are trained on, on a number of threads.
cdef struct Plan:
    Py_ssize_t rows
    int n_threads
    bint by_blocks           # the last layer goes by blocks of rows
    bint fused               # the update goes without a gradient in memory

# A network, and its work space for up to `capacity` rows.
cdef struct Net:
    const fbp_kernels *k
    Py_ssize_t element, count    # bytes of a parameter, number of parameters
    char *w
    Layer *layers
    int depth                    # number of layers
    RowError error
    double smoothing             # of the targets
    double largest_error         # that an example counts in the mean that is told, perhaps infinity; its gradient is not limited
    uint64_t seed, key           # of all dropout, and of that of this step
    bint drops                   # whether it does now

    Plan plan
    Py_ssize_t capacity
    int most_threads             # for which the scratch is large enough
    bint keeps_gradient          # there is room for it whatever the plan
    Py_ssize_t target_row        # bytes of a row of targets
    char *memory
    Py_ssize_t used
    char *batch_x                # (rows, inputs),
    char *batch_t                # (rows, ...) and
    double *batch_weight         # (rows) a batch that was gathered, with
    double *batch_largest        # the largest magnitude of each of its rows
    char *gradient               # (count), or NULL where no batch needs it
    char *trial                  # (FBP_STATES + 2, count) for updates on trial: NULL until there is one
    Py_ssize_t usual             # rows of the last call
    char *formed                 # the gradient in which that of the last layer stands already, since the deltas; or NULL
    char *scratch                # of a product, or of the error
    double unpolled              # nanoseconds of work since the last look at pending signals

# Before a call on `rows` rows: make sure that the work space holds them, with targets of so many bytes each, scratch for
# n_threads, and a gradient if it is asked for, and that the primitives are those of the instruction set in use. After it, and at
# the end: give memory back.
cdef int prepare(Net *net, Py_ssize_t rows, Py_ssize_t target_row, int n_threads, bint gradient) except -1
cdef void tidy(Net *net, Py_ssize_t rows) noexcept nogil
cdef void give_back(Net *net) noexcept nogil

# The plan for so many rows becomes that of the network.
cdef void make_plan(Net *net, Py_ssize_t rows, int n_threads) noexcept nogil

# Of how many rows there may be logits at a time.
cdef Py_ssize_t most_rows(const Net *net) noexcept nogil

# Whether so many bytes from `part` on are in the work space.
cdef bint in_space(const Net *net, const char *part, Py_ssize_t bytes) noexcept nogil

# What layer i gets (rows, I): the batch, or the outputs of the layer before; the row stride is in elements.
cdef inline void set_inputs(const Net *net, Py_ssize_t i, Matrix x, const char **a, Py_ssize_t *a_row) noexcept nogil:
    if i == 0:
        a[0], a_row[0] = x.data, x.row // net.element
    else:
        a[0], a_row[0] = net.layers[i - 1].a, net.layers[i].dense.inputs

# Where the forward product of a hidden layer goes, which is what the slope of its activation takes.
cdef inline char *slope_source(const Net *net, const Layer *layer) noexcept nogil:
    return layer.z if layer.keeps_input or (layer.dropout > 0 and net.drops) else layer.a

# The three products of layer i: to `out`, to the deltas of the layer below, and to `out`.
cdef inline void set_forward(Product *p, const Net *net, Py_ssize_t i, Matrix x, char *out, Py_ssize_t out_row) noexcept nogil:
    """A (rows, O) = f(A_prev W + b), where f waits if its slope needs A_prev W + b"""
    cdef const Layer *layer = &net.layers[i]
    cdef const char *a
    cdef Py_ssize_t a_row
    set_inputs(net, i, x, &a, &a_row)
    set_forward_product(p, &layer.dense, x.rows, a, a_row, FBP_IDENTITY if layer.keeps_input else layer.kind, out, out_row)

cdef inline void set_recursion(Product *p, const Net *net, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    """δ_prev (rows, I) = (δ Wᵀ) ⊙ f'"""
    cdef const Layer *layer = &net.layers[i]
    cdef const Layer *below = &net.layers[i - 1]
    set_recursion_product(p, &layer.dense, rows, layer.delta, layer.dense.outputs, below.kind, slope_source(net, below),
                          layer.dense.inputs, below.delta, layer.dense.inputs)

cdef inline void set_gradient(Product *p, const Net *net, Py_ssize_t i, Matrix x, char *out) noexcept nogil:
    """dW (I, O) = A_prevᵀ δ"""
    cdef const Layer *layer = &net.layers[i]
    cdef const char *a
    cdef Py_ssize_t a_row
    set_inputs(net, i, x, &a, &a_row)
    set_gradient_product(p, &layer.dense, x.rows, a, a_row, layer.delta, layer.dense.outputs, False, out, layer.dense.outputs)

# The rows of the error, without their logits and deltas; and the last layer with its error in one: its gradient to its place in
# `to`, the deltas of the layer below to the work space.
cdef Rows rows_of(const Net *net, const Batch *batch) noexcept nogil
cdef LastLayer last_layer_of(const Net *net, const Batch *batch, char *to) noexcept nogil

# Nanoseconds that one thread needs for the forward pass, and for a whole step.
cdef double forward_work(const Net *net, Py_ssize_t rows) noexcept nogil
cdef double step_work(const Net *net, Py_ssize_t rows) noexcept nogil
