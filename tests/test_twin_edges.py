"""The NumPy twin where neither differences nor many digits can speak: results equal in every bit, the edges of the contract."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import ACTIVATIONS, ALPHA, FROM_INPUT, LAMBDA
from twin_calls import (
    CLASS_WEIGHT,
    ELEMENTWISE_TARGETS,
    INF,
    LOGITS,
    NAN,
    SAMPLE_WEIGHT,
    SOFT,
    TINY,
    C,
    N,
    X,
    activation,
    backward,
    evaluate,
    generator,
)

from fastbp import _reference as twin

pytestmark = pytest.mark.usefixtures("no_warnings")


# ----------------------------------------------------------------------------------------- equal in every bit


def test_logistic_error_is_symmetric_bit_for_bit():
    x = np.concatenate(
        [
            generator(7).normal(0, 1, 200),
            generator(8).uniform(-800, 800, 200),
            [0.0, -0.0, 5e-324, -5e-324, 1e-310, -1e-310, TINY, 1e-20, 1e300, -1e300, INF, -INF],
        ]
    )[:, None]
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    for smoothing in (0.0, 0.1, 1e-3):
        yes = evaluate("sigmoid_cross_entropy", x, ones, label_smoothing=smoothing)
        no = evaluate("sigmoid_cross_entropy", -x, zeros, label_smoothing=smoothing)
        assert yes.losses.tobytes() == no.losses.tobytes()
        assert yes.grad.tobytes() == (-no.grad).tobytes()
        assert not np.isnan(yes.losses).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_hot_rows_are_class_indices(dtype):
    z = LOGITS.astype(dtype)
    labels = np.array([0, 2, 3, 0, 1])
    hot = np.eye(C, dtype=dtype)[labels]
    for options in (
        {},
        {
            "class_weight": CLASS_WEIGHT,
            "sample_weight": SAMPLE_WEIGHT,
            "label_smoothing": 0.1,
            "softcap": 3.0,
        },
        {"lse_square_scale": 0.25},
    ):
        a, b = (evaluate("softmax_cross_entropy", z, t, mean=True, **options) for t in (labels, hot))
        assert (a.loss, a.weight_sum) == (b.loss, b.weight_sum)
        assert a.losses.tobytes() == b.losses.tobytes()
        assert a.grad.tobytes() == b.grad.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_added_to_a_row_changes_no_bit(dtype):
    z = generator(9).integers(-400, 400, (6, 5)).astype(dtype) / 16  # so that the sums are exact
    labels = np.arange(6) % 5
    plain = evaluate("softmax_cross_entropy", z, labels)
    for shift in (1e4, -1e4, 2.0**17):
        moved = evaluate("softmax_cross_entropy", z + dtype(shift), labels)
        assert plain.losses.tobytes() == moved.losses.tobytes()
        assert plain.grad.tobytes() == moved.grad.tobytes()


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", *ELEMENTWISE_TARGETS])
def test_gradient_in_the_memory_of_the_logits(loss):
    targets = ELEMENTWISE_TARGETS.get(loss, SOFT)
    expected = evaluate(loss, LOGITS, targets, mean=True).grad
    z = LOGITS.copy()
    evaluate(loss, z, targets, mean=True, grad=z)
    assert z.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmax", "log_softmax"])
def test_activation_in_place(name):
    x = X.copy()
    activation(name, x, out=x)
    assert x.tobytes() == activation(name, X).tobytes()


# ---------------------------------------------------------------------------------- the edges of the contract


def test_first_bad_label():
    assert twin.first_bad_label(np.array([0, 2, -100, 1]), 3, -100) == -1
    assert twin.first_bad_label(np.array([0, 3, -1]), 3, -100) == 1
    assert twin.first_bad_label(np.array([0, -100, -1]), 3, -1) == 1
    assert twin.first_bad_label(np.array([0, 7, 8]), 3, 7) == 2
    assert twin.first_bad_label(np.array([], np.int64), 3, -100) == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestSoftmaxEdges:
    def test_zero_target_at_minus_infinity(self, dtype):
        z, t = np.array([[0.0, -INF, 0.0]], dtype), np.array([[0.5, 0.0, 0.5]], dtype)
        result = evaluate("softmax_cross_entropy", z, t)
        assert result.loss == pytest.approx(np.log(2))
        assert result.grad.tolist() == [[0.0, 0.0, 0.0]]

    @pytest.mark.parametrize("as_row", [False, True])
    def test_true_class_at_minus_infinity(self, dtype, as_row):
        z = np.array([[0.0, -INF, 0.0]], dtype)
        targets = np.array([[0.0, 1.0, 0.0]], dtype) if as_row else np.array([1])
        result = evaluate("softmax_cross_entropy", z, targets, mean=True)
        assert result.loss == INF
        assert result.grad.tolist() == [[0.5, -1.0, 0.5]]

    @pytest.mark.parametrize(
        "row",
        [
            [0.0, NAN, 1.0],
            [0.0, INF, 1.0],
            [-INF, -INF, -INF],
            [INF, INF, 0.0],
            [NAN, INF, -INF],
            [-INF, NAN, -INF],
        ],
    )
    @pytest.mark.parametrize(
        "options", [{}, {"lse_square_scale": 0.1}, {"class_weight": np.zeros(3)}], ids=str
    )
    def test_a_row_without_a_softmax_is_nan_alone(self, dtype, row, options):
        z = np.array([[1.0, 2.0, 3.0], row, [3.0, 2.0, 1.0]], dtype)
        labels = np.array([0, 0, 1])
        result = evaluate("softmax_cross_entropy", z, labels, **options)
        assert np.isnan(result.losses).tolist() == [False, True, False]
        assert np.isnan(result.grad).tolist() == [[False] * 3, [True] * 3, [False] * 3]
        assert np.isnan(activation("softmax", z)).tolist() == [[False] * 3, [True] * 3, [False] * 3]
        others = evaluate("softmax_cross_entropy", z[[0, 2]], labels[[0, 2]], **options)
        assert result.grad[[0, 2]].tobytes() == others.grad.tobytes()

    @pytest.mark.parametrize("row", [[NAN], [INF], [-INF]])
    def test_one_class(self, dtype, row):
        z = np.array([row, [5.0]], dtype)
        result = evaluate("softmax_cross_entropy", z, np.array([0, 0]))
        assert np.isnan(result.losses).tolist() == [True, False]
        assert (result.losses[1], result.grad[1, 0]) == (0.0, 0.0)
        assert np.isnan(result.grad).tolist() == [[True], [False]]

    def test_softcap_makes_infinite_logits_finite(self, dtype):
        z = np.array([[INF, 0.0, -INF]], dtype)
        result = evaluate("softmax_cross_entropy", z, np.array([0]), softcap=2.0)
        same = evaluate("softmax_cross_entropy", np.array([[2.0, 0.0, -2.0]], dtype), np.array([0]))
        assert result.loss == same.loss
        assert result.grad.tolist() == [[0.0, same.grad[0, 1], 0.0]]

    def test_rows_that_are_not_read(self, dtype):
        z = np.array([[1.0, 2.0], [NAN, INF], [NAN, NAN], [3.0, 1.0]], dtype)
        result = evaluate(
            "softmax_cross_entropy",
            z,
            np.array([0, -100, 1, 1]),
            mean=True,
            sample_weight=np.array([1.0, 1.0, 0.0, 1.0]),
        )
        read = evaluate("softmax_cross_entropy", z[[0, 3]], np.array([0, 1]), mean=True)
        assert (result.loss, result.weight_sum) == (read.loss, 2.0)
        assert result.losses[[1, 2]].tolist() == [0.0, 0.0]
        assert result.grad[[1, 2]].tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert result.grad[[0, 3]].tobytes() == read.grad.tobytes()
        # with rows of targets: the target of a row of weight 0 is not read either
        targets = np.array([[1.0, 0.0], [NAN, INF]], dtype)
        result = evaluate("softmax_cross_entropy", z[:2], targets, sample_weight=np.array([2.0, 0.0]))
        assert result.weight_sum == 2.0
        assert np.isfinite(result.grad).all()

    @pytest.mark.parametrize(
        ("labels", "options"),
        [
            ([-100, -100], {}),
            ([7, 7], {"ignore_index": 7}),
            ([0, 1], {"sample_weight": np.zeros(2)}),
            ([0, 1], {"class_weight": np.zeros(3)}),
            ([0, 0], {"class_weight": np.array([0.0, 1.0, 1.0]), "label_smoothing": 0.1}),
        ],
    )
    def test_nothing_to_average(self, dtype, labels, options):
        z = np.array([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0]], dtype)
        result = evaluate("softmax_cross_entropy", z, np.array(labels), mean=True, **options)
        assert np.isnan(result.loss)
        assert result.weight_sum == 0.0
        assert result.grad.tobytes() == np.zeros_like(z).tobytes()

    def test_huge_logits(self, dtype):
        for size in (1e8, 1e38):
            z = np.array([[size, -size, 0.0], [size, size, -size]], dtype)
            result = evaluate("softmax_cross_entropy", z, np.array([1, 0]), mean=True)
            assert result.losses.tolist() == pytest.approx([2 * float(dtype(size)), np.log(2)])
            assert result.loss == pytest.approx(float(dtype(size)))
            assert result.grad.tolist() == [[0.5, -0.5, 0.0], [-0.25, 0.25, 0.0]]


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", *ELEMENTWISE_TARGETS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_batch(loss, dtype):
    z = np.empty((0, 3), dtype)
    result = evaluate(loss, z, z, mean=True)
    assert np.isnan(result.loss)
    assert (result.weight_sum, result.losses.shape, result.grad.shape) == (0.0, (0,), (0, 3))
    result = evaluate(loss, z, z)
    assert (result.loss, result.weight_sum) == (0.0, 0.0)
    if loss == "softmax_cross_entropy":
        assert np.isnan(evaluate(loss, z, np.empty(0, np.int64), mean=True).loss)


@pytest.mark.parametrize("loss", ELEMENTWISE_TARGETS)
def test_elementwise_edges(loss):
    z, t = LOGITS.copy(), ELEMENTWISE_TARGETS[loss].copy()
    clean = evaluate(loss, z, t)
    z[1, 2] = NAN
    result = evaluate(loss, z, t)
    assert np.isnan(result.losses).tolist() == [False, True, False, False, False]
    assert np.argwhere(np.isnan(result.grad)).tolist() == [[1, 2]]
    assert result.losses[[0, 2, 3, 4]].tobytes() == clean.losses[[0, 2, 3, 4]].tobytes()
    t[1] = NAN
    result = evaluate(loss, z, t, mean=True, sample_weight=np.array([1.0, 0.0, 1.0, 1.0, 1.0]))
    assert np.isfinite(result.loss)
    assert result.weight_sum == 4.0
    assert result.grad[1].tolist() == [0.0] * C
    result = evaluate(loss, z, t, mean=True, sample_weight=np.zeros(N))
    assert np.isnan(result.loss)
    assert result.grad.tobytes() == np.zeros_like(z).tobytes()


def test_infinite_logits_of_logistic_outputs():
    z = np.array([[INF], [-INF], [INF], [-INF], [INF]])
    t = np.array([[1.0], [0.0], [0.0], [1.0], [0.25]])
    result = evaluate("sigmoid_cross_entropy", z, t)
    assert result.losses.tolist() == [0.0, 0.0, INF, INF, INF]
    assert result.grad.tolist() == [[0.0], [0.0], [1.0], [-1.0], [0.75]]
    result = evaluate("sigmoid_squared_error", z, t)
    assert result.losses.tolist() == [0.0, 0.0, 0.5, 0.5, 0.28125]
    assert result.grad.tolist() == [[0.0]] * 5


def test_poisson_edges():
    result = evaluate("poisson_deviance", np.array([[-INF], [-INF], [0.0]]), np.array([[0.0], [2.0], [-1.0]]))
    assert result.losses[:2].tolist() == [0.0, INF]
    assert result.grad[:2].tolist() == [[0.0], [-2.0]]
    assert np.isnan([result.losses[2], result.grad[2, 0]]).all()  # there is no logarithm of a negative count


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_at_infinity(dtype):
    x = np.array([[-INF, INF, NAN]], dtype)
    limits = {
        "identity": (-INF, INF), "sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, INF), "leaky_relu": (-INF, INF),
        "elu": (-1, INF), "selu": (dtype(-LAMBDA * ALPHA), INF), "gelu": (0, INF),
        "silu": (0, INF), "mish": (0, INF), "softplus": (0, INF),
    }  # fmt: skip
    slopes = {
        "identity": (1, 1), "sigmoid": (0, 0), "tanh": (0, 0), "relu": (0, 1), "leaky_relu": (dtype(0.01), 1),
        "elu": (0, 1), "selu": (0, dtype(LAMBDA)), "gelu": (0, 1),
        "silu": (0, 1), "mish": (0, 1), "softplus": (0, 1),
    }  # fmt: skip
    for name in ACTIVATIONS:
        y = activation(name, x)
        assert y.dtype == dtype
        assert tuple(y[0, :2]) == limits[name], name
        slope = backward(name, np.ones_like(x), x if name in FROM_INPUT else y)
        assert slope.dtype == dtype
        assert tuple(slope[0, :2]) == slopes[name], name
        assert np.isnan(y[0, 2])
        assert name == "identity" or np.isnan(slope[0, 2])


def test_rows_without_a_softmax_and_without_entries():
    z = np.array([[-INF, -INF], [INF, 0.0], [NAN, INF], [0.0, -INF]])
    out = np.empty(4)
    twin.logsumexp(z, out, 1)
    np.testing.assert_equal(out, [-INF, INF, NAN, 0.0])
    np.testing.assert_equal(activation("softmax", z)[[0, 1, 2]], np.full((3, 2), NAN))
    np.testing.assert_equal(activation("log_softmax", z)[3], [0.0, -INF])
    out = np.empty(2)
    twin.logsumexp(np.empty((2, 0)), out, 1)
    assert out.tolist() == [-INF, -INF]
    for name in (*ACTIVATIONS, "softmax", "log_softmax"):
        for shape in ((0, 3), (2, 0), (0, 0)):
            assert activation(name, np.empty(shape)).shape == shape
