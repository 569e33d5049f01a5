"""Training: epochs of batches, what is reported on the way, and the one way in which it can fail.

An epoch is one call of the engine. Python is entered again only every 0.1 s, for the progress line.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks, layers
from fastbp.optimizers import Optimizer

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


def fit(
    net: MLP,
    train: Callable[..., tuple[float, float, int, str]],
    x: np.ndarray,
    t: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    generator: np.random.Generator | None,
    progress: bool,
) -> History:
    """Train `net` on checked examples, an epoch with each call of `train`, which is that of its engine.

    `generator` puts the examples into a new order before each epoch; None leaves them as they are.
    """
    epochs = _checks.integer("epochs", epochs, 0, math.inf, "an integer >= 0")
    batch_size = _checks.integer("batch_size", batch_size, 1, math.inf, "an integer >= 1")
    _checks.optimizers.steps(optimizer.steps)
    _checks.flag("progress", progress)
    _checks.networks.some_examples("X", x)

    history = History()
    batch_size = min(batch_size, len(x))
    n_batches = -(-len(x) // batch_size)
    shown = _Progress(epochs, n_batches) if progress else _Silence()
    for epoch in range(1, epochs + 1):
        with shown.epoch(epoch) as report:
            start = time.perf_counter()
            order = None if generator is None else generator.permutation(len(x))
            loss, _, done, failure = train(x, t, None, order, batch_size, optimizer, report)
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


# Progress ---------------------------------------------------------------------------------------------------

_LONG_EPOCH = 1.0  # second, of which the line may stay
_MANY_EPOCHS = 100  # of which no line stays, however long they are


class _Silence:
    """Nothing is shown."""

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[_Report | None]:
        yield None


class _Progress:
    """What is shown of a training: a line for each epoch that stays, or one bar for all where they are short or many.

    How long they are the first one tells.
    """

    def __init__(self, epochs: int, n_batches: int) -> None:
        self.epochs, self.n_batches = epochs, n_batches
        self.by_lines = epochs <= _MANY_EPOCHS
        self.start = time.perf_counter()
        self.bar: Any = None  # the line that is being written

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[_Report | None]:
        """Show an epoch, as ``report(batches done, mean loss so far)`` tells of it."""
        title = f"epoch {number:{len(str(self.epochs))}}/{self.epochs}"
        if self.bar is None:
            before = 0 if self.by_lines else (number - 1) * self.n_batches
            total = self.n_batches if self.by_lines else self.epochs * self.n_batches
            self.bar = _bar(title, total, before, 0 if self.by_lines else time.perf_counter() - self.start)
        bar, before = self.bar, self.bar.n
        bar.set_description_str(title, refresh=False)

        def report(done: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(before + done - bar.n)

        try:
            yield report
        except BaseException:
            bar.close()
            raise
        self._end(number)

    def _end(self, number: int) -> None:
        """Leave the line of an epoch behind, or that of all; but not the first one if a bar for all takes its place."""
        is_last = number == self.epochs
        is_short = time.perf_counter() - self.start < _LONG_EPOCH
        if number == 1 and self.by_lines and is_short and not is_last:
            self.by_lines = self.bar.leave = False
        elif not (is_last or self.by_lines):
            return
        self.bar.close()
        self.bar = None


def _bar(title: str, n_batches: int, done: int, seconds: float) -> Any:
    """A line on standard error that is written again and again, of work that began so many seconds ago."""
    try:
        from tqdm import tqdm  # here, because `import fastbp` needs nothing but NumPy
    except ModuleNotFoundError as missing:
        text = "progress: got True without tqdm, expected tqdm to be installed, or progress=False"
        raise ModuleNotFoundError(text) from missing
    layout = "{desc} {bar:24} {n_fmt}/{total_fmt} batches  {elapsed}{postfix}"
    bar = tqdm(desc=title, total=n_batches, initial=done, bar_format=layout, file=_StandardError())
    bar.start_t -= seconds
    return bar


class _StandardError:
    """Standard error, if there is one: that nothing can be shown is no reason to stop."""

    def write(self, text: str) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, broken, closed
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


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


def _cause(net: MLP, x: np.ndarray, t: np.ndarray, failure: str, rows: np.ndarray) -> tuple[int | None, str]:
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
