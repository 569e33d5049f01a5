"""An epoch: for each batch gather, deltas, overflow check, update; and a report from time to time.

The GIL is taken only to poll signals and to report.
"""

from libc.math cimport isfinite
from libc.stdint cimport uint64_t
from libc.string cimport memset

from fastbp._kernels.chunks cimport deltas
from fastbp._kernels.dispatch cimport fbp_kernels
from fastbp._kernels.guard cimport Bounds, grow, may_overflow, measured, trial_by_scaled, update_on_trial
from fastbp._kernels.net cimport Layer, in_space, step_work
from fastbp._kernels.optimizer cimport norm, set_norm, set_step
from fastbp._kernels.step cimport (
    Loss, gradient_bound, gradients_in_turn, largest_input, last_deltas, update, update_by_scaled,
)
from fastbp._kernels.team cimport fbp_team_share, poll

from time import perf_counter

cdef extern from "memory/gather.h" nogil:
    # the `count` rows of `source` with the numbers in `order`, each of `row` bytes, to consecutive rows
    void fbp_gather(Py_ssize_t count, Py_ssize_t row, const char *source, Py_ssize_t source_row, const int64_t *order, char *to)
    # the same for rows of n numbers; `copy` copies a row and returns its largest magnitude
    void fbp_gather_numbers(Py_ssize_t count, Py_ssize_t n, Py_ssize_t row, const char *source, Py_ssize_t source_row,
                            const int64_t *order, char *to, double (*copy)(Py_ssize_t n, const void *x, void *y) noexcept nogil,
                            double *largest)

cdef double REPORT_SECONDS = 0.1  # between two calls of `report`
cdef double BATCH_WORK = 500  # nanoseconds that even the smallest batch takes, beside its products
cdef Py_ssize_t GATHERED_BYTES = 64 * 1024  # the smallest part that pays for handing it over


# -- the next batch ----------------------------------------------------------------------------------------------------------


cdef struct Gathered:
    Matrix source, to
    const int64_t *order
    Py_ssize_t count  # rows that a thread takes at a time
    const fbp_kernels *k
    double *largest   # largest magnitude of each row, or NULL


cdef void gather_some(const void *gathered, Py_ssize_t part, int thread) noexcept nogil:
    cdef const Gathered *r = <const Gathered *>gathered
    cdef Py_ssize_t start = part * r.count
    cdef Py_ssize_t count = min(r.count, r.to.rows - start)
    cdef char *to = r.to.data + start * r.to.row
    if r.largest == NULL:
        fbp_gather(count, r.to.row, r.source.data, r.source.row, r.order + start, to)
    else:
        fbp_gather_numbers(count, r.to.columns, r.to.row, r.source.data, r.source.row, r.order + start, to, r.k.largest_magnitude,
                           r.largest + start)


