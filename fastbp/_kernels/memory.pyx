"""Which arrays are plain: of these a kernel needs to ask nothing more."""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

import numpy as np

cdef object ARRAY = np.ndarray, INT64 = np.dtype(np.int64)


cdef bint plain(x, int axes, dtype, Matrix *m) except -1:
    """Whether x is an array of this dtype with so many axes, in C order and aligned; then m is its address."""
    cdef Py_buffer view
    if type(x) is not ARRAY or x.dtype is not dtype:
        return False
    PyObject_GetBuffer(x, &view, PyBUF_STRIDED_RO)
    cdef bint fits = view.ndim == axes
    if fits:
        m[0] = matrix_in(&view)
        fits = m.rows > 0 and view.strides[axes - 1] == m.element and m.row == m.columns * m.element and \
            <size_t>view.buf % m.element == 0
    PyBuffer_Release(&view)
    return fits


cdef bint plain_matrix(x, dtype, Matrix *m) except -1:
    return plain(x, 2, dtype, m)


cdef bint plain_labels(x, Matrix *m) except -1:
    return plain(x, 1, INT64, m)


cdef bint labels_within(Matrix t, Py_ssize_t classes) noexcept nogil:
    cdef const int64_t *labels = <const int64_t *>t.data
    cdef Py_ssize_t n
    for n in range(t.rows):
        if not 0 <= labels[n] < classes:
            return False
    return True
