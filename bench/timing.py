"""The method of measurement; nothing here knows what is measured.

- A *sample* is the time of so many calls in a row that it lasts some milliseconds; the number of calls is
  found by trial for each contestant, in the first round.
- A *round* takes one sample of every contestant. The starting contestant moves on by one from round to round
  and every other round runs backwards, so nobody always follows the same predecessor (its caches, its clock
  frequency, its worker threads that still spin).
- Before a sample come a pause, where there are several threads, in which foreign worker threads fall asleep,
  and some calls that are not timed, in which the contestant's own data returns to the caches.
- Every contestant has the same time to spend. A slow one is through after few rounds and sits the others out.
- A time is the median over rounds. A ratio is the median of the ratios *within* each round that both took
  part in: a disturbance that lasts for a round does not touch it. The spread is half the distance between
  the quartiles, relative to the median.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np


@dataclass
class Contestant:
    """One way to do the work of a row; a call does `units` of it.

    `restore` puts inputs back that a call destroys; it runs, untimed, before a sample, then one call.
    `finish` waits, within the time, for work that calls have left under way. `first_s` is the time of the
    call that checked it, where nothing was compiled in it: that of a slow one serves as the first sample.
    """

    name: str
    call: Callable[[], object]
    units: int = 1
    restore: Callable[[], object] | None = None
    finish: Callable[[], object] | None = None
    first_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    sample_s: float = 0.010  # a sample lasts at least this long ...
    budget_s: float = 1.0  # ... and all samples of one contestant about this long together,
    max_rounds: int = 25
    min_rounds: int = 3  # but it takes part in so many rounds, however slow it is
    pause_s: float = 0.0

    @classmethod
    def of(cls, quick: bool, threads: int) -> Plan:
        """Return the plan of a run; its pause outlasts the 0.1 s for which OpenBLAS lets threads spin."""
        pause = 0.15 if threads > 1 else 0.0
        if quick:
            return cls(sample_s=0.004, budget_s=0.5, max_rounds=9, min_rounds=1, pause_s=pause)
        return cls(pause_s=pause)


WARM_UP_LIMIT = 2.0  # s: a slower call refills the caches early on, and needs no untimed one before it


class Timings:
    """Seconds per unit of work, one array over the rounds per contestant, NaN where it sat out."""

    def __init__(self, rounds: dict[str, list[float]]) -> None:
        self._rounds = {name: np.asarray(seconds) for name, seconds in rounds.items()}

    def median(self, name: str) -> float:
        """Return the median time of a unit in seconds."""
        return float(np.nanmedian(self._rounds[name]))

    def spread(self, name: str) -> float:
        """Return half the distance between the quartiles, relative to the median; 0 for one sample."""
        low, middle, high = np.nanquantile(self._rounds[name], [0.25, 0.5, 0.75])
        return float((high - low) / (2.0 * middle))

    def samples(self, name: str) -> int:
        """Return the number of rounds in which the contestant took part."""
        return int(np.count_nonzero(~np.isnan(self._rounds[name])))

    def ratio(self, slow: str, fast: str) -> float:
        """Return how many times longer `slow` takes than `fast`: the median of the ratios of rounds."""
        return float(np.nanmedian(self._rounds[slow] / self._rounds[fast]))


def measure(contestants: Sequence[Contestant], plan: Plan) -> Timings:
    """Measure all contestants, interleaved. Each must have run once before (compiled, checked)."""
    rounds: dict[str, list[float]] = {}
    calls, spent = {}, {}
    for contestant in contestants:  # the first round is the one in which the number of calls is found
        name, started = contestant.name, time.perf_counter()
        calls[name], seconds = _calibrate(contestant, plan)
        rounds[name], spent[name] = [seconds], contestant.first_s + time.perf_counter() - started
    for number in range(1, plan.max_rounds):
        if number >= plan.min_rounds and min(spent.values()) >= plan.budget_s:
            break
        for contestant in _order(contestants, number):
            name, started = contestant.name, time.perf_counter()
            if number >= plan.min_rounds and spent[name] >= plan.budget_s:
                rounds[name].append(np.nan)
                continue
            last = rounds[name][-1] * contestant.units * calls[name]
            time.sleep(plan.pause_s)
            if contestant.restore is None and last < WARM_UP_LIMIT:
                _sample(contestant, 1 + calls[name] // 4)
            rounds[name].append(_sample(contestant, calls[name]))
            spent[name] += time.perf_counter() - started
    return Timings(rounds)


def _order(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Return the order of one round: rotated by its number, backwards in odd ones."""
    start = number % len(contestants)
    rotated = [*contestants[start:], *contestants[:start]]
    return rotated[::-1] if number % 2 else rotated


def _calibrate(contestant: Contestant, plan: Plan) -> tuple[int, float]:
    """Return how many calls fill a sample, growing until they do, and the last sample of these trials."""
    if contestant.first_s > WARM_UP_LIMIT:
        return 1, contestant.first_s / contestant.units
    time.sleep(plan.pause_s)
    calls = 1
    if contestant.restore is None and (unit := _sample(contestant, 1)) * contestant.units > WARM_UP_LIMIT:
        return calls, unit
    while (lasted := calls * contestant.units * (unit := _sample(contestant, calls))) < plan.sample_s:
        if contestant.restore is not None:
            break
        calls = 1 + int(calls * min(10.0, 1.1 * plan.sample_s / lasted))
    return calls, unit


def _sample(contestant: Contestant, calls: int) -> float:
    """Return the seconds of a unit of work, from the time of `calls` calls without the garbage collector."""
    if contestant.restore is not None:
        contestant.restore()
    call = contestant.call
    collecting = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        for _ in repeat(None, calls):
            call()
        if contestant.finish is not None:
            contestant.finish()
        return (time.perf_counter() - started) / (calls * contestant.units)
    finally:
        if collecting:
            gc.enable()
