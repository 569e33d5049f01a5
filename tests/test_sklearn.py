"""`fastbp.sklearn` beside scikit-learn: the same curves from the same random numbers, and what comes on top."""

from __future__ import annotations

import builtins
import copy
import doctest
import importlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

joblib, sklearn = pytest.importorskip("joblib"), pytest.importorskip("sklearn")

from conftest import every_pair  # noqa: E402
from scipy import sparse  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.ensemble import StackingClassifier  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.metrics import log_loss  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.multioutput import MultiOutputClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

import fastbp  # noqa: E402
from fastbp import sklearn as ours  # noqa: E402
from fastbp.sklearn import differences  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:overflow|invalid value|divide by zero:RuntimeWarning"),
]

N, FEATURES = 230, 7
OLD = tuple(map(int, sklearn.__version__.split(".")[:2])) < (
    1,
    7,
)  # no sample weights, no Poisson loss, labels that are numbers


def data(task: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([ord(c) for c in task])
    X = rng.standard_normal((N, FEATURES))
    z = X @ rng.standard_normal((FEATURES, 4)) + 0.3 * rng.standard_normal((N, 4))
    y = {
        "binary": lambda: np.array([-1, 1] if OLD else ["no", "yes"])[(z[:, 0] > 0.3).astype(int)],
        "classes": lambda: z[:, :3].argmax(axis=1) * 10,
        "labels": lambda: (z > 0.4).astype(int),
        "output": lambda: z[:, 0],
        "outputs": lambda: z[:, :3] / 3,
        "counts": lambda: rng.poisson(np.exp(z[:, 0] / 3)),
    }[task]()
    return X, y


def estimators(task: str, **parameters: Any) -> list[Any]:
    """Scikit-learn's and ours."""
    name = "MLPRegressor" if task in ("output", "outputs", "counts") else "MLPClassifier"
    if task == "counts":
        parameters["loss"] = "poisson"
    return [getattr(module, name)(random_state=3, **parameters) for module in (theirs, ours)]


TASKS = ["binary", "classes", "labels", "output", "outputs", *([] if OLD else ["counts"])]
SOLVERS = {
    "adam": {},
    "sgd": {"learning_rate_init": 0.01},
    "sgd, inverse scaling": {"learning_rate": "invscaling", "learning_rate_init": 0.05, "power_t": 0.3},
    "sgd, adaptive": {
        "learning_rate": "adaptive",
        "tol": 0.05,
        "n_iter_no_change": 2,
        "nesterovs_momentum": False,
    },
    "sgd, plain": {"momentum": 0, "shuffle": False},
    "lbfgs": {},
}


def curves(est: Any) -> np.ndarray:
    return np.array(getattr(est, "loss_curve_", [est.loss_]))


def assert_alike(a: Any, b: Any, X: np.ndarray, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(curves(b), curves(a), rtol=rtol, atol=rtol)
    for name in ("coefs_", "intercepts_"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True):
            np.testing.assert_allclose(y, x, rtol=100 * rtol, atol=100 * rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("loss_", "best_loss_", "best_validation_score_"):
        if getattr(a, name, None) is not None:
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=rtol)
    np.testing.assert_array_equal(a.predict(X), b.predict(X)) if hasattr(a, "classes_") else None


# -- the same fit ----------------------------------------------------------------------------------------------


@every_pair(
    task=TASKS,
    activation=["identity", "logistic", "tanh", "relu"],
    solver=[*SOLVERS],
    weighted=[False] if OLD else [False, True],
)
def test_a_fit_follows_scikit_learn(task, activation, solver, weighted):
    """Loss curve, weights and everything else that is fitted, over 20 iterations."""
    X, y = data(task)
    weights = {"sample_weight": np.random.default_rng(0).random(N) * 3} if weighted else {}
    parameters = {"hidden_layer_sizes": (9, 5), "activation": activation, "solver": solver.split(",")[0]}
    a, b = (
        est.set_params(max_iter=20, batch_size=64, alpha=0.01, **parameters, **SOLVERS[solver]).fit(
            X, y, **weights
        )
        for est in estimators(task)
    )
    assert_alike(a, b, X)


@pytest.mark.parametrize("solver", ["adam", "sgd, adaptive"])
@pytest.mark.parametrize("task", TASKS)
def test_early_stopping(task, solver):
    X, y = data(task)
    parameters = {"early_stopping": True, "validation_fraction": 0.2, "max_iter": 40, "n_iter_no_change": 3}
    a, b = (
        est.set_params(solver=solver.split(",")[0], **SOLVERS[solver] | parameters).fit(X, y)
        for est in estimators(task)
    )
    assert_alike(a, b, X)
    np.testing.assert_allclose(b.validation_scores_, a.validation_scores_, rtol=1e-9)
    assert len(b.validation_loss_curve_) == b.n_iter_


@pytest.mark.parametrize("solver", ["adam", "sgd, inverse scaling"])
@pytest.mark.parametrize("task", TASKS)
def test_going_on(task, solver):
    """By warm starts and by partial fits, of which t_ counts all and n_iter_ the last."""
    X, y = data(task)
    pair = [
        est.set_params(solver=solver.split(",")[0], max_iter=3, **SOLVERS[solver])
        for est in estimators(task, warm_start=True)
    ]
    for _ in range(3):
        a, b = (est.fit(X, y) for est in pair)
    for part in (slice(100), slice(100, None), slice(None)):
        classes = {"classes": np.unique(y)} if task in ("binary", "classes") else {}
        a, b = (est.set_params(warm_start=False).partial_fit(X[part], y[part], **classes) for est in pair)
    assert_alike(a, b, X)
    assert b.t_ == 9 * N + 2 * N and b.n_iter_ == 1


def test_a_loss_of_clipped_probabilities():
    """Examples that are far off count as scikit-learn counts them, and so does what follows for the line search."""
    X, y = data("classes")
    for solver in ("sgd", "lbfgs"):
        a, b = (est.set_params(solver=solver, max_iter=5).fit(1000 * X, y) for est in estimators("classes"))
        assert_alike(a, b, X)
        assert curves(a)[0] > (5 if solver == "sgd" else 1)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_float32_is_kept(solver):
    X, y = data("classes")
    a, b = (
        est.set_params(solver=solver, max_iter=10).fit(X.astype(np.float32), y)
        for est in estimators("classes")
    )
    assert {w.dtype for w in b.coefs_ + b.intercepts_} == {np.dtype(np.float32)} == {b.network_.dtype}
    np.testing.assert_allclose(curves(b), curves(a), rtol=1e-3 if solver == "lbfgs" else 1e-5)
    assert b.predict_proba(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_examples(kind, solver, monkeypatch):
    """Dense a few batches at a time, and the same as all of them at once."""
    X, y = data("classes")
    X[np.random.default_rng(0).random(X.shape) < 0.7] = 0
    weights = np.random.default_rng(1).random(N)
    monkeypatch.setattr("fastbp.sklearn.examples._MOST_BYTES", 70 * FEATURES * 8)
    options = {"solver": solver, "max_iter": 10, "batch_size": 32, "random_state": 0}
    given = getattr(sparse, kind)(X)
    a = ours.MLPClassifier(**options).fit(X, y, sample_weight=weights)
    b = ours.MLPClassifier(**options).fit(given, y, sample_weight=weights)
    np.testing.assert_allclose(curves(b), curves(a), rtol=1e-9)
    np.testing.assert_allclose(b.predict_proba(given), a.predict_proba(X), rtol=1e-7)
    assert b.t_ == 10 * N if solver == "adam" else b.n_iter_ == a.n_iter_


def test_weights_count_examples():
    """An example of weight 2 is two examples, one of weight 0 is none, where all are one batch."""
    X, y = data("classes")
    weights = np.random.default_rng(0).integers(0, 3, N)
    options = {"max_iter": 15, "batch_size": N * 3, "shuffle": False, "random_state": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Got `batch_size`")
        a = ours.MLPClassifier(**options).fit(X, y, sample_weight=weights)
        b = ours.MLPClassifier(**options).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(curves(a), curves(b), rtol=1e-9)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-6)


def test_a_batch_without_weight_is_skipped():
    X, y = data("output")
    weights = np.ones(N)
    weights[32:64] = 0
    options = {"max_iter": 5, "batch_size": 32, "shuffle": False, "random_state": 0, "tol": 0}
    rest = np.delete(np.arange(N), np.arange(32, 64))
    a = ours.MLPRegressor(**options).fit(X, y, sample_weight=weights)
    b = ours.MLPRegressor(**options).fit(X[rest], y[rest])
    np.testing.assert_allclose(a.predict(X), b.predict(X), rtol=1e-9)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-9)


# -- an estimator among others ---------------------------------------------------------------------------------


CHECKS = [
    pytest.param(est, check, id=f"{type(est).__name__}-{check.func.__name__}")
    for kind in (ours.MLPClassifier, ours.MLPRegressor)
    for est, check in estimator_checks_generator(kind(max_iter=100))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
@pytest.mark.filterwarnings("default")
def test_the_checks_of_estimators(estimator, check):
    check(estimator)


def small(**parameters: Any) -> ours.MLPClassifier:
    return ours.MLPClassifier(**{"hidden_layer_sizes": 5, "max_iter": 8, "random_state": 0} | parameters)


def test_parameters_are_those_of_scikit_learn():
    for name in ("MLPClassifier", "MLPRegressor"):
        a, b = (getattr(module, name)().get_params() for module in (theirs, ours))
        assert a.items() <= b.items()
    assert ours.MLPRegressor("poisson", 3, "tanh").get_params()["hidden_layer_sizes"] == 3


def test_in_pipelines_and_searches():
    X, y = data("classes")
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small()), {"mlpclassifier__alpha": [0.1, 1e-4]}, cv=2, n_jobs=2
    ).fit(X, y)
    assert search.score(X, y) == (search.predict(X) == y).mean() and len(search.cv_results_["params"]) == 2
    X, y = data("binary")
    assert cross_val_score(small(), X, y, scoring="roc_auc", cv=3).shape == (3,)
    assert CalibratedClassifierCV(small(), cv=2).fit(X, y).predict_proba(X).shape == (N, 2)
    assert StackingClassifier([("a", small()), ("b", small(alpha=1))], cv=2).fit(X, y).predict(X).shape == (
        N,
    )
    Y = np.c_[y, y[::-1]]
    with joblib.parallel_backend("threading", n_jobs=2):
        assert MultiOutputClassifier(small()).fit(X, Y).predict(X).shape == (N, 2)


def test_copies_go_on_alike():
    X, y = data("classes")
    a = small().fit(X, y)
    copies = [a, pickle.loads(pickle.dumps(a)), copy.deepcopy(a), copy.copy(a)][:3]
    assert clone(a).get_params() == a.get_params() and not hasattr(clone(a), "coefs_")
    proba = [est.predict_proba(X) for est in copies]
    assert all((p == proba[0]).all() for p in proba)
    after = [est.partial_fit(X, y).predict_proba(X) for est in copies]
    assert all((p == after[0]).all() for p in after) and not (after[0] == proba[0]).all()


def test_arrays_of_the_network():
    """coefs_ are live, and what is put in their place is what the model computes with."""
    X, y = data("output")
    est = ours.MLPRegressor("squared_error", 5, random_state=0, max_iter=3).fit(X, y)
    before = est.predict(X)
    est.intercepts_[-1] += 1
    np.testing.assert_allclose(est.predict(X), before + 1)
    est.intercepts_[-1] = est.intercepts_[-1] - 1
    np.testing.assert_allclose(est.predict(X), before)
    np.testing.assert_allclose(est.network_.forward(X)[:, 0], before)
    est.coefs_, est.intercepts_ = [np.ones((FEATURES, 1))], [np.zeros(1)]
    np.testing.assert_allclose(est.predict(X), X.sum(axis=1))


def test_tables_and_their_names():
    pandas = pytest.importorskip("pandas")
    X, y = data("binary")
    table = pandas.DataFrame(X, columns=list("abcdefg"))
    est = small(early_stopping=True, scoring="accuracy").fit(table, pandas.Series(y))
    assert list(est.feature_names_in_) == list("abcdefg") and est.classes_.tolist() == np.unique(y).tolist()
    assert (est.predict(table) == est.predict(table.astype(np.float64))).all()
    with pytest.warns(UserWarning, match="feature names"):
        est.predict(X)


def test_other_tables():
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    X, y = data("binary")
    names = list("abcdefg")
    est = small(max_iter=20).fit(X, y)
    for table in (polars.DataFrame(X, schema=names), pyarrow.table(dict(zip(names, X.T, strict=True)))):
        again = clone(est).fit(table, y)
        np.testing.assert_array_equal(again.predict_proba(table), est.predict_proba(X))


def test_metadata_is_routed():
    X, y = data("binary")
    with sklearn.config_context(enable_metadata_routing=True):
        est = small(early_stopping=True).set_fit_request(sample_weight=True, X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), est)
        pipeline.fit(X, y, sample_weight=np.ones(N), X_val=X[:50], y_val=y[:50])
    assert len(pipeline[-1].validation_scores_) == pipeline[-1].n_iter_


