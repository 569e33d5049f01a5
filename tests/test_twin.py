"""The NumPy twin alone, before anything is compared with it: against differences, and against many digits.

* Every gradient, with every option, agrees with central differences of its error in float64.
* At extreme logits, errors and gradients agree with their *definitions* (probabilities and their logarithms),
  evaluated by mpmath with enough digits that nothing cancels there.
* The edge cases of the contract, of which neither of these methods can speak.

The hand-worked values are in test_by_hand.py; the compiled kernels are compared with this twin elsewhere.
"""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from fastbp import _reference as twin

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).smallest_normal)
INF, NAN = np.inf, np.nan


@pytest.fixture(autouse=True)
def no_warnings():
    """The twin promises to be silent, whatever the input."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def generator(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- the functions, called as is convenient here


def evaluate(loss, z, targets, *, mean=False, **options):
    """Call an error function of the twin; returns loss, weight_sum, losses (N,), grad (N, C)."""
    losses, grad = np.full(len(z), 7.0, z.dtype), np.full_like(z, 7.0)
    sample_weight = options.get("sample_weight")
    if loss == "softmax_cross_entropy":
        pair = (targets, None) if targets.ndim == 1 else (None, targets)
        arguments = (
            *pair,
            options.get("class_weight"),
            sample_weight,
            options.get("ignore_index", -100),
            options.get("label_smoothing", 0.0),
            options.get("lse_square_scale", 0.0),
            options.get("softcap", 0.0),
        )
    elif loss == "sigmoid_cross_entropy":
        arguments = (targets, options.get("pos_weight"), sample_weight, options.get("label_smoothing", 0.0))
    else:
        arguments = (targets, sample_weight)
    value, weight_sum = getattr(twin, loss)(z, *arguments, mean, losses, grad, 1)
    return SimpleNamespace(loss=value, weight_sum=weight_sum, losses=losses, grad=grad)


def activation(name, x):
    out = np.empty_like(x)
    getattr(twin, name)(x, out, 1)
    return out


def backward(name, grad, a):
    out = np.empty_like(a)
    twin.activation_backward(name, grad, a, out, 1)
    return out


def softmax_backward(grad, y):
    out = np.empty_like(y)
    twin.softmax_backward(grad, y, out, 1)
    return out


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


# Error functions. Five examples of four classes or outputs, one all but certain, one with a tie.
N, C = 5, 4
LOGITS = generator().normal(0, 1.5, (N, C))
LOGITS[1, 2] = LOGITS[1].max() + 3
LOGITS[2, 1] = LOGITS[2, 3] = LOGITS[2].max()
LABELS = np.array([0, 2, 3, -100, 1])
HOT = np.eye(C)[[3, 2, 0, 1, 1]]
SOFT = generator(1).dirichlet(np.ones(C), N)
FREE = generator(2).uniform(0, 2, (N, C))  # rows that do not sum to 1
FREE[0, 1] = 0.0
COUNTS = np.array([[0, 1, 2, 5], [0.5, 3, 0, 1], [1, 1, 1, 1], [4, 0, 0, 2], [2, 7, 1, 0.1]])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 0.0, 2.0, 3.0])
CLASS_WEIGHT = np.array([0.5, 1.0, 2.0, 3.0])
POS_WEIGHT = np.array([0.2, 1.0, 3.0, 10.0])


def each(**choices):
    """Every combination of options, as dictionaries; None leaves an option out."""
    combinations = [
        {name: value for name, value in zip(choices, values, strict=True) if value is not None}
        for values in itertools.product(*choices.values())
    ]
    return pytest.mark.parametrize("options", combinations, ids=lambda options: "-".join(options) or "plain")


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
    class_weight=(None, CLASS_WEIGHT),
    sample_weight=(None, SAMPLE_WEIGHT),
    label_smoothing=(None, 0.1),
    lse_square_scale=(None, 0.25),
    softcap=(None, 3.0),
)
def test_softmax_cross_entropy_gradient(options, targets):
    check_gradient("softmax_cross_entropy", targets, options)


@pytest.mark.parametrize("targets", [HOT, SOFT, FREE], ids=["hot", "soft", "free"])
@each(pos_weight=(None, POS_WEIGHT), sample_weight=(None, SAMPLE_WEIGHT), label_smoothing=(None, 0.1))
def test_sigmoid_cross_entropy_gradient(options, targets):
    check_gradient("sigmoid_cross_entropy", targets, options)


ELEMENTWISE_TARGETS = {
    "sigmoid_cross_entropy": SOFT,
    "squared_error": FREE,
    "sigmoid_squared_error": SOFT,
    "poisson_deviance": COUNTS,
}


@pytest.mark.parametrize("loss", ["squared_error", "sigmoid_squared_error", "poisson_deviance"])
@each(sample_weight=(None, SAMPLE_WEIGHT))
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


# Activations, layers and the network.
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softplus")
OF_INPUT = ("gelu", "silu")  # whose backward form takes the input, not the output
X = np.array([[-4.0, -1.3, -0.75, -0.1, 0.02, 0.5, 1.0, 3.0, 6.0]])  # no kink of a relu within two steps


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_backward(name):
    grad = generator().normal(size=X.shape)
    a = X if name in OF_INPUT else activation(name, X)
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


@pytest.mark.parametrize("name", ["identity", *ACTIVATIONS])
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
    delta = backward(name, grad, z if name in OF_INPUT else linear(x, weight, bias))
    weight_grad, bias_grad, input_grad = np.empty((4, 2)), np.empty(2), np.empty((3, 4))
    twin.linear_backward_weight(x, delta, weight_grad, bias_grad, 1)
    twin.linear_backward_input(delta, weight, "identity", None, input_grad, 1)
    assert_is_derivative(weight_grad, lambda w: (grad * linear(x, w, bias)).sum(), weight)
    assert_is_derivative(bias_grad, lambda b: (grad * linear(x, weight, b)).sum(), bias)
    assert_is_derivative(input_grad, lambda x: (grad * linear(x, weight, bias)).sum(), x)


@pytest.mark.parametrize("name", ["identity", *ACTIVATIONS])
def test_recursion(name):
    """δ_prev = (δ Wᵀ) ⊙ f'(z_prev): the derivative by z_prev of Σ δ ⊙ (f(z_prev) W)."""
    random = generator(4)
    weight, delta = random.normal(size=(X.shape[1], 2)), random.normal(size=(1, 2))

    def f(z):
        return z if name == "identity" else activation(name, z)

    a = {"identity": None}.get(name, X if name in OF_INPUT else f(X))
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
}


