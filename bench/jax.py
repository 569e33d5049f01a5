"""optax's cross-entropy and ours in its place, `fastbp.jax`: a jitted `value_and_grad`, mean reduction, on the same arrays.

Beside them stands fastbp by `jax.pure_callback`, as anybody could write it: it shows what XLA's foreign functions spare.
The row of the last layer with its error tells memory too; optax has the logits of all rows there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import fastbp

from .linear import LinearProblem, LinearShape, Result, entry
from .peers.libraries import import_jax
from .problems import LossProblem
from .race import Entry, Row, Setting, Work, race, try_peers
from .shapes import LossShape
from .timing import Contestant

SHAPES = (
    LossShape("softmax", 128, 10),
    LossShape("softmax", 1024, 1000),
    LossShape("softmax", 4096, 32000),
    LinearShape(2048, 512, 32000),
)


class Optax:
    """optax: `softmax_cross_entropy_with_integer_labels`."""

    name, package = "optax", "optax"

    def error(self, z: Any, labels: Any) -> Any:
        """Mean error of logits."""
        import optax

        return optax.softmax_cross_entropy_with_integer_labels(z, labels).mean()

    def layer(self, x: Any, weight: Any, labels: Any) -> Any:
        """Mean error of a layer."""
        return self.error(x @ weight, labels)


class Ours(Optax):
    """fastbp."""

    name, package = "fastbp", "jax"

    def error(self, z: Any, labels: Any) -> Any:
        """Mean error of logits."""
        import fastbp.jax

        return fastbp.jax.softmax_cross_entropy(z, labels)

    def layer(self, x: Any, weight: Any, labels: Any) -> Any:
        """Mean error of a layer."""
        import fastbp.jax

        return fastbp.jax.linear_softmax_cross_entropy(x, weight, labels)


class Callback(Optax):
    """fastbp, called back from XLA as JAX does it: arguments and results are copied."""

    name, package = "callback", "jax"

    def error(self, z: Any, labels: Any) -> Any:
        """Mean error of logits."""
        return _called_back(fastbp.softmax_cross_entropy, 2)(z, labels)

    def layer(self, x: Any, weight: Any, labels: Any) -> Any:
        """Mean error of a layer."""
        return _called_back(fastbp.linear_softmax_cross_entropy, 3)(x, weight, labels)


def _called_back(function: Callable[..., Any], results: int) -> Any:
    """A function of fastbp, its loss and gradients, with a derivative."""
    import jax

    def on_host(*arrays: Any) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(each) for each in function(*map(np.asarray, arrays))[:results])

    def both(*arrays: Any) -> Any:
        kinds = [jax.ShapeDtypeStruct((), arrays[0].dtype)]
        kinds += [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays[: results - 1]]
        return jax.pure_callback(on_host, tuple(kinds), *arrays)

    @jax.custom_vjp
    def error(*arrays: Any) -> Any:
        return both(*arrays)[0]

    def forward(*arrays: Any) -> Any:
        loss, *gradients = both(*arrays)
        return loss, gradients

    error.defvjp(forward, lambda gradients, slope: (*(slope * each for each in gradients), None))
    return error


PEERS: tuple[type[Optax], ...] = (Optax, Callback)


class Contest:
    """A side's error of some arrays with its gradients, compiled."""

    def __init__(
        self, name: str, error: Callable[..., Any], learned: int, arrays: Iterable[np.ndarray]
    ) -> None:
        first, *_ = arrays = tuple(arrays)
        self.jax, self.name = import_jax(first.dtype), name
        self.arrays = [self.jax.numpy.asarray(array) for array in arrays]
        self.function = self.jax.jit(self.jax.value_and_grad(error, tuple(range(learned))))
        self.function.lower(*self.arrays).compile()
        self.answer: Any = None

    def call(self) -> None:
        """Error and gradients; those of the last call are given back before."""
        self.answer = None
        self.answer = self.jax.block_until_ready(self.function(*self.arrays))

    def result(self) -> Result:
        """Return them as NumPy sees them."""
        loss, gradients = self.answer
        by_inputs, by_weight = map(np.asarray, gradients)
        return float(loss), by_inputs, by_weight


def rows(shape: LossShape | LinearShape, peers: Iterable[type[Optax]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    if isinstance(shape, LinearShape):
        layer = LinearProblem(shape, setting.dtype, setting.threads)
        arrays = layer.inputs, np.ascontiguousarray(layer.embedding.T), layer.labels
        entries = try_peers(
            (Ours, *peers),
            lambda side: entry(layer, Contest(side.name, side().layer, 2, arrays), ours=side is Ours),
        )
        return race(
            shape.name, entries, Work(shape.operations, "GFLOP/s", setting.peaks.gflops), setting.plan
        )
    problem = LossProblem(shape, setting.dtype, setting.threads)
    entries = try_peers((Ours, *peers), lambda side: _entry(problem, side))
    work = Work(shape.traffic(setting.dtype.itemsize), "GB/s", setting.peaks.copy_gbs)
    return race(shape.name, entries, work, setting.plan)


def _entry(problem: LossProblem, side: type[Optax]) -> Entry:
    contest = Contest(side.name, side().error, 1, (problem.logits, problem.targets))
    contest.call()
    loss, (gradient,) = contest.answer
    residual = problem.residual(float(loss), np.asarray(gradient))
    return Entry(Contestant(side.name, contest.call), residual, ours=side is Ours)
