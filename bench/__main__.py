"""The command line, `python -m bench --help`: one process and one table per number of threads."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, shapes
from .race import HIGHEST, TWIN, Row, Setting
from .timing import Plan

TABLES = ("steps", "losses", "linear", "predict", "mnist", "sklearn", "inverse", "torch", "jax")
PROGRAMS = (
    "options",
    "nielsen",
    "memmap",
    "boosting",
    "executor",
    "sweep",
    "mpi",
    "precision",
)  # which draw or print something else


def main() -> None:
    """Start a process for each number of threads, whose environment and cores hold every library to it."""
    options = _parser().parse_args()
    machine.prefer_compiled()
    if options.worker or options.bench == "install":
        work(options)
        return
    tables: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        part = scratch / "table.json"
        for threads in options.threads:
            command = [sys.executable, "-m", "bench", *sys.argv[1:], "--threads", str(threads)]
            command += ["--json", str(part), "--worker", "next" if tables else "first"]
            environment = machine.environment(threads, options.isa, options.precision, scratch)
            with machine.confined(threads):
                run = subprocess.run(command, env=environment, check=False)
            if run.returncode:
                sys.exit(run.returncode)
            tables.append(json.loads(part.read_text()))
    if options.bench in ("sweep", "mpi"):
        bench = importlib.import_module(f".{options.bench}", __package__)
        bench.draw(tables, options.output or Path(f"{options.bench}.svg"))
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")
    if options.csv:
        from . import report

        report.write_csv(options.csv, tables)


def work(options: argparse.Namespace) -> None:
    """Measure, print and save what was asked for, with one number of threads."""
    if options.bench == "install":
        from . import install

        print(install.report())
        return
    (threads,) = options.threads
    from . import report

    dtype, facts = np.dtype(options.dtype), machine.describe()
    if options.worker == "first":
        print(report.header(facts), end="\n\n")
    run = {name: getattr(options, name) for name in ("bench", "dtype", "quick", "isa", "precision")}
    run |= {"threads": threads, "machine": facts}
    run |= _table(options, dtype, threads) if options.bench in TABLES else _program(options, dtype, threads)
    options.json.write_text(json.dumps(run))


def _table(options: argparse.Namespace, dtype: np.dtype, threads: int) -> dict[str, Any]:
    """Measure and print a row of fastbp and its peers for each shape."""
    from . import peers, report, state

    bench = importlib.import_module(f".{options.bench}", __package__)
    if options.worker == "first":
        print(report.legend(dtype))
    setting = Setting(dtype, threads, machine.measure_peaks(threads, dtype), Plan.of(options.quick, threads))
    named = options.peers or (
        "all" if options.bench in ("torch", "jax") else ""
    )  # a table that is about its peers
    kinds = peers.choose(bench.PEERS, named, options.quick, options.isa)
    own = [HIGHEST] if options.bench == "steps" and options.precision != HIGHEST else []
    others = [TWIN, *own, *(kind.name for kind in kinds)]
    print(report.title(options.bench, dtype, threads, setting.peaks, others), flush=True)
    table: list[Row] = []
    with state.Watch() as watch:
        watch.look()
        for shape in shapes.select(bench.SHAPES, options.only):
            rows = bench.rows(shape, kinds, setting)
            if rows:
                print(report.block(rows, others, dtype), flush=True)
            table += rows
            watch.look()
    print(report.summary(table, dtype))
    print(watch.report(), end="\n\n")
    saved = [{**dataclasses.asdict(row), "best_peer": row.best_peer} for row in table]
    return {"peaks": dataclasses.asdict(setting.peaks), "rows": saved, "state": watch.looks}


def _program(options: argparse.Namespace, dtype: np.dtype, threads: int) -> dict[str, Any]:
    """Measure and print what is no table of contestants."""
    bench = importlib.import_module(f".{options.bench}", __package__)
    print(f"{options.bench}, {dtype.name}, {threads} thread{'s' * (threads > 1)}")
    return {"rows": bench.rows(shapes.select(bench.SHAPES, options.only), dtype, threads, options.quick)}


def _parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed, and the residual beside it.")
    parser.add_argument("bench", choices=(*TABLES, *PROGRAMS, "install"))
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
    parser.add_argument(
        "--precision", choices=tuple(machine.JAX_PRECISION), default="highest", help="hold everyone to it"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", default="", metavar="PATTERN", help="shapes whose name contains it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the picture of sweep or mpi")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there as well")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="a table's rows, which pictures are drawn from"
    )
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
