"""What a training says of itself: validation sets, evaluate, History."""

from __future__ import annotations

import copy
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from training_data import (
    BATCH,
    LABELS,
    OPTIONS,
    ROWS,
    WEIGHTS,
    YES,
    N,
    X,
    lists,
    network,
    rounding,
    same,
    told,
)

import fastbp
from fastbp import MLP, SGD, Adam, History, evaluation
from fastbp.outputs import LOSSES

# Validation -------------------------------------------------------------------------------------------------


def split(net, t, fraction, **options):
    """The rows that fit trains on and validates by, from the seed of `net`."""
    seen = {}

    def fit_begin(run):
        seen["rows"], seen["aside"] = run.sets.batches.rows, run.sets.validation[1]

    spy = type("Spy", (), {"fit_begin": staticmethod(fit_begin)})()
    net.fit(X, t, epochs=0, validation_fraction=fraction, callbacks=[spy], progress=False, **options)
    return seen["rows"], seen["aside"]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 1 / 3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "one logistic output"])
def test_a_fraction_of_each_class(backend, kind, fraction):
    """To within one example of each class, and to half an example of all."""
    logistic = {"outputs": 1, "loss": "sigmoid_cross_entropy"} if "logistic" in kind else {}
    labels = YES[:, 0].astype(int) if logistic else LABELS
    t = {"indices": LABELS, "one-hot": np.eye(3)[LABELS]}.get(kind, YES)
    rows, aside = split(network(**logistic), t, fraction)
    assert sorted([*rows, *aside]) == list(range(N))  # none lost, none twice
    assert abs(len(aside) - fraction * N) <= 0.5
    assert (
        abs(np.bincount(labels[aside]) - fraction * np.bincount(labels)[: labels[aside].max() + 1]) < 1
    ).all()


def test_few_of_many_classes(backend):
    """A tenth of classes of four is a tenth of all, though not of any one."""
    t = np.arange(100) % 25
    net = MLP([1, 25], seed=0)
    history = net.fit(t[:, None], t, epochs=1, validation_fraction=0.1, progress=False)
    assert lists(history) == {1}


def test_the_split_follows_from_the_seed(backend):
    first, again, other = (split(network(seed=seed), LABELS, 0.3)[1] for seed in (1, 1, 2))
    assert (first == again).all() and (first.shape != other.shape or (first != other).any())
    real = split(network(loss="squared_error"), ROWS, 0.3)[1]
    assert (np.diff(real) > 0).all() and len(real) == 31  # in the order of the rows, of no class


@pytest.mark.parametrize("shuffle", [True, False])
def test_those_set_aside_are_not_trained_on(backend, dtype, shuffle):
    """The same as fit on the others with validation_data, from the same state of the generator."""
    net = network(dtype)
    other = copy.deepcopy(net)
    rows, aside = split(copy.deepcopy(net), LABELS, 0.25)
    options = OPTIONS | {"shuffle": shuffle}
    a = net.fit(X, LABELS, sample_weight=WEIGHTS, validation_fraction=0.25, **options)
    other._generator.permutation(N)  # by which they were drawn
    data = X[aside], LABELS[aside], WEIGHTS[aside]
    b = other.fit(X[rows], LABELS[rows], sample_weight=WEIGHTS[rows], validation_data=data, **options)
    assert same(net, other) and told(a) == told(b)
    score = net.evaluate(X[aside], LABELS[aside], sample_weight=WEIGHTS[aside])
    assert [a.validation_loss[-1], a.validation_metric[-1]] == list(score.values())


def test_validation_changes_nothing_else(backend, dtype):
    net, other = network(dtype, dropout=0.2), network(dtype, dropout=0.2)
    history = net.fit(X, LABELS, validation_data=[X[:10], LABELS[:10]], optimizer=Adam(), **OPTIONS)
    plain = other.fit(X, LABELS, optimizer=Adam(), **OPTIONS)
    assert same(net, other) and history.loss == plain.loss and lists(history) == {3}
    assert plain.validation_loss == plain.validation_metric == plain.metric == []


