"""The last layer and its error in one, for `linear_softmax_cross_entropy` and for the training step of a network."""

from libc.stdint cimport int64_t

from fastbp._kernels.layer cimport Dense
from fastbp._kernels.rows cimport RowError, Rows
from fastbp._kernels.team cimport fbp_team

# The last layer Z (N, C) = X (N, I) W (I, C) + b, its error, and its gradients. Strides are in elements, but those of `rows` in
# bytes. The logits and deltas of `rows` are not set: they are never stored for all N.
cdef struct LastLayer:
    Rows rows
    Py_ssize_t read               # number of rows that are read, counted once, since the work space depends on it
    bint reads_all                # whether rows of weight 0 are read as well: their deltas are 0
    Dense dense                   # W (I, C) and b
    const char *x
    Py_ssize_t x_row
    char *grad_x                  # (N, I), or NULL if no layer is below
    Py_ssize_t grad_x_row
    int activation                # f of the layer below, if gradients pass through it; then every row is read
    const char *slope             # (N, I) what f' takes, without gaps; or NULL
    char *grad_w                  # (I, C), or (C, I) if `transposed`
    Py_ssize_t grad_w_row
    bint transposed
    int pieces                    # product_pieces() of the layer with all rows, whatever the blocks
    char *grad_bias               # (C) or NULL
    char *losses                  # (N) the weighted errors, or NULL

# The number of blocks, and the work space of one
cdef struct Blocks:
    Py_ssize_t count              # blocks of about equal size
    char *z                       # (rows, C) logits, then deltas
    char *x                       # (rows, I) gathered rows of X, then their gradients; only if some rows are not read
    Py_ssize_t *order             # (rows) the examples of a block
    int64_t *labels               # (rows) their labels
    double *weights               # (rows) their sample weights
    char *scratch                 # of the error function, a product, or a sum of columns

# lay_out: blocks of at most most_rows rows in a work space at `base`; returns its bytes without the scratch. block_scratch: the
# bytes of scratch for blocks of so many rows on so many threads.
cdef Py_ssize_t lay_out(const LastLayer *layer, Py_ssize_t most_rows, char *base, Blocks *blocks) noexcept nogil
cdef Py_ssize_t block_scratch(const LastLayer *layer, Py_ssize_t rows, int threads) noexcept nogil

# Returns the mean or sum of the errors; sets all gradients, and weight_sum.
cdef double last_layer(const LastLayer *layer, RowError error, bint mean, const Blocks *blocks, fbp_team *team,
                       double *weight_sum) except? -1 nogil
