"""The one file of tolerances: each a named coefficient times eps, with its derivation.

eps is the spacing of floating-point numbers at 1 (2**-23 in float32, 2**-52 in float64): one correctly rounded operation errs by
at most eps/2 of its result, `ROUNDING`.

A :class:`Bound` allows ``coefficient * eps * magnitude``, entry by entry. ``magnitude`` is the natural size of the entry: its own
absolute value where nothing cancels, the sum of the absolute values of its terms where something does. ``coefficient`` counts
the errors on the way, to first order in eps.

The promise "no worse than plain NumPy in the same dtype" is measured in the same units: ``max(error / magnitude)`` of a kernel
may exceed that of the twin by ``NO_WORSE * eps``.

:data:`BOUNDS` holds, by the name of a backend function, what gives the bounds of its results by name: a function of the arguments
and the exact results of one call (both in the precision of the oracle) and of ``fma``, whether the rounding error of a square can
be known, which takes fused multiply-add.

Dimension letters: N rows, C classes, I inputs, O outputs, K the terms of a product.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastbp import _reference
from fastbp._reference.errors import PARAMETERS

Array = np.ndarray

# -- coefficients, in units of eps ---------------------------------------------------------------------------------------------

ROUNDING = 0.5
"""One correctly rounded operation."""

EXP = 2.0
"""exp(x) of a given x: reduction by a two-part ln 2, a polynomial on [-ln2/2, ln2/2], an exact scaling by a power of two."""

LOG = 2.0
"""log1p(x), x >= 0, relative to itself; log(x) relative to max(|log x|, 1). Of a given x."""

SIGMOID = 4.0
"""1/(1+e) or e/(1+e), e = exp(-|x|): the error of e, an addition, a division; and one more for the order of things."""

TANH = 4.0
"""tanh |x| = -t/(t+2), t = expm1(-2|x|), or a polynomial near 0: what the quotient keeps of the errors of t, three roundings."""

CAPPED = TANH + 2 * ROUNDING
"""c tanh(z/c): a quotient, whose error tanh does not magnify, and a product."""

SOFTPLUS = EXP + LOG + 2 * ROUNDING
"""max(x,0) + log1p(exp(-|x|)): two terms of one sign; the condition number of log1p is at most 1."""

GELU = 8.0
"""x Φ(x) with Φ(-x) = exp(-x²/2) times a rational function: each a few roundings, the two products."""

MISH = EXP + 5 * ROUNDING
"""x n/d, where a relative error of e = exp(-|x|) becomes at most the same one of n/d; and five operations."""

WEIGHTING = 6 * ROUNDING
"""What an error or a delta is multiplied by, each rounded and applied: class weight, sample weight, 1/weight_sum."""

SMOOTHING = 4 * ROUNDING
"""(1 - smoothing) t + smoothing/C: two rounded constants, a product and a sum."""

SGD = 10 * ROUNDING
"""w - η (g + λw + μ(μv + g + λw)): three rounded scalars and seven operations."""

RMSPROP = 20 * ROUNDING
"""w - η (μb + g/(sqrt(v - m²) + ε)): seven rounded scalars and thirteen operations on the longest path."""

ADAGRAD = 10 * ROUNDING
"""w - η g/(sqrt(v) + ε): three rounded scalars and seven operations."""

ADAM = 20 * ROUNDING
"""w - η m̂/(sqrt(v̂) + ε): eight rounded scalars and twelve operations on the longest path."""

LION = 10 * ROUNDING
"""(1 - ηλ) w - η sign(βm + (1 - β)g): five rounded scalars and five operations."""


MUON = 5 * ROUNDING
"""μm + (1 - μ)g and its factors, before it is orthogonalised."""


def orthogonalised(inputs: int, outputs: int, n_steps: int) -> float:
    """Of what Newton and Schulz make of a matrix whose norm is 1, as if its largest element were 1.

    All singular values stay within 1.21, where the slope of a x + b x³ + c x⁵ is within ±4. So an error becomes at most four
    times as large at each iteration, which adds that of three products, of factors up to 5: X Xᵀ, Q², and that times X.
    """
    of_products = 3 * 5 * product_of(max(inputs, outputs))
    return sum(4.0**later * of_products for later in range(n_steps)) + 4.0**n_steps * MUON


def many_updates(n: int) -> float:
    """Of n updates by a rule, one after the other, of parameters of the size of 1: each may add the error of the longest rule."""
    return n * ADAM


def boosted(n: int) -> float:
    """Raw scores after n rounds of boosting in float32, relative to the largest: a leaf is the quotient of two sums, in each term
    of which exp, the normalisation and a few products were rounded, by the library and by us.
    """
    return n * (2 * EXP + 8 * ROUNDING)


UNDERFLOW = 4.0
"""Below the normal range an error is absolute: a few times the smallest positive number."""

NO_WORSE = 4.0
"""How much worse than plain NumPy in the same dtype a kernel may be: a promise of the design."""

LAST_DIGITS = 4.0
"""A promise: an error or delta of the cross-entropies in float64, relative to itself. To it comes the distance of two logits,
m - z, where one is formed: that difference is rounded, and exp turns its relative error, 1/2, into (m - z)/2 of its own.
"""

BY_HAND = EXP + LOG + 4 * ROUNDING
"""A value worked by hand: an exponential, a logarithm, a few operations between numbers of the size of 1."""

AS_GOOD_AS_EQUAL = 1e-5
"""Some eighty eps of float32: logits of a few small layers by two libraries, or parameters after a few epochs from inputs that
were rounded otherwise. It tells a wrong weight, activation or rank from rounding; what must be exact is held in float64."""

RECORDED_DIGITS = 1e-14
"""The digits with which float64 numbers of the size of 1 are written down in a test."""

SAME_ERROR = 1e-12
"""An error in float64 by two ways of a network, relative to itself: sums of some dozens of terms in another order."""

PLAYGROUND = 1e-12
"""The page that runs in a browser, on 3-2-2 networks in double precision, not in eps: its exponentials are another library's,
and sums of numbers up to 10³ are formed in another order."""

PLAYGROUND_DIFFERENCE = 1e-7
"""Its finite differences, whose step of 6e-6 makes them wrong by h² and by eps / h."""


def sum_of(n: int) -> float:
    """Error of a sum of n terms relative to the sum of their absolute values.

    In one chain of additions it is at most n-1 roundings; where rounding errors are independent with mean zero, sqrt(n) roundings
    times a small constant, here 2 (Higham & Mary, SIAM J. Sci. Comput. 41, 2019); lanes and blocks make it smaller still.
    """
    return min(n, 2 * math.sqrt(n)) * ROUNDING


TERMS = {"highest": 0.0, "high": 2.0**-15, "medium": 2.0**-7 + 2.0**-16}
"""What a term a b of a product lacks at most, relative to |a b|, by precision.

