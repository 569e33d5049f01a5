"""Tables of rows for people, and one JSON file for programs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import get_precision

from .machine import Peaks
from .race import Row

# A result further from the float64 twin than this many eps is marked: it is not the same computation. Honest
# rounding stays far below (a sum of 4096 products errs by about sqrt(4096) eps).
SUSPECT = 1000
SUSPECT_ROUNDED = {
    "high": 2.0**-12,
    "medium": 2.0**-4,
}  # where float32 products are rounded to pieces of 8 bits
LEFT = 65  # the width of the columns left of the ratios
WELL_KNOWN = "PyTorch"  # the peer that everybody asks about, besides the fastest
JUDGED_BY = {"mnist": "accuracy", "sklearn": "accuracy"}  # where it is not the residual

LEGEND = """\
time: median; spread: half the distance between its quartiles; peak: fraction of the peak measured here;
residual: largest error relative to the largest value, by the float64 NumPy twin ("!": over {limit:.0e},
it is another computation; "-": see the note below the table); accuracy: on the test images;
times faster than: the other's time / this time; best: than the fastest peer;
MB: by how much a call (linear), or a network with its first step (steps of many logits), makes the process grow.
"""


CSV_COLUMNS = (
    *("bench", "dtype", "threads", "processor", "backend", "peak_gflops"),
    *("shape", "contestant", "seconds", "spread", "residual", "accuracy", "memory"),
)


def write_csv(path: Path, tables: Sequence[dict[str, Any]]) -> None:
    """Write a line for each contestant of each shape: times in seconds, memory in bytes, empty where nothing was measured."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        for table in tables:
            machine = table["machine"]
            facts = {
                "processor": machine["processor"],
                "backend": machine["backend"],
                "peak_gflops": f"{table['peaks']['gflops'] or 0:.4g}",
            }
            for row in table["rows"]:
                measured = {name: value for name, value in row.items() if value is not None}
                for name in measured.keys() & {"seconds", "spread", "residual", "accuracy"}:
                    measured[name] = f"{measured[name]:.4g}"
                writer.writerow(table | facts | measured)


def header(facts: dict[str, str]) -> str:
    """Return the lines that describe the machine."""
    return "\n".join(f"{name:10} {value}" for name, value in facts.items())


def limit(dtype: np.dtype) -> float:
    """Return the residual from which on a result is suspect."""
    rounded = SUSPECT_ROUNDED.get(get_precision(), 0.0) if dtype == np.float32 else 0.0
    return max(SUSPECT * float(np.finfo(dtype).eps), rounded)


def legend(dtype: np.dtype) -> str:
    """Return what the columns mean."""
    return LEGEND.format(limit=limit(dtype))


def title(bench: str, dtype: np.dtype, threads: int, peaks: Peaks, others: Sequence[str]) -> str:
    """Return the table's first lines."""
    fma = f"{peaks.gflops:.0f}" if peaks.gflops else "unknown (no kernels)"
    what = f"{bench}, {dtype.name}, {threads} thread{'s' * (threads > 1)}"
    heads = [f"{name:>{_width(name)}}" for name in (["best", *others] if len(others) > 1 else others)]
    return "\n".join(
        (
            f"{what}; peak: {fma} GFLOP/s multiply-add, {peaks.copy_gbs:.1f} GB/s copy",
            f"{'times faster than':>{LEFT + 18}}",
            f"{'':18}{'time':>9} {'spread':>6} {'rate':>15} {'peak':>5} {JUDGED_BY.get(bench, 'residual'):>9}{''.join(heads)}",
        )
    )


def block(rows: Iterable[Row], others: Sequence[str], dtype: np.dtype) -> str:
    """Return the lines of one shape: its name, fastbp's rows, then the other contestants' own times."""
    rows = list(rows)
    lines = [rows[0].shape]
    for row in rows:
        rate = f"{row.rate:.3g} {row.unit}"
        spread = f"±{row.spread:.0%}" if row.samples > 1 else "once"
        line = (
            f"  {row.contestant:16}{_time(row.seconds):>9} {spread:>6} {rate:>15} {_percent(row.of_peak):>5} "
        )
        memory = "" if row.memory is None else f"  {1e-6 * row.memory:.0f} MB"
        lines.append(line + _verdict(row, dtype) + _ratios(row, others) + memory)
    return "\n".join(line.rstrip() for line in lines)


def summary(rows: Sequence[Row], dtype: np.dtype) -> str:
    """Return a line for each of fastbp's rows against the fastest peer and the well-known one; the notes."""
    lines = [f"{'fastbp, times faster than':48} {WELL_KNOWN:>8}  the fastest peer"]
    for row in rows:
        if row.best_peer is None:
            continue
        name = f"{row.shape}, {row.contestant.removeprefix('fastbp').strip()}".rstrip(", ")
        best = f"{row.ratios[row.best_peer]:9.3g} ({row.best_peer})"
        known = row.ratios.get(WELL_KNOWN)
        line = f"  {name:46} {'-' if known is None else f'{known:.3g}':>8} {best:26}"
        lines.append(f"{line} {_percent(row.of_peak):>5} of peak {_verdict(row, dtype)}")
    notes = dict.fromkeys(f"{row.contestant} {row.note}" for row in rows if row.note)
    lines = ["", *lines] if len(lines) > 1 else []
    return "\n".join(line.rstrip() for line in [*lines, *notes, ""])


def _verdict(row: Row, dtype: np.dtype) -> str:
    """Return the accuracy, or the residual, or that there is none."""
    if row.accuracy is not None:
        return f"{row.accuracy:8.2%} "
    if row.residual is None:
        return f"{'-':>8} "
    return f"{row.residual:8.1e}{' ' if row.residual < limit(dtype) else '!'}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def _ratios(row: Row, others: Sequence[str]) -> str:
    """Return the columns of "times faster than": first the best peer, where there are peers."""
    if not row.ours:
        return ""
    ratios = {name: row.ratios.get(name) for name in others}
    if len(others) > 1:
        ratios = {"best": row.ratios[row.best_peer] if row.best_peer else None, **ratios}
    cells = (f"{'-' if ratio is None else f'{ratio:.3g}':>{_width(name)}}" for name, ratio in ratios.items())
    return "".join(cells)


def _width(name: str) -> int:
    """Return the width of the column of a contestant's ratios."""
    return 2 + max(6, len(name))


def _time(seconds: float) -> str:
    """Return three significant digits with a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1.0:
            return f"{seconds * scale:.{3 if seconds * scale < 999.5 else 4}g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
