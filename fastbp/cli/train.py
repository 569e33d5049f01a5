"""``fastbp train DATA --target NAME``."""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

import numpy as np

from fastbp.cli import plots
from fastbp.cli.common import (
    about_data,
    about_network,
    learn_target,
    measures,
    new_network,
    note,
    number,
    plural,
    see_writable,
    shape,
)
from fastbp.cli.processes import Alone, Processes
from fastbp.data import DataError, Pipeline, Preparation, Score, Table, Target, read, split
from fastbp.data.readers import read_share
from fastbp.data.tables import ArrayTable
from fastbp.history import History
from fastbp.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop

HELP = "train a network on a table, and say how well it predicts rows that it has not seen"

_OPTIMIZERS = {
    "sgd": SGD, "rmsprop": RMSprop, "adagrad": Adagrad, "adam": Adam, "adamw": AdamW, "lion": Lion, "muon": Muon,
}  # fmt: skip
_RATES = (
    float(np.finfo(np.float32).tiny),
    float(np.finfo(np.float32).max),
)  # that parameters can be changed by


def arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said about a training."""
    about_data(parser)
    about_network(parser, hidden="100")
    add = parser.add_argument
    add("--output", metavar="MODEL", help="the file to keep the model in; by default it is not kept")
    add("--plot", metavar="PNG", help="a picture of the training to draw, also .pdf or .svg")
    add("--epochs", type=number(int, 1), default=20, metavar="N", help="(default 20)")
    add("--batch-size", type=number(int, 1), default=32, metavar="N", help="rows in an update (default 32)")
    add("--optimizer", choices=_OPTIMIZERS, default="adam", help="(default adam)")
    add(
        "--learning-rate",
        type=number(float, *_RATES),
        metavar="X",
        help="(default 0.001 of adam and adamw, 0.1 of sgd, 0.01 of rmsprop and adagrad, 0.0001 of lion, 0.02 of muon)",
    )
    add(
        "--validation-fraction", type=number(float, 0, 1), default=0.2, metavar="X",
        help="of the rows, held out for the score (default 0.2); a folder of IDX files has test rows of its own",
    )  # fmt: skip
    add(
        "--mpi", action="store_true",
        help="train together with the other processes that mpiexec has started, each on its share of the rows",
    )  # fmt: skip
    add("--quiet", action="store_true", help="no progress and no report")


def run(options: argparse.Namespace) -> int:
    """Read, prepare, train, score, draw, save."""
    processes = Processes() if options.mpi else Alone()
    report = _nothing if options.quiet or processes.rank else print
    found = processes.alike(lambda: None if processes.rank else _learned(options))
    data = processes.told(None if found is None else found[1])
    assert data is not None
    table = processes.alike(lambda: _share(options, data, processes) if found is None else found[0])
    pipeline = Pipeline(new_network(data.preparation, options), data.preparation)
    if not processes.rank:
        _note_what_is_left_out(options, table, pipeline.preparation)
    report(f"{table.source}: {plural(table.n_rows, 'row')}, {_described(pipeline.preparation.target)}")
    report(f"network: {shape(pipeline.net)}")

    history = processes.alike(lambda: _fit(pipeline, table, data, options, processes))
    if processes.rank:
        return 0
    if history.stopped.startswith("interrupted"):
        raise KeyboardInterrupt
    seconds = sum(history.seconds)
    epochs = plural(len(history), "epoch")
    report(
        f"trained on {plural(len(data.rows), 'row')}: {epochs}, loss {history.loss[-1]:.4g}, {seconds:.2f} s"
    )
    score = _score(pipeline, table, data.held_out)
    if score:
        report(f"held out, {plural(score.n_rows, 'row')}: {measures(score)}")
    if options.plot:
        plots.curves(options.plot, history, score)
        report(f"drawn in {options.plot}")
    if options.output:
        pipeline.training = _facts(options, len(data.rows), history, score)
        pipeline.save(options.output)
        report(f"saved as {options.output}")
    return 0


class _Data(NamedTuple):
    """What is to be known of a table, also by those who read but a share of it."""

    preparation: Preparation
    rows: np.ndarray
    """To train on,"""
    held_out: np.ndarray
    """and not."""
    n_rows: int
    has_test: bool


def _learned(options: argparse.Namespace) -> tuple[Table, _Data]:
    """The table, and what its columns mean."""
    see_writable(options.output, options.data)
    see_writable(options.plot, options.data)
    if options.plot and options.output and os.path.realpath(options.plot) == os.path.realpath(options.output):
        raise DataError("--plot and --output name one file, expected two", source=options.output)
    plots.see_possible(options.plot)
    table = read(options.data)
    target = learn_target(table, options)
    rows, held_out = split(table, target, 0 if table.test else options.validation_fraction, options.seed)
    preparation = Preparation.learn(
        table, target, ignore=options.ignore, categories=options.categories, rows=rows
    )
    return table, _Data(preparation, rows, held_out, table.n_rows, table.test is not None)


def _share(options: argparse.Namespace, data: _Data, processes: Alone) -> Table:
    """What another process than the first one reads."""
    if options.data == "-":
        raise DataError("one process alone can read it, expected a file", source="standard input")
    return read_share(options.data, processes.range(data.n_rows) or range(1))


def _nothing(text: str) -> None:
    """No report."""


def _described(target: Target) -> str:
    if target.classes:
        return f"target {target.name!r}: classification, {len(target.classes)} classes"
    return f"target {target.name!r}: {target.task}"


def _note_what_is_left_out(options: argparse.Namespace, table: Table, preparation: Preparation) -> None:
    n_without = table.n_rows - len(preparation.target.rows(table))
    if n_without:
        note(options, f"{table.source}: {plural(n_without, 'row')} without a target left out")
    if table.n_unnamed:
        note(options, f"{table.source}: {plural(table.n_unnamed, 'column')} without a name left out")
    if isinstance(table, ArrayTable):
        return  # images have constant pixels at their borders
    used = {preparation.target.name, *preparation.names, *options.ignore}
    for name in table.names:
        if name not in used:
            note(options, f"{table.source}: column {name!r} has no value: left out")
    numbers = preparation.numbers
    for name, factor, flagged in zip(numbers.names, numbers.factor, numbers.flagged, strict=True):
        if not factor and not flagged:
            note(options, f"{table.source}: column {name!r} is constant: nothing is learned of it")


def _fit(
    pipeline: Pipeline, table: Table, data: _Data, options: argparse.Namespace, processes: Alone
) -> History:
    """Train; where it is to be drawn, with a look at what is held out after each epoch, which is with the first process."""
    prepared, validation = pipeline.preparation, None
    if options.plot and (data.has_test or len(data.held_out)):
        source = table.test or table
        seen = prepared.target.rows(source) if table.test else data.held_out
        seen = seen[:0] if processes.rank else seen
        validation = prepared.inputs(source, seen).array(), prepared.target.targets(source, seen)
    rows = processes.share(data.rows, data.n_rows) - table.first_row
    rate = {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
    return pipeline.net.fit(
        pipeline.preparation.inputs(table, rows).array(),
        pipeline.preparation.target.targets(table, rows),
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=_OPTIMIZERS[options.optimizer](**rate),
        progress=not options.quiet,
        validation_data=validation,
        comm=processes.comm,
    )


def _score(pipeline: Pipeline, table: Table, held_out: np.ndarray) -> Score | None:
    """How well what was held out is predicted; None where nothing was."""
    if table.test:
        return pipeline.evaluate(table.test)
    return pipeline.evaluate(table, held_out) if len(held_out) else None


def _facts(
    options: argparse.Namespace, n_rows: int, history: History, score: Score | None
) -> dict[str, object]:
    """What is worth knowing about a training later."""
    facts = {
        "rows": n_rows,
        "epochs": len(history),
        "batch_size": options.batch_size,
        "optimizer": options.optimizer,
    }
    facts |= {"loss": history.loss[-1], "held_out": measures(score) if score else ""}
    return facts