With pieces x₁ = x rounded to 8 bits, |x - x₁| <= 2⁻⁸ |x|, x₂ = x - x₁ rounded, |x - x₁ - x₂| <= 2⁻¹⁷ |x|: "medium" is a₁b₁, off
by at most 2⁻⁸ + 2⁻⁸ + 2⁻¹⁶; "high" is a₁b₁ + a₁b₂ + a₂b₁, which lacks a₂b₂, at most 2⁻¹⁶, and what is left of a and of b, 2⁻¹⁷
each.
"""


def product_of(k: int, precision: str = "highest") -> float:
    """gamma_K: an entry of A B errs by at most K roundings of |A| |B|, in any order, fused or not; one more for the bias.

    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.5.)

    From pieces of bfloat16 each term lacks its part of TERMS. Products of pieces are exact in float32, and fewer than K + 3
    additions follow one another: by AVX512-BF16 one chain; on a tile unit for each 32 steps two chains of 16, their sum, and
    up to three such sums. What a unit takes for 0 is at most one rounding more (src_c/gemm/pieces/range.h, sums_lost).
    """
    if precision == "highest":
        return (k + 1) * ROUNDING
    lacks = TERMS[precision]
    return (1 + lacks) * (k + 4) * ROUNDING + lacks / np.finfo(np.float32).eps


class Bound(NamedTuple):
    """The error allowed in each entry: coefficient * eps * magnitude + underflow * (the smallest positive number)."""

    magnitude: Any
    coefficient: Any
    underflow: Any = UNDERFLOW


Bounds = dict[str, Bound]
BOUNDS: dict[str, Callable[[SimpleNamespace, SimpleNamespace, bool], Bounds]] = {}


def _bound(function: Callable) -> Callable:
    BOUNDS[function.__name__] = function
    return function


# -- rows of logits ------------------------------------------------------------------------------------------------------------


def _rows(z: Array, softcap: float = 0.0) -> SimpleNamespace:
    """The parts of softmax of the rows z (N,C), each (N,C) or (N,1), and their errors where they have one.

    With m = max z and d_c = m - z_c, exp(-d_c) errs by EXP and by the rounding of d_c, which is *relative* to the exponential:
    d_c/2. So the far tail is known less well by any implementation that works in one precision.
    rest = sum of exp(-d_c) over c != argmax; lse = m + log1p(rest).

    A softcap c replaces z by c tanh(z/c), which is off by CAPPED relative to itself. So d_c is off by CAPPED times its `spread`,
    |z_c| + |m|, however small it is itself; that is a magnitude, like d_c, and not a number of roundings. `share` is what the
    spreads make of log(1 + rest).
    Rows without a softmax (NaN, +inf, all -inf) count as rows of zeros: their bounds do not matter.
    """
    z = softcap * np.tanh(z / softcap) if softcap else z
    z = np.where((z < np.inf).all(axis=1, keepdims=True) & (z > -np.inf).any(axis=1, keepdims=True), z, 0)
    finite = z > -np.inf
    m = z.max(axis=1, keepdims=True)
    d = np.where(finite, m - z, 0)
    spread = np.where(finite, np.abs(z) + np.abs(m), 0) if softcap else np.zeros_like(d)
    capped = CAPPED if softcap else 0.0
    is_top = np.arange(z.shape[1]) == z.argmax(axis=1)[:, None]
    e = np.where(finite, np.exp(-d), 0)
    others = np.where(is_top, 0, e)
    rest = others.sum(axis=1, keepdims=True)
    some_rest = np.where(rest > 0, rest, 1)
    rest_error = (
        (others * d).sum(axis=1, keepdims=True) / some_rest * ROUNDING + EXP + sum_of(z.shape[1]) + capped
    )
    rest_spread = (others * spread).sum(axis=1, keepdims=True)
    share = rest_spread / (1 + rest)
    y = e / (1 + rest)
    return SimpleNamespace(
        d=d, spread=spread, is_top=is_top, rest=rest, rest_size=rest + rest_spread, rest_error=rest_error, share=share,
        y=y, y_size=y * (1 + spread + share), y_error=EXP + d * ROUNDING + rest_error + 2 * ROUNDING + capped,
        log1p_rest=np.log1p(rest), log1p_size=np.log1p(rest) + share, log1p_error=LOG + rest_error,
        lse=m + np.log1p(rest), lse_size=np.abs(m) + np.log1p(rest) + share, lse_error=LOG + ROUNDING + rest_error + capped,
    )  # fmt: skip


@_bound
def softmax(a, r, fma):
    """y_c = exp(-d_c)/(1 + rest)."""
    row = _rows(a.x)
    return {"out": Bound(row.y, row.y_error)}


@_bound
def log_softmax(a, r, fma):
    """-(d_c + log1p(rest)): two terms of one sign."""
    row = _rows(a.x)
    return {"out": Bound(row.d + row.log1p_rest, row.log1p_error + 2 * ROUNDING, UNDERFLOW * a.x.shape[1])}


@_bound
def logsumexp(a, r, fma):
    """m + log1p(rest), whose terms may cancel."""
    row = _rows(a.x)
    return {"out": Bound(row.lse_size[:, 0], row.lse_error[:, 0], UNDERFLOW * a.x.shape[1])}


@_bound
def softmax_backward(a, r, fma):
    """y_c (g_c - sum g y)."""
    mean = np.abs(a.grad * a.y).sum(axis=1, keepdims=True)
    return {"out": Bound(np.abs(a.y) * (np.abs(a.grad) + mean), sum_of(a.y.shape[1]) + 3 * ROUNDING)}


# -- errors: each is the sum over n of w_n E_n, divided by W = sum of w_n for the mean -------------------------------------------


def _reduced(a, r, rows: Bound, n_terms: int, **derivatives: Bound) -> Bounds:
    """From the bounds of the weighted examples (N,) and of their derivatives (N,C) those of what a call returns.

    Each of the n_terms of an example may have underflowed; a small W magnifies that.
    """
    n_rows = len(rows.magnitude)
    divisor = abs(r.weight_sum) if a.mean and r.weight_sum else 1.0
    total = rows.magnitude.sum()
    error = (rows.magnitude * rows.coefficient).sum() / total if total > 0 else 0.0
    underflow = UNDERFLOW * max(1.0, 1 / divisor)
    bounds = {
        "loss": Bound(total / divisor, error + sum_of(n_rows) + WEIGHTING, underflow * n_rows * n_terms),
        "weight_sum": Bound(r.weight_sum, sum_of(n_rows) + sum_of(n_terms) + WEIGHTING),
    }
    for name, each in derivatives.items():
        bounds[name] = Bound(each.magnitude / divisor, each.coefficient + WEIGHTING, underflow * n_terms)
    if a.losses is not None:
        bounds["losses"] = Bound(rows.magnitude, rows.coefficient + WEIGHTING, UNDERFLOW * n_terms)
    return bounds


def _targets_and_weights(a) -> tuple[Array, Array]:
    """The |u_c| (N,C) and |s| (N,1) of softmax outputs, both 0 where a row is not read."""
    n_rows, n_classes = a.logits.shape
    class_weight = np.ones(n_classes) if a.class_weight is None else a.class_weight
    s = np.ones(n_rows) if a.sample_weight is None else np.abs(a.sample_weight)
    if a.labels is None:
        targets, read = a.targets, s != 0
    else:
        read = (s != 0) & (a.labels != a.ignore_index)
        targets = np.arange(n_classes) == a.labels[:, None]
    u = np.abs(class_weight * ((1 - a.label_smoothing) * targets + a.label_smoothing / n_classes))
    return np.where(read[:, None], u, 0), np.where(read, s, 0)[:, None]


def _rows_read(a, s: Array) -> Array:
    """The logits, 0 in the rows that are not read."""
    return np.where(s > 0, a.logits, 0)


@_bound
def softmax_cross_entropy(a, r, fma):
    """E = s [sum u_c (log1p(rest) + d_c) + k lse²] is a sum of terms of one sign. Its delta is s [y_c (U + 2k lse) - u_c],
    U = sum u; but for the largest logit s [V - u_c rest + 2k lse]/(1+rest), V the sum of the other u, so that no y_c is
    subtracted from a target near it.
    """
    n_classes = a.logits.shape[1]
    u, s = _targets_and_weights(a)
    row = _rows(_rows_read(a, s), a.softcap)
    total, others = u.sum(axis=1, keepdims=True), np.where(row.is_top, 0, u).sum(axis=1, keepdims=True)
    few = SMOOTHING + sum_of(n_classes) + 2 * ROUNDING

    terms = np.where(u > 0, u * (row.log1p_size + row.d + row.spread), 0)
    square = abs(a.lse_square_scale) * row.lse_size**2
    size = terms.sum(axis=1) + square[:, 0]
    error = row.log1p_error + 2 * row.lse_error * (square > 0) + CAPPED * bool(a.softcap) + few
    rows = Bound(s[:, 0] * size, error[:, 0])

    pull = 2 * abs(a.lse_square_scale) * row.lse_size
    at_top = (u * row.rest_size + (others + pull) * (1 + row.share)) / (1 + row.rest)
    elsewhere = row.y_size * (total + pull) + u
    delta_error = np.where(row.is_top, row.rest_error, row.y_error) + row.lse_error * (pull > 0) + few
    if a.softcap:  # its factor 1 - tanh² is off by twice the error of tanh
        delta_error = delta_error + 2 * TANH + 2 * ROUNDING
    deltas = Bound(s * np.where(row.is_top, at_top, elsewhere), delta_error)
    return _reduced(a, r, rows, n_classes, grad=deltas)


@_bound
def softmax_cross_entropy_hessian(a, r, fma):
    """Those of the error, and s U y_c (1 - y_c), U = sum u. Here y_c <= 1/2, whose error 1 - y_c does not magnify; but for the
    largest logit it is s U rest/(1+rest)², no steeper in rest than rest itself.
    """
    u, s = _targets_and_weights(a)
    row = _rows(_rows_read(a, s))
    curvature = np.where(row.is_top, row.rest / (1 + row.rest) ** 2, row.y * (1 - row.y))
    error = (
        np.where(row.is_top, row.rest_error, 2 * row.y_error) + SMOOTHING + sum_of(u.shape[1]) + 4 * ROUNDING
    )
    without = SimpleNamespace(**vars(a), lse_square_scale=0.0, softcap=0.0)
    hessian = Bound(s * u.sum(axis=1, keepdims=True) * curvature, error)
    none = Bound(np.zeros(len(s)), 0.0)
    return softmax_cross_entropy(without, r, fma) | {
        "hessian": _reduced(a, r, none, u.shape[1], hessian=hessian)["hessian"]
    }


def _sum_over_outputs(a, r, entries: Bound, **derivatives: Bound) -> Bounds:
    """An error that is a sum over the outputs (N,O) of entries, each with its delta."""
    n_rows, n_outputs = entries.magnitude.shape
    s = np.ones((n_rows, 1)) if a.sample_weight is None else np.abs(a.sample_weight)[:, None]

    def weighted(bound: Bound) -> Bound:
        return bound._replace(magnitude=np.where(s > 0, s * bound.magnitude, 0))

    rows = Bound(weighted(entries).magnitude.sum(axis=1), entries.coefficient + sum_of(n_outputs))
    return _reduced(a, r, rows, n_outputs, **{name: weighted(each) for name, each in derivatives.items()})


@_bound
def sigmoid_cross_entropy_hessian(a, r, fma):
    """E = (A+B) log1p(e) + |z| (A where z > 0, else B), A = 1 - t, B = p t; dE/dz = A - (A+B) s or (A+B) s - B, s = e/(1+e);
    d²E/dz² = (A+B) e/(1+e)², no steeper in e than e.

    A smoothed target is off by its roundings relative to 1, and so is A.
    """
    size = np.abs(a.logits)
    p = 1.0 if a.pos_weight is None else a.pos_weight
    t = (1 - a.label_smoothing) * a.targets + a.label_smoothing / 2
    blur = 1.0 if a.label_smoothing else 0.0
    no, yes = np.abs(1 - t) + blur, p * (np.abs(t) + blur)
    wrong = np.where(a.logits > 0, no, yes)
    e = np.exp(-size)
    entries = (no + yes) * np.log1p(e) + np.where(wrong > 0, size * wrong, 0)
    deltas = wrong + (no + yes) * e / (1 + e)
    few = SMOOTHING + 3 * ROUNDING
    curvatures = (no + yes) * e / (1 + e) ** 2
    return _sum_over_outputs(
        a,
        r,
        Bound(entries, SOFTPLUS + few),
        grad=Bound(deltas, SIGMOID + few),
        hessian=Bound(curvatures, EXP + few + 6 * ROUNDING),
    )


@_bound
def sigmoid_cross_entropy(a, r, fma):
    """The same without the Hessian."""
    bounds = sigmoid_cross_entropy_hessian(a, r, fma)
    return {name: bound for name, bound in bounds.items() if name != "hessian"}


@_bound
def squared_error(a, r, fma):
    """½ (y - t)²: the difference is rounded once, relative to itself, and squared."""
    miss = np.abs(a.outputs - a.targets)
    return _sum_over_outputs(a, r, Bound(miss**2 / 2, 4 * ROUNDING), grad=Bound(miss, ROUNDING))


@_bound
def sigmoid_squared_error(a, r, fma):
    """½ (y - t)² with y - t = (1-t) - q or q - t, q = e/(1+e), which may cancel; and (y - t) q/(1+e)."""
    e = np.exp(-np.abs(a.logits))
    q = e / (1 + e)
    target = np.abs(np.where(a.logits > 0, 1 - a.targets, a.targets))
    miss, size = np.abs(target - q), target + q
    entries, deltas = (
        Bound(size * miss + miss**2, 2 * SIGMOID),
        Bound(size * q / (1 + e), 2 * SIGMOID + 3 * ROUNDING),
    )
    return _sum_over_outputs(a, r, entries, grad=deltas)


@_bound
def poisson_deviance(a, r, fma):
    """exp(z) - t - t (z - ln t): the terms cancel where z is near ln t."""
    mu, t = np.exp(a.logits), np.abs(a.targets)
    logs = np.where(t > 0, np.abs(a.logits) + np.abs(np.log(np.where(t > 0, t, 1))) + 1, 0)
    entries = mu + np.where(t > 0, t * logs, 0)
    return _sum_over_outputs(
        a, r, Bound(entries, EXP + LOG + 4 * ROUNDING), grad=Bound(mu + t, EXP + ROUNDING)
    )


@_bound
def huber(a, r, fma):
    """c (r - ½ c) with r = y - t and c = r within ±δ. Both are rounded once, relative to themselves; no term of the difference is
    twice as large as that, so it magnifies neither more than twice; then it and the product are rounded.
    """
    miss = np.abs(a.outputs - a.targets)
    within = np.where(miss > a.parameter, a.parameter, miss)
    with np.errstate(over="ignore"):
        entries = within * (miss - within / 2)
    return _sum_over_outputs(a, r, Bound(entries, 5 * ROUNDING), grad=Bound(within, ROUNDING))


@_bound
def quantile(a, r, fma):
    """-τ or 1 - τ, rounded once, times y - t, whose sign is known exactly."""
    miss = a.outputs - a.targets
    slope = np.where(miss < 0, a.parameter, np.where(miss > 0, 1 - a.parameter, 0))
    return _sum_over_outputs(a, r, Bound(slope * np.abs(miss), 3 * ROUNDING), grad=Bound(slope, ROUNDING))


# -- activations and their slopes ----------------------------------------------------------------------------------------------

_ACTIVATION_ERROR = {
    "identity": 0.0,
    "relu": 0.0,
    "leaky_relu": 2 * ROUNDING,  # the slope 0.01 is rounded as well
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "softplus": SOFTPLUS,
    "silu": SIGMOID + ROUNDING,
    "elu": EXP,
    "selu": EXP + 2 * ROUNDING,  # the factor is rounded as well
    "gelu": GELU,
    "mish": MISH,
}
ACTIVATIONS = tuple(_ACTIVATION_ERROR)

FROM_INPUT = ("gelu", "silu", "mish")
"""The activations whose slope is computed from their input; that of the others is, from their output."""

STEEPEST = 1.76
"""The largest |f'| of any activation: λα of selu, at 0 from below."""

