"""Two builds of fastbp in turn: `python -m bench.builds OLD NEW`, each the folder that holds the package `fastbp`.

A process for each build makes every call of `CASES`; samples alternate between the two, so that a disturbance meets both. Their
ratio, new over old, is the median within the rounds of a pair of processes, and what is printed is the median over the pairs and
their extremes: where memory happens to lie differs from process to process by a few per cent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import IO, Any

import numpy as np

SAMPLE_S, ROUNDS = 0.01, 15


def _step(sizes: list[int], batch: int, optimizer: str = "SGD") -> Callable[[], object]:
    import fastbp

    rng = np.random.default_rng(0)
    net = fastbp.MLP(sizes, seed=0, n_threads=1)
    x = rng.standard_normal((batch, sizes[0])).astype(np.float32)
    t, rule = rng.integers(0, sizes[-1], batch), getattr(fastbp, optimizer)(1e-3)
    return lambda: net.step(x, t, rule)


def _fit(sizes: list[int], batch: int) -> Callable[[], object]:
    import fastbp

    rng = np.random.default_rng(0)
    net = fastbp.MLP(sizes, seed=0, n_threads=1)
    x = rng.standard_normal((64 * batch, sizes[0])).astype(np.float32)
    t, rule = rng.integers(0, sizes[-1], len(x)), fastbp.SGD(1e-3)
    return lambda: net.fit(x, t, epochs=1, batch_size=batch, optimizer=rule, progress=False)


def _cross_entropy(n: int, classes: int, **options: Any) -> Callable[[], object]:
    import fastbp

    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, classes)).astype(np.float32)
    labels, grad = rng.integers(0, classes, n), np.empty_like(z)
    if options:
        options |= {"class_weight": rng.uniform(0.5, 2, classes), "sample_weight": rng.uniform(0.5, 2, n)}
    return lambda: fastbp.softmax_cross_entropy(z, labels, grad_out=grad, n_threads=1, **options)


def _elementwise(name: str) -> Callable[[], object]:
    import fastbp

    rng = np.random.default_rng(0)
    z = rng.standard_normal((256, 1000)).astype(np.float32)
    t, grad = rng.uniform(0, 1, z.shape).astype(np.float32), np.empty_like(z)
    return lambda: getattr(fastbp, name)(z, t, grad_out=grad, n_threads=1)


def _linear(n: int, i: int, o: int, dtype: str = "float32") -> Callable[[], object]:
    import fastbp

    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((n, i), (i, o)))
    out = np.empty((n, o), dtype)
    return lambda: fastbp.linear(x, w, out=out, n_threads=1)


OPTIONS = {"label_smoothing": 0.1, "lse_square_scale": 1e-4, "softcap": 30.0}
CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "step 4-16-3, 8": lambda: _step([4, 16, 3], 8),
    "step 64-128-10, 64": lambda: _step([64, 128, 10], 64),
    "step 64-128-10, 64, Adam": lambda: _step([64, 128, 10], 64, "Adam"),
    "step 784-128-10, 128": lambda: _step([784, 128, 10], 128),
    "step 784-512-512-10, 128": lambda: _step([784, 512, 512, 10], 128),
    "fit 64-128-10, 64": lambda: _fit([64, 128, 10], 64),
    "cross-entropy 128 x 10": lambda: _cross_entropy(128, 10),
    "cross-entropy 128 x 10, all options": lambda: _cross_entropy(128, 10, **OPTIONS),
    "cross-entropy 1024 x 1000": lambda: _cross_entropy(1024, 1000),
    "cross-entropy 1024 x 1000, all options": lambda: _cross_entropy(1024, 1000, **OPTIONS),
    "cross-entropy 512 x 32000": lambda: _cross_entropy(512, 32000),
    "sigmoid cross-entropy 256 x 1000": lambda: _elementwise("sigmoid_cross_entropy"),
    "squared error 256 x 1000": lambda: _elementwise("squared_error"),
    "linear 256 x 256 x 256": lambda: _linear(256, 256, 256),
    "linear 1024 x 1024 x 1024": lambda: _linear(1024, 1024, 1024),
    "linear 512 x 512 x 512, float64": lambda: _linear(512, 512, 512, "float64"),
}


def work() -> None:
    """Answer each name of a case with seconds for one call of it."""
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            call = CASES[name]()
            call()
            start = time.perf_counter()
            call()
            calls[name] = call, max(1, int(SAMPLE_S / (time.perf_counter() - start)))
        call, count = calls[name]
        call()
        start = time.perf_counter()
        for _ in range(count):
            call()
        print((time.perf_counter() - start) / count, flush=True)


class Build:
    """A process that measures one build."""

    def __init__(self, folder: str) -> None:
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def seconds(self, name: str) -> float:
        talk: IO[str] | Any = self._process.stdin
        talk.write(name + "\n")
        talk.flush()
        listen: IO[str] | Any = self._process.stdout
        return float(listen.readline())

    def end(self) -> None:
        self._process.communicate()


def pair(old: str, new: str, names: list[str]) -> dict[str, tuple[float, float]]:
    """For each case the seconds of the new build, and its ratio to the old one."""
    builds = Build(old), Build(new)
    measured = {}
    for name in names:
        rounds = []
        for number in range(ROUNDS):
            order = builds if number % 2 else builds[::-1]
            times = {build: build.seconds(name) for build in order}
            rounds.append((times[builds[1]], times[builds[1]] / times[builds[0]]))
        measured[name] = median(t for t, _ in rounds[1:]), median(r for _, r in rounds[1:])
    for build in builds:
        build.end()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.builds", description=__doc__.splitlines()[0])
    parser.add_argument("old", nargs="?")
    parser.add_argument("new", nargs="?")
    parser.add_argument("--pairs", type=int, default=5, help="of processes")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name contains it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    if options.new is None:
        parser.error("expected the folders of two builds")
    names = [name for name in CASES if options.only in name]
    pairs = [
        pair(os.path.abspath(options.old), os.path.abspath(options.new), names) for _ in range(options.pairs)
    ]
    print(
        f"{'one thread':<42} {'new, µs':>10} {'new / old':>10}   (least, most of {len(pairs)} pairs of processes)"
    )
    for name in names:
        ratios = sorted(each[name][1] for each in pairs)
        seconds = median(each[name][0] for each in pairs)
        print(
            f"{name:<42} {seconds * 1e6:10.4g} {median(ratios):10.3f}   ({ratios[0]:.3f}, {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
