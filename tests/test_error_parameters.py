"""Where a network's Huber error turns linear, and which quantile its error is of: wherever the error is told or trained by."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import every_pair, generator
from test_training_options import network_of
from tolerances import SAME_ERROR

import fastbp
from fastbp import MLP
from fastbp.callbacks import Checkpoint

ERRORS: dict[str, tuple[Any, str, float]] = {
    "huber": (fastbp.huber, "delta", 0.3),
    "quantile": (fastbp.quantile, "tau", 0.9),
}
every_error = pytest.mark.parametrize("loss", ERRORS)


def network(loss, **changed):
    _, name, value = ERRORS[loss]
    options = {"activation": "tanh", "loss": loss, "dtype": "float64", "seed": 0, name: value}
    return MLP([3, 4, 2], **options | changed)


def examples():
    rng = generator("examples")
    return rng.standard_normal((30, 3)), rng.standard_normal((30, 2))


@every_pair("dtype", "engine", loss=[*ERRORS])
def test_the_engine_takes_it(dtype, engine, loss):
    function, name, value = ERRORS[loss]
    rng = generator(loss)
    w, x, t = (rng.standard_normal(shape).astype(dtype) for shape in (8, (20, 3), (20, 2)))
    got, logits = [], np.empty((20, 2), dtype)
    for parameter in (value, 0.0):
        net, gradient = network_of(engine, w, (3, 2), (), loss, parameter=parameter), np.empty_like(w)
        net.logits(x, logits)
        options = {name: value} if parameter else {}
        want = function(logits, t, **options)
        got.append(net.gradient(x, t, None, gradient)[0])
        np.testing.assert_allclose(got[-1], want.loss, rtol=20 * np.finfo(dtype).eps)
        np.testing.assert_allclose(gradient[6:], want.grad.sum(axis=0), atol=20 * np.finfo(dtype).eps)
    assert got[0] != got[1]


@every_error
def test_all_that_tells_an_error_knows_it(backend, loss):
    function, name, value = ERRORS[loss]
    (x, t), net = examples(), network(loss)
    want = function(net.logits(x), t, **{name: value}).loss
    told = [net.loss(x, t), net.evaluate(x, t)["loss"], net.gradients(x, t).loss]
    told.append(net.fit(x, t, epochs=1, batch_size=30, optimizer=fastbp.SGD(0.0), progress=False).loss[0])
    np.testing.assert_allclose(told, want, rtol=SAME_ERROR)
    assert want != function(net.logits(x), t).loss
    if loss == "huber":  # the other one has a kink
        assert fastbp.check_gradient(net, x, t) < 1e-7


@every_error
def test_copies_and_files_have_it(loss, tmp_path):
    _, name, value = ERRORS[loss]
    (x, t), net = examples(), network(loss)
    net.save(tmp_path / "net.npz")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), MLP.load(tmp_path / "net.npz")):
        assert getattr(other, name) == value and other.loss(x, t) == net.loss(x, t)
    assert f"{name}={value}" in repr(net)
    path, options = tmp_path / "c.npz", {"epochs": 1, "progress": False}
    net.fit(x, t, callbacks=[Checkpoint(path)], **options)
    with pytest.raises(ValueError, match=rf"^resume: got .*'{name}': {value}"):
        network(loss, **{name: 0.5 * value}).fit(x, t, resume=path, **options)
    with pytest.raises(AttributeError, match=f"^{name}: got another object, expected that of the network"):
        setattr(net, name, 0.2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "huber", "delta": 0.0}, ValueError, "delta: got 0.0, expected a finite number > 0"),
        ({"loss": "huber", "delta": "1"}, TypeError, "delta: got str, expected a finite number > 0"),
        ({"loss": "quantile", "tau": 1.0}, ValueError, "tau: got 1.0, expected a number in (0, 1)"),
        (
            {"loss": "squared_error", "delta": 2.0},
            ValueError,
            "delta: got 2.0 with the loss squared_error, expected 1.0, or the loss huber",
        ),
        (
            {"loss": "huber", "tau": 0.9},
            ValueError,
            "tau: got 0.9 with the loss huber, expected 0.5, or the loss quantile",
        ),
    ],
)
def test_what_it_may_be(options, error, message):
    with pytest.raises(error) as caught:
        MLP([3, 2], **options)
    assert str(caught.value) == message
    assert MLP([3, 2], loss="squared_error", delta=1.0, tau=0.5).delta == 1.0
