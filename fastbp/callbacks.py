"""What may happen between the epochs of a training: stop early, save, slow down, write down.

A callback of :meth:`MLP.fit` is a function that is called after each epoch with a :class:`Training`, and stops it by
returning True; or an object with any of the methods ``fit_begin``, ``batch_end``, ``epoch_end``, ``fit_end``, which are called
alike. With a ``batch_end`` an epoch is a call of the engine for each batch, no longer one for all.

Examples
--------
>>> import fastbp
>>> X, y = fastbp.datasets.load_digits()
>>> net = fastbp.MLP([64, 32, 10], seed=0)
>>> stop = fastbp.callbacks.EarlyStopping(patience=3)
>>> history = net.fit(X, y, epochs=200, validation_fraction=0.2, optimizer=fastbp.Adam(0.01), callbacks=[stop], progress=False)
>>> history.stopped[:20], len(history) == history.best_epoch + 3
('validation_loss has ', True)
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from fastbp import _checks
from fastbp.history import History, is_better

if TYPE_CHECKING:
    from fastbp.optimizers import Optimizer

__all__ = ["CSVLog", "Callback", "Checkpoint", "EarlyStopping", "ReduceOnPlateau", "Training"]

MONITORED = ("loss", "validation_loss", "metric", "validation_metric")


class Training(Protocol):
    """A training as callbacks see it."""

    network: Any
    """The :class:`MLP`."""
    optimizer: Optimizer
    history: History
    epochs: int
    """How many are to be made,"""
    epoch: int
    """and the number of the one under way, or of the last one, from 1."""
    batch: int
    """How many batches of this epoch are done."""
    loss: float
    """The mean error so far in this epoch."""
    rank: int
    """The number of this process among those of ``fit(comm=...)``, each of which calls its callbacks; 0 without."""
    parameters: np.ndarray
    """Those by which validation is done: the network's own, or their running mean."""

    def stop(self, reason: str) -> None:
        """End the training after this batch or epoch."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint, from which ``fit(resume=path)`` goes on; of many processes the first one does.

        Called in ``fit_begin`` or ``epoch_end``, it keeps what the callbacks before this one have made of the epoch: one that
        saves has an attribute ``last = True``, by which it is called after those that have not.
        """


Callback: TypeAlias = Callable[[Training], Any] | Any


def _latest(training: Training, monitor: str) -> float:
    values: list[float] = getattr(training.history, monitor)
    return values[-1]


class EarlyStopping:
    """Stop when `monitor` has not become better, by more than `min_delta`, for `patience` epochs.

    Parameters
    ----------
    monitor : {"validation_loss", "loss", "validation_metric", "metric"}, default "validation_loss"
        A list of :class:`fastbp.History`; of a loss the smaller value is better, of a metric the larger.
    patience : int >= 0, default 10
    min_delta : float >= 0, default 0
    restore_best : bool, default True
        At the end, or after Ctrl-C, the network gets the parameters of the best epoch.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self.monitor = _checks.choice("monitor", monitor, MONITORED)
        self.patience = _checks.integer("patience", patience, 0, math.inf, "an integer >= 0")
        self.min_delta = _checks.number("min_delta", min_delta, _checks.NOT_NEGATIVE)
        self.restore_best = _checks.flag("restore_best", restore_best)
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0
        self.best_parameters: np.ndarray | None = None

    def fit_begin(self, training: Training) -> None:
        if not training.epoch:
            self.best = self.best_epoch = self.best_parameters = None
            self.waited = 0
        self._stop(training)  # a training that is resumed may have been over

    def epoch_end(self, training: Training) -> None:
        value = _latest(training, self.monitor)
        if is_better(self.monitor, value, self.best, self.min_delta):
            parameters = training.parameters.copy() if self.restore_best else None
            self.best, self.best_epoch, self.waited = value, training.epoch, 0
            self.best_parameters = parameters
        else:
            self.waited += 1
        training.history.best_epoch = self.best_epoch
        self._stop(training)

    def _stop(self, training: Training) -> None:
        if self.waited and self.waited >= self.patience:
            epochs = "an epoch" if self.waited == 1 else f"{self.waited} epochs"
            training.stop(f"{self.monitor} has not become better for {epochs}")

    def fit_end(self, training: Training) -> None:
        if self.restore_best and self.best_parameters is not None:
            training.network.parameters[:] = self.best_parameters

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: numbers and arrays."""
        numbers = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}
        return numbers | {"best_parameters": self.best_parameters}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.best, self.waited = _kept(state, "best", float, None), _kept(state, "waited", int)
        self.best_epoch = _kept(state, "best_epoch", int, None)
        self.best_parameters = _kept(state, "best_parameters", np.ndarray, None)


