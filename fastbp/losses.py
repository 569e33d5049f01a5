"""The error functions: each returns the error of a batch and its gradient in one call.

All have one shape: check the input, allocate the gradient, enter one kernel, pack the answer
(:func:`_evaluate`). The formulas speak of one example; y are outputs, z logits, t targets, and σ is the
logistic function. What ``reduction`` makes of the N errors E_n is the same everywhere, with s_n the sample
weight of example n and w_n its whole weight, which is s_n times the class weight of its target, if any::

    "mean"   Σ_n s_n E_n / Σ_n w_n     the weighted mean over examples; NaN where the weights add up to 0
    "sum"    Σ_n s_n E_n
    "none"   the vector s_n E_n, whose gradient is that of the sum

Class weights are within E_n. An example's error is always the sum over its outputs or classes. With "mean"
PyTorch's ``mse_loss``, ``binary_cross_entropy`` and ``poisson_nll_loss`` average over those as well.

docs/losses.md has the one table of options, the formula of every combination, and the exact conversions from
PyTorch and scikit-learn, which the docstrings give in brief.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVarTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks
from fastbp._checks.scalars import OPEN_FRACTION

Reduction = Literal["mean", "sum", "none"]
_MEAN: Reduction = "mean"
_REDUCTIONS = (_MEAN, "sum", "none")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Own = TypeVarTuple("_Own")  # what a kernel takes between the outputs and what they all take
_Kernel: TypeAlias = Callable[
    [np.ndarray, *_Own, bool, np.ndarray | None, np.ndarray, int], tuple[float, float]
]
_new_tuple = tuple.__new__  # LossGrad(...) from its three fields takes twice as long


class LossGrad(NamedTuple):
    """What an error function returns.

    Attributes
    ----------
    loss : numpy.floating or numpy.ndarray of shape (N,)
        The reduced error, a scalar of the input's dtype; with ``reduction="none"`` the vector s_n E_n.
    grad : numpy.ndarray
        Gradient of the reduced error with respect to the first argument, of its shape and dtype: of the mean
        with ``reduction="mean"``, of the sum otherwise. It is ``grad_out`` where that was given. A large new one
        takes the memory of the last one that was dropped (docs/losses.md).
    weight_sum : float
        Σ_n w_n, the sum of the examples' weights: N where there are none, 0 where every example is ignored.

    Examples
    --------
    >>> import fastbp
    >>> loss, grad, weight_sum = fastbp.squared_error([3.0, 1.0], [1.0, 1.0])
    >>> float(loss), grad.tolist(), weight_sum
    (1.0, [1.0, 0.0], 2.0)
    """

    loss: np.floating[Any] | np.ndarray
    grad: np.ndarray
    weight_sum: float


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: Reduction = _MEAN,
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    r"""Cross-entropy of softmax outputs, from logits, with its gradient.

    With y = softmax(z) and lse = ln Σ_c exp(z_c), the error of one example and its delta are ::

        E     = -Σ_c t_c ln y_c  =  lse·Σ_c t_c - Σ_c t_c z_c
        dE/dz = y·Σ_c t_c - t                                 (y - t where the targets sum to 1)

    No probability is ever formed on the way to the error, so nothing overflows, nothing cancels at a
    near-certain target, and adding a constant to a row of logits changes nothing. With all options, which go
    together in every combination::

        z'_c  = b tanh(z_c/b)                  u_c = w_c [(1 - ε) t_c + ε/C]
        E     = Σ_c u_c (lse - z'_c) + κ lse²                             lse and y of z'
        dE/dz = [y (Σ_c u_c + 2κ lse) - u] ⊙ [1 - (z'/b)²]
        mean  = Σ_n s_n E_n / Σ_n w_n          w_n = s_n w_label, or s_n Σ_c w_c t_c / Σ_c t_c

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, C)
        One row for each example. Rows may lie any distance apart.
    targets : array of integers, shape (N,), or of real numbers, shape (N, C)
        The class of each example, True and False for 1 and 0, or a row of targets for each: one-hot, soft, or not
        summing to 1. Rows are cast to the dtype of `logits`.
    class_weight : array of shape (C,), optional
        w_c multiplies the target of class c, the uniform part of smoothing as well. Not checked for sign. A
        factor of all of them cancels in a mean, but for the term of `lse_square_scale`.
    sample_weight : array of shape (N,), optional
        s_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    ignore_index : int, default -100
        Examples of this label are not read: error 0, gradient row 0, weight 0. For class indices only.
    label_smoothing : float in [0, 1], default 0
        ε: (1 - ε) t + ε/C takes the place of t, whatever a row of targets sums to.
    lse_square_scale : float >= 0, default 0
        κ: the error of each example gains κ·lse² (also called z-loss). Sample weights multiply it, class
        weights do not.
    softcap : float > 0, optional
        b: z' = b·tanh(z/b) takes the place of z, and dE/dz gains the factor 1 - (z'/b)².
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over examples, weighted by w_n, the sum, or the vector s_n E_n. The weight of an example is
        its sample weight times the class weight of its target; for rows of targets, times the mean class
        weight Σ_c w_c t_c / Σ_c t_c, which is 1 where the row sums to 0. Smoothing does not change it.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape (N, C).

    Raises
    ------
    TargetIndexError
        A class index is neither in [0, C) nor `ignore_index`, or other code changes one to such a number
        during the call. It is an ``IndexError`` and a ``ValueError``.
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, `ignore_index` given with rows of targets, or a `grad_out` that is read-only,
        not contiguous in its last axis, or overlaps an input.

    Notes
    -----
    * All examples ignored or of weight 0: the mean is NaN, the gradient exactly 0, `weight_sum` 0. The same
      for an empty batch, whose sum is 0.
    * A logit -inf where u_c is 0 contributes 0. Elsewhere, as at the true class, it makes the error +inf; the
      gradient stays y·Σu - u.
    * A row that holds NaN or +inf, or only -inf, has NaN for error and gradient, that row alone.
    * For class indices in float64, without further options, the error is within (4 + gap) eps of itself, the
      gap that of the largest logit to the second largest, and a gradient entry within (4 + max z - z_j) eps
      of itself.

    In PyTorch: ``cross_entropy(logits, targets, weight=class_weight, label_smoothing=ε)`` with class indices
    is the same number, with smoothing and class weights too. With rows of targets PyTorch's mean divides by N
    whatever the class weights: ours with "sum", divided by N.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> loss, grad, _ = fastbp.softmax_cross_entropy(logits, [0, 2])
    >>> round(float(loss), 6)
    0.669079
    >>> (2 * grad).round(4).tolist()  # y - t; the mean divides by N = 2
    [[-0.213, 0.1065, 0.1065], [0.3333, 0.3333, -0.6667]]

    Soft targets, and the gradient written over the logits:

    >>> targets = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> losses, grad, _ = fastbp.softmax_cross_entropy(logits, targets, reduction="none", grad_out=logits)
    >>> losses.round(4).tolist(), grad is logits
    ([1.2395, 1.0986], True)
    """
    if ignore_index is _checks.IGNORE_INDEX and reduction is _MEAN:
        at_once = _backend.kernels.softmax_cross_entropy_at_once(
            logits,
            targets,
            class_weight,
            sample_weight,
            label_smoothing,
            lse_square_scale,
            softcap,
            grad_out,
            n_threads,
        )
        if at_once is not None:
            return _new_tuple(LossGrad, at_once)
    z = _checks.some_classes("logits", _checks.matrix("logits", logits, "(N, C)"), "(N, C)")
    options = class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale, softcap
    arguments = _checks.softmax_arguments("logits", z, z.shape[1], targets, options)
    if grad_out is not None:
        inputs = {"targets": targets, "class_weight": class_weight, "sample_weight": sample_weight}
        _checks.output("grad_out", grad_out, z.shape, z.dtype, in_place="logits", logits=logits, **inputs)
    return _evaluate(_backend.kernels.softmax_cross_entropy, arguments, z, reduction, grad_out, n_threads)


def sigmoid_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """Cross-entropy of logistic outputs, from logits, with its gradient.

    With y = σ(z), the error of one example and its delta are ::

        E     = -Σ_k [t_k ln y_k + (1 - t_k) ln(1 - y_k)]  =  Σ_k [max(z_k, 0) - z_k t_k + log1p(exp(-|z_k|))]
        dE/dz = y - t

    Both are exact in both tails, and ``(x, t)`` and ``(-x, 1 - t)`` give the same bits at every x, the
    gradients with opposite signs. With `pos_weight` p and smoothing ε, t' = (1 - ε) t + ε/2, they are ::

        E     = -Σ_k [p_k t'_k ln y_k + (1 - t'_k) ln(1 - y_k)]
        dE/dz = (1 - t') y - p t' (1 - y)

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
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `logits`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    An infinite logit on the side of its target contributes 0, on the other side +inf; its delta is finite. A
    NaN logit makes its example's error NaN, and its own delta. An empty batch, or weights that are all 0:
    mean NaN, sum 0, gradient exactly 0, `weight_sum` 0. In float64 error and gradient are within 4 eps of
    themselves for targets 0 and 1, for others of the sum of the absolute values of their terms.

    In PyTorch: ``binary_cross_entropy_with_logits`` averages over outputs as well: divide ours by O. Its mean
    does not divide by its ``weight``.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> loss, grad, _ = fastbp.sigmoid_cross_entropy(np.array([[0.0, 2.0]]), [[1, 0]])
    >>> round(float(loss), 6)  # ln 2 + ln(1 + e²)
    2.820075
    >>> grad.round(4).tolist()
    [[-0.5, 0.8808]]
    >>> float(fastbp.sigmoid_cross_entropy(np.array([-800.0]), 1).loss)  # far in the tail
    800.0
    """
    z, t, s = _checks.elementwise("logits", logits, targets, sample_weight)
    p = _checks.output_weights("pos_weight", pos_weight, t.shape[1])
    arguments = t, p, s, _checks.number("label_smoothing", label_smoothing, _checks.FRACTION)
    if grad_out is not None:
        inputs = {"targets": targets, "pos_weight": pos_weight, "sample_weight": sample_weight}
        _checks.output("grad_out", grad_out, z.shape, z.dtype, in_place="logits", logits=logits, **inputs)
    return _evaluate(_backend.kernels.sigmoid_cross_entropy, arguments, z, reduction, grad_out, n_threads)


def squared_error(
    outputs: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """Half the squared error of linear outputs, with its gradient.

    The error of one example and its delta are ::

        E     = ½ Σ_k (y_k - t_k)²
        dE/dy = y - t

    Parameters
    ----------
    outputs : array of float32 or float64, shape (N, O) or (N,)
        One row of O outputs for each example; a vector is N examples of one output.
    targets : array of real numbers, of the shape of `outputs`, or one number
        Cast to the dtype of `outputs`.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    reduction : {"mean", "sum", "none"}, default "mean"
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `outputs`, optional
        Where to write the gradient. It may be `outputs` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `outputs`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    A NaN makes its example's error NaN, and its own delta. An error beyond the dtype is +inf; its gradient
    stays finite. An empty batch, or weights that are all 0: mean NaN, sum 0, gradient exactly 0, `weight_sum`
    0.

    In PyTorch: ``mse_loss`` has no ½ and averages over outputs as well: multiply ours by 2/O.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> outputs = np.array([[1.0, 2.0], [0.0, 4.0]])
    >>> loss, grad, _ = fastbp.squared_error(outputs, [[0.0, 2.0], [0.0, 1.0]])
    >>> float(loss), grad.tolist()  # (½·1² + ½·3²) / 2
    (2.5, [[0.5, 0.0], [0.0, 1.5]])
    """
    return _elementwise(
        "squared_error", "outputs", outputs, targets, sample_weight, reduction, grad_out, n_threads
    )


def sigmoid_squared_error(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """Half the squared ("quadratic") error of logistic outputs, from logits, with its gradient.

    With y = σ(z), the error of one example and its delta are ::

        E     = ½ Σ_k (y_k - t_k)²
        dE/dz = (y - t) ⊙ y(1 - y)

    The factor y(1 - y) is the slope of the logistic function: it all but stops the learning of an output that
    is far on the wrong side, which is why `sigmoid_cross_entropy`, whose delta is y - t, is usually the
    better choice.

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, O) or (N,)
        One row of O outputs, before the logistic function, for each example; a vector is N examples of one
        output.
    targets : array of real numbers, of the shape of `logits`, or one number
        Usually in [0, 1], which is not checked. Cast to the dtype of `logits`.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    reduction : {"mean", "sum", "none"}, default "mean"
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `logits`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    At an infinite logit y is 0 or 1 and the delta 0. A NaN makes its example's error NaN, and its own delta.
    An empty batch, or weights that are all 0: mean NaN, sum 0, gradient exactly 0, `weight_sum` 0.

    In PyTorch: ``mse_loss(sigmoid(z), t)`` has no ½ and averages over outputs as well: multiply ours by 2/O.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> loss, grad, _ = fastbp.sigmoid_squared_error(np.array([[0.0, 0.0]]), [[1.0, 0.5]])
    >>> float(loss), grad.tolist()  # ½·0.5²; (0.5 - 1)·0.5·0.5
    (0.125, [[-0.125, 0.0]])
    """
    return _elementwise(
        "sigmoid_squared_error", "logits", logits, targets, sample_weight, reduction, grad_out, n_threads
    )


def poisson_deviance(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """Half the Poisson deviance at the mean exp(z), with its gradient: the error for counts.

    With μ = exp(z), the error of one example and its delta are ::

        E     = Σ_k [t_k ln(t_k / μ_k) - t_k + μ_k]           (μ_k where t_k = 0)
        dE/dz = exp(z) - t

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, O) or (N,)
        The logarithms of the expected counts, one row of O for each example; a vector is N examples of one
        output.
    targets : array of real numbers >= 0, of the shape of `logits`, or one number
        Counts or rates. Cast to the dtype of `logits`. A negative one makes its example's error NaN.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    reduction : {"mean", "sum", "none"}, default "mean"
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `logits`, optional
        Where to write the gradient. It may be `logits` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `logits`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    A logit -inf costs nothing where the target is 0, +inf elsewhere. A NaN or a negative target makes its
    example's error NaN, and its own delta. An empty batch, or weights that are all 0: mean NaN, sum 0,
    gradient exactly 0, `weight_sum` 0.

    In scikit-learn: ``mean_poisson_deviance(t, exp(z))`` is twice our mean; ``HalfPoissonLoss`` leaves out
    the terms in t alone. In PyTorch: ``poisson_nll_loss`` leaves out t ln t - t, which no gradient depends
    on, and averages over outputs as well: divide our gradient by O.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> loss, grad, _ = fastbp.poisson_deviance(np.zeros((1, 3)), [[1, 0, 2]])
    >>> round(float(loss), 6), grad.tolist()  # 0 + 1 + (2 ln 2 - 1)
    (1.386294, [[0.0, 1.0, -1.0]])
    """
    return _elementwise(
        "poisson_deviance", "logits", logits, targets, sample_weight, reduction, grad_out, n_threads
    )


def huber(
    outputs: ArrayLike,
    targets: ArrayLike,
    *,
    delta: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """Huber's error of linear outputs, with its gradient: squared near the target, linear far from it.

    With r = y - t, the error of one example and its delta are ::

        E     = Σ_k { ½ r_k²            where |r_k| <= δ
                    { δ (|r_k| - ½ δ)   elsewhere
        dE/dy = r, brought within ±δ

    So an example that is far off pulls no more than one at a distance of δ: outliers do not rule the fit [1]_.

    Parameters
    ----------
    outputs : array of float32 or float64, shape (N, O) or (N,)
        One row of O outputs for each example; a vector is N examples of one output.
    targets : array of real numbers, of the shape of `outputs`, or one number
        Cast to the dtype of `outputs`.
    delta : float > 0, default 1
        δ, where the error turns from squared to linear; a number that the dtype of `outputs` can hold.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    reduction : {"mean", "sum", "none"}, default "mean"
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `outputs`, optional
        Where to write the gradient. It may be `outputs` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `outputs`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    No square is formed beyond δ, so that only an error beyond the dtype, or a distance, is +inf; the gradient of an
    infinite output is ±δ. A NaN makes its example's error NaN, and its own delta. An empty batch, or weights that
    are all 0: mean NaN, sum 0, gradient exactly 0, `weight_sum` 0.

    In PyTorch: ``huber_loss(y, t, delta=δ)`` averages over outputs as well: divide ours by O. ``smooth_l1_loss(y,
    t, beta=δ)`` is that over δ.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> loss, grad, _ = fastbp.huber(np.array([[0.5, -3.0]]), [[0.0, 0.0]])
    >>> float(loss), grad.tolist()  # ½·0.5² + 1·(3 - ½)
    (2.625, [[0.5, -1.0]])
    """
    checked = partial(_checks.positive_in, "delta", delta)
    return _elementwise(
        "huber", "outputs", outputs, targets, sample_weight, reduction, grad_out, n_threads, checked
    )


def quantile(
    outputs: ArrayLike,
    targets: ArrayLike,
    *,
    tau: float = 0.5,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> LossGrad:
    """The quantile error ("pinball loss") of linear outputs, with its gradient.

    The error of one example and its delta are ::

        E     = Σ_k max(τ (t_k - y_k), (τ - 1) (t_k - y_k))
        dE/dy = -τ where y < t, 1 - τ where y > t, 0 where y = t

    It is smallest where a share τ of the targets lies below the output: with the default at their median, where it is half
    the absolute error; with 0.1 and 0.9 at the ends of an interval that holds 80 % of them [1]_. At y = t it has a kink: any
    number in [-τ, 1 - τ] would do for the derivative there.

    Parameters
    ----------
    outputs : array of float32 or float64, shape (N, O) or (N,)
        One row of O outputs for each example; a vector is N examples of one output.
    targets : array of real numbers, of the shape of `outputs`, or one number
        Cast to the dtype of `outputs`.
    tau : float in (0, 1), default 0.5
        τ, the share of the targets that are to lie below the outputs; a number that the dtype of `outputs` can hold.
    sample_weight : array of shape (N,), optional
        w_n multiplies the error of example n. A row whose weight is exactly 0 is not read. Not checked for
        sign.
    reduction : {"mean", "sum", "none"}, default "mean"
        Mean over examples weighted by w_n, sum, or the vector w_n E_n. An example's error is the sum over its
        outputs.
    grad_out : numpy.ndarray of the shape and dtype of `outputs`, optional
        Where to write the gradient. It may be `outputs` itself and must not overlap any other input.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LossGrad
        ``(loss, grad, weight_sum)``; `grad` has the shape of `outputs`.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, or a `grad_out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Notes
    -----
    An infinite output costs +inf, and its gradient is finite. A NaN makes its example's error NaN, and its own delta. An
    empty batch, or weights that are all 0: mean NaN, sum 0, gradient exactly 0, `weight_sum` 0.

    In scikit-learn: ``mean_pinball_loss(t, y, alpha=τ)`` averages over outputs as well: divide ours by O. In PyTorch:
    ``l1_loss(y, t)`` is twice our error at τ = ½, over O.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46 (1978).

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> loss, grad, _ = fastbp.quantile(np.array([[0.0, 4.0]]), [[2.0, 3.0]], tau=0.75)
    >>> float(loss), grad.tolist()  # 0.75·2 + 0.25·1
    (1.75, [[-0.75, 0.25]])
    """
    checked = partial(_checks.positive_in, "tau", tau, interval=OPEN_FRACTION)
    return _elementwise(
        "quantile", "outputs", outputs, targets, sample_weight, reduction, grad_out, n_threads, checked
    )


def _elementwise(
    error: str,
    name: str,
    outputs: ArrayLike,
    targets: ArrayLike,
    sample_weight: ArrayLike | None,
    reduction: Reduction,
    grad_out: np.ndarray | None,
    n_threads: int | None,
    parameter: Callable[[np.dtype], float] | None = None,
) -> LossGrad:
    """The errors that know nothing but outputs (called `name`), targets, sample weights, and perhaps one parameter,
    which is checked for the dtype of the outputs."""
    z, t, s = _checks.elementwise(name, outputs, targets, sample_weight)
    arguments = t, s, error, parameter(z.dtype) if parameter else 0.0
    if grad_out is not None:
        inputs = {name: outputs, "targets": targets, "sample_weight": sample_weight}
        _checks.output("grad_out", grad_out, z.shape, z.dtype, in_place=name, **inputs)
    return _evaluate(_backend.kernels.elementwise_error, arguments, z, reduction, grad_out, n_threads)


def _evaluate(
    kernel: _Kernel[*_Own],
    arguments: tuple[*_Own],
    z: np.ndarray,
    reduction: Reduction,
    grad_out: np.ndarray | None,
    n_threads: int | None,
) -> LossGrad:
    """Enter the kernel with its own `arguments` between those common to all; the gradient is shaped like `z`."""
    _checks.choice("reduction", reduction, _REDUCTIONS)
    threads = _checks.threads(n_threads)
    dtype = z.dtype
    grad = _backend.kernels.new_array(z.shape, dtype) if grad_out is None else grad_out
    losses = np.empty(len(z), dtype) if reduction == "none" else None
    rows = grad if grad.ndim == 2 else grad[:, None]  # (N, O)
    loss, weight_sum = kernel(_checks.examples(z), *arguments, reduction == "mean", losses, rows, threads)
    error = _in_dtype(loss, dtype) if losses is None else losses
    return _new_tuple(LossGrad, (error, grad, weight_sum))


def _in_dtype(loss: float, dtype: np.dtype) -> np.floating[Any]:
    """`loss` as a scalar of `dtype`; beyond float32 it is inf, without a warning, as it is within an array."""
    scalar: type[np.floating[Any]] = dtype.type
    if -_FLOAT32_MAX <= loss <= _FLOAT32_MAX:
        return scalar(loss)
    with np.errstate(over="ignore"):
        return scalar(loss)
