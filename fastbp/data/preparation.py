"""From the columns of a table to the inputs and targets of a network, the same way in training and ever after.

Design decisions:

A. What a column means is decided once and stored. A later file is read by that, so a file of a single row can change nothing.
   Whether a column is numbers or text, and which classes there are, the whole table tells; means, deviations, medians and
   categories come from the rows to train on, so that one that is held out adds nothing to them.
B. The inputs of a network are ``[numbers | missing-value flags | one-hot categories]``, float32. A number x becomes
   ``(x - shift)·factor``, with the mean and 1/standard deviation; a column that is constant in training has the factor
   0, since nothing was learned of it. Bytes, as of images, are divided by 255.
C. A missing number takes the median, and a flag of 1 if the column had missing values in training. A category that is
   missing or was never seen is all zeros.
D. Inputs are made from a table in blocks of rows: besides the table there is one float32 array, that which is trained on.

Letters: N rows, k number columns, I inputs, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.data.tables import Table
from fastbp.data.targets import Target

__all__ = ["Categories", "Inputs", "Numbers", "Preparation"]

MOST_CATEGORIES = 1000  # of one column
MOST_CHARACTERS = 900_000  # of names and categories, which are stored in the header of a file
_BLOCK = 1 << 22  # elements: how much is converted at a time
_DTYPE = np.float32


@dataclass(frozen=True)
class Numbers:
    """The number columns of a table, and what becomes of them."""

    names: tuple[str, ...]
    shift: np.ndarray
    """float64 (k,)."""
    factor: np.ndarray
    """float64 (k,); 0 for a column that was constant."""
    fill: np.ndarray
    """float64 (k,): what a missing value is taken to be; NaN where none is expected, as in images."""
    flagged: np.ndarray
    """bool (k,): which columns have a flag for missing values."""

    @classmethod
    def learn(cls, table: Table, names: tuple[str, ...], rows: np.ndarray) -> Numbers:
        """What the rows of a table tell about its columns."""
        block = table.numbers(names)[rows]
        if block.dtype == np.uint8:
            varies = block.min(axis=0, initial=255) < block.max(axis=0, initial=0)
            nothing, none = np.full(len(names), np.nan), np.zeros(len(names), bool)
            return cls(names, np.zeros(len(names)), varies / 255.0, nothing, none)
        columns = [_learn_column(table, name, block[:, i]) for i, name in enumerate(names)]
        shift, factor, fill, flagged = np.array(columns).reshape(-1, 4).T
        return cls(names, shift, factor, fill, flagged.astype(bool))

    @property
    def width(self) -> int:
        return len(self.names) + int(self.flagged.sum())

    def write(self, table: Table, block: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        """The inputs (n, width) of the numbers (n, k) in these rows of a table."""
        k = len(self.names)
        block = block.astype(np.float64)
        missing = np.isnan(block)
        if missing.any():
            block = np.where(missing, self.fill, block)
            self._refuse(table, np.isnan(block), rows, "the value is missing, as none was in training")
        with np.errstate(over="ignore"):
            out[:, :k] = (block - self.shift) * self.factor
        self._refuse(table, ~np.isfinite(out[:, :k]), rows, "the number is too far from those in training")
        out[:, k:] = missing[:, self.flagged]

    def _refuse(self, table: Table, bad: np.ndarray, rows: np.ndarray, text: str) -> None:
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise table.error(text, self.names[column], int(rows[row]))


def _learn_column(table: Table, name: str, column: np.ndarray) -> tuple[float, float, float, bool]:
    """Shift, factor, fill and flag of a column."""
    there = column[~np.isnan(column)]
    if not len(there):
        return 0.0, 0.0, 0.0, True
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(there.mean(dtype=np.float64)), float(there.std(dtype=np.float64))
    if not np.isfinite(deviation):
        raise table.error(f"numbers up to {np.abs(there).max():.3g} are too large to be standardised", name)
    constant = there.min() == there.max() or deviation < np.finfo(np.float64).tiny
    return mean, 0.0 if constant else 1 / deviation, float(np.median(there)), len(there) < len(column)


@dataclass(frozen=True)
class Categories:
    """A column of texts, each of which is an input of its own."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def learn(cls, table: Table, name: str, rows: np.ndarray) -> Categories:
        """The categories in the rows of a table."""
        values, codes = table.texts(name)
        seen = np.unique(codes[rows])
        if len(seen) > MOST_CATEGORIES:
            text = (
                f"{len(seen)} different texts would be as many inputs, expected at most {MOST_CATEGORIES}; "
            )
            raise table.error(text + "leave it out with --ignore", name)
        return cls(name, tuple(values[code] for code in seen if code >= 0))

    def codes(self, table: Table) -> np.ndarray:
        """The place (N,) of each row's category among the values; -1 where it is missing or unknown."""
        values, codes = table.texts(self.name)
        places = {value: place for place, value in enumerate(self.values)}
        return np.asarray(np.array([*(places.get(value, -1) for value in values), -1])[codes])


