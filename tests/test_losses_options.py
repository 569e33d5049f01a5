"""Every option of an error function together with every other, as users call it: against the general formula of docs/losses.md.

The formula is written here a second time, and otherwise than in the twin: from probabilities, by their definition, in long double
and on logits so mild that nothing cancels or overflows there. test_losses.py has the extremes, where only the twin is exact.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    ORACLE,
    THINNED,
    Promise,
    assert_accurate,
    assert_near,
    every_pair,
    generator,
    squares_are_known,
)
from test_losses import OPTIONS, SOFTMAX_OPTIONS, combined, first_argument, problem, public, same
from tolerances import BOUNDS

import fastbp
from fastbp import _backend

SHAPE = (5, 7)
LONG_DOUBLE_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


@pytest.fixture(params=OPTIONS)
def loss(request):
    return request.param


# -- the formulas: E (N,), dE/dz (N, C) and the weight of an example beside its sample weight (N,), of the rows that are read --


def softmax_cross_entropy(a, z, targets):
    """u_c = w_c ((1 - ε) t_c + ε/C);  E = -Σ_c u_c ln y_c + k lse²;  dE/dz = [y (Σ u + 2 k lse) - u] (1 - tanh²(z/c))"""
    w = np.ones(z.shape[1]) if a.class_weight is None else a.class_weight
    t = targets if a.labels is None else np.eye(z.shape[1])[targets]
    u = w * ((1 - a.label_smoothing) * t + a.label_smoothing / z.shape[1])
    slope = 1.0
    if a.softcap:
        slope = 1 / np.cosh(z / a.softcap) ** 2
        z = a.softcap * np.tanh(z / a.softcap)
    powers = np.exp(z)
    y, lse = powers / powers.sum(axis=1, keepdims=True), np.log(powers.sum(axis=1))
    error = -(u * np.log(y)).sum(axis=1) + a.lse_square_scale * lse**2
    delta = y * (u.sum(axis=1) + 2 * a.lse_square_scale * lse)[:, None] - u
    total = t.sum(axis=1)
    weight = np.where(total == 0, 1, (w * t).sum(axis=1) / np.where(total == 0, 1, total))
    return error, delta * slope, weight


def sigmoid_cross_entropy(a, z, targets):
    """E = -Σ_k [p_k t_k ln y_k + (1 - t_k) ln(1 - y_k)], t smoothed to (1 - ε) t + ε/2;  dE/dz = (1 - t) y - p t (1 - y)"""
    p = 1.0 if a.pos_weight is None else a.pos_weight
    t = (1 - a.label_smoothing) * targets + a.label_smoothing / 2
    y, not_y = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    return (-p * t * np.log(y) - (1 - t) * np.log(not_y)).sum(axis=1), (1 - t) * y - p * t * not_y, 1.0


def squared_error(a, y, t):
    return ((y - t) ** 2).sum(axis=1) / 2, y - t, 1.0


def sigmoid_squared_error(a, z, t):
    y = 1 / (1 + np.exp(-z))
    return ((y - t) ** 2).sum(axis=1) / 2, (y - t) * y * (1 - y), 1.0


def poisson_deviance(a, z, t):
    mu, some = np.exp(z), np.where(t > 0, t, 1)
    return (t * (np.log(some) - z) - t + mu).sum(axis=1), mu - t, 1.0


def huber(a, y, t):
    r = np.abs(y - t)
    near, far = r <= a.parameter, r > a.parameter
    errors = near * r**2 / 2 + far * a.parameter * (r - a.parameter / 2)
    return errors.sum(axis=1), np.sign(y - t) * np.minimum(r, a.parameter), 1.0


def quantile(a, y, t):
    over, under = np.maximum(y - t, 0), np.maximum(t - y, 0)
    errors = (1 - a.parameter) * over + a.parameter * under
    return errors.sum(axis=1), (1 - a.parameter) * (y > t) - a.parameter * (y < t), 1.0


FORMULAS = (
    softmax_cross_entropy,
    sigmoid_cross_entropy,
    squared_error,
    sigmoid_squared_error,
    poisson_deviance,
    huber,
    quantile,
)


def by_formula(each):
    """Σ_n s_n E_n, or that over Σ_n w_n, and everything else that a call returns. Rows that are not read may hold NaN."""
    arguments, _ = each.exact
    formula = {f.__name__: f for f in FORMULAS}[each.function]
    z = getattr(arguments, first_argument(each.function))
    s = np.ones(len(z)) if arguments.sample_weight is None else arguments.sample_weight
    labels = getattr(arguments, "labels", None)
    targets = arguments.targets if labels is None else labels
    read = s != 0 if labels is None else (s != 0) & (labels != arguments.ignore_index)
    losses, grad = np.zeros(len(z), z.dtype), np.zeros_like(z)
    error, delta, weight = formula(arguments, z[read], targets[read])
    losses[read], grad[read] = s[read] * error, s[read, None] * delta
    weight_sum = (s[read] * weight).sum()
    divisor = weight_sum if arguments.mean else 1
    return SimpleNamespace(
        loss=losses.sum() / divisor, losses=losses, grad=grad / divisor, weight_sum=weight_sum
    )


# -- every pair ------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def combinations(loss, dtype):
    """Each problem beside its results by the formula."""
    answered = []
    for chosen in combined(OPTIONS[loss], "formula", dtype):
        each = problem(loss, generator("formula", chosen), SHAPE, dtype, **chosen)
        first = first_argument(loss)
        each = each.changed(**{first: each.arguments[first] / 5})
        with np.errstate(all="ignore"):
            answered.append((chosen, each, by_formula(each)))
    return answered


def assert_by_formula(got, each, want):
    known = squares_are_known(_backend.kernels, each.dtype)
    limits, wide = np.finfo(each.dtype), ORACLE[each.dtype]
    with np.errstate(all="ignore"):
        bounds = BOUNDS[each.function](each.exact[0], want, known)
        for name, value in vars(got).items():
            bound = bounds[name]
            unit = np.asarray(limits.eps * bound.magnitude, wide)
            negligible = np.asarray(bound.underflow * limits.smallest_subnormal, wide)
            exact = np.asarray(getattr(want, name), wide)
            promise = Promise(exact, unit * bound.coefficient + negligible, negligible, unit, 0.0)
            assert_accurate(name, np.asarray(value), promise, compare=False)


def grad_outs(x):
    """(first argument, grad_out) in every relation that they may have; round the last lie canaries."""
    yield x.copy(), np.empty_like(x)
    mine = x.copy()
    yield mine, mine
    yield x.copy(), np.full((len(x) + 2, 2 * x.shape[1]), 7, x.dtype)[-2:0:-1, 3 : 3 + x.shape[1]]


@THINNED
def test_general_formula(dtype, loss, engine):
    if dtype is np.float64 and not LONG_DOUBLE_IS_WIDER:
        pytest.skip("long double is no wider than double here")
    for chosen, each, want in combinations(loss, dtype):
        function, x, targets, options = public(each)
        answer = function(x.astype(dtype), targets, reduction=chosen["reduction"], **options)
        names = ("losses" if chosen["reduction"] == "none" else "loss", "grad", "weight_sum")
        got = SimpleNamespace(**dict(zip(names, answer, strict=True)))
        try:
            assert_by_formula(got, each, want)
            for z, out in grad_outs(x.astype(dtype)):
                again = function(z, targets, reduction=chosen["reduction"], grad_out=out, **options)
                assert again.grad is out and same(again, answer), "other bits in a grad_out"
                if out.base is not None:
                    out[...] = 7
                    assert (out.base == 7).all(), "written beside grad_out"
        except AssertionError as error:
            raise AssertionError(f"{each}: {error}") from error


@THINNED
def test_no_ignored_label_among_rows(backend):
    """Whatever else is asked for."""
    for chosen in combined({**SOFTMAX_OPTIONS, "form": SOFTMAX_OPTIONS["form"][1:]}):
        _, x, targets, options = public(
            problem("softmax_cross_entropy", generator(chosen), SHAPE, np.float32, **chosen)
        )
        with pytest.raises(ValueError, match=r"^ignore_index: got 0 with rows of targets"):
            fastbp.softmax_cross_entropy(x, targets, ignore_index=0, **options)


# -- what an option multiplies, in numbers: z = (0, ln 3), so y = (1/4, 3/4) and lse = ln 4 ------------------------------------

Z, LN4, LN4_3 = [[0.0, np.log(3)]], np.log(4), np.log(4 / 3)


@pytest.mark.parametrize("targets", [[0], [[1.0, 0.0]]], ids=["labels", "rows"])
def test_sample_weights_multiply_the_square_of_lse_and_class_weights_do_not(backend, dtype, targets):
    """2 (3 ln 4 + 0.1 ln² 4), over the weight 2·3 of the example for the mean."""
    options = {"class_weight": [3, 1], "sample_weight": [2], "lse_square_scale": 0.1}
    z = np.array(Z, dtype)
    for reduction, divisor in (("sum", 1), ("none", 1), ("mean", 6)):
        loss, grad, weight_sum = fastbp.softmax_cross_entropy(z, targets, reduction=reduction, **options)
        assert_near(np.ravel(loss), [2 * (3 * LN4 + 0.1 * LN4**2) / divisor])
        pull = 2 * 0.1 * LN4  # dE/dz = 3 (y - t) + 2 k lse y
        assert_near(grad, [[2 * (3 * -0.75 + pull / 4) / divisor, 2 * (3 * 0.75 + pull * 3 / 4) / divisor]])
        assert weight_sum == 6


@pytest.mark.parametrize("targets", [[0], [[1.0, 0.0]]], ids=["labels", "rows"])
def test_the_uniform_part_of_smoothing_is_weighted_class_by_class(backend, dtype, targets):
    """ε = 0.2: u = (3·0.9, 1·0.1); the mean is still over the weight 3 of the target's class."""
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(
        np.array(Z, dtype), targets, class_weight=[3, 1], label_smoothing=0.2
    )
    assert_near(loss, (2.7 * LN4 + 0.1 * LN4_3) / 3)
    assert_near(grad, [[(2.8 / 4 - 2.7) / 3, (2.8 * 3 / 4 - 0.1) / 3]])
    assert weight_sum == 3


