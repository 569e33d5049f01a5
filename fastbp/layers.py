"""A dense layer: the forward product, the delta recursion, and the gradients of its parameters.

With N examples, I inputs and O outputs, δ = dE/dz and f the activation::

    forward     Z = A_prev W + b,  A = f(Z)         W (I, O), b (O,)
    recursion   δ_prev = (δ Wᵀ) ⊙ f'(z_prev)
    gradients   dW = A_prevᵀ δ,  db = Σ_n δ_n
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks
from fastbp.activations import ACTIVATIONS


class WeightGrad(NamedTuple):
    """The gradients of a layer's parameters.

    Attributes
    ----------
    weight : numpy.ndarray of shape (I, O)
        dE/dW, summed over the examples.
    bias : numpy.ndarray of shape (O,)
        dE/db, summed over the examples.
    """

    weight: np.ndarray
    bias: np.ndarray


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str = "identity",
    out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """The outputs of a dense layer, f(x W + b).

    Parameters
    ----------
    x : array of float32 or float64, shape (N, I)
        One row for each example.
    weight : array of the dtype of `x`, shape (I, O)
        With any strides: the transpose of an (O, I) array is read as it lies.
    bias : array of the dtype of `x`, shape (O,), optional
    activation : str, default "identity"
        f, one of the names that `activation_backward` lists.
    out : numpy.ndarray of the dtype of `x`, shape (N, O), optional
        Where to write the outputs. It must not overlap any input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    numpy.ndarray of shape (N, O)

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, an unknown activation, or an `out` that is read-only, not contiguous in its last axis,
        or overlaps an input.

    Notes
    -----
    PyTorch's ``Linear.weight`` is (O, I): pass its transpose.

    Examples
    --------
    >>> import fastbp
    >>> weight, bias = [[1.0, -1.0], [2.0, 0.0]], [0.5, 0.5]
    >>> fastbp.linear([[1.0, 1.0]], weight, bias, activation="relu").tolist()
    [[3.5, 0.0]]
    """
    _checks.choice("activation", activation, ACTIVATIONS)
    a_prev = _checks.matrix("x", x, "(N, I)")
    w = _checks.layer_weight(weight, 0, "x", a_prev)
    b = None if bias is None else _checks.layer_bias(bias, w)
    result = _checks.output(
        "out", out, (len(a_prev), w.shape[1]), a_prev.dtype, x=x, weight=weight, bias=bias
    )
    threads = _checks.threads(n_threads)
    _backend.kernels.linear(_checks.rows(a_prev), w, b, activation, result, threads)
    return result


def linear_backward_input(
    delta: ArrayLike,
    weight: ArrayLike,
    *,
    activation: str = "identity",
    a: ArrayLike | None = None,
    out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """The recursion of back-propagation: the deltas of the layer below, (δ Wᵀ) ⊙ f'(z).

    Parameters
    ----------
    delta : array of float32 or float64, shape (N, O)
        δ = dE/dz of the layer above.
    weight : array of the dtype of `delta`, shape (I, O)
        Of the layer above. With any strides.
    activation : str, default "identity"
        f of the layer below, one of the names that `activation_backward` lists.
    a : array of the dtype of `delta`, shape (N, I), optional
        What f' is computed from: the output f(z) of the layer below, or its input z, as the table in
        :func:`activation_backward` says.
        Needed unless `activation` is "identity", whose slope is 1 everywhere.
    out : numpy.ndarray of the dtype of `delta`, shape (N, I), optional
        Where to write the result. It must not overlap any input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    numpy.ndarray of shape (N, I)
        dE/dz of the layer below; with "identity", dE/da.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype, or `a` missing.
    ValueError
        A wrong shape, an unknown activation, or an `out` that is read-only, not contiguous in its last axis,
        or overlaps an input.

    Examples
    --------
    >>> import fastbp
    >>> delta, weight, a = [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0.5, 0.5, 1.0]]
    >>> fastbp.linear_backward_input(delta, weight).tolist()
    [[1.0, 2.0, 3.0]]
    >>> fastbp.linear_backward_input(delta, weight, activation="sigmoid", a=a).tolist()  # times a(1 - a)
    [[0.25, 0.5, 0.0]]
    """
    _checks.choice("activation", activation, ACTIVATIONS)
    d = _checks.matrix("delta", delta, "(N, O)")
    w = _checks.layer_weight(weight, 1, "delta", d)
    shape = (len(d), w.shape[0])
    f = _checks.slope_source(a, activation, shape, d)
    result = _checks.output("out", out, shape, d.dtype, delta=delta, weight=weight, a=a)
    threads = _checks.threads(n_threads)
    _backend.kernels.linear_backward_input(_checks.rows(d), w, activation, f, result, threads)
    return result


def linear_backward_weight(
    a_prev: ArrayLike,
    delta: ArrayLike,
    *,
    out: np.ndarray | None = None,
    bias_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> WeightGrad:
    """The gradients of a layer's parameters, dW = a_prevᵀ δ and db = Σ_n δ_n.

    dW is the sum, over the examples, of the outer products of a layer's input with its delta. It is a mean
    where the deltas come from an error reduced to its mean.

    Parameters
    ----------
    a_prev : array of float32 or float64, shape (N, I)
        The input of the layer, which is the output of the one below.
    delta : array of the dtype of `a_prev`, shape (N, O)
        δ = dE/dz of the layer.
    out : numpy.ndarray of the dtype of `a_prev`, shape (I, O), optional
        Where to write dW. It must not overlap any other array.
    bias_out : numpy.ndarray of the dtype of `a_prev`, shape (O,), optional
        Where to write db. It must not overlap any other array.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    WeightGrad
        ``(weight, bias)``; both 0 for an empty batch.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape, or an output that is read-only, not contiguous in its last axis, or overlaps another
        array.

    Examples
    --------
    >>> import fastbp
    >>> weight, bias = fastbp.linear_backward_weight([[1.0, 2.0], [0.0, 1.0]], [[1.0], [3.0]])
    >>> weight.tolist(), bias.tolist()
    ([[1.0], [5.0]], [4.0])
    """
    a = _checks.matrix("a_prev", a_prev, "(N, I)")
    d = _checks.layer_delta(delta, a)
    n_inputs, n_outputs = a.shape[1], d.shape[1]
    weight = _checks.output("out", out, (n_inputs, n_outputs), a.dtype, a_prev=a_prev, delta=delta)
    bias = _checks.output("bias_out", bias_out, (n_outputs,), a.dtype, a_prev=a_prev, delta=delta, out=out)
    threads = _checks.threads(n_threads)
    _backend.kernels.linear_backward_weight(_checks.rows(a), _checks.rows(d), weight, bias, threads)
    return WeightGrad(weight, bias)
