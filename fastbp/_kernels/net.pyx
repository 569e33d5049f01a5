"""The work space of a network, and the plan for a batch.

A. One block of memory holds all that a step needs, and grows only for a larger batch. A step allocates nothing. A large block is
   kept only while batches of about that size come.
B. Addresses have no dtype: a step is written once for float32 and float64.
C. Decisions that depend on the number of rows alone are in `Plan`, and made nowhere else.
D. A large batch of a small network is cut into chunks of rows, whose activations stay in the cache. Each thread computes whole
   chunks, in a work space of its own; where the batch is cut does not depend on the number of threads.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, chosen_pieces, kernels_for
from fastbp._kernels.last_layer cimport Blocks, block_scratch
from fastbp._kernels.last_layer cimport lay_out as lay_out_blocks
from fastbp._kernels.layer cimport set_gram_product, set_polynomial_product, set_square_product
from fastbp._kernels.memory cimport LINE, space_room, space_start, take, times
from fastbp._kernels.optimizer cimport norm_sums
from fastbp._kernels.product cimport operations, product_scratch, product_work
from fastbp._kernels.rows cimport error_work

cdef double UPDATE_PER_COLUMN = 2.5e8  # multiply-adds of a thread for each column of a tile: the longest update without a poll
cdef Py_ssize_t LARGE_SPACE = 64 * 1024 * 1024  # bytes from which a work space is freed after a single unusual call
cdef Py_ssize_t UNUSUAL = 8  # a call is unusual if it has so many times the rows of the one before
cdef Py_ssize_t SMALL_NETWORK = 64 * 1024  # bytes of parameters
cdef Py_ssize_t MOST_GRADIENTS = 16 * 1024 * 1024  # bytes of the gradients of all chunks of a batch
cdef Py_ssize_t MOST_LOGITS = 64 * 1024 * 1024  # bytes of logits in memory at a time, as in linear_softmax_cross_entropy


# -- a layer's products, and its error ---------------------------------------------------------------------------------------


cdef Rows rows_of(const Net *net, const Batch *batch) noexcept nogil:
    cdef Rows r
    memset(&r, 0, sizeof(Rows))
    r.k, r.element, r.N, r.C = net.k, net.element, batch.x.rows, net.layers[net.depth - 1].dense.outputs
    r.sample_weight, r.smoothing = batch.weight, net.smoothing
    if batch.t.labels:
        r.labels = <const int64_t *>batch.t.data
    else:
        r.t, r.t_row = batch.t.data, batch.t.row
    return r


cdef LastLayer last_layer_of(const Net *net, const Batch *batch, char *to) noexcept nogil:
    cdef const Layer *layer = &net.layers[net.depth - 1]
    cdef LastLayer last
    memset(&last, 0, sizeof(LastLayer))
    last.rows, last.dense = rows_of(net, batch), layer.dense
    last.read, last.reads_all = batch.x.rows, True
    last.pieces = net.k.product_pieces(batch.x.rows, layer.dense.outputs, layer.dense.inputs, layer.dense.pieces)
    set_inputs(net, net.depth - 1, batch.x, &last.x, &last.x_row)
    last.grad_w, last.grad_w_row, last.grad_bias = to + layer.weight, layer.dense.outputs, to + layer.bias
    if net.depth > 1:
        layer = &net.layers[net.depth - 2]
        last.grad_x, last.grad_x_row = layer.delta, layer.dense.outputs
        if layer.kind != FBP_IDENTITY:
            last.activation, last.slope = layer.kind, slope_source(net, layer)
    return last


cdef double forward_work(const Net *net, Py_ssize_t rows) noexcept nogil:
    cdef Matrix none
    cdef Product p
    cdef double work = 0
    memset(&none, 0, sizeof(none))
    none.rows = rows
    for i in range(net.depth):
        set_forward(&p, net, i, none, NULL, 0)
        work += product_work(&p)
    return work


cdef double orthogonal_work(const Net *net) noexcept nogil:
    """Of one iteration"""
    cdef const Dense *d
    cdef Product p
    cdef double work = 0
    for i in range(net.depth - 1):
        d = &net.layers[i].dense
        set_gram_product(&p, d, NULL, NULL)
        work += 2 * product_work(&p)
        set_square_product(&p, d, NULL, NULL)
        work += product_work(&p)
    return work


cdef double step_work(const Net *net, Py_ssize_t rows, int iterations) noexcept nogil:
    cdef Rows r
    r.N, r.C = rows, net.layers[net.depth - 1].dense.outputs
    return 3 * forward_work(net, rows) + error_work(&r) + (iterations * orthogonal_work(net) if iterations > 0 else 0)


# -- the plan ----------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t most_rows(const Net *net) noexcept nogil:
    return max(1, MOST_LOGITS // (net.layers[net.depth - 1].dense.outputs * net.element))


cdef Py_ssize_t chunks_of(const Net *net, Py_ssize_t rows) noexcept nogil:
    """How many chunks a batch is cut into"""
    cdef Py_ssize_t chunks = (rows + CHUNK - 1) // CHUNK
    cdef bint small = net.count * net.element <= SMALL_NETWORK
    return chunks if small and rows >= 2 * CHUNK and times(chunks, net.count * net.element) <= MOST_GRADIENTS else 1


cdef Py_ssize_t most_chunks(const Net *net, Py_ssize_t rows) noexcept nogil:
    """The largest number of chunks of a batch of up to so many rows"""
    return max(chunks_of(net, rows), chunks_of(net, min(rows, MOST_GRADIENTS // (net.count * net.element) * CHUNK)))


cdef Plan plan_of(const Net *net, Py_ssize_t rows, int n_threads) noexcept nogil:
    """An update is fused, without a gradient in memory, if its sums are of one block, and all products take less than 0.2 s,
    since no signal may interrupt it. By blocks, the gradient of the last layer is formed with the deltas and does not count."""
    cdef Plan plan
    cdef double number = 0
    cdef Matrix none
    cdef Product p
    cdef Py_ssize_t i
    memset(&none, 0, sizeof(none))
    none.rows = rows
    plan.rows, plan.n_threads, plan.sums, plan.by_blocks = rows, n_threads, net.sums, rows > most_rows(net)
    plan.chunks = 1 if net.sums or plan.by_blocks else chunks_of(net, rows)
    for i in range(net.depth - plan.by_blocks):
        set_gradient(&p, net, i, none, NULL)
        number += operations(&p)
    plan.fused = plan.chunks == 1 and rows <= net.k.tile_depth() and number < UPDATE_PER_COLUMN * net.k.tile_columns() * n_threads
    return plan


cdef void make_plan(Net *net, Py_ssize_t rows, int n_threads) noexcept nogil:
    if rows != net.plan.rows or n_threads != net.plan.n_threads or net.sums != net.plan.sums:
        net.plan = plan_of(net, rows, n_threads)


# -- work space --------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t scratch_of(const Net *net, Product *p) noexcept nogil:
    """Enough scratch for the product with and without pieces, since one row less may change the choice"""
    p.epilogue.pieces = net.layers[0].dense.pieces
    return product_scratch(p, net.most_threads)


cdef Py_ssize_t orthogonal_scratch(const Net *net, const Dense *d) noexcept nogil:
    cdef Product gram, square, last
    set_gram_product(&gram, d, NULL, NULL)
    set_square_product(&square, d, NULL, NULL)
    set_polynomial_product(&last, d, NULL, NULL, NULL)
    return max(scratch_of(net, &gram), max(scratch_of(net, &square), scratch_of(net, &last)))


cdef Py_ssize_t most_scratch(const Net *net, Py_ssize_t rows) noexcept nogil:
    """The scratch of the products of all layers, and of a norm"""
    cdef Py_ssize_t scratch = times(norm_sums(net.count), sizeof(double)), i
    cdef Matrix none
    cdef Product p
    memset(&none, 0, sizeof(none))
    none.rows = rows
    for i in range(net.depth):
        set_forward(&p, net, i, none, NULL, 0)
        scratch = max(scratch, scratch_of(net, &p))
        set_gradient(&p, net, i, none, NULL)
        scratch = max(scratch, scratch_of(net, &p))
        if i > 0:
            set_recursion(&p, net, i, rows)
            scratch = max(scratch, scratch_of(net, &p))
        if net.keeps_orthogonal and i < net.depth - 1:
            scratch = max(scratch, orthogonal_scratch(net, &net.layers[i].dense))
    if most_chunks(net, rows) > 1:
        set_mean_of_chunks(&p, net, most_chunks(net, rows), NULL)
        scratch = max(scratch, scratch_of(net, &p))
    return scratch


cdef void lay_out_orthogonal(Net *net, char *base) noexcept nogil:
    cdef Py_ssize_t matrix = 0, square = 0, side, i
    cdef const Dense *d
    net.orthogonal = net.other_matrix = net.squares = NULL
    if net.keeps_orthogonal:
        for i in range(net.depth - 1):
            d = &net.layers[i].dense
            side = min(d.inputs, d.outputs)
            matrix, square = max(matrix, d.inputs * d.outputs), max(square, side * side)
        net.orthogonal = take(base, &net.used, net.count * net.element)
        net.other_matrix = take(base, &net.used, matrix * net.element)
        net.squares = take(base, &net.used, 2 * square * net.element)


cdef Net part_of(const Net *net, Layer *layers) noexcept nogil:
    """What computes a chunk: the same network on one thread, which polls no signals"""
    cdef Net part = net[0]
    memcpy(layers, net.layers, net.depth * sizeof(Layer))
    part.layers, part.plan.rows, part.most_threads, part.capacity, part.unpolled = layers, -1, 1, CHUNK, -INFINITY
    part.keeps_gradient = part.keeps_orthogonal = False
    return part


cdef void lay_out_chunks(Net *net, char *base, Py_ssize_t chunks) noexcept nogil:
    """Lay out what batches in chunks need; where a part lies in the work space, its own is laid out."""
    cdef Layer *layers
    cdef Net *part
    cdef Net sized
    cdef int i
    net.parts, net.chunk_gradients, net.shares, net.found = NULL, NULL, NULL, NULL
    if chunks == 1:
        return
    net.parts = <Net *>take(base, &net.used, net.most_threads * sizeof(Net))
    net.chunk_gradients = take(base, &net.used, times(chunks, net.count * net.element))
    net.shares = take(base, &net.used, times(chunks, net.element))
    net.found = <Found *>take(base, &net.used, times(chunks, sizeof(Found)))
    for i in range(net.most_threads):
        layers = <Layer *>take(base, &net.used, net.depth * sizeof(Layer))
        if base == NULL:  # the network's own layers serve to find the size: they are laid out after this
            sized = net[0]
            sized.most_threads, sized.keeps_gradient, sized.keeps_orthogonal = 1, False, False
            lay_out(&sized, NULL, CHUNK)
            take(base, &net.used, sized.used)
        else:
            part = &net.parts[i]
            part[0] = part_of(net, layers)
            lay_out(part, base + net.used, CHUNK)
            take(base, &net.used, part.used)


cdef Py_ssize_t lay_out_last(Net *net, char *base, Py_ssize_t rows) noexcept nogil:
    """Lay out the last layer for one block of as many rows as are in memory at a time, which is enough for smaller batches.
    Returns its scratch."""
    cdef Layer *last = &net.layers[net.depth - 1]
    cdef LastLayer whole
    cdef Blocks blocks
    cdef Batch none
    memset(&none, 0, sizeof(none))
    none.x.rows = min(rows, most_rows(net))
    whole = last_layer_of(net, &none, net.w)
    whole.pieces = last.dense.pieces
    last.a = last.z = last.delta = take(base, &net.used, lay_out_blocks(&whole, most_rows(net), NULL, &blocks))
    return block_scratch(&whole, none.x.rows, net.most_threads)


cdef void lay_out(Net *net, char *base, Py_ssize_t rows) noexcept nogil:
    """Divide a work space for `rows` rows at `base`. If `base` is NULL only find its size, `used`."""
    cdef Py_ssize_t scratch, size, i
    cdef Layer *layer
    cdef Plan largest = plan_of(net, rows, 1)
    cdef Py_ssize_t chunks = most_chunks(net, rows)
    net.used = 0
    lay_out_chunks(net, base, chunks)
    scratch = lay_out_last(net, base, rows)
    for i in range(net.depth):
        layer = &net.layers[i]
        layer.bias_gradient = take(base, &net.used, times(layer.dense.outputs, net.element))
        if i < net.depth - 1:
            size = times(times(rows, layer.dense.outputs), net.element)
            layer.a = layer.z = take(base, &net.used, size)
            layer.delta = take(base, &net.used, size)
            if layer.keeps_input or layer.dropout > 0:
                layer.z = take(base, &net.used, size)
    net.batch_x = take(base, &net.used, times(times(rows, net.layers[0].dense.inputs), net.element))
    net.batch_t = take(base, &net.used, times(rows, net.target_row))
    net.batch_weight = <double *>take(base, &net.used, times(rows, sizeof(double)))
    net.batch_largest = <double *>take(base, &net.used, times(rows, sizeof(double)))
    lay_out_orthogonal(net, base)
    net.gradient = NULL
    if net.keeps_gradient or largest.by_blocks or not largest.fused or chunks > 1:
        net.gradient = take(base, &net.used, net.count * net.element)
    net.scratch = take(base, &net.used, max(scratch, most_scratch(net, rows)))
    if base != NULL and net.parts != NULL:
        for i in range(net.most_threads):
            net.parts[i].used = net.used  # all of a part lies in this work space


cdef bint in_space(const Net *net, const char *part, Py_ssize_t bytes) noexcept nogil:
    cdef const char *start = space_start(net.memory, net.used)
    return start <= part and part + bytes <= start + net.used


cdef void give_back(Net *net) noexcept nogil:
    free(net.memory)
    free(net.trial)
    net.memory = net.trial = NULL
    net.capacity = net.target_row = net.used = net.most_threads = net.keeps_gradient = net.keeps_orthogonal = 0


cdef int prepare(Net *net, Py_ssize_t rows, Py_ssize_t target_row, int n_threads, bint gradient, bint orthogonal) except -1:
    cdef const fbp_kernels *k = kernels_for(net.element)
    cdef int pieces = chosen_pieces(net.pieces), i
    if net.used > LARGE_SPACE and net.capacity // UNUSUAL > rows:
        give_back(net)
    if rows <= net.capacity and target_row <= net.target_row and n_threads <= net.most_threads and k == net.k and \
            gradient <= net.keeps_gradient and orthogonal <= net.keeps_orthogonal and pieces == net.layers[0].dense.pieces:
        return 0
    net.k, net.plan.rows = k, -1
    for i in range(net.depth):
        net.layers[i].dense.k, net.layers[i].dense.pieces = k, pieces
    rows, net.target_row = max(rows, net.capacity), max(target_row, net.target_row)
    net.most_threads, net.keeps_gradient = max(n_threads, net.most_threads), net.keeps_gradient or gradient
    net.keeps_orthogonal = net.keeps_orthogonal or orthogonal
    lay_out(net, NULL, rows)
    free(net.memory)
    net.capacity = 0
    net.memory = <char *>malloc(space_room(net.used))
    if net.memory == NULL:
        raise MemoryError(f"no memory for a batch of {rows} rows: {net.used} bytes of work space")
    lay_out(net, space_start(net.memory, net.used), rows)
    net.capacity = rows
    assert <uintptr_t>net.scratch % LINE == 0 and in_space(net, net.scratch, 0)
    return 0


cdef void tidy(Net *net, Py_ssize_t rows) noexcept nogil:
    if net.used > LARGE_SPACE and rows // UNUSUAL > net.usual:
        give_back(net)
    elif net.trial != NULL and net.count * net.element > LARGE_SPACE // 4:
        free(net.trial)
        net.trial = NULL
    net.usual = rows
