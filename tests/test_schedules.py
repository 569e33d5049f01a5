"""Rates that change while a network trains, clipping, and the average of the parameters."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from conftest import every_pair
from training_data import BATCH, LABELS, OPTIONS, N, X, network, rounding, same, told

import fastbp
from fastbp import SGD, Adam, schedules

BATCHES = -(-N // BATCH)
MADE = {
    "constant": schedules.constant(0.1),
    "constant, warmed up": schedules.constant(0.1, warmup=4),
    "step": schedules.step(0.1, 5),
    "step, warmed up": schedules.step(0.1, 5, factor=0.5, warmup=3),
    "exponential": schedules.exponential(0.1, decay=0.9),
    "inverse_scaling": schedules.inverse_scaling(0.1, power=0.7),
    "cosine": schedules.cosine(0.1, 15, final=0.01, warmup=2),
    "one_cycle": schedules.one_cycle(0.1, 18),
    "coslog4": schedules.coslog4(0.1, 18),
}
OWN = {"a function": lambda step: 0.1 / (1 + step)}


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (schedules.constant(0.3), {0: 0.3, 7: 0.3}),
        (schedules.step(1.0, 3), {0: 1.0, 2: 1.0, 3: 0.1, 6: 0.01}),
        (schedules.step(1.0, 2, factor=0.5), {1: 1.0, 2: 0.5, 5: 0.25}),
        (schedules.exponential(2.0, decay=0.5), {0: 2.0, 3: 0.25}),
        (schedules.exponential(2.0, decay=0.0), {0: 2.0, 1: 0.0}),
        (schedules.inverse_scaling(1.0), {0: 1.0, 3: 0.5, 99: 0.1}),
        (schedules.inverse_scaling(1.0, power=2), {0: 1.0, 1: 0.25}),
        (schedules.cosine(1.0, 4), {0: 1.0, 1: (1 + math.sqrt(0.5)) / 2, 2: 0.5, 4: 0.0, 5: 0.0}),
        (schedules.cosine(1.0, 4, final=0.5), {0: 1.0, 2: 0.75, 4: 0.5, 100: 0.5}),
        (schedules.one_cycle(1.0, 10), {0: 1 / 25, 3: 1.0, 10: 1 / 250_000, 99: 1 / 250_000}),
        (schedules.one_cycle(1.0, 10, rise=0.4), {2: (1 + 1 / 25) / 2, 4: 1.0, 7: (1 + 1 / 250_000) / 2}),
        (schedules.one_cycle(1.0, 10, rise=0.0), {0: 1.0, 10: 1 / 250_000}),
        (schedules.one_cycle(1.0, 10, rise=1.0), {0: 1 / 25, 5: (1 + 1 / 25) / 2, 10: 1 / 250_000}),
        # log2(1 + 15 t / steps) is 0, 1, 2, 3, 4 at t = 0, 1, 3, 7, 15: the rate is 0 there, and greatest between
        (schedules.coslog4(1.0, 15), {0: 0.0, 1: 0.0, 3: 0.0, 7: 0.0, 15: 0.0, math.sqrt(8) - 1: 1.0}),
        (schedules.constant(1.0, warmup=3), {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0}),
        (schedules.step(1.0, 2, warmup=1), {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.1}),
        (schedules.cosine(1.0, 6, warmup=2), {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: 0.5, 6: 0.0}),
    ],
)
def test_formulas(schedule, rates):
    for step, rate in rates.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: schedules.constant(-1), ValueError, "rate: got -1, expected a finite number >= 0"),
        (lambda: schedules.constant("1"), TypeError, "rate: got str"),
        (lambda: schedules.constant(lambda step: 1.0), TypeError, "rate: got function"),
        (lambda: schedules.step(1.0, 0), ValueError, r"steps: got 0, expected an integer in \[1, 2\*\*63\)"),
        (lambda: schedules.step(1.0, 1.5), TypeError, "steps: got float"),
        (lambda: schedules.step(1.0, 1, factor=-1), ValueError, "factor: got -1"),
        (lambda: schedules.exponential(1.0, decay=math.nan), ValueError, "decay: got nan"),
        (
            lambda: schedules.exponential(1.0, decay=1.1),
            ValueError,
            r"decay: got 1.1, expected a number in \[0, 1\]",
        ),
        (lambda: schedules.inverse_scaling(1.0, power=-1), ValueError, "power: got -1"),
        (
            lambda: schedules.cosine(1.0, 5, warmup=5),
            ValueError,
            "steps: got 5 with warmup=5, expected more than",
        ),
        (
            lambda: schedules.cosine(1.0, 5, warmup=-1),
            ValueError,
            r"warmup: got -1, expected an integer in \[0, 2\*\*63\)",
        ),
        (lambda: schedules.constant(1.0, warmup=10**400), ValueError, "warmup: got 10000"),
        (lambda: schedules.cosine(1.0, 5, warmup="a"), TypeError, "warmup: got str"),
        (lambda: schedules.cosine(1.0, 5, final=-1), ValueError, "final: got -1"),
        (
            lambda: schedules.one_cycle(1.0, 5, rise=2),
            ValueError,
            r"rise: got 2, expected a number in \[0, 1\]",
        ),
        (lambda: schedules.coslog4(1.0, 0), ValueError, r"steps: got 0"),
    ],
)
def test_bad_arguments(call, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        call()


@pytest.mark.parametrize("name", MADE)
def test_schedules_pickle(name):
    schedule = MADE[name]
    again = pickle.loads(pickle.dumps(copy.deepcopy(schedule)))
    assert [again(step) for step in range(40)] == [schedule(step) for step in range(40)]
    optimizer = pickle.loads(pickle.dumps(SGD(schedule)))
    assert optimizer.learning_rate(3) == schedule(3)


@every_pair("backend", "dtype", kind=[SGD, Adam], name=[*MADE, *OWN])
def test_fit_is_steps_with_those_rates(backend, dtype, kind, name):
    schedule = (MADE | OWN)[name]
    net, stepped = network(dtype), network(dtype)
    history = net.fit(X, LABELS, optimizer=kind(schedule), **OPTIONS)
    optimizer, rates = kind(0.0), []
    for _ in range(3):
        order = stepped._generator.permutation(N)
        for start in range(0, N, BATCH):
            rows = order[start : start + BATCH]
            optimizer.learning_rate = schedule(optimizer.steps)
            stepped.step(X[rows], LABELS[rows], optimizer)
        rates.append(optimizer.learning_rate)
    assert same(net, stepped) and history.learning_rate == rates


def test_any_rate_may_be_a_schedule(backend):
    net, stepped = network(), network()
    momentum = schedules.constant(0.9, warmup=5)
    net.fit(X, LABELS, optimizer=SGD(0.1, momentum=momentum), shuffle=False, **OPTIONS)
    optimizer = SGD(0.1, momentum=0.5)
    for step in range(3 * BATCHES):
        start = step % BATCHES * BATCH
        optimizer.momentum = momentum(step)
        stepped.step(X[start : start + BATCH], LABELS[start : start + BATCH], optimizer)
    assert (net.parameters == stepped.parameters).all()


def test_a_second_fit_goes_on_with_the_schedule(backend):
    net, other, schedule = network(), network(), schedules.cosine(0.1, 6 * BATCHES)
    optimizer = Adam(schedule)
    a = [net.fit(X, LABELS, optimizer=optimizer, **OPTIONS) for _ in range(2)]
    b = other.fit(X, LABELS, optimizer=Adam(schedule), **OPTIONS | {"epochs": 6})
    assert same(net, other) and a[0].learning_rate + a[1].learning_rate == b.learning_rate


@pytest.mark.parametrize("rate", [-1.0, math.nan, "a", None, math.inf])
def test_a_schedule_that_ends_in_a_bad_rate(backend, rate):
    """Nothing of that epoch is done."""
    net = network()
    before = net.parameters.copy()
    optimizer = SGD(lambda step: 0.1 if step < 3 else rate)
    with pytest.raises((TypeError, ValueError), match=r"^learning_rate: got "):
        net.fit(X, LABELS, optimizer=optimizer, **OPTIONS)
    assert (net.parameters == before).all() and optimizer.steps == 0


# Clipping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clip", [{"clip_norm": 0.05}, {"clip_value": 0.004}, {"clip_norm": 0.05, "clip_value": 0.004}]
)
def test_clipping(backend, clip):
    """By the global norm first, then by value; in fit and step alike."""
    net, stepped, by_hand = network(), network(), network()
    w = by_hand.parameters
    net.fit(X, LABELS, epochs=2, batch_size=N, shuffle=False, progress=False, **clip)
    for _ in range(2):
        stepped.step(X, LABELS, SGD(), **clip)
        g = by_hand.gradients(X, LABELS).flat
        g = g * min(1, clip.get("clip_norm", np.inf) / np.linalg.norm(g))
        clipped = np.clip(g, -clip.get("clip_value", np.inf), clip.get("clip_value", np.inf))
        assert (clipped != g).any() or "clip_norm" in clip
        w -= 0.1 * clipped
    assert (net.parameters == stepped.parameters).all()
    np.testing.assert_allclose(net.parameters, w, **rounding(16 * N))


def test_a_gradient_within_the_bounds_is_left_alone(backend, dtype):
    net, other = network(dtype), network(dtype)
    net.fit(X, LABELS, clip_norm=1e6, clip_value=1e6, **OPTIONS)
    other.fit(X, LABELS, **OPTIONS)
    assert same(net, other)


# The average ------------------------------------------------------------------------------------------------


def averaged(steps, decay, optimizer, net):
    """The parameters after each of the steps, and their running mean by the definition."""
    mean = None
    for step in range(steps):
        start = step % BATCHES * BATCH
        net.step(X[start : start + BATCH], LABELS[start : start + BATCH], optimizer)
        w = net.parameters
        mean = w.copy() if mean is None else decay * mean + (1 - decay) * w
    return mean


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_the_average_is_left_in_the_network(backend, kind):
    net, by_hand = network(), network()
    optimizer = kind(average=0.9)
    options = OPTIONS | {"shuffle": False, "validation_data": (X, LABELS)}
    history = net.fit(X, LABELS, optimizer=optimizer, **options)
    mean = averaged(3 * BATCHES, 0.9, kind(), by_hand)
    np.testing.assert_allclose(net.parameters, mean, **rounding(64))
    assert (net.parameters == optimizer.state(net.parameters)["average"]).all()
    assert history.validation_loss[-1] == net.evaluate(X, LABELS)["loss"] != by_hand.loss(X, LABELS)


def test_averages_and_what_they_do_not_change(backend):
    """The training itself is the same; with a decay of 0 so is the end; without updates there is none."""
    net, other, last = network(), network(), network()
    a = net.fit(X, LABELS, optimizer=SGD(average=0.9), **OPTIONS)
    b = other.fit(X, LABELS, optimizer=SGD(), **OPTIONS)
    c = last.fit(X, LABELS, optimizer=SGD(average=0.0), **OPTIONS)
    assert told(a) == told(b) == told(c) and same(last, other) and not same(net, other)
    untouched = network()
    untouched.fit(X, LABELS, optimizer=SGD(average=0.9), epochs=0, progress=False)
    assert same(untouched, network())


def test_no_rate_is_beyond_a_float():
    assert schedules.step(0.5, 1, factor=1e10)(1000) == math.inf
    assert schedules.inverse_scaling(0.5, power=1e10)(1) == 0
    optimizer = fastbp.SGD(schedules.step(0.5, 1, factor=1e10))
    optimizer.steps = 1000
    with pytest.raises(ValueError, match=r"^learning_rate: got inf, expected a finite number >= 0$"):
        optimizer.update(np.ones(2), np.ones(2))
