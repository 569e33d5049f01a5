"""The functions of the NumPy twin, called as is convenient in tests, and examples for them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
from tolerances import ACTIVATIONS

from fastbp import _reference as twin
from fastbp._reference.errors import PARAMETERS

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).smallest_normal)
INF, NAN = np.inf, np.nan


def generator(seed=0):
    return np.random.default_rng(seed)


def evaluate(loss, z, targets, *, mean=False, grad=None, **options):
    """Call an error function of the twin; returns loss, weight_sum, losses (N,), grad (N, C), which may be given."""
    losses, grad = np.full(len(z), 7.0, z.dtype), np.full_like(z, 7.0) if grad is None else grad
    sample_weight = options.get("sample_weight")
    if loss == "softmax_cross_entropy":
        pair = (targets, None) if targets.ndim == 1 else (None, targets)
        arguments = (
            *pair,
            options.get("class_weight"),
            sample_weight,
            options.get("ignore_index", -100),
            options.get("label_smoothing", 0.0),
            options.get("lse_square_scale", 0.0),
            options.get("softcap", 0.0),
        )
    elif loss == "sigmoid_cross_entropy":
        arguments = (targets, options.get("pos_weight"), sample_weight, options.get("label_smoothing", 0.0))
    else:
        arguments = (targets, sample_weight, loss, options.get("parameter", PARAMETERS.get(loss, 0.0)))
    function = getattr(twin, loss, twin.elementwise_error)
    value, weight_sum = function(z, *arguments, mean, losses, grad, 1)
    return SimpleNamespace(loss=value, weight_sum=weight_sum, losses=losses, grad=grad)


def activation(name, x, out=None):
    out = np.empty_like(x) if out is None else out
    function = partial(twin.activate, name) if name in ACTIVATIONS else getattr(twin, name)
    function(x, out, 1)
    return out


def backward(name, grad, a):
    out = np.empty_like(a)
    twin.activation_backward(name, grad, a, out, 1)
    return out


def softmax_backward(grad, y):
    out = np.empty_like(y)
    twin.softmax_backward(grad, y, out, 1)
    return out


# Error functions. Five examples of four classes or outputs, one all but certain, one with a tie.
N, C = 5, 4
LOGITS = generator().normal(0, 1.5, (N, C))
LOGITS[1, 2] = LOGITS[1].max() + 3
LOGITS[2, 1] = LOGITS[2, 3] = LOGITS[2].max()
LABELS = np.array([0, 2, 3, -100, 1])
HOT = np.eye(C)[[3, 2, 0, 1, 1]]
SOFT = generator(1).dirichlet(np.ones(C), N)
FREE = generator(2).uniform(0, 2, (N, C))  # rows that do not sum to 1
FREE[0, 1] = 0.0
COUNTS = np.array([[0, 1, 2, 5], [0.5, 3, 0, 1], [1, 1, 1, 1], [4, 0, 0, 2], [2, 7, 1, 0.1]])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 0.0, 2.0, 3.0])
CLASS_WEIGHT = np.array([0.5, 1.0, 2.0, 3.0])
POS_WEIGHT = np.array([0.2, 1.0, 3.0, 10.0])

ELEMENTWISE_TARGETS = {
    "sigmoid_cross_entropy": SOFT,
    "squared_error": FREE,
    "sigmoid_squared_error": SOFT,
    "poisson_deviance": COUNTS,
    "huber": FREE,
    "quantile": FREE,
}

# No kink of a relu within two steps.
X = np.array([[-4.0, -1.3, -0.75, -0.1, 0.02, 0.5, 1.0, 3.0, 6.0]])