@dataclass(frozen=True)
class Preparation:
    """How the rows of a table become inputs and targets.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.data import Preparation, Target, read
    >>> np.savez("points.npz", X=[[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]], y=[0, 1, 0])
    >>> table = read("points.npz")
    >>> preparation = Preparation.learn(table, Target.learn(table, "y"))
    >>> preparation.inputs(table).array()  # numbers, and whether the second was missing
    array([[-1.2247449, -1.       ,  0.       ],
           [ 0.       ,  0.       ,  1.       ],
           [ 1.2247449,  1.       ,  0.       ]], dtype=float32)
    >>> preparation.target.indices(table)
    array([0, 1, 0])
    """

    numbers: Numbers
    categories: tuple[Categories, ...]
    target: Target

    @classmethod
    def learn(
        cls,
        table: Table,
        target: Target,
        *,
        ignore: Sequence[str] = (),
        categories: Sequence[str] = (),
        rows: np.ndarray | None = None,
    ) -> Preparation:
        """Decide what the columns of a table mean.

        Parameters
        ----------
        table : Table
        target : Target
            What is predicted, from all other columns; a number is scaled anew by `rows`, if they are given.
        ignore : names of columns to leave out
        categories : names of columns whose numbers are names, as postal codes are
        rows : array of indices, optional
            The rows to learn from; by default all that have a target.
        """
        for name, given in (("ignore", ignore), ("categories", categories)):
            if isinstance(given, str):
                raise TypeError(f"{name}: got str, expected a list of names, as in [{given!r:.80}]")
        table.require((target.name, *ignore, *categories))
        target = target if rows is None else target.learn_scale(table, rows)
        rows = target.rows(table) if rows is None else rows
        names = [name for name in table.names if name not in (target.name, *ignore)]
        kinds = {name: "text" if name in categories else table.kind(name) for name in names}
        numbers = tuple(name for name in names if kinds[name] in ("number", "truth"))
        texts = tuple(name for name in names if kinds[name] == "text")
        learned = tuple(Categories.learn(table, name, rows) for name in texts)
        preparation = cls(Numbers.learn(table, numbers, rows), learned, target)
        if not preparation.width:
            raise table.error(f"there is no column with values to predict {target.name!r} from")
        n_characters = len(json.dumps(preparation.to_header_and_arrays()[0]))
        if n_characters > MOST_CHARACTERS:
            text = f"the names of columns and categories take {n_characters} characters, expected at most "
            raise table.error(f"{text}{MOST_CHARACTERS}; leave columns out with --ignore")
        return preparation

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that inputs are made from."""
        return self.numbers.names + tuple(column.name for column in self.categories)

    @property
    def width(self) -> int:
        """The number of inputs I."""
        return self.numbers.width + sum(len(column.values) for column in self.categories)

    def inputs(self, table: Table, rows: np.ndarray | None = None) -> Inputs:
        """The inputs of a table, or of some of its rows; an error if it lacks a column."""
        table.require(self.names)
        return Inputs(self, table, np.arange(table.n_rows) if rows is None else rows)

    def to_header_and_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What JSON can say, and the arrays."""
        header = {
            "numbers": list(self.numbers.names),
            "categories": [{"name": each.name, "values": list(each.values)} for each in self.categories],
            "target": self.target.to_header(),
        }
        numbers = self.numbers
        arrays = {"shift": numbers.shift, "factor": numbers.factor, "fill": numbers.fill}
        return header, arrays | {"flagged": numbers.flagged.astype(np.uint8)}

    @classmethod
    def from_header_and_arrays(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Preparation:
        """What :meth:`to_header_and_arrays` tells of; a ``ValueError``, ``KeyError`` or ``TypeError`` if it is damaged."""
        names = tuple(map(str, header["numbers"]))
        k = (len(names),)
        for name in ("shift", "factor", "fill", "flagged"):
            if arrays[name].shape != k:
                raise ValueError(f"{name}: got shape {arrays[name].shape}, expected {k}")
        shift, factor, fill = (arrays[name].astype(np.float64) for name in ("shift", "factor", "fill"))
        numbers = Numbers(names, shift, factor, fill, arrays["flagged"].astype(bool))
        categories = tuple(
            Categories(str(each["name"]), tuple(map(str, each["values"]))) for each in header["categories"]
        )
        return cls(numbers, categories, Target.from_header(header["target"]))


class Inputs:
    """The inputs of some rows of a table, made when they are asked for.

    ``len()`` tells the number of rows.
    """

    def __init__(self, preparation: Preparation, table: Table, rows: np.ndarray) -> None:
        self._preparation, self._table, self._rows = preparation, table, rows
        self._numbers = table.numbers(preparation.numbers.names)
        self._codes = [column.codes(table) for column in preparation.categories]

    def __len__(self) -> int:
        return len(self._rows)

    def array(self) -> np.ndarray:
        """All of them, float32 (N, I)."""
        out = np.empty((len(self), self._preparation.width), _DTYPE)
        for _ in self.blocks(out=out):
            pass
        return out

    def blocks(self, n_outputs: int = 1, out: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of inputs, each with the place of its first row; of few rows where each has many outputs."""
        width = self._preparation.width
        n = max(1, _BLOCK // max(width, n_outputs, 1))
        for start in range(0, len(self), n):
            rows = self._rows[start : start + n]
            block = np.empty((len(rows), width), _DTYPE) if out is None else out[start : start + n]
            self._write(rows, block)
            yield start, block

    def _write(self, rows: np.ndarray, out: np.ndarray) -> None:
        numbers = self._preparation.numbers
        numbers.write(self._table, self._numbers[rows], rows, out[:, : numbers.width])
        out[:, numbers.width :] = 0
        start = numbers.width
        for column, codes in zip(self._preparation.categories, self._codes, strict=True):
            known = np.flatnonzero(codes[rows] >= 0)
            out[known, start + codes[rows][known]] = 1
            start += len(column.values)
