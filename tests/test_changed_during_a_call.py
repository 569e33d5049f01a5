"""Inputs that other code changes during a call, from a thread or the handler of a signal. They were checked when it began.

Class indices become addresses. The kernels are called here with some that are none, as they find them then: nothing is read or
written but what belongs to the call, and it ends with one error.
"""

from __future__ import annotations

import itertools
import signal
import threading

import numpy as np
import pairs
import pytest
from conftest import NATIVE_ONLY, THINNED, SimpleNamespace, every_pair, generator
from numpy.testing import assert_array_equal

import fastbp
from fastbp import _backend

ASTRAY = (-1, 7, 2**40, 2**62, -(2**63))
CHANGED = r"targets: got a class index that left \[0, \d+\) during the call"
N = 300  # rows: more than are taken at a time


def labels_with(astray: int, n_classes: int, ignored: bool, n: int = N) -> np.ndarray:
    labels = generator(astray, n_classes).integers(0, n_classes, n)
    if ignored:
        labels[::7] = -100
    labels[n - 5] = astray + max(0, n_classes - 7) if astray == 7 else astray
    return labels


OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 3.0},
    "square": {"lse_square_scale": 0.1},
}


def options_of(n_classes: int, n: int, weighted: bool, **options: float) -> tuple:
    """The arguments of the kernels from class_weight to softcap."""
    given = {"label_smoothing": 0.0, "lse_square_scale": 0.0, "softcap": 0.0, **options}
    weights = (np.linspace(0, 2, n_classes), np.linspace(0.5, 1, n)) if weighted else (None, None)
    return (*weights, -100, *given.values())


@every_pair("engine", "dtype", name=[*OPTIONS], weighted=[False, True], n_classes=[7, 40, 600])
def test_a_label_that_is_no_class_any_more(engine, dtype, name, weighted, n_classes):
    """Of few and of many classes, with ignored rows and without, on one thread and on two."""
    z = generator(name).normal(size=(N, n_classes)).astype(dtype)
    for astray, ignored, threads in itertools.product(ASTRAY, (False, True), (1, 2)):
        labels = labels_with(astray, n_classes, ignored)
        room = np.full((N + 2, n_classes + 2), 7, dtype)
        options = options_of(n_classes, N, weighted, **OPTIONS[name])
        with pytest.raises(fastbp.TargetIndexError, match=CHANGED):
            engine.softmax_cross_entropy(z, labels, None, *options, True, None, room[1:-1, 1:-1], threads)
        room[1:-1, 1:-1] = 7
        assert (room == 7).all()


@every_pair("engine", "dtype", weighted=[False, True], astray=ASTRAY)
def test_in_the_last_layer(engine, dtype, weighted, astray):
    """In blocks of some rows, gathered where others are ignored."""
    random = generator(astray)
    x, w = random.normal(size=(N, 5)).astype(dtype), random.normal(size=(5, 9)).astype(dtype)
    for ignored in (False, True):
        labels = labels_with(astray if astray != 7 else 9, 9, ignored)
        grads = np.empty_like(x), np.empty_like(w), None
        with pytest.raises(fastbp.TargetIndexError, match=CHANGED):
            engine.linear_softmax_cross_entropy(
                x, w, None, labels, None, *options_of(9, N, weighted), True, 20_000, None, None, *grads, 1
            )


MANY = ASTRAY if pairs.exhaustive else (7, -(2**63))  # beside so many classes, which take long


@THINNED
@pytest.mark.parametrize(
    ("classes", "astray"), [*((7, each) for each in ASTRAY), *((60_000, each) for each in MANY)]
)
def test_in_a_network(engine, dtype, classes, astray):
    """In its gradient and in training, in order and shuffled; with so many classes the last layer goes by blocks of rows."""
    rows = 20 if classes == 7 else 1200 // np.dtype(dtype).itemsize  # of 72 MB of logits
    n_parameters = 3 * 2 + 2 + 2 * classes + classes
    random = generator(astray)
    parameters = random.normal(size=n_parameters).astype(dtype)
    before = parameters.copy()
    network = engine.Network((3, 2, classes), ("tanh",), "softmax_cross_entropy", parameters, 1)
    x = random.normal(size=(rows, 3)).astype(dtype)
    labels = labels_with(astray if astray != 7 else classes, classes, False, rows)
    with pytest.raises(fastbp.TargetIndexError, match=CHANGED):
        network.gradient(x, labels, None, np.empty_like(parameters))
    for order in (None, np.arange(rows)[::-1].copy()):
        with pytest.raises(fastbp.TargetIndexError, match=CHANGED):
            network.train(x, labels, None, order, rows, fastbp.SGD(0.1), None)
    assert_array_equal(parameters, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that signals here")
def test_by_the_handler_of_a_signal_during_fit(backend):
    """The batches before count; the network stays as they left it."""
    random = generator("fit")
    x, y = random.normal(size=(400, 3)).astype(np.float32), random.integers(0, 4, 400)
    network = fastbp.MLP([3, 8, 4], seed=0)

    def overwrite(number, frame):
        y[:] = 2**60

    before = signal.signal(signal.SIGALRM, overwrite)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(IndexError, match="targets: "):
            network.fit(x, y, epochs=10**5, batch_size=40, optimizer=fastbp.SGD(0.01), progress=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.isfinite(network.parameters).all()


@NATIVE_ONLY
def test_by_another_thread():
    """Whatever a call finds, it ends, with a number or with the one error; a label is a class, ignored, or none at each look."""
    random = generator("thread")
    n, classes = 500, 30
    given = SimpleNamespace(
        x=random.normal(size=(n, 4)).astype(np.float32),
        w=random.normal(size=(4, classes)).astype(np.float32),
        z=random.normal(size=(n, classes)).astype(np.float32),
        labels=random.integers(0, classes, n),
        sample_weight=np.ones(n),
    )
    good, over = given.labels.copy(), threading.Event()

    def overwrite() -> None:
        for number in itertools.cycle((-100, 2**50, -1, classes)):
            if over.is_set():
                return
            given.labels[number % 3 :: 3] = number
            given.sample_weight[::2] = 0
            given.labels[:] = good
            given.sample_weight[:] = 1

    ends = {"loss": 0, "error": 0}
    thread = threading.Thread(target=overwrite)
    thread.start()
    try:
        with _backend.use("native"):
            for number in range(600):
                options = {"sample_weight": given.sample_weight, "n_threads": 1 + number % 2}
                try:
                    fastbp.softmax_cross_entropy(
                        given.z, given.labels, class_weight=np.ones(classes), **options
                    )
                    fastbp.linear_softmax_cross_entropy(
                        given.x, given.w, given.labels, max_memory=20_000, **options
                    )
                    ends["loss"] += 1
                except IndexError:
                    ends["error"] += 1
    finally:
        over.set()
        thread.join()
    assert sum(ends.values()) == 600
