"""Edges of the error functions that test_losses.py leaves open: on every instruction set, and on the twin.

There are the rows of the contract's table, for the plain call; here what options, other forms of targets and the errors whose
outputs do not interact make of them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import ISAS, NATIVE_ONLY, WIDTHS, assert_near, every_pair, generator, running_on
from interrupts import needs_signals, raising
from test_losses import ELEMENTWISE, problem, public, same

import fastbp

INF, NAN = np.inf, np.nan

# -- (x, t) and (-x, 1 - t) are one question -------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.1, 1 / 3, 1.0])
def test_sigmoid_cross_entropy_is_symmetric(dtype, engine, smoothing):
    """The same error and deltas of opposite sign, in every bit: with any smoothing, sample weights and reduction.

    Targets are multiples of 1/8, whose 1 - t is exact. A weight of the positives alone breaks the symmetry; that of 1 does not.
    """
    limits, rng = np.finfo(dtype), generator("mirror")
    special = [0.0, -0.0, INF, -INF, limits.max, -limits.tiny, limits.smallest_subnormal, 1e4]
    x = np.concatenate(
        [np.repeat(special, 9), 30 * rng.standard_normal(432), 1e-3 * rng.standard_normal(216)]
    )
    x = x.astype(dtype).reshape(-1, 9)  # a tail for every vector
    t = np.arange(x.size).reshape(x.shape) % 9 / 8
    weight = rng.random(len(x))
    for reduction, pos_weight in itertools.product(("mean", "sum", "none"), (None, 1.0)):
        options = {
            "label_smoothing": smoothing,
            "sample_weight": weight,
            "reduction": reduction,
            "pos_weight": pos_weight,
        }
        yes = fastbp.sigmoid_cross_entropy(x, t, **options)
        no = fastbp.sigmoid_cross_entropy(-x, 1 - t, **options)
        assert same((yes.loss,), (no.loss,)) and np.array_equal(yes.grad, -no.grad)
    assert not np.isnan(yes.grad).any() and np.isnan(yes.loss).sum() == 0


def test_squared_errors_are_symmetric(dtype, engine):
    x = (30 * generator("mirror").standard_normal((40, 9))).astype(dtype)
    t = np.arange(x.size).reshape(x.shape) % 9 / 8
    for loss, mirrored in (("sigmoid_squared_error", 1 - t), ("squared_error", -t)):
        yes, no = (getattr(fastbp, loss)(*pair, reduction="none") for pair in ((x, t), (-x, mirrored)))
        assert same((yes.loss,), (no.loss,)) and np.array_equal(yes.grad, -no.grad)


# -- rows that are not read, rows of NaN -----------------------------------------------------------------------------------------


def test_targets_of_rows_that_are_not_read(dtype, engine):
    """Neither the logits nor the targets of a row of weight 0."""
    for loss in ("softmax_cross_entropy", *ELEMENTWISE):
        each = problem(
            loss, generator(loss), (4, 5), dtype, **({"form": "soft"} if loss not in ELEMENTWISE else {})
        )
        function, x, t, _ = public(each)
        weight = np.array([1.0, 0.0, 2.0, 0.0])
        clean = function(x, t, sample_weight=weight)
        x, t = x.copy(), t.astype(dtype)
        x[1], t[1], x[3], t[3] = NAN, NAN, -INF, INF
        assert same(function(x, t, sample_weight=weight), clean) and clean.weight_sum == 3


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_nan_in_one_output(dtype, engine, loss):
    """It is in the error of its example and in its own delta, whether it was an output or a target."""
    for width in WIDTHS[:12]:
        function, x, t, _ = public(problem(loss, generator(loss, width), (3, width), dtype))
        clean = function(x, t, reduction="none")
        for at in {0, width // 2, width - 1}:
            for spoilt, other in ((x, t), (t, x)):
                spoilt = spoilt.astype(dtype)
                spoilt[1, at] = NAN
                pair = (spoilt, other) if other is t else (other, spoilt)
                answer = function(*pair, reduction="none")
                assert np.argwhere(np.isnan(answer.loss)).tolist() == [[1]]
                assert np.argwhere(np.isnan(answer.grad)).tolist() == [[1, at]]
                assert same(
                    (answer.loss[[0, 2]], answer.grad[[0, 2]]), (clean.loss[[0, 2]], clean.grad[[0, 2]])
                )


@pytest.mark.parametrize("row", [NAN, INF, -INF])
@pytest.mark.parametrize("targets", [[0, 0], [[1.0], [1.0]]], ids=["labels", "rows"])
def test_one_class(dtype, engine, targets, row):
    """Its probability is 1, unless it has none."""
    answer = fastbp.softmax_cross_entropy(np.array([[row], [5.0]], dtype), targets, reduction="none")
    assert np.isnan([answer.loss[0], answer.grad[0, 0]]).all()
    assert (answer.loss[1], answer.grad[1, 0]) == (0, 0)


# -- infinite logits -------------------------------------------------------------------------------------------------------------


def test_minus_infinity_with_options(dtype, engine):
    """A class that cannot be costs nothing where u = w t is 0; a share of the smoothing costs all, unless its weight is 0."""
    z = np.array([[-INF, 0, np.log(3)]], dtype)
    lse = np.log(4)
    for targets in ([2], [[0, 0, 1]]):
        error = fastbp.softmax_cross_entropy(z, targets, lse_square_scale=0.5, class_weight=[9, 1, 1]).loss
        assert_near(error, np.log(4 / 3) + 0.5 * lse**2)
        smoothed = fastbp.softmax_cross_entropy(z, targets, label_smoothing=0.3)
        assert smoothed.loss == INF
        assert_near(smoothed.grad, [[-0.1, 0.25 - 0.1, 0.75 - 0.8]])
        weighted = fastbp.softmax_cross_entropy(z, targets, label_smoothing=0.3, class_weight=[0, 1, 1])
        assert_near(weighted.loss, 0.1 * lse + 0.8 * np.log(4 / 3))
        assert_near(weighted.grad, [[0, 0.9 / 4 - 0.1, 0.9 * 0.75 - 0.8]])


def test_a_share_of_the_smoothing_that_underflows(dtype, engine):
    """It is 0, and a class that cannot be costs nothing then."""
    z, tiny = np.array([[-INF, 0, np.log(3)]], dtype), float(np.finfo(dtype).smallest_subnormal)
    options = {"label_smoothing": 0.3, "class_weight": [tiny, 1, 1], "reduction": "sum"}
    for targets in ([2], [[0, 0, 1]]):
        assert_near(
            fastbp.softmax_cross_entropy(z, targets, **options).loss, 0.1 * np.log(4) + 0.8 * np.log(4 / 3)
        )


def test_a_class_that_outweighs_all_others(dtype, engine):
    """At a certain answer the delta is the others' share of the smoothing, whatever the answer weighs itself."""
    z, weights = np.array([[900, 0, 0]], dtype), [1e20, 1, 2]
    options = {"label_smoothing": 0.3, "class_weight": weights, "reduction": "sum"}
    for targets in ([0], [[1, 0, 0]]):
        assert_near(fastbp.softmax_cross_entropy(z, targets, **options).grad[0, 0], 0.3)


