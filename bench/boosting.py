"""Objectives of gradient boosting: a call of ours beside the usual one in NumPy, and whole trainings with either and with the
library's own.

An objective is called once a round with all scores, here (N, C) in C order, as XGBoost hands them over in float32. The error
beside its time is the largest of a second derivative above 1e-16, relative to itself, against the NumPy twin in float64.
Trainings are on features that do not quite decide the class, and the error is the cross-entropy that they come to. A library that
is not installed is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastbp
from fastbp import _reference, objectives

from .timing import Contestant, Plan, Timings, measure

FEATURES, ROUNDS = 20, 10


@dataclass(frozen=True)
class BoostingShape:
    """Examples and classes; `trained`: whether whole trainings are measured as well."""

    examples: int
    classes: int
    trained: bool = False

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        return f"{self.examples} x {self.classes}"


SHAPES = (
    BoostingShape(10_000, 3),
    BoostingShape(20_000, 10, trained=True),
    BoostingShape(100_000, 10),
    BoostingShape(10_000, 1000),
)


def rows(shapes: Sequence[BoostingShape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print each."""
    results = []
    for shape in shapes:
        results.append(_objective(shape, dtype, threads, quick))
        if shape.trained:
            results += [_training(library, shape, threads, quick) for library in (_xgboost, _lightgbm)]
    return results


def numpy_softmax(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The usual objective for XGBoost, in whole arrays."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    y = e / e.sum(axis=1, keepdims=True)
    hessian = np.maximum(2 * y * (1 - y), 1e-16)
    y[np.arange(len(y)), labels.astype(np.int64)] -= 1
    return y, hessian


def _objective(shape: BoostingShape, dtype: np.dtype, threads: int, quick: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    scores = 4 * rng.standard_normal((shape.examples, shape.classes)).astype(dtype)
    labels = rng.integers(0, shape.classes, shape.examples)
    calls: dict[str, Callable[..., Any]] = {
        "fastbp": objectives.xgboost_softmax(n_threads=threads),
        "NumPy": numpy_softmax,
    }
    exact = np.empty(scores.shape)
    no_options = (None, None, -100, 0.0)
    _reference.softmax_cross_entropy_hessian(
        scores.astype(float), labels, None, *no_options, exact, False, None, np.empty(scores.shape), 1
    )
    errors, floats = {}, labels.astype(np.float32)
    for name, call in calls.items():
        known = 2 * exact > objectives.XGBOOST_FLOOR
        errors[name] = float(np.max(np.abs(call(floats, scores)[1] / (2 * exact) - 1)[known]))
    timings = _measured(
        {name: lambda call=call: call(floats, scores) for name, call in calls.items()}, quick, threads
    )
    return _told(f"objective, {shape.name}", timings, errors, "relative")


def _training(library: Callable[..., Any], shape: BoostingShape, threads: int, quick: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.examples, FEATURES)).astype(np.float32)
    chances = x @ rng.standard_normal((FEATURES, shape.classes)) + rng.gumbel(
        size=(shape.examples, shape.classes)
    )
    labels = chances.argmax(axis=1)
    name = library.__name__[1:]
    try:
        train = library(importlib.import_module(name), x, labels, shape.classes, threads)
    except ModuleNotFoundError as missing:
        print(f"{name} is left out: {missing}")
        return {}
    errors = {own: float(fastbp.softmax_cross_entropy(train(own), labels).loss) for own in OWN}
    timings = _measured({own: lambda own=own: train(own) for own in OWN}, quick, threads)
    return _told(f"{name}, {shape.name}, {ROUNDS} rounds", timings, errors, "cross-entropy")


OWN = ("fastbp", "NumPy", "built in")


def _xgboost(library: Any, x: np.ndarray, labels: np.ndarray, n_classes: int, threads: int) -> Callable:
    own = {"fastbp": objectives.xgboost_softmax(n_threads=threads), "built in": None}
    own["NumPy"] = lambda scores, data: numpy_softmax(data.get_label(), scores)
    data = library.DMatrix(x, labels, nthread=threads)
    parameters = {
        "objective": "multi:softprob",
        "num_class": n_classes,
        "nthread": threads,
        "base_score": 0.5,
    }

    def train(name: str) -> np.ndarray:
        model = library.train(parameters, data, ROUNDS, obj=own[name])
        return model.predict(data, output_margin=True)

    return train


def _lightgbm(library: Any, x: np.ndarray, labels: np.ndarray, n_classes: int, threads: int) -> Callable:
    def in_numpy(scores: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
        grad, hessian = numpy_softmax(data.get_label(), scores)
        return grad, hessian / 2 * (n_classes / (n_classes - 1))

    own = {
        "fastbp": objectives.lightgbm_softmax(n_threads=threads),
        "built in": "multiclass",
        "NumPy": in_numpy,
    }
    parameters = {"num_class": n_classes, "num_threads": threads, "verbose": -1, "boost_from_average": False}
    data = library.Dataset(x, labels, params=parameters, free_raw_data=False)

    def train(name: str) -> np.ndarray:
        model = library.train({**parameters, "objective": own[name]}, data, ROUNDS)
        return model.predict(x, raw_score=True)

    return train


def _measured(calls: dict[str, Callable[[], Any]], quick: bool, threads: int) -> Timings:
    return measure([Contestant(name, call) for name, call in calls.items()], Plan.of(quick, threads))


def _told(what: str, timings: Timings, errors: dict[str, float], kind: str) -> dict[str, Any]:
    """Print and return a line for each contestant; a ratio is how many times longer than fastbp it takes."""
    print(what)
    result: dict[str, Any] = {"shape": what}
    for name, error in errors.items():
        seconds, ratio = timings.median(name), timings.ratio(name, "fastbp")
        print(f"  {name:10} {1e3 * seconds:10.3f} ms  x {ratio:5.2f}   {kind} {error:.3g}")
        result[name] = {"seconds": seconds, "ratio": ratio, "error": error}
    return result
