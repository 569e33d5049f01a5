"""A table of good calls, one for each function, which the tests of calls change; and the same numbers in many layouts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tolerances import ACTIVATIONS

import fastbp
from fastbp import outputs

F32, F64 = np.float32, np.float64


# The same numbers, laid out in memory in one way and another ------------------------------------------------


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def strided(a: np.ndarray) -> np.ndarray:
    """Every other element along the last axis."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def fortran(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a.copy())


def swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder())


def unaligned(a: np.ndarray) -> np.ndarray:
    result = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    result[...] = a
    assert not result.flags.aligned
    return result


def backwards(a: np.ndarray) -> np.ndarray:
    """The rows follow each other backwards."""
    return a[::-1].copy()[::-1]


def with_gaps(a: np.ndarray) -> np.ndarray:
    """Contiguous rows, other numbers between them."""
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 99, a.dtype)
    wide[..., 1:-2] = a
    return wide[..., 1:-2]


def subclass(a: np.ndarray) -> np.ndarray:
    class Subclass(np.ndarray):
        pass

    return a.copy().view(Subclass)


LAYOUTS = (read_only, strided, fortran, swapped, unaligned, backwards, with_gaps, subclass)


# A good call of each function -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A function, its arguments in order, which of them it writes to, and which input an output may be."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    outputs: tuple[str, ...] = ()
    in_place: tuple[str, str] | None = None

    def changed(self, **changes: Any) -> dict[str, Any]:
        """Fresh arguments, some of them changed."""
        return {**copy.deepcopy(self.arguments), **changes}

    def arrays(self) -> list[str]:
        return [name for name, value in self.arguments.items() if isinstance(value, np.ndarray)]

    def inputs(self) -> list[str]:
        return [name for name in self.arrays() if name not in self.outputs]


def values(*shape: int, dtype: Any = F32) -> np.ndarray:
    """Different numbers in (0, 1)."""
    return (np.arange(1, 1 + np.prod(shape)) * 0.618 % 1.0).astype(dtype).reshape(shape)


def zeros(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.zeros(shape, dtype)


def good_calls() -> Iterator[tuple[str, Call]]:
    z, t, labels, w = values(3, 4), values(3, 4)[::-1].copy(), np.array([0, 3, 2]), np.array([0.5, 2.0, 1.0])
    tail = {"sample_weight": w, "grad_out": zeros(3, 4)}
    in_place = ("grad_out",), ("logits", "grad_out")
    for case, targets in (("softmax_cross_entropy", labels), ("softmax_cross_entropy of rows", t)):
        arguments = {"logits": z, "targets": targets, "class_weight": values(4), **tail}
        yield case, Call(fastbp.softmax_cross_entropy, arguments, *in_place)
    arguments = {"logits": z, "targets": t, "pos_weight": values(4), **tail}
    yield "sigmoid_cross_entropy", Call(fastbp.sigmoid_cross_entropy, arguments, *in_place)
    both = {**tail, "hessian_out": zeros(3, 4)}
    for case, change in (
        ("softmax_cross_entropy_hessian", {"targets": labels, "class_weight": values(4)}),
        ("sigmoid_cross_entropy_hessian", {"targets": t, "pos_weight": values(4)}),
    ):
        arguments = {"logits": z, **change, **both}
        yield case, Call(getattr(fastbp, case), arguments, ("grad_out", "hessian_out"), in_place[1])
    for function in (fastbp.sigmoid_squared_error, fastbp.poisson_deviance):
        yield function.__name__, Call(function, {"logits": z, "targets": t, **tail}, *in_place)
    for function in (fastbp.squared_error, fastbp.huber, fastbp.quantile):
        arguments = {"outputs": z, "targets": t, **tail}
        yield function.__name__, Call(function, arguments, ("grad_out",), ("outputs", "grad_out"))

    for name in MAPS:
        yield name, Call(getattr(fastbp, name), {"x": z, "out": zeros(3, 4)}, ("out",), ("x", "out"))
    yield "logsumexp", Call(fastbp.logsumexp, {"x": z})
    arguments = {"name": "tanh", "grad": z, "a": t, "out": zeros(3, 4)}
    yield "activation_backward", Call(fastbp.activation_backward, arguments, ("out",), ("grad", "out"))
    arguments = {"grad": z, "y": t, "out": zeros(3, 4)}
    yield "softmax_backward", Call(fastbp.softmax_backward, arguments, ("out",), ("grad", "out"))

    weight, delta = values(4, 2), values(3, 2)
    arguments = {"x": z, "weight": weight, "bias": values(2), "activation": "tanh", "out": zeros(3, 2)}
    yield "linear", Call(fastbp.linear, arguments, ("out",))
    arguments = {"delta": delta, "weight": weight, "activation": "tanh", "a": t, "out": zeros(3, 4)}
    yield "linear_backward_input", Call(fastbp.linear_backward_input, arguments, ("out",))
    arguments = {"a_prev": z, "delta": delta, "out": zeros(4, 2), "bias_out": zeros(2)}
    yield "linear_backward_weight", Call(fastbp.linear_backward_weight, arguments, ("out", "bias_out"))

    arguments = {
        "inputs": z,
        "weight": values(4, 5),
        "targets": labels,
        "bias": values(5),
        "sample_weight": w,
    }
    yield "linear_softmax_cross_entropy", Call(fastbp.linear_softmax_cross_entropy, arguments)

    vectors = {"parameters": values(6), "gradient": values(6) - F32(0.5)}
    arguments = {**vectors, "momentum": 0.9, "velocity": zeros(6)}
    yield "sgd_update", Call(fastbp.sgd_update, arguments, ("parameters", "velocity"))
    arguments = {**vectors, "first_moment": zeros(6), "second_moment": zeros(6), "step": 1}
    yield "adam_update", Call(fastbp.adam_update, arguments, ("parameters", "first_moment", "second_moment"))


LOSSES = tuple(outputs.LOSSES)
ELEMENTWISE = LOSSES[1:]
MAPS = (*ACTIVATIONS, "softmax", "log_softmax")
UPDATES = ("sgd_update", "adam_update")
GOOD = dict(good_calls())
INPUTS = [(case, name) for case, call in GOOD.items() for name in call.inputs()]
OUTPUTS = [(case, name) for case, call in GOOD.items() for name in call.outputs]
FRESH_OUTPUTS = [
    (case, name) for case, name in OUTPUTS if name in ("out", "grad_out", "hessian_out", "bias_out")
]


def answer(call: Call, arguments: dict[str, Any]) -> list[np.ndarray]:
    """All that a call returns or writes."""
    result = call.function(**arguments)
    returned = result if isinstance(result, tuple) else (result,)
    return [
        np.array(part)
        for part in (*returned, *(arguments[name] for name in call.outputs))
        if part is not None
    ]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    """Assert that two answers are equal bit for bit."""
    assert [(x.dtype, x.shape, x.tobytes()) for x in a] == [(x.dtype, x.shape, x.tobytes()) for x in b]


def refused(error: type[Exception], message: str, function: Callable[..., Any], **arguments: Any) -> None:
    """Assert that the call raises exactly this, and that it has written nowhere."""
    before = copy.deepcopy(arguments)
    with pytest.raises(error) as caught:
        function(**arguments)
    assert (type(caught.value), str(caught.value)) == (error, message)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == before[name].tobytes(), name
