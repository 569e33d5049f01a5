"""``fastbp evaluate MODEL DATA``."""

from __future__ import annotations

import argparse

import numpy as np

from fastbp.cli import plots
from fastbp.cli.common import DATA, about_threads, load, note, plural, print_table, read_unseen, see_writable
from fastbp.data import Score

HELP = "say how well a model predicts a table whose target is known"

_MOST_CLASSES = 20  # in a table; a picture takes more


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which data."""
    parser.add_argument("model", metavar="MODEL", help="what train has saved")
    parser.add_argument("data", metavar="DATA", help=f"{DATA}; with the target")
    parser.add_argument(
        "--plot", metavar="PNG", help="a picture of the confusion matrix, or of predictions against targets"
    )
    about_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Print the measures and the confusion matrix, and draw them."""
    see_writable(options.plot, options.model, options.data)
    plots.see_possible(options.plot)
    pipeline, table = load(options), read_unseen(options.data)
    target = pipeline.preparation.target
    rows = target.rows(table)
    if len(rows) < table.n_rows:
        note(options, f"{table.source}: {plural(table.n_rows - len(rows), 'row')} without a target left out")
    score = pipeline.evaluate(table, rows)
    print(f"{table.source}: {plural(score.n_rows, 'row')}, target {target.name!r}")
    print_table(
        [
            (name, f"{value:.2%}" if name == "accuracy" else f"{value:.4g}")
            for name, value in score.measures.items()
        ]
    )
    if score.confusion is not None:
        _print_confusion(score.confusion, target.classes)
    if options.plot:
        _draw(options.plot, score, target.classes, None if target.classes else target.numbers(table)[rows])
    return 0


def _print_confusion(confusion: np.ndarray, classes: tuple[str, ...]) -> None:
    """A line for each class, a column for what it was taken for."""
    if len(classes) > _MOST_CLASSES:
        print(f"\n  the confusion matrix of {len(classes)} classes is for a picture: --plot")
        return
    lines = [(name, *map(str, row)) for name, row in zip(classes, confusion, strict=True)]
    print_table([("true, down; predicted, across", *classes), *lines])


def _draw(path: str, score: Score, classes: tuple[str, ...], wanted: np.ndarray | None) -> None:
    if wanted is not None:
        plots.predictions(path, score.predictions, wanted)
    elif score.confusion is not None:
        plots.confusion(path, score.confusion, classes)