STEEPEST_SLOPE = 2.0
"""The largest change of any f' with what it is computed from: that of 1 - a², at a = 1."""


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543773  # of selu


def _activated(name: str, x: Array, y: Array, fma: bool) -> Bound:
    """f(x), relative to itself. Only gelu magnifies: exp(-x²/2) errs by x²/2 times the rounding of x², if that is not put back.

    That part is nothing at positive x, since there Φ(x) = 1 - tail. silu, mish and gelu multiply what underflows by x.
    """
    lost = np.where(x < 0, x * x / 2, 0) if name == "gelu" and not fma else 0.0
    return Bound(np.abs(y) * (1 + lost), _ACTIVATION_ERROR[name], UNDERFLOW * (1 + np.abs(x)))


_normal_cdf = np.vectorize(lambda x: math.erfc(-x / math.sqrt(2)) / 2, otypes=[float])


def _slope(name: str, a: Array, fma: bool) -> Bound:
    """f' from what activation_backward is given."""
    underflow = UNDERFLOW * (1 + np.abs(a))
    if name == "gelu":  # Φ(x) + x φ(x), which changes sign near -0.75
        terms = _normal_cdf(a) + np.abs(a) * np.exp(-a * a / 2) / math.sqrt(2 * math.pi)
        return Bound(terms * (1 if fma else 1 + a * a / 2), GELU, underflow)
    if name == "silu":  # s (1 + x (1 - s)), which changes sign near -1.28
        s, not_s = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(a))
        return Bound(s * (1 + np.abs(a) * not_s), 2 * SIGMOID + 3 * ROUNDING, underflow)
    if name == "mish":  # T + x (1 - T²) σ, which changes sign near -1.19: two factors of e, eight operations
        s = np.logaddexp(0, a)
        return Bound(
            np.tanh(s) + np.abs(a) / ((1 + np.exp(-a)) * np.cosh(s) ** 2), 2 * EXP + 8 * ROUNDING, underflow
        )
    magnitude, coefficient = {
        "identity": (np.ones_like(a), 0.0),
        "relu": (np.where(a > 0, 1, 0), 0.0),
        "leaky_relu": (np.where(a > 0, 1, 0.01), 2 * ROUNDING),
        "sigmoid": (np.abs(a * (1 - a)), 3 * ROUNDING),
        "tanh": (np.ones_like(a), 3 * ROUNDING),  # 1 - a² is relative to 1: a² is rounded
        "elu": (np.where(a > 0, 1, np.abs(1 + a)), ROUNDING),
        "selu": (
            np.where(a > 0, LAMBDA, np.abs(a) + LAMBDA * ALPHA),
            2 * ROUNDING,
        ),  # relative to its terms: λα is rounded
        "softplus": (-np.expm1(-a), EXP + 2 * ROUNDING),
    }[name]
    return Bound(magnitude, coefficient)


