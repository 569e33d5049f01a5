from fastbp._kernels.dispatch cimport fbp_epilogue, fbp_kernels

# One matrix product C (M, N) = A (M, K) B (K, N) and its epilogue. Strides are in elements of `element` bytes.
cdef struct Product:
    const fbp_kernels *k
    Py_ssize_t element
    Py_ssize_t M, N, K
    const char *A
    Py_ssize_t A_row, A_column
    const char *B
    Py_ssize_t B_row, B_column
    fbp_epilogue epilogue
    char *C
    Py_ssize_t C_row
    bint by_rows                  # whether threads divide the rows of C, or its columns: the longer side

# The product's rows [start, start + size), or its columns, on the side that threads divide.
cdef Product part_of(const Product *p, Py_ssize_t start, Py_ssize_t size) noexcept nogil

# Threads that pay for a product; bytes of scratch for them; the product on them, which looks at pending signals on its way.
cdef int product_threads(const Product *p, int n_threads) noexcept nogil
cdef Py_ssize_t product_scratch(const Product *p, int threads) noexcept nogil
cdef int multiply(const Product *p, int threads, char *scratch) except -1 nogil
