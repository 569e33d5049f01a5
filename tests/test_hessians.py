"""The cross-entropies with the diagonal of their Hessian, by the harness of all kernels; error and gradient stay as they are."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pairs
import pytest
from conftest import (
    SHAPES,
    THINNED,
    WIDTHS,
    Out,
    assert_near,
    assert_same_bits,
    check,
    check_threads,
    generator,
    solve,
)
from test_losses import INF, NAN, OPTIONS, REGIMES, combined, problem, same, sampled

import fastbp
from fastbp import _backend, _reference

WITHOUT = ("lse_square_scale", "softcap")
CROSS_ENTROPIES = {
    loss: {name: values for name, values in OPTIONS[loss].items() if name not in WITHOUT}
    for loss in ("softmax_cross_entropy", "sigmoid_cross_entropy")
}


@pytest.fixture(params=CROSS_ENTROPIES)
def loss(request):
    return request.param


def with_hessian(each):
    """The call of the same error that asks for second derivatives as well."""
    arguments = {name: value for name, value in each.arguments.items() if name not in WITHOUT}
    rest = {name: arguments.pop(name) for name in ("mean", "losses", "grad")}
    arguments |= {"hessian": Out(arguments["logits"].shape), **rest}
    return replace(each, function=f"{each.function}_hessian", arguments=arguments)


# -- against the exact values ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def problems_of_every_option(loss, dtype):
    return [
        with_hessian(problem(loss, generator(chosen), shape, dtype, **chosen))
        for shape in ((5, 13), (3, 70))
        for chosen in combined(CROSS_ENTROPIES[loss], dtype, shape)
    ]


@lru_cache(maxsize=1)
def problems_of_every_shape(loss, dtype):
    """Two regimes of each shape, the next shape in the next two."""
    problems = []
    for number, shape in enumerate(SHAPES, 2 * (dtype is np.float64)):
        for regime in pairs.in_turn([*REGIMES], number, 2):
            rng = generator("hessian", loss, regime, shape)
            for chosen in ({}, sampled(rng, CROSS_ENTROPIES[loss])):
                problems.append(with_hessian(problem(loss, rng, shape, dtype, regime, **chosen)))
    return problems


@THINNED
def test_every_option(dtype, loss, engine):
    for each in problems_of_every_option(loss, dtype):
        check(engine, each)


@THINNED
def test_every_shape(dtype, loss, engine):
    for each in problems_of_every_shape(loss, dtype):
        check(engine, each)


@pytest.mark.parametrize("shape", [(701, 129), (10_009, 2)])
def test_threads(isa, dtype, loss, shape):
    rng = generator("hessian", loss, shape)
    for chosen in ({}, sampled(rng, CROSS_ENTROPIES[loss])):
        check_threads(_backend.kernels, with_hessian(problem(loss, rng, shape, dtype, **chosen)))


def test_rows_are_independent(dtype, loss, engine):
    """An example has the same curvature, to the bit, alone and among others."""
    for width in WIDTHS:
        rng = generator("hessian", loss, width)
        chosen = {**sampled(rng, CROSS_ENTROPIES[loss]), "reduction": "none"}
        whole = with_hessian(problem(loss, rng, (11, width), dtype, **chosen))
        everyone = solve(engine, whole)
        for row in (0, 10):
            arrays = {k: v for k, v in whole.arguments.items() if isinstance(v, np.ndarray) and len(v) == 11}
            arguments = {k: v[row : row + 1] for k, v in arrays.items()}
            arguments |= {"losses": Out((1,)), "grad": Out((1, width)), "hessian": Out((1, width))}
            alone = solve(engine, whole.changed(**arguments))
            assert alone.hessian.tobytes() == everyone.hessian[row].tobytes(), f"row {row} of {whole}"


def test_equal_logits_have_equal_curvatures(dtype, engine):
    """In the body of a row, in its tail, and where several are the largest."""
    for width in WIDTHS[3:]:
        rng = generator("equal", width)
        kinds = rng.integers(0, 3, (4, width))
        each = with_hessian(problem("softmax_cross_entropy", rng, (4, width), dtype))
        each = each.changed(logits=(7.3 * kinds).astype(dtype))
        for row, kind in zip(solve(engine, each).hessian, kinds, strict=True):
            assert all(len(set(row[kind == k])) <= 1 for k in range(3)), str(each)


# -- what they are: by hand, and as slopes of the gradient -------------------------------------------------------------------


def test_by_hand(dtype, engine):
    """y = 1/6, 2/6, 3/6; u sums to 1, or with weights 2, 1, 4 and smoothing 0.3 of label 2 to 0.7·4 + 0.1·7 = 3.5."""
    z, factor = np.log(np.array([[1, 2, 3]], dtype)), np.array([[5, 8, 9]]) / 36
    for weights, smoothing, total in ((None, 0.0, 1.0), ([2, 1, 4], 0.3, 3.5)):
        options = {"class_weight": weights, "label_smoothing": smoothing, "reduction": "sum"}
        for targets in ([2], [[0, 0, 1]]):
            answer = fastbp.softmax_cross_entropy_hessian(z, targets, sample_weight=[2.0], **options)
            assert_near(answer.hessian, 2 * total * factor)
    z, y = np.log(np.array([[3, 1 / 3]], dtype)), 3 / 4
    answer = fastbp.sigmoid_cross_entropy_hessian(
        z, [[1, 0]], pos_weight=[5, 7], label_smoothing=0.2, reduction="sum"
    )
    assert_near(answer.hessian, [[(5 * 0.9 + 0.1) * y * (1 - y), (7 * 0.1 + 0.9) * y * (1 - y)]])


@pytest.mark.parametrize("extreme", [50.0, 80.0, 100.0])
def test_near_certainty_keeps_its_digits(dtype, engine, extreme):
    """Where y rounds to 1, y (1 - y) is the other probability: also in float32, whose numbers end at exp(-103)."""
    small = np.exp(-extreme)
    allowed = 4 * np.finfo(dtype).smallest_subnormal / small if small < np.finfo(dtype).tiny else 0
    softmax = fastbp.softmax_cross_entropy_hessian(np.array([[extreme, 0]], dtype), [0])
    logistic = fastbp.sigmoid_cross_entropy_hessian(np.array([extreme, -extreme], dtype), 1, reduction="sum")
    for curvature in (*softmax.hessian[0], *logistic.hessian):
        np.testing.assert_allclose(curvature / small, 1, rtol=allowed + 4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_slopes_of_the_gradient(loss, reduction):
    """Central differences of the twin's gradient, entry by entry, with every option at once."""
    step = np.finfo(np.longdouble).eps ** (1 / 3)
    for form in ("labels", "unnormalised") if loss == "softmax_cross_entropy" else ("",):
        rng = generator("slopes", form)
        options = {"reduction": reduction, "label_smoothing": 0.1, "sample_weights": True}
        options |= {"form": form, "class_weights": True} if form else {"hard": False, "pos_weights": True}
        each = problem(loss, rng, (4, 3), np.float64, **options)
        z = (each.arguments["logits"] / 8).astype(np.longdouble)
        slopes = np.zeros_like(z)
        for index in np.ndindex(3, 3):  # the last row has no weight
            for sign in (1, -1):
                moved = z.copy()
                moved[index] += sign * step
                grad = solve(_reference, each.changed(logits=moved), np.longdouble).grad
                slopes[index] += sign * grad[index] / (2 * step)
        hessian = solve(_reference, with_hessian(each.changed(logits=z)), np.longdouble).hessian
        assert (hessian[:3] > 0.01 * hessian.max()).any(axis=1).all()
        np.testing.assert_allclose(slopes, hessian, rtol=0, atol=100 * step**2 * hessian.max())


