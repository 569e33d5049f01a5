"""The error functions for Python: converts arguments, allocates the work space of `reduced`, returns results."""

from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.dispatch cimport kernels_for, plain_threads, threads_for
from fastbp._kernels.memory cimport (
    READ, WRITE, Matrix, labels_within, matrix_of, new_matrix, plain_dtype, plain_labels, plain_matrix, plain_output,
    plain_weights, scalar_of, set_element, space_room, space_start, vector_of,
)
from fastbp._kernels.rows cimport (
    RowError, Rows, class_unit, error_work, reduced, row_error_named, scratch_bytes, set_class_weight, stayed,
)
from fastbp._kernels.team cimport Work, fbp_team, on_team

cdef int64_t IGNORE_INDEX = -100  # the default
cdef RowError SOFTMAX = row_error_named("softmax_cross_entropy")
cdef RowError SIGMOID = row_error_named("sigmoid_cross_entropy")


cdef Rows rows_of(z, t, sample_weight, d) except *:
    cdef Matrix from_ = matrix_of(z, READ), to = matrix_of(d, WRITE), rows
    cdef Rows r
    memset(&r, 0, sizeof(r))
    r.element, r.N, r.C = from_.element, from_.rows, from_.columns
    r.z, r.z_row, r.d, r.d_row = from_.data, from_.row, to.data, to.row
    if t is not None:
        rows = matrix_of(t, READ)
        r.t, r.t_row = rows.data, rows.row
    r.sample_weight = <const double *>vector_of(sample_weight, READ)
    return r


cdef struct ErrorCall:
    Rows *r
    RowError error
    bint mean
    char *memory
    double loss, weight_sum
    bint astray


cdef int reduce_call(ErrorCall *call, fbp_team *team) except -1 nogil:
    call.loss = reduced(call.r, call.error, call.mean, team, call.memory, &call.weight_sum, &call.astray)
    return 0


cdef int evaluate(Rows *r, RowError error, bint mean, char *losses, int n_threads, double *loss,
                  double *weight_sum) except? -1 nogil:
    cdef Py_ssize_t n
    cdef int threads = threads_for(n_threads, error_work(r))
    cdef Py_ssize_t scratch = scratch_bytes(r, threads)
    cdef double unit = class_unit(r)
    cdef char *memory = <char *>malloc(space_room(scratch))
    cdef ErrorCall call = ErrorCall(r, error, mean, memory, 0, 0, False)
    if memory == NULL:
        return NO_MEMORY
    call.memory = space_start(memory, scratch)
    r.k = kernels_for(r.element)
    try:
        on_team(<Work>reduce_call, &call, threads)
        if losses != NULL:
            for n in range(r.N):
                set_element(losses, n, r.element, (<double *>call.memory)[n] / unit)
    finally:
        free(memory)
    loss[0], weight_sum[0] = call.loss, call.weight_sum
    return ASTRAY if call.astray else 0


cdef double evaluate_for_python(Rows *r, RowError error, bint mean, char *losses, int n_threads, double *weight_sum) except? -1:
    """The mean or sum"""
    cdef double loss = NAN
    cdef int failed
    with nogil:
        failed = evaluate(r, error, mean, losses, n_threads, &loss, weight_sum)
    if failed == NO_MEMORY:
        raise MemoryError(f"no memory for the scratch of {r.N} rows of {r.C}")
    stayed(r, failed == ASTRAY)
    return loss


cdef tuple answer(Rows *r, RowError error, bint mean, losses, int n_threads):
    """The result of the functions below: the mean or sum, and the sum of the weights"""
    cdef double weight_sum, loss = evaluate_for_python(r, error, mean, vector_of(losses, WRITE), n_threads, &weight_sum)
    return loss, weight_sum


def first_bad_label(labels, int64_t n_classes, int64_t ignore_index):
    cdef Py_ssize_t n, bad = -1
    cdef Matrix all = matrix_of(labels, READ)
    cdef const int64_t *label = <const int64_t *>all.data
    with nogil:
        for n in range(all.rows):
            if not 0 <= label[n] < n_classes and label[n] != ignore_index:
                bad = n
                break
    return bad


cdef Rows softmax_rows(logits, labels, targets, class_weight, sample_weight, int64_t ignore_index, double label_smoothing,
                       grad) except *:
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    r.labels = <const int64_t *>vector_of(labels, READ)
    set_class_weight(&r, <const double *>vector_of(class_weight, READ))
    r.ignores, r.ignore_index, r.smoothing = r.labels != NULL, ignore_index, label_smoothing
    return r


def softmax_cross_entropy(logits, labels, targets, class_weight, sample_weight, int64_t ignore_index, double label_smoothing,
                          double lse_square_scale, double softcap, bint mean, losses, grad, int n_threads):
    cdef Rows r = softmax_rows(logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, grad)
    r.lse_square_scale, r.softcap = lse_square_scale, softcap
    return answer(&r, SOFTMAX, mean, losses, n_threads)


