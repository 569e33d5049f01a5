"""One row of a table: the contestants with their residuals, measured together, set against the peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from fastbp import _backend

from .machine import Peaks
from .timing import Contestant, Plan, measure

TWIN = "NumPy twin"
HIGHEST = "highest"  # fastbp itself in the highest precision, beside one that is held to less


@dataclass(frozen=True)
class Setting:
    """What is the same for all rows of a table."""

    dtype: np.dtype
    threads: int
    peaks: Peaks
    plan: Plan


@dataclass(frozen=True)
class Entry:
    """A contestant, how far its result is from the float64 twin's, and whether it is fastbp itself.

    Whole training is judged by `accuracy` instead, which is asked for after the measurement; what can not be
    judged at all says why in `note`. `memory`: the bytes by which a call, or a network with its first step, made
    the memory of the process grow, at its peak, where that was measured.
    """

    contestant: Contestant
    residual: float | None = None
    ours: bool = False
    accuracy: Callable[[], float] | None = None
    note: str = ""
    memory: int | None = None


@dataclass(frozen=True)
class Work:
    """What a unit of work amounts to: `amount` of `unit` / s · 1e9, and the peak to hold it against."""

    amount: float
    unit: str  # "GFLOP/s" or "GB/s"
    peak: float | None


@dataclass(frozen=True)
class Row:
    """A result. `ratios`: for fastbp, how many times longer every other contestant takes."""

    shape: str
    contestant: str
    ours: bool
    seconds: float
    spread: float
    samples: int
    rate: float
    unit: str
    of_peak: float | None
    residual: float | None
    accuracy: float | None
    note: str
    ratios: dict[str, float] = field(default_factory=dict)
    memory: int | None = None

    @property
    def best_peer(self) -> str | None:
        """The fastest peer, whose ratio is the smallest; what is ours is none."""
        return min(self.ratios.keys() - {TWIN, HIGHEST}, key=self.ratios.__getitem__, default=None)


def race(shape: str, entries: Sequence[Entry], work: Work, plan: Plan) -> list[Row]:
    """Measure the entries interleaved and return their rows, fastbp's first."""
    timings = measure([entry.contestant for entry in entries], plan)
    others = [entry.contestant.name for entry in entries if not entry.ours]

    def row(entry: Entry) -> Row:
        name = entry.contestant.name
        seconds = timings.median(name)
        rate = 1e-9 * work.amount / seconds
        return Row(
            shape=shape,
            contestant=name,
            ours=entry.ours,
            seconds=seconds,
            spread=timings.spread(name),
            samples=timings.samples(name),
            rate=rate,
            unit=work.unit,
            of_peak=rate / work.peak if work.peak else None,
            residual=entry.residual,
            accuracy=entry.accuracy() if entry.accuracy else None,
            note=entry.note,
            ratios={other: timings.ratio(other, name) for other in others} if entry.ours else {},
            memory=entry.memory,
        )

    return sorted((row(entry) for entry in entries), key=lambda r: not r.ours)


Result = TypeVar("Result")


def twin(call: Callable[[], Result], residual: Callable[[Result], float]) -> Entry:
    """Return the entry of the NumPy twin: a public call on the other backend, whose first time is kept."""

    def on_the_twin() -> Result:
        with _backend.use("reference"):
            return call()

    started = time.perf_counter()
    result = on_the_twin()
    contestant = Contestant(TWIN, on_the_twin, first_s=time.perf_counter() - started)
    return Entry(contestant, residual(result))


class Peer(Protocol):
    """What is needed to speak of a peer."""

    name: str


AnyPeer = TypeVar("AnyPeer", bound=Peer)


def try_peers(kinds: Iterable[type[AnyPeer]], entry: Callable[[type[AnyPeer]], Entry]) -> list[Entry]:
    """Return the entries of the peers. One that breaks on this shape is named, and the others go on."""
    entries = []
    for kind in kinds:
        try:
            entries.append(entry(kind))
        except Exception as error:
            print(f"{kind.name} is left out of the next row: {type(error).__name__}: {str(error)[:200]}")
    return entries
