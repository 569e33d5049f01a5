"""One layer forward and backward: its three products, and the calls of each by itself."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, malloc

from fastbp._kernels.dispatch cimport FBP_IDENTITY, activation_kind, kernels_for, real, threads_for
from fastbp._kernels.memory cimport space_room, space_start
from fastbp._kernels.product cimport column_sums, multiply, product_of, product_scratch, product_work
from fastbp._kernels.team cimport Work, fbp_team, on_team


cdef Product forward_product(const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row, int activation, char *a,
                             Py_ssize_t a_row) noexcept nogil:
    cdef Product p = product_of(layer.k, layer.element, N, layer.outputs, layer.inputs)
    p.A, p.A_row, p.A_column = x, x_row, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_row, layer.w_column
    p.C, p.C_row = a, a_row
    p.epilogue.bias, p.epilogue.activation = layer.bias, activation
    return p


cdef Product recursion_product(const Dense *layer, Py_ssize_t N, const char *delta, Py_ssize_t delta_row, int activation,
                               const char *slope, Py_ssize_t slope_row, char *dx, Py_ssize_t dx_row) noexcept nogil:
    cdef Product p = product_of(layer.k, layer.element, N, layer.inputs, layer.outputs)
    p.A, p.A_row, p.A_column = delta, delta_row, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_column, layer.w_row
    p.C, p.C_row = dx, dx_row
    if slope != NULL and activation != FBP_IDENTITY:
        p.epilogue.activation, p.epilogue.slope, p.epilogue.slope_row = activation, slope, slope_row
    return p


cdef Product gradient_product(const Dense *layer, Py_ssize_t N, const char *x, Py_ssize_t x_row, const char *delta,
                              Py_ssize_t delta_row, bint transposed, char *dw, Py_ssize_t dw_row) noexcept nogil:
    cdef Product p
    if transposed:
        p = product_of(layer.k, layer.element, layer.outputs, layer.inputs, N)
        p.A, p.A_row, p.A_column = delta, 1, delta_row
        p.B, p.B_row, p.B_column = x, x_row, 1
    else:
        p = product_of(layer.k, layer.element, layer.inputs, layer.outputs, N)
        p.A, p.A_row, p.A_column = x, 1, x_row
        p.B, p.B_row, p.B_column = delta, delta_row, 1
    p.C, p.C_row = dw, dw_row
    return p


# -- calls from Python -------------------------------------------------------------------------------------------------------


cdef struct Call:
    Product p
    char *scratch


cdef int multiply_call(Call *call, fbp_team *team) except -1 nogil:
    return multiply(&call.p, call.scratch, team)


cdef int run(Product p, int n_threads) except -1:
    """Multiply in memory of its own."""
    cdef int threads = threads_for(n_threads, product_work(&p))
    cdef Py_ssize_t scratch = product_scratch(&p, threads)
    cdef Call call
    cdef char *memory = <char *>malloc(space_room(scratch))
    if memory == NULL:
        raise MemoryError(f"no memory for the packed blocks of a product of {p.M} x {p.K} by {p.K} x {p.N}")
    call.p, call.scratch = p, space_start(memory, scratch)
    try:
        with nogil:
            on_team(<Work>multiply_call, &call, threads)
    finally:
        free(memory)
    PyErr_CheckSignals()
    return 0


cdef const char *start(const real[:, :] x) noexcept nogil:
    return <const char *>&x[0, 0] if x.shape[0] > 0 and x.shape[1] > 0 else NULL


cdef Py_ssize_t row_of(const real[:, :] x) noexcept nogil:
    """In elements"""
    return x.strides[0] // <Py_ssize_t>sizeof(real)


cdef Dense dense_of(const real[:, :] weight) noexcept:
    """Without a bias"""
    return Dense(kernels_for(sizeof(real)), sizeof(real), weight.shape[0], weight.shape[1], start(weight), row_of(weight),
                 weight.strides[1] // <Py_ssize_t>sizeof(real), NULL)


def linear(const real[:, :] x, const real[:, :] weight, const real[::1] bias, str activation, real[:, :] out, int n_threads):
    cdef Dense layer = dense_of(weight)
    if bias is not None and layer.outputs > 0:
        layer.bias = <const char *>&bias[0]
    run(forward_product(&layer, x.shape[0], start(x), row_of(x), activation_kind(activation), <char *>start[real](out),
                        row_of[real](out)), n_threads)


def linear_backward_input(const real[:, :] delta, const real[:, :] weight, str activation, const real[:, :] a,
                          real[:, :] out, int n_threads):
    cdef Dense layer = dense_of(weight)
    cdef const char *slope = NULL
    if a is not None:
        slope = start[real](a)
    run(recursion_product(&layer, delta.shape[0], start(delta), row_of(delta), activation_kind(activation), slope,
                          0 if a is None else row_of[real](a), <char *>start[real](out), row_of[real](out)), n_threads)


def linear_backward_weight(const real[:, :] a_prev, const real[:, :] delta, real[:, :] out, real[::1] bias_out, int n_threads):
    cdef Dense layer = dense_of[real](out)  # of that shape
    cdef Py_ssize_t N = delta.shape[0]
    run(gradient_product(&layer, N, start(a_prev), row_of(a_prev), start(delta), row_of(delta), False, <char *>start[real](out),
                         row_of[real](out)), n_threads)
    if layer.outputs > 0:
        with nogil:
            column_sums(layer.k, N, layer.outputs, start(delta), row_of(delta), layer.element, <char *>&bias_out[0])
