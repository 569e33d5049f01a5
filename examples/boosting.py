"""
Gradient boosting by our errors
===============================

The error functions as objectives, each in the form that XGBoost and LightGBM ask for.

A custom objective of theirs, ``XGBClassifier(objective=softmax)`` or ``LGBMModel(objective=poisson)``, is a function
``objective(y_true, y_pred) -> (grad, hess)``: first and second derivatives of the *sum* of the errors by the raw scores, (N,) or
(N, C). `fastbp.objectives` has those of the cross-entropies, with class weights, smoothing and soft labels; of any other error
the gradient is what its function returns with reduction="sum". To show what becomes of them, a booster of stumps stands below.
Where XGBoost or LightGBM is installed, it trains as well.
"""

import importlib.util

import matplotlib.pyplot as plt
import numpy as np

import fastbp
from fastbp import objectives


def poisson(y_true, y_pred):
    """Counts, of which the score is the logarithm: dE/dz = exp(z) - t, d²E/dz² = exp(z)."""
    grad = fastbp.poisson_deviance(y_pred, y_true, reduction="sum").grad
    return grad, grad + y_true


class Stumps:
    """Scores (N, C) as sums of stumps: each splits the examples at one threshold of one of their features."""

    def __init__(self, objective, n_rounds, learning_rate=0.3, regularization=1.0):
        self.objective, self.n_rounds = objective, n_rounds
        self.learning_rate, self.regularization = learning_rate, regularization

    def fit(self, X, y, n_scores):
        self.stumps = []  # (score, feature, threshold, value up to it, value beyond it)
        order = np.argsort(X, axis=0, kind="stable")
        z = np.zeros((len(X), n_scores))
        for _ in range(self.n_rounds):
            grad, hess = self.objective(y, z)
            for score in range(n_scores):
                stump = (score, *self._best_split(X, order, grad[:, score], hess[:, score]))
                self.stumps.append(stump)
                self._add(z, X, stump)
        return self

    def decision_function(self, X, n_scores):
        z = np.zeros((len(X), n_scores))
        for stump in self.stumps:
            self._add(z, X, stump)
        return z

    def _best_split(self, X, order, grad, hess):
        """A Newton step on either side: -G/(H + λ), which gains G²/(H + λ), G and H the sums over that side."""
        left_g, left_h = grad[order].cumsum(axis=0)[:-1], hess[order].cumsum(axis=0)[:-1]
        right_g, right_h = grad.sum() - left_g, hess.sum() - left_h
        left, right = left_h + self.regularization, right_h + self.regularization
        sorted_x = np.take_along_axis(X, order, axis=0)
        gain = np.where(sorted_x[:-1] < sorted_x[1:], left_g**2 / left + right_g**2 / right, -np.inf)
        at = i, feature = np.unravel_index(gain.argmax(), gain.shape)
        return feature, sorted_x[i, feature], -left_g[at] / left[at], -right_g[at] / right[at]

    def _add(self, z, X, stump):
        score, feature, threshold, low, high = stump
        z[:, score] += self.learning_rate * np.where(X[:, feature] <= threshold, low, high)


def in_xgboost(X, labels, X_test):
    import xgboost as xgb

    parameters = {"objective": "multi:softprob", "num_class": 10, "nthread": 1, "max_depth": 3}
    objective = objectives.xgboost_softmax(label_smoothing=0.05)
    data = xgb.DMatrix(X, labels, nthread=1)
    return xgb.train(parameters, data, 10, obj=objective).predict(xgb.DMatrix(X_test, nthread=1))


def in_lightgbm(X, labels, X_test):
    import lightgbm as lgb

    objective = objectives.lightgbm_softmax(label_smoothing=0.05)
    parameters = {"objective": objective, "num_class": 10, "num_threads": 1, "num_leaves": 8, "verbose": -1}
    return lgb.train(parameters, lgb.Dataset(X, labels), 10).predict(X_test)


def draw(x, counts, rates):
    _, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    order = np.argsort(x)
    axes.plot(x, counts, ".", color="0.8", label="counts")
    axes.plot(x[order], np.exp(np.sin(2 * x[order])), "k:", label="their true rate")
    axes.step(x[order], rates[order], label="40 stumps by poisson_deviance")
    axes.set(xlabel="x")
    axes.legend()
    plt.show()


def main():
    X, labels = fastbp.datasets.load_digits()
    X_test, labels_test, X, labels = X[1500:], labels[1500:], X[:1500], labels[:1500]
    model = Stumps(objectives.lightgbm_softmax(label_smoothing=0.05), n_rounds=10).fit(X, labels, n_scores=10)
    z = model.decision_function(X_test, n_scores=10)
    error = fastbp.softmax_cross_entropy(z, labels_test).loss
    accuracy = (z.argmax(axis=1) == labels_test).mean()
    print(f"digits: cross-entropy {error:.3f}, accuracy {accuracy:.3f} after {len(model.stumps)} stumps")
    assert accuracy > 0.7

    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (1000, 1))
    counts = rng.poisson(np.exp(np.sin(2 * x)))
    z = Stumps(poisson, n_rounds=40).fit(x, counts, n_scores=1).decision_function(x, n_scores=1)
    deviance, null = (
        fastbp.poisson_deviance(s, counts).loss for s in (z, np.full_like(z, np.log(counts.mean())))
    )
    print(f"counts: half the deviance {deviance:.3f}, of their mean alone {null:.3f}")
    assert deviance < 0.75 * null
    draw(x[:, 0], counts[:, 0], np.exp(z[:, 0]))

    bits = (labels_test % 2)[:, None]
    z = (
        Stumps(objectives.lightgbm_logistic(), n_rounds=30)
        .fit(X, (labels % 2)[:, None], n_scores=1)
        .decision_function(X_test, n_scores=1)
    )
    error = fastbp.sigmoid_cross_entropy(z, bits).loss
    print(f"odd or even: cross-entropy {error:.3f}, accuracy {((z > 0) == bits).mean():.3f}")
    assert error < 0.5

    for name, train in (("xgboost", in_xgboost), ("lightgbm", in_lightgbm)):
        if importlib.util.find_spec(name):
            accuracy = (train(X, labels, X_test).argmax(axis=1) == labels_test).mean()
            print(f"digits, {name}: accuracy {accuracy:.3f} with smoothed labels")
            assert accuracy > 0.8


if __name__ == "__main__":
    main()
