# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""Activations, their slopes, and the softmax family."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp._reference.parts import quiet, sigmoid_parts, softmax_parts

LEAKY_SLOPE = 0.01
_LARGEST = float(np.finfo(np.float64).max)


_normal_cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5)), otypes=[np.float64])


def _sigmoid(x):
    e, smaller = sigmoid_parts(x)
    return np.where(x > 0.0, 1.0 / (1.0 + e), smaller)


@quiet
def sigmoid(x, out, n_threads):
    """1 / (1 + exp(-x))."""
    out[...] = _sigmoid(x)


@quiet
def tanh(x, out, n_threads):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    out[...] = np.tanh(x)


@quiet
def relu(x, out, n_threads):
    """max(x, 0); NaN stays NaN."""
    out[...] = np.maximum(x, 0.0)


@quiet
def leaky_relu(x, out, n_threads):
    """x where x > 0, x / 100 elsewhere."""
    out[...] = np.where(x > 0.0, x, LEAKY_SLOPE * x)


@quiet
def gelu(x, out, n_threads):
    """x Φ(x), Φ the distribution function of the standard normal; 0 at -inf."""
    out[...] = np.maximum(x.astype(np.float64), -_LARGEST) * _normal_cdf(x)


@quiet
def silu(x, out, n_threads):
    """x sigmoid(x); 0 at -inf."""
    out[...] = np.maximum(x, np.finfo(x.dtype).min) * _sigmoid(x)


@quiet
def softplus(x, out, n_threads):
    """ln(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    out[...] = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


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


def _gelu_slope(z):
    """Φ(z) + z φ(z), φ the density of the standard normal."""
    finite = np.clip(z.astype(np.float64), -_LARGEST, _LARGEST)  # so that inf * 0 becomes 0
    density = np.exp(-0.5 * finite * finite) / math.sqrt(2.0 * math.pi)
    return (_normal_cdf(finite) + finite * density).astype(z.dtype)


def _silu_slope(z):
    """y + z y (1 - y), where 1 - sigmoid(z) = sigmoid(-z)."""
    z = np.clip(z, np.finfo(z.dtype).min, np.finfo(z.dtype).max)
    return _sigmoid(z) + z * _sigmoid(z) * _sigmoid(-z)


ACTIVATIONS = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
}
INPUT_NEEDED = ("gelu", "silu")  # their slope is no function of the output
SLOPES: dict[str, Callable[[Any], Any]] = {  # f'(z) from a = f(z), or from a = z for those above
    "identity": np.ones_like,
    "sigmoid": lambda a: a * (1.0 - a),
    "tanh": lambda a: 1.0 - a * a,
    "relu": lambda a: np.heaviside(a, 0.0),  # NaN at NaN
    "leaky_relu": lambda a: np.maximum(np.heaviside(a, 0.0), LEAKY_SLOPE),
    "softplus": lambda a: -np.expm1(-a),  # sigmoid(z) = 1 - exp(-softplus(z))
    "gelu": _gelu_slope,
    "silu": _silu_slope,
}


@quiet
def activation_backward(name, grad, a, out, n_threads):
    """The product grad ⊙ f', f' from `a` by the table above."""
    out[...] = grad * SLOPES[name](a)


@quiet
def softmax_backward(grad, y, out, n_threads):
    """grad = dE/dy times the full Jacobian dy_c/dz_j = y_c ([c = j] - y_j): y ⊙ (grad - Σ grad y)."""
    out[...] = y * (grad - (grad * y).sum(axis=1, keepdims=True))
