"""The options of training, on both backends: decay, averages, clipping, schedules; and what is finite stays so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import ORACLE, every_pair, generator, shared_by
from tolerances import SGD as SGD_ERROR
from tolerances import many_updates, product_of

from fastbp import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop, _backend, _reference
from fastbp.optimizers import OPTIMIZERS

SIZES = (6, 21, 15, 4)
EVERY_STATE = {
    "sgd": SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": RMSprop(momentum=0.9, centered=True),
    "adagrad": Adagrad(),
    "adam": Adam(0.01, amsgrad=True),
    "adamw": AdamW(0.01, weight_decay=0.0),
    "lion": Lion(0.01),
    "muon": Muon(0.02, adam_ratio=0.5, weight_decay=0.0),
}
RULES = {"plain": SGD(0.1)} | EVERY_STATE
every_rule = pytest.mark.parametrize("rule", RULES)


def test_every_optimizer_is_here():
    assert {type(optimizer) for optimizer in RULES.values()} == OPTIMIZERS


def optimizer_of(rule, **changed):
    """That of the table, with other rates or options."""
    like = RULES[rule]
    settings = {name: getattr(like, name) for name in (*like.rates, *like.options)}
    return type(like)(**settings | changed)


def batch(dtype, rows=40, sizes=SIZES):
    """Parameters, examples, labels."""
    rng = generator("batch", rows, sizes)
    parameters = [rng.standard_normal((i + 1) * o) * 1.5 / i**0.5 for i, o in itertools.pairwise(sizes)]
    x, labels = rng.standard_normal((rows, sizes[0])), rng.integers(0, sizes[-1], rows)
    return np.concatenate(parameters).astype(dtype), x.astype(dtype), labels


def network_of(
    kernels,
    w,
    sizes=SIZES,
    activations=("tanh", "tanh"),
    loss="softmax_cross_entropy",
    n_threads=1,
    **options,
):
    return kernels.Network(sizes, activations, loss, w, n_threads, **options)


def train(net, x, t, optimizer, rows=10, *, weights=None, order=None, report=None, **clips):
    """Mean error, sum of the weights, batches that are done, what failed."""
    return net.train(x, t, weights, order, rows, optimizer, report, **clips)


def gradient_of(net, x, t, weights=None):
    """Mean error, sum of the weights, gradient."""
    gradient = np.full_like(net.parameters, np.nan)
    return *net.gradient(x, t, weights, gradient), gradient


def arrays(net, optimizer):
    return [net.parameters, *optimizer.state(net.parameters).values()]


def assert_same(some, others):
    assert [array.tobytes() for array in some] == [array.tobytes() for array in others]


def are_biases(sizes=SIZES):
    return np.concatenate([[False] * (i * o) + [True] * o for i, o in itertools.pairwise(sizes)])


def assert_near(got, want, sizes, dtype):
    """Gradients, or what else is as far from the inputs: the error of a product for each layer on the way, there and back."""
    off = 4 * sum(product_of(size) for size in sizes) * np.finfo(dtype).eps
    assert (np.abs(got - want) <= off * np.abs(want).max()).all(), np.abs(got - want).max()


WAYS = {"fused": {}, "gradient in memory": {"clip_norm": 1e30}}
every_rule_and_way = every_pair("engine", "dtype", rule=[*RULES], way=[*WAYS])


# -- decay, average ------------------------------------------------------------------------------------------------------------


@every_rule_and_way
def test_decay_leaves_biases_alone(dtype, rule, way, engine):
    start, x, t = batch(dtype)
    after = {}
    for name, options in (
        ("none", {"weight_decay": 0.0}),
        ("weights", {"weight_decay": 0.5}),
        ("all", {"weight_decay": 0.5, "decay_biases": True}),
    ):
        net = network_of(engine, start.copy())
        assert train(net, x, t, optimizer_of(rule, **options), 40, **WAYS[way])[2:] == (1, "")
        after[name] = net.parameters
    biases = are_biases()
    np.testing.assert_array_equal(after["weights"][biases], after["none"][biases])
    np.testing.assert_array_equal(after["weights"][~biases], after["all"][~biases])
    some = (
        biases if rule not in ("adagrad", "rmsprop", "adam") else np.zeros_like(biases)
    )  # whose first step has one length
    assert (after["weights"][~biases] != after["none"][~biases]).mean() > (0.9 if some.any() else 0.1)
    assert (after["all"][some] != after["weights"][some]).all()


@every_rule_and_way
def test_the_average_is_that_of_the_parameters(dtype, rule, way, engine):
    """To the bit on the twin; the kernels multiply and add at once."""
    start, x, t = batch(dtype, 100)
    net, optimizer = network_of(engine, start.copy()), optimizer_of(rule, average=0.7)
    without, plain, want = network_of(engine, start.copy()), optimizer_of(rule), None
    for i in range(0, 100, 10):
        some = np.arange(i, i + 10)
        train(net, x, t, optimizer, order=some, **WAYS[way])
        train(without, x, t, plain, order=some, **WAYS[way])
        now = without.parameters
        want = now.copy() if want is None else 0.7 * want + (1.0 - 0.7) * now
    assert_same(arrays(without, plain), arrays(net, optimizer)[:-1])
    average = optimizer.state(net.parameters)["average"]
    if engine is _reference:
        assert_same([average], [want])
    assert (
        np.abs(average - want) <= many_updates(10) * np.finfo(dtype).eps * np.maximum(1, np.abs(want))
    ).all()
    assert (average != net.parameters).any()


# -- clipping ------------------------------------------------------------------------------------------------------------------


@every_rule
def test_clipped_values(dtype, rule, engine):
    """To the bit those of the gradient, clipped by hand. A vector by itself has no hidden matrix, so for Muon there is none."""
    sizes = (6, 4) if rule == "muon" else SIZES
    start, x, t = batch(dtype, sizes=sizes)
    decay, hidden = {"weight_decay": 0.1, "decay_biases": True}, ("tanh",) * (len(sizes) - 2)
    net, optimizer = network_of(engine, start.copy(), sizes, hidden), optimizer_of(rule, **decay)
    train(net, x, t, optimizer, clip_value=0.01)
    by_hand, other = network_of(engine, start.copy(), sizes, hidden), optimizer_of(rule, **decay)
    for i in range(0, 40, 10):
        _, _, gradient = gradient_of(by_hand, x[i : i + 10], t[i : i + 10])
        assert 0.1 < (np.abs(gradient) > 0.01).mean() < 1
        other.update(by_hand.parameters, np.clip(gradient, -0.01, 0.01), n_threads=1)
    assert_same(arrays(net, optimizer), arrays(by_hand, other))


@pytest.mark.parametrize("clip_value", [0.0, 0.02])
def test_clipped_norm(dtype, clip_value, engine):
    """The norm of all of the gradient first, then each value; no norm is too large for one that is never reached."""
    start, x, t = batch(dtype)
    _, _, gradient = gradient_of(network_of(engine, start), x, t)
    norm = float(np.sqrt((gradient.astype(np.float64) ** 2).sum()))
    for clip_norm in (norm / 3, norm * 1.01):
        net = network_of(engine, start.copy())
        train(net, x, t, SGD(1.0), 40, clip_norm=clip_norm, clip_value=clip_value)
        g = gradient.astype(ORACLE[dtype]) * min(1, clip_norm / norm)
        g = np.clip(g, -clip_value, clip_value) if clip_value else g
        assert (
            np.abs(net.parameters - (start - g))
            <= SGD_ERROR * np.finfo(dtype).eps * (np.abs(start) + np.abs(g))
        ).all()


def test_the_norm_has_the_same_bits_on_any_number_of_threads(dtype, isa):
    sizes = (60, 300, 200, 4)
    start, x, t = batch(dtype, 256, sizes)
    results = []
    for n_threads in (1, 2, 3):
        net = network_of(_backend.kernels, start.copy(), sizes, n_threads=n_threads)
        with shared_by(n_threads):
            train(net, x, t, SGD(1.0), 128, clip_norm=0.1)
        results.append([net.parameters])
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# -- schedules -----------------------------------------------------------------------------------------------------------------


@every_rule
def test_schedules(dtype, rule, engine):
    """Rates that are functions of the steps made before: as if set by hand before each. Batches of weight 0 make no step."""
    start, x, t = batch(dtype, 45)
    weights = np.where((np.arange(45) // 10) % 3 == 1, 0.0, 1.0)  # the second batch, and the fifth
    numbers = {
        name: (0.3 if name == "weight_decay" else getattr(RULES[rule], name))
        for name in RULES[rule].rates
        if (getattr(RULES[rule], name) and name != "nesterov") or name == "weight_decay"
    }
    schedules = {name: lambda step, value=value: value * 0.9**step for name, value in numbers.items()}
    net, optimizer = network_of(engine, start.copy()), optimizer_of(rule, **schedules)
    by_hand, other = network_of(engine, start.copy()), optimizer_of(rule)
    for _ in range(2):
        assert train(net, x, t, optimizer, weights=weights)[1:] == (30, 5, "")
        for i in range(0, 45, 10):
            for name, schedule in schedules.items():
                setattr(other, name, schedule(other.steps))
            train(by_hand, x, t, other, order=np.arange(i, min(i + 10, 45)), weights=weights)
    assert optimizer.steps == other.steps == 6
    assert_same(arrays(net, optimizer), arrays(by_hand, other))


# -- overflow, and the end of it -----------------------------------------------------------------------------------------------

EXTREMES = {
    "parameter": lambda w, state, optimizer: w.__setitem__(3, 0.9 * np.finfo(w.dtype).max),
    "states": lambda w, state, optimizer: [
        vector.fill(0.9 * np.finfo(w.dtype).max) for vector in state.values()
    ],
    "rate": lambda w, state, optimizer: setattr(
        optimizer, "learning_rate", 0.01 * float(np.finfo(w.dtype).max)
    ),
    "nothing": lambda w, state, optimizer: None,
}


@every_pair("engine", "dtype", rule=[*RULES], extreme=[*EXTREMES])
def test_finite_parameters_stay_finite(dtype, rule, extreme, engine):
    """An update that would end otherwise is refused: all is as the batches before it left it. The twin refuses the same."""
    start, x, t = batch(dtype, 60)

    def trained(kernels, rows):
        net, optimizer = network_of(kernels, start.copy()), optimizer_of(rule, weight_decay=1.0)
        EXTREMES[extreme](net.parameters, optimizer.state(net.parameters), optimizer)
        how = train(net, x[:rows], t[:rows], optimizer)
        return how[2:], [array.copy() for array in arrays(net, optimizer)], optimizer.steps

    (done, failure), after, steps = trained(engine, 60)
    assert steps == done and all(np.isfinite(array).all() for array in after)
    assert (done, failure) == trained(_reference, 60)[0]
    assert failure == "" or done < 6
    if extreme == "nothing":
        assert (done, failure) == (6, "")
    (again, none), before, _ = trained(engine, 10 * done)
    assert (again, none) == (done, "")
    assert_same(after, before)


@every_rule
def test_a_decay_that_begins_later(dtype, rule, engine):
    """Then, too, λw of a large weight may overflow, though it is the gradient that is small."""
    start, x, t = batch(dtype)
    start[3] = 0.9 * np.finfo(dtype).max
    optimizer = optimizer_of(rule, weight_decay=lambda step: float(step > 0))
    net = network_of(engine, start)
    done, failure = train(net, x, t, optimizer)[2:]
    assert optimizer.steps == done and all(np.isfinite(array).all() for array in arrays(net, optimizer))
    coupled_with_state = optimizer.state(start) and not optimizer.decoupled
    assert (done < 4, failure) == ((True, "gradient") if coupled_with_state else (False, ""))


def test_a_norm_that_overflows(engine):
    """Then there is no telling by what the gradient is to be scaled."""
    start, x, t = batch(np.float64, sizes=(6, 4))
    start[:4], x[:, 0] = 0, 1e200
    net, optimizer = network_of(engine, start.copy(), (6, 4), ()), Adam()
    assert train(net, x, t, optimizer, clip_norm=1.0)[2:] == (0, "gradient")
    assert_same(arrays(net, optimizer), [start, np.zeros_like(start), np.zeros_like(start)])
    assert train(net, x, t, SGD(1e-200))[3] == ""


def test_a_report_may_stop_the_training(engine):
    w, x, t = batch(np.float32)
    net, optimizer, seen = network_of(engine, w), SGD(0.0), []

    def report(done, error):
        seen.append((done, optimizer.steps))
        return len(seen) == 2

    _, total, done, failure = train(net, x, t, optimizer, order=np.zeros(10**8, np.int64), report=report)
    assert seen[1] == (done, done) and (total, failure, optimizer.steps) == (10 * done, "", done)
