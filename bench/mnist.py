"""Whole training: MNIST, relu hidden units, softmax cross-entropy, Adam, an epoch of which is timed.

Everybody trains a new network, with initial weights and an order of the examples of their own, for the same
number of epochs. A residual would mean nothing after hundreds of updates; the accuracy on the 10 000 test
images, the median over all runs, stands in its place.

The four original files, compressed or not, are looked for in the folder that FASTBP_MNIST names, by default
../shared/data/mnist beside the checkout.
"""

from __future__ import annotations

import gzip
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import fastbp

from .peers.libraries import import_torch
from .race import Entry, Row, Setting, Work, race, try_peers
from .shapes import FITS, FitShape
from .timing import Contestant

FOLDER = Path(__file__).parents[2] / "shared/data/mnist"
LEARNING_RATE = 1e-3  # everybody's default


def rows(shape: FitShape, peers: Iterable[type[FitPeer]], setting: Setting) -> list[Row]:
    """Train and measure all contestants; none where the data is missing, which is told."""
    try:
        problem = FitProblem.read(
            Path(os.environ.get("FASTBP_MNIST", FOLDER)), shape, setting.dtype, setting.threads
        )
    except FileNotFoundError as missing:
        print(f"MNIST is left out: {missing}; FASTBP_MNIST names its folder")
        return []
    entries = [_entry(FastbpFit, problem), *try_peers(peers, lambda kind: _entry(kind, problem))]
    return race(
        shape.name,
        entries,
        Work(shape.operations(len(problem.x)), "GFLOP/s", setting.peaks.gflops),
        setting.plan,
    )


@dataclass
class FitProblem:
    """Images as rows of numbers in [0, 1], and their digits, to train with and to test by."""

    shape: FitShape
    dtype: np.dtype
    threads: int
    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    labels_test: np.ndarray

    @classmethod
    def read(cls, folder: Path, shape: FitShape, dtype: np.dtype, threads: int) -> FitProblem:
        """Read the four files."""
        data = []
        for part in ("train", "t10k"):
            images = read_idx(folder / f"{part}-images-idx3-ubyte")
            data.append(images.reshape(len(images), -1).astype(dtype) / dtype.type(255))
            data.append(read_idx(folder / f"{part}-labels-idx1-ubyte").astype(np.int64))
        return cls(shape, dtype, threads, *data)


def read_idx(path: Path) -> np.ndarray:
    """Return the array of bytes in a file of MNIST's format, compressed (.gz) or not.

    Two bytes of zeros, the element type (8: unsigned byte), the number of axes; the length of each axis as a
    big-endian int32; the elements. Source: http://yann.lecun.com/exdb/mnist.
    """
    packed = path.with_name(path.name + ".gz")
    content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    start = 4 + 4 * content[3]
    lengths = np.frombuffer(content[4:start], ">i4")
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)


def _entry(kind: type[FitPeer], problem: FitProblem) -> Entry:
    """Return the contestant of a library. Its first training is not timed: a library warms up in it."""
    peer = kind(problem)
    models: list[Any] = []

    def train() -> None:
        models.append(peer.train(seed=len(models)))

    def accuracy() -> float:
        return float(np.median([peer.accuracy(model) for model in models]))

    train()
    contestant = Contestant(peer.name, train, problem.shape.epochs)
    return Entry(contestant, ours=kind is FastbpFit, accuracy=accuracy)


class FitPeer(Protocol):
    """What every contestant offers: `train` returns a new model, of which `accuracy` is the right fraction."""

    name: str
    package: str

    def __init__(self, problem: FitProblem) -> None: ...
    def train(self, seed: int) -> Any: ...
    def accuracy(self, model: Any) -> float: ...


class FastbpFit:
    """`MLP.fit`."""

    name, package = "fastbp", "fastbp"

    def __init__(self, problem: FitProblem) -> None:
        self.problem = problem

    def train(self, seed: int) -> fastbp.MLP:
        """Adam."""
        problem, shape = self.problem, self.problem.shape
        model = fastbp.MLP(
            shape.sizes, activation="relu", dtype=problem.dtype.name, seed=seed, n_threads=problem.threads
        )
        model.fit(
            problem.x,
            problem.labels,
            epochs=shape.epochs,
            batch_size=shape.batch,
            optimizer=fastbp.Adam(LEARNING_RATE),
            progress=False,
        )
        return model

    def accuracy(self, model: fastbp.MLP) -> float:
        """On the test images."""
        return float(np.mean(model.predict(self.problem.x_test) == self.problem.labels_test))


class TorchFit:
    """PyTorch eager: indices shuffled, a batch gathered by them, Adam in its fused form."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: FitProblem) -> None:
        self.torch, self.shape = import_torch(problem.threads), problem.shape
        arrays = problem.x, problem.labels, problem.x_test, problem.labels_test
        self.x, self.labels, self.x_test, self.labels_test = map(self.torch.from_numpy, arrays)

    def train(self, seed: int) -> Any:
        """As in every tutorial, without the `DataLoader`, which is slower."""
        torch, cross_entropy = self.torch, self.torch.nn.functional.cross_entropy
        torch.manual_seed(seed)
        modules: list[Any] = []
        for inputs, outputs in zip(self.shape.sizes, self.shape.sizes[1:], strict=False):
            modules += [torch.nn.Linear(inputs, outputs, dtype=self.x.dtype), torch.nn.ReLU()]
        model = torch.nn.Sequential(*modules[:-1])
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        for _ in range(self.shape.epochs):
            for batch in torch.randperm(len(self.x)).split(self.shape.batch):
                optimizer.zero_grad()
                x, labels = self.x.index_select(0, batch), self.labels.index_select(0, batch)
                cross_entropy(model(x), labels).backward()
                optimizer.step()
        return model

    def accuracy(self, model: Any) -> float:
        """On the test images."""
        with self.torch.inference_mode():
            return float((model(self.x_test).argmax(1) == self.labels_test).double().mean())


class SklearnFit:
    """scikit-learn: `MLPClassifier.fit`, whose solver is Adam; without its L2 term."""

    name, package = "sklearn", "sklearn"

    def __init__(self, problem: FitProblem) -> None:
        self.problem = problem

    def train(self, seed: int) -> Any:
        """It warns that so few epochs are not enough to converge."""
        from sklearn.neural_network import MLPClassifier

        shape = self.problem.shape
        model = MLPClassifier(
            shape.sizes[1:-1],
            alpha=0.0,
            batch_size=shape.batch,
            learning_rate_init=LEARNING_RATE,
            max_iter=shape.epochs,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(self.problem.x, self.problem.labels)

    def accuracy(self, model: Any) -> float:
        """On the test images."""
        return float(model.score(self.problem.x_test, self.problem.labels_test))


SHAPES = FITS
PEERS: tuple[type[FitPeer], ...] = (TorchFit, SklearnFit)