def test_the_largest_softcap(dtype, engine):
    """Nothing overflows, and small logits stay what they are."""
    z = np.array([[0, np.log(3)]], dtype)
    capped = fastbp.softmax_cross_entropy(z, [0], softcap=float(np.finfo(dtype).max))
    assert_near(capped.loss, np.log(4))
    assert_near(capped.grad, [[-0.75, 0.75]])


def test_softcap_makes_infinite_logits_finite(dtype, engine):
    """c tanh(±inf/c) = ±c, where nothing can be learnt any more."""
    for targets in ([0], [[1.0, 0, 0]]):
        capped = fastbp.softmax_cross_entropy(np.array([[INF, 0, -INF]], dtype), targets, softcap=2.0)
        plain = fastbp.softmax_cross_entropy(np.array([[2.0, 0, -2.0]], dtype), targets)
        assert_near(capped.loss, plain.loss)
        assert_near(capped.grad, [[0, plain.grad[0, 1], 0]])
        assert capped.grad[0, 0] == capped.grad[0, 2] == 0


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"lse_square_scale": 0.1}], ids=str)
def test_what_is_not_finite_comes_late(dtype, engine, options):
    """Behind blocks of a long row with other maxima, or with none but -inf."""
    z, last = np.zeros((5, 9000), dtype), 8999
    z[0], z[1, :-1], z[2, last], z[3, last] = -INF, -INF, INF, NAN
    z[4, :4000], z[4, 6000] = -INF, 50
    losses, grad, _ = fastbp.softmax_cross_entropy(
        z, [last, last, last, 5, 6000], reduction="none", **options
    )
    assert np.isnan(losses[[0, 2, 3]]).all() and np.isnan(grad[[0, 2, 3]]).all()
    if not options:
        assert losses[1] == 0 and not grad[1].any()
        rest = 4999 * np.exp(-50)
        assert_near(losses[4], rest)
        assert_near(grad[4, [0, 5999, 6000, last]], np.array([0, np.exp(-50), -rest, np.exp(-50)]))
    else:
        assert np.isfinite(grad[[1, 4]]).all()


