"""The one way in which training can fail, and how it is told: where numbers cease to be finite."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fastbp import layers
from fastbp.history import History

__all__ = ["DivergenceError", "divergence"]


class Network(Protocol):
    """What is looked at to find out."""

    @property
    def parameters(self) -> np.ndarray: ...
    @property
    def weights(self) -> tuple[np.ndarray, ...]: ...
    @property
    def biases(self) -> tuple[np.ndarray, ...]: ...
    @property
    def activations(self) -> tuple[str, ...]: ...
    def gradients(self, x: np.ndarray, t: np.ndarray) -> Any: ...


class DivergenceError(FloatingPointError):
    """Training met an error, a gradient or an update that is not finite.

    The batch where it happened made no update: the parameters are the last finite ones, unless they were not finite
    before, which the message says.

    Attributes
    ----------
    epoch, batch : int or None
        Where, counted from 1; None in a single step.
    layer : int or None
        Where the numbers cease to be finite, counted from 1; None if those of the data are not.
    largest_weight : float
        The weight of the largest absolute value in the whole network.
    history : History or None
        The epochs that were completed before.
    """

    __module__ = "fastbp"

    epoch: int | None = None
    batch: int | None = None
    layer: int | None = None
    largest_weight: float = float("nan")
    history: History | None = None


def divergence(
    net: Network,
    x: np.ndarray,
    t: np.ndarray,
    failure: str,
    rows: np.ndarray | None = None,
    epoch: int | None = None,
    batch: int | None = None,
    n_batches: int | None = None,
    history: History | None = None,
) -> DivergenceError:
    """The error for a batch (x, t) after which the engine reported `failure`, "loss" or "gradient".

    `rows` are the places of the batch's examples among those that the user gave.
    """
    among = "" if n_batches is None else f" of {n_batches}"
    where = "in this step" if epoch is None else f"in epoch {epoch}, batch {batch}{among}"
    layer, cause = _cause(net, x, t, failure, np.arange(len(x)) if rows is None else rows)
    largest, place = _largest_weight(net)
    kept, advice = "its last finite parameters", " A smaller learning rate may help." if layer else ""
    if not np.isfinite(net.parameters).all():
        kept, advice = "the parameters that it had", ""
    error = DivergenceError(
        f"training diverged {where}: {cause}; the largest weight is {largest:.6g}, {place}. "
        f"The network keeps {kept}.{advice}"
    )
    error.epoch, error.batch, error.layer = epoch, batch, layer
    error.largest_weight, error.history = largest, history
    return error


def _cause(
    net: Network, x: np.ndarray, t: np.ndarray, failure: str, rows: np.ndarray
) -> tuple[int | None, str]:
    """The layer, counted from 1, at which this batch ceases to be finite, and a clause that says so."""
    for what, array in (("inputs", x), ("targets", t)):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            return None, f"the {what} of example {rows[finite.argmin()]} are not finite"
    for layer, pair in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        if not all(np.isfinite(array).all() for array in pair):
            return layer, f"the parameters of layer {layer} {pair[0].shape} were not finite before"
    if failure == "loss":
        return _layer_of_the_loss(net, x)
    return _layer_of_the_gradient(net, x, t)


def _layer_of_the_loss(net: Network, x: np.ndarray) -> tuple[int, str]:
    a = x
    last = len(net.weights)
    for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        a = layers.linear(
            a, weight, bias, activation="identity" if layer == last else net.activations[layer - 1]
        )
        if not np.isfinite(a).all():
            return layer, f"the outputs of layer {layer} {weight.shape} are not finite"
    return last, f"the loss is not finite, at the outputs of layer {last} {net.weights[-1].shape}"


def _layer_of_the_gradient(net: Network, x: np.ndarray, t: np.ndarray) -> tuple[int, str]:
    gradients = net.gradients(x, t)
    sizes = []
    for layer in range(len(net.weights), 0, -1):  # in the order of the backward pass
        pair = gradients.weights[layer - 1], gradients.biases[layer - 1]
        size = max(float(np.abs(array).max()) for array in pair)
        shape = net.weights[layer - 1].shape
        if not np.isfinite(size):
            return layer, f"the gradient of layer {layer} {shape} is not finite"
        sizes.append((size, layer, shape))
    size, layer, shape = max(sizes)
    return layer, f"the update overflows, with a gradient of up to {size:.6g} in layer {layer} {shape}"


def _largest_weight(net: Network) -> tuple[float, str]:
    """The weight of the largest absolute value and its place; NaN, as to `argmax`, is larger than any."""
    layer = int(np.argmax([np.abs(weight).max() for weight in net.weights]))
    weight = net.weights[layer]
    row, column = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    return float(weight[row, column]), f"weights[{layer}][{row}, {column}]"
