"""The error functions: which rows are read, with what weight, on which threads, and how their errors are reduced.

A. What is computed of a row is a primitive of src_c/rows; here is only what lies between rows. So results do not depend on
   threads: a row's gradient is its own, and the rows' errors are summed in their order, in float64 and compensated.
B. Everything about a call stands in one struct, `Rows`, without a dtype: the functions below are compiled once, and the
   network trains through the same ones.
C. A row that is ignored or has weight 0 is not read.
D. Long calls run in slices, between which pending signals are seen.
"""

from cpython.buffer cimport PyBUF_ND, PyBUF_STRIDED, PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.math cimport NAN, fabs, isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.dispatch cimport fbp_cross_entropy, kernels_for, threads_for

cdef double ELEMENT_WORK = 0.5  # nanoseconds that one thread needs for an element, roughly; ten without vector instructions
cdef double SLICE = 4e6         # nanoseconds, at that rate, between two looks at pending signals
cdef Py_ssize_t PIECES = 4      # of a slice, for each thread


# A sum and what its roundings lost: A. Neumaier, ZAMM 54 (1974). Its error does not grow with the number of terms.
cdef struct Sum:
    double rounded, lost


cdef inline void add(Sum *sum, double x) noexcept nogil:
    cdef double to = sum.rounded + x
    if fabs(sum.rounded) >= fabs(x):
        sum.lost += (sum.rounded - to) + x
    else:
        sum.lost += (x - to) + sum.rounded
    sum.rounded = to


cdef inline double value(Sum sum) noexcept nogil:
    return sum.rounded + sum.lost if isfinite(sum.rounded) else sum.rounded


# -- rows of one error -----------------------------------------------------------------------------------------------------------


