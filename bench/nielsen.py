"""Published accuracies: the networks of Nielsen's book on MNIST, trained again as he trained them.

Each is trained from three seeds, and tested after each epoch; what counts is the best epoch of the best seed, as he reports it.
The first 50 000 of the training images are trained on, in batches of 10; the other 10 000 are his validation set. His own loop,
which takes a batch one example at a time, stands beside it: some of an epoch, in turn with an epoch of `fit`.

M. Nielsen, *Neural Networks and Deep Learning*, 2015, http://neuralnetworksanddeeplearning.com, chapters 1 and 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastbp

from . import mnist
from .timing import Contestant, Plan, measure

TRAINED_ON, BATCH, SEEDS = 50_000, 10, 3
WITHIN = 0.003  # of the published accuracy


@dataclass(frozen=True)
class Run:
    """A network of the book, and the accuracy that it gives."""

    hidden: int
    loss: str
    learning_rate: float
    decay: float  # his λ
    epochs: int
    published: float
    tested_on: str = "test"

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        error = "cross-entropy" if self.loss.endswith("entropy") else "quadratic"
        decay = f" λ={self.decay:g}" * bool(self.decay)
        return f"784-{self.hidden}-10 {error} η={self.learning_rate:g}{decay}, {self.epochs} epochs"


SHAPES = (
    Run(30, "sigmoid_squared_error", 3.0, 0.0, 30, 0.9542),
    Run(30, "sigmoid_cross_entropy", 0.5, 0.0, 30, 0.9549),
    Run(30, "sigmoid_cross_entropy", 0.5, 5.0, 30, 0.9649),
    Run(100, "sigmoid_cross_entropy", 0.1, 5.0, 60, 0.9804, tested_on="validation"),
)


def rows(runs: Sequence[Run], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Train and print each; with `quick` from one seed, for three epochs."""
    folder = Path(os.environ.get("FASTBP_MNIST", mnist.FOLDER))
    try:
        problem = mnist.FitProblem.read(folder, mnist.SHAPES[0], dtype, threads)
    except FileNotFoundError as missing:
        print(f"MNIST is left out: {missing}; FASTBP_MNIST names its folder")
        return []
    print(f"{'':48} published     best     epoch  his loop, an epoch")
    return [_row(run, problem, quick) for run in runs]