cdef void gather(const Net *net, Matrix source, const int64_t *order, Matrix to, double *largest, fbp_team *team) noexcept nogil:
    """Copy row order[i] of `source` to row i of `to`, and its largest magnitude to largest[i], unless `largest` is NULL."""
    cdef Gathered r = Gathered(source, to, order, GATHERED_BYTES // to.row + 1, net.k, largest)
    fbp_team_share(team, gather_some, &r, (to.rows + r.count - 1) // r.count)


cdef bint are_rows(const int64_t *order, Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not 0 <= order[i] < rows:
            return False
    return True


cdef double largest_of(Py_ssize_t n, const double *x) noexcept nogil:
    """The largest of x >= 0; NaN if any is NaN"""
    cdef double largest = 0
    cdef Py_ssize_t i
    for i in range(n):
        if not x[i] <= largest:
            largest = x[i]
        if largest != largest:
            return largest
    return largest


cdef Matrix gathered_rows(Matrix source, char *to, Py_ssize_t rows) noexcept nogil:
    """Consecutive rows at `to` of the kind of `source`"""
    source.data, source.row, source.rows = to, source.columns * source.element, rows
    return source


cdef int next_batch(const Call *c, Batch *batch, fbp_team *team) except -1 nogil:
    """The next rows of the call: gathered in the given order, or in place if there is none"""
    cdef Net *net = c.net
    cdef Py_ssize_t rows = min(c.batch_size, c.count - c.start), i
    cdef const int64_t *order = c.order + c.start
    batch[0] = c.all
    if c.order == NULL:
        batch.x.rows = batch.t.rows = rows
        batch.x.data, batch.t.data = c.all.x.data + c.start * c.all.x.row, c.all.t.data + c.start * c.all.t.row
        if c.all.weight != NULL:
            batch.weight = c.all.weight + c.start
        batch.largest = largest_input(net, 0, batch.x)
        return 0
    assert are_rows(order, rows, c.all.x.rows)
    batch.x, batch.t = gathered_rows(c.all.x, net.batch_x, rows), gathered_rows(c.all.t, net.batch_t, rows)
    assert in_space(net, batch.x.data, rows * batch.x.row) and in_space(net, batch.t.data, rows * batch.t.row)
    gather(net, c.all.x, order, batch.x, net.batch_largest, team)
    gather(net, c.all.t, order, batch.t, NULL, team)
    if c.all.weight != NULL:
        for i in range(rows):
            net.batch_weight[i] = c.all.weight[order[i]]
        batch.weight = net.batch_weight
    batch.largest = largest_of(rows, net.batch_largest)
    return 0


# -- updates -----------------------------------------------------------------------------------------------------------------


cdef uint64_t mixed(uint64_t x) noexcept nogil:
    """The next number of SplitMix64 from this state: G. Steele et al., OOPSLA 2014."""
    x += <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef void begin_step(Call *c) noexcept nogil:
    """Set the rates and the dropout key of the next update; the key depends on the seed and the number of the update alone."""
    cdef int64_t step = c.first_step + c.updates
    set_step(c.u, step, c.updates)
    c.net.key = mixed(c.net.seed ^ mixed(<uint64_t>step))


cdef int report(Call *c) except -1 with gil:
    """Call `report` with the number of batches and the mean error so far; it returns whether to stop."""
    (<object>c.optimizer).steps = c.first_step + c.updates - 1
    c.stopped |= bool((<object>c.report)(c.done, c.loss / c.weight if c.weight != 0 else float("nan")))
    return 0


cdef double now() noexcept with gil:
    return perf_counter()


cdef int train_batch(Call *c, const Batch *batch, const Loss *loss, Bounds *bounds, fbp_team *team) except -1 nogil:
    """The update from the deltas; sets `failure` if it would not be finite."""
    cdef double bound = gradient_bound(c.net, batch)
    cdef bint trial = may_overflow(c.u, bound, bounds)
    if trial:  # or the bounds have grown too loose: measure them again
        bounds[0] = measured(c.net, c.u)
        trial = may_overflow(c.u, bound, bounds)
    if not trial:
        update(c.net, batch, c.u, team)
    elif not update_on_trial(c.net, batch, c.u, team):
        c.failure = GRADIENT
        return 0
    grow(c.u, bound, bounds)
    c.loss += loss.mean * loss.weight
    c.weight += loss.weight
    c.updates += 1
    return 0


# -- with other ranks --------------------------------------------------------------------------------------------------------


cdef int begin_sum(Call *c, const Loss *loss) except -1 with gil:
    (<object>c.ranks).begin(loss.mean, loss.weight, c.start < c.count)
    return 0


cdef int send(Call *c, Py_ssize_t i) except -1 with gil:
    (<object>c.ranks).send(i)
    return 0


cdef int formed(void *call, Py_ssize_t i) except -1 nogil:
    """The gradient of layer i is in memory."""
    cdef Call *c = <Call *>call
    return send(c, i) if c.sends[i] else 0


cdef int end_sum(Call *c, Loss *loss) except -1 with gil:
    loss.mean, loss.weight, c.stopped, c.undone = (<object>c.ranks).finish()
    return 0


cdef int sum_over_ranks(Call *c, const Batch *batch, fbp_team *team, Loss *loss) except -1 nogil:
    """The errors, weights and gradients of a step, summed over all ranks"""
    cdef Py_ssize_t known, i
    c.net.first_row = 0 if c.first_rows == NULL else c.first_rows[c.done]
    if batch.x.rows > 0:
        known = last_deltas(c.net, batch, c.out, team, loss)
        begin_sum(c, loss)
        gradients_in_turn(c.net, batch, known, c.out, team, formed, c)
    else:
        loss.mean = loss.weight = 0
        memset(c.out, 0, c.net.count * c.net.element)
        begin_sum(c, loss)
        for i in range(c.net.depth - 1, -1, -1):
            formed(c, i)
    return end_sum(c, loss)


cdef int step_with_others(Call *c, const Batch *batch, Bounds *bounds, fbp_team *team) except -1 nogil:
    """The update by the mean over the examples of all ranks, which is the same on all of them"""
    cdef Loss sum
    cdef double size
    cdef bint trial
    sum_over_ranks(c, batch, team, &sum)
    if c.undone or sum.weight == 0:
        return 0
    if not isfinite(sum.mean):
        c.failure = LOSS
        return 0
    size = norm(c.net.k, c.net.element, c.net.count, c.out, <double *>c.net.scratch, team) / sum.weight
    set_norm(c.u, size, sum.weight)
    trial = may_overflow(c.u, size, bounds)
    if trial:
        bounds[0] = measured(c.net, c.u)
        trial = may_overflow(c.u, size, bounds)
    if not trial:
        update_by_scaled(c.net, c.out, c.u, team)
    elif not trial_by_scaled(c.net, c.out, c.u, team):
        c.failure = GRADIENT
        return 0
    grow(c.u, size, bounds)
    c.loss += sum.mean
    c.weight += sum.weight
    c.updates += 1
    return 0


# -- batches -----------------------------------------------------------------------------------------------------------------


cdef double sum_of_weights_squared(const Net *net) noexcept nogil:
    cdef const Layer *layer
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(net.depth):
        layer = &net.layers[i]
        total += net.k.sum_of_squares(layer.dense.inputs * layer.dense.outputs, net.w + layer.weight)
    return total


cdef int step_alone(Call *c, const Batch *batch, Bounds *bounds, fbp_team *team) except -1 nogil:
    cdef Loss loss
    deltas(c.net, batch, c.net.gradient, team, &loss)
    if c.batches != NULL:
        c.batches[2 * c.done], c.batches[2 * c.done + 1] = loss.mean, sum_of_weights_squared(c.net)
    if loss.weight == 0:
        return 0
    if not isfinite(loss.mean):
        c.failure = LOSS
        return 0
    return train_batch(c, batch, &loss, bounds, team)


cdef int train_batches(Call *c, fbp_team *team) except -1 nogil:
    cdef Batch batch
    cdef Bounds bounds
    # Nanoseconds of work have a count of their own here: that of the polls for signals may run out within a batch each time.
    cdef double next_report = 0, unreported = 0, work = BATCH_WORK + step_work(c.net, min(c.batch_size, c.count), c.u.iterations)
    begin_step(c)
    bounds = measured(c.net, c.u)
    while (c.start < c.count or c.done < c.steps) and not c.stopped:
        next_batch(c, &batch, team)
        begin_step(c)
        if c.ranks == NULL:
            step_alone(c, &batch, &bounds, team)
        else:
            step_with_others(c, &batch, &bounds, team)
        if c.failure != NONE or c.undone:
            return 0
        c.start += batch.x.rows
        c.done += 1
        if poll(&unreported, work) and c.report != NULL and now() >= next_report:
            report(c)
            next_report = now() + REPORT_SECONDS
    return 0


cdef int step_once(Call *c, fbp_team *team) except -1 nogil:
    cdef Batch batch = c.all
    cdef Loss loss
    cdef Bounds bounds
    cdef double bound
    begin_step(c)
    deltas(c.net, &batch, c.net.gradient, team, &loss)
    c.loss = loss.mean
    if not isfinite(loss.mean):
        return 0
    batch.largest = largest_input(c.net, 0, batch.x)
    bound = gradient_bound(c.net, &batch)
    bounds = measured(c.net, c.u)
    if not may_overflow(c.u, bound, &bounds):
        update(c.net, &batch, c.u, team)
        c.updates = 1
    return 0
