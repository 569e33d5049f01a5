"""What several commands share: arguments, and how they read, tell and write."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastbp.activations import ACTIVATIONS
from fastbp.data import TASKS, DataError, Pipeline, Preparation, Score, Table, Target, read
from fastbp.data.tables import TARGET, ArrayTable
from fastbp.model import MLP

DATA = "CSV, Parquet or .npz (X, y) file, folder of IDX files, or - for standard input"


# Arguments --------------------------------------------------------------------------------------------------


def number(kind: type[int] | type[float], least: float, below: float = math.inf) -> Callable[[str], float]:
    """The type of an argument that is a number of that kind in [least, below)."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value < below:
            range_ = f">= {least:g}" + (f" and < {below:g}" if below < math.inf else "")
            raise argparse.ArgumentTypeError(f"got {text}, expected a number {range_}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # which argparse puts into its own message
    return parse


def layers(text: str) -> list[int]:
    """The units of hidden layers, as in ``100,50``; none for ``none``."""
    sizes = [] if text == "none" else text.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected units as in 100,50, or none")
    return [int(size) for size in sizes]


def about_data(parser: argparse.ArgumentParser) -> None:
    """What is learned from the data."""
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument(
        "--target", metavar="NAME", help="the column to predict; of .npz and IDX files it is y"
    )
    parser.add_argument(
        "--task", choices=TASKS, help="by default by the target: text and few whole numbers are classes"
    )
    for name, help_ in (
        ("--ignore", "a column to leave out"),
        ("--categories", "a column whose numbers are names, as postal codes are"),
    ):
        parser.add_argument(
            name, metavar="NAME", action="append", default=[], help=f"{help_}; may be given again"
        )


def about_network(parser: argparse.ArgumentParser, hidden: str) -> None:
    """Which network there is to be."""
    add = parser.add_argument
    add(
        "--hidden",
        type=layers,
        default=hidden,
        metavar="N,N…",
        help=f"units of the hidden layers, or none (default {hidden})",
    )
    add("--activation", choices=ACTIVATIONS, default="relu", help="of the hidden layers (default relu)")
    add(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="determines everything left to chance (default 0)",
    )
    about_threads(parser)


def about_threads(parser: argparse.ArgumentParser) -> None:
    """How many threads there are to be."""
    parser.add_argument(
        "--threads", type=number(int, 1), metavar="N", help="the most to use (default: all cores)"
    )


# Reading ----------------------------------------------------------------------------------------------------


def learn_target(table: Table, options: argparse.Namespace) -> Target:
    """The target that the options name."""
    name = options.target or (TARGET if isinstance(table, ArrayTable) else None)
    if name is None:
        shown = ", ".join(table.names[:12]) + (" …" if len(table.names) > 12 else "")
        raise table.error(f"--target is missing, expected one of the columns {shown}")
    return Target.learn(table, name, options.task, as_text=name in options.categories)


def new_network(preparation: Preparation, options: argparse.Namespace) -> MLP:
    """The network that the options describe."""
    sizes = [preparation.width, *options.hidden, preparation.target.n_outputs]
    loss, activation = preparation.target.loss, options.activation
    return MLP(sizes, activation=activation, loss=loss, seed=options.seed, n_threads=options.threads)


def load(options: argparse.Namespace) -> Pipeline:
    """The model that the options name."""
    pipeline = Pipeline.load(options.model)
    pipeline.net.n_threads = options.threads
    return pipeline


def read_unseen(path: str) -> Table:
    """A table of rows to predict: the part for testing, if there is one."""
    table = read(path)
    return table.test or table


# Telling ----------------------------------------------------------------------------------------------------


def note(options: argparse.Namespace, text: str) -> None:
    """Something that the user may not expect, on standard error."""
    print(f"fastbp {options.command}: note: {text}", file=sys.stderr)


def plural(n: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def shape(net: MLP) -> str:
    """The network in a few words."""
    sizes = "-".join(map(str, net.layer_sizes))
    return f"{sizes}, {net.activation}, {net.loss_name}, {plural(net.parameters.size, 'parameter')}"


def measures(score: Score) -> str:
    """The measures of a score in a line."""
    return ", ".join(
        f"{name} {value:.2%}" if name == "accuracy" else f"{name} {value:.4g}"
        for name, value in score.measures.items()
    )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """The rows after an empty line, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for first, *others in rows:
        cells = [
            f"{first:{widths[0]}}",
            *(f"{cell:>{n}}" for cell, n in zip(others, widths[1:], strict=True)),
        ]
        print("  " + "   ".join(cells).rstrip())


# Writing ----------------------------------------------------------------------------------------------------


def see_writable(path: str | None, *inputs: str) -> None:
    """See that a file can be written before there is anything to write, and that it is none of the inputs."""
    if path is None:
        return
    folder = Path(path).resolve().parent
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError("is no regular file", source=path)
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if any(
        os.path.exists(other) and os.path.exists(path) and os.path.samefile(path, other) for other in inputs
    ):
        raise DataError("would be written over what is read", source=path)
