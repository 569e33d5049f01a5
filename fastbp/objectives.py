"""Objectives for gradient boosting: the cross-entropies in the form in which XGBoost and LightGBM ask for them.

Each function returns a callable that those libraries take as a custom objective, in their native interface and in that of
scikit-learn. It touches nothing but what they hand it, so neither library is imported here. They differ in conventions, which are
kept: XGBoost doubles the second derivatives of the softmax and keeps all of them at 1e-16 or more; LightGBM multiplies those of
the softmax by C/(C - 1). With no option set, training takes the steps of ``multi:softprob``, ``multiclass``, ``binary:logistic``
and ``binary``. docs/boosting.md tells where those start from, and what predictions are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _checks
from fastbp.hessians import sigmoid_cross_entropy_hessian, softmax_cross_entropy_hessian

XGBOOST_FLOOR = 1e-16
"""The least second derivative, as in src/objective/multiclass_obj.cu and regression_loss.h of XGBoost."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """A custom objective; of a class, and not a closure, so that a model that holds it can be pickled.

    The native interfaces call it as ``objective(scores, data)``, where `data` is a ``DMatrix`` or ``Dataset`` that knows the
    labels and weights; those of scikit-learn as ``objective(labels, scores, sample_weight)``. Scores are raw, (N,) or (N, C).
    It returns ``(grad, hessian)``, of the sum over the examples, of the shape of the scores.
    """

    floor: float
    targets: ArrayLike | None
    label_smoothing: float
    n_threads: int | None

    def __call__(
        self, first: Any, second: Any, sample_weight: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        labels, scores = first, second
        if hasattr(second, "get_label"):
            labels, scores, sample_weight = second.get_label(), first, second.get_weight()
        if sample_weight is not None and len(sample_weight) == 0:  # XGBoost's way to say that there are none
            sample_weight = None
        grad, hessian = self._derivatives(
            scores, labels if self.targets is None else self.targets, sample_weight
        )
        return grad, hessian if self.floor == 0 else np.maximum(hessian, self.floor, out=hessian)

    def _derivatives(
        self, scores: np.ndarray, targets: Any, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Objective):
    """Scores (N, C), and labels (N,) that are whole numbers of any dtype, or rows of targets (N, C)."""

    doubled: bool
    class_weight: ArrayLike | None
    ignore_index: int

    def _derivatives(
        self, scores: np.ndarray, targets: Any, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if np.ndim(scores) == 1:
            text = "(N, C) of several classes; for two there is a logistic objective"
            raise ValueError(f"scores: got shape {np.shape(scores)}, expected {text}")
        _, grad, hessian, _ = softmax_cross_entropy_hessian(
            scores,
            _checks.whole_labels("labels" if self.targets is None else "targets", targets),
            class_weight=self.class_weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
            n_threads=self.n_threads,
        )
        n_classes = grad.shape[1]
        hessian *= 2 if self.doubled else n_classes / max(n_classes - 1, 1)
        return grad, hessian


@dataclass(frozen=True, eq=False, kw_only=True)
class Logistic(Objective):
    """Scores (N,), or (N, O) for O independent outputs, and targets of that shape, usually in [0, 1]."""

    pos_weight: ArrayLike | None

    def _derivatives(
        self, scores: np.ndarray, targets: Any, sample_weight: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.targets is None:
            _see_fractions(np.asarray(targets))
        _, grad, hessian, _ = sigmoid_cross_entropy_hessian(
            scores,
            targets,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            label_smoothing=self.label_smoothing,
            reduction="sum",
            n_threads=self.n_threads,
        )
        return grad, hessian


def _see_fractions(labels: np.ndarray) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        place = tuple(map(int, np.argwhere(~((labels >= 0) & (labels <= 1)))[0]))
        raise ValueError(f"labels: row {place[0]} is {labels[place]}, expected a number in [0, 1]")


def xgboost_softmax(
    *,
    targets: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    n_threads: int | None = None,
) -> Softmax:
    """Softmax cross-entropy for XGBoost: ``xgb.train(..., obj=...)`` or ``XGBClassifier(objective=...)``.

    With the letters of `softmax_cross_entropy_hessian`, and s_n the weight of example n in the ``DMatrix``, the derivatives are
    ``s (y Σu - u)`` and ``max(2 s Σu y(1 - y), 1e-16)``: without options those of ``multi:softprob``.

    Parameters
    ----------
    targets : array of real numbers, shape (N, C), optional
        Soft labels of the training examples, in place of those of the ``DMatrix``. XGBoost also takes them there, as a label
        of shape (N, C) with no ``num_class``.
    class_weight : array of shape (C,), optional
        Multiplies the target of each class.
    ignore_index : int, default -100
        Examples of this label have no gradient.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/C takes the place of t.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    Softmax
        A callable ``(scores, dmatrix) -> (grad, hessian)``, or ``(labels, scores, sample_weight) -> (grad, hessian)``, each
        (N, C). It raises what `softmax_cross_entropy_hessian` raises, and ``ValueError`` for a label that is no whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import objectives
    >>> scores = np.log([[2.0, 1.0, 1.0]])  # y = 1/2, 1/4, 1/4
    >>> grad, hessian = objectives.xgboost_softmax()(np.array([0.0]), scores)
    >>> grad.round(4).tolist(), hessian.round(4).tolist()
    ([[-0.5, 0.25, 0.25]], [[0.5, 0.375, 0.375]])
    """
    return Softmax(
        doubled=True,
        floor=XGBOOST_FLOOR,
        targets=targets,
        class_weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        n_threads=n_threads,
    )


def xgboost_logistic(
    *,
    targets: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    n_threads: int | None = None,
) -> Logistic:
    """Logistic cross-entropy for XGBoost: ``xgb.train(..., obj=...)`` or ``XGBClassifier(objective=...)``.

    With the letters of `sigmoid_cross_entropy_hessian`, and s_n the weight of example n in the ``DMatrix``, the derivatives are
    ``s [(1 - t) y - p t (1 - y)]`` and ``max(s (p t + 1 - t) y(1 - y), 1e-16)``: without options those of ``binary:logistic``.

    Parameters
    ----------
    targets : array of real numbers, shape (N,) or (N, O), optional
        Soft labels of the training examples, in place of those of the ``DMatrix``, which may be soft, too.
    pos_weight : array of shape (O,), or one number, optional
        p multiplies what a positive target adds to the error: XGBoost's ``scale_pos_weight``, which a custom objective does
        not see.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/2 takes the place of t.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    Logistic
        A callable ``(scores, dmatrix) -> (grad, hessian)``, or ``(labels, scores, sample_weight) -> (grad, hessian)``, each of
        the shape of the scores. It raises what `sigmoid_cross_entropy_hessian` raises.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import objectives
    >>> grad, hessian = objectives.xgboost_logistic(pos_weight=3)(np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    >>> grad.tolist(), hessian.tolist()
    ([-1.5, 0.5], [0.75, 0.25])
    """
    return Logistic(
        floor=XGBOOST_FLOOR,
        targets=targets,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        n_threads=n_threads,
    )


def lightgbm_softmax(
    *,
    targets: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    n_threads: int | None = None,
) -> Softmax:
    """Softmax cross-entropy for LightGBM: ``{"objective": ...}`` or ``LGBMClassifier(objective=...)``.

    With the letters of `softmax_cross_entropy_hessian`, and s_n the weight of example n in the ``Dataset``, the derivatives are
    ``s (y Σu - u)`` and ``C/(C - 1) s Σu y(1 - y)``: without options those of ``multiclass``.

    Parameters
    ----------
    targets : array of real numbers, shape (N, C), optional
        Soft labels of the training examples, in place of those of the ``Dataset``, which can be classes alone.
    class_weight : array of shape (C,), optional
        Multiplies the target of each class.
    ignore_index : int, default -100
        Examples of this label have no gradient.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/C takes the place of t.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    Softmax
        A callable ``(scores, dataset) -> (grad, hessian)``, or ``(labels, scores, sample_weight) -> (grad, hessian)``, each
        (N, C). It raises what `softmax_cross_entropy_hessian` raises, and ``ValueError`` for a label that is no whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import objectives
    >>> scores = np.log([[2.0, 1.0, 1.0]])  # y = 1/2, 1/4, 1/4
    >>> grad, hessian = objectives.lightgbm_softmax()(np.array([0.0]), scores)
    >>> grad.round(4).tolist(), hessian.round(4).tolist()
    ([[-0.5, 0.25, 0.25]], [[0.375, 0.2812, 0.2812]])
    """
    return Softmax(
        doubled=False,
        floor=0.0,
        targets=targets,
        class_weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        n_threads=n_threads,
    )


def lightgbm_logistic(
    *,
    targets: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    n_threads: int | None = None,
) -> Logistic:
    """Logistic cross-entropy for LightGBM: ``{"objective": ...}`` or ``LGBMClassifier(objective=...)``.

    With the letters of `sigmoid_cross_entropy_hessian`, and s_n the weight of example n in the ``Dataset``, the derivatives are
    ``s [(1 - t) y - p t (1 - y)]`` and ``s (p t + 1 - t) y(1 - y)``: without options those of ``binary``.

    Parameters
    ----------
    targets : array of real numbers, shape (N,), optional
        Soft labels of the training examples, in place of those of the ``Dataset``, which may be soft, too.
    pos_weight : array of shape (1,), or one number, optional
        p multiplies what a positive target adds to the error: LightGBM's ``scale_pos_weight``, which a custom objective does
        not see.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/2 takes the place of t.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    Logistic
        A callable ``(scores, dataset) -> (grad, hessian)``, or ``(labels, scores, sample_weight) -> (grad, hessian)``, each of
        the shape of the scores. It raises what `sigmoid_cross_entropy_hessian` raises.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import objectives
    >>> grad, hessian = objectives.lightgbm_logistic(label_smoothing=0.5)(np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    >>> grad.tolist(), hessian.tolist()
    ([-0.25, 0.25], [0.25, 0.25])
    """
    return Logistic(
        floor=0.0,
        targets=targets,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        n_threads=n_threads,
    )
