"""What a call may read ends at the last byte of its inputs, and begins with the first: around them there is no memory.

A read of a neighbouring byte that the result does not depend on goes unnoticed elsewhere. Here it ends the process, as it would
where an array lies at the end of a mapped file.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import NATIVE_ONLY, every_pair
from good_calls import GOOD, answer, same

import fastbp

pytestmark = [NATIVE_ONLY, pytest.mark.skipif(sys.platform != "linux", reason="the pages are Linux's")]

PAGE, MARGIN = mmap.PAGESIZE, 2**20
NOTHING = 0  # PROT_NONE


def at_the_end(a: np.ndarray) -> np.ndarray:
    """A copy, after whose last byte there is no memory."""
    return _between(a, -(-a.nbytes // PAGE) * PAGE - a.nbytes)


def at_the_begin(a: np.ndarray) -> np.ndarray:
    """A copy, before whose first byte there is no memory."""
    return _between(a, 0)


def _between(a: np.ndarray, offset: int) -> np.ndarray:
    """A copy in pages of its own, `offset` bytes from their begin, and on both sides much of which no byte can be read."""
    size = -(-(a.nbytes + offset) // PAGE) * PAGE
    whole = np.frombuffer(mmap.mmap(-1, size + 2 * MARGIN), np.uint8)
    for start in (0, size + MARGIN):
        address = ctypes.c_void_p(whole.ctypes.data + start)
        assert ctypes.CDLL(None, use_errno=True).mprotect(address, ctypes.c_size_t(MARGIN), NOTHING) == 0
    start = MARGIN + offset
    copy = whole[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


PLACES = {"end": at_the_end, "begin": at_the_begin}
places = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


def placed(place: Callable[[np.ndarray], np.ndarray], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, their arrays in other places, lying as they did."""
    return {
        name: value
        if not isinstance(value, np.ndarray)
        else place(value.T).T
        if value.flags.f_contiguous and not value.flags.c_contiguous
        else place(value)
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("case", GOOD)
@places
def test_every_function(case, place, isa):
    call = GOOD[case]
    same(answer(call, placed(place, call.changed())), answer(call, call.changed()))


SIZES = [
    (1, 1, 1), (2, 3, 5), (7, 5, 3), (13, 17, 15), (15, 16, 17), (17, 33, 65), (31, 64, 130), (70, 131, 259), (4, 1031, 33),
    (259, 3, 70), (130, 545, 150),
]  # fmt: skip


LAYOUTS = {"rows": np.ascontiguousarray, "columns": np.asfortranarray}


@every_pair("isa", "dtype", "precision", layout=[*LAYOUTS], where=[*PLACES])
def test_products(where, layout, precision, isa, dtype):
    rng, place = np.random.default_rng(0), PLACES[where]
    for n, i, o in SIZES:
        x, weight, delta = (
            LAYOUTS[layout](rng.standard_normal(size).astype(dtype)) for size in ((n, i), (i, o), (n, o))
        )
        for function, arguments in (
            (
                fastbp.linear,
                {
                    "x": x,
                    "weight": weight,
                    "bias": rng.standard_normal(o).astype(dtype),
                    "activation": "tanh",
                },
            ),
            (
                fastbp.linear_backward_input,
                {"delta": delta, "weight": weight, "activation": "tanh", "a": np.tanh(x)},
            ),
            (fastbp.linear_backward_weight, {"a_prev": x, "delta": delta}),
        ):
            want, got = function(**arguments), function(**placed(place, arguments))
            for a, b in zip(want, got, strict=True):
                assert a.tobytes() == b.tobytes(), (function.__name__, n, i, o)


WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 63, 65, 129, 1003, 5000)


@places
def test_rows(place, isa, dtype):
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        z, t = (rng.standard_normal((3, width)).astype(dtype) for _ in range(2))
        weights = {"sample_weight": rng.random(3).astype(dtype)}
        softmax = weights | {"class_weight": rng.random(width).astype(dtype), "label_smoothing": 0.1}
        labels, fractions = rng.integers(0, width, 3), abs(t) / abs(t).sum(axis=1, keepdims=True)
        for function, arguments in (
            *(
                (function, {"x": z})
                for function in (fastbp.gelu, fastbp.softmax, fastbp.log_softmax, fastbp.logsumexp)
            ),
            (fastbp.activation_backward, {"name": "mish", "grad": z, "a": t}),
            (fastbp.softmax_cross_entropy, {"logits": z, "targets": labels}),
            (fastbp.softmax_cross_entropy, {"logits": z, "targets": labels, **softmax}),
            (fastbp.softmax_cross_entropy, {"logits": z, "targets": fractions, **softmax}),
            (
                fastbp.sigmoid_cross_entropy,
                {"logits": z, "targets": fractions, "pos_weight": abs(t[0]), **weights},
            ),
            (fastbp.squared_error, {"outputs": z, "targets": t, **weights}),
        ):
            want, got = function(**arguments), function(**placed(place, arguments))
            for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (want, got)), strict=True):
                assert np.array(a).tobytes() == np.array(b).tobytes(), (function.__name__, width)


@pytest.mark.parametrize("sizes", [[3, 5, 2], [17, 33, 9, 7], [64, 130, 1]], ids=str)
@places
def test_a_training(place, sizes, isa, dtype):
    """Of networks on examples, batches in order and shuffled, with weights."""
    rng = np.random.default_rng(0)
    loss = "softmax_cross_entropy" if sizes[-1] > 1 else "squared_error"
    x, weights = rng.standard_normal((37, sizes[0])).astype(dtype), rng.random(37).astype(dtype)
    t = rng.integers(0, sizes[-1], 37) if sizes[-1] > 1 else rng.standard_normal((37, 1)).astype(dtype)
    parameters = []
    for x_, t_, weights_ in ((x, t, weights), tuple(map(place, (x, t, weights)))):
        net = fastbp.MLP(sizes, activation="gelu", loss=loss, dtype=dtype, seed=0)
        for shuffle in (False, True):
            net.fit(
                x_,
                t_,
                epochs=2,
                batch_size=8,
                optimizer=fastbp.Adam(),
                sample_weight=weights_,
                shuffle=shuffle,
                progress=False,
            )
        net.step(x_, t_, fastbp.SGD(0.1))
        parameters += [net.parameters.copy(), net.logits(x_)]
    assert (
        parameters[0].tobytes() == parameters[2].tobytes()
        and parameters[1].tobytes() == parameters[3].tobytes()
    )
