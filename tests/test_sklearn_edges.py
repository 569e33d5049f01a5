"""`fastbp.sklearn` where a fit goes on with something else than before, and what is refused by name."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import r2_score
from test_sklearn import OLD

import fastbp
from fastbp.sklearn import MLPClassifier, MLPRegressor, from_sklearn

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


def test_probabilities_that_do_not_sum_to_1():
    with pytest.raises(ValueError, match=r"^y: row 3 sums to 0\.9\d*, expected rows of probabilities"):
        MLPClassifier(**SMALL).fit(X, np.where(np.arange(60)[:, None] == 3, 0.95 * P3, P3))
    est = MLPClassifier(**SMALL).fit(X, P3.astype(np.float16))
    assert est.out_activation_ == "softmax"


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


@pytest.mark.parametrize("way", ["partial_fit", "warm_start"])
@pytest.mark.parametrize("first, second", [(BINARY, EYE), (CLASSES, SETS), (SETS, CLASSES), (P2, BINARY)])
def test_after_a_fit_that_failed(first, second, way):
    """Nothing is left of it: neither classes nor kinds of targets."""
    est, plain = (MLPClassifier(**SMALL, warm_start=way == "warm_start") for _ in range(2))
    options = {"classes": np.unique(first) if np.ndim(first) == 1 else np.arange(first.shape[1])}
    options = options if way == "partial_fit" else {}
    fit = "fit" if way == "warm_start" else way
    with pytest.raises(ValueError, match="sample_weight"):
        getattr(est, fit)(X, first, sample_weight=np.ones(3), **options)
    assert not [name for name in vars(est) if name.endswith("_") and name != "classes_"]
    if way == "partial_fit":
        options = {"classes": np.unique(second) if second.ndim == 1 else np.arange(second.shape[1])}
    getattr(plain, fit)(X, second, **options)
    getattr(est, fit)(X, second, **options)
    assert np.array_equal(est.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("kind, y", [(MLPClassifier, CLASSES), (MLPRegressor, X[:, 0])])
def test_a_fit_that_fails_leaves_the_model_as_it_was(kind, y):
    est = kind(**SMALL).fit(X, y)
    before, predictions = {name: vars(est)[name] for name in vars(est)}, est.predict(X)
    for arguments, options in (
        ((X[:, :2], y, np.ones(3)), {}),
        ((np.c_[X, X], y), {"X_val": X, "y_val": y[:3]}),
        ((X, np.where(X[:, 0] > 0, np.nan, 1.0)), {}),
        ((X[:6], y[:6]), {"early_stopping": True}),
        ((X, y), {"scoring": "foo"}),
    ):
        new = {name: options.pop(name) for name in ("early_stopping", "scoring") if name in options}
        with pytest.raises(ValueError):
            est.set_params(**new).fit(*arguments, **options)
        est.set_params(early_stopping=False, scoring=None)
        assert vars(est).keys() == before.keys()
        assert all(vars(est)[name] is value for name, value in before.items())
    assert np.array_equal(est.predict(X), predictions)


def test_arrays_of_other_sizes_in_the_place_of_the_fitted_ones():
    est = MLPRegressor(**SMALL, warm_start=True).fit(X, X[:, 0])
    est.coefs_ = [np.zeros((4000, 5)), np.zeros((5, 40))]
    est.intercepts_ = [np.zeros(5), np.zeros(40)]
    for fit in (est.fit, est.partial_fit):
        with pytest.raises(
            ValueError, match=r"X, y: got \(60, 4\) .* expected 4000 inputs and 40 outputs, as of coefs_"
        ):
            fit(X, X[:, 0])


class WithAnArgument(MLPRegressor):
    def __init__(self, units, dropout=0.0, solver="adam"):
        super().__init__(hidden_layer_sizes=units, dropout=dropout, solver=solver)
        self.units = units


def test_a_subclass_with_an_argument():
    est = WithAnArgument(units=3, dropout=0.5, solver="lbfgs")
    with pytest.raises(ValueError, match=r"dropout: got 0\.5 with the solver L-BFGS, expected 0\.0"):
        est.fit(X, X[:, 0])


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


def test_a_loss_that_changes():
    est = MLPRegressor(**SMALL, warm_start=True).fit(X, X[:, 0] ** 2).set_params(loss="poisson")
    assert est.out_activation_ == "identity" and est.to_sklearn().loss == "squared_error"
    est.fit(X, X[:, 0] ** 2)
    assert est.out_activation_ == "exp" and (est.predict(X) > 0).all()
    np.testing.assert_allclose(est.to_sklearn().predict(X), est.predict(X), rtol=1e-6)


def test_a_model_crosses_over_as_it_was_fitted():
    est = MLPRegressor(**SMALL).fit(X, X[:, 0])
    before = est.predict(X)
    est.set_params(activation="tanh", dropout=0.3)
    theirs = est.to_sklearn()
    assert theirs.activation == "relu"
    np.testing.assert_allclose(theirs.predict(X), before, rtol=1e-6)
    back = from_sklearn(theirs)
    back.predict(X)
    back.set_params(activation="tanh", dropout=0.3)
    assert np.array_equal(pickle.loads(pickle.dumps(back)).predict(X), back.predict(X))


def test_an_option_that_no_network_has():
    est = MLPRegressor(**SMALL).fit(X, X[:, 0])
    before = est.predict(X)
    with pytest.raises(ValueError, match="activation"):
        est.set_params(activation=["relu", "relu"]).partial_fit(X, X[:, 0])
    assert np.array_equal(pickle.loads(pickle.dumps(est)).predict(X), before)


def test_parts_of_a_fit_with_an_average():
    """Each goes on from the parameters themselves, not from their average."""
    options = {"hidden_layer_sizes": (5,), "random_state": 0, "shuffle": False, "tol": 0}
    whole = MLPRegressor(**options, solver=fastbp.SGD(0.1, average=0.9), max_iter=3).fit(X, X[:, 0])
    parts = MLPRegressor(**options, solver=fastbp.SGD(0.1, average=0.9))
    for n in range(3):
        parts.partial_fit(X, X[:, 0])
        parts = pickle.loads(pickle.dumps(parts)) if n == 1 else parts
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-12)


def test_one_activation_for_each_layer():
    with pytest.raises(ValueError, match="activation: got 1"):
        MLPRegressor(hidden_layer_sizes=(5, 4), activation=["relu"], max_iter=1).fit(X, X[:, 0])
    est = MLPRegressor(hidden_layer_sizes=(5, 4), activation=["relu", "relu"], max_iter=1).fit(X, X[:, 0])
    assert est.network_.activation in ("relu", ("relu", "relu")) and est.to_sklearn().activation == "relu"


@pytest.mark.parametrize(
    "option", [{"dropout": 0.5}, {"dropout": [0.5]}, {"clip_norm": 1.0}, {"time_limit": 9.0}]
)
@pytest.mark.parametrize("solver", ["lbfgs", fastbp.LBFGS()])
def test_what_needs_batches(option, solver):
    with pytest.raises(
        ValueError, match=rf"^{next(iter(option))}: got .* with the solver L-BFGS, expected (0.0|None)"
    ):
        MLPRegressor(**SMALL, **option, solver=solver).fit(X, X[:, 0])


# -- weights and targets that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_below_zero(solver):
    with pytest.raises(ValueError, match=r"^sample_weight: got -1\.0, expected numbers >= 0"):
        MLPRegressor(**SMALL, solver=solver).fit(X, X[:, 0], np.where(np.arange(60) % 2, 1.0, -1.0))


@pytest.mark.parametrize("weight", [-2.0, np.nan, np.inf, "x", None])
def test_class_weights_that_cannot_be(weight):
    with pytest.raises(
        ValueError, match=rf"^class_weight: got {weight!r} for 0, expected a finite number >= 0"
    ):
        MLPClassifier(**SMALL, class_weight={0: weight}).fit(X, CLASSES)


def test_classes_without_weight():
    with pytest.raises(ValueError, match="class_weight: got 0 for each class"):
        MLPClassifier(**SMALL, class_weight={0: 0, 1: 0, 2: 0}).fit(X, CLASSES)
    with pytest.raises(ValueError, match="sample_weight: got weights that are 0"):
        MLPClassifier(**SMALL, class_weight={0: 0, 1: 0}, solver="lbfgs").fit(X, CLASSES, CLASSES < 2)


def test_counts_below_zero():
    with pytest.raises(ValueError, match=r"^y: got -2\.0 with loss='poisson'"):
        MLPRegressor("poisson", **SMALL).fit(X, np.where(np.arange(60) == 3, -2.0, 1.0))
