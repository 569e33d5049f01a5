"""The cross-entropies in float64 at extremes, judged by mpmath from their definitions: on every instruction set, and on the twin.

Probabilities and their logarithms are formed as a textbook forms them, with so many digits that nothing cancels there. What is
promised is relative to each number itself, however small: see LAST_DIGITS in tolerances.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from conftest import generator
from tolerances import LAST_DIGITS, UNDERFLOW

import fastbp

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp

DIGITS = 370  # 1 - y and ln y keep 50 where float64 can show them
FLOAT64 = np.finfo(np.float64)


class Exact(NamedTuple):
    """A number to 50 digits, rounded to float64 and what was lost; and how many eps of which size are allowed."""

    high: float
    low: float
    allowed: float


def exact(value, coefficient, size):
    high = float(value)
    allowed = coefficient * float(FLOAT64.eps) * float(size) + UNDERFLOW * float(FLOAT64.smallest_subnormal)
    return Exact(high, float(value - mp.mpf(high)), allowed)


def assert_within(got, wanted, where):
    """Each entry of `got` against an Exact, and the largest error in what is allowed printed where one is beyond it."""
    high, low, allowed = np.array(wanted).reshape(*got.shape, 3).transpose(-1, *range(got.ndim))
    excess = np.abs((got - high) - low) / allowed
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert (excess <= 1).all(), (
        f"{where}: {got[worst]!r} at {worst}, exactly {high[worst]!r}: {excess[worst]:.3g} times too far"
    )


# -- softmax -------------------------------------------------------------------------------------------------------------------


def rows_of(width):
    """Logits (N, width): ordinary, peaked, far apart, tied, near-tied, shifted, with one that leads by little or by much."""
    rng = generator("many digits", width)
    for scale in (0.1, 1.0, 10.0, 40.0, 300.0, 1e4):
        yield rng.uniform(-scale, scale, width)
    yield np.zeros(width)
    yield np.where(np.arange(width) < 2, 1e4, -1e4)
    yield np.where(np.arange(width) == width - 1, np.nextafter(1e4, 0), 1e4)
    for lead in (0.5, 8.0, 20.0, 36.7, 60.0, 700.0):
        z = rng.standard_normal(width)
        z[rng.integers(width)] = z.max() + lead
        yield z
        yield z - 1e4


def targets_of(width):
    """Every class for certain and all but certain; soft rows; a row that sums to 5, and one of nothing."""
    rng = generator("targets", width)
    some = rng.choice(width, min(width, 4), replace=False)
    yield from np.eye(width)[some]
    for doubt in (0.25, 1e-9, 1e-15):
        t = np.full(width, doubt / max(width - 1, 1))
        t[some[0]] = 1 - doubt
        yield t
    soft = rng.random(width) ** 4 * (rng.random(width) < 0.6)
    yield soft / max(soft.sum(), 1e-3)
    yield 5 * soft
    yield np.zeros(width)


@lru_cache
def softmax_cases(width):
    """Logits (N, C) and targets (N, C) in every pair, their exact errors (N,) and deltas (N, C).

    The error of an example with targets t >= 0 is within LAST_DIGITS + the gap from the largest to the second largest logit. A
    delta y_j T - t_j is within LAST_DIGITS + (m - z_j) of its terms: of itself for a class index, where one of them is 0 or
    y_j <= 1/2.
    So at the largest logit, where the delta of a certain target is -rest/(1 + rest), it is LAST_DIGITS, though `rest` is tiny.
    A row that is no class index sums its C targets: half an eps for each addition, and one for each product.
    """
    logits, targets, errors, deltas = [], [], [], []
    with mpmath.workdps(DIGITS):
        for z in rows_of(width):
            powers = [mp.exp(mp.mpf(float(x))) for x in z]
            total = mp.fsum(powers)
            y = [power / total for power in powers]
            log_y = [mp.log(each) for each in y]
            top, m = int(z.argmax()), z.max()
            gap = m - np.partition(z, -2)[-2] if width > 1 else 0.0
            for t in targets_of(width):
                exact_t = [mp.mpf(float(x)) for x in t]
                t_sum = mp.fsum(exact_t)
                certain = sorted(t)[-1] == t.sum() == 1
                sums = 0 if certain else 1 + width / 2
                error = -mp.fsum(u * log for u, log in zip(exact_t, log_y, strict=True))
                errors.append(exact(error, LAST_DIGITS + gap + sums, error))
                for j in range(width):
                    delta = y[j] * t_sum - exact_t[j]
                    if j == top:  # (1 - y) t and y Σ of the others: neither is formed from y close to 1
                        others = mp.fsum(exact_t[:j] + exact_t[j + 1 :])
                        not_y = mp.fsum(y[:j] + y[j + 1 :])
                        size = abs(delta) if certain else y[j] * others + exact_t[j] * not_y
                        deltas.append(exact(delta, LAST_DIGITS + sums, size))
                    else:
                        size = abs(delta) if certain else y[j] * t_sum + exact_t[j]
                        deltas.append(exact(delta, LAST_DIGITS + (m - z[j]) + sums, size))
                logits.append(z)
                targets.append(t)
    return np.array(logits), np.array(targets), np.array(errors), np.array(deltas).reshape(-1, width, 3)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 10, 19])
def test_softmax_cross_entropy_keeps_its_last_digits(engine, width):
    logits, targets, errors, deltas = softmax_cases(width)
    answer = fastbp.softmax_cross_entropy(logits, targets, reduction="none")
    assert_within(answer.loss, errors, "error")
    assert_within(answer.grad, deltas, "delta")

    certain = (targets.max(axis=1) == 1) & (np.count_nonzero(targets, axis=1) == 1)
    labels = targets[certain].argmax(axis=1)
    answer = fastbp.softmax_cross_entropy(logits[certain], labels, reduction="none")
    assert_within(answer.loss, errors[certain], "error of an index")
    assert_within(answer.grad, deltas[certain], "delta of an index")


def test_a_sum_over_examples_keeps_its_last_digits(engine):
    """Errors of 1e-304 to 1e4, none of which hides in another's rounding: each is given alone, and their sum is rounded once."""
    logits, targets, errors, _ = softmax_cases(3)
    answer = fastbp.softmax_cross_entropy(logits, targets, reduction="sum")
    with mpmath.workdps(DIGITS):
        total = mp.fsum(mp.mpf(high) + mp.mpf(low) for high, low, _ in errors)
        miss = abs(float(total - mp.mpf(float(answer.loss))))
    assert miss <= errors[:, 2].sum() + FLOAT64.eps * answer.loss


