"""``fastbp check DATA --target NAME``."""

from __future__ import annotations

import argparse
import warnings

import numpy as np

import fastbp
from fastbp.cli.common import (
    about_data,
    about_network,
    learn_target,
    new_network,
    note,
    number,
    plural,
    shape,
)
from fastbp.data import Preparation, read

HELP = "compare the gradient of a new network, on some rows of a table, with differences of its error"

_RIGHT = 1e-7  # below it a gradient is right, see check_gradient


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which data, which network."""
    about_data(parser)
    about_network(parser, hidden="16")
    parser.add_argument(
        "--rows", type=number(int, 1), default=8, metavar="N", help="how many, by chance (default 8)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the largest relative error; 0 if it is as small as it has to be."""
    table = read(options.data)
    target = learn_target(table, options)
    preparation = Preparation.learn(table, target, ignore=options.ignore, categories=options.categories)
    known = target.rows(table)
    rows = np.random.default_rng(options.seed).permutation(known)[: options.rows]
    net = new_network(preparation, options)
    print(f"network: {shape(net)}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        error = fastbp.check_gradient(
            net, preparation.inputs(table, rows).array(), target.targets(table, rows)
        )
    for warning in caught:
        note(options, str(warning.message))
    right = error <= _RIGHT
    print(f"largest relative error of the gradient on {plural(len(rows), 'row')}: {error:.1e}")
    print(f"which is {'right' if right else 'WRONG'}: at most {_RIGHT:.0e} comes of rounding")
    return 0 if right else 1
