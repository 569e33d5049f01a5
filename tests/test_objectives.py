"""Objectives for boosting: the conventions of XGBoost and LightGBM on plain arrays; then training in the libraries themselves."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_near, generator
from tolerances import boosted

import fastbp
from fastbp import objectives

SOFTMAX = (objectives.xgboost_softmax, objectives.lightgbm_softmax)
LOGISTIC = (objectives.xgboost_logistic, objectives.lightgbm_logistic)
ROUNDS, C = 12, 3


class Data:
    """What a DMatrix or a Dataset tells of itself: labels in float32; XGBoost gives no weights as an empty array."""

    def __init__(self, labels, weight=None):
        self.labels, self.weight = np.asarray(labels, np.float32), weight

    def get_label(self):
        return self.labels

    def get_weight(self):
        return self.weight


def scores_and_labels(n=6, dtype=np.float64):
    rng = generator("objectives")
    return 2 * rng.standard_normal((n, C)).astype(dtype), rng.integers(0, C, n), rng.uniform(0.2, 2, n)


# -- on plain arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "factor"), [*zip(SOFTMAX, (2, C / (C - 1)), strict=True)])
def test_softmax(backend, dtype, make, factor):
    """The derivatives of the sum, with the library's factor, from every form of call."""
    z, labels, weight = scores_and_labels(dtype=dtype)
    y, t = fastbp.softmax(z), np.eye(C)[labels]
    w = np.array([0.5, 2, 1])
    u = w * (0.9 * t + 0.1 / C)
    grad, hessian = make(class_weight=w, label_smoothing=0.1)(labels.astype(np.float32), z, weight)
    total = u.sum(axis=1, keepdims=True)
    assert_near(grad, weight[:, None] * (y * total - u))
    assert_near(hessian, factor * weight[:, None] * total * y * (1 - y))
    assert grad.dtype == hessian.dtype == dtype
    other_forms = (
        make(class_weight=w, label_smoothing=0.1)(z, Data(labels, weight)),
        make(class_weight=w, label_smoothing=0.1)(np.asfortranarray(z), Data(labels, weight)),
        make(class_weight=w, label_smoothing=0.1, targets=t)(z, Data(np.zeros(6), weight)),
        make(class_weight=w, label_smoothing=0.1)(z, Data(t, weight)),
    )
    for form in other_forms:
        assert_near(form, (grad, hessian))


@pytest.mark.parametrize("make", LOGISTIC)
def test_logistic(backend, dtype, make):
    z, _, weight = scores_and_labels(dtype=dtype)
    t = np.array([0, 1, 0.25])[[0, 1, 2, 1, 0, 1]]
    smoothed = 0.8 * t + 0.1
    for scores, targets in ((z[:, 0].copy(), smoothed), (z, np.tile(smoothed[:, None], C))):
        given = t if targets.ndim == 1 else np.tile(t[:, None], C)
        outputs, s = fastbp.sigmoid(scores), weight.reshape(-1, *[1] * (scores.ndim - 1))
        objective = make(pos_weight=3, label_smoothing=0.2)
        grad, hessian = objective(scores, Data(given, weight))
        assert_near(grad, s * ((1 - targets) * outputs - 3 * targets * (1 - outputs)))
        assert_near(hessian, s * (3 * targets + 1 - targets) * outputs * (1 - outputs))
        assert_near(objective(given, scores, weight), (grad, hessian))
        soft = make(pos_weight=3, label_smoothing=0.2, targets=given)
        assert_near(soft(scores, Data(np.zeros(6), weight)), (grad, hessian))


