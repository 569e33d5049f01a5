"""How well a network does on rows that it has not seen, in words and units of their table.

Letters: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fastbp import evaluation
from fastbp.batches import Examples
from fastbp.data.preparation import Inputs
from fastbp.data.targets import Target
from fastbp.model import MLP
from fastbp.outputs import LOSSES

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
    n_outputs, loss = net.layer_sizes[-1], LOSSES[target.loss]
    t = wanted if target.classes else target.scaled(wanted)
    blocks = (Examples(x, t[start : start + len(x)], None) for start, x in inputs.blocks(n_outputs))
    told = _Confusion(n_outputs) if target.classes else _Predictions(target)
    options = {"n_threads": net.n_threads}  # the error itself: targets are not smoothed
    found = evaluation.evaluate(net._engine, loss, blocks, n_outputs, options, told)
    if isinstance(told, _Confusion):
        measures = {"accuracy": found["accuracy"], "log-loss": found["loss"]}
        return Score(len(wanted), measures, told.counts)
    got = np.concatenate(told.blocks)
    error = got - wanted
    mae, rmse = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    return Score(len(wanted), {"R²": found["r2"], "MAE": mae, "RMSE": rmse}, predictions=got)


class _Confusion:
    """How many rows of each class were taken for which."""

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros((n_classes, n_classes), np.int64) if n_classes <= _MOST_CLASSES else None

    def add(self, z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> None:
        if self.counts is not None:
            np.add.at(self.counts, (t, z.argmax(axis=1)), 1)


class _Predictions:
    """The numbers that are predicted, in the unit of the target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.blocks: list[np.ndarray] = []

    def add(self, z: np.ndarray, t: np.ndarray, weights: np.ndarray) -> None:
        self.blocks.append(self.target.number(z))
