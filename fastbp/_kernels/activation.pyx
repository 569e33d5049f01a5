"""Activations, their backward forms and the softmax family: rows divided over threads, each row one call of a primitive.

Elementwise functions see an array without gaps as one long row, cut into pieces; rows that lie apart are rows.
"""

from libc.string cimport memset

from fastbp._kernels.dispatch cimport activation_kind, fbp_kernels, kernels_for, real, threads_for
from fastbp._kernels.memory cimport set_element
from fastbp._kernels.team cimport Work, check_signals, fbp_team, fbp_team_share, on_team

cdef double ELEMENT_WORK = 1.0        # nanoseconds that one thread needs for an element, roughly
cdef Py_ssize_t PIECE = 16 * 1024     # elements of one call of a primitive on an array without gaps
cdef Py_ssize_t SLICE = 4 * 1024**2   # elements between two polls for signals
cdef Py_ssize_t PIECES = 4            # of a slice for each thread, so that none waits long for the others

cdef void activate_piece(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *x,
                         void *y) noexcept nogil:
    k.activate(kind, count, x, y)


cdef void activate_backward_piece(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *a,
                                  void *d) noexcept nogil:
    k.activate_backward(kind, count, g, a, d)


cdef void softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil:
    k.softmax_row(C, z, y)


cdef void log_softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil:
    k.log_softmax_row(C, z, y)


cdef void softmax_backward_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *y,
                               void *d) noexcept nogil:
    k.softmax_backward_row(C, g, y, d)


cdef void logsumexp_row(const fbp_kernels *k, int element, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil:
    """One number of `element` bytes for each row"""
    set_element(<char *>y, 0, element, k.logsumexp_row(C, z))


# A function for each of many rows; strides are in bytes, and the last row may be shorter.
cdef struct RowLoop:
    const fbp_kernels *k
    RowFunction function
    int kind
    Py_ssize_t rows, columns, last
    const char *g
    const char *x
    char *y
    Py_ssize_t g_row, x_row, y_row
    Py_ssize_t start, stop, count  # the rows of a slice; how many a thread takes at a time


cdef void some_rows(const void *rows, Py_ssize_t i, int thread) noexcept nogil:
    cdef const RowLoop *r = <const RowLoop *>rows
    cdef Py_ssize_t n, first = r.start + i * r.count
    for n in range(first, min(first + r.count, r.stop)):
        r.function(r.k, r.kind, r.last if n == r.rows - 1 else r.columns, r.g + n * r.g_row, r.x + n * r.x_row, r.y + n * r.y_row)


cdef int all_rows(RowLoop *r, fbp_team *team) except -1 nogil:
    cdef Py_ssize_t slice = SLICE // max(r.columns, 1) + 1
    r.count = min(slice, r.rows) // (PIECES * team.threads) + 1
    while r.start < r.rows:
        r.stop = min(r.start + slice, r.rows)
        fbp_team_share(team, some_rows, r, (r.stop - r.start + r.count - 1) // r.count)
        r.start = r.stop
        check_signals()
    return 0


cdef int over_matrices(RowFunction function, int kind, Py_ssize_t element, Py_ssize_t N, Py_ssize_t C, const char *g,
                       Py_ssize_t g_row, const char *x, Py_ssize_t x_row, char *y, Py_ssize_t y_row, bint elementwise,
                       int n_threads) except -1 nogil:
    cdef RowLoop r
    cdef Py_ssize_t row = C * element
    if N == 0 or (elementwise and C == 0):
        return 0
    memset(&r, 0, sizeof(r))
    r.k, r.function, r.kind = kernels_for(element), function, kind
    r.rows, r.columns, r.last = N, C, C
    r.g, r.x, r.y, r.g_row, r.x_row, r.y_row = g, x, y, g_row, x_row, y_row
    if elementwise and (N == 1 or x_row == y_row == row and (g == NULL or g_row == row)):
        r.columns *= N
        r.rows = (r.columns + PIECE - 1) // PIECE
        r.last = r.columns - (r.rows - 1) * PIECE
        r.columns, r.x_row, r.y_row = PIECE, PIECE * element, PIECE * element
        r.g_row = 0 if g == NULL else r.x_row
    return on_team(<Work>all_rows, &r, threads_for(n_threads, ELEMENT_WORK * r.rows * r.columns))


cdef int over_rows(RowFunction function, int kind, const real[:, :] g, const real[:, :] x, real[:, :] y, bint elementwise,
                   int n_threads) except -1:
    """Apply `function` to every row of x (and g, unless None) into y."""
    cdef const char *first = NULL
    cdef Py_ssize_t g_row = 0
    if x.shape[0] == 0 or x.shape[1] == 0:
        return 0
    if g is not None:
        first, g_row = <const char *>&g[0, 0], g.strides[0]
    with nogil:
        over_matrices(function, kind, sizeof(real), x.shape[0], x.shape[1], first, g_row, <const char *>&x[0, 0], x.strides[0],
                      <char *>&y[0, 0], y.strides[0], elementwise, n_threads)
    return 0


def activate(str name, const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](activate_piece, activation_kind(name), None, x, out, True, n_threads)


def activation_backward(str name, const real[:, :] grad, const real[:, :] a, real[:, :] out, int n_threads):
    over_rows[real](activate_backward_piece, activation_kind(name), grad, a, out, True, n_threads)


def softmax(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](softmax_row, 0, None, x, out, False, n_threads)


def log_softmax(const real[:, :] x, real[:, :] out, int n_threads):
    over_rows[real](log_softmax_row, 0, None, x, out, False, n_threads)


def softmax_backward(const real[:, :] grad, const real[:, :] y, real[:, :] out, int n_threads):
    over_rows[real](softmax_backward_row, 0, grad, y, out, False, n_threads)


def logsumexp(const real[:, :] x, real[::1] out, int n_threads):
    cdef const char *first = NULL
    if x.shape[0] == 0:
        return
    if x.shape[1] > 0:
        first = <const char *>&x[0, 0]
    with nogil:
        over_matrices(logsumexp_row, sizeof(real), sizeof(real), x.shape[0], x.shape[1], NULL, 0, first, x.strides[0],
                      <char *>&out[0], sizeof(real), False, n_threads)
