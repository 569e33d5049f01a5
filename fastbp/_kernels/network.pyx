"""The training step of a dense network as one call: gather, forward, error, deltas, weight gradients, update.

A. A `Network` is prepared for a batch size: one block of memory holds everything that a step needs, and grows only when a
   larger batch comes. In the loop nothing is allocated and no Python runs.
B. Addresses without a dtype: a step is written once for float32 and float64.
C. The deltas of the last layer are written over its logits; those of hidden layers alternate between two buffers.
D. An update that could overflow is made on a copy first and given up if it does: the parameters are finite at any time.
E. Pending signals are looked for between matrix products and inside long ones, and never in the middle of an update.
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN, isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastbp._kernels.dispatch cimport (
    FBP_GELU, FBP_IDENTITY, FBP_SILU, LINE, activation_kind, fbp_kernels, kernels_for, line_start, whole_lines,
)
from fastbp._kernels.linear cimport Product, multiply, product_scratch, product_threads
from fastbp._kernels.loss cimport RowError, Rows, reduced, row_error_named, scratch_bytes
from fastbp._kernels.optimizer cimport ADAM, SGD, Update, update_parameters

from time import perf_counter

cdef double POLL_WORK = 2e7       # nanoseconds of work between two looks at pending signals
cdef double OPERATION_WORK = 0.03  # nanoseconds of a multiply-add, roughly
cdef double ELEMENT_WORK = 0.5     # and of a parameter in an update
cdef double REPORT_SECONDS = 0.1  # between two calls of `report`
cdef Py_ssize_t PREDICTION_ROWS = 512  # of a block in which the logits of many rows are formed
# Below these an update stays far from the end of float32's range, 3e38, whatever the optimizer does:
cdef double LARGE_NUMBER = 1e18   # of a gradient, a state, a parameter
cdef double LARGE_RATE = 1e3      # of a learning rate or weight decay
cdef double SMALL_EPSILON = 1e-12  # of what Adam divides by

# A matrix whose rows lie `row` bytes apart, or labels as one column.
cdef struct Matrix:
    char *data
    Py_ssize_t rows, columns, row
    bint labels


cdef Matrix matrix_of(x) except *:
    """The address of x, which the caller keeps alive: rows of the dtype, or labels (N,) as one column. It arrives checked, so the
    buffer is asked for strides and no format: a memoryview of a dtype would take five times as long."""
    cdef Py_buffer view
    cdef Matrix m
    PyObject_GetBuffer(x, &view, PyBUF_STRIDED_RO)
    m.data, m.rows, m.row = <char *>view.buf, view.shape[0], view.strides[0]
    m.labels = view.ndim == 1
    m.columns = 1 if m.labels else view.shape[1]
    PyBuffer_Release(&view)
    return m


cdef char *vector_of(x) except? NULL:
    """The address of a flat writeable vector, which the caller keeps alive."""
    cdef Py_buffer view
    PyObject_GetBuffer(x, &view, PyBUF_WRITABLE)
    cdef char *data = <char *>view.buf
    PyBuffer_Release(&view)
    return data


cdef Update update_of(optimizer, parameters) except *:
    """What an optimizer of fastbp.optimizers does to `parameters`; it keeps its state vectors alive."""
    cdef Update u
    memset(&u, 0, sizeof(u))
    state = optimizer.state(parameters)
    if len(state) > 0:
        u.first = vector_of(state[0])
    if len(state) > 1:
        u.second = vector_of(state[1])
    if optimizer.name == "adam":
        u.rule = ADAM
        u.learning_rate, u.beta_1, u.beta_2, u.epsilon, u.weight_decay = optimizer.hyper_parameters()
    else:
        u.rule = SGD
        u.learning_rate, u.momentum, u.nesterov, u.weight_decay = optimizer.hyper_parameters()
    return u


# Why training stopped before its last batch, and the names that `train` returns for it.
cdef enum Failure:
    NONE
    LOSS
    GRADIENT

FAILURES = ("", "loss", "gradient")


cdef void gather(Matrix source, const int64_t *order, Matrix to) noexcept nogil:
    """Row i of `to` is row order[i] of `source`."""
    cdef Py_ssize_t i
    for i in range(to.rows):
        memcpy(to.data + i * to.row, source.data + order[i] * source.row, to.row)


cdef struct Layer:
    Py_ssize_t inputs, outputs
    Py_ssize_t weight, bias  # bytes from the start of the parameters, and of their gradient
    char *z                  # (rows, outputs) what the slope of the activation takes: the output, or its input
    char *a                  # (rows, outputs) the output; of the last layer the logits, then their deltas


cdef class Network:
    cdef readonly tuple layer_sizes
    cdef readonly str activation, loss
    cdef readonly object parameters
    cdef readonly int n_threads

    cdef const fbp_kernels *k
    cdef Py_ssize_t element, count  # bytes of a parameter, number of parameters
    cdef char *w
    cdef Layer *layers
    cdef int depth, kind
    cdef bint keeps_input           # the activation's slope is a function of its input
    cdef RowError error

    cdef Py_ssize_t capacity        # rows that the work space is laid out for
    cdef char *memory               # the work space, and what lies in it:
    cdef Py_ssize_t used
    cdef char *deltas[2]
    cdef char *batch_x
    cdef char *batch_t
    cdef char *batch_gradient
    cdef char *loss_scratch
    cdef char *product_scratch

    cdef bint busy                  # a call is under way: it owns the work space
    cdef double unpolled            # nanoseconds of work since the last look at pending signals

    def __init__(self, layer_sizes, str activation, str loss, parameters, int n_threads):
        self.layer_sizes, self.activation, self.loss = tuple(layer_sizes), activation, loss
        self.parameters, self.n_threads = parameters, n_threads
        self.element, self.count = parameters.itemsize, parameters.size
        self.w = vector_of(parameters)
        self.kind, self.error = activation_kind(activation), row_error_named(loss)
        self.keeps_input = self.kind == FBP_GELU or self.kind == FBP_SILU
        self.depth = len(layer_sizes) - 1
        free(self.layers)
        self.layers = <Layer *>malloc(self.depth * sizeof(Layer))
        if self.layers == NULL:
            raise MemoryError("no memory for the list of layers")
        cdef Py_ssize_t at = 0
        cdef Layer *layer
        for i in range(self.depth):
            layer = &self.layers[i]
            layer.inputs, layer.outputs = layer_sizes[i], layer_sizes[i + 1]
            layer.weight, layer.bias = at, at + layer.inputs * layer.outputs * self.element
            at = layer.bias + layer.outputs * self.element

    def __dealloc__(self):
        free(self.layers)
        free(self.memory)

    # -- work space --------------------------------------------------------------------------------------------------------

    cdef char *take(self, char *base, Py_ssize_t bytes) noexcept nogil:
        cdef Py_ssize_t at = self.used
        self.used += whole_lines(bytes)
        return NULL if base == NULL else base + at

    cdef void lay_out(self, char *base, Py_ssize_t rows) noexcept nogil:
        """Divide the work space for `rows` rows from `base`; with NULL only find its size, `used`."""
        cdef Py_ssize_t widest = 0, scratch = 0, i
        cdef Layer *layer
        cdef Layer *last = &self.layers[self.depth - 1]
        cdef Rows r
        self.used = 0
        for i in range(self.depth):
            layer = &self.layers[i]
            layer.a = layer.z = self.take(base, rows * layer.outputs * self.element)
            if self.keeps_input and layer != last:
                layer.z = self.take(base, rows * layer.outputs * self.element)
            scratch = max(scratch, self.scratch_of(self.forward_product(i, rows, NULL, 0, NULL, 0)))
            scratch = max(scratch, self.scratch_of(self.weight_product(i, rows, NULL, 0, NULL, NULL)))
            if i > 0:
                scratch = max(scratch, self.scratch_of(self.input_product(i, rows, NULL, NULL)))
                widest = max(widest, layer.inputs)
        self.deltas[0] = self.take(base, rows * widest * self.element)
        self.deltas[1] = self.take(base, rows * widest * self.element)
        self.batch_x = self.take(base, rows * self.layers[0].inputs * self.element)
        self.batch_t = self.take(base, rows * max(last.outputs * self.element, <Py_ssize_t>sizeof(int64_t)))
        self.batch_gradient = self.take(base, self.count * self.element)
        r.N, r.C, r.element = rows, last.outputs, self.element
        self.loss_scratch = self.take(base, scratch_bytes(&r, self.n_threads))
        self.product_scratch = self.take(base, scratch)

    cdef Py_ssize_t scratch_of(self, Product p) noexcept nogil:
        """Bytes for any number of threads, by rows and by columns: a smaller batch may take fewer of them, each with a larger
        piece, and have its longer side where this one has its shorter."""
        cdef Py_ssize_t most = 0
        cdef int threads
        for threads in range(1, product_threads(&p, self.n_threads) + 1):
            for p.by_rows in range(2):
                most = max(most, product_scratch(&p, threads))
        return most

    cdef int prepare(self, Py_ssize_t rows) except -1:
        """Make sure that the work space holds `rows` rows, and that the primitives are those of the instruction set in use."""
        cdef const fbp_kernels *k = kernels_for(self.element)
        if rows <= self.capacity and k == self.k:
            return 0
        self.k = k
        self.lay_out(NULL, rows)
        free(self.memory)
        self.capacity = 0
        self.memory = <char *>malloc(self.used + LINE)
        if self.memory == NULL:
            raise MemoryError(f"no memory for a batch of {rows} rows: {self.used} bytes of work space")
        self.lay_out(line_start(self.memory), rows)
        self.capacity = rows
        return 0

    # -- the three products of a layer -------------------------------------------------------------------------------------

    cdef Product forward_product(self, Py_ssize_t i, Py_ssize_t rows, const char *x, Py_ssize_t x_row, char *out,
                                 Py_ssize_t out_row) noexcept nogil:
        """A (rows, O) = f(X W + b), where f waits if its slope needs X W + b"""
        cdef Layer *layer = &self.layers[i]
        cdef Product p
        p.k, p.element = self.k, self.element
        p.M, p.N, p.K = rows, layer.outputs, layer.inputs
        p.by_rows = p.M >= p.N
        p.A, p.A_row, p.A_column = x, x_row, 1
        p.B, p.B_row, p.B_column = self.w + layer.weight, p.N, 1
        p.epilogue.bias, p.epilogue.slope, p.epilogue.slope_row = self.w + layer.bias, NULL, 0
        p.epilogue.accumulate = False
        p.epilogue.activation = FBP_IDENTITY if self.keeps_input or i == self.depth - 1 else self.kind
        p.C, p.C_row = out, out_row
        return p

    cdef Product input_product(self, Py_ssize_t i, Py_ssize_t rows, const char *delta, char *out) noexcept nogil:
        """δ_prev (rows, I) = (δ Wᵀ) ⊙ f'"""
        cdef Layer *layer = &self.layers[i]
        cdef Product p
        p.k, p.element = self.k, self.element
        p.M, p.N, p.K = rows, layer.inputs, layer.outputs
        p.by_rows = p.M >= p.N
        p.A, p.A_row, p.A_column = delta, p.K, 1
        p.B, p.B_row, p.B_column = self.w + layer.weight, 1, p.K
        p.epilogue.bias, p.epilogue.slope, p.epilogue.slope_row = NULL, NULL, p.N
        p.epilogue.accumulate = False
        p.epilogue.activation = self.kind
        if i > 0 and self.kind != FBP_IDENTITY:
            p.epilogue.slope = self.layers[i - 1].z
        p.C, p.C_row = out, p.N
        return p

    cdef Product weight_product(self, Py_ssize_t i, Py_ssize_t rows, const char *x, Py_ssize_t x_row, const char *delta,
                                char *out) noexcept nogil:
        """dW (I, O) = Xᵀ δ"""
        cdef Layer *layer = &self.layers[i]
        cdef Product p
        p.k, p.element = self.k, self.element
        p.M, p.N, p.K = layer.inputs, layer.outputs, rows
        p.by_rows = p.M >= p.N
        p.A, p.A_row, p.A_column = x, 1, x_row
        p.B, p.B_row, p.B_column = delta, p.N, 1
        p.epilogue.bias, p.epilogue.slope, p.epilogue.slope_row, p.epilogue.activation = NULL, NULL, 0, FBP_IDENTITY
        p.epilogue.accumulate = False
        p.C, p.C_row = out, p.N
        return p

    cdef int run(self, Product p) except -1 nogil:
        multiply(&p, product_threads(&p, self.n_threads), self.product_scratch)
        self.poll(OPERATION_WORK * p.M * p.N * p.K)
        return 0

    cdef bint poll(self, double work) except -1 nogil:
        """Look at pending signals if enough work has been done since the last time."""
        self.unpolled += work
        if self.unpolled < POLL_WORK:
            return False
        self.unpolled = 0
        with gil:
            PyErr_CheckSignals()
        return True

    # -- a step ------------------------------------------------------------------------------------------------------------

    cdef int forward(self, Matrix x, char *out, Py_ssize_t out_row) except -1 nogil:
        """The logits of the rows of x, at most `capacity`, to `out`, whose rows lie out_row elements apart."""
        cdef const char *a = x.data
        cdef Py_ssize_t a_row = x.row // self.element, i
        cdef Layer *layer
        for i in range(self.depth - 1):
            layer = &self.layers[i]
            self.run(self.forward_product(i, x.rows, a, a_row, layer.z, layer.outputs))
            if layer.a != layer.z:
                self.k.activate(self.kind, x.rows * layer.outputs, layer.z, layer.a)
            a, a_row = layer.a, layer.outputs
        return self.run(self.forward_product(self.depth - 1, x.rows, a, a_row, out, out_row))

    cdef double backward(self, Matrix x, Matrix t, char *gradient) except? -1 nogil:
        """The mean error of the rows of x, its gradient to `gradient`."""
        cdef Layer *layer = &self.layers[self.depth - 1]
        cdef Rows r
        cdef double loss, weight_sum
        cdef const char *delta = layer.a
        cdef const char *a
        cdef Py_ssize_t i, a_row
        self.forward(x, layer.a, layer.outputs)
        memset(&r, 0, sizeof(r))
        r.k, r.element, r.N, r.C = self.k, self.element, x.rows, layer.outputs
        r.z = layer.a
        r.d = layer.a
        r.z_row = r.d_row = layer.outputs * self.element
        r.ignore_index = -100
        if t.labels:
            r.labels = <const int64_t *>t.data
        else:
            r.t, r.t_row = t.data, t.row
        loss = reduced(&r, self.error, True, self.n_threads, self.loss_scratch, &weight_sum)
        for i in range(self.depth - 1, -1, -1):
            layer = &self.layers[i]
            a = x.data if i == 0 else self.layers[i - 1].a
            a_row = x.row // self.element if i == 0 else layer.inputs
            self.run(self.weight_product(i, x.rows, a, a_row, delta, gradient + layer.weight))
            self.k.column_sums(x.rows, layer.outputs, delta, layer.outputs, gradient + layer.bias)
            if i > 0:
                self.run(self.input_product(i, x.rows, delta, self.deltas[i % 2]))
                delta = self.deltas[i % 2]
        return loss

    # -- what Python calls -------------------------------------------------------------------------------------------------

    cdef int enter(self) except -1:
        if self.busy:
            raise RuntimeError("network: got a call during another one, from a callback, a signal handler or a thread; expected "
                               "it to be over")
        self.busy = True
        return 0

    def logits(self, x, out):
        cdef Matrix rows = matrix_of(x), to = matrix_of(out), block = rows
        cdef Py_ssize_t start = 0
        self.enter()
        try:
            self.prepare(min(rows.rows, PREDICTION_ROWS))
            with nogil:
                while start < rows.rows:
                    block.rows = min(PREDICTION_ROWS, rows.rows - start)
                    block.data = rows.data + start * rows.row
                    self.forward(block, to.data + start * to.row, to.row // self.element)
                    start += block.rows
        finally:
            self.busy = False

    def gradient(self, x, targets, gradient) -> float:
        cdef Matrix rows = matrix_of(x), t = matrix_of(targets)
        cdef char *g = vector_of(gradient)
        cdef double loss
        self.enter()
        try:
            self.prepare(rows.rows)
            with nogil:
                loss = self.backward(rows, t, g)
        finally:
            self.busy = False
        return loss

    def train(self, x, targets, const int64_t[::1] order, Py_ssize_t batch_size, optimizer, report):
        cdef Matrix rows = matrix_of(x), t = matrix_of(targets), batch, batch_t
        cdef Py_ssize_t start = 0, done = 0, count = rows.rows if order is None else order.shape[0]
        cdef double total = 0, loss, next_report = perf_counter() + REPORT_SECONDS
        cdef int64_t first_step = optimizer.steps + 1
        cdef Update u = update_of(optimizer, self.parameters)
        cdef Failure failure = NONE
        cdef bint careful
        self.enter()
        try:
            self.prepare(min(batch_size, count))
            batch, batch_t = rows, t
            if order is not None:
                batch.data, batch.row = self.batch_x, rows.columns * self.element
                batch_t.data, batch_t.row = self.batch_t, t.columns * (<Py_ssize_t>sizeof(int64_t) if t.labels else self.element)
            with nogil:
                careful = self.may_overflow(self.w) or self.may_overflow(u.first) or self.may_overflow(u.second) or \
                    max(u.learning_rate, u.weight_decay) > LARGE_RATE or (u.rule == ADAM and u.epsilon < SMALL_EPSILON)
                while start < count:
                    batch.rows = batch_t.rows = min(batch_size, count - start)
                    if order is None:
                        batch.data, batch_t.data = rows.data + start * rows.row, t.data + start * t.row
                    else:
                        gather(rows, &order[start], batch)
                        gather(t, &order[start], batch_t)
                    loss = self.backward(batch, batch_t, self.batch_gradient)
                    if not isfinite(loss):
                        failure = LOSS
                        break
                    careful = careful or self.may_overflow(self.batch_gradient)
                    u.step = first_step + done
                    if not careful:
                        update_parameters(&u, self.k, self.element, self.count, self.batch_gradient, self.w, self.n_threads)
                    elif not self.update_on_trial(&u):
                        failure = GRADIENT
                        break
                    total += loss * batch.rows
                    start += batch.rows
                    done += 1
                    if self.poll(ELEMENT_WORK * self.count) and report is not None:
                        with gil:
                            if perf_counter() >= next_report:
                                report(done, total / start)
                                next_report = perf_counter() + REPORT_SECONDS
        finally:
            self.busy = False
            optimizer.steps += done
        return total / start if start > 0 else NAN, done, FAILURES[<int>failure]

    cdef bint may_overflow(self, const char *x) noexcept nogil:
        """Whether an update that this vector (count), NULL for none, takes part in might leave the range of the dtype."""
        return x != NULL and not self.k.largest_magnitude(self.count, x) < LARGE_NUMBER

    cdef bint update_on_trial(self, const Update *u) except? 0 nogil:
        """Make the update; if anything is not finite after it take it back and return False."""
        cdef Py_ssize_t bytes = self.count * self.element
        cdef char *vectors[3]
        cdef char *copy = <char *>malloc(3 * bytes)
        cdef bint finite = isfinite(self.k.largest_magnitude(self.count, self.batch_gradient))
        cdef int i
        if copy == NULL:
            with gil:
                raise MemoryError(f"no memory for a trial update of {self.count} parameters")
        vectors[0], vectors[1], vectors[2] = self.w, u.first, u.second
        for i in range(3):
            if vectors[i] != NULL:
                memcpy(copy + i * bytes, vectors[i], bytes)
        update_parameters(u, self.k, self.element, self.count, self.batch_gradient, self.w, self.n_threads)
        for i in range(3):
            finite = finite and (vectors[i] == NULL or isfinite(self.k.largest_magnitude(self.count, vectors[i])))
        for i in range(3):
            if vectors[i] != NULL and not finite:
                memcpy(vectors[i], copy + i * bytes, bytes)
        free(copy)
        return finite
