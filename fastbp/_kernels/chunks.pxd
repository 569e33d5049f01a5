"""What a batch is learned from: the deltas of all layers, or of a batch in chunks the gradient."""

from fastbp._kernels.net cimport Batch, Net
from fastbp._kernels.step cimport Loss
from fastbp._kernels.team cimport fbp_team

# deltas_at_once(), unless the plan is by chunks: then the gradient of all layers is formed in `to`, to which net.formed points.
cdef int deltas(Net *net, const Batch *batch, char *to, fbp_team *team, Loss *loss) except -1 nogil