# -- logistic outputs ----------------------------------------------------------------------------------------------------------

LOGITS = (
    0.0,
    5e-324,
    1e-300,
    1e-20,
    1e-9,
    0.1,
    1.0,
    3.3,
    20.0,
    36.04,
    36.8,
    40.0,
    300.0,
    708.3,
    745.0,
    1e4,
    1e300,
)
TARGETS = (0.0, 1.0, 0.5, 0.3, 1e-12, 1 - 1e-12)


@lru_cache
def sigmoid_cases(p):
    """Logits (N, 1), targets (N, 1), errors (N,), deltas (N, 1): within LAST_DIGITS of the sum of their terms, of which there is
    one where the target is 0 or 1.
    """
    logits, targets, errors, deltas = [], [], [], []
    with mpmath.workdps(DIGITS):
        for z, t in ((s * z, t) for z in LOGITS for s in (1, -1) for t in TARGETS):
            e = mp.exp(-abs(mp.mpf(z)))
            unlikely, likely = e / (1 + e), 1 / (1 + e)
            y, not_y = (likely, unlikely) if z > 0 else (unlikely, likely)
            yes, no = mp.mpf(p) * mp.mpf(t), 1 - mp.mpf(t)
            if abs(z) < 300:  # by the definition
                error = -yes * mp.log(y) - no * mp.log(not_y)
            else:
                error = yes * (mp.log1p(e) + max(-mp.mpf(z), 0)) + no * (mp.log1p(e) + max(mp.mpf(z), 0))
            errors.append(exact(error, LAST_DIGITS, error))
            # on the side of z > 0 y rounds to 1, and A y - B (1 - y) = A - (A + B)(1 - y); mirrored on the other
            wrong = no if z > 0 else yes
            delta = no * y - yes * not_y
            size = abs(delta) if t in (0, 1) else wrong + (yes + no) * unlikely
            deltas.append(exact(delta, LAST_DIGITS, size))
            logits.append([z])
            targets.append([t])
    return np.array(logits), np.array(targets), np.array(errors), np.array(deltas)


@pytest.mark.parametrize("p", [1.0, 10.0, 0.3])
def test_sigmoid_cross_entropy_keeps_its_last_digits(engine, p):
    logits, targets, errors, deltas = sigmoid_cases(p)
    answer = fastbp.sigmoid_cross_entropy(logits, targets, pos_weight=p, reduction="none")
    assert_within(answer.loss, errors, "error")
    assert_within(answer.grad, deltas, "delta")
    # the same as outputs of one example: in the body and in the tail of a vector
    row = fastbp.sigmoid_cross_entropy(logits.T.copy(), targets.T.copy(), pos_weight=p, reduction="none")
    assert_within(row.grad.T, deltas, "delta in a row")
