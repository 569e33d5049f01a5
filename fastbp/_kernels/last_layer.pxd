from fastbp._kernels.loss cimport RowError, Rows

# The last layer Z (N, C) = X (N, I) W (I, C) + b, its error, and where the gradients go. Row strides, those of
# `rows` aside, are in elements. Of `rows` the logits and deltas are left out: they are never held for all N.
cdef struct LastLayer:
    Rows rows
    Py_ssize_t inputs             # I
    const char *x
    Py_ssize_t x_row
    const char *w
    Py_ssize_t w_row, w_column
    const char *bias              # (C) or NULL
    char *grad_x                  # (N, I)
    Py_ssize_t grad_x_row
    char *grad_w                  # (I, C), or (C, I) if `transposed`
    Py_ssize_t grad_w_row
    bint transposed
    char *grad_bias               # (C) or NULL
    char *losses                  # (N) the weighted errors, or NULL

# How many rows are taken at a time, and what lies in the work space meanwhile.
cdef struct Blocks:
    Py_ssize_t read               # rows in all, but for those that are not read
    Py_ssize_t count              # of blocks, as equal as they can be
    char *z                       # (rows, C) logits, then deltas
    char *x                       # (rows, I) where X has rows that are not read: those that are, then their gradients
    Py_ssize_t *order             # (rows) the examples of a block
    char *scratch                 # of the error function or a product
    Py_ssize_t scratch_bytes

# The bytes of work space that suffice for one row at a time. The blocks that fit in max_memory >= that, and the bytes that they
# take; their count does not depend on n_threads.
cdef Py_ssize_t least_memory(const LastLayer *layer) noexcept nogil
cdef Py_ssize_t lay_out(const LastLayer *layer, Py_ssize_t max_memory, int n_threads, char *base, Blocks *blocks) noexcept nogil

# The mean or sum of the errors, all gradients, and weight_sum.
cdef double last_layer(const LastLayer *layer, RowError error, bint mean, int n_threads, const Blocks *blocks,
                       double *weight_sum) except? -1 nogil
