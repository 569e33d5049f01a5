"""The command line: ``fastbp demo``, ``fastbp config``, ``fastbp --version``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import fastbp
from fastbp import _backend

__all__ = ["main"]

# The demo: what is trained, and what it has to reach.
_SEED = 0
_LAYER_SIZES = (64, 32, 10)
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _MOMENTUM = 20, 32, 0.3, 0.9
_HELD_OUT = 360  # images, a fifth
_CHECKED = 8  # images for the gradient check, which takes four evaluations for each of the 2 410 parameters
_LEAST_ACCURACY = 0.96
_LARGEST_GRADIENT_ERROR = 1e-7


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the program's own); return the exit status."""
    description = "Train dense neural networks on the CPU, from NumPy."
    parser = argparse.ArgumentParser(prog="fastbp", description=description)
    parser.add_argument("--version", action="version", version=f"fastbp {fastbp.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("demo", help="train a network on handwritten digits, check it, compare it with NumPy")
    commands.add_parser("config", help="show version, backend, instruction set, threads and compiler")
    command = parser.parse_args(argv).command
    try:
        return demo() if command == "demo" else config()
    except KeyboardInterrupt:
        print("\ninterrupted")
        return 130  # what a shell reports after Ctrl-C


def config() -> int:
    """Show what :func:`fastbp.show_config` shows."""
    fastbp.show_config()
    return 0


class _Line(NamedTuple):
    """A line of the demo's table."""

    what: str
    result: str
    required: str = ""
    reached: bool = True


def demo() -> int:
    """Train 64-32-10 on the digits and print how well, how right and how fast; 0 if every bar is reached."""
    start = time.perf_counter()
    x, y, x_test, y_test = _digits()
    shape = "-".join(map(str, _LAYER_SIZES))
    kind = "sigmoid hidden units, softmax output, cross-entropy"
    print(f"fastbp {fastbp.__version__}: {shape} ({kind}) on {len(x)} images of digits")
    native = _backend.name == "native"
    if not native:
        print("The compiled kernels are not installed or not in use: everything runs on the NumPy twin.")

    net, history = _train(x, y, progress=True)
    gradient_error = fastbp.check_gradient(net, x_test[:_CHECKED], y_test[:_CHECKED])
    hits = int((net.predict(x_test) == y_test).sum())
    lines = [
        _Line(
            f"accuracy on {len(y_test)} held-out images",
            f"{hits / len(y_test):.2%}",
            f">= {_LEAST_ACCURACY:.0%}",
            hits >= _LEAST_ACCURACY * len(y_test),
        ),
        _Line(
            "gradient check, largest relative error",
            f"{gradient_error:.1e}",
            f"<= {_LARGEST_GRADIENT_ERROR:.0e}",
            gradient_error <= _LARGEST_GRADIENT_ERROR,
        ),
    ]
    if native:
        with _backend.use("reference"):
            _, twin_history = _train(x, y, progress=False)
        lines += _side_by_side(history, twin_history, n_updates=_EPOCHS * -(-len(x) // _BATCH_SIZE))
        lines.append(_Line("instruction set", _backend.kernels.isa()))
    else:
        lines.append(_Line("training on the NumPy twin", f"{sum(history.seconds):.3f} s"))
        lines.append(_Line("final loss", f"{history.loss[-1]:.6f}"))
        lines.append(_Line("instruction set", "that of NumPy"))
    lines.append(_Line("all of this", f"{time.perf_counter() - start:.1f} s"))
    _print_table(lines)
    return 0 if all(line.reached for line in lines) else 1


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


def _side_by_side(native: fastbp.History, twin: fastbp.History, n_updates: int) -> list[_Line]:
    """The same training on the kernels and on the NumPy twin."""
    seconds, twin_seconds = sum(native.seconds), sum(twin.seconds)
    difference = abs(native.loss[-1] - twin.loss[-1]) / twin.loss[-1]
    # one rounding of the parameters in each update, all in the same direction
    allowed = n_updates * float(np.finfo(np.float32).eps)
    return [
        _Line("training on the compiled kernels", f"{seconds:.3f} s"),
        _Line("training on the NumPy twin", f"{twin_seconds:.3f} s"),
        _Line("ratio", f"{twin_seconds / seconds:.1f} x"),
        _Line("final loss on the compiled kernels", f"{native.loss[-1]:.6f}"),
        _Line("final loss on the NumPy twin", f"{twin.loss[-1]:.6f}"),
        _Line("relative difference", f"{difference:.1e}", f"<= {allowed:.0e}", difference <= allowed),
    ]


def _print_table(lines: Sequence[_Line]) -> None:
    what, result, required = (max(len(line[column]) for line in lines) for column in range(3))
    print()
    for line in lines:
        verdict = "" if not line.required else "reached" if line.reached else "MISSED"
        cells = f"{line.what:{what}}", f"{line.result:>{result}}", f"{line.required:{required}}", verdict
        print("  " + "  ".join(cells).rstrip())
