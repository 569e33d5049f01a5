"""The NumPy twin at extreme logits: errors and gradients agree with their *definitions* (probabilities and their logarithms),
evaluated by mpmath with enough digits that nothing cancels there.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from twin_calls import EPS, TINY, activation, evaluate, generator

from fastbp import _reference as twin

pytestmark = pytest.mark.usefixtures("no_warnings")


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


def selu_constants(mp):
    """λ and α, Klambauer et al. 2017: the fixed point of mean 0 and variance 1."""
    tail, far, root = mp.erfc(1 / mp.sqrt(2)), mp.erfc(mp.sqrt(2)), mp.exp(mp.mpf(1) / 2)
    alpha = mp.sqrt(2 / mp.pi) / (1 - tail * root)
    square = 2 * far * mp.e**2 + mp.pi * tail**2 * mp.e - 2 * (2 + mp.pi) * tail * root + mp.pi + 2
    return (1 - tail * root) * mp.sqrt(2 * mp.pi / square), alpha


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "elu", "selu", "gelu", "silu", "mish", "softplus"])
def test_activation_has_all_digits(name, mp):
    """Within 4 eps of itself in both tails; gelu within x² eps more on the left, where erfc magnifies."""
    selu_scale, selu_alpha = selu_constants(mp)
    for x in map(mp.mpf, ACTIVATION_LOGITS):
        e = mp.exp(-abs(x))
        sigmoid = 1 / (1 + e) if x > 0 else e / (1 + e)
        exact = {
            "sigmoid": lambda: sigmoid,  # noqa: B023
            "tanh": lambda: mp.tanh(x),  # noqa: B023
            "elu": lambda: x if x > 0 else mp.expm1(x),  # noqa: B023
            "selu": lambda: selu_scale * (x if x > 0 else selu_alpha * mp.expm1(x)),  # noqa: B023
            "gelu": lambda: x * mp.erfc(-x / mp.sqrt(2)) / 2,  # noqa: B023
            "silu": lambda: x * sigmoid,  # noqa: B023
            "mish": lambda: x * mp.tanh(max(x, 0) + mp.log1p(e)),  # noqa: B023
            "softplus": lambda: max(x, 0) + mp.log1p(e),  # noqa: B023
        }[name]()
        allowed = 4 + (x**2 if name == "gelu" and x < 0 else 0)
        assert_near(
            activation(name, np.array([[float(x)]]))[0, 0], exact, allowed * abs(exact), (name, float(x))
        )
