"""The training of a dense network as Python sees it: one call for a batch, one for an epoch.

A. A call takes what it needs of its arguments, starts a team of threads, and leaves Python; it comes back to it only to look at
   signals and to report.
B. `step` is for calls of which nothing has to be said: where an argument, the error or the update is not as it should be, it does
   nothing, and leaves it to the caller to find out what is wrong, and to `train` to deal with it.
C. An update that could overflow is made on a copy first and given up if it does: finite parameters stay finite.
D. Threads take turns, for there is one work space. A call takes its turn here, in code that looks at no signals, so none is lost
   to an interrupt; before it has its turn it changes nothing; and a call within a call of the same thread, from a signal handler
   or a callback, is refused.
"""

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.float cimport DBL_MAX
from libc.math cimport NAN, isfinite, isnan
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport (
    FBP_ADAM, FBP_OF_INPUT, activation_kind, fbp_activation_facts, fbp_kernels, kernels_for, plain_threads, threads_for,
)
from fastbp._kernels.memory cimport (
    READ, WRITE, Matrix, element_at, labels_within, matrix_of, plain_labels, plain_matrix, vector_of,
)
from fastbp._kernels.optimizer cimport Update, set_step, update_of, update_parameters
from fastbp._kernels.rows cimport row_error_named
from fastbp._kernels.step cimport gradient as form_gradient
from fastbp._kernels.step cimport (
    Layer, Net, deltas, forward, forward_work, give_back, gradient_bound, in_space, largest_input, prepare, prepare_trial,
    step_work, tidy, update,
)
from fastbp._kernels.team cimport Work, fbp_team, fbp_team_share, on_team, poll

from time import perf_counter

import numpy as np

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_INTR
    int NOWAIT_LOCK
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)
    void PyThread_release_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()

cdef extern from "memory/gather.h" nogil:
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
# largest numbers of float32, 1e31, so no parameter overflows, however large it is; or it is the decay of plain SGD, which makes
# the parameter smaller.
cdef double LARGE_NUMBER = 1e15   # of a gradient, of what weight decay adds to it, or of a state of the optimizer
cdef double LARGE_RATE = 1e3      # of a learning rate, by which Adam multiplies the first moment over its bias
cdef double LARGE_DECAY = 1.0     # of a weight decay, and of its product with the learning rate
cdef double SMALL_EPSILON = 1e-12  # of what Adam divides by
cdef int64_t MOST_STEPS = <int64_t>1 << 62  # that an optimizer may have made; the number of the last one of a call fits in int64


# -- what comes from Python ------------------------------------------------------------------------------------------------


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
    void *optimizer        # Python objects
    void *report
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


