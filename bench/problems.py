"""The inputs of a row, the same for every contestant, and the judge: the NumPy twin in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import fastbp
from fastbp import _backend

from .shapes import LossShape, PredictShape, StepShape

ACTIVATION, LOSS = "sigmoid", "softmax_cross_entropy"
LEARNING_RATE = 0.1
# For the check the update must dwarf the weights, or their rounding would hide the gradient's. A power of two
# scales exactly.
CHECK_RATE = 2.0**20
CHECKED_ELEMENTS = 1 << 22  # of a gradient; a larger one is compared in evenly spread rows
BLOCK_ELEMENTS = 1 << 18  # the judge works through so much at a time, in the caches


@dataclass
class NetworkProblem:
    """Examples, and a network with its parameters: flat, [W1 (I, O) by rows, b1, W2, b2, ...]."""

    shape: StepShape | PredictShape
    dtype: np.dtype
    threads: int
    x: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)
    parameters: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        inputs, classes = self.shape.sizes[0], self.shape.sizes[-1]
        self.x = rng.standard_normal((self.shape.batch, inputs)).astype(self.dtype)
        self.labels = rng.integers(0, classes, self.shape.batch)
        self.parameters = self.network().parameters.copy()

    def network(self, dtype: str | None = None, precision: str | None = None) -> fastbp.MLP:
        """Return a fresh fastbp network; its seed is why all contestants start alike."""
        return fastbp.MLP(
            self.shape.sizes,
            activation=ACTIVATION,
            loss=LOSS,
            dtype=dtype or self.dtype.name,
            seed=0,
            n_threads=self.threads,
            precision=precision,
        )

    def layers(self, flat: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return views (W (I, O), b (O,)) of each layer into a flat vector."""
        views, start = [], 0
        for inputs, outputs in zip(self.shape.sizes, self.shape.sizes[1:], strict=False):
            middle = start + inputs * outputs
            end = middle + outputs
            views.append((flat[start:middle].reshape(inputs, outputs), flat[middle:end]))
            start = end
        return views

    def judged(self, what: Callable[[fastbp.MLP, np.ndarray], np.ndarray]) -> np.ndarray:
        """Return `what` the float64 twin, with the same parameters, makes of the same examples."""
        with _backend.use("reference"):
            network = self.network("float64")
            network.parameters[:] = self.parameters
            return what(network, self.x.astype(np.float64))


@dataclass
class StepProblem(NetworkProblem):
    """One training step on the examples as its batch."""

    learning_rate: float = LEARNING_RATE

    @cached_property
    def judge(self) -> np.ndarray:
        """The gradient of the mean error by the float64 twin, flat."""
        return self.judged(lambda network, x: network.gradients(x, self.labels).flat)

    def residual(self, updated: np.ndarray) -> float:
        """Return how far one step from `parameters` to `updated` is from the judge's.

        (before - after) / learning rate gives the gradient back. The residual is the largest error in a
        layer's weights or biases relative to the largest gradient there, and of these the worst.
        """
        gradient = (self.parameters.astype(np.float64) - updated) / self.learning_rate
        pairs = zip(self.layers(gradient), self.layers(self.judge), strict=True)
        return max(relative(got, wanted) for layer in pairs for got, wanted in zip(*layer, strict=True))


@dataclass
class PredictProblem(NetworkProblem):
    """The probabilities of the classes for each of the examples."""

    @cached_property
    def judge(self) -> np.ndarray:
        """The same by the float64 twin."""
        return self.judged(lambda network, x: network.predict_proba(x))

    def residual(self, probabilities: np.ndarray) -> float:
        """Return the largest error relative to the largest probability."""
        return relative(probabilities, self.judge)


@dataclass
class LossProblem:
    """Logits (N, C) and targets: class indices for softmax, rows of probabilities for sigmoid.

    With `every_option` the call has all options of the softmax cross-entropy that cost anything.
    """

    shape: LossShape
    dtype: np.dtype
    threads: int
    every_option: bool = False
    options: dict[str, Any] = field(init=False, default_factory=dict)
    logits: np.ndarray = field(init=False)
    targets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        size = self.shape.rows, self.shape.classes
        # Standard deviation 4: a peaked softmax, as in a network that has learnt something.
        self.logits = rng.standard_normal(size, dtype=self.dtype)
        self.logits *= 4.0
        if self.shape.kind == "softmax":
            self.targets = rng.integers(0, self.shape.classes, self.shape.rows)
        else:
            self.targets = rng.random(size, dtype=self.dtype)
        if self.every_option:
            self.options = {"label_smoothing": 0.1, "lse_square_scale": 1e-4, "softcap": 30.0}
            self.options["class_weight"] = rng.uniform(0.5, 2.0, self.shape.classes)
            self.options["sample_weight"] = rng.uniform(0.5, 2.0, self.shape.rows)
            self.targets[::50] = -100  # ignored

    @property
    def function(self) -> Callable[..., fastbp.LossGrad]:
        """The public function of this row."""
        return getattr(fastbp, f"{self.shape.kind}_cross_entropy")

    @cached_property
    def checked_rows(self) -> np.ndarray:
        """The rows whose gradient is compared: all, or evenly spread ones of a large problem."""
        return spread(self.shape.rows, max(1, CHECKED_ELEMENTS // self.shape.classes))

    @cached_property
    def judge(self) -> tuple[float, np.ndarray]:
        """The mean error over all rows, and the gradient of the checked rows, by the float64 twin."""
        with _backend.use("reference"):
            step = max(1, BLOCK_ELEMENTS // self.shape.classes)
            blocks = (slice(start, start + step) for start in range(0, self.shape.rows, step))
            judged = [self._judge(block)._replace(grad=None) for block in blocks]
            weight_sum = sum(each.weight_sum for each in judged)
            gradient = self._judge(self.checked_rows).grad
        return sum(float(each.loss) for each in judged) / weight_sum, gradient / weight_sum

    def _judge(self, rows: slice | np.ndarray) -> fastbp.LossGrad:
        """Return the summed error and its gradient for some rows."""
        options = dict(self.options)
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"][rows]
        logits = self.logits[rows].astype(np.float64)
        return self.function(logits, self.targets[rows], reduction="sum", **options)

    def residual(self, loss: float, gradient: np.ndarray) -> float:
        """Return the relative error of the loss, or that of the gradient (to its largest entry) if larger."""
        wanted_loss, wanted = self.judge
        return max(relative(gradient[self.checked_rows], wanted), relative(loss, wanted_loss))


def relative(got: np.ndarray | float, wanted: np.ndarray | float) -> float:
    """Return the largest error relative to the largest value."""
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))


def spread(size: int, most: int) -> np.ndarray:
    """Return the indices of so many of `size` things, evenly spread; of all if there are fewer."""
    return np.linspace(0, size - 1, min(size, most)).astype(np.intp)