REFUSED = [
    (
        {"validation_fraction": 1.0},
        ValueError,
        r"validation_fraction: got 1.0, expected a number in \[0, 1\)",
    ),
    ({"validation_fraction": -0.1}, ValueError, "validation_fraction: got -0.1"),
    ({"validation_fraction": "0.1"}, TypeError, "validation_fraction: got str"),
    (
        {"validation_fraction": 0.001},
        ValueError,
        "validation_fraction: got 0.001 of 103 examples, expected a fr",
    ),
    (
        {"validation_fraction": 0.999},
        ValueError,
        "validation_fraction: got 0.999 of 103 examples, expected a fr",
    ),
    (
        {"validation_data": X},
        TypeError,
        r"validation_data: got ndarray, expected \(X, T\) or \(X, T, sample_w",
    ),
    ({"validation_data": (X,)}, TypeError, "validation_data: got 1 things, expected"),
    ({"validation_data": (X, LABELS, None, None)}, TypeError, "validation_data: got 4 things, expected"),
    ({"validation_data": (X[:, :5], LABELS)}, ValueError, r"validation_data\[0\]: got shape \(103, 5\)"),
    (
        {"validation_data": (X, LABELS + 1)},
        ValueError,
        r"validation_data\[1\]: row \d+ is 3, expected a class",
    ),
    ({"validation_data": (X, LABELS[1:])}, ValueError, r"validation_data\[1\]: got 102 class indices"),
    ({"validation_data": (X, LABELS, -WEIGHTS)}, ValueError, r"validation_data\[2\]: row \d+ is -"),
    ({"validation_data": (X[:0], LABELS[:0])}, ValueError, r"validation_data\[0\]: .*at least one example"),
    ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0, expected a finite number > 0"),
    ({"clip_value": -1.0}, ValueError, "clip_value: got -1.0, expected a finite number > 0"),
    ({"time_limit": 0}, ValueError, "time_limit: got 0, expected a finite number > 0"),
    (
        {"callbacks": [3]},
        TypeError,
        "callbacks: got int, expected a function, or an object with any of fit_begin",
    ),
    ({"callbacks": None}, TypeError, "callbacks: got NoneType, expected a function"),
    ({"callbacks": [fastbp.callbacks.EarlyStopping]}, TypeError, "callbacks: got the class EarlyStopping"),
    ({"optimizer": "adam"}, TypeError, "optimizer: got str"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), REFUSED)
def test_a_refused_call_changes_nothing(backend, changed, kind, message):
    net, adam = network(), Adam()
    before = copy.deepcopy(net)
    options = {"validation_fraction": 0.2, "optimizer": adam, **OPTIONS, **changed}
    with pytest.raises(kind, match=f"^{message}"):
        net.fit(X, LABELS, **options)
    assert same(net, before) and adam.steps == 0 and not adam._vectors and adam._owner is None


# evaluate ---------------------------------------------------------------------------------------------------


