"""`fastbp.sklearn` where a fit goes on with something else than before, and what is refused by name."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import r2_score
from test_sklearn import OLD

from fastbp.sklearn import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(OLD, reason="this scikit-learn has no sample weights and no Poisson loss"),
]
SMALL = {"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
BINARY, CLASSES, SETS = np.arange(60) % 2, np.arange(60) % 3, (RNG.random((60, 3)) > 0.5).astype(int)
P2, P3 = RNG.dirichlet(np.ones(2), 60), RNG.dirichlet(np.ones(3), 60)
EYE = np.eye(2, dtype=int)[BINARY]


def arrays_of(est):
    return [array.copy() for array in (*est.coefs_, *est.intercepts_)]


# -- targets of another kind than before -----------------------------------------------------------------------------------------

OTHERS = [
    (BINARY, EYE), (BINARY, P2), (CLASSES, SETS), (CLASSES, P2), (P2, EYE), (P3, SETS), (SETS, CLASSES), (SETS, P3),
    (SETS, SETS[:, :2]),
]  # fmt: skip


@pytest.mark.parametrize("first, second", OTHERS)
@pytest.mark.parametrize("way", ["partial_fit", "warm_start", "validation"])
def test_targets_of_another_kind(first, second, way):
    est = MLPClassifier(**SMALL, warm_start=way == "warm_start").fit(X, first)
    before, attributes = arrays_of(est), (est.out_activation_, est.n_outputs_)
    with pytest.raises(ValueError, match=r"\by\b.*(got|has)"):
        if way == "partial_fit":
            est.partial_fit(X, second)
        elif way == "warm_start":
            est.fit(X, second)
        else:
            est.fit(X, first, X_val=X, y_val=second)
    if way != "validation":
        assert all(map(np.array_equal, arrays_of(est), before))
    assert (est.out_activation_, est.n_outputs_) == attributes
    assert np.isfinite(est.predict_proba(X)).all()


@pytest.mark.parametrize("first, second", [(P3, CLASSES), (CLASSES, P3), (P2, BINARY)])
def test_classes_and_their_probabilities_are_of_one_kind(first, second):
    est = MLPClassifier(**SMALL).fit(X, first)
    est.partial_fit(X, second)
    assert est.out_activation_ == "softmax" and est.predict_proba(X).shape == (60, est.n_outputs_)


def test_probabilities_in_the_first_part_of_a_fit():
    est = MLPClassifier(**SMALL).partial_fit(X, P2, classes=[0, 1]).partial_fit(X, BINARY)
    assert est.out_activation_ == "softmax" and est.n_outputs_ == 2 and est.predict_proba(X).shape == (60, 2)


@pytest.mark.parametrize("shape", [(60,), (60, 500)])
@pytest.mark.parametrize("way", ["partial_fit", "fit"])
def test_more_or_fewer_outputs(shape, way):
    est = MLPRegressor(**SMALL, warm_start=True).fit(X, RNG.standard_normal((60, 3)))
    before = arrays_of(est)
    with pytest.raises(ValueError, match=rf"^y: got {1 if len(shape) == 1 else 500} columns, expected 3"):
        getattr(est, way)(X, np.zeros(shape))
    assert est.n_outputs_ == 3 and all(map(np.array_equal, arrays_of(est), before))


# -- validation sets -------------------------------------------------------------------------------------------------------------


def test_class_weights_are_those_of_the_training_set():
    """Also for a validation set, whatever its classes are: as if its examples had weights of their own."""
    labels, some = np.where(np.arange(60) < 45, 0, CLASSES), slice(0, 50)
    counts = np.bincount(labels)
    table = 60 / (3 * counts)
    for class_weight in ("balanced", dict(enumerate(table))):
        est = MLPClassifier(**SMALL, class_weight=class_weight).fit(
            X, labels, X_val=X[some], y_val=labels[some]
        )
        plain = MLPClassifier(**SMALL).fit(
            X, labels, table[labels], X_val=X[some], y_val=labels[some], sample_weight_val=table[labels[some]]
        )
        np.testing.assert_allclose(est.validation_loss_curve_, plain.validation_loss_curve_, rtol=1e-12)
        ones = MLPClassifier(**SMALL, class_weight=class_weight).fit(
            X, labels, X_val=X[some], y_val=labels[some], sample_weight_val=np.ones(50)
        )
        assert ones.validation_loss_curve_ == est.validation_loss_curve_


def test_balanced_sets_of_labels():
    from sklearn.utils import compute_sample_weight

    est = MLPClassifier(**SMALL, class_weight="balanced").fit(X, SETS, X_val=X[:5], y_val=SETS[:5])
    plain = MLPClassifier(**SMALL).fit(X, SETS, compute_sample_weight("balanced", SETS))
    np.testing.assert_allclose(est.loss_curve_, plain.loss_curve_, rtol=1e-12)
    with pytest.raises(ValueError, match="class_weight: got a dict for sets of labels"):
        MLPClassifier(**SMALL, class_weight={0: 2.0}).fit(X, SETS)


def test_a_validation_set_without_one_of_the_classes():
    est = MLPClassifier(**SMALL, warm_start=True)
    est.fit(X, CLASSES, X_val=X[:2], y_val=CLASSES[:2]).fit(X, CLASSES, X_val=X[:2], y_val=CLASSES[:2])
    assert len(est.validation_loss_curve_) == 6


def test_class_weights_of_a_part_without_one_of_the_classes():
    est = MLPClassifier(**SMALL, class_weight={2: 3.0}).partial_fit(X, CLASSES, classes=[0, 1, 2])
    est.partial_fit(X[:2], CLASSES[:2])
    with pytest.raises(ValueError, match="not in class_weight"):
        MLPClassifier(**SMALL, class_weight={7: 3.0}).fit(X, CLASSES)


@pytest.mark.parametrize("kind, y", [(MLPClassifier, CLASSES), (MLPRegressor, X[:, 0])])
def test_validation_sets_that_cannot_be(kind, y):
    for options, text in (
        ({"y_val": y}, "y_val: got ndarray without X_val"),
        ({"sample_weight_val": y}, "sample_weight_val: got ndarray without X_val"),
        ({"X_val": X}, "y_val: got None with X_val"),
        ({"X_val": X, "y_val": y[:3]}, "X_val, y_val, sample_weight_val: .*inconsistent"),
        ({"X_val": X[:, :2], "y_val": y}, "X_val, y_val, sample_weight_val: X has 2 features"),
        ({"X_val": X, "y_val": y, "sample_weight_val": -np.ones(60)}, "X_val, .*sample_weight: got -1.0"),
    ):
        with pytest.raises(ValueError, match=text):
            kind(**SMALL).fit(X, y, **options)
    with pytest.raises(ValueError, match="X_val: got ndarray with the solver L-BFGS"):
        kind(**SMALL, solver="lbfgs").fit(X, y, X_val=X, y_val=y)


def test_a_scorer_of_ones_own():
    """It gets targets of the shape that predictions have, and weights if it knows what they are."""
    seen = []

    def scorer(est, X, y):
        seen.append(y.shape)
        return r2_score(y, est.predict(X))

    options = SMALL | {"early_stopping": True, "validation_fraction": 0.3, "scoring": scorer}
    a = MLPRegressor(**options).fit(X, X[:, 0])
    b = MLPRegressor(**options | {"scoring": "r2"}).fit(X, X[:, 0])
    assert set(seen) == {(18,)} and a.validation_scores_ == b.validation_scores_
    MLPClassifier(**options | {"scoring": lambda est, X, y: est.score(X, y)}, class_weight="balanced").fit(
        X, CLASSES
    )


# -- options that change between two fits ----------------------------------------------------------------------------------------

CHANGES = [{"dropout": 0.3}, {"activation": "tanh"}, {"activation": ["gelu"]}, {"label_smoothing": 0.1}]


@pytest.mark.parametrize("change", CHANGES)
def test_options_count_from_the_next_fit_on(change):
    est = MLPClassifier(**SMALL, warm_start=True).fit(X, CLASSES)
    before = est.predict_proba(X)
    est.set_params(**change)
    for each in (est, pickle.loads(pickle.dumps(est)), copy.deepcopy(est)):
        assert np.array_equal(each.predict_proba(X), before)
    twin = pickle.loads(pickle.dumps(est))
    plain = MLPClassifier(**SMALL, warm_start=True).fit(X, CLASSES)
    assert (
        est.fit(X, CLASSES).loss_curve_
        == twin.fit(X, CLASSES).loss_curve_
        != plain.fit(X, CLASSES).loss_curve_
    )
    name, value = next(iter(change.items()))
    if name == "activation":
        assert est.network_.activations == (value if value == "tanh" else value[0],)
    else:
        assert np.max(getattr(est.network_, name)) == value


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_state_of_an_optimizer_goes_on_in_a_new_network(solver):
    a, b = (MLPRegressor(**SMALL, solver=solver).partial_fit(X, X[:, 0]) for _ in range(2))
    b.set_params(n_threads=1)
    for _ in range(3):
        a.partial_fit(X, X[:, 0])
        b.partial_fit(X, X[:, 0])
    assert b.network_.n_threads == 1 and np.array_equal(a.network_.parameters, b.network_.parameters)


def test_dropout_is_drawn_anew_by_each_fit():
    options = SMALL | {"dropout": 0.3, "random_state": np.random.RandomState(0)}
    est = MLPRegressor(**options).fit(X, X[:, 0])
    first = est.loss_curve_
    assert est.fit(X, X[:, 0]).loss_curve_ != first
    est = MLPRegressor(**SMALL, dropout=0.3).fit(X, X[:, 0])
    first = est.loss_curve_
    assert est.fit(X, X[:, 0]).loss_curve_ == first


def test_one_activation_for_each_layer():
    with pytest.raises(ValueError, match="activation: got 1"):
        MLPRegressor(hidden_layer_sizes=(5, 4), activation=["relu"], max_iter=1).fit(X, X[:, 0])
    est = MLPRegressor(hidden_layer_sizes=(5, 4), activation=["relu", "relu"], max_iter=1).fit(X, X[:, 0])
    assert est.network_.activation in ("relu", ("relu", "relu")) and est.to_sklearn().activation == "relu"


# -- weights and targets that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_below_zero(solver):
    with pytest.raises(ValueError, match=r"^sample_weight: got -1\.0, expected numbers >= 0"):
        MLPRegressor(**SMALL, solver=solver).fit(X, X[:, 0], np.where(np.arange(60) % 2, 1.0, -1.0))


def test_counts_below_zero():
    with pytest.raises(ValueError, match=r"^y: got -2\.0 with loss='poisson'"):
        MLPRegressor("poisson", **SMALL).fit(X, np.where(np.arange(60) == 3, -2.0, 1.0))
