"""What happens when XLA calls: fastbp's functions on XLA's memory, one example of a batched call after the other."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fastbp import _checks, last_layer, losses
from fastbp.jax.frames import handler

__all__ = ["call"]

Given = dict[str, Any]  # arrays by name


def call(
    name: str,
    operands: Sequence[tuple[str, jax.Array]],
    results: Sequence[jax.ShapeDtypeStruct],
    options: dict[str, Any],
) -> tuple[jax.Array, ...]:
    """The results of a function below on named arrays, as a part of a JAX program."""
    plan = {
        "operands": [(operand, array.ndim) for operand, array in operands],
        "results": [len(result.shape) for result in results],
        "options": options,
    }
    made = jax.ffi.ffi_call(f"fastbp.{name}", results, vmap_method="expand_dims")
    answer: tuple[jax.Array, ...] = tuple(made(*(array for _, array in operands), plan=json.dumps(plan)))
    return answer


class _Plan(NamedTuple):
    operands: list[tuple[str, int]]
    """Names, and how many axes they have without those of vmap, which come first."""
    results: list[int]
    options: dict[str, Any]


@functools.lru_cache(maxsize=1024)
def _plan(text: bytes) -> _Plan:
    plan = _Plan(**json.loads(text))
    plan.options["reduction"] = sys.intern(
        plan.options["reduction"]
    )  # the short way asks whether it is its "mean"
    return plan


def _run(
    function: Callable[..., None], text: bytes, arguments: list[np.ndarray], results: list[np.ndarray]
) -> None:
    plan = _plan(text)
    # Class indices as the kernels read them, without another look.
    arguments = [array.astype(np.int64) if array.dtype == np.int32 else array for array in arguments]
    given = {name: array for (name, _), array in zip(plan.operands, arguments, strict=True)}
    if results[0].ndim == plan.results[0]:
        function(given, plan.options, results)
        return
    ranks, batch = dict(plan.operands), results[0].shape[: results[0].ndim - plan.results[0]]
    for index in np.ndindex(*batch):
        members = {name: _member(array, ranks[name], index) for name, array in given.items()}
        function(members, plan.options, [result[(*index, ...)] for result in results])


def _member(array: np.ndarray, rank: int, index: tuple[int, ...]) -> np.ndarray:
    """The array at an index of the batch; what vmap leaves alone has axes of length 1 there."""
    lengths = array.shape[: array.ndim - rank]
    place: tuple[Any, ...] = tuple(i if n > 1 else 0 for i, n in zip(index, lengths, strict=True))
    member: np.ndarray = array[(*place, ...)]
    return member


def _softmax_cross_entropy(given: Given, options: dict[str, Any], results: list[np.ndarray]) -> None:
    results[0][...] = losses.softmax_cross_entropy(**given, **options, grad_out=results[1]).loss


def _linear_softmax_cross_entropy(given: Given, options: dict[str, Any], results: list[np.ndarray]) -> None:
    loss, grad_inputs, grad_weight, *grad_bias = results
    softmax = (
        given.get("class_weight"),
        given.get("sample_weight"),
        options.get("ignore_index", _checks.IGNORE_INDEX),
        options["label_smoothing"],
        options["lse_square_scale"],
        options["softcap"],
    )
    loss[...], _ = last_layer.evaluate(
        given["inputs"],
        given["weight"],
        given.get("bias"),
        given["targets"],
        softmax,
        options["reduction"],
        options["max_memory"],
        options["precision"],
        options["n_threads"],
        (grad_inputs, grad_weight, grad_bias[0] if grad_bias else None),
    )


_HANDLERS = {
    f"fastbp.{function.__name__[1:]}": handler(functools.partial(_run, function))
    for function in (_softmax_cross_entropy, _linear_softmax_cross_entropy)
}
for _name, _handler in _HANDLERS.items():
    jax.ffi.register_ffi_target(_name, jax.ffi.pycapsule(_handler), platform="cpu")
