from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_error, fbp_kernels
from fastbp._kernels.team cimport fbp_team

# N rows of one error function. Elements have `element` bytes; row strides are in bytes.
cdef struct Rows:
    const fbp_kernels *k
    Py_ssize_t element
    Py_ssize_t N, C
    const char *z
    Py_ssize_t z_row
    const char *t                 # (N, C), or NULL if targets are labels
    Py_ssize_t t_row
    const Py_ssize_t *order       # (N) row n has the targets t[order[n]]; NULL: t[n]
    const int64_t *labels         # (N), or NULL if targets are rows
    bint ignores                  # whether rows with the label ignore_index are not read
    int64_t ignore_index
    const double *sample_weight   # (N) or NULL
    const double *class_weight    # (C) or NULL; set by set_class_weight()
    int class_exponent            # of the unit 2^class_exponent of class weights
    const double *pos_weight      # (C) or NULL
    double smoothing, lse_square_scale, softcap
    char *d
    Py_ssize_t d_row
    char *h                       # (N, C) for the diagonal of the Hessian, which only the cross-entropies have; or NULL
    Py_ssize_t h_row
    bint reused                   # whether d is used memory, and not z

# A compensated sum (A. Neumaier, ZAMM 54 (1974)), whose error does not grow with the number of terms
cdef struct Sum:
    double rounded, lost

# Work space for a call with a given number of rows, classes and threads.
cdef struct Scratch:
    double *errors                # (N) first the weights of the rows, if `weighted`; then the weighted errors
    bint weighted                 # whether any row may have a weight other than 1
    char *weight                  # (C) class_weight or pos_weight in the dtype, or NULL
    bint weight_of_0              # whether an element of `weight` is 0
    bint share_of_0               # whether an element of `weight` times smoothing / C may underflow to 0
    Sum weight_sum                # Σ weight
    char *slopes                  # (threads, C) slopes of a softcap, or NULL
    char *exponentials            # (threads, C) if the gradient is streamed, else NULL
    double class_unit             # factor that converts a class weight to units
    bint *astray                  # whether a label, checked when the call began, was out of range when it was used
    fbp_error elementwise         # the error function, if it is elementwise

# Rows from `start` up to `stop`, for one thread.
cdef struct Piece:
    Py_ssize_t start, stop
    double divisor                # of the gradient
    int thread

# The work on a piece. That of an error function replaces the weights by the weighted errors, and writes the gradient to d.
ctypedef void (*PieceWork)(const Rows *rows, const Scratch *scratch, Piece piece) noexcept nogil

# An error function
cdef struct RowError:
    PieceWork work
    int kind                      # its number in src_c/errors.def, or -1
    double parameter              # the default, which networks use, if they are not told
    bint by_class                 # whether targets may be labels
    double largest_target         # targets of a network are in [0, largest_target]; NaN if any target is valid

cdef double value(Sum sum) noexcept nogil

cdef RowError row_error_named(str name) except *
cdef bint is_read(const Rows *rows, Py_ssize_t n) noexcept nogil

# Sets the class weights, or NULL, after C. Weights and errors below are in units: multiplied by class_unit().
cdef void set_class_weight(Rows *rows, const double *weight) noexcept nogil
cdef double class_unit(const Rows *rows) noexcept nogil

# Bytes of work space for a team; nanoseconds of one thread
cdef Py_ssize_t scratch_bytes(const Rows *rows, int threads) noexcept nogil
cdef double error_work(const Rows *rows) noexcept nogil

# add_weights adds the weights of the rows to `total`. add_errors adds their weighted errors, which it leaves at the start of
# `memory`, and writes the gradients over `divisor` to d. Consecutive calls on parts of the rows give the bits of one call on all
# rows. `reduced` leaves the errors in units, but returns plain numbers, and tells whether a label has gone astray: changed to one
# out of range during the call. stayed() and the others raise TargetIndexError then.
cdef int stayed(const Rows *rows, bint astray) except -1 nogil
cdef int add_weights(const Rows *rows, fbp_team *team, char *memory, Sum *total) except -1 nogil
cdef int add_errors(const Rows *rows, RowError error, double divisor, fbp_team *team, char *memory, Sum *total) except -1 nogil
cdef double reduced(const Rows *rows, RowError error, bint mean, fbp_team *team, char *memory,
                    double *weight_sum, bint *astray) except? -1 nogil
