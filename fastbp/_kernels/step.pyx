"""One training step.

A. All deltas are computed before any gradient. So an update is known to be finite before the first parameter changes, and the
   recursion has used every weight before it changes.
B. An update needs the gradient one tile at a time, so the weight gradient is never stored: it goes from the registers of
   A_prevᵀ δ into the weights. It is stored first if a batch is deeper than a block of that sum, if the sums take too long, and
   if its norm is needed.
C. With very many classes the logits and deltas of a batch are never stored whole: last_layer.pyx computes the last layer in
   blocks of rows, and its gradient, whose size does not depend on the batch, together with the deltas.
D. Layer by layer, the weights are updated, then the biases, which may be exempt from weight decay.
E. Where the gradient is summed over processes, both are in turn: that of a layer is on its way while the deltas below are
   computed. Then it is in memory, and the update comes after the last sum.
F. Pending signals are polled between matrix products and inside long ones, but not between two updates.
G. Muon forms the steps of all hidden matrices, which may take long, before it changes the first parameter or state. A hidden
   matrix is that of any layer but the last: the inputs of the first are numbers, not the rows of a table as in an embedding.
"""

from libc.math cimport fabs, fmax, isfinite, sqrt
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport fbp_update
from fastbp._kernels.last_layer cimport Blocks, LastLayer, block_scratch, last_layer
from fastbp._kernels.last_layer cimport lay_out as lay_out_blocks
from fastbp._kernels.layer cimport set_gram_product, set_polynomial_product, set_square_product
from fastbp._kernels.memory cimport element_at, set_element
from fastbp._kernels.net cimport (
    Layer, in_space, last_layer_of, make_plan, most_rows, rows_of, set_forward, set_gradient, set_inputs, set_recursion,
    slope_source,
)
from fastbp._kernels.optimizer cimport norm, set_norm, state_at, update_parameters
from fastbp._kernels.product cimport Product, column_sums, multiply, multiply_at_once, product_scratch, product_work
from fastbp._kernels.rows cimport Rows, reduced, scratch_bytes, stayed
from fastbp._kernels.team cimport fbp_team_share, poll

cdef Py_ssize_t SLICE = 1024**2  # elements of an activation, or of a search for the maximum, between two polls
cdef Py_ssize_t PIECE = 16 * 1024  # elements of one call of a primitive
cdef double ELEMENT_WORK = 20    # nanoseconds of the slowest activation for an element

# p(x) = a x + b x³ + c x⁵ takes all of [0.01, 1] nearer to 1 at each of some five iterations: K. Jordan, see muon_step
cdef double A = 3.4445, B = -4.7750, C = 2.0315
cdef double ROOT = sqrt(C), FOURTH_ROOT = sqrt(ROOT)


cdef int multiply_polled(Net *net, const Product *p, fbp_team *team) except -1 nogil:
    assert in_space(net, net.scratch, product_scratch(p, team.threads))
    multiply(p, net.scratch, team)
    poll(&net.unpolled, product_work(p))
    return 0


# -- forward -----------------------------------------------------------------------------------------------------------------


# The elements from `start` to `stop` of a hidden layer, x to y: its activation, then dropout.
cdef struct Elements:
    const Net *net
    const Layer *layer
    int number               # of the layer
    const char *x
    char *y
    bint activates
    Py_ssize_t start, stop