@pytest.mark.parametrize("make", [*SOFTMAX, *LOGISTIC])
@pytest.mark.parametrize("none", [None, np.empty(0, np.float32)])
def test_no_weights(make, none):
    z, labels, _ = scores_and_labels()
    z, labels = (z, labels) if make in SOFTMAX else (z[:, 0].copy(), labels / 2)
    for a, b in zip(make()(z, Data(labels, none)), make()(z, Data(labels, np.ones(6))), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_floor_of_xgboost():
    """XGBoost keeps second derivatives at 1e-16, LightGBM as they are; an ignored example has no gradient in either."""
    z = np.array([[100.0, 0, 0], [0, 0, 0]])
    data = Data([0, -100])
    (grad, low), (same_grad, exact) = (make()(z, data) for make in SOFTMAX)
    assert not grad[1].any() and np.array_equal(grad, same_grad)
    assert low.min() == 1e-16 and 0 < exact[0].max() < 1e-40 and not exact[1].any()
    (_, low), (_, exact) = (make()(np.array([100.0]), Data([1])) for make in LOGISTIC)
    assert low[0] == 1e-16 and 0 < exact[0] < 1e-40


@pytest.mark.parametrize("make", SOFTMAX)
@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf, 1e300])
def test_a_label_that_is_no_class(make, bad):
    message = f"labels: got {bad} in row 1, expected class indices, which are whole numbers"
    with pytest.raises(ValueError) as caught:
        make()(np.array([0, bad]), np.zeros((2, C)))
    assert str(caught.value) == message
    with pytest.raises(fastbp.TargetIndexError, match="row 0 is 3"):
        make()(np.array([3.0, 0]), np.zeros((2, C)))


@pytest.mark.parametrize("make", SOFTMAX)
def test_scores_of_two_classes(make):
    with pytest.raises(
        ValueError, match=r"^scores: got shape \(2,\), expected \(N, C\) .* logistic objective"
    ):
        make()(np.array([0, 1]), np.zeros(2))
    with pytest.raises(ValueError, match=r"^targets: got 0.5 in row 0"):
        make(targets=np.array([0.5, 1]))(np.array([0, 1]), np.zeros((2, C)))


@pytest.mark.parametrize("make", LOGISTIC)
@pytest.mark.parametrize("bad", [-0.5, 5, np.nan, np.inf])
def test_a_label_that_is_no_fraction(make, bad):
    with pytest.raises(ValueError, match=f"^labels: row 1 is {float(bad)}, expected a number in \\[0, 1\\]"):
        make()(np.array([1.0, bad]), np.zeros(2))


@pytest.mark.parametrize("make", [*SOFTMAX, *LOGISTIC])
def test_an_objective_can_be_pickled(make):
    """So can a model that holds it."""
    z, labels, _ = scores_and_labels()
    z, labels = (z, labels) if make in SOFTMAX else (z[:, 0].copy(), labels / 2)
    objective = make(label_smoothing=0.1)
    again = pickle.loads(pickle.dumps(objective))
    for a, b in zip(objective(z, Data(labels)), again(z, Data(labels)), strict=True):
        assert a.tobytes() == b.tobytes()


def test_neither_library_is_imported():
    program = (
        "import sys, numpy as np, fastbp; fastbp.objectives.xgboost_softmax()(np.zeros(1), np.zeros((1, 2)))\n"
        "assert not {'xgboost', 'lightgbm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- in the libraries ------------------------------------------------------------------------------------------------------------
# On one thread: two of OpenMP wait for each other, busily, where other tests run.


@pytest.fixture(scope="module")
def table():
    """Features, classes that they do not quite decide, and weights."""
    rng = generator("table")
    x = rng.standard_normal((400, 4))
    scores = x @ rng.standard_normal((4, C)) + rng.gumbel(size=(400, C))
    return x, scores.argmax(axis=1), rng.uniform(0.5, 2, 400)


def assert_same_model(ours, theirs):
    """Raw scores, and the splits of all trees, which are text."""
    (scores, splits), (want, wanted_splits) = ours, theirs
    assert splits == wanted_splits and len(splits) > ROUNDS
    assert np.abs(want).max() > 1  # they have learned
    allowed = boosted(ROUNDS) * np.finfo(np.float32).eps * np.abs(want).max()
    np.testing.assert_allclose(scores, want, rtol=0, atol=allowed)


class XGBoost:
    name, softmax, logistic = "xgboost", *(f[0] for f in (SOFTMAX, LOGISTIC))
    builtin = {"softmax": "multi:softprob", "logistic": "binary:logistic"}  # noqa: RUF012

    def __init__(self):
        self.library = pytest.importorskip("xgboost")

    def train(self, x, label, weight=None, *, kind="softmax", own=None, **parameters):
        data = self.library.DMatrix(x, label, weight=weight, nthread=1)
        parameters = {"objective": self.builtin[kind], "base_score": 0.5, "nthread": 1, **parameters}
        parameters["tree_method"] = "exact"  # the other ones choose candidates of splits by the weights
        if kind == "softmax" and np.ndim(label) == 1:
            parameters["num_class"] = C
        elif kind == "softmax":
            del parameters["objective"]
        model = self.library.train(parameters, data, ROUNDS, obj=own)
        return self.described(model, data)

    def described(self, model, data):
        splits = re.findall(r"\[.*?\]", "".join(model.get_dump()))
        return model.predict(data, output_margin=True).reshape(data.num_row(), -1), splits

    def classifier(self, x, label, weight, own=None):
        objective = {"objective": own} if own else {}
        model = self.library.XGBClassifier(n_estimators=ROUNDS, base_score=0.5, n_jobs=1, **objective)
        model.fit(x, label, sample_weight=weight)
        np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-6)
        return self.described(model.get_booster(), self.library.DMatrix(x, nthread=1))


