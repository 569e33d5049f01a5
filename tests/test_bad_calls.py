"""Every kind of bad call with its exact message, and the unusual calls that are good.

A message is one sentence, "<argument>: got <what came>, expected <what>", and no bad call writes a byte. The
tests start from a table of good calls, one for each function, and change one argument at a time.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import _backend, _checks

pytestmark = pytest.mark.usefixtures("backend")

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
    for function in (fastbp.sigmoid_squared_error, fastbp.poisson_deviance):
        yield function.__name__, Call(function, {"logits": z, "targets": t, **tail}, *in_place)
    arguments = {"outputs": z, "targets": t, **tail}
    yield "squared_error", Call(fastbp.squared_error, arguments, ("grad_out",), ("outputs", "grad_out"))

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


ELEMENTWISE = ("sigmoid_cross_entropy", "squared_error", "sigmoid_squared_error", "poisson_deviance")
LOSSES = ("softmax_cross_entropy", *ELEMENTWISE)
MAPS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softplus", "softmax", "log_softmax")
UPDATES = ("sgd_update", "adam_update")
GOOD = dict(good_calls())
INPUTS = [(case, name) for case, call in GOOD.items() for name in call.inputs()]
OUTPUTS = [(case, name) for case, call in GOOD.items() for name in call.outputs]
FRESH_OUTPUTS = [(case, name) for case, name in OUTPUTS if name in ("out", "grad_out", "bias_out")]


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


# One bad argument -------------------------------------------------------------------------------------------

Row = tuple[str, str, Any, type[Exception], str]

ONE_OF_ACTIVATIONS = "expected one of identity, sigmoid, tanh, relu, leaky_relu, gelu, silu, softplus"


def bad_arrays() -> Iterator[tuple[Any, str]]:
    """What is no array of float32 or float64, and what an error calls it."""
    for kind in ("int32", "float16", "complex64", "bool", "object", "datetime64[s]", "<U3", np.longdouble):
        yield np.zeros((3, 4), kind), f"dtype {np.dtype(kind)}"
    yield [[1, 2], [3, 4]], "dtype int64"
    yield [[None, 2.0]], "dtype object"
    yield 1, "dtype int64"
    yield None, "NoneType"
    yield "abc", "str"
    yield {1.0, 2.0}, "set"


def bad_values() -> Iterator[Row]:
    """(case, argument, bad value, error, message after the argument's name)."""
    for case, call in GOOD.items():
        first = call.arrays()[0]
        if case not in UPDATES:
            for value, got in bad_arrays():
                yield case, first, value, TypeError, f"got {got}, expected float32 or float64"
        for value in (0, -2):
            yield case, "n_threads", value, ValueError, f"got {value}, expected None or an integer >= 1"
        for value in (1.0, "2", True):
            got = type(value).__name__
            yield case, "n_threads", value, TypeError, f"got {got}, expected None or an integer >= 1"
    yield from bad_shapes()
    yield from bad_targets()
    yield from bad_weights()
    yield from bad_numbers()
    yield from bad_companions()


def bad_shapes() -> Iterator[Row]:
    for case in ("softmax_cross_entropy", "softmax_cross_entropy of rows"):
        for shape in ((), (12,), (1, 3, 4)):
            yield case, "logits", zeros(*shape), ValueError, f"got shape {shape}, expected (N, C)"
        text = "expected (N, C) with at least one class"
        yield case, "logits", zeros(3, 0), ValueError, f"got shape (3, 0), {text}"
    for case in ELEMENTWISE:
        for shape in ((), (1, 3, 4)):
            text = "expected (N, O), or (N,) for examples of one output"
            yield case, GOOD[case].arrays()[0], zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in ("softmax", "log_softmax", "logsumexp"):
        yield case, "x", F32(1.0), ValueError, "got shape (), expected (..., C)"
    yield "softmax_backward", "grad", 1.0, ValueError, "got shape (), expected (..., C)"
    for case, name, letters in (
        ("linear", "x", "(N, I)"),
        ("linear", "weight", "(I, O)"),
        ("linear_backward_input", "delta", "(N, O)"),
        ("linear_backward_input", "weight", "(I, O)"),
        ("linear_backward_weight", "a_prev", "(N, I)"),
        ("linear_backward_weight", "delta", "(N, O)"),
    ):
        for shape in ((), (4,), (1, 4, 2)):
            yield case, name, zeros(*shape), ValueError, f"got shape {shape}, expected {letters}"


def bad_targets() -> Iterator[Row]:
    case = "softmax_cross_entropy"
    text = "expected integer class indices, or rows of targets (3, 4)"
    for value, kind in (
        ([0.0, 1.0, 2.0], "float64"),
        ([True, False, True], "bool"),
        (["a", "b", "c"], "<U1"),
    ):
        yield case, "targets", value, TypeError, f"got dtype {kind} of shape (3,), {text}"
    yield case, "targets", zeros(0), TypeError, f"got dtype float32 of shape (0,), {text}"
    for value in ([0, 1], []):
        text = "expected (3,), one class for each row of logits"
        yield case, "targets", value, ValueError, f"got shape ({len(value)},), {text}"
    for shape in ((), (3, 1), (4, 3), (3, 5), (1, 3, 4)):
        text = "expected (3, 4), or class indices (3,)"
        yield case, "targets", zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in ELEMENTWISE:
        for shape in ((3,), (3, 1), (1, 4), (4, 3), (1, 3, 4)):
            text = f"expected (3, 4), the shape of {GOOD[case].arrays()[0]}, or one number"
            yield case, "targets", zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in LOSSES:
        for kind in ("complex128", "object", "datetime64[s]", "timedelta64[s]", "<U1", "V4"):
            value = np.zeros((3, 4), kind)
            yield case, "targets", value, TypeError, f"got dtype {value.dtype}, expected real numbers"

    case, text = "softmax_cross_entropy", "expected an integer in [-2**63, 2**63 - 1)"
    for value in (1.0, None, True):
        yield case, "ignore_index", value, TypeError, f"got {type(value).__name__}, {text}"
    for value in (2**64 - 1, 2**63 - 1, -(2**63) - 1):
        yield case, "ignore_index", value, ValueError, f"got {value}, {text}"
    text = "got 3 with rows of targets, expected class indices"
    yield "softmax_cross_entropy of rows", "ignore_index", 3, ValueError, text


def bad_weights() -> Iterator[Row]:
    for case, name, size, thing in (
        ("softmax_cross_entropy", "class_weight", 4, "class"),
        ("sigmoid_cross_entropy", "pos_weight", 4, "output"),
        *((case, "sample_weight", 3, "example") for case in LOSSES),
    ):
        for shape in ((7,), (size, 1), (1, size)):
            text = f"expected ({size},), one weight for each {thing}"
            yield case, name, zeros(*shape), ValueError, f"got shape {shape}, {text}"
        for value, got in (
            (zeros(size, dtype="complex64"), "dtype complex64"),
            ({0: 1.0}, "dict"),
            ("balanced", "str"),
        ):
            yield case, name, value, TypeError, f"got {got}, expected real numbers"


def bad_numbers() -> Iterator[Row]:
    softmax, sigmoid, sgd, adam = (
        "softmax_cross_entropy",
        "sigmoid_cross_entropy",
        "sgd_update",
        "adam_update",
    )
    intervals: dict[str, tuple[tuple[float, ...], list[tuple[str, str]]]] = {
        "a number in [0, 1]": (
            (-0.1, 1.1, 2),
            [(softmax, "label_smoothing"), (sigmoid, "label_smoothing"), (sgd, "momentum")],
        ),
        "a number in [0, 1)": ((-0.1, 1.0, 1), [(adam, "beta_1"), (adam, "beta_2")]),
        "a finite number > 0": ((0.0, 0, -1.0), [(softmax, "softcap"), (adam, "epsilon")]),
        "a finite number >= 0": (
            (-1e-9, -1),
            [
                (softmax, "lse_square_scale"),
                *((f, name) for f in UPDATES for name in ("learning_rate", "weight_decay")),
            ],
        ),
    }
    for text, (outside, places) in intervals.items():
        for case, name in places:
            for value in (*outside, np.nan, np.inf, -np.inf, F32(-1.0), 10**400):
                yield case, name, value, ValueError, f"got {value}, expected {text}"
            for value in ("0.5", [0.5], np.array(0.5), 0.5j, True, *(() if name == "softcap" else (None,))):
                yield case, name, value, TypeError, f"got {type(value).__name__}, expected {text}"
    for value in (0, -1):
        yield adam, "step", value, ValueError, f"got {value}, expected an integer >= 1"
    for value in (1.0, None, True):
        yield adam, "step", value, TypeError, f"got {type(value).__name__}, expected an integer >= 1"
    for value in (1, "yes", None):
        yield sgd, "nesterov", value, TypeError, f"got {type(value).__name__}, expected True or False"
    for case in LOSSES:
        yield case, "reduction", "average", ValueError, "got 'average', expected one of mean, sum, none"
        yield case, "reduction", None, TypeError, "got NoneType, expected one of mean, sum, none"
    for case, name in (
        ("activation_backward", "name"),
        ("linear", "activation"),
        ("linear_backward_input", "activation"),
    ):
        yield case, name, "softmax", ValueError, f"got 'softmax', {ONE_OF_ACTIVATIONS}"
        yield case, name, np.tanh, TypeError, f"got ufunc, {ONE_OF_ACTIVATIONS}"


def bad_companions() -> Iterator[Row]:
    """Arrays that must be like another one."""
    for case, name, other in (
        ("activation_backward", "a", "grad"),
        ("softmax_backward", "y", "grad"),
        ("linear", "weight", "x"),
        ("linear", "bias", "weight"),
        ("linear_backward_input", "weight", "delta"),
        ("linear_backward_input", "a", "delta"),
        ("linear_backward_weight", "delta", "a_prev"),
        ("sgd_update", "gradient", "parameters"),
        ("adam_update", "gradient", "parameters"),
    ):
        value = GOOD[case].arguments[name]
        yield case, name, value.astype(F64), TypeError, f"got dtype float64, expected float32 like {other}"
        yield case, name, value.astype("int8"), TypeError, "got dtype int8, expected float32 or float64"
    for case, name, shape, text in (
        ("activation_backward", "a", (4, 3), "(3, 4), the shape of grad"),
        ("softmax_backward", "y", (4,), "(3, 4), the shape of grad"),
        ("linear", "weight", (3, 2), "(4, O) for x of shape (3, 4)"),
        ("linear", "bias", (4,), "(2,), one for each output"),
        ("linear_backward_input", "weight", (4, 3), "(I, 2) for delta of shape (3, 2)"),
        ("linear_backward_input", "a", (3, 2), "(3, 4), one row for each row of delta"),
        ("linear_backward_weight", "delta", (2, 2), "(3, O) for a_prev of shape (3, 4)"),
        ("sgd_update", "gradient", (5,), "(6,), the shape of parameters"),
        ("adam_update", "gradient", (6, 1), "(6,), the shape of parameters"),
    ):
        yield case, name, zeros(*shape), ValueError, f"got shape {shape}, expected {text}"
    text = "got None, expected shape (3, 4) for activation='tanh'"
    yield "linear_backward_input", "a", None, TypeError, text
    text = "got None with momentum=0.9, expected an array like parameters"
    yield "sgd_update", "velocity", None, TypeError, text
    for name in ("first_moment", "second_moment"):
        yield "adam_update", name, None, TypeError, "got NoneType, expected numpy.ndarray"


def row_id(row: Row) -> str:
    case, name, value, _, _ = row
    return (
        f"{case}-{name}-{f'{value.dtype}{value.shape}' if isinstance(value, np.ndarray) else str(value)[:20]}"
    )


@pytest.mark.parametrize("row", list(bad_values()), ids=row_id)
def test_a_bad_argument_is_named(row: Row) -> None:
    case, name, value, error, message = row
    refused(error, f"{name}: {message}", GOOD[case].function, **GOOD[case].changed(**{name: value}))


@pytest.mark.parametrize("case", [case for case in GOOD if case not in UPDATES])
def test_what_numpy_makes_no_plain_array_of(case: str) -> None:
    call = GOOD[case]
    name = call.arrays()[0]
    with pytest.raises(ValueError, match=f"^{name}: got a list that is no array .*, expected an array$"):
        call.function(**call.changed(**{name: [[1.0], [1.0, 2.0]]}))
    masked = np.ma.masked_array(call.arguments[name])
    message = f"{name}: got a masked array, expected a plain one (fill or drop what is masked)"
    refused(TypeError, message, call.function, **call.changed(**{name: masked}))


@pytest.mark.parametrize("case", GOOD)
def test_options_are_keywords(case: str) -> None:
    call = GOOD[case]
    with pytest.raises(TypeError, match="positional argument"):
        call.function(*call.arguments.values(), None, None)


# Class indices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "row", "value"),
    [
        ([0, 4, 1], 1, "4"),
        ([0, 1, -1], 2, "-1"),
        ([-101, 9, 9], 0, "-101"),
        (np.array([0, 1, 255], np.uint8), 2, "255"),
        (np.array([0, -128, 1], np.int8), 1, "-128"),
        (np.array([0, 1, 2**63], np.uint64), 2, "9223372036854775808"),
        (np.array([0, 2**64 - 100, 1], np.uint64), 1, "18446744073709551516"),  # as int64 it would be -100
        (np.array([0, 4, 1], ">i2"), 1, "4"),
    ],
    ids=str,
)
def test_a_class_index_out_of_range_is_quoted(targets: Any, row: int, value: str) -> None:
    message = f"targets: row {row} is {value}, expected a class index in [0, 4) or ignore_index=-100"
    call = GOOD["softmax_cross_entropy"]
    refused(fastbp.TargetIndexError, message, call.function, **call.changed(targets=targets))


