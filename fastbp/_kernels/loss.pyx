"""The error functions: which rows are read, with what weight, on which threads, and how their errors are reduced.

A. One row is one call of a primitive of src_c/rows; here is only what lies between rows. So results do not depend on threads:
   a row's gradient is its own, and the rows' errors are summed in their order, in float64 and compensated.
B. Everything about a call stands in one struct, `Rows`, without a dtype: the functions below are compiled once, and the
   network trains through the same ones.
C. A row that is ignored or has weight 0 is not read.
D. Long calls run in slices, between which pending signals are seen.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.math cimport NAN, fabs, isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.dispatch cimport kernels_for, real, threads_for

cdef double ELEMENT_WORK = 1.0  # nanoseconds that one thread needs for an element, roughly; twenty without vector instructions
cdef double SLICE = 4e6         # nanoseconds, at that rate, between two looks at pending signals


cdef inline void add(Sum *sum, double x) noexcept nogil:
    cdef double to = sum.rounded + x
    if fabs(sum.rounded) >= fabs(x):
        sum.lost += (sum.rounded - to) + x
    else:
        sum.lost += (x - to) + sum.rounded
    sum.rounded = to


cdef double value(Sum sum) noexcept nogil:
    return sum.rounded + sum.lost if isfinite(sum.rounded) else sum.rounded


# -- one row ---------------------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t example(const Rows *r, Py_ssize_t n) noexcept nogil:
    return n if r.order == NULL else r.order[n]


cdef inline const char *target(const Rows *r, Py_ssize_t n) noexcept nogil:
    return r.t + example(r, n) * r.t_row


cdef double softmax_cross_entropy_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    cdef const void *z = r.z + n * r.z_row
    cdef const void *t = NULL
    cdef void *d = r.d + n * r.d_row
    cdef Py_ssize_t label = 0, row = r.C * r.element
    cdef char *u = s.rows + 2 * row * thread
    cdef double w = 1
    if r.t != NULL:
        t = target(r, n)
    else:
        label = r.labels[example(r, n)]
        if r.smoothing == 0 and r.lse_square_scale == 0 and r.softcap == 0:
            if r.class_weight != NULL:
                w = r.class_weight[label]
            if w != 0:  # 0 times an infinite error is 0: the general form below knows
                return w * r.k.softmax_cross_entropy_row(r.C, z, label, scale * w, d)
    r.k.effective_targets_row(r.C, t, label, s.weight, r.smoothing, u)
    return r.k.softmax_cross_entropy_targets_row(r.C, z, u, r.softcap, r.lse_square_scale, scale, u + row, d)


cdef double sigmoid_cross_entropy_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    return r.k.sigmoid_cross_entropy_row(r.C, r.z + n * r.z_row, target(r, n), s.weight, r.smoothing, scale,
                                         r.d + n * r.d_row)


cdef double squared_error_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    return r.k.squared_error_row(r.C, r.z + n * r.z_row, target(r, n), scale, r.d + n * r.d_row)


cdef double sigmoid_squared_error_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    return r.k.sigmoid_squared_error_row(r.C, r.z + n * r.z_row, target(r, n), scale, r.d + n * r.d_row)


cdef double poisson_deviance_row(const Rows *r, const Scratch *s, Py_ssize_t n, double scale, int thread) noexcept nogil:
    return r.k.poisson_deviance_row(r.C, r.z + n * r.z_row, target(r, n), scale, r.d + n * r.d_row)


cdef RowError row_error_named(str name) except NULL:
    if name == "softmax_cross_entropy":
        return softmax_cross_entropy_row
    if name == "sigmoid_cross_entropy":
        return sigmoid_cross_entropy_row
    if name == "squared_error":
        return squared_error_row
    if name == "sigmoid_squared_error":
        return sigmoid_squared_error_row
    return poisson_deviance_row


# -- the weights of rows ---------------------------------------------------------------------------------------------------


cdef inline double element_at(const char *x, Py_ssize_t i, Py_ssize_t element) noexcept nogil:
    return (<const float *>x)[i] if element == sizeof(float) else (<const double *>x)[i]


cdef double class_weight_of(const Rows *r, Py_ssize_t n) noexcept nogil:
    """w_label, or Σ_c w_c t_c / Σ_c t_c, the mean class weight under a row of targets; 1 where they sum to 0."""
    if r.t == NULL:
        return r.class_weight[r.labels[example(r, n)]]
    cdef Sum weighted = Sum(0, 0), total = Sum(0, 0)
    cdef double t
    cdef Py_ssize_t c
    for c in range(r.C):
        t = element_at(target(r, n), c, r.element)
        add(&weighted, r.class_weight[c] * t)
        add(&total, t)
    return 1 if value(total) == 0 else value(weighted) / value(total)


cdef inline double sample_weight_of(const Rows *r, Py_ssize_t n) noexcept nogil:
    """s_n; 0 for an ignored row."""
    cdef Py_ssize_t i = example(r, n)
    if r.labels != NULL and r.labels[i] == r.ignore_index:
        return 0
    return 1 if r.sample_weight == NULL else r.sample_weight[i]


cdef bint is_read(const Rows *r, Py_ssize_t n) noexcept nogil:
    return sample_weight_of(r, n) != 0


cdef void row_weight(const Rows *r, const Scratch *s, RowError error, Py_ssize_t n, double divisor, int thread) noexcept nogil:
    """w_n = s_n times the class weight of row n's target"""
    cdef double weight = sample_weight_of(r, n)
    s.errors[n] = weight if weight == 0 or r.class_weight == NULL else weight * class_weight_of(r, n)