cdef bint are_rows(const int64_t *order, Py_ssize_t n, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not 0 <= order[i] < rows:
            return False
    return True


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


# The largest magnitudes of the parameters, where weight decay adds them to the state, and of the state; or bounds of them.
cdef struct Largest:
    double w, first, second


cdef double largest_in(Net *net, const char *x) noexcept nogil:
    return 0 if x == NULL else net.k.largest_magnitude(net.count, x, NULL)


cdef Largest measured(Net *net, const Update *u) noexcept nogil:
    cdef bint decays = u.numbers.weight_decay != 0 and u.first != NULL
    return Largest(largest_in(net, net.w if decays else NULL), largest_in(net, u.first), largest_in(net, u.second))


cdef double rate_of(const Update *u) noexcept nogil:
    return u.numbers.learning_rate / u.numbers.bias_1 if u.numbers.rule == FBP_ADAM else u.numbers.learning_rate


cdef bint may_overflow(const Update *u, double gradient, const Largest *most) noexcept nogil:
    """Whether an update by a gradient up to `gradient` might make a parameter or a state infinite; of NaN it might."""
    cdef double rate = rate_of(u), decay = u.numbers.weight_decay
    if rate > LARGE_RATE or decay > LARGE_DECAY or rate * decay > LARGE_DECAY:
        return True
    if u.numbers.rule == FBP_ADAM and u.numbers.epsilon < SMALL_EPSILON:
        return True
    return not (gradient < LARGE_NUMBER and decay * most.w < LARGE_NUMBER and most.first < LARGE_NUMBER and
                most.second < LARGE_NUMBER)


cdef void add_update(const Update *u, double gradient, Largest *most) noexcept nogil:
    """Make them bounds of what there is after an update by a gradient up to `gradient`."""
    cdef double g = gradient + u.numbers.weight_decay * most.w, mu = u.numbers.momentum
    if u.first == NULL:
        return
    if u.numbers.rule == FBP_ADAM:
        most.first, most.second = max(most.first, g), max(most.second, g * g)
        most.w += rate_of(u) * most.first / u.numbers.epsilon
    else:
        most.first = mu * most.first + g
        most.w += rate_of(u) * (g + mu * most.first if u.numbers.nesterov else most.first)


cdef int update_on_trial(Net *net, Matrix x, const Update *u, fbp_team *team) except -1 nogil:
    """Make the update; if anything is not finite after it take it back and return 0, else 1."""
    cdef Py_ssize_t bytes = net.count * net.element
    cdef char *vectors[3]
    cdef char *g
    cdef bint finite
    cdef int i
    prepare_trial(net)
    g = net.trial + 3 * bytes
    form_gradient(net, x, g, team)
    finite = isfinite(net.k.largest_magnitude(net.count, g, NULL))
    vectors[0], vectors[1], vectors[2] = net.w, u.first, u.second
    for i in range(3):
        if vectors[i] != NULL:
            memcpy(net.trial + i * bytes, vectors[i], bytes)
    update_parameters(u, net.k, net.element, net.count, g, net.w, 0, team)
    for i in range(3):
        finite = finite and (vectors[i] == NULL or isfinite(net.k.largest_magnitude(net.count, vectors[i], NULL)))
    for i in range(3):
        if vectors[i] != NULL and not finite:
            memcpy(vectors[i], net.trial + i * bytes, bytes)
    return finite


cdef int train_batches(Call *c, fbp_team *team) except -1 nogil:
    cdef Net *net = c.net
    cdef Matrix x = c.x, t = c.t
    cdef Largest most = measured(net, c.u)
    cdef double loss, largest, bound, next_report = 0
    cdef bint trial
    if c.order != NULL:
        x.data, x.row = net.batch_x, x.columns * x.element
        t.data, t.row = net.batch_t, t.columns * t.element
    while c.start < c.count:
        x.rows = t.rows = min(c.batch_size, c.count - c.start)
        if c.order == NULL:
            x.data, t.data = c.x.data + c.start * x.row, c.t.data + c.start * t.row
        else:
            assert are_rows(c.order + c.start, x.rows, c.x.rows)
            assert in_space(net, x.data, x.rows * x.row) and in_space(net, t.data, t.rows * t.row)
            gather(net, c.x, c.order + c.start, x, net.batch_most, team)
            gather(net, c.t, c.order + c.start, t, NULL, team)
        loss = deltas(net, x, t, net.gradient, team)
        if not isfinite(loss):
            c.failure = LOSS
            return 0
        set_step(c.u, c.first_step + c.done)
        largest = largest_input(net, 0, x) if c.order == NULL else largest_of(x.rows, net.batch_most)
        bound = gradient_bound(net, x, largest)
        trial = may_overflow(c.u, bound, &most)
        if trial:  # or the bounds have only grown too far from what they bound
            most = measured(net, c.u)
            trial = may_overflow(c.u, bound, &most)
        if not trial:
            update(net, x, c.u, team)
        elif not update_on_trial(net, x, c.u, team):
            c.failure = GRADIENT
            return 0
        add_update(c.u, bound, &most)
        c.loss += loss * x.rows
        c.start += x.rows
        c.done += 1
        if poll(&net.unpolled, 0) and c.report != NULL:
            with gil:
                if perf_counter() >= next_report:
                    (<object>c.optimizer).steps = c.first_step + c.done - 1
                    (<object>c.report)(c.done, c.loss / c.start)
                    next_report = perf_counter() + REPORT_SECONDS
    return 0


cdef int step_once(Call *c, fbp_team *team) except -1 nogil:
    """One update, or none: then `done` stays 0."""
    cdef Largest most
    cdef double bound
    c.loss = deltas(c.net, c.x, c.t, c.net.gradient, team)
    if not isfinite(c.loss):
        return 0
    bound = gradient_bound(c.net, c.x, largest_input(c.net, 0, c.x))
    most = measured(c.net, c.u)
    if not may_overflow(c.u, bound, &most):
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


cdef bint overlaps(const Matrix *m, const char *vector, Py_ssize_t bytes) noexcept nogil:
    return vector != NULL and m.data < vector + bytes and vector < m.data + m.rows * m.row


cdef bint writeable(cnp.ndarray parameters, tuple state):
    for vector in state:
        if not cnp.PyArray_ISWRITEABLE(vector):
            return False
    return cnp.PyArray_ISWRITEABLE(parameters)


cdef class Network:
    cdef readonly tuple layer_sizes
    cdef readonly str activation, loss
    cdef readonly cnp.ndarray parameters
    cdef readonly object n_threads  # or None: as many as max_threads() says when a call begins
    cdef object dtype
    cdef bint by_class              # the targets may be labels
    cdef double largest_target
    cdef PyThread_type_lock turn    # of a call: it owns the work space, and the fields below;
    cdef unsigned long owner        # the thread that made the call, or 0
    cdef Net net
    cdef object rates, state        # of the optimizer of the last step,
    cdef Update last_update         # and its update

    def __cinit__(self):
        self.turn = PyThread_allocate_lock()
        if self.turn == NULL:
            raise MemoryError("no memory for a lock")

    def __init__(self, layer_sizes, str activation, str loss, parameters, n_threads):
        cdef Net *net = &self.net
        cdef Layer *layer
        cdef Py_ssize_t at = 0
        self.layer_sizes, self.activation, self.loss = tuple(layer_sizes), activation, loss
        self.parameters, self.n_threads = parameters, n_threads
        self.dtype, self.by_class = np.dtype(parameters.dtype.type), loss == "softmax_cross_entropy"
        self.largest_target = largest_target(loss)
        net.element, net.count = parameters.itemsize, parameters.size
        net.k = kernels_for(net.element)
        net.w = vector_of(parameters, WRITE)
        net.kind, net.error = activation_kind(activation), row_error_named(loss)
        net.keeps_input = fbp_activation_facts(net.kind).slope == FBP_OF_INPUT
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
        give_back(&self.net)
        free(self.net.layers)
        if self.turn != NULL:
            PyThread_free_lock(self.turn)

    cdef int take_turn(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if not PyThread_acquire_lock(self.turn, NOWAIT_LOCK):
            if self.owner == me:
                raise RuntimeError("network: got a call during another one, from a callback or a signal handler; "
                                   "expected it to be over")
            self.wait_for_turn()
        self.owner = me
        return 0

    cdef int wait_for_turn(self) except -1:
        cdef PyLockStatus status = PY_LOCK_INTR
        while status == PY_LOCK_INTR:
            with nogil:
                status = PyThread_acquire_lock_timed(self.turn, -1, True)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
        return 0

    cdef void end_turn(self) noexcept:
        self.owner = 0
        PyThread_release_lock(self.turn)

    cdef int run(self, Call *call, Work work, Py_ssize_t rows, double nanoseconds) except -1:
        """work(call) in a work space for `rows` rows, on as many threads as pay. It is this thread's turn."""
        cdef int threads = threads_for(2, nanoseconds)  # how many it may use is not asked where one is enough
        if threads > 1:
            threads = threads_for(plain_threads(self.n_threads), nanoseconds)
        prepare(&self.net, rows, call.t.columns * call.t.element, threads)
        call.net = &self.net
        try:
            with nogil:
                on_team(work, call, threads)
        finally:
            tidy(&self.net, rows)
        return 0

    def snapshot(self):
        """A copy of the parameters as they are between two updates; from a callback or a signal handler, too."""
        if self.owner == PyThread_get_thread_ident():
            return self.parameters.copy()
        self.take_turn()
        try:
            return self.parameters.copy()
        finally:
            self.end_turn()

    def logits(self, x, out):
        cdef Matrix to = matrix_of(out, WRITE)
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.x, call.out, call.out_row = matrix_of(x, READ), to.data, to.row
        cdef Py_ssize_t rows = min(call.x.rows, PREDICTION_ROWS)
        self.take_turn()
        try:
            self.run(&call, <Work>find_logits, rows, forward_work(&self.net, rows))
        finally:
            self.end_turn()

    def gradient(self, x, targets, gradient) -> float:
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.x, call.t, call.out = matrix_of(x, READ), matrix_of(targets, READ), vector_of(gradient, WRITE)
        self.take_turn()
        try:
            self.run(&call, <Work>find_gradient, call.x.rows, step_work(&self.net, call.x.rows))
        finally:
            self.end_turn()
        return call.loss

    def train(self, x, targets, const int64_t[::1] order, Py_ssize_t batch_size, optimizer, report):
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.x, call.t, call.batch_size = matrix_of(x, READ), matrix_of(targets, READ), batch_size
        call.count = call.x.rows
        if order is not None:
            call.count = order.shape[0]
            if call.count > 0:
                call.order = &order[0]
        call.optimizer = <void *>optimizer
        if report is not None:
            call.report = <void *>report
        cdef Py_ssize_t rows = min(batch_size, call.count)
        self.take_turn()
        try:
            self.train_in_turn(&call, rows, optimizer)
        finally:
            self.end_turn()
        return call.loss / call.start if call.start > 0 else NAN, call.done, FAILURES[<int>call.failure]

    cdef int train_in_turn(self, Call *call, Py_ssize_t rows, optimizer) except -1:
        rates = optimizer.hyper_parameters(self.dtype)
        state = optimizer.state(self.parameters)  # kept, though a callback may reset the optimizer
        cdef Update u = update_of(optimizer, rates, state)
        call.u, call.first_step = &u, optimizer.steps + 1
        try:
            self.run(call, <Work>train_batches, rows, step_work(&self.net, rows))
        finally:
            optimizer.steps = call.first_step + call.done - 1
        return 0

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
        self.take_turn()
        try:
            self.step_in_turn(&call, optimizer)
        finally:
            self.end_turn()
        return call.loss if call.done > 0 else None

    cdef int step_in_turn(self, Call *call, optimizer) except -1:
        cdef tuple rates = optimizer.hyper_parameters(self.dtype), state = optimizer.state(self.parameters)
        if rates != self.rates or state is not self.state:
            self.last_update, self.rates, self.state = update_of(optimizer, rates, state), rates, state
        if not writeable(self.parameters, state) or self.is_written(&call.x) or self.is_written(&call.t):
            return 0
        steps = optimizer.steps
        if type(steps) is not int or not 0 <= steps <= MOST_STEPS:
            return 0
        call.u, call.first_step = &self.last_update, steps + 1
        set_step(call.u, call.first_step)
        self.run(call, <Work>step_once, call.x.rows, step_work(&self.net, call.x.rows))
        if call.done > 0:
            optimizer.steps = steps + 1
        return 0

    cdef bint is_written(self, const Matrix *m) noexcept:
        """Whether an update writes into it: part of it is a parameter, or of the optimizer's state."""
        cdef Py_ssize_t bytes = self.net.count * self.net.element
        return overlaps(m, self.net.w, bytes) or overlaps(m, self.last_update.first, bytes) or \
            overlaps(m, self.last_update.second, bytes)
