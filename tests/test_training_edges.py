"""Dropout, smoothed labels, activations of each layer, Ctrl-C: what a whole training makes of them."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from interrupts import needs_signals, raising
from training_data import BATCH, LABELS, OPTIONS, ROWS, WEIGHTS, N, X, lists, network, rounding, same, told

import fastbp
from fastbp import MLP, SGD, Adam, DivergenceError, check_gradient
from fastbp.callbacks import EarlyStopping

THREADS = [1, 2, 3, None]


# Dropout ----------------------------------------------------------------------------------------------------


def test_dropout_follows_from_the_seed(backend, dtype):
    nets = [network(dtype, dropout=0.4, n_threads=n) for n in THREADS]
    told_of = [told(net.fit(X, LABELS, optimizer=Adam(), **OPTIONS)) for net in nets]
    assert all(same(net, nets[0]) for net in nets) and all(each == told_of[0] for each in told_of)
    other, none = network(dtype, dropout=0.4, seed=2), network(dtype)
    other.fit(X, LABELS, **OPTIONS)
    none.fit(X, LABELS, **OPTIONS)
    assert not same(other, nets[0]) and not same(none, nets[0])


def test_dropout_by_many_threads(backend):
    """Where there is so much to do that all of them take part."""
    x, labels = np.tile(X, (10, 40)), np.tile(LABELS, 10)
    nets = [MLP([240, 300, 200, 3], dropout=[0.5, 0.1], seed=1, n_threads=n) for n in (1, 2)]
    for net in nets:
        net.fit(x, labels, epochs=1, batch_size=515, progress=False)
    assert same(*nets)


@pytest.mark.parametrize("how", ["pickle", "copy", ".npz", ".safetensors"])
def test_dropout_goes_along_in_copies_and_files(backend, how, tmp_path):
    net, adam = network(dropout=[0.3]), Adam()
    net.fit(X, LABELS, optimizer=adam, **OPTIONS)
    if how.startswith("."):
        net.save(tmp_path / f"net{how}")
        other = MLP.load(tmp_path / f"net{how}")
    else:
        other = pickle.loads(pickle.dumps(net)) if how == "pickle" else copy.deepcopy(net)
    assert same(net, other) and other.dropout == (0.3,)
    again = copy.copy(adam)
    a, b = (each.fit(X, LABELS, optimizer=one, **OPTIONS) for each, one in ((net, adam), (other, again)))
    assert same(net, other) and told(a) == told(b)


def test_dropout_is_of_the_step_not_of_the_batch(backend):
    """A second epoch draws other units: with the rate 0 the loss of the same batch differs from step to step."""
    net, sgd = network(dropout=0.5), SGD(0.0)
    losses = [net.step(X, LABELS, sgd) for _ in range(4)]
    assert len(set(losses)) == 4 and net.loss(X, LABELS) == network(dropout=0.0).loss(X, LABELS)
    sgd.steps = 0
    assert [net.step(X, LABELS, sgd) for _ in range(4)] == losses


# Smoothed labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_smoothed_labels_are_smoothed_targets(backend, loss):
    s = 0.2
    t = np.eye(3)[LABELS]
    smooth = (1 - s) * t + s / (3 if loss.startswith("softmax") else 2)
    net, plain = network(loss=loss, label_smoothing=s), network(loss=loss)
    given = LABELS if loss.startswith("softmax") else t
    a, b = net.gradients(X, given, WEIGHTS), plain.gradients(X, smooth, WEIGHTS)
    np.testing.assert_allclose(a.flat, b.flat, **rounding(N))
    assert a.loss == pytest.approx(b.loss, rel=1e-14) and net.loss(X, given, WEIGHTS) == pytest.approx(
        a.loss, rel=1e-14
    )
    score = net.evaluate(X, given, sample_weight=WEIGHTS)
    assert score["loss"] == pytest.approx(a.loss, rel=1e-14)
    assert score["accuracy"] == plain.evaluate(X, given, sample_weight=WEIGHTS)["accuracy"]
    one, two = (
        each.fit(X, to, validation_data=(X, to), **OPTIONS) for each, to in ((net, given), (plain, smooth))
    )
    np.testing.assert_allclose(net.parameters, plain.parameters, **rounding(64 * N))
    np.testing.assert_allclose(one.validation_loss, two.validation_loss, **rounding(64 * N))
    assert check_gradient(net, X[:20], given[:20]) < 1e-6


# Activations ------------------------------------------------------------------------------------------------


def test_an_activation_for_each_layer(backend, tmp_path):
    names = ("relu", "identity", "gelu")
    net = MLP([6, 5, 4, 3, 3], activation=list(names), dropout=[0.1, 0.0, 0.2], dtype="float64", seed=3)
    net.fit(X, LABELS, **OPTIONS)
    assert net.activations == net.activation == names and check_gradient(net, X[:20], LABELS[:20]) < 1e-6
    net.save(tmp_path / "net.npz")
    for other in (MLP.load(tmp_path / "net.npz"), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert (
            other.activations == other.activation == names
            and other.dropout == net.dropout
            and same(other, net)
        )
        assert (other.forward(X) == net.forward(X)).all() and repr(other) == repr(net)
        assert isinstance(other.activation, tuple)


def test_divergence_by_the_activation_of_its_layer(backend):
    """1e200 goes through layer 1, the identity, and is infinite after layer 2, the identity, not after a tanh."""
    for second, layer in (("identity", 2), ("tanh", None)):
        net = MLP(
            [1, 1, 1, 1], activation=["identity", second], loss="squared_error", dtype="float64", init="zeros"
        )
        net.weights[0][:], net.weights[1][:], net.weights[2][:] = 1e200, 1e200, 1.0
        if layer is None:
            assert np.isfinite(net.step([[1.0]], [0.0], SGD(0.0)))
            continue
        with pytest.raises(
            DivergenceError, match=r"the outputs of layer 2 \(1, 1\) are not finite"
        ) as caught:
            net.step([[1.0]], [0.0], SGD(0.0))
        assert caught.value.layer == layer


# Several outputs --------------------------------------------------------------------------------------------


def test_several_outputs_are_fitted(backend):
    """Of a linear map the network finds the coefficients."""
    t = X @ ROWS[:6] + [1.0, 2.0, 3.0]
    net = MLP([6, 3], loss="squared_error", dtype="float64", seed=0)
    history = net.fit(X, t, epochs=200, batch_size=BATCH, validation_fraction=0.2, progress=False)
    assert history.validation_metric[-1] > 0.999999
    np.testing.assert_allclose(net.weights[0], ROWS[:6], atol=1e-3)


def test_several_labels_are_fitted(backend):
    t = (X[:, :3] > 0).astype(int)
    net = network(loss="sigmoid_cross_entropy")
    net.fit(X, t, epochs=60, optimizer=Adam(0.05), progress=False)
    assert net.evaluate(X, t)["accuracy"] > 0.97


# Examples that a step writes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_step_on_what_it_writes(backend, dtype, place, momentum):
    """The parameters of a layer, or the optimizer's state: the step is that on a copy of them."""
    n, rows, results = 96, 8, []
    for copied in (False, True):
        net, sgd = MLP([n, n, n], dtype=dtype, activation="tanh", seed=3), SGD(0.5, momentum=momentum)
        for _ in range(3):
            velocity = sgd.state(net.parameters).get("velocity", net.parameters)
            x = (velocity[: n * n].reshape(n, n) if place == 2 else net.weights[place])[:rows]
            net.step(x.copy() if copied else x, np.arange(rows), sgd)
        results.append(net.parameters)
    assert results[0].tobytes() == results[1].tobytes()