cdef void row_of_zeros(const Rows *r, const Scratch *s, RowError error, Py_ssize_t n, double divisor, int thread) noexcept nogil:
    memset(r.d + n * r.d_row, 0, r.C * r.element)


cdef void row_gradient(const Rows *r, const Scratch *s, RowError error, Py_ssize_t n, double divisor, int thread) noexcept nogil:
    """s_n E_n, and its gradient over `divisor`; a row of weight 0 is not read."""
    cdef double weight = sample_weight_of(r, n)
    if weight == 0:
        row_of_zeros(r, s, error, n, divisor, thread)
        s.errors[n] = 0
    else:
        s.errors[n] = weight * error(r, s, n, weight / divisor, thread)


# -- all rows --------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t scratch_bytes(const Rows *r, int n_threads) noexcept nogil:
    return r.N * <Py_ssize_t>sizeof(double) + (1 + 2 * row_threads(r, n_threads)) * r.C * r.element


cdef Scratch divided(const Rows *r, char *memory) noexcept nogil:
    """`memory` of scratch_bytes divided into its parts, the class weights filled in."""
    cdef Scratch s
    cdef const double *weight = r.class_weight if r.class_weight != NULL else r.pos_weight
    cdef Py_ssize_t c
    s.errors = <double *>memory
    s.weight = <char *>(s.errors + r.N)
    s.rows = s.weight + r.C * r.element
    if weight == NULL:
        s.weight = NULL
    else:
        for c in range(r.C):
            if r.element == sizeof(float):
                (<float *>s.weight)[c] = <float>weight[c]
            else:
                (<double *>s.weight)[c] = weight[c]
    return s


ctypedef void (*RowTask)(const Rows *r, const Scratch *s, RowError error, Py_ssize_t n, double divisor, int thread) noexcept nogil


cdef int row_threads(const Rows *r, int n_threads) noexcept nogil:
    return threads_for(n_threads, ELEMENT_WORK * (r.C + 16) * r.N)


cdef int over_rows(RowTask task, const Rows *r, const Scratch *s, RowError error, double divisor, int threads) except -1 nogil:
    cdef Py_ssize_t n, start = 0, stop, step = <Py_ssize_t>(SLICE / (ELEMENT_WORK * (r.C + 16))) + 1
    while start < r.N:
        stop = min(start + step * threads, r.N)
        if threads == 1:
            for n in range(start, stop):
                task(r, s, error, n, divisor, 0)
        else:
            for n in prange(start, stop, schedule="static", num_threads=threads):
                task(r, s, error, n, divisor, threadid())
        start = stop
        if start < r.N:
            with gil:
                PyErr_CheckSignals()
    return 0


cdef void add_rows(const Rows *r, const Scratch *s, Sum *total) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(r.N):
        add(total, s.errors[n])


cdef int add_weights(const Rows *r, int n_threads, char *memory, Sum *total) except -1 nogil:
    cdef Scratch s = divided(r, memory)
    # the weights of a row of targets take a pass over it; all others are looked up
    over_rows(row_weight, r, &s, NULL, 1, row_threads(r, n_threads) if r.class_weight != NULL and r.t != NULL else 1)
    add_rows(r, &s, total)
    return 0


cdef int add_errors(const Rows *r, RowError error, double divisor, int n_threads, char *memory, Sum *total) except -1 nogil:
    cdef Scratch s = divided(r, memory)
    over_rows(row_gradient, r, &s, error, divisor, row_threads(r, n_threads))
    add_rows(r, &s, total)
    return 0


