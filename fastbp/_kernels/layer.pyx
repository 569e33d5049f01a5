"""One layer forward and backward: a call for each of its three products."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, malloc

from fastbp._kernels.dispatch cimport activation_kind, chosen_pieces, kernels_for, real, threads_for
from fastbp._kernels.memory cimport space_room, space_start
from fastbp._kernels.product cimport column_sums, multiply, product_scratch, product_work
from fastbp._kernels.team cimport Work, fbp_team, on_team


# -- calls from Python -------------------------------------------------------------------------------------------------------


cdef struct ProductCall:
    Product p
    char *scratch


cdef int multiply_call(ProductCall *call, fbp_team *team) except -1 nogil:
    return multiply(&call.p, call.scratch, team)


# The columns of x (N, O), added
cdef struct SumsCall:
    const Dense *layer
    Py_ssize_t N
    const char *x
    Py_ssize_t x_row
    char *sums


cdef int sums_call(SumsCall *call, fbp_team *team) except -1 nogil:
    column_sums(call.layer.k, call.N, call.layer.outputs, call.x, call.x_row, call.layer.element, call.sums)
    return 0


cdef bint multiplied(const Product *p, int n_threads) except -1 nogil:
    cdef int threads = threads_for(n_threads, product_work(p))
    cdef Py_ssize_t scratch = product_scratch(p, threads)
    cdef ProductCall call
    cdef char *memory = <char *>malloc(space_room(scratch))
    if memory == NULL:
        return False
    call.p, call.scratch = p[0], space_start(memory, scratch)
    try:
        on_team(<Work>multiply_call, &call, threads)
    finally:
        free(memory)
    return True


cdef int multiply_for_python(const Product *p, int n_threads) except -1:
    cdef bint done
    with nogil:
        done = multiplied(p, n_threads)
    if not done:
        raise MemoryError(f"no memory for the packed blocks of a product of {p.M} x {p.K} by {p.K} x {p.N}")
    PyErr_CheckSignals()
    return 0


cdef const char *start(const real[:, :] x) noexcept nogil:
    return <const char *>&x[0, 0] if x.shape[0] > 0 and x.shape[1] > 0 else NULL


cdef Py_ssize_t row_of(const real[:, :] x) noexcept nogil:
    """In elements"""
    return x.strides[0] // <Py_ssize_t>sizeof(real)


cdef Dense dense_of(const real[:, :] weight) noexcept:
    """Without a bias, of the precision in use"""
    return Dense(kernels_for(sizeof(real)), sizeof(real), weight.shape[0], weight.shape[1], start(weight), row_of(weight),
                 weight.strides[1] // <Py_ssize_t>sizeof(real), NULL, chosen_pieces(-1))


def linear(const real[:, :] x, const real[:, :] weight, const real[::1] bias, str activation, real[:, :] out, int n_threads):
    cdef Dense layer = dense_of(weight)
    cdef Product p
    if bias is not None and layer.outputs > 0:
        layer.bias = <const char *>&bias[0]
    set_forward_product(&p, &layer, x.shape[0], start(x), row_of(x), activation_kind(activation), <char *>start[real](out),
                        row_of[real](out))
    multiply_for_python(&p, n_threads)


def linear_backward_input(const real[:, :] delta, const real[:, :] weight, str activation, const real[:, :] a,
                          real[:, :] out, int n_threads):
    cdef Dense layer = dense_of(weight)
    cdef const char *slope = NULL
    cdef Product p
    if a is not None:
        slope = start[real](a)
    set_recursion_product(&p, &layer, delta.shape[0], start(delta), row_of(delta), activation_kind(activation), slope,
                          0 if a is None else row_of[real](a), <char *>start[real](out), row_of[real](out))
    multiply_for_python(&p, n_threads)


def linear_backward_weight(const real[:, :] a_prev, const real[:, :] delta, real[:, :] out, real[::1] bias_out, int n_threads):
    cdef Dense layer = dense_of[real](out)  # `out` has the shape of the weights
    cdef Py_ssize_t N = delta.shape[0]
    cdef SumsCall sums
    cdef Product p
    set_gradient_product(&p, &layer, N, start(a_prev), row_of(a_prev), start(delta), row_of(delta), False,
                         <char *>start[real](out), row_of[real](out))
    multiply_for_python(&p, n_threads)
    if layer.outputs > 0:
        sums = SumsCall(&layer, N, start(delta), row_of(delta), <char *>&bias_out[0])
        with nogil:
            on_team(<Work>sums_call, &sums, 1)