class LightGBM:
    name, softmax, logistic = "lightgbm", *(f[1] for f in (SOFTMAX, LOGISTIC))
    builtin = {"softmax": "multiclass", "logistic": "binary"}  # noqa: RUF012
    always = {"boost_from_average": False, "num_threads": 1, "verbose": -1}  # noqa: RUF012

    def __init__(self):
        self.library = pytest.importorskip("lightgbm")

    def train(self, x, label, weight=None, *, kind="softmax", own=None, **parameters):
        parameters |= {"objective": own or self.builtin[kind], **self.always}
        if kind == "softmax":
            parameters["num_class"] = C
        model = self.library.train(parameters, self.library.Dataset(x, label, weight=weight), ROUNDS)
        return self.described(model, x)

    def described(self, model, x):
        splits = re.findall(r"^(?:split_feature|threshold)=.*$", model.model_to_string(), re.MULTILINE)
        return model.predict(x, raw_score=True, num_threads=1).reshape(len(x), -1), splits

    def classifier(self, x, label, weight, own=None):
        objective = {"objective": own} if own else {}
        model = self.library.LGBMClassifier(n_estimators=ROUNDS, **objective, **self.always)
        return self.described(model.fit(x, label, sample_weight=weight).booster_, x)


@pytest.fixture(params=[XGBoost, LightGBM], ids=lambda peer: peer.name)
def peer(request):
    return request.param()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["softmax", "logistic"])
def test_without_options_it_is_the_builtin_objective(peer, table, kind, weighted):
    x, label, weight = table
    label, weight = label if kind == "softmax" else label == 1, weight if weighted else None
    own = getattr(type(peer), kind)()
    assert_same_model(
        peer.train(x, label, weight, kind=kind, own=own), peer.train(x, label, weight, kind=kind)
    )


def test_the_interface_of_scikit_learn(peer, table):
    pytest.importorskip("sklearn")
    x, label, weight = table
    for each in (None, weight):
        own = peer.classifier(x, label, each, type(peer).softmax())
        assert_same_model(own, peer.classifier(x, label, each))
    binary = peer.classifier(x, label == 1, weight, type(peer).logistic())
    assert_same_model(binary, peer.classifier(x, label == 1, weight))


def test_class_weights_are_the_weights_of_the_examples(peer, table):
    x, label, weight = table
    w = np.array([0.5, 2, 1])
    own = type(peer).softmax(class_weight=w)
    assert_same_model(peer.train(x, label, weight, own=own), peer.train(x, label, weight * w[label]))
    own = type(peer).logistic(pos_weight=3)
    theirs = peer.train(x, label == 1, weight, kind="logistic", scale_pos_weight=3)
    assert_same_model(peer.train(x, label == 1, weight, kind="logistic", own=own), theirs)


def test_smoothing_is_a_soft_label(peer, table):
    x, label, _ = table
    soft = 0.9 * np.eye(C)[label] + 0.1 / C
    smoothed = peer.train(x, label, own=type(peer).softmax(label_smoothing=0.1))
    assert_same_model(peer.train(x, label, own=type(peer).softmax(targets=soft)), smoothed)
    if peer.name == "xgboost":  # whose labels may have a column for each class
        assert_same_model(peer.train(x, soft, own=type(peer).softmax()), smoothed)
    plain = peer.train(x, label)
    assert np.abs(plain[0] - smoothed[0]).max() > 0.1
    label = label == 1
    smoothed = peer.train(x, label, kind="logistic", own=type(peer).logistic(label_smoothing=0.1))
    soft = type(peer).logistic(targets=0.9 * label + 0.05)
    assert_same_model(peer.train(x, label, kind="logistic", own=soft), smoothed)
