"""Where the batches of a training come from: arrays, read where they stand or, too large to be cast at once, a part at a time;
or an iterable that makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastbp import _checks

__all__ = ["Arrays", "Part", "Stream"]

_CAST_BYTES = 64 * 2**20  # of examples that are cast at a time


class Part(NamedTuple):
    """Some batches for one call of the engine: checked examples, their targets and weights, and an order of the rows or None."""

    x: np.ndarray
    t: np.ndarray
    weights: np.ndarray | None
    order: np.ndarray | None
    batch_size: int
    numbers: np.ndarray | None = None
    """Of the rows of `x` among those that the user gave; None where they are the same."""

    def __len__(self) -> int:
        """The number of batches."""
        return -(-len(self.x if self.order is None else self.order) // self.batch_size)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examples and targets of a batch, from 0, and the numbers of its rows."""
        rows = np.arange(len(self.x)) if self.order is None else self.order
        rows = rows[number * self.batch_size : (number + 1) * self.batch_size]
        return self.x[rows], self.t[rows], rows if self.numbers is None else self.numbers[rows]


class Arrays:
    """All examples in arrays. `x` may be of another dtype than the network's: then it is cast a part at a time."""

    def __init__(
        self, x: np.ndarray, t: np.ndarray, weights: np.ndarray | None, batch_size: int, dtype: np.dtype
    ) -> None:
        self.x, self.t, self.weights, self.dtype = x, t, weights, dtype
        self.batch_size = min(batch_size, len(x))
        self.n_batches: int | None = -(-len(x) // self.batch_size)

    def parts(self, generator: np.random.Generator | None, one_by_one: bool) -> Iterator[Part]:
        """Those of an epoch, in a new order from `generator`, or as they stand; each a batch if `one_by_one`."""
        n, size = len(self.x), self.batch_size
        order = None if generator is None else generator.permutation(n)
        ready = self.x.dtype == self.dtype
        if ready and not one_by_one:
            yield Part(self.x, self.t, self.weights, order, size)
            return
        row_bytes = max(1, self.x[:1].size * self.dtype.itemsize)
        rows = size if one_by_one else max(1, _CAST_BYTES // (size * row_bytes)) * size
        for start in range(0, n, rows):
            some = (np.arange(n) if order is None else order)[start : start + rows]
            weights = None if self.weights is None else self.weights[some]
            x = _checks.rows(np.asarray(self.x[some], self.dtype), self.dtype)
            yield Part(x, self.t[some], weights, None, size, some)


class Stream:
    """Batches as an iterable gives them, ``(x, t)`` or ``(x, t, sample_weight)``, or a function that returns an iterator."""

    def __init__(self, source: Any, check: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> None:
        if not callable(source) and not isinstance(source, Iterable):
            text = "an array with T, or an iterable of batches (x, t), or a function that returns an iterator"
            raise TypeError(f"X: got {type(source).__name__} without T, expected {text}")
        self._source, self._check = source, check
        self.n_batches: int | None = None
        if not callable(source):
            with contextlib.suppress(TypeError):
                self.n_batches = len(source)

    def parts(self, generator: np.random.Generator | None, one_by_one: bool) -> Iterator[Part]:
        """Those of an epoch, in the order in which they come."""
        number = 0
        for number, batch in enumerate(self._source() if callable(self._source) else self._source, start=1):
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
                raise TypeError(f"X: batch {number} is {got}, expected (x, t) or (x, t, sample_weight)")
            x, t, weights = self._check(number, *batch)
            if len(x):
                yield Part(x, t, weights, None, len(x))
        if not number:
            text = "a list, or a function that returns a new iterator for each epoch"
            raise ValueError(f"X: got no batch in this epoch, expected some; an iterator ends once: give {text}")

