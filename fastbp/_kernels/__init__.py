"""The compiled kernels: which rows, tiles and layers, in which order, on which threads. The NumPy twin is fastbp._reference."""

# Modules of which only C is used: named here, so that whoever collects a program's modules finds them.
import fastbp._kernels.chunks
import fastbp._kernels.memory
import fastbp._kernels.rows
import fastbp._kernels.step
import fastbp._kernels.team  # noqa: F401
from fastbp._kernels.activation import (
    activate,
    activation_backward,
    log_softmax,
    logsumexp,
    softmax,
    softmax_backward,
)
from fastbp._kernels.dispatch import (
    activation_facts,
    available_isas,
    compiler,
    fma_rate,
    isa,
    max_threads,
    thread_limit,
    unit,
    use_isa,
    use_precision,
)
from fastbp._kernels.last_layer import linear_softmax_cross_entropy
from fastbp._kernels.layer import linear, linear_backward_input, linear_backward_weight
from fastbp._kernels.loss import (
    elementwise_error,
    first_bad_label,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_hessian,
    softmax_cross_entropy,
    softmax_cross_entropy_at_once,
    softmax_cross_entropy_hessian,
)
from fastbp._kernels.memory import new_array
from fastbp._kernels.network import Network
from fastbp._kernels.optimizer import optimizer_update, update
from fastbp._kernels.team import has_threads

__all__ = [
    "Network",
    "activate",
    "activation_backward",
    "activation_facts",
    "available_isas",
    "compiler",
    "elementwise_error",
    "first_bad_label",
    "fma_rate",
    "has_threads",
    "isa",
    "linear",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_softmax_cross_entropy",
    "log_softmax",
    "logsumexp",
    "max_threads",
    "new_array",
    "optimizer_update",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_hessian",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_at_once",
    "softmax_cross_entropy_hessian",
    "thread_limit",
    "unit",
    "update",
    "use_isa",
    "use_precision",
]
