"""`MLPClassifier` and `MLPRegressor`: what their targets are, and what their outputs mean."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastbp import activations
from fastbp.sklearn import callbacks
from fastbp.sklearn.perceptron import Perceptron, fits_by_batches, keep


class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]
    """TODO"""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="both")],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
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
        label_smoothing: float = 0.0,
        dropout: Any = 0.0,
        clip_norm: float | None = None,
        scoring: Any = None,
        time_limit: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        keep(self, locals())

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

    @available_if(fits_by_batches)  # type: ignore[untyped-decorator]
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

    def _error(self) -> str:
        return "softmax_cross_entropy" if self._is_softmax() else "sigmoid_cross_entropy"

    def _n_outputs(self, targets: np.ndarray) -> int:
        return len(self.classes_) if self._is_softmax() else targets.shape[1]

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
        if self._is_softmax():
            return self.classes_.take(targets if targets.ndim == 1 else targets.argmax(axis=1))
        return self._label_binarizer.inverse_transform(targets.astype(float))  # type: ignore[no-any-return]

    def _score_of(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The accuracy of logits."""
        if self._is_softmax():
            right = z.argmax(axis=1) == (targets if targets.ndim == 1 else targets.argmax(axis=1))
        else:
            right = ((z > 0) == (targets > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    def predict(self, X: Any) -> np.ndarray:
        """The class"""
        z = self._logits(X)
        if self._is_softmax():
            return self.classes_.take(z.argmax(axis=1))
        p = self._network._outputs(z)
        return self._label_binarizer.inverse_transform(p.ravel() if self.n_outputs_ == 1 else p)  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> np.ndarray:
        """P"""
        z = self._logits(X)
        if self.n_outputs_ == 1:
            return activations.sigmoid(np.column_stack([-z, z]))
        return self._network._outputs(z)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log P"""
        z = self._logits(X)
        if self._is_softmax():
            return activations.log_softmax(z)
        if self.n_outputs_ > 1:
            with np.errstate(divide="ignore"):  # log of predict_proba, which is the same for labels as good as certain, but no -inf
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


class MLPRegressor(RegressorMixin, Perceptron):  # type: ignore[misc]
    """TODO"""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "huber", "quantile"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
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
        dropout: Any = 0.0,
        clip_norm: float | None = None,
        scoring: Any = None,
        time_limit: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        keep(self, locals())

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

    @available_if(fits_by_batches)  # type: ignore[untyped-decorator]
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

    def _error(self) -> str:
        return "poisson_deviance" if self.loss == "poisson" else self.loss

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