def test_error_and_gradient_are_those_of_the_plain_function(backend, dtype, loss):
    """To the bit, with every option, in memory of their own and in place."""
    for chosen in combined(CROSS_ENTROPIES[loss], "plain"):
        each = problem(loss, generator(chosen), (4, 5), dtype, **chosen)
        want, got = solve(_backend.kernels, each), solve(_backend.kernels, with_hessian(each))
        hessian = got.hessian
        del got.hessian
        assert_same_bits(want, got, f"with the Hessian of {each}")
        assert hessian.shape == (4, 5) and (hessian >= 0).all()


# -- the public functions ------------------------------------------------------------------------------------------------------


def public(loss):
    return getattr(fastbp, f"{loss}_hessian")


def test_answer(backend, dtype, loss):
    z = generator("answer").standard_normal((4, 3)).astype(dtype)
    targets = [0, 2, 1, 1] if loss == "softmax_cross_entropy" else np.eye(3)[[0, 2, 1, 1]]
    grad, hessian = np.empty_like(z), np.empty((4, 5), dtype)[:, 1:4]
    new = public(loss)(z, targets)
    given = public(loss)(z, targets, grad_out=grad, hessian_out=hessian)
    assert type(new) is fastbp.LossGradHessian and same(new, given)
    assert given.grad is grad and given.hessian is hessian
    assert same((new.loss, new.grad, new.weight_sum), getattr(fastbp, loss)(z, targets))
    assert new.hessian.dtype == dtype and same(public(loss)(z.copy(), targets, grad_out=z), new)


