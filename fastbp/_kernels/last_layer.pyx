"""The last layer and its error in one, block of rows by block of rows: the logits of all rows never exist at once.

A. For each block three products and the error between them, in the block's logits: Z = X W + b; its rows become deltas; then
   db += Σ δ, dW += Xᵀ δ, dX = δ Wᵀ. Nothing is computed twice, and a row's error and deltas are those of the functions of
   loss.pyx, to the bit. What a mean divides by is known before any logit: the weights depend on the targets alone.
B. Rows that are not read are left out of the blocks: they cost nothing, and a NaN in them has nowhere to go. Where there are such
   rows, the others are gathered, and the gradients of their inputs scattered.
C. The blocks follow from the shape and max_memory, never from the number of threads, which share what is left beside the logits.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.math cimport NAN
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, LINE, kernels_for, line_start, real, threads_for, whole_lines
from fastbp._kernels.linear cimport Product, multiply, part_of, product_scratch, product_threads
from fastbp._kernels.loss cimport (
    RowError, Rows, Sum, add_errors, add_weights, is_read, row_error_named, scratch_bytes, value,
)

from numpy import empty

cdef double POLL_WORK = 2e7        # nanoseconds of work between two looks at pending signals
cdef double OPERATION_WORK = 0.03  # nanoseconds of a multiply-add, roughly
cdef double ELEMENT_WORK = 0.3     # and of an element that is added to a sum
cdef Py_ssize_t COLUMNS = 256      # of δ that a thread sums up at a time
cdef Py_ssize_t TILES = 16         # of columns that a thread packs at a time: more take memory and save no time
cdef Py_ssize_t FOR_THREADS = 8    # this part of the memory, one eighth, is scratch at least


# -- one block ---------------------------------------------------------------------------------------------------------------


cdef Product empty_product(const LastLayer *layer, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K) noexcept nogil:
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.k, p.element = layer.rows.k, layer.rows.element
    p.M, p.N, p.K = M, N, K
    p.by_rows = M >= N
    p.epilogue.activation = FBP_IDENTITY
    return p


cdef Product logits_of(const LastLayer *layer, Py_ssize_t rows, const char *x, Py_ssize_t x_row, char *z) noexcept nogil:
    """Z (rows, C) = X W + b"""
    cdef Product p = empty_product(layer, rows, layer.rows.C, layer.inputs)
    p.A, p.A_row, p.A_column = x, x_row, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_row, layer.w_column
    p.C, p.C_row = z, p.N
    p.epilogue.bias = layer.bias
    return p


cdef Product grad_w_of(const LastLayer *layer, Py_ssize_t rows, const char *x, Py_ssize_t x_row, const char *delta,
                       bint first) noexcept nogil:
    """dW (I, C) = Xᵀ δ, or its transpose (C, I) = δᵀ X; from the second block on added to what stands there"""
    cdef Py_ssize_t C = layer.rows.C
    cdef Product p
    if layer.transposed:
        p = empty_product(layer, C, layer.inputs, rows)
        p.A, p.A_row, p.A_column = delta, 1, C
        p.B, p.B_row, p.B_column = x, x_row, 1
    else:
        p = empty_product(layer, layer.inputs, C, rows)
        p.A, p.A_row, p.A_column = x, 1, x_row
        p.B, p.B_row, p.B_column = delta, C, 1
    p.C, p.C_row = layer.grad_w, layer.grad_w_row
    p.epilogue.accumulate = not first
    return p


cdef Product grad_x_of(const LastLayer *layer, Py_ssize_t rows, const char *delta, char *out, Py_ssize_t out_row) noexcept nogil:
    """dX (rows, I) = δ Wᵀ"""
    cdef Product p = empty_product(layer, rows, layer.inputs, layer.rows.C)
    p.A, p.A_row, p.A_column = delta, p.K, 1
    p.B, p.B_row, p.B_column = layer.w, layer.w_column, layer.w_row
    p.C, p.C_row = out, out_row
    return p


cdef Rows rows_of_block(const LastLayer *layer, Py_ssize_t rows, const Blocks *b) noexcept nogil:
    cdef Rows r = layer.rows
    r.N, r.order = rows, b.order
    r.z = b.z
    r.d = b.z
    r.z_row = r.d_row = r.C * r.element
    return r


cdef void add_column_sums(const LastLayer *layer, Py_ssize_t rows, const Blocks *b, bint first, int n_threads) noexcept nogil:
    """db (C) = Σ_n δ_n, from the second block on added to what stands there"""
    cdef Py_ssize_t element = layer.rows.element, C = layer.rows.C, c, start, count
    cdef char *sums = layer.grad_bias if first else b.scratch
    cdef int threads = threads_for(n_threads, ELEMENT_WORK * rows * C)
    for start in prange(0, C, COLUMNS, schedule="static", num_threads=threads):
        count = min(COLUMNS, C - start)
        layer.rows.k.column_sums(rows, count, b.z + start * element, C, sums + start * element)
        if not first:
            for c in range(start, start + count):
                if element == sizeof(float):
                    (<float *>layer.grad_bias)[c] = (<float *>layer.grad_bias)[c] + (<float *>sums)[c]
                else:
                    (<double *>layer.grad_bias)[c] = (<double *>layer.grad_bias)[c] + (<double *>sums)[c]


# -- blocks and their work space ---------------------------------------------------------------------------------------------


cdef Py_ssize_t rows_read(const LastLayer *layer) noexcept nogil:
    cdef Py_ssize_t n, read = 0
    for n in range(layer.rows.N):
        read += is_read(&layer.rows, n)
    return read


cdef Py_ssize_t bytes_of_rows(const LastLayer *layer, Py_ssize_t rows, bint gather) noexcept nogil:
    """What a block of `rows` rows holds, scratch apart"""
    cdef Py_ssize_t element = layer.rows.element
    return whole_lines(rows * layer.rows.C * element) + whole_lines(rows * layer.inputs * element * gather) + \
        whole_lines(rows * <Py_ssize_t>sizeof(Py_ssize_t))


cdef Product slice_of(const Product *p, Py_ssize_t start, int threads) noexcept nogil:
    """As many columns as `threads` threads pack at a time, from `start` on; the whole of a product that they cut by rows"""
    return p[0] if p.by_rows else part_of(p, start, min(p.N - start, threads * TILES * p.k.tile_columns()))


cdef Py_ssize_t slice_scratch(const Product *p, int threads) noexcept nogil:
    cdef Product slice = slice_of(p, 0, threads)
    return product_scratch(&slice, threads)


cdef Py_ssize_t scratch_of(const LastLayer *layer, Py_ssize_t rows, int n_threads) noexcept nogil:
    """Bytes of scratch for a block of `rows` rows and all the threads that pay, of at most n_threads"""
    cdef Blocks nowhere
    memset(&nowhere, 0, sizeof(nowhere))
    cdef Rows r = rows_of_block(layer, rows, &nowhere)
    cdef Product z = logits_of(layer, rows, NULL, 0, NULL), w = grad_w_of(layer, rows, NULL, 0, NULL, True)
    cdef Product x = grad_x_of(layer, rows, NULL, NULL, 0)
    cdef Py_ssize_t most = scratch_bytes(&r, n_threads)
    most = max(most, slice_scratch(&z, product_threads(&z, n_threads)))
    most = max(most, slice_scratch(&w, product_threads(&w, n_threads)))
    return whole_lines(max(most, slice_scratch(&x, product_threads(&x, n_threads))))


cdef Py_ssize_t least_memory(const LastLayer *layer) noexcept nogil:
    return bytes_of_rows(layer, 1, rows_read(layer) < layer.rows.N) + scratch_of(layer, 1, 1)


cdef bint fit(const LastLayer *layer, Py_ssize_t rows, bint gather, Py_ssize_t max_memory) noexcept nogil:
    """Whether so many rows leave room for one thread, and what is set aside for threads."""
    return bytes_of_rows(layer, rows, gather) + max(scratch_of(layer, rows, 1), max_memory // FOR_THREADS) <= max_memory


cdef Py_ssize_t lay_out(const LastLayer *layer, Py_ssize_t max_memory, int n_threads, char *base, Blocks *b) noexcept nogil:
    cdef Py_ssize_t low = 1, high, middle, rows, at = 0
    b.read = rows_read(layer)
    cdef bint gather = b.read < layer.rows.N
    high = b.read + 1
    while high - low > 1:  # `low` rows fit or are 1, `high` are too many
        middle = low + (high - low) // 2
        if fit(layer, middle, gather, max_memory):
            low = middle
        else:
            high = middle
    b.count = (b.read + low - 1) // low
    rows = 1 if b.count == 0 else (b.read + b.count - 1) // b.count

    b.z = base
    at += whole_lines(rows * layer.rows.C * layer.rows.element)
    b.x = base + at
    at += whole_lines(rows * layer.inputs * layer.rows.element * gather)
    b.order = <Py_ssize_t *>(base + at)
    at += whole_lines(rows * <Py_ssize_t>sizeof(Py_ssize_t))
    b.scratch = base + at
    b.scratch_bytes = min(max_memory - at, max(scratch_of(layer, rows, 1), scratch_of(layer, rows, n_threads)))
    return at + b.scratch_bytes


# -- all blocks --------------------------------------------------------------------------------------------------------------


# The threads of a call, and how long it has not looked for signals: nanoseconds of work.
cdef struct Pace:
    int n_threads
    double unpolled


cdef int poll(Pace *pace, double work) except -1 nogil:
    pace.unpolled += work
    if pace.unpolled > POLL_WORK:
        pace.unpolled = 0
        with gil:
            PyErr_CheckSignals()
    return 0


cdef int run(Product p, const Blocks *b, Pace *pace) except -1 nogil:
    """Multiply, slice by slice, on as many threads as the scratch is large enough for."""
    cdef int threads = product_threads(&p, pace.n_threads)
    cdef Py_ssize_t start = 0
    cdef Product slice
    while threads > 1 and slice_scratch(&p, threads) > b.scratch_bytes:
        threads -= 1
    while start < p.N:
        slice = slice_of(&p, start, threads)
        multiply(&slice, threads, b.scratch)
        poll(pace, OPERATION_WORK * slice.M * slice.N * slice.K / threads)
        start += slice.N
    return 0


cdef int loss_threads(const Rows *r, int n_threads, const Blocks *b) noexcept nogil:
    while n_threads > 1 and scratch_bytes(r, n_threads) > b.scratch_bytes:
        n_threads -= 1
    return n_threads


cdef int add_all_weights(const LastLayer *layer, const Blocks *b, Pace *pace, Sum *total) except -1 nogil:
    """The weights of all examples, as many at a time as a block has rows"""
    cdef Py_ssize_t start = 0, n, size = (b.read + b.count - 1) // b.count
    cdef Rows r
    while start < layer.rows.N:
        r = rows_of_block(layer, min(size, layer.rows.N - start), b)
        for n in range(r.N):
            b.order[n] = start + n
        add_weights(&r, loss_threads(&r, pace.n_threads, b), b.scratch, total)
        start += size
    return 0


cdef void store(char *x, Py_ssize_t i, Py_ssize_t element, double y) noexcept nogil:
    if element == sizeof(float):
        (<float *>x)[i] = <float>y
    else:
        (<double *>x)[i] = y


cdef Py_ssize_t choose(const LastLayer *layer, Py_ssize_t start, Py_ssize_t rows, Py_ssize_t *order) noexcept nogil:
    """The next `rows` examples from `start` on that are read, to `order`; the gradients of others up to there become 0. Returns
    where it stopped: at the next one that is read."""
    cdef Py_ssize_t n, found = 0, element = layer.rows.element
    for n in range(start, layer.rows.N):
        if not is_read(&layer.rows, n):
            memset(layer.grad_x + n * layer.grad_x_row * element, 0, layer.inputs * element)
            if layer.losses != NULL:
                store(layer.losses, n, element, 0)
        elif found < rows:
            order[found] = n
            found += 1
        else:
            return n
    return layer.rows.N


cdef int block(const LastLayer *layer, Py_ssize_t rows, bint first, RowError error, double divisor, const Blocks *b, Pace *pace,
               Sum *total) except -1 nogil:
    """The examples order[0] … order[rows - 1]"""
    cdef Rows r = rows_of_block(layer, rows, b)
    cdef Py_ssize_t element = r.element, line = layer.inputs * element, n
    cdef bint neighbours = b.order[rows - 1] - b.order[0] == rows - 1
    cdef const char *x = b.x
    cdef char *grad_x = b.x
    cdef Py_ssize_t x_row = layer.inputs, grad_x_row = layer.inputs
    if neighbours:
        x, x_row = layer.x + b.order[0] * layer.x_row * element, layer.x_row
        grad_x, grad_x_row = layer.grad_x + b.order[0] * layer.grad_x_row * element, layer.grad_x_row
    else:
        for n in range(rows):
            memcpy(b.x + n * line, layer.x + b.order[n] * layer.x_row * element, line)

    run(logits_of(layer, rows, x, x_row, b.z), b, pace)
    add_errors(&r, error, divisor, loss_threads(&r, pace.n_threads, b), b.scratch, total)
    if layer.losses != NULL:
        for n in range(rows):
            store(layer.losses, b.order[n], element, (<double *>b.scratch)[n])
    if layer.grad_bias != NULL:
        add_column_sums(layer, rows, b, first, pace.n_threads)
    run(grad_w_of(layer, rows, x, x_row, b.z, first), b, pace)
    run(grad_x_of(layer, rows, b.z, grad_x, grad_x_row), b, pace)
    if not neighbours:
        for n in range(rows):
            memcpy(layer.grad_x + b.order[n] * layer.grad_x_row * element, b.x + n * line, line)
    return 0


cdef void learn_nothing(const LastLayer *layer) noexcept nogil:
    """All gradients 0"""
    cdef Py_ssize_t n, element = layer.rows.element, C = layer.rows.C
    for n in range(C if layer.transposed else layer.inputs):
        memset(layer.grad_w + n * layer.grad_w_row * element, 0, (layer.inputs if layer.transposed else C) * element)
    if layer.grad_bias != NULL:
        memset(layer.grad_bias, 0, C * element)
    for n in range(layer.rows.N):
        memset(layer.grad_x + n * layer.grad_x_row * element, 0, layer.inputs * element)
        if layer.losses != NULL:
            store(layer.losses, n, element, 0)


cdef double last_layer(const LastLayer *layer, RowError error, bint mean, int n_threads, const Blocks *b,
                       double *weight_sum) except? -1 nogil:
    cdef Pace pace = Pace(n_threads, 0)
    cdef Sum weights = Sum(0, 0), errors = Sum(0, 0)
    cdef Py_ssize_t left = b.read, next = 0, i, rows
    if b.read > 0:
        add_all_weights(layer, b, &pace, &weights)
    weight_sum[0] = value(weights)
    if b.read == 0 or (mean and weight_sum[0] == 0):
        learn_nothing(layer)
        return NAN if mean else 0
    for i in range(b.count):
        rows = (left + b.count - i - 1) // (b.count - i)
        next = choose(layer, next, rows, b.order)
        block(layer, rows, i == 0, error, weight_sum[0] if mean else 1, b, &pace, &errors)
        left -= rows
    return value(errors) / weight_sum[0] if mean else value(errors)


def linear_softmax_cross_entropy(const real[:, :] inputs, const real[:, :] weight, const real[::1] bias,
                                 const int64_t[::1] labels, const real[:, :] targets, const double[::1] class_weight,
                                 const double[::1] sample_weight, int64_t ignore_index, double label_smoothing,
                                 double lse_square_scale, double softcap, bint mean, Py_ssize_t max_memory,
                                 real[::1] losses, real[:, :] grad_inputs, real[:, :] grad_weight, real[::1] grad_bias,
                                 int n_threads):
    cdef LastLayer layer
    cdef Blocks blocks
    cdef RowError error = row_error_named("softmax_cross_entropy")
    cdef double loss, weight_sum = 0
    cdef Py_ssize_t element = sizeof(real)
    memset(&layer, 0, sizeof(layer))
    layer.rows.k, layer.rows.element = kernels_for(element), element
    layer.rows.N, layer.rows.C = inputs.shape[0], weight.shape[1]
    layer.inputs = inputs.shape[1]
    layer.rows.ignore_index = ignore_index
    layer.rows.smoothing, layer.rows.lse_square_scale, layer.rows.softcap = label_smoothing, lse_square_scale, softcap
    layer.x_row, layer.grad_x_row = inputs.strides[0] // element, grad_inputs.strides[0] // element
    layer.w_row, layer.w_column = weight.strides[0] // element, weight.strides[1] // element
    layer.transposed = grad_weight.strides[1] != element
    layer.grad_w_row = grad_weight.strides[1 if layer.transposed else 0] // element
    if layer.rows.N > 0:
        if labels is not None:
            layer.rows.labels = &labels[0]
        else:
            layer.rows.t, layer.rows.t_row = <const char *>&targets[0, 0], targets.strides[0]
        if sample_weight is not None:
            layer.rows.sample_weight = &sample_weight[0]
        if losses is not None:
            layer.losses = <char *>&losses[0]
        if layer.inputs > 0:
            layer.x, layer.grad_x = <const char *>&inputs[0, 0], <char *>&grad_inputs[0, 0]
    if layer.inputs > 0:
        layer.w, layer.grad_w = <const char *>&weight[0, 0], <char *>&grad_weight[0, 0]
    if class_weight is not None:
        layer.rows.class_weight = &class_weight[0]
    if bias is not None:
        layer.bias, layer.grad_bias = <const char *>&bias[0], <char *>&grad_bias[0]

    cdef Py_ssize_t least = least_memory(&layer) + LINE
    if max_memory < least:
        raise ValueError(f"max_memory: got {max_memory}, expected at least {least} bytes, for the logits of one row of "
                         f"{layer.rows.C} classes and the scratch of its products")
    # NumPy asks the system for large pages, which malloc does not: a thousand page faults fewer
    memory = empty(lay_out(&layer, max_memory - LINE, n_threads, NULL, &blocks) + LINE, "uint8")
    cdef unsigned char[::1] view = memory
    with nogil:
        lay_out(&layer, max_memory - LINE, n_threads, line_start(<char *>&view[0]), &blocks)
        loss = last_layer(&layer, error, mean, n_threads, &blocks, &weight_sum)
    PyErr_CheckSignals()
    return loss, weight_sum
