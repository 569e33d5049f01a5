"""Memory as the kernels see it: addresses without a dtype. How arrays come from Python, elements, scratch."""

from cpython.buffer cimport PyBUF_ND, PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t

# -- arrays from Python ------------------------------------------------------------------------------------------------------

# They arrive checked, and the caller keeps them alive. So the buffer is asked for no format, and given back at once: a memoryview
# of a dtype would take five times as long.

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

# Whether x is an array of this very dtype, with two axes and not empty, in C order and aligned, and one that may be written
# to; or such a vector of int64. Then m is its address. They look into the array itself, a fifth of the time of a buffer.
cdef bint plain_matrix(x, dtype, Matrix *m) except -1
cdef bint plain_output(x, dtype, Matrix *m) except -1
cdef bint plain_labels(x, Matrix *m) except -1

# The dtype of x, an array of float32 or float64, or None
cdef object plain_dtype(x)

# A new array of float32 or float64, by the bytes of an element, and whether it has memory that was in use before; a number of
# either dtype, beyond float32 inf.
cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t element, bint *used)
cdef object scalar_of(double x, dtype)

# x, if it is such a vector of float64, or its copy as float64, if it is one of float32, else None: `where` is x, `weights`
# what is returned, which has to be kept.
cdef object plain_weights(x, Matrix *where, const double **weights)

# Whether each of them is in [0, classes), or is `ignored`, which may be one of these
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

# It is laid out in whole cache lines, from the start of one, or of a large page. See src_c/memory/pages.h.
cdef enum:
    LINE = 64

cdef extern from "memory/pages.h" nogil:
    Py_ssize_t MOST "FBP_MOST_BYTES"
    size_t space_room "fbp_space_room"(size_t bytes)
    char *space_start "fbp_space_start"(char *memory, size_t bytes)

# Sums and products of sizes, which may be those of arrays without memory, broadcast or empty: MOST where they are more. So much
# nobody has, and malloc says no.
cdef inline Py_ssize_t times(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    # a division takes longer than all else that a small call does with a size
    return a * b if (a | b) >> 31 == 0 or b == 0 or a <= MOST // b else MOST

cdef inline Py_ssize_t plus(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a + b if a <= MOST - b else MOST

cdef inline Py_ssize_t whole_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + LINE - 1) // LINE * LINE

cdef inline char *line_start(char *memory) noexcept nogil:
    return memory + (LINE - <uintptr_t>memory % LINE) % LINE

cdef inline char *take(char *base, Py_ssize_t *used, Py_ssize_t bytes) noexcept nogil:
    """The next so many bytes of a work space from `base`, or NULL, where only its size is asked for."""
    cdef Py_ssize_t at = used[0]
    used[0] = plus(at, whole_lines(bytes))
    return NULL if base == NULL else base + at
