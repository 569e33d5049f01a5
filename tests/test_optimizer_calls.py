"""The optimizers as a caller sees them: their rates, the state that they keep, and what they refuse."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from good_calls import F32, F64, refused, same, values, zeros

import fastbp

pytestmark = pytest.mark.usefixtures("backend")


def test_velocity_and_momentum_go_together() -> None:
    w, g, v = values(6), values(6), zeros(6)
    message = "velocity: got an array with momentum=0, expected None"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, velocity=v)
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, nesterov=True)


def test_parameters_are_one_vector_of_floats() -> None:
    for value, error, message in (
        (zeros(2, 3), ValueError, "parameters: got shape (2, 3), expected (6,)"),
        (zeros(), ValueError, "parameters: got shape (), expected (1,)"),
        ([0.0, 1.0], TypeError, "parameters: got list, expected numpy.ndarray"),
        (np.zeros(6, int), TypeError, "parameters: got dtype int64, expected float32 or float64"),
    ):
        refused(error, message, fastbp.sgd_update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.SGD().update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.Adam().update, parameters=value, gradient=zeros(6))


OPTIMIZER_RATES = [
    *((fastbp.SGD, name) for name in ("learning_rate", "momentum", "nesterov", "weight_decay")),
    *((fastbp.Adam, name) for name in ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")),
]


@pytest.mark.parametrize(("kind", "name"), OPTIMIZER_RATES)
def test_rates_are_checked_when_made_and_when_used(kind: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: got str, expected ") as made:
        kind(**{name: "much"})
    optimizer = kind()
    setattr(optimizer, name, "much")
    refused(TypeError, str(made.value), optimizer.update, parameters=values(6), gradient=values(6))
    refused(TypeError, str(made.value), optimizer.hyper_parameters)
    assert optimizer.steps == 0


@pytest.mark.parametrize(
    ("kind", "name"), [rate for rate in OPTIMIZER_RATES if rate[1] in ("learning_rate", "weight_decay")]
)
def test_rates_beyond_the_dtype_are_refused_where_it_is_known(kind: type, name: str) -> None:
    """Cast to float32 they would be infinite: inf · 0 is NaN where the gradient is 0."""
    optimizer = kind(**{name: 1e39})
    optimizer.update(values(6, dtype=F64), zeros(6, dtype=F64))
    optimizer.reset()
    message = f"{name}: got 1e+39, expected a number that float32 can hold, 0 to 3.4028234663852886e+38"
    refused(ValueError, message, optimizer.update, parameters=values(6), gradient=zeros(6))
    net = fastbp.MLP([3, 2], seed=0)
    x, labels = values(4, 3), np.array([0, 1, 0, 1])
    refused(ValueError, message, net.step, x=x, t=labels, optimizer=optimizer)
    refused(ValueError, message, net.fit, X=x, T=labels, optimizer=optimizer, progress=False)
    assert (optimizer.steps, np.isfinite(net.parameters).all()) == (0, True)


@pytest.mark.parametrize("optimizer", [fastbp.SGD(), fastbp.SGD(momentum=0.5), fastbp.Adam()], ids=repr)
def test_a_count_that_is_none(optimizer: fastbp.SGD | fastbp.Adam) -> None:
    optimizer, net, x, labels = (
        copy.deepcopy(optimizer),
        fastbp.MLP([3, 2], seed=0),
        values(4, 3),
        np.array([0, 1, 0, 1]),
    )
    for steps, error in (
        ("a", TypeError),
        (None, TypeError),
        (True, TypeError),
        (-1, ValueError),
        (2**63 - 1, ValueError),
    ):
        optimizer.steps = steps
        message = f"steps: got {type(steps).__name__ if error is TypeError else steps}, expected an integer in [0, 2**62]"
        refused(
            error, message, optimizer.update, parameters=net.parameters, gradient=zeros(net.parameters.size)
        )
        refused(error, message, net.step, x=x, t=labels, optimizer=optimizer)
        refused(error, message, net.fit, X=x, T=labels, optimizer=optimizer, progress=False)
        assert optimizer.steps is steps


def test_nesterov_needs_momentum() -> None:
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.SGD, nesterov=True)
    assert fastbp.SGD(nesterov=True, momentum=0.5).hyper_parameters() == (0.1, 0.5, True, 0.0)


@pytest.mark.parametrize("optimizer", [fastbp.SGD(momentum=0.9), fastbp.Adam()], ids=repr)
def test_a_state_belongs_to_one_vector(optimizer: fastbp.SGD | fastbp.Adam) -> None:
    optimizer = copy.deepcopy(optimizer)
    optimizer.update(values(6), values(6))
    kept = [vector.copy() for vector in optimizer.state(values(6))]
    name = type(optimizer).__name__
    for other, got in ((values(7), "7 values of float32"), (values(6, dtype=F64), "6 values of float64")):
        message = (
            f"parameters: got {got}, expected 6 of float32, "
            f"the vector this {name} keeps a state for; reset() forgets it"
        )
        refused(ValueError, message, optimizer.update, parameters=other, gradient=other.copy())
        refused(ValueError, message, optimizer.state, parameters=other)
    assert optimizer.steps == 1
    same(list(optimizer.state(values(6))), kept)
    optimizer.reset()
    optimizer.update(values(7), values(7))
    assert (optimizer.steps, optimizer.state(values(7))[0].size) == (1, 7)


def test_a_failed_update_is_no_step() -> None:
    optimizer = fastbp.Adam()
    message = "gradient: got shape (5,), expected (6,), the shape of parameters"
    refused(ValueError, message, optimizer.update, parameters=values(6), gradient=values(5))
    assert optimizer.steps == 0
    assert not any(vector.any() for vector in optimizer.state(values(6)))


def test_optimizers_call_the_updates() -> None:
    w, v = values(6), zeros(6)
    sgd, by_sgd = fastbp.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=0.1), w.copy()
    rates = {"learning_rate": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    for _ in range(3):
        sgd.update(by_sgd, w)
    expected = w.copy()
    for _ in range(3):
        fastbp.sgd_update(expected, w, velocity=v, **rates)
    same([by_sgd, *sgd.state(by_sgd)], [expected, v])

    adam, by_adam, m, v = fastbp.Adam(0.5, beta_1=0.8, weight_decay=0.1), w.copy(), zeros(6), zeros(6)
    for _ in range(3):
        adam.update(by_adam, w)
    expected = w.copy()
    for step in (1, 2, 3):
        fastbp.adam_update(expected, w, m, v, step=step, learning_rate=0.5, beta_1=0.8, weight_decay=0.1)
    same([by_adam, *adam.state(by_adam)], [expected, m, v])
    assert (sgd.steps, adam.steps, sgd.name, adam.name) == (3, 3, "sgd", "adam")


def test_an_optimizer_shows_its_rates() -> None:
    for optimizer, text in (
        (
            fastbp.SGD(1, momentum=F32(0.5)),
            "SGD(learning_rate=1.0, momentum=0.5, nesterov=False, weight_decay=0.0)",
        ),
        (
            fastbp.Adam(),
            "Adam(learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.0)",
        ),
    ):
        assert repr(optimizer) == text
        assert repr(pickle.loads(pickle.dumps(optimizer))) == text


def test_momentum_may_come_and_go() -> None:
    optimizer, w = fastbp.SGD(), values(6)
    optimizer.update(w, w.copy())
    assert optimizer.state(w) == ()
    optimizer.momentum = 0.9
    optimizer.update(w, w.copy())
    assert optimizer.state(w)[0].any()
    optimizer.momentum = 0.0
    optimizer.update(w, w.copy())
    assert (optimizer.state(w), optimizer.steps) == ((), 3)