@pytest.mark.parametrize("name", ["identity", *ACTIVATIONS])
@pytest.mark.parametrize("loss", NETWORK_TARGETS)
def test_network_gradient(loss, name):
    sizes = (3, 3, 2, 2)
    random = generator(5)
    parameters = random.normal(0, 0.7, sum((i + 1) * o for i, o in itertools.pairwise(sizes)))
    x, targets = random.normal(size=(N, 3)), NETWORK_TARGETS[loss]
    gradient, unused = np.full_like(parameters, NAN), np.empty_like(parameters)

    def network(parameters):
        return twin.Network(sizes, name, loss.split(",")[0], parameters, 1)

    value = network(parameters).gradient(x, targets, gradient)
    assert_is_derivative(gradient, lambda p: network(p).gradient(x, targets, unused), parameters)

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


# -------------------------------------------------------------------------------- many digits, extreme logits


@pytest.fixture
def mp():
    """So many digits that 1 - y and ln y, formed by their definitions, keep 50 where float64 can show it."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(370):
        yield mpmath.mp


def exact_softmax(mp, z):
    powers = [mp.exp(mp.mpf(float(value))) for value in z]
    total = mp.fsum(powers)
    return [power / total for power in powers]


def assert_near(got, exact, allowed, what):
    """|got - exact| <= allowed, in units of eps; below the normal numbers only their spacing is promised."""
    error = abs(float(exact - float(got)))
    assert error <= float(allowed) * EPS + 4 * TINY * EPS, (what, float(got), float(exact), error / EPS)


def rows_at_extremes():
    """Rows of 2 to 7 logits: ordinary, peaked, far apart, tied, near-tied, shifted."""
    random = generator(6)
    for scale in (0.1, 1.0, 10.0, 40.0, 300.0, 1e4):
        for width in (2, 3, 7):
            yield random.uniform(-scale, scale, width)
    yield np.zeros(3)
    yield np.array([1e4, 1e4, -1e4])
    yield np.array([1e4, np.nextafter(1e4, 0), 0.0])
    yield np.array([0.0, -36.7, -36.8])  # exp(-36.7) is half the spacing of the numbers at 1
    yield np.array([0.0, -200.0])
    yield np.array([-1e4, -1e4 - 30, -1e4 - 31])


@pytest.mark.parametrize("z", list(rows_at_extremes()), ids=lambda z: f"{len(z)}-{np.ptp(z):.3g}")
def test_softmax_cross_entropy_has_all_digits(z, mp):
    """Relative errors: loss (4 + gap) eps, gradient (4 + |z_j - max z|) eps, but at the top (4 + gap) eps.

    The gap is that of the largest to the second largest logit. No algorithm in one precision can do without
    these terms: the difference d = z_j - max z has to be rounded, and exp turns its relative error eps/2 into
    d eps/2. At the top, where the delta of a certain target is -rest/(1 + rest), the d of `rest` counts.
    """
    y = exact_softmax(mp, z)
    m, top = z.max(), int(z.argmax())
    gap = m - np.partition(z, -2)[-2]
    for label in range(len(z)):
        result = evaluate("softmax_cross_entropy", z[None], np.array([label]))
        loss = -mp.log(y[label])
        assert_near(result.loss, loss, (4 + gap) * loss, ("loss", label))
        for j, got in enumerate(result.grad[0]):
            exact = y[j] - (j == label)
            condition = gap if j == top else m - z[j]
            assert_near(got, exact, (4 + condition) * abs(exact), ("grad", label, j))


@pytest.mark.parametrize("z", list(rows_at_extremes()), ids=lambda z: f"{len(z)}-{np.ptp(z):.3g}")
def test_softmax_family_has_all_digits(z, mp):
    y = exact_softmax(mp, z)
    m = z.max()
    gap = m - np.partition(z, -2)[-2]
    out = np.empty(1)
    twin.logsumexp(z[None], out, 1)
    exact = mp.log(mp.fsum(mp.exp(mp.mpf(float(value))) for value in z))
    assert_near(out[0], exact, abs(m) + (4 + gap) * float(exact - m), "logsumexp")
    for j, (soft, log_soft) in enumerate(
        zip(activation("softmax", z[None])[0], activation("log_softmax", z[None])[0], strict=True)
    ):
        assert_near(soft, y[j], (4 + m - z[j]) * y[j], ("softmax", j))
        assert_near(log_soft, mp.log(y[j]), (4 + gap) * abs(mp.log(y[j])), ("log_softmax", j))


@pytest.mark.parametrize("nearly", [0.25, 1e-3, 1e-9, 1e-15, 0.0])
def test_soft_targets_near_certainty_keep_their_digits(nearly, mp):
    """At the top, y Σu - u = (Σ_others u - u rest)/(1 + rest): within 6 eps of these two terms, not of 1."""
    t = np.array([1 - nearly, nearly, 0.0])
    for gap in (0.5, 8.0, 20.0, 35.0, 60.0):
        z = np.array([3.0, 3.0 - gap, 2.0 - gap])
        y = exact_softmax(mp, z)
        total = mp.fsum(mp.mpf(float(value)) for value in t)
        result = evaluate("softmax_cross_entropy", z[None], t[None])
        rest = y[1] / y[0] + y[2] / y[0]
        exact = y[0] * total - mp.mpf(float(t[0]))
        assert_near(
            result.grad[0, 0], exact, (6 + gap) * (t[1] + t[2] + t[0] * rest) / (1 + rest), ("top", gap)
        )
        loss = -mp.fsum(mp.mpf(float(value)) * mp.log(share) for value, share in zip(t, y, strict=True))
        assert_near(result.loss, loss, (6 + gap) * loss, ("loss", gap))


def test_uniform_logits_of_many_classes_keep_their_digits():
    """Where all logits are equal, y = 1/C for the one singled out as largest, not 1 - (C - 1)/C."""
    n_classes = 100_000
    z, t = np.zeros((1, n_classes)), np.full((1, n_classes), 0.0)
    t[0, 5] = 1.0
    grad = evaluate("softmax_cross_entropy", z, t).grad[0]
    np.testing.assert_allclose(np.delete(grad, 5), 1 / n_classes, rtol=4 * EPS)
    smoothed = evaluate("softmax_cross_entropy", z, np.array([5]), label_smoothing=0.1).grad[0]
    np.testing.assert_allclose(np.delete(smoothed, 5), 0.9 / n_classes, rtol=16 * EPS)


LOGISTIC_LOGITS = (0.0, 5e-324, 1e-300, 1e-20, 0.1, 1.0, 20.0, 36.8, 40.0, 300.0, 708.0, 745.0, 1e4, 1e300)


@pytest.mark.parametrize("t", [0.0, 1.0, 0.5, 0.3, 1e-12, 1 - 1e-12])
@pytest.mark.parametrize("p", [1.0, 10.0])
def test_sigmoid_cross_entropy_has_all_digits(t, p, mp):
    """Within 4 eps of the sum of the absolute values of its terms, loss and gradient."""
    yes, no = mp.mpf(p) * mp.mpf(t), 1 - mp.mpf(t)
    for z in (sign * z for z in LOGISTIC_LOGITS for sign in (1, -1)):
        result = evaluate("sigmoid_cross_entropy", np.array([[z]]), np.array([[t]]), pos_weight=np.array([p]))
        e = mp.exp(-abs(mp.mpf(z)))
        softplus = mp.log1p(e)  # checked against the definition below, where 370 digits suffice for it
        if abs(z) < 800:
            assert abs(mp.log(1 + e) / softplus - 1) < mp.mpf(10) ** -15
        minus_log_y = softplus + max(-mp.mpf(z), 0)
        minus_log_not_y = softplus + max(mp.mpf(z), 0)
        loss = yes * minus_log_y + no * minus_log_not_y
        assert_near(result.loss, loss, 4 * loss, ("loss", z))
        small, large = e / (1 + e), 1 / (1 + e)
        y, not_y = (large, small) if z > 0 else (small, large)
        terms = no * y, -yes * not_y  # = y - t where p = 1
        active = no if z > 0 else yes
        assert_near(result.grad[0, 0], sum(terms), 4 * (active + (yes + no) * small), ("grad", z))


def test_sigmoid_squared_error_has_all_digits(mp):
    """Both factors of (y - t) y (1 - y) in both tails, where float64 has y = 1 and 1 - y = 0."""
    for z, t in itertools.product((-700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 300.0), (0.0, 0.5, 1.0)):
        result = evaluate("sigmoid_squared_error", np.array([[z]]), np.array([[t]]))
        y = 1 / (1 + mp.exp(-mp.mpf(z)))
        slope = y / (1 + mp.exp(mp.mpf(z)))
        size = 1 if t == 0.5 else abs(y - t)  # at t = 1/2 the difference does cancel, around z = 0
        assert_near(result.loss, (y - t) ** 2 / 2, 10 * abs(y - t) * size, ("loss", z, t))
        assert_near(result.grad[0, 0], (y - t) * slope, 10 * size * slope, ("grad", z, t))


def test_poisson_deviance_has_all_digits(mp):
    """Relative to the sum of its terms, and of their parts; the definition is t ln(t/μ) - t + μ."""
    for z, t in itertools.product((-300.0, -5.0, 0.0, 1.0, 5.0, 300.0), (0.0, 1e-5, 0.5, 3.0, 1e5)):
        result = evaluate("poisson_deviance", np.array([[z]]), np.array([[t]]))
        mu = mp.exp(mp.mpf(z))
        log_t = mp.log(mp.mpf(t)) if t else mp.mpf(0)
        loss = mp.mpf(t) * (log_t - mp.mpf(z)) - mp.mpf(t) + mu
        assert_near(result.loss, loss, 4 * (mu + t * (1 + abs(log_t) + abs(z))), ("loss", z, t))
        assert_near(result.grad[0, 0], mu - t, 4 * (mu + t), ("grad", z, t))


ACTIVATION_LOGITS = (
    -1e4,
    -700.0,
    -40.0,
    -9.0,
    -3.0,
    -1.0,
    -1e-3,
    -1e-20,
    0.0,
    1e-20,
    1e-3,
    1.0,
    3.0,
    9.0,
    40.0,
    700.0,
    1e4,
)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "silu", "softplus"])
def test_activation_has_all_digits(name, mp):
    """Within 4 eps of itself in both tails; gelu within x² eps more on the left, where erfc magnifies."""
    for x in map(mp.mpf, ACTIVATION_LOGITS):
        e = mp.exp(-abs(x))
        sigmoid = 1 / (1 + e) if x > 0 else e / (1 + e)
        exact = {
            "sigmoid": lambda: sigmoid,  # noqa: B023
            "tanh": lambda: mp.tanh(x),  # noqa: B023
            "gelu": lambda: x * mp.erfc(-x / mp.sqrt(2)) / 2,  # noqa: B023
            "silu": lambda: x * sigmoid,  # noqa: B023
            "softplus": lambda: max(x, 0) + mp.log1p(e),  # noqa: B023
        }[name]()
        allowed = 4 + (x**2 if name == "gelu" and x < 0 else 0)
        assert_near(
            activation(name, np.array([[float(x)]]))[0, 0], exact, allowed * abs(exact), (name, float(x))
        )


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
    more = {"softmax_cross_entropy": (None, targets, None, None, -100, 0.0, 0.0, 0.0)}
    more["sigmoid_cross_entropy"] = (targets, None, None, 0.0)
    getattr(twin, loss)(z, *more.get(loss, (targets, None)), True, None, z, 1)
    assert z.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmax", "log_softmax"])
def test_activation_in_place(name):
    x = X.copy()
    getattr(twin, name)(x, x, 1)
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
        "sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, INF), "leaky_relu": (-INF, INF), "gelu": (0, INF),
        "silu": (0, INF), "softplus": (0, INF),
    }  # fmt: skip
    slopes = {
        "sigmoid": (0, 0), "tanh": (0, 0), "relu": (0, 1), "leaky_relu": (dtype(0.01), 1), "gelu": (0, 1),
        "silu": (0, 1), "softplus": (0, 1),
    }  # fmt: skip
    for name in ACTIVATIONS:
        y = activation(name, x)
        assert y.dtype == dtype
        assert tuple(y[0, :2]) == limits[name], name
        slope = backward(name, np.ones_like(x), x if name in OF_INPUT else y)
        assert slope.dtype == dtype
        assert tuple(slope[0, :2]) == slopes[name], name
        assert np.isnan(y[0, 2])
        assert np.isnan(slope[0, 2])


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


# --------------------------------------------------------------------------------------------------- training


class Plain:
    """What `train` needs of an optimizer: sgd with momentum, or adam."""

    def __init__(self, name, settings, state=()):
        self.name, self.settings, self.arrays, self.steps = name, settings, state, 0

    def hyper_parameters(self):
        return self.settings

    def state(self, parameters):
        return self.arrays


def small_network():
    parameters = generator(10).normal(0, 0.5, 3 * 4 + 4 + 4 * 2 + 2)
    x, labels = generator(11).normal(size=(7, 3)), np.array([0, 1, 0, 1, 1, 0, 1])
    return twin.Network((3, 4, 2), "tanh", "softmax_cross_entropy", parameters, 1), x, labels


def test_train_without_an_order_takes_the_rows_as_they_stand():
    results = []
    for order in (None, np.arange(7)):
        network, x, labels = small_network()
        results.append(network.train(x, labels, order, 3, Plain("sgd", (0.1, 0.0, 0.0, 0.0)), None))
        results.append(network.parameters.tobytes())
    assert results[:2] == results[2:]


@pytest.mark.parametrize("name", ["sgd", "sgd with momentum", "adam"])
def test_train_is_gradient_and_update_batch_by_batch(name):
    network, x, labels = small_network()
    order = np.array([6, 0, 3, 5, 1, 2, 4])
    w, g = network.parameters.copy(), np.empty_like(network.parameters)
    state = () if name == "sgd" else tuple(np.zeros_like(w) for _ in range(2 if name == "adam" else 1))
    settings = (0.1, 0.9, 0.999, 1e-8, 0.01) if name == "adam" else (0.1, 0.9 if state else 0.0, 0.0, 0.01)
    optimizer = Plain(name.split()[0], settings, tuple(array.copy() for array in state))
    mean, batches, failure = network.train(x, labels, order, 3, optimizer, None)

    by_hand = twin.Network(network.layer_sizes, "tanh", "softmax_cross_entropy", w, 1)
    total = 0.0
    for step, rows in enumerate(([6, 0, 3], [5, 1, 2], [4]), start=1):
        total += len(rows) * by_hand.gradient(x[rows], labels[rows], g)
        if name == "adam":
            twin.adam_update(w, g, *state, step, *settings, 1)
        else:
            twin.sgd_update(w, g, state[0] if state else None, *settings, 1)
    assert (batches, failure, optimizer.steps) == (3, "", 3)
    assert mean == pytest.approx(total / 7, rel=4 * EPS)
    assert network.parameters.tobytes() == w.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(optimizer.arrays, state, strict=True))


@pytest.mark.parametrize(
    ("bad_x", "bad_t", "learning_rate", "expected"),
    [
        (NAN, 1.0, 0.1, "loss"),
        (1.0, 1e30, 0.1, "loss"),  # its square overflows in float32
        (3e38, 1e3, 0.1, "gradient"),  # x δ overflows
        (1e30, 1e6, 1e3, "gradient"),  # x δ is 1e36, the step 1e39 overflows
    ],
)
def test_a_batch_that_fails_changes_nothing(bad_x, bad_t, learning_rate, expected):
    # y = w x + b with w = b = 0; the first two examples have x = 0 and leave w alone
    x = np.array([[0.0], [0.0], [bad_x], [0.0]], np.float32)
    t = np.array([[1.0], [2.0], [bad_t], [1.0]], np.float32)

    def train(order):
        parameters, velocity = np.zeros(2, np.float32), np.zeros(2, np.float32)
        optimizer = Plain("sgd", (learning_rate, 0.9, 0.0, 0.0), (velocity,))
        network = twin.Network((1, 1), "identity", "squared_error", parameters, 1)
        return network.train(x, t, np.array(order), 1, optimizer, None), parameters, velocity, optimizer.steps

    (mean, batches, failure), *after = train([0, 1, 2, 3])
    (good_mean, good_batches, nothing), *good = train([0, 1])
    assert (mean, batches, failure) == (good_mean, 2, expected)
    assert (good_batches, nothing) == (2, "")
    assert [np.asarray(a).tobytes() for a in after] == [np.asarray(a).tobytes() for a in good]
    assert good[0][1] != 0.0


def test_a_second_moment_that_overflows_changes_nothing():
    """Adam's step would be finite, m̂/sqrt(inf) = 0, but the network would never learn again."""
    parameters, m, v = (np.zeros(2, np.float32) for _ in range(3))
    network = twin.Network((1, 1), "identity", "squared_error", parameters, 1)
    x, t = np.array([[1e25]], np.float32), np.array([[1.0]], np.float32)
    optimizer = Plain("adam", (0.1, 0.9, 0.999, 1e-8, 0.0), (m, v))
    assert network.train(x, t, np.array([0]), 1, optimizer, None)[1:] == (0, "gradient")
    assert not np.concatenate([parameters, m, v]).any()
    assert optimizer.steps == 0


def test_train_reports(monkeypatch):
    network, x, labels = small_network()
    monkeypatch.setattr(twin.Network, "REPORT_SECONDS", 0.0)
    seen = []
    mean, batches, _ = network.train(
        x, labels, np.arange(7), 2, Plain("sgd", (0.1, 0.0, 0.0, 0.0)), lambda *report: seen.append(report)
    )
    assert [done for done, _ in seen] == [1, 2, 3, 4]
    assert seen[-1] == (batches, mean)


def test_train_on_no_example():
    network, x, labels = small_network()
    mean, batches, failure = network.train(
        x, labels, np.empty(0, np.int64), 2, Plain("sgd", (0.1, 0.0, 0.0, 0.0)), None
    )
    assert np.isnan(mean)
    assert (batches, failure) == (0, "")
