from libc.stdint cimport int64_t

from fastbp._kernels.dispatch cimport fbp_error, fbp_kernels
from fastbp._kernels.team cimport fbp_team

# N rows of one error function. Addresses are of elements of `element` bytes, row strides are in bytes.
cdef struct Rows:
    const fbp_kernels *k
    Py_ssize_t element
    Py_ssize_t N, C
    const char *z
    Py_ssize_t z_row
    const char *t                 # (N, C), or NULL where targets are labels
    Py_ssize_t t_row
    const Py_ssize_t *order       # (N) the row of t that belongs to row n of all else, or NULL: row n
    const int64_t *labels         # (N), or NULL where targets are rows
    bint ignores                  # whether rows with this label are not read:
    int64_t ignore_index
    const double *sample_weight   # (N) or NULL
    const double *class_weight    # (C) or NULL, set by set_class_weight(),
    int class_exponent            # in units of 2 to this power wherever they are used
    const double *pos_weight      # (C) or NULL
    double smoothing, lse_square_scale, softcap
    char *d
    Py_ssize_t d_row
    bint reused                   # d is memory that was written to before, other than z

# A sum and what its roundings lost: A. Neumaier, ZAMM 54 (1974). Its error does not grow with the number of terms.
cdef struct Sum:
    double rounded, lost

# Work space for a call with a given number of rows, classes and threads.
cdef struct Scratch:
    double *errors                # (N) weights of the rows if they are weighted, then their weighted errors
    bint weighted                 # whether the weight of any row may be another than 1
    char *weight                  # (C) class_weight or pos_weight in the dtype, NULL where there are none
    bint weight_of_0              # whether one of these is 0
    bint share_of_0               # whether the share of smoothing that one of these leaves may underflow to 0
    Sum weight_sum                # of all of these
    char *slopes                  # (threads, C) of a softcap, if there is one
    char *exponentials            # (threads, C), if the gradient goes past the caches, else NULL
    double class_unit             # what a class weight is multiplied by to be in units
    bint *astray                  # whether a label that was a class when the call began was none when it was used
    fbp_error elementwise         # the error function, where outputs do not interact

# Rows from `start` up to `stop`, for one thread.
cdef struct Piece:
    Py_ssize_t start, stop
    double divisor                # of the gradient
    int thread

# What is done to a piece: of an error function, the weighted errors take the place of the weights, the gradient goes to d.
ctypedef void (*PieceWork)(const Rows *rows, const Scratch *scratch, Piece piece) noexcept nogil

# An error function, with all that depends on which one it is.
cdef struct RowError:
    PieceWork work
    int kind                      # its number in src_c/errors.def, or -1
    double parameter              # that of a network, unless it is changed
    bint by_class                 # whether targets may be labels
    double largest_target         # of a network whose rows of targets are finite and not negative; NaN if it takes any

cdef double value(Sum sum) noexcept nogil

cdef RowError row_error_named(str name) except *
cdef bint is_read(const Rows *rows, Py_ssize_t n) noexcept nogil

# For rows whose C is known: class weights or NULL. Weights and errors below are in units, and numbers over class_unit().
cdef void set_class_weight(Rows *rows, const double *weight) noexcept nogil
cdef double class_unit(const Rows *rows) noexcept nogil

# Bytes of work space for a team; nanoseconds that one thread needs.
cdef Py_ssize_t scratch_bytes(const Rows *rows, int threads) noexcept nogil
cdef double error_work(const Rows *rows) noexcept nogil

# What the rows add to the sum of the weights; and to that of the weighted errors, which then stand at the start of `memory`,
# their gradients over `divisor` in d. Calls on parts of the rows, one after the other, give the bits of one call on all.
# `reduced` leaves the errors in units, but returns plain numbers. All raise TargetIndexError if a label goes astray.
cdef int stayed(const Rows *rows, bint astray) except -1 nogil
cdef int add_weights(const Rows *rows, fbp_team *team, char *memory, Sum *total) except -1 nogil
cdef int add_errors(const Rows *rows, RowError error, double divisor, fbp_team *team, char *memory, Sum *total) except -1 nogil
cdef double reduced(const Rows *rows, RowError error, bint mean, fbp_team *team, char *memory,
                    double *weight_sum) except? -1 nogil
