"""The errors that a network can be trained by, a row for each: what its outputs and targets are then, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from fastbp import _checks, activations, losses
from fastbp._checks.scalars import OPEN_FRACTION


def _identity(logits: np.ndarray, **_: Any) -> np.ndarray:
    return logits


def _exp(logits: np.ndarray, out: np.ndarray, n_threads: int | None) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        np.exp(logits, out=out)
    return out


def _largest(logits: np.ndarray) -> np.ndarray:
    classes: np.ndarray = logits.argmax(axis=1)
    return classes.astype(np.int64, copy=False)


def _positive(logits: np.ndarray) -> np.ndarray:
    return (logits > 0).astype(np.int64)  # a logit above 0 is a probability above 1/2


class Loss(NamedTuple):
    """What there is to know of an error function on the last layer's logits."""

    error: Callable[..., losses.LossGrad]
    outputs: Callable[..., np.ndarray]
    """(logits, out, n_threads) -> what `forward` returns."""
    decide: Callable[[np.ndarray], np.ndarray] | None
    """logits -> what `predict` returns; None where the outputs themselves are the prediction."""
    targets: _checks.Interval | None
    """What an entry of a row of targets may be; None where the error is defined for all numbers."""
    metric: Literal["accuracy", "r2"]
    by_class: bool = False
    """Whether targets may be class indices as well as rows."""
    smooth: bool = False
    """Whether targets can be smoothed."""
    parameter: str | None = None
    """The argument of `error` that is its one parameter, and of a network."""
    parameters: _checks.Interval = _checks.POSITIVE
    """What it may be."""


LOSSES = {
    "softmax_cross_entropy": Loss(
        losses.softmax_cross_entropy,
        activations.softmax,
        _largest,
        _checks.NOT_NEGATIVE,
        "accuracy",
        by_class=True,
        smooth=True,
    ),
    "sigmoid_cross_entropy": Loss(
        losses.sigmoid_cross_entropy,
        activations.sigmoid,
        _positive,
        _checks.FRACTION,
        "accuracy",
        smooth=True,
    ),
    "squared_error": Loss(losses.squared_error, _identity, None, None, "r2"),
    "sigmoid_squared_error": Loss(
        losses.sigmoid_squared_error, activations.sigmoid, _positive, _checks.FRACTION, "accuracy"
    ),
    "poisson_deviance": Loss(losses.poisson_deviance, _exp, None, _checks.NOT_NEGATIVE, "r2"),
    "huber": Loss(losses.huber, _identity, None, None, "r2", parameter="delta"),
    "quantile": Loss(losses.quantile, _identity, None, None, "r2", parameter="tau", parameters=OPEN_FRACTION),
}
