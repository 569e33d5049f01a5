from libc.string cimport memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, fbp_epilogue, fbp_kernels
from fastbp._kernels.team cimport fbp_team

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

# A product of this shape, without addresses and epilogue, C without gaps; of `pieces` of each number, if that pays
cdef inline void set_product(Product *p, const fbp_kernels *k, Py_ssize_t element, Py_ssize_t M, Py_ssize_t N,
                             Py_ssize_t K, int pieces) noexcept nogil:
    memset(p, 0, sizeof(Product))
    p.k, p.element, p.M, p.N, p.K, p.C_row = k, element, M, N, K, N
    p.epilogue.activation, p.epilogue.pieces = FBP_IDENTITY, k.product_pieces(M, N, K, pieces)

# operations: multiply-adds, weighted by their time. product_work: nanoseconds of one thread. product_scratch: bytes of scratch
# for so many threads. multiply_at_once: the product on a team. multiply: the same, with polls for signals.
cdef double operations(const Product *p) noexcept nogil
cdef double product_work(const Product *p) noexcept nogil
cdef Py_ssize_t product_scratch(const Product *p, int threads) noexcept nogil
cdef void multiply_at_once(const Product *p, char *scratch, fbp_team *team) noexcept nogil
cdef int multiply(const Product *p, char *scratch, fbp_team *team) except -1 nogil

# sums (O) = Σ_n x_n over N rows with a stride of x_row elements, with polls for signals; returns what the primitive returns.
cdef double column_sums(const fbp_kernels *k, Py_ssize_t N, Py_ssize_t O, const char *x, Py_ssize_t x_row, Py_ssize_t element,
                        char *sums) except? -1 nogil