def r2(t, y, w):
    """Scikit-learn's ``r2_score(multioutput="uniform_average")``."""
    mean = (w @ t) / w.sum()
    missed, spread = w @ (t - y) ** 2, w @ (t - mean) ** 2
    each = [1 - m / s if s else float(m == 0) for m, s in zip(missed, spread, strict=True)]
    return np.mean(each)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluate_by_the_formulas(backend, loss, weights, monkeypatch):
    net, t, w = network(loss=loss), ROWS.copy(), np.ones(N) if weights is None else weights
    t[:, 2] = 0.25  # constant, and its mean has no rounding
    if loss == "softmax_cross_entropy":
        t = LABELS
    z, y = net.logits(X), net.forward(X)
    if LOSSES[loss].metric == "r2":
        metric = r2(t, y, w)
    elif loss == "softmax_cross_entropy":
        metric = np.average(z.argmax(axis=1) == t, weights=w)
    else:
        metric = np.average(((y > 0.5) == (t > 0.5)).mean(axis=1), weights=w)
    score = net.evaluate(X, t, sample_weight=weights)
    assert list(score) == ["loss", LOSSES[loss].metric] and {type(value) for value in score.values()} == {
        float
    }
    np.testing.assert_allclose(score["loss"], net.gradients(X, t, weights).loss, **rounding(2 * N))
    np.testing.assert_allclose(score[LOSSES[loss].metric], metric, **rounding(64 * N))
    monkeypatch.setattr(evaluation, "_BLOCK", 6 * 8 * 10)  # by blocks of ten rows
    blocks = net.evaluate(X, t, sample_weight=weights)
    np.testing.assert_allclose(list(blocks.values()), list(score.values()), **rounding(64 * N))


def test_r2_of_a_perfect_and_of_a_constant_prediction(backend):
    net = MLP([2, 2], loss="squared_error", dtype="float64", seed=0)
    net.weights[0][:], net.biases[0][:] = np.eye(2), 0
    x = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    assert net.evaluate(x, x) == {"loss": 0.0, "r2": 1.0}
    assert net.evaluate(x, x + np.array([0, 1]))["r2"] == 0.5  # a constant that is missed counts as 0
    far = x + 1e8  # sums of squares about the first row, not about 0
    assert net.evaluate(x, far)["r2"] == pytest.approx(r2(far, x, np.ones(3)), rel=1e-6)
    constant = np.array([[0.1], [0.7], [0.7], [0.7]])
    one = MLP([1, 1], loss="squared_error", init="zeros", dtype="float64")
    assert one.evaluate(np.zeros((4, 1)), constant, sample_weight=[0, 1, 1, 1])["r2"] == 0.0


def test_nan_is_no_class(backend):
    """A row with NaN among its outputs is not right, whatever its class; with NaN the error is NaN."""
    net = network("float32")
    x = X.copy()
    x[::2] = np.nan
    right = net.predict(X[1::2]) == LABELS[1::2]
    score = net.evaluate(x, LABELS)
    assert np.isnan(score["loss"]) and score["accuracy"] == pytest.approx(right.sum() / N)
    logistic = network(outputs=1, loss="sigmoid_cross_entropy")
    assert logistic.evaluate(np.full((4, 6), np.nan), np.zeros(4))["accuracy"] == 0
    real = network(outputs=1, loss="squared_error")
    assert np.isnan(real.evaluate(x, YES)["r2"]) and np.isnan(real.evaluate(x[:3], np.ones(3))["r2"])


def test_no_examples(backend):
    assert all(np.isnan(value) for value in network().evaluate(X[:0], LABELS[:0]).values())


def test_logits_are_never_held(backend, monkeypatch):
    """Those of 300 rows of 50 000 classes would take 60 MB; here they are formed 1 MB at a time."""
    monkeypatch.setattr(evaluation, "_BLOCK", 10**6)
    net, n = MLP([4, 50_000], init="zeros"), 300
    x, labels = np.ones((n, 4), np.float32), np.arange(n) * 150
    weights = np.ones(n)
    tracemalloc.start()
    try:
        score = net.evaluate(x, labels, sample_weight=weights)
        net.fit(x[:8], labels[:8], epochs=1, batch_size=8, validation_data=(x, labels), progress=False)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert score == pytest.approx({"loss": np.log(50_000), "accuracy": 1 / n}, rel=1e-5)
    assert most < 25e6, most


def test_evaluate_knows_no_dropout_and_does_not_train(backend):
    net, plain = network(dropout=0.5), network()
    plain.parameters[:] = net.parameters
    before = copy.deepcopy(net)
    assert net.evaluate(X, LABELS) == plain.evaluate(X, LABELS) and same(net, before)


