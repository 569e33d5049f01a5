"""Activations, their backward forms and the softmax family: rows divided over threads, each row one call of a primitive.

Elementwise functions see an array without gaps as one long row, cut into pieces; rows that lie apart are rows.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange

from fastbp._kernels.dispatch cimport (
    FBP_GELU, FBP_LEAKY_RELU, FBP_RELU, FBP_SIGMOID, FBP_SILU, FBP_SOFTPLUS, FBP_TANH,
    activation_kind, fbp_kernels, kernels_for, real, threads_for,
)

cdef double ELEMENT_WORK = 1.0        # nanoseconds that one thread needs for an element, roughly
cdef Py_ssize_t PIECE = 16 * 1024     # elements of one call on an array without gaps
cdef Py_ssize_t SLICE = 4 * 1024**2   # elements between two looks at pending signals

# What a piece of row n, `count` elements from `start`, is computed by. g, a, y are its addresses, some of them unused.
ctypedef void (*RowFunction)(
    const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *a, void *y
) noexcept nogil


cdef void activate(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *x, void *y) noexcept nogil:
    k.activate(kind, count, x, y)


cdef void activate_backward(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *a,
                            void *d) noexcept nogil:
    k.activate_backward(kind, count, g, a, d)


cdef void softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil:
    k.softmax_row(C, z, y)


cdef void log_softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil:
    k.log_softmax_row(C, z, y)


cdef void softmax_backward_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *y,
                               void *d) noexcept nogil:
    k.softmax_backward_row(C, g, y, d)


cdef int over_rows(RowFunction function, int kind, const real[:, :] g, const real[:, :] x, real[:, :] y, bint elementwise,
                   int n_threads) except -1:
    """Apply `function` to every row of x (and g, unless None) into y."""
    cdef const fbp_kernels *k = kernels_for(sizeof(real))
    cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1], element = sizeof(real)
    cdef Py_ssize_t g_row = 0, x_row = x.strides[0], y_row = y.strides[0], row = columns * element
    cdef const char *from_g = NULL
    cdef const char *from_x
    cdef char *to
    cdef Py_ssize_t n, start, stop, last, step
    if rows == 0 or columns == 0:
        return 0
    from_x, to = <const char *>&x[0, 0], <char *>&y[0, 0]
    if g is not None:
        from_g, g_row = <const char *>&g[0, 0], g.strides[0]
    if elementwise and (rows == 1 or x_row == y_row == row and (g is None or g_row == row)):
        columns *= rows
        rows, last = (columns + PIECE - 1) // PIECE, columns - (columns - 1) // PIECE * PIECE
        columns, x_row, y_row = PIECE, PIECE * element, PIECE * element
        g_row = 0 if g is None else x_row
    else:
        last = columns
    cdef int threads = threads_for(n_threads, ELEMENT_WORK * rows * columns)
    step, start = SLICE // columns + 1, 0
    while start < rows:
        stop = min(start + step, rows)
        with nogil:
            if threads == 1:
                for n in range(start, stop):
                    function(k, kind, last if n == rows - 1 else columns, from_g + n * g_row, from_x + n * x_row, to + n * y_row)
            else:
                for n in prange(start, stop, schedule="static", num_threads=threads):
                    function(k, kind, last if n == rows - 1 else columns, from_g + n * g_row, from_x + n * x_row, to + n * y_row)
        start = stop
        PyErr_CheckSignals()
    return 0


def sigmoid(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_SIGMOID, None, x, out, True, n_threads)


def tanh(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_TANH, None, x, out, True, n_threads)


def relu(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_RELU, None, x, out, True, n_threads)


def leaky_relu(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_LEAKY_RELU, None, x, out, True, n_threads)


def gelu(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_GELU, None, x, out, True, n_threads)


def silu(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_SILU, None, x, out, True, n_threads)


def softplus(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate, FBP_SOFTPLUS, None, x, out, True, n_threads)


def activation_backward(str name, const real[:, :] grad, const real[:, :] a, real[:, :] out, int n_threads):
    over_rows[real](activate_backward, activation_kind(name), grad, a, out, True, n_threads)


def softmax(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](softmax_row, 0, None, x, out, False, n_threads)


def log_softmax(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](log_softmax_row, 0, None, x, out, False, n_threads)


def softmax_backward(const real[:, :] grad, const real[:, :] y, real[:, :] out, int n_threads):
    over_rows[real](softmax_backward_row, 0, grad, y, out, False, n_threads)


def logsumexp(const real[:, :] x, real[::1] out, int n_threads):
    cdef const fbp_kernels *k = kernels_for(sizeof(real))
    cdef Py_ssize_t n, rows = x.shape[0], C = x.shape[1], x_row = x.strides[0]
    cdef const char *first = <const char *>&x[0, 0] if rows > 0 and C > 0 else NULL
    cdef int threads = threads_for(n_threads, ELEMENT_WORK * rows * C)
    with nogil:
        for n in prange(rows, schedule="static", num_threads=threads):
            out[n] = <real>k.logsumexp_row(C, first + n * x_row)
