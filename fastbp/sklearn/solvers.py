"""scikit-learn's objective and its solvers, on the engine.

With s the weights of a batch's rows, or 1 each, its objective is

    Σ s E / Σ s + ½ α ‖W‖² / Σ s,

where ‖W‖² leaves out the biases. So α is a weight decay of α / Σ s, which is another one for a shorter batch, or for one of other
weights: a row of the table of rates that an epoch takes along. A reported loss has the second term too, with W before the batch's
update; the engine tells ‖W‖² for each batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import scipy.optimize
from scipy import sparse

from fastbp.model import MLP
from fastbp.optimizers import SGD, Adam, Optimizer
from fastbp.outputs import LOSSES
from fastbp.parameters import Layout
from fastbp.sklearn.examples import dense, rows_of, runs

_Report = Callable[[int, float], object]


@dataclass
class Objective:
    """What a fit minimizes over the parameters of `net`."""

    net: MLP
    x: Any
    """Examples (N, I): an array in C order or a CSR matrix, of the network's dtype."""
    targets: np.ndarray
    """As the engine takes them: classes (N,) or rows (N, O)."""
    weights: np.ndarray | None
    """(N,) in float64."""
    alpha: float
    share: float
    """By which an error of the engine, a sum over outputs, is multiplied where it is reported."""
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        """The engine believes what it is told: see here that the arrays are what the network was made for."""
        n, (n_inputs, *_, n_outputs) = self.x.shape[0], self.net.layer_sizes
        shapes = [(n, n_outputs)] + ([(n,)] if LOSSES[self.net.loss_name].by_class else [])
        if self.x.shape != (n, n_inputs) or self.targets.shape not in shapes:
            got = f"{self.x.shape} and targets {self.targets.shape}"
            raise ValueError(
                f"X, y: got {got}, expected {n_inputs} inputs and {n_outputs} outputs, as of coefs_"
            )

    def weights_of(self, rows: Any) -> np.ndarray | None:
        return None if self.weights is None else self.weights[rows]

    def epoch(
        self, rows: np.ndarray | None, batch_size: int, steps: Steps, report: _Report | None = None
    ) -> float:
        """Make an update for each batch of `rows` in their order (None: all as they stand); the loss, NaN if it diverged."""
        count = len(self.targets) if rows is None else len(rows)
        starts = np.arange(0, count, batch_size)
        sizes = np.diff(starts, append=count)
        some = self.weights_of(slice(None) if rows is None else rows)
        sums = sizes.astype(np.float64) if some is None else np.add.reduceat(some, starts)
        told = np.zeros((len(starts), 2))
        done = 0
        for run in runs(self.x, count, batch_size):
            batches = slice(run.start // batch_size, -(-run.stop // batch_size))
            steps.decays = self.alpha / sums[batches][sums[batches] != 0]
            x, t, w, order = self._run(rows, run)
            *_, finished, failure = self.net._engine.train(
                x, t, w, order, batch_size, cast(Optimizer, steps), report, self.clip_norm, 0.0, told[batches]
            )
            if failure:
                return math.nan
            done += finished
            if finished < batches.stop - batches.start:
                break
        counted = np.flatnonzero(sums[:done])  # a batch without weight has no loss, and no update
        told, sums, sizes = told[counted], sums[counted], sizes[counted]
        losses = told[:, 0] * self.share + 0.5 * self.alpha * told[:, 1] / sums
        return float(losses @ sizes / max(sizes.sum(), 1))

    def _run(self, rows: np.ndarray | None, run: slice) -> tuple[Any, ...]:
        """Examples, targets, weights and order of a run of rows."""
        if not sparse.issparse(self.x):
            return self.x, self.targets, self.weights, rows
        which = run if rows is None else rows[run]
        return dense(self.x, which), self.targets[which], self.weights_of(which), None

    def gradient(self, out: np.ndarray) -> float:
        """The loss and its gradient over all the examples, without the term of the weights."""
        engine, count = self.net._engine, len(self.targets)
        if not sparse.issparse(self.x):
            return engine.gradient(self.x, self.targets, self.weights, out)[0] * self.share
        total = np.zeros(len(out))
        loss, weight = 0.0, 0.0
        for run in runs(self.x, count, 1):
            x, t, w, _ = self._run(None, run)
            mean, some = engine.gradient(x, t, w, out)
            if some:
                total += some * out
                loss, weight = loss + some * mean, weight + some
        out[...] = total / weight
        return loss / weight * self.share


class Steps:
    """The updates of an optimizer, to whose weight decay that of each batch is added: what an engine takes for an optimizer."""

    def __init__(self, optimizer: Optimizer, epsilon_outside: bool = False) -> None:
        self.optimizer = optimizer
        self.decays = np.zeros(0)
        """What is added to the weight decay of each update of the next call."""
        self.epsilon_outside = epsilon_outside
        """Whether Adam's ε stands outside the bias correction: w - η √(1 - β₂ᵗ)/(1 - β₁ᵗ) m/(√v + ε). Ours, which is added to
        √(v/(1 - β₂ᵗ)), is then ε/√(1 - β₂ᵗ)."""

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # of a copy that is still empty
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @steps.setter
    def steps(self, number: int) -> None:
        self.optimizer.steps = number

    @property
    def learning_rate(self) -> Any:
        return self.optimizer.learning_rate

    def scheduled_rates(self, n_steps: int, dtype: np.dtype) -> np.ndarray:
        """The rates of the next updates, a row each, the weight decay last."""
        table = self.optimizer.scheduled_rates(n_steps, dtype)
        if table is None:
            table = np.tile(np.array(self.optimizer.hyper_parameters(dtype), np.float64), (n_steps, 1))
        table[: len(self.decays), -1] += self.decays
        if self.epsilon_outside:
            *_, beta_2, epsilon, _ = range(table.shape[1])
            t = np.arange(self.steps + 1, self.steps + 1 + n_steps)
            table[:, epsilon] /= np.sqrt(1.0 - table[:, beta_2] ** t)
        return table

    def set_learning_rate(self, parameters: np.ndarray, rate: float) -> None:
        """Go on at another rate. scikit-learn keeps -η times our velocity, and keeps it as it is."""
        before, self.optimizer.learning_rate = self.learning_rate, rate
        for velocity in self.optimizer.state(parameters).values():
            velocity *= before / rate


def sgd(rate: float, momentum: float, nesterov: bool) -> Steps:
    """scikit-learn's SGD."""
    return Steps(SGD(rate, momentum=momentum, nesterov=bool(nesterov and momentum)))


def adam(rate: float, beta_1: float, beta_2: float, epsilon: float) -> Steps:
    """scikit-learn's Adam."""
    return Steps(Adam(rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon), epsilon_outside=True)


def lbfgs(
    objective: Objective,
    wide: MLP,
    decay: float = 0.0,
    callback: Callable[[np.ndarray], None] | None = None,
    **options: Any,
) -> scipy.optimize.OptimizeResult:
    """Minimize by SciPy's L-BFGS-B, in float64, in which the line search finds its way: on `wide`.

    The objective gains ½ `decay` ‖W‖². `callback` finds the parameters of each iteration in the network.
    """
    net, work = objective.net, _on(objective, wide)
    place, n_weights = _packed(net), sum(w.size for w in net.weights)
    weight = float(len(work.targets) if work.weights is None else work.weights.sum())
    if not weight:
        raise ValueError(
            "sample_weight: got weights that are 0, with those of the classes, expected some > 0"
        )
    decay += work.alpha / weight
    parameters, gradient = work.net.parameters, np.empty_like(work.net.parameters)

    def loss_and_gradient(packed: np.ndarray) -> tuple[float, np.ndarray]:
        parameters[place] = packed
        loss = work.gradient(gradient)
        slope, w = gradient[place], packed[:n_weights]
        slope[:n_weights] += decay * w
        return loss + 0.5 * decay * float(w @ w), slope

    def told(packed: np.ndarray) -> None:
        net.parameters[place] = packed
        if callback is not None:
            callback(net.parameters)

    result = scipy.optimize.minimize(
        loss_and_gradient,
        parameters[place],
        method="L-BFGS-B",
        jac=True,
        callback=None if callback is None else told,
        options=options,
    )
    net.parameters[place] = result.x
    return result


def _on(objective: Objective, net: MLP) -> Objective:
    """The same on another network, in its dtype, from the same parameters."""
    net.parameters[:] = objective.net.parameters
    t = objective.targets if objective.targets.ndim == 1 else objective.targets.astype(net.dtype, copy=False)
    return replace(objective, net=net, x=rows_of(objective.x, net.dtype), targets=t)


def _packed(net: MLP) -> np.ndarray:
    """Where in our parameters those of scikit-learn's order are: all weights, then all biases."""
    weights, biases = Layout(net.layer_sizes).views(np.arange(net.parameters.size))
    return np.concatenate([array.ravel() for array in (*weights, *biases)])
