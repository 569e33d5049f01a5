"""The command line, `python -m bench --help`: one process and one table per number of threads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, shapes
from .timing import Plan


def main() -> None:
    """Start a process for each number of threads, whose environment and cores hold every library to it."""
    options = _parser().parse_args()
    if options.worker:
        machine.prefer_installed()
        work(options)
        return
    tables: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        part = scratch / "table.json"
        for threads in options.threads:
            command = [sys.executable, "-m", "bench", *sys.argv[1:], "--threads", str(threads)]
            command += ["--json", str(part), "--worker", "next" if tables else "first"]
            environment = machine.environment(threads, options.isa, scratch)
            with machine.confined(threads):
                run = subprocess.run(command, env=environment, check=False)
            if run.returncode:
                sys.exit(run.returncode)
            tables.append(json.loads(part.read_text()))
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")


def work(options: argparse.Namespace) -> None:
    """Measure, print and save the table of one number of threads."""
    (threads,) = options.threads
    from . import linear, losses, peers, report, steps
    from .race import TWIN

    bench: Any = {"steps": steps, "losses": losses, "linear": linear}[options.bench]
    dtype, plan, facts = np.dtype(options.dtype), Plan.of(options.quick, threads), machine.describe()
    if options.worker == "first":
        print(report.header(facts), report.legend(dtype), sep="\n\n")
    peaks = machine.measure_peaks(threads, dtype)
    kinds = peers.choose(bench.PEERS, options.peers, options.quick)
    others = [TWIN, *(kind.name for kind in kinds)]
    print(report.title(options.bench, dtype, threads, peaks, others), flush=True)
    table = []
    for shape in shapes.select(bench.SHAPES, options.only):
        rows = bench.rows(shape, kinds, dtype, threads, peaks, plan)
        print(report.block(rows, others, dtype), flush=True)
        table += [{**dataclasses.asdict(row), "best_peer": row.best_peer} for row in rows]
    print()
    run = {name: getattr(options, name) for name in ("bench", "dtype", "quick", "isa")}
    run |= {"threads": threads, "machine": facts, "peaks": dataclasses.asdict(peaks), "rows": table}
    options.json.write_text(json.dumps(run))


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed, and the residual beside it.")
    parser.add_argument("bench", choices=("steps", "losses", "linear"))
    parser.add_argument(
        "--peers",
        nargs="?",
        const="all",
        default="",
        metavar="NAMES",
        help="measure other libraries as well: all that are installed, or those named, e.g. torch,jax",
    )
    parser.add_argument("--threads", type=_counts, default=[1, 2], metavar="1,2", help="a table for each")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--isa", choices=sorted(machine.ISA_ENVIRONMENT), help="hold everyone to it")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", default="", metavar="PATTERN", help="shapes whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there as well")
    parser.add_argument("--worker", choices=("first", "next"), help=argparse.SUPPRESS)
    return parser


def _counts(text: str) -> list[int]:
    """Read "1,2"."""
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers of threads, e.g. 1,2")
    return counts


if __name__ == "__main__":
    main()
