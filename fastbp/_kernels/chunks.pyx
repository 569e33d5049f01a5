"""The gradient of a large batch of a small network, in chunks of rows.

A. A chunk goes through all layers on one thread, in a work space of its own, which stays in the cache.
B. The gradient is the mean of those of the chunks, by their weights. Where the batch is cut depends on its rows alone, and the
   mean is taken in their order, so it has the same bits on any number of threads.
C. A thread that computes chunks polls no signals and raises nothing: what it finds stands in `Found`.
"""

from libc.math cimport NAN

from fastbp._kernels.memory cimport set_element
from fastbp._kernels.net cimport CHUNK, Found, Layer, make_plan, rows_of, set_mean_of_chunks, step_work
from fastbp._kernels.product cimport Product
from fastbp._kernels.rows cimport Rows, stayed
from fastbp._kernels.step cimport bias_gradient, deltas_at_once, error, forward, multiply_polled, recursion, weight_gradient
from fastbp._kernels.team cimport fbp_team_share, poll

cdef Py_ssize_t AT_ONCE = 64  # chunks: some milliseconds between two polls


cdef struct Chunks:
    const Net *net
    const Batch *batch
    Py_ssize_t first         # of those that are computed


cdef int gradient_of_part(Net *part, const Batch *batch, char *to, Found *found) except -1 nogil:
    cdef const Layer *last = &part.layers[part.depth - 1]
    cdef fbp_team alone
    cdef Loss loss
    cdef Py_ssize_t i
    alone.threads = 1
    forward(part, batch.x, last.a, last.dense.outputs, &alone)
    error(part, batch, &alone, &loss, &found.astray)
    found.mean, found.weight = loss.mean, loss.weight
    for i in range(part.depth - 1, -1, -1):
        bias_gradient(part, &part.layers[i], batch.x.rows, to + part.layers[i].bias)
        weight_gradient(part, i, batch, to, &alone)
        if i > 0:
            recursion(part, i, batch.x.rows, &alone)
    return 0


cdef void chunk(const void *chunks, Py_ssize_t i, int thread) noexcept nogil:
    cdef const Chunks *c = <const Chunks *>chunks
    cdef const Net *net = c.net
    cdef Net *part = &net.parts[thread]
    cdef Batch batch = c.batch[0]
    cdef Py_ssize_t number = c.first + i, start = number * CHUNK
    batch.x.rows = batch.t.rows = min(CHUNK, c.batch.x.rows - start)
    batch.x.data, batch.t.data = batch.x.data + start * batch.x.row, batch.t.data + start * batch.t.row
    if batch.weight != NULL:
        batch.weight += start
    part.error, part.largest_error, part.drops, part.key = net.error, net.largest_error, net.drops, net.key
    part.first_row = net.first_row + start
    gradient_of_part(part, &batch, net.chunk_gradients + number * net.count * net.element, &net.found[number])


cdef int mean_of_chunks(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil:
    """Σ_c s_c g_c, s_c the share of chunk c in the weights, and the same of the errors"""
    cdef Rows r = rows_of(net, batch)
    cdef Product p
    cdef Py_ssize_t c
    cdef double share
    loss.mean = loss.weight = 0
    for c in range(net.plan.chunks):
        stayed(&r, net.found[c].astray)
        loss.weight += net.found[c].weight
    for c in range(net.plan.chunks):
        share = net.found[c].weight / loss.weight if net.found[c].weight != 0 else 0
        if share != 0:
            loss.mean += share * net.found[c].mean
        set_element(net.shares, c, net.element, share)
    if loss.weight == 0:
        loss.mean = NAN
    set_mean_of_chunks(&p, net, net.plan.chunks, to)
    return multiply_polled(net, &p, team)


cdef int gradient_by_chunks(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil:
    cdef Chunks chunks = Chunks(net, batch, 0)
    cdef double work = step_work(net, CHUNK, 0)
    cdef Py_ssize_t count
    while chunks.first < net.plan.chunks:
        count = min(AT_ONCE, net.plan.chunks - chunks.first)
        fbp_team_share(team, chunk, &chunks, count)
        poll(&net.unpolled, work * count)
        chunks.first += count
    net.formed = to
    return mean_of_chunks(net, batch, to, team, loss)


cdef int deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil:
    make_plan(net, batch.x.rows, team.threads)
    if net.plan.chunks > 1:
        return gradient_by_chunks(net, batch, to, team, loss)
    return deltas_at_once(net, batch, to, team, loss)
