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
    const Py_ssize_t *order       # (N) row n of z and d is example order[n] of t, labels, sample_weight; NULL: example n
    const double *class_weight    # (C) or NULL
    const double *pos_weight      # (C) or NULL
    double smoothing, lse_square_scale, softcap
    char *d
    Py_ssize_t d_row

# Work space for a call with a given number of rows, classes and threads.
cdef struct Scratch:
    double *errors                # (N) weighted errors of the rows
    char *weight                  # (C) class_weight or pos_weight in the dtype
    char *rows                    # (threads, 2, C) effective targets, slopes

# A sum and what its roundings lost: A. Neumaier, ZAMM 54 (1974). Its error does not grow with the number of terms.
cdef struct Sum:
    double rounded, lost

cdef double value(Sum sum) noexcept nogil

# The error of row n, unscaled; writes scale · dE/dz.
ctypedef double (*RowError)(const Rows *rows, const Scratch *scratch, Py_ssize_t n, double scale, int thread) noexcept nogil

cdef RowError row_error_named(str name) except NULL
cdef bint is_read(const Rows *rows, Py_ssize_t n) noexcept nogil
cdef Py_ssize_t scratch_bytes(const Rows *rows, int threads) noexcept nogil

# What the rows add to the sum of the weights; and to that of the weighted errors, which then stand at the start of `memory`,
# their gradients over `divisor` in d. Calls on parts of the rows, one after the other, give the bits of one call on all.
cdef int add_weights(const Rows *rows, int n_threads, char *memory, Sum *total) except -1 nogil
cdef int add_errors(const Rows *rows, RowError error, double divisor, int n_threads, char *memory, Sum *total) except -1 nogil
cdef double reduced(const Rows *rows, RowError error, bint mean, int n_threads, char *memory, double *weight_sum) except? -1 nogil
