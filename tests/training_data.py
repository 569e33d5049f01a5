"""Examples and networks that the tests of training share, and what two trainings are compared by."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp import MLP, History

N, BATCH = 103, 16  # six batches of 16 and one of 7
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 6))
LABELS = RNG.choice(3, N, p=[0.5, 0.3, 0.2])
YES = (X[:, :1] + RNG.normal(size=(N, 1)) > 0.4).astype(np.float64)
ROWS = RNG.random((N, 3))
WEIGHTS = RNG.choice([0.0, 0.5, 1.0, 2.0], N)
OPTIONS = {"epochs": 3, "batch_size": BATCH, "progress": False}


def network(dtype: Any = "float64", outputs: int = 3, **options: Any) -> MLP:
    return MLP([6, 8, outputs], **{"activation": "tanh", "dtype": dtype, "seed": 1} | options)


def same(a: MLP, b: MLP) -> bool:
    """Whether two networks have the same bits, random numbers included."""
    states = [each._random_state().bit_generator.state for each in (a, b)]
    return a.parameters.tobytes() == b.parameters.tobytes() and states[0] == states[1]


def told(history: History) -> dict[str, Any]:
    """What a history says, but for the times."""
    return {name: value for name, value in vars(history).items() if name != "seconds"}


def rounding(n: int) -> Any:
    """A relative tolerance of n roundings of float64."""
    return {"rtol": n * np.finfo(np.float64).eps, "atol": n * np.finfo(np.float64).eps}


def lists(history: History) -> set[int]:
    """The lengths of all lists that are not empty."""
    return {len(values) for values in history.columns().values()}
