"""A dense network and its work space, without Python."""

from libc.stdint cimport uint64_t

from fastbp._kernels.dispatch cimport FBP_IDENTITY, fbp_kernels
from fastbp._kernels.last_layer cimport LastLayer
from fastbp._kernels.layer cimport Dense, set_forward_product, set_gradient_product, set_recursion_product
from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.product cimport Product
from fastbp._kernels.rows cimport RowError, Rows

# Examples: x (rows, inputs), targets t, and weights (rows), or NULL if all are 1
cdef struct Batch:
    Matrix x, t
    const double *weight
    double largest           # a bound of |x|, NaN if any x is

cdef struct Layer:
    Dense dense
    Py_ssize_t weight, bias  # offsets in bytes in the parameters, and in vectors laid out like them
    int kind                 # the activation; identity for the last layer
    bint keeps_input         # whether the slope of the activation is computed from its input
    double bound             # of the activation's magnitude, perhaps infinity
    double dropout           # fraction of the outputs that is dropped in training
    char *z                  # (rows, outputs) what the slope is computed from; may be `a`
    char *a                  # (rows, outputs) the output; in the last layer the logits, perhaps of one block of rows
    char *delta              # (rows, outputs) dE/dz; in the last layer it overwrites the logits
    char *bias_gradient      # (outputs)

# The plan for batches of `rows` rows on n_threads threads
cdef struct Plan:
    Py_ssize_t rows
    int n_threads
    bint sums                # errors are summed over processes, as in the network
    bint by_blocks           # the last layer is computed in blocks of rows
    Py_ssize_t chunks        # into which a large batch of a small network is cut, each computed alone; 1: the batch is not cut
    bint fused               # the update is made without a gradient in memory

# What a chunk of a batch has found
cdef struct Found:
    double mean, weight      # the mean error, the sum of the weights
    bint astray              # whether a label has gone astray

# A network, and its work space for up to `capacity` rows.
cdef struct Net:
    const fbp_kernels *k
    Py_ssize_t element, count    # bytes of a parameter, number of parameters
    char *w
    Layer *layers
    int depth                    # number of layers
    RowError error
    double smoothing             # of the targets
    double largest_error         # that an example counts in the reported mean, perhaps infinity; its gradient is not limited
    uint64_t seed, key           # of dropout: for the network, for this step
    bint drops                   # whether dropout is on in this call
    Py_ssize_t first_row         # rows of the step, on other ranks, that dropout counts before those of the batch
    bint sums                    # whether errors are summed, not averaged, over a batch
    int pieces                   # of a number in products; -1: those of the precision in use when a call begins

    Plan plan
    Py_ssize_t capacity
    int most_threads             # the largest team that the scratch is enough for
    bint keeps_gradient          # whether `gradient` is allocated for any plan
    Py_ssize_t target_row        # bytes of a row of targets
    char *memory
    Py_ssize_t used
    char *batch_x                # (rows, inputs) a gathered batch
    char *batch_t                # (rows, ...) its targets
    double *batch_weight         # (rows) its weights
    double *batch_largest        # (rows) the largest magnitude of each row of batch_x
    char *gradient               # (count), or NULL if no plan needs it
    bint keeps_orthogonal        # whether the next three are allocated
    char *orthogonal             # (count), of hidden matrices what was orthogonalised
    char *other_matrix           # as large as the largest hidden matrix
    char *squares                # two square matrices of the shorter side of any of them
    char *trial                  # (FBP_STATES + 2, count) for updates on trial; NULL before the first
    Py_ssize_t usual             # rows of the last call
    char *formed                 # a gradient (count) whose last layer, or in chunks all, was formed with the deltas; or NULL
    char *scratch                # of a product, or of the error
    Net *parts                   # (most_threads) for chunks: this network, with a work space for their rows; or NULL
    char *chunk_gradients        # (chunks, count)
    char *shares                 # (chunks) of the weights of the batch
    Found *found                 # (chunks)
    double unpolled              # nanoseconds of work since the last poll for signals

# prepare, before a call on `rows` rows: makes sure that the work space is large enough for them, for targets of target_row bytes
# each, for n_threads and, if asked, for a gradient and for orthogonalised matrices, and that the primitives and the precision are
# those in use. tidy, after a call: frees memory that was needed for an unusual one. give_back frees all.
cdef int prepare(Net *net, Py_ssize_t rows, Py_ssize_t target_row, int n_threads, bint gradient, bint orthogonal) except -1
cdef void tidy(Net *net, Py_ssize_t rows) noexcept nogil
cdef void give_back(Net *net) noexcept nogil

# Makes the plan for so many rows, unless it is made.
cdef void make_plan(Net *net, Py_ssize_t rows, int n_threads) noexcept nogil

# Rows of a chunk
cdef enum:
    CHUNK = 512

# The largest number of rows whose logits are in memory at a time
cdef Py_ssize_t most_rows(const Net *net) noexcept nogil

# Whether the bytes of `part` are in the work space
cdef bint in_space(const Net *net, const char *part, Py_ssize_t bytes) noexcept nogil

# The inputs of layer i (rows, I): the batch, or the outputs of the layer below. The row stride is in elements.
cdef inline void set_inputs(const Net *net, Py_ssize_t i, Matrix x, const char **a, Py_ssize_t *a_row) noexcept nogil:
    if i == 0:
        a[0], a_row[0] = x.data, x.row // net.element
    else:
        a[0], a_row[0] = net.layers[i - 1].a, net.layers[i].dense.inputs

# The result of the forward product of a hidden layer, from which the slope of its activation is computed
cdef inline char *slope_source(const Net *net, const Layer *layer) noexcept nogil:
    return layer.z if layer.keeps_input or (layer.dropout > 0 and net.drops) else layer.a

# The three products of layer i. The recursion writes the deltas of the layer below, the others `out`.
cdef inline void set_forward(Product *p, const Net *net, Py_ssize_t i, Matrix x, char *out,
                             Py_ssize_t out_row) noexcept nogil:
    """A (rows, O) = f(A_prev W + b), without f if its slope is computed from A_prev W + b"""
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

cdef inline void set_mean_of_chunks(Product *p, const Net *net, Py_ssize_t chunks, char *out) noexcept nogil:
    """g (1, count) = s G, the shares of the chunks in the weights by their gradients (chunks, count)"""
    cdef Dense gradients = Dense(net.k, net.element, chunks, net.count, net.chunk_gradients, net.count, 1, NULL, 0)
    set_forward_product(p, &gradients, 1, net.shares, chunks, FBP_IDENTITY, out, net.count)

# rows_of: the rows of the error, whose logits and deltas are not set. last_layer_of: the last layer with its error; its gradient
# goes to its place in `to`, the deltas of the layer below to the work space.
cdef Rows rows_of(const Net *net, const Batch *batch) noexcept nogil
cdef LastLayer last_layer_of(const Net *net, const Batch *batch, char *to) noexcept nogil

# Nanoseconds of one thread for the forward pass, and for a whole step, whose update makes so many iterations of three products
# for each hidden matrix
cdef double forward_work(const Net *net, Py_ssize_t rows) noexcept nogil
cdef double step_work(const Net *net, Py_ssize_t rows, int iterations) noexcept nogil