# -- errors and warnings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": -1},
        {"hidden_layer_sizes": (4, 0)},
        {"activation": "ghost"},
        {"solver": "hadoken"},
        {"learning_rate_init": -1.0},
        {"validation_fraction": 1.5},
        pytest.param(
            {"early_stopping": True, "validation_fraction": 0.001},
            marks=pytest.mark.skipif(OLD, reason="1.7"),
        ),
        {"beta_1": 1},
        {"n_iter_no_change": 0},
        {"batch_size": 0},
    ],
)
def test_bad_parameters(parameters):
    """The same exceptions; what an argument may be is another list where there is more of it."""
    X, y = data("output")
    raised = []
    for est in estimators("output"):
        with pytest.raises(ValueError) as error:
            est.set_params(**parameters).fit(X, y)
        raised.append(str(error.value))
    assert raised[0].split(" must be ")[0] == raised[1].split(" must be ")[0]


def test_bad_data():
    X, y = data("classes")
    for est in estimators("classes"):
        with pytest.raises(ValueError, match="classes not in"):
            est.partial_fit(X, y, classes=[0, 10])
        with pytest.raises(NotFittedError):
            est.__class__().predict(X)
        with pytest.raises(ValueError, match="NaN"):
            est.fit(np.where(X > 2, np.nan, X), y)
        est.set_params(max_iter=1).fit(X, y)
        with pytest.raises(ValueError, match="features"):
            est.predict(X[:, :3])
        with pytest.raises(ValueError, match="NaN"):
            est.predict(np.full((1, FEATURES), np.nan))
        with pytest.raises(ValueError, match="Unknown label type"):
            est.fit(X, X[:, 0])
    with pytest.raises(AttributeError, match="partial_fit"):
        small(solver="lbfgs").partial_fit(X, y)


