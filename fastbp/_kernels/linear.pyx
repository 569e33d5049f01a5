"""One layer forward and backward: three matrix products, each with what follows it fused, divided over threads.

C (M, N) is cut along its longer side, one piece for each thread, each with scratch of its own. An element of C is the same sum
in the same order in every cut, so the number of threads changes no bit. A product of seconds runs in slices of rows.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.dispatch cimport (
    FBP_IDENTITY, LINE, activation_kind, kernels_for, line_start, real, threads_for, whole_lines,
)

cdef double OPERATION_WORK = 0.03  # nanoseconds that one thread needs for a multiply-add, roughly
cdef double SLICE_PER_COLUMN = 1.2e8  # multiply-adds of a thread, for each column of a tile, between two looks at pending signals
cdef double ELEMENT_WORK = 1.0     # and for an element that is packed, or goes through an epilogue


cdef int product_threads(const Product *p, int n_threads) noexcept nogil:
    cdef double work = OPERATION_WORK * p.M * p.N * p.K
    if p.epilogue.activation != FBP_IDENTITY:
        work += ELEMENT_WORK * p.M * p.N
    return threads_for(n_threads, work)


cdef inline Py_ssize_t piece(const Product *p, int threads) noexcept nogil:
    """The length of a thread's part of the longer side of C: whole tiles along N."""
    cdef Py_ssize_t unit = 8 if p.by_rows else p.k.tile_columns()
    cdef Py_ssize_t length = p.M if p.by_rows else p.N
    return ((length + threads - 1) // threads + unit - 1) // unit * unit


cdef Py_ssize_t slice_rows(const Product *p, int threads) noexcept nogil:
    """Rows of C that take a tenth of a second at most. The width of a tile tells how fast the instruction set is."""
    cdef double rows = SLICE_PER_COLUMN * p.k.tile_columns() * threads / (<double>p.N * p.K + 1)
    return min(p.M, <Py_ssize_t>min(rows, 1e15) // 8 * 8 + 8)


cdef Product part_of(const Product *p, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    """Rows [row, row + rows) of the product"""
    cdef Product part = p[0]
    part.M = rows
    part.A = p.A + row * p.A_row * p.element
    part.C = p.C + row * p.C_row * p.element
    if p.epilogue.slope != NULL:
        part.epilogue.slope = <const char *>p.epilogue.slope + row * p.epilogue.slope_row * p.element
    return part


cdef Py_ssize_t piece_scratch(const Product *p, int threads) noexcept nogil:
    """Bytes of scratch of each thread"""
    cdef Py_ssize_t size = piece(p, threads), elements
    if p.by_rows:
        elements = p.k.matrix_product_scratch(size, p.N, p.K)
    else:
        elements = p.k.matrix_product_scratch(p.M, size, p.K)
    return whole_lines(elements * p.element)


cdef Py_ssize_t product_scratch(const Product *p, int threads) noexcept nogil:
    cdef Product part = part_of(p, 0, slice_rows(p, threads))
    return threads * piece_scratch(&part, threads)


cdef void multiply_piece(const Product *p, Py_ssize_t row, Py_ssize_t column, Py_ssize_t M, Py_ssize_t N,
                         char *scratch) noexcept nogil:
    """Rows [row, row + M) and columns [column, column + N) of C."""
    cdef fbp_epilogue epilogue = p.epilogue
    if M <= 0 or N <= 0:
        return
    if epilogue.bias != NULL:
        epilogue.bias = <const char *>epilogue.bias + column * p.element
    if epilogue.slope != NULL:
        epilogue.slope = <const char *>epilogue.slope + (row * epilogue.slope_row + column) * p.element
    p.k.matrix_product(M, N, p.K, p.A + row * p.A_row * p.element, p.A_row, p.A_column,
                       p.B + column * p.B_column * p.element, p.B_row, p.B_column, &epilogue, scratch,
                       p.C + (row * p.C_row + column) * p.element, p.C_row)


cdef void multiply_slice(const Product *p, int threads, char *scratch) noexcept nogil:
    cdef Py_ssize_t size = piece(p, threads), share = piece_scratch(p, threads)
    cdef int i
    if threads == 1:
        multiply_piece(p, 0, 0, p.M, p.N, scratch)
        return
    for i in prange(threads, schedule="static", num_threads=threads):
        if p.by_rows:
            multiply_piece(p, i * size, 0, min(size, p.M - i * size), p.N, scratch + i * share)
        else:
            multiply_piece(p, 0, i * size, p.M, min(size, p.N - i * size), scratch + i * share)


cdef int multiply(const Product *p, int threads, char *scratch) except -1 nogil:
    cdef Py_ssize_t start = 0, rows = slice_rows(p, threads)
    cdef Product part
    while start < p.M:
        part = part_of(p, start, min(rows, p.M - start))
        multiply_slice(&part, threads, scratch)
        start += rows
        if start < p.M:
            with gil:
                PyErr_CheckSignals()
    return 0


cdef int run(Product *p, int n_threads) except -1:
    """Multiply in memory of its own."""
    cdef int threads = product_threads(p, n_threads)
    if p.M == 0 or p.N == 0:
        return 0
    cdef char *memory = <char *>malloc(product_scratch(p, threads) + LINE)
    if memory == NULL:
        raise MemoryError(f"no memory for the packed blocks of a product of {p.M} x {p.K} by {p.K} x {p.N}")
    try:
        with nogil:
            multiply(p, threads, line_start(memory))
    finally:
        free(memory)
    PyErr_CheckSignals()
    return 0


cdef Product product(const real[:, :] A, const real[:, :] B, real[:, :] C) noexcept:
    """C = A B, no epilogue."""
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.k, p.element = kernels_for(sizeof(real)), sizeof(real)
    p.M, p.N, p.K = A.shape[0], B.shape[1], A.shape[1]
    p.A_row, p.A_column = A.strides[0] // p.element, A.strides[1] // p.element
    p.B_row, p.B_column = B.strides[0] // p.element, B.strides[1] // p.element
    p.C_row = C.strides[0] // p.element
    p.by_rows = p.M >= p.N
    if p.K > 0 and p.M > 0:
        p.A = <const char *>&A[0, 0]
    if p.K > 0 and p.N > 0:
        p.B = <const char *>&B[0, 0]
    if p.M > 0 and p.N > 0:
        p.C = <char *>&C[0, 0]
    return p


def linear(const real[:, :] x, const real[:, :] weight, const real[::1] bias, str activation, real[:, :] out, int n_threads):
    cdef Product p = product[real](x, weight, out)
    p.epilogue.activation = activation_kind(activation)
    if bias is not None and p.N > 0:
        p.epilogue.bias = &bias[0]
    run(&p, n_threads)


def linear_backward_input(const real[:, :] delta, const real[:, :] weight, str activation, const real[:, :] a,
                          real[:, :] out, int n_threads):
    cdef Product p = product[real](delta, weight.T, out)
    p.epilogue.activation = activation_kind(activation)
    if a is not None and p.M > 0 and p.N > 0:
        p.epilogue.slope, p.epilogue.slope_row = &a[0, 0], a.strides[0] // p.element
    run(&p, n_threads)


def linear_backward_weight(const real[:, :] a_prev, const real[:, :] delta, real[:, :] out, real[::1] bias_out, int n_threads):
    cdef Product p = product[real](a_prev.T, delta, out)
    run(&p, n_threads)
    if p.N > 0:
        with nogil:
            p.k.column_sums(p.K, p.N, p.B, p.B_row, &bias_out[0])
