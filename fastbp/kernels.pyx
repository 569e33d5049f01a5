"""The kernels for programs in Cython (``fastbp/kernels.pxd``) and C (``fastbp.h``), and as addresses for ctypes and Numba.

What the functions do is described in ``fastbp/kernels.pxd``; docs/c-and-cython.md shows them at work.

Each fills in the struct of the call that Python's function of the same name fills in, and hands it to the same code, which then
leaves signals to the caller.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from fastbp._config import __version__

from fastbp._kernels.activation cimport (
    RowFunction, activate_backward_piece, activate_piece, log_softmax_row, logsumexp_row, over_matrices, softmax_backward_row,
    softmax_row,
)
from fastbp._kernels.dispatch cimport chosen_pieces, kernels_for, most_threads
from fastbp._kernels.layer cimport Dense, multiplied, set_forward_product, set_gradient_product, set_recursion_product
from fastbp._kernels.loss cimport ASTRAY, NO_MEMORY, evaluate
from fastbp._kernels.memory cimport Matrix, labels_within
from fastbp._kernels.optimizer cimport Update, set_step, update_vector
from fastbp._kernels.product cimport Product, column_sums
from fastbp._kernels.rows cimport RowError, Rows, row_error_named, set_class_weight
from fastbp._kernels.team cimport leave_signals

cdef extern from "fastbp.h":
    int FBP_ACTIVATIONS, FBP_ERRORS, FBP_UPDATES

    ctypedef struct fbp_functions_float32:
        void *activate
        void *activation_backward
        void *softmax
        void *log_softmax
        void *softmax_backward
        void *logsumexp
        void *softmax_cross_entropy
        void *elementwise_error
        void *linear
        void *linear_backward_input
        void *linear_backward_weight
        void *optimizer_update

    ctypedef struct fbp_api:
        int abi
        size_t size
        const char *version
        void *float32
        void *float64

cdef extern from *:
    """
    static const char *const fbp_function_names[] = {
    #define FBP_FUNCTION(name, parameters) #name,
    #include "functions.def"
    #undef FBP_FUNCTION
    };
    """
    const char *const *NAMES "fbp_function_names"

cdef int64_t IGNORE_INDEX = -100  # the default
cdef fbp_error_options DEFAULTS
memset(&DEFAULTS, 0, sizeof(DEFAULTS))

cdef RowError SOFTMAX = row_error_named("softmax_cross_entropy"), ELEMENTWISE = row_error_named("squared_error")


cdef inline bint is_number(int number, int rows) noexcept nogil:
    """Whether it is that of one of the rows of a list"""
    return 0 <= number < rows


# -- activations -----------------------------------------------------------------------------------------------------------------


cdef int each_row(RowFunction function, int kind, Py_ssize_t N, Py_ssize_t C, const real *g, Py_ssize_t g_row, const real *x,
                  Py_ssize_t x_row, int n_threads, real *out, Py_ssize_t out_row, bint elementwise) noexcept nogil:
    cdef Py_ssize_t element = sizeof(real)
    if N < 0 or C < 0:
        return FBP_WRONG_ARGUMENT
    leave_signals(True)
    over_matrices(function, kind, element, N, C, <const char *>g, g_row * element, <const char *>x, x_row * element, <char *>out,
                  out_row * element, elementwise, most_threads(n_threads))
    leave_signals(False)
    return FBP_DONE


cdef int activate(int kind, Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                  Py_ssize_t out_row) noexcept nogil:
    if not is_number(kind, FBP_ACTIVATIONS):
        return FBP_WRONG_ARGUMENT
    return each_row(activate_piece, kind, N, C, <const real *>NULL, 0, x, x_row, n_threads, out, out_row, True)


cdef int activation_backward(int kind, Py_ssize_t N, Py_ssize_t C, const real *grad, Py_ssize_t grad_row, const real *a,
                             Py_ssize_t a_row, int n_threads, real *out, Py_ssize_t out_row) noexcept nogil:
    if not is_number(kind, FBP_ACTIVATIONS):
        return FBP_WRONG_ARGUMENT
    return each_row(activate_backward_piece, kind, N, C, grad, grad_row, a, a_row, n_threads, out, out_row, True)


cdef int softmax(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                 Py_ssize_t out_row) noexcept nogil:
    return each_row(softmax_row, 0, N, C, <const real *>NULL, 0, x, x_row, n_threads, out, out_row, False)


cdef int log_softmax(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out,
                     Py_ssize_t out_row) noexcept nogil:
    return each_row(log_softmax_row, 0, N, C, <const real *>NULL, 0, x, x_row, n_threads, out, out_row, False)


cdef int softmax_backward(Py_ssize_t N, Py_ssize_t C, const real *grad, Py_ssize_t grad_row, const real *y, Py_ssize_t y_row,
                          int n_threads, real *out, Py_ssize_t out_row) noexcept nogil:
    return each_row(softmax_backward_row, 0, N, C, grad, grad_row, y, y_row, n_threads, out, out_row, False)


cdef int logsumexp(Py_ssize_t N, Py_ssize_t C, const real *x, Py_ssize_t x_row, int n_threads, real *out) noexcept nogil:
    return each_row(logsumexp_row, sizeof(real), N, C, <const real *>NULL, 0, x, x_row, n_threads, out, 1, False)


# -- errors ----------------------------------------------------------------------------------------------------------------------


cdef Rows rows_of(Py_ssize_t N, Py_ssize_t C, const real *z, Py_ssize_t z_row, const real *t, Py_ssize_t t_row,
                  const fbp_error_options *options, real *d, Py_ssize_t d_row) noexcept nogil:
    cdef Rows r
    memset(&r, 0, sizeof(r))
    r.element, r.N, r.C = sizeof(real), N, C
    r.z, r.z_row = <const char *>z, z_row * r.element
    r.t, r.t_row = <const char *>t, t_row * r.element
    r.d, r.d_row = <char *>d, d_row * r.element
    r.sample_weight = options.sample_weight
    r.reused = r.d != r.z
    return r


cdef int reduce_rows(Rows *r, RowError error, const fbp_error_options *options, int n_threads, char *losses, double *loss,
                     double *weight_sum) noexcept nogil:
    cdef int failed
    leave_signals(True)
    failed = evaluate(r, error, not options.sum, losses, most_threads(n_threads), loss, weight_sum)
    leave_signals(False)
    return FBP_NO_MEMORY if failed == NO_MEMORY else FBP_WRONG_LABEL if failed == ASTRAY else FBP_DONE


cdef int softmax_cross_entropy(Py_ssize_t N, Py_ssize_t C, const real *logits, Py_ssize_t logits_row, const int64_t *labels,
                               const real *targets, Py_ssize_t targets_row, const fbp_error_options *options, int n_threads,
                               real *losses, real *grad, Py_ssize_t grad_row, double *loss, double *weight_sum) noexcept nogil:
    cdef Rows r
    if N < 0 or C < 1 or (N > 0 and (labels == NULL) == (targets == NULL)):
        return FBP_WRONG_ARGUMENT
    if options == NULL:
        options = &DEFAULTS
    r = rows_of(N, C, logits, logits_row, targets, targets_row, options, grad, grad_row)
    if labels != NULL:
        r.labels, r.ignores = labels, True
        r.ignore_index = IGNORE_INDEX if options.ignore_index == NULL else options.ignore_index[0]
        if not labels_within(Matrix(<char *>labels, N, 1, sizeof(int64_t), sizeof(int64_t), True), C, r.ignore_index):
            return FBP_WRONG_LABEL
    set_class_weight(&r, options.class_weight)
    r.smoothing, r.lse_square_scale, r.softcap = options.label_smoothing, options.lse_square_scale, options.softcap
    return reduce_rows(&r, SOFTMAX, options, n_threads, <char *>losses, loss, weight_sum)


cdef int elementwise_error(int kind, double parameter, Py_ssize_t N, Py_ssize_t O, const real *outputs, Py_ssize_t outputs_row,
                           const real *targets, Py_ssize_t targets_row, const fbp_error_options *options, int n_threads,
                           real *losses, real *grad, Py_ssize_t grad_row, double *loss, double *weight_sum) noexcept nogil:
    cdef Rows r
    cdef RowError error = ELEMENTWISE
    if N < 0 or O < 0 or not is_number(kind, FBP_ERRORS):
        return FBP_WRONG_ARGUMENT
    if options == NULL:
        options = &DEFAULTS
    r = rows_of(N, O, outputs, outputs_row, targets, targets_row, options, grad, grad_row)
    error.kind, error.parameter = kind, parameter
    if kind == FBP_SIGMOID_CROSS_ENTROPY:
        r.pos_weight, r.smoothing = options.pos_weight, options.label_smoothing
    return reduce_rows(&r, error, options, n_threads, <char *>losses, loss, weight_sum)


# -- layers ----------------------------------------------------------------------------------------------------------------------


cdef bint are_sizes(Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs) noexcept nogil:
    return N >= 0 and n_inputs >= 0 and n_outputs >= 0


cdef int multiply(const Product *p, int n_threads) noexcept nogil:
    cdef bint done
    leave_signals(True)
    done = multiplied(p, most_threads(n_threads))
    leave_signals(False)
    return FBP_DONE if done else FBP_NO_MEMORY


cdef int linear(int kind, Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *x, Py_ssize_t x_row,
                const real *weight, Py_ssize_t weight_row, Py_ssize_t weight_column, const real *bias, int n_threads, real *out,
                Py_ssize_t out_row) noexcept nogil:
    cdef Dense layer = Dense(kernels_for(sizeof(real)), sizeof(real), n_inputs, n_outputs, <const char *>weight, weight_row,
                             weight_column, <const char *>bias, chosen_pieces(-1))
    cdef Product p
    if not (are_sizes(N, n_inputs, n_outputs) and is_number(kind, FBP_ACTIVATIONS)):
        return FBP_WRONG_ARGUMENT
    set_forward_product(&p, &layer, N, <const char *>x, x_row, kind, <char *>out, out_row)
    return multiply(&p, n_threads)


cdef int linear_backward_input(int kind, Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *delta,
                               Py_ssize_t delta_row, const real *weight, Py_ssize_t weight_row, Py_ssize_t weight_column,
                               const real *a, Py_ssize_t a_row, int n_threads, real *out, Py_ssize_t out_row) noexcept nogil:
    cdef Dense layer = Dense(kernels_for(sizeof(real)), sizeof(real), n_inputs, n_outputs, <const char *>weight, weight_row,
                             weight_column, NULL, chosen_pieces(-1))
    cdef Product p
    if not (are_sizes(N, n_inputs, n_outputs) and is_number(kind, FBP_ACTIVATIONS)):
        return FBP_WRONG_ARGUMENT
    set_recursion_product(&p, &layer, N, <const char *>delta, delta_row, kind, <const char *>a, a_row, <char *>out, out_row)
    return multiply(&p, n_threads)


cdef int linear_backward_weight(Py_ssize_t N, Py_ssize_t n_inputs, Py_ssize_t n_outputs, const real *a_prev,
                                Py_ssize_t a_prev_row, const real *delta, Py_ssize_t delta_row, int n_threads, real *out,
                                Py_ssize_t out_row, real *bias_out) noexcept nogil:
    cdef Dense layer = Dense(kernels_for(sizeof(real)), sizeof(real), n_inputs, n_outputs, NULL, 0, 0, NULL, chosen_pieces(-1))
    cdef Product p
    cdef int failed
    if not are_sizes(N, n_inputs, n_outputs):
        return FBP_WRONG_ARGUMENT
    set_gradient_product(&p, &layer, N, <const char *>a_prev, a_prev_row, <const char *>delta, delta_row, False, <char *>out,
                         out_row)
    failed = multiply(&p, n_threads)
    if failed == FBP_DONE and bias_out != NULL and n_outputs > 0:
        leave_signals(True)
        column_sums(layer.k, N, n_outputs, <const char *>delta, delta_row, layer.element, <char *>bias_out)
        leave_signals(False)
    return failed


# -- optimizers ------------------------------------------------------------------------------------------------------------------


cdef bint is_step(const fbp_optimizer *optimizer) noexcept nogil:
    """Whether the rule is one of vectors, and there are the states without which it cannot be"""
    if not is_number(optimizer.rule, FBP_UPDATES) or optimizer.rule == FBP_UPDATE_muon or optimizer.step < 1:
        return False
    if optimizer.rule == FBP_UPDATE_sgd:
        return optimizer.state[0] != NULL or optimizer.rates[0] == 0
    return optimizer.state[0] != NULL and (optimizer.rule != FBP_UPDATE_adam or optimizer.state[1] != NULL)


cdef int optimizer_update(Py_ssize_t P, const real *gradient, const fbp_optimizer *optimizer, int n_threads,
                          real *parameters) noexcept nogil:
    cdef Update u
    cdef int i
    if P < 0 or not is_step(optimizer):
        return FBP_WRONG_ARGUMENT
    memset(&u, 0, sizeof(u))
    u.weights.rule, u.weights.decoupled, u.weights.gradient_scale = optimizer.rule, optimizer.decoupled, 1
    u.weights.learning_rate, u.weights.weight_decay = optimizer.learning_rate, optimizer.weight_decay
    for i in range(4):
        u.weights.rate[i] = optimizer.rates[i]
    for i in range(3):  # the last one is an average, which no rule keeps
        u.state[i] = <char *>optimizer.state[i]
    set_step(&u, optimizer.step, 0)
    update_vector(&u, sizeof(real), P, <const char *>gradient, <char *>parameters, most_threads(n_threads))
    return FBP_DONE


# -- for C and for addresses -----------------------------------------------------------------------------------------------------


cdef fbp_functions_float32 FLOAT32 = fbp_functions_float32(
    <void *>activate[float], <void *>activation_backward[float], <void *>softmax[float], <void *>log_softmax[float],
    <void *>softmax_backward[float], <void *>logsumexp[float], <void *>softmax_cross_entropy[float],
    <void *>elementwise_error[float], <void *>linear[float], <void *>linear_backward_input[float],
    <void *>linear_backward_weight[float], <void *>optimizer_update[float],
)
cdef fbp_functions_float32 FLOAT64 = fbp_functions_float32(  # whose pointers lie alike
    <void *>activate[double], <void *>activation_backward[double], <void *>softmax[double], <void *>log_softmax[double],
    <void *>softmax_backward[double], <void *>logsumexp[double], <void *>softmax_cross_entropy[double],
    <void *>elementwise_error[double], <void *>linear[double], <void *>linear_backward_input[double],
    <void *>linear_backward_weight[double], <void *>optimizer_update[double],
)
cdef bytes VERSION = __version__.encode()
cdef fbp_api API = fbp_api(FBP_ABI, sizeof(fbp_functions_float32), VERSION, &FLOAT32, <void *>&FLOAT64)

api = PyCapsule_New(&API, "fastbp.kernels.api", NULL)

ABI = FBP_ABI


def _functions() -> list[str]:
    return [NAMES[i].decode() for i in range(<int>(sizeof(FLOAT32) // sizeof(void *)))]


def address(name: str, dtype: str, *, abi: int) -> int:
    """The address of a function of ``fastbp.h``, for ctypes, Numba, cffi.

    Parameters
    ----------
    name : str
        One of the functions of ``fastbp.h``, such as "softmax_cross_entropy".
    dtype : {"float32", "float64"}
        Of its arrays.
    abi : int
        The ABI that the caller's types of arguments were written for: ``FBP_ABI`` of ``fastbp.h``, now 1.

    Returns
    -------
    int

    Raises
    ------
    ImportError
        The installed fastbp has another ABI.
    ValueError
        No such function, or dtype.

    Examples
    --------
    The same as ``fastbp.softmax(x, out=y)``, with NumPy's addresses:

    >>> import ctypes, numpy as np
    >>> from fastbp import kernels
    >>> size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    >>> prototype = ctypes.CFUNCTYPE(ctypes.c_int, size, size, pointer, size, ctypes.c_int, pointer, size)
    >>> softmax = prototype(kernels.address("softmax", "float64", abi=1))
    >>> x, y = np.zeros((1, 4)), np.empty((1, 4))
    >>> softmax(1, 4, x.ctypes.data, 4, 0, y.ctypes.data, 4), y.tolist()
    (0, [[0.25, 0.25, 0.25, 0.25]])
    """
    if abi != FBP_ABI:
        raise ImportError(f"abi: got {abi!r}, expected {FBP_ABI}, that of fastbp {__version__}: see what changed in its fastbp.h")
    names = _functions()
    if name not in names:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(names)}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: got {dtype!r}, expected one of float32, float64")
    cdef void **functions = <void **>(&FLOAT32 if dtype == "float32" else &FLOAT64)
    return <uintptr_t>functions[<int>names.index(name)]
