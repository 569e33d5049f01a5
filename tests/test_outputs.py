"""Arrays that a call writes to: written where they stand, whatever their layout, or refused with an exact message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from good_calls import (
    F32,
    F64,
    FRESH_OUTPUTS,
    GOOD,
    OUTPUTS,
    answer,
    backwards,
    fortran,
    read_only,
    refused,
    same,
    strided,
    subclass,
    swapped,
    unaligned,
    values,
    with_gaps,
    zeros,
)

import fastbp

pytestmark = pytest.mark.usefixtures("backend")


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
def test_an_output_is_filled_and_returned(case: str, name: str) -> None:
    call = GOOD[case]
    usual = call.changed()
    call.function(**usual)
    for layout in (with_gaps, subclass, np.copy, *([backwards] if name != "bias_out" else [])):
        out = layout(call.arguments[name])
        arguments = call.changed(**{name: out})
        result = call.function(**arguments)
        position = {"out": 0, "grad_out": 1, "hessian_out": 2, "bias_out": 1}[name]
        assert (result[position] if isinstance(result, tuple) else result) is out
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
def test_an_output_may_be_the_very_input(case: str) -> None:
    call = GOOD[case]
    source, name = IN_PLACE[case]
    expected = answer(call, call.changed())
    for layout in (np.copy, with_gaps, backwards):
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
