"""MLP: what it computes, its live parameters, what it accepts and refuses, copies."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import NATIVE_ONLY
from interrupts import interrupt, needs_signals

import fastbp
from fastbp import MLP, SGD, Adam, TargetIndexError, _backend
from fastbp.activations import ACTIVATIONS
from fastbp.initializers import INITIALIZERS
from fastbp.outputs import LOSSES

pytestmark = pytest.mark.usefixtures("backend")

REGRESSIONS = tuple(name for name, loss in LOSSES.items() if loss.decide is None)
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
        "huber": z,
        "quantile": z,
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


DRAWN = f"{', '.join(INITIALIZERS)}, or a function (rng, n_in, n_out)"
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
    (
        np.array(3),
        {},
        TypeError,
        "layer_sizes: got ndarray, expected at least two integers >= 1, as in [64, 32, 10]",
    ),
    ([3, 4, 2], {"dropout": np.array(0.5)}, TypeError, "dropout: got ndarray, expected a number in [0, 1)"),
    ("32", {}, TypeError, "layer_sizes: got str, expected at least two integers >= 1, as in [64, 32, 10]"),
    ([3, 2], {"dtype": "float16"}, TypeError, "dtype: got float16, expected float32 or float64"),
    ([3, 2], {"dtype": int}, TypeError, "dtype: got int64, expected float32 or float64"),
    ([3, 2], {"dtype": "nonsense"}, TypeError, "dtype: got 'nonsense', expected float32 or float64"),
    ([3, 2], {"dtype": None}, TypeError, "dtype: got None, expected float32 or float64"),
    ([3, 2], {"seed": -1}, ValueError, "seed: got -1, expected None or an integer in [0, 2**128)"),
    ([3, 2], {"seed": 0.5}, TypeError, "seed: got float, expected None or an integer in [0, 2**128)"),
    ([3, 2], {"n_threads": 0}, ValueError, "n_threads: got 0, expected None or an integer >= 1"),
    ([3, 2], {"init": "custom"}, ValueError, "init: got 'custom', expected one of auto, " + DRAWN),
    ([3, 2], {"init": None}, TypeError, "init: got NoneType, expected one of auto, " + DRAWN),
    ([3, 2], {"init": "zero"}, ValueError, "init: got 'zero', expected one of auto, " + DRAWN),
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
    with pytest.raises(TypeError, match=rf"^optimizer: got {got}, expected an instance of Optimizer$"):
        net.step(X, LABELS, optimizer)


class Own(SGD):
    def update(self, parameters, gradient, **options):
        super().update(parameters, -gradient, **options)


class Halved(Adam):
    def hyper_parameters(self, *dtype):
        return (self.learning_rate / 2, *super().hyper_parameters(*dtype)[1:])


def test_an_update_of_its_own_is_not_ignored():
    net, sgd = MLP([3, 2], seed=0), SGD()
    sgd.update = lambda *arguments, **options: None
    before = net.parameters.copy()
    for optimizer, kind in ((Own(), "Own"), (sgd, "SGD")):
        for call in (net.fit, lambda x, t, optimizer: net.step(x.tolist(), t, optimizer)):
            with pytest.raises(
                TypeError, match=f"^optimizer: got a {kind} with an update of its own, which a net"
            ):
                call(X, LABELS, optimizer=optimizer)
    with pytest.raises(TypeError, match="with an update of its own"):
        net.step(X.astype(np.float32), LABELS, Own())
    assert (net.parameters == before).all()


def test_rates_of_its_own_are_used():
    net, other = MLP([3, 2], seed=0), MLP([3, 2], seed=0)
    halved, adam = Halved(0.1), Adam(0.05)
    for _ in range(3):
        assert net.step(X.astype(np.float32), LABELS, halved) == other.step(X, LABELS, adam)
    assert (net.parameters == other.parameters).all() and halved.steps == 3


@pytest.mark.parametrize("call", ["step", "fit", "gradients"])
@pytest.mark.parametrize("what", ["inputs", "targets", "both", "state", "label"])
def test_examples_inside_the_parameters_are_read_before_they_are_written(call, what):
    def trained(copied):
        net = MLP(
            [3, 4, 3],
            loss="softmax_cross_entropy" if what == "label" else "squared_error",
            seed=0,
            dtype="float64",
        )
        optimizer = SGD(0.5, momentum=0.9)
        net.step(X, np.ones(4, int) if what == "label" else np.ones((4, 3)), optimizer)
        rows = next(iter(optimizer.state(net.parameters).values())) if what == "state" else net.parameters
        x = rows[: 4 * 3].reshape(4, 3) if what in ("inputs", "both", "state") else X
        t = net.parameters[3:15].reshape(4, 3) if what in ("targets", "both") else np.ones((4, 3))
        if what == "label":  # the bits of a bias, which is all but 0 then
            t = net.biases[1].view(np.int64)
            net.biases[1][:], x = 0, X[:3]
        x, t = (array.copy() if copied else array for array in (x, t))
        if call == "gradients":
            return net.gradients(x, t).flat
        if call == "step":
            net.step(x, t, optimizer)
        else:
            net.fit(x, t, epochs=2, batch_size=2, optimizer=optimizer, progress=False)
        return net.parameters

    assert trained(copied=False).tobytes() == trained(copied=True).tobytes()


def test_parameters_that_cannot_be_written():
    net, adam = MLP([3, 2], seed=0), Adam()
    net.step(X.astype(np.float32), LABELS, adam)
    before = net.parameters.copy()
    for name, vector in (
        ("parameters", net.parameters),
        ("second_moment", adam.state(net.parameters)["second_moment"]),
    ):
        vector.flags.writeable = False
        for call in (net.fit, net.step):
            with pytest.raises(
                ValueError, match=rf"^{name}: got a read-only array, expected a writeable one$"
            ):
                call(X.astype(np.float32), LABELS, optimizer=adam)
        vector.flags.writeable = True
    assert (net.parameters == before).all() and adam.steps == 1


# Turns ------------------------------------------------------------------------------------------------------


@needs_signals
def test_an_interrupt_leaves_the_model_to_others():
    """Wherever it comes, what was done is what was counted, and the next call has its turn."""
    x, t = X.astype(np.float32), LABELS.astype(np.int64)
    net, by_hand, optimizer, again = MLP([3, 5, 2], seed=0), MLP([3, 5, 2], seed=0), Adam(), Adam()
    interrupt(400, lambda: net.step(x, t, optimizer))
    interrupt(100, lambda: net.predict(x))
    interrupt(
        100, lambda: net.fit(x, t, epochs=1, batch_size=2, shuffle=False, optimizer=SGD(0.0), progress=False)
    )
    other = threading.Thread(target=net.predict, args=(x,), daemon=True)
    other.start()
    other.join(60)
    assert not other.is_alive()
    for _ in range(optimizer.steps):
        by_hand.step(x, t, again)
    assert optimizer.steps > 0 and net.parameters.tobytes() == by_hand.parameters.tobytes()


def test_no_python_runs_when_a_network_dies(backend):
    """Python drops what the handler of a signal, Ctrl-C say, raises in a finalizer or in the callback of a weak reference."""
    net, calls = MLP([2, 2], seed=0), []
    sys.setprofile(lambda frame, event, arg: event == "call" and calls.append(frame.f_code.co_qualname))
    try:
        del net
    finally:
        sys.setprofile(None)
    assert calls == []


@needs_signals
def test_a_call_within_a_call_changes_nothing(tmp_path):
    """It is refused; but a copy can be made, and shows the model between two updates."""
    x = np.random.default_rng(0).normal(size=(5000, 200)).astype(np.float32)
    t = np.arange(5000) % 5
    net, alone = MLP([200, 1000, 5], seed=0, n_threads=1), MLP([200, 1000, 5], seed=0, n_threads=1)
    before, seen = net.parameters.copy(), []
    calls = [
        lambda: net.step(x[:8], t[:8], Adam(0.05)),
        lambda: net.step(x[:8].tolist(), t[:8], SGD(7.0)),
        lambda: net.fit(x[:8], t[:8], progress=False),
        lambda: net.gradients(x[:8], t[:8]),
        lambda: net.predict(x[:8]),
    ]

    def nested():
        try:
            net.predict(x[:8])
        except RuntimeError:
            return True
        return False

    def handler(signum, frame):
        if not nested():
            return  # it came before the call, or after it
        for call in calls:
            try:
                call()
            except RuntimeError as refusal:
                seen.append(str(refusal))
        net.save(tmp_path / "net")
        for twin in (copy.copy(net), MLP.load(tmp_path / "net")):
            assert (twin.parameters == before).all() and twin.predict(x[:8]).shape == (8,)

    sgd, usual = SGD(0.1), signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(100):
            if seen:
                break
            net.parameters[:] = before
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            net.step(x, t, sgd)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    message = (
        "network: got a call during another one, from a callback or a signal handler; expected it to be over"
    )
    assert seen == [message] * len(calls)
    alone.step(x, t, SGD(0.1))
    assert net.parameters.tobytes() == alone.parameters.tobytes()


class Held(SGD):
    """Keeps a network in a call until it is let go."""

    def __init__(self):
        super().__init__()
        self.inside, self.go_on, self.asked = threading.Event(), threading.Event(), 0

    def hyper_parameters(self, *dtype):
        self.asked += 1
        if self.asked > 1:  # first by the checks, then by the network whose turn it is
            self.inside.set()
            self.go_on.wait(60)
        return super().hyper_parameters(*dtype)


READERS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "save": lambda net: net.save(os.devnull + "/nothing"),
    "check_gradient": lambda net: fastbp.check_gradient(net, X, LABELS),
    "predict": lambda net: net.predict(X),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_wait_for_their_turn(reader, tmp_path):
    net, held, done = MLP([3, 2], seed=0), Held(), threading.Event()

    def read():
        if reader == "save":
            net.save(tmp_path / "net")
        else:
            READERS[reader](net)
        done.set()

    threads = [threading.Thread(target=net.step, args=(X, LABELS, held)), threading.Thread(target=read)]
    threads[0].start()
    assert held.inside.wait(60)
    threads[1].start()
    assert not done.wait(0.1)
    held.go_on.set()
    assert done.wait(60)
    for thread in threads:
        thread.join()


def test_copies_made_while_another_thread_trains_are_whole():
    """All parameters of this network are equal after each update, so that a torn copy shows."""
    net = MLP([100_000, 1], activation="identity", loss="squared_error", seed=0, n_threads=1)
    net.parameters[:] = 0
    x, stop = np.ones((1, 100_000), np.float32), threading.Event()

    def train():
        sgd = SGD(1e-7)
        while not stop.is_set():
            net.step(x, [[1.0]], sgd)

    thread = threading.Thread(target=train)
    thread.start()
    seen = set()
    try:
        for _ in range(40):
            for duplicate in (copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))):
                values = duplicate(net).parameters
                assert values.min() == values.max()
                seen.add(values[0])
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 1


@needs_signals
def test_waiting_for_a_turn_can_be_interrupted():
    net, held = MLP([3, 2], seed=0), Held()
    thread = threading.Thread(target=net.step, args=(X, LABELS, held))
    thread.start()
    assert held.inside.wait(60)
    interrupt(3, lambda: net.predict(X))
    held.go_on.set()
    thread.join()
    assert net.predict(X).shape == (4,)


# Copies -----------------------------------------------------------------------------------------------------


class Named(MLP):
    __slots__ = ("slot",)

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.classes, self.me = ["yes", "no"], self


def with_buffers(net):
    """Through a pickle whose buffers come as bytes, which are read-only."""
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


DUPLICATES = [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), with_buffers]


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_copies_keep_all_attributes(duplicate):
    net = Named([3, 2], seed=0)
    net.slot, net.scale = 3, np.arange(3.0)
    twin = duplicate(net)
    assert type(twin) is Named and (twin.classes, twin.slot, twin.scale.tolist()) == (
        ["yes", "no"],
        3,
        [0, 1, 2],
    )
    assert (
        (twin.me is net) if duplicate is copy.copy else (twin.me is twin and twin.classes is not net.classes)
    )
    assert (twin.parameters == net.parameters).all() and not np.shares_memory(twin.parameters, net.parameters)


def test_a_network_and_its_optimizer_go_together():
    net, adam = MLP([3, 5, 2], seed=0), Adam()
    net.step(X, LABELS, adam)
    pairs = [copy.deepcopy((net, adam)), pickle.loads(pickle.dumps((net, adam)))]
    pairs.append((copy.copy(net), copy.copy(adam)))
    net.fit(X, LABELS, epochs=2, shuffle=False, optimizer=adam, progress=False)
    for twin, optimizer in pairs:
        twin.fit(X, LABELS, epochs=2, shuffle=False, optimizer=optimizer, progress=False)
        assert (twin.parameters == net.parameters).all() and optimizer.steps == adam.steps
        with pytest.raises(
            ValueError, match=r"^parameters: got another vector than the one this Adam keeps a state"
        ):
            net.step(X, LABELS, optimizer)


def test_one_optimizer_for_two_networks():
    nets = [MLP([3, 5, 2], seed=seed) for seed in (0, 1)]
    for optimizer in (SGD(0.1, momentum=0.9), Adam()):
        nets[0].step(X, LABELS, optimizer)
        kept = (
            [vector.copy() for vector in optimizer.state(nets[0].parameters).values()],
            nets[1].parameters.copy(),
        )
        for x in (X, X.astype(np.float32)):
            for call in (nets[1].step, nets[1].fit):
                with pytest.raises(
                    ValueError, match=r"^parameters: got another vector .* optimizer\.reset\(\) forgets"
                ):
                    call(x, LABELS, optimizer=optimizer)
        assert all(
            (a == b).all() for a, b in zip(kept[0], optimizer.state(nets[0].parameters).values(), strict=True)
        )
        assert optimizer.steps == 1 and (nets[1].parameters == kept[1]).all()
        optimizer.reset()
        nets[1].step(X, LABELS, optimizer)
    plain = SGD(0.1)  # keeps nothing
    for net in nets:
        net.step(X, LABELS, plain)
    assert plain.steps == 2


@pytest.mark.parametrize("duplicate", DUPLICATES)
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


@NATIVE_ONLY
def test_the_number_of_threads_is_that_of_the_call(backend):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if backend == "reference" or _backend.kernels.max_threads() < 2:
        pytest.skip("one thread")
    from fastbp._kernels.team import last_team

    with threadpoolctl.threadpool_limits(1):
        net = MLP([300, 400, 10], seed=0)
    x, t = np.random.default_rng(0).normal(size=(2000, 300)).astype(np.float32), np.arange(2000) % 10
    for limit in (1, 2, 1):
        with threadpoolctl.threadpool_limits(limit):
            tasks = last_team()[1]
            net.step(x, t, SGD())
            assert (last_team()[1] == tasks) == (limit == 1)


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="the memory of a process is asked of Linux"
)
def test_the_memory_of_one_large_call_is_given_back(backend):
    if backend == "reference":
        pytest.skip("the twin keeps none")
    x, t, sgd = np.ones((50_000, 4), np.float32), np.zeros(50_000, np.int64), SGD()
    net = MLP([4, 128, 128, 2], seed=0, n_threads=1)  # too large for chunks of rows
    outputs = 50_000 * 128 * 4  # bytes of a hidden layer, which has deltas as well

    def kept(call):
        before = resident()
        call()
        return resident() - before > outputs

    assert not kept(lambda: net.gradients(x, t))  # the first call
    assert kept(lambda: net.gradients(x, t))  # another one like it
    net.step(x[:32], t[:32], sgd)
    assert not kept(lambda: net.gradients(x, t))
    net.step(x[:32], t[:32], sgd)
    assert not kept(lambda: net.step(x, t, sgd))


def test_repr_makes_such_a_network():
    net = MLP((3, 5, 2), activation="relu", loss="squared_error", dtype=np.float64)
    head, *table = repr(net).split("\n")
    assert head == "MLP([3, 5, 2], activation='relu', loss='squared_error', dtype='float64')"
    assert repr(eval(head)) == repr(net)
    assert table == [
        "layer  activation  inputs  outputs  parameters",
        "    1  relu             3        5          20",
        "    2  identity         5        2          12",
        "                                            32",
    ]
