"""`MLPClassifier` and `MLPRegressor`: scikit-learn's arguments, translated; what is fitted is a `fastbp.MLP`."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context, is_classifier
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state, column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp import activations
from fastbp.model import MLP
from fastbp.optimizers import Optimizer
from fastbp.outputs import LOSSES
from fastbp.sklearn import callbacks, crossing, solvers, training
from fastbp.sklearn.examples import logits, rows_of

_ACTIVATIONS = {"logistic": "sigmoid"}  # scikit-learn's names of ours, where they differ
_LOSSES = {"poisson": "poisson_deviance"}
_OUTPUTS = {"softmax_cross_entropy": "softmax", "sigmoid_cross_entropy": "logistic", "poisson_deviance": "exp"}
_BATCHWISE = ("sgd", "adam")

Sizes: TypeAlias = Any  # an int, or a sequence of them


def _keep(est: BaseEstimator, arguments: dict[str, Any]) -> None:
    """All arguments of a constructor, as they were given."""
    vars(est).update((name, value) for name, value in arguments.items() if name not in ("self", "__class__"))


def _fits_by_batches(est: Any) -> bool:
    if est.solver == "lbfgs":
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {est.solver} is not stochastic."
        )
    return True


class _Perceptron(callbacks.Mixin, BaseEstimator):  # type: ignore[misc]
    """What both have in common."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"logistic", *activations.ACTIVATIONS}), list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"}), Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [str, callable, None],
        "time_limit": [Interval(Real, 0, None, closed="left"), None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    # The network ------------------------------------------------------------------------------------------

    @property
    def network_(self) -> MLP:
        """The fitted :class:`fastbp.MLP`; `coefs_` and `intercepts_` are its live arrays."""
        check_is_fitted(self)
        net: MLP | None = vars(self).get("_network")
        arrays = (*self.coefs_, *self.intercepts_)
        if net is not None:
            parts = (*net.weights, *net.biases)
            if len(parts) == len(arrays) and all(map(_is, arrays, parts)):
                return net
        return self._adopt(net)

    def _adopt(self, net: MLP | None) -> MLP:
        """The network of arrays that somebody put into `coefs_` and `intercepts_`, or that were unpickled."""
        sizes = [self.coefs_[0].shape[0], *(w.shape[1] for w in self.coefs_)]
        dtype = np.dtype(np.result_type(np.float32, *self.coefs_))
        if net is None or list(net.layer_sizes) != sizes or net.dtype != dtype:
            net = self._new_network(sizes, dtype)
        for array, given in zip(
            (*net.weights, *net.biases), (*self.coefs_, *self.intercepts_), strict=True
        ):
            array[...] = given
        return self._show(net)

    def _new_network(self, sizes: list[int], dtype: np.dtype) -> MLP:
        names = self.activation
        names = [names] if isinstance(names, str) else list(names)
        ours = [_ACTIVATIONS.get(name, name) for name in names]
        loss = {output: loss for loss, output in _OUTPUTS.items()}.get(self.out_activation_)
        loss = loss or _LOSSES.get(self.loss, self.loss)
        net = MLP(sizes, activation=ours[0], loss=loss, dtype=dtype, n_threads=self.n_threads, init="zeros")
        if is_classifier(self) and (self.out_activation_ == "softmax" or self.n_outputs_ == 1):
            net._engine.largest_error = -np.log(np.finfo(dtype).eps)  # of a probability that is clipped there
        return net

    def _show(self, net: MLP) -> MLP:
        self._network = net
        self.coefs_, self.intercepts_ = list(net.weights), list(net.biases)
        return net

    def _draw(self, net: MLP) -> None:
        """Initial parameters from scikit-learn's random numbers: Glorot's, in float64."""
        for weight, bias in zip(net.weights, net.biases, strict=True):
            bound = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / sum(weight.shape))
            weight[...] = self._random_state.uniform(-bound, bound, weight.shape)
            bias[...] = self._random_state.uniform(-bound, bound, bias.shape)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_network"}  # coefs_ says it all

    # Fitting ----------------------------------------------------------------------------------------------

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool = False, held: tuple[Any, ...] = ()
    ) -> Any:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if np.any(np.array(hidden) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, targets = self._examples(X, y, incremental, first)
        weights = self._weights(sample_weight, X, targets, incremental)
        self._random_state = check_random_state(self.random_state)
        self.n_outputs_ = self._n_outputs(targets)
        if first:
            self._begin([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        net = self.network_
        objective = solvers.Objective(
            net, rows_of(X, net.dtype), self._cast(targets, net.dtype), weights, self.alpha, self._share()
        )
        objective.clip_norm = self.clip_norm or 0.0
        with callbacks.around(self, X, y) as told:
            if self.solver == "lbfgs":
                training.lbfgs(self, objective, told)
            else:
                self._fit_by_batches(objective, incremental, held, told)
        if not np.isfinite(net.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need "
                "to be preprocessed."
            )
        return self

    def _fit_by_batches(
        self, objective: solvers.Objective, incremental: bool, held: tuple[Any, ...], told: Any
    ) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._steps()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        training.stochastic(self, objective, self._held(*held) if held else None, incremental, told)

    def _begin(self, sizes: list[int], dtype: np.dtype) -> None:
        """The attributes of a network that has learned nothing yet."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self._show(self._new_network(sizes, dtype))
        self._draw(self._network)
        self._best_parameters = self._network.parameters.copy()
        if self.solver == "lbfgs":
            return
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        self.best_loss_ = None if self.early_stopping else np.inf

    def _steps(self) -> solvers.Steps:
        if self.solver == "sgd":
            return solvers.sgd(float(self.learning_rate_init), self.momentum, self.nesterovs_momentum)
        if self.solver == "adam":
            return solvers.adam(float(self.learning_rate_init), self.beta_1, self.beta_2, self.epsilon)
        optimizer = copy.deepcopy(self.solver)
        optimizer.reset()
        return solvers.Steps(optimizer)

    def _weights(self, sample_weight: Any, X: Any, targets: np.ndarray, incremental: bool) -> np.ndarray | None:
        if sample_weight is None:
            return None
        return np.ascontiguousarray(_check_sample_weight(sample_weight, X), np.float64)

    def _held(self, X: Any, y: Any, sample_weight: Any) -> training.Validation:
        """A validation set that the user brings."""
        net = self.network_
        X, targets = self._examples(X, y, True, False)
        weights = None if sample_weight is None else self._weights(sample_weight, X, targets, True)
        return training.Validation(rows_of(X, net.dtype), self._cast(targets, net.dtype), weights)

    @staticmethod
    def _cast(targets: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return targets if targets.dtype == np.int64 and targets.ndim == 1 else np.ascontiguousarray(targets, dtype)

    def _share(self) -> float:
        """scikit-learn's squared error is reported as a mean over outputs, though its gradient is that of their sum."""
        return 1.0 / self.n_outputs_ if self.loss == "squared_error" else 1.0

    def _loss(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The mean error of logits."""
        error = LOSSES[self._network.loss_name].error
        with np.errstate(all="ignore"):
            return float(error(z, targets, sample_weight=weights).loss) * self._share()

    # Predicting -------------------------------------------------------------------------------------------

    def _logits(self, X: Any) -> np.ndarray:
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        if not self._is_plain(X):
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return logits(self.network_, X)

    def _is_plain(self, X: Any) -> bool:
        """Whether one look shows that nothing is to be said about `X`."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in _FLOATS
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and "feature_names_in_" not in vars(self)
            and bool(np.isfinite(X).all())
        )

    def plot_loss_curve(self, ax: Any = None) -> Any:
        """Draw `loss_curve_`, and the loss or the score of the validation set where there is one; needs Matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        check_is_fitted(self, "loss_curve_")
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        epochs = range(1, len(self.loss_curve_) + 1)
        ax.plot(epochs, self.loss_curve_, label="loss")
        if self.validation_loss_curve_:
            ax.plot(epochs[-len(self.validation_loss_curve_) :], self.validation_loss_curve_, label="validation loss")
        ax.set(xlabel="epoch", ylabel="loss")
        ax.legend()
        return ax

    def to_sklearn(self) -> Any:
        """The same model as an estimator of scikit-learn: equal predictions, no dependence on fastbp.

        Raises
        ------
        ValueError
            If scikit-learn has no such model, as of other activations or losses.
        """
        return crossing.to_sklearn(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _is(a: Any, b: Any) -> bool:
    return a is b


class MLPClassifier(ClassifierMixin, _Perceptron):  # type: ignore[misc]
    """TODO"""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_Perceptron._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: Sizes = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        clip_norm: float | None = None,
        scoring: Any = None,
        time_limit: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        _keep(self, locals())

    @callbacks.with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPClassifier:
        """Fit."""
        held = () if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held=held)  # type: ignore[no-any-return]

    @available_if(_fits_by_batches)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """One epoch"""
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def _examples(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not sparse.issparse(y) and _are_probabilities(y):
            return X, self._probabilities(y, incremental)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        return X, self._encoded(y)

    def _check_classes(self, classes: np.ndarray) -> None:
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _encoded(self, y: Any) -> np.ndarray:
        """Class indices (N,) for a softmax, else rows of 0 and 1."""
        kind = self._label_binarizer.y_type_
        self.out_activation_ = "softmax" if kind == "multiclass" else "logistic"
        if kind == "multiclass":
            return np.searchsorted(self.classes_, y).astype(np.int64, copy=False)
        return self._label_binarizer.transform(y)  # type: ignore[no-any-return]

    def _probabilities(self, y: np.ndarray, incremental: bool) -> np.ndarray:
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(np.arange(y.shape[1]))
            self._label_binarizer.y_type_ = "multiclass"  # of two classes, too
            self.classes_ = self._label_binarizer.classes_
        elif y.shape[1] != len(self.classes_):
            raise ValueError(f"y: got {y.shape[1]} columns of probabilities, expected {len(self.classes_)}")
        self.out_activation_ = "softmax"
        return y

    def _n_outputs(self, targets: np.ndarray) -> int:
        return len(self.classes_) if self.out_activation_ == "softmax" else targets.shape[1]

    def _weights(self, sample_weight: Any, X: Any, targets: np.ndarray, incremental: bool) -> np.ndarray | None:
        weights = super()._weights(sample_weight, X, targets, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            raise ValueError("class_weight: got 'balanced' with partial_fit, expected a dict or None")
        of_class = compute_sample_weight(self.class_weight, self._truth(targets))
        return of_class if weights is None else weights * of_class  # type: ignore[no-any-return]

    def _truth(self, targets: np.ndarray) -> np.ndarray:
        """Labels, as the user knows them, of targets."""
        if self.out_activation_ == "softmax":
            return self.classes_.take(targets if targets.ndim == 1 else targets.argmax(axis=1))
        return self._label_binarizer.inverse_transform(targets.astype(float))  # type: ignore[no-any-return]

    def _score_of(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The accuracy of logits."""
        if self.out_activation_ == "softmax":
            right = z.argmax(axis=1) == (targets if targets.ndim == 1 else targets.argmax(axis=1))
        else:
            right = ((z > 0) == (targets > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    def predict(self, X: Any) -> np.ndarray:
        """The class"""
        z = self._logits(X)
        if self.out_activation_ == "softmax":
            return self.classes_.take(z.argmax(axis=1))
        p = self._network._outputs(z)
        return self._label_binarizer.inverse_transform(p.ravel() if self.n_outputs_ == 1 else p)  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> np.ndarray:
        """P"""
        p = self._network_outputs(X)
        return np.column_stack([1 - p, p]) if self.n_outputs_ == 1 else p

    def _network_outputs(self, X: Any) -> np.ndarray:
        z = self._logits(X)
        return self._network._outputs(z)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log P"""
        z = self._logits(X)
        if self.out_activation_ == "softmax":
            return activations.log_softmax(z)
        if self.n_outputs_ > 1:
            with np.errstate(divide="ignore"):  # as np.log of predict_proba, which ties where it is 1, but no -inf
                return np.where(z < 0, -activations.softplus(-z), np.log(activations.sigmoid(z)))
        return -np.column_stack([activations.softplus(z), activations.softplus(-z)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _are_probabilities(y: np.ndarray) -> bool:
    """Whether the rows are probabilities of classes, not sets of labels."""
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind != "f":
        return False
    return bool((y >= 0).all() and np.allclose(y.sum(axis=1), 1.0, rtol=0, atol=1e-6) and (y % 1 != 0).any())


class MLPRegressor(RegressorMixin, _Perceptron):  # type: ignore[misc]
    """TODO"""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "huber", "quantile"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Sizes = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        clip_norm: float | None = None,
        scoring: Any = None,
        time_limit: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        _keep(self, locals())

    @callbacks.with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPRegressor:
        """Fit."""
        held = () if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held=held)  # type: ignore[no-any-return]

    @available_if(_fits_by_batches)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """One epoch"""
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def _examples(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if first:
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        return X, y.reshape(-1, 1) if y.ndim == 1 else y

    def _n_outputs(self, targets: np.ndarray) -> int:
        return targets.shape[1]

    def _truth(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def _score_of(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """R² of outputs."""
        y = self._network._outputs(z)
        return float(r2_score(targets, y, sample_weight=weights)) if np.isfinite(y).all() else np.nan

    def predict(self, X: Any) -> np.ndarray:
        """The outputs"""
        z = self._logits(X)
        y = self._network._outputs(z)
        return y.ravel() if y.shape[1] == 1 else y
