"""Checks of single numbers, names and flags."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastbp import _backend

INT64_MAX = 2**63 - 1


class Interval(NamedTuple):
    """The numbers an argument may be, both ends included, and how an error names them."""

    low: float
    high: float
    text: str


FRACTION = Interval(0.0, 1.0, "a number in [0, 1]")
OPEN_FRACTION = Interval(math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0), "a number in (0, 1)")
DECAY_RATE = Interval(0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)")
NOT_NEGATIVE = Interval(0.0, sys.float_info.max, "a finite number >= 0")
POSITIVE = Interval(math.nextafter(0.0, 1.0), sys.float_info.max, "a finite number > 0")


def number(name: str, value: Any, interval: Interval) -> float:
    """`value` as a Python float, if it is a real number inside `interval` (NaN is in none)."""
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name}: got {type(value).__name__}, expected {interval.text}")
        value = (
            float(value) if isinstance(value, np.floating) else value
        )  # a float32 takes the ends for infinite
    if not interval.low <= value <= interval.high:
        raise ValueError(f"{name}: got {value}, expected {interval.text}")
    return float(value)


def positive_in(name: str, value: Any, dtype: np.dtype, interval: Interval = POSITIVE) -> float:
    """A number > 0 that `dtype` can hold as a normal number: neither 0 nor infinite when it is cast."""
    checked = number(name, value, interval)
    limits = np.finfo(dtype)
    if not float(limits.tiny) <= checked <= float(limits.max):
        raise ValueError(
            f"{name}: got {value}, expected a number that {dtype} can hold, {limits.tiny} to {limits.max}"
        )
    return checked


def integer(name: str, value: Any, low: int, high: float, text: str) -> int:
    """`value` as a Python int, if it is an integer in [low, high]; `text` says in words what it may be."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise TypeError(f"{name}: got {type(value).__name__}, expected {text}")
    if not low <= value <= high:
        raise ValueError(f"{name}: got {value}, expected {text}")
    return int(value)


def memory(name: str, value: Any) -> int:
    """`value` as a number of bytes, as many as an int64 can say at most."""
    return min(integer(name, value, 1, math.inf, "a number of bytes, an integer >= 1"), INT64_MAX)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """`value`, if it is one of `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {type(value).__name__}, expected one of {', '.join(options)}")
    if value not in options:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(options)}")
    return value


PRECISIONS = ("highest", "high", "medium")


def precision(name: str, value: str | None) -> str | None:
    """`value`, if it is a precision of products, or None for the one in use."""
    return None if value is None else choice(name, value, PRECISIONS)


def flag(name: str, value: Any) -> bool:
    """`value` as a Python bool, if it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")
    return bool(value)


def instance(name: str, value: Any, *kinds: type) -> Any:
    """`value`, if it is an instance of one of `kinds`."""
    if not isinstance(value, kinds):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: got {got}, expected an instance of {expected}")
    return value


def path(name: str, value: Any) -> str:
    """`value` as the name of a file."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(
            f"{name}: got {type(value).__name__}, expected the name of a file, a str or os.PathLike"
        )
    given = os.fsdecode(value)
    if "\0" in given:
        raise ValueError(f"{name}: got {given!r}, expected the name of a file, which has no null character")
    return given


def threads(n_threads: int | None) -> int:
    """How many threads a kernel may use, at least 1."""
    if n_threads is not None:
        n_threads = integer("n_threads", n_threads, 1, math.inf, "None or an integer >= 1")
    return _backend.thread_count(n_threads)
