"""Calls from the threads of an executor, as docs/embedding.md has them: the parts of a batch by one worker, and by as many as
there are threads, each part on one thread. Beside them the whole batch in one call on all threads. All three write the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastbp

from .timing import Contestant, Plan, measure

BATCHES = 20  # one after the other: the workers of a server do not sleep between two


@dataclass(frozen=True)
class ExecutorShape:
    """Logits, and the examples of a part."""

    examples: int
    classes: int
    part: int

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        return f"{self.examples} x {self.classes} in parts of {self.part}"


SHAPES = (
    ExecutorShape(20_000, 100, 5_000),
    ExecutorShape(100_000, 100, 5_000),
    ExecutorShape(8_000, 1_000, 1_000),
    ExecutorShape(20_000, 100, 100),
)


def rows(shapes: Sequence[ExecutorShape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print each."""
    return [_row(shape, dtype, threads, quick) for shape in shapes]


def _row(shape: ExecutorShape, dtype: np.dtype, threads: int, quick: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((shape.examples, shape.classes)).astype(dtype)
    labels = rng.integers(0, shape.classes, shape.examples)
    gradients = {name: np.empty_like(logits) for name in ("whole", "one worker", "workers")}

    def part(grad: np.ndarray) -> Callable[[slice], None]:
        def error_of(some: slice) -> None:
            options = {"reduction": "sum", "grad_out": grad[some], "n_threads": 1}
            fastbp.softmax_cross_entropy(logits[some], labels[some], **options)

        return error_of

    def whole() -> None:
        for _ in range(BATCHES):
            fastbp.softmax_cross_entropy(logits, labels, reduction="sum", grad_out=gradients["whole"])

    parts = [slice(start, start + shape.part) for start in range(0, shape.examples, shape.part)] * BATCHES
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(threads) as many:
        contestants = [Contestant("whole", whole, units=BATCHES)]
        for name, pool in (("one worker", one), ("workers", many)):
            work = part(gradients[name])
            contestants.append(
                Contestant(name, lambda pool=pool, work=work: list(pool.map(work, parts)), units=BATCHES)
            )
        for contestant in contestants:
            contestant.call()
        assert all(np.array_equal(gradients["whole"], each) for each in gradients.values())
        timings = measure(contestants, Plan.of(quick, threads))
    found = {name: timings.ratio("one worker", name) for name in ("workers", "whole")}
    print(
        f"{shape.name:34} {1e3 * timings.median('one worker'):7.2f} ms by one worker; by {threads} ×{found['workers']:.2f},"
        f" in one call ×{found['whole']:.2f}",
        flush=True,
    )
    return {"shape": shape.name, "seconds": timings.median("one worker"), "ratios": found}
