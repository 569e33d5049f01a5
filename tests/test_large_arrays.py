"""New arrays so large that their memory is kept for the next one: whose it is, what comes of it, and who may take it."""

from __future__ import annotations

import itertools
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import NATIVE_ONLY, every_pair, generator
from forks import exit_code, fork

import fastbp
from fastbp import _backend

LARGE = 32 << 20  # bytes, from which on memory is kept
pytestmark = [
    NATIVE_ONLY,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux only"),
]


def new_array(n_bytes: int) -> np.ndarray:
    array: np.ndarray = _backend.kernels.new_array((n_bytes // 4,), np.dtype(np.float32))
    return array


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


@pytest.fixture(autouse=True)
def no_spare():
    """An array that fits no spare sends it away; its own memory is too large to be the spare of what follows."""
    new_array(64 * LARGE)


def test_a_dropped_array_leaves_its_memory_to_the_next():
    first = new_array(LARGE)
    where = address(first)
    first[:] = 1.0
    del first
    assert address(new_array(LARGE)) == where
    assert address(new_array(LARGE // 2 + 4096)) != where  # malloc has memory of this size
    assert address(new_array(LARGE)) == where


@pytest.mark.parametrize("first, then, fits", [(2, 1, True), (2, 2, True), (1, 2, False), (5, 2, False)])
def test_it_fits_up_to_half_of_it(first, then, fits):
    kept = new_array(first * LARGE)
    where, mapped = address(kept), resident()
    kept[:] = 1.0
    del kept
    array = new_array(then * LARGE)
    assert (address(array) == where and resident() >= mapped + first * LARGE // 2) == fits
    array[:] = 2.0
    assert (array == 2.0).all()


def test_arrays_that_live_are_apart_and_whole():
    arrays = []
    for number in range(6):
        arrays.append(new_array(LARGE + number * 4096))
        arrays[-1][:] = number
        if number % 2:
            del arrays[0]
    ends = sorted((address(array), address(array) + array.nbytes) for array in arrays)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    assert [int(array.min()) for array in arrays] == [int(array.max()) for array in arrays] == [3, 4, 5]


def test_it_is_an_array_like_any_other():
    array = _backend.kernels.new_array((LARGE // 4, 1), np.dtype(np.float32))
    assert array.flags.owndata and array.flags.writeable and array.flags.aligned and array.base is None
    assert type(array) is np.ndarray and array.flags.c_contiguous
    array[:] = np.arange(len(array))[:, None]
    assert (pickle.loads(pickle.dumps(array)) == array).all()
    for rows in (LARGE // 4 + 100, LARGE // 8, 3):
        kept = array[:rows].copy()
        array.resize((rows, 1), refcheck=False)
        assert (array[: len(kept)] == kept).all() and not array[len(kept) :].any()


def test_only_our_large_arrays_are_so_made():
    first = new_array(LARGE)
    where = address(first)
    del first
    assert address(np.empty(LARGE // 4, np.float32)) != where
    assert address(new_array(LARGE)) == where


@every_pair("isa", "dtype", reduction=["mean", "sum"], softcap=[None, 3.0])
def test_a_gradient_in_memory_that_was_used_is_the_same(isa, dtype, reduction, softcap):
    """Also of rows and sizes that go past the caches then"""
    rng = generator()
    rows, classes = 2 * LARGE // (4100 * np.dtype(dtype).itemsize) + 3, 4100
    logits, labels = rng.normal(size=(rows, classes)).astype(dtype), rng.integers(0, classes, rows)
    labels[::7] = -100

    def call(**where):
        return fastbp.softmax_cross_entropy(logits, labels, softcap=softcap, reduction=reduction, **where)

    want = call()
    where, expected = address(want.grad), want.grad.copy()
    want.grad[:] = np.nan
    loss = want.loss
    del want
    got = call()
    assert address(got.grad) == where
    assert got.loss == loss
    assert got.grad.tobytes() == expected.tobytes()


def test_every_way_to_a_large_array_uses_it():
    x = np.ones((2048, 4100), np.float32)
    w = np.ones((4100, 2047), np.float32)  # its gradient fits into the memory of an array like x
    t = np.zeros(2048, np.int64)
    ways = [
        lambda: fastbp.softmax_cross_entropy(x, t).grad,
        lambda: fastbp.softmax_cross_entropy(x, t, reduction="none").grad,
        lambda: fastbp.sigmoid_cross_entropy(x, x).grad,
        lambda: fastbp.squared_error(x, x).grad,
        lambda: fastbp.relu(x),
        lambda: fastbp.activations.activation_backward("tanh", x, x),
        lambda: fastbp.linear_backward_input(x[:, :16], w[:, :16]),
        lambda: fastbp.linear_softmax_cross_entropy(x[:64], w, t[:64]).grad_weight,
        lambda: fastbp.linear_softmax_cross_entropy(x[:64], w.T.copy().T, t[:64]).grad_weight,
    ]
    new_array(x.nbytes)  # is dropped at once
    where = address(new_array(x.nbytes))
    for way in ways:
        array = way()
        base = array if array.base is None else array.base
        assert address(base) == where and base.flags.owndata
        del array, base


def resident(field: str = "Rss") -> int:
    """The bytes of this process that are in memory; of them `LazyFree` may be taken at any time."""
    with open("/proc/self/smaps_rollup") as lines:
        return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", lines.read(), re.MULTILINE)[1])


def test_what_is_kept_is_one_array_that_the_system_may_take():
    before, free = resident(), resident("LazyFree")
    arrays = [new_array(2 * LARGE) for _ in range(4)]
    for array in arrays:
        array[:] = 1.0
    assert resident() >= before + 4 * 2 * LARGE
    del array, arrays
    assert resident() <= before + 1.1 * 2 * LARGE
    assert resident("LazyFree") >= free + 0.9 * 2 * LARGE


def test_too_much_is_a_memory_error():
    with pytest.raises(MemoryError):
        _backend.kernels.new_array((1 << 46,), np.dtype(np.float64))
    assert new_array(LARGE).nbytes == LARGE


def test_from_many_threads():
    def fill(number: int) -> bool:
        for _ in range(20):
            array = new_array(LARGE + 4096 * number)
            array[::1024] = number
            if not (array[::1024] == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(8)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child():
    """Parent and child both have the spare, each a memory of its own."""
    kept = new_array(LARGE)
    kept[:] = 1.0
    where = address(kept)
    del kept

    def filled(value: float) -> np.ndarray:
        array = new_array(LARGE)
        array[:] = value
        return array

    def is_own(array: np.ndarray, value: float) -> bool:
        return bool((array == value).all()) and address(array) == where

    child = fork(lambda: is_own(filled(3.0), 3.0))
    array = filled(2.0)
    assert exit_code(child) == 0 and is_own(array, 2.0)
