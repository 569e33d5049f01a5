"""What a training has done, epoch by epoch."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field, fields
from typing import Any

from fastbp import _checks

__all__ = ["History", "is_better"]


def is_better(monitored: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether a value of a list of `History` is better than the best one so far, by more than `min_delta`: of a loss the
    smaller, of a metric the larger. NaN is better than nothing."""
    if best is None or best != best:
        return best is None or value == value
    return value < best - min_delta if monitored.endswith("loss") else value > best + min_delta


@dataclass(repr=False)
class History:
    """What :meth:`MLP.fit` has done, epoch by epoch: lists, empty where nothing was asked for.

    Attributes
    ----------
    loss : list of float
        The weighted mean error over the examples of each epoch, each taken just before the update of its batch.
    seconds : list of float
        The time that each epoch took, without validation.
    learning_rate : list of float
        That of the last update of each epoch.
    validation_loss : list of float
        The mean error over the validation set after each epoch.
    metric, validation_metric : list of float
        The accuracy or R² after each epoch, over the training examples (if a callback monitors it) and over the
        validation set; see :meth:`MLP.evaluate`.
    best_epoch : int or None
        Counted from 1: that of the least validation loss, or of the least loss without validation, or whatever
        :class:`fastbp.callbacks.EarlyStopping` monitors.
    stopped : str
        Why training ended early, in words; empty where all epochs were made.

    Examples
    --------
    >>> History([0.9, 0.4, 0.25], [0.010, 0.008, 0.008])
    History(3 epochs, loss 0.9 -> 0.25, 0.026 s)
    """

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    validation_metric: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str = ""

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.loss)

    def __repr__(self) -> str:
        epochs = "1 epoch" if len(self) == 1 else f"{len(self)} epochs"
        change = f", loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}" if self.loss else ""
        validation = f", validation loss {self.validation_loss[-1]:.4g}" if self.validation_loss else ""
        stopped = f", stopped: {self.stopped}" if self.stopped else ""
        return f"History({epochs}{change}{validation}, {sum(self.seconds):.3g} s{stopped})"

    def columns(self) -> dict[str, list[float]]:
        """The lists that are not empty, by name."""
        lists = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: values for name, values in lists.items() if isinstance(values, list) and values}

    def keep(self, epochs: int) -> None:
        """Forget what there is of an epoch that was not completed: all but the first `epochs` entries."""
        for values in self.columns().values():
            del values[epochs:]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a header, then one line an epoch: its number and what there is of it."""
        columns = self.columns()
        with open(_checks.path("path", path), "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["epoch", *columns])
            for epoch, row in enumerate(zip(*columns.values(), strict=True), start=1):
                writer.writerow([epoch, *map(repr, row)])

    def plot(self, axes: Any = None) -> Any:
        """Draw the loss of training and of validation over the epochs, the best one marked; returns the axes of Matplotlib.

        Metrics, where there are any, go by a scale of their own on the right. Needs the extra ``plot``.
        """
        try:
            import matplotlib.pyplot as plt
        except ModuleNotFoundError as missing:
            text = "History.plot: got no Matplotlib, expected it to be installed: pip install 'fastbp[plot]'"
            raise ModuleNotFoundError(text) from missing
        axes = plt.subplots()[1] if axes is None else axes
        epochs = range(1, len(self) + 1)
        axes.plot(epochs, self.loss, label="training loss")
        if self.validation_loss:
            axes.plot(epochs, self.validation_loss, label="validation loss")
        if self.best_epoch:
            axes.axvline(self.best_epoch, color="gray", linestyle=":", label=f"best epoch, {self.best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        self._plot_metrics(axes, epochs)
        return axes

    def _plot_metrics(self, axes: Any, epochs: range) -> None:
        curves, labels = axes.get_legend_handles_labels()
        metrics = {"training metric": self.metric, "validation metric": self.validation_metric}
        metrics = {name: values for name, values in metrics.items() if values}
        if metrics:
            right = axes.twinx()
            right.set_ylabel("metric")
            for name, values in metrics.items():
                right.plot(epochs, values, linestyle="--", label=name)
            more, names = right.get_legend_handles_labels()
            curves, labels = curves + more, labels + names
        axes.legend(curves, labels, loc="center right")  # errors fall, metrics rise: there is room between