def _row(run: Run, problem: mnist.FitProblem, quick: bool) -> dict[str, Any]:
    n = min(TRAINED_ON, len(problem.x) * 5 // 6)
    x, labels = problem.x[:n], problem.labels[:n]
    targets = np.eye(10, dtype=x.dtype)[labels]
    test = problem.x_test, problem.labels_test
    if run.tested_on == "validation":
        test = problem.x[n:], problem.labels[n:]
    epochs, seeds = (min(run.epochs, 3), 1) if quick else (run.epochs, SEEDS)
    accuracies = [train(run, x, targets, test, epochs, seed, problem.threads) for seed in range(seeds)]
    best = max(map(max, accuracies))
    timings = measure(_contestants(run, x, targets, problem.threads), Plan.of(quick, problem.threads))
    seconds, ratio = n * timings.median("fastbp"), timings.ratio("his loop", "fastbp")
    verdict = "" if quick else "within" if best >= run.published - WITHIN else "MISSED"
    times = f"{1e3 * seconds:6.1f} ms {n * timings.median('his loop'):6.2f} s, ×{ratio:.3g}"
    print(f"{run.name:48} {run.published:9.2%} {best:8.2%} {times}  {verdict}".rstrip(), flush=True)
    return {"run": run.name, "accuracies": accuracies, "seconds": seconds, "ratio": ratio}


def _contestants(run: Run, x: np.ndarray, targets: np.ndarray, threads: int) -> list[Contestant]:
    """Return an epoch of `fit`, and his loop on some of the examples, which takes as long for each."""
    net = network((x.shape[1], run.hidden, targets.shape[1]), run.loss, 0, x.dtype, threads)
    optimizer = fastbp.SGD(run.learning_rate, weight_decay=run.decay / len(x))
    some = np.random.default_rng(0).permutation(len(x))[: len(x) // 50]
    layers = [
        (w.T.astype(np.float64), b[:, None].astype(np.float64))
        for w, b in zip(net.weights, net.biases, strict=True)
    ]
    columns = [(x[i, :, None], targets[i, :, None].astype(np.float64)) for i in some]

    def epoch() -> None:
        net.fit(x, targets, batch_size=BATCH, epochs=1, optimizer=optimizer, progress=False)

    def his() -> None:
        w_and_b = layers
        for start in range(0, len(columns), BATCH):
            w_and_b = his_update(run, w_and_b, columns[start : start + BATCH], run.decay / len(x))

    epoch(), his()
    return [Contestant("fastbp", epoch, units=len(x)), Contestant("his loop", his, units=len(columns))]


def network(
    sizes: Sequence[int], loss: str, seed: int, dtype: np.dtype, threads: int | None = None
) -> fastbp.MLP:
    """Return a network whose weights and biases are standard normal numbers, as in all these runs of his."""
    net = fastbp.MLP(sizes, loss=loss, dtype=dtype.name, seed=seed, n_threads=threads, init=_normal)
    rng = np.random.default_rng(seed)
    for bias in net.biases:
        bias[:] = rng.standard_normal(bias.shape)
    return net


def _normal(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    return rng.standard_normal((n_in, n_out))


def train(
    run: Run,
    x: np.ndarray,
    targets: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    epochs: int,
    seed: int,
    threads: int | None,
) -> list[float]:
    """Train with `fit`; return the accuracy on `test` after each epoch."""
    net = network((x.shape[1], run.hidden, targets.shape[1]), run.loss, seed, x.dtype, threads)
    accuracies = []

    def look(training: fastbp.callbacks.Training) -> None:
        accuracies.append(float((net.logits(test[0]).argmax(axis=1) == test[1]).mean()))

    # his λ belongs to the sum of the errors of all examples, ours to their mean
    optimizer = fastbp.SGD(run.learning_rate, weight_decay=run.decay / len(x))
    net.fit(
        x, targets, epochs=epochs, batch_size=BATCH, optimizer=optimizer, callbacks=[look], progress=False
    )
    return accuracies


# His loop ---------------------------------------------------------------------------------------------------

Layers = list[tuple[np.ndarray, np.ndarray]]  # W (O, I) and b (O, 1) of each


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def _slope(z: np.ndarray) -> np.ndarray:
    return _sigmoid(z) * (1 - _sigmoid(z))


def his_update(run: Run, layers: Layers, batch: list[tuple[np.ndarray, np.ndarray]], decay: float) -> Layers:
    """Return the layers after a batch of columns, whose gradients are added up example by example."""
    sums = [(np.zeros(w.shape), np.zeros(b.shape)) for w, b in layers]
    for column, target in batch:
        gradients = his_gradients(run, layers, column, target)
        sums = [(w + dw, b + db) for (w, b), (dw, db) in zip(sums, gradients, strict=True)]
    rate = run.learning_rate
    return [
        ((1 - rate * decay) * w - (rate / len(batch)) * dw, b - (rate / len(batch)) * db)
        for (w, b), (dw, db) in zip(layers, sums, strict=True)
    ]


def his_gradients(run: Run, layers: Layers, column: np.ndarray, target: np.ndarray) -> Layers:
    """Return dE/dW and dE/db of each layer for one example; slopes are formed anew from the sums, as he does."""
    gradients = [(np.zeros(w.shape), np.zeros(b.shape)) for w, b in layers]
    activations, sums = [column], []
    for w, b in layers:
        sums.append(np.dot(w, activations[-1]) + b)
        activations.append(_sigmoid(sums[-1]))
    delta = activations[-1] - target
    if run.loss == "sigmoid_squared_error":
        delta = delta * _slope(sums[-1])
    for i in range(len(layers) - 1, -1, -1):
        gradients[i] = np.dot(delta, activations[i].T), delta
        if i:
            delta = np.dot(layers[i][0].T, delta) * _slope(sums[i - 1])
    return gradients
