"""Training: epochs of batches, and what happens between them.

An epoch is one call of the engine where its examples are arrays of the network's dtype. Python is entered again every 0.1 s, to
show how far it has come and to look at the clock; after each batch only if a callback asks for that.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks, checkpoints, lbfgs
from fastbp.batches import Part, Stream
from fastbp.divergence import DivergenceError, divergence
from fastbp.history import History, is_better
from fastbp.lbfgs import LBFGS
from fastbp.progress import Progress, Silence
from fastbp.sources import Sets

if TYPE_CHECKING:
    from fastbp.ranks import Ranks

__all__ = ["EVENTS", "Run", "Settings", "fit"]

EVENTS = ("fit_begin", "batch_end", "epoch_end", "fit_end")


class Settings:
    """How to train: the arguments of ``fit``, checked."""

    def __init__(
        self,
        epochs: Any,
        batch_size: Any,
        shuffle: Any,
        progress: Any,
        clip_norm: Any,
        clip_value: Any,
        callbacks: Any,
        time_limit: Any,
    ) -> None:
        self.epochs = _checks.integer("epochs", epochs, 0, math.inf, "an integer >= 0")
        self.batch_size = _checks.integer("batch_size", batch_size, 1, math.inf, "an integer >= 1")
        self.shuffle = _checks.flag("shuffle", shuffle)
        self.progress = _checks.flag("progress", progress)
        self.clips = _checks.training.clips(clip_norm, clip_value)
        self.callbacks = _checks.training.callbacks("callbacks", callbacks, EVENTS)
        seconds = (
            math.inf if time_limit is None else _checks.number("time_limit", time_limit, _checks.POSITIVE)
        )
        self.deadline = time.perf_counter() + seconds


@dataclass
class Run:
    """A training under way: see :class:`fastbp.callbacks.Training`."""

    network: Any
    optimizer: Any
    """An Optimizer, or LBFGS."""
    generator: np.random.Generator
    settings: Settings
    sets: Sets
    start: dict[str, Any]
    """The state of the generator before the validation set was drawn, and"""
    drawn: dict[str, Any]
    """after that."""
    ranks: Ranks | None = None
    """The processes that train together, if there are more than one."""
    history: History = field(default_factory=History)
    done: int = 0
    """Epochs that are complete."""
    epoch: int = 0
    batch: int = 0
    loss: float = math.nan
    over: bool = False
    """Whether the last update has been made, and parameters may be set that no update has led to."""

    @property
    def epochs(self) -> int:
        """How many are to be made."""
        return self.settings.epochs

    @property
    def callbacks(self) -> tuple[Any, ...]:
        """In the order in which they were given."""
        return self.settings.callbacks

    @property
    def rank(self) -> int:
        """The number of this process among those that train together."""
        return 0 if self.ranks is None else self.ranks.rank

    @property
    def lists(self) -> list[str]:
        """Those of the history that are filled."""
        monitors = [getattr(callback, "monitor", None) for callback in self.callbacks]
        asked = any(isinstance(monitor, str) and monitor == "metric" for monitor in monitors)
        there = [name for name in self.sets.monitored if asked or name != "metric"]
        return ["seconds", "learning_rate", *there]

    @property
    def parameters(self) -> np.ndarray:
        """Those by which validation is done: the running mean, where the optimizer keeps one."""
        vector: np.ndarray = self.network.parameters
        if self.optimizer.average is not None and self.optimizer.steps:
            vector = self.optimizer.state(vector)["average"]
        return vector

    def stop(self, reason: str) -> None:
        """End the training after this batch or epoch."""
        self.history.stopped = self.history.stopped or reason
        if self.ranks is not None:
            self.ranks.wish = self.history.stopped

    def watch_the_clock(self) -> None:
        """End the training if its time is over."""
        if time.perf_counter() > self.settings.deadline:
            self.stop("the time limit")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint."""
        checkpoints.save(path, self)

    def tell(self, event: str) -> None:
        """Call what the callbacks have for an event, those marked as last after the others."""
        for callback in sorted(self.callbacks, key=lambda each: bool(getattr(each, "last", False))):
            method = getattr(callback, event, None)
            if method is None and event == "epoch_end" and callable(callback):
                method = callback
            answer = None if method is None else method(self)
            if isinstance(answer, (bool, np.bool_)) and answer and event != "fit_end":
                self.stop(f"a callback asked for it in epoch {self.epoch}")


