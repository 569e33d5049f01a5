"""``fastbp predict MODEL DATA``."""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastbp.cli.common import DATA, about_threads, load, read_unseen, see_writable
from fastbp.data import DataError, Pipeline, Table
from fastbp.replacing import replacing

HELP = "predict the rows of a table: a header line, then one line a row"

_SPOOL = 1 << 24  # characters: more wait in a file


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which data."""
    parser.add_argument("model", metavar="MODEL", help="what train has saved")
    parser.add_argument("data", metavar="DATA", help=DATA)
    parser.add_argument("--output", metavar="CSV", help="the file to write (default: standard output)")
    parser.add_argument("--probabilities", action="store_true", help="also that of each class")
    about_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Write the predictions."""
    see_writable(options.output, options.model, options.data)
    pipeline = load(options)
    if options.probabilities and not pipeline.preparation.target.classes:
        raise DataError("--probabilities: the model predicts numbers, not classes", source=options.model)
    lines = _lines(pipeline, read_unseen(options.data), options.probabilities)
    if options.output is None:
        if sys.stdout is None:
            raise DataError("standard output is closed")
        with tempfile.SpooledTemporaryFile(_SPOOL, "w+", encoding="utf-8", newline="") as spool:
            _write(spool, lines)  # all of it, before any of it is seen
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout)
        return 0
    with replacing(options.output) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        _write(text, lines)
        text.detach()
    return 0


def _lines(pipeline: Pipeline, table: Table, probabilities: bool) -> Iterator[Iterable[str]]:
    """The header, and then a line for each row."""
    target = pipeline.preparation.target
    yield [target.name, *(f"p({name})" for name in target.classes if probabilities)]
    for predictions, outputs in pipeline.blocks(table):
        texts = predictions if target.classes else _written(predictions)
        yield from zip(texts, *(_written(column) for column in outputs.T if probabilities), strict=True)


def _written(numbers: np.ndarray) -> list[str]:
    return [f"{x:.6g}" for x in numbers.tolist()]


def _write(file: Any, lines: Iterable[Iterable[str]]) -> None:
    csv.writer(file, lineterminator="\n").writerows(lines)
    file.flush()