def test_smoothing_does_not_scale_the_uniform_part_by_the_sum_of_a_row(backend, dtype):
    """t = (2, 1) and ε = 0.2: 0.8 t + 0.1 = (1.7, 0.9), whatever t sums to."""
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(np.array(Z, dtype), [[2, 1]], label_smoothing=0.2)
    assert_near(loss, 1.7 * LN4 + 0.9 * LN4_3)
    assert_near(grad, [[2.6 / 4 - 1.7, 2.6 * 3 / 4 - 0.9]])
    assert weight_sum == 1


# -- class weights of any scale ------------------------------------------------------------------------------------------------


SCALES = (1e-300, 1e-46, 1e-42, 1e-20, 1e20, 1e39, 1e300)
CLASS_OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 3.0},
    "smoothing and softcap": {"label_smoothing": 0.1, "softcap": 3.0},
    "weights": {"sample_weight": np.linspace(0, 1, 70)},
}


@every_pair("engine", "dtype", n_classes=[5, 90], case=[*CLASS_OPTIONS])
def test_the_scale_of_class_weights_cancels_in_a_mean(engine, dtype, n_classes, case):
    """A power of 2 changes no bit; any other factor no more than the rounding of the weights does."""
    options = CLASS_OPTIONS[case]
    random = generator(n_classes)
    z = random.normal(0, 3, (70, n_classes)).astype(dtype)
    labels = random.integers(0, n_classes, 70)
    weights = random.uniform(0.25, 4, n_classes)
    weights[1] = 0
    for targets in (labels, random.dirichlet(np.ones(n_classes), 70).astype(dtype)):
        want = fastbp.softmax_cross_entropy(z, targets, class_weight=weights, **options)
        for power in (-1000, -160, -126, -20, 10, 126, 160, 1000):
            got = fastbp.softmax_cross_entropy(z, targets, class_weight=np.ldexp(weights, power), **options)
            assert same((got.loss, got.grad), (want.loss, want.grad))
            assert got.weight_sum == np.ldexp(want.weight_sum, power)
        for scale in SCALES:
            got = fastbp.softmax_cross_entropy(z, targets, class_weight=weights * scale, **options)
            assert_near(got.loss, want.loss)
            assert_near(got.grad, want.grad)
            assert_near(got.weight_sum / scale, want.weight_sum)


