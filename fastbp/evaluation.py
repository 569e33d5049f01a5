"""How well a network does on examples: its error and a metric, block by block, so that the logits of all rows never exist.

Letters: N examples, O outputs, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastbp.batches import Examples
from fastbp.outputs import Loss

if TYPE_CHECKING:
    from fastbp._kernel_api import Network

__all__ = ["Measure", "blocks", "evaluate"]

_BLOCK = 16 * 2**20  # bytes of the logits, or of the examples, that are held at a time


class Measure(Protocol):
    """What is told of each block: its logits, its targets, the weights of its examples."""

    def add(self, z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> None: ...


def blocks(
    examples: Examples, rows: np.ndarray | None, n_outputs: int, dtype: np.dtype
) -> Iterator[Examples]:
    """Some rows of the examples, or all, a block at a time."""
    n = len(examples.x) if rows is None else len(rows)
    step = max(1, _BLOCK // (max(n_outputs, examples.x.shape[1]) * dtype.itemsize))
    for start in range(0, n, step):
        block = slice(start, min(start + step, n)) if rows is None else rows[start : start + step]
        yield examples.some(block, dtype)


def evaluate(
    engine: Network,
    loss: Loss,
    examples: Iterable[Examples],
    n_outputs: int,
    options: dict[str, Any],
    *others: Measure,
    total: Callable[[Any], np.ndarray] = np.asarray,
) -> dict[str, float]:
    """The weighted mean error over blocks of examples, by `loss` and its `options`, and its metric; NaN where no weight is.
    `total` adds up over ranks."""
    metric = _Accuracy(loss) if loss.metric == "accuracy" else _R2(loss, n_outputs)
    sums = np.zeros(2)
    for x, t, weights in examples:
        z = np.empty((len(x), n_outputs), x.dtype)
        engine.logits(x, z)
        for measure in (metric, *others):
            measure.add(z, t, np.ones(len(x)) if weights is None else weights)
        error = loss.error(z, t, sample_weight=weights, reduction="mean", grad_out=z, **options)
        if error.weight_sum:  # a sum could leave the range of float32 that its mean is in
            sums += float(error.loss) * error.weight_sum, error.weight_sum
    errors, weight_sum = total(sums).tolist()
    mean = errors / weight_sum if weight_sum else math.nan
    return {"loss": mean, loss.metric: metric.value(total)}


class _Accuracy:
    """How much of the weight is of examples whose class is found; of several logistic outputs, how many of them are right."""

    def __init__(self, loss: Loss) -> None:
        self.by_class, self.right, self.weight = loss.by_class, 0.0, 0.0

    def add(self, z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> None:
        if self.by_class:
            found = z.argmax(axis=1)  # the first NaN of a row, if it has any: then no class is found
            right = found == (t if t.ndim == 1 else t.argmax(axis=1))
            right &= ~np.isnan(z.reshape(-1).take(found + np.arange(0, z.size, z.shape[1])))
        else:
            right = (((z > 0) == (t > 0.5)) & ~np.isnan(z)).mean(axis=1)
        self.right += float(weights @ right)
        self.weight += float(weights.sum())

    def value(self, total: Callable[[Any], np.ndarray]) -> float:
        right, weight = total([self.right, self.weight]).tolist()
        return right / weight if weight else math.nan


class _R2:
    """1 - Σ w (t - y)² / Σ w (t - t̄)² of each output, and their mean. Sums are of t less that of the first row, in float64, so
    that little cancels. Where t is constant it is 1 if y is the same, else 0."""

    def __init__(self, loss: Loss, n_outputs: int) -> None:
        self.outputs = loss.outputs
        self.weight, self.first = 0.0, np.zeros(n_outputs)
        self.sum, self.squares, self.missed = (np.zeros(n_outputs) for _ in range(3))

    def add(self, z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> None:
        if not weights.all():  # what an example of weight 0 has is not read
            z, t, weights = (each[weights > 0] for each in (z, t, weights))
            if not len(weights):
                return
        y, t = self.outputs(z, out=z.copy(), n_threads=1).astype(np.float64), t.astype(np.float64)
        if not self.weight:
            self.first = t[0]
        shifted = t - self.first
        self.weight += float(weights.sum())
        self.sum = self.sum + weights @ shifted
        self.squares = self.squares + weights @ shifted**2
        self.missed = self.missed + weights @ (t - y) ** 2

    def value(self, total: Callable[[Any], np.ndarray]) -> float:
        spread, missed, weight = self._over_all(total)
        if not weight:
            return math.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(spread > 0, 1 - missed / spread, np.where(missed == 0, 1.0, missed * 0))
        return float(each.mean())

    def _over_all(self, total: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """Σ w (t - t̄)² and Σ w (t - y)² of each output, and Σ w, of all ranks: what is around the mean m of a rank is
        w (m - t̄)² less than around that of all."""
        spread, own = np.zeros(self.sum.shape), self.first
        if self.weight:
            spread, own = self.squares - self.sum**2 / self.weight, self.first + self.sum / self.weight
        if total is np.asarray:
            return spread, self.missed, self.weight
        weight, *weighted = total(np.append(self.weight, self.weight * own)).tolist()
        around = own - np.array(weighted) / (weight or 1.0)
        spread, missed = total([spread + self.weight * around**2, self.missed])
        return spread, missed, weight
