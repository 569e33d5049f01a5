"""Error functions with their gradient, mean reduction: the public call, from Python, checks included.

fastbp has a row for each place that the gradient can go to (see `LossShape`), and one with every option of the
softmax cross-entropy that costs anything, to a new array; the others make the plain call. The NumPy twin makes it
on the other backend, to a new array. So do the peers; only scikit-learn fills a buffer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

import fastbp

from .peers.losses import LOSS_PEERS, LossPeer
from .problems import LossProblem
from .race import Entry, Row, Setting, Work, race, try_peers, twin
from .shapes import LOSSES, LossShape
from .timing import Contestant

SHAPES, PEERS = LOSSES, LOSS_PEERS


def rows(shape: LossShape, peers: Iterable[type[LossPeer]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    problem = LossProblem(shape, setting.dtype, setting.threads)
    entries = [_fastbp(problem, output) for output in shape.outputs]
    if shape.kind == "softmax":
        entries.append(_fastbp(LossProblem(shape, setting.dtype, setting.threads, every_option=True), "new"))
    entries.append(_twin(problem))
    entries += try_peers(peers, lambda kind: _peer(kind, problem))
    return race(
        shape.name,
        entries,
        Work(shape.traffic(setting.dtype.itemsize), "GB/s", setting.peaks.copy_gbs),
        setting.plan,
    )


def _fastbp(problem: LossProblem, output: str) -> Entry:
    """Return the public function, its gradient going to `output`."""
    function, targets, threads = problem.function, problem.targets, problem.threads
    in_place = output == "in place"
    logits = problem.logits.copy() if in_place else problem.logits
    grad_out = {"buffer": np.empty_like(logits), "in place": logits}.get(output)

    def call() -> fastbp.LossGrad:
        return function(logits, targets, grad_out=grad_out, n_threads=threads, **problem.options)

    result = call()
    residual = problem.residual(float(result.loss), result.grad)
    restore = (lambda: np.copyto(logits, problem.logits)) if in_place else None
    name = "fastbp all options" if problem.options else f"fastbp {output}"
    return Entry(Contestant(name, call, restore=restore), residual, ours=True)


def _twin(problem: LossProblem) -> Entry:
    """Return the public function on the NumPy twin."""
    return twin(
        lambda: problem.function(problem.logits, problem.targets),
        lambda result: problem.residual(float(result.loss), result.grad),
    )


def _peer(kind: type[LossPeer], problem: LossProblem) -> Entry:
    """Return the contestant of a library."""
    peer = kind(problem)
    residual = problem.residual(*peer.result())
    return Entry(Contestant(peer.name, peer.call, finish=peer.finish), residual)
