"""Another library has set how this thread rounds (fesetround), or that numbers below the normal ones count as 0: the kernels
compute as ever, on all threads of a call, and leave to the thread what it had."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import good_calls
import numpy as np
import pytest
from conftest import NATIVE_ONLY, generator
from tolerances import ROUNDING

import fastbp

pytestmark = [
    NATIVE_ONLY,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64") or platform.libc_ver()[0] != "glibc",
        reason="the environment of floating-point numbers is laid out otherwise",
    ),
]

FLUSH = 0x8040  # flush-to-zero, denormals-are-zero
MODES = {"down": 0x2000, "up": 0x4000, "toward zero": 0x6000, "flush": FLUSH, "flush, up": FLUSH | 0x4000}
UNUSUAL = 0xE040  # all bits of these
CONTROL = 7  # the word of a fenv_t that holds them


def environment() -> Any:
    words = (ctypes.c_uint32 * 8)()
    ctypes.CDLL(None).fegetenv(words)
    return words


@contextlib.contextmanager
def computing(mode: str) -> Iterator[None]:
    """The thread has another arithmetic inside, and has it still at the end."""
    words = environment()
    words[CONTROL] |= MODES[mode]
    ctypes.CDLL(None).fesetenv(words)
    try:
        yield
        found = environment()[CONTROL] & UNUSUAL
    finally:
        words[CONTROL] &= ~UNUSUAL
        ctypes.CDLL(None).fesetenv(words)
    assert found == MODES[mode]


def numbers(result: Any) -> list[np.ndarray]:
    if isinstance(result, tuple):
        return [each for part in result for each in numbers(part)]
    return [] if result is None else [np.array(result)]


def same_in(mode: str, call: Callable[[], Any]) -> list[np.ndarray]:
    """Arrays have the bits that they have in the usual arithmetic; a single number is rounded to its dtype by NumPy."""
    usual = numbers(call())
    with computing(mode):
        results = numbers(call())
    for a, b in zip(results, usual, strict=True):
        if a.ndim:
            assert a.tobytes() == b.tobytes()
        else:
            assert np.abs(a - b) <= 2 * ROUNDING * np.finfo(np.float32).eps * np.abs(b)
    return results


@pytest.mark.parametrize("mode", MODES)
def test_every_function(isa, mode):
    for good in good_calls.GOOD.values():
        same_in(mode, lambda good=good: good.function(**good.changed()))


@pytest.mark.parametrize("mode", MODES)
def test_all_of_an_activation(isa, mode):
    """In both tails, where results are below the normal numbers, and so inputs."""
    x = np.concatenate([np.linspace(-110, 110, 4001), np.geomspace(-1e-45, -1, 500)])
    for f in (
        fastbp.sigmoid,
        fastbp.tanh,
        fastbp.elu,
        fastbp.gelu,
        fastbp.silu,
        fastbp.mish,
        fastbp.softplus,
    ):
        for inputs in (x.astype(np.float32), x):
            same_in(mode, lambda f=f, inputs=inputs: f(inputs))


def far_apart(n: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, c) whose deltas are partly below the normal numbers, and labels."""
    random = generator("far apart")
    return random.uniform(-50, 50, (n, c)).astype(np.float32), random.integers(0, c, n)


@pytest.mark.parametrize("mode", MODES)
def test_a_training(isa, mode):
    x, labels = far_apart(64, 20)
    nets = [fastbp.MLP([20, 30, 20], activation="tanh", seed=0) for _ in range(2)]
    optimizers = [fastbp.Adam(0.01) for _ in nets]
    for _ in range(3):
        nets[0].step(x, labels, optimizers[0])
        with computing(mode):
            nets[1].step(x, labels, optimizers[1])
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


HELPERS = """
import numpy as np, fastbp, test_arithmetic as here
z, labels = here.far_apart(600, 1000)
usual = fastbp.softmax_cross_entropy(z, labels, n_threads=1).grad
with here.computing("flush, up"):  # the helpers are made here
    first = fastbp.softmax_cross_entropy(z, labels, n_threads=3).grad
again = fastbp.softmax_cross_entropy(z, labels, n_threads=3).grad
tiny = np.finfo(np.float32).tiny
assert ((usual > 0) & (usual < tiny)).sum() > 1000
assert usual.tobytes() == first.tobytes() == again.tobytes()
"""


def test_helpers_that_are_made_meanwhile():
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(fastbp.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", HELPERS],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
