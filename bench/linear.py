"""The last layer and its error in one: mean softmax cross-entropy and the gradients of inputs and weights.

fastbp has a row for each layout of the weights, (I, C) and, as in an embedding, (C, I). The NumPy twin makes
the same call on the other backend; PyTorch has the plain path, which holds all logits, and the chunked one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

import fastbp
from fastbp import _backend

from .memory import growth
from .peers.libraries import import_torch, numpy_softmax_error
from .problems import relative, spread
from .race import TWIN, Entry, Row, Setting, Work, race, try_peers
from .timing import Contestant

JUDGED_ROWS, JUDGED_CLASSES = 16, 64  # whose gradients are compared, evenly spread
BLOCK_ROWS = 64  # of logits that the judge forms at a time

Result = tuple[
    float, np.ndarray, np.ndarray
]  # mean error, gradients of the inputs (N, I), the weights (I, C)


@dataclass(frozen=True)
class LinearShape:
    """Examples, inputs and classes of a last layer."""

    rows: int
    inputs: int
    classes: int

    @property
    def name(self) -> str:
        """As in the tables, e.g. "linear 2048x512x32000"."""
        return f"linear {self.rows}x{self.inputs}x{self.classes}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of the three products, X W, Xᵀ δ and δ Wᵀ."""
        return 6 * self.rows * self.inputs * self.classes


SHAPES = (LinearShape(2048, 512, 32000), LinearShape(1024, 768, 128256))


