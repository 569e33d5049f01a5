"""The network class of Python: one call for a batch, one for an epoch.

A. A call converts its arguments, starts a team of threads, and releases the GIL.
B. `step` is the fast path. If an argument, the error or the update is not as it should be, it does nothing and returns None; its
   caller then finds out what is wrong, or trains through `train`.
C. Threads take turns on the one work space. A call changes nothing before it has its turn, and takes it here, where no signal is
   polled, so an interrupt cannot lose it. A call during another call of the same thread, from a signal handler or a callback, is
   refused.
"""

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, NAN, isfinite, isnan
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastbp._kernels.chunks cimport deltas
from fastbp._kernels.dispatch cimport (
    FBP_IDENTITY, FBP_OF_INPUT, FBP_STATES, activation_kind, fbp_activation_facts, kernels_for, named_pieces,
    plain_threads, threads_for,
)
from fastbp._kernels.epoch cimport Call, step_once, train_batches
from fastbp._kernels.memory cimport (
    READ, WRITE, Matrix, element_at, labels_within, matrix_of, plain_labels, plain_matrix, vector_of,
)
from fastbp._kernels.net cimport Layer, Net, forward_work, give_back, prepare, step_work, tidy
from fastbp._kernels.optimizer cimport Update, update_at
from fastbp._kernels.rows cimport row_error_named
from fastbp._kernels.step cimport Loss, bias_gradients, forward
from fastbp._kernels.step cimport gradient as form_gradient
from fastbp._kernels.team cimport Work, fbp_team, on_team

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

cdef Py_ssize_t PREDICTION_ROWS = 512  # of a block in which the logits of many rows are formed
cdef int64_t MOST_STEPS = <int64_t>1 << 62  # that an optimizer may have made; the number of the last one of a call fits in int64
FAILURES = ("", "loss", "gradient")


# -- what comes from Python ------------------------------------------------------------------------------------------------


cdef bint targets_within(Matrix t, double largest) noexcept nogil:
    """Whether the targets, one row right after the other, are in [0, largest]."""
    cdef Py_ssize_t i, within = 0
    for i in range(t.rows * t.columns):
        within += 0 <= element_at(t.data, i, t.element) <= largest
    return within == t.rows * t.columns


cdef bint overlaps(const Matrix *m, const char *vector, Py_ssize_t bytes) noexcept nogil:
    return vector != NULL and m.data < vector + bytes and vector < m.data + m.rows * m.row


cdef bint writeable(cnp.ndarray parameters, dict state):
    for vector in state.values():
        if not cnp.PyArray_ISWRITEABLE(vector):
            return False
    return cnp.PyArray_ISWRITEABLE(parameters)


# -- the work of a call ------------------------------------------------------------------------------------------------------


cdef int find_gradient(Call *c, fbp_team *team) except -1 nogil:
    cdef Loss loss
    deltas(c.net, &c.all, c.out, team, &loss)
    c.loss, c.weight = loss.mean, loss.weight
    bias_gradients(c.net, c.all.x.rows)
    return form_gradient(c.net, &c.all, c.out, team)