@every_pair("engine", "dtype", case=[*CLASS_OPTIONS], reduction=["sum", "none"])
def test_a_sum_has_the_scale_of_class_weights(engine, dtype, case, reduction):
    """As far as the dtype has numbers; the square of lse is no part of that."""
    options = CLASS_OPTIONS[case]
    random = generator(reduction)
    z, labels = random.normal(0, 3, (70, 5)).astype(dtype), random.integers(0, 5, 70)
    weights = random.uniform(0.25, 4, 5)
    want = fastbp.softmax_cross_entropy(z, labels, class_weight=weights, reduction=reduction, **options)
    for power in (-60, 60):
        got = fastbp.softmax_cross_entropy(
            z, labels, class_weight=np.ldexp(weights, power), reduction=reduction, **options
        )
        assert same((got.loss, got.grad), (np.ldexp(want.loss, power), np.ldexp(want.grad, power)))
    square = {"class_weight": weights * 1e-30, "lse_square_scale": 0.1, "reduction": reduction}
    lse = np.log(np.exp(z.astype(float)).sum(axis=1))
    loss = fastbp.softmax_cross_entropy(z, labels, **options | square).loss
    if not options:
        assert_near(loss, (0.1 * lse**2).sum() if reduction == "sum" else 0.1 * lse**2)


def test_the_last_layer_scales_class_weights_like_the_error(engine, dtype):
    random = generator("last layer")
    x, w = random.normal(size=(70, 4)).astype(dtype), random.normal(size=(4, 30)).astype(dtype)
    labels, weights = random.integers(0, 30, 70), random.uniform(0.25, 4, 30)
    for options in ({"label_smoothing": 0.1}, {"label_smoothing": 0.1, "reduction": "none"}):
        want = fastbp.linear_softmax_cross_entropy(x, w, labels, class_weight=weights, **options)
        for power in (-140, 140) if len(options) == 1 else (-60, 60):
            got = fastbp.linear_softmax_cross_entropy(
                x, w, labels, class_weight=np.ldexp(weights, power), max_memory=20_000, **options
            )
            scaled = 0 if len(options) == 1 else power
            assert same(
                (got.loss, got.grad_inputs), (np.ldexp(want.loss, scaled), np.ldexp(want.grad_inputs, scaled))
            )
            assert got.weight_sum == np.ldexp(want.weight_sum, power)
