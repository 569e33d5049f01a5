"""One training step of a dense network: forward, error, deltas; then, from them, gradient or update.

A. One block of memory holds everything that a step needs, and grows only when a larger batch comes. In a step nothing is
   allocated and no Python runs. A large block is kept only while batches of about that size come.
B. Addresses without a dtype: a step is written once for float32 and float64.
C. All deltas come first, then all gradients. So it is known that an update is finite before the first parameter changes, and the
   recursion has passed through every weight before it does.
D. An update needs the gradient of one tile at a time, so the gradient of the weights is never in memory: it goes from the
   registers of A_prevᵀ δ into the weights. It is formed first where a batch is deeper than a block of that sum, or the sums take
   too long.
E. With very many classes the logits and deltas of a batch are never held: the last layer goes by blocks of rows, through
   last_layer.pyx, and its gradient, which does not grow with the batch, is there when the deltas are.
F. Pending signals are looked for between matrix products and inside long ones, but not between two updates.
"""

from libc.math cimport fmax
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, kernels_for
from fastbp._kernels.last_layer cimport Blocks, LastLayer, block_scratch, last_layer
from fastbp._kernels.last_layer cimport lay_out as lay_out_blocks
from fastbp._kernels.linear cimport (
    Product, column_sums, multiply, multiply_at_once, operations, product_scratch, product_work,
)
from fastbp._kernels.memory cimport LINE, Matrix, space_room, space_start, take, times
from fastbp._kernels.optimizer cimport update_parameters
from fastbp._kernels.rows cimport Rows, error_work, reduced, scratch_bytes
from fastbp._kernels.team cimport poll

cdef double UPDATE_PER_COLUMN = 2.5e8  # multiply-adds of a thread, for each column of a tile, in which no signal is looked for
cdef Py_ssize_t SLICE = 1024**2  # elements of an activation, or whose maximum is found, between two looks at signals
cdef double ELEMENT_WORK = 20    # nanoseconds, at most, that an activation takes for each
cdef Py_ssize_t LARGE_SPACE = 64 * 1024 * 1024  # bytes of a work space that are not kept for the sake of a single call,
cdef Py_ssize_t UNUSUAL = 8  # one of so many times the rows of another
cdef Py_ssize_t MOST_LOGITS = 64 * 1024 * 1024  # bytes of them that are held at a time, as in linear_softmax_cross_entropy


