from fastbp._kernels.dispatch cimport fbp_kernels

# A primitive on `count` elements of a row. g, a, y are the addresses of the first ones; not all primitives use all.
ctypedef void (*RowFunction)(
    const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *a, void *y
) noexcept nogil

cdef void activate_piece(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *x, void *y) noexcept nogil
cdef void activate_backward_piece(const fbp_kernels *k, int kind, Py_ssize_t count, const void *g, const void *a,
                                  void *d) noexcept nogil
cdef void softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil
cdef void log_softmax_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil
cdef void softmax_backward_row(const fbp_kernels *k, int kind, Py_ssize_t C, const void *g, const void *y,
                               void *d) noexcept nogil
cdef void logsumexp_row(const fbp_kernels *k, int element, Py_ssize_t C, const void *g, const void *z, void *y) noexcept nogil

# `function` of each of N rows of C elements of x (and g, unless NULL), into y; row strides are in bytes. Elementwise functions
# may see several rows as one, or a row as several.
cdef int over_matrices(RowFunction function, int kind, Py_ssize_t element, Py_ssize_t N, Py_ssize_t C, const char *g,
                       Py_ssize_t g_row, const char *x, Py_ssize_t x_row, char *y, Py_ssize_t y_row, bint elementwise,
                       int n_threads) except -1 nogil
