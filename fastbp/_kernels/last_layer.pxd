"""The last layer and its error in one, for `linear_softmax_cross_entropy` and for the training step of a network."""

from libc.stdint cimport int64_t

from fastbp._kernels.layer cimport Dense
from fastbp._kernels.rows cimport RowError, Rows
from fastbp._kernels.team cimport fbp_team

# The last layer Z (N, C) = X (N, I) W (I, C) + b, its error, and where the gradients go. Row strides, those of
# `rows` aside, are in elements. Of `rows` the logits and deltas are left out: they are never held for all N.
cdef struct LastLayer:
    Rows rows
    Py_ssize_t read               # how many of them are read: counted once, since the work space follows from it
    bint reads_all                # even those of weight 0: their deltas are 0
    Dense dense                   # W (I, C) and b
    const char *x
    Py_ssize_t x_row
    char *grad_x                  # (N, I), or NULL where nothing lies below
    Py_ssize_t grad_x_row
    int activation                # f of the layer below, if gradients are to pass through it, and every row is read
    const char *slope             # (N, I) what f' takes, rows as those of X without gaps; or NULL
    char *grad_w                  # (I, C), or (C, I) if `transposed`
    Py_ssize_t grad_w_row
    bint transposed
    int pieces                 # as product_in_pieces() says of the layer with all rows, whatever the blocks
    char *grad_bias               # (C) or NULL
    char *losses                  # (N) the weighted errors, or NULL

# How many rows are taken at a time, and what lies in the work space meanwhile.
cdef struct Blocks:
    Py_ssize_t count              # of blocks, as equal as they can be
    char *z                       # (rows, C) logits, then deltas
    char *x                       # (rows, I) where X has rows that are not read: those that are, then their gradients
    Py_ssize_t *order             # (rows) the examples of a block,
    int64_t *labels               # (rows) their labels,
    double *weights               # (rows) and sample weights
    char *scratch                 # of the error function, a product, or a sum of columns

# Blocks of at most so many rows, in a work space that starts at `base`, and its bytes without the scratch; the bytes of scratch
# that blocks of a number of rows take on a number of threads.
cdef Py_ssize_t lay_out(const LastLayer *layer, Py_ssize_t most_rows, char *base, Blocks *blocks) noexcept nogil
cdef Py_ssize_t block_scratch(const LastLayer *layer, Py_ssize_t rows, int threads) noexcept nogil

# The mean or sum of the errors, all gradients, and weight_sum.
cdef double last_layer(const LastLayer *layer, RowError error, bint mean, const Blocks *blocks, fbp_team *team,
                       double *weight_sum) except? -1 nogil