@_bound
def activate(a, r, fma):
    """f(x)."""
    return {"out": _activated(a.name, a.x, r.out, fma)}


@_bound
def activation_backward(a, r, fma):
    """g f'."""
    slope, size = _slope(a.name, a.a, fma), np.abs(a.grad)
    return {"out": Bound(size * slope.magnitude, slope.coefficient + ROUNDING, slope.underflow * (1 + size))}


# -- layers --------------------------------------------------------------------------------------------------------------------


@_bound
def linear(a, r, fma):
    """f(x W + b): the error of the product passes through f, which is nowhere steeper than STEEPEST; then that of f itself."""
    size = np.abs(a.x) @ np.abs(a.weight) + (0 if a.bias is None else np.abs(a.bias))
    z = a.x @ a.weight + (0 if a.bias is None else a.bias)
    f = _activated(a.activation, z, r.out, fma)
    coefficient = STEEPEST * product_of(len(a.weight)) + f.coefficient
    return {"out": Bound(size + f.magnitude, coefficient, f.underflow)}


@_bound
def linear_backward_input(a, r, fma):
    """(δ Wᵀ) f'."""
    size = np.abs(a.delta) @ np.abs(a.weight).T
    slope = _slope(a.activation, a.a, fma) if a.a is not None else Bound(1.0, 0.0)
    coefficient = product_of(a.weight.shape[1]) + slope.coefficient + ROUNDING
    return {"out": Bound(size * slope.magnitude, coefficient)}