def test_infinite_logits_of_logistic_outputs(dtype, engine):
    z = np.array([INF, -INF, INF, -INF, INF], dtype)
    t = [1.0, 0.0, 0.0, 1.0, 0.25]
    answer = fastbp.sigmoid_cross_entropy(z, t, reduction="none")
    assert (answer.loss.tolist(), answer.grad.tolist()) == ([0, 0, INF, INF, INF], [0, 0, 1, -1, 0.75])
    answer = fastbp.sigmoid_cross_entropy(z, t, pos_weight=0, reduction="none")  # who never was positive
    assert (answer.loss.tolist(), answer.grad.tolist()) == ([0, 0, INF, 0, INF], [0, 0, 1, 0, 0.75])
    answer = fastbp.sigmoid_squared_error(z, t, reduction="none")
    assert (answer.loss.tolist(), answer.grad.tolist()) == ([0, 0, 0.5, 0.5, 0.28125], [0] * 5)


def test_squares_that_overflow(dtype, engine):
    """The error is inf, without a warning; its gradient is still y - t."""
    far = 0.75 * float(np.finfo(dtype).max)
    answer = fastbp.squared_error(np.array([[far, 1.0]], dtype), [[0.0, 0.0]])
    assert answer.loss == INF and answer.grad.tolist() == [[dtype(far), 1.0]]


def test_huber_where_squares_overflow(dtype, engine):
    """Neither the error nor its gradient does, as long as the answer is a number of the dtype."""
    most, least = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    y = np.array([most, -most, 0.75 * most], dtype)
    for delta in (1.0, 0.25, least):
        answer = fastbp.huber(y, 0, delta=delta, reduction="none")
        assert_near(answer.loss / (delta * most), [1, 1, 0.75])
        assert answer.grad.tolist() == [delta, -delta, delta]
    assert fastbp.huber(y, 0, delta=2.0).loss == INF  # the mean of errors beyond the dtype
    answer = fastbp.huber(y[:1], 0, delta=most)
    assert answer.loss == INF and answer.grad[0] == dtype(most)


def test_huber_at_infinity_and_where_it_turns(dtype, engine):
    y = np.array([INF, -INF, INF, 0.3, -0.3, 0.0], dtype)
    t = np.array([0, 0, INF, 0, 0, 0], dtype)
    answer = fastbp.huber(y, t, delta=float(dtype(0.3)), reduction="none")
    assert answer.loss[:2].tolist() == [INF, INF] and np.isnan([answer.loss[2], answer.grad[2]]).all()
    assert_near(answer.loss[3:], [0.045, 0.045, 0])
    assert answer.grad[[0, 1, 3, 4, 5]].tolist() == [y[3], y[4], y[3], y[4], 0]


def test_quantile_at_the_edges(dtype, engine):
    """Infinite outputs, the largest numbers, the target itself; and shares next to 0 and 1, whose other part is as exact."""
    most = float(np.finfo(dtype).max)
    y, t = np.array([INF, -INF, INF, most, -most, 3.0], dtype), np.array([0, 0, INF, 0, 0, 3.0], dtype)
    for tau in (0.5, 0.9, float(np.finfo(dtype).tiny), 1 - 2.0**-40):
        answer = fastbp.quantile(y, t, tau=tau, reduction="none")
        assert answer.loss[:2].tolist() == [INF, INF] and np.isnan([answer.loss[2], answer.grad[2]]).all()
        assert_near(answer.loss[3:5] / most, [1 - tau, tau])
        above, below = dtype(1 - tau), dtype(-tau)
        assert answer.grad[[0, 1, 3, 4]].tolist() == [above, below, above, below]
        assert answer.loss[5] == answer.grad[5] == 0