# Ctrl-C -----------------------------------------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("by_batch", [False, True])
def test_interrupts_at_random_moments(backend, by_batch):
    """The history is whole, the best weights are there, and a training after it starts as if nothing had been."""
    delay, interrupted = random.Random(by_batch), 0
    with raising(KeyboardInterrupt) as send:
        for _ in range(12):
            net, stop, kept = network(), EarlyStopping("metric", patience=10**6), []
            callbacks = [stop, lambda run, kept=kept: kept.append(run.parameters.copy())]
            callbacks += [SimpleNamespace(batch_end=lambda run: None)] if by_batch else []
            try:
                send(delay.uniform(0.002, 0.05))
                history = net.fit(
                    X,
                    LABELS,
                    epochs=10**6,
                    validation_fraction=0.2,
                    optimizer=SGD(0.5),
                    callbacks=callbacks,
                    progress=False,
                )
            except KeyboardInterrupt:
                continue  # before the first epoch, or at the very end
            finally:
                send(0)
            interrupted += 1
            assert history.stopped == "interrupted" and lists(history) <= {len(history)}
            assert len(history.columns()) in (0, 6) and len(kept) in (len(history), len(history) - 1)
            assert (history.best_epoch or 0) <= len(history)
            # The first epoch may be over, and no callback have heard of it.
            if kept or stop.best_epoch is not None:
                values = history.metric[: stop.best_epoch]
                assert stop.best_epoch == 1 + int(np.argmax(values)) and stop.best == max(values)
                best = kept[stop.best_epoch - 1] if stop.best_epoch <= len(kept) else stop.best_parameters
                assert (net.parameters == best).all() and (net.parameters == stop.best_parameters).all()
            assert np.isfinite(net.parameters).all() and len(net.fit(X, LABELS, **OPTIONS)) == 3
    assert interrupted >= 6


@needs_signals
@pytest.mark.parametrize("place", ["batch_end", "epoch_end"])
def test_an_interrupt_in_a_callback(backend, place):
    def interrupt(run):
        if run.epoch == 2:
            raise KeyboardInterrupt

    net, log = network(), []
    callbacks = [
        SimpleNamespace(**{place: interrupt}),
        SimpleNamespace(fit_end=lambda run: log.append(run.epoch)),
    ]
    history = net.fit(X, LABELS, optimizer=SGD(average=0.9), callbacks=callbacks, **OPTIONS)
    whole = 1 if place == "batch_end" else 2
    assert history.stopped == "interrupted" and lists(history) == {whole} and log == [whole]


# Calls that are refused within calls ------------------------------------------------------------------------


def test_a_network_that_trains_can_be_saved_and_copied(backend, tmp_path):
    """From a callback: with the parameters and random numbers of that moment."""
    net, kept = network(dropout=0.2), []

    def look(run):
        net.save(tmp_path / "net.npz")
        kept.append((copy.deepcopy(net), MLP.load(tmp_path / "net.npz"), net.parameters.copy()))

    net.fit(X, LABELS, callbacks=look, **OPTIONS)
    for copied, loaded, parameters in kept:
        assert same(copied, loaded) and (copied.parameters == parameters).all()
    assert not same(kept[0][0], kept[1][0]) and same(kept[2][0], net)


def test_import_takes_nothing_but_numpy():
    code = (
        "import sys, fastbp; "
        "bad = {'tqdm', 'matplotlib', 'pandas', 'pyarrow', 'scipy', 'safetensors', 'sklearn', 'torch', 'onnx'}; "
        "bad &= set(sys.modules); "
        "sys.exit(len(bad))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True, timeout=60)
    assert fastbp.callbacks.EarlyStopping is EarlyStopping