@_bound
def linear_backward_weight(a, r, fma):
    """a_prevᵀ δ and the sum of δ over the rows."""
    n_rows = len(a.delta)
    return {
        "out": Bound(np.abs(a.a_prev).T @ np.abs(a.delta), product_of(n_rows)),
        "bias_out": Bound(np.abs(a.delta).sum(axis=0), sum_of(n_rows)),
    }


@_bound
def linear_softmax_cross_entropy(a, r, fma):
    """The bounds above, one after the other: every array is carried along with its error `off`, in units of eps, as in `network`.

    A delta s [y_c (U + p) - u_c], p = 2k lse, changes with the logits of its row by at most s [(U + |p|)/2 + 2k] times their
    change; the slope of a softcap, which multiplies it, by less than that of z/c.
    """
    n_rows, n_classes, size = len(a.inputs), a.weight.shape[1], np.abs(a.weight)
    s = np.ones(n_rows) if a.sample_weight is None else np.abs(a.sample_weight)
    s = np.where(False if a.labels is None else a.labels == a.ignore_index, 0, s)
    x, bias = np.where(s[:, None] > 0, a.inputs, 0), np.zeros(n_classes) if a.bias is None else a.bias
    z, z_off = x @ a.weight + bias, product_of(len(a.weight)) * (np.abs(x) @ size + np.abs(bias))

    bounds = BOUNDS["softmax_cross_entropy"](SimpleNamespace(**vars(a), logits=z), r, fma)
    options = (a.ignore_index, a.label_smoothing, a.lse_square_scale, a.softcap, a.mean)
    delta = np.empty_like(z)
    _reference.softmax_cross_entropy(
        z, a.labels, a.targets, a.class_weight, a.sample_weight, *options, None, delta, 1
    )
    targets = np.arange(n_classes) == a.labels[:, None] if a.targets is None else np.abs(a.targets)
    u = (targets + a.label_smoothing / n_classes) * (1 if a.class_weight is None else np.abs(a.class_weight))
    lse = np.abs(z).max(axis=1, keepdims=True) + math.log(n_classes)
    total = u.sum(axis=1, keepdims=True) + 2 * a.lse_square_scale * lse
    bend = total * (0.5 + (1 / a.softcap if a.softcap else 0)) + 2 * a.lse_square_scale
    divisor = abs(r.weight_sum) if a.mean and r.weight_sum else 1.0
    delta_off = bounds["grad"].coefficient * bounds["grad"].magnitude
    delta_off = delta_off + s[:, None] / divisor * bend * z_off.max(axis=1, keepdims=True)

    def off(size: Array, name: str) -> Bound:
        return Bound(size, 1.0, bounds[name].underflow)

    def grown(name: str, by: Array) -> Bound:
        return off(bounds[name].coefficient * bounds[name].magnitude + by, name)

    rows, change = np.abs(delta), (np.abs(delta) * z_off).sum(axis=1)
    results = {
        "loss": grown("loss", change.sum()),
        "weight_sum": bounds["weight_sum"],
        "grad_inputs": off((delta_off + product_of(n_classes) * rows) @ size.T, "grad"),
        "grad_weight": off(np.abs(x).T @ (delta_off + product_of(n_rows) * rows), "grad"),
    }
    if a.losses is not None:
        results["losses"] = grown("losses", change)
    if a.grad_bias is not None:
        results["grad_bias"] = off((delta_off + sum_of(n_rows) * rows).sum(axis=0), "grad")
    return results


