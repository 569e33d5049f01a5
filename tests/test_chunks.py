"""Large batches of small networks, in chunks of 512 rows: the same results, and the same bits on any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import NATIVE_ONLY, check, check_threads, every_pair, generator, shared_by
from fake_mpi import together
from test_network_kernels import problem
from test_training_options import arrays, assert_near, assert_same, gradient_of, network_of, train

import fastbp
from fastbp import SGD, Adam, Muon, _backend, _reference

SIZES, CHUNK = (5, 12, 6, 4), 512
NUMBERS = [2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK - 1, 2100]


def examples(dtype, n, loss="softmax_cross_entropy"):
    rng = generator("chunks", n)
    targets = (
        rng.integers(0, SIZES[-1], n)
        if loss == "softmax_cross_entropy"
        else rng.random((n, SIZES[-1]), dtype)
    )
    return rng.standard_normal((n, SIZES[0])).astype(dtype), targets


def start(dtype):
    inputs = np.repeat(SIZES[:-1], [(i + 1) * o for i, o in itertools.pairwise(SIZES)])
    return (generator("start").standard_normal(len(inputs)) * 1.5 / inputs**0.5).astype(dtype)


@every_pair(
    "dtype",
    "isa",
    n=NUMBERS,
    loss=["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error", "huber"],
)
def test_error_and_gradient(dtype, isa, n, loss):
    check(_backend.kernels, problem(SIZES, n, dtype, loss=loss))


@NATIVE_ONLY
def test_gradient_on_threads(dtype, isa):
    check_threads(_backend.kernels, problem(SIZES, 5000, dtype))


@every_pair("dtype", "isa", optimizer=[SGD(0.5), Adam(0.01), Muon(0.01)], dropout=[(), (0.3, 0.2)])
def test_training_is_that_of_the_twin(dtype, isa, optimizer, dropout):
    """With weights, rows in any order, smoothed labels; one batch is cut, and one is not."""
    x, t = examples(dtype, 2600)
    rng = generator("order")
    weights, order = rng.integers(0, 3, len(x)).astype(float), rng.permutation(len(x))
    told = []
    for kernels in (_backend.kernels, _reference):
        net = network_of(kernels, start(dtype), SIZES, dropout=dropout, seed=3, label_smoothing=0.1)
        optimizer.reset()
        told.append((*train(net, x, t, optimizer, 2100, weights=weights, order=order), net.parameters))
    assert told[0][1:4] == told[1][1:4] and abs(told[0][0] - told[1][0]) < 1e-5
    assert_near(told[0][4], told[1][4], SIZES, dtype)


@NATIVE_ONLY
@pytest.mark.parametrize("n_threads", [2, 3])
def test_training_on_threads(dtype, isa, n_threads):
    x, t = examples(dtype, 5000)
    nets, optimizers = (
        [
            network_of(_backend.kernels, start(dtype), SIZES, n_threads=n, dropout=(0.3, 0.2))
            for n in (1, n_threads)
        ],
        (Adam(), Adam()),
    )
    with shared_by(n_threads):
        assert train(nets[0], x, t, optimizers[0], 3000) == train(nets[1], x, t, optimizers[1], 3000)
    assert_same(*(arrays(*each) for each in zip(nets, optimizers, strict=True)))


@NATIVE_ONLY
def test_chunks_without_weight_do_not_count(dtype, isa):
    """Whatever is in them: the mean over the others is that of a batch without them."""
    x, t = examples(dtype, 4 * CHUNK)
    weights = generator("weights").random(len(x))
    weights[CHUNK : 2 * CHUNK] = 0
    rest = np.r_[:CHUNK, 2 * CHUNK : 4 * CHUNK]
    net = network_of(_backend.kernels, start(dtype), SIZES)
    some, others = gradient_of(net, x, t, weights), gradient_of(net, x[rest], t[rest], weights[rest])
    assert some[:2] == others[:2] and some[2].tobytes() == others[2].tobytes()
    mean, weight, gradient = gradient_of(net, x, t, np.zeros(len(x)))
    assert np.isnan(mean) and weight == 0 and not gradient.any()


@NATIVE_ONLY
def test_batches_of_any_size_one_after_the_other(dtype, isa):
    """A network that has seen others computes what a new one does."""
    used = network_of(_backend.kernels, start(dtype), SIZES)
    for n in (10, 1500, 600, 1024, 5000, 3, 1023, 2048):
        x, t = examples(dtype, n)
        for some, others in zip(
            gradient_of(used, x, t),
            gradient_of(network_of(_backend.kernels, start(dtype), SIZES), x, t),
            strict=True,
        ):
            assert np.asarray(some).tobytes() == np.asarray(others).tobytes()


@NATIVE_ONLY
@pytest.mark.parametrize("at", [0, 700, 1999])
def test_a_label_that_is_no_class(dtype, isa, at):
    """As if another thread had changed it since it was checked. Nothing is changed."""
    x, t = examples(dtype, 2000)
    t[at] = 2**40
    net = network_of(_backend.kernels, start(dtype), SIZES, n_threads=2)
    with pytest.raises(fastbp.TargetIndexError):
        train(net, x, t, SGD(0.1), 2000)
    assert_same([net.parameters], [start(dtype)])


@NATIVE_ONLY
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(dtype, isa, value):
    x, t = examples(dtype, 1500)
    x[1200, 2] = value
    net = network_of(_backend.kernels, start(dtype), SIZES)
    assert train(net, x, t, SGD(0.1), 1500)[3] != ""
    assert_same([net.parameters], [start(dtype)])


def test_a_share_of_a_large_batch_on_each_rank(backend):
    """Ranks sum layer by layer, and cut nothing; a network may train alone before and after it."""
    x, t = examples("float64", 3000)

    def of_rank(comm, rank):
        net = fastbp.MLP(SIZES, seed=0, dtype="float64", n_threads=1)
        net.fit(x, t, epochs=1, batch_size=3000, shuffle=False, progress=False)
        own = slice(rank, None, 2)
        net.fit(x[own], t[own], epochs=2, batch_size=1500, shuffle=False, progress=False, comm=comm)
        net.fit(x, t, epochs=1, batch_size=3000, shuffle=False, progress=False)
        return net.parameters

    net = fastbp.MLP(SIZES, seed=0, dtype="float64", n_threads=1)
    net.fit(x, t, epochs=4, batch_size=3000, shuffle=False, progress=False)
    for parameters in together(2, of_rank):
        np.testing.assert_allclose(parameters, net.parameters, rtol=1e-12, atol=1e-14)
