"""The options of a network and of its examples, on both backends: weights, dropout, an activation for each layer, smoothing."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import every_pair, generator, shared_by
from test_many_classes import ROWS, classes, layers
from test_training_options import (
    SIZES,
    WAYS,
    arrays,
    assert_near,
    assert_same,
    batch,
    every_rule,
    every_rule_and_way,
    gradient_of,
    network_of,
    optimizer_of,
    train,
)

import fastbp
from fastbp import SGD, Adam, _backend, _reference
from fastbp._reference.random import dropout_factors, step_key

# -- weights -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"])
def test_whole_weights_are_rows_that_are_repeated(dtype, loss, engine):
    w, x, t = batch(dtype)
    t = t if loss == "softmax_cross_entropy" else np.eye(4, dtype=dtype)[t]
    weights = generator("weights").integers(0, 4, 40)
    net = network_of(engine, w, loss=loss)
    error, total, gradient = gradient_of(net, x, t, weights.astype(float))
    again = np.repeat(np.arange(40), weights)
    want, rows, gradient_wanted = gradient_of(net, x[again], t[again])
    assert total == rows == len(again)
    assert_near(error, np.array([want]), SIZES, dtype)
    assert_near(gradient, gradient_wanted, (*SIZES, len(again)), dtype)
    assert np.abs(gradient - gradient_of(net, x, t)[2]).max() > 0.01 * np.abs(gradient).max()


@every_pair(
    "dtype", "engine", loss=["softmax_cross_entropy", "squared_error"], hidden=[(), ("tanh",)], clips=[*WAYS]
)
def test_rows_of_weight_0_are_nothing(dtype, loss, hidden, clips, engine):
    """Whatever stands there: to the bit, though their errors may be infinite."""
    sizes = (6, 21, 4) if hidden else (6, 4)
    w, x, t = batch(dtype, sizes=sizes)
    t = t if loss == "softmax_cross_entropy" else np.eye(4, dtype=dtype)[t]
    weights = generator("weights").integers(0, 3, 40).astype(float)
    extreme, far = x.copy(), float(np.finfo(dtype).max) ** 0.75
    extreme[weights == 0] = far
    results = []
    for examples in (x, extreme):
        net, optimizer = network_of(engine, w.copy(), sizes, hidden, loss), Adam()
        error, total, gradient = gradient_of(net, examples, t, weights)
        assert np.isfinite(error) and total == weights.sum()
        assert train(net, examples, t, optimizer, weights=weights, **WAYS[clips])[2:] == (4, "")
        results.append([gradient, *arrays(net, optimizer)])
    assert_same(*results)


@every_rule_and_way
def test_batches_of_weight_0_are_no_steps(dtype, rule, way, engine):
    clips = WAYS[way]
    start, x, t = batch(dtype)
    weights = np.ones(40)
    weights[:10] = weights[20:30] = 0
    net, optimizer = network_of(engine, start.copy()), optimizer_of(rule, weight_decay=0.1)
    error, total, done, failure = train(net, x, t, optimizer, weights=weights, **clips)
    assert (total, done, failure, optimizer.steps) == (20, 4, "", 2)
    some = np.concatenate([np.arange(10, 20), np.arange(30, 40)])
    other, alike = network_of(engine, start.copy()), optimizer_of(rule, weight_decay=0.1)
    assert train(other, x, t, alike, order=some, **clips) == (error, 20, 2, "")
    assert_same(arrays(net, optimizer), arrays(other, alike))
    before = [array.copy() for array in arrays(net, optimizer)]
    error, total, done, failure = train(net, x, t, optimizer, weights=np.zeros(40), **clips)
    assert np.isnan(error) and (total, done, failure, optimizer.steps) == (0, 4, "", 2)
    assert_same(arrays(net, optimizer), before)


@every_pair("isa", "dtype", below=[(3,), (3, 5)], loss=["softmax_cross_entropy", "squared_error"])
def test_weights_where_the_last_layer_goes_by_blocks(isa, dtype, below, loss):
    """The gradient is that of the functions; rows of weight 0 are nothing, and all of them make no step."""
    sizes = (*below, classes(dtype))
    w, x, t = batch(dtype, ROWS, sizes)
    t = t if loss == "softmax_cross_entropy" else generator("t").random((ROWS, sizes[-1]), dtype)
    weights = generator("weights").integers(0, 3, ROWS).astype(float)
    net = network_of(_backend.kernels, w, sizes, ("tanh",) * (len(sizes) - 2), loss, 2)
    error, total, gradient = gradient_of(net, x, t, weights)
    inputs = x if len(sizes) == 2 else fastbp.linear(x, *next(layers(sizes, w)), activation="tanh")
    *_, (weight, bias) = layers(sizes, w)
    delta = fastbp.linear(inputs, weight, bias)
    want, _, weight_sum = getattr(fastbp, loss)(delta, t, sample_weight=weights, grad_out=delta)
    assert (dtype(error), total) == (want, weight_sum)
    *_, got = layers(sizes, gradient)
    for found, expected in zip(got, fastbp.linear_backward_weight(inputs, delta), strict=True):
        assert_near(found, expected, (ROWS, ROWS), dtype)
    if loss == "softmax_cross_entropy":
        x[weights == 0] = float(np.finfo(dtype).max) ** 0.75
        assert_same([gradient_of(net, x, t, weights)[2]], [gradient])
        optimizer, before = SGD(0.1, momentum=0.9), w.copy()
        assert train(net, x, t, optimizer, ROWS, weights=np.zeros(ROWS))[1:] == (0, 1, "")
        assert optimizer.steps == 0 and w.tobytes() == before.tobytes()


# -- dropout -------------------------------------------------------------------------------------------------------------------

HIDDEN, RATE = 500, 0.3


def masks(kernels, dtype, seed=0, steps=4):
    """The factors of a hidden layer's outputs, which are 1, in so many steps: the deltas of the layer above."""
    w = np.concatenate([np.ones(HIDDEN), np.zeros(HIDDEN), np.eye(HIDDEN).ravel(), np.zeros(HIDDEN)]).astype(
        dtype
    )
    seen = []
    for step in range(steps):
        net = network_of(
            kernels, w.copy(), (1, HIDDEN, HIDDEN), ("identity",), "squared_error", dropout=(RATE,), seed=seed
        )
        optimizer = SGD(1.0)
        optimizer.steps = step
        train(net, np.ones((1, 1), dtype), np.zeros((1, HIDDEN), dtype), optimizer, 1)
        seen.append(-net.parameters[-HIDDEN:])
    return np.array(seen)


