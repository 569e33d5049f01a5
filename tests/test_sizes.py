"""Sizes beyond any memory, of arrays that take none: empty ones, and broadcast ones, whose rows are one row.

What a call would need for them is more than a number can say: it is refused, before anything is read or written. And a product
without an element is done at once, however large the other side.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastbp
from fastbp import _backend

REFUSED = (MemoryError, ValueError)


@pytest.fixture(params=["a part of", "all of"])
def size(request: pytest.FixtureRequest, dtype: type) -> int:
    """As many elements as an array may have by its type, or a quarter; NumPy refuses more."""
    return (2**63 - 1) // np.dtype(dtype).itemsize // (4 if request.param == "a part of" else 1)


def column(rows: int, dtype: type) -> np.ndarray:
    """Of ones, all of them the same."""
    return np.broadcast_to(np.ones((1, 1), dtype), (rows, 1))


@pytest.mark.parametrize("size", [2**40, 2**57])
def test_products_without_an_element(backend, dtype, size):
    """(size, 0) x (0, 0), and Xᵀ δ of them: no loop over the size."""
    none, empty = np.empty((size, 0), dtype), np.empty((0, 0), dtype)
    for activation in ("identity", "gelu"):
        assert fastbp.linear(none, empty, activation=activation).shape == (size, 0)
        assert fastbp.linear_backward_input(none, empty, activation=activation, a=none).shape == (size, 0)
    assert fastbp.linear(empty, np.empty((0, size), dtype)).shape == (0, size)
    gradient = fastbp.linear_backward_weight(none, none)
    assert gradient.weight.shape == (0, 0) and gradient.bias.shape == (0,)
    assert fastbp.relu(none).shape == (size, 0)


def test_more_classes_than_there_is_memory_for(backend, dtype, size):
    x, w = np.empty((3, 0), dtype), np.empty((0, size), dtype)
    with pytest.raises(REFUSED):
        fastbp.linear_softmax_cross_entropy(x, w, [0, 0, 0])
    with pytest.raises(REFUSED):
        fastbp.linear_softmax_cross_entropy(x, w, [0, 0, 0], max_memory=2**63 - 1)
    with pytest.raises(REFUSED):
        fastbp.linear(x, w)


def test_more_rows_than_there_is_memory_for(backend, dtype, size):
    z = column(size, dtype)
    none = np.empty((size, 0), dtype)
    for call in (
        lambda: fastbp.softmax_cross_entropy(z, z),
        lambda: fastbp.squared_error(z, z),
        lambda: fastbp.sigmoid_cross_entropy(none, none),
        lambda: fastbp.poisson_deviance(none, none, reduction="none"),
        lambda: fastbp.sigmoid(z),
        lambda: fastbp.logsumexp(z),
        lambda: fastbp.linear(z, np.ones((1, 1), dtype)),
        lambda: fastbp.linear_backward_input(z, np.ones((1, 1), dtype)),
        lambda: fastbp.linear_softmax_cross_entropy(z, np.ones((1, 1), dtype), z),
    ):
        with pytest.raises(REFUSED):
            call()


@pytest.mark.parametrize("loss", ["squared_error", "sigmoid_cross_entropy", "softmax_cross_entropy"])
def test_a_batch_larger_than_memory(backend, dtype, size, loss):
    z = column(size, dtype)
    network = fastbp.MLP([1, 2, 1], loss=loss, dtype=dtype, seed=0)
    before = network.parameters.copy()
    for call in (
        lambda: network.gradients(z, z),
        lambda: network.step(z, z, fastbp.SGD(0.1)),
    ):
        with pytest.raises(REFUSED):
            call()
    assert (network.parameters == before).all()
    small = np.ones((3, 1), dtype)
    assert np.isfinite(network.gradients(small, small).loss)  # it works on


@pytest.mark.parametrize("shape", [(2**60, 2**60), (2**62, 2), (2**31, 2**31, 2**31)])
def test_new_arrays_that_cannot_be(backend, dtype, shape):
    with pytest.raises(REFUSED):
        _backend.kernels.new_array(shape, np.dtype(dtype))
