"""The state of the machine beside a table: the rates of a core's units before, between and after the rows.

On rented machines they depend on who shares the core, and on limits of power: what they were says how far a table holds.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Self

PROGRAM = Path(__file__).with_name("unit_rates.c")
MULTIPLY_ADDS = "float32 multiply-adds"
SAMPLE = 200_000  # repetitions of the multiply-adds of a sample, a few milliseconds


class Watch:
    """Looks at the rates of one core, in GFLOP/s, as often as it is asked to."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.program = self._compiled()
        self.looks: list[dict[str, float]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    def _compiled(self) -> Path | None:
        """Return the program that measures the units of bfloat16; None without a compiler, or for another processor."""
        compiler, target = shutil.which("cc"), Path(self.folder.name, "unit_rates")
        if compiler is None or not PROGRAM.exists():
            return None
        made = subprocess.run([compiler, "-O2", PROGRAM, "-o", target], capture_output=True, check=False)
        return target if made.returncode == 0 else None

    def look(self) -> None:
        """Measure once."""
        rates = {}
        try:
            from fastbp._kernels import fma_rate
        except ImportError:
            pass
        else:
            rates[MULTIPLY_ADDS] = max(fma_rate(4, SAMPLE) for _ in range(3))
        if self.program:
            done = subprocess.run([self.program], capture_output=True, text=True, check=False)
            rates |= {name: float(rate) for name, rate in map(str.split, done.stdout.splitlines())}
        self.looks.append(rates)

    def report(self) -> str:
        """Return a line for each unit; the first look is before the table, the last one after it."""
        first, *between, last = self.looks if len(self.looks) > 1 else self.looks * 2
        lines = [
            "state of the machine, GFLOP/s of a core: before | between the rows, lowest, median, highest | after"
        ]
        for name in first:
            rates = [look[name] for look in between or [first, last] if name in look]
            low, middle, high = min(rates), median(rates), max(rates)
            lines.append(
                f"  {name:22} {first[name]:6.0f} | {low:6.0f} {middle:6.0f} {high:6.0f} | {last[name]:6.0f}"
            )
        if not any(name.startswith("tiles") for name in first):
            lines.append("  no tile unit here")
        return "\n".join(lines)