cdef double reduced(const Rows *r, RowError error, bint mean, int n_threads, char *memory, double *weight_sum) except? -1 nogil:
    """The mean or sum of the rows' errors; their gradients to d, weight_sum, and the weighted errors at the start of `memory`."""
    cdef Scratch s
    cdef Sum weights = Sum(0, 0), errors = Sum(0, 0)
    add_weights(r, n_threads, memory, &weights)
    weight_sum[0] = value(weights)
    if mean and weight_sum[0] == 0:
        s = divided(r, memory)
        over_rows(row_of_zeros, r, &s, error, 1, row_threads(r, n_threads))
        return NAN
    add_errors(r, error, weight_sum[0] if mean else 1, n_threads, memory, &errors)
    return value(errors) / weight_sum[0] if mean else value(errors)


cdef tuple evaluate(Rows *r, str name, bint mean, real[::1] losses, int n_threads):
    """Run `reduced` in memory of its own and hand out what the public functions return."""
    cdef double loss, weight_sum = 0
    cdef Py_ssize_t n
    cdef char *memory = <char *>malloc(scratch_bytes(r, n_threads) + 1)
    if memory == NULL:
        raise MemoryError(f"{name}: no memory for the scratch of {r.N} rows of {r.C}")
    cdef RowError error = row_error_named(name)
    r.k = kernels_for(sizeof(real))
    try:
        with nogil:
            loss = reduced(r, error, mean, n_threads, memory, &weight_sum)
        if losses is not None:
            for n in range(r.N):
                losses[n] = <real>(<double *>memory)[n]
    finally:
        free(memory)
    return loss, weight_sum


cdef Rows rows_of(const real[:, :] z, const real[:, :] t, const double[::1] sample_weight, real[:, :] d) noexcept:
    cdef Rows r
    memset(&r, 0, sizeof(r))
    r.element = sizeof(real)
    r.N, r.C = z.shape[0], z.shape[1]
    r.z_row, r.d_row = z.strides[0], d.strides[0]
    if r.N > 0 and r.C > 0:
        r.z, r.d = <const char *>&z[0, 0], <char *>&d[0, 0]
        if t is not None:
            r.t, r.t_row = <const char *>&t[0, 0], t.strides[0]
    if sample_weight is not None and r.N > 0:
        r.sample_weight = &sample_weight[0]
    return r


def first_bad_label(const int64_t[::1] labels, int64_t n_classes, int64_t ignore_index):
    cdef Py_ssize_t n, bad = -1
    with nogil:
        for n in range(labels.shape[0]):
            if not 0 <= labels[n] < n_classes and labels[n] != ignore_index:
                bad = n
                break
    return bad


def softmax_cross_entropy(const real[:, :] logits, const int64_t[::1] labels, const real[:, :] targets,
                          const double[::1] class_weight, const double[::1] sample_weight, int64_t ignore_index,
                          double label_smoothing, double lse_square_scale, double softcap, bint mean, real[::1] losses,
                          real[:, :] grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    if labels is not None and r.N > 0:
        r.labels = &labels[0]
    if class_weight is not None and r.C > 0:
        r.class_weight = &class_weight[0]
    r.ignore_index = ignore_index
    r.smoothing, r.lse_square_scale, r.softcap = label_smoothing, lse_square_scale, softcap
    return evaluate[real](&r, "softmax_cross_entropy", mean, losses, n_threads)


def sigmoid_cross_entropy(const real[:, :] logits, const real[:, :] targets, const double[::1] pos_weight,
                          const double[::1] sample_weight, double label_smoothing, bint mean, real[::1] losses,
                          real[:, :] grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    if pos_weight is not None and r.C > 0:
        r.pos_weight = &pos_weight[0]
    r.smoothing = label_smoothing
    return evaluate[real](&r, "sigmoid_cross_entropy", mean, losses, n_threads)


def squared_error(const real[:, :] outputs, const real[:, :] targets, const double[::1] sample_weight, bint mean,
                  real[::1] losses, real[:, :] grad, int n_threads):
    cdef Rows r = rows_of(outputs, targets, sample_weight, grad)
    return evaluate[real](&r, "squared_error", mean, losses, n_threads)


def sigmoid_squared_error(const real[:, :] logits, const real[:, :] targets, const double[::1] sample_weight, bint mean,
                          real[::1] losses, real[:, :] grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    return evaluate[real](&r, "sigmoid_squared_error", mean, losses, n_threads)


def poisson_deviance(const real[:, :] logits, const real[:, :] targets, const double[::1] sample_weight, bint mean,
                     real[::1] losses, real[:, :] grad, int n_threads):
    cdef Rows r = rows_of(logits, targets, sample_weight, grad)
    return evaluate[real](&r, "poisson_deviance", mean, losses, n_threads)
