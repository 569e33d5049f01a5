# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""Activations, their slopes, and the softmax family."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastbp._reference.parts import quiet, sigmoid_parts, softmax_parts

# Activations f(z), and their slopes f' from a = f(z), or from z itself -----------------------------------------

LEAKY_SLOPE = 0.01
SELU_SCALE, SELU_BELOW = 1.0507009873554804934193349852946, 1.7580993408473768599402175208123  # λ, λα
_LARGEST = float(np.finfo(np.float64).max)


def _identity(x):
    return x


def _sigmoid(x):
    """1 / (1 + exp(-x))."""
    e, smaller = sigmoid_parts(x)
    return np.where(x > 0.0, 1.0 / (1.0 + e), smaller)


def _sigmoid_slope(a):
    return a * (1.0 - a)


def _tanh_slope(a):
    return 1.0 - a * a


def _relu(x):
    """max(x, 0); NaN stays NaN."""
    return np.maximum(x, 0.0)


def _relu_slope(a):
    return np.heaviside(a, 0.0)  # NaN at NaN


def _leaky_relu(x):
    """x where x > 0, x / 100 elsewhere."""
    return np.where(x > 0.0, x, LEAKY_SLOPE * x)


def _leaky_relu_slope(a):
    return np.maximum(np.heaviside(a, 0.0), LEAKY_SLOPE)


def _elu(x):
    """x where x > 0, exp(x) - 1 elsewhere."""
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def _elu_slope(a):
    return np.where(a > 0.0, 1.0, 1.0 + a)  # exp(z) = 1 + elu(z)


def _selu(x):
    """λ x where x > 0, λα (exp(x) - 1) elsewhere."""
    return _elu(x) * np.where(x > 0.0, SELU_SCALE, SELU_BELOW).astype(x.dtype)


def _selu_slope(a):
    return np.where(a > 0.0, SELU_SCALE, a + SELU_BELOW)  # λα exp(z) = λα + selu(z)


_normal_cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5)), otypes=[np.float64])


def _gelu(x):
    """x Φ(x), Φ the distribution function of the standard normal; 0 at -inf."""
    return np.maximum(x.astype(np.float64), -_LARGEST) * _normal_cdf(x)


def _gelu_slope(z):
    """Φ(z) + z φ(z), φ the density of the standard normal."""
    finite = np.clip(z.astype(np.float64), -_LARGEST, _LARGEST)  # so that inf * 0 becomes 0
    density = np.exp(-0.5 * finite * finite) / math.sqrt(2.0 * math.pi)
    return (_normal_cdf(finite) + finite * density).astype(z.dtype)


def _silu(x):
    """x sigmoid(x); 0 at -inf."""
    return np.maximum(x, np.finfo(x.dtype).min) * _sigmoid(x)


def _silu_slope(z):
    """y + z y (1 - y), where 1 - sigmoid(z) = sigmoid(-z)."""
    z = np.clip(z, np.finfo(z.dtype).min, np.finfo(z.dtype).max)
    return _sigmoid(z) + z * _sigmoid(z) * _sigmoid(-z)


def _softplus(x):
    """ln(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _softplus_slope(a):
    return -np.expm1(-a)  # sigmoid(z) = 1 - exp(-softplus(z))


def _mish(x):
    """x tanh(softplus(x)); 0 at -inf."""
    return np.maximum(x, np.finfo(x.dtype).min) * np.tanh(_softplus(x))


def _mish_slope(z):
    """T + z (1 - T²) sigmoid(z), where T = tanh(softplus(z)) and 1 - T² = 1 / cosh²(softplus(z))."""
    z = np.clip(z, np.finfo(z.dtype).min, np.finfo(z.dtype).max)
    s = _softplus(z)
    return np.tanh(s) + z * _sigmoid(z) / np.cosh(s) ** 2


class Activation(NamedTuple):
    """One row for each activation; the facts are those of src_c/activations.def."""

    f: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    slope_of_input: bool
    bound: float
    weights: str


ACTIVATIONS = {
    "identity": Activation(_identity, np.ones_like, False, math.inf, "glorot"),
    "sigmoid": Activation(_sigmoid, _sigmoid_slope, False, 1.0, "glorot"),
    "tanh": Activation(np.tanh, _tanh_slope, False, 1.0, "glorot"),
    "relu": Activation(_relu, _relu_slope, False, math.inf, "he"),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_slope, False, math.inf, "he"),
    "elu": Activation(_elu, _elu_slope, False, math.inf, "he"),
    "selu": Activation(_selu, _selu_slope, False, math.inf, "lecun"),
    "gelu": Activation(_gelu, _gelu_slope, True, math.inf, "he"),
    "silu": Activation(_silu, _silu_slope, True, math.inf, "he"),
    "mish": Activation(_mish, _mish_slope, True, math.inf, "he"),
    "softplus": Activation(_softplus, _softplus_slope, False, math.inf, "he"),
}


def activation_facts():
    """Of each activation by name: whether its slope takes its input, the bound of its outputs, its initial weights."""
    return {name: (row.slope_of_input, row.bound, row.weights) for name, row in ACTIVATIONS.items()}


@quiet
def activate(name, x, out, n_threads):
    """f(x)."""
    out[...] = ACTIVATIONS[name].f(x)


@quiet
def activation_backward(name, grad, a, out, n_threads):
    """The product grad ⊙ f', f' from `a`."""
    out[...] = grad * ACTIVATIONS[name].slope(a)


# The softmax family -------------------------------------------------------------------------------------------


@quiet
def softmax(x, out, n_threads):
    """y = exp(x - m) / (1 + rest), row by row; a row without a softmax becomes NaN."""
    _, e, _, rest = softmax_parts(x)
    out[...] = e / (1.0 + rest)


@quiet
def log_softmax(x, out, n_threads):
    """ln y = (x - m) - log1p(rest), row by row: a sum of two terms <= 0."""
    m, _, _, rest = softmax_parts(x)
    out[...] = (x - m) - np.log1p(rest)


@quiet
def logsumexp(x, out, n_threads):
    """m + log1p(rest) of each row, out (N,); of nothing but -inf it is -inf, and with a +inf +inf."""
    _, _, _, rest = softmax_parts(x)
    m = x.max(axis=1, initial=-np.inf)
    out[...] = np.where(np.isfinite(m), m + np.log1p(rest[:, 0]), m)


@quiet
def softmax_backward(grad, y, out, n_threads):
    """grad = dE/dy times the full Jacobian dy_c/dz_j = y_c ([c = j] - y_j): y ⊙ (grad - Σ grad y)."""
    out[...] = y * (grad - (grad * y).sum(axis=1, keepdims=True))
