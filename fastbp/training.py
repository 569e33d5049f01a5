"""Training: epochs of batches, what is reported on the way, and the one way in which it can fail.

An epoch is one call of the engine. Python is entered again only every 0.1 s, for the progress line.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fastbp import _checks, _network_checks, layers
from fastbp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from fastbp.model import MLP

__all__ = ["DivergenceError", "History", "divergence", "fit"]

_Report = Callable[[int, float], object]


@dataclass(repr=False)
class History:
    """What :meth:`MLP.fit` has done, epoch by epoch.

    Attributes
    ----------
    loss : list of float
        The mean error over the examples of each epoch, each taken just before the update of its batch.
    seconds : list of float
        The time that each epoch took.

    Examples
    --------
    >>> History([0.9, 0.4, 0.25], [0.010, 0.008, 0.008])
    History(3 epochs, loss 0.9 -> 0.25, 0.026 s)
    """

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.loss)

    def __repr__(self) -> str:
        epochs = "1 epoch" if len(self) == 1 else f"{len(self)} epochs"
        change = f", loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}" if self.loss else ""
        return f"History({epochs}{change}, {sum(self.seconds):.3g} s)"


class DivergenceError(FloatingPointError):
    """Training met an error, a gradient or an update that is not finite.

    The batch where it happened made no update: the parameters are the last finite ones.

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


def fit(
    net: MLP,
    train: Callable[..., tuple[float, int, str]],
    x: np.ndarray,
    t: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    optimizer: SGD | Adam,
    generator: np.random.Generator | None,
    progress: bool,
) -> History:
    """Train `net` on checked examples, an epoch with each call of `train`, which is that of its engine.

    `generator` puts the examples into a new order before each epoch; None leaves them as they are.
    """
    epochs = _checks.integer("epochs", epochs, 0, _checks.INT64_MAX, "an integer >= 0")
    batch_size = _checks.integer("batch_size", batch_size, 1, _checks.INT64_MAX, "an integer >= 1")
    line = _progress_line if _checks.flag("progress", progress) else _no_line
    _network_checks.some_examples("X", x)

    history = History()
    batch_size = min(batch_size, len(x))
    n_batches = -(-len(x) // batch_size)
    for epoch in range(1, epochs + 1):
        with line(f"epoch {epoch:{len(str(epochs))}}/{epochs}", n_batches) as report:
            start = time.perf_counter()
            order = None if generator is None else generator.permutation(len(x))
            loss, done, failure = train(x, t, order, batch_size, optimizer, report)
            seconds = time.perf_counter() - start
            if failure:
                batch = slice(done * batch_size, (done + 1) * batch_size)
                rows = np.arange(len(x))[batch] if order is None else order[batch]
                raise divergence(net, x[rows], t[rows], failure, rows, epoch, done + 1, n_batches, history)
            if report is not None:
                report(done, loss)
        history.loss.append(loss)
        history.seconds.append(seconds)
    return history


# The progress line ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _no_line(title: str, n_batches: int) -> Iterator[_Report | None]:
    yield None


@contextlib.contextmanager
def _progress_line(title: str, n_batches: int) -> Iterator[_Report | None]:
    """A line on standard error that follows ``report(batches done, mean loss so far)`` and stays."""
    try:
        from tqdm import tqdm  # here, because `import fastbp` needs nothing but NumPy
    except ModuleNotFoundError as missing:
        text = "progress: got True without tqdm, expected tqdm to be installed, or progress=False"
        raise ModuleNotFoundError(text) from missing

    layout = "{desc} {bar:24} {n_fmt}/{total_fmt} batches  {elapsed}{postfix}"
    with tqdm(total=n_batches, desc=title, bar_format=layout) as bar:

        def report(done: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(done - bar.n)

        yield report


# Divergence -------------------------------------------------------------------------------------------------


def divergence(
    net: MLP,
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
    where = "in this step" if epoch is None else f"in epoch {epoch}, batch {batch} of {n_batches}"
    layer, cause = _cause(net, x, t, failure, np.arange(len(x)) if rows is None else rows)
    largest, place = _largest_weight(net)
    advice = " A smaller learning rate may help." if layer else ""
    error = DivergenceError(
        f"training diverged {where}: {cause}; the largest weight is {largest:.6g}, {place}. "
        f"The network keeps its last finite parameters.{advice}"
    )
    error.epoch, error.batch, error.layer = epoch, batch, layer
    error.largest_weight, error.history = largest, history
    return error


def _cause(net: MLP, x: np.ndarray, t: np.ndarray, failure: str, rows: np.ndarray) -> tuple[int | None, str]:
    """The layer, counted from 1, at which this batch ceases to be finite, and a clause that says so."""
    for what, array in (("inputs", x), ("targets", t)):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            return None, f"the {what} of example {rows[finite.argmin()]} are not finite"
    if failure == "loss":
        return _layer_of_the_loss(net, x)
    return _layer_of_the_gradient(net, x, t)


def _layer_of_the_loss(net: MLP, x: np.ndarray) -> tuple[int, str]:
    a = x
    last = len(net.weights)
    for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True), start=1):
        a = layers.linear(a, weight, bias, activation="identity" if layer == last else net.activation)
        if not np.isfinite(a).all():
            return layer, f"the outputs of layer {layer} {weight.shape} are not finite"
    return last, f"the loss is not finite, at the outputs of layer {last} {net.weights[-1].shape}"


def _layer_of_the_gradient(net: MLP, x: np.ndarray, t: np.ndarray) -> tuple[int, str]:
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


def _largest_weight(net: MLP) -> tuple[float, str]:
    """The weight of the largest absolute value and its place; NaN, as to `argmax`, is larger than any."""
    layer = int(np.argmax([np.abs(weight).max() for weight in net.weights]))
    weight = net.weights[layer]
    row, column = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    return float(weight[row, column]), f"weights[{layer}][{row}, {column}]"
