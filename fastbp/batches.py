"""Where the batches of a training come from: arrays, read where they stand or, too large to be cast at once, a part at a time;
or an iterable that makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastbp import _checks

__all__ = ["Arrays", "Examples", "Part", "Stream"]

_CAST_BYTES = 32 * 2**20  # of examples that are cast at a time; those before them are still there


class Examples(NamedTuple):
    """Checked examples (N, I), their targets, and their weights or None; `x` may be of another dtype than the network's, if it is
    too large to be cast at once."""

    x: np.ndarray
    t: np.ndarray
    weights: np.ndarray | None

    def some(self, rows: Any, dtype: np.dtype) -> Examples:
        """Those of some rows, in the network's dtype."""
        weights = None if self.weights is None else self.weights[rows]
        return Examples(_checks.rows(np.asarray(self.x[rows], dtype), dtype), self.t[rows], weights)


class Part(NamedTuple):
    """Some batches for one call of the engine, in an order of the rows, or None: as they stand."""

    examples: Examples
    order: np.ndarray | None
    batch_size: int
    numbers: np.ndarray | None = None
    """Of the rows among those that the user gave; None where they are the same."""

    @property
    def n_batches(self) -> int:
        """How many batches they are."""
        rows = len(self.examples.x) if self.order is None else len(self.order)
        return -(-rows // self.batch_size)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examples and targets of a batch, from 0, and the numbers of its rows."""
        rows = np.arange(len(self.examples.x)) if self.order is None else self.order
        rows = rows[number * self.batch_size : (number + 1) * self.batch_size]
        return (
            self.examples.x[rows],
            self.examples.t[rows],
            rows if self.numbers is None else self.numbers[rows],
        )


class Arrays:
    """Examples in arrays; `rows` are those that are trained on, None for all."""

    def __init__(self, examples: Examples, rows: np.ndarray | None, batch_size: int, dtype: np.dtype) -> None:
        self.examples, self.rows, self.dtype = examples, rows, dtype
        self.n = len(examples.x) if rows is None else len(rows)
        self.batch_size = min(batch_size, max(self.n, 1))  # there may be none, of many ranks
        self.n_batches: int | None = -(-self.n // self.batch_size)
        self.step_rows = self.batch_size
        """Those of one update, of all ranks."""

    def empty(self) -> Part:
        """A part without examples."""
        return Part(self.examples.some(slice(0, 0), self.dtype), None, self.batch_size)

    def parts(self, generator: np.random.Generator | None, one_by_one: bool) -> Iterator[Part]:
        """Those of an epoch, in a new order from `generator`, or as they stand; each a batch if `one_by_one`."""
        order = self.rows
        if generator is not None:
            shuffled = generator.permutation(self.n)
            order = shuffled if order is None else order[shuffled]
        if self.examples.x.dtype == self.dtype and self.n and not one_by_one:
            yield Part(self.examples, order, self.batch_size)
            return
        size, row_bytes = self.batch_size, max(1, self.examples.x.shape[1] * self.dtype.itemsize)
        step = size if one_by_one else max(1, _CAST_BYTES // (size * row_bytes)) * size
        order = np.arange(self.n) if order is None else order
        for start in range(0, self.n, step):
            rows = order[start : start + step]
            yield Part(self.examples.some(rows, self.dtype), None, size, rows)


class Stream:
    """Batches as an iterable gives them, ``(x, t)`` or ``(x, t, sample_weight)``, or a function that returns an iterator."""

    batch_size = step_rows = 0  # as they come
    alone = True  # whether an epoch has no batch if this has none

    def __init__(self, source: Any, check: Callable[..., Examples], nothing: Examples) -> None:
        self._source, self._check, self._nothing = _checks.training.stream(source), check, nothing
        self.n_batches: int | None = None
        if not callable(source):
            with contextlib.suppress(TypeError):
                self.n_batches = len(source)

    def empty(self) -> Part:
        """A part without examples."""
        return Part(self._nothing, None, 1)

    def parts(self, generator: np.random.Generator | None, one_by_one: bool) -> Iterator[Part]:
        """Those of an epoch, in the order in which they come."""
        number = 0
        source = _checks.training.batches(self._source()) if callable(self._source) else self._source
        for number, batch in enumerate(source, start=1):
            examples = self._check(f"X: batch {number}", *_checks.training.batch(number, batch))
            if len(examples.x):
                yield Part(examples, None, len(examples.x))
        if self.alone:
            _checks.training.some_batches(number)
