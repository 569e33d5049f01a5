# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""One layer forward and backward, and the last one with its error."""

from __future__ import annotations

import numpy as np

from fastbp._reference.activations import ACTIVATIONS
from fastbp._reference.errors import rows_read, softmax_cross_entropy
from fastbp._reference.parts import quiet


def use_precision(name):
    """Change nothing: products are NumPy's, in the dtype of their operands."""


@quiet
def linear(x, weight, bias, activation, out, n_threads):
    """f(x (N, I) @ weight (I, O) + bias (O,)), out (N, O)."""
    z = x @ weight if bias is None else x @ weight + bias
    out[...] = ACTIVATIONS[activation].f(z)


@quiet
def linear_backward_input(delta, weight, activation, a, out, n_threads):
    """The recursion (delta (N, O) @ weightᵀ (O, I)) ⊙ f'(a (N, I)), out (N, I)."""
    back = delta @ weight.T
    out[...] = back if activation == "identity" else back * ACTIVATIONS[activation].slope(a)


@quiet
def linear_backward_weight(a_prev, delta, out, bias_out, n_threads):
    """The sum of the outer products, out (I, O) = a_prevᵀ @ delta; bias_out (O,) = Σ_n delta."""
    out[...], bias_out[...] = a_prev.T @ delta, delta.sum(axis=0)


def linear_softmax_cross_entropy(
    inputs, weight, bias, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing,
    lse_square_scale, softcap, mean, max_memory, precision, losses, grad_inputs, grad_weight, grad_bias, n_threads,
):  # fmt: skip
    """The functions of the last layer one after the other, over all logits (N, C) at once, as NumPy multiplies: max_memory and
    precision are not used."""
    z = np.empty((len(inputs), weight.shape[1]), inputs.dtype)
    linear(inputs, weight, bias, "identity", z, n_threads)
    delta = np.empty_like(z)
    loss, weight_sum = softmax_cross_entropy(
        z, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale,
        softcap, mean, losses, delta, n_threads,
    )  # fmt: skip
    x, d, _, read = rows_read(
        inputs, delta, sample_weight, False if labels is None else labels == ignore_index
    )
    if mean and weight_sum == 0.0:  # nothing to learn from, and 0 times what is read might be NaN
        x, d, read = x[:0], d[:0], np.zeros_like(read)
    back = np.empty_like(x)
    linear_backward_input(d, weight, "identity", None, back, n_threads)
    grad_inputs[...] = 0.0
    grad_inputs[read] = back
    bias_sums = np.empty(weight.shape[1], x.dtype) if grad_bias is None else grad_bias
    linear_backward_weight(x, d, grad_weight, bias_sums, n_threads)
    return loss, weight_sum
