"""L-BFGS: all the examples in every step, with a line search, by SciPy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks
from fastbp.batches import Arrays, Examples
from fastbp.callbacks import Checkpoint, ReduceOnPlateau
from fastbp.divergence import DivergenceError, divergence

if TYPE_CHECKING:
    from fastbp.ranks import Ranks
    from fastbp.training import Run

__all__ = ["LBFGS"]

_ROWS = 4096  # whose activations are in memory at a time


class LBFGS:
    """The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno [1]_, for :meth:`MLP.fit` alone.

    An epoch is one iteration: a direction from the last gradients, and a line search along it, of one or a few gradients over
    all the examples. It suits small sets and exact minima. `batch_size` and `shuffle` mean nothing to it, and there is neither
    dropout nor clipping. Needs SciPy: the extra ``lbfgs``.

    Parameters
    ----------
    memory : int >= 1, default 10
        How many of the last steps the direction is formed from.
    tolerance : float >= 0, default 1e-5
        Training has converged when no element of the gradient is larger.
    weight_decay : float >= 0, default 0
        λ: the error gains ½λ Σ W², without the biases. The losses of the history do not contain it.

    Attributes
    ----------
    steps : int
        How many iterations have been made.

    References
    ----------
    .. [1] D. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    Examples
    --------
    >>> import fastbp
    >>> X, T = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> net = fastbp.MLP([2, 4, 2], activation="tanh", dtype="float64", seed=0)
    >>> history = net.fit(X, T, epochs=100, optimizer=fastbp.LBFGS(), progress=False)
    >>> net.predict(X)
    array([0, 1, 1, 0])
    """

    def __init__(self, *, memory: int = 10, tolerance: float = 1e-5, weight_decay: float = 0.0) -> None:
        self.memory = _checks.integer("memory", memory, 1, 1000, "an integer in [1, 1000]")
        self.tolerance = _checks.number("tolerance", tolerance, _checks.NOT_NEGATIVE)
        self.weight_decay = _checks.number("weight_decay", weight_decay, _checks.NOT_NEGATIVE)
        self.average, self.learning_rate, self.steps = None, 1.0, 0

    def __repr__(self) -> str:
        return f"LBFGS(memory={self.memory}, tolerance={self.tolerance}, weight_decay={self.weight_decay})"


def check(optimizer: LBFGS, run_settings: Any, batches: Any, dropout: Any, resume: Any) -> None:
    """Refuse what this method cannot do, and attributes that were set to what the constructor would not take."""
    LBFGS(memory=optimizer.memory, tolerance=optimizer.tolerance, weight_decay=optimizer.weight_decay)
    saves, plateau = (
        any(isinstance(callback, kind) for callback in run_settings.callbacks)
        for kind in (Checkpoint, ReduceOnPlateau)
    )
    arrays = isinstance(batches, Arrays)
    _checks.training.for_lbfgs(not arrays, dropout, run_settings.clips, saves or resume is not None, plateau)


class _Stopped(Exception):
    """In the midst of an iteration."""


class _Objective:
    """Error and gradient over all the examples, block by block, with the decay, as SciPy wants them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._net, self._decay = run.network, run.optimizer.weight_decay
        self._examples, self._rows = run.sets.training  # type: ignore[misc]
        self._gradient = np.empty_like(self._net.parameters)
        self.loss = math.nan
        self.weight = 0.0
        self.is_finite = True  # the sum of this process, of many

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        net = self._net
        net.parameters[:] = parameters
        total, weight, gradient = 0.0, 0.0, np.zeros(parameters.shape)
        for block in self._blocks():
            loss, some = net._engine.gradient(block.x, block.t, block.weights, self._gradient)
            if some:
                total, weight = total + loss * some, weight + some
                gradient += self._gradient * np.float64(some)
            self._run.watch_the_clock()
            if self._run.ranks is None:
                self._stop_if(bool(self._run.history.stopped))
        if self._run.ranks is not None:
            gradient, total, weight = self._over_all(self._run.ranks, gradient, total, weight)
        self.loss, self.weight = total / weight if weight else math.nan, weight
        objective, gradient = self.loss, gradient / (weight or 1.0)
        if self._decay:
            for weights, slope in zip(net.weights, net._layout.views(gradient)[0], strict=True):
                wide = weights.astype(np.float64)
                objective += 0.5 * self._decay * float((wide * wide).sum())
                slope += self._decay * wide
        return objective, gradient

    def _over_all(
        self, ranks: Ranks, gradient: np.ndarray, total: float, weight: float
    ) -> tuple[np.ndarray, float, float]:
        """The sums over all ranks, unless one of them wishes to stop."""
        self.is_finite = math.isfinite(total)
        summed = ranks.total(np.append(gradient, [total, weight, ranks.wish != ""]))
        self._stop_if(bool(summed[-1]))
        return summed[:-3], float(summed[-3]), float(summed[-2])

    def _stop_if(self, stopped: bool) -> None:
        if stopped:
            raise _Stopped

    def divergence(self) -> DivergenceError:
        """The error of examples at which the network's is not finite; of many ranks, on the first that has any."""
        run = self._run

        def own() -> DivergenceError:
            bad = self.first_bad()
            return divergence(run.network, bad.x, bad.t, "loss", None, 1, 1, 1, run.history)

        return own() if run.ranks is None else run.ranks.diverged(not self.is_finite, own)

    def _blocks(self) -> Iterator[Examples]:
        n = len(self._examples.x) if self._rows is None else len(self._rows)
        for start in range(0, n, _ROWS):
            stop = min(start + _ROWS, n)
            rows = slice(start, stop) if self._rows is None else self._rows[start:stop]
            yield self._examples.some(rows, self._net.dtype)

    def first_bad(self) -> Examples:
        """A block over which the error is not finite."""
        for block in self._blocks():
            if not np.isfinite(
                self._net._engine.gradient(block.x, block.t, block.weights, self._gradient)[0]
            ):
                return block
        return next(self._blocks(), self._examples.some(slice(0, 0), self._net.dtype))


def minimise(run: Run, after: Any) -> None:
    """Make the iterations; `after` is called after each with its loss and seconds, and stops them by returning True."""
    try:
        from scipy.optimize import minimize
    except ModuleNotFoundError as missing:
        text = "optimizer: got LBFGS without SciPy, expected it to be installed: pip install 'fastbp[lbfgs]'"
        raise ModuleNotFoundError(text) from missing
    objective, last = _Objective(run), [time.perf_counter()]
    start = run.network.parameters.astype(np.float64)
    accepted = start.copy()  # after the last whole iteration, and so the best; a line search tries others

    def iteration(intermediate_result: Any) -> None:
        now = time.perf_counter()
        accepted[:] = run.network.parameters[:] = intermediate_result.x
        run.optimizer.steps += 1
        if after(objective.loss, now - last[0]):
            raise StopIteration
        last[0] = time.perf_counter()

    try:
        value = objective(start)[0]
        if not objective.weight:
            run.stop("no example has a weight above 0")
            return
        if not math.isfinite(value):
            raise objective.divergence()
        options = {"maxcor": run.optimizer.memory, "gtol": run.optimizer.tolerance, "ftol": 0.0}
        options |= {"maxiter": run.epochs, "maxfun": 20 * max(run.epochs, 1)}
        result = minimize(objective, start, jac=True, method="L-BFGS-B", callback=iteration, options=options)
    except _Stopped:
        if run.ranks is not None:
            run.history.stopped = run.ranks.agreed()
        return
    finally:
        run.network.parameters[:] = accepted
    if result.nit < run.epochs:
        run.stop("converged" if result.success else str(result.message).lower().rstrip(": "))