def test_vectors(backend, dtype):
    x = generator("vectors").standard_normal(7).astype(dtype)
    vector, column = (fastbp.sigmoid_cross_entropy_hessian(each, 1) for each in (x, x[:, None]))
    assert vector.hessian.shape == (7,) and same(vector, column)


def test_one_output_may_not_be_the_other_or_an_input(backend, loss):
    z, targets = np.zeros((2, 3)), np.eye(3)[:2]
    out = np.empty((2, 3))
    text = "got memory that overlaps {}, expected memory of its own"
    for name, outputs in (
        ("grad_out", {"grad_out": out, "hessian_out": out}),
        ("logits", {"hessian_out": z}),
        ("targets", {"hessian_out": targets}),
    ):
        with pytest.raises(ValueError, match=f"hessian_out: {text.format(name)}"):
            public(loss)(z, targets, **outputs)


@pytest.mark.parametrize("unread", [NAN, INF, -INF])
def test_rows_that_are_not_read(dtype, engine, unread):
    z = generator("unread").standard_normal((4, 3)).astype(dtype)
    z[[0, 2]] = unread
    for options in ({"label_smoothing": 0.1}, {"class_weight": [0.0, 1, 2]}, {}):
        answer = fastbp.softmax_cross_entropy_hessian(
            z, [1, 2, -100, 1], sample_weight=[0.0, 1, 1, 1], **options
        )
        assert not answer.hessian[[0, 2]].any() and (answer.hessian[[1, 3]] > 0).all()
    answer = fastbp.sigmoid_cross_entropy_hessian(z, 1, sample_weight=[0.0, 1, 0, 1])
    assert not answer.hessian[[0, 2]].any() and (answer.hessian[[1, 3]] > 0).all()


def test_nothing_to_average(dtype, loss, engine):
    z = generator("nothing").standard_normal((4, 3)).astype(dtype)
    targets = np.array([0, 1, 2, 0]) if loss == "softmax_cross_entropy" else np.ones((4, 3))
    for rows, options in ((0, {}), (4, {"sample_weight": np.zeros(4)})):
        for reduction in ("mean", "sum", "none"):
            answer = public(loss)(z[:rows], targets[:rows], reduction=reduction, **options)
            assert answer.hessian.shape == (rows, 3) and not answer.hessian.any() and answer.weight_sum == 0


@pytest.mark.parametrize("repeat", [1, 9, 200])
def test_rows_without_a_softmax(engine, dtype, repeat):
    """NaN in that row alone, even where its targets sum to 0; a logit -inf has no curvature, and equal ones share it."""
    rows = np.array([[NAN, 0, 0, 0], [-INF] * 4, [INF, 0, 0, 0], [-INF, 0, -INF, -INF], [-INF, 0, 0, -INF]])
    z = np.repeat(rows, repeat, axis=1).astype(dtype)
    answer = fastbp.softmax_cross_entropy_hessian(z, np.eye(4 * repeat)[[0] * 5], reduction="sum")
    assert np.isnan(answer.hessian[:3]).all() and np.isfinite(answer.hessian[3:]).all()
    n = np.array([[repeat], [2 * repeat]])
    assert_near(answer.hessian[3:], np.where(rows[3:].repeat(repeat, axis=1) == 0, (n - 1) / n**2, 0))
    answer = fastbp.softmax_cross_entropy_hessian(z[[0, 4]], np.zeros((2, 4 * repeat)), reduction="sum")
    assert np.isnan(answer.hessian[0]).all() and not answer.hessian[1].any()


def test_extreme_logits_of_logistic_outputs(dtype, engine):
    z = np.array([INF, -INF, np.finfo(dtype).max, NAN, 0], dtype)
    hessian = fastbp.sigmoid_cross_entropy_hessian(z, 0.3, reduction="sum").hessian
    assert hessian[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0.25] and np.isnan(hessian[3])
