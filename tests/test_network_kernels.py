"""The network of the backends: logits, error and gradient against the exact values, and training step by step."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
from conftest import (
    ISAS,
    Out,
    Problem,
    Updated,
    assert_near,
    check,
    check_threads,
    every_pair,
    generator,
    running_on,
    shared_by,
    solve,
)
from tolerances import ACTIVATIONS

from fastbp import SGD, Adam, _backend, _reference
from fastbp.outputs import LOSSES

NETWORKS = [  # (layer sizes, rows)
    ((3, 2, 2), 1),
    ((1, 1), 1),
    ((4, 1, 3), 7),
    ((5, 7), 20),
    ((64, 32, 10), 16),
    ((7, 15, 16, 17, 9), 33),
    ((2, 129, 3), 5),
    ((20, 33, 1), 64),
    ((300, 5, 31), 3),
    ((10, 20, 4), 700),
]


def network_of(kernels, layer_sizes, activation, *others, **options):
    """A network with one activation for all hidden layers."""
    return kernels.Network(layer_sizes, (activation,) * (len(layer_sizes) - 2), *others, **options)


def network(kernels, layer_sizes, activation, loss, parameters, x, targets, logits, gradient, n_threads):
    """All that a network computes of one batch, as one call of the harness."""
    net = network_of(kernels, layer_sizes, activation, loss, parameters, n_threads)
    net.logits(x, logits)
    return net.gradient(x, targets, None, gradient)


def layers(sizes, flat):
    """The weights and biases of a vector of parameters, in turn."""
    ends = np.cumsum([n for i, o in itertools.pairwise(sizes) for n in (i * o, o)])
    return np.split(flat, ends[:-1])


def problem(layer_sizes, rows, dtype, activation="tanh", loss="softmax_cross_entropy", labels=True):
    """Weights large enough that no layer is nearly linear, and outputs far from uniform."""
    rng = generator(layer_sizes, rows, activation, loss)
    scales = [[np.full(i * o, 2 / i**0.5), np.full(o, 0.5)] for i, o in itertools.pairwise(layer_sizes)]
    scales = np.concatenate([part for layer in scales for part in layer])
    parameters = (scales * rng.standard_normal(len(scales))).astype(dtype)
    targets = rng.integers(0, layer_sizes[-1], rows)
    if not labels or loss != "softmax_cross_entropy":
        targets = rng.random((rows, layer_sizes[-1]), dtype)
    arguments = {
        "layer_sizes": layer_sizes,
        "activation": activation,
        "loss": loss,
        "parameters": Updated(parameters),  # writable, but not to be changed: see its bound
        "x": rng.standard_normal((rows, layer_sizes[0])).astype(dtype),
        "targets": targets,
        "logits": Out((rows, layer_sizes[-1])),
        "gradient": Out(parameters.shape),
    }
    return Problem(network, dtype, arguments)


# -- one batch -----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def problems_of_every_kind(dtype):
    kinds = itertools.product(ACTIVATIONS, LOSSES)
    problems = [problem((9, 14, 17, 6), 13, dtype, activation, loss) for activation, loss in kinds]
    return [*problems, problem((9, 14, 6), 13, dtype, labels=False)]


@lru_cache(maxsize=1)
def problems_of_every_size(dtype):
    return [
        problem(*each, dtype, loss=loss)
        for each in NETWORKS
        for loss in ("softmax_cross_entropy", "sigmoid_cross_entropy")
    ]


def test_every_kind(dtype, engine):
    for each in problems_of_every_kind(dtype):
        check(engine, each)


def test_every_size(dtype, engine):
    for each in problems_of_every_size(dtype):
        check(engine, each)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_threads(dtype, activation, isa):
    for loss in ("softmax_cross_entropy", "squared_error"):
        check_threads(_backend.kernels, problem((100, 257, 130, 65), 300, dtype, activation, loss))


def test_batches_of_any_size_in_any_order(dtype, engine):
    """A network that has seen other batches, on other instruction sets, computes what a new one does."""
    largest = problem((6, 21, 4), 40, dtype)
    sizes, activation, loss, parameters, x, targets = parts(largest)
    old = network_of(engine, sizes, activation, loss, parameters, 2)
    for rows in (3, 40, 1, 17, 40, 2):
        want = solve(engine, problem_of_rows(largest, rows))
        for other in ISAS if engine is not _reference else ():
            with running_on(other):
                old.gradient(x[: rows + 5], targets[: rows + 5], None, np.empty_like(parameters))
        gradient, logits = np.full_like(parameters, np.nan), np.full((rows, 4), np.nan, dtype)
        old.logits(x[:rows], logits)
        assert old.gradient(x[:rows], targets[:rows], None, gradient) == (want.loss, want.weight_sum)
        assert gradient.tobytes() == want.gradient.tobytes() and logits.tobytes() == want.logits.tobytes()


def parts(each):
    """Layer sizes, activation, loss, parameters, x, targets."""
    sizes, activation, loss, parameters, x, targets, *_ = each.arguments.values()
    return sizes, activation, loss, parameters.value, x, targets


def problem_of_rows(each, rows):
    x, targets, logits = (each.arguments[name] for name in ("x", "targets", "logits"))
    return each.changed(x=x[:rows], targets=targets[:rows], logits=Out((rows, *logits.shape[1:])))


def test_no_rows(dtype, engine):
    """The mean error of nothing is NaN, and there is nothing to learn from it."""
    got = solve(engine, problem_of_rows(problem((6, 21, 4), 4, dtype), 0))
    assert np.isnan(got.loss) and not got.gradient.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_returned(dtype, value, engine):
    """And not hidden: it is the caller who decides."""
    each = problem((6, 21, 4), 9, dtype)
    each.arguments["x"][3, 2] = value
    got = solve(engine, each)
    assert np.isfinite(np.delete(got.logits, 3, axis=0)).all()
    if np.isnan(value):
        assert np.isnan(got.logits[3]).all() and np.isnan(got.loss) and np.isnan(got.gradient).any()


# -- training ------------------------------------------------------------------------------------------------------------------

RULES = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.1, momentum=0.9, weight_decay=0.01, decay_biases=True),
    "nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: Adam(0.01, weight_decay=0.01, decay_biases=True),
}


def training(each, rule):
    """(kernels, n_threads) -> what training makes of the problem: mean error, batches, parameters, state."""
    sizes, activation, loss, parameters, x, targets = parts(each)

    def train(kernels, n_threads, order, batch_size):
        w, optimizer = parameters.copy(), RULES[rule]()
        net = network_of(kernels, sizes, activation, loss, w, n_threads)
        mean, weight, batches, failure = net.train(x, targets, None, order, batch_size, optimizer, None)
        assert weight == len(order)
        assert failure == "" and optimizer.steps == batches == -(-len(order) // batch_size)
        return mean, [w, *optimizer.state(w).values()]

    return train


@every_pair("dtype", "engine", rule=[*RULES], loss=["softmax_cross_entropy", "squared_error"])
def test_training_is_gradient_and_update(dtype, rule, loss, engine):
    """Batch by batch, to the bit; the last batch is shorter, and rows come in any order, some of them twice."""
    each = problem((6, 21, 4), 50, dtype, "sigmoid", loss)
    sizes, activation, loss, parameters, x, targets = parts(each)
    order = generator("order").integers(0, 50, 47)
    mean, trained = training(each, rule)(engine, 1, order, 10)

    w, optimizer, gradient, total = parameters.copy(), RULES[rule](), np.empty_like(parameters), 0.0
    net = network_of(engine, sizes, activation, loss, w, 1)
    for start in range(0, len(order), 10):
        rows = order[start : start + 10]
        total += net.gradient(x[rows], targets[rows], None, gradient)[0] * len(rows)
        optimizer.update(w, gradient, n_threads=1)
    assert mean == total / len(order)
    assert [a.tobytes() for a in trained] == [a.tobytes() for a in (w, *optimizer.state(w).values())]


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_training_on_threads(dtype, rule, isa):
    train = training(problem((60, 300, 30), 500, dtype, "relu"), rule)
    order = generator("order").permutation(500)
    one = train(_backend.kernels, 1, order, 200)
    for n_threads in (2, 2, 3):
        with shared_by(n_threads):
            mean, arrays = train(_backend.kernels, n_threads, order, 200)
        assert mean == one[0]
        assert [a.tobytes() for a in arrays] == [a.tobytes() for a in one[1]]


@every_pair("dtype", "engine", loss=["softmax_cross_entropy", "squared_error"], weighted=[False, True])
def test_what_is_told_of_each_batch(dtype, loss, weighted, engine):
    """Its mean error, and the squares of the weights, of no bias, before its update; of a batch without weight, too."""
    sizes, activation, loss, parameters, x, targets = parts(problem((6, 21, 4), 25, dtype, "tanh", loss))
    weights = generator("weights").random(25) if weighted else None
    if weighted:
        weights[10:20] = 0
    net = network_of(engine, sizes, activation, loss, parameters, 1)
    told, want, gradient = np.zeros((3, 2)), [], np.empty_like(parameters)
    for start in range(0, 25, 10):
        some = slice(start, start + 10)
        rows = x[some], targets[some], None if weights is None else weights[some]
        squares = sum((w.astype(np.float64) ** 2).sum() for w in layers(sizes, parameters)[::2])
        want.append((net.gradient(*rows, gradient)[0], squares))
        net.train(*rows, None, 10, SGD(0.1), None, batches=told[start // 10 : start // 10 + 1])
    assert_near(np.nan_to_num(told).astype(dtype), np.nan_to_num(want))
    assert np.isnan(told[1, 0]) == weighted and told[2, 1] != told[0, 1]


@every_pair(
    "dtype", "engine", loss=["softmax_cross_entropy", "sigmoid_cross_entropy"], weighted=[False, True]
)
def test_an_error_that_counts_for_so_much_at_most(dtype, loss, weighted, engine):
    """In what is told: of an example, or of each logistic output. The gradient is the same."""
    sizes, activation, loss, parameters, x, targets = parts(problem((6, 21, 4), 25, dtype, "tanh", loss))
    weights = np.arange(25) % 3 + 0.5 if weighted else None
    net = network_of(engine, sizes, activation, loss, 20 * parameters, 1)
    free, limited, z = np.empty_like(parameters), np.empty_like(parameters), np.empty((25, 4), dtype)
    mean, _ = net.gradient(x, targets, weights, free)
    assert net.largest_error == np.inf
    net.largest_error = 2.5
    told, _ = net.gradient(x, targets, weights, limited)
    net.logits(x, z)
    z = z.astype(np.float64)
    if loss == "softmax_cross_entropy":
        rows = targets if targets.ndim == 2 else np.eye(4)[targets]
        errors = np.log(np.exp(z).sum(axis=1)) * rows.sum(axis=1) - (rows * z).sum(axis=1)
        want = np.minimum(errors, 2.5)
    else:
        want = np.minimum(np.logaddexp(0, z) - targets * z, 2.5).sum(axis=1)
    assert_near(np.asarray(told, dtype), np.average(want, weights=weights))
    assert told < mean and free.tobytes() == limited.tobytes()
    net.largest_error = np.inf
    assert net.gradient(x, targets, weights, limited)[0] == mean


@every_pair("dtype", "engine", rule=[*RULES], spoilt=["x", "targets", "gradient"])
def test_a_batch_that_fails_changes_nothing(dtype, rule, spoilt, engine):
    """Not the parameters, not the optimizer; the batches before it count."""
    failure = "gradient" if spoilt == "gradient" else "loss"
    each = problem((6, 21, 4), 50, dtype, "relu", "squared_error")
    sizes, activation, loss, parameters, x, targets = parts(each)
    # The last input is 0 but for one example. There it is huge, with weights as small, and meets a large delta:
    # everything is finite, but the product of the two, which is the gradient of those weights.
    most, weights = np.finfo(dtype).max, parameters[5 * 21 : 6 * 21]
    weights[:], x[:, 5] = 1 / most**0.8, 0
    order = np.arange(50)
    mean, good = training(each, rule)(engine, 1, order[:20], 10)
    if spoilt == "gradient":
        x[25, 5], targets[25] = most**0.8, most**0.3
    else:
        (x if spoilt == "x" else targets)[25, 3] = np.nan

    w, optimizer = parameters.copy(), RULES[rule]()
    net = network_of(engine, sizes, activation, loss, w, 1)
    assert net.train(x, targets, None, order, 10, optimizer, None) == (mean, 20, 2, failure)
    assert optimizer.steps == 2
    assert [a.tobytes() for a in (w, *optimizer.state(w).values())] == [a.tobytes() for a in good]


@pytest.mark.parametrize("engine", ["reference", *ISAS[:1]], indirect=True)
@pytest.mark.parametrize("rule", RULES)
def test_what_a_report_sees_and_does(rule, engine):
    """The updates made so far are counted; and it cannot take the state away from under the training."""
    sizes, activation, loss, parameters, x, targets = parts(problem((60, 300, 4), 50, np.float32))
    optimizer, seen = RULES[rule](), []

    def report(done, loss):
        seen.append(optimizer.steps - done)
        if len(seen) == 2:
            raise KeyboardInterrupt
        optimizer.reset()
        np.full(10**5, np.nan)  # perhaps where the state was

    net = network_of(engine, sizes, activation, loss, parameters, 1)
    with pytest.raises(KeyboardInterrupt):
        net.train(x, targets, None, np.zeros(10**7, np.int64), 10, optimizer, report)
    assert seen[0] == 0 and np.isfinite(parameters).all()


# -- a step at first sight -----------------------------------------------------------------------------------------------------


@every_pair("dtype", "isa", rule=[*RULES], loss=["softmax_cross_entropy", "squared_error"])
def test_a_step_is_a_batch_of_training(dtype, rule, loss, isa):
    """To the bit, the optimizer's state included, also when another optimizer comes in between."""
    each = problem((6, 21, 4), 30, dtype, "relu", loss)
    sizes, activation, loss, parameters, x, targets = parts(each)
    w, optimizer, other = parameters.copy(), RULES[rule](), SGD(0.0)
    net = network_of(_backend.kernels, sizes, activation, loss, w, 1)
    losses = []
    for start in (0, 10, 20):
        losses.append(net.step(x[start : start + 10], targets[start : start + 10], optimizer))
        assert net.step(x, targets, other) is not None
    assert optimizer.steps == 3
    mean, trained = training(each, rule)(_backend.kernels, 1, np.arange(30), 10)
    total = (10 * losses[0] + 10 * losses[1]) + 10 * losses[
        2
    ]  # sum() carries what rounding loses, from Python 3.12 on
    assert mean == total / 30
    assert [a.tobytes() for a in trained] == [a.tobytes() for a in (w, *optimizer.state(w).values())]