BOUNDS["in_small_blocks"] = linear_softmax_cross_entropy
"""The same function with as little memory as it takes: see tests/test_linear_softmax_cross_entropy.py."""


# -- optimizers: relative to the magnitudes of the terms -----------------------------------------------------------------------

SQUARES = ("mean_square", "sum_of_squares", "second_moment", "largest_second_moment")
"""The states of optimizers that are never negative."""


def _rule(coefficient: float, decoupled: bool = False) -> Callable:
    """The bounds of an update from those of a rule: magnitudes of its step and of its states, for a gradient up to g."""

    def bounds_of(rule: Callable) -> Callable:
        def bounds(a, r, fma):
            size, decay = np.abs(a.parameters), a.weight_decay * np.abs(a.parameters)
            step, states = rule(a, r, np.abs(a.gradient) + (0 if decoupled else decay))
            size = size + a.learning_rate * (step + (decay if decoupled else 0))
            if a.kept is not None:
                kept = a.kept if a.step > 1 else 0
                states["average"] = kept * np.abs(a.average) + (1 - kept) * size
            return {name: Bound(each, coefficient) for name, each in (states | {"parameters": size}).items()}

        bounds.__name__ = rule.__name__
        return _bound(bounds)

    return bounds_of


def _over_root(g: Array, square: Array, square_size: Array, epsilon: float) -> Array:
    """g / (sqrt(v) + ε): the root passes on half of the relative error of v."""
    return g / (np.sqrt(square) + epsilon) * (1 + square_size / np.where(square > 0, square, 1))


