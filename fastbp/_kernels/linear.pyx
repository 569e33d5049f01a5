"""One layer forward and backward: three matrix products, each with what follows it fused, divided over threads.

C (M, N) is cut along its longer side, one piece for each thread, each with scratch of its own. An element of C is the same sum
in the same order in every cut, so the number of threads changes no bit. A product of seconds runs in slices of the same side.
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


cdef inline Py_ssize_t longer_side(const Product *p) noexcept nogil:
    return p.M if p.by_rows else p.N


cdef inline Py_ssize_t piece(const Product *p, int threads) noexcept nogil:
    """The length of a thread's part of the longer side of C: whole tiles along N."""
    cdef Py_ssize_t unit = 8 if p.by_rows else p.k.tile_columns()
    return ((longer_side(p) + threads - 1) // threads + unit - 1) // unit * unit


cdef Py_ssize_t slice_length(const Product *p, int threads) noexcept nogil:
    """Of the longer side, what takes a tenth of a second at most. The width of a tile tells how fast the instruction set is."""
    cdef Py_ssize_t unit = threads * (8 if p.by_rows else p.k.tile_columns())
    cdef double length = SLICE_PER_COLUMN * p.k.tile_columns() * threads / (<double>min(p.M, p.N) * p.K + 1)
    return <Py_ssize_t>min(length, 1e15) // unit * unit + unit


cdef Product part_of(const Product *p, Py_ssize_t start, Py_ssize_t size) noexcept nogil:
    """The product's rows [start, start + size), or its columns, on the longer side"""
    cdef Product part = p[0]
    cdef Py_ssize_t row = start if p.by_rows else 0, column = 0 if p.by_rows else start
    if p.by_rows:
        part.M = size
    else:
        part.N = size
    part.A = p.A + row * p.A_row * p.element
    part.B = p.B + column * p.B_column * p.element
    part.C = p.C + (row * p.C_row + column) * p.element
    if p.epilogue.bias != NULL:
        part.epilogue.bias = <const char *>p.epilogue.bias + column * p.element
    if p.epilogue.slope != NULL:
        part.epilogue.slope = <const char *>p.epilogue.slope + (row * p.epilogue.slope_row + column) * p.element
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
    return threads * piece_scratch(p, threads)


cdef void multiply_piece(const Product *p, Py_ssize_t start, Py_ssize_t size, char *scratch) noexcept nogil:
    """`size` rows or columns of C, or as many as there are, from number `start` on."""
    cdef Product part = part_of(p, start, min(size, longer_side(p) - start))
    if part.M > 0 and part.N > 0:
        p.k.matrix_product(part.M, part.N, part.K, part.A, part.A_row, part.A_column, part.B, part.B_row, part.B_column,
                           &part.epilogue, scratch, part.C, part.C_row)


cdef void multiply_slice(const Product *p, int threads, char *scratch) noexcept nogil:
    cdef Py_ssize_t size = piece(p, threads), share = piece_scratch(p, threads)
    cdef int i
    if threads == 1:
        multiply_piece(p, 0, size, scratch)
        return
    for i in prange(threads, schedule="static", num_threads=threads):
        multiply_piece(p, i * size, size, scratch + i * share)


cdef int multiply(const Product *p, int threads, char *scratch) except -1 nogil:
    cdef Py_ssize_t start = 0, length = longer_side(p), step = slice_length(p, threads)
    cdef Product part
    while start < length:
        part = part_of(p, start, min(step, length - start))
        multiply_slice(&part, threads, scratch)
        start += step
        if start < length:
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
