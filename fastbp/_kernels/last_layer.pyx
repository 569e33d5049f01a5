"""The last layer fused with its error, block of rows by block of rows: the logits of all rows are never in memory at once.

A. For each block: Z = X W + b; the error, which replaces Z by the deltas δ; db += Σ δ, dW += Xᵀ δ, dX = δ Wᵀ. Nothing is
   computed twice, and errors and deltas have the bits of rows.pyx. The divisor of a mean is known before any logit, since the
   weights of rows depend on targets alone.
B. Rows that are not read are left out of the blocks: they cost nothing, and a NaN in them spreads nowhere. If there are such
   rows, the others are gathered, and the gradients of their inputs scattered.
C. The blocks depend on the shape and max_memory, never on the number of threads. Threads share the memory that the logits
   leave.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, chosen_pieces, kernels_for, named_pieces, real, threads_for
from fastbp._kernels.layer cimport set_forward_product, set_gradient_product, set_recursion_product
from fastbp._kernels.memory cimport LINE, plus, set_element, space_room, space_start, take, times, whole_lines
from fastbp._kernels.product cimport Product, multiply, product_scratch, product_work
from fastbp._kernels.rows cimport (
    RowError, Rows, Sum, add_errors, add_weights, class_unit, error_work, is_read, row_error_named, scratch_bytes,
    set_class_weight, stayed, value,
)
from fastbp._kernels.team cimport Work, fbp_team, fbp_team_share, on_team, poll

cdef Py_ssize_t COLUMNS = 256      # columns of δ that a thread sums at a time
cdef Py_ssize_t FOR_THREADS = 8    # at least 1/8 of the memory is scratch


# -- the products of a block -------------------------------------------------------------------------------------------------


cdef void set_logits(Product *p, const LastLayer *layer, Py_ssize_t rows, const char *x, Py_ssize_t x_row,
                     char *z) noexcept nogil:
    """Z (rows, C) = X W + b; formed from pieces if the product of all rows would be, like the others"""
    set_forward_product(p, &layer.dense, rows, x, x_row, FBP_IDENTITY, z, layer.rows.C)
    p.epilogue.pieces = layer.pieces


cdef void set_grad_w(Product *p, const LastLayer *layer, Py_ssize_t rows, const char *x, Py_ssize_t x_row, const char *delta,
                     bint first) noexcept nogil:
    """dW (I, C) = Xᵀ δ, or its transpose (C, I) = δᵀ X; added to the sums of earlier blocks unless `first`"""
    set_gradient_product(p, &layer.dense, rows, x, x_row, delta, layer.rows.C, layer.transposed, layer.grad_w, layer.grad_w_row)
    p.epilogue.accumulate, p.epilogue.pieces = not first, layer.pieces


cdef void set_grad_x(Product *p, const LastLayer *layer, Py_ssize_t rows, const char *delta, char *out, Py_ssize_t out_row,
                     const char *slope) noexcept nogil:
    """dX (rows, I) = δ Wᵀ, or (δ Wᵀ) ⊙ f'"""
    set_recursion_product(p, &layer.dense, rows, delta, layer.rows.C, layer.activation, slope, layer.dense.inputs, out, out_row)
    p.epilogue.pieces = layer.pieces


# -- blocks and their work space ---------------------------------------------------------------------------------------------


cdef Py_ssize_t rows_read(const LastLayer *layer) noexcept nogil:
    cdef Py_ssize_t n, read = 0
    if layer.rows.labels == NULL and layer.rows.sample_weight == NULL:
        return layer.rows.N
    for n in range(layer.rows.N):
        read += is_read(&layer.rows, n)
    return read


cdef Py_ssize_t divide(const LastLayer *layer, Py_ssize_t rows, bint gather, char *base, Blocks *b) noexcept nogil:
    """The work space of blocks of `rows` rows, scratch apart, and its bytes"""
    cdef Py_ssize_t element = layer.rows.element, used = 0
    b.z = take(base, &used, times(times(rows, layer.rows.C), element))
    b.x = take(base, &used, times(times(rows, layer.dense.inputs), element) if gather else 0)
    b.order = <Py_ssize_t *>take(base, &used, times(rows, sizeof(Py_ssize_t)))
    b.labels = <int64_t *>take(base, &used, times(rows, sizeof(int64_t)))
    b.weights = <double *>take(base, &used, times(rows, sizeof(double)))
    return used


cdef Py_ssize_t block_scratch(const LastLayer *layer, Py_ssize_t rows, int threads) noexcept nogil:
    cdef Rows r = layer.rows
    cdef Product p
    r.N = rows
    cdef Py_ssize_t largest = max(scratch_bytes(&r, threads), times(r.C, r.element))
    set_logits(&p, layer, rows, NULL, 0, NULL)
    largest = max(largest, product_scratch(&p, threads))
    set_grad_w(&p, layer, rows, NULL, 0, NULL, True)
    largest = max(largest, product_scratch(&p, threads))
    set_grad_x(&p, layer, rows, NULL, NULL, 0, NULL)
    return whole_lines(max(largest, product_scratch(&p, threads)))