def fit(run: Run, saved: checkpoints.Saved | None) -> History:
    """Train, an epoch after the other, until all are made or something stops it."""
    if saved is not None:
        checkpoints.restore(saved, run)
    if run.ranks is not None:
        run.ranks.compare(_state(run), "expected the same on all ranks, by the same seed or file")
    run.tell("fit_begin")
    if saved is None and run.drawn != run.start:
        run.generator.bit_generator.state = run.drawn
    visible = run.settings.progress and not run.rank
    shown = Progress(run.epochs, run.sets.batches.n_batches) if visible else Silence()
    make = _minimise if isinstance(run.optimizer, LBFGS) else _epochs
    try:
        with contextlib.nullcontext() if run.ranks is None else run.ranks.interrupts():
            make(run, shown)
    except KeyboardInterrupt:
        if run.ranks is not None:
            raise
        run.stop("interrupted")
    finally:
        shown.close()
        run.epoch, run.over = run.done, True
        run.history.keep(run.done)
    if run.done >= run.epochs:
        run.history.stopped = ""
    mean = run.parameters
    if mean is not run.network.parameters:
        run.network.parameters[:] = mean
    run.tell("fit_end")
    if run.ranks is not None:
        run.ranks.table([])  # all of them came to the end
    return run.history


def _state(run: Run) -> dict[str, Any]:
    """What ranks begin with."""
    vectors = {"parameters": run.network.parameters}
    if not isinstance(run.optimizer, LBFGS):
        vectors |= run.optimizer.state(run.network.parameters)
    state = {name: zlib.crc32(vector.view(np.uint8).data) for name, vector in vectors.items()}
    return state | {
        "a generator": run.drawn if run.done == 0 else run.generator.bit_generator.state,
        "steps": run.optimizer.steps,
        "epochs": run.done,
    }


def _minimise(run: Run, shown: Progress | Silence) -> None:
    """All epochs, where each is an iteration of L-BFGS."""

    def after(loss: float, seconds: float) -> bool:
        run.epoch, run.loss = run.done + 1, loss
        _look(run, seconds)
        with shown.epoch(run.epoch) as line:
            if line is not None:
                line.show(1, loss, 0, _validation_so_far(run.history))
        run.tell("epoch_end")
        run.watch_the_clock()
        return _ends(run, True)

    if run.epochs:
        lbfgs.minimise(run, after)


def _epochs(run: Run, shown: Progress | Silence) -> None:
    """All epochs, each in batches."""
    while run.done < run.epochs and not _ends(run, True):
        _epoch(run, shown)
        run.watch_the_clock()
        if run.ranks is not None:
            run.ranks.compare_bits(run.network.parameters, f"after epoch {run.epoch}")


def _ends(run: Run, between: bool) -> bool:
    """Whether training ends here. Ranks agree on it `between` two steps, or where the last step's sum says that one wishes it."""
    if run.ranks is not None:
        if not (between or run.ranks.stopped):
            return False
        run.history.stopped = run.ranks.agreed()
    return bool(run.history.stopped)


def _epoch(run: Run, shown: Progress | Silence) -> None:
    """Make an epoch, and look at what came of it. One that is stopped before its end does not count."""
    run.epoch = run.done + 1
    run.batch, run.loss = 0, math.nan
    start = time.perf_counter()
    with shown.epoch(run.epoch) as line:
        whole = _updates(run, line)
    seconds = time.perf_counter() - start
    if whole:
        _look(run, seconds)
        run.watch_the_clock()  # before a checkpoint asks whether this was the last epoch
        run.tell("epoch_end")


