"""Checks of the weights, biases and deltas of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp._checks.arrays import cast, dimensions, floats_like, rows, shape, vector


def layer_weight(value: Any, axis: int, name: str, given: np.ndarray) -> np.ndarray:
    """`value` as weights (I, O) of any strides, whose `axis` is as long as the rows of `given` (`name`)."""
    weight = dimensions("weight", floats_like("weight", value, name, given), "(I, O)", 2)
    size = given.shape[1]
    if weight.shape[axis] != size:
        text = f"({size}, O)" if axis == 0 else f"(I, {size})"
        text = f"{text} for {name} of shape {given.shape}"
        raise ValueError(f"weight: got shape {weight.shape}, expected {text}")
    return weight if weight.flags.aligned else cast(weight, None)


def layer_bias(value: Any, weight: np.ndarray) -> np.ndarray:
    """`value` as the bias (O,) of a layer with these weights (I, O)."""
    bias = floats_like("bias", value, "weight", weight)
    return vector(shape("bias", bias, weight.shape[1:], "one for each output"), weight.dtype)


def layer_delta(value: Any, a_prev: np.ndarray) -> np.ndarray:
    """`value` as deltas (N, O), one row for each row of `a_prev`."""
    delta = dimensions("delta", floats_like("delta", value, "a_prev", a_prev), "(N, O)", 2)
    if len(delta) != len(a_prev):
        raise ValueError(
            f"delta: got shape {delta.shape}, expected ({len(a_prev)}, O) for a_prev of shape {a_prev.shape}"
        )
    return delta


def slope_source(
    value: Any, activation: str, expected: tuple[int, ...], delta: np.ndarray
) -> np.ndarray | None:
    """`value` as the rows that the slope of `activation` needs; None where that is 1 everywhere."""
    if value is None:
        if activation != "identity":
            raise TypeError(f"a: got None, expected shape {expected} for activation={activation!r}")
        return None
    given = shape("a", floats_like("a", value, "delta", delta), expected, "one row for each row of delta")
    return None if activation == "identity" else rows(given)
