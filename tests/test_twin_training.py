"""The training of the NumPy twin: batch by batch what gradient and update make of it, and nothing after a failure."""

from __future__ import annotations

import numpy as np
import pytest
from twin_calls import EPS, NAN, generator

from fastbp import _reference as twin

pytestmark = pytest.mark.usefixtures("no_warnings")


class Plain:
    """What `train` needs of an optimizer: sgd with momentum, or adam."""

    average, decoupled, decay_biases, of_matrices = None, False, True, 0

    def __init__(self, name, settings, state=()):
        self.rule, self.settings, self.steps = name, settings, 0
        self.vectors = ("first_moment", "second_moment", "largest") if name == "adam" else ("velocity",)
        self.arrays = dict(zip(self.vectors, state, strict=False))

    def hyper_parameters(self, dtype):
        return self.settings

    def scheduled_rates(self, n_steps, dtype):
        return None

    def state(self, parameters):
        return self.arrays


def small_network():
    parameters = generator(10).normal(0, 0.5, 3 * 4 + 4 + 4 * 2 + 2)
    x, labels = generator(11).normal(size=(7, 3)), np.array([0, 1, 0, 1, 1, 0, 1])
    return twin.Network((3, 4, 2), ("tanh",), "softmax_cross_entropy", parameters, 1), x, labels


def test_train_without_an_order_takes_the_rows_as_they_stand():
    results = []
    for order in (None, np.arange(7)):
        network, x, labels = small_network()
        results.append(network.train(x, labels, None, order, 3, Plain("sgd", (0.1, 0.0, 0.0, 0.0)), None))
        results.append(network.parameters.tobytes())
    assert results[:2] == results[2:]


@pytest.mark.parametrize("name", ["sgd", "sgd with momentum", "adam"])
def test_train_is_gradient_and_update_batch_by_batch(name):
    network, x, labels = small_network()
    order = np.array([6, 0, 3, 5, 1, 2, 4])
    w, g = network.parameters.copy(), np.empty_like(network.parameters)
    state = () if name == "sgd" else tuple(np.zeros_like(w) for _ in range(2 if name == "adam" else 1))
    settings = (0.1, 0.9, 0.999, 1e-8, 0.01) if name == "adam" else (0.1, 0.9 if state else 0.0, 0.0, 0.01)
    optimizer = Plain(name.split()[0], settings, tuple(array.copy() for array in state))
    mean, weight, batches, failure = network.train(x, labels, None, order, 3, optimizer, None)

    by_hand = twin.Network(network.layer_sizes, ("tanh",), "softmax_cross_entropy", w, 1)
    total = 0.0
    for step, rows in enumerate(([6, 0, 3], [5, 1, 2], [4]), start=1):
        total += len(rows) * by_hand.gradient(x[rows], labels[rows], None, g)[0]
        twin.update(optimizer, settings, dict(zip(optimizer.vectors, state, strict=False)), step, w, g, 1)
    assert (weight, batches, failure, optimizer.steps) == (7, 3, "", 3)
    assert mean == pytest.approx(total / 7, rel=4 * EPS)
    assert network.parameters.tobytes() == w.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(optimizer.arrays.values(), state, strict=True))


@pytest.mark.parametrize(
    ("bad_x", "bad_t", "learning_rate", "expected"),
    [
        (NAN, 1.0, 0.1, "loss"),
        (1.0, 1e30, 0.1, "loss"),  # its square overflows in float32
        (3e38, 1e3, 0.1, "gradient"),  # x δ overflows
        (1e30, 1e6, 1e3, "gradient"),  # x δ is 1e36, the step 1e39 overflows
    ],
)
def test_a_batch_that_fails_changes_nothing(bad_x, bad_t, learning_rate, expected):
    # y = w x + b with w = b = 0; the first two examples have x = 0 and leave w alone
    x = np.array([[0.0], [0.0], [bad_x], [0.0]], np.float32)
    t = np.array([[1.0], [2.0], [bad_t], [1.0]], np.float32)

    def train(order):
        parameters, velocity = np.zeros(2, np.float32), np.zeros(2, np.float32)
        optimizer = Plain("sgd", (learning_rate, 0.9, 0.0, 0.0), (velocity,))
        network = twin.Network((1, 1), (), "squared_error", parameters, 1)
        return (
            network.train(x, t, None, np.array(order), 1, optimizer, None),
            parameters,
            velocity,
            optimizer.steps,
        )

    (mean, _, batches, failure), *after = train([0, 1, 2, 3])
    (good_mean, _, good_batches, nothing), *good = train([0, 1])
    assert (mean, batches, failure) == (good_mean, 2, expected)
    assert (good_batches, nothing) == (2, "")
    assert [np.asarray(a).tobytes() for a in after] == [np.asarray(a).tobytes() for a in good]
    assert good[0][1] != 0.0


def test_a_second_moment_that_overflows_changes_nothing():
    """Adam's step would be finite, m̂/sqrt(inf) = 0, but the network would never learn again."""
    parameters, m, v = (np.zeros(2, np.float32) for _ in range(3))
    network = twin.Network((1, 1), (), "squared_error", parameters, 1)
    x, t = np.array([[1e25]], np.float32), np.array([[1.0]], np.float32)
    optimizer = Plain("adam", (0.1, 0.9, 0.999, 1e-8, 0.0), (m, v))
    assert network.train(x, t, None, np.array([0]), 1, optimizer, None)[1:] == (0, 0, "gradient")
    assert not np.concatenate([parameters, m, v]).any()
    assert optimizer.steps == 0


def test_train_reports(monkeypatch):
    network, x, labels = small_network()
    monkeypatch.setattr(twin.Network, "REPORT_SECONDS", 0.0)
    seen = []
    mean, _, batches, _ = network.train(
        x,
        labels,
        None,
        np.arange(7),
        2,
        Plain("sgd", (0.1, 0.0, 0.0, 0.0)),
        lambda *report: seen.append(report),
    )
    assert [done for done, _ in seen] == [1, 2, 3, 4]
    assert seen[-1] == (batches, mean)


def test_train_on_no_example():
    network, x, labels = small_network()
    mean, _, batches, failure = network.train(
        x, labels, None, np.empty(0, np.int64), 2, Plain("sgd", (0.1, 0.0, 0.0, 0.0)), None
    )
    assert np.isnan(mean)
    assert (batches, failure) == (0, "")
