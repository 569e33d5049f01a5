"""Dense neural networks on the CPU, from NumPy: fused, exact back-propagation kernels and a model on top."""

from fastbp import callbacks, datasets, mpi, objectives, schedules
from fastbp._config import __version__, get_include, show_config
from fastbp._errors import TargetIndexError
from fastbp.activations import (
    activation_backward,
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    logsumexp,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softmax_backward,
    softplus,
    tanh,
)
from fastbp.divergence import DivergenceError
from fastbp.gradient_check import check_gradient
from fastbp.hessians import LossGradHessian, sigmoid_cross_entropy_hessian, softmax_cross_entropy_hessian
from fastbp.history import History
from fastbp.last_layer import LastLayerGrad, linear_softmax_cross_entropy
from fastbp.layers import WeightGrad, linear, linear_backward_input, linear_backward_weight
from fastbp.lbfgs import LBFGS
from fastbp.losses import (
    LossGrad,
    huber,
    poisson_deviance,
    quantile,
    sigmoid_cross_entropy,
    sigmoid_squared_error,
    softmax_cross_entropy,
    squared_error,
)
from fastbp.model import MLP, Gradients
from fastbp.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop
from fastbp.precision import get_precision, set_precision
from fastbp.updates import adam_update, sgd_update

__all__ = [
    "LBFGS",
    "MLP",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "DivergenceError",
    "Gradients",
    "History",
    "LastLayerGrad",
    "Lion",
    "LossGrad",
    "LossGradHessian",
    "Muon",
    "RMSprop",
    "TargetIndexError",
    "WeightGrad",
    "__version__",
    "activation_backward",
    "adam_update",
    "callbacks",
    "check_gradient",
    "datasets",
    "elu",
    "gelu",
    "get_include",
    "get_precision",
    "huber",
    "identity",
    "leaky_relu",
    "linear",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_softmax_cross_entropy",
    "log_softmax",
    "logsumexp",
    "mish",
    "mpi",
    "objectives",
    "poisson_deviance",
    "quantile",
    "relu",
    "schedules",
    "selu",
    "set_precision",
    "sgd_update",
    "show_config",
    "sigmoid",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_hessian",
    "sigmoid_squared_error",
    "silu",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_hessian",
    "softplus",
    "squared_error",
    "tanh",
]
