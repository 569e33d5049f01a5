"""sample_weight and class_weight: what they mean, and how wrong ones are refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from training_data import BATCH, LABELS, OPTIONS, ROWS, WEIGHTS, YES, N, X, network, rounding, same

from fastbp import MLP, SGD, Adam
from fastbp.outputs import LOSSES

TARGETS = {"softmax_cross_entropy": LABELS}


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_weights_are_repeated_rows(backend, loss):
    """In error and gradient, and in the training of one batch."""
    t, times = TARGETS.get(loss, ROWS), np.arange(N) % 4
    repeated = np.repeat(np.arange(N), times)
    net = network(loss=loss)
    weighted, plain = net.gradients(X, t, times), net.gradients(X[repeated], t[repeated])
    np.testing.assert_allclose(weighted.loss, plain.loss, **rounding(N))
    np.testing.assert_allclose(weighted.flat, plain.flat, **rounding(N))
    assert net.loss(X, t, times) == pytest.approx(plain.loss, rel=1e-14)
    scores = net.evaluate(X, t, sample_weight=times), net.evaluate(X[repeated], t[repeated])
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    other = copy.deepcopy(net)
    a = net.fit(X, t, sample_weight=times, epochs=4, batch_size=N, shuffle=False, progress=False)
    b = other.fit(X[repeated], t[repeated], epochs=4, batch_size=4 * N, shuffle=False, progress=False)
    np.testing.assert_allclose(net.parameters, other.parameters, **rounding(16 * N))
    np.testing.assert_allclose(a.loss, b.loss, **rounding(16 * N))


@pytest.mark.parametrize("make_optimizer", [lambda: SGD(0.2, momentum=0.9), lambda: Adam(0.01)])
def test_fit_with_weights_is_a_sequence_of_steps(backend, dtype, make_optimizer):
    net, stepped = network(dtype), network(dtype)
    history = net.fit(X, LABELS, sample_weight=WEIGHTS, optimizer=make_optimizer(), **OPTIONS)
    optimizer, generator = make_optimizer(), stepped._generator
    for epoch in range(3):
        order = generator.permutation(N)
        batches = [order[start : start + BATCH] for start in range(0, N, BATCH)]
        losses = [stepped.step(X[rows], LABELS[rows], optimizer, WEIGHTS[rows]) for rows in batches]
        sums = [WEIGHTS[rows].sum() for rows in batches]
        assert history.loss[epoch] == pytest.approx(np.average(losses, weights=sums), rel=1e-13)
    assert same(net, stepped)


def test_a_batch_of_no_weight_is_skipped(backend):
    """As if it were not there: no update, no step, no part in the loss."""
    weights = np.ones(3 * BATCH)
    weights[BATCH : 2 * BATCH] = 0
    rest = weights > 0
    net, other, a, b = network(), network(), Adam(0.01), Adam(0.01)
    options = OPTIONS | {"shuffle": False}
    weighted = net.fit(X[: 3 * BATCH], LABELS[: 3 * BATCH], sample_weight=weights, optimizer=a, **options)
    plain = other.fit(X[: 3 * BATCH][rest], LABELS[: 3 * BATCH][rest], optimizer=b, **options)
    assert same(net, other) and weighted.loss == plain.loss and a.steps == b.steps == 6


def test_no_weight_at_all(backend):
    net, adam = network(dropout=0.5), Adam()
    before = net.parameters.copy()
    assert np.isnan(net.step(X, LABELS, adam, np.zeros(N)))
    history = net.fit(X, LABELS, sample_weight=np.zeros(N), optimizer=adam, **OPTIONS)
    assert np.isnan(history.loss).all() and len(history) == 3 and adam.steps == 0
    assert (net.parameters == before).all()
    loss, *gradients = net.gradients(X, LABELS, np.zeros(N))
    assert np.isnan(loss) and not any(array.any() for arrays in gradients for array in arrays)
    assert all(np.isnan(value) for value in net.evaluate(X, LABELS, sample_weight=np.zeros(N)).values())


@pytest.mark.parametrize("weights", [[1.0, 2.0, 0.5], {1: 2.0, 2: 0.5}, {np.int64(1): 2, 2: np.float32(0.5)}])
def test_class_weights_are_weights_of_examples(backend, weights):
    table = np.array([1.0, 2.0, 0.5])
    net, other, rows = network(), network(), network()
    net.fit(X, LABELS, class_weight=weights, sample_weight=WEIGHTS, **OPTIONS)
    other.fit(X, LABELS, sample_weight=WEIGHTS * table[LABELS], **OPTIONS)
    rows.fit(X, np.eye(3)[LABELS], class_weight=weights, sample_weight=WEIGHTS, **OPTIONS)
    assert same(net, other)
    np.testing.assert_allclose(rows.parameters, net.parameters, **rounding(16 * N))


def test_balanced_classes(backend):
    """N / (C · n_c), so that each class has the same weight."""
    table = N / (3 * np.bincount(LABELS))
    nets = [network() for _ in range(3)]
    nets[0].fit(X, LABELS, class_weight="balanced", **OPTIONS)
    nets[1].fit(X, LABELS, sample_weight=table[LABELS], **OPTIONS)
    nets[2].fit(X, np.eye(3)[LABELS], class_weight="balanced", **OPTIONS)
    assert same(nets[0], nets[1])
    np.testing.assert_allclose(nets[2].parameters, nets[0].parameters, **rounding(16 * N))


def test_a_class_that_does_not_occur(backend):
    """It is no class of those among which the weight is balanced."""
    some = LABELS < 2
    table = some.sum() / (2 * np.bincount(LABELS[some]))
    net, other = network(), network()
    net.fit(X[some], LABELS[some], class_weight="balanced", **OPTIONS)
    other.fit(X[some], LABELS[some], sample_weight=table[LABELS[some]], **OPTIONS)
    assert same(net, other)


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "sigmoid_squared_error"])
@pytest.mark.parametrize("weights", [{1: 3.0}, [1.0, 3.0], "balanced"])
def test_one_logistic_output_has_two_classes(backend, loss, weights):
    counts = np.bincount(YES[:, 0].astype(int))
    table = N / (2 * counts) if weights == "balanced" else np.array([1.0, 3.0])
    net, other = network(outputs=1, loss=loss), network(outputs=1, loss=loss)
    net.fit(X, YES[:, 0], class_weight=weights, **OPTIONS)
    other.fit(X, YES, sample_weight=table[YES[:, 0].astype(int)], **OPTIONS)
    np.testing.assert_allclose(net.parameters, other.parameters, **rounding(16 * N))


def test_soft_targets_have_the_mean_weight_of_their_classes(backend):
    table = np.array([1.0, 2.0, 0.5])
    net, other = network(), network()
    net.fit(X, ROWS, class_weight=table, **OPTIONS)
    other.fit(X, ROWS, sample_weight=(ROWS @ table) / ROWS.sum(axis=1), **OPTIONS)
    np.testing.assert_allclose(net.parameters, other.parameters, **rounding(16 * N))
    one, probability = network(outputs=1, loss="sigmoid_cross_entropy"), ROWS[:, :1]
    two = copy.deepcopy(one)
    one.fit(X, probability, class_weight=[1.0, 2.0], **OPTIONS)
    two.fit(X, probability, sample_weight=1 + probability[:, 0], **OPTIONS)
    np.testing.assert_allclose(one.parameters, two.parameters, **rounding(16 * N))


def test_validation_is_weighted_by_the_table_of_the_training_examples(backend):
    table = N / (3 * np.bincount(LABELS))
    some = np.flatnonzero(LABELS == 0)[:10]
    net = network()
    options = OPTIONS | {"validation_data": (X[some], LABELS[some])}
    history = net.fit(X, LABELS, class_weight="balanced", **options)
    score = net.evaluate(X[some], LABELS[some], sample_weight=table[LABELS[some]])
    assert [history.validation_loss[-1], history.validation_metric[-1]] == list(score.values())
    whole = network()
    part = whole.fit(X, LABELS, class_weight=[0, 0, 1], validation_fraction=0.5, **OPTIONS)
    assert part.validation_metric[-1] in (0.0, 1.0) or part.validation_loss[-1] > 0


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        (
            [1.0] * (N - 1),
            ValueError,
            r"sample_weight: got shape \(102,\), expected \(103,\), one weight for",
        ),
        (np.full(N, -1.0), ValueError, "sample_weight: row 0 is -1.0, expected finite numbers >= 0"),
        (np.r_[np.ones(N - 1), np.nan], ValueError, "sample_weight: row 102 is nan, expected finite numbers"),
        (np.r_[np.inf, np.ones(N - 1)], ValueError, "sample_weight: row 0 is inf, expected finite numbers"),
        (
            np.full(N, 1e307),
            ValueError,
            "sample_weight: got weights whose sum is infinite, expected one that",
        ),
        (["a"] * N, TypeError, "sample_weight: got .*, expected real numbers"),
        (np.ones((N, 1)), ValueError, r"sample_weight: got shape \(103, 1\), expected \(103,\)"),
    ],
)
def test_bad_sample_weights(backend, weights, kind, message):
    net, optimizer = network(), SGD(momentum=0.9)
    before = copy.deepcopy(net)
    for call in (
        lambda: net.fit(X, LABELS, sample_weight=weights, optimizer=optimizer, **OPTIONS),
        lambda: net.step(X, LABELS, optimizer, weights),
        lambda: net.gradients(X, LABELS, weights),
        lambda: net.loss(X, LABELS, weights),
        lambda: net.evaluate(X, LABELS, sample_weight=weights),
    ):
        with pytest.raises(kind, match=f"^{message}"):
            call()
    assert same(net, before) and optimizer.steps == 0 and not optimizer._vectors


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ("even", ValueError, "class_weight: got 'even', expected one of balanced"),
        (
            [1.0, 2.0],
            ValueError,
            r"class_weight: got shape \(2,\), expected \(3,\), one weight for each class",
        ),
        ([1.0, -2.0, 1.0], ValueError, "class_weight: row 1 is -2.0, expected finite numbers >= 0"),
        ({3: 1.0}, ValueError, r"class_weight: got 3, expected classes in \[0, 3\)"),
        ({"a": 1.0}, TypeError, r"class_weight: got str, expected classes in \[0, 3\)"),
        ({0: "a"}, TypeError, r"class_weight\[0\]: got str, expected a finite number >= 0"),
        ({0: None}, TypeError, r"class_weight\[0\]: got NoneType, expected a finite number >= 0"),
        ({0: np.nan}, ValueError, r"class_weight\[0\]: got nan, expected a finite number >= 0"),
        (3.0, ValueError, r"class_weight: got shape \(\), expected \(3,\)"),
    ],
)
def test_bad_class_weights(backend, weights, kind, message):
    net = network()
    before = copy.deepcopy(net)
    with pytest.raises(kind, match=f"^{message}"):
        net.fit(X, LABELS, class_weight=weights, validation_fraction=0.2, **OPTIONS)
    assert same(net, before)


@pytest.mark.parametrize(
    ("loss", "outputs"), [("sigmoid_cross_entropy", 3), ("squared_error", 3), ("squared_error", 1)]
)
def test_class_weights_without_classes(backend, loss, outputs):
    net = network(outputs=outputs, loss=loss)
    message = (
        "^class_weight: got dict, expected None with a loss whose outputs are not the classes of one thing"
    )
    with pytest.raises(ValueError, match=message):
        net.fit(X, ROWS[:, :outputs], class_weight={0: 1.0}, **OPTIONS)


def test_balanced_batches_of_an_iterable_are_refused(backend):
    message = "^class_weight: got 'balanced', expected a dict or an array with an iterable of batches"
    with pytest.raises(ValueError, match=message):
        network().fit([(X, LABELS)], class_weight="balanced", **OPTIONS)
    net, other = network(), network()
    net.fit([(X, LABELS)], class_weight={0: 2.0}, **OPTIONS)
    other.fit([(X, LABELS, np.where(LABELS == 0, 2.0, 1.0))], **OPTIONS)
    assert same(net, other)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_what_is_measured_is_a_mean_at_any_scale_of_weights(backend, scale):
    """Also in float32, whose range their sums leave."""
    net = network("float32")
    scores = [net.evaluate(X, LABELS, sample_weight=weights) for weights in (WEIGHTS, WEIGHTS * scale)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)
    assert net.loss(X, LABELS, WEIGHTS * scale) == pytest.approx(scores[0]["loss"], rel=1e-6)


def test_the_mean_of_large_errors(backend):
    """Whose sum is beyond float32."""
    net = MLP([1, 1], loss="squared_error", init="zeros")
    t = np.full((100_000, 1), 1e17)
    assert net.loss(np.zeros((len(t), 1)), t) == pytest.approx(5e33, rel=1e-6)


def test_r2_does_not_read_examples_of_weight_0(backend):
    """Whose target may be missing."""
    net = network(loss="squared_error")
    weights = np.arange(N) % 3
    t = np.where(weights[:, None] > 0, ROWS, np.nan)
    kept = weights > 0
    scores = (
        net.evaluate(X, t, sample_weight=weights),
        net.evaluate(X[kept], ROWS[kept], sample_weight=weights[kept]),
    )
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    assert np.isnan(list(net.evaluate(X, t, sample_weight=np.zeros(N)).values())).all()


def test_classes_by_true_and_false(backend):
    """As boolean targets have them."""
    nets = [network(outputs=1, loss="sigmoid_cross_entropy") for _ in range(2)]
    for net, table in zip(nets, ({True: 2.0, False: 0.5}, {1: 2.0, 0: 0.5}), strict=True):
        net.fit(X, YES, class_weight=table, **OPTIONS)
    assert same(*nets)
