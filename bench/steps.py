"""Training steps: sigmoid hidden units, softmax cross-entropy over class indices, SGD.

fastbp has two rows. "fastbp step": `MLP.step` called from Python for a batch. "fastbp in fit": the time per
batch of one call that trains on many, as each epoch of `fit` is; batches are gathered by shuffled indices.

Where the logits of a batch are large, every row tells how much memory a network and its first step took, with
what the library compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import ModuleType

import numpy as np

import fastbp
from fastbp import _backend, _reference, get_precision

from .memory import growth
from .peers.steps import STEP_PEERS, StepPeer
from .problems import ACTIVATION, CHECK_RATE, LOSS, StepProblem
from .race import HIGHEST, TWIN, Entry, Row, Setting, Work, race, try_peers
from .shapes import STEPS, StepShape
from .timing import Contestant

SHAPES, PEERS = STEPS, STEP_PEERS

# "In fit" trains on enough batches for one call to take so many operations, within limits of batches.
IN_FIT_OPERATIONS = 500_000_000
IN_FIT_BATCHES = 2, 256

MANY_LOGITS = 1 << 24  # of a batch, from which on memory is told


def _memory(problem: StepProblem, grown: int | None) -> int | None:
    """Return what is told of it."""
    return grown if problem.shape.batch * problem.shape.sizes[-1] >= MANY_LOGITS else None


def rows(shape: StepShape, peers: Iterable[type[StepPeer]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    problem = StepProblem(shape, setting.dtype, setting.threads)
    check = Check(problem)
    entries = [fastbp_step(problem, check), _in_fit(problem, check), _twin(problem, check)]
    if get_precision() != "highest":
        entries.append(fastbp_step(problem, check, HIGHEST))
    entries += try_peers(peers, lambda kind: _peer(kind, problem, check))
    return race(shape.name, entries, Work(shape.operations, "GFLOP/s", setting.peaks.gflops), setting.plan)


class Check:
    """Judges a way to do one step: of the same problem, but with the learning rate of the check."""

    def __init__(self, problem: StepProblem) -> None:
        self.problem = replace(problem, learning_rate=CHECK_RATE)

    def __call__(self, step: Callable[[StepProblem], np.ndarray]) -> float:
        """Return the residual of `step`, which does one step of a problem and returns the parameters."""
        return self.problem.residual(step(self.problem))


def fastbp_step(problem: StepProblem, check: Check, name: str = "fastbp step") -> Entry:
    """Return `MLP.step`, called from Python; by the name HIGHEST of that precision."""

    def step(checked: StepProblem) -> np.ndarray:
        network = checked.network(precision=own)
        network.step(checked.x, checked.labels, fastbp.SGD(checked.learning_rate))
        return network.parameters

    def started() -> fastbp.MLP:
        network = problem.network(precision=own)
        network.step(x, labels, optimizer)  # takes its memory, as a peer's first step does
        return network

    own = name if name == HIGHEST else None
    x, labels, optimizer = problem.x, problem.labels, fastbp.SGD(problem.learning_rate)
    residual = check(step)
    network, grown = growth(started)
    contestant = Contestant(name, lambda: network.step(x, labels, optimizer))
    return Entry(contestant, residual, ours=own is None, memory=_memory(problem, grown))


def _in_fit(problem: StepProblem, check: Check) -> Entry:
    """Return the engine of `fit` on many batches."""
    fewest, most = IN_FIT_BATCHES
    batches = min(max(fewest, IN_FIT_OPERATIONS // problem.shape.operations), most)
    return replace(_train("fastbp in fit", problem, check, _backend.kernels, batches), ours=True)


def _twin(problem: StepProblem, check: Check) -> Entry:
    """Return the engine of the NumPy twin, in the same dtype, on one batch."""
    return _train(TWIN, problem, check, _reference, batches=1)


def _train(name: str, problem: StepProblem, check: Check, backend: ModuleType, batches: int) -> Entry:
    """Return the contestant that trains on `batches` batches in one call of a backend's engine."""

    def engine(parameters: np.ndarray) -> _reference.Network:
        return backend.Network(sizes, (ACTIVATION,) * (len(sizes) - 2), LOSS, parameters, problem.threads)

    def step(checked: StepProblem) -> np.ndarray:
        parameters, optimizer = checked.parameters.copy(), fastbp.SGD(checked.learning_rate)
        engine(parameters).train(checked.x, checked.labels, None, np.arange(size), size, optimizer, None)
        return parameters

    size, sizes = problem.shape.batch, problem.shape.sizes
    x, labels = np.tile(problem.x, (batches, 1)), np.tile(problem.labels, batches)
    order = np.random.default_rng(1).permutation(len(x))
    optimizer = fastbp.SGD(problem.learning_rate)

    def started() -> _reference.Network:
        network = engine(problem.network().parameters)  # as aligned as those of a model
        network.train(x, labels, None, order[:size], size, optimizer, None)
        return network

    def epoch() -> object:
        return network.train(x, labels, None, order, size, optimizer, None)

    residual = check(step)
    network, grown = growth(started)
    return Entry(Contestant(name, epoch, units=batches), residual, memory=_memory(problem, grown))


def _peer(kind: type[StepPeer], problem: StepProblem, check: Check) -> Entry:
    """Return the contestant of a library."""

    def step(checked: StepProblem) -> np.ndarray:
        peer = kind(checked)
        peer.step()
        peer.finish()
        return peer.parameters()

    def started() -> StepPeer:
        peer = kind(problem)
        peer.step()  # compiles, where a peer does
        peer.finish()
        return peer

    residual = None if kind.incomparable else check(step)
    peer, grown = growth(started)
    contestant = Contestant(peer.name, peer.step, peer.units, finish=peer.finish)
    return Entry(contestant, residual, note=kind.incomparable, memory=_memory(problem, grown))