def _kept(state: Mapping[str, Any], name: str, *kinds: type | None) -> Any:
    """What a checkpoint kept under a name, if it is of one of these kinds: no file is believed."""
    value = state[name]
    if (None if value is None else type(value)) not in kinds:
        raise TypeError(f"{name} is {type(value).__name__}")
    return value


class ReduceOnPlateau:
    """Multiply the learning rate by `factor` when `monitor` has not become better, by more than `min_delta`, for `patience`
    epochs, and go on doing so down to `least`."""

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        least: float = 0.0,
    ) -> None:
        self.monitor = _checks.choice("monitor", monitor, MONITORED)
        self.factor = _checks.number("factor", factor, _checks.FRACTION)
        self.patience = _checks.integer("patience", patience, 0, math.inf, "an integer >= 0")
        self.min_delta = _checks.number("min_delta", min_delta, _checks.NOT_NEGATIVE)
        self.least = _checks.number("least", least, _checks.NOT_NEGATIVE)
        self.best: float | None = None
        self.waited = 0

    def fit_begin(self, training: Training) -> None:
        if not training.epoch:
            self.best, self.waited = None, 0
        if callable(training.optimizer.learning_rate):
            text = "a number, which a plateau can reduce"
            raise ValueError(f"optimizer: got a learning rate that is a function, expected {text}")

    def epoch_end(self, training: Training) -> None:
        value = _latest(training, self.monitor)
        if is_better(self.monitor, value, self.best, self.min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            rate, self.waited = training.optimizer.learning_rate, 0
            if not callable(rate):
                training.optimizer.learning_rate = min(rate, max(rate * self.factor, self.least))

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": self.best, "waited": self.waited}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.best, self.waited = _kept(state, "best", float, None), _kept(state, "waited", int)


class Checkpoint:
    """Save the training to `path` after every `every`-th epoch and after the last one, so that ``fit(resume=path)`` goes on to
    the same bits. An epoch that is stopped before its end is not saved: what was saved last is up to `every` epochs older.

    A file of that name is replaced only by a complete one: whenever a process is killed, there is the last one or the one before.
    """

    last = True  # it is called when the others have done their part

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        self.path = _checks.path("path", path)
        self.every = _checks.integer("every", every, 1, math.inf, "an integer >= 1")

    def epoch_end(self, training: Training) -> None:
        is_last = training.epoch == training.epochs or training.history.stopped
        if training.epoch % self.every == 0 or is_last:
            training.save(self.path)


class CSVLog:
    """Write a line for each epoch to the file `path`, as it ends: its number and what the history has of it; of many
    processes the first one does."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _checks.path("path", path)

    def fit_begin(self, training: Training) -> None:
        if (
            training.epoch and not training.rank
        ):  # it is resumed: the file may have lines of later epochs, which come again
            training.history.to_csv(self.path)

    def epoch_end(self, training: Training) -> None:
        if training.rank:
            return
        if training.epoch == 1:
            training.history.to_csv(self.path)
            return
        columns = training.history.columns()
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([training.epoch, *(repr(values[-1]) for values in columns.values())])
