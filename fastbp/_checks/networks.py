"""The checks of what a network is made of, and of its examples. The decisions are those of `_checks`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from fastbp import _backend
from fastbp._checks.arrays import FLOATS, INT64, array, blocks, integers, reals, rows, vector
from fastbp._checks.scalars import (
    DECAY_RATE,
    FRACTION,
    NOT_NEGATIVE,
    Interval,
    choice,
    integer,
    number,
    positive_in,
)
from fastbp._checks.targets import weights
from fastbp._errors import TargetIndexError

_MOST_PARAMETERS = 2**59  # whose bytes can be counted; whether there is so much memory is the system's to say


# What a network is made of ----------------------------------------------------------------------------------


def layer_sizes(name: str, value: Any) -> tuple[int, ...]:
    """The sizes of at least two layers, inputs first, as Python ints."""
    text = "at least two integers >= 1, as in [64, 32, 10]"
    if not _several(value):
        raise TypeError(f"{name}: got {type(value).__name__}, expected {text}")
    sizes = tuple(integer(name, size, 1, math.inf, text) for size in value)
    if len(sizes) < 2:
        raise ValueError(f"{name}: got {list(sizes)}, expected {text}")
    if sum((i + 1) * o for i, o in pairwise(sizes)) > _MOST_PARAMETERS:
        raise ValueError(f"{name}: got {list(sizes)}, expected 2**59 parameters at most")
    return sizes


def _several(value: Any) -> bool:
    """Whether there are values in `value`: an array without axes says that it can be iterated over, but cannot."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, (str, bytes))
        and getattr(value, "shape", None) != ()
    )


