"""Error functions with their gradient, mean reduction: the public call, from Python, checks included.

The NumPy twin makes the same call on the other backend. The peers cannot be told where the gradient goes and
do the same in the rows "new", "buffer" and "in place": allocate it. Only scikit-learn always fills a buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

import fastbp
from fastbp import _backend

from .peers import LossPeer
from .problems import LossProblem
from .race import TWIN, Entry, Row, Work, race, try_peers
from .shapes import LossShape
from .timing import Contestant, Plan


def rows(
    shape: LossShape,
    peers: Iterable[type[LossPeer]],
    dtype: np.dtype,
    threads: int,
    peak: float | None,
    plan: Plan,
) -> list[Row]:
    """Check and measure all contestants of one shape."""
    problem = _problem(shape.kind, shape.rows, shape.classes, dtype, threads)
    entries = [
        _call("fastbp", _backend.name, problem, shape.output),
        _call(TWIN, "reference", problem, shape.output),
    ]
    entries += try_peers(peers, lambda kind: _peer(kind, problem))
    return race(shape.name, entries, Work(shape.traffic(dtype.itemsize), "GB/s", peak), plan)


@lru_cache(maxsize=1)
def _problem(*arguments: Any) -> LossProblem:
    """Return the problem; rows that differ in their output alone share it, and its judge."""
    return LossProblem(*arguments)


def _call(name: str, backend: str, problem: LossProblem, output: str) -> Entry:
    """Return the public function on one backend."""
    function, targets, threads = problem.function, problem.targets, problem.threads
    in_place = output == "in place"
    logits = problem.logits.copy() if in_place else problem.logits
    grad_out = {"new": None, "buffer": np.empty_like(logits), "in place": logits}[output]

    def call() -> fastbp.LossGrad:
        with _backend.use(backend):
            return function(logits, targets, grad_out=grad_out, n_threads=threads)

    result = call()
    residual = problem.residual(float(result.loss), result.grad)
    restore = (lambda: np.copyto(logits, problem.logits)) if in_place else None
    return Entry(Contestant(name, call, restore=restore), residual, ours=name != TWIN)


def _peer(kind: type[LossPeer], problem: LossProblem) -> Entry:
    """Return the contestant of a library."""
    peer = kind(problem)
    residual = problem.residual(*peer.result())
    return Entry(Contestant(peer.name, peer.call, finish=peer.finish), residual)
