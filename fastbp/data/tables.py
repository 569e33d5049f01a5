"""What the readers return: columns by name, which are asked for as numbers or as texts.

A table does not decide what a column means: :class:`fastbp.data.Preparation` does so once, in training, and asks
in the same way ever after. So a column that was text in training is text in every later file, whatever is in it.

Letters: N rows, k columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from fastbp.data.errors import DataError

__all__ = ["ArrayTable", "Table", "Texts", "labels"]

TARGET, INPUTS = "y", "X"  # the arrays of an .npz file


class Texts(NamedTuple):
    """A column of texts: ``values[codes[n]]`` is that of row n, and a code of -1 is a missing value."""

    values: list[str]
    """The different texts, in their order."""
    codes: np.ndarray
    """int64 (N,)."""


class Table(ABC):
    """N rows of named columns.

    Attributes
    ----------
    source : str
        Where it comes from, as errors name it.
    names : tuple of str
    n_rows : int
    test : Table or None
        The part that the source itself sets apart for testing.
    n_unnamed : int
        How many columns without a name it has beside these, such as the index of a pandas table: nothing reads them.
    first_row : int
        The number, from 0, of the first row in the source, of which others may be read elsewhere.
    """

    source: str
    names: tuple[str, ...]
    n_rows: int
    test: Table | None = None
    n_unnamed: int = 0
    first_row: int = 0

    @abstractmethod
    def kind(self, name: str) -> str:
        """What a column looks like: "number", "truth" (true and false), "text", or "empty" without any value.

        Raises
        ------
        DataError
            If it is neither: dates, lists, numbers with a few texts between them.
        """

    @abstractmethod
    def numbers(self, names: tuple[str, ...]) -> np.ndarray:
        """Columns as numbers (N, k): of bytes, or floating point with NaN where a value is missing.

        Raises
        ------
        DataError
            Where a value is neither a number nor missing, or is infinite.
        """

    @abstractmethod
    def texts(self, name: str) -> Texts:
        """A column as texts."""

    def require(self, names: tuple[str, ...]) -> None:
        """See that the table has these columns."""
        there = set(self.names)
        missing = [name for name in names if name not in there]
        if missing:
            what = "no column" if len(missing) == 1 else "no columns"
            raise DataError(f"{_listed(what, missing)}; it has {_listed('', self.names)}", source=self.source)

    def error(self, text: str, column: str | None = None, row: int | None = None) -> DataError:
        """An error in this table; `row` counts from 0, as indices do."""
        return DataError(
            text, source=self.source, column=column, row=None if row is None else self.first_row + row + 1
        )


def _listed(what: str, names: tuple[str, ...] | list[str], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} {shown}{more}".strip()


def labels(numbers: np.ndarray) -> Texts:
    """Numbers (N,) as the texts that classes are named by.

    Examples
    --------
    >>> labels(np.array([10.0, 2.0, np.nan, 0.5])).values
    ['0.5', '2', '10']
    """
    there = ~np.isnan(numbers)
    values, places = np.unique(numbers[there], return_inverse=True)
    codes = np.full(len(numbers), -1)
    codes[there] = places
    return Texts([str(int(x)) if float(x).is_integer() else repr(float(x)) for x in values], codes)


class ArrayTable(Table):
    """Arrays X (N, I) and, perhaps, y (N,), as columns ``X[0]``, ``X[1]`` … and ``y``."""

    def __init__(self, source: str, x: np.ndarray, y: np.ndarray | None) -> None:
        if x.ndim < 2 or not x.size:
            raise DataError(f"X: got shape {x.shape}, expected rows of numbers", source=source)
        self.source, self.n_rows = source, len(x)
        self._x = _real(source, "X", x.reshape(len(x), -1))
        self._inputs = tuple(f"{INPUTS}[{i}]" for i in range(self._x.shape[1]))
        self._y = y
        if y is not None and y.shape not in ((len(x),), (len(x), 1)):
            raise DataError(
                f"y: got shape {y.shape}, expected ({len(x)},), as X has {len(x)} rows", source=source
            )
        self.names = self._inputs + ((TARGET,) if y is not None else ())

    def kind(self, name: str) -> str:
        dtype = self._x.dtype if name != TARGET or self._y is None else self._y.dtype
        return {"U": "text", "b": "truth"}.get(dtype.kind, "number")

    def numbers(self, names: tuple[str, ...]) -> np.ndarray:
        if names == self._inputs:
            return self._finite(self._x, names)
        columns = [self._column(name) for name in names]
        return self._finite(np.column_stack(columns) if columns else np.empty((self.n_rows, 0)), names)

    def texts(self, name: str) -> Texts:
        if name == TARGET and self._y is not None and self._y.dtype.kind in "Ubiu":
            values, codes = np.unique(self._y.reshape(-1), return_inverse=True)
            return Texts(
                [str(value).lower() if value.dtype == bool else str(value) for value in values], codes
            )
        return labels(self.numbers((name,))[:, 0])

    def _column(self, name: str) -> np.ndarray:
        if name == TARGET and self._y is not None:
            return _real(self.source, TARGET, self._y.reshape(-1))
        return np.asarray(self._x[:, self._inputs.index(name)])

    def _finite(self, block: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """The block, if nothing in it is infinite."""
        if block.dtype.kind == "f" and np.isinf(block).any():
            row, column = np.argwhere(np.isinf(block))[0]
            raise self.error("got an infinite number", names[column], row)
        return block


def _real(source: str, name: str, array: np.ndarray) -> np.ndarray:
    """Real numbers as they are read from then on: bytes as bytes, all others in floating point."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{name}: got an array of {array.dtype}, expected real numbers", source=source)
    return array if array.dtype == np.uint8 or array.dtype.kind == "f" else array.astype(np.float64)
