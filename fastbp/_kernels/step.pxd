"""One training step of a network: forward, error and deltas; then gradient or update from the deltas."""

from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.net cimport Batch, Layer, Net
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.product cimport Product
from fastbp._kernels.team cimport fbp_team

# The weighted mean of the errors of some examples, NaN where their weights sum to 0, and that sum; with net.sums the sum of the
# errors in place of their mean.
cdef struct Loss:
    double mean, weight

# The logits of the rows of x, at most `capacity`, to `out`, with out_row elements from row to row
cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil

# The error of a batch, and the deltas of all layers in the work space. If the plan is by blocks, the deltas of the last layer are
# not kept: its gradient is formed at once, in `to`, a vector of `count`, to which net.formed then points.
cdef int deltas_at_once(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil

# The same in two parts, with the gradients, each layer's as soon as its deltas are known: the error and the deltas of the
# uppermost layer that keeps them, whose number is returned (-1: none); then, from layer to layer, gradient, formed(call, i),
# recursion.
ctypedef int (*Formed)(void *call, Py_ssize_t i) except -1 nogil
cdef Py_ssize_t last_deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -2 nogil
cdef int gradients_in_turn(Net *net, const Batch *batch, Py_ssize_t known, char *to, fbp_team *team, Formed formed,
                           void *call) except -1 nogil

# The bias gradients from the deltas, to the work space
cdef int bias_gradients(Net *net, Py_ssize_t rows) except -1 nogil

# The gradient from the deltas and bias gradients, to a vector of `count`, last layer first
cdef int gradient(Net *net, const Batch *batch, char *to, fbp_team *team) except -1 nogil

# The largest magnitude of the inputs of layer i; NaN if any input is NaN
cdef double largest_input(Net *net, Py_ssize_t i, Matrix x) except? -1 nogil

# The bias gradients from the deltas, to the work space, and a bound of every element of the gradient; inf or NaN unless all
# deltas and activations are finite
cdef double gradient_bound(Net *net, const Batch *batch) except? -1 nogil

# The update of all parameters from the deltas and bias gradients, last layer first
cdef int update(Net *net, const Batch *batch, Update *u, fbp_team *team) except -1 nogil
# By a gradient, a vector of `count`: how it is scaled, if it is to be clipped by its norm; and the update as it was scaled last,
# where signals are polled before the first write alone
cdef void clip(Net *net, const char *g, Update *u, fbp_team *team) noexcept nogil
cdef int update_by_scaled(Net *net, const char *g, Update *u, fbp_team *team) except -1 nogil

# The parts of a step, from which chunks.pyx makes its own. `error` leaves it to the caller to raise an error for a label that has
# gone astray. bias_gradient returns the sum of the magnitudes of the deltas.
cdef int multiply_polled(Net *net, const Product *p, fbp_team *team) except -1 nogil
cdef int error(Net *net, const Batch *batch, fbp_team *team, Loss *loss, bint *astray) except -1 nogil
cdef int recursion(Net *net, Py_ssize_t i, Py_ssize_t rows, fbp_team *team) except -1 nogil
cdef double bias_gradient(const Net *net, const Layer *layer, Py_ssize_t rows, char *to) except? -1 nogil
cdef int weight_gradient(Net *net, Py_ssize_t i, const Batch *batch, char *to, fbp_team *team) except -1 nogil
