from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_kernels

# N rows of one error function. Addresses are of elements of `element` bytes, row strides are in bytes.
cdef struct Rows:
    const fbp_kernels *k
    Py_ssize_t element
    Py_ssize_t N, C
    const char *z
    Py_ssize_t z_row
    const char *t                 # (N, C), or NULL where targets are labels
    Py_ssize_t t_row
    const int64_t *labels         # (N), or NULL where targets are rows
    int64_t ignore_index
    const double *sample_weight   # (N) or NULL
    const double *class_weight    # (C) or NULL
    const double *pos_weight      # (C) or NULL
    double smoothing, lse_square_scale, softcap
    char *d
    Py_ssize_t d_row

# Work space for a call with a given number of rows, classes and threads.
cdef struct Scratch:
    double *errors                # (N) weights of the rows, then their weighted errors
    char *weight                  # (C) class_weight or pos_weight in the dtype, NULL where there are none
    bint weight_of_0              # whether one of these is 0
    char *rows                    # (threads, C) slopes of a softcap

# Rows from `start` up to `stop`, for one thread.
cdef struct Piece:
    Py_ssize_t start, stop
    double divisor                # of the gradient
    int thread

# The weighted errors of a piece, which take the place of the weights, and their gradient.
ctypedef void (*RowError)(const Rows *rows, const Scratch *scratch, Piece piece) noexcept nogil

cdef RowError row_error_named(str name) except NULL
cdef Py_ssize_t scratch_bytes(const Rows *rows, int threads) noexcept nogil
cdef double reduced(const Rows *rows, RowError error, bint mean, int n_threads, char *memory, double *weight_sum) except? -1 nogil
