"""NumPy's C API: the check for plain arrays, and new arrays."""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint64_t

import numpy as np

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *data, void *descr, object base)

cdef extern from "memory/spare.h":
    Py_ssize_t LARGE_ARRAY "FBP_LARGE_ARRAY"
    bint large_array_used "fbp_large_array_used"(const void *array) noexcept
    cnp.PyDataMem_Handler *large_array_handler "fbp_large_array_handler"() noexcept

cnp.import_array()

cdef object FLOAT32 = cnp.PyArray_DescrFromType(cnp.NPY_FLOAT32), FLOAT64 = cnp.PyArray_DescrFromType(cnp.NPY_FLOAT64)
cdef object INT64 = cnp.PyArray_DescrFromType(cnp.NPY_INT64)

# The memory handler of large new arrays, or None if the system lacks MADV_FREE. See src_c/memory/spare.h.
cdef object HANDLER = None if large_array_handler() == NULL else PyCapsule_New(large_array_handler(), "mem_handler", NULL)


cdef bint plain(x, int axes, dtype, Matrix *m) noexcept:
    """Whether x is a plain array with so many axes, which then becomes m. There are many objects for a dtype: an array that was
    pickled brings its own."""
    if not cnp.PyArray_CheckExact(x):
        return False
    cdef cnp.ndarray array = <cnp.ndarray>x
    if cnp.PyArray_TYPE(array) != (<cnp.dtype>dtype).type_num or cnp.PyArray_NDIM(array) != axes:
        return False
    if not cnp.PyArray_ISCARRAY_RO(array):
        return False
    cdef const cnp.npy_intp *shape = cnp.PyArray_DIMS(array)
    cdef Py_ssize_t columns = shape[1] if axes == 2 else 1, element = cnp.PyArray_ITEMSIZE(array)
    m[0] = Matrix(<char *>cnp.PyArray_DATA(array), shape[0], columns, columns * element, element, axes == 1)
    return m.rows > 0 and columns > 0


cdef bint plain_matrix(x, dtype, Matrix *m) except -1:
    return plain(x, 2, dtype, m)


cdef bint plain_output(x, dtype, Matrix *m) except -1:
    return plain(x, 2, dtype, m) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>x)


cdef bint plain_labels(x, Matrix *m) except -1:
    return plain(x, 1, INT64, m)


cdef object plain_weights(x, Matrix *where, const double **weights):
    if not plain(x, 1, FLOAT64, where):
        x = cnp.PyArray_Cast(<cnp.ndarray>x, cnp.NPY_FLOAT64) if plain(x, 1, FLOAT32, where) else None
    if x is not None:
        weights[0] = <const double *>cnp.PyArray_DATA(<cnp.ndarray>x)
    return x


cdef object plain_dtype(x):
    if not cnp.PyArray_CheckExact(x):
        return None
    cdef int kind = cnp.PyArray_TYPE(<cnp.ndarray>x)
    return FLOAT32 if kind == cnp.NPY_FLOAT32 else FLOAT64 if kind == cnp.NPY_FLOAT64 else None


cdef bint is_large(Py_ssize_t bytes) noexcept:
    return HANDLER is not None and bytes >= LARGE_ARRAY


cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t element, bint *used):
    cdef cnp.npy_intp[2] shape = [rows, columns]
    cdef bint large = is_large(times(times(rows, columns), element))
    before = cnp.PyDataMem_SetHandler(HANDLER) if large else None
    try:
        array = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32 if element == sizeof(float) else cnp.NPY_FLOAT64, 0)
    finally:
        if large:
            cnp.PyDataMem_SetHandler(before)
    used[0] = large and large_array_used(cnp.PyArray_DATA(<cnp.ndarray>array))
    return array


def new_array(tuple shape, dtype):
    """``numpy.empty``, except that a large array takes the memory of a freed one, if there is any"""
    cdef Py_ssize_t extent, bytes = dtype.itemsize
    for extent in shape:
        bytes = times(bytes, extent)
    if not is_large(bytes):
        return np.empty(shape, dtype)
    before = cnp.PyDataMem_SetHandler(HANDLER)
    try:
        return np.empty(shape, dtype)
    finally:
        cnp.PyDataMem_SetHandler(before)


cdef object scalar_of(double x, dtype):
    cdef float single = <float>x
    return PyArray_Scalar(<void *>&single if dtype is FLOAT32 else <void *>&x, <void *>dtype, None)


cdef bint labels_within(Matrix t, Py_ssize_t classes, int64_t ignored) noexcept nogil:
    cdef const int64_t *labels = <const int64_t *>t.data
    cdef Py_ssize_t n, beyond = 0
    for n in range(t.rows):  # cast to unsigned, negative labels are out of range as well
        beyond += <uint64_t>labels[n] >= <uint64_t>classes and labels[n] != ignored
    return beyond == 0
