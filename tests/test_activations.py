"""The activations, the softmax family and their backward forms, against the exact values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pairs
import pytest
from conftest import (
    SHAPES,
    THINNED,
    WIDTHS,
    Out,
    Problem,
    assert_near,
    check,
    check_threads,
    every_pair,
    generator,
    solve,
)
from tolerances import ACTIVATIONS, ALPHA, FROM_INPUT, LAMBDA

import fastbp
from fastbp import _backend, _reference

INF, NAN = np.inf, np.nan
SOFTMAX_FAMILY = ("softmax", "log_softmax", "logsumexp")

# -- problems ------------------------------------------------------------------------------------------------------------------


def ordinary(rng, shape):
    return 4 * rng.standard_normal(shape)


def peaked(rng, shape):
    return 60 * rng.standard_normal(shape)


def shifted(rng, shape):
    return 1e4 + ordinary(rng, shape)


def with_minus_infinity(rng, shape):
    return np.where(rng.random(shape) < 0.3, -INF, ordinary(rng, shape))


def of_every_magnitude(rng, shape):
    """Powers of 2 from 2**-60 to 2**7: the neighbourhood of 0, where tanh is x and softplus' slope is not 1/2, and both tails."""
    return np.exp2(rng.uniform(-60, 7, shape)) * rng.choice([-1, 1], shape)


REGIMES = {f.__name__: f for f in (ordinary, peaked, shifted, with_minus_infinity, of_every_magnitude)}


def forward(name, x):
    arguments = {"x": x, "out": Out(x.shape[:1]) if name == "logsumexp" else Out(x.shape)}
    if name in ACTIVATIONS:
        return Problem("activate", x.dtype.type, {"name": name, **arguments}, ("out", "x"))
    return Problem(name, x.dtype.type, arguments, None if name == "logsumexp" else ("out", "x"))


def backward(name, grad, x):
    """Of the values at x: what comes back through an activation, or through softmax."""
    y = x.copy()
    if name == "softmax":
        _reference.softmax(np.where(np.isfinite(x), x, 0), y, 1)
        return Problem(
            "softmax_backward", x.dtype.type, {"grad": grad, "y": y, "out": Out(x.shape)}, ("out", "grad")
        )
    if name not in FROM_INPUT:
        _reference.activate(name, x, y, 1)
    arguments = {"name": name, "grad": grad, "a": x if name in FROM_INPUT else y, "out": Out(x.shape)}
    return Problem("activation_backward", x.dtype.type, arguments, ("out", "grad"))


def both_ways(name, rng, x):
    """The forward and the backward problem of one activation, or of one of the softmax family, at the values x."""
    if name not in SOFTMAX_FAMILY[1:]:
        yield backward(name, rng.standard_normal(x.shape).astype(x.dtype), x)
    yield forward(name, x)


NAMES = [*ACTIVATIONS, *SOFTMAX_FAMILY]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


# -- facts ---------------------------------------------------------------------------------------------------------------------


def test_both_backends_have_the_same_facts():
    """The rows of src_c/activations.def, or of the twin: the same numbers, in the same order."""
    facts = _backend.kernels.activation_facts()
    assert list(facts.items()) == list(_reference.activation_facts().items())
    assert facts == {name: tuple(row) for name, row in fastbp.activations.ACTIVATIONS.items()}
    assert sorted(facts) == sorted(ACTIVATIONS)
    assert [name for name, (slope_of_input, _, _) in facts.items() if slope_of_input] == [*FROM_INPUT]


@pytest.mark.parametrize("name", ACTIVATIONS, indirect=True)
def test_outputs_are_within_their_bound(name):
    """And come near it, or go far where there is none."""
    size = np.abs(getattr(fastbp, name)(np.linspace(-1e4, 1e4, 1001))).max()
    bound = fastbp.activations.ACTIVATIONS[name].bound
    assert 0.99 * bound <= size <= bound if np.isfinite(bound) else size > 99


# -- against the exact values --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def problems_of_every_shape(name, dtype):
    """Two regimes of each shape, the next shape in the next two."""
    problems = []
    for number, shape in enumerate(SHAPES, NAMES.index(name) + 2 * (dtype is np.float64)):
        for regime in pairs.in_turn([*REGIMES], number, 2):
            rng = generator(name, regime, shape)
            problems += both_ways(name, rng, REGIMES[regime](rng, shape).astype(dtype))
    return problems


