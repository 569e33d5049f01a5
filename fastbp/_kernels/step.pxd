"""One training step of a network: forward, error, deltas; then, from them, gradient or update."""

from fastbp._kernels.memory cimport Matrix
from fastbp._kernels.net cimport Batch, Net
from fastbp._kernels.optimizer cimport Update
from fastbp._kernels.team cimport fbp_team

# The weighted mean of the errors of some examples, NaN where their weights sum to 0, and that sum.
cdef struct Loss:
    double mean, weight

# The logits of the rows of x, at most `capacity`, to `out`, whose rows lie out_row elements apart.
cdef int forward(Net *net, Matrix x, char *out, Py_ssize_t out_row, fbp_team *team) except -1 nogil

# The error of a batch; the deltas of all layers to the work space. Where the last layer goes by blocks of rows, its deltas are
# used up, and its gradient stands in `to`, a vector of `count`.
cdef int deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil

# From the deltas: the bias gradients, to the work space.
cdef int bias_gradients(Net *net, Py_ssize_t rows) except -1 nogil

# From the deltas and bias gradients: the gradient, to a vector of `count`, the last layer's first.
cdef int gradient(Net *net, const Batch *batch, char *to, fbp_team *team) except -1 nogil

# The largest magnitude of what layer i of the network gets; NaN if any number is.
cdef double largest_input(Net *net, Py_ssize_t i, Matrix x) except? -1 nogil

# From the deltas: the bias gradients to the work space, and a bound of every element of the gradient, which is not finite if any
# delta or activation is not.
cdef double gradient_bound(Net *net, const Batch *batch) except? -1 nogil

# From the deltas and bias gradients: the update of all parameters, the last layer's first.
cdef int update(Net *net, const Batch *batch, Update *u, fbp_team *team) except -1 nogil
# The same from a gradient, a vector of `count`.
cdef void update_by(Net *net, const char *g, Update *u, fbp_team *team) noexcept nogil
