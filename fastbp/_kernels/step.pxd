"""One training step of a network: forward, error and deltas; then gradient or update from the deltas."""

from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.net cimport Batch, Net
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.team cimport fbp_team

# The weighted mean of the errors of some examples, NaN where their weights sum to 0, and that sum.
cdef struct Loss:
    double mean, weight

# The logits of the rows of x, at most `capacity`, to `out`, with out_row elements from row to row
cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil

# The error of a batch, and the deltas of all layers in the work space. If the plan is by blocks, the deltas of the last layer are
# not kept: its gradient is formed at once, in `to`, a vector of `count`, to which net.formed then points.
cdef int deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil

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
# The update from a gradient, a vector of `count`; signals are polled before the first write alone.
cdef int update_by(Net *net, const char *g, Update *u, fbp_team *team) except -1 nogil
