"""The matrix products of a layer, with what is fused into them, against the exact values."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    Out,
    Problem,
    assert_same_bits,
    check,
    check_threads,
    generator,
    solve,
)
from tolerances import ACTIVATIONS, FROM_INPUT, product_of

import fastbp
from fastbp import _backend, _reference

SIZES = (  # (N, I, O): round the tiles of every instruction set, their blocks of depth, and far from square
    [(1, 1, 1), (1, 7, 1), (7, 1, 3), (2, 3, 0), (0, 3, 2), (3, 0, 2)]
    + [(n, n + 1, 2 * n - 1) for n in (2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 24, 31, 33)]
    + [
        (31, 63, 64),
        (64, 64, 65),
        (65, 127, 31),
        (33, 128, 129),
        (17, 129, 128),
        (4, 255, 33),
        (15, 256, 47),
        (29, 257, 16),
    ]
    + [(1, 1003, 10), (10, 1, 1003), (1003, 5, 1), (2, 2, 5000), (5000, 2, 2), (3, 5000, 2), (13, 1031, 97)]
    + [(300, 290, 40), (40, 70, 1061)]
)
IN_PIECES = [(131, 162, 195), (130, 545, 150), (520, 90, 161)]
"""So large that all three products go in pieces of their numbers, where an instruction set has that."""


# -- problems ------------------------------------------------------------------------------------------------------------------


def forward(rng, size, dtype, activation="identity", bias=True):
    n, i, o = size
    arguments = {
        "x": rng.standard_normal((n, i)).astype(dtype),
        "weight": (3 * rng.standard_normal((i, o)) / max(i, 1) ** 0.5).astype(dtype),
        "bias": rng.standard_normal(o).astype(dtype) if bias else None,
        "activation": activation,
        "out": Out((n, o)),
    }
    return Problem("linear", dtype, arguments)


def backward_input(rng, size, dtype, activation="identity"):
    n, i, o = size
    z = (2 * rng.standard_normal((n, i))).astype(dtype)
    a = z.copy()
    if activation not in FROM_INPUT:
        _reference.activate(activation, z, a, 1)
    arguments = {
        "delta": rng.standard_normal((n, o)).astype(dtype),
        "weight": rng.standard_normal((i, o)).astype(dtype),
        "activation": activation,
        "a": None if activation == "identity" else a,
        "out": Out((n, i)),
    }
    return Problem("linear_backward_input", dtype, arguments)


def backward_weight(rng, size, dtype):
    n, i, o = size
    arguments = {
        "a_prev": rng.standard_normal((n, i)).astype(dtype),
        "delta": rng.standard_normal((n, o)).astype(dtype),
        "out": Out((i, o)),
        "bias_out": Out((o,)),
    }
    return Problem("linear_backward_weight", dtype, arguments)


def each_of(rng, size, dtype, activation="identity"):
    return [
        forward(rng, size, dtype, activation, bias=True),
        backward_input(rng, size, dtype, activation),
        backward_weight(rng, size, dtype),
    ]


@lru_cache(maxsize=1)
def problems_of_every_size(dtype):
    problems = []
    for number, size in enumerate(SIZES + IN_PIECES):
        rng = generator(size)
        problems += each_of(rng, size, dtype, ACTIVATIONS[number % len(ACTIVATIONS)])
        problems.append(forward(rng, size, dtype, bias=False))
    return problems


@lru_cache(maxsize=1)
def problems_of_every_activation(dtype, activation):
    small, large = (
        each_of(generator(size), size, dtype, activation)[:2] for size in ((5, 9, 7), (17, 33, 40))
    )
    return small + large


# -- against the exact values --------------------------------------------------------------------------------------------------


def test_every_size(dtype, engine):
    for each in problems_of_every_size(dtype):
        check(engine, each)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(dtype, activation, isa):
    for each in problems_of_every_activation(dtype, activation):
        check(_backend.kernels, each)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_epilogue_is_the_activation(dtype, activation, isa):
    """What is fused into a product gives the bits of the function that is called by itself."""
    kernels = _backend.kernels
    for size in ((1, 3, 5), (9, 20, 33), (40, 130, 70)):
        rng = generator(size)
        fused = forward(rng, size, dtype, activation)
        z = solve(kernels, fused.changed(activation="identity")).out
        kernels.activate(activation, z, z, 1)
        assert solve(kernels, fused).out.tobytes() == z.tobytes(), str(fused)

        fused = backward_input(rng, size, dtype, activation)
        grad = solve(kernels, fused.changed(activation="identity", a=None)).out
        if activation != "identity":  # which takes no `a`
            kernels.activation_backward(activation, grad, fused.arguments["a"], grad, 1)
        assert solve(kernels, fused).out.tobytes() == grad.tobytes(), str(fused)


@pytest.mark.parametrize("size", [(257, 300, 129), (5, 701, 1301), (5003, 131, 7), (3, 131, 11_501)])
def test_threads(dtype, size, isa):
    for each in each_of(generator(size), size, dtype, "sigmoid"):
        check_threads(_backend.kernels, each)


def test_rows_are_independent(dtype, isa):
    """An example has the same outputs and deltas, to the bit, alone and among others."""
    for size in SIZES:
        n, row = size[0], size[0] // 2
        for whole in each_of(generator(size), size, dtype, "tanh")[:2] if n else ():
            rows = {k: whole.arguments[k][row : row + 1] for k in ("x", "delta", "a") if k in whole.arguments}
            alone = whole.changed(**rows, out=Out((1, whole.arguments["out"].shape[1])))
            both = (solve(_backend.kernels, each).out for each in (alone, whole))
            assert next(both).tobytes() == next(both)[row].tobytes(), str(whole)


def test_columns_are_independent(dtype, isa):
    """So has an output, whatever the number of outputs: the tail of a vector is like its body."""
    for n, i, o in SIZES:
        if o < 2:
            continue
        whole = forward(generator(n, i, o), (n, i, o), dtype, "sigmoid")
        want = solve(_backend.kernels, whole).out
        for column in (0, o // 2, o - 1):
            w, b = whole.arguments["weight"][:, column:], whole.arguments["bias"][column:]
            part = solve(_backend.kernels, whole.changed(weight=w, bias=b, out=Out((n, o - column)))).out
            assert part.tobytes() == want[:, column:].tobytes(), f"from {column} of {whole}"


WEIGHT_LAYOUTS = {
    "transposed": lambda w: w.T.copy().T,
    "every other element": lambda w: np.repeat(np.repeat(w, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda w: w[::-1, ::-1].copy()[::-1, ::-1],
    "columns among many": lambda w: np.pad(w, ((0, 0), (3, 1100)))[:, 3 : 3 + w.shape[1]],
    "transposed, with gaps": lambda w: np.repeat(w.T, 2, axis=1)[:, ::2].T,
}


@pytest.mark.parametrize("layout", WEIGHT_LAYOUTS)
def test_weights_with_any_strides(dtype, layout, isa):
    for size in SIZES:
        rng = generator(size)
        for each in (forward(rng, size, dtype, "tanh"), backward_input(rng, size, dtype, "tanh")):
            given = each.changed(weight=WEIGHT_LAYOUTS[layout](each.arguments["weight"]))
            want, got = solve(_backend.kernels, each), solve(_backend.kernels, given, keep="weight")
            assert_same_bits(want, got, f"from weights {layout} of {each}")


@pytest.mark.parametrize("layout", WEIGHT_LAYOUTS)
def test_large_weights_with_any_strides(dtype, layout, isa):
    """In pieces all three products go the same way whatever the strides; otherwise they are cut and packed by them."""
    for size in IN_PIECES[:2]:
        rng = generator(size)
        for each in (forward(rng, size, dtype, "tanh"), backward_input(rng, size, dtype, "tanh")):
            given = each.changed(weight=WEIGHT_LAYOUTS[layout](each.arguments["weight"]))
            want, got = solve(_backend.kernels, each), solve(_backend.kernels, given, keep="weight")
            assert_same_bits(want, got, f"from weights {layout} of {each}")


def lines_of_every_range(rng, lines, steps, largest):
    """Normal numbers times a power of 2 of each line's own, from far below the normal range to `largest`; some lines 0."""
    powers = rng.permutation(np.linspace(np.log2(np.finfo(np.float32).tiny) - 15, largest, lines).round())
    x = rng.standard_normal((lines, steps)) * 2.0 ** powers[:, None]
    x[:: lines // 5] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("size", [(131, 195, 162), (260, 150, 550)])
def test_lines_of_every_range(size, precision, engine):
    """Rows of 1e-42 to 1e25 by columns of 1e-42 to 1e8: every sum is as exact as its precision, from gradual underflow up."""
    m, n, k = size
    rng = generator(size, "ranges")
    x, w = lines_of_every_range(rng, m, k, 85), lines_of_every_range(rng, n, k, 26).T.copy()
    out = np.empty((m, n), np.float32)
    engine.linear(x, w, None, "identity", out, 1)
    exact, magnitude = (f(x.astype(float)) @ f(w.astype(float)) for f in (np.asarray, np.abs))
    allowed = (
        product_of(k, precision) * np.finfo(np.float32).eps * magnitude
        + k * np.finfo(np.float32).smallest_subnormal
    )
    assert (np.abs(out - exact) <= allowed).all()
    if engine is not _reference:
        again = np.empty((m, n), np.float32)
        for threads in (2, 3):
            engine.linear(x, w, None, "identity", again, threads)
            assert again.tobytes() == out.tobytes()


@pytest.mark.parametrize("size", [(131, 195, 162), (260, 150, 550)])
def test_the_largest_numbers(size, precision, engine):
    """No rounding of an input overflows; where exact sums are beyond the largest number there is inf, of the right sign."""
    m, n, k = size
    rng = generator(size, "largest")
    x, w = np.zeros((m, k), np.float32), rng.uniform(-1, 1, (k, n)).astype(np.float32)
    largest = float(np.finfo(np.float32).max)
    x[:, 3], x[::2, 5] = largest, -largest
    x[1::4, 7] = largest
    out = np.empty((m, n), np.float32)
    with np.errstate(over="ignore"):
        engine.linear(x, w, None, "identity", out, 1)
    exact = x.astype(float) @ w.astype(float)
    safe = np.abs(exact) < 0.999 * largest
    assert 0.5 < safe.mean() < 1
    unit = np.finfo(np.float32).eps * (np.abs(x.astype(float)) @ np.abs(w.astype(float)))
    assert (np.abs(out - exact) <= 3 * unit)[safe].all()
    beyond = np.abs(exact) > 1.001 * largest
    if engine is not _reference:  # NumPy's may overflow in between
        assert (out[beyond] == np.copysign(np.inf, exact[beyond])).all()


def test_sums_that_only_rounded_inputs_overflow(precision, engine):
    """128 products of 2⁶⁰ and 2⁶¹, each a little less, so that no sum is beyond the largest number, but 2⁷ 2⁶⁰ 2⁶¹ is."""
    x = np.full((131, 128), 2.0**60 * (1 - 2.0**-10), np.float32)
    w = np.full((128, 195), 2.0**61 * (1 - 2.0**-10), np.float32)
    out = np.empty((131, 195), np.float32)
    engine.linear(x, w, None, "identity", out, 1)
    exact = x.astype(float) @ w.astype(float)
    assert np.isfinite(exact.astype(np.float32)).all()
    np.testing.assert_allclose(out, exact, rtol=product_of(128, "highest") * np.finfo(np.float32).eps)


def test_not_a_number_of_any_kind(precision, engine):
    """A NaN makes NaN of its row of sums, zeros on the other side included; inf times 0 as well. No other element changes."""
    rng = generator("kinds of NaN")
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((131, 162), (162, 195)))
    x[40:44] = 0
    w[:, 50:53] = 0
    clean, out = (np.empty((131, 195), np.float32) for _ in range(2))
    engine.linear(x, w, None, "identity", clean, 1)
    bits = x.view(np.uint32)
    for row, kind in (
        (0, 0x7FC00000),
        (13, 0x7F800001),
        (14, 0x7FFFFFFF),
        (41, 0xFFFFFFFF),
        (77, 0xFFFF8000),
        (99, 0xFF800123),
    ):
        bits[row, 161 - row] = kind
    x[55, 5] = np.inf
    engine.linear(x, w, None, "identity", out, 1)
    nan = np.isin(np.arange(131), [0, 13, 14, 41, 77, 99])
    assert np.isnan(out[nan]).all() and np.isnan(out[55, 50:53]).all()
    assert (np.delete(out[55], [50, 51, 52]) == np.copysign(np.inf, np.delete(w[5], [50, 51, 52]))).all()
    others = ~nan & (np.arange(131) != 55)
    assert (out[others] == clean[others]).all()


