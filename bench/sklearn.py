"""scikit-learn's estimators and ours in their place: fits, a search on two processes, the prediction of one example.

Both get the same arguments and the same `random_state`, so that they make the same updates; the accuracy, here that of the
examples that were fitted, tells that they do. Where MNIST is missing (see mnist.py), its row is left out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastbp

from .mnist import FOLDER, FitProblem
from .race import Entry, Row, Setting, Work, race, try_peers
from .shapes import ESTIMATORS, EstimatorShape, FitShape
from .timing import Contestant

_GRID = {"alpha": [1e-4, 1e-3, 1e-2, 1e-1], "learning_rate_init": [1e-3, 1e-2]}  # 8 candidates, 3 folds


def rows(shape: EstimatorShape, peers: Iterable[type[Library]], setting: Setting) -> list[Row]:
    """Fit or predict by all contestants; none where the data is missing, which is told."""
    try:
        problem = Problem(shape, *_examples(shape, setting))
    except FileNotFoundError as missing:
        print(f"MNIST is left out: {missing}; FASTBP_MNIST names its folder")
        return []
    entries = [_entry(Ours, problem), *try_peers(peers, lambda kind: _entry(kind, problem))]
    work = Work(shape.operations(len(problem.x)), "GFLOP/s", setting.peaks.gflops)
    return race(shape.name, entries, work, setting.plan)


@dataclass
class Problem:
    """Examples to fit to, and their classes."""

    shape: EstimatorShape
    x: np.ndarray
    y: np.ndarray


def _examples(shape: EstimatorShape, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    if shape.data == "MNIST":
        folder = Path(os.environ.get("FASTBP_MNIST", FOLDER))
        read = FitProblem.read(folder, FitShape(shape.sizes, shape.batch, 1), setting.dtype, setting.threads)
        return read.x, read.labels
    if shape.data == "digits":
        x, y = fastbp.datasets.load_digits()
        return x.astype(setting.dtype), y
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10_000, shape.sizes[0])).astype(setting.dtype)
    return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(np.int64)


class Library:
    """Whose estimator it is."""

    name: str
    package: str

    @staticmethod
    def estimator() -> Any:
        """The class."""
        raise NotImplementedError


class Ours(Library):
    """`fastbp.sklearn`."""

    name, package = "fastbp", "fastbp"

    @staticmethod
    def estimator() -> Any:
        """Return the class."""
        from fastbp.sklearn import MLPClassifier

        return MLPClassifier


class Theirs(Library):
    """scikit-learn's own."""

    name, package = "sklearn", "sklearn"

    @staticmethod
    def estimator() -> Any:
        """Return the class."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier


def _entry(kind: type[Library], problem: Problem) -> Entry:
    """Return the contestant of a library, which is warm after its first call."""
    shape = problem.shape
    model = kind.estimator()(
        shape.sizes[1:-1],
        batch_size=shape.batch,
        max_iter=shape.epochs,
        tol=0.0,
        n_iter_no_change=shape.epochs,
        random_state=0,
    )
    fitted = [_quietly(lambda: model.fit(problem.x, problem.y))]
    call: Callable[[], object]
    if shape.what == "fit":
        call = lambda: _quietly(lambda: model.fit(problem.x, problem.y))  # noqa: E731
    elif shape.what == "predict":
        call = lambda: fitted[0].predict(problem.x[:1])  # noqa: E731
    else:
        call = lambda: fitted.append(_quietly(lambda: _search(model, problem)))  # noqa: E731
        call()
    contestant = Contestant(kind.name, call, shape.epochs if shape.what == "fit" else 1)
    return Entry(
        contestant, ours=kind is Ours, accuracy=lambda: float(fitted[-1].score(problem.x, problem.y))
    )


def _search(model: Any, problem: Problem) -> Any:
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(model, _GRID, cv=3, n_jobs=2).fit(problem.x, problem.y)


def _quietly(call: Callable[[], Any]) -> Any:
    """So few epochs are not enough to converge, which is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


SHAPES = ESTIMATORS
PEERS: tuple[type[Library], ...] = (Theirs,)
