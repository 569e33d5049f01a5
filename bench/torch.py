"""PyTorch's cross-entropies and ours in their place, `fastbp.torch`: forward and backward, mean reduction, on the same tensors.

Rows of the last layer with its error tell memory too; PyTorch has two paths there, the plain one, which holds all logits, and the
chunked one. What is asked of ours, at two threads in float32: 128×10 twice as fast as PyTorch's own, 4096×32000 ten times;
the last layer 1.1 times as fast as the plain path in a tenth of its memory, 1.6 times as fast as the chunked one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from .linear import LinearProblem, LinearShape, TorchChunkedLinear, TorchLinear, entry
from .peers.libraries import Synchronous, import_torch
from .problems import LossProblem
from .race import Entry, Row, Setting, Work, race, try_peers
from .shapes import LossShape
from .timing import Contestant

SHAPES = (
    LossShape("softmax", 128, 10),
    LossShape("softmax", 1024, 1000),
    LossShape("softmax", 4096, 32000),
    LossShape("sigmoid", 4096, 1000),
    LinearShape(2048, 512, 32000),
)


class TorchError(Synchronous):
    """An error of `torch.nn.functional`, and its gradient."""

    def __init__(self, problem: LossProblem) -> None:
        torch = import_torch(problem.threads)
        self.logits = torch.from_numpy(problem.logits).requires_grad_()
        self.targets = torch.from_numpy(problem.targets)
        self.gradient = torch.autograd.grad
        name = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy_with_logits"}[problem.shape.kind]
        self.error = getattr(self.functions(), name)
        # Of logistic outputs PyTorch's mean is over the outputs as well.
        self.outputs = problem.shape.classes if problem.shape.kind == "sigmoid" else 1

    def functions(self) -> Any:
        """The module that has them."""
        import torch

        return torch.nn.functional

    def call(self) -> tuple[Any, Any]:
        """Error and gradient, as tensors."""
        loss = self.error(self.logits, self.targets)
        return loss, self.gradient(loss, self.logits)[0]

    def result(self) -> tuple[float, np.ndarray]:
        """Return both, of the mean over examples, as NumPy sees them."""
        loss, gradient = self.call()
        return self.outputs * float(loss.detach()), self.outputs * gradient.numpy()


class OurError(TorchError):
    """The same of `fastbp.torch`."""

    def functions(self) -> Any:
        """The module that has them."""
        import fastbp.torch

        return fastbp.torch


class OurLinear(TorchLinear):
    """`fastbp.torch.linear_cross_entropy`, forward and backward."""

    name = "fastbp"

    def __init__(self, problem: LinearProblem) -> None:
        super().__init__(problem)
        import fastbp.torch

        self.function = fastbp.torch.linear_cross_entropy


class OurSmallLinear(OurLinear):
    """The same in less memory, by PyTorch's own option."""

    name = "fastbp, options"

    def _options(self, torch: Any) -> Any:
        return torch.nn.LinearCrossEntropyOptions()


class Side(Protocol):
    """A side of the comparison: its contestants for an error on logits and for the last layer, if it has them."""

    name: str
    package: str
    error: type[TorchError] | None
    linear: type[TorchLinear]


class Ours:
    """fastbp."""

    name, package = "fastbp", "torch"
    error, linear = OurError, OurLinear


class Plain:
    """PyTorch as one calls it."""

    name, package = "PyTorch", "torch"
    error, linear = TorchError, TorchLinear


class Chunked:
    """PyTorch for less memory."""

    name, package = "torch chunked", "torch"
    error, linear = None, TorchChunkedLinear


PEERS: tuple[type[Side], ...] = (Plain, Chunked)


def rows(shape: LossShape | LinearShape, peers: Iterable[type[Side]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    if isinstance(shape, LinearShape):
        problem = LinearProblem(shape, setting.dtype, setting.threads)
        entries = [entry(problem, kind(problem), ours=True) for kind in (OurLinear, OurSmallLinear)]
        entries += try_peers(peers, lambda side: entry(problem, side.linear(problem)))
        work = Work(shape.operations, "GFLOP/s", setting.peaks.gflops)
        return race(shape.name, entries, work, setting.plan)
    losses = LossProblem(shape, setting.dtype, setting.threads)
    sides = [side for side in (Ours, *peers) if side.error is not None]
    entries = try_peers(sides, lambda side: _entry(losses, side))
    work = Work(shape.traffic(setting.dtype.itemsize), "GB/s", setting.peaks.copy_gbs)
    return race(shape.name, entries, work, setting.plan)


def _entry(problem: LossProblem, side: type[Side]) -> Entry:
    assert side.error is not None
    contestant = side.error(problem)
    residual = problem.residual(*contestant.result())
    return Entry(Contestant(side.name, contestant.call), residual, ours=side is Ours)
