"""One training step of a dense network: forward, error, deltas; then, from them, gradient or update.

A. One block of memory holds everything that a step needs, and grows only when a larger batch comes. In a step nothing is allocated
   and no Python runs.
B. Addresses without a dtype: a step is written once for float32 and float64.
C. All deltas come first, then all gradients. So it is known that an update is finite before the first parameter changes, and the
   recursion has passed through every weight before it does.
D. An update needs the gradient of one tile at a time, so the gradient of the weights is never in memory: it goes from the registers
   of A_prevᵀ δ into the weights. It is formed first where a batch is deeper than a block of that sum, or the sums take too long.
E. Pending signals are looked for between matrix products and inside long ones, but not between two updates.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport fmax
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.dispatch cimport FBP_IDENTITY, FBP_SIGMOID, FBP_TANH, LINE, kernels_for, line_start, whole_lines
from fastbp._kernels.linear cimport Product, multiply, product_scratch, product_work
from fastbp._kernels.loss cimport Rows, reduced, scratch_bytes
from fastbp._kernels.optimizer cimport update_parameters

cdef double POLL_WORK = 2e7     # nanoseconds of work between two looks at pending signals
cdef double ELEMENT_WORK = 1.0  # nanoseconds of a logit in the error, roughly
cdef double UPDATE_PER_COLUMN = 1e8  # multiply-adds, for each column of a tile, of an update between two looks at pending signals


# -- work space ------------------------------------------------------------------------------------------------------------


cdef char *take(Net *net, char *base, Py_ssize_t bytes) noexcept nogil:
    cdef Py_ssize_t at = net.used
    net.used += whole_lines(bytes)
    return NULL if base == NULL else base + at


cdef void lay_out(Net *net, char *base, Py_ssize_t rows) noexcept nogil:
    """Divide the work space for `rows` rows from `base`; with NULL only find its size, `used`."""
    cdef Py_ssize_t scratch = 0, outputs = 0, size, i
    cdef Layer *layer
    cdef Layer *last = &net.layers[net.depth - 1]
    cdef Matrix none
    cdef Rows r
    cdef Product p
    memset(&none, 0, sizeof(none))
    none.rows = rows
    net.used = 0
    for i in range(net.depth):
        layer = &net.layers[i]
        size = rows * layer.outputs * net.element
        outputs += layer.outputs
        layer.a = layer.z = layer.delta = take(net, base, size)
        if layer != last:
            layer.delta = take(net, base, size)
            if net.keeps_input:
                layer.z = take(net, base, size)
        p = forward_product(net, i, none, NULL, 0)
        scratch = max(scratch, product_scratch(&p, net.n_threads))
        p = weight_product(net, i, none, NULL)
        scratch = max(scratch, product_scratch(&p, net.n_threads))
        if i > 0:
            p = input_product(net, i, rows)
            scratch = max(scratch, product_scratch(&p, net.n_threads))
    net.batch_x = take(net, base, rows * net.layers[0].inputs * net.element)
    net.batch_t = take(net, base, rows * max(last.outputs * net.element, <Py_ssize_t>sizeof(int64_t)))
    net.bias_gradients = take(net, base, outputs * net.element)
    net.gradient = NULL if fused(net, rows) else take(net, base, net.count * net.element)
    r.N, r.C, r.element = rows, last.outputs, net.element
    net.loss_scratch = take(net, base, scratch_bytes(&r, net.n_threads))
    net.product_scratch = take(net, base, scratch)


cdef int prepare(Net *net, Py_ssize_t rows) except -1:
    cdef const fbp_kernels *k = kernels_for(net.element)
    if rows <= net.capacity and k == net.k:
        return 0
    net.k = k
    lay_out(net, NULL, rows)
    free(net.memory)
    net.capacity = 0
    net.memory = <char *>malloc(net.used + LINE)
    if net.memory == NULL:
        raise MemoryError(f"no memory for a batch of {rows} rows: {net.used} bytes of work space")
    lay_out(net, line_start(net.memory), rows)
    net.capacity = rows
    return 0


# -- the three products of a layer -----------------------------------------------------------------------------------------


cdef Matrix inputs_of(Net *net, Py_ssize_t i, Matrix x) noexcept nogil:
    """A_prev (rows, I): the batch, or the outputs of the layer before"""
    cdef Matrix a = x
    if i > 0:
        a.data, a.columns = net.layers[i - 1].a, net.layers[i].inputs
        a.row = a.columns * net.element
    return a


cdef Product product(Net *net, Py_ssize_t M, Py_ssize_t N, Py_ssize_t K) noexcept nogil:
    cdef Product p
    memset(&p, 0, sizeof(p))
    p.k, p.element, p.M, p.N, p.K, p.C_row = net.k, net.element, M, N, K, N
    return p


cdef Product forward_product(Net *net, Py_ssize_t i, Matrix a, char *out, Py_ssize_t out_row) noexcept nogil:
    """A (rows, O) = f(A_prev W + b), where f waits if its slope needs A_prev W + b"""
    cdef Layer *layer = &net.layers[i]
    cdef Product p = product(net, a.rows, layer.outputs, layer.inputs)
    p.A, p.A_row, p.A_column = a.data, a.row // net.element, 1
    p.B, p.B_row, p.B_column = net.w + layer.weight, p.N, 1
    p.C, p.C_row = out, out_row
    p.epilogue.bias = net.w + layer.bias
    p.epilogue.activation = FBP_IDENTITY if net.keeps_input or i == net.depth - 1 else net.kind
    return p


cdef Product input_product(Net *net, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    """δ_prev (rows, I) = (δ Wᵀ) ⊙ f'"""
    cdef Layer *layer = &net.layers[i]
    cdef Product p = product(net, rows, layer.inputs, layer.outputs)
    p.A, p.A_row, p.A_column = layer.delta, p.K, 1
    p.B, p.B_row, p.B_column = net.w + layer.weight, 1, p.K
    p.C = net.layers[i - 1].delta
    p.epilogue.activation, p.epilogue.slope_row = net.kind, p.N
    p.epilogue.slope = NULL if net.kind == FBP_IDENTITY else net.layers[i - 1].z
    return p


