"""The training of a dense network as Python sees it: one call for a batch, one for an epoch.

A. A call takes what it needs of its arguments, starts a team of threads, and leaves Python; it comes back to it only to look at
   signals and to report.
B. `step` is for calls of which nothing has to be said: where an argument, the error or the update is not as it should be, it does
   nothing, and leaves it to the caller to find out what is wrong, and to `train` to deal with it.
C. An update that could overflow is made on a copy first and given up if it does: finite parameters stay finite.
"""

from libc.float cimport DBL_MAX
from libc.math cimport NAN, isfinite, isnan
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport (
    FBP_ADAM, FBP_GELU, FBP_SGD, FBP_SILU, activation_kind, fbp_kernels, kernels_for, threads_for,
)
from fastbp._kernels.memory cimport (
    READ, WRITE, Matrix, element_at, labels_within, matrix_of, plain_labels, plain_matrix, vector_of,
)
from fastbp._kernels.optimizer cimport Update, set_step, update_parameters
from fastbp._kernels.rows cimport row_error_named
from fastbp._kernels.step cimport gradient as form_gradient
from fastbp._kernels.step cimport (
    Layer, Net, deltas, forward, forward_work, gradient_bound, largest_input, prepare, step_work, update,
)
from fastbp._kernels.team cimport Work, fbp_team, fbp_team_share, on_team, poll

from time import perf_counter

import numpy as np

cdef extern from "gather.h" nogil:
    # `count` rows of `row` bytes, those of `source` named by `order`, one below the other
    void fbp_gather(Py_ssize_t count, Py_ssize_t row, const char *source, Py_ssize_t source_row, const int64_t *order, char *to)
    # the same of rows of n numbers by a function that copies them and returns the largest magnitude, which goes to `most`
    void fbp_gather_numbers(Py_ssize_t count, Py_ssize_t n, Py_ssize_t row, const char *source, Py_ssize_t source_row,
                            const int64_t *order, char *to, double (*copy)(Py_ssize_t n, const void *x, void *y) noexcept nogil,
                            double *most)

cdef double REPORT_SECONDS = 0.1  # between two calls of `report`
cdef Py_ssize_t GATHERED_BYTES = 64 * 1024  # that pay for handing them to another thread
cdef Py_ssize_t PREDICTION_ROWS = 512  # of a block in which the logits of many rows are formed
# Below these an update of finite parameters is finite. What it adds to a parameter is less than half the distance between the two
# largest numbers of float32, 1e31, so no parameter overflows, however large it is.
cdef double LARGE_NUMBER = 1e15   # of a gradient or a state of the optimizer
cdef double LARGE_RATE = 1e3      # of a learning rate
cdef double LARGE_DECAY = 1.0     # of a weight decay, and of its product with the learning rate
cdef double SMALL_EPSILON = 1e-12  # of what Adam divides by
cdef int64_t MOST_STEPS = <int64_t>1 << 62  # that an optimizer may have made; the number of the last one of a call fits in int64


# -- what comes from Python ------------------------------------------------------------------------------------------------


cdef Update update_of(optimizer, parameters) except *:
    """What an optimizer of fastbp.optimizers does to `parameters`; it keeps its state vectors alive."""
    cdef Update u
    memset(&u, 0, sizeof(u))
    rates, state = optimizer.hyper_parameters(parameters.dtype), optimizer.state(parameters)
    if len(state) > 0:
        u.first = vector_of(state[0], WRITE)
    if len(state) > 1:
        u.second = vector_of(state[1], WRITE)
    if optimizer.name == "adam":
        u.numbers.rule = FBP_ADAM
        rate, u.numbers.beta_1, u.numbers.beta_2, u.numbers.epsilon, decay = rates
    else:
        u.numbers.rule = FBP_SGD
        rate, u.numbers.momentum, u.numbers.nesterov, decay = rates
    u.numbers.learning_rate, u.numbers.weight_decay = rate, decay
    return u


cdef double largest_target(str loss):
    """The largest target of an error whose rows of targets are finite and not negative; NaN of one that takes any."""
    return 1 if loss in ("sigmoid_cross_entropy", "sigmoid_squared_error") else DBL_MAX if loss == "poisson_deviance" else NAN


