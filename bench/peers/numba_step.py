"""A training step in Numba, as one compiled function: sigmoid hidden units, softmax cross-entropy, plain SGD.

Twice, for a choice of matrix products: loops whose inner one runs along the rows of W, which LLVM turns into
vector instructions, and `np.dot`, which is SciPy's BLAS. `exp` is the C library's: Numba has a vectorised one
only with Intel's SVML.

Shapes: `x` (N, I), `labels` (N,); tuples with an array for each layer: `weights` and `gradients` (I, O),
`biases` (O,), `outputs` and `deltas` (N, O).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

jit = njit(fastmath=True, error_model="numpy")


# Loops --------------------------------------------------------------------------------------------------------


@jit
def loops_forward(a, w, b, z):
    """Z = A W + b."""
    for n in range(len(a)):
        z[n] = b
        for i in range(len(w)):
            for o in range(len(b)):
                z[n, o] += a[n, i] * w[i, o]


@jit
def loops_backward(delta, w, below):
    """δ_below = δ Wᵀ."""
    for n in range(len(delta)):
        for i in range(len(w)):
            total = delta[n, 0] * w[i, 0]
            for o in range(1, w.shape[1]):
                total += delta[n, o] * w[i, o]
            below[n, i] = total


@jit
def loops_update(a, delta, w, gradient, rate):
    """W <- W - rate Aᵀ δ; a row of the gradient at a time."""
    row = gradient[0]
    for i in range(len(w)):
        row[:] = 0
        for n in range(len(a)):
            for o in range(w.shape[1]):
                row[o] += a[n, i] * delta[n, o]
        for o in range(w.shape[1]):
            w[i, o] -= rate * row[o]


# BLAS ---------------------------------------------------------------------------------------------------------


@jit
def blas_forward(a, w, b, z):
    """Z = A W + b."""
    np.dot(a, w, z)
    z += b


@jit
def blas_backward(delta, w, below):
    """δ_below = δ Wᵀ."""
    np.dot(delta, w.T, below)


@jit
def blas_update(a, delta, w, gradient, rate):
    """W <- W - rate Aᵀ δ."""
    np.dot(a.T, delta, gradient)
    w -= rate * gradient


# The step -----------------------------------------------------------------------------------------------------


@jit
def sigmoid(z):
    """1 / (1 + exp(-z)), in place."""
    for n in range(z.shape[0]):
        for o in range(z.shape[1]):
            z[n, o] = 1 / (1 + np.exp(-z[n, o]))


@jit
def sigmoid_slope(delta, a):
    """δ <- δ a (1 - a)."""
    for n in range(a.shape[0]):
        for o in range(a.shape[1]):
            delta[n, o] *= a[n, o] * (1 - a[n, o])


@jit
def softmax_error(z, labels, delta):
    """Return the mean error, and leave (y - t) / N in `delta`."""
    loss = 0.0
    for n in range(len(z)):
        largest, total = z[n].max(), z[n, 0] * 0
        for k in range(z.shape[1]):
            delta[n, k] = np.exp(z[n, k] - largest)
            total += delta[n, k]
        loss += np.log(total) + largest - z[n, labels[n]]
        scale = 1 / (total * len(z))
        for k in range(z.shape[1]):
            delta[n, k] *= scale
        delta[n, labels[n]] -= z.dtype.type(1) / len(z)
    return loss / len(z)


@jit
def update_bias(delta, b, rate):
    """b <- b - rate Σ_n δ_n."""
    for o in range(len(b)):
        total = delta[0, o]
        for n in range(1, len(delta)):
            total += delta[n, o]
        b[o] -= rate * total


def _step(forward: Callable, backward: Callable, update: Callable) -> Callable[..., float]:
    """Return the step whose matrix products are these."""

    @jit
    def step(x, labels, weights, biases, outputs, deltas, gradients, rate):
        last = len(weights) - 1
        for layer in range(last + 1):
            forward(x if layer == 0 else outputs[layer - 1], weights[layer], biases[layer], outputs[layer])
            if layer < last:
                sigmoid(outputs[layer])
        loss = softmax_error(outputs[last], labels, deltas[last])
        for layer in range(last, -1, -1):
            if layer > 0:
                backward(deltas[layer], weights[layer], deltas[layer - 1])
                sigmoid_slope(deltas[layer - 1], outputs[layer - 1])
            below = x if layer == 0 else outputs[layer - 1]
            update(below, deltas[layer], weights[layer], gradients[layer], rate)
            update_bias(deltas[layer], biases[layer], rate)
        return loss

    return step


by_loops = _step(loops_forward, loops_backward, loops_update)
by_blas = _step(blas_forward, blas_backward, blas_update)
