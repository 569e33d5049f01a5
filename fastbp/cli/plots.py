"""Pictures of trainings and scores through Matplotlib (extra ``plot``), without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastbp.data import DataError, Score
from fastbp.data.errors import extra
from fastbp.history import History
from fastbp.replacing import replacing

_MOST_NUMBERS = 20  # classes with a number in each cell
_SIZE = 5.0  # inches


def see_possible(path: str | None) -> None:
    """See, before there is anything to draw, that there is Matplotlib and that it knows the format."""
    if path is None:
        return
    canvas = _figure().canvas
    known = canvas.get_supported_filetypes()
    if _suffix(path) not in known:
        raise DataError(
            f"--plot: expected a name that ends in one of {', '.join(sorted(known))}", source=path
        )


def curves(path: str, history: History, score: Score | None) -> None:
    """The loss of each epoch, in training and of what was held out; the score of that in the title."""
    figure = _figure()
    axes = figure.add_subplot(xlabel="epoch", ylabel="loss")
    for label, loss in (("training", history.loss), ("held out", history.validation_loss)):
        if loss:
            axes.plot(range(1, len(loss) + 1), loss, marker="." if len(loss) < 50 else "", label=label)
    axes.legend()
    axes.grid(alpha=0.3)
    if score:
        axes.set_title(
            "held out: " + ", ".join(f"{name} {value:.4g}" for name, value in score.measures.items())
        )
    _save(figure, path)


def confusion(path: str, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """A confusion matrix, shaded by the fraction of each true class."""
    figure = _figure(_SIZE + 0.15 * min(len(classes), 100))
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_NUMBERS:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    _save(figure, path)


def predictions(path: str, got: np.ndarray, wanted: np.ndarray) -> None:
    """Each prediction against its target; right ones lie on the line."""
    figure = _figure()
    axes = figure.add_subplot(xlabel="target", ylabel="prediction")
    axes.plot(wanted, got, ".", alpha=0.5)
    axes.axline((float(wanted.mean()),) * 2, slope=1, color="gray", linewidth=1)
    axes.grid(alpha=0.3)
    _save(figure, path)


def _figure(size: float = _SIZE) -> Any:
    return extra("matplotlib.figure", "plot", "--plot").Figure((1.2 * size, size), layout="constrained")


def _suffix(path: str) -> str:
    return Path(path).suffix.lstrip(".").lower()


def _save(figure: Any, path: str) -> None:
    with replacing(path) as file:
        figure.savefig(file, format=_suffix(path), dpi=150)
