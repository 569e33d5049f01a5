"""``fastbp info MODEL``."""

from __future__ import annotations

import argparse

from fastbp.cli.common import shape
from fastbp.data import Pipeline, Preparation

HELP = "tell what a model predicts, from what, and how it was trained"

_FACTS = (
    "rows",
    "epochs",
    "batch_size",
    "optimizer",
    "loss",
    "held_out",
)  # in this order, where they are known
_MOST = 10  # names in a line


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model."""
    parser.add_argument("model", metavar="MODEL", help="what train has saved")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    pipeline = Pipeline.load(options.model)
    target, training = pipeline.preparation.target, pipeline.training
    print(f"{options.model}: predicts {target.name!r}, {target.task}")
    lines = [("classes", _listed(target.classes))] if target.classes else []
    lines += _inputs(pipeline.preparation)
    lines += [("network", shape(pipeline.net))]
    lines += [(name.replace("_", " "), _text(training[name])) for name in _FACTS if training.get(name)]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"  {name:{width}}  {text}")
    return 0


def _inputs(preparation: Preparation) -> list[tuple[str, str]]:
    numbers = preparation.numbers
    flagged = tuple(name for name, flag in zip(numbers.names, numbers.flagged, strict=True) if flag)
    lines = [("numbers", _listed(numbers.names))] if numbers.names else []
    lines += [("may be missing", _listed(flagged))] if flagged else []
    return lines + [("category", f"{each.name}: {_listed(each.values)}") for each in preparation.categories]


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
