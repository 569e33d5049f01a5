"""A 3-2-2 network worked by hand, and small values of every function: check them with a pocket calculator.

The network (the same as in docs/derivation.md)
-----------------------------------------------
Its numbers are chosen so that every exponential is a power of 3: exp(0) = 1, exp(ln 3) = 3, ln 3 = 1.098612.

    x = (2, 1, -1)      W1 = [[ 0.5, -0.2],    b1 = (-0.3, ln 3 - 0.6) = (-0.3, 0.498612)
                              [-0.6,  0.6],
                              [ 0.1, -0.4]]

                        W2 = [[ 0.4, -0.8],    b2 = (-0.8, ln 3 - 0.8) = (-0.8, 0.298612)
                              [ 0.8,  1.6]]

Forward, with the logistic function in the hidden layer, σ(0) = 1/(1 + 1) = 1/2, σ(ln 3) = 1/(1 + 1/3) = 3/4:

    z1 = (2·0.5 - 1·0.6 - 1·0.1 - 0.3,  -2·0.2 + 1·0.6 + 1·0.4 - 0.6 + ln 3) = (0, ln 3)      a = (1/2, 3/4)
    z2 = (0.4/2 + 0.8·3/4 - 0.8,        -0.8/2 + 1.6·3/4 - 0.8 + ln 3)       = (0, ln 3)

Backward: each error function gives its delta d2 = dE/dz2 at the outputs, and from there on all is the same:

    dW2 = aᵀ d2 (the outer product),  db2 = d2,  d1 = (d2 W2ᵀ) ⊙ a(1 - a) with a(1 - a) = (1/4, 3/16),
    dW1 = xᵀ d1,  db1 = d1
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import pytest
from tolerances import ALPHA, LAMBDA

import fastbp

pytestmark = pytest.mark.usefixtures("backend")

LN2, LN3, LN4, LN5 = log(2), log(3), log(4), log(5)

X = [[2, 1, -1]]
W1, B1 = [[0.5, -0.2], [-0.6, 0.6], [0.1, -0.4]], [-0.3, LN3 - 0.6]
W2, B2 = [[0.4, -0.8], [0.8, 1.6]], [-0.8, LN3 - 0.8]
A = [[1 / 2, 3 / 4]]
Z = [[0, LN3]]


@pytest.fixture(params=["float32", "float64"])
def array(request):
    """A function that makes arrays of one of the two dtypes; `array.dtype` names it."""

    def make(values):
        return np.array(values, dtype=request.param)

    make.dtype = request.param
    return make


def close(got, expected):
    """Equal up to the few roundings of a hand calculation of numbers of the size of 1."""
    got = np.asarray(got)
    eps = np.finfo(got.dtype if got.dtype == np.float32 else np.float64).eps
    np.testing.assert_allclose(got, expected, rtol=16 * eps, atol=16 * eps)


class Case(NamedTuple):
    """One error function on the network: its targets and everything that follows from them."""

    loss: str
    targets: list
    outputs: list
    error: float
    d2: list
    d1: list
    dw1: list
    dw2: list


CASES = [
    # Softmax: y = (1, 3) / (1 + 3) = (1/4, 3/4); t = (1, 0), as the class index 0.
    # E = -ln 1/4 = ln 4 = 1.386294;  d2 = y - t = (-3/4, 3/4)
    # d2 W2ᵀ = (-0.75·0.4 - 0.75·0.8, -0.75·0.8 + 0.75·1.6) = (-0.9, 0.6)
    # d1 = (-0.9/4, 0.6·3/16) = (-0.225, 0.1125)
    Case(
        "softmax_cross_entropy", [0], [[1 / 4, 3 / 4]], LN4,
        d2=[[-0.75, 0.75]], d1=[[-0.225, 0.1125]],
        dw1=[[-0.45, 0.225], [-0.225, 0.1125], [0.225, -0.1125]],
        dw2=[[-0.375, 0.375], [-0.5625, 0.5625]],
    ),
    # The same target as a row.
    Case(
        "softmax_cross_entropy", [[1, 0]], [[1 / 4, 3 / 4]], LN4,
        d2=[[-0.75, 0.75]], d1=[[-0.225, 0.1125]],
        dw1=[[-0.45, 0.225], [-0.225, 0.1125], [0.225, -0.1125]],
        dw2=[[-0.375, 0.375], [-0.5625, 0.5625]],
    ),
    # Logistic outputs, cross-entropy: y = (σ(0), σ(ln 3)) = (1/2, 3/4), t = (1, 0).
    # E = -ln 1/2 - ln(1 - 3/4) = ln 2 + ln 4 = ln 8 = 2.079442;  d2 = y - t = (-1/2, 3/4)
    # d2 W2ᵀ = (-0.5·0.4 - 0.75·0.8, -0.5·0.8 + 0.75·1.6) = (-0.8, 0.8);  d1 = (-0.2, 0.15)
    Case(
        "sigmoid_cross_entropy", [[1, 0]], [[1 / 2, 3 / 4]], LN2 + LN4,
        d2=[[-0.5, 0.75]], d1=[[-0.2, 0.15]],
        dw1=[[-0.4, 0.3], [-0.2, 0.15], [0.2, -0.15]],
        dw2=[[-0.25, 0.375], [-0.375, 0.5625]],
    ),
    # Linear outputs, squared error: y = z2 = (0, ln 3), t = (1, ln 3 - 1) = (1, 0.098612).
    # E = (1 + 1)/2 = 1;  d2 = y - t = (-1, 1)
    # d2 W2ᵀ = (-0.4 - 0.8, -0.8 + 1.6) = (-1.2, 0.8);  d1 = (-0.3, 0.15)
    Case(
        "squared_error", [[1, LN3 - 1]], [[0, LN3]], 1.0,
        d2=[[-1, 1]], d1=[[-0.3, 0.15]],
        dw1=[[-0.6, 0.3], [-0.3, 0.15], [0.3, -0.15]],
        dw2=[[-0.5, 0.5], [-0.75, 0.75]],
    ),
    # Logistic outputs, squared error: y = (1/2, 3/4), t = (1, 0), y - t = (-1/2, 3/4).
    # E = (1/4 + 9/16)/2 = 13/32;  d2 = (-1/2 · 1/2·1/2, 3/4 · 3/4·1/4) = (-1/8, 9/64) = (-0.125, 0.140625)
    # d2 W2ᵀ = (-0.05 - 0.1125, -0.1 + 0.225) = (-0.1625, 0.125);  d1 = (-0.040625, 0.0234375)
    Case(
        "sigmoid_squared_error", [[1, 0]], [[1 / 2, 3 / 4]], 13 / 32,
        d2=[[-0.125, 0.140625]], d1=[[-0.040625, 0.0234375]],
        dw1=[[-0.08125, 0.046875], [-0.040625, 0.0234375], [0.040625, -0.0234375]],
        dw2=[[-0.0625, 0.0703125], [-0.09375, 0.10546875]],
    ),
    # Counts, t = (2, 1), expected (μ1, μ2) = (exp 0, exp ln 3) = (1, 3).
    # E = [2 ln(2/1) - 2 + 1] + [1 ln(1/3) - 1 + 3] = 1 + 2 ln 2 - ln 3 = 1.287682;  d2 = μ - t = (-1, 2)
    # d2 W2ᵀ = (-0.4 - 1.6, -0.8 + 3.2) = (-2, 2.4);  d1 = (-0.5, 0.45)
    Case(
        "poisson_deviance", [[2, 1]], [[1, 3]], 1 + 2 * LN2 - LN3,
        d2=[[-1, 2]], d1=[[-0.5, 0.45]],
        dw1=[[-1.0, 0.9], [-0.5, 0.45], [0.5, -0.45]],
        dw2=[[-0.5, 1.0], [-0.75, 1.5]],
    ),
    # Linear outputs, Huber's error with δ = 1: y = (0, ln 3), t = (3, ln 3 - 1/4), so y - t = (-3, 1/4).
    # E = 1 (3 - 1/2) + 1/2 · 1/16 = 2.53125;  d2 = (-1, 1/4)
    # d2 W2ᵀ = (-0.4 - 0.2, -0.8 + 0.4) = (-0.6, -0.4);  d1 = (-0.15, -0.075)
    Case(
        "huber", [[3, LN3 - 0.25]], [[0, LN3]], 2.53125,
        d2=[[-1, 0.25]], d1=[[-0.15, -0.075]],
        dw1=[[-0.3, -0.15], [-0.15, -0.075], [0.15, 0.075]],
        dw2=[[-0.5, 0.125], [-0.75, 0.1875]],
    ),
    # Linear outputs, quantile error with τ = 1/2: the same y and t.
    # E = (3 + 1/4)/2 = 1.625;  d2 = (-1/2, 1/2)
    # d2 W2ᵀ = (-0.2 - 0.4, -0.4 + 0.8) = (-0.6, 0.4);  d1 = (-0.15, 0.075)
    Case(
        "quantile", [[3, LN3 - 0.25]], [[0, LN3]], 1.625,
        d2=[[-0.5, 0.5]], d1=[[-0.15, 0.075]],
        dw1=[[-0.3, 0.15], [-0.15, 0.075], [0.15, -0.075]],
        dw2=[[-0.25, 0.25], [-0.375, 0.375]],
    ),
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loss}-{np.ndim(case.targets)}d")


def targets_of(case, array):
    """Class indices as integers, rows in the dtype of the network."""
    return np.array(case.targets) if np.ndim(case.targets) == 1 else array(case.targets)


def network(loss, dtype):
    model = fastbp.MLP((3, 2, 2), activation="sigmoid", loss=loss, dtype=dtype)
    for view, values in zip((*model.weights, *model.biases), (W1, W2, B1, B2), strict=True):
        view[...] = values
    return model


# -------------------------------------------------------------------------- the network, function by function


def test_forward(array):
    a = fastbp.linear(array(X), array(W1), array(B1), activation="sigmoid")
    close(a, A)
    close(fastbp.sigmoid(fastbp.linear(array(X), array(W1), array(B1))), A)
    close(fastbp.linear(a, array(W2), array(B2)), Z)


@each_case
def test_error_and_output_delta(case, array):
    loss, grad, weight_sum = getattr(fastbp, case.loss)(array(Z), targets_of(case, array))
    close(loss, case.error)
    close(grad, case.d2)
    assert weight_sum == 1.0


@each_case
def test_recursion_and_outer_products(case, array):
    d2, a, x = array(case.d2), array(A), array(X)
    close(fastbp.linear_backward_input(d2, array(W2), activation="sigmoid", a=a), case.d1)
    # in two calls: the product with the weights, then the slope of the logistic function
    close(fastbp.activation_backward("sigmoid", fastbp.linear_backward_input(d2, array(W2)), a), case.d1)
    dw2, db2 = fastbp.linear_backward_weight(a, d2)
    close(dw2, case.dw2)
    close(db2, case.d2[0])
    dw1, db1 = fastbp.linear_backward_weight(x, array(case.d1))
    close(dw1, case.dw1)
    close(db1, case.d1[0])


def test_update(array):
    # w <- w - 0.1 dE/dw with the softmax gradients: 0.4 + 0.1·0.375 = 0.4375, and so on
    weight = array(W2).ravel()
    fastbp.sgd_update(weight, array([-0.375, 0.375, -0.5625, 0.5625]), learning_rate=0.1)
    close(weight, [0.4375, -0.8375, 0.85625, 1.54375])


# ------------------------------------------------------------------------------------ the network, as a model


@each_case
def test_model_gradients(case, array):
    model, targets = network(case.loss, array.dtype), targets_of(case, array)
    close(model.logits(array(X)), Z)
    close(model.forward(array(X)), case.outputs)
    close(np.array(model.loss(array(X), targets), array.dtype), case.error)
    loss, weights, biases = model.gradients(array(X), targets)
    close(np.array(loss, array.dtype), case.error)
    for got, expected in zip((*weights, *biases), (case.dw1, case.dw2, case.d1[0], case.d2[0]), strict=True):
        close(got, expected)


@each_case
def test_model_step(case, array):
    model = network(case.loss, array.dtype)
    loss = model.step(array(X), targets_of(case, array), fastbp.SGD(0.1))
    close(np.array(loss, array.dtype), case.error)
    close(model.weights[0], np.array(W1) - 0.1 * np.array(case.dw1))
    close(model.weights[1], np.array(W2) - 0.1 * np.array(case.dw2))
    close(model.biases[0], np.array(B1) - 0.1 * np.array(case.d1[0]))
    close(model.biases[1], np.array(B2) - 0.1 * np.array(case.d2[0]))


def test_model_step_in_numbers(array):
    # the softmax case, every number written out
    model = network("softmax_cross_entropy", array.dtype)
    model.step(array(X), [0], fastbp.SGD(0.1))
    close(model.weights[0], [[0.545, -0.2225], [-0.5775, 0.58875], [0.0775, -0.38875]])
    close(model.biases[0], [-0.2775, LN3 - 0.61125])
    close(model.weights[1], [[0.4375, -0.8375], [0.85625, 1.54375]])
    close(model.biases[1], [-0.725, LN3 - 0.875])
    # E falls from 1.3863 to 1.1480. To first order it falls by 0.1 |dE/dw|²: the squares of all gradients add
    # up to 2.0391 (layer 2) + 0.4430 (layer 1) = 2.4820, so 1.3863 - 0.2482 = 1.1381 was to be expected.
    assert round(float(model.loss(array(X), [0])), 4) == 1.148


# A second example, x' = (1, 0, -2) of class 1: the columns of W1 add up to 0, so subtracting (1, 1, 1) from x
# leaves all activations as they were.  y - t = (1/4, -1/4), E' = -ln 3/4 = ln 4/3.  Means over the two:
#   E = (ln 4 + ln 4/3)/2 = 0.836988;  d2 = (-3/4, 3/4)/2 and (1/4, -1/4)/2
#   d2 W2ᵀ = (-0.45, 0.3) and (0.15, -0.1);  d1 = (-0.1125, 0.05625) and (0.0375, -0.01875)
#   dW1 = [2·d1 + 1·d1', 1·d1 + 0·d1', -1·d1 - 2·d1'],  dW2 = aᵀ ((-3/8, 3/8) + (1/8, -1/8))
TWO_X = [[2, 1, -1], [1, 0, -2]]
TWO_ERROR = (LN4 + (LN4 - LN3)) / 2


def test_batch_of_two(array):
    model = network("softmax_cross_entropy", array.dtype)
    loss, (dw1, dw2), (db1, db2) = model.gradients(array(TWO_X), [0, 1])
    close(np.array(loss, array.dtype), TWO_ERROR)
    close(dw1, [[-0.1875, 0.09375], [-0.1125, 0.05625], [0.0375, -0.01875]])
    close(db1, [-0.075, 0.0375])
    close(dw2, [[-0.125, 0.125], [-0.1875, 0.1875]])
    close(db2, [-0.25, 0.25])


def test_batch_of_two_function_by_function(array):
    z, a = array([*Z, *Z]), array([*A, *A])
    loss, d2, weight_sum = fastbp.softmax_cross_entropy(z, [0, 1])
    close(loss, TWO_ERROR)
    close(d2, [[-0.375, 0.375], [0.125, -0.125]])
    assert weight_sum == 2.0
    d1 = fastbp.linear_backward_input(d2, array(W2), activation="sigmoid", a=a)
    close(d1, [[-0.1125, 0.05625], [0.0375, -0.01875]])
    dw1, db1 = fastbp.linear_backward_weight(array(TWO_X), d1)
    close(dw1, [[-0.1875, 0.09375], [-0.1125, 0.05625], [0.0375, -0.01875]])
    close(db1, [-0.075, 0.0375])


# ------------------------------------------------------------------------- what an error function can be told


def test_reductions(array):
    z, labels = array([*Z, *Z]), [0, 1]
    total, grad, _ = fastbp.softmax_cross_entropy(z, labels, reduction="sum")
    close(total, 2 * TWO_ERROR)
    close(grad, [[-0.75, 0.75], [0.25, -0.25]])
    errors, grad, _ = fastbp.softmax_cross_entropy(z, labels, reduction="none")
    close(errors, [LN4, LN4 - LN3])
    close(grad, [[-0.75, 0.75], [0.25, -0.25]])


@pytest.mark.parametrize(
    "weights", [{"sample_weight": [3, 1]}, {"class_weight": [3, 1]}], ids=lambda w: next(iter(w))
)
def test_weighted_mean(weights, array):
    # (3 ln 4 + 1 ln 4/3) / (3 + 1), whether the first example counts three times or its class does
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(array([*Z, *Z]), [0, 1], **weights)
    close(loss, (3 * LN4 + (LN4 - LN3)) / 4)
    close(grad, [[-0.5625, 0.5625], [0.0625, -0.0625]])
    assert weight_sum == 4.0


def test_both_weights_and_an_ignored_row(array):
    # weights 3·2 = 6 and 1·2 = 2, the third example is not read
    z = array([*Z, *Z, [np.nan, np.inf]])
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(
        z, [0, 1, -100], class_weight=[3, 1], sample_weight=[2, 2, 2]
    )
    close(loss, (6 * LN4 + 2 * (LN4 - LN3)) / 8)
    close(grad, [[-0.5625, 0.5625], [0.0625, -0.0625], [0, 0]])
    assert weight_sum == 8.0


def test_class_weights_of_a_row_of_targets(array):
    # t = (1/4, 3/4), w = (3, 1): u = (3/4, 3/4), Σu = 3/2, E = 3/4 ln 4 + 3/4 ln 4/3; weight Σwt / Σt = 3/2
    # delta before the mean: 3/2 (1/4, 3/4) - (3/4, 3/4) = (-3/8, 3/8)
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(
        array(Z), array([[0.25, 0.75]]), class_weight=[3, 1]
    )
    close(loss, 0.75 * (LN4 + (LN4 - LN3)) / 1.5)
    close(grad, [[-0.25, 0.25]])
    assert weight_sum == 1.5


def test_soft_targets(array):
    # t = (1/2, 1/2): E = (ln 4 + ln 4/3)/2, y - t = (-1/4, 1/4). At t = y the delta is 0.
    loss, grad, _ = fastbp.softmax_cross_entropy(array(Z), array([[0.5, 0.5]]))
    close(loss, TWO_ERROR)
    close(grad, [[-0.25, 0.25]])
    loss, grad, _ = fastbp.softmax_cross_entropy(array(Z), array([[0.25, 0.75]]))
    close(loss, 0.25 * LN4 + 0.75 * (LN4 - LN3))
    close(grad, [[0, 0]])


def test_targets_that_do_not_sum_to_one(array):
    # t = (2, 1), Σt = 3: E = 2 ln 4 + ln 4/3, delta = 3 y - t = (3/4 - 2, 9/4 - 1) — not y - t = (-7/4, -1/4)
    loss, grad, weight_sum = fastbp.softmax_cross_entropy(array(Z), array([[2, 1]]))
    close(loss, 2 * LN4 + (LN4 - LN3))
    close(grad, [[-1.25, 1.25]])
    assert weight_sum == 1.0


def test_label_smoothing(array):
    # 0.2 of the target is spread over both classes: t = (0.9, 0.1)
    loss, grad, _ = fastbp.softmax_cross_entropy(array(Z), [0], label_smoothing=0.2)
    close(loss, 0.9 * LN4 + 0.1 * (LN4 - LN3))
    close(grad, [[-0.65, 0.65]])
    # logistic outputs: t = 1 becomes 0.9; at z = 0 the error is ln 2 whatever t is
    loss, grad, _ = fastbp.sigmoid_cross_entropy(array([[0]]), array([[1]]), label_smoothing=0.2)
    close(loss, LN2)
    close(grad, [[-0.4]])


def test_lse_square(array):
    # lse = ln(1 + 3) = ln 4; E gains 0.5 (ln 4)², the delta y · 2 · 0.5 · ln 4
    loss, grad, _ = fastbp.softmax_cross_entropy(array(Z), [0], lse_square_scale=0.5)
    close(loss, LN4 + 0.5 * LN4**2)
    close(grad, [[-0.75 + 0.25 * LN4, 0.75 + 0.75 * LN4]])


def test_softcap(array):
    # tanh(ln 2) = (2 - 1/2)/(2 + 1/2) = 0.6. With c = ln 3 / 0.6, c tanh(z/c) makes ln 3 of c ln 2,
    # with slope 1 - 0.36 = 0.64; and 0 to 0, with slope 1.
    c = LN3 / 0.6
    loss, grad, _ = fastbp.softmax_cross_entropy(array([[0, c * LN2]]), [0], softcap=c)
    close(loss, LN4)
    close(grad, [[-0.75, 0.75 * 0.64]])


def test_pos_weight(array):
    # z = ln 3, y = 3/4. Positives count 5 times: E = -5 ln 3/4, delta 5 (y - 1). Negatives: -ln 1/4, y
    loss, grad, weight_sum = fastbp.sigmoid_cross_entropy(
        array([[LN3, LN3]]), array([[1, 0]]), pos_weight=[5, 5]
    )
    close(loss, 5 * (LN4 - LN3) + LN4)
    close(grad, [[-1.25, 0.75]])
    assert weight_sum == 1.0


def test_one_output_for_each_of_two_examples(array):
    # 1-D: N examples of one output. (ln 2 + ln 4)/2; (σ(0) - 1)/2, (σ(ln 3) - 0)/2
    loss, grad, weight_sum = fastbp.sigmoid_cross_entropy(array([0, LN3]), array([1, 0]))
    close(loss, (LN2 + LN4) / 2)
    close(grad, [-0.25, 0.375])
    assert weight_sum == 2.0


def test_poisson_without_a_count(array):
    # t = 0: E = μ, delta μ;  t = μ: E = 0, delta 0
    loss, grad, _ = fastbp.poisson_deviance(array([[LN3, LN3]]), array([[0, 3]]))
    close(loss, 3.0)
    close(grad, [[3, 0]])


def test_huber_far_from_the_target_and_near_it(array):
    # δ = 2: at a distance of 5 E = 2 (5 - 1) = 8, at 2 from both sides 2, at 1/2 E = 1/8
    losses, grad, _ = fastbp.huber(array([5, -2, 0.5]), 0, delta=2.0, reduction="none")
    close(losses, [8, 2, 1 / 8])
    close(grad, [2, -2, 0.5])


def test_quantiles_on_both_sides_and_at_the_target(array):
    # τ = 0.9: 0.9 · 2 below, 0.1 · 5 above, and nothing at the target
    losses, grad, _ = fastbp.quantile(array([-2, 5, 7]), array([0, 0, 7]), tau=0.9, reduction="none")
    close(losses, [1.8, 0.5, 0])
    close(grad, [-0.9, 0.1, 0])


def test_the_quantile_error_is_smallest_at_the_quantile(array):
    # Of 0, 1, …, 10 a share of 0.3 lies below 3: the mean error of one output for all of them is smallest there.
    t = array(range(11))
    errors = [fastbp.quantile(array([y] * 11), t, tau=0.3).loss for y in range(11)]
    assert min(errors) == errors[3]


# ---------------------------------------------------------------------------------------- activations and kin

# tanh(ln 3) = (3 - 1/3)/(3 + 1/3) = 8/10.  Φ(1) = 0.841345 and φ(1) = 0.241971 are in every table.
PHI_1, DENSITY_1 = 0.8413447460685429, 0.24197072451914337
VALUES = {
    "identity": ([-2, 0, 3], [-2, 0, 3]),
    "sigmoid": ([-LN3, 0, LN3], [1 / 4, 1 / 2, 3 / 4]),
    "tanh": ([-LN3, 0, LN2], [-0.8, 0, 0.6]),
    "relu": ([-2, 0, 3], [0, 0, 3]),
    "leaky_relu": ([-2, 0, 3], [-0.02, 0, 3]),
    "elu": ([-LN2, 0, 3], [-1 / 2, 0, 3]),
    "selu": ([-LN2, 0, 3], [-LAMBDA * ALPHA / 2, 0, 3 * LAMBDA]),
    "gelu": ([-1, 0, 1], [PHI_1 - 1, 0, PHI_1]),  # x Φ(x), and Φ(-1) = 1 - Φ(1)
    "silu": ([-LN3, 0, LN3], [-0.25 * LN3, 0, 0.75 * LN3]),
    "mish": ([-LN2, 0, LN2], [-5 / 13 * LN2, 0, 0.8 * LN2]),  # n/(n + 2) with n = e(e + 2), e = 1/2, 1, 2
    "softplus": ([-LN3, 0, LN3], [LN4 - LN3, LN2, LN4]),  # ln(1 + 1/3), ln(1 + 1), ln(1 + 3)
    "softmax": ([0, LN2, LN5], [1 / 8, 2 / 8, 5 / 8]),
    "log_softmax": ([0, LN2, LN5], [-3 * LN2, -2 * LN2, LN5 - 3 * LN2]),
}


@pytest.mark.parametrize("name", VALUES)
def test_activation(name, array):
    x, expected = VALUES[name]
    close(getattr(fastbp, name)(array([x])), [expected])
    in_place = array([x])
    assert getattr(fastbp, name)(in_place, out=in_place) is in_place
    close(in_place, [expected])


def test_logsumexp(array):
    close(fastbp.logsumexp(array([[0, LN2, LN5], [1, 1 + LN2, 1 + LN5]])), [3 * LN2, 1 + 3 * LN2])


# f', from the output a, except for gelu, silu and mish, which are given their input z
SLOPES = {
    "identity": ([-2, 0, 3], [1, 1, 1]),
    "sigmoid": ([1 / 4, 1 / 2, 3 / 4], [3 / 16, 1 / 4, 3 / 16]),
    "tanh": ([-0.8, 0, 0.6], [0.36, 1, 0.64]),
    "relu": ([0, 0, 3], [0, 0, 1]),
    "leaky_relu": ([-0.02, -0.01, 3], [0.01, 0.01, 1]),
    "elu": ([-1, -1 / 2, 3], [0, 1 / 2, 1]),  # exp(z) = 1 + a
    "selu": ([-LAMBDA * ALPHA / 2, 0, 3], [LAMBDA * ALPHA / 2, LAMBDA * ALPHA, LAMBDA]),
    "gelu": ([-1, 0, 1], [1 - PHI_1 - DENSITY_1, 0.5, PHI_1 + DENSITY_1]),  # Φ(z) + z φ(z)
    "silu": ([-LN3, 0, LN3], [1 / 4 - LN3 * 3 / 16, 1 / 2, 3 / 4 + LN3 * 3 / 16]),  # y + z y(1 - y)
    "mish": ([-LN2, 0, LN2], [5 / 13 - LN2 * 48 / 169, 0.6, 0.8 + LN2 * 0.24]),  # T + 4 z e(e + 1)/(n + 2)²
    "softplus": ([LN4 - LN3, LN2, LN4], [1 / 4, 1 / 2, 3 / 4]),  # σ(z) = 1 - exp(-a)
}


@pytest.mark.parametrize("name", SLOPES)
def test_activation_backward(name, array):
    a, slope = SLOPES[name]
    close(fastbp.activation_backward(name, array([[1, 2, -4]]), array([a])), [np.multiply([1, 2, -4], slope)])


def test_softmax_backward(array):
    # y = (1/4, 3/4), t = (1, 0), dE/dy = -t/y = (-4, 0): Σ g y = -1, y ⊙ (g + 1) = (-3/4, 3/4) = y - t
    close(fastbp.softmax_backward(array([[-4, 0]]), array([[1 / 4, 3 / 4]])), [[-0.75, 0.75]])
    # a gradient that is the same for all classes moves nothing: the outputs always sum to 1
    close(fastbp.softmax_backward(array([[7, 7]]), array([[1 / 4, 3 / 4]])), [[0, 0]])


# ----------------------------------------------------------------------------------------- layers, optimizers


def test_linear(array):
    # (1, 2; 3, 4) (1, 0; 0, -1) + (0.5, 1) = (1.5, -1; 3.5, -3)
    x, weight, bias = array([[1, 2], [3, 4]]), array([[1, 0], [0, -1]]), array([0.5, 1])
    close(fastbp.linear(x, weight, bias), [[1.5, -1], [3.5, -3]])
    close(fastbp.linear(x, weight), [[1, -2], [3, -4]])
    close(fastbp.linear(x, weight, bias, activation="relu"), [[1.5, 0], [3.5, 0]])


def test_linear_backward(array):
    # two examples: (1, 2)ᵀ(1, -1) + (3, 4)ᵀ(10, 0) = (1 + 30, -1; 2 + 40, -2)
    a_prev, delta = array([[1, 2], [3, 4]]), array([[1, -1], [10, 0]])
    weight_grad, bias_grad = fastbp.linear_backward_weight(a_prev, delta)
    close(weight_grad, [[31, -1], [42, -2]])
    close(bias_grad, [11, -1])
    # (1, -1; 10, 0) (1, 3; 2, 4) = (1 - 2, 3 - 4; 10, 30), the weights (1, 2; 3, 4) transposed
    close(fastbp.linear_backward_input(delta, array([[1, 2], [3, 4]])), [[-1, -1], [10, 30]])


def test_momentum(array):
    # gradient 1 twice, η = 0.1, μ = 0.9: v = 1, then 0.9 + 1 = 1.9; w = -0.1, then -0.1 - 0.19 = -0.29
    w, v, g = array([0]), array([0]), array([1])
    fastbp.sgd_update(w, g, learning_rate=0.1, momentum=0.9, velocity=v)
    close(w, [-0.1])
    fastbp.sgd_update(w, g, learning_rate=0.1, momentum=0.9, velocity=v)
    close(v, [1.9])
    close(w, [-0.29])


def test_nesterov(array):
    # steps g + 0.9 v: 1 + 0.9 = 1.9, then 1 + 0.9·1.9 = 2.71; w = -0.19, then -0.461
    w, v, g = array([0]), array([0]), array([1])
    for _ in range(2):
        fastbp.sgd_update(w, g, learning_rate=0.1, momentum=0.9, velocity=v, nesterov=True)
    close(v, [1.9])
    close(w, [-0.461])


def test_weight_decay(array):
    # 2 - 0.1 (0.5 + 0.1·2) = 1.93; the gradient itself stays
    w, g = array([2]), array([0.5])
    fastbp.sgd_update(w, g, learning_rate=0.1, weight_decay=0.1)
    close(w, [1.93])
    close(g, [0.5])


def test_adam(array):
    # η = 0.3, β1 = 1/2, β2 = 3/4, ε = 1/2, gradients 1 and -1:
    # step 1: m = 1/2, v = 1/4, m̂ = m/(1 - 1/2) = 1, v̂ = v/(1 - 3/4) = 1, w = 1 - 0.3·1/(1 + 1/2) = 0.8
    # step 2: m = 1/4 - 1/2 = -1/4, v = 3/16 + 1/4 = 7/16, m̂ = -1/4/(1 - 1/4) = -1/3, v̂ = 7/16/(1 - 9/16) = 1,
    #         w = 0.8 + 0.3·(1/3)/1.5 = 0.8 + 1/15
    w, m, v = array([1]), array([0]), array([0])
    settings = {"learning_rate": 0.3, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.5}
    fastbp.adam_update(w, array([1]), m, v, step=1, **settings)
    close(w, [0.8])
    fastbp.adam_update(w, array([-1]), m, v, step=2, **settings)
    close(m, [-0.25])
    close(v, [0.4375])
    close(w, [0.8 + 1 / 15])


def test_model_with_momentum_and_adam(array):
    # the first step with momentum is the plain one; Adam's is η = 0.001 against the sign of each gradient
    model = network("softmax_cross_entropy", array.dtype)
    model.step(array(X), [0], fastbp.SGD(0.1, momentum=0.9))
    close(model.weights[1], [[0.4375, -0.8375], [0.85625, 1.54375]])
    model = network("softmax_cross_entropy", array.dtype)
    model.step(array(X), [0], fastbp.Adam(0.001))
    np.testing.assert_allclose(model.weights[1], [[0.401, -0.801], [0.801, 1.599]], atol=1e-7)


def test_muon(array):
    # dW1 = (2, 1, -1)ᵀ (-0.225, 0.1125) has rank 1: its only singular value, over the norm, is 1, and five times
    # p(s) = 3.4445 s - 4.775 s³ + 2.0315 s⁵ makes 0.701, 1.113620, 0.720706, 1.089974, 0.696436 of it
    model = network("softmax_cross_entropy", array.dtype)
    model.step(array(X), [0], fastbp.Muon(0.1, weight_decay=0.0))
    step = np.outer([2, 1, -1], [-2, 1]) / 30**0.5
    np.testing.assert_allclose(model.weights[0], np.array(W1) - 0.1 * 0.6964364095 * step, atol=1e-6)