@THINNED
def test_every_shape(dtype, name, engine):
    for each in problems_of_every_shape(name, dtype):
        check(engine, each)


@lru_cache(maxsize=1)
def problems_of_every_bit(name, dtype):
    """Floating-point numbers drawn by their bits: subnormal, huge, infinite, NaN; and those next to the interesting ones."""
    rng = generator(name, "bits")
    bits = np.uint32 if dtype is np.float32 else np.uint64
    drawn = rng.integers(0, np.iinfo(bits).max, 20_000, bits, endpoint=True).view(dtype)
    limits = np.finfo(dtype)
    marks = [0, 0.75, 1, 5, 9, 13, 15, 37, 40, 88, 104, 710, 746]
    marks += [limits.tiny, limits.eps, limits.max, INF, NAN]
    marks = np.array([*marks, *np.negative(marks)], dtype)
    with np.errstate(over="ignore"):
        x = np.concatenate([drawn, marks, np.nextafter(marks, dtype(INF)), np.nextafter(marks, dtype(-INF))])
    # so that x² and 100 x are finite for the oracle; the limits are tested below
    x[np.abs(x) > np.sqrt(limits.max)] *= dtype(1e-3)
    return [*both_ways(name, rng, x[None, :])]


@pytest.mark.parametrize("name", ACTIVATIONS, indirect=True)
def test_every_kind_of_number(dtype, name, engine):
    for each in problems_of_every_bit(name, dtype):
        check(engine, each)


@every_pair("isa", "dtype", name=NAMES, shape=[(701, 129), (19, 5003)])
def test_threads(dtype, name, isa, shape):
    rng = generator(name, shape)
    for each in both_ways(name, rng, ordinary(rng, shape).astype(dtype)):
        check_threads(_backend.kernels, each)


@pytest.mark.parametrize("name", ACTIVATIONS, indirect=True)
def test_tail_is_like_the_body(dtype, name, engine):
    """A number has one image, in every lane of a vector and in what is left over at its end."""
    for width in WIDTHS:
        for value in (-3.3, -0.1, 0.0, 0.2, 2.7, 70.0):
            x = np.full((1, width), value, dtype)
            grad = np.full((1, width), 0.3, dtype)
            for each in (backward(name, grad, x), forward(name, x)):
                assert len(set(solve(engine, each).out[0])) == 1, f"{value} of {each}"


def test_equal_entries_of_a_row(dtype, engine):
    """Entries of a row that are equal have equal images."""
    for width in WIDTHS:
        kinds = generator("equal", width).integers(0, 3, (4, width))
        x, grad = (7.3 * kinds).astype(dtype), (0.7 * kinds).astype(dtype)
        for each in (forward("softmax", x), forward("log_softmax", x), backward("softmax", grad, x)):
            for row, kind in zip(solve(engine, each).out, kinds, strict=True):
                assert all(len(set(row[kind == k])) <= 1 for k in range(3)), str(each)


def test_rows_are_independent(dtype, name, engine):
    for width in WIDTHS:
        rng = generator(name, width)
        for whole in both_ways(name, rng, ordinary(rng, (5, width)).astype(dtype)):
            row = {k: v[3:4] for k, v in whole.arguments.items() if isinstance(v, np.ndarray)}
            alone = whole.changed(**row, out=Out((1, *whole.arguments["out"].shape[1:])))
            assert solve(engine, alone).out.tobytes() == solve(engine, whole).out[3:4].tobytes(), str(whole)


def test_shift_changes_nothing(dtype, engine):
    most = 1e5 if dtype is np.float32 else 1e12
    for width in (2, 10, 33, 1003):
        x = np.round(64 * generator("shift", width).standard_normal((3, width))).astype(dtype) / 8
        for shift in (1, -7, -4096, most):
            moved = (x + dtype(shift)).astype(dtype)
            for family in SOFTMAX_FAMILY[:2]:
                before, after = (solve(engine, forward(family, each)).out for each in (x, moved))
                assert before.tobytes() == after.tobytes(), (family, width, shift)