@_rule(SGD)
def sgd(a, r, g):
    if a.velocity is None:
        return g, {}
    velocity = a.momentum * np.abs(a.velocity) + g
    return (g + a.momentum * velocity if a.nesterov else velocity), {"velocity": velocity}


@_rule(RMSPROP)
def rmsprop(a, r, g):
    """v - m² may cancel, if it is centred."""
    sizes = {"mean_square": a.alpha * a.mean_square + (1 - a.alpha) * g * g}
    spread, spread_size = r.mean_square, sizes["mean_square"]
    if a.mean is not None:
        sizes["mean"] = a.alpha * np.abs(a.mean) + (1 - a.alpha) * g
        spread, spread_size = spread - r.mean**2, spread_size + sizes["mean"] ** 2
    step = _over_root(g, spread, spread_size, a.epsilon)
    if a.velocity is not None:
        step = sizes["velocity"] = a.momentum * np.abs(a.velocity) + step
    return step, sizes


@_rule(ADAGRAD)
def adagrad(a, r, g):
    size = a.sum_of_squares + g * g
    return _over_root(g, r.sum_of_squares, size, a.epsilon), {"sum_of_squares": size}


def _adam(a: SimpleNamespace, r: SimpleNamespace, g: Array) -> tuple[Array, dict[str, Array]]:
    first = a.beta_1 * np.abs(a.first_moment) + (1 - a.beta_1) * g
    second = a.beta_2 * a.second_moment + (1 - a.beta_2) * g * g
    sizes, square = {"first_moment": first, "second_moment": second}, r.second_moment
    if a.largest_second_moment is not None:
        square = r.largest_second_moment
        second = sizes["largest_second_moment"] = np.maximum(a.largest_second_moment, second)
    bias = 1 - a.beta_2**a.step
    return _over_root(first / (1 - a.beta_1**a.step), square / bias, second / bias, a.epsilon), sizes


@_rule(ADAM)
def adam(a, r, g):
    return _adam(a, r, g)


@_rule(ADAM, decoupled=True)
def adamw(a, r, g):
    return _adam(a, r, g)


@_rule(ADAM, decoupled=True)
def muon(a, r, g):
    """Of a vector, in which there is no matrix: AdamW's."""
    return _adam(
        SimpleNamespace(**vars(a) | {"largest_second_moment": None, "epsilon": a.adam_epsilon}), r, g
    )


@_rule(LION, decoupled=True)
def lion(a, r, g):
    """The sign of what is nearer to 0 than its error may be the other one."""
    to = a.beta_1 * a.mean + (1 - a.beta_1) * a.gradient
    size = a.beta_1 * np.abs(a.mean) + (1 - a.beta_1) * g
    flips = 2 * size / np.where(to != 0, np.abs(to), 1)
    return 1 + flips, {"mean": a.beta_2 * np.abs(a.mean) + (1 - a.beta_2) * g}


# -- a network: the bounds above, carried through the layers -------------------------------------------------------------------

_CURVATURE = {
    "softmax_cross_entropy": lambda z: 0.5,  # sum over j of |y_c ([c=j] - y_j)| = 2 y_c (1 - y_c)
    "sigmoid_cross_entropy": lambda z: 0.25,  # y (1-y)
    "squared_error": lambda z: 1.0,
    "sigmoid_squared_error": lambda z: 0.25,  # y²(1-y)² + (y-t) y(1-y)(1-2y), for targets in [0, 1]
    "poisson_deviance": lambda z: np.exp(z),
    "huber": lambda z: 1.0,
    "quantile": lambda z: 0.0,  # but for the jump at the target, where no output of a test lies
}
"""How much a delta changes with the logits of its row, at most, by the name of the error."""