cdef Product weight_product(Net *net, Py_ssize_t i, Matrix a, char *out) noexcept nogil:
    """dW (I, O) = A_prevᵀ δ"""
    cdef Layer *layer = &net.layers[i]
    cdef Product p = product(net, layer.inputs, layer.outputs, a.rows)
    p.A, p.A_row, p.A_column = a.data, 1, a.row // net.element
    p.B, p.B_row, p.B_column = layer.delta, p.N, 1
    p.C = out
    return p


cdef int run(Net *net, Product p, fbp_team *team) except -1 nogil:
    multiply(&p, net.product_scratch, team)
    poll(net, product_work(&p))
    return 0


cdef bint poll(Net *net, double work) except -1 nogil:
    net.unpolled += work
    if net.unpolled < POLL_WORK:
        return False
    net.unpolled = 0
    with gil:
        PyErr_CheckSignals()
    return True


# -- a step ----------------------------------------------------------------------------------------------------------------


cdef double forward_work(Net *net, Py_ssize_t rows) noexcept nogil:
    cdef Matrix none
    cdef Product p
    cdef double work = 0
    memset(&none, 0, sizeof(none))
    none.rows = rows
    for i in range(net.depth):
        p = forward_product(net, i, none, NULL, 0)
        work += product_work(&p)
    return work


cdef double step_work(Net *net, Py_ssize_t rows) noexcept nogil:
    return 3 * forward_work(net, rows) + ELEMENT_WORK * rows * net.layers[net.depth - 1].outputs


cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil:
    cdef Layer *layer
    cdef Py_ssize_t i
    for i in range(net.depth - 1):
        layer = &net.layers[i]
        run(net, forward_product(net, i, inputs_of(net, i, x), layer.z, layer.outputs), team)
        if layer.a != layer.z:
            net.k.activate(net.kind, x.rows * layer.outputs, layer.z, layer.a)
    i = net.depth - 1
    return run(net, forward_product(net, i, inputs_of(net, i, x), out, out_row), team)


