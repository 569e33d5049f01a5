"""Training by L-BFGS: what it minimises, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import fastbp
from fastbp import LBFGS, MLP, lbfgs

optimize = pytest.importorskip("scipy.optimize")


def data(n=90):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 5))
    return x, (x @ rng.standard_normal((5, 3))).argmax(axis=1)


def test_it_finds_the_minimum_of_a_convex_error(backend):
    """That of a network without hidden layers, with weights and decay, to where SciPy's own search ends in another way."""
    x, t = data()
    weights = np.random.default_rng(1).uniform(0.5, 2, len(x))
    net = MLP([5, 3], dtype="float64", seed=0)
    history = net.fit(
        x,
        t,
        epochs=500,
        optimizer=LBFGS(weight_decay=0.1, tolerance=1e-9),
        sample_weight=weights,
        progress=False,
    )

    def objective(parameters):
        W, b = parameters[:15].reshape(5, 3), parameters[15:]
        z = x @ W + b
        loss, delta, _ = fastbp.softmax_cross_entropy(z, t, sample_weight=weights)
        slope = np.concatenate([(x.T @ delta + 0.1 * W).ravel(), delta.sum(axis=0)])
        return float(loss) + 0.05 * (W * W).sum(), slope

    best = optimize.minimize(objective, np.zeros(18), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(objective(net.parameters)[0], best.fun, rtol=1e-12)
    np.testing.assert_allclose(net.weights[0], best.x[:15].reshape(5, 3), atol=1e-6)
    assert history.stopped.startswith("converged") or "converge" in history.stopped
    assert history.loss == sorted(history.loss, reverse=True) or history.loss[0] > history.loss[-1]
    assert history.loss[-1] == pytest.approx(net.loss(x, t, weights), rel=1e-12)


def test_blocks_make_no_difference(backend, monkeypatch):
    x, t = data()
    losses = []
    for rows in (4096, 7):
        monkeypatch.setattr(lbfgs, "_ROWS", rows)
        net = MLP([5, 4, 3], activation="tanh", dtype="float64", seed=0)
        losses.append(net.fit(x, t, epochs=5, optimizer=LBFGS(), progress=False).loss)
    np.testing.assert_allclose(*losses, rtol=1e-9)


def test_validation_callbacks_and_history(backend):
    x, t = data()
    net = MLP([5, 8, 3], seed=0)
    seen = []
    history = net.fit(
        x,
        t,
        epochs=4,
        optimizer=(optimizer := LBFGS()),
        validation_fraction=0.2,
        progress=False,
        callbacks=[lambda training: seen.append(training.epoch) or training.epoch == 3],
    )
    assert (
        seen == [1, 2, 3] and optimizer.steps == 3 and history.stopped == "a callback asked for it in epoch 3"
    )
    assert {len(column) for column in history.columns().values()} == {3}


@pytest.mark.parametrize(("evaluation", "whole"), [(1, 0), (3, 0), (9, None)])
@pytest.mark.parametrize("why", ["interrupted", "the time limit"])
def test_stopped_in_a_line_search(backend, monkeypatch, why, evaluation, whole):
    """What it was about to try is not left in the network."""
    x, t = data()
    net = MLP([5, 8, 3], seed=0)
    accepted, runs = [net.parameters.copy()], []
    blocks, calls = lbfgs._Objective._blocks, iter(range(1, 100))

    def late(objective):
        for block in blocks(objective):
            if next(calls) == evaluation:
                assert evaluation == 1 or (net.parameters != accepted[-1]).any()
                if why == "interrupted":
                    raise KeyboardInterrupt
                runs[0].settings.deadline = 0.0
            yield block

    monkeypatch.setattr(lbfgs._Objective, "_blocks", late)
    keep = SimpleNamespace(
        fit_begin=runs.append, epoch_end=lambda run: accepted.append(net.parameters.copy())
    )
    history = net.fit(x, t, epochs=50, optimizer=(optimizer := LBFGS()), callbacks=[keep], progress=False)
    assert history.stopped == why
    assert len(history) == optimizer.steps == len(accepted) - 1
    assert len(history) == whole if whole is not None else len(history) > 1
    assert (net.parameters == accepted[-1]).all()


@pytest.mark.parametrize(
    ("network", "call", "what"),
    [
        ({"dropout": 0.1}, {}, "dropout"),
        ({}, {"clip_norm": 1.0}, "clipping"),
        ({}, {"resume": "nowhere"}, "resume"),
    ],
)
def test_what_it_cannot_do_is_refused(backend, network, call, what):
    x, t = data()
    net = MLP([5, 4, 3], seed=0, **network)
    before = net.parameters.copy()
    with pytest.raises((ValueError, OSError), match=what if what != "resume" else "nowhere|resume"):
        net.fit(x, t, optimizer=LBFGS(), progress=False, **call)
    assert (net.parameters == before).all()
    with pytest.raises(TypeError, match=r"^optimizer: got LBFGS, expected an instance of Optimizer$"):
        net.step(x, t, LBFGS())


def test_an_error_that_is_not_finite(backend):
    x, t = data()
    x[3, 2] = np.nan
    with pytest.raises(fastbp.DivergenceError, match="the inputs of example 3 are not finite"):
        MLP([5, 4, 3], seed=0).fit(x, t, optimizer=LBFGS(), progress=False)


def test_no_weight_at_all(backend):
    x, t = data()
    net = MLP([5, 3], seed=0)
    before = net.parameters.copy()
    history = net.fit(x, t, sample_weight=np.zeros(len(x)), optimizer=LBFGS(), progress=False)
    assert history.stopped == "no example has a weight above 0" and len(history) == 0
    assert (net.parameters == before).all()


def test_attributes_are_checked_again(backend):
    x, t = data()
    optimizer = LBFGS()
    optimizer.weight_decay = -1.0
    with pytest.raises(ValueError, match=r"^weight_decay: got -1.0, expected a finite number >= 0"):
        MLP([5, 3]).fit(x, t, optimizer=optimizer, progress=False)


def test_a_callback_that_saves(backend, tmp_path):
    x, t = data()
    with pytest.raises(RuntimeError, match=r"^save: got a training by LBFGS, expected another optimizer"):
        MLP([5, 3]).fit(
            x, t, optimizer=LBFGS(), callbacks=[lambda run: run.save(tmp_path / "c.npz")], progress=False
        )
    with pytest.raises(ValueError, match=r"^optimizer: got LBFGS with ReduceOnPlateau, expected none"):
        MLP([5, 3]).fit(
            x, t, optimizer=LBFGS(), callbacks=[fastbp.callbacks.ReduceOnPlateau("loss")], progress=False
        )