cdef bint targets_within(Matrix t, double largest) noexcept nogil:
    """Whether the targets, one row right after the other, are in [0, largest]."""
    cdef Py_ssize_t i, within = 0
    for i in range(t.rows * t.columns):
        within += 0 <= element_at(t.data, i, t.element) <= largest
    return within == t.rows * t.columns


# -- an epoch --------------------------------------------------------------------------------------------------------------

# Why training stopped before its last batch, and the names that `train` returns for it.
cdef enum Failure:
    NONE
    LOSS
    GRADIENT

FAILURES = ("", "loss", "gradient")

# One call: what it works on, and what comes of it.
cdef struct Call:
    Net *net
    Matrix x, t
    char *out              # logits or gradient
    Py_ssize_t out_row     # bytes
    const int64_t *order   # of the rows, or NULL
    Py_ssize_t count, batch_size
    Update *u
    int64_t first_step
    void *report           # a Python object
    double loss            # the sum over the rows, or the mean
    Py_ssize_t start, done  # rows and batches that are finished
    Failure failure


cdef struct Rows:
    Matrix source, to
    const int64_t *order
    Py_ssize_t count  # of rows that a thread takes at a time
    const fbp_kernels *k
    double *most          # the largest magnitude of each row, where it is asked for


cdef void gather_some(const void *rows, Py_ssize_t part, int thread) noexcept nogil:
    cdef const Rows *r = <const Rows *>rows
    cdef Py_ssize_t start = part * r.count
    cdef Py_ssize_t count = min(r.count, r.to.rows - start)
    cdef char *to = r.to.data + start * r.to.row
    if r.most == NULL:
        fbp_gather(count, r.to.row, r.source.data, r.source.row, r.order + start, to)
    else:
        fbp_gather_numbers(count, r.to.columns, r.to.row, r.source.data, r.source.row, r.order + start, to, r.k.largest_magnitude,
                           r.most + start)


