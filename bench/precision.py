"""What precision costs: errors of products, and the accuracy of networks that were trained with each.

Errors: of X W with normal numbers, norm against norm, and the largest |error| / Σ|x w|, which `tests/tolerances.py` bounds.
Accuracy: the same network, seed and order of the examples in each precision, so that differences are paired: the mean over the
seeds, its standard error, and the mean difference to "highest" with its standard error. MNIST's folder as in `mnist.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastbp
from fastbp import _backend

from .mnist import FOLDER, FitProblem
from .shapes import FitShape

PRECISIONS = ("highest", "high", "medium")
SEEDS, QUICK_SEEDS = 10, 2
RATE = 1e-3  # of Adam


@dataclass(frozen=True)
class Shape:
    """A data set, or a product of 256 x `terms` by `terms` x 256, whose name is empty."""

    data: str
    sizes: tuple[int, ...] = ()
    batch: int = 0
    epochs: int = 0
    terms: int = 0

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        layers = "-".join(map(str, self.sizes))
        return f"{self.data} {layers} batch {self.batch}" if self.data else f"{self.terms} terms"


SHAPES = (
    *(Shape("", terms=terms) for terms in (64, 256, 1024, 4096)),
    Shape("digits", (64, 256, 128, 10), 128, 30),
    Shape("MNIST", (784, 256, 128, 10), 128, 3),
)

_Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rows(shapes: Sequence[Shape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print each shape."""
    before = fastbp.get_precision()
    native = _backend.native()
    for name in PRECISIONS:
        print(f"  {name:8} products of {(native and native.unit(name)) or 'float32'}")
    try:
        found = []
        for shape in shapes:
            found += _accuracy(shape, dtype, threads, quick) if shape.data else _errors(shape, dtype)
        return found
    finally:
        fastbp.set_precision(before)


def _errors(shape: Shape, dtype: np.dtype) -> list[dict[str, Any]]:
    rng, found = np.random.default_rng(0), []
    x, w = (rng.standard_normal(size).astype(dtype) for size in ((256, shape.terms), (shape.terms, 256)))
    exact, magnitude = (f(x.astype(float)) @ f(w.astype(float)) for f in (np.asarray, np.abs))
    for name in PRECISIONS:
        fastbp.set_precision(name)
        error = fastbp.linear(x, w) - exact
        norm, worst = np.linalg.norm(error) / np.linalg.norm(exact), np.max(np.abs(error) / magnitude)
        print(f"{shape.name:36} {name:8} norm {norm:8.1e}   largest {worst:8.1e}")
        found.append({"shape": shape.name, "precision": name, "norm": norm, "largest": worst})
    return found


def _digits(seed: int) -> _Data:
    """A third of the bundled digits, another one for each seed, to test by."""
    x, t = fastbp.datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(x))
    third = len(x) // 3
    return x[order[third:]], t[order[third:]], x[order[:third]], t[order[:third]]


def _mnist(dtype: np.dtype) -> _Data:
    problem = FitProblem.read(
        Path(os.environ.get("FASTBP_MNIST", FOLDER)), FitShape((784, 10), 1, 1), dtype, 1
    )
    return problem.x, problem.labels, problem.x_test, problem.labels_test


def _accuracy(shape: Shape, dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    read: Callable[[int], _Data] = _digits
    if shape.data == "MNIST":
        try:
            data = _mnist(dtype)
        except FileNotFoundError as missing:
            print(f"MNIST is left out: {missing}; FASTBP_MNIST names its folder")
            return []
        read = lambda seed: data  # noqa: E731
    found: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for seed in range(QUICK_SEEDS if quick else SEEDS):
        x, t, x_test, t_test = read(seed)
        for name in PRECISIONS:
            net = fastbp.MLP(
                shape.sizes,
                activation="relu",
                dtype=dtype.name,
                seed=seed,
                n_threads=threads,
                precision=name,
            )
            net.fit(
                x,
                t,
                epochs=shape.epochs,
                batch_size=shape.batch,
                optimizer=fastbp.Adam(RATE),
                progress=False,
            )
            found[name].append(net.evaluate(x_test, t_test)["accuracy"])
    return [_row(shape, name, np.array(found[name]), np.array(found["highest"])) for name in PRECISIONS]


def _row(shape: Shape, name: str, accuracy: np.ndarray, highest: np.ndarray) -> dict[str, Any]:
    mean, error = _mean(accuracy)
    change, noise = _mean(accuracy - highest)
    print(
        f"{shape.name:36} {name:8} {mean:7.2%} ± {error:.2%}   to highest {change:+7.2%} ± {noise:.2%}",
        flush=True,
    )
    return {"shape": shape.name, "precision": name, "accuracy": list(accuracy)}


def _mean(x: np.ndarray) -> tuple[float, float]:
    """Return the mean, and its standard error."""
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5)
