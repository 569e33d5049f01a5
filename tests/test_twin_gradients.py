"""The NumPy twin alone, before anything is compared with it: every gradient, with every option, agrees with central differences.

At extreme logits differences say nothing: see test_twin_digits.py. The hand-worked values are in test_by_hand.py; the compiled
kernels are compared with this twin elsewhere.
"""

from __future__ import annotations

import itertools

import numpy as np
import pairs
import pytest
from conftest import THINNED
from tolerances import ACTIVATIONS, FROM_INPUT
from twin_calls import (
    CLASS_WEIGHT,
    COUNTS,
    ELEMENTWISE_TARGETS,
    EPS,
    FREE,
    HOT,
    LABELS,
    LOGITS,
    NAN,
    POS_WEIGHT,
    SAMPLE_WEIGHT,
    SOFT,
    C,
    N,
    X,
    activation,
    backward,
    evaluate,
    generator,
    softmax_backward,
)

from fastbp import _reference as twin

pytestmark = pytest.mark.usefixtures("no_warnings")


# ---------------------------------------------------------------------------------------- central differences

STEP = EPS ** (1 / 5)
"""Balances the two errors below."""

DIFFERENCE_TOLERANCE = 200 * EPS ** (4 / 5)
"""Truncation is h⁴/30 times the fifth derivative, rounding about eps/h times the error: both are eps^(4/5).

The factor leaves room for fifth derivatives and errors of the size of 100; it is still 6e-11.
"""


def differentiate(function, x):
    """The derivative of function(x), a number, by every entry of x: fourth-order central differences."""
    slopes = np.empty_like(x)
    for index in np.ndindex(x.shape):
        moved = x.copy()

        def at(steps, moved=moved, index=index):
            moved[index] = x[index] + steps * STEP
            return function(moved)

        slopes[index] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
    return slopes


def assert_is_derivative(gradient, function, x):
    expected = differentiate(function, x)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=DIFFERENCE_TOLERANCE * scale)


def test_differences_find_the_derivative_of_a_known_function():
    x = np.array([-1.0, 0.3, 2.0])
    assert_is_derivative(np.exp(x), lambda x: np.exp(x).sum(), x)


def test_differences_find_a_small_mistake():
    x = np.array([-1.0, 0.3, 2.0])
    with pytest.raises(AssertionError):
        assert_is_derivative(np.exp(x) * (1 + 1e-9), lambda x: np.exp(x).sum(), x)


def each(**options):
    """Some of these options, as dictionaries: in every pair each of both with and without the other."""
    rows = [
        {name: value for name, value in options.items() if row[name]}
        for row in pairs.combinations(dict.fromkeys(options, (False, True)))
    ]
    some = pytest.mark.parametrize("options", rows, ids=lambda chosen: "-".join(chosen) or "plain")
    return lambda test: THINNED(some(test))


def check_gradient(loss, targets, options):
    """The gradient of the mean is its derivative; that of the sum is weight_sum times as large."""
    mean = evaluate(loss, LOGITS, targets, mean=True, **options)
    total = evaluate(loss, LOGITS, targets, **options)
    assert_is_derivative(mean.grad, lambda z: evaluate(loss, z, targets, mean=True, **options).loss, LOGITS)
    np.testing.assert_allclose(total.grad, mean.weight_sum * mean.grad, rtol=4 * EPS)
    assert total.loss == pytest.approx(mean.weight_sum * mean.loss, rel=4 * EPS)
    assert total.loss == pytest.approx(total.losses.sum(), rel=4 * EPS)
    assert total.weight_sum == mean.weight_sum


@pytest.mark.parametrize("targets", [LABELS, SOFT, FREE], ids=["labels", "soft", "free"])
@each(
    class_weight=CLASS_WEIGHT,
    sample_weight=SAMPLE_WEIGHT,
    label_smoothing=0.1,
    lse_square_scale=0.25,
    softcap=3.0,
)
def test_softmax_cross_entropy_gradient(options, targets):
    check_gradient("softmax_cross_entropy", targets, options)