def test_the_index_error_is_of_both_kinds_and_can_travel() -> None:
    with pytest.raises(fastbp.TargetIndexError) as caught:
        fastbp.softmax_cross_entropy(zeros(3, 4), [0, 1, 4], ignore_index=-1)
    error = caught.value
    assert isinstance(error, IndexError)
    assert isinstance(error, ValueError)
    assert str(error) == "targets: row 2 is 4, expected a class index in [0, 4) or ignore_index=-1"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert (type(error).__module__, type(error).__qualname__) == ("fastbp", "TargetIndexError")


@pytest.mark.parametrize("kind", ["b", "h", "i", "l", "q", "B", "H", "I", "L", "Q", ">i4", ">u8"])
def test_class_indices_are_of_any_integer_dtype(kind: str) -> None:
    call = GOOD["softmax_cross_entropy"]
    expected = answer(call, call.changed())
    same(answer(call, call.changed(targets=call.arguments["targets"].astype(kind))), expected)


@pytest.mark.parametrize(
    ("kind", "ignored"), [("u1", 255), ("i8", -1), ("u8", 2**62), ("i4", 1), ("i8", -100)]
)
def test_the_label_to_ignore_is_any_integer(kind: str, ignored: int) -> None:
    targets = np.array([0, ignored, 2], kind)
    _, grad, weight_sum = fastbp.softmax_cross_entropy(values(3, 4), targets, ignore_index=np.int64(ignored))
    assert weight_sum == 2.0
    assert grad.any(axis=1).tolist() == [True, False, True]


