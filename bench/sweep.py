"""Sweeps: the time of a training step over every number of hidden units, and over every number of examples.

All points are measured interleaved, as the contestants of one row are, so a disturbance does not draw a cliff.
A *cliff* is a point whose time exceeds that of some larger point by more than a tenth: there, more work would
take less time. A *jump* is a point that takes more than a tenth longer than the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .problems import StepProblem
from .shapes import StepShape
from .steps import Check, fastbp_step
from .timing import Plan, measure

LARGEST = 130  # beyond two vectors of 64 and their remainders
TOLERANCE = 1.10
SAMPLE_S, ROUNDS, QUICK_ROUNDS = 0.001, 21, 7


@dataclass(frozen=True)
class Sweep:
    """Shapes that grow by one, from 1."""

    name: str
    axis: str
    shapes: tuple[StepShape, ...]


SIZES = range(1, LARGEST + 1)
SHAPES = (
    Sweep("64-H-10 batch 64", "hidden units H", tuple(StepShape((64, h, 10), 64) for h in SIZES)),
    Sweep("64-64-10 batch B", "examples B in a batch", tuple(StepShape((64, 64, 10), b) for b in SIZES)),
)


@dataclass(frozen=True)
class Curve:
    """A sweep as measured: seconds at 1, 2, 3, ...; the worst residual of all points."""

    name: str
    axis: str
    seconds: list[float]
    residual: float

    @property
    def cliffs(self) -> list[tuple[int, int, float]]:
        """(point, the fastest larger one, how many times longer the smaller takes) wherever that is too many."""
        found = []
        for index in range(len(self.seconds) - 1):
            larger = index + 1 + int(np.argmin(self.seconds[index + 1 :]))
            ratio = self.seconds[index] / self.seconds[larger]
            if ratio > TOLERANCE:
                found.append((index + 1, larger + 1, ratio))
        return found

    @property
    def jumps(self) -> list[tuple[int, int, float]]:
        """(point, the one before, how many times longer the larger takes) wherever that is too many."""
        ratios = np.divide(self.seconds[1:], self.seconds[:-1])
        return [(n + 1, n, float(ratio)) for n, ratio in enumerate(ratios, start=1) if ratio > TOLERANCE]


def curve(sweep: Sweep, dtype: np.dtype, threads: int, quick: bool) -> Curve:
    """Check and measure all points of a sweep."""
    contestants, residuals = [], []
    for shape in sweep.shapes:
        problem = StepProblem(shape, dtype, threads)
        entry = fastbp_step(problem, Check(problem))
        contestants.append(replace(entry.contestant, name=shape.name))
        residuals.append(entry.residual)
    plan = Plan(sample_s=SAMPLE_S, budget_s=np.inf, max_rounds=QUICK_ROUNDS if quick else ROUNDS)
    timings = measure(contestants, plan)
    seconds = [timings.median(contestant.name) for contestant in contestants]
    return Curve(sweep.name, sweep.axis, seconds, max(residuals))


def text(curve: Curve) -> str:
    """Return the curve in numbers: its ends, its cliffs and jumps."""
    ends = ", ".join(f"{curve.seconds[n - 1] * 1e6:.3g} µs at {n}" for n in (1, len(curve.seconds)))
    lines = [f"{curve.name}: {ends}; worst residual {curve.residual:.1e}"]
    percent = f"{TOLERANCE - 1:.0%}"
    for what, points in ((f"cliffs: {percent} above a larger one", curve.cliffs),
                         (f"jumps: {percent} above the one before", curve.jumps)):  # fmt: skip
        listed = ", ".join(f"{n} (×{ratio:.2f} of {other})" for n, other, ratio in points)
        lines.append(f"  {what}: {listed or 'none'}")
    return "\n".join(lines)


def draw(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curves of all tables, a panel for each sweep and a line for each number of threads."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    names = [curve["name"] for curve in tables[0]["rows"]]
    figure = Figure(figsize=(9, 3.5 * len(names)), layout="constrained")
    for panel, axes in enumerate(figure.subplots(len(names), squeeze=False)[:, 0]):
        for table in tables:
            line = Curve(**table["rows"][panel])
            microseconds = np.multiply(line.seconds, 1e6)
            threads = f"{table['threads']} thread{'s' * (table['threads'] > 1)}"
            axes.plot(range(1, len(microseconds) + 1), microseconds, ".-", label=threads)
            marked = [n for n, _, _ in line.cliffs]
            axes.plot(marked, microseconds[np.subtract(marked, 1).astype(int)], "rx")
        axes.set(title=line.name, xlabel=line.axis, ylabel="µs a step", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"fastbp step, {tables[0]['dtype']}; × marks a cliff")
    figure.savefig(path)
    print(f"drawn in {path}")


def rows(sweeps: Sequence[Sweep], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print every sweep."""
    curves = []
    for sweep in sweeps:
        curves.append(curve(sweep, dtype, threads, quick))
        print(text(curves[-1]), flush=True)
    return [asdict(curve) for curve in curves]