# -- work space ------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t most_rows(Net *net) noexcept nogil:
    """Of how many rows there may be logits at a time"""
    return max(1, MOST_LOGITS // (net.layers[net.depth - 1].outputs * net.element))


cdef bint by_blocks(Net *net, Py_ssize_t rows) noexcept nogil:
    """Whether the last layer goes by blocks of rows"""
    return rows > most_rows(net)


cdef Py_ssize_t most_scratch(Net *net, Product *p) noexcept nogil:
    """Of the product in pieces or not: with a row less it may be the other."""
    p.epilogue.in_pieces = True
    return product_scratch(p, net.most_threads)


cdef void lay_out(Net *net, char *base, Py_ssize_t rows) noexcept nogil:
    """Divide the work space for `rows` rows from `base`; with NULL only find its size, `used`."""
    cdef Py_ssize_t scratch, outputs = 0, size, i
    cdef Layer *layer
    cdef Layer *last = &net.layers[net.depth - 1]
    cdef Matrix none
    cdef LastLayer whole
    cdef Blocks blocks
    cdef Product p
    memset(&none, 0, sizeof(none))
    net.used = 0
    # as one block, of as many rows as are held: it serves a smaller batch, too, whose logits are held at once
    none.rows = min(rows, most_rows(net))
    set_last_layer(net, &whole, none, none, net.w)
    whole.in_pieces = True
    scratch = block_scratch(&whole, none.rows, net.most_threads)
    last.a = last.z = last.delta = take(base, &net.used, lay_out_blocks(&whole, most_rows(net), NULL, &blocks))
    none.rows = rows
    for i in range(net.depth):
        layer = &net.layers[i]
        outputs += layer.outputs
        if layer != last:
            size = times(times(rows, layer.outputs), net.element)
            layer.a = layer.z = take(base, &net.used, size)
            layer.delta = take(base, &net.used, size)
            if net.keeps_input:
                layer.z = take(base, &net.used, size)
        set_forward(net, &p, i, none, NULL, 0)
        scratch = max(scratch, most_scratch(net, &p))
        set_gradient(net, &p, i, none, NULL)
        scratch = max(scratch, most_scratch(net, &p))
        if i > 0:
            set_recursion(net, &p, i, rows)
            scratch = max(scratch, most_scratch(net, &p))
    net.batch_x = take(base, &net.used, times(times(rows, net.layers[0].inputs), net.element))
    net.batch_t = take(base, &net.used, times(rows, net.target_row))
    net.batch_most = <double *>take(base, &net.used, times(rows, sizeof(double)))
    net.bias_gradients = take(base, &net.used, outputs * net.element)
    net.gradient = NULL
    if by_blocks(net, rows) or not fused(net, rows, 1):
        net.gradient = take(base, &net.used, net.count * net.element)
    net.scratch = take(base, &net.used, scratch)


cdef bint in_space(Net *net, const char *part, Py_ssize_t bytes) noexcept nogil:
    cdef const char *start = space_start(net.memory, net.used)
    return start <= part and part + bytes <= start + net.used


cdef void give_back(Net *net) noexcept nogil:
    free(net.memory)
    free(net.trial)
    net.memory = net.trial = NULL
    net.capacity = net.target_row = net.used = net.most_threads = 0


cdef int prepare(Net *net, Py_ssize_t rows, Py_ssize_t target_row, int n_threads) except -1:
    cdef const fbp_kernels *k = kernels_for(net.element)
    net.n_threads = n_threads
    if net.used > LARGE_SPACE and net.capacity // UNUSUAL > rows:
        give_back(net)
    if rows <= net.capacity and target_row <= net.target_row and n_threads <= net.most_threads and k == net.k:
        return 0
    net.k = k
    rows, net.target_row = max(rows, net.capacity), max(target_row, net.target_row)
    net.most_threads = max(n_threads, net.most_threads)
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
    elif net.trial != NULL and 4 * net.count * net.element > LARGE_SPACE:
        free(net.trial)
        net.trial = NULL
    net.usual = rows


cdef int prepare_trial(Net *net) except -1 nogil:
    if net.trial == NULL:
        net.trial = <char *>malloc(4 * net.count * net.element)
    if net.trial == NULL:
        with gil:
            raise MemoryError(f"no memory for a trial update of {net.count} parameters")
    return 0


# -- the three products of a layer -----------------------------------------------------------------------------------------


cdef inline void set_inputs(Net *net, Py_ssize_t i, Matrix x, const char **a, Py_ssize_t *a_row) noexcept nogil:
    """A_prev (rows, I): the batch, or the outputs of the layer before"""
    if i == 0:
        a[0], a_row[0] = x.data, x.row // net.element
    else:
        a[0], a_row[0] = net.layers[i - 1].a, net.layers[i].inputs


cdef void set_product(Net *net, Product *p, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K) noexcept nogil:
    memset(p, 0, sizeof(Product))
    p.k, p.element, p.M, p.N, p.K, p.C_row = net.k, net.element, M, N, K, N
    p.epilogue.in_pieces = net.k.product_in_pieces(M, N, K)


cdef void set_forward(Net *net, Product *p, Py_ssize_t i, Matrix x, char *out, Py_ssize_t out_row) noexcept nogil:
    """A (rows, O) = f(A_prev W + b), where f waits if its slope needs A_prev W + b"""
    cdef Layer *layer = &net.layers[i]
    set_product(net, p, x.rows, layer.outputs, layer.inputs)
    set_inputs(net, i, x, &p.A, &p.A_row)
    p.A_column = 1
    p.B, p.B_row, p.B_column = net.w + layer.weight, p.N, 1
    p.C, p.C_row = out, out_row
    p.epilogue.bias = net.w + layer.bias
    p.epilogue.activation = FBP_IDENTITY if net.keeps_input or i == net.depth - 1 else net.kind


cdef void set_recursion(Net *net, Product *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    """δ_prev (rows, I) = (δ Wᵀ) ⊙ f'"""
    cdef Layer *layer = &net.layers[i]
    set_product(net, p, rows, layer.inputs, layer.outputs)
    p.A, p.A_row, p.A_column = layer.delta, p.K, 1
    p.B, p.B_row, p.B_column = net.w + layer.weight, 1, p.K
    p.C = net.layers[i - 1].delta
    p.epilogue.activation, p.epilogue.slope_row = net.kind, p.N
    p.epilogue.slope = NULL if net.kind == FBP_IDENTITY else net.layers[i - 1].z


cdef void set_gradient(Net *net, Product *p, Py_ssize_t i, Matrix x, char *out) noexcept nogil:
    """dW (I, O) = A_prevᵀ δ"""
    cdef Layer *layer = &net.layers[i]
    set_product(net, p, layer.inputs, layer.outputs, x.rows)
    p.A_row = 1
    set_inputs(net, i, x, &p.A, &p.A_column)
    p.B, p.B_row, p.B_column = layer.delta, p.N, 1
    p.C = out


cdef int run(Net *net, const Product *p, fbp_team *team) except -1 nogil:
    assert in_space(net, net.scratch, product_scratch(p, team.threads))
    multiply(p, net.scratch, team)
    poll(&net.unpolled, product_work(p))
    return 0


# -- a step ----------------------------------------------------------------------------------------------------------------


cdef double forward_work(Net *net, Py_ssize_t rows) noexcept nogil:
    cdef Matrix none
    cdef Product p
    cdef double work = 0
    memset(&none, 0, sizeof(none))
    none.rows = rows
    for i in range(net.depth):
        set_forward(net, &p, i, none, NULL, 0)
        work += product_work(&p)
    return work


cdef double step_work(Net *net, Py_ssize_t rows) noexcept nogil:
    cdef Rows r
    r.N, r.C = rows, net.layers[net.depth - 1].outputs
    return 3 * forward_work(net, rows) + error_work(&r)


cdef int activate(Net *net, Py_ssize_t n, const char *z, char *a) except -1 nogil:
    cdef Py_ssize_t start = 0, count
    while start < n:
        count = min(SLICE, n - start)
        net.k.activate(net.kind, count, z + start * net.element, a + start * net.element)
        poll(&net.unpolled, ELEMENT_WORK * count)
        start += count
    return 0


cdef int forward_hidden(Net *net, Matrix x, fbp_team *team) except -1 nogil:
    """All layers but the last"""
    cdef Layer *layer
    cdef Product p
    cdef Py_ssize_t i
    for i in range(net.depth - 1):
        layer = &net.layers[i]
        set_forward(net, &p, i, x, layer.z, layer.outputs)
        run(net, &p, team)
        if layer.a != layer.z:
            activate(net, x.rows * layer.outputs, layer.z, layer.a)
    return 0


cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil:
    cdef Product p
    assert x.rows <= net.capacity and x.columns == net.layers[0].inputs
    forward_hidden(net, x, team)
    set_forward(net, &p, net.depth - 1, x, out, out_row)
    return run(net, &p, team)


cdef void set_rows(Net *net, Rows *r, Matrix t) noexcept nogil:
    """The rows of the error but for their logits and deltas: every row is read, and has weight 1."""
    memset(r, 0, sizeof(Rows))
    r.k, r.element, r.N, r.C = net.k, net.element, t.rows, net.layers[net.depth - 1].outputs
    if t.labels:
        r.labels = <const int64_t *>t.data
    else:
        r.t, r.t_row = t.data, t.row


cdef double error(Net *net, Matrix t, fbp_team *team) except? -1 nogil:
    """The mean error of the logits, and its gradient over them."""
    cdef Layer *layer = &net.layers[net.depth - 1]
    cdef double weight_sum
    cdef Rows r
    set_rows(net, &r, t)
    r.z, r.d = layer.a, layer.delta
    r.z_row = r.d_row = layer.outputs * net.element
    assert in_space(net, layer.a, r.N * r.z_row) and in_space(net, net.scratch, scratch_bytes(&r, team.threads))
    return reduced(&r, net.error, True, team, net.scratch, &weight_sum)


cdef void set_last_layer(Net *net, LastLayer *l, Matrix x, Matrix t, char *to) noexcept nogil:
    """The last layer and its error in one; its gradient to its place in `to`, the delta of the layer below to the work space."""
    cdef Layer *layer = &net.layers[net.depth - 1]
    memset(l, 0, sizeof(LastLayer))
    set_rows(net, &l.rows, t)
    l.inputs, l.read = layer.inputs, x.rows
    l.in_pieces = net.k.product_in_pieces(x.rows, layer.outputs, layer.inputs)
    set_inputs(net, net.depth - 1, x, &l.x, &l.x_row)
    l.w, l.w_row, l.w_column, l.bias = net.w + layer.weight, layer.outputs, 1, net.w + layer.bias
    l.grad_w, l.grad_w_row, l.grad_bias = to + layer.weight, layer.outputs, to + layer.bias
    if net.depth > 1:
        layer = &net.layers[net.depth - 2]
        l.grad_x, l.grad_x_row = layer.delta, layer.outputs
        if net.kind != FBP_IDENTITY:
            l.activation, l.slope = net.kind, layer.z


cdef double error_by_blocks(Net *net, Matrix x, Matrix t, char *to, fbp_team *team) except? -1 nogil:
    cdef double weight_sum
    cdef LastLayer l
    cdef Blocks blocks
    set_last_layer(net, &l, x, t, to)
    lay_out_blocks(&l, most_rows(net), net.layers[net.depth - 1].a, &blocks)
    blocks.scratch = net.scratch
    assert in_space(net, <char *>blocks.weights, sizeof(double))
    assert in_space(net, net.scratch, block_scratch(&l, (l.read + blocks.count - 1) // blocks.count, team.threads))
    return last_layer(&l, net.error, True, &blocks, team, &weight_sum)


cdef double deltas(Net *net, Matrix x, Matrix t, char *to, fbp_team *team) except? -1 nogil:
    cdef Layer *last = &net.layers[net.depth - 1]
    cdef Product p
    cdef double loss
    cdef Py_ssize_t i, known = net.depth - 1  # the lowest layer whose delta is known
    net.formed = NULL
    assert x.rows == t.rows <= net.capacity and x.columns == net.layers[0].inputs and team.threads <= net.most_threads
    if by_blocks(net, x.rows):
        forward_hidden(net, x, team)
        loss = error_by_blocks(net, x, t, to, team)
        net.formed = to
        known -= 1
    else:
        forward(net, x, last.a, last.outputs, team)
        loss = error(net, t, team)
    for i in range(known, 0, -1):
        set_recursion(net, &p, i, x.rows)
        run(net, &p, team)
    return loss


cdef inline bint is_formed(Net *net, Py_ssize_t i) noexcept nogil:
    """Whether the gradient of layer i came with the deltas"""
    return net.formed != NULL and i == net.depth - 1


cdef inline Py_ssize_t parameters_of(const Layer *layer) noexcept nogil:
    """The number of its weights and biases, which lie one after the other"""
    return (layer.inputs + 1) * layer.outputs


cdef int gradient(Net *net, Matrix x, char *to, fbp_team *team) except -1 nogil:
    cdef Layer *layer
    cdef Product p
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        if not is_formed(net, i):
            column_sums(net.k, x.rows, layer.outputs, layer.delta, layer.outputs, net.element, to + layer.bias)
            set_gradient(net, &p, i, x, to + layer.weight)
            run(net, &p, team)
        elif to != net.formed:
            memcpy(to + layer.weight, net.formed + layer.weight, parameters_of(layer) * net.element)
    return 0


cdef double largest_input(Net *net, Py_ssize_t i, Matrix x) except? -1 nogil:
    """max |A_prev|; NaN if any element is"""
    cdef double most = 0, of_run
    cdef const char *a
    cdef Py_ssize_t a_row, run = net.layers[i].inputs, left = x.rows * run
    set_inputs(net, i, x, &a, &a_row)
    if a_row == run:  # rows without gaps are one, in slices
        run = a_row = SLICE
    while left > 0 and most == most:
        of_run = net.k.largest_magnitude(min(run, left), a, NULL)
        most = of_run if of_run != of_run else fmax(most, of_run)
        poll(&net.unpolled, run)
        a += a_row * net.element
        left -= run
    return most


cdef double gradient_bound(Net *net, Matrix x, double most) except? -1 nogil:
    """|Σ_n a_ni δ_no| <= max |a| Σ |δ|, over all layers whose gradient is not there to be looked at; a is 1 for a bias, and an
    output of the logistic function or tanh at most 1. The sum 1 + max |a| is NaN where that is, which fmax would drop."""
    cdef Layer *layer
    cdef double bound = 0, of_layer
    cdef char *bias_gradient = net.bias_gradients
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        if is_formed(net, i):
            of_layer = net.k.largest_magnitude(parameters_of(layer), net.formed + layer.weight, NULL)
        else:
            of_layer = column_sums(net.k, x.rows, layer.outputs, layer.delta, layer.outputs, net.element, bias_gradient)
            if i == 0 or (net.kind != FBP_SIGMOID and net.kind != FBP_TANH):
                of_layer *= 1 + (most if i == 0 else largest_input(net, i, x))
        bound += of_layer
        bias_gradient += layer.outputs * net.element
    return bound


cdef bint fused(Net *net, Py_ssize_t rows, int n_threads) noexcept nogil:
    """Whether updates go without a gradient in memory, where it does not come with the deltas: its sums are of one block, and all
    of it takes less than 0.2 s, for it is not to be torn by a signal."""
    cdef double number = 0
    cdef Matrix none
    cdef Product p
    cdef Py_ssize_t i
    memset(&none, 0, sizeof(none))
    none.rows = rows
    for i in range(net.depth - by_blocks(net, rows)):
        set_gradient(net, &p, i, none, NULL)
        number += operations(&p)
    return rows <= net.k.tile_depth() and number < UPDATE_PER_COLUMN * net.k.tile_columns() * n_threads


cdef int update(Net *net, Matrix x, const Update *u, fbp_team *team) except -1 nogil:
    cdef Layer *layer
    cdef Product p
    cdef char *bias_gradient = net.bias_gradients
    cdef Py_ssize_t i
    if not fused(net, x.rows, net.n_threads):
        assert in_space(net, net.gradient, net.count * net.element)
        gradient(net, x, net.gradient, team)
        update_parameters(u, net.k, net.element, net.count, net.gradient, net.w, 0, team)
        return 0
    for i in range(net.depth):
        layer = &net.layers[i]
        if is_formed(net, i):
            update_parameters(u, net.k, net.element, parameters_of(layer), net.formed + layer.weight, net.w, layer.weight,
                              team)
            return 0
        set_gradient(net, &p, i, x, net.w + layer.weight)
        p.epilogue.update = &u.numbers
        p.epilogue.first = NULL if u.first == NULL else u.first + layer.weight
        p.epilogue.second = NULL if u.second == NULL else u.second + layer.weight
        assert in_space(net, net.scratch, product_scratch(&p, team.threads))
        multiply_at_once(&p, net.scratch, team)
        update_parameters(u, net.k, net.element, layer.outputs, bias_gradient, net.w, layer.bias, team)
        bias_gradient += layer.outputs * net.element
        net.unpolled += product_work(&p)
    return 0