cdef int find_logits(Call *c, fbp_team *team) except -1 nogil:
    cdef Matrix block = c.all.x
    while c.start < c.all.x.rows:
        block.rows = min(PREDICTION_ROWS, c.all.x.rows - c.start)
        block.data = c.all.x.data + c.start * c.all.x.row
        forward(c.net, block, c.out + c.start * c.out_row, c.out_row // c.net.element, team)
        c.start += block.rows
    return 0


cdef class Network:
    cdef readonly tuple layer_sizes, activations, dropout
    cdef readonly str loss
    cdef readonly cnp.ndarray parameters
    cdef readonly object n_threads  # or None: as many as max_threads() says when a call begins
    cdef object dtype
    cdef double largest             # of `largest_error`
    cdef PyThread_type_lock turn    # of a call: it owns the work space, and the fields below;
    cdef unsigned long owner        # the thread that made the call, or 0
    cdef Net net
    cdef object optimizer           # of the last step at first sight, or None,
    cdef tuple names, values        # its attributes that matter,
    cdef dict state                 # its state
    cdef Update last_update         # and its update

    def __cinit__(self):
        self.turn = PyThread_allocate_lock()
        if self.turn == NULL:
            raise MemoryError("no memory for a lock")

    def __init__(self, layer_sizes, activations, str loss, parameters, n_threads, dropout=(), uint64_t seed=0,
                 double label_smoothing=0.0, double parameter=0.0, str precision=None):
        cdef Net *net = &self.net
        self.layer_sizes, self.activations, self.loss, self.dropout = tuple(layer_sizes), tuple(activations), loss, tuple(dropout)
        self.parameters, self.n_threads = parameters, n_threads
        self.dtype = np.dtype(parameters.dtype.type)
        net.element, net.count = parameters.itemsize, parameters.size
        net.k = kernels_for(net.element)
        net.w, net.error = vector_of(parameters, WRITE), row_error_named(loss)
        if parameter != 0:
            net.error.parameter = parameter
        net.seed, net.smoothing, net.plan.rows, net.largest_error = seed, label_smoothing, -1, INFINITY
        self.largest, net.pieces = INFINITY, named_pieces(precision)
        net.depth = len(layer_sizes) - 1
        free(net.layers)
        net.layers = <Layer *>malloc(net.depth * sizeof(Layer))
        if net.layers == NULL:
            raise MemoryError("no memory for the list of layers")
        self.make_layers()

    @property
    def largest_error(self):
        """What the error of an example, or of each logistic output, counts at most in the means that are told; or infinity.

        Its gradient is not limited.
        """
        return self.largest

    @largest_error.setter
    def largest_error(self, double largest):
        self.largest = largest
        if self.loss == "sigmoid_cross_entropy":
            self.net.error.parameter = largest if isfinite(largest) else 0
        else:
            self.net.largest_error = largest

    cdef int make_layers(self) except -1:
        """Where each layer's parameters lie: W (I, O) row by row, then b"""
        cdef Net *net = &self.net
        cdef Layer *layer
        cdef Py_ssize_t at = 0
        cdef int i
        memset(net.layers, 0, net.depth * sizeof(Layer))
        for i in range(net.depth):
            layer = &net.layers[i]
            layer.dense.k, layer.dense.element = net.k, net.element
            layer.dense.inputs, layer.dense.outputs = self.layer_sizes[i], self.layer_sizes[i + 1]
            layer.dense.w_row, layer.dense.w_column = layer.dense.outputs, 1
            layer.weight, layer.bias = at, at + layer.dense.inputs * layer.dense.outputs * net.element
            layer.dense.w, layer.dense.bias = net.w + layer.weight, net.w + layer.bias
            layer.kind = FBP_IDENTITY if i == net.depth - 1 else activation_kind(self.activations[i])
            layer.keeps_input = fbp_activation_facts(layer.kind).slope == FBP_OF_INPUT
            layer.bound = fbp_activation_facts(layer.kind).bound
            layer.dropout = self.dropout[i] if i < len(self.dropout) else 0
            at = layer.bias + layer.dense.outputs * net.element
        return 0

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
        cdef int threads = threads_for(2, nanoseconds)  # max_threads() is not called if one is enough
        if threads > 1:
            threads = threads_for(plain_threads(self.n_threads), nanoseconds)
        cdef bint orthogonal = call.u != NULL and call.u.iterations > 0
        cdef bint gradient = call.u != NULL and call.u.clip_norm > 0
        prepare(&self.net, rows, call.all.t.columns * call.all.t.element, threads, gradient or orthogonal, orthogonal)
        call.net, self.net.drops = &self.net, call.u != NULL
        try:
            with nogil:
                on_team(work, call, threads)
        finally:
            tidy(&self.net, rows)
        return 0

    def snapshot(self):
        """A copy of the parameters between two updates; may be called from a callback or a signal handler."""
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
        call.all.x, call.out, call.out_row = matrix_of(x, READ), to.data, to.row
        cdef Py_ssize_t rows = min(call.all.x.rows, PREDICTION_ROWS)
        self.take_turn()
        try:
            self.run(&call, <Work>find_logits, rows, forward_work(&self.net, rows))
        finally:
            self.end_turn()

    def gradient(self, x, targets, weights, gradient):
        """The mean error, without dropout, and the sum of the weights."""
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.all.x, call.all.t, call.out = matrix_of(x, READ), matrix_of(targets, READ), vector_of(gradient, WRITE)
        call.all.weight = <const double *>vector_of(weights, READ)
        self.take_turn()
        try:
            self.run(&call, <Work>find_gradient, call.all.x.rows, step_work(&self.net, call.all.x.rows, 0))
        finally:
            self.end_turn()
        return call.loss, call.weight

    def train(self, x, targets, weights, const int64_t[::1] order, Py_ssize_t batch_size, optimizer, report, double clip_norm=0.0,
              double clip_value=0.0, batches=None, ranks=None):
        """Make an update for each batch; the mean error, the sum of the weights, the batches that are done, what failed.

        Of each batch its mean error, and Σ W² over the weights of all layers before its update, go to a row of `batches`.
        With `ranks` errors, weights and gradients are summed over them.
        """
        cdef Call call
        memset(&call, 0, sizeof(call))
        call.all.x, call.all.t, call.batch_size = matrix_of(x, READ), matrix_of(targets, READ), batch_size
        call.all.weight = <const double *>vector_of(weights, READ)
        call.count = call.all.x.rows
        if order is not None:
            call.count = order.shape[0]
            if call.count > 0:
                call.order = &order[0]
        if batches is not None:
            call.batches = <double *>matrix_of(batches, WRITE).data
        call.optimizer = <void *>optimizer
        if report is not None:
            call.report = <void *>report
        if ranks is not None:
            call.ranks, call.steps, call.out = <void *>ranks, ranks.steps, vector_of(ranks.gradient, WRITE)
            call.sends, call.first_rows = vector_of(ranks.sends, READ), <const int64_t *>vector_of(ranks.first_rows, READ)
        self.take_turn()
        try:
            self.train_in_turn(&call, min(batch_size, call.count), optimizer, clip_norm, clip_value)
        finally:
            self.end_turn()
        return call.loss / call.weight if call.weight > 0 else NAN, call.weight, call.done, FAILURES[<int>call.failure]

    cdef int train_in_turn(self, Call *call, Py_ssize_t rows, optimizer, double clip_norm, double clip_value) except -1:
        rates = optimizer.hyper_parameters(self.dtype)
        state = optimizer.state(self.parameters)  # kept, though a callback may reset the optimizer
        cdef Update u = update_at(optimizer, rates, state)
        cdef Py_ssize_t n_batches = max(call.steps, (call.count + rows - 1) // rows if rows > 0 else 0)
        cdef const double[:, ::1] table = optimizer.scheduled_rates(n_batches, self.dtype)
        if table is not None and table.shape[0] > 0:
            u.rates, u.rates_row = &table[0, 0], table.shape[1]
        u.clip_norm, u.weights.clip = clip_norm, clip_value
        call.u, call.first_step = &u, optimizer.steps + 1
        self.net.sums = call.ranks != NULL
        try:
            self.run(call, <Work>train_batches, max(rows, 1), step_work(&self.net, rows, u.iterations))
        finally:
            self.net.sums = self.net.first_row = 0
            optimizer.steps = call.first_step + call.updates - 1
        return 0

    def step(self, x, targets, optimizer):
        """Train on one batch and return its mean error; None, and nothing is done, unless all is in order at first sight.

        The optimizer is of a class of fastbp.optimizers itself: what a subclass overrides is not asked.
        """
        cdef Call call
        cdef Matrix *t = &call.all.t
        cdef Py_ssize_t outputs = self.net.layers[self.net.depth - 1].dense.outputs
        memset(&call, 0, sizeof(call))
        if not plain_matrix(x, self.dtype, &call.all.x) or call.all.x.columns != self.net.layers[0].dense.inputs:
            return None
        cdef bint by_class = self.net.error.by_class
        cdef double largest = self.net.error.largest_target
        if not (plain_labels(targets, t) if by_class else plain_matrix(targets, self.dtype, t)):
            return None
        if t.rows != call.all.x.rows or not (labels_within(t[0], outputs, 0) if by_class else t.columns == outputs):
            return None
        if not (isnan(largest) or targets_within(t[0], largest)):
            return None
        self.take_turn()
        try:
            self.step_in_turn(&call, optimizer)
        finally:
            self.end_turn()
        return call.loss if call.updates > 0 else None

    cdef bint is_last(self, optimizer):
        """Whether it is the optimizer of the last step, with the same rates, numbers all, and the same state."""
        cdef dict attributes
        cdef Py_ssize_t i
        if optimizer is not self.optimizer:
            return False
        attributes = optimizer.__dict__
        for i in range(len(self.names)):
            if attributes.get(self.names[i]) is not self.values[i]:
                return False
        return True

    cdef int meet(self, optimizer) except -1:
        """Take its rates and state for this step, and for those to come, if none of the rates is a function of the step."""
        rates, self.state = optimizer.hyper_parameters(self.dtype), optimizer.state(self.parameters)
        self.optimizer = None
        if not writeable(self.parameters, self.state):
            return 0
        self.last_update = update_at(optimizer, rates, self.state)
        if not any([callable(getattr(optimizer, name)) for name in optimizer.rates]):
            self.names = (*optimizer.rates, *optimizer.options, "_state", "_owner")
            self.values = tuple([optimizer.__dict__[name] for name in self.names])
            self.optimizer = optimizer
        return 1

    cdef int step_in_turn(self, Call *call, optimizer) except -1:
        if not (self.is_last(optimizer) and writeable(self.parameters, self.state)) and not self.meet(optimizer):
            return 0
        if self.is_written(&call.all.x) or self.is_written(&call.all.t):
            return 0
        steps = optimizer.steps
        if type(steps) is not int or not 0 <= steps <= MOST_STEPS:
            return 0
        call.u, call.first_step = &self.last_update, steps + 1
        self.run(call, <Work>step_once, call.all.x.rows, step_work(&self.net, call.all.x.rows, call.u.iterations))
        if call.updates > 0:
            optimizer.steps = steps + 1
        return 0

    cdef bint is_written(self, const Matrix *m) noexcept:
        """Whether it overlaps what an update writes: the parameters, the optimizer's state"""
        cdef Py_ssize_t bytes = self.net.count * self.net.element
        cdef int i
        for i in range(FBP_STATES):
            if overlaps(m, self.last_update.state[i], bytes):
                return True
        return overlaps(m, self.net.w, bytes)