cdef int set_hessian(Rows *r, hessian) except -1:
    cdef Matrix to = matrix_of(hessian, WRITE)
    r.h, r.h_row = to.data, to.row
    return 0


def softmax_cross_entropy_hessian(logits, labels, targets, class_weight, sample_weight, int64_t ignore_index,
                                  double label_smoothing, hessian, bint mean, losses, grad, int n_threads):
    cdef Rows r = softmax_rows(logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, grad)
    set_hessian(&r, hessian)
    return answer(&r, SOFTMAX, mean, losses, n_threads)


cdef bint apart(Matrix a, Matrix b) noexcept nogil:
    """Whether no byte belongs to both of two plain arrays"""
    return a.data + a.rows * a.row <= b.data or b.data + b.rows * b.row <= a.data


cdef double option(x, double least, double most) except? -1:
    """A Python float in this interval; NaN if x is anything else"""
    cdef double value = x if type(x) is float else NAN
    return value if least <= value <= most else NAN


def softmax_cross_entropy_at_once(logits, labels, class_weight, sample_weight, label_smoothing, lse_square_scale, softcap, grad,
                                  n_threads):
    """The mean error of labels, its gradient in `grad` or a new array, and the sum of the weights. Returns None and does nothing
    if any argument is not plain and valid."""
    cdef Matrix z, t, d, of_classes, of_rows
    cdef Rows r
    cdef const double *weight = NULL
    cdef double loss, weight_sum
    cdef int threads = plain_threads(n_threads)
    cdef bint in_use = grad is not None  # the memory of the gradient
    dtype = plain_dtype(logits)
    if threads == 0 or dtype is None or not plain_matrix(logits, dtype, &z) or not plain_labels(labels, &t):
        return None
    if t.rows != z.rows or not labels_within(t, z.columns, IGNORE_INDEX):
        return None
    memset(&r, 0, sizeof(r))
    r.smoothing, r.lse_square_scale = option(label_smoothing, 0, 1), option(lse_square_scale, 0, DBL_MAX)
    if softcap is not None:
        r.softcap = option(softcap, FLT_MIN, FLT_MAX) if z.element == sizeof(float) else option(softcap, DBL_MIN, DBL_MAX)
    if isnan(r.smoothing) or isnan(r.lse_square_scale) or isnan(r.softcap):
        return None
    of_classes = of_rows = t  # placeholders if there are no weights
    if class_weight is not None:
        class_weight = plain_weights(class_weight, &of_classes, &weight)
        if class_weight is None or of_classes.rows != z.columns:
            return None
    if sample_weight is not None:
        sample_weight = plain_weights(sample_weight, &of_rows, &r.sample_weight)
        if sample_weight is None or of_rows.rows != z.rows:
            return None
    if grad is None:
        grad = new_matrix(z.rows, z.columns, z.element, &in_use)
        plain_matrix(grad, dtype, &d)
    elif not plain_output(grad, dtype, &d) or d.rows != z.rows or d.columns != z.columns:
        return None
    elif not (apart(d, t) and apart(d, of_classes) and apart(d, of_rows) and (d.data == z.data or apart(d, z))):
        return None
    r.element, r.N, r.C, r.ignores, r.ignore_index = z.element, z.rows, z.columns, True, IGNORE_INDEX
    set_class_weight(&r, weight)
    r.z, r.z_row, r.d, r.d_row, r.labels = z.data, z.row, d.data, d.row, <const int64_t *>t.data
    r.reused = in_use and d.data != z.data
    loss = evaluate_for_python(&r, SOFTMAX, True, NULL, threads, &weight_sum)
    return scalar_of(loss, dtype), grad, weight_sum


cdef Rows sigmoid_rows(logits, targets, pos_weight, sample_weight, double label_smoothing, grad) except *:
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    r.pos_weight = <const double *>vector_of(pos_weight, READ)
    r.smoothing = label_smoothing
    return r


def sigmoid_cross_entropy(logits, targets, pos_weight, sample_weight, double label_smoothing, bint mean, losses, grad,
                          int n_threads):
    cdef Rows r = sigmoid_rows(logits, targets, pos_weight, sample_weight, label_smoothing, grad)
    return answer(&r, SIGMOID, mean, losses, n_threads)


def sigmoid_cross_entropy_hessian(logits, targets, pos_weight, sample_weight, double label_smoothing, hessian, bint mean, losses,
                                  grad, int n_threads):
    cdef Rows r = sigmoid_rows(logits, targets, pos_weight, sample_weight, label_smoothing, grad)
    set_hessian(&r, hessian)
    return answer(&r, SIGMOID, mean, losses, n_threads)


def elementwise_error(outputs, targets, sample_weight, str error, double parameter, bint mean, losses, grad, int n_threads):
    cdef Rows r = rows_of(outputs, targets, sample_weight, grad)
    cdef RowError row_error = row_error_named(error)
    row_error.parameter = parameter
    return answer(&r, row_error, mean, losses, n_threads)
