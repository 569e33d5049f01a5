"""MLP: what it computes, its live parameters, what it accepts and refuses, copies."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastbp
from fastbp import MLP, SGD, TargetIndexError
from fastbp.activations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("backend")

LOSSES = (
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "squared_error",
    "sigmoid_squared_error",
    "poisson_deviance",
)
REGRESSIONS = ("squared_error", "poisson_deviance")
X = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [-2.0, 1.5, 0.0], [0.0, 0.0, 1.0]])
LABELS = np.array([1, 0, 1, 1])
ROWS = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])


def close(got, want, dtype, terms):
    """Equal up to one rounding for each of `terms` operations; values of the size of 1."""
    np.testing.assert_allclose(got, want, rtol=terms * np.finfo(dtype).eps, atol=terms * np.finfo(dtype).eps)


def outputs_by_hand(net, x):
    """The outputs of a network, layer by layer, from the public functions."""
    a = np.asarray(x, net.dtype)
    for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
        a = fastbp.linear(a, weight, bias, activation=net.activation)
    return fastbp.linear(a, net.weights[-1], net.biases[-1])


# What it computes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_are_the_layers_one_after_the_other(activation, dtype):
    net = MLP([3, 5, 4, 2], activation=activation, dtype=dtype, seed=1)
    z = net.logits(X)
    assert z.dtype == dtype and z.shape == (4, 2)
    close(z, outputs_by_hand(net, X), dtype, terms=3 + 5 + 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_forward_turns_logits_into_outputs(loss, dtype):
    net = MLP([3, 5, 2], loss=loss, dtype=dtype, seed=1)
    z = net.logits(X).astype(np.float64)
    e = np.exp(z)
    expected = {
        "softmax_cross_entropy": e / e.sum(axis=1, keepdims=True),
        "sigmoid_cross_entropy": e / (1 + e),
        "squared_error": z,
        "sigmoid_squared_error": e / (1 + e),
        "poisson_deviance": e,
    }[loss]
    y = net.forward(X)
    assert y.dtype == dtype
    close(y, expected, dtype, terms=8)
    if loss in REGRESSIONS:
        assert (net.predict(X) == y).all()
    else:
        assert (net.predict_proba(X) == y).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_are_those_of_the_error_function(loss, dtype):
    net = MLP([3, 2], loss=loss, dtype=dtype, seed=1)  # one layer: dW = xᵀ δ
    error, delta, _ = getattr(fastbp, loss)(net.logits(X), ROWS)
    gradients = net.gradients(X, ROWS)
    close(net.loss(X, ROWS), error, dtype, terms=16)
    close(gradients.loss, error, dtype, terms=16)
    close(gradients.weights[0], X.T @ delta.astype(np.float64), dtype, terms=16)
    close(gradients.biases[0], delta.astype(np.float64).sum(axis=0), dtype, terms=16)


def test_class_indices_are_one_hot_rows(dtype):
    net = MLP([3, 4, 2], dtype=dtype, seed=1)
    indices, rows = net.gradients(X, LABELS), net.gradients(X, np.eye(2)[LABELS])
    close(indices.flat, rows.flat, dtype, terms=16)
    close(net.loss(X, LABELS), net.loss(X, np.eye(2)[LABELS]), dtype, terms=16)


def test_predict_decides():
    net = MLP([3, 2], seed=1)
    assert net.predict(X).dtype == np.int64
    assert net.predict(X).tolist() == net.forward(X).argmax(axis=1).tolist()
    net = MLP([3, 2], loss="sigmoid_cross_entropy", seed=1)
    assert net.predict(X).dtype == np.int64
    assert net.predict(X).tolist() == (net.forward(X) > 0.5).astype(int).tolist()


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_a_regression_has_no_probabilities(loss):
    with pytest.raises(
        ValueError, match=rf"^predict_proba: got the loss {loss}, expected one of softmax_cross"
    ):
        MLP([3, 2], loss=loss).predict_proba(X)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "softmax_cross_entropy"])
def test_a_network_of_one_output_takes_a_vector_of_targets(loss):
    net = MLP([3, 4, 1], loss=loss, seed=1)
    assert net.loss(X, LABELS) == net.loss(X, LABELS[:, None].astype(np.float32))
    assert net.forward(X).shape == net.predict(X).shape == (4, 1)


def test_no_examples():
    net = MLP([3, 4, 2], seed=0)
    none, no_targets = np.empty((0, 3)), np.empty(0, np.int64)
    before = net.parameters.copy()
    assert net.logits(none).shape == net.forward(none).shape == (0, 2) and net.predict(none).shape == (0,)
    assert np.isnan(net.loss(none, no_targets)) and np.isnan(net.step(none, no_targets, SGD()))
    gradients = net.gradients(none, [])
    assert np.isnan(gradients.loss) and (gradients.flat == 0).all()
    assert (net.parameters == before).all()


# Parameters and gradients -----------------------------------------------------------------------------------


def test_parameters_are_one_live_aligned_vector(dtype):
    net = MLP([3, 5, 2], dtype=dtype, seed=0)
    assert net.layer_sizes == (3, 5, 2) and net.dtype == dtype and net.parameters.dtype == dtype
    assert net.parameters.shape == (3 * 5 + 5 + 5 * 2 + 2,) and net.parameters.ctypes.data % 64 == 0
    assert [w.shape for w in net.weights] == [(3, 5), (5, 2)] and [b.shape for b in net.biases] == [
        (5,),
        (2,),
    ]
    net.parameters[:] = np.arange(32)
    assert net.weights[0][0, 1] == 1 and net.biases[0][0] == 15
    assert net.weights[1][0, 1] == 21 and net.biases[1][1] == 31
    net.weights[1][0, 1] = -1
    assert net.parameters[21] == -1


def test_what_is_written_is_what_is_computed():
    net = MLP([3, 2], loss="squared_error", seed=0)
    net.logits(X)  # whatever is prepared on the way must not be kept beyond a change
    net.weights[0][:] = [[1, 0], [0, 1], [0, 0]]
    net.biases[0][:] = [10, 20]
    assert net.logits([[1, 2, 3]]).tolist() == [[11, 22]]
    net.parameters *= 2
    assert net.logits([[1, 2, 3]]).tolist() == [[22, 44]]
    assert net.gradients([[1, 2, 3]], [[22, 44]]).loss == 0


@pytest.mark.parametrize("name", ["parameters", "weights", "biases"])
def test_parameters_are_not_replaced(name):
    net = MLP([3, 2])
    with pytest.raises(
        AttributeError, match=rf"^{name}: got another object, expected .* live array.*net\.{name}\["
    ):
        setattr(net, name, np.zeros(8))


@pytest.mark.parametrize("name", ["layer_sizes", "activation", "loss_name", "dtype", "n_threads", "init"])
def test_a_network_stays_what_it_is(name):
    with pytest.raises(AttributeError, match=rf"^{name}: got another object, expected .*make another MLP"):
        setattr(MLP([3, 2]), name, "tanh")


def test_gradients_are_of_their_own(dtype):
    net = MLP([3, 5, 2], dtype=dtype, seed=0)
    first = net.gradients(X, LABELS)
    kept = first.flat.copy()
    second = net.gradients(X[:2], LABELS[:2])
    assert (first.flat == kept).all() and not np.shares_memory(first.flat, second.flat)
    assert first.flat.shape == net.parameters.shape and first.flat.dtype == dtype
    for part, like in zip(first.weights + first.biases, net.weights + net.biases, strict=True):
        assert part.shape == like.shape and np.shares_memory(part, first.flat)
    loss, weights, biases = first
    assert loss == first.loss and weights is first.weights and biases is first.biases
    assert (pickle.loads(pickle.dumps(first)).flat == kept).all()


def test_a_step_is_the_gradient_and_the_update(dtype):
    net, by_hand = MLP([3, 5, 2], dtype=dtype, seed=0), MLP([3, 5, 2], dtype=dtype, seed=0)
    sgd, velocity = SGD(0.5, momentum=0.9), np.zeros_like(net.parameters)
    for _ in range(3):
        gradients = by_hand.gradients(X, LABELS)
        fastbp.sgd_update(
            by_hand.parameters, gradients.flat, learning_rate=0.5, momentum=0.9, velocity=velocity
        )
        assert net.step(X, LABELS, sgd) == gradients.loss
    assert (net.parameters == by_hand.parameters).all()
    assert sgd.steps == 3


# Initial weights --------------------------------------------------------------------------------------------


def test_a_seed_determines_the_network():
    same, other = MLP([3, 5, 2], seed=3), MLP([3, 5, 2], seed=4)
    assert (MLP([3, 5, 2], seed=3).parameters == same.parameters).all()
    assert (MLP([3, 5, 2], seed=3, dtype="float64").parameters.astype(np.float32) == same.parameters).all()
    assert (other.weights[0] != same.weights[0]).any()
    assert (MLP([3, 5, 2]).weights[0] != MLP([3, 5, 2]).weights[0]).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights(activation):
    def spread(init):
        net = MLP([300, 200, 10], activation=activation, init=init, seed=0)
        assert all((bias == 0).all() for bias in net.biases)
        return net.weights[0].std() * np.sqrt(300), float(np.abs(net.weights[0]).max())

    (glorot, largest), (he, _) = spread("glorot"), spread("he")
    assert largest <= np.sqrt(6 / 500)
    assert glorot == pytest.approx(np.sqrt(2 / 500 * 300), rel=0.02)  # 60 000 draws: three standard errors
    assert he == pytest.approx(np.sqrt(2), rel=0.02)
    relu_like = activation in ("relu", "leaky_relu", "gelu", "silu", "softplus")
    assert spread("auto")[0] == (he if relu_like else glorot)


# What it accepts and refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int8, np.uint64, np.bool_, ">f4"])
def test_inputs_of_any_real_dtype(kind):
    net = MLP([3, 4, 2], seed=0)
    x = (np.abs(X) * 2).astype(kind)
    assert (net.logits(x) == net.logits(x.astype(np.float32))).all()


def test_inputs_in_any_layout(tmp_path):
    net = MLP([3, 4, 2], seed=0)
    x = np.ascontiguousarray(X, np.float32)
    want = net.gradients(x, LABELS).flat
    wide = np.zeros((8, 9), np.float32)
    wide[::2, ::3] = x
    file = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    file[:] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for given in (x.tolist(), np.asfortranarray(x), wide[::2, ::3], file, read_only):
        assert (net.gradients(given, LABELS).flat == want).all()
    for labels in (LABELS.tolist(), LABELS.astype(np.uint8), LABELS.astype(">i4"), np.repeat(LABELS, 2)[::2]):
        assert (net.gradients(x, labels).flat == want).all()


NET_ERRORS = [
    ([], {}, ValueError, "layer_sizes: got [], expected at least two integers >= 1, as in [64, 32, 10]"),
    ([3], {}, ValueError, "layer_sizes: got [3], expected at least two integers >= 1, as in [64, 32, 10]"),
    (
        [3, 0, 2],
        {},
        ValueError,
        "layer_sizes: got 0, expected at least two integers >= 1, as in [64, 32, 10]",
    ),
    (
        [3, 2.0],
        {},
        TypeError,
        "layer_sizes: got float, expected at least two integers >= 1, as in [64, 32, 10]",
    ),
    (3, {}, TypeError, "layer_sizes: got int, expected at least two integers >= 1, as in [64, 32, 10]"),
    ("32", {}, TypeError, "layer_sizes: got str, expected at least two integers >= 1, as in [64, 32, 10]"),
    ([3, 2], {"dtype": "float16"}, TypeError, "dtype: got float16, expected float32 or float64"),
    ([3, 2], {"dtype": int}, TypeError, "dtype: got int64, expected float32 or float64"),
    ([3, 2], {"dtype": "nonsense"}, TypeError, "dtype: got 'nonsense', expected float32 or float64"),
    ([3, 2], {"dtype": None}, TypeError, "dtype: got None, expected float32 or float64"),
    ([3, 2], {"seed": -1}, ValueError, "seed: got -1, expected None or an integer in [0, 2**128)"),
    ([3, 2], {"seed": 0.5}, TypeError, "seed: got float, expected None or an integer in [0, 2**128)"),
    ([3, 2], {"n_threads": 0}, ValueError, "n_threads: got 0, expected None or an integer >= 1"),
    ([3, 2], {"init": "zero"}, ValueError, "init: got 'zero', expected one of auto, glorot, he"),
    (
        [3, 2],
        {"activation": "step"},
        ValueError,
        f"activation: got 'step', expected one of {', '.join(ACTIVATIONS)}",
    ),
    (
        [3, 2],
        {"activation": None},
        TypeError,
        f"activation: got NoneType, expected one of {', '.join(ACTIVATIONS)}",
    ),
    ([3, 2], {"loss": "mse"}, ValueError, f"loss: got 'mse', expected one of {', '.join(LOSSES)}"),
]


@pytest.mark.parametrize(("sizes", "options", "kind", "message"), NET_ERRORS)
def test_no_such_network(sizes, options, kind, message):
    with pytest.raises(kind) as caught:
        MLP(sizes, **options)
    assert str(caught.value) == message


X_ERRORS = [
    (
        X[0],
        ValueError,
        "x: got shape (3,), expected (N, 3), one row for each example; one example is x[None, :]",
    ),
    (X[:, :2], ValueError, "x: got shape (4, 2), expected (N, 3), one row for each example"),
    (X[None], ValueError, "x: got shape (1, 4, 3), expected (N, 3), one row for each example"),
    (X.astype(complex), TypeError, "x: got dtype complex128, expected real numbers"),
    (X.astype(str), TypeError, "x: got dtype <U32, expected real numbers"),
    (
        [[1, 2, None]],
        TypeError,
        "x: got a missing value (None) at [0, 2], expected real numbers (fill or drop what is missing)",
    ),
]


@pytest.mark.parametrize(("x", "kind", "message"), X_ERRORS)
def test_inputs_that_do_not_fit(x, kind, message):
    net = MLP([3, 2])
    for call in (
        net.logits,
        net.forward,
        lambda x: net.loss(x, LABELS),
        lambda x: net.step(x, LABELS, SGD()),
    ):
        with pytest.raises(kind) as caught:
            call(x)
        assert str(caught.value) == message


def test_a_ragged_list_is_no_array():
    with pytest.raises(ValueError, match=r"^x: got a list that is no array \(.*\), expected an array$"):
        MLP([3, 2]).forward([[1, 2, 3], [4]])


EACH = "one target for each row of inputs"
T_ERRORS = [
    (
        "softmax_cross_entropy",
        [0, 1, 2, 0],
        TargetIndexError,
        "t: row 2 is 2, expected a class index in [0, 2)",
    ),
    (
        "softmax_cross_entropy",
        [0, 1, 0, -100],
        TargetIndexError,
        "t: row 3 is -100, expected a class index in [0, 2)",
    ),
    (
        "softmax_cross_entropy",
        np.array([0, 2**64 - 100, 0, 0], np.uint64),
        TargetIndexError,
        f"t: row 1 is {2**64 - 100}, expected a class index in [0, 2)",
    ),
    (
        "softmax_cross_entropy",
        [0, 1],
        ValueError,
        "t: got 2 class indices, expected 4, one for each row of inputs",
    ),
    (
        "softmax_cross_entropy",
        [0.0, 1.0, 1.0, 0.0],
        TypeError,
        "t: got dtype float64 of shape (4,), expected integer class indices",
    ),
    (
        "softmax_cross_entropy",
        LABELS.astype("U1"),
        TypeError,
        "t: got dtype <U1 of shape (4,), expected integer class indices "
        "(numpy.unique(..., return_inverse=True)[1] numbers names)",
    ),
    (
        "softmax_cross_entropy",
        ROWS[:, :1],
        ValueError,
        f"t: got shape (4, 1), expected (4, 2) or class indices (4,), {EACH}",
    ),
    ("sigmoid_cross_entropy", LABELS, ValueError, f"t: got shape (4,), expected (4, 2), {EACH}"),
    ("squared_error", ROWS[:3], ValueError, f"t: got shape (3, 2), expected (4, 2), {EACH}"),
    ("squared_error", 1.0, ValueError, f"t: got shape (), expected (4, 2), {EACH}"),
    ("squared_error", ROWS.astype(complex), TypeError, "t: got dtype complex128, expected real numbers"),
]


@pytest.mark.parametrize(("loss", "t", "kind", "message"), T_ERRORS)
def test_targets_that_do_not_fit(loss, t, kind, message):
    net = MLP([3, 2], loss=loss)
    for call in (net.loss, net.gradients, lambda x, t: net.step(x, t, SGD())):
        with pytest.raises(kind) as caught:
            call(X, t)
        assert str(caught.value) == message


@pytest.mark.parametrize(("optimizer", "got"), [(0.1, "float"), (SGD, "the class SGD"), (None, "NoneType")])
def test_no_optimizer(optimizer, got):
    net = MLP([3, 2])
    with pytest.raises(TypeError, match=rf"^optimizer: got {got}, expected an instance of SGD or Adam$"):
        net.step(X, LABELS, optimizer)


# Copies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_equal_and_independent(duplicate, dtype):
    net = MLP([3, 5, 2], activation="tanh", dtype=dtype, seed=0, init="he", n_threads=1)
    net.fit(X, LABELS, epochs=1, progress=False)
    twin = duplicate(net)
    assert repr(twin) == repr(net) and (twin.init, twin.n_threads) == ("he", 1)
    assert (twin.parameters == net.parameters).all() and not np.shares_memory(twin.parameters, net.parameters)
    assert twin.parameters.ctypes.data % 64 == 0 and np.shares_memory(twin.weights[0], twin.parameters)
    kept = net.parameters.copy()
    ours = twin.fit(X, LABELS, epochs=3, batch_size=2, progress=False)  # with the same shuffling
    assert (net.parameters == kept).all()
    assert net.fit(X, LABELS, epochs=3, batch_size=2, progress=False).loss == ours.loss
    assert (net.parameters == twin.parameters).all()


def test_threads_take_turns():
    """Batches of different sizes, so that one call would resize the work space under another."""
    net = MLP([3, 64, 2], seed=0)
    x = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    t = np.zeros(len(x), np.int64)
    sizes = [1, 3000, 20, 700, 2, 1500] * 10
    with ThreadPoolExecutor(4) as pool:
        logits = list(pool.map(lambda n: net.logits(x[:n]), sizes))
        gradients = list(pool.map(lambda n: net.gradients(x[:n], t[:n]).flat, sizes))
    for n, z, gradient in zip(sizes, logits, gradients, strict=True):
        assert (z == net.logits(x[:n])).all() and (gradient == net.gradients(x[:n], t[:n]).flat).all()


def test_repr_makes_such_a_network():
    net = MLP((3, 5, 2), activation="relu", loss="squared_error", dtype=np.float64)
    assert repr(net) == "MLP([3, 5, 2], activation='relu', loss='squared_error', dtype='float64')"
    assert repr(eval(repr(net))) == repr(net)
