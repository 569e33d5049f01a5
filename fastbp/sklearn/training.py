"""Epochs as scikit-learn makes them: its random numbers, batches and reasons to stop. What is found goes to the estimator."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils.optimize import _check_optimize_result

from fastbp.lbfgs import LBFGS
from fastbp.sklearn import solvers
from fastbp.sklearn.callbacks import Epoch, untold
from fastbp.sklearn.examples import logits


class Validation(NamedTuple):
    """Examples that are not trained on."""

    x: Any
    targets: np.ndarray
    weights: np.ndarray | None


def split(est: Any, objective: solvers.Objective) -> tuple[np.ndarray, Validation]:
    """The rows to train on, and the others, drawn as scikit-learn draws them."""
    targets = objective.targets
    rows = np.arange(len(targets))
    binary = is_classifier(est) and est.n_outputs_ == 1
    train, held = train_test_split(
        rows,
        random_state=est._random_state,
        test_size=est.validation_fraction,
        stratify=targets.astype(bool) if binary else None,
    )
    if len(held) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    return train, Validation(objective.x[held], targets[held], objective.weights_of(held))


def batch_size_of(est: Any, n_samples: int) -> int:
    """Of the rows there are, at most."""
    if est.batch_size == "auto":
        return min(200, n_samples)
    if est.batch_size > n_samples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return int(np.clip(est.batch_size, 1, n_samples))


def stochastic(
    est: Any,
    objective: solvers.Objective,
    order: np.ndarray | None,
    held: Validation | None,
    incremental: bool,
    told: Epoch,
) -> None:
    """Fit by batches of the rows in `order`, or of all; `told` is what callbacks are called by."""
    steps = est._optimizer
    _begin_part(est, objective.net, incremental)
    n_samples = len(objective.targets) if order is None else len(order)
    batch_size = batch_size_of(est, n_samples)
    watch = _Clock(est.time_limit)
    try:
        est.n_iter_ = 0
        for _ in range(1 if incremental else est.max_iter):
            if est.shuffle:
                drawn = _shuffled(est._random_state, n_samples)
                order = drawn if order is None else order[drawn]
            with told() as asked_to_stop:
                est.loss_ = objective.epoch(order, batch_size, steps, watch.report)
                if math.isnan(est.loss_):  # the engine has kept the last finite ones, scikit-learn's are not
                    objective.net.parameters.fill(np.nan)
                _end_of_epoch(est, objective, held, n_samples)
            if asked_to_stop() or watch.is_over() or _is_done(est, objective, incremental):
                break
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    if est.early_stopping:
        objective.net.parameters[:] = est._best_parameters
    elif "average" in steps.state(objective.net.parameters):
        est._latest = objective.net.parameters.copy()
        objective.net.parameters[:] = steps.state(objective.net.parameters)["average"]


def _begin_part(est: Any, net: Any, incremental: bool) -> None:
    """After a part of a fit a model has the average of its parameters; the next part goes on from the latest ones."""
    latest = vars(est).pop("_latest", None)
    if incremental and latest is not None:
        average = est._optimizer.state(net.parameters).get("average")
        if average is not None and np.array_equal(net.parameters, average):
            net.parameters[:] = latest


def _shuffled(random_state: np.random.RandomState, n: int) -> np.ndarray:
    """The rows that `sklearn.utils.shuffle` would take."""
    rows = np.arange(n)
    random_state.shuffle(rows)
    return rows


class _Clock:
    """What ends a training in time."""

    def __init__(self, seconds: float | None) -> None:
        self.end = math.inf if seconds is None else time.monotonic() + seconds
        self.report: Callable[[int, float], bool] | None = None if seconds is None else self._late

    def _late(self, done: int, loss: float) -> bool:
        return self.is_over()

    def is_over(self) -> bool:
        return self.end < math.inf and time.monotonic() >= self.end


def _end_of_epoch(est: Any, objective: solvers.Objective, held: Validation | None, n_samples: int) -> None:
    est.n_iter_ += 1
    est.t_ += n_samples
    est.loss_curve_.append(est.loss_)
    if est.verbose:
        print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
    score = math.nan if held is None else _validate(est, objective, held)
    if est.early_stopping:
        _count_scores(est, objective.net, score)
    else:
        _count_losses(est)
    if est.solver == "sgd" and est.learning_rate == "invscaling":
        rate = float(est.learning_rate_init) / (est.t_ + 1) ** est.power_t
        est._optimizer.set_learning_rate(objective.net.parameters, rate)


def _validate(est: Any, objective: solvers.Objective, held: Validation) -> float:
    """The score of the examples that are not trained on; their loss goes to its curve. An average of parameters goes first."""
    with _averaged(est._optimizer, objective.net):
        z = logits(objective.net, held.x)
        est.validation_loss_curve_.append(est._loss(z, held.targets, held.weights))
        if est.scoring is None:
            return float(est._score_of(z, held.targets, held.weights))
        with _without_names(est):
            scorer, truth = check_scoring(est, est.scoring), est._truth(held.targets)
            return float(scorer(est, held.x, truth, **_weighted(scorer, held.weights)))


def _weighted(scorer: Callable[..., float], weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """The weights, for a scorer that knows what they are."""
    known = inspect.signature(scorer).parameters.values()
    takes = any(each.name == "sample_weight" or each.kind is each.VAR_KEYWORD for each in known)
    return {"sample_weight": weights} if weights is not None and takes else {}


@contextmanager
def _without_names(est: Any) -> Iterator[None]:
    """Let `est` predict examples that have no names of features any more."""
    names = vars(est).pop("feature_names_in_", None)
    try:
        yield
    finally:
        if names is not None:
            est.feature_names_in_ = names


@contextmanager
def _averaged(steps: solvers.Steps, net: Any) -> Iterator[None]:
    average = steps.state(net.parameters).get("average")
    if average is None:
        yield
        return
    latest = net.parameters.copy()
    net.parameters[:] = average
    try:
        yield
    finally:
        net.parameters[:] = latest


def _count_scores(est: Any, net: Any, score: float) -> None:
    est.validation_scores_.append(score)
    if est.verbose:
        print(f"Validation score: {score:f}")
    worse = score < est.best_validation_score_ + est.tol
    est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
    if score > est.best_validation_score_:
        est.best_validation_score_ = score
        with _averaged(est._optimizer, net):
            est._best_parameters = net.parameters.copy()


def _count_losses(est: Any) -> None:
    worse = est.loss_ > est.best_loss_ - est.tol
    est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
    if est.loss_ < est.best_loss_:
        est.best_loss_ = est.loss_


def _is_done(est: Any, objective: solvers.Objective, incremental: bool) -> bool:
    if est._no_improvement_count > est.n_iter_no_change:
        if _stops(est, objective.net):
            return True
        est._no_improvement_count = 0
    if not incremental and est.n_iter_ == est.max_iter:
        text = f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization hasn't converged yet."
        warnings.warn(text, ConvergenceWarning, stacklevel=2)
    return False


def _stops(est: Any, net: Any) -> bool:
    """Whether too many epochs without improvement are the end; where the rate adapts they make it smaller."""
    what = "Validation score" if est.early_stopping else "Training loss"
    text = f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
    adapts = est.solver == "sgd" and est.learning_rate == "adaptive"
    rate = est._optimizer.learning_rate
    if adapts and rate > 1e-6:
        est._optimizer.set_learning_rate(net.parameters, rate / 5.0)
        if est.verbose:
            print(f"{text} Setting learning rate to {rate / 5.0:f}")
        return False
    if est.verbose:
        print(text + (" Learning rate too small." if adapts else "") + " Stopping.")
    return True


def lbfgs(est: Any, objective: solvers.Objective, wide: Any, told: Epoch) -> None:
    """Fit on all the examples at once, with the help of a network in float64."""
    with _Iterations(told) as tell:
        callback = None if told is untold else tell
        options, decay = {"gtol": est.tol}, 0.0
        if isinstance(est.solver, LBFGS):  # which judges by the gradient alone
            options = {"gtol": est.solver.tolerance, "maxcor": est.solver.memory, "ftol": 0.0}
            decay = est.solver.weight_decay
        result = solvers.lbfgs(
            objective, wide, decay, callback, maxfun=est.max_fun, maxiter=est.max_iter, **options
        )
    est.n_iter_ = _check_optimize_result("lbfgs", result, est.max_iter)
    est.loss_ = result.fun


class _Iterations:
    """Tells callbacks of SciPy's iterations, of which only the ends are known: each end is the next one's begin."""

    def __init__(self, told: Epoch) -> None:
        self.told = told
        self.current: AbstractContextManager[Callable[[], bool]]

    def __enter__(self) -> _Iterations:
        self.current = self.told()
        self.asked_to_stop = self.current.__enter__()
        return self

    def __call__(self, parameters: np.ndarray) -> None:
        self.__exit__(None, None, None)
        if self.asked_to_stop():
            self.current = nullcontext(self.asked_to_stop)
            raise StopIteration
        self.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.current.__exit__(*error)
