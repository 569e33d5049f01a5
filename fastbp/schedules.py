"""Rates that change while a network trains: functions of the number of steps made before, 0, 1, ...

A schedule is nothing else than such a function, and any rate of an optimizer may be one: ``SGD(lambda step: 0.1 / (1 + step))``.
Those here return functions that can be pickled. Each has the rate first, the number of steps next where one is needed; with
`warmup`, it rises over the first so many of the steps, in equal steps, to what the formula begins with, and the rest follows
that. `one_cycle` begins with rate / 25 and `coslog4` with 0: both rise by themselves.

Examples
--------
>>> import fastbp
>>> rate = fastbp.schedules.cosine(0.1, steps=100, warmup=10)
>>> [round(rate(step), 4) for step in (0, 9, 10, 55, 100, 1000)]
[0.0091, 0.0909, 0.1, 0.05, 0.0, 0.0]
>>> optimizer = fastbp.Adam(rate)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from fastbp import _checks

__all__ = ["constant", "cosine", "coslog4", "exponential", "inverse_scaling", "one_cycle", "step"]

Schedule: TypeAlias = Callable[[int], float]


def constant(rate: float, *, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = rate."""
    return _schedule(_constant, rate, warmup)


def step(rate: float, steps: int, *, factor: float = 0.1, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = rate · factor^⌊t / steps⌋: it falls every so many steps."""
    factor = _checks.number("factor", factor, _checks.NOT_NEGATIVE)
    return _schedule(_step, rate, warmup, _steps(steps), factor)


def exponential(rate: float, *, decay: float, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = rate · decay^t."""
    return _schedule(_exponential, rate, warmup, _checks.number("decay", decay, _checks.FRACTION))


def inverse_scaling(rate: float, *, power: float = 0.5, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = rate / (t + 1)^power, scikit-learn's ``invscaling``."""
    return _schedule(_inverse_scaling, rate, warmup, _checks.number("power", power, _checks.NOT_NEGATIVE))


def cosine(rate: float, steps: int, *, final: float = 0.0, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = final + (rate - final) (1 + cos(π t / steps)) / 2, and `final` after that.

    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5, without restarts. The
    steps of `warmup` count among `steps`.
    """
    final = _checks.number("final", final, _checks.NOT_NEGATIVE)
    return _schedule(_cosine, rate, warmup, _remaining(steps, warmup), final)


def one_cycle(rate: float, steps: int, *, rise: float = 0.3, warmup: int = 0) -> Schedule:
    """Return the schedule that goes by half cosines from rate / 25 up to rate, in the first part `rise` of the steps, and down to
    rate / 250 000.

    L. Smith, N. Topin, "Super-convergence", 2018, with the factors of PyTorch's ``OneCycleLR``.
    """
    rise = _checks.number("rise", rise, _checks.FRACTION)
    return _schedule(_one_cycle, rate, warmup, _remaining(steps, warmup), rise)


def coslog4(rate: float, steps: int, *, warmup: int = 0) -> Schedule:
    """Return the schedule rate(t) = rate (1 - cos(2π log₂(1 + 15 t / steps))) / 2: four cycles, each twice as long as the last.

    D. Holzmüller et al., "Better by default: strong pre-tuned MLPs and boosted trees on tabular data", 2024.
    """
    return _schedule(_coslog4, rate, warmup, _remaining(steps, warmup))


# Functions of the step, the last argument -------------------------------------------------------------------


def _constant(rate: float, t: int) -> float:
    return rate


def _step(rate: float, steps: int, factor: float, t: int) -> float:
    return rate * _power(factor, t // steps)


def _exponential(rate: float, decay: float, t: int) -> float:
    return rate * decay**t


def _inverse_scaling(rate: float, power: float, t: int) -> float:
    return float(rate / _power(t + 1, power))


def _cosine(rate: float, steps: int, final: float, t: int) -> float:
    return final + (rate - final) * (1 + math.cos(math.pi * min(t, steps) / steps)) / 2


def _one_cycle(rate: float, steps: int, rise: float, t: int) -> float:
    top = rise * steps
    if t < top:
        return rate / 25 + (rate - rate / 25) * (1 - math.cos(math.pi * t / top)) / 2
    end = rate / 250_000
    done = (min(t, steps) - top) / (steps - top) if steps > top else 1.0
    return end + (rate - end) * (1 + math.cos(math.pi * done)) / 2


def _coslog4(rate: float, steps: int, t: int) -> float:
    return rate * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * min(t, steps) / steps))) / 2


def _power(base: float, exponent: float) -> float:
    """Infinity where no float is large enough, which an optimizer then refuses by the name of its rate."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _warmed_up(warmup: int, schedule: Schedule, t: int) -> float:
    return schedule(0) * (t + 1) / (warmup + 1) if t < warmup else schedule(t - warmup)


def _schedule(formula: Callable[..., float], rate: float, warmup: int, *settings: float) -> Schedule:
    checked = _checks.number("rate", rate, _checks.NOT_NEGATIVE)
    schedule = partial(formula, checked, *settings)
    steps = _warmup(warmup)
    return partial(_warmed_up, steps, schedule) if steps else schedule


def _warmup(warmup: int) -> int:
    return _checks.integer("warmup", warmup, 0, _checks.INT64_MAX, "an integer in [0, 2**63)")


def _steps(steps: int) -> int:
    return _checks.integer("steps", steps, 1, _checks.INT64_MAX, "an integer in [1, 2**63)")


def _remaining(steps: int, warmup: int) -> int:
    """Those that follow the warm-up."""
    if _steps(steps) <= _warmup(warmup):
        raise ValueError(f"steps: got {steps} with warmup={warmup}, expected more than those of the warm-up")
    return steps - warmup
