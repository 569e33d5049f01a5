"""A network with so many classes that its last layer goes by blocks of rows: what it computes, and within which memory.

Against the functions that it is made of, which have tests against the exact values: these sizes are too large for those.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import NATIVE_ONLY, every_pair, generator, shared_by
from test_network_kernels import RULES, network_of, parts, problem, training
from tolerances import product_of

import fastbp
from fastbp import _backend

ROWS, LOGITS = 300, 72_000_000  # bytes of the logits of all rows: more than are held at a time
NETWORKS = [(3,), (3, 2), (3, 5, 2)]  # the layers below the last


def classes(dtype):
    return LOGITS // ROWS // np.dtype(dtype).itemsize


def layers(sizes, flat):
    """Weights (I, O) and biases (O) of each layer."""
    ends = list(itertools.accumulate((i + 1) * o for i, o in itertools.pairwise(sizes)))
    for (i, o), end in zip(itertools.pairwise(sizes), ends, strict=True):
        yield flat[end - (i + 1) * o : end - o].reshape(i, o), flat[end - o : end]


@every_pair("isa", "dtype", below=NETWORKS, loss=["softmax_cross_entropy", "squared_error"])
def test_the_gradient_is_that_of_the_functions(isa, dtype, below, loss):
    """In every bit, but for the last layer's, which is a sum over blocks."""
    sizes, activation, loss, parameters, x, targets = parts(
        problem((*below, classes(dtype)), ROWS, dtype, "gelu", loss)
    )
    gradient = np.full_like(parameters, np.nan)
    got = network_of(_backend.kernels, sizes, activation, loss, parameters, 2).gradient(
        x, targets, None, gradient
    )[0]

    weights, inputs, slopes = list(layers(sizes, parameters)), [x], []
    for weight, bias in weights[:-1]:
        slopes.append(fastbp.linear(inputs[-1], weight, bias))
        inputs.append(fastbp.gelu(slopes[-1]))
    delta = fastbp.linear(inputs[-1], *weights[-1])
    want, _, _ = getattr(fastbp, loss)(delta, targets, grad_out=delta)
    assert dtype(got) == want
    parts_of_gradient = list(layers(sizes, gradient))
    for found, expected, size in zip(
        parts_of_gradient[-1],
        fastbp.linear_backward_weight(inputs[-1], delta),
        fastbp.linear_backward_weight(np.abs(inputs[-1]), np.abs(delta)),
        strict=True,
    ):
        assert (np.abs(found - expected) <= 2 * product_of(ROWS) * np.finfo(dtype).eps * size).all()
    for layer in range(len(weights) - 2, -1, -1):
        delta = fastbp.linear_backward_input(delta, weights[layer + 1][0], activation="gelu", a=slopes[layer])
        for found, expected in zip(
            parts_of_gradient[layer], fastbp.linear_backward_weight(inputs[layer], delta), strict=True
        ):
            assert found.tobytes() == expected.tobytes()


@every_pair("isa", "dtype", below=NETWORKS[:2], rule=["sgd", "adam"])
def test_training_is_gradient_and_update(isa, dtype, below, rule):
    """To the bit, on any number of threads; the last batch is small enough to hold its logits."""
    each = problem((*below, classes(dtype)), ROWS, dtype)
    sizes, activation, loss, parameters, x, targets = parts(each)
    order = generator("order").integers(0, ROWS, ROWS + 50)
    on_threads = []
    for n in (1, 2, 3):
        with shared_by(n):
            on_threads.append(training(each, rule)(_backend.kernels, n, order, ROWS))

    w, optimizer, gradient, total = parameters.copy(), RULES[rule](), np.empty_like(parameters), 0.0
    net = network_of(_backend.kernels, sizes, activation, loss, w, 2)
    for rows in (order[:ROWS], order[ROWS:]):
        total += net.gradient(x[rows], targets[rows], None, gradient)[0] * len(rows)
        optimizer.update(w, gradient, n_threads=1)
    want = total / len(order), [a.tobytes() for a in (w, *optimizer.state(w).values())]
    for mean, trained in on_threads:
        assert (mean, [a.tobytes() for a in trained]) == want


@NATIVE_ONLY
def test_a_gradient_that_overflows_changes_nothing(dtype):
    """Every delta and every activation is finite, but not their product."""
    with _backend.use("native"):
        count = classes(dtype)
        each = problem((3, count), ROWS, dtype, loss="squared_error")
        sizes, activation, loss, parameters, x, targets = parts(each)
        most = np.finfo(dtype).max
        parameters[2 * count : 3 * count], x[:, 2] = 1 / most**0.8, 0
        x[25, 2], targets[25] = most**0.8, most**0.3
        before, optimizer = parameters.copy(), RULES["momentum"]()
        net = network_of(_backend.kernels, sizes, activation, loss, parameters, 2)
        assert net.train(x, targets, None, None, ROWS, optimizer, None)[1:] == (0, 0, "gradient")
        assert parameters.tobytes() == before.tobytes() and not any(
            v.any() for v in optimizer.state(parameters).values()
        )


PEAK = """
import numpy as np, fastbp, re, sys

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))

batch, rng = int(sys.argv[1]), np.random.default_rng(0)
x, labels = rng.standard_normal((4096, 16), np.float32), rng.integers(0, 50_000, 4096)
net = fastbp.MLP((16, 8, 50_000), seed=0)
open("/proc/self/clear_refs", "w").write("5")  # the peak is what is in use now
before = peak()
net.fit(x, labels, epochs=1, batch_size=batch, optimizer=fastbp.SGD(0.1), progress=False)
print(peak() - before)
"""


@NATIVE_ONLY
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak of memory to be reset here")
def test_the_peak_of_memory_does_not_grow_with_the_batch():
    """Of the 100 MB, or 200 MB, that the logits of a batch would take, 64 MiB; and what the interpreter does meanwhile. Both
    batches are cut into blocks of 256 rows."""
    environment = os.environ | {"FASTBP_BACKEND": "native"}
    grown = []
    for batch in ("512", "1024"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, batch],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
            timeout=120,
        )
        grown.append(int(done.stdout))
    assert abs(grown[1] - grown[0]) < 8 * 2**20 and max(grown) < (64 + 16) * 2**20
