"""Memory without a dtype: arrays from Python, elements, scratch."""

from cpython.buffer cimport PyBUF_ND, PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t

# -- arrays from Python ------------------------------------------------------------------------------------------------------

# Arrays arrive checked, and the caller keeps them alive. So a buffer is requested without a format and released at once, in a
# fifth of the time of a typed memoryview.

cdef enum:
    READ = 0
    WRITE = PyBUF_WRITABLE

# Rows of elements, `row` bytes apart; or labels (N,), as one column.
cdef struct Matrix:
    char *data
    Py_ssize_t rows, columns, row
    Py_ssize_t element            # bytes
    bint labels

cdef inline Matrix matrix_in(const Py_buffer *view) noexcept:
    cdef bint labels = view.ndim == 1
    return Matrix(<char *>view.buf, view.shape[0], 1 if labels else view.shape[1], view.strides[0], view.itemsize, labels)

cdef inline Matrix matrix_of(x, int access) except *:
    """A matrix with contiguous rows, or a vector, to READ or WRITE"""
    cdef Py_buffer view
    PyObject_GetBuffer(x, &view, PyBUF_STRIDED_RO | access)
    cdef Matrix m = matrix_in(&view)
    PyBuffer_Release(&view)
    return m

cdef inline char *vector_of(x, int access) except? NULL:
    """The address of a contiguous vector, to READ or WRITE; NULL for None"""
    cdef Py_buffer view
    if x is None:
        return NULL
    PyObject_GetBuffer(x, &view, PyBUF_ND | access)
    cdef char *data = <char *>view.buf
    PyBuffer_Release(&view)
    return data

# Whether x is plain: an array of exactly this dtype, not empty, aligned, in C order, with two axes; for plain_output also
# writeable; for plain_labels a vector of int64. Sets m to it. These read the array struct itself, in a fifth of the time of a
# buffer.
cdef bint plain_matrix(x, dtype, Matrix *m) except -1
cdef bint plain_output(x, dtype, Matrix *m) except -1
cdef bint plain_labels(x, Matrix *m) except -1

# The dtype of x, an array of float32 or float64, or None
cdef object plain_dtype(x)

# new_matrix: an array of float32 or float64, by the size of an element; `used`: whether its memory was in use before. scalar_of:
# x as a NumPy scalar of float32 or float64; too large for float32 it is inf.
cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t element, bint *used)
cdef object scalar_of(double x, dtype)

# x, if it is a plain vector of float64; its copy as float64, if it is a plain vector of float32; else None. Sets `where` to x,
# and `weights` to the result, which the caller keeps alive.
cdef object plain_weights(x, Matrix *where, const double **weights)

# Whether each label is in [0, classes) or equal to `ignored`
cdef bint labels_within(Matrix labels, Py_ssize_t classes, int64_t ignored) noexcept nogil

# -- elements ----------------------------------------------------------------------------------------------------------------

cdef inline double element_at(const char *x, Py_ssize_t i, Py_ssize_t element) noexcept nogil:
    return (<const float *>x)[i] if element == sizeof(float) else (<const double *>x)[i]

cdef inline void set_element(char *x, Py_ssize_t i, Py_ssize_t element, double to) noexcept nogil:
    if element == sizeof(float):
        (<float *>x)[i] = <float>to
    else:
        (<double *>x)[i] = to

# -- scratch -----------------------------------------------------------------------------------------------------------------

# Scratch is laid out in whole cache lines, and aligned to a line or to a large page. See src_c/memory/pages.h.
cdef enum:
    LINE = 64

cdef extern from "memory/pages.h" nogil:
    Py_ssize_t MOST "FBP_MOST_BYTES"
    size_t space_room "fbp_space_room"(size_t bytes)
    char *space_start "fbp_space_start"(char *memory, size_t bytes)

# Sums and products of sizes, limited to MOST, for which malloc always fails. Sizes may overflow, since broadcast and empty arrays
# can have any shape.
cdef inline Py_ssize_t times(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    # the tests before a <= MOST // b avoid the division, the slowest operation here
    return a * b if (a | b) >> 31 == 0 or b == 0 or a <= MOST // b else MOST

cdef inline Py_ssize_t plus(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a + b if a <= MOST - b else MOST

cdef inline Py_ssize_t whole_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + LINE - 1) // LINE * LINE

cdef inline char *line_start(char *memory) noexcept nogil:
    return memory + (LINE - <uintptr_t>memory % LINE) % LINE

cdef inline char *take(char *base, Py_ssize_t *used, Py_ssize_t bytes) noexcept nogil:
    """The next `bytes` bytes of the work space at `base`; NULL if base is NULL and only `used` is computed"""
    cdef Py_ssize_t at = used[0]
    used[0] = plus(at, whole_lines(bytes))
    return NULL if base == NULL else base + at