def test_what_dropout_drops(dtype, engine):
    """0 or 1/(1 - rate), as often as it should be, of the right mean, other ones at each step and from another seed."""
    seen = masks(engine, dtype, steps=20)
    assert set(np.unique(seen)) == {0, dtype(1 / (1 - RATE))}
    assert abs((seen > 0).mean() - (1 - RATE)) < 5 * (RATE * (1 - RATE) / seen.size) ** 0.5
    assert abs(seen.mean() - 1) < 5 * (RATE / (1 - RATE) / seen.size) ** 0.5
    assert len({row.tobytes() for row in (*seen, *masks(engine, dtype, seed=1))}) == 24
    want = [dropout_factors(RATE, step_key(0, step), 0, (HIDDEN,)) for step in range(1, 21)]
    np.testing.assert_array_equal(seen, np.array(want).astype(dtype))


@every_pair(
    "engine",
    loss=["softmax_cross_entropy", "squared_error"],
    activations=[("tanh", "gelu"), ("sigmoid", "identity")],
)
def test_dropout_forward_and_backward_agree(engine, loss, activations):
    """The gradient of an update, by central differences of the error with the same mask, which the number of the step gives."""
    w, x, t = batch(np.float64)
    t = t if loss == "softmax_cross_entropy" else np.eye(4)[t]

    def made(parameters, rate):
        net = network_of(engine, parameters.copy(), SIZES, activations, loss, dropout=(0.5, 0.2), seed=7)
        return net, train(net, x, t, SGD(rate), 40)[0]

    gradient = w - made(w, 1.0)[0].parameters
    h = np.finfo(float).eps ** (1 / 3)
    for i in generator("entries").choice(len(w), 60, replace=False):
        step = np.zeros_like(w)
        step[i] = h
        slope = (made(w + step, 0.0)[1] - made(w - step, 0.0)[1]) / (2 * h)
        assert abs(slope - gradient[i]) < 20 * h * h * max(1, np.abs(gradient).max())
    assert (
        np.abs(gradient - gradient_of(network_of(engine, w, SIZES, activations, loss), x, t)[2]).max() > 0.01
    )


