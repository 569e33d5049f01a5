"""check_gradient: right gradients pass, wrong ones do not, and nothing is touched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pairs
import pytest
from conftest import THINNED, every_pair
from good_calls import ELEMENTWISE

import fastbp
from fastbp import MLP, check_gradient
from fastbp.activations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("backend")

GRADIENT_CHECK = 1e-7  # what check_gradient promises of a right gradient
RNG = np.random.default_rng(3)
X = RNG.normal(size=(6, 4))
ROWS = RNG.random((6, 3))
LABELS = RNG.integers(0, 3, 6)
Z = 2 * RNG.normal(size=(6, 3))


@every_pair("backend", activation=[*ACTIVATIONS], loss=["softmax_cross_entropy", *ELEMENTWISE])
def test_every_network(backend, activation, loss):
    net = MLP([4, 5, 6, 3], activation=activation, loss=loss, seed=2)
    assert check_gradient(net, X, ROWS) <= GRADIENT_CHECK


def test_class_indices_and_lists():
    net = MLP([4, 5, 3], seed=2)
    assert check_gradient(net, X.tolist(), LABELS.tolist()) <= GRADIENT_CHECK


def test_a_deep_network_with_small_gradients():
    net = MLP([4, *[5] * 8, 3], seed=2)
    assert np.abs(net.gradients(X, LABELS).weights[0]).max() < 1e-5
    assert check_gradient(net, X, LABELS) <= GRADIENT_CHECK


def test_the_kinks_of_relu_are_stepped_round():
    net = MLP([1, 4, 2], activation="relu", seed=0)
    net.weights[0][:], net.biases[0][:] = 1, [3e-4, -3e-4, 1e-4, 1e-5]  # all kinks within the first step
    assert check_gradient(net, [[0.0]], [1]) <= GRADIENT_CHECK


LEFT_OUT = r"^check_gradient: the error has a kink in {} of {} entries, which were left out$"


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("seed", range(3))
def test_entries_at_a_kink_are_no_evidence(activation, seed):
    """A row of zeros and biases of 0, as in exclusive or: no gradient of the hidden biases is right, nor wrong."""
    net, x = MLP([2, 4, 2], activation=activation, seed=seed), [[0, 0], [0, 1], [1, 0], [1, 1]]
    with pytest.warns(RuntimeWarning, match=LEFT_OUT.format(4, 22)):
        assert check_gradient(net, x, [0, 1, 1, 0]) <= GRADIENT_CHECK


def test_a_blank_image_among_digits():
    x, labels = fastbp.datasets.load_digits()
    x = np.vstack([np.zeros(64), x[:3]])
    with pytest.warns(RuntimeWarning, match=LEFT_OUT.format(32, 2410)):
        assert check_gradient(MLP([64, 32, 10], activation="relu", seed=0), x, labels[:4]) <= GRADIENT_CHECK


def positive_part(x, wrong=0.0):
    """The error Σ max(x, 0) + x², whose kinks are at 0, and its gradient, of which the last entry may be `wrong`."""
    gradient = (x > 0) + 2 * x
    gradient[-1] += wrong
    return np.maximum(x, 0).sum() + (x**2).sum(), gradient


def test_beside_a_kink_a_mistake_is_found():
    for last in (0.5, -0.5, 4e-6, -4e-6, 1e-5, -1e-5, 1e-3):  # near to a kink, too
        with pytest.warns(RuntimeWarning, match=LEFT_OUT.format(2, 3)):
            assert check_gradient(positive_part, [0.0, 0.0, last]) <= GRADIENT_CHECK
    for last in (0.5, -0.5, 1e-4, -1e-4):
        with pytest.warns(RuntimeWarning, match=LEFT_OUT.format(2, 3)):
            assert check_gradient(positive_part, [0.0, 0.0, last], wrong=1e-3) > 1e-4


def test_nothing_but_kinks_is_nothing_known():
    for near in (0.0, 3e-7, 1e-6, 2e-6, 3e-6):  # up to the reach of the smallest step
        with pytest.warns(RuntimeWarning, match=LEFT_OUT.format(2, 2)):
            assert np.isnan(check_gradient(positive_part, [near, -near]))


@pytest.mark.parametrize(
    "function", [np.exp, np.sin, lambda x: np.cos(300 * x), lambda x: 1e6 * x**3, lambda x: 1 / (1e-3 + x**2)]
)
def test_a_wrong_gradient_of_a_smooth_error_is_at_no_kink(function):
    x = RNG.normal(size=20)
    assert check_gradient(lambda x: (function(x).sum(), np.full(20, 0.1)), x) > 1e-3


def test_the_network_is_untouched(dtype):
    net = MLP([4, 5, 3], dtype=dtype, seed=2)
    before = net.parameters.copy()
    check_gradient(net, X, LABELS)
    assert (net.parameters == before).all()


OPTIONS = {
    "class_weight": [0.5, 2.0, 1.0],
    "sample_weight": [1, 0, 2, 0.5, 1, 1],
    "label_smoothing": 0.1,
    "lse_square_scale": 0.3,
    "softcap": 2.5,
    "ignore_index": 1,
    "reduction": "none",
}
CHOSEN = [
    {name: value for name, value in OPTIONS.items() if row[name]}
    for row in [*pairs.combinations(dict.fromkeys(OPTIONS, (False, True))), dict.fromkeys(OPTIONS, True)]
]


@THINNED
@pytest.mark.parametrize("targets", [LABELS, ROWS], ids=["labels", "rows"])
def test_softmax_cross_entropy(targets):
    """Each option with and without each other, and all."""
    for options in CHOSEN:
        if targets is ROWS:
            options = {name: value for name, value in options.items() if name != "ignore_index"}
        assert check_gradient(fastbp.softmax_cross_entropy, Z, targets, **options) <= GRADIENT_CHECK, options


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_elementwise_errors(loss, reduction):
    tuned = {"pos_weight": [0.5, 2.0, 1.0], "label_smoothing": 0.1} if loss == "sigmoid_cross_entropy" else {}
    for options in ({}, {"sample_weight": OPTIONS["sample_weight"]}, tuned):
        options["reduction"] = reduction
        assert check_gradient(getattr(fastbp, loss), Z, ROWS, **options) <= GRADIENT_CHECK
        assert check_gradient(getattr(fastbp, loss), Z[:, 0], 1, reduction=reduction) <= GRADIENT_CHECK


class LayerGrad(NamedTuple):
    loss: float
    grad_inputs: np.ndarray
    grad_weight: np.ndarray
    grad_bias: np.ndarray | None


def last_layer(inputs, weight, targets, *, bias=None, wrong=0.0):
    """A layer and its error in one; `wrong` spoils the gradient of the weight."""
    loss, delta, _ = fastbp.softmax_cross_entropy(fastbp.linear(inputs, weight, bias), targets)
    grad_weight, grad_bias = fastbp.linear_backward_weight(inputs, delta)
    grad_weight[1, 2] += wrong * np.abs(grad_weight).max()
    grad_inputs = fastbp.linear_backward_input(delta, weight)
    return LayerGrad(loss, grad_inputs, grad_weight, None if bias is None else grad_bias)


def test_every_gradient_that_has_the_name_of_an_argument():
    weight, bias = RNG.normal(size=(4, 3)), RNG.normal(size=3)
    before = weight.copy()
    for arguments in ({}, {"bias": bias}):
        for w in (weight, np.asfortranarray(weight)):  # an array of any layout
            assert check_gradient(last_layer, X, w, LABELS, **arguments) <= GRADIENT_CHECK
        assert check_gradient(last_layer, X, weight, LABELS, wrong=1e-3, **arguments) == pytest.approx(
            1e-3, rel=0.01
        )
        assert check_gradient(last_layer, X, weight=weight, targets=LABELS, **arguments) <= GRADIENT_CHECK
    assert (weight == before).all()


def test_a_gradient_of_no_argument():
    def renamed(x, w, t):
        return last_layer(x, w, t)

    with pytest.raises(
        TypeError, match=r"^model_or_function: got grad_inputs of shape \(6, 4\), expected an argument inputs"
    ):
        check_gradient(renamed, X, RNG.normal(size=(4, 3)), LABELS)
    with pytest.raises(ValueError, match=r"^weight: got entries that are NaN or infinite"):
        check_gradient(last_layer, X, np.full((4, 3), np.nan), LABELS)


def test_large_logits():
    assert check_gradient(fastbp.softmax_cross_entropy, Z + 1e4, LABELS) <= GRADIENT_CHECK
    assert check_gradient(fastbp.softmax_cross_entropy, Z + 1e8, LABELS) <= GRADIENT_CHECK


def test_the_classic_mistake_is_found():
    """Softmax outputs, with the slope of independent logistic ones: y(1 - y) in place of the Jacobian."""

    def mistaken(z, labels):
        y, t = fastbp.softmax(z), np.eye(3)[labels]
        return fastbp.softmax_cross_entropy(z, labels, reduction="sum").loss, -t / y * y * (1 - y)

    assert check_gradient(mistaken, Z, LABELS) > 0.1


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_one_wrong_entry_is_found(size):
    def wrong(z, t):
        loss, grad, _ = fastbp.squared_error(z, t)
        grad[4, 1] += size * np.abs(grad).max()
        return loss, grad

    assert check_gradient(wrong, Z, ROWS) == pytest.approx(
        size, rel=0.51
    )  # the wrong one may be the new largest


def test_a_function_of_ones_own():
    assert check_gradient(lambda x: (np.sum(x**3), 3 * x**2), RNG.normal(size=(2, 3, 4))) <= GRADIENT_CHECK
    assert check_gradient(lambda x, k: (k * x**2, 2 * k * x), 1.5, k=3) <= GRADIENT_CHECK
    assert check_gradient(lambda x: (0.0, np.zeros(3)), [1, 2, 3]) == 0
    assert check_gradient(lambda x: (0.0, np.zeros(0)), np.zeros(0)) == 0
    assert check_gradient(lambda x: (0.0, np.ones(3)), [1, 2, 3]) == 1


def test_it_may_write_over_its_argument():
    def in_place(z, labels):
        return fastbp.softmax_cross_entropy(z, labels, grad_out=z)

    before = Z.copy()
    assert check_gradient(in_place, Z, LABELS) <= GRADIENT_CHECK
    assert (before == Z).all()


def test_what_is_not_finite_gives_nan():
    assert np.isnan(check_gradient(lambda x: (np.nan, np.ones(2)), [1, 2]))
    assert np.isnan(check_gradient(lambda x: (1.0, np.array([1.0, np.inf])), [1, 2]))
    net = MLP([4, 5, 3], seed=2)
    net.weights[1][0, 0] = np.nan
    assert np.isnan(check_gradient(net, X, LABELS))


def test_bad_calls():
    net = MLP([4, 5, 3])
    with pytest.raises(TypeError, match=r"^model_or_function: got int, expected an MLP or a function$"):
        check_gradient(3, X)
    with pytest.raises(
        TypeError, match=r"^model_or_function: got a function that returns something else, expected \(e"
    ):
        check_gradient(lambda x: x, X)
    with pytest.raises(
        TypeError, match=r"got .*, expected \(error, gradient, \.\.\.\) with a gradient of shape \(6, 4\)"
    ):
        check_gradient(lambda x: (1.0, x[0]), X)
    with pytest.raises(
        TypeError, match=r"^check_gradient: got \(a network, x\), expected \(network, x, targets\)"
    ):
        check_gradient(net, X)
    with pytest.raises(
        TypeError, match=r"^check_gradient: got \(a network, x, \.\.\., reduction=\.\.\.\), expected"
    ):
        check_gradient(net, X, LABELS, reduction="sum")
    for target in (net, fastbp.softmax_cross_entropy):
        with pytest.raises(
            ValueError, match=r"^x: got entries that are NaN or infinite, expected finite ones$"
        ):
            check_gradient(target, np.where(X[0, 0] == X, np.nan, X), LABELS)
    with pytest.raises(ValueError, match=r"^x: got shape \(6, 3\), expected \(N, 4\)"):
        check_gradient(net, Z, LABELS)
