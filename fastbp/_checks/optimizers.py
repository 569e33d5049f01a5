"""The checks of what an optimizer updates, and of its hyper-parameters. The decisions are those of `_checks`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp._checks import scalars
from fastbp._checks.arrays import apart, floats, floats_like, ndarray, shape, vector, writable
from fastbp._checks.scalars import (
    DECAY_RATE,
    FRACTION,
    INT64_MAX,
    NOT_NEGATIVE,
    POSITIVE,
    instance,
    integer,
    number,
    positive_in,
)


def flat(name: str, value: Any) -> np.ndarray:
    """`value`, if it is a vector of floats that can be updated where it stands."""
    dtype = floats(name, ndarray(name, value)).dtype
    return np.asarray(writable(name, value, (value.size,), dtype))


def flat_like(name: str, value: Any, like: np.ndarray, **others: Any) -> np.ndarray:
    """`value`, if it is a vector like `like`, apart from `others`, that can be updated where it stands."""
    writable(name, value, like.shape, like.dtype)
    for other_name, other in others.items():
        apart(name, value, other_name, other)
    return np.asarray(value)


def flat_gradient(value: Any, parameters: np.ndarray) -> np.ndarray:
    """`value` as a contiguous vector of the shape and dtype of `parameters`."""
    gradient = floats_like("gradient", value, "parameters", parameters)
    return vector(shape("gradient", gradient, parameters.shape, "the shape of parameters"), parameters.dtype)


def velocity(value: Any, momentum: float, parameters: np.ndarray, gradient: Any) -> np.ndarray | None:
    """The velocity that momentum needs; None without momentum, which has no use for one."""
    if momentum == 0:
        if value is not None:
            raise ValueError("velocity: got an array with momentum=0, expected None")
        return None
    if value is None:
        raise TypeError(f"velocity: got None with momentum={momentum}, expected an array like parameters")
    return flat_like("velocity", value, parameters, parameters=parameters, gradient=gradient)


def step_number(step: Any) -> int:
    """`step` as a count that starts from 1."""
    return integer("step", step, 1, INT64_MAX, "an integer in [1, 2**63)")


def steps(value: Any) -> int:
    """`value` as the number of updates that an optimizer has made, to which no call adds too many for int64."""
    return integer("steps", value, 0, 2**62, "an integer in [0, 2**62]")


def for_network(name: str, optimizer: Any, kind: Any) -> Any:
    """`optimizer`, if a network makes its updates: it does so by the rule and the rates, and calls no `update`."""
    own = instance(name, optimizer, kind).update
    if getattr(own, "__func__", None) is not kind.update:
        raise TypeError(
            f"{name}: got a {type(optimizer).__name__} with an update of its own, which a network does not call; "
            "expected none, or net.gradients(...) and its update(net.parameters, gradients.flat) instead"
        )
    return optimizer


def written(name: str, parameters: np.ndarray, optimizer: Any) -> tuple[np.ndarray, ...]:
    """The vectors that an update of `parameters` writes, if they can be written."""
    optimizer.hyper_parameters(parameters.dtype)  # the rates tell which state there is
    state: dict[str, np.ndarray] = optimizer.state(flat(name, parameters))
    for each, kept in state.items():
        writable(each, kept, parameters.shape, parameters.dtype)
    return (parameters, *state.values())


def state_of(name: str, given: np.ndarray, state: np.ndarray, the_same: bool, optimizer: object) -> None:
    """Refuse a parameter vector whose size or dtype is not that of the state an optimizer keeps, or another one."""
    kind = type(optimizer).__name__
    afresh = "optimizer.reset() forgets it, a new optimizer has none"
    if (given.size, given.dtype) != (state.size, state.dtype):
        raise ValueError(
            f"{name}: got {given.size} values of {given.dtype}, expected {state.size} of {state.dtype}, "
            f"the vector this {kind} keeps a state for; {afresh}"
        )
    if not the_same:
        raise ValueError(
            f"{name}: got another vector than the one this {kind} keeps a state for, expected that one; {afresh}, "
            "copy.copy(optimizer) takes it along"
        )


def rate(name: str, value: Any, dtype: np.dtype | None) -> float:
    """A number >= 0; one that is not infinite when it is cast to `dtype`, where that is known."""
    checked = number(name, value, NOT_NEGATIVE)
    if dtype is not None and checked > (largest := float(np.finfo(dtype).max)):
        raise ValueError(f"{name}: got {value}, expected a number that {dtype} can hold, 0 to {largest}")
    return checked


def fraction(name: str, value: Any, dtype: np.dtype | None) -> float:
    """A number in [0, 1]."""
    return number(name, value, FRACTION)


def decay_rate(name: str, value: Any, dtype: np.dtype | None) -> float:
    """A number in [0, 1)."""
    return number(name, value, DECAY_RATE)


def epsilon(name: str, value: Any, dtype: np.dtype | None) -> float:
    """A number > 0; one that is not 0 when it is cast to `dtype`, where that is known."""
    return number(name, value, POSITIVE) if dtype is None else positive_in(name, value, dtype)


def flag(name: str, value: Any, dtype: np.dtype | None) -> bool:
    """True or False."""
    return scalars.flag(name, value)


def iterations(name: str, value: Any) -> int:
    """How often a matrix is brought nearer to an orthogonal one."""
    return integer(name, value, 1, 99, "an integer in [1, 99]")


def adjustment(name: str, value: Any) -> str:
    """By what a step depends on the shape of its matrix."""
    return scalars.choice(name, value, ("original", "match_rms_adamw"))


def nesterov(value: Any, momentum: float) -> None:
    """Refuse Nesterov's rule without momentum."""
    if value and momentum == 0:
        raise ValueError("nesterov: got True with momentum=0, expected momentum > 0")