ctypedef double (*Error)(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil


cdef inline void each_row(Error error, const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    """errors_n = s_n E_n, its gradient over the divisor; a row of weight 0 is not read."""
    cdef char *slope = s.rows + p.thread * r.C * r.element
    cdef double weight
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        weight = sample_weight_of(r, n)
        if weight == 0:
            memset(r.d + n * r.d_row, 0, r.C * r.element)
            s.errors[n] = 0
        else:
            s.errors[n] = weight * error(r, s, n, weight / p.divisor, slope)


cdef double softmax_cross_entropy_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil:
    cdef const char *t = NULL if r.t == NULL else r.t + n * r.t_row
    cdef Py_ssize_t label = 0 if r.labels == NULL else r.labels[n]
    cdef fbp_cross_entropy how = fbp_cross_entropy(s.weight, r.smoothing, r.lse_square_scale, r.softcap)
    return r.k.softmax_cross_entropy_row(r.C, r.z + n * r.z_row, t, label, &how, scale, slope, r.d + n * r.d_row)


cdef double sigmoid_cross_entropy_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil:
    return r.k.sigmoid_cross_entropy_row(r.C, r.z + n * r.z_row, r.t + n * r.t_row, s.weight, r.smoothing, scale,
                                         r.d + n * r.d_row)


cdef double squared_error_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil:
    return r.k.squared_error_row(r.C, r.z + n * r.z_row, r.t + n * r.t_row, scale, r.d + n * r.d_row)


cdef double sigmoid_squared_error_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil:
    return r.k.sigmoid_squared_error_row(r.C, r.z + n * r.z_row, r.t + n * r.t_row, scale, r.d + n * r.d_row)


cdef double poisson_deviance_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, void *slope) noexcept nogil:
    return r.k.poisson_deviance_row(r.C, r.z + n * r.z_row, r.t + n * r.t_row, scale, r.d + n * r.d_row)


cdef void softmax_cross_entropy_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    cdef double *errors = s.errors + p.start
    if r.labels == NULL or r.smoothing != 0 or r.lse_square_scale != 0 or r.softcap != 0 or s.weight_of_0:
        each_row(softmax_cross_entropy_row, r, s, p)
    else:
        r.k.softmax_cross_entropy_rows(p.stop - p.start, r.C, r.z + p.start * r.z_row, r.z_row // r.element, r.labels + p.start,
                                       errors, p.divisor, r.d + p.start * r.d_row, r.d_row // r.element, errors)


cdef void sigmoid_cross_entropy_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    each_row(sigmoid_cross_entropy_row, r, s, p)


cdef void squared_error_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    each_row(squared_error_row, r, s, p)


cdef void sigmoid_squared_error_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    each_row(sigmoid_squared_error_row, r, s, p)


cdef void poisson_deviance_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    each_row(poisson_deviance_row, r, s, p)


cdef RowError row_error_named(str name) except NULL:
    if name == "softmax_cross_entropy":
        return softmax_cross_entropy_rows
    if name == "sigmoid_cross_entropy":
        return sigmoid_cross_entropy_rows
    if name == "squared_error":
        return squared_error_rows
    if name == "sigmoid_squared_error":
        return sigmoid_squared_error_rows
    return poisson_deviance_rows


# -- the weights of rows ---------------------------------------------------------------------------------------------------


cdef inline double element_at(const char *x, Py_ssize_t i, Py_ssize_t element) noexcept nogil:
    return (<const float *>x)[i] if element == sizeof(float) else (<const double *>x)[i]


cdef inline void set_element(char *x, Py_ssize_t i, Py_ssize_t element, double to) noexcept nogil:
    if element == sizeof(float):
        (<float *>x)[i] = <float>to
    else:
        (<double *>x)[i] = to


cdef double class_weight_of(const Rows *r, Py_ssize_t n) noexcept nogil:
    """w_label, or Σ_c w_c t_c / Σ_c t_c, the mean class weight under a row of targets; 1 where they sum to 0."""
    if r.t == NULL:
        return r.class_weight[r.labels[n]]
    cdef Sum weighted = Sum(0, 0), total = Sum(0, 0)
    cdef double t
    cdef Py_ssize_t c
    for c in range(r.C):
        t = element_at(r.t + n * r.t_row, c, r.element)
        add(&weighted, r.class_weight[c] * t)
        add(&total, t)
    return 1 if value(total) == 0 else value(weighted) / value(total)


cdef inline double sample_weight_of(const Rows *r, Py_ssize_t n) noexcept nogil:
    """s_n; 0 for an ignored row."""
    if r.labels != NULL and r.labels[n] == r.ignore_index:
        return 0
    return 1 if r.sample_weight == NULL else r.sample_weight[n]


cdef void weights_of_rows(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    """errors_n = w_n = s_n times the class weight of row n's target"""
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        s.errors[n] = sample_weight_of(r, n)
        if r.class_weight != NULL and s.errors[n] != 0:
            s.errors[n] *= class_weight_of(r, n)


cdef void rows_of_zeros(const Rows *r, const Scratch *s, Piece p) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(p.start, p.stop):
        memset(r.d + n * r.d_row, 0, r.C * r.element)


# -- all rows --------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t scratch_bytes(const Rows *r, int n_threads) noexcept nogil:
    return r.N * <Py_ssize_t>sizeof(double) + (1 + row_threads(r, n_threads)) * r.C * r.element


cdef Scratch divided(const Rows *r, char *memory) noexcept nogil:
    """`memory` of scratch_bytes divided into its parts, the class weights filled in."""
    cdef Scratch s
    cdef const double *weight = r.class_weight if r.class_weight != NULL else r.pos_weight
    cdef Py_ssize_t c
    s.errors = <double *>memory
    s.weight = <char *>(s.errors + r.N)
    s.rows = s.weight + r.C * r.element
    s.weight_of_0 = False
    if weight == NULL:
        s.weight = NULL
    else:
        for c in range(r.C):
            set_element(s.weight, c, r.element, weight[c])
            s.weight_of_0 = s.weight_of_0 or weight[c] == 0
    return s


cdef int row_threads(const Rows *r, int n_threads) noexcept nogil:
    return threads_for(n_threads, ELEMENT_WORK * (r.C + 16) * r.N)


cdef int over_rows(RowError error, const Rows *r, const Scratch *s, double divisor, int threads) except -1 nogil:
    """All rows, in slices; a slice of several threads in pieces, more than threads, so that none waits long for the others."""
    cdef Py_ssize_t start = 0, stop, pieces, i, step = <Py_ssize_t>(SLICE / (ELEMENT_WORK * (r.C + 16))) + 1
    while start < r.N:
        stop = min(start + step * threads, r.N)
        if threads == 1:
            error(r, s, Piece(start, stop, divisor, 0))
        else:
            pieces = min(stop - start, PIECES * threads)
            for i in prange(pieces, schedule="dynamic", num_threads=threads):
                error(r, s, Piece(start + (stop - start) * i // pieces, start + (stop - start) * (i + 1) // pieces, divisor,
                                  threadid()))
        start = stop
        if start < r.N:
            with gil:
                PyErr_CheckSignals()
    return 0


cdef double sum_of_rows(const Rows *r, const Scratch *s) noexcept nogil:
    cdef Sum total = Sum(0, 0)
    cdef Py_ssize_t n
    for n in range(r.N):
        add(&total, s.errors[n])
    return value(total)


cdef double reduced(const Rows *r, RowError error, bint mean, int n_threads, char *memory, double *weight_sum) except? -1 nogil:
    """The mean or sum of the rows' errors; their gradients to d, weight_sum, and the weighted errors at the start of `memory`."""
    cdef Scratch s = divided(r, memory)
    cdef int threads = row_threads(r, n_threads)
    # the weights of a row of targets take a pass over it; all others are looked up
    over_rows(weights_of_rows, r, &s, 1, threads if r.class_weight != NULL and r.t != NULL else 1)
    weight_sum[0] = sum_of_rows(r, &s)
    if mean and weight_sum[0] == 0:
        over_rows(rows_of_zeros, r, &s, 1, threads)
        return NAN
    over_rows(error, r, &s, weight_sum[0] if mean else 1, threads)
    return sum_of_rows(r, &s) / weight_sum[0] if mean else sum_of_rows(r, &s)


cdef char *buffer_of(x, Py_buffer *view, int flags) except? NULL:
    """The address of x, which the caller keeps alive; shape and strides in `view`. It arrives checked, so the buffer is asked for
    no format: a memoryview of a dtype would take five times as long."""
    PyObject_GetBuffer(x, view, flags)
    PyBuffer_Release(view)
    return <char *>view.buf


cdef char *vector_of(x, Py_ssize_t *size) except? NULL:
    """The address of a contiguous vector; NULL for None"""
    cdef Py_buffer view
    if x is None:
        return NULL
    cdef char *data = buffer_of(x, &view, PyBUF_ND)
    size[0] = view.shape[0]
    return data


cdef struct Matrix:
    char *data
    Py_ssize_t rows, columns, row, element


cdef Matrix matrix_of(x, int flags=PyBUF_STRIDED_RO) except *:
    """Rows of elements, `row` bytes apart"""
    cdef Py_buffer view
    cdef char *data = buffer_of(x, &view, flags)
    return Matrix(data, view.shape[0], view.shape[1], view.strides[0], view.itemsize)


cdef Rows rows_of(z, t, sample_weight, d) except *:
    cdef Matrix from_ = matrix_of(z), to = matrix_of(d, PyBUF_STRIDED), rows
    cdef Py_ssize_t size
    cdef Rows r
    memset(&r, 0, sizeof(r))
    r.element, r.N, r.C = from_.element, from_.rows, from_.columns
    r.z, r.z_row, r.d, r.d_row = from_.data, from_.row, to.data, to.row
    if t is not None:
        rows = matrix_of(t)
        r.t, r.t_row = rows.data, rows.row
    r.sample_weight = <const double *>vector_of(sample_weight, &size)
    return r


cdef tuple evaluate(Rows *r, str name, bint mean, losses, int n_threads):
    """Run `reduced` in memory of its own and hand out what the public functions return."""
    cdef double loss, weight_sum = 0
    cdef Py_ssize_t n, size
    cdef char *each = vector_of(losses, &size)
    cdef RowError error = row_error_named(name)
    cdef char *memory = <char *>malloc(scratch_bytes(r, n_threads) + 1)
    if memory == NULL:
        raise MemoryError(f"{name}: no memory for the scratch of {r.N} rows of {r.C}")
    r.k = kernels_for(r.element)
    try:
        with nogil:
            loss = reduced(r, error, mean, n_threads, memory, &weight_sum)
            if each != NULL:
                for n in range(r.N):
                    set_element(each, n, r.element, (<double *>memory)[n])
    finally:
        free(memory)
    return loss, weight_sum


def first_bad_label(labels, int64_t n_classes, int64_t ignore_index):
    cdef Py_ssize_t n, size, bad = -1
    cdef const int64_t *at = <const int64_t *>vector_of(labels, &size)
    with nogil:
        for n in range(size):
            if not 0 <= at[n] < n_classes and at[n] != ignore_index:
                bad = n
                break
    return bad


def softmax_cross_entropy(logits, labels, targets, class_weight, sample_weight, int64_t ignore_index, double label_smoothing,
                          double lse_square_scale, double softcap, bint mean, losses, grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    cdef Py_ssize_t size
    r.labels = <const int64_t *>vector_of(labels, &size)
    r.class_weight = <const double *>vector_of(class_weight, &size)
    r.ignore_index = ignore_index
    r.smoothing, r.lse_square_scale, r.softcap = label_smoothing, lse_square_scale, softcap
    return evaluate(&r, "softmax_cross_entropy", mean, losses, n_threads)


def sigmoid_cross_entropy(logits, targets, pos_weight, sample_weight, double label_smoothing, bint mean, losses, grad,
                          int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    cdef Py_ssize_t size
    r.pos_weight = <const double *>vector_of(pos_weight, &size)
    r.smoothing = label_smoothing
    return evaluate(&r, "sigmoid_cross_entropy", mean, losses, n_threads)


def squared_error(outputs, targets, sample_weight, bint mean, losses, grad, int n_threads):
    cdef Rows r = rows_of(outputs, targets, sample_weight, grad)
    return evaluate(&r, "squared_error", mean, losses, n_threads)


def sigmoid_squared_error(logits, targets, sample_weight, bint mean, losses, grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    return evaluate(&r, "sigmoid_squared_error", mean, losses, n_threads)


def poisson_deviance(logits, targets, sample_weight, bint mean, losses, grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    return evaluate(&r, "poisson_deviance", mean, losses, n_threads)