def test_one_row_for_all(dtype, isa):
    """Rows that are no distance apart, as of a broadcast array."""
    rng = generator("broadcast")
    for each in each_of(rng, (9, 20, 17), dtype, "relu"):
        name = next(iter(each.arguments))
        first = each.arguments[name][:1]
        want = solve(_backend.kernels, each.changed(**{name: np.repeat(first, 9, axis=0)}))
        once = np.broadcast_to(first, (9, first.shape[1]))
        got = solve(_backend.kernels, each.changed(**{name: once}), keep=name)
        assert_same_bits(want, got, f"from one row of {each}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(dtype, value, engine):
    for size in ((5, 9, 7), (17, 40, 33), IN_PIECES[0]):
        for activation in ("identity", "relu", "tanh"):
            each = forward(generator(size), size, dtype, activation)
            clean = solve(engine, each).out
            x = each.arguments["x"].copy()
            x[2, -1] = value
            out = solve(engine, each.changed(x=x)).out
            others = np.arange(len(x)) != 2
            assert np.isfinite(out[others]).all() and np.isfinite(clean).all()
            if engine is not _reference:
                assert out[others].tobytes() == clean[others].tobytes()
            if np.isnan(value):
                assert np.isnan(out[2]).all()


LONG = 262_144 + 1000  # terms: more than are added between two looks at pending signals


@lru_cache
def exact_long_sums(dtype):
    """Factors (9, LONG) and (LONG, 3), their product, and that of their magnitudes"""
    rng = generator("long")
    x, w = rng.standard_normal((9, LONG)).astype(dtype), rng.standard_normal((LONG, 3)).astype(dtype)
    return x, w, x.astype(np.longdouble) @ w.astype(np.longdouble), np.abs(x) @ np.abs(w)


@pytest.mark.parametrize("activation", ["identity", "gelu"])
def test_very_long_sums(isa, dtype, activation):
    """They go in parts, on the way from the bias to the activation; on any number of threads the bits are the same."""
    x, w, exact, magnitude = exact_long_sums(dtype)
    b, a = np.array([1, -2, 300], dtype), generator("a").standard_normal((9, 3)).astype(dtype)
    unit = product_of(LONG) * np.finfo(dtype).eps
    kernels = _backend.kernels
    results = []
    for threads in (1, 2, 3):
        out, back, weight, bias = (np.full(shape, np.nan, dtype) for shape in ((9, 3), (9, 3), (9, 3), 3))
        kernels.linear(x, w, b, activation, out, threads)
        kernels.linear_backward_input(x, w.T, activation, a if activation == "gelu" else None, back, threads)
        kernels.linear_backward_weight(np.ascontiguousarray(x.T), w, weight, bias, threads)
        results.append(SimpleNamespace(out=out, back=back, weight=weight, bias=bias))
    for other in results[1:]:
        assert_same_bits(results[0], other, "on more threads")
    y, slope = exact + b, np.ones_like(a)
    if activation == "gelu":
        y = fastbp.gelu(y.astype(np.float64))
        slope = fastbp.activation_backward("gelu", np.ones(a.shape), a.astype(np.float64))
    steepest = 2  # more than any slope of gelu, and what it rounds is less than so many terms
    assert (np.abs(results[0].out - y) <= steepest * unit * magnitude).all()
    assert (np.abs(results[0].back - exact * slope) <= steepest * unit * magnitude).all()
    assert (np.abs(results[0].weight - exact) <= unit * magnitude).all()
    assert (
        np.abs(results[0].bias - w.astype(np.longdouble).sum(axis=0)) <= unit * np.abs(w).sum(axis=0)
    ).all()
