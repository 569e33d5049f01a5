"""Small networks, large batches: the inverse of 2 × 2 matrices by a 4-32-16-4 network, all 10 000 examples at once, by Adam.

It is the example that SimpleChains.jl documents, with 164 µs a step on eight threads of a Core i7-1165G7, which has four cores:
https://pumasai.github.io/SimpleChains.jl/stable/examples/smallmlp/.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

import fastbp
from fastbp import _backend

from .peers.libraries import import_torch
from .problems import relative
from .race import TWIN, Entry, Row, Setting, Work, race, try_peers
from .shapes import StepShape
from .timing import Contestant

SHAPES = (StepShape((4, 32, 16, 4), 10_000, label="inverse 4-32-16-4"),)


@dataclass
class InverseProblem:
    """Matrices as rows of four numbers, and their inverses; those that have hardly one are moved away from 0."""

    shape: StepShape
    dtype: np.dtype
    threads: int
    x: np.ndarray = field(init=False)
    t: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        matrices = np.random.default_rng(0).standard_normal((self.shape.batch, 2, 2)) + 3 * np.eye(2)
        self.x = matrices.reshape(-1, 4).astype(self.dtype)
        self.t = np.linalg.inv(matrices).reshape(-1, 4).astype(self.dtype)

    def network(self, dtype: str | None = None) -> fastbp.MLP:
        """Return a fresh network."""
        return fastbp.MLP(
            self.shape.sizes,
            activation="tanh",
            loss="squared_error",
            dtype=dtype or self.dtype.name,
            seed=0,
            n_threads=self.threads,
        )


def rows(shape: StepShape, peers: Iterable[type[InversePeer]], setting: Setting) -> list[Row]:
    """Check the gradients of all contestants, and measure their steps."""
    problem = InverseProblem(shape, setting.dtype, setting.threads)
    parameters = problem.network().parameters
    with _backend.use("reference"):
        judge = problem.network("float64")
        judge.parameters[:] = parameters
        wanted = judge.gradients(problem.x, problem.t).flat
        of_the_twin = _step(problem, TWIN, wanted)

    def peer(kind: type[InversePeer]) -> Entry:
        each = kind(problem)
        return Entry(Contestant(each.name, each.step), relative(each.gradient(), wanted))

    own = replace(_step(problem, "fastbp step", wanted), ours=True)
    entries = [own, of_the_twin, *try_peers(peers, peer)]
    return race(shape.name, entries, Work(shape.operations, "GFLOP/s", setting.peaks.gflops), setting.plan)


def _step(problem: InverseProblem, name: str, wanted: np.ndarray) -> Entry:
    """Return `MLP.step` on the backend in use, judged by its gradient: the first step of Adam tells the signs of it only."""
    net, optimizer = problem.network(), fastbp.Adam()
    residual = relative(net.gradients(problem.x, problem.t).flat, wanted)
    return Entry(Contestant(name, lambda: net.step(problem.x, problem.t, optimizer)), residual)


class InversePeer(Protocol):
    """What every step offers; `gradient` makes one, too."""

    name: str
    package: str

    def __init__(self, problem: InverseProblem) -> None: ...
    def step(self) -> object: ...
    def gradient(self) -> np.ndarray: ...


class NumpyInverse:
    """NumPy by hand; Adam on one flat vector."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: InverseProblem) -> None:
        net = problem.network()
        self.x, self.t, self.w = problem.x, problem.t, net.parameters.copy()
        self.m, self.v, self.g = (np.zeros_like(self.w) for _ in range(3))
        self.layers, self.gradients, start, self.steps = [], [], 0, 0
        for i, o in zip(problem.shape.sizes, problem.shape.sizes[1:], strict=False):
            middle, end = start + i * o, start + (i + 1) * o
            for flat, views in ((self.w, self.layers), (self.g, self.gradients)):
                views.append((flat[start:middle].reshape(i, o), flat[middle:end]))
            start = end

    def step(self) -> None:
        """Forward, backward, update."""
        outputs = [self.x]
        for w, b in self.layers:
            outputs.append(outputs[-1] @ w + b)
            if w is not self.layers[-1][0]:
                np.tanh(outputs[-1], out=outputs[-1])
        delta = (outputs[-1] - self.t) / len(self.x)
        for i in range(len(self.layers) - 1, -1, -1):
            np.matmul(outputs[i].T, delta, out=self.gradients[i][0])
            np.sum(delta, axis=0, out=self.gradients[i][1])
            if i:
                delta = (delta @ self.layers[i][0].T) * (1 - outputs[i] ** 2)
        self.steps += 1
        self.m += 0.1 * (self.g - self.m)
        self.v += 0.001 * (self.g * self.g - self.v)
        corrected = np.sqrt(self.v / (1 - 0.999**self.steps)) + 1e-8
        self.w -= 1e-3 / (1 - 0.9**self.steps) * self.m / corrected

    def gradient(self) -> np.ndarray:
        """Return that of one step."""
        self.step()
        return self.g


class TorchInverse:
    """PyTorch eager, Adam in its fused form; the error of an example is the sum over its outputs, halved."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: InverseProblem) -> None:
        torch = import_torch(problem.threads)
        net, modules = problem.network(), []
        for weight, bias in zip(net.weights, net.biases, strict=True):
            linear = torch.nn.Linear(*weight.shape, dtype=getattr(torch, problem.dtype.name))
            linear.weight.data[:], linear.bias.data[:] = (
                torch.from_numpy(weight.T.copy()),
                torch.from_numpy(bias),
            )
            modules += [linear, torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.x, self.t = torch.from_numpy(problem.x), torch.from_numpy(problem.t)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)

    def step(self) -> None:
        """As in every tutorial."""
        self.optimizer.zero_grad()
        (0.5 / len(self.x) * (self.model(self.x) - self.t).square().sum()).backward()
        self.optimizer.step()

    def gradient(self) -> np.ndarray:
        """Return that of one step, flat; PyTorch keeps W as (O, I)."""
        self.step()
        return np.concatenate([each.grad.numpy().T.ravel() for each in self.model.parameters()])


PEERS: tuple[type[InversePeer], ...] = (NumpyInverse, TorchInverse)