@pytest.mark.filterwarnings("default")
def test_warnings():
    X, y = data("classes")
    for solver in ("adam", "lbfgs"):
        with pytest.warns(ConvergenceWarning, match="teration"):
            small(solver=solver, max_iter=2).fit(X, y)
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
        small(batch_size=1000).fit(X, y)


def test_what_is_printed(capsys):
    X, y = data("binary")
    printed = []
    for est in estimators("binary", verbose=True, early_stopping=True, n_iter_no_change=2, max_iter=50):
        est.fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "Stopping" in printed[1]


def test_a_training_that_diverges():
    X, y = data("output")
    options = {"solver": "sgd", "learning_rate_init": 1e6, "activation": "identity", "max_iter": 5}
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ours.MLPRegressor(**options).fit(X, y)
    est = ours.MLPRegressor(early_stopping=True, random_state=0, **options).fit(X, y)
    assert np.isnan(est.validation_scores_[-1]) and np.isfinite(est.predict(X)).all()


# -- more than the original ------------------------------------------------------------------------------------


def test_class_weights():
    X, y = data("classes")
    weights = {0: 2.0, 10: 0.5, 20: 0.0}
    a = small(class_weight=weights).fit(X, y)
    b = small().fit(X, y, sample_weight=np.array([weights[c] for c in y]))
    np.testing.assert_array_equal(curves(a), curves(b))
    assert a.predict_proba(X)[:, 2].mean() < b.set_params(max_iter=50).fit(X, y).predict_proba(X)[:, 2].mean()
    c = small(class_weight="balanced").fit(X, y, sample_weight=np.ones(N))
    assert np.isfinite(c.loss_) and not np.array_equal(curves(c), curves(a))
    with pytest.raises(ValueError, match="class_weight: got 'balanced' with partial_fit"):
        small(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_as_targets(classes):
    """Those that are all but certain are the classes; and a model learns what it is told."""
    X, _ = data("classes")
    y = np.random.default_rng(0).integers(0, classes, N)
    P = np.eye(classes)[y] * (1 - 1e-14) + 1e-14 / classes
    a = small().fit(X, P)
    assert a.classes_.tolist() == list(range(classes)) and a.predict_proba(X).shape == (N, classes)
    if classes > 2:
        np.testing.assert_allclose(curves(a), curves(small().fit(X, y)), rtol=1e-9)
    b = small(solver="lbfgs", max_iter=100, early_stopping=False).fit(X, np.full((N, classes), 1 / classes))
    np.testing.assert_allclose(b.predict_proba(X), 1 / classes, atol=0.01)
    c = small(early_stopping=True).fit(X, P)
    assert len(c.validation_scores_) == c.n_iter_
    np.testing.assert_array_equal(a.to_sklearn().predict(X), a.predict(X))


@pytest.mark.parametrize("loss", ["huber", "quantile"])
def test_losses(loss):
    X, y = data("outputs")
    est = ours.MLPRegressor(loss, max_iter=300, random_state=0, learning_rate_init=0.01).fit(X, y)
    assert est.loss_ < 0.2 * est.loss_curve_[0] and est.score(X, y) > 0.9
    with pytest.raises(ValueError, match=f"loss: got '{loss}', of which scikit-learn knows nothing"):
        est.to_sklearn()


def test_where_huber_turns_and_which_quantile():
    """Of the fit, of what it tells, and of the validation set; no number that the loss has no use for goes to the network."""
    X, y = data("output")
    shares, adam = [], fastbp.Adam(fastbp.schedules.cosine(0.01, 600))
    for tau in (0.2, 0.8):
        est = ours.MLPRegressor("quantile", 2, "identity", tau=tau, solver=adam, max_iter=300, tol=0)
        shares.append(float((y < est.set_params(random_state=0).fit(X, y).predict(X)).mean()))
        assert est.network_.tau == tau
    np.testing.assert_allclose(shares, (0.2, 0.8), atol=0.05)
    est = ours.MLPRegressor("huber", (3,), delta=0.3, max_iter=5, random_state=0)
    z = est.fit(X, y, X_val=X, y_val=y).network_.logits(X)
    told = fastbp.huber(z, y[:, None].astype(z.dtype), delta=0.3).loss
    np.testing.assert_allclose(est.validation_loss_curve_[-1], told, rtol=1e-6)
    assert (est.network_.delta, clone(est).delta) == (0.3, 0.3)
    again = pickle.loads(pickle.dumps(est))
    assert again.network_.delta == 0.3
    assert ours.MLPRegressor(delta=3.0, tau=0.9, max_iter=2).fit(X, y).network_.delta == 1.0
    for wrong in ({"delta": 0.0}, {"tau": 1.0}):
        with pytest.raises(
            ValueError, match=f"The '{next(iter(wrong))}' parameter of MLPRegressor must be a float"
        ):
            ours.MLPRegressor(**wrong).fit(X, y)


@pytest.mark.parametrize("task", ["classes", "outputs"])
def test_lbfgs_as_an_optimizer(task):
    """The solver of that name, with a memory, tolerance and decay of its own: the decay is of the mean error."""
    X, y = data(task)
    kind = ours.MLPClassifier if task == "classes" else ours.MLPRegressor

    def fitted(solver, alpha, **more):
        return kind(
            hidden_layer_sizes=5, solver=solver, alpha=alpha, max_iter=20, random_state=0, **more
        ).fit(X, y)

    lbfgs = fastbp.LBFGS(weight_decay=0.01)
    est = fitted(lbfgs, 0.01 * N)
    assert_alike(fitted("lbfgs", 0.02 * N), est, X, rtol=1e-6)
    assert lbfgs.steps == 0 and clone(est).solver is not lbfgs
    assert est.to_sklearn().solver == "lbfgs" and not hasattr(est, "partial_fit")
    assert fitted(fastbp.LBFGS(memory=1), 0).loss_ > fitted(fastbp.LBFGS(memory=20), 0).loss_
    assert fitted(fastbp.LBFGS(tolerance=10.0), 0).n_iter_ == 0


def test_dropout_and_smoothing():
    X, y = data("classes")
    parameters = {"dropout": 0.5, "hidden_layer_sizes": 50, "max_iter": 100, "alpha": 0}
    dropped = small(**parameters).fit(X, y)
    assert dropped.network_.dropout == (0.5,)
    assert dropped.loss_ > 1.05 * log_loss(y, dropped.predict_proba(X))
    np.testing.assert_array_equal(curves(dropped), curves(small(**parameters).fit(X, y)))
    again = pickle.loads(pickle.dumps(dropped)).partial_fit(X, y)
    assert again.loss_ == dropped.partial_fit(X, y).loss_
    smooth = small(max_iter=300, label_smoothing=0.3, alpha=0, early_stopping=True).fit(
        X, y, X_val=X, y_val=y
    )
    assert smooth.loss_ > -(0.8 * np.log(0.8) + 0.2 * np.log(0.1))  # the entropy of the smoothed targets
    assert smooth.validation_loss_curve_[-1] > -(0.8 * np.log(0.8) + 0.2 * np.log(0.1))


def test_an_activation_for_each_layer():
    X, y = data("classes")
    est = small(hidden_layer_sizes=(5, 4), activation=["gelu", "logistic"]).fit(X, y)
    assert est.network_.activations == ("gelu", "sigmoid")
    alike = small(hidden_layer_sizes=(5, 4), activation=["logistic", "logistic"]).fit(X, y)
    np.testing.assert_array_equal(
        curves(alike), curves(small(hidden_layer_sizes=(5, 4), activation="logistic").fit(X, y))
    )
    assert alike.to_sklearn().activation == "logistic"


def test_optimizers_of_ours():
    """With their schedules, decay and average; the estimator leaves the one that it was given alone."""
    X, y = data("classes")
    adam = fastbp.Adam(lambda step: 0.01 / (1 + step), weight_decay=0.01, average=0.5)
    est = small(solver=adam, alpha=0).fit(X, y)
    assert adam.steps == 0 and np.isfinite(est.loss_)
    w = est.network_.parameters.copy()
    assert not np.array_equal(w, est._optimizer.state(est.network_.parameters).get("velocity", 0))
    plain = small(solver=fastbp.Adam(0.001), alpha=0, epsilon=1e-8, tol=0).fit(X, y)
    near = small(solver="adam", alpha=0, tol=0).fit(X, y)
    np.testing.assert_allclose(curves(plain), curves(near), rtol=1e-4)  # but for where ε stands
    assert small(solver=fastbp.SGD(0.1), clip_norm=1e-9, alpha=0).fit(X, y).loss_curve_[-1] > 1


@pytest.mark.parametrize("kind", sorted(fastbp.optimizers.OPTIMIZERS, key=str))
def test_every_optimizer(kind):
    X, y = data("classes")
    est = small(solver=kind(0.01), max_iter=30).fit(X, y)
    assert est.loss_ < 0.9 * est.loss_curve_[0]
    assert est.to_sklearn().solver == "adam" and clone(est).solver is not est.solver


def test_a_validation_set_of_ones_own():
    X, y = data("classes")
    held = {"X_val": X[:60], "y_val": y[:60], "sample_weight_val": np.arange(60.0)}
    est = small().fit(X[60:], y[60:], **held)
    assert est.validation_scores_ is None and len(est.validation_loss_curve_) == est.n_iter_ == 8
    p = np.log(est.predict_proba(X[:60]))[np.arange(60), np.searchsorted(est.classes_, y[:60])]
    np.testing.assert_allclose(
        est.validation_loss_curve_[-1], -np.average(p, weights=np.arange(60)), rtol=1e-9
    )
    est = small(early_stopping=True, max_iter=60, n_iter_no_change=3).fit(X[60:], y[60:], **held)
    best = est.score(X[:60], y[:60], sample_weight=np.arange(60.0))
    np.testing.assert_allclose(best, est.best_validation_score_)
    scored = small(early_stopping=True, scoring="neg_log_loss").fit(X[60:], y[60:], **held)
    np.testing.assert_allclose(scored.validation_scores_, -np.array(scored.validation_loss_curve_), rtol=1e-6)


def test_a_time_limit():
    X, y = data("classes")
    est = small(max_iter=10**6, time_limit=0.1, tol=0, n_iter_no_change=np.inf).fit(X, y)
    assert 0 < est.n_iter_ < 10**6 and np.isfinite(est.loss_)


def test_log_probabilities_without_infinity():
    X, y = data("binary")
    for task in ("binary", "classes", "labels"):
        X, y = data(task)
        est = small(solver="lbfgs", max_iter=50).fit(X, y)
        np.testing.assert_allclose(
            np.exp(est.predict_log_proba(X)), est.predict_proba(X), rtol=1e-9, atol=1e-15
        )
        assert np.isfinite(est.predict_log_proba(1e6 * X)).all()


@pytest.mark.skipif(not hasattr(ours.MLPClassifier, "set_callbacks"), reason="scikit-learn before 1.9")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks(solver):
    X, y = data("classes")
    seen = []

    class Callback:
        def setup(self, estimator, context):
            seen.append("setup")

        def teardown(self, estimator, context):
            seen.append("teardown")

        def on_fit_task_begin(self, estimator, context, *, X=None):
            seen.append(f"begin {context.task_name}")

        def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
            seen.append(fitted_estimator.score(X, y))
            return context.task_name == "epoch" and context.task_id == 2

    est = small(solver=solver).set_callbacks(Callback()).fit(X, y)
    names = [entry for entry in seen if isinstance(entry, str)]
    assert names == ["setup", "begin fit", *["begin epoch"] * 3, "teardown"]
    assert (
        est.n_iter_ == 3
        and seen[-2] == est.score(X, y)
        and len({s for s in seen if isinstance(s, float)}) > 1
    )


def test_a_picture():
    pytest.importorskip("matplotlib").use("Agg")
    X, y = data("classes")
    est = small(early_stopping=True).fit(X, y)
    lines = est.plot_loss_curve().get_lines()
    np.testing.assert_array_equal(lines[0].get_ydata(), est.loss_curve_)
    np.testing.assert_array_equal(lines[1].get_ydata(), est.validation_loss_curve_)


# -- there and back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("task", TASKS)
def test_models_cross_over(task, solver):
    X, y = data(task)
    a, b = (est.set_params(solver=solver, max_iter=10).fit(X, y) for est in estimators(task))
    for there in (ours.from_sklearn(a), b.to_sklearn(), ours.from_sklearn(b.to_sklearn())):
        function = "predict_proba" if hasattr(a, "classes_") else "predict"
        want = getattr(a, function)(X)
        np.testing.assert_allclose(getattr(there, function)(X), want, rtol=1e-9, atol=1e-12)
        there.set_params(warm_start=True, max_iter=2).fit(X, y)
        there.set_params(early_stopping=True, warm_start=False).fit(X, y)
    np.testing.assert_allclose(ours.from_sklearn(a).coefs_[0], a.coefs_[0], rtol=0)
    with pytest.raises(TypeError, match="estimator: got StandardScaler"):
        ours.from_sklearn(StandardScaler())
    with pytest.raises(NotFittedError):
        ours.from_sklearn(type(a)())
    with pytest.raises(ValueError, match="activation: got 'gelu', of which scikit-learn knows nothing"):
        b.set_params(activation="gelu").fit(X, y).to_sklearn()


def test_to_onnx():
    skl2onnx, runtime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    X, y = data("classes")
    est = small().fit(X.astype(np.float32), y)
    model = skl2onnx.to_onnx(est.to_sklearn(), X[:1].astype(np.float32), options={"zipmap": False})
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, proba = session.run(None, {session.get_inputs()[0].name: X.astype(np.float32)})
    np.testing.assert_array_equal(labels, est.predict(X))
    np.testing.assert_allclose(proba, est.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("name", ["classifier", "regressor", "crossing"])
def test_examples_of_docstrings(name):
    module = importlib.import_module(f"fastbp.sklearn.{name}")
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_differences_are_those_of_the_page():
    page = Path(__file__).parents[1] / "docs/scikit-learn.md"
    assert differences.table() in page.read_text(encoding="utf-8")
    assert len(differences.OWN_TESTS) <= 4


def test_without_scikit_learn(monkeypatch):
    real = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'fastbp[sklearn]'")):
        importlib.reload(ours)