cdef void element_piece(const void *elements, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Elements *e = <const Elements *>elements
    cdef Py_ssize_t start = e.start + i * PIECE, count = min(PIECE, e.stop - start)
    cdef const char *x = e.x + start * e.net.element
    cdef char *y = e.y + start * e.net.element
    if e.activates:
        e.net.k.activate(e.layer.kind, count, x, y)
        x = y
    if e.layer.dropout > 0 and e.net.drops:
        e.net.k.dropout(count, x, e.layer.dropout, e.net.key, e.number, e.net.first_row * e.layer.dense.outputs + start, y)


cdef int each_element(Net *net, Py_ssize_t i, Py_ssize_t rows, const char *x, char *y, bint activates,
                      fbp_team *team) except -1 nogil:
    cdef const Layer *layer = &net.layers[i]
    cdef Py_ssize_t n = rows * layer.dense.outputs
    cdef Elements e = Elements(net, layer, <int>i, x, y, activates, 0, 0)
    while e.start < n:
        e.stop = min(e.start + SLICE, n)
        fbp_team_share(team, element_piece, &e, (e.stop - e.start + PIECE - 1) // PIECE)
        poll(&net.unpolled, ELEMENT_WORK * (e.stop - e.start))
        e.start = e.stop
    return 0


cdef int forward_hidden(Net *net, Matrix x, fbp_team *team) except -1 nogil:
    """All layers but the last"""
    cdef const Layer *layer
    cdef char *z
    cdef Product p
    cdef Py_ssize_t i
    for i in range(net.depth - 1):
        layer = &net.layers[i]
        z = slope_source(net, layer)
        set_forward(&p, net, i, x, z, layer.dense.outputs)
        multiply_polled(net, &p, team)
        if layer.a != z:
            each_element(net, i, x.rows, z, layer.a, layer.keeps_input, team)
    return 0


cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil:
    assert x.rows <= net.capacity and x.columns == net.layers[0].dense.inputs
    cdef Product p
    forward_hidden(net, x, team)
    set_forward(&p, net, net.depth - 1, x, out, out_row)
    return multiply_polled(net, &p, team)


# -- error and deltas --------------------------------------------------------------------------------------------------------


cdef double limited_sum(Py_ssize_t n, const double *errors, const double *weights, double largest) noexcept nogil:
    """Of weighted errors, each of which counts as `largest` at most, before it is weighted"""
    cdef double total = 0, weight
    cdef Py_ssize_t i
    for i in range(n):
        weight = 1 if weights == NULL else weights[i]
        total += weight * largest if fabs(errors[i]) > fabs(weight) * largest else errors[i]
    return total


cdef int error(Net *net, const Batch *batch, fbp_team *team, Loss *loss, bint *astray) except -1 nogil:
    """The mean error of the logits, or with net.sums their sum, and its gradient over them; whether a label has gone astray."""
    cdef const Layer *layer = &net.layers[net.depth - 1]
    cdef Rows r = rows_of(net, batch)
    r.z, r.d = layer.a, layer.delta
    r.z_row = r.d_row = layer.dense.outputs * net.element
    assert in_space(net, layer.a, r.N * r.z_row) and in_space(net, net.scratch, scratch_bytes(&r, team.threads))
    loss.mean = reduced(&r, net.error, not net.sums, team, net.scratch, &loss.weight, astray)
    if isfinite(net.largest_error) and loss.weight != 0:
        loss.mean = limited_sum(r.N, <double *>net.scratch, batch.weight, net.largest_error)
        loss.mean /= 1 if net.sums else loss.weight
    return 0


cdef int error_by_blocks(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil:
    cdef LastLayer last = last_layer_of(net, batch, to)
    cdef Blocks blocks
    lay_out_blocks(&last, most_rows(net), net.layers[net.depth - 1].a, &blocks)
    blocks.scratch = net.scratch
    assert in_space(net, <char *>blocks.weights, sizeof(double))
    assert in_space(net, net.scratch, block_scratch(&last, (last.read + blocks.count - 1) // blocks.count, team.threads))
    loss.mean = last_layer(&last, net.error, not net.sums, &blocks, team, &loss.weight)
    return 0


cdef int drop_deltas(Net *net, Py_ssize_t i, Py_ssize_t rows, fbp_team *team) except -1 nogil:
    """The deltas of layer i, which came through all layers above, through its dropout"""
    if net.layers[i].dropout > 0 and net.drops:
        each_element(net, i, rows, net.layers[i].delta, net.layers[i].delta, False, team)
    return 0


cdef int recursion(Net *net, Py_ssize_t i, Py_ssize_t rows, fbp_team *team) except -1 nogil:
    """The deltas of the layer below layer i"""
    cdef Product p
    set_recursion(&p, net, i, rows)
    multiply_polled(net, &p, team)
    return drop_deltas(net, i - 1, rows, team)


cdef Py_ssize_t last_deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -2 nogil:
    cdef const Layer *last = &net.layers[net.depth - 1]
    cdef Py_ssize_t rows = batch.x.rows, known = net.depth - 1  # the lowest layer whose delta is known
    cdef bint astray
    cdef Rows r
    make_plan(net, rows, team.threads)
    net.formed = NULL
    assert rows == batch.t.rows <= net.capacity and team.threads <= net.most_threads
    assert batch.x.columns == net.layers[0].dense.inputs
    if net.plan.by_blocks:
        forward_hidden(net, batch.x, team)
        error_by_blocks(net, batch, to, team, loss)
        net.formed = to
        known -= 1
        if known >= 0:
            drop_deltas(net, known, rows, team)
    else:
        forward(net, batch.x, last.a, last.dense.outputs, team)
        error(net, batch, team, loss, &astray)
        r = rows_of(net, batch)
        stayed(&r, astray)
    return known


cdef int deltas_at_once(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil:
    cdef Py_ssize_t i
    for i in range(last_deltas(net, batch, to, team, loss), 0, -1):
        recursion(net, i, batch.x.rows, team)
    return 0


# -- gradient ----------------------------------------------------------------------------------------------------------------


cdef inline bint is_formed(const Net *net, Py_ssize_t i) noexcept nogil:
    """Whether the gradient of layer i was formed with the deltas"""
    return net.formed != NULL and (i == net.depth - 1 or net.plan.chunks > 1)


cdef inline Py_ssize_t parameters_of(const Layer *layer) noexcept nogil:
    """The number of its weights and biases, which are contiguous"""
    return (layer.dense.inputs + 1) * layer.dense.outputs


cdef double bias_gradient(const Net *net, const Layer *layer, Py_ssize_t rows, char *to) except? -1 nogil:
    """db = Σ_n δ_n; returns Σ |δ|"""
    return column_sums(net.k, rows, layer.dense.outputs, layer.delta, layer.dense.outputs, net.element, to)


cdef int bias_gradients(Net *net, Py_ssize_t rows) except -1 nogil:
    cdef Py_ssize_t i
    for i in range(net.depth):
        if not is_formed(net, i):
            bias_gradient(net, &net.layers[i], rows, net.layers[i].bias_gradient)
    return 0


cdef int weight_gradient(Net *net, Py_ssize_t i, const Batch *batch, char *to, fbp_team *team) except -1 nogil:
    cdef Product p
    set_gradient(&p, net, i, batch.x, to + net.layers[i].weight)
    return multiply_polled(net, &p, team)


cdef int gradient(Net *net, const Batch *batch, char *to, fbp_team *team) except -1 nogil:
    cdef const Layer *layer
    cdef Py_ssize_t i
    for i in range(net.depth - 1, -1, -1):
        layer = &net.layers[i]
        if not is_formed(net, i):
            memcpy(to + layer.bias, layer.bias_gradient, layer.dense.outputs * net.element)
            weight_gradient(net, i, batch, to, team)
        elif to != net.formed:
            memcpy(to + layer.weight, net.formed + layer.weight, parameters_of(layer) * net.element)
    return 0


cdef int gradients_in_turn(Net *net, const Batch *batch, Py_ssize_t known, char *to, fbp_team *team, Formed formed,
                           void *call) except -1 nogil:
    cdef const Layer *layer
    cdef Py_ssize_t i
    for i in range(net.depth - 1, -1, -1):
        layer = &net.layers[i]
        if i < known:
            recursion(net, i + 1, batch.x.rows, team)
        if not is_formed(net, i):
            bias_gradient(net, layer, batch.x.rows, to + layer.bias)
            weight_gradient(net, i, batch, to, team)
        formed(call, i)
    return 0


cdef double largest_input(Net *net, Py_ssize_t i, Matrix x) except? -1 nogil:
    cdef double largest = 0, of_slice
    cdef const char *a
    cdef Py_ssize_t a_row, length = net.layers[i].dense.inputs, left = x.rows * length
    set_inputs(net, i, x, &a, &a_row)
    if a_row == length:  # rows without gaps are one vector, in slices
        length = a_row = SLICE
    while left > 0 and largest == largest:
        of_slice = net.k.largest_magnitude(min(length, left), a, NULL)
        largest = of_slice if of_slice != of_slice else fmax(largest, of_slice)
        poll(&net.unpolled, length)
        a += a_row * net.element
        left -= length
    return largest


cdef double bound_of_input(Net *net, Py_ssize_t i, const Batch *batch) except? -1 nogil:
    """A bound of the inputs of layer i, and of the 1 that a bias multiplies; NaN if any input is, which fmax would drop"""
    cdef const Layer *below = &net.layers[i - 1]
    if i == 0:
        return 1 + batch.largest
    if isfinite(below.bound):
        return fmax(1, below.bound / (1 - below.dropout))
    return 1 + largest_input(net, i, batch.x)


cdef double gradient_bound(Net *net, const Batch *batch) except? -1 nogil:
    """|Σ_n a_ni δ_no| <= max |a| Σ |δ|, for each layer whose gradient is not formed, which would be searched"""
    cdef const Layer *layer
    cdef double bound = 0
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        if is_formed(net, i):
            bound += net.k.largest_magnitude(parameters_of(layer), net.formed + layer.weight, NULL)
        else:
            bound += bias_gradient(net, layer, batch.x.rows, layer.bias_gradient) * bound_of_input(net, i, batch)
    return bound


# -- orthogonalised steps ----------------------------------------------------------------------------------------------------


cdef void fill(Net *net, Py_ssize_t n, const char *g, fbp_update numbers, void **state, char *to, fbp_team *team) noexcept nogil:
    """The step of a rule, d, to `to`, without any parameters: 0 + 1 d"""
    cdef Update u
    memset(&u, 0, sizeof(u))
    memset(to, 0, n * net.element)
    if state != NULL:
        u.state[0] = <char *>state[0]
    numbers.learning_rate, numbers.weight_decay, numbers.bias[0], numbers.bias[1] = -1, 0, 1, 1
    update_parameters(&u, &numbers, net.k, net.element, n, g, to, 0, team)


cdef void add_to_diagonal(char *q, Py_ssize_t side, Py_ssize_t element, double x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(side):
        set_element(q, i * (side + 1), element, element_at(q, i * (side + 1), element) + x)


cdef int iterate(Net *net, const Layer *layer, const char *x, char *to, fbp_team *team) except -1 nogil:
    """X ← (a + b X Xᵀ + c (X Xᵀ)²) X by three products, of whichever of X Xᵀ and Xᵀ X is smaller.

    X is c^¼ times what it is elsewhere. So with Q = X Xᵀ and β = b / (2 √c) it is (Q² + 2 β Q + a) X = ((Q + β)² + a - β²) X.
    """
    cdef Py_ssize_t side = min(layer.dense.inputs, layer.dense.outputs)
    cdef double beta = B / (2 * ROOT)
    cdef char *q = net.squares
    cdef char *square = q + side * side * net.element
    cdef Product p
    set_gram_product(&p, &layer.dense, x, q)
    multiply_polled(net, &p, team)
    add_to_diagonal(q, side, net.element, beta)
    set_square_product(&p, &layer.dense, q, square)
    multiply_polled(net, &p, team)
    add_to_diagonal(square, side, net.element, A - beta * beta)
    set_polynomial_product(&p, &layer.dense, x, square, to)
    return multiply_polled(net, &p, team)


cdef int orthogonalise(Net *net, const Layer *layer, const char *g, const Update *u, fbp_team *team) except -1 nogil:
    """c^¼ times the orthogonalised step of a hidden matrix by the gradient g (count), to its place in net.orthogonal"""
    cdef Py_ssize_t n = layer.dense.inputs * layer.dense.outputs
    cdef char *x = net.orthogonal + layer.weight
    cdef char *y = net.other_matrix
    cdef double length
    cdef fbp_update scaled
    cdef void *state[4]
    assert in_space(net, net.orthogonal, net.count * net.element) and in_space(net, y, n * net.element)
    if u.iterations % 2 == 0:  # each goes from one to the other, the last to its place
        x, y = y, x
    state_at(u, layer.weight, state)
    fill(net, n, g + layer.weight, u.matrices, state, x, team)
    length = norm(net.k, net.element, n, x, <double *>net.scratch, team)
    memset(&scaled, 0, sizeof(scaled))  # SGD's step, which is the gradient, scaled
    scaled.gradient_scale = FOURTH_ROOT / (u.epsilon if length < u.epsilon else length)
    fill(net, n, x, scaled, NULL, y, team)
    for _ in range(u.iterations):
        x, y = y, x
        iterate(net, layer, x, y, team)
    return 0


cdef void update_matrix(Net *net, const Layer *layer, const char *g, const Update *u, fbp_team *team) noexcept nogil:
    """By its orthogonalised step, whose factor is K. Jordan's, or makes its mean square that of AdamW: J. Liu et al., "Muon is
    scalable for LLM training", https://arxiv.org/abs/2502.16982, 2025."""
    cdef double inputs = layer.dense.inputs, outputs = layer.dense.outputs
    cdef Update of_matrix = u[0]
    cdef double factor = 0.2 * sqrt(fmax(inputs, outputs)) if u.as_long_as_adamw else sqrt(fmax(1, outputs / inputs))
    of_matrix.state[1], of_matrix.state[2] = net.orthogonal, NULL
    of_matrix.matrices.bias[0] = FOURTH_ROOT / factor  # by which the learning rate is divided
    update_parameters(&of_matrix, &of_matrix.matrices, net.k, net.element, layer.dense.inputs * layer.dense.outputs,
                      g + layer.weight, net.w, layer.weight, team)


# -- update ------------------------------------------------------------------------------------------------------------------


cdef void update_layer(Net *net, const Layer *layer, const char *weight, const char *bias, const Update *u,
                       fbp_team *team) noexcept nogil:
    """By gradients in memory; `weight` is NULL if the weights are updated already"""
    if weight != NULL:
        update_parameters(u, &u.weights, net.k, net.element, layer.dense.inputs * layer.dense.outputs, weight, net.w,
                          layer.weight, team)
    update_parameters(u, &u.biases, net.k, net.element, layer.dense.outputs, bias, net.w, layer.bias, team)


cdef void clip(Net *net, const char *g, Update *u, fbp_team *team) noexcept nogil:
    if u.clip_norm > 0:
        set_norm(u, norm(net.k, net.element, net.count, g, <double *>net.scratch, team), 1)


cdef int update_by_scaled(Net *net, const char *g, Update *u, fbp_team *team) except -1 nogil:
    cdef const Layer *layer
    cdef Py_ssize_t i
    for i in range(net.depth - 1 if u.iterations > 0 else 0):
        orthogonalise(net, &net.layers[i], g, u, team)
    for i in range(net.depth - 1, -1, -1):
        layer = &net.layers[i]
        if u.iterations > 0 and i < net.depth - 1:
            update_matrix(net, layer, g, u, team)
            update_layer(net, layer, NULL, g + layer.bias, u, team)
        else:
            update_layer(net, layer, g + layer.weight, g + layer.bias, u, team)
    return 0


cdef int update(Net *net, const Batch *batch, Update *u, fbp_team *team) except -1 nogil:
    cdef const Layer *layer
    cdef Product p
    cdef Py_ssize_t i
    if not net.plan.fused or u.clip_norm > 0 or u.iterations > 0:
        assert in_space(net, net.gradient, net.count * net.element)
        gradient(net, batch, net.gradient, team)
        clip(net, net.gradient, u, team)
        return update_by_scaled(net, net.gradient, u, team)
    for i in range(net.depth - 1, -1, -1):
        layer = &net.layers[i]
        if is_formed(net, i):
            update_layer(net, layer, net.formed + layer.weight, net.formed + layer.bias, u, team)
            continue
        set_gradient(&p, net, i, batch.x, net.w + layer.weight)
        p.epilogue.update = &u.weights
        state_at(u, layer.weight, p.epilogue.state)
        assert in_space(net, net.scratch, product_scratch(&p, team.threads))
        multiply_at_once(&p, net.scratch, team)
        update_layer(net, layer, NULL, layer.bias_gradient, u, team)
        net.unpolled += product_work(&p)
    return 0