cdef void gather(Net *net, Matrix source, const int64_t *order, Matrix to, double *most, fbp_team *team) noexcept nogil:
    """Row i of `to` is row order[i] of `source`; and its largest magnitude most[i], unless that is NULL."""
    cdef Rows r = Rows(source, to, order, GATHERED_BYTES // to.row + 1, net.k, most)
    fbp_team_share(team, gather_some, &r, (to.rows + r.count - 1) // r.count)


cdef double largest_of(Py_ssize_t n, const double *x) noexcept nogil:
    """NaN if any is"""
    cdef double most = 0
    cdef Py_ssize_t i
    for i in range(n):
        if not x[i] <= most:
            most = x[i]
            if most != most:
                break
    return most


cdef bint large(Net *net, const char *x) noexcept nogil:
    return x != NULL and not net.k.largest_magnitude(net.count, x, NULL) < LARGE_NUMBER


cdef bint may_overflow(Net *net, const Update *u) noexcept nogil:
    """Whether an update might make a parameter or a state infinite though the gradient is below LARGE_NUMBER."""
    cdef double rate = u.numbers.learning_rate, decay = u.numbers.weight_decay
    return rate > LARGE_RATE or decay > LARGE_DECAY or rate * decay > LARGE_DECAY or large(net, u.first) or \
        large(net, u.second) or (u.numbers.rule == FBP_ADAM and u.numbers.epsilon < SMALL_EPSILON)


cdef int update_on_trial(Net *net, Matrix x, const Update *u, fbp_team *team) except -1 nogil:
    """Make the update; if anything is not finite after it take it back and return 0, else 1."""
    cdef Py_ssize_t bytes = net.count * net.element
    cdef char *vectors[3]
    cdef char *copy = <char *>malloc(4 * bytes)
    cdef char *g = copy + 3 * bytes
    cdef bint finite
    cdef int i
    if copy == NULL:
        with gil:
            raise MemoryError(f"no memory for a trial update of {net.count} parameters")
    try:
        form_gradient(net, x, g, team)
        finite = isfinite(net.k.largest_magnitude(net.count, g, NULL))
        vectors[0], vectors[1], vectors[2] = net.w, u.first, u.second
        for i in range(3):
            if vectors[i] != NULL:
                memcpy(copy + i * bytes, vectors[i], bytes)
        update_parameters(u, net.k, net.element, net.count, g, net.w, 0, team)
        for i in range(3):
            finite = finite and (vectors[i] == NULL or isfinite(net.k.largest_magnitude(net.count, vectors[i], NULL)))
        for i in range(3):
            if vectors[i] != NULL and not finite:
                memcpy(vectors[i], copy + i * bytes, bytes)
    finally:
        free(copy)
    return finite


cdef int train_batches(Call *c, fbp_team *team) except -1 nogil:
    cdef Net *net = c.net
    cdef Matrix x = c.x, t = c.t
    cdef bint careful = may_overflow(net, c.u)
    cdef double loss, most, next_report = 0
    if c.order != NULL:
        x.data, x.row = net.batch_x, x.columns * x.element
        t.data, t.row = net.batch_t, t.columns * t.element
    while c.start < c.count:
        x.rows = t.rows = min(c.batch_size, c.count - c.start)
        if c.order == NULL:
            x.data, t.data = c.x.data + c.start * x.row, c.t.data + c.start * t.row
        else:
            gather(net, c.x, c.order + c.start, x, net.batch_most, team)
            gather(net, c.t, c.order + c.start, t, NULL, team)
        loss = deltas(net, x, t, net.gradient, team)
        if not isfinite(loss):
            c.failure = LOSS
            return 0
        set_step(c.u, c.first_step + c.done)
        if not careful:
            most = largest_input(net, 0, x) if c.order == NULL else largest_of(x.rows, net.batch_most)
            careful = not gradient_bound(net, x, most) < LARGE_NUMBER
        if not careful:
            update(net, x, c.u, team)
        elif not update_on_trial(net, x, c.u, team):
            c.failure = GRADIENT
            return 0
        c.loss += loss * x.rows
        c.start += x.rows
        c.done += 1
        if poll(&net.unpolled, 0) and c.report != NULL:
            with gil:
                if perf_counter() >= next_report:
                    (<object>c.report)(c.done, c.loss / c.start)
                    next_report = perf_counter() + REPORT_SECONDS
    return 0


cdef int step_once(Call *c, fbp_team *team) except -1 nogil:
    """One update, or none: then `done` stays 0."""
    cdef double most
    c.loss = deltas(c.net, c.x, c.t, c.net.gradient, team)
    if not isfinite(c.loss):
        return 0
    most = largest_input(c.net, 0, c.x)
    if gradient_bound(c.net, c.x, most) < LARGE_NUMBER and not may_overflow(c.net, c.u):
        update(c.net, c.x, c.u, team)
        c.done = 1
    return 0


cdef int find_gradient(Call *c, fbp_team *team) except -1 nogil:
    c.loss = deltas(c.net, c.x, c.t, c.out, team)
    return form_gradient(c.net, c.x, c.out, team)


cdef int find_logits(Call *c, fbp_team *team) except -1 nogil:
    cdef Matrix block = c.x
    while c.start < c.x.rows:
        block.rows = min(PREDICTION_ROWS, c.x.rows - c.start)
        block.data = c.x.data + c.start * c.x.row
        forward(c.net, block, c.out + c.start * c.out_row, c.out_row // c.net.element, team)
        c.start += block.rows
    return 0


cdef class Network:
    cdef readonly tuple layer_sizes
    cdef readonly str activation, loss
    cdef readonly object parameters
    cdef readonly int n_threads
    cdef object dtype
    cdef bint by_class              # the targets may be labels
    cdef double largest_target
    cdef bint busy                  # a call is under way: it owns the work space
    cdef Net net
    cdef object rates, state        # of the optimizer of the last step,
    cdef Update last_update         # and its update

    def __init__(self, layer_sizes, str activation, str loss, parameters, int n_threads):
        cdef Net *net = &self.net
        cdef Layer *layer
        cdef Py_ssize_t at = 0
        self.layer_sizes, self.activation, self.loss = tuple(layer_sizes), activation, loss
        self.parameters, self.n_threads = parameters, n_threads
        self.dtype, self.by_class = np.dtype(parameters.dtype.type), loss == "softmax_cross_entropy"
        self.largest_target = largest_target(loss)
        net.element, net.count, net.n_threads = parameters.itemsize, parameters.size, n_threads
        net.k = kernels_for(net.element)
        net.w = vector_of(parameters, WRITE)
        net.kind, net.error = activation_kind(activation), row_error_named(loss)
        net.keeps_input = net.kind == FBP_GELU or net.kind == FBP_SILU
        net.depth = len(layer_sizes) - 1
        free(net.layers)
        net.layers = <Layer *>malloc(net.depth * sizeof(Layer))
        if net.layers == NULL:
            raise MemoryError("no memory for the list of layers")
        for i in range(net.depth):
            layer = &net.layers[i]
            layer.inputs, layer.outputs = layer_sizes[i], layer_sizes[i + 1]
            layer.weight, layer.bias = at, at + layer.inputs * layer.outputs * net.element
            at = layer.bias + layer.outputs * net.element

    def __dealloc__(self):
        free(self.net.layers)
        free(self.net.memory)

    cdef int run(self, Call *call, Work work, Py_ssize_t rows, double nanoseconds) except -1:
        """work(call) in a work space for `rows` rows, on as many threads as pay."""
        if self.busy:
            raise RuntimeError("network: got a call during another one, from a callback, a signal handler or a thread; expected "
                               "it to be over")
        self.busy = True
        try:
            prepare(&self.net, rows, call.t.columns * call.t.element)
            call.net = &self.net
            with nogil:
                on_team(work, call, threads_for(self.n_threads, nanoseconds))
        finally:
            self.busy = False
        return 0

    def logits(self, x, out):
        cdef Matrix to = matrix_of(out, WRITE)
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.x, call.out, call.out_row = matrix_of(x, READ), to.data, to.row
        cdef Py_ssize_t rows = min(call.x.rows, PREDICTION_ROWS)
        self.run(&call, <Work>find_logits, rows, forward_work(&self.net, rows))

    def gradient(self, x, targets, gradient) -> float:
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.x, call.t, call.out = matrix_of(x, READ), matrix_of(targets, READ), vector_of(gradient, WRITE)
        self.run(&call, <Work>find_gradient, call.x.rows, step_work(&self.net, call.x.rows))
        return call.loss

    def train(self, x, targets, const int64_t[::1] order, Py_ssize_t batch_size, optimizer, report):
        cdef Call call
        cdef Update u = update_of(optimizer, self.parameters)
        memset(&call, 0, sizeof(call))
        call.x, call.t, call.batch_size, call.u = matrix_of(x, READ), matrix_of(targets, READ), batch_size, &u
        call.count, call.first_step = call.x.rows, optimizer.steps + 1
        if order is not None:
            call.count = order.shape[0]
            if call.count > 0:
                call.order = &order[0]
        if report is not None:
            call.report = <void *>report
        cdef Py_ssize_t rows = min(batch_size, call.count)
        try:
            self.run(&call, <Work>train_batches, rows, step_work(&self.net, rows))
        finally:
            optimizer.steps += call.done
        return call.loss / call.start if call.start > 0 else NAN, call.done, FAILURES[<int>call.failure]

    def step(self, x, targets, optimizer) -> float | None:
        """Train on one batch and return its mean error; None, and nothing is done, unless all is in order at first sight."""
        cdef Call call
        memset(&call, 0, sizeof(call))
        if not plain_matrix(x, self.dtype, &call.x) or call.x.columns != self.net.layers[0].inputs:
            return None
        if not (plain_labels(targets, &call.t) if self.by_class else plain_matrix(targets, self.dtype, &call.t)):
            return None
        cdef Py_ssize_t outputs = self.net.layers[self.net.depth - 1].outputs
        if call.t.rows != call.x.rows or not (labels_within(call.t, outputs, 0) if self.by_class else call.t.columns == outputs):
            return None
        if not (isnan(self.largest_target) or targets_within(call.t, self.largest_target)):
            return None
        steps = optimizer.steps
        if type(steps) is not int or not 0 <= steps <= MOST_STEPS:
            return None
        rates, state = optimizer.hyper_parameters(self.dtype), optimizer.state(self.parameters)
        if rates != self.rates or state is not self.state:
            self.last_update, self.rates, self.state = update_of(optimizer, self.parameters), rates, state
        call.u, call.first_step = &self.last_update, steps + 1
        set_step(call.u, call.first_step)
        self.run(&call, <Work>step_once, call.x.rows, step_work(&self.net, call.x.rows))
        if call.done == 0:
            return None
        optimizer.steps = steps + 1
        return call.loss
