"""The cross-entropies with the diagonal of their Hessian as well, for methods that take Newton's steps: gradient boosting.

Error and gradient are those of the functions of fastbp/losses.py, to the bit. Boosting adds to the score of each class by itself,
so it asks for the second derivatives by one score alone. Of the full Hessian of an example, Σu (diag(y) - y yᵀ), the diagonal
is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks
from fastbp.losses import Reduction, _evaluate, _Kernel, _Own


class LossGradHessian(NamedTuple):
    """What an error function with second derivatives returns.

    Attributes
    ----------
    loss : numpy.floating or numpy.ndarray of shape (N,)
        The reduced error, a scalar of the input's dtype; with ``reduction="none"`` the vector s_n E_n.
    grad : numpy.ndarray
        Gradient of the reduced error with respect to the logits, of their shape and dtype: of the mean with
        ``reduction="mean"``, of the sum otherwise. It is ``grad_out`` where that was given.
    hessian : numpy.ndarray
        The second derivative of the same by each logit, of their shape and dtype: the diagonal of the Hessian. It is
        ``hessian_out`` where that was given.
    weight_sum : float
        Σ_n w_n, the sum of the examples' weights: N where there are none, 0 where every example is ignored.

    Examples
    --------
    >>> import fastbp
    >>> loss, grad, hessian, weight_sum = fastbp.sigmoid_cross_entropy_hessian([0.0, 0.0], 1, reduction="sum")
    >>> grad.tolist(), hessian.tolist(), weight_sum
    ([-0.5, -0.5], [0.25, 0.25], 2.0)
    """

    loss: np.floating[Any] | np.ndarray
    grad: np.ndarray
    hessian: np.ndarray
    weight_sum: float


def softmax_cross_entropy_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    hessian_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGradHessian:
    """Cross-entropy of softmax outputs, from logits, with its gradient and the diagonal of its Hessian.

    With y = softmax(z) and the effective targets u_c = w_c [(1 - ε) t_c + ε/C], error, gradient and curvature of one example
    are ::

        E         = Σ_c u_c (lse - z_c)
        dE/dz_c   = y_c Σu - u_c
        d²E/dz_c² = Σu y_c (1 - y_c)

    No 1 - y is formed from a y close to 1: at the largest logit it is rest/(1 + rest), with rest = Σ exp(z_c - max z) over all
    other classes, so that the curvature of a near-certain class keeps all its digits, down to the smallest number.

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, C)
        One row for each example. Rows may lie any distance apart.
    targets : array of integers, shape (N,), or of real numbers, shape (N, C)
        The class of each example, or a row of targets for each: one-hot, soft, or not summing to 1. Rows are cast to the
        dtype of `logits`.
    class_weight : array of shape (C,), optional
        w_c multiplies the target of class c, the uniform part of smoothing as well. Not checked for sign.
    sample_weight : array of shape (N,), optional
        s_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    ignore_index : int, default -100
        Examples of this label are not read: error 0, rows of 0 in both derivatives, weight 0. For class indices only.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/C takes the place of t, whatever a row of targets sums to.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `softmax_cross_entropy`. Boosting takes derivatives of the sum.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    hessian_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the diagonal of the Hessian. It must not overlap `grad_out` or an input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGradHessian
        ``(loss, grad, hessian, weight_sum)``; `loss`, `grad` and `weight_sum` are those of `softmax_cross_entropy`, to the bit.

    Raises
    ------
    TargetIndexError
        A class index is neither in [0, C) nor `ignore_index`. It is an ``IndexError`` and a ``ValueError``.
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, `ignore_index` given with rows of targets, or an output that is read-only,
        not contiguous in its last axis, or overlaps an input or the other output.

    Notes
    -----
    A logit -inf has curvature 0. A row that holds NaN or +inf, or only -inf, has NaN throughout, that row alone. An empty
    batch, or weights that are all 0: mean NaN, both derivatives exactly 0, `weight_sum` 0.

    Libraries for boosting do not agree on a factor of the curvature: XGBoost takes 2 y(1 - y), LightGBM C/(C - 1) y(1 - y).
    `fastbp.objectives` has their conventions.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> logits = np.log([[2.0, 1.0, 1.0]])  # y = 1/2, 1/4, 1/4
    >>> answer = fastbp.softmax_cross_entropy_hessian(logits, [0], reduction="sum")
    >>> answer.grad.round(4).tolist(), answer.hessian.round(4).tolist()
    ([[-0.5, 0.25, 0.25]], [[0.25, 0.1875, 0.1875]])

    A class that is all but certain, where 1 - y rounds to 0:

    >>> fastbp.softmax_cross_entropy_hessian([[100.0, 0.0]], [0]).hessian.tolist()  # exp(-100)
    [[3.720075976020836e-44, 3.720075976020836e-44]]
    """
    z = _checks.some_classes("logits", _checks.matrix("logits", logits, "(N, C)"), "(N, C)")
    options = class_weight, sample_weight, ignore_index, label_smoothing, 0.0, None
    arguments = _checks.softmax_arguments("logits", z, z.shape[1], targets, options)[:6]
    inputs = {
        "logits": logits,
        "targets": targets,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
    }
    kernel = _backend.kernels.softmax_cross_entropy_hessian
    return _with_hessian(kernel, arguments, z, inputs, reduction, grad_out, hessian_out, n_threads)


def sigmoid_cross_entropy_hessian(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    hessian_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGradHessian:
    """Cross-entropy of logistic outputs, from logits, with its gradient and the diagonal of its Hessian.

    With y = σ(z) and smoothed targets t, error, gradient and curvature of one example are ::

        E         = -Σ_k [p_k t_k ln y_k + (1 - t_k) ln(1 - y_k)]
        dE/dz_k   = (1 - t_k) y_k - p_k t_k (1 - y_k)              (y - t where p = 1)
        d²E/dz_k² = (p_k t_k + 1 - t_k) y_k (1 - y_k)

    The outputs do not interact, so the diagonal is the whole Hessian. y(1 - y) is e/(1 + e)² with ``e = exp(-|z|)``: it loses no
    digit at extreme logits.

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, O) or (N,)
        One row of O independent outputs for each example; a vector is N examples of one output.
    targets : array of real numbers, of the shape of `logits`, or one number
        Usually in [0, 1], which is not checked. Cast to the dtype of `logits`.
    pos_weight : array of shape (O,), or one number, optional
        p_k multiplies the term t_k ln y_k, to balance rare positives. It is no part of the example's weight.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/2 takes the place of t.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `sigmoid_cross_entropy`. Boosting takes derivatives of the sum.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    hessian_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the diagonal of the Hessian. It must not overlap `grad_out` or an input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGradHessian
        ``(loss, grad, hessian, weight_sum)``; `loss`, `grad` and `weight_sum` are those of `sigmoid_cross_entropy`, to the bit.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or an output that is read-only, not contiguous in its last axis, or overlaps an input or the
        other output.

    Notes
    -----
    An infinite logit has curvature 0, NaN its own NaN. An empty batch, or weights that are all 0: mean NaN, both derivatives
    exactly 0, `weight_sum` 0.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> answer = fastbp.sigmoid_cross_entropy_hessian(np.array([0.0, 100.0, -100.0]), 1, reduction="sum")
    >>> answer.hessian.tolist()  # 1/4; exp(-100)
    [0.25, 3.720075976020836e-44, 3.720075976020836e-44]
    """
    z, t, s = _checks.elementwise("logits", logits, targets, sample_weight)
    p = _checks.output_weights("pos_weight", pos_weight, t.shape[1])
    arguments = t, p, s, _checks.number("label_smoothing", label_smoothing, _checks.FRACTION)
    inputs = {"logits": logits, "targets": targets, "pos_weight": pos_weight, "sample_weight": sample_weight}
    kernel = _backend.kernels.sigmoid_cross_entropy_hessian
    return _with_hessian(kernel, arguments, z, inputs, reduction, grad_out, hessian_out, n_threads)


def _with_hessian(
    kernel: _Kernel[*_Own, np.ndarray],
    arguments: tuple[*_Own],
    z: np.ndarray,
    inputs: dict[str, Any],
    reduction: Reduction,
    grad_out: np.ndarray | None,
    hessian_out: np.ndarray | None,
    n_threads: int | None,
) -> LossGradHessian:
    """Check the outputs, of which only the gradient may be `logits`, and enter the kernel with the other as its last own one."""
    if grad_out is not None:
        _checks.output("grad_out", grad_out, z.shape, z.dtype, in_place="logits", **inputs)
    hessian = _checks.output("hessian_out", hessian_out, z.shape, z.dtype, grad_out=grad_out, **inputs)
    rows = hessian if hessian.ndim == 2 else hessian[:, None]
    loss, grad, weight_sum = _evaluate(kernel, (*arguments, rows), z, reduction, grad_out, n_threads)
    return LossGradHessian(loss, grad, hessian, weight_sum)
