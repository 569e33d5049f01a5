"""Signals at random moments of a call: python -m campaigns.signals [--signals N] [NAME ...]

What the handler of a signal raises comes out of the call, wherever it was; networks are as after some update, and the next call
is right. A signal that Python drops is sent again, and one that does not end a call within a minute ends the process, with the
stack of every thread.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from collections.abc import Callable
from typing import Any

import interrupts
import numpy as np

import fastbp

SECONDS = 60  # of one call
BATCH = 50  # signals between two looks at the result


def trainings() -> tuple[Callable[[], object], Callable[[], object]]:
    """One epoch of an interrupted training, and what must be true of the network after it."""
    X, y = fastbp.datasets.load_digits()
    net, optimizer = fastbp.MLP([64, 40, 10], seed=0, n_threads=2), fastbp.Adam()

    def look() -> None:
        assert np.isfinite(net.parameters).all()
        assert net.gradients(X[:9], y[:9]).flat.shape == net.parameters.shape
        fresh = [fastbp.MLP([64, 40, 10], seed=1, n_threads=n) for n in (1, 2)]
        for each in fresh:
            each.fit(X[:200], y[:200], epochs=1, optimizer=fastbp.Adam(), progress=False)
        assert fresh[0].parameters.tobytes() == fresh[1].parameters.tobytes()

    return lambda: net.fit(X, y, epochs=1, optimizer=optimizer, progress=False), look


def function(
    name: str, *arrays: np.ndarray, **options: Any
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call, and that it still gives what it gave at first."""
    call = lambda: getattr(fastbp, name)(*arrays, n_threads=2, **options)  # noqa: E731
    first = [np.array(each) for each in call() if each is not None]

    def look() -> None:
        again = [np.array(each) for each in call() if each is not None]
        assert [each.tobytes() for each in again] == [each.tobytes() for each in first]

    return call, look


def works() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    rng = np.random.default_rng(0)
    z, x, w = (rng.standard_normal(shape, np.float32) for shape in ((500, 1000), (300, 50), (50, 600)))
    return {
        "fit": trainings(),
        "softmax_cross_entropy": function("softmax_cross_entropy", z, rng.integers(0, 1000, 500)),
        "linear_softmax_cross_entropy": function(
            "linear_softmax_cross_entropy", x, w, rng.integers(0, 600, 300), max_memory=2**18
        ),
    }


def campaign(names: list[str], signals: int) -> int:
    """How many signals ended a call."""
    total = 0
    for name, (work, look) in works().items():
        if names and name not in names:
            continue
        for first in range(0, signals, BATCH):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            interrupts.interrupt(min(BATCH, signals - first), work, seed=first)
            look()
            total += min(BATCH, signals - first)
        faulthandler.cancel_dump_traceback_later()
        print(f"{name}: {signals} calls ended by a signal", flush=True)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="fit, softmax_cross_entropy, … ; all without"
    )
    parser.add_argument("--signals", type=int, default=3400, help="for each (3400)")
    options = parser.parse_args()
    print(f"{campaign(options.names, options.signals)} signals, all of them answered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
