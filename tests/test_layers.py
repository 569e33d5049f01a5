"""The matrix products of a layer, with what is fused into them, against the exact values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from conftest import Out, Problem, assert_same_bits, check, check_threads, generator, solve
from tolerances import ACTIVATIONS

from fastbp import _backend, _reference

FROM_INPUT = (
    "gelu",
    "silu",
)  # their slope is computed from the activation's input, the others' from its output

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
)


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
    if activation not in ("identity", *FROM_INPUT):
        getattr(_reference, activation)(z, a, 1)
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
    for number, size in enumerate(SIZES):
        rng = generator(size)
        problems += each_of(rng, size, dtype, ("identity", *ACTIVATIONS)[number % (1 + len(ACTIVATIONS))])
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


@pytest.mark.parametrize("activation", ["identity", *ACTIVATIONS])
def test_every_activation(dtype, activation, isa):
    for each in problems_of_every_activation(dtype, activation):
        check(_backend.kernels, each)


@pytest.mark.parametrize("activation", ["identity", *ACTIVATIONS])
def test_the_epilogue_is_the_activation(dtype, activation, isa):
    """What is fused into a product gives the bits of the function that is called by itself."""
    kernels = _backend.kernels
    for size in ((1, 3, 5), (9, 20, 33), (40, 130, 70)):
        rng = generator(size)
        fused = forward(rng, size, dtype, activation)
        z = solve(kernels, fused.changed(activation="identity")).out
        if activation != "identity":
            getattr(kernels, activation)(z, z, 1)
        assert solve(kernels, fused).out.tobytes() == z.tobytes(), str(fused)

        fused = backward_input(rng, size, dtype, activation)
        grad = solve(kernels, fused.changed(activation="identity", a=None)).out
        if activation != "identity":
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
    for size in ((5, 9, 7), (17, 40, 33)):
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