@dataclass
class LinearProblem:
    """Inputs (N, I), an embedding (C, I) whose transpose is the weight, and class indices (N,)."""

    shape: LinearShape
    dtype: np.dtype
    threads: int
    inputs: np.ndarray = field(init=False)
    embedding: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        shape = self.shape
        self.inputs = rng.standard_normal((shape.rows, shape.inputs), dtype=self.dtype)
        # Logits of standard deviation 4: a peaked softmax, as in a network that has learnt something.
        self.embedding = rng.standard_normal((shape.classes, shape.inputs), dtype=self.dtype)
        self.embedding *= 4.0 / np.sqrt(shape.inputs)
        self.labels = rng.integers(0, shape.classes, shape.rows)

    @cached_property
    def judge(self) -> Result:
        """The mean error, and the gradients of judged rows and classes, by the float64 twin."""
        x, weight = self.inputs.astype(np.float64), self.embedding.T.astype(np.float64)
        rows, classes = self._judged
        loss, deltas = 0.0, []
        with _backend.use("reference"):
            for start in range(0, len(x), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                answer = fastbp.softmax_cross_entropy(x[part] @ weight, self.labels[part], reduction="sum")
                loss += float(answer.loss)
                deltas.append(answer.grad[:, classes])
            delta = fastbp.softmax_cross_entropy(x[rows] @ weight, self.labels[rows], reduction="sum").grad
        return loss / len(x), delta @ weight.T / len(x), x.T @ np.concatenate(deltas) / len(x)

    @cached_property
    def _judged(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and classes, evenly spread."""
        return spread(self.shape.rows, JUDGED_ROWS), spread(self.shape.classes, JUDGED_CLASSES)

    def residual(self, result: Result) -> float:
        """Return the largest error of the mean error or of a gradient, each relative to its largest value."""
        rows, classes = self._judged
        loss, by_inputs, by_weight = result
        got = loss, by_inputs[rows], by_weight[:, classes]
        return max(map(relative, got, self.judge))


# ------------------------------------------------------------------------------------------- contestants


class Linear(Protocol):
    """A contestant: `call` computes and keeps the answer, `result` shows it."""

    name: str

    def call(self) -> None: ...
    def result(self) -> Result: ...


class LinearPeer(Linear, Protocol):
    """One from elsewhere."""

    package: str

    def __init__(self, problem: LinearProblem) -> None: ...


class Ours:
    """The public function, on a backend and on weights of one layout."""

    def __init__(self, problem: LinearProblem, name: str, backend: str, weight: np.ndarray) -> None:
        self.problem, self.name, self.backend, self.weight = problem, name, backend, weight
        self.answer: fastbp.LastLayerGrad | None = None

    def call(self) -> None:
        """Error and gradients, in new arrays; those of the last call are given back before."""
        problem, self.answer = self.problem, None
        with _backend.use(self.backend):
            self.answer = fastbp.linear_softmax_cross_entropy(
                problem.inputs, self.weight, problem.labels, n_threads=problem.threads
            )

    def result(self) -> Result:
        """Return them."""
        assert self.answer is not None
        return float(self.answer.loss), self.answer.grad_inputs, self.answer.grad_weight


class NumpyLinear:
    """NumPy by hand: all logits, in whose memory the deltas come to stand."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: LinearProblem) -> None:
        self.problem = problem
        self.rows = np.arange(len(problem.labels))

    def call(self) -> None:
        """Forward, softmax, two products backward."""
        x, embedding, labels = self.problem.inputs, self.problem.embedding, self.problem.labels
        z = x @ embedding.T
        loss, delta = numpy_softmax_error(z, labels, self.rows, out=z)
        self.answer = loss, delta @ embedding, (delta.T @ x).T

    def result(self) -> Result:
        """Return them."""
        return self.answer


class TorchLinear:
    """PyTorch eager: `linear_cross_entropy`, forward and backward; all logits are held."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: LinearProblem) -> None:
        torch = import_torch(problem.threads)
        self.inputs = torch.from_numpy(problem.inputs).requires_grad_()
        self.weight = torch.from_numpy(problem.embedding).requires_grad_()
        self.labels = torch.from_numpy(problem.labels)
        self.function, self.options = torch.nn.functional.linear_cross_entropy, self._options(torch)

    def _options(self, torch: Any) -> Any:
        """Return what chooses the path: None for the plain one."""
        return None

    def call(self) -> None:
        """Error and gradients, as tensors."""
        self.inputs.grad = self.weight.grad = None
        self.loss = self.function(self.inputs, self.weight, self.labels, options=self.options)
        self.loss.backward()

    def result(self) -> Result:
        """Return them as NumPy sees them."""
        return float(self.loss.detach()), self.inputs.grad.numpy(), self.weight.grad.numpy().T


class TorchChunkedLinear(TorchLinear):
    """The same in chunks of the batch, as PyTorch chooses them, for less memory."""

    name, package = "torch chunked", "torch"

    def _options(self, torch: Any) -> Any:
        return torch.nn.LinearCrossEntropyOptions()


PEERS: tuple[type[LinearPeer], ...] = (NumpyLinear, TorchLinear, TorchChunkedLinear)


# -------------------------------------------------------------------------------------------------- rows


def rows(shape: LinearShape, peers: Iterable[type[LinearPeer]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    problem = LinearProblem(shape, setting.dtype, setting.threads)
    transposed = problem.embedding.T
    by_rows = np.ascontiguousarray(transposed)
    ours = (
        Ours(problem, "fastbp (I, C)", _backend.name, by_rows),
        Ours(problem, "fastbp (C, I)", _backend.name, transposed),
        Ours(problem, TWIN, "reference", transposed),
    )
    entries = [entry(problem, each, ours=each.name != TWIN) for each in ours]
    entries += try_peers(peers, lambda kind: entry(problem, kind(problem)))
    return race(shape.name, entries, Work(shape.operations, "GFLOP/s", setting.peaks.gflops), setting.plan)


def entry(problem: LinearProblem, contestant: Linear, ours: bool = False) -> Entry:
    """Return the entry of a contestant, after a first call that is judged, and measured as well."""

    def first_call() -> float:
        started = time.perf_counter()
        contestant.call()
        return time.perf_counter() - started

    seconds, memory = growth(first_call)
    residual = problem.residual(contestant.result())
    return Entry(Contestant(contestant.name, contestant.call, first_s=seconds), residual, ours, memory=memory)