def for_each(name: str, value: Any, n_hidden: int, check: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """One thing for each hidden layer, checked: `value` for all of them, or a sequence of as many."""
    if not _several(value):
        return (check(name, value),) * n_hidden
    values = tuple(check(name, each) for each in value)
    if len(values) != n_hidden:
        raise ValueError(
            f"{name}: got {len(values)} of them, expected {n_hidden}, one for each hidden layer, or one for all"
        )
    return values


def activations(value: Any, n_hidden: int, names: Iterable[str]) -> tuple[str, ...]:
    """The activation of each hidden layer."""
    return for_each("activation", value, n_hidden, lambda name, each: choice(name, each, names))


def dropout(value: Any, n_hidden: int) -> tuple[float, ...]:
    """The dropout of each hidden layer."""
    return for_each("dropout", value, n_hidden, lambda name, each: number(name, each, DECAY_RATE))


def smoothing(value: Any, loss: str, losses: Any) -> float:
    """`value` as a smoothing of targets, if the error has one."""
    checked = number("label_smoothing", value, FRACTION)
    if checked and not losses[loss].smooth:
        having = ", ".join(name for name, row in losses.items() if row.smooth)
        raise ValueError(f"label_smoothing: got {value} with the loss {loss}, expected 0, or one of {having}")
    return checked


def of_error(name: str, value: Any, default: float, loss: str, losses: Any, dtype: np.dtype) -> float:
    """`value` as the parameter of an error, if it is one of the network's, or nothing has been said."""
    having = next(row for row in losses.values() if row.parameter == name)
    checked = positive_in(name, value, dtype, having.parameters)
    if checked != default and losses[loss] is not having:
        expected = next(other for other, row in losses.items() if row is having)
        raise ValueError(
            f"{name}: got {value} with the loss {loss}, expected {default}, or the loss {expected}"
        )
    return checked


def float_dtype(name: str, value: Any) -> np.dtype:
    """`value` as one of the two dtypes of floats."""
    try:
        dtype: np.dtype = np.dtype(value).newbyteorder("=")
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, expected float32 or float64") from None
    if value is None or dtype not in FLOATS:
        raise TypeError(f"{name}: got {value if value is None else dtype}, expected float32 or float64")
    return np.dtype(dtype.type)  # the object that all others have


def seed(name: str, value: Any) -> int | None:
    """`value`, if random numbers can start from it."""
    return None if value is None else integer(name, value, 0, 2**128 - 1, "None or an integer in [0, 2**128)")


def initializer(name: str, value: Any, options: Iterable[str]) -> str:
    """`value`, if it is one of `options`; "custom" if it is a function."""
    if callable(value):
        return "custom"
    if not isinstance(value, str) or value not in options:
        kind, got = (ValueError, repr(value)) if isinstance(value, str) else (TypeError, type(value).__name__)
        raise kind(
            f"{name}: got {got}, expected one of {', '.join(options)}, or a function (rng, n_in, n_out)"
        )
    return value


def initial_weights(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What an initializer returned for a layer of `shape`, finite and cast to `dtype`."""
    given = reals(name, value)
    if given.shape != shape:
        raise ValueError(f"{name}: got weights of shape {given.shape}, expected {shape}, (n_in, n_out)")
    with np.errstate(over="ignore"):
        weights = rows(given, dtype)
    return finite_rows(name, given, weights)


# Its examples -----------------------------------------------------------------------------------------------


def inputs(name: str, value: Any, n_inputs: int, dtype: np.dtype) -> np.ndarray:
    """Real numbers (N, I), cast to the network's `dtype`, as rows."""
    given = reals(name, value)
    if given.ndim != 2 or given.shape[1] != n_inputs:
        text = f"got shape {given.shape}, expected (N, {n_inputs}), one row for each example"
        one = f"; one example is {name}[None, :]" if given.shape == (n_inputs,) else ""
        raise ValueError(f"{name}: {text}{one}")
    return rows(given, dtype)


def some_examples(name: str, given: np.ndarray) -> np.ndarray:
    """`given`, if it has rows."""
    if not len(given):
        raise ValueError(f"{name}: got shape {given.shape}, expected at least one example")
    return given


def finite_rows(name: str, value: Any, given: np.ndarray) -> np.ndarray:
    """`given`, rows of floats, if all are finite; the error quotes `value`, from which they were cast."""
    for start, block in blocks(given):
        if not _all_finite(block):
            row, column = first_where(~np.isfinite(block))
            got = f"row {start + row} has {array(name, value)[start + row, column]} in column {column}"
            raise ValueError(f"{name}: {got}, expected numbers that are finite in {given.dtype}")
    return given


def decided_rows(name: str, logits: np.ndarray) -> np.ndarray:
    """`logits` of the rows of `name`, if none is NaN, of which no prediction could be made."""
    for start, block in blocks(logits):
        if not _all_finite(block) and np.isnan(block).any():
            row = start + first_where(np.isnan(block))[0]
            raise ValueError(
                f"{name}: row {row} gives NaN, expected parameters that are finite and not too large"
            )
    return logits


def _all_finite(given: np.ndarray) -> bool:
    # A sum of squares is finite only if each number is: one pass over them, in a third of the time of `isfinite`.
    return math.isfinite(np.vdot(given, given)) or bool(np.isfinite(given).all())


def first_where(odd: np.ndarray) -> tuple[int, int]:
    """Row and column of the first true entry."""
    row, column = np.unravel_index(odd.argmax(), odd.shape)
    return int(row), int(column)


def targets(
    name: str, value: Any, inputs: np.ndarray, n_outputs: int, by_class: bool, allowed: Interval | None
) -> np.ndarray:
    """Targets for the rows of `inputs`: rows (N, O) of their dtype, or class indices (N,) if `by_class`.

    For a network of one output that does not choose among classes, (N,) is taken for (N, 1). Rows hold numbers in
    `allowed` if the error is defined for no others; None allows any.
    """
    given = array(name, value)
    n = inputs.shape[0]
    if by_class and given.ndim == 1:
        return _classes(name, given, n, n_outputs)
    if given.ndim == 1 and n_outputs == 1:
        given = given[:, None]
    if given.shape != (n, n_outputs):
        other = f" or class indices ({n},)" if by_class else f" or ({n},)" if n_outputs == 1 else ""
        expected = f"({n}, {n_outputs}){other}, one target for each row of inputs"
        raise ValueError(f"{name}: got shape {given.shape}, expected {expected}")
    checked = rows(reals(name, given), inputs.dtype)
    if allowed is not None:
        _within(name, given, checked, allowed)
    return checked


def _within(name: str, given: np.ndarray, checked: np.ndarray, allowed: Interval) -> None:
    """Refuse targets outside `allowed`, as NaN is; `checked` is what `given` was cast to."""
    for start, block in blocks(checked):
        if not (float(block.min()) >= allowed.low and float(block.max()) <= allowed.high):
            wide = block.astype(np.float64)  # as `high` is
            row, column = first_where(~((wide >= allowed.low) & (wide <= allowed.high)))
            place = f" in column {column}" if given.shape[1] > 1 else ""
            held = f" that {checked.dtype} can hold" if np.isinf(block[row, column]) else ""
            got = f"row {start + row} is {given[start + row, column]}{place}"
            raise ValueError(f"{name}: {got}, expected {allowed.text}{held}")


def _classes(name: str, given: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    """Class indices (N,) as int64, each in [0, C): a network ignores no example."""
    size = given.shape[0]
    # [] has no dtype to blame
    given = integers(name, given, "integer class indices") if size else np.zeros(0, INT64)
    if size != n:
        raise ValueError(f"{name}: got {size} class indices, expected {n}, one for each row of inputs")
    labels = vector(given, INT64)  # an unsigned number beyond int64 turns negative, so it is found as well
    bad = _backend.kernels.first_bad_label(labels, n_classes, 0)  # to "ignore" class 0 exempts nothing more
    if bad >= 0:
        expected = f"a class index in [0, {n_classes})"
        raise TargetIndexError(f"{name}: row {bad} is {given[bad]}, expected {expected}")
    return labels


# Their weights ----------------------------------------------------------------------------------------------


def example_weights(name: str, value: Any, n: int) -> np.ndarray | None:
    """Optional weights of `n` examples that are trained on: finite numbers >= 0, as float64."""
    given = weights(name, value, n, "example")
    if given is not None and not (np.isfinite(given).all() and (given >= 0).all()):
        row = int(np.argmin(np.isfinite(given) & (given >= 0)))
        raise ValueError(f"{name}: row {row} is {given[row]}, expected finite numbers >= 0")
    with np.errstate(over="ignore"):
        if given is not None and given.sum() == math.inf:
            raise ValueError(f"{name}: got weights whose sum is infinite, expected one that float64 can hold")
    return given


def class_weights(
    value: Any,
    t: np.ndarray | None,
    n_classes: int,
    total: Callable[[Any], np.ndarray] | None = None,
) -> np.ndarray | None:
    """The weight of each class, as float64; by the targets `t` if it is "balanced", None where they are not known beforehand.
    `total` adds up over ranks."""
    if value is None:
        return None
    if not n_classes:
        text = "None with a loss whose outputs are not the classes of one thing"
        raise ValueError(f"class_weight: got {type(value).__name__}, expected {text}")
    if isinstance(value, str):
        choice("class_weight", value, ("balanced",))
        if t is None:
            text = "a dict or an array with an iterable of batches"
            raise ValueError(f"class_weight: got 'balanced', expected {text}")
        counts = _counts(t, n_classes)
        counts = counts if total is None else total(counts)
        return np.asarray(counts.sum() / (np.where(counts > 0, counts, 1) * max(np.count_nonzero(counts), 1)))
    if not isinstance(value, dict):
        return example_weights("class_weight", weights("class_weight", value, n_classes, "class"), n_classes)
    table = np.ones(n_classes)
    for label, weight in value.items():
        label = int(label) if isinstance(label, (bool, np.bool_)) else label  # of boolean targets
        label = integer("class_weight", label, 0, n_classes - 1, f"classes in [0, {n_classes})")
        table[label] = number(f"class_weight[{label}]", weight, NOT_NEGATIVE)
    return table


def weights_by_class(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The weight of each example by its class; of a row of several classes, their mean by how much there is of each."""
    classes = as_classes(t, len(table))
    if classes.ndim == 1:
        return np.asarray(table[classes])
    total = classes.sum(axis=1, dtype=np.float64)
    return np.asarray(np.divide(classes @ table, total, out=np.ones(len(t)), where=total != 0))


def as_classes(t: np.ndarray, n_classes: int) -> np.ndarray:
    """Class indices (N,), or rows (N, C) of how much of each class there is; of one logistic output rows of both classes."""
    return np.concatenate([1 - t, t], axis=1) if t.ndim == 2 and t.shape[1] < n_classes else t


def _counts(t: np.ndarray, n_classes: int) -> np.ndarray:
    """How often each class occurs."""
    classes = as_classes(t, n_classes)
    if classes.ndim == 1:
        return np.bincount(classes, minlength=n_classes)
    return np.asarray(classes.sum(axis=0, dtype=np.float64))