cdef double error(Net *net, Matrix t, fbp_team *team) except? -1 nogil:
    """The mean error of the logits, and its gradient over them."""
    cdef Layer *layer = &net.layers[net.depth - 1]
    cdef double weight_sum
    cdef Rows r
    memset(&r, 0, sizeof(r))
    r.k, r.element, r.N, r.C = net.k, net.element, t.rows, layer.outputs
    r.z, r.d = layer.a, layer.delta
    r.z_row = r.d_row = layer.outputs * net.element
    r.ignore_index = -100
    if t.labels:
        r.labels = <const int64_t *>t.data
    else:
        r.t, r.t_row = t.data, t.row
    return reduced(&r, net.error, True, 1, net.loss_scratch, &weight_sum)


cdef double deltas(Net *net, Matrix x, Matrix t, fbp_team *team) except? -1 nogil:
    cdef Layer *last = &net.layers[net.depth - 1]
    cdef double loss
    cdef Py_ssize_t i
    forward(net, x, last.a, last.outputs, team)
    loss = error(net, t, team)
    for i in range(net.depth - 1, 0, -1):
        run(net, input_product(net, i, x.rows), team)
    return loss


cdef int gradient(Net *net, Matrix x, char *to, fbp_team *team) except -1 nogil:
    cdef Layer *layer
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        net.k.column_sums(x.rows, layer.outputs, layer.delta, layer.outputs, to + layer.bias)
        run(net, weight_product(net, i, inputs_of(net, i, x), to + layer.weight), team)
    return 0


cdef double largest(Net *net, Matrix a) noexcept nogil:
    """max |a|; NaN if any element is"""
    cdef double most = 0, of_row
    cdef Py_ssize_t n
    if a.row == a.columns * net.element:
        return net.k.largest_magnitude(a.rows * a.columns, a.data)
    for n in range(a.rows):
        of_row = net.k.largest_magnitude(a.columns, a.data + n * a.row)
        most = of_row if of_row != of_row else fmax(most, of_row)
        if most != most:
            break
    return most


cdef double gradient_bound(Net *net, Matrix x) noexcept nogil:
    """|Σ_n a_ni δ_no| <= max |a| Σ |δ|, over all layers; an output of the logistic function or tanh is at most 1."""
    cdef Layer *layer
    cdef double bound = 0, of_layer
    cdef char *bias_gradient = net.bias_gradients
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        of_layer = net.k.column_sums(x.rows, layer.outputs, layer.delta, layer.outputs, bias_gradient)
        if i == 0 or (net.kind != FBP_SIGMOID and net.kind != FBP_TANH):
            of_layer *= fmax(1, largest(net, inputs_of(net, i, x)))
        bound += of_layer
        bias_gradient += layer.outputs * net.element
    return bound


cdef bint fused(Net *net, Py_ssize_t rows) noexcept nogil:
    """Whether updates go without a gradient in memory: its sums are of one block, and all of it takes less than a tenth of a second,
    in which no signal is looked for."""
    cdef double operations = 0
    cdef Py_ssize_t i
    for i in range(net.depth):
        operations += <double>rows * net.layers[i].inputs * net.layers[i].outputs
    return rows <= net.k.tile_depth() and operations < UPDATE_PER_COLUMN * net.k.tile_columns()


cdef int update(Net *net, Matrix x, const Update *u, fbp_team *team) except -1 nogil:
    cdef Layer *layer
    cdef Product p
    cdef char *bias_gradient = net.bias_gradients
    cdef Py_ssize_t i
    if not fused(net, x.rows):
        gradient(net, x, net.gradient, team)
        update_parameters(u, net.k, net.element, net.count, net.gradient, net.w, 0, team)
        return 0
    for i in range(net.depth):
        layer = &net.layers[i]
        p = weight_product(net, i, inputs_of(net, i, x), net.w + layer.weight)
        p.epilogue.update = &u.numbers
        p.epilogue.first = NULL if u.first == NULL else u.first + layer.weight
        p.epilogue.second = NULL if u.second == NULL else u.second + layer.weight
        multiply(&p, net.product_scratch, team)
        update_parameters(u, net.k, net.element, layer.outputs, bias_gradient, net.w, layer.bias, team)
        bias_gradient += layer.outputs * net.element
        net.unpolled += product_work(&p)
    return 0