def _updates(run: Run, line: Any) -> bool:
    """Make the updates of an epoch; False if they were stopped before its end."""
    by_batch = any(hasattr(callback, "batch_end") for callback in run.callbacks)
    total, weight, ended = 0.0, 0.0, False
    for part in _parts(run, by_batch):
        before = run.batch
        loss, part_weight = _train(run, part, line)
        if part_weight:
            total, weight = total + loss * part_weight, weight + part_weight
            run.loss = total / weight if run.ranks is None else run.ranks.mean()
        if by_batch and run.batch > before:
            run.tell("batch_end")
        run.watch_the_clock()
        ended = _ends(run, by_batch)
        if ended:
            break
    if line is not None:
        line.show(
            run.batch, run.loss, run.batch * run.sets.batches.step_rows, _validation_so_far(run.history)
        )
    return not ended or run.batch == run.sets.batches.n_batches


def _parts(run: Run, by_batch: bool) -> Iterator[Part]:
    """Those of an epoch; with other ranks as many as the rank has that has most."""
    batches, generator = run.sets.batches, run.generator if run.settings.shuffle else None
    if run.ranks is None:
        yield from batches.parts(generator, by_batch)
        return
    own = None if generator is None else run.ranks.generator(generator)
    yield from run.ranks.parts(batches, batches.parts(own, by_batch), by_batch)
    if isinstance(batches, Stream):
        _checks.training.some_batches(run.batch)


def _train(run: Run, part: Part, line: Any) -> tuple[float, float]:
    """Make the updates of one part of an epoch; return the mean error and the sum of the weights."""
    before, (x, t, weights) = run.batch, part.examples

    def report(done: int, loss: float) -> bool:
        run.batch = before + done
        if line is not None:
            rows = run.batch * (part.batch_size if run.ranks is None else run.sets.batches.step_rows)
            line.show(run.batch, loss, rows, _validation_so_far(run.history))
        run.watch_the_clock()
        return run.ranks is None and bool(run.history.stopped)

    asked = report if line is not None or run.settings.deadline < math.inf else None
    engine = run.network._engine  # looked up at each call: a fork makes a new one
    loss, weight, done, failure = engine.train(
        x, t, weights, part.order, part.batch_size, run.optimizer, asked, *run.settings.clips, None, run.ranks
    )
    run.batch = before + done
    if run.ranks is not None and run.ranks.failed:
        run.ranks.raise_failure()
    if failure:
        raise _diverged(run, part, done, failure)
    return float(loss), float(weight)


def _diverged(run: Run, part: Part, done: int, failure: str) -> DivergenceError:
    """What failed in a batch of this process; of many, in that of the first one where it did."""
    place = run.epoch, run.batch + 1, run.sets.batches.n_batches
    x, t, rows = part.batch(done)

    def own() -> DivergenceError:
        return divergence(run.network, x, t, failure, rows, *place, run.history)

    if run.ranks is None:
        return own()
    size = run.ranks.loss
    if failure == "gradient" and len(x):
        size = float(np.abs(run.network.gradients(x, t).flat).max())
    error = run.ranks.diverged(not math.isfinite(size), own)
    error.history = run.history
    return error


def _validation_so_far(history: History) -> str:
    if not history.validation_loss:
        return ""
    return f", validation {history.validation_loss[-1]:.4f}, {history.validation_metric[-1]:.4g}"


def _look(run: Run, seconds: float) -> None:
    """After an epoch: how long it took, how the network does now, and whether it is the best so far."""
    history, rate = run.history, run.optimizer.learning_rate
    sets = run.sets

    def evaluate(*args: Any) -> dict[str, float]:
        total = np.asarray if run.ranks is None else run.ranks.total
        found: dict[str, float] = run.network._evaluate(*args, total)
        return found

    row = {"loss": run.loss, "seconds": seconds}
    row["learning_rate"] = float(rate(max(run.optimizer.steps - 1, 0)) if callable(rate) else rate)
    if "metric" in run.lists and sets.training is not None:
        _, row["metric"] = evaluate(run.parameters, *sets.training).values()
    if sets.validation is not None:
        row["validation_loss"], row["validation_metric"] = evaluate(run.parameters, *sets.validation).values()
    for name, value in row.items():
        getattr(history, name).append(value)
    monitored = "loss" if sets.validation is None else "validation_loss"
    best = history.best_epoch
    values: list[float] = getattr(history, monitored)
    if is_better(monitored, values[-1], None if best is None else values[best - 1]):
        best = run.epoch
    history.best_epoch, run.done = best, run.epoch  # without a call between them, where Ctrl-C could come