def _error_of_the_mean(loss: str, z: Array, targets: Array) -> tuple[Array, Bounds]:
    """The delta (N,C) of the mean error at the logits z, and the bounds of that call."""
    f = getattr(_reference, loss, _reference.elementwise_error)
    plain = {
        "error": loss,
        "parameter": PARAMETERS.get(loss, 0.0),
        "ignore_index": -100,
        "label_smoothing": 0.0,
        "lse_square_scale": 0.0,
        "softcap": 0.0,
        "mean": True,
        "n_threads": 1,
    }
    arguments = {name: plain.get(name) for name in inspect.signature(f).parameters}
    arguments |= {
        next(iter(arguments)): z,
        "labels" if targets.ndim == 1 else "targets": targets,
        "grad": np.empty_like(z),
    }
    _, weight_sum = f(*arguments.values())
    named = {"logits": z, **arguments}  # as `outputs`, too, where the backend calls them so
    bounds = BOUNDS[loss](SimpleNamespace(**named), SimpleNamespace(weight_sum=weight_sum), False)
    return arguments["grad"], bounds


def _layers(sizes: Sequence[int], parameters: Array) -> list[tuple[Array, Array]]:
    """The weight (I,O) and the bias (O,) of each layer, out of the flat vector."""
    layers, start = [], 0
    for i, o in pairwise(sizes):
        weight, bias, _ = np.split(parameters[start:], [i * o, (i + 1) * o])
        layers.append((weight.reshape(i, o), bias))
        start += (i + 1) * o
    return layers


@_bound
def network(a, r, fma):
    """Every array of the forward pass and of the recursion is carried along with its error `off`, in units of eps: what that of
    its inputs makes of it, to first order, plus what its own computation adds.
    """
    layers = _layers(a.layer_sizes, a.parameters)
    inputs, slopes = [(a.x, np.zeros_like(a.x))], []
    for weight, bias in layers:
        (x, x_off), size = inputs[-1], np.abs(weight)
        z = x @ weight + bias
        z_off = x_off @ size + product_of(len(weight)) * (np.abs(x) @ size + np.abs(bias))
        y = np.empty_like(z)
        _reference.activate(a.activation, z, y, 1)
        f = _activated(a.activation, z, y, fma)
        y_off = STEEPEST * z_off + f.coefficient * f.magnitude
        inputs.append((y, y_off))
        slopes.append((z, z_off) if a.activation in FROM_INPUT else (y, y_off))

    delta, bounds = _error_of_the_mean(a.loss, z, a.targets)
    delta_off = bounds["grad"].coefficient * bounds["grad"].magnitude
    delta_off = delta_off + _CURVATURE[a.loss](z) * z_off.max(axis=1, keepdims=True) / len(z)
    loss_off = bounds["loss"].coefficient * bounds["loss"].magnitude + (np.abs(delta) * z_off).sum()

    offs: list[Array] = []
    for layer in reversed(range(len(layers))):
        (x, x_off), weight, size = inputs[layer], np.abs(layers[layer][0]), np.abs(delta)
        offs.insert(0, delta_off.sum(axis=0) + sum_of(len(x)) * size.sum(axis=0))
        offs.insert(0, np.abs(x).T @ (delta_off + product_of(len(x)) * size) + np.abs(x_off).T @ size)
        if layer > 0:
            source, source_off = slopes[layer - 1]
            slope, f = _slope(a.activation, source, fma), np.empty_like(x)
            _reference.activation_backward(a.activation, np.ones_like(x), source, f, 1)
            back_size = size @ weight.T
            back_off = delta_off @ weight.T + product_of(weight.shape[1]) * back_size
            slope_off = (slope.coefficient + ROUNDING) * slope.magnitude + STEEPEST_SLOPE * source_off
            delta, delta_off = (delta @ layers[layer][0].T) * f, back_off * np.abs(f) + back_size * slope_off
    return {
        "logits": Bound(z_off, 1.0),
        "loss": Bound(loss_off, 1.0),
        "parameters": Bound(0.0, 0.0, 0.0),
        "gradient": Bound(np.concatenate([off.ravel() for off in offs]), 1.0),
    }


# -- a network in another program ----------------------------------------------------------------------------------------------

ELSEWHERE = 4.0
"""An activation f(z), or an output, of another library, relative to max(1, |z|): 1 + erf z and ln(1 + e^z) lose what is small."""


def outputs_elsewhere(
    layers: Sequence[tuple[Array, Array]], activations: Sequence[str], loss: str, x: Array
) -> Bound:
    """Of the outputs at x (N,I), by layers (W, b): what errors become in the layers above, as in `network`."""
    x_off = np.zeros_like(x)
    for (weight, bias), activation in zip(layers, (*activations, "identity"), strict=True):
        size, z = np.abs(weight), x @ weight + bias
        z_off = x_off @ size + product_of(len(weight)) * (np.abs(x) @ size + np.abs(bias))
        x = np.empty_like(z)
        _reference.activate(activation, z, x, 1)
        x_off = z_off * (1 if activation == "identity" else STEEPEST)
        x_off = x_off + (0 if activation == "identity" else ELSEWHERE * np.maximum(1, np.abs(z)))
    if loss in ("squared_error", "huber", "quantile"):
        return Bound(z_off, 1.0)
    off, size = z_off.max(axis=1, keepdims=True), np.exp(z) if loss == "poisson_deviance" else 1.0
    return Bound((off + ELSEWHERE) * size, 1.0)