# Outputs ----------------------------------------------------------------------------------------------------


def bad_outputs(right: np.ndarray, like: bool) -> Iterator[tuple[Any, type[Exception], str]]:
    """What cannot stand for `right`; `like`: its dtype and shape are given by another argument."""
    yield right.tolist(), TypeError, "got list, expected numpy.ndarray"
    yield np.ma.masked_array(right), TypeError, "got MaskedArray, expected numpy.ndarray"
    yield swapped(right), TypeError, f"got dtype {swapped(right).dtype}, expected float32"
    text = "float32" if like else "float32 or float64"
    yield right.astype("int32"), TypeError, f"got dtype int32, expected {text}"
    if like:
        yield right.astype(F64), TypeError, f"got dtype float64, expected {text}"
        yield right[:-1], ValueError, f"got shape {right[:-1].shape}, expected {right.shape}"
    yield right[None], ValueError, f"got shape {right[None].shape}, expected {right.shape}"
    yield read_only(right), ValueError, "got a read-only array, expected a writeable one"
    yield unaligned(right), ValueError, "got an unaligned array, expected an aligned one"
    text = "a C-contiguous array" if right.ndim == 1 else "contiguous rows that do not overlap"
    layouts = [strided(right)]
    if right.ndim == 2:
        closer = (right.itemsize * (right.shape[1] - 1), right.itemsize)
        layouts += [fortran(right), np.lib.stride_tricks.as_strided(np.zeros(99, F32), right.shape, closer)]
    for value in layouts:
        yield value, ValueError, f"got shape {value.shape} with strides {value.strides}, expected {text}"