# -- limits --------------------------------------------------------------------------------------------------------------------

LIMITS = {  # name: (f(-inf), f(inf), slope at -inf, slope at inf)
    "identity": (-INF, INF, 1, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "relu": (0, INF, 0, 1),
    "leaky_relu": (-INF, INF, 0.01, 1),
    "elu": (-1, INF, 0, 1),
    "selu": (-LAMBDA * ALPHA, INF, 0, LAMBDA),
    "gelu": (0, INF, 0, 1),
    "silu": (0, INF, 0, 1),
    "mish": (0, INF, 0, 1),
    "softplus": (0, INF, 0, 1),
}


@pytest.mark.parametrize("name", LIMITS, indirect=True)
def test_limits(dtype, name, engine):
    """At the infinities and at the largest numbers; a NaN stays one, and stays where it is."""
    low, high, low_slope, high_slope = LIMITS[name]
    for far in (INF, np.finfo(dtype).max):
        for width in (1, 9, 40):
            x = np.tile(np.array([-far, far, NAN], dtype), width)
            y = getattr(fastbp, name)(x).reshape(width, 3)
            a = x if name in FROM_INPUT else y.ravel()
            slope = fastbp.activation_backward(name, np.ones_like(x), a).reshape(width, 3)
            bounded = [np.clip(limit, -far, far) if np.isinf(limit) else limit for limit in (low, high)]
            if name == "leaky_relu":
                bounded[0] = dtype(0.01) * dtype(-far)
            if name == "selu":
                bounded[1] = INF  # λ times the largest number as well
            assert (y[:, :2] == np.array(bounded, dtype)).all(), (far, y[0])
            assert (slope[:, :2] == np.array([low_slope, high_slope], dtype)).all(), (far, slope[0])
            assert np.isnan(y[:, 2]).all() and (name == "identity" or np.isnan(slope[:, 2]).all())


ROWS_WITHOUT_A_SOFTMAX = {  # row: its logsumexp
    (NAN, 0.0, 1.0): NAN,
    (0.0, 1.0, NAN): NAN,
    (INF, 0.0, -INF): INF,
    (INF, INF, 0.0): INF,
    (-INF, -INF, -INF): -INF,
    (NAN, -INF, -INF): NAN,
    (INF, 0.0, NAN): NAN,
}


@pytest.mark.parametrize("row", ROWS_WITHOUT_A_SOFTMAX)
def test_rows_without_a_softmax(dtype, engine, row):
    for repeat in (1, 13):
        x = ordinary(generator("rows"), (3, 3 * repeat)).astype(dtype)
        clean = {family: getattr(fastbp, family)(x) for family in SOFTMAX_FAMILY}
        x[1] = np.repeat(row, repeat)
        for family, before in clean.items():
            after = getattr(fastbp, family)(x)
            want = np.full_like(after[1], ROWS_WITHOUT_A_SOFTMAX[row] if family == "logsumexp" else NAN)
            assert after[[0, 2]].tobytes() == before[[0, 2]].tobytes()
            assert np.array_equal(after[1], want, equal_nan=True)


def test_minus_infinity_in_a_row(dtype, engine):
    x = np.array([[0, -INF, 0]], dtype)
    assert fastbp.softmax(x).tolist() == [[0.5, 0, 0.5]]
    assert_near(fastbp.log_softmax(x), [[-np.log(2), -INF, -np.log(2)]])
    assert_near(fastbp.logsumexp(x), [np.log(2)])


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_any_number_of_axes(dtype, name, engine):
    """A vector, a stack of matrices, nothing at all: the last axis is that of a row."""
    x = ordinary(generator(name), (3, 4, 10)).astype(dtype)
    function = getattr(fastbp, name)
    want = function(x)
    assert want.dtype == dtype and want.shape == (x.shape[:-1] if name == "logsumexp" else x.shape)
    for part in (np.s_[0], np.s_[0, 0], np.s_[:, 1], np.s_[::-1, ::2], np.s_[:0], np.s_[:, :0]):
        got = function(x[part])
        assert got.shape == want[part].shape and got.tobytes() == want[part].tobytes()
    nothing = function(x[..., :0])
    assert (nothing == -INF).all() if name == "logsumexp" else nothing.shape == (3, 4, 0)
