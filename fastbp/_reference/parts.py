# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""What several functions of the twin share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])


def quiet(function: _Function) -> _Function:
    """Run `function` without floating-point warnings (decision H)."""

    @functools.wraps(function)
    def wrapped(*args):
        with np.errstate(all="ignore"):
            return function(*args)

    return cast(_Function, wrapped)


def new_array(shape, dtype):
    """Return an array of any content."""
    return np.empty(shape, dtype)


def softmax_parts(z):
    """Split each row of z (R, C) at its largest entry, of which one is singled out even among equals.

    Returns m = max z (R, 1), e = exp(z - m) (R, C), top = "is the largest" (R, C), rest = sum of the other e
    (R, 1). A row with NaN or +inf, or of nothing but -inf, has no softmax: its m, e and rest become NaN.
    """
    m = z.max(axis=1, keepdims=True, initial=-np.inf)
    m = np.where(np.isfinite(m), m, np.nan)
    x = z - m
    e = np.exp(x)
    if z.dtype == np.float64:  # what rounding took from x comes back (Knuth's two-sum); -inf lost nothing
        with np.errstate(invalid="ignore"):
            lost = (z - (x - (x - z))) - (m + (x - z))
        e *= 1 + np.where(np.isfinite(lost), lost, 0)
    top = np.zeros(z.shape, dtype=bool)
    if z.size:
        np.put_along_axis(top, z.argmax(axis=1, keepdims=True), True, axis=1)
    rest = np.where(top, 0.0, e).sum(axis=1, keepdims=True)
    return m, e, top, np.where(np.isnan(m), np.nan, rest)


def sigmoid_parts(z):
    """Return e = exp(-|z|), which cannot overflow, and e / (1 + e), the smaller one of y and 1 - y."""
    e = np.exp(-np.abs(z))
    return e, e / (1.0 + e)
