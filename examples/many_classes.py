"""
Fifty thousand classes in bounded memory
========================================

The logits of 512 examples and 50 000 classes take 102 MB, their gradient as much again.
``linear_softmax_cross_entropy`` computes the last layer, its error and all gradients by blocks of
rows, within ``max_memory``; ``MLP`` does so by itself.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import fastbp

ROWS, INPUTS, CLASSES = 512, 64, 50_000
rng = np.random.default_rng(0)
inputs = rng.standard_normal((ROWS, INPUTS), np.float32)
weight = rng.standard_normal((INPUTS, CLASSES), np.float32) / 8
labels = rng.integers(0, CLASSES, ROWS)

# %%
# The plain way holds the logits, over which the error function writes their gradient; the other one holds blocks of both.


def plain():
    logits = fastbp.linear(inputs, weight)
    loss, delta, _ = fastbp.softmax_cross_entropy(logits, labels, grad_out=logits)
    return loss, fastbp.linear_backward_input(delta, weight), fastbp.linear_backward_weight(inputs, delta)[0]


def by_blocks(max_memory):
    result = fastbp.linear_softmax_cross_entropy(inputs, weight, labels, max_memory=max_memory)
    return result.loss, result.grad_inputs, result.grad_weight


def timed(function, *arguments):
    """The result, and the lesser of two times."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


# %%
# The results are the same to rounding. The blocks are no slower: they stay in the caches between the products.

expected, seconds = timed(plain)
sizes, times = [ROWS * CLASSES * 4 / 2**20], [seconds]
for megabytes in (32, 8, 2):
    result, seconds = timed(by_blocks, megabytes << 20)
    assert all(np.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(result, expected, strict=True))
    sizes.append(megabytes)
    times.append(seconds)

for size, seconds in zip(sizes, times, strict=True):
    print(f"{size:5.0f} MiB of logits at a time: {seconds:.3f} s")

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.semilogx(sizes[1:], times[1:], "o-", label="by blocks, within max_memory")
axes.semilogx(sizes[:1], times[:1], "s", label="all logits at once")
axes.set(xlabel="memory for logits, MiB", ylabel="seconds", ylim=(0, None))
axes.legend()
plt.show()
