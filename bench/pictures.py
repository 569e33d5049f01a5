"""Pictures of tables, from what `--csv` wrote: python -m bench.pictures docs/measurements/steps.csv docs/_static/steps.svg

A picture has a line of bars for each shape: how many times as long as fastbp each of the others takes, one thread each.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "fastbp"  # the same file from the same numbers
import matplotlib.pyplot as plt  # noqa: E402

from .race import TWIN  # noqa: E402

INK = "#7a8290"  # readable on white and in the dark


def ratios(path: Path, threads: str = "1") -> dict[str, dict[str, float]]:
    """For each shape, the times of all contestants but the twin by that of fastbp's first row."""
    table: dict[str, dict[str, float]] = {}
    ours: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["threads"] != threads or row["contestant"] == TWIN:
                continue
            if row["contestant"].startswith("fastbp"):
                ours.setdefault(row["shape"], float(row["seconds"]))
            else:
                table.setdefault(row["shape"], {})[row["contestant"]] = float(row["seconds"])
    return {shape: {name: t / ours[shape] for name, t in times.items()} for shape, times in table.items()}


def draw(path: Path, picture: Path) -> None:
    """One row of bars a shape, on a logarithmic scale that begins at 1, where fastbp is."""
    table = ratios(path)
    names = list(dict.fromkeys(name for times in table.values() for name in times))
    height = 0.8 / len(names)
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.17 * len(names) * len(table)), layout="constrained")
    for k, name in enumerate(names):
        places = [i + (k - (len(names) - 1) / 2) * height for i in range(len(table))]
        lengths = [times.get(name, 1.0) - 1 for times in table.values()]
        bars = axes.barh(places, lengths, 0.9 * height, left=1, label=name)
        axes.bar_label(
            bars,
            [f"{times[name]:.3g}" if name in times else "" for times in table.values()],
            padding=2,
            fontsize=7,
            color=INK,
        )
    axes.axvline(1, color=INK)
    axes.set(
        xscale="log",
        yticks=range(len(table)),
        yticklabels=list(table),
        xlabel="times as long as fastbp, one thread each",
    )
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(picture, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
