# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=call-arg
"""The error functions, their rows and weights."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fastbp._errors import gone_astray
from fastbp._reference.parts import quiet, sigmoid_parts, softmax_parts


def rows_read(x, targets, sample_weight, ignored=False):
    """Leave out what must not be read: x (R, C), targets (R, ...), sample weights s (R,), "is read" (N,)."""
    s = np.ones(len(x)) if sample_weight is None else sample_weight
    read = (s != 0.0) & np.logical_not(ignored)
    return x[read], targets[read], s[read], read


def _wide(x):
    """`x` in float64, or in its own dtype if that is wider (decision C)."""
    return x.astype(np.promote_types(x.dtype, np.float64))


def _reduce(errors, derivatives, s, weights, read, mean, losses, outputs, unit=1.0):
    """Weight errors (R,) and their derivatives, each (R, C), by s (R,), write `losses` (N,) and `outputs`, each (N, C),
    sum or average.

    `weights` (R,) is what each example counts in the mean: s, times the class weight of its target if any. All but
    s and the sum of the weights that is returned are in units, multiplied by `unit`; those of a mean cancel.
    """
    errors = s * _wide(errors)
    total, weight_sum = float(errors.sum()), float(weights.sum())
    if losses is not None:
        losses[...] = 0.0
        losses[read] = errors / unit
    for out in outputs:
        out[...] = 0.0
    if mean and weight_sum == 0.0:  # nothing to average, nothing to learn from
        return math.nan, weight_sum
    divisor = weight_sum if mean else unit
    for out, rows in zip(outputs, derivatives, strict=True):
        out[read] = (s.astype(_wide(rows).dtype) / divisor).astype(rows.dtype)[:, None] * rows
    return total / divisor, weight_sum / unit


def _unit_of(class_weight):
    """Return a power of 2 that brings the largest finite weight to [1/2, 1): class weights in such units neither
    overflow in the dtype nor all vanish, however they are scaled."""
    finite = np.abs(class_weight[np.isfinite(class_weight)])
    exponent = np.frexp(finite.max(initial=0.0))[1]
    return math.ldexp(1.0, -int(np.clip(exponent, -1022, 1022)))


def _weighted(weight, value):
    """The product, with 0 where the weight is 0 even if the value is infinite (decision G)."""
    return np.where(weight == 0.0, 0.0, weight * value)


def first_bad_label(labels, n_classes, ignore_index):
    """Return the first row whose label is neither in [0, n_classes) nor ignore_index, or -1."""
    bad = np.flatnonzero(((labels < 0) | (labels >= n_classes)) & (labels != ignore_index))
    return int(bad[0]) if bad.size else -1


@quiet
def softmax_cross_entropy(
    logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale,
    softcap, mean, losses, grad, n_threads,
):  # fmt: skip
    options = (ignore_index, label_smoothing, lse_square_scale, softcap, mean, losses)
    return _softmax_cross_entropy(logits, labels, targets, class_weight, sample_weight, *options, [grad])


@quiet
def softmax_cross_entropy_hessian(
    logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, hessian, mean, losses,
    grad, n_threads,
):  # fmt: skip
    options = (ignore_index, label_smoothing, 0.0, 0.0, mean, losses)
    return _softmax_cross_entropy(
        logits, labels, targets, class_weight, sample_weight, *options, [grad, hessian]
    )


def _softmax_cross_entropy(
    logits, labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale,
    softcap, mean, losses, outputs,
):  # fmt: skip
    """E = Σ_c u_c (lse - z_c) + scale lse² with u_c = class_weight_c ((1 - smoothing) t_c + smoothing / C).

    With m = max z and rest = Σ exp(z_c - m) over all but the largest, lse - z_c = log1p(rest) + (m - z_c), a
    sum of two terms >= 0. The gradient is y_c (Σu + 2 scale lse) - u_c, y_c = exp(z_c - m) / (1 + rest). At
    the largest logit y_c may be close to 1 and u_c close to Σu: both terms go over the common denominator,
    (Σu - u_c + 2 scale lse - u_c rest) / (1 + rest), and Σu - u_c is added up from the other classes.

    `outputs` are for the gradient and, without the last two options, the diagonal of the Hessian, Σu y (1 - y), where 1 - y
    is rest / (1 + rest) at the largest logit.
    """
    n_classes = logits.shape[1]
    if labels is None:
        raw, t, s, read = rows_read(logits, targets, sample_weight)
    else:
        raw, index, s, read = rows_read(logits, labels, sample_weight, labels == ignore_index)
        if ((index < 0) | (index >= n_classes)).any():  # `index` is a copy, which stays as it is
            raise gone_astray(n_classes)
        t = np.zeros_like(raw)
        t[np.arange(len(t)), index] = 1.0

    u = (1.0 - label_smoothing) * t + label_smoothing / max(n_classes, 1)  # (R, C)
    weights, unit = s, 1.0
    if class_weight is not None:
        unit = _unit_of(class_weight)
        class_weight, lse_square_scale = class_weight * unit, lse_square_scale * unit
        u = class_weight.astype(u.dtype) * u
        t_sum = _wide(t).sum(axis=1)
        weights = s * np.where(t_sum == 0.0, unit, (class_weight * t).sum(axis=1) / t_sum)

    z = softcap * np.tanh(raw / softcap) if softcap else raw
    m, e, top, rest = softmax_parts(z)
    u_top = np.where(top, u, 0.0).sum(axis=1, keepdims=True)
    u_others = np.where(top, 0.0, u).sum(axis=1, keepdims=True)
    u_sum = u_top + u_others
    log_sum = np.log1p(rest)  # lse - m

    errors = (u_sum * log_sum)[:, 0] + _weighted(u, m - z).sum(axis=1)
    pull = 0.0  # of the term scale lse² on lse
    if lse_square_scale:
        errors = errors + lse_square_scale * ((m + log_sum) ** 2)[:, 0]
        pull = 2.0 * lse_square_scale * (m + log_sum)

    at_top = (u_others + pull - u_top * rest) / (1.0 + rest)
    elsewhere = e / (1.0 + rest) * (u_sum + pull) - u
    deltas = np.where(top, at_top, elsewhere)
    if softcap:  # the slope is 1 - tanh²(x) = 4 q / (1 + q)², where x = z / softcap and q = exp(-2 |x|)
        q = np.exp(-2.0 * np.abs(raw / softcap))
        deltas = deltas * (4.0 * q / (1.0 + q) ** 2)
    derivatives = [deltas]
    if len(outputs) > 1:
        y = e / (1.0 + rest)
        derivatives.append(u_sum * np.where(e == 1.0, rest / (1.0 + rest) ** 2, y * (1.0 - y)))
    return _reduce(errors, derivatives, s, weights, read, mean, losses, outputs, unit)


def softmax_cross_entropy_at_once(
    logits, labels, class_weight, sample_weight, label_smoothing, lse_square_scale, softcap, grad, n_threads
):  # fmt: skip
    """Return None: there is no shorter way than `softmax_cross_entropy` with all the checks before it."""
    return None


@quiet
def sigmoid_cross_entropy(
    logits, targets, pos_weight, sample_weight, label_smoothing, mean, losses, grad, n_threads
):  # fmt: skip
    options = (pos_weight, sample_weight, label_smoothing, mean, losses)
    return _sigmoid_cross_entropy(logits, targets, *options, [grad])


@quiet
def sigmoid_cross_entropy_hessian(
    logits, targets, pos_weight, sample_weight, label_smoothing, hessian, mean, losses, grad, n_threads
):  # fmt: skip
    options = (pos_weight, sample_weight, label_smoothing, mean, losses)
    return _sigmoid_cross_entropy(logits, targets, *options, [grad, hessian])


def _sigmoid_cross_entropy(
    logits, targets, pos_weight, sample_weight, label_smoothing, mean, losses, outputs
):  # fmt: skip
    """E = -Σ_k [p_k t ln y + (1 - t) ln(1 - y)] with y = sigmoid(z), t smoothed towards 1/2, p = pos_weight.

    With e = exp(-|z|), -ln of the likelier one of y and 1 - y is log1p(e), of the other log1p(e) + |z|. "Yes"
    and "no" are weighted by mirrored formulas, not one by 1 - the other, and z = 0 is on neither side:
    (x, t) and (-x, 1 - t) agree bit by bit.

    `outputs` are for the gradient and the diagonal of the Hessian, (p t + 1 - t) y (1 - y) with y (1 - y) = e / (1 + e)².
    """
    z, t, s, read = rows_read(logits, targets, sample_weight)
    yes = (1.0 - label_smoothing) * t + 0.5 * label_smoothing
    no = (1.0 - label_smoothing) * (1.0 - t) + 0.5 * label_smoothing
    if pos_weight is not None:
        yes = pos_weight.astype(yes.dtype) * yes
    both = yes + no
    e, smaller = sigmoid_parts(z)
    unlikely = np.where(z > 0.0, no, yes)  # the weight of the less likely answer
    errors = both * np.log1p(e) + _weighted(unlikely, np.abs(z))
    miss = unlikely - both * smaller
    deltas = np.where(z == 0.0, 0.5 * (no - yes), np.where(z > 0.0, miss, -miss))  # y - t where p = 1
    derivatives = [deltas]
    if len(outputs) > 1:
        derivatives.append(both * (smaller / (1.0 + e)))
    return _reduce(errors.sum(axis=1), derivatives, s, s, read, mean, losses, outputs)


def _squared_error(y, t, parameter):
    """E = ½ Σ_k (y - t)², dE/dy = y - t."""
    return 0.5 * (y - t) ** 2, y - t


def _sigmoid_squared_error(z, t, parameter):
    """E = ½ Σ_k (y - t)² with y = sigmoid(z), dE/dz = (y - t) y (1 - y).

    For z > 0, y - t is formed as (1 - t) - (1 - y), which keeps its digits where y and t are both close to 1.
    """
    e, smaller = sigmoid_parts(z)
    difference = np.where(z > 0.0, (1.0 - t) - smaller, smaller - t)  # y - t
    return 0.5 * difference**2, difference * (smaller / (1.0 + e))  # y (1 - y) = smaller / (1 + e)


def _poisson_deviance(z, t, parameter):
    """E = Σ_k [μ - t - t (z - ln t)] with μ = exp(z), half the deviance; dE/dz = μ - t. NaN for t < 0."""
    mu = np.exp(z)
    r = z - np.log(t)
    errors = np.where(t == 0.0, mu, np.where(np.abs(r) < 1.0, t * (np.expm1(r) - r), mu - t - t * r))
    return errors, np.where(t < 0.0, np.nan, mu - t)


def _huber(y, t, delta):
    """With r = y - t: E = Σ_k of ½ r² where |r| <= delta, delta (|r| - ½ delta) elsewhere; dE/dy = r within ±delta."""
    r = y - t
    size = np.abs(r)
    terms = np.where(size <= delta, 0.5 * r**2, delta * (size - 0.5 * delta))
    return terms, np.clip(r, -delta, delta)


def _quantile(y, t, tau):
    """E = Σ_k max(tau (t - y), (tau - 1) (t - y)); dE/dy = -tau for y < t, 1 - tau for y > t, 0 at y = t."""
    r = y - t
    return np.maximum(-tau * r, (1.0 - tau) * r), np.where(r < 0.0, -tau, np.where(r > 0.0, 1.0 - tau, r))


TERMS = {  # (outputs (R, O), targets (R, O), parameter) -> the terms of each E and their deltas, both (R, O)
    "squared_error": _squared_error,
    "sigmoid_squared_error": _sigmoid_squared_error,
    "poisson_deviance": _poisson_deviance,
    "huber": _huber,
    "quantile": _quantile,
}


@quiet
def elementwise_error(outputs, targets, sample_weight, error, parameter, mean, losses, grad, n_threads):
    """An error that knows nothing but outputs and targets, and perhaps one parameter: E = Σ_k of its terms."""
    y, t, s, read = rows_read(outputs, targets, sample_weight)
    terms, deltas = TERMS[error](y, t, parameter)
    return _reduce(terms.sum(axis=1), [deltas], s, s, read, mean, losses, [grad])


# -- the errors of a network: the weighted mean over the rows z (N, C), its terms, its delta, and the sum of the weights ---


def _mean_softmax_cross_entropy(z, targets, weights, smoothing, parameter, losses, delta, n_threads):
    labels, rows = (targets, None) if targets.ndim == 1 else (None, targets)
    options = (None, weights, -100, smoothing, 0.0, 0.0)
    return softmax_cross_entropy(z, labels, rows, *options, True, losses, delta, n_threads)


def _mean_sigmoid_cross_entropy(z, targets, weights, smoothing, parameter, losses, delta, n_threads):
    return sigmoid_cross_entropy(z, targets, None, weights, smoothing, True, losses, delta, n_threads)


def _mean_elementwise_error(error, z, targets, weights, smoothing, parameter, losses, delta, n_threads):
    return elementwise_error(z, targets, weights, error, parameter, True, losses, delta, n_threads)


PARAMETERS = {
    "huber": 1.0,
    "quantile": 0.5,
}  # of those errors that have one, what a network takes for it, if it is not told
MEAN_ERRORS = {
    "softmax_cross_entropy": _mean_softmax_cross_entropy,
    "sigmoid_cross_entropy": _mean_sigmoid_cross_entropy,
} | {name: partial(_mean_elementwise_error, name) for name in TERMS}
