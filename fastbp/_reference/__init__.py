"""The NumPy twin: every backend function in plain NumPy; the oracle of the tests, the fallback at run time.

Design decisions, each with its reason:

A. Naive on purpose. Whole-array expressions that read like the formulas of docs/derivation.md, temporaries
   wherever they help the reader, no blocking, no threads (`n_threads` is accepted and not used).
B. The same names and positional arguments as the compiled package, so that `_backend` can swap the two. The
   types stand in `_kernel_api` and are not said twice. All input arrives checked: rows of one float dtype (N, C),
   int64 labels (N,), float64 weights or None, outputs allocated.
C. Arithmetic is done in the dtype that comes in: on float32 the twin is "plain NumPy", on float64 the oracle.
   Never less than float64 are the weights of the examples, their sum and the sum of the examples' errors, by
   which everything else is scaled. np.longdouble works too and is an oracle for float64, but for the normal
   distribution in gelu: that is float64's, and on the left it magnifies the rounding of its argument x by x².
D. A result is computed in full before anything is written. So an output may share memory with an input.
E. Rows that must not be read (ignored label, sample weight 0) are left out by indexing, not multiplied by 0:
   a NaN in them has nothing to spread from.
F. Nothing cancels. Exponentials are taken of numbers <= 0 only; 1 + small goes through log1p; 1 - y is never
   formed from a y close to 1; the largest logit of a row is handled apart (see `softmax_cross_entropy`).
G. 0 * inf is 0 in a term of an error whose weight is 0 (the limit of t ln y for t -> 0), and NaN elsewhere.
H. No function warns: extreme input has defined answers, and they are written down where they arise.
I. The network restates nothing: it calls the functions above it, one after the other, layer by layer.

Shapes: N rows (examples), R of them read, I inputs and O outputs of a layer, C classes.
"""

from fastbp._reference.activations import (
    activate,
    activation_backward,
    activation_facts,
    log_softmax,
    logsumexp,
    softmax,
    softmax_backward,
)
from fastbp._reference.errors import (
    elementwise_error,
    first_bad_label,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_hessian,
    softmax_cross_entropy,
    softmax_cross_entropy_at_once,
    softmax_cross_entropy_hessian,
)
from fastbp._reference.layers import (
    linear,
    linear_backward_input,
    linear_backward_weight,
    linear_softmax_cross_entropy,
    use_precision,
)
from fastbp._reference.network import Network
from fastbp._reference.parts import new_array
from fastbp._reference.updates import optimizer_update, update

__all__ = [
    "Network", "activate", "activation_backward", "activation_facts", "elementwise_error",
    "first_bad_label", "linear", "linear_backward_input", "linear_backward_weight",
    "linear_softmax_cross_entropy", "log_softmax", "logsumexp", "new_array", "optimizer_update",
    "sigmoid_cross_entropy", "sigmoid_cross_entropy_hessian", "softmax", "softmax_backward", "softmax_cross_entropy",
    "softmax_cross_entropy_at_once", "softmax_cross_entropy_hessian", "update", "use_precision",
]  # fmt: skip