cdef Py_ssize_t lay_out(const LastLayer *layer, Py_ssize_t most_rows, char *base, Blocks *b) noexcept nogil:
    b.count = (layer.read + most_rows - 1) // most_rows
    return divide(layer, 1 if b.count == 0 else (layer.read + b.count - 1) // b.count, layer.read < layer.rows.N, base, b)


cdef Py_ssize_t bytes_of(const LastLayer *layer, Py_ssize_t rows, bint gather) noexcept nogil:
    """Bytes that blocks of `rows` rows take, with scratch for one thread"""
    cdef Blocks b
    return plus(divide(layer, rows, gather, NULL, &b), block_scratch(layer, rows, 1))


cdef Py_ssize_t rows_within(const LastLayer *layer, Py_ssize_t max_memory) noexcept nogil:
    """The largest number of rows of a block that leaves the scratch of one thread and 1/8 of the memory; at least 1"""
    cdef Py_ssize_t low = 1, high = layer.read + 1, middle, scratch
    cdef bint gather = layer.read < layer.rows.N
    cdef Blocks b
    while high - low > 1:  # `low` rows fit or are 1, `high` are too many
        middle = low + (high - low) // 2
        scratch = max(block_scratch(layer, middle, 1), max_memory // FOR_THREADS)
        if plus(divide(layer, middle, gather, NULL, &b), scratch) <= max_memory:
            low = middle
        else:
            high = middle
    return low


# -- one block ---------------------------------------------------------------------------------------------------------------


cdef Rows rows_of_block(const LastLayer *layer, Py_ssize_t rows, const Blocks *b) noexcept nogil:
    cdef Rows r = layer.rows
    r.N, r.order, r.sample_weight = rows, b.order, b.weights
    if r.labels != NULL:
        r.labels = b.labels
    r.z = b.z
    r.d = b.z
    r.z_row = r.d_row = r.C * r.element
    return r


# Sums over the rows of a block's deltas, COLUMNS columns at a time
cdef struct ColumnSums:
    const LastLayer *layer
    const Blocks *b
    Py_ssize_t rows
    bint first


cdef void add_to(char *sums, const char *x, Py_ssize_t n, Py_ssize_t element) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if element == sizeof(float):
            (<float *>sums)[i] += (<const float *>x)[i]
        else:
            (<double *>sums)[i] += (<const double *>x)[i]


cdef void columns_summed(const void *column_sums, Py_ssize_t i, int thread) noexcept nogil:
    """db (C) = Σ_n δ_n, added to the sums of earlier blocks"""
    cdef const ColumnSums *s = <const ColumnSums *>column_sums
    cdef Py_ssize_t element = s.layer.rows.element, C = s.layer.rows.C, start = i * COLUMNS, count = min(COLUMNS, C - start)
    cdef char *to = s.layer.grad_bias + start * element
    cdef char *sums = to if s.first else s.b.scratch + start * element
    s.layer.rows.k.column_sums(s.rows, count, s.b.z + start * element, C, False, sums)
    if not s.first:
        add_to(to, sums, count, element)


cdef void unread(const LastLayer *layer, Py_ssize_t n) noexcept nogil:
    """Zero the gradient and the error of an example that is not read."""
    cdef Py_ssize_t element = layer.rows.element
    if layer.grad_x != NULL:
        memset(layer.grad_x + n * layer.grad_x_row * element, 0, layer.dense.inputs * element)
    if layer.losses != NULL:
        set_element(layer.losses, n, element, 0)


cdef Py_ssize_t choose(const LastLayer *layer, Py_ssize_t start, Py_ssize_t rows, const Blocks *b) except -1 nogil:
    """Collect in `b` the next `rows` examples from `start` on that are read, and zero the gradients of the others. Returns the
    next example that is read. Raises if there are fewer than were counted, because the caller has changed labels or weights."""
    cdef const Rows *r = &layer.rows
    cdef Py_ssize_t n, found = 0
    for n in range(start, r.N):
        if not (layer.reads_all or is_read(r, n)):
            stayed(r, layer.read == r.N)  # there is no room to gather rows where all were to be read
            unread(layer, n)
        elif found < rows:
            b.order[found] = n
            b.labels[found] = 0 if r.labels == NULL else r.labels[n]
            b.weights[found] = 1 if r.sample_weight == NULL else r.sample_weight[n]
            found += 1
        else:
            return n
    stayed(r, found < rows)
    return r.N


# A team, and the nanoseconds of work since the last poll for signals
cdef struct Pace:
    fbp_team *team
    double unpolled


cdef int multiply_polled(const Product *p, const Blocks *b, Pace *pace) except -1 nogil:
    multiply(p, b.scratch, pace.team)
    poll(&pace.unpolled, product_work(p) / pace.team.threads)
    return 0


cdef int block(const LastLayer *layer, Py_ssize_t rows, bint first, RowError error, double divisor, const Blocks *b, Pace *pace,
               Sum *total) except -1 nogil:
    """The examples order[0] … order[rows - 1]"""
    cdef Rows r = rows_of_block(layer, rows, b)
    cdef Py_ssize_t element = r.element, line = layer.dense.inputs * element, start = b.order[0], n
    cdef bint neighbours = b.order[rows - 1] - start == rows - 1
    cdef const char *x = b.x
    cdef const char *slope = layer.slope
    cdef char *grad_x = b.x
    cdef Py_ssize_t x_row = layer.dense.inputs, grad_x_row = layer.dense.inputs
    cdef ColumnSums sums = ColumnSums(layer, b, rows, first)
    cdef Product p
    assert 0 <= start and b.order[rows - 1] < layer.rows.N and (neighbours or layer.read < layer.rows.N)
    if neighbours:
        x, x_row = layer.x + start * layer.x_row * element, layer.x_row
        grad_x, grad_x_row = layer.grad_x + start * layer.grad_x_row * element, layer.grad_x_row
    else:
        for n in range(rows):
            memcpy(b.x + n * line, layer.x + b.order[n] * layer.x_row * element, line)

    set_logits(&p, layer, rows, x, x_row, b.z)
    multiply_polled(&p, b, pace)
    add_errors(&r, error, divisor, pace.team, b.scratch, total)
    if layer.losses != NULL:
        for n in range(rows):
            set_element(layer.losses, b.order[n], element, (<double *>b.scratch)[n] / class_unit(&r))
    if layer.grad_bias != NULL:
        fbp_team_share(pace.team, columns_summed, &sums, (r.C + COLUMNS - 1) // COLUMNS)
    set_grad_w(&p, layer, rows, x, x_row, b.z, first)
    multiply_polled(&p, b, pace)
    if layer.grad_x != NULL:
        if slope != NULL:
            slope += start * line
        set_grad_x(&p, layer, rows, b.z, grad_x, grad_x_row, slope)
        multiply_polled(&p, b, pace)
        if not neighbours:
            for n in range(rows):
                memcpy(layer.grad_x + b.order[n] * layer.grad_x_row * element, b.x + n * line, line)
    return 0


# -- all blocks --------------------------------------------------------------------------------------------------------------


cdef int add_all_weights(const LastLayer *layer, const Blocks *b, fbp_team *team, Sum *total) except -1 nogil:
    """Add the weights of all examples, as many at a time as a block has rows."""
    cdef Py_ssize_t left = layer.rows.N, size = (layer.read + b.count - 1) // b.count
    cdef Rows r = layer.rows
    while left > 0:
        r.N = min(size, left)
        add_weights(&r, team, b.scratch, total)
        left -= r.N
        if r.t != NULL:
            r.t += r.N * r.t_row
        if r.labels != NULL:
            r.labels += r.N
        if r.sample_weight != NULL:
            r.sample_weight += r.N
    return 0


cdef void learn_nothing(const LastLayer *layer) noexcept nogil:
    """All gradients 0"""
    cdef Py_ssize_t n, element = layer.rows.element, C = layer.rows.C
    for n in range(C if layer.transposed else layer.dense.inputs):
        memset(layer.grad_w + n * layer.grad_w_row * element, 0, (layer.dense.inputs if layer.transposed else C) * element)
    if layer.grad_bias != NULL:
        memset(layer.grad_bias, 0, C * element)
    for n in range(layer.rows.N):
        unread(layer, n)


cdef double last_layer(const LastLayer *layer, RowError error, bint mean, const Blocks *b, fbp_team *team,
                       double *weight_sum) except? -1 nogil:
    cdef Pace pace = Pace(team, 0)
    cdef Sum weights = Sum(0, 0), errors = Sum(0, 0)
    cdef Py_ssize_t left = layer.read, next = 0, i, rows
    cdef double unit = class_unit(&layer.rows)
    if layer.read > 0:
        add_all_weights(layer, b, team, &weights)
    weight_sum[0] = value(weights) / unit
    if layer.read == 0 or (mean and weight_sum[0] == 0):
        learn_nothing(layer)
        return NAN if mean else 0
    for i in range(b.count):
        rows = (left + b.count - i - 1) // (b.count - i)
        next = choose(layer, next, rows, b)
        block(layer, rows, i == 0, error, value(weights) if mean else unit, b, &pace, &errors)
        left -= rows
    stayed(&layer.rows, next < layer.rows.N)
    return value(errors) / (value(weights) if mean else unit)


# -- a call from Python ------------------------------------------------------------------------------------------------------


cdef struct LastLayerCall:
    LastLayer layer
    Blocks blocks
    RowError error
    bint mean
    double loss, weight_sum


cdef int last_layer_call(LastLayerCall *c, fbp_team *team) except -1 nogil:
    c.loss = last_layer(&c.layer, c.error, c.mean, &c.blocks, team, &c.weight_sum)
    return 0


cdef int threads_within(const LastLayer *layer, Py_ssize_t rows, Py_ssize_t bytes, int n_threads) noexcept nogil:
    """The number of threads that pays for blocks of so many rows, and whose scratch has room in `bytes`"""
    cdef Product z
    cdef Rows r = layer.rows
    set_logits(&z, layer, rows, NULL, 0, NULL)
    r.N = rows
    cdef int threads = threads_for(n_threads, 3 * product_work(&z) + error_work(&r))
    while threads > 1 and block_scratch(layer, rows, threads) > bytes:
        threads -= 1
    return threads


def linear_softmax_cross_entropy(const real[:, :] inputs, const real[:, :] weight, const real[::1] bias,
                                 const int64_t[::1] labels, const real[:, :] targets, const double[::1] class_weight,
                                 const double[::1] sample_weight, int64_t ignore_index, double label_smoothing,
                                 double lse_square_scale, double softcap, bint mean, Py_ssize_t max_memory, str precision,
                                 real[::1] losses, real[:, :] grad_inputs, real[:, :] grad_weight, real[::1] grad_bias,
                                 int n_threads):
    cdef LastLayerCall call
    cdef LastLayer *layer = &call.layer
    cdef Py_ssize_t element = sizeof(real), rows, used
    cdef int threads
    memset(&call, 0, sizeof(call))
    call.error, call.mean = row_error_named("softmax_cross_entropy"), mean
    layer.rows.k, layer.rows.element = kernels_for(element), element
    layer.rows.N, layer.rows.C = inputs.shape[0], weight.shape[1]
    layer.dense.k, layer.dense.element = layer.rows.k, element
    layer.dense.inputs, layer.dense.outputs = inputs.shape[1], layer.rows.C
    layer.rows.ignores, layer.rows.ignore_index = labels is not None, ignore_index
    layer.rows.smoothing, layer.rows.lse_square_scale, layer.rows.softcap = label_smoothing, lse_square_scale, softcap
    layer.x_row, layer.grad_x_row = inputs.strides[0] // element, grad_inputs.strides[0] // element
    layer.dense.w_row, layer.dense.w_column = weight.strides[0] // element, weight.strides[1] // element
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
        if layer.dense.inputs > 0:
            layer.x, layer.grad_x = <const char *>&inputs[0, 0], <char *>&grad_inputs[0, 0]
    if layer.dense.inputs > 0:
        layer.dense.w, layer.grad_w = <const char *>&weight[0, 0], <char *>&grad_weight[0, 0]
    if class_weight is not None:
        set_class_weight(&layer.rows, &class_weight[0])
    if bias is not None:
        layer.dense.bias, layer.grad_bias = <const char *>&bias[0], <char *>&grad_bias[0]

    layer.read = rows_read(layer)
    layer.dense.pieces = chosen_pieces(named_pieces(precision))
    layer.pieces = layer.rows.k.product_pieces(layer.rows.N, layer.rows.C, layer.dense.inputs, layer.dense.pieces)
    cdef Py_ssize_t least = plus(bytes_of(layer, 1, layer.read < layer.rows.N), LINE)
    if max_memory < least:
        raise ValueError(f"max_memory: got {max_memory}, expected at least {least} bytes, for the logits of one row of "
                         f"{layer.rows.C} classes and the scratch of its products")
    max_memory -= LINE
    rows = rows_within(layer, max_memory)
    used = lay_out(layer, rows, NULL, &call.blocks)
    threads = threads_within(layer, rows, max_memory - used, n_threads)
    cdef Py_ssize_t space = plus(used, block_scratch(layer, rows, threads))
    cdef char *memory = <char *>malloc(space_room(space))
    if memory == NULL:
        raise MemoryError(f"no memory for the logits of {rows} rows and the scratch of their products: {space} bytes")
    cdef char *base = space_start(memory, space)
    try:
        with nogil:
            lay_out(layer, rows, base, &call.blocks)
            call.blocks.scratch = base + used
            assert <char *>call.blocks.weights < call.blocks.scratch
            on_team(<Work>last_layer_call, &call, threads)
    finally:
        free(memory)
    PyErr_CheckSignals()
    return call.loss, call.weight_sum