def not_at_first_sight(x, labels):
    """Batches that are wrong, or need more than a look."""
    nan, huge = x.copy(), x.copy()
    nan[1, 2], huge[1, 2] = np.nan, np.finfo(x.dtype).max / 2
    return {
        "list": (x.tolist(), labels),
        "subclass": (np.ma.masked_array(x), labels),
        "dtype": (x.astype(np.float16), labels),
        "byte order": (x.astype(x.dtype.newbyteorder()), labels),
        "strided": (np.repeat(x, 2, axis=1)[:, ::2], labels),
        "one axis": (x[0], labels),
        "columns": (x[:, 1:].copy(), labels),
        "no rows": (x[:0], labels[:0]),
        "fewer labels": (x, labels[1:]),
        "label dtype": (x, labels.astype(np.int32)),
        "strided labels": (x, np.repeat(labels, 2)[::2]),
        "label too large": (x, labels + 4),
        "negative label": (x, labels - 4),
        "rows of targets": (x, np.eye(4, dtype=x.dtype)[labels]),
        "misaligned": (
            np.frombuffer(b"0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
            labels,
        ),
        "nan": (nan, labels),
        "huge": (huge, labels),
    }


def test_a_step_leaves_all_else_alone(dtype, isa):
    """It does nothing, and says so; a batch in order is trained on after that."""
    sizes, activation, loss, parameters, x, labels = parts(problem((6, 21, 4), 9, dtype, "relu"))
    w, optimizer = parameters.copy(), Adam()
    net = network_of(_backend.kernels, sizes, activation, loss, w, 1)
    for what, batch in not_at_first_sight(x, labels).items():
        assert net.step(*batch, optimizer) is None, what
        assert optimizer.steps == 0 and w.tobytes() == parameters.tobytes(), what
        assert not any(np.any(state) for state in optimizer.state(w).values()), what
    assert net.step(x, labels, optimizer) is not None and optimizer.steps == 1


def test_a_step_that_could_overflow_is_left_alone(dtype, isa):
    sizes, activation, loss, parameters, x, labels = parts(problem((6, 21, 4), 9, dtype, "relu"))
    net = network_of(_backend.kernels, sizes, activation, loss, parameters.copy(), 1)
    for optimizer in (
        SGD(1e4),
        SGD(0.1, weight_decay=2.0),
        SGD(100.0, weight_decay=0.1),
        Adam(epsilon=1e-20),
    ):
        assert net.step(x, labels, optimizer) is None
    optimizer = SGD(0.1, momentum=0.9)
    optimizer.state(net.parameters)["velocity"][3] = 1e20
    assert net.step(x, labels, optimizer) is None


# -- threads -------------------------------------------------------------------------------------------------------------------


def test_networks_side_by_side(dtype, isa):
    """Calls at the same time have threads of their own."""
    each = problem((60, 300, 30), 500, dtype, "relu")
    train, order = training(each, "adam"), generator("order").permutation(500)
    want = train(_backend.kernels, 1, order, 200)
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(train, _backend.kernels, n_threads, order, 200) for n_threads in (2, 3, 2, 1, 2, 4)
        ]
    for run in runs:
        mean, arrays = run.result()
        assert mean == want[0]
        assert [a.tobytes() for a in arrays] == [a.tobytes() for a in want[1]]