@pytest.mark.parametrize(("case", "name"), OUTPUTS)
def test_an_output_is_written_where_it_stands_or_refused(case: str, name: str) -> None:
    call = GOOD[case]
    for value, error, message in bad_outputs(call.arguments[name], like=name != "parameters"):
        refused(error, f"{name}: {message}", call.function, **call.changed(**{name: value}))


@pytest.mark.parametrize(("case", "name"), FRESH_OUTPUTS)
@pytest.mark.parametrize("layout", [with_gaps, backwards, subclass, np.copy])
def test_an_output_is_filled_and_returned(case: str, name: str, layout: Callable[..., Any]) -> None:
    call = GOOD[case]
    if name == "bias_out" and layout is backwards:
        layout = np.copy
    out = layout(call.arguments[name])
    arguments = call.changed(**{name: out})
    result = call.function(**arguments)
    position = {"out": 0, "grad_out": 1, "bias_out": 1}[name]
    assert (result[position] if isinstance(result, tuple) else result) is out
    usual = call.changed()
    call.function(**usual)
    same([np.array(out)], [usual[name]])


def test_an_output_of_many_axes_is_contiguous() -> None:
    x, out = values(2, 3, 4), zeros(2, 3, 8)[..., :4]
    message = f"out: got shape (2, 3, 4) with strides {out.strides}, expected a C-contiguous array"
    refused(ValueError, message, fastbp.tanh, x=x, out=out)


