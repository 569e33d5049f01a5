"""The column that is predicted: what it means, and what a network's logits say about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastbp import _checks
from fastbp.data.tables import Table, Texts, labels

__all__ = ["TASKS", "Target"]

TASKS = {
    "classification": "softmax_cross_entropy",
    "regression": "squared_error",
    "counts": "poisson_deviance",
}
"""The error function of each task."""

MOST_EXACT = 2**53 - 1  # of whole numbers that float64 tells from their neighbours
MOST_CLASSES = 20  # of whole numbers, unless it is said that they are classes


@dataclass(frozen=True)
class Target:
    """What is predicted: one of the classes, or a number."""

    name: str
    task: str
    numeric: bool = False
    """Whether the column holds numbers, also if they are the names of classes."""
    classes: tuple[str, ...] = ()
    """The names of the classes, in the order of the network's outputs."""
    shift: float = 0.0
    factor: float = 1.0
    """A network for regression predicts ``(number - shift)·factor``: mean 0, standard deviation 1 in training."""

    @classmethod
    def learn(cls, table: Table, name: str, task: str | None = None, *, as_text: bool = False) -> Target:
        """What a table tells about its target: its classes, or its mean and standard deviation.

        Without a `task` it is classification if the target is text, or of at most 20 different whole numbers;
        otherwise regression. With `as_text` numbers are texts, too.
        """
        if task is not None:
            _checks.choice("task", task, TASKS)
        table.require((name,))
        kind = "text" if as_text else table.kind(name)
        numeric = kind == "number" or task in ("regression", "counts")
        numbers = _numbers(table, name) if numeric else np.empty(0)
        if task is None:
            task = "regression" if numeric and not _are_classes(numbers) else "classification"
        target = cls(name, task, numeric=numeric)
        if task == "classification":
            return replace(target, classes=_classes(table, target))
        shift, factor = _scale(table, name, task, numbers)
        return replace(target, shift=shift, factor=factor)

    def learn_scale(self, table: Table, rows: np.ndarray) -> Target:
        """The same, with the mean and the standard deviation of some rows of the table."""
        if self.classes:
            return self
        numbers = np.full(table.n_rows, np.nan)
        numbers[rows] = self.numbers(table)[rows]
        shift, factor = _scale(table, self.name, self.task, numbers)
        return replace(self, shift=shift, factor=factor)

    @property
    def loss(self) -> str:
        """The error function of the network."""
        return TASKS[self.task]

    @property
    def n_outputs(self) -> int:
        return len(self.classes) or 1

    # Targets of a table -----------------------------------------------------------------------------------------

    def labels(self, table: Table) -> Texts:
        """The classes of a table, whether or not they are those of training."""
        if not self.numeric:
            return table.texts(self.name)
        numbers = _numbers(table, self.name)
        beyond = np.abs(numbers) > MOST_EXACT
        if beyond.any():
            row, text = int(beyond.argmax()), f"a class within ±{MOST_EXACT}, or the column in --categories"
            raise table.error(f"got {numbers[row]:.17g}, expected {text}", self.name, row)
        return labels(numbers)

    def rows(self, table: Table) -> np.ndarray:
        """The indices of the rows that have a target."""
        table.require((self.name,))
        there = self.labels(table).codes >= 0 if self.classes else ~np.isnan(_numbers(table, self.name))
        return np.flatnonzero(there)

    def indices(self, table: Table) -> np.ndarray:
        """The class (N,) of each row, int64; -1 where it is missing. An error for one that was not there in training."""
        values, codes = self.labels(table)
        places = {value: place for place, value in enumerate(self.classes)}
        for code, value in enumerate(values):
            if value not in places:
                shown = ", ".join(self.classes[:10]) + (" …" if len(self.classes) > 10 else "")
                text = f"got the class {value!r}, expected one of those in training: {shown}"
                raise table.error(text, self.name, int((codes == code).argmax()))
        return np.asarray(np.array([*(places[value] for value in values), -1])[codes])

    def numbers(self, table: Table) -> np.ndarray:
        """The number (N,) of each row; NaN where it is missing."""
        return _numbers(table, self.name)

    def targets(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """What a network is trained on, for some rows: class indices (N,), or numbers (N, 1)."""
        if self.classes:
            return np.asarray(self.indices(table)[rows])
        return self.scaled(self.numbers(table)[rows])

    def scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (N,) as a network is trained on them, (N, 1)."""
        return np.asarray((numbers - self.shift) * self.factor)[:, None]

    # What a network says ----------------------------------------------------------------------------------------

    def number(self, logits: np.ndarray) -> np.ndarray:
        """The predictions (N,) of a network for regression or counts, by its logits (N, 1)."""
        z = logits[:, 0].astype(np.float64)
        if self.task == "counts":
            with np.errstate(over="ignore", under="ignore"):
                return np.asarray(np.exp(z))
        return np.asarray(z / self.factor + self.shift)

    # Storing ----------------------------------------------------------------------------------------------------

    def to_header(self) -> dict[str, Any]:
        """What JSON can say."""
        header = {"name": self.name, "task": self.task, "numeric": self.numeric}
        return header | {"classes": list(self.classes), "shift": self.shift, "factor": self.factor}

    @classmethod
    def from_header(cls, header: dict[str, Any]) -> Target:
        """What :meth:`to_header` tells of."""
        if header["task"] not in TASKS:
            raise ValueError(f"task: got {header['task']!r}, expected one of {', '.join(TASKS)}")
        return cls(
            name=str(header["name"]),
            task=str(header["task"]),
            numeric=bool(header["numeric"]),
            classes=tuple(map(str, header["classes"])),
            shift=float(header["shift"]),
            factor=float(header["factor"]),
        )


def _numbers(table: Table, name: str) -> np.ndarray:
    return table.numbers((name,))[:, 0].astype(np.float64)


def _are_classes(numbers: np.ndarray) -> bool:
    """Whether numbers look like classes: whole, and few of them different."""
    there = np.unique(numbers[~np.isnan(numbers)])
    return len(there) <= MOST_CLASSES and bool((there == np.round(there)).all())


def _classes(table: Table, target: Target) -> tuple[str, ...]:
    values, codes = target.labels(table)
    if not values:
        raise table.error("the target has no value at all", target.name)
    if len(values) == 1:
        raise table.error(f"the target is {values[0]!r} in all rows: there is nothing to learn", target.name)
    if len(values) == (codes >= 0).sum() > MOST_CLASSES:
        text = f"the target has {len(values)} classes, as many as rows, expected classes that occur more than once"
        raise table.error(text, target.name)
    return tuple(values)


def _scale(table: Table, name: str, task: str, numbers: np.ndarray) -> tuple[float, float]:
    """Shift and factor of a target, which is not scaled where it counts something."""
    if task == "counts" and (numbers < 0).any():
        raise table.error("got a negative number, expected counts", name, int((numbers < 0).argmax()))
    there = numbers[~np.isnan(numbers)]
    if not len(there):
        raise table.error("the target has no value at all", name)
    if there.min() == there.max():
        raise table.error(f"the target is {there[0]:g} in all rows: there is nothing to learn", name)
    if task == "counts":
        return 0.0, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(there.mean()), float(there.std())
    if not np.finfo(np.float64).tiny <= deviation < np.inf:
        raise table.error(f"a target with the standard deviation {deviation:g} cannot be scaled", name)
    return mean, 1 / deviation