def test_dropout_is_of_training_alone(dtype, engine):
    w, x, t = batch(dtype)
    results = []
    for options in ({}, {"dropout": (0.5, 0.2), "seed": 1}):
        net, logits = network_of(engine, w, **options), np.empty((40, 4), dtype)
        net.logits(x, logits)
        results.append([logits, gradient_of(net, x, t)[2]])
    assert_same(*results)


def test_dropout_on_threads(dtype, isa):
    sizes = (60, 300, 200, 4)
    start, x, t = batch(dtype, 300, sizes)
    results = []
    for n_threads in (1, 2, 3):
        net = network_of(
            _backend.kernels, start.copy(), sizes, ("gelu", "relu"), n_threads=n_threads, dropout=(0.5, 0.2)
        )
        optimizer = Adam()
        with shared_by(n_threads):
            train(net, x, t, optimizer, 150)
        results.append(arrays(net, optimizer))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# -- activations, smoothing, everything ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [("relu", "tanh"), ("gelu", "sigmoid"), ("identity", "mish")])
def test_an_activation_for_each_layer(dtype, activations, engine):
    """Layer by layer the functions, to the bit; the gradient is theirs, too."""
    w, x, t = batch(dtype)
    net, logits = network_of(engine, w, activations=activations), np.empty((40, 4), dtype)
    net.logits(x, logits)
    inputs, slopes, parameters = [x], [], [*layers(SIZES, w)]
    for (weight, bias), activation in zip(parameters, (*activations, "identity"), strict=True):
        slopes.append(fastbp.linear(inputs[-1], weight, bias))
        inputs.append(getattr(fastbp, activation)(slopes[-1]))
    assert_same([logits], inputs[-1:])
    delta, want = fastbp.softmax_cross_entropy(inputs[-1], t).grad, []
    for layer in (2, 1, 0):
        want[:0] = (part.ravel() for part in fastbp.linear_backward_weight(inputs[layer], delta))
        if layer:
            f = activations[layer - 1]
            a = (slopes if f in ("gelu", "mish") else inputs[1:])[layer - 1]
            delta = fastbp.linear_backward_input(
                delta, parameters[layer][0], activation=f, a=None if f == "identity" else a
            )
    assert_near(gradient_of(net, x, t)[2], np.concatenate(want), SIZES, dtype)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_smoothing(dtype, loss, engine):
    """As targets that are smoothed by hand: over the classes, or between the two of each output."""
    w, x, t = batch(dtype)
    rows = np.eye(4, dtype=dtype)[t]
    smooth = 0.8 * rows + (0.2 / 4 if loss == "softmax_cross_entropy" else 0.2 / 2)
    targets = t if loss == "softmax_cross_entropy" else rows
    got = gradient_of(network_of(engine, w, loss=loss, label_smoothing=0.2), x, targets)
    want = gradient_of(network_of(engine, w, loss=loss), x, smooth.astype(dtype))
    assert_near(got[0], np.array([want[0]]), SIZES, dtype)
    assert_near(got[2], want[2], SIZES, dtype)


@every_rule
def test_everything_at_once(rule, isa):
    """The kernels go where the twin goes, with the same bits on any number of threads."""
    sizes, results = (60, 100, 80, 4), []
    start, x, t = batch(np.float64, 200, sizes)
    weights, order = generator("w").integers(0, 3, 200).astype(float), generator("o").permutation(200)
    for kernels, n_threads in ((_reference, 1), *((_backend.kernels, n) for n in (1, 2, 3))):
        net = network_of(
            kernels,
            start.copy(),
            sizes,
            ("gelu", "tanh"),
            n_threads=n_threads,
            dropout=(0.3, 0.1),
            seed=5,
            label_smoothing=0.1,
        )
        optimizer = optimizer_of(
            rule, average=0.9, weight_decay=0.1, learning_rate=lambda step: 0.01 / (1 + step)
        )
        how = train(net, x, t, optimizer, 64, weights=weights, order=order, clip_norm=0.5, clip_value=0.05)
        results.append((*how, *arrays(net, optimizer)))
    twin, one, *others = results
    for several in others:
        assert several[:4] == one[:4]
        assert_same(several[4:], one[4:])
    assert twin[1:4] == one[1:4]
    assert_near(one[0], np.array([twin[0]]), sizes, np.float64)
    for got, want in zip(one[4:6], (twin[4], twin[-1]) if len(twin) == 5 else twin[4:6], strict=True):
        assert_near(got, want, (*sizes, *sizes), np.float64)
    assert_near(one[-1], twin[-1], (*sizes, *sizes), np.float64)
