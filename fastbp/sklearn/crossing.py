"""Fitted models from scikit-learn's estimators to ours and back, with the same parameters: predictions are equal."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from sklearn import neural_network
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from fastbp.lbfgs import LBFGS

if TYPE_CHECKING:
    from fastbp.sklearn.classifier import MLPClassifier
    from fastbp.sklearn.regressor import MLPRegressor

_PRIVATE = ("_label_binarizer", "_no_improvement_count")  # of scikit-learn's attributes, those that both have
_THEIRS = {"sigmoid": "logistic", "poisson_deviance": "poisson"}  # names of theirs
_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
_LOSSES = ("log_loss", "squared_error", "poisson")


def from_sklearn(estimator: Any) -> MLPClassifier | MLPRegressor:
    """A fitted estimator of scikit-learn as one of ours.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted. It is not changed, and shares nothing with what is returned.

    Returns
    -------
    MLPClassifier or MLPRegressor
        With its parameters and fitted attributes, ready to predict. Further training begins with a new state of the optimizer.

    Raises
    ------
    TypeError
        If it is another kind of estimator.
    sklearn.exceptions.NotFittedError

    Examples
    --------
    >>> import sklearn.neural_network, fastbp.sklearn
    >>> theirs = sklearn.neural_network.MLPRegressor(hidden_layer_sizes=4, solver="lbfgs", random_state=0)
    >>> theirs = theirs.fit([[0], [1], [2]], [1, 3, 5])
    >>> ours = fastbp.sklearn.from_sklearn(theirs)
    >>> bool(abs(ours.predict([[1.5]]) - theirs.predict([[1.5]])) < 1e-12)
    True
    """
    from fastbp import sklearn as ours

    for name in ("MLPClassifier", "MLPRegressor"):
        if isinstance(estimator, getattr(neural_network, name)):
            new = _new(getattr(ours, name), estimator)
            new._best_parameters = new.network_.parameters.copy()
            new.validation_loss_curve_ = []
            return new  # type: ignore[no-any-return]
    got = type(estimator).__name__
    raise TypeError(f"estimator: got {got}, expected MLPClassifier or MLPRegressor of scikit-learn")


def to_sklearn(estimator: Any) -> Any:
    """A fitted estimator of ours as one of scikit-learn; see `MLPClassifier.to_sklearn`."""
    check_is_fitted(estimator)
    net = estimator.network_  # not the parameters, which may have been set since
    activation = _one(net.activation if net.activations else estimator.activation)
    activation = _THEIRS.get(activation, activation)
    loss = (
        estimator.loss if estimator._error() == net.loss_name else _THEIRS.get(net.loss_name, net.loss_name)
    )
    _check_known("activation", activation, _ACTIVATIONS)
    _check_known("loss", loss, _LOSSES)
    name = "MLPClassifier" if is_classifier(estimator) else "MLPRegressor"
    theirs = _new(getattr(neural_network, name), estimator)
    theirs.set_params(activation=activation, **({} if is_classifier(estimator) else {"loss": loss}))
    if not isinstance(estimator.solver, str):
        theirs.set_params(solver="lbfgs" if isinstance(estimator.solver, LBFGS) else "adam")
    theirs._best_coefs = copy.deepcopy(theirs.coefs_)
    theirs._best_intercepts = copy.deepcopy(theirs.intercepts_)
    return theirs


def _new(kind: Any, estimator: Any) -> Any:
    """A new estimator of this kind, with the parameters and fitted attributes of another one."""
    check_is_fitted(estimator)
    known = inspect.signature(kind).parameters
    parameters = estimator.get_params(deep=False)
    new = kind(**{name: value for name, value in parameters.items() if name in known})
    for name, value in vars(estimator).items():
        if (name.endswith("_") and not name.startswith("_")) or name in _PRIVATE:
            setattr(new, name, copy.deepcopy(value))
    return new


def _one(activation: Any) -> Any:
    """The one activation of all layers, if there is one."""
    names = {activation} if isinstance(activation, str) else set(activation)
    return names.pop() if len(names) == 1 else activation


def _check_known(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"{name}: got {value!r}, of which scikit-learn knows nothing, expected one of {', '.join(known)}"
        )
