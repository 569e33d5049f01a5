"""``fastbp demo``."""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np

import fastbp
from fastbp import _backend
from fastbp.cli.common import print_table

HELP = "train a network on handwritten digits, check it, compare it with NumPy"

# The demo: what is trained, and what it has to reach.
_SEED = 0
_LAYER_SIZES = (64, 32, 10)
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _MOMENTUM = 20, 32, 0.3, 0.9
_HELD_OUT = 360  # images, a fifth
_CHECKED = 8  # images for the gradient check, which takes four evaluations for each of the 2 410 parameters
_LEAST_ACCURACY = 0.96
_LARGEST_GRADIENT_ERROR = 1e-7


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


class _Bar(NamedTuple):
    """Something that the demo has to reach."""

    what: str
    result: str
    required: str
    reached: bool

    def row(self) -> tuple[str, ...]:
        return self.what, self.result, self.required, "reached" if self.reached else "MISSED"


def run(options: argparse.Namespace) -> int:
    """Train 64-32-10 on the digits, print how well, how right and how fast; 0 if every bar is reached."""
    start = time.perf_counter()
    x, y, x_test, y_test = _digits()
    shape, kind = "-".join(map(str, _LAYER_SIZES)), "sigmoid hidden units, softmax output, cross-entropy"
    print(f"fastbp {fastbp.__version__}: {shape} ({kind}) on {len(x)} images of digits", flush=True)
    if _backend.name == "reference":
        print(
            "The compiled kernels are not installed or not in use: all of this is the NumPy twin.", flush=True
        )

    net, history = _train(x, y, progress=True)
    bars = [_accuracy(net, x_test, y_test), _gradient(net, x_test[:_CHECKED], y_test[:_CHECKED])]
    table = [("", "instruction set", "training", "ratio", "loss of the last epoch"), _row(history, history)]
    if _backend.name == "native":
        with _backend.use("reference"):
            _, twin_history = _train(x, y, progress=False)
            table.append(_row(twin_history, history))
        bars.append(_agreement(history, twin_history, n_updates=_EPOCHS * -(-len(x) // _BATCH_SIZE)))

    print_table(table)
    print_table([bar.row() for bar in bars])
    print(f"\n  {time.perf_counter() - start:.1f} s in all")
    return 0 if all(bar.reached for bar in bars) else 1


def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The digits in an order fixed by the seed: images and labels to train on, then those held out."""
    x, y = fastbp.datasets.load_digits()
    order = np.random.default_rng(_SEED).permutation(len(x))
    train, test = order[:-_HELD_OUT], order[-_HELD_OUT:]
    return x[train], y[train], x[test], y[test]


def _train(x: np.ndarray, y: np.ndarray, progress: bool) -> tuple[fastbp.MLP, fastbp.History]:
    """The network of the demo, trained on the backend in use."""
    net = fastbp.MLP(_LAYER_SIZES, seed=_SEED)
    sgd = fastbp.SGD(_LEARNING_RATE, momentum=_MOMENTUM)
    history = net.fit(x, y, epochs=_EPOCHS, batch_size=_BATCH_SIZE, optimizer=sgd, progress=progress)
    return net, history


def _row(history: fastbp.History, first: fastbp.History) -> tuple[str, ...]:
    """How the training went on the backend in use, beside the one that went first."""
    native = _backend.native()
    who, isa = ("compiled kernels", native.isa()) if native else ("NumPy twin", "NumPy's own")
    seconds = sum(history.seconds)
    return who, isa, f"{seconds:.3f} s", f"{seconds / sum(first.seconds):.1f}", f"{history.loss[-1]:.6f}"


def _accuracy(net: fastbp.MLP, x: np.ndarray, y: np.ndarray) -> _Bar:
    accuracy = float((net.predict(x) == y).mean())
    what, required = f"accuracy on {len(y)} held-out images", f">= {_LEAST_ACCURACY:.0%}"
    return _Bar(what, f"{accuracy:.2%}", required, accuracy >= _LEAST_ACCURACY)


def _gradient(net: fastbp.MLP, x: np.ndarray, y: np.ndarray) -> _Bar:
    error = fastbp.check_gradient(net, x, y)
    what, required = "gradient check, largest relative error", f"<= {_LARGEST_GRADIENT_ERROR:.0e}"
    return _Bar(what, f"{error:.1e}", required, error <= _LARGEST_GRADIENT_ERROR)


def _agreement(native: fastbp.History, twin: fastbp.History, n_updates: int) -> _Bar:
    difference = abs(native.loss[-1] - twin.loss[-1]) / twin.loss[-1]
    # one rounding of the parameters in each update, all in the same direction
    allowed = n_updates * float(np.finfo(np.float32).eps)
    what = "relative difference of the two losses"
    return _Bar(what, f"{difference:.1e}", f"<= {allowed:.0e}", difference <= allowed)