# -- where there is no weight ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [[0, 1], [[1, 0, 0], [0, 1, 0]]], ids=["labels", "rows"])
def test_class_of_weight_zero(dtype, engine, targets):
    """It counts nothing, and at a logit of -inf it still does; what multiplies no class weight is there all the same."""
    z = np.array([[-INF, 0, 0], [0, 0, 0]], dtype)
    plain = fastbp.softmax_cross_entropy(z, targets, class_weight=[0, 2, 1], reduction="none")
    assert_near(plain.loss, [0, 2 * np.log(3)])
    assert not plain.grad[0].any() and plain.weight_sum == 2
    square = fastbp.softmax_cross_entropy(
        z, targets, class_weight=[0, 2, 1], lse_square_scale=1.0, reduction="none"
    )
    assert_near(square.loss - plain.loss, [np.log(2) ** 2, np.log(3) ** 2])
    assert_near(square.grad[0], [0, np.log(2), np.log(2)])


def test_rows_of_targets_that_are_all_zero(dtype, engine):
    """No error; the example still counts as 1 in the mean, whatever the class weights, since its mean class weight is 0/0."""
    z = np.array([[1.0, 2.0], [0.0, 0.0]], dtype)
    answer = fastbp.softmax_cross_entropy(z, [[0, 0], [1, 0]], class_weight=[3, 5])
    assert_near(answer.loss, 3 * np.log(2) / 4)
    assert answer.grad[0].tolist() == [0, 0] and answer.weight_sum == 4


# -- a long call -----------------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Raised by the handler of a signal, as KeyboardInterrupt is by that of Ctrl-C."""


@NATIVE_ONLY
@needs_signals
def test_a_signal_ends_a_long_call():
    """What its handler raises comes out of the call, long before the last row."""
    logits = np.broadcast_to(np.linspace(-5, 5, 1000, dtype=np.float32), (12_000, 1000))
    grad = np.full(logits.shape, 7, np.float32)
    with raising(Interrupted) as send, running_on(ISAS[-1]), pytest.raises(Interrupted):  # the slowest
        send(0.005)
        fastbp.softmax_cross_entropy(logits, np.zeros(12_000, int), grad_out=grad, n_threads=1)
    assert (grad[-1] == 7).all()


# -- rows of one output ----------------------------------------------------------------------------------------------------------

OF_ONE_OUTPUT = [
    (fastbp.sigmoid_cross_entropy, {}),
    (fastbp.sigmoid_cross_entropy, {"pos_weight": [3.0]}),
    (fastbp.sigmoid_cross_entropy, {"pos_weight": [0.3], "label_smoothing": 0.1}),
    (fastbp.squared_error, {}),
    (fastbp.sigmoid_squared_error, {}),
    (fastbp.poisson_deviance, {}),
    (fastbp.huber, {"delta": 0.5}),
    (fastbp.quantile, {"tau": 0.9}),
]


@NATIVE_ONLY
@every_pair("isa", "dtype", case=range(len(OF_ONE_OUTPUT)), weighted=[False, True])
def test_rows_of_one_output_are_computed_a_vector_at_a_time(isa, dtype, case, weighted):
    """With the bits that they have one by one, as they are where rows do not follow each other without a gap."""
    function, options = OF_ONE_OUTPUT[case]
    random = generator("one output")
    for n in (1, 7, 16, 33, 5000):
        z = random.normal(size=(n, 2)).astype(dtype)
        t = random.integers(0, 2, (n, 1)).astype(dtype)
        weights = {"sample_weight": random.integers(0, 3, n) / 2} if weighted else {}
        if weighted:
            z[weights["sample_weight"] == 0] = np.nan  # not read
        given = options | weights
        for reduction in ("none", "sum", "mean"):
            apart = function(
                z[:, :1],
                t,
                reduction=reduction,
                n_threads=1,
                grad_out=np.zeros((n, 2), dtype)[:, :1],
                **given,
            )
            dense = function(z[:, :1].copy(), t, reduction=reduction, n_threads=2, **given)
            in_place = z[:, :1].copy()
            function(in_place, t, reduction=reduction, n_threads=1, grad_out=in_place, **given)
            for each, other in zip(dense[:2], apart[:2], strict=True):
                np.testing.assert_array_equal(each, other)
            np.testing.assert_array_equal(in_place, apart.grad)
