"""The initial weights of a network: their distributions, by name, by activation and by a function of the user."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from tolerances import NO_WORSE, product_of

import fastbp
from fastbp import MLP, initializers
from fastbp.activations import ACTIVATIONS

EPS = np.finfo(np.float64).eps
SHAPES = [(300, 200), (200, 300), (7, 9000)]

VARIANCE = {  # of the weights (I, O)
    "glorot_uniform": lambda i, o: 2 / (i + o),
    "glorot_normal": lambda i, o: 2 / (i + o),
    "he_normal": lambda i, o: 2 / i,
    "he_uniform": lambda i, o: 2 / i,
    "lecun_normal": lambda i, o: 1 / i,
    "lecun_uniform": lambda i, o: 1 / i,
    "normal": lambda i, o: 0.0025,
    "uniform": lambda i, o: 0.0025 / 3,
}
ALIASES = {"glorot": "glorot_uniform", "he": "he_normal", "lecun": "lecun_normal"}


def drawn(init, shape, seed=0, activation="sigmoid"):
    """The weights of a network without hidden layers."""
    net = MLP([*shape], activation=activation, init=init, seed=seed, dtype="float64")
    assert not net.biases[0].any()
    return net.weights[0]


def test_every_name_has_a_test():
    assert {*initializers.INITIALIZERS} == {*VARIANCE, *ALIASES, "orthogonal", "zeros"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", VARIANCE)
def test_distribution(name, shape):
    """Mean and variance within five standard errors; bounded or not, as the name says."""
    w, variance = drawn(name, shape), VARIANCE[name](*shape)
    kurtosis = 1.8 if name.endswith("uniform") else 3
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    assert abs(w.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / w.size)
    largest, limit = np.abs(w).max(), np.sqrt(3 * variance)
    assert 0.999 * limit < largest <= limit if name.endswith("uniform") else largest > 2 * limit


@pytest.mark.parametrize("name", ALIASES)
def test_short_names(name):
    assert drawn(name, (5, 3)).tobytes() == drawn(ALIASES[name], (5, 3)).tobytes()


def test_a_seed_means_the_same_weights_in_every_version():
    """The bits of the first release, layer by layer from one generator."""
    net, rng = MLP([5, 4, 3], init="glorot", seed=3, dtype="float64"), np.random.default_rng(3)
    for w in net.weights:
        limit = np.sqrt(6 / sum(w.shape))
        assert w.tobytes() == rng.uniform(-limit, limit, w.shape).tobytes()
    net, rng = MLP([5, 4, 3], init="he", seed=3, dtype="float64"), np.random.default_rng(3)
    for w in net.weights:
        assert w.tobytes() == rng.normal(0.0, np.sqrt(2 / len(w)), w.shape).tobytes()


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30), (1, 5), (5, 1)])
def test_orthogonal(shape):
    w = drawn("orthogonal", shape)
    w = w if shape[0] >= shape[1] else w.T
    error = np.abs(w.T @ w - np.eye(w.shape[1])).max()
    assert error <= NO_WORSE * product_of(len(w)) * EPS


def test_orthogonal_matrices_are_alike_likely():
    """The mean of an entry is 0; without the signs of R it would be near -1/2. Its variance is 1/3 in three dimensions."""
    entries = np.array([drawn("orthogonal", (3, 3), seed)[0, 0] for seed in range(400)])
    assert abs(entries.mean()) < 5 * np.sqrt(1 / 3 / 400)
    assert entries.var() == pytest.approx(1 / 3, rel=0.2)  # uniform in [-1, 1]: standard error 0.045


def test_zeros():
    assert not drawn("zeros", (4, 3)).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_auto_suits_the_activation(activation):
    suits = {"identity": "glorot", "sigmoid": "glorot", "tanh": "glorot", "selu": "lecun"}.get(
        activation, "he"
    )
    got, want = (drawn(init, (5, 3), activation=activation) for init in ("auto", suits))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", ["auto", *initializers.INITIALIZERS])
def test_the_same_network_in_both_dtypes(name):
    single, double = (MLP([6, 5, 3], init=name, seed=1, dtype=dtype) for dtype in ("float32", "float64"))
    assert single.init == name
    assert (double.parameters.astype(np.float32) == single.parameters).all()


# -- a function ----------------------------------------------------------------------------------------------------------------


def test_a_function(dtype, tmp_path):
    """It is called for each layer, with the network's generator; copies and files know only that there was one."""
    calls = []

    def init(rng, n_in, n_out):
        calls.append((n_in, n_out))
        return rng.standard_normal((n_in, n_out))

    net, rng = MLP([4, 3, 2], init=init, seed=5, dtype=dtype), np.random.default_rng(5)
    assert calls == [(4, 3), (3, 2)] and net.init == "custom"
    for w in net.weights:
        assert (w == rng.standard_normal(w.shape).astype(dtype)).all()
    net.save(tmp_path / "net")
    for twin in (MLP.load(tmp_path / "net"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.init == "custom" and twin.parameters.tobytes() == net.parameters.tobytes()
    assert len(calls) == 2


NAN, HUGE = np.full((3, 2), np.nan), np.full((3, 2), 1e39)
WRONG = [
    (np.zeros((2, 3)), ValueError, "init: got weights of shape (2, 3), expected (3, 2), (n_in, n_out)"),
    (0.5, ValueError, "init: got weights of shape (), expected (3, 2), (n_in, n_out)"),
    (NAN, ValueError, "init: row 0 has nan in column 0, expected numbers that are finite in float32"),
    (HUGE, ValueError, "init: row 0 has 1e+39 in column 0, expected numbers that are finite in float32"),
    (1j * np.zeros((3, 2)), TypeError, "init: got dtype complex128, expected real numbers"),
]


@pytest.mark.parametrize(("weights", "kind", "message"), WRONG)
def test_what_a_function_may_not_return(weights, kind, message):
    with pytest.raises(kind) as caught:
        fastbp.MLP([3, 2], init=lambda rng, n_in, n_out: weights)
    assert str(caught.value) == message
