"""How well a network does on rows that it has not seen: block by block, so that the logits of all rows never exist.

Letters: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastbp import losses
from fastbp.data.preparation import Inputs
from fastbp.data.targets import Target
from fastbp.model import MLP

__all__ = ["Score", "score"]

_MOST_CLASSES = 1000  # of which a confusion matrix is made


@dataclass(frozen=True)
class Score:
    """The measures of a network on N rows, by name, and what a table or a picture of them needs."""

    n_rows: int
    measures: dict[str, float]
    confusion: np.ndarray | None = None
    """int64 (C, C): how many rows of each class (down) were taken for which (across); of 1000 classes at most."""
    predictions: np.ndarray = field(default_factory=lambda: np.empty(0))
    """float64 (N,), where numbers are predicted."""


def score(net: MLP, inputs: Inputs, target: Target, wanted: np.ndarray) -> Score:
    """The score of a network by its inputs and what they should give, class indices or numbers (N,).

    For classification ``accuracy`` and ``log-loss``, the mean of -ln of the probability of the right class; for
    numbers ``R²``, ``MAE`` and ``RMSE``, in the unit of the target.
    """
    return _classes(net, inputs, wanted) if target.classes else _numbers(net, inputs, target, wanted)


def _classes(net: MLP, inputs: Inputs, labels: np.ndarray) -> Score:
    n_classes, n = net.layer_sizes[-1], len(inputs)
    confusion = np.zeros((n_classes, n_classes), np.int64) if n_classes <= _MOST_CLASSES else None
    right, total = 0, 0.0
    for start, block in inputs.blocks(n_classes):
        wanted = labels[start : start + len(block)]
        logits = net.logits(block)
        got = logits.argmax(axis=1)
        error = losses.softmax_cross_entropy(
            logits, wanted, reduction="sum", grad_out=logits, n_threads=net.n_threads
        )
        right, total = right + int((got == wanted).sum()), total + float(error.loss)
        if confusion is not None:
            np.add.at(confusion, (wanted, got), 1)
    return Score(n, {"accuracy": right / n, "log-loss": total / n}, confusion)


def _numbers(net: MLP, inputs: Inputs, target: Target, wanted: np.ndarray) -> Score:
    got = np.empty(len(inputs))
    for start, block in inputs.blocks():
        got[start : start + len(block)] = target.number(net.logits(block))
    error = got - wanted
    spread = float(((wanted - wanted.mean()) ** 2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread else float("nan")
    mae, rmse = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    return Score(len(error), {"R²": r2, "MAE": mae, "RMSE": rmse}, predictions=got)
