"""A signal during a long call ends it on the way: what its handler raises comes out, and what comes last is not done yet.

No time is measured. Outputs are filled before, and the end of them is as it was; each call takes many times as long as the timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import NATIVE_ONLY, _backend
from interrupts import interrupt, needs_signals, raising

import fastbp
from fastbp import _checks

pytestmark = needs_signals


class Interrupted(Exception):
    """Raised by the handler of a signal, as KeyboardInterrupt is by that of Ctrl-C."""


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Call it to have Interrupted raised 5 ms later."""
    with raising(Interrupted) as send:
        yield lambda: send(0.005)


def same_rows(n: int, columns: int, dtype: type = np.float32) -> np.ndarray:
    """That take the memory of one"""
    return np.broadcast_to(np.ones((1, columns), dtype), (n, columns))


ROWS = 4_000_000


@NATIVE_ONLY
@pytest.mark.parametrize("activation", ["identity", "gelu"])
def test_many_rows_of_few_columns(isa, alarm, activation):
    """Memory and what follows the sums take the time, not the multiply-adds."""
    out, weight = np.full((ROWS, 16), 7, np.float32), np.full((2, 16), 0.1, np.float32)
    with pytest.raises(Interrupted):
        alarm()
        fastbp.linear(same_rows(ROWS, 2), weight, activation=activation, out=out, n_threads=1)
    assert (out[-1] == 7).all()


@NATIVE_ONLY
def test_the_recursion_through_a_slow_slope(isa, alarm):
    out, weight = np.full((ROWS, 16), 7, np.float32), np.full((16, 2), 0.1, np.float32)
    with pytest.raises(Interrupted):
        alarm()
        fastbp.linear_backward_input(
            same_rows(ROWS, 2), weight, activation="gelu", a=same_rows(ROWS, 16), out=out, n_threads=1
        )
    assert (out[-1] == 7).all()


@NATIVE_ONLY
def test_a_long_sum(isa, alarm):
    """Neither side of the product can be cut. The sums of the columns come after it."""
    out, bias = np.zeros((8, 8)), np.full(8, 7.0)
    rows = same_rows(100_000_000, 8, np.float64)
    with pytest.raises(Interrupted):
        alarm()
        fastbp.linear_backward_weight(rows, rows, out=out, bias_out=bias, n_threads=1)
    assert (bias == 7).all() and (out < len(rows)).all()


@NATIVE_ONLY
def test_sums_of_columns(isa, alarm):
    bias, rows = np.full(8, 7.0), 200_000_000
    with pytest.raises(Interrupted):
        alarm()
        fastbp.linear_backward_weight(
            same_rows(rows, 0, np.float64), same_rows(rows, 8, np.float64), bias_out=bias, n_threads=1
        )
    assert (bias < rows).all()


def test_a_large_cast(backend, alarm):
    """It is by blocks, and the signal is seen between two of them."""
    x = same_rows(40_000_000, 1, np.dtype(np.float32).newbyteorder())
    with pytest.raises(Interrupted) as caught:
        alarm()
        fastbp.linear(x, np.ones((1, 1), np.float32))
    frame = next(entry.frame for entry in caught.traceback if entry.name == "cast")
    assert frame.f_locals["start"] + frame.f_locals["step"] < len(x)


@pytest.mark.parametrize("dtype_in", [np.int16, ">f4", np.float64])
@pytest.mark.parametrize("rows", [1, 2, 5, 64, 65])
def test_blocks_of_a_cast_are_those_of_the_array(monkeypatch, dtype_in, rows):
    """Whatever their number, rows in reverse and of other strides too."""
    monkeypatch.setattr(_checks.arrays, "_CAST_BYTES", 100)
    whole = np.arange(2 * rows * 6).reshape(2 * rows, 6).astype(dtype_in)
    for given in (whole, whole[::-2], whole[:, ::2], whole[:, :0], whole.T):
        cast = _checks.rows(given, np.dtype(np.float32))
        assert cast.flags.c_contiguous and cast.dtype == np.float32
        np.testing.assert_array_equal(cast, given.astype(np.float32))
    np.testing.assert_array_equal(_checks.vector(whole[:, 0], np.dtype(np.float64)), whole[:, 0])


@NATIVE_ONLY
def test_a_network_of_many_rows(alarm):
    """Nothing is changed when a step is given up."""
    network = fastbp.MLP([4, 8, 2], activation="gelu", seed=0)
    before = network.parameters.copy()
    x, labels = same_rows(ROWS, 4), np.zeros(ROWS, np.int64)
    with _backend.use("native"), pytest.raises(Interrupted):
        alarm()
        network.step(x, labels, fastbp.SGD(0.1))
    assert (network.parameters == before).all()


def busy(*_: object) -> None:
    end = time.perf_counter() + 2e-4
    while time.perf_counter() < end:
        pass


def test_an_interrupt_that_python_drops_comes_again():
    """So that a test which works until it comes has an end. Half of the time an object is being deleted here."""
    deleted = type("Deleted", (), {"__del__": busy})
    interrupt(20, lambda: (str(deleted()), busy()))