def overlapping(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of both in one buffer: the last element of the first one is the beginning of the second."""
    buffer = np.zeros(first.nbytes + second.nbytes, np.uint8)
    start = first.nbytes - second.itemsize
    copies = buffer[: first.nbytes], buffer[start : start + second.nbytes]
    a, b = (
        part.view(old.dtype).reshape(old.shape) for part, old in zip(copies, (first, second), strict=True)
    )
    b[...] = second
    a[...] = first
    return a, b


@pytest.mark.parametrize(("case", "name"), OUTPUTS)
def test_an_output_is_apart_from_all_other_arrays(case: str, name: str) -> None:
    call = GOOD[case]
    earlier = call.outputs[: call.outputs.index(name)]
    for other in (*call.inputs(), *earlier):
        a, b = overlapping(call.arguments[other], call.arguments[name])
        exactly = f", or exactly that of {other}" if call.in_place == (other, name) else ""
        message = f"{name}: got memory that overlaps {other}, expected memory of its own{exactly}"
        refused(ValueError, message, call.function, **call.changed(**{other: a, name: b}))


IN_PLACE = {case: call.in_place for case, call in GOOD.items() if call.in_place}


@pytest.mark.parametrize("case", IN_PLACE)
@pytest.mark.parametrize("layout", [np.copy, with_gaps, backwards])
def test_an_output_may_be_the_very_input(case: str, layout: Callable[..., Any]) -> None:
    call = GOOD[case]
    source, name = IN_PLACE[case]
    expected = answer(call, call.changed())
    whole = layout(call.arguments[source])
    same(answer(call, call.changed(**{source: whole, name: whole})), expected)
    whole = layout(call.arguments[source])
    same(answer(call, call.changed(**{source: read_only_view(whole), name: whole[:]})), expected)


def read_only_view(a: np.ndarray) -> np.ndarray:
    view = a.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("case", IN_PLACE)
def test_a_part_of_the_input_is_not_the_very_input(case: str) -> None:
    call = GOOD[case]
    source, name = IN_PLACE[case]
    buffer = zeros(6, 4)
    message = (
        f"{name}: got memory that overlaps {source}, expected memory of its own, or exactly that of {source}"
    )
    for other in (buffer[1:4], buffer[2::-1], buffer[::2]):
        refused(ValueError, message, call.function, **call.changed(**{source: buffer[:3], name: other}))


@pytest.mark.parametrize("case", IN_PLACE)
def test_columns_of_one_buffer_are_apart(case: str) -> None:
    call = GOOD[case]
    source, name = IN_PLACE[case]
    buffer = zeros(3, 9)
    left, right = buffer[:, :4], buffer[:, 4:8]
    left[...] = call.arguments[source]
    assert np.may_share_memory(left, right)
    same(answer(call, call.changed(**{source: left, name: right})), answer(call, call.changed()))
    assert not buffer[:, 8].any()
    np.testing.assert_array_equal(left, call.arguments[source])


def test_an_overlap_that_is_too_hard_to_decide_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*args: Any, **kwargs: Any) -> bool:
        raise np.exceptions.TooHardError

    monkeypatch.setattr(np, "shares_memory", give_up)
    buffer = values(3, 9)
    message = "out: got memory that overlaps x, expected memory of its own, or exactly that of x"
    refused(ValueError, message, fastbp.tanh, x=buffer[:, :4], out=buffer[:, 4:8])


# Inputs of every layout -------------------------------------------------------------------------------------


@pytest.fixture
def contract(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array that a kernel is handed is one that it can address."""
    kernels = _backend.kernels

    class Strict:
        def __getattr__(self, name: str) -> Any:
            def call(*args: Any) -> Any:
                for a in (arg for arg in args if isinstance(arg, np.ndarray)):
                    assert a.dtype in (np.dtype(F32), np.dtype(F64), np.dtype(np.int64))
                    assert a.flags.aligned
                    rows = a.strides[-1] == a.itemsize or a.shape[-1] == 1
                    # any strides: a layer's weights, and their gradient, which is laid out like them
                    assert rows or (name.startswith("linear") and a.shape == args[1].shape)
                return getattr(kernels, name)(*args)

            return call

    monkeypatch.setattr(_backend, "kernels", Strict())


@pytest.mark.usefixtures("contract")
@pytest.mark.parametrize(("case", "name"), INPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_of_any_layout_works(case: str, name: str, layout: Callable[..., Any]) -> None:
    call = GOOD[case]
    given = layout(call.arguments[name])
    before = given.tobytes()
    same(answer(call, call.changed(**{name: given})), answer(call, call.changed()))
    assert given.tobytes() == before


@pytest.mark.parametrize(("case", "name"), INPUTS)
def test_a_memory_map_works(case: str, name: str, tmp_path: Path) -> None:
    call = GOOD[case]
    value = call.arguments[name]
    value.tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", value.dtype, "r", shape=value.shape)
    same(answer(call, call.changed(**{name: mapped})), answer(call, call.changed()))


@pytest.mark.parametrize(("case", "name"), OUTPUTS)
def test_a_memory_map_can_be_written(case: str, name: str, tmp_path: Path) -> None:
    call = GOOD[case]
    value = call.arguments[name]
    value.tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", value.dtype, "r+", shape=value.shape)
    same(answer(call, call.changed(**{name: mapped})), answer(call, call.changed()))
    mapped.flush()
    usual = call.changed()
    call.function(**usual)
    assert (tmp_path / "numbers").read_bytes() == usual[name].tobytes()


@pytest.mark.parametrize("layout", [read_only, backwards, with_gaps, subclass])
def test_rows_are_not_copied(layout: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel can read where it stands arrives there."""
    seen: list[Any] = []

    def record(*args: Any) -> tuple[float, float]:
        seen.extend(args)
        return 0.0, 0.0

    monkeypatch.setattr(
        _backend, "kernels", SimpleNamespace(squared_error=record, linear=record, max_threads=lambda: 1)
    )
    monkeypatch.setattr(_backend, "name", "reference")
    outputs, targets, weight = layout(values(3, 4)), layout(values(3, 4)), layout(values(4, 2)).T.copy().T
    fastbp.squared_error(outputs, targets)
    assert np.shares_memory(seen[0], outputs)
    assert np.shares_memory(seen[1], targets)
    seen.clear()
    fastbp.linear(outputs, weight)
    assert np.shares_memory(seen[0], outputs)
    assert np.shares_memory(seen[1], weight)  # a transposed one


# Unusual calls that are good --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_a_vector_is_examples_of_one_output(case: str) -> None:
    function = getattr(fastbp, case)
    x, t, w = values(5), values(5)[::-1], values(5)
    for reduction in ("mean", "sum", "none"):
        loss, grad, weight_sum = function(strided(x), t, sample_weight=w, reduction=reduction)
        expected = function(x[:, None], t[:, None], sample_weight=w, reduction=reduction)
        same([np.array(loss), grad[:, None], np.array(weight_sum)], [np.array(part) for part in expected])


@pytest.mark.parametrize("case", ELEMENTWISE)
@pytest.mark.parametrize("target", [1, 0.5, True, F32(2.0), np.array(3)])
def test_one_number_is_the_target_of_all(case: str, target: Any) -> None:
    call = GOOD[case]
    full = np.full((3, 4), target, F32)
    same(answer(call, call.changed(targets=target)), answer(call, call.changed(targets=full)))


@pytest.mark.parametrize(
    "case", [case for case in LOSSES if case != "softmax_cross_entropy"] + ["softmax_cross_entropy of rows"]
)
@pytest.mark.parametrize("kind", ["bool", "u1", "i8", "f2", "f8", "g"])
def test_rows_of_targets_are_cast(case: str, kind: str) -> None:
    call = GOOD[case]
    targets = np.eye(3, 4)
    same(
        answer(call, call.changed(targets=targets.astype(kind))),
        answer(call, call.changed(targets=targets.astype(F32))),
    )


def test_one_number_weighs_all_positives() -> None:
    call = GOOD["sigmoid_cross_entropy"]
    same(answer(call, call.changed(pos_weight=2)), answer(call, call.changed(pos_weight=[2, 2, 2, 2])))


def test_lists_are_arrays_of_float64() -> None:
    loss, grad, weight_sum = fastbp.softmax_cross_entropy([[0.0, 0.0]], [1])
    assert (type(loss), grad.dtype, type(weight_sum)) == (np.float64, np.dtype(F64), float)


def test_the_loss_is_a_scalar_of_the_dtype(dtype: type[np.floating]) -> None:
    loss, grad, weight_sum = fastbp.squared_error(zeros(3, 4, dtype=dtype), 1)
    assert (type(loss), grad.dtype, type(weight_sum)) == (dtype, np.dtype(dtype), float)
    losses = fastbp.squared_error(zeros(3, 4, dtype=dtype), 1, reduction="none").loss
    assert (losses.dtype, losses.tolist()) == (np.dtype(dtype), [2.0, 2.0, 2.0])


@pytest.mark.filterwarnings("error")
def test_a_sum_beyond_float32_is_infinite_without_a_warning() -> None:
    loss, grad, _ = fastbp.softmax_cross_entropy(F32([[3e38, 0.0]] * 4), [1, 1, 1, 1], reduction="sum")
    assert (type(loss), loss) == (F32, np.inf)
    assert grad.tolist() == [[1.0, -1.0]] * 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("targets", [[], np.zeros(0, int), np.zeros((0, 4))], ids=["list", "indices", "rows"])
def test_an_empty_batch(case: str, targets: Any) -> None:
    function = getattr(fastbp, case)
    if case != "softmax_cross_entropy":
        targets = np.zeros((0, 4))
    for reduction, expected in (("mean", "nan"), ("sum", "0.0"), ("none", "[]")):
        loss, grad, weight_sum = function(zeros(0, 4), targets, reduction=reduction)
        assert (str(np.array(loss).tolist()), grad.shape, weight_sum) == (expected, (0, 4), 0.0)


@pytest.mark.parametrize("name", MAPS)
def test_arrays_of_any_number_of_axes(name: str) -> None:
    function = getattr(fastbp, name)
    x = values(2, 3, 4)
    expected = function(x.reshape(6, 4)).reshape(2, 3, 4)
    for given in (x, fortran(x), strided(x), with_gaps(x)):
        np.testing.assert_array_equal(function(given), expected)
    assert function(x, out=x) is x
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(function(values(4)), function(values(1, 4))[0])
    assert function(zeros(2, 0, 4)).shape == (2, 0, 4)
    assert function(zeros(2, 3, 0)).shape == (2, 3, 0)


@pytest.mark.parametrize("name", [name for name in MAPS if "softmax" not in name])
def test_a_scalar_gives_a_scalar(name: str) -> None:
    function = getattr(fastbp, name)
    y = function(F32(0.5))
    assert (type(y), y) == (F32, function(F32([0.5]))[0])
    assert type(function(0.5)) is F64
    out = zeros()
    assert function(F32(0.5), out=out) is out
    assert out == y


def test_logsumexp_drops_the_last_axis() -> None:
    x = values(2, 3, 4)
    y = fastbp.logsumexp(x)
    assert (y.shape, y.dtype) == ((2, 3), np.dtype(F32))
    np.testing.assert_array_equal(fastbp.logsumexp(fortran(x)), y)
    assert type(fastbp.logsumexp(x[0, 0])) is F32
    assert fastbp.logsumexp(x[0, 0]) == y[0, 0]
    assert fastbp.logsumexp(zeros(2, 0)).tolist() == [-np.inf, -np.inf]


def test_backward_of_scalars_and_of_many_axes() -> None:
    assert type(fastbp.activation_backward("relu", 2.0, 1.0)) is F64
    grad, y = values(2, 3, 4), values(2, 3, 4)[::-1]
    for function in (fastbp.softmax_backward, lambda g, a: fastbp.activation_backward("silu", g, a)):
        flat = function(grad.reshape(6, 4), y.reshape(6, 4))
        np.testing.assert_array_equal(function(grad, y), flat.reshape(2, 3, 4))


def test_the_slope_of_the_identity_needs_nothing() -> None:
    delta, weight = values(3, 2), values(4, 2)
    expected = fastbp.linear_backward_input(delta, weight)
    np.testing.assert_array_equal(fastbp.linear_backward_input(delta, weight, a=zeros(3, 4)), expected)
    refused(
        ValueError,
        "a: got shape (3, 2), expected (3, 4), one row for each row of delta",
        fastbp.linear_backward_input,
        delta=delta,
        weight=weight,
        a=delta,
    )


@pytest.mark.parametrize("count", [1, 2, np.int64(3), 10**12])
def test_any_number_of_threads_gives_the_same(count: int) -> None:
    for call in GOOD.values():
        same(answer(call, call.changed(n_threads=count)), answer(call, call.changed()))


# Optimizers -------------------------------------------------------------------------------------------------


def test_velocity_and_momentum_go_together() -> None:
    w, g, v = values(6), values(6), zeros(6)
    message = "velocity: got an array with momentum=0, expected None"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, velocity=v)
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, nesterov=True)


def test_parameters_are_one_vector_of_floats() -> None:
    for value, error, message in (
        (zeros(2, 3), ValueError, "parameters: got shape (2, 3), expected (6,)"),
        (zeros(), ValueError, "parameters: got shape (), expected (1,)"),
        ([0.0, 1.0], TypeError, "parameters: got list, expected numpy.ndarray"),
        (np.zeros(6, int), TypeError, "parameters: got dtype int64, expected float32 or float64"),
    ):
        refused(error, message, fastbp.sgd_update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.SGD().update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.Adam().update, parameters=value, gradient=zeros(6))


OPTIMIZER_RATES = [
    *((fastbp.SGD, name) for name in ("learning_rate", "momentum", "nesterov", "weight_decay")),
    *((fastbp.Adam, name) for name in ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")),
]


@pytest.mark.parametrize(("kind", "name"), OPTIMIZER_RATES)
def test_rates_are_checked_when_made_and_when_used(kind: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: got str, expected ") as made:
        kind(**{name: "much"})
    optimizer = kind()
    setattr(optimizer, name, "much")
    refused(TypeError, str(made.value), optimizer.update, parameters=values(6), gradient=values(6))
    refused(TypeError, str(made.value), optimizer.hyper_parameters)
    assert optimizer.steps == 0


def test_nesterov_needs_momentum() -> None:
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.SGD, nesterov=True)
    assert fastbp.SGD(nesterov=True, momentum=0.5).hyper_parameters() == (0.1, 0.5, True, 0.0)


@pytest.mark.parametrize("optimizer", [fastbp.SGD(momentum=0.9), fastbp.Adam()], ids=repr)
def test_a_state_belongs_to_one_vector(optimizer: fastbp.SGD | fastbp.Adam) -> None:
    optimizer = copy.deepcopy(optimizer)
    optimizer.update(values(6), values(6))
    kept = [vector.copy() for vector in optimizer.state(values(6))]
    name = type(optimizer).__name__
    for other, got in ((values(7), "7 values of float32"), (values(6, dtype=F64), "6 values of float64")):
        message = (
            f"parameters: got {got}, expected 6 of float32, "
            f"the vector this {name} keeps a state for; reset() forgets it"
        )
        refused(ValueError, message, optimizer.update, parameters=other, gradient=other.copy())
        refused(ValueError, message, optimizer.state, parameters=other)
    assert optimizer.steps == 1
    same(list(optimizer.state(values(6))), kept)
    optimizer.reset()
    optimizer.update(values(7), values(7))
    assert (optimizer.steps, optimizer.state(values(7))[0].size) == (1, 7)


def test_a_failed_update_is_no_step() -> None:
    optimizer = fastbp.Adam()
    message = "gradient: got shape (5,), expected (6,), the shape of parameters"
    refused(ValueError, message, optimizer.update, parameters=values(6), gradient=values(5))
    assert optimizer.steps == 0
    assert not any(vector.any() for vector in optimizer.state(values(6)))


def test_optimizers_call_the_updates() -> None:
    w, v = values(6), zeros(6)
    sgd, by_sgd = fastbp.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=0.1), w.copy()
    rates = {"learning_rate": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    for _ in range(3):
        sgd.update(by_sgd, w)
    expected = w.copy()
    for _ in range(3):
        fastbp.sgd_update(expected, w, velocity=v, **rates)
    same([by_sgd, *sgd.state(by_sgd)], [expected, v])

    adam, by_adam, m, v = fastbp.Adam(0.5, beta_1=0.8, weight_decay=0.1), w.copy(), zeros(6), zeros(6)
    for _ in range(3):
        adam.update(by_adam, w)
    expected = w.copy()
    for step in (1, 2, 3):
        fastbp.adam_update(expected, w, m, v, step=step, learning_rate=0.5, beta_1=0.8, weight_decay=0.1)
    same([by_adam, *adam.state(by_adam)], [expected, m, v])
    assert (sgd.steps, adam.steps, sgd.name, adam.name) == (3, 3, "sgd", "adam")


def test_an_optimizer_shows_its_rates() -> None:
    for optimizer, text in (
        (
            fastbp.SGD(1, momentum=F32(0.5)),
            "SGD(learning_rate=1.0, momentum=0.5, nesterov=False, weight_decay=0.0)",
        ),
        (
            fastbp.Adam(),
            "Adam(learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.0)",
        ),
    ):
        assert repr(optimizer) == text
        assert repr(pickle.loads(pickle.dumps(optimizer))) == text


def test_momentum_may_come_and_go() -> None:
    optimizer, w = fastbp.SGD(), values(6)
    optimizer.update(w, w.copy())
    assert optimizer.state(w) == ()
    optimizer.momentum = 0.9
    optimizer.update(w, w.copy())
    assert optimizer.state(w)[0].any()
    optimizer.momentum = 0.0
    optimizer.update(w, w.copy())
    assert (optimizer.state(w), optimizer.steps) == ((), 3)


# The checks themselves --------------------------------------------------------------------------------------


def test_no_module_but_checks_raises_type_or_value_errors_in_the_functions() -> None:
    """The only place where input is checked: the modules of functions contain no ``raise``."""
    folder = Path(_checks.__file__).parent
    for module in ("losses", "activations", "layers", "optimizers"):
        assert not re.search(r"^\s*raise\b", (folder / f"{module}.py").read_text("utf-8"), re.MULTILINE), (
            module
        )
