"""`MLPClassifier`: what its targets are, and what its outputs mean."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastbp import activations
from fastbp.sklearn import callbacks
from fastbp.sklearn.perceptron import Perceptron, fits_by_batches, keep


class MLPClassifier(ClassifierMixin, Perceptron):
    """scikit-learn's classifier of the same name, on fastbp's kernels, with more options.

    It minimizes the cross-entropy: of a softmax for several classes, of logistic outputs for two, or for sets of labels.

    Parameters
    ----------
    hidden_layer_sizes, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, \
    verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
    n_iter_no_change, max_fun
        As in scikit-learn's :class:`~sklearn.neural_network.MLPClassifier`, with the same defaults.
    activation : str, or one for each hidden layer, default "relu"
        Also those of :class:`fastbp.MLP`, besides scikit-learn's identity, logistic, tanh and relu.
    solver : {"lbfgs", "sgd", "adam"}, an optimizer of :mod:`fastbp.optimizers` or :class:`fastbp.LBFGS`, default "adam"
        An optimizer brings its own rates, schedules and average, or memory and tolerance; `alpha` is added to its weight decay.
    class_weight : dict or "balanced", optional
        A weight for each class, multiplied into the sample weights; ``"balanced"``: N / (C · how often the class occurs).
    label_smoothing : float in [0, 1], default 0
        Targets t become (1 - s) t + s/C.
    dropout : float in [0, 1), or one for each hidden layer, default 0
        How many outputs of the hidden layers are set to 0 at random while the network trains.
    clip_norm : float > 0, optional
        A gradient whose norm is larger is scaled down to it.
    scoring : str or callable, optional
        By which `early_stopping` judges, in place of the accuracy; as in :func:`sklearn.metrics.check_scoring`.
    time_limit : float, optional
        Seconds after which a fit by batches ends; it keeps what it has learned.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as :func:`fastbp.show_config` tells.
    precision : {"highest", "high", "medium"}, optional
        Of float32 matrix products; by default the one that :func:`fastbp.get_precision` tells.

    Attributes
    ----------
    classes_ : numpy.ndarray, or a list of them
    coefs_, intercepts_, loss_, loss_curve_, best_loss_, validation_scores_, best_validation_score_, n_iter_, t_, n_layers_, \
    n_outputs_, out_activation_, n_features_in_, feature_names_in_
        Those of scikit-learn's. The arrays are live: the model computes with what is written into them.
    validation_loss_curve_ : list of float
        The error of the validation set after each epoch, where there is one.
    network_ : fastbp.MLP
        The fitted network, for everything that there is for one: files, ONNX, gradients.

    Notes
    -----
    An epoch is one call of the engine. Where scikit-learn's objective, random numbers or reasons to stop are not what one might
    expect, they are followed all the same; docs/scikit-learn.md has the few differences.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from fastbp.sklearn import MLPClassifier
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> model = MLPClassifier(random_state=1, max_iter=300, tol=1e-3).fit(X, y)
    >>> model.predict_proba(X[:2]).round(2)
    array([[0.05, 0.95],
           [0.11, 0.89]])
    """

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
        precision: str | None = None,
    ) -> None:
        keep(self, locals())

    @callbacks.with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array, table or sparse matrix, shape (N, I)
        y : labels (N,), sets of labels (N, C) of 0 and 1, or probabilities (N, C)
            Rows of numbers in [0, 1] that sum to 1, not all of them 0 and 1, are the probabilities of the classes 0, 1, ...
        sample_weight : numbers >= 0, shape (N,), optional
            A batch whose weights are all 0 is skipped.
        X_val, y_val, sample_weight_val : optional
            A validation set, in place of one that `early_stopping` would split off.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, held=self._given(X_val, y_val, sample_weight_val))

    @available_if(fits_by_batches)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch more, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.
        classes : array, optional
            All the classes that there will be, in the first call.

        Returns
        -------
        self
        """
        if not hasattr(self, "coefs_"):
            self.__dict__.pop("classes_", None)  # of a call that has failed
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def _examples(
        self, X: Any, y: Any, incremental: bool, first: bool, held: bool = False
    ) -> tuple[Any, np.ndarray]:
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
        probabilities = not sparse.issparse(y) and _are_probabilities(y)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._learn_classes(np.arange(y.shape[1]) if probabilities else y)
        elif not probabilities:
            self._check_classes(unique_labels(y), all_of_them=self.warm_start and not held)
        elif y.shape[1] != len(self.classes_):
            raise ValueError(f"y: got {y.shape[1]} columns of probabilities, expected {len(self.classes_)}")
        if first:
            kind = "multiclass" if probabilities else self._label_binarizer.y_type_
            self._label_binarizer.y_type_ = kind  # of two classes, too
            self.out_activation_ = "softmax" if kind == "multiclass" else "logistic"
        self._see_same_kind(y, probabilities)
        return X, y if probabilities else self._encoded(y)

    def _learn_classes(self, y: Any) -> None:
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_

    def _check_classes(self, classes: np.ndarray, all_of_them: bool) -> None:
        if all_of_them:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _see_same_kind(self, y: Any, probabilities: bool) -> None:
        """See that targets are of the kind that the network was made for."""
        of_sets = self._label_binarizer.y_type_ == "multilabel-indicator"
        if self._is_softmax():
            good, expected = probabilities or y.ndim == 1, "(N,), or rows of probabilities"
        elif of_sets:
            good = y.ndim == 2 and y.shape[1] == len(self.classes_) and not probabilities
            expected = f"(N, {len(self.classes_)}), sets of labels"
        else:
            good, expected = y.ndim == 1, "(N,)"
        if not good:
            raise ValueError(f"y: got shape {y.shape}, expected {expected}, as before")

    def _encoded(self, y: Any) -> np.ndarray:
        """Class indices (N,) for a softmax, else rows of 0 and 1."""
        kind = self._label_binarizer.y_type_
        if kind == "multiclass":
            places: np.ndarray = np.searchsorted(self.classes_, y)
            return places.astype(np.int64, copy=False)
        rows: np.ndarray
        if kind == "binary" and len(self.classes_) == 2:  # the same, without a second look at all labels
            rows = (y == self.classes_[1]).astype(np.int64).reshape(-1, 1)
        else:
            rows = self._label_binarizer.transform(y)
        return rows

    def _error(self) -> str:
        return "softmax_cross_entropy" if self._is_softmax() else "sigmoid_cross_entropy"

    def _n_outputs(self, targets: np.ndarray) -> int:
        return len(self.classes_) if self._is_softmax() else int(targets.shape[1])

    _class_table: np.ndarray | None = None
    """What each class weighs, in the order of `classes_`, or (O, 2) for each label of a set that is not there, or is."""

    def _learn_weights(self, targets: np.ndarray, incremental: bool) -> None:
        if incremental and self.class_weight == "balanced":
            raise ValueError("class_weight: got 'balanced' with partial_fit, expected a dict or None")
        several = not self._is_softmax() and self.n_outputs_ > 1
        if several and isinstance(self.class_weight, dict):
            raise ValueError("class_weight: got a dict for sets of labels, expected 'balanced' or None")
        self._class_table = None
        if self.class_weight == "balanced":
            n_values = 2 if several else len(self.classes_)
            counts = np.array([np.bincount(column, minlength=n_values) for column in self._places(targets).T])
            n_present = np.count_nonzero(counts, axis=1)[:, None]
            self._class_table = len(targets) / (n_present * np.maximum(counts, 1))
        elif self.class_weight is not None:
            self._class_table = _table(self.class_weight, self.classes_)[None]

    def _weights(self, sample_weight: Any, X: Any, targets: np.ndarray) -> np.ndarray | None:
        weights = super()._weights(sample_weight, X, targets)
        if self._class_table is None:
            return weights
        of_classes: np.ndarray = np.ones(len(targets)) if weights is None else weights
        for table, column in zip(self._class_table, self._places(targets).T, strict=True):
            of_classes = of_classes * table[column]
        return of_classes

    def _places(self, targets: np.ndarray) -> np.ndarray:
        """Where in the table of their weights the classes of each example are, (N, 1), or its labels, (N, O)."""
        if not self._is_softmax():
            return targets.astype(np.intp)
        classes = targets if targets.ndim == 1 else targets.argmax(axis=1)
        return classes.reshape(-1, 1)

    def _truth(self, targets: np.ndarray) -> np.ndarray:
        """Labels, as the user knows them, of targets."""
        if self._is_softmax():
            return self._labels(targets if targets.ndim == 1 else targets.argmax(axis=1))
        labels: np.ndarray = self._label_binarizer.inverse_transform(targets.astype(float))
        return labels

    def _labels(self, classes: np.ndarray) -> np.ndarray:
        labels: np.ndarray = self.classes_.take(classes)
        return labels

    def _score_of(self, z: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
        """The accuracy of logits."""
        if self._is_softmax():
            right = z.argmax(axis=1) == (targets if targets.ndim == 1 else targets.argmax(axis=1))
        else:
            right = ((z > 0) == (targets > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each example, (N,); or its set of labels, (N, C)."""
        z = self._logits(X)
        if self._is_softmax():
            return self._labels(z.argmax(axis=1))
        p = self._network._outputs(z)
        labels: np.ndarray = self._label_binarizer.inverse_transform(p.ravel() if self.n_outputs_ == 1 else p)
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (N, C), in the order of `classes_`."""
        z = self._logits(X)
        if self.n_outputs_ == 1:
            return activations.sigmoid(np.column_stack([-z, z]))
        return self._network._outputs(z)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Its logarithm, which is finite where the probability itself is rounded to 0."""
        z = self._logits(X)
        if self._is_softmax():
            return activations.log_softmax(z)
        if self.n_outputs_ > 1:
            with np.errstate(
                divide="ignore"
            ):  # log of predict_proba, which is the same for labels as good as certain, but no -inf
                return np.where(z < 0, -activations.softplus(-z), np.log(activations.sigmoid(z)))
        return -np.column_stack([activations.softplus(z), activations.softplus(-z)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _table(class_weight: dict[Any, float], classes: np.ndarray) -> np.ndarray:
    """What each class weighs."""
    for label, weight in class_weight.items():
        if not isinstance(weight, Real) or not 0 <= weight < np.inf:
            raise ValueError(f"class_weight: got {weight!r} for {label!r}, expected a finite number >= 0")
    table: np.ndarray = compute_class_weight(class_weight, classes=classes, y=classes)
    if not table.any():
        raise ValueError("class_weight: got 0 for each class, expected one that is > 0")
    return table


def _are_probabilities(y: np.ndarray) -> bool:
    """Whether the rows are probabilities of classes, not sets of labels."""
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind != "f":
        return False
    if not ((y >= 0) & (y <= 1)).all() or (y % 1 == 0).all():
        return False
    sums = y.sum(axis=1, dtype=np.float64)
    wrong = np.abs(sums - 1) > max(1e-6, y.shape[1] * float(np.finfo(y.dtype).eps))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"y: row {row} sums to {sums[row]:.6g}, expected rows of probabilities, which sum to 1"
        )
    return True