# History ----------------------------------------------------------------------------------------------------


def test_history_says_what_was_done(backend):
    net = network()
    stop = fastbp.callbacks.EarlyStopping("metric", patience=100)
    history = net.fit(X, LABELS, epochs=4, validation_fraction=0.2, callbacks=[stop], progress=False)
    assert lists(history) == {4} and len(history) == 4
    names = ["loss", "seconds", "learning_rate", "validation_loss", "metric", "validation_metric"]
    assert list(history.columns()) == names
    assert {type(value) for values in history.columns().values() for value in values} == {float}
    assert history.learning_rate == [0.1] * 4 and history.stopped == ""
    assert history.best_epoch == 1 + int(np.argmax(history.metric))
    assert pickle.loads(pickle.dumps(history)) == history


def test_the_best_epoch(backend):
    """Of the least validation loss, or of the least loss."""
    history = network().fit(X, LABELS, epochs=6, validation_fraction=0.3, optimizer=SGD(3.0), progress=False)
    assert history.best_epoch == 1 + int(np.argmin(history.validation_loss))
    history = network().fit(X, LABELS, epochs=6, optimizer=SGD(3.0), progress=False)
    assert history.best_epoch == 1 + int(np.argmin(history.loss))
    assert network().fit(X, LABELS, epochs=0, progress=False).best_epoch is None


def test_the_text_of_a_csv(tmp_path):
    history = History([0.5, 0.25], [1.0, 2.0], [0.1, 1 / 3], validation_loss=[1e-300, float("nan")])
    history.to_csv(tmp_path / "log.csv")
    text = "epoch,loss,seconds,learning_rate,validation_loss\n1,0.5,1.0,0.1,1e-300\n2,0.25,2.0,0.3333333333333333,nan\n"
    assert (tmp_path / "log.csv").read_bytes() == text.encode()
    History().to_csv(tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "epoch\n"


def test_the_csv_of_a_training_reads_back(backend, tmp_path):
    history = network().fit(X, LABELS, validation_fraction=0.2, **OPTIONS)
    history.to_csv(tmp_path / "log.csv")
    table = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    for name, values in history.columns().items():
        assert table[name].tolist() == values


@pytest.mark.parametrize(
    ("history", "text"),
    [
        (History(), "History(0 epochs, 0 s)"),
        (History([0.5], [1.25]), "History(1 epoch, loss 0.5 -> 0.5, 1.25 s)"),
        (
            History([0.5, 0.125], [1.0, 1.0], validation_loss=[1.0, 0.75], stopped="interrupted"),
            "History(2 epochs, loss 0.5 -> 0.125, validation loss 0.75, 2 s, stopped: interrupted)",
        ),
    ],
)
def test_repr(history, text):
    assert repr(history) == text


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    history = History(
        [3.0, 2.0, 1.0], [1.0] * 3, [0.1] * 3, [3.0, 1.5, 2.5], [], [0.1, 0.5, 0.4], best_epoch=2
    )
    axes = history.plot()
    training, validation, best = axes.lines
    assert training.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert validation.get_ydata().tolist() == history.validation_loss and list(best.get_xdata()) == [2, 2]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["training loss", "validation loss", "best epoch, 2", "validation metric"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    given = plt.subplots()[1]
    assert History([1.0], [1.0]).plot(given) is given and len(given.lines) == 1
    plt.close("all")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"History.plot: got no Matplotlib.*pip install 'fastbp\[plot\]'"
    ):
        History([1.0], [1.0]).plot()


def test_batches_and_last_rate(backend):
    """The rate in the history is that of the last update of the epoch."""
    history = network().fit(X, LABELS, optimizer=SGD(lambda step: 1 / (1 + step)), **OPTIONS)
    per_epoch = -(-N // BATCH)
    assert history.learning_rate == [1 / (per_epoch * epoch) for epoch in (1, 2, 3)]