@pytest.mark.parametrize("targets", [HOT, SOFT, FREE], ids=["hot", "soft", "free"])
@each(pos_weight=POS_WEIGHT, sample_weight=SAMPLE_WEIGHT, label_smoothing=0.1)
def test_sigmoid_cross_entropy_gradient(options, targets):
    check_gradient("sigmoid_cross_entropy", targets, options)


@pytest.mark.parametrize("loss", [loss for loss in ELEMENTWISE_TARGETS if loss != "sigmoid_cross_entropy"])
@each(sample_weight=SAMPLE_WEIGHT)
def test_elementwise_gradient(options, loss):
    check_gradient(loss, ELEMENTWISE_TARGETS[loss], options)


def test_weight_of_an_example():
    def weight(targets, **options):
        return evaluate("softmax_cross_entropy", LOGITS, targets, **options).weight_sum

    assert weight(LABELS) == 4.0  # one of the five is ignored
    assert weight(LABELS, class_weight=CLASS_WEIGHT) == 0.5 + 2.0 + 3.0 + 1.0
    assert (
        weight(LABELS, class_weight=CLASS_WEIGHT, sample_weight=SAMPLE_WEIGHT) == 0.5 + 0.5 * 2.0 + 3.0 * 1.0
    )
    assert weight(FREE) == 5.0
    rows = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0], [0.0] * 4, [0, 0, 0, 1.0], [0, 0, 0, 1.0]])
    weighted = [(0.5 + 1.0) / 2, 2.0, 1.0, 3.0, 3.0]  # Σ w t / Σ t; 1 where Σ t is 0
    assert weight(rows, class_weight=CLASS_WEIGHT) == sum(weighted)
    assert weight(rows, class_weight=CLASS_WEIGHT, sample_weight=SAMPLE_WEIGHT) == SAMPLE_WEIGHT @ weighted


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_backward(name):
    grad = generator().normal(size=X.shape)
    a = X if name in FROM_INPUT else activation(name, X)
    assert_is_derivative(backward(name, grad, a), lambda x: (grad * activation(name, x)).sum(), X)


def test_identity_backward():
    assert (backward("identity", X, np.zeros_like(X)) == X).all()


def test_softmax_family_backward():
    grad = generator().normal(size=LOGITS.shape)
    y = activation("softmax", LOGITS)
    assert_is_derivative(softmax_backward(grad, y), lambda z: (grad * activation("softmax", z)).sum(), LOGITS)
    # d log_softmax: grad - y Σ grad;  d logsumexp: y
    log_backward = grad - y * grad.sum(axis=1, keepdims=True)
    assert_is_derivative(log_backward, lambda z: (grad * activation("log_softmax", z)).sum(), LOGITS)

    def sum_of_logsumexp(z):
        out = np.empty(len(z))
        twin.logsumexp(z, out, 1)
        return out.sum()

    assert_is_derivative(y, sum_of_logsumexp, LOGITS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layer_backward(name):
    random = generator(3)
    x, weight, bias = random.normal(size=(3, 4)), random.normal(size=(4, 2)), random.normal(size=2)
    grad = random.normal(size=(3, 2))  # of Σ grad ⊙ f(z) with respect to f(z)

    def linear(x, weight, bias, activation=name):
        out = np.empty((len(x), weight.shape[1]))
        twin.linear(x, weight, bias, activation, out, 1)
        return out

    z = linear(x, weight, bias, "identity")
    assert np.abs(z).min() > 10 * STEP  # differences do not see a kink
    delta = backward(name, grad, z if name in FROM_INPUT else linear(x, weight, bias))
    weight_grad, bias_grad, input_grad = np.empty((4, 2)), np.empty(2), np.empty((3, 4))
    twin.linear_backward_weight(x, delta, weight_grad, bias_grad, 1)
    twin.linear_backward_input(delta, weight, "identity", None, input_grad, 1)
    assert_is_derivative(weight_grad, lambda w: (grad * linear(x, w, bias)).sum(), weight)
    assert_is_derivative(bias_grad, lambda b: (grad * linear(x, weight, b)).sum(), bias)
    assert_is_derivative(input_grad, lambda x: (grad * linear(x, weight, bias)).sum(), x)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_recursion(name):
    """δ_prev = (δ Wᵀ) ⊙ f'(z_prev): the derivative by z_prev of Σ δ ⊙ (f(z_prev) W)."""
    random = generator(4)
    weight, delta = random.normal(size=(X.shape[1], 2)), random.normal(size=(1, 2))

    def f(z):
        return z if name == "identity" else activation(name, z)

    a = {"identity": None}.get(name, X if name in FROM_INPUT else f(X))
    out = np.empty_like(X)
    twin.linear_backward_input(delta, weight, name, a, out, 1)
    assert_is_derivative(out, lambda z: (delta * (f(z) @ weight)).sum(), X)


NETWORK_TARGETS = {
    "softmax_cross_entropy": np.array([0, 1, 1, 0, 1]),
    "softmax_cross_entropy, rows": SOFT[:, :2],
    "sigmoid_cross_entropy": SOFT[:, :2],
    "squared_error": FREE[:, :2],
    "sigmoid_squared_error": SOFT[:, :2],
    "poisson_deviance": COUNTS[:, :2],
    "huber": FREE[:, :2],
    "quantile": FREE[:, :2],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("loss", NETWORK_TARGETS)
def test_network_gradient(loss, name):
    sizes = (3, 3, 2, 2)
    random = generator(5)
    parameters = random.normal(0, 0.7, sum((i + 1) * o for i, o in itertools.pairwise(sizes)))
    x, targets = random.normal(size=(N, 3)), NETWORK_TARGETS[loss]
    gradient, unused = np.full_like(parameters, NAN), np.empty_like(parameters)

    def network(parameters):
        return twin.Network(sizes, (name,) * (len(sizes) - 2), loss.split(",")[0], parameters, 1)

    value = network(parameters).gradient(x, targets, None, gradient)[0]
    assert_is_derivative(gradient, lambda p: network(p).gradient(x, targets, None, unused)[0], parameters)

    z = np.empty((N, 2))
    network(parameters).logits(x, z)
    assert value == evaluate(loss.split(",")[0], z, targets, mean=True).loss


# ---------------------------------------------------------------------------------------- the classic mistake


def test_the_product_with_y_times_one_minus_y_is_wrong():
    """Softmax outputs depend on all logits of the row; y (1 - y) is only the diagonal of the Jacobian."""
    labels = np.array([0, 2, 3, 0, 1])
    t, y = np.eye(C)[labels], activation("softmax", LOGITS)
    dE_dy = -t / y
    truth = differentiate(lambda z: evaluate("softmax_cross_entropy", z, labels).loss, LOGITS)

    right, mistaken = (
        softmax_backward(dE_dy, y),
        backward("sigmoid", dE_dy, y),
    )  # the latter is dE_dy ⊙ y (1 - y)
    np.testing.assert_allclose(right, truth, atol=DIFFERENCE_TOLERANCE)
    np.testing.assert_allclose(right, y - t, atol=4 * EPS)
    np.testing.assert_allclose(evaluate("softmax_cross_entropy", LOGITS, labels).grad, y - t, atol=4 * EPS)

    # At the target the mistake happens to be right, -(1 - y) = y - 1. The other classes are told 0, not y.
    np.testing.assert_allclose(mistaken[t == 1], truth[t == 1], atol=DIFFERENCE_TOLERANCE)
    assert (mistaken[t == 0] == 0).all()
    assert np.abs(mistaken - truth).max() > 0.3
    # With soft targets it is wrong everywhere.
    soft_truth = differentiate(lambda z: evaluate("softmax_cross_entropy", z, SOFT).loss, LOGITS)
    soft_mistaken = backward("sigmoid", -SOFT / y, y)
    assert (np.abs(soft_mistaken - soft_truth) > 0.001).all()
    np.testing.assert_allclose(softmax_backward(-SOFT / y, y), soft_truth, atol=DIFFERENCE_TOLERANCE)


def test_targets_that_do_not_sum_to_one():
    y, total = activation("softmax", LOGITS), FREE.sum(axis=1, keepdims=True)
    grad = evaluate("softmax_cross_entropy", LOGITS, FREE).grad
    np.testing.assert_allclose(grad, y * total - FREE, atol=8 * EPS)
    assert np.abs(grad - (y - FREE)).max() > 0.1  # y - t is the delta only where Σ t = 1
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=8 * EPS)  # a constant added to a row changes nothing
