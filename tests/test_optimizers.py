"""The updates of the optimizers, in place, against the exact values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pairs
import pytest
from conftest import THINNED, WIDTHS, Problem, Updated, check, check_threads, generator, solve

from fastbp import _backend, optimizers

SGD = {
    "learning_rate": (0.1, 0.0),
    "momentum": (0.0, 0.9, 1.0),
    "nesterov": (False, True),
    "weight_decay": (0.0, 0.01),
}
ADAM = {
    "step": (1, 2, 1000, 10**9),
    "learning_rate": (1e-3, 0.0),
    "beta_1": (0.9, 0.0),
    "beta_2": (0.999, 0.0),
    "epsilon": (1e-8, 0.1),
    "weight_decay": (0.0, 0.01),
}
OPTIONS = {"sgd_update": SGD, "adam_update": ADAM}


def sgd_update(
    kernels, parameters, gradient, velocity, learning_rate, momentum, nesterov, weight_decay, n_threads
):  # fmt: skip
    rates, state = (learning_rate, momentum, nesterov, weight_decay), {"velocity": velocity}
    state = {} if velocity is None else state
    kernels.update(optimizers.SGD(), rates, state, 1, parameters, gradient, n_threads)


def adam_update(
    kernels, parameters, gradient, first_moment, second_moment, step, learning_rate, beta_1, beta_2, epsilon,
    weight_decay, n_threads,
):  # fmt: skip
    rates = learning_rate, beta_1, beta_2, epsilon, weight_decay
    state = {"first_moment": first_moment, "second_moment": second_moment}
    kernels.update(optimizers.Adam(), rates, state, step, parameters, gradient, n_threads)


FUNCTIONS = {"sgd_update": sgd_update, "adam_update": adam_update}


def problem(function, rng, n, dtype, **chosen):
    """One update of n parameters, some of whose gradients are 0; the state is one that training could have left."""
    w, g, state = (rng.standard_normal(n).astype(dtype) for _ in range(3))
    g[rng.random(n) < 0.1] = 0
    settings = {name: values[0] for name, values in OPTIONS[function].items()} | chosen
    arguments = {"parameters": Updated(w), "gradient": g}
    if function == "sgd_update":
        arguments["velocity"] = Updated(state) if settings["momentum"] else None
    else:
        second = (state * state + rng.random(n).astype(dtype)).astype(dtype)
        arguments |= {"first_moment": Updated(state), "second_moment": Updated(second)}
    return Problem(FUNCTIONS[function], dtype, arguments | settings)


def combined(options, dtype):
    """Every pair of options, but for Nesterov's rule without momentum."""
    return pairs.combinations(options, dtype, lambda row: row.get("momentum") != 0 or not row["nesterov"])


@pytest.fixture(params=OPTIONS)
def update(request):
    return request.param


@lru_cache(maxsize=1)
def problems_of_every_option(update, dtype):
    return [
        problem(update, generator(chosen), 37, dtype, **chosen) for chosen in combined(OPTIONS[update], dtype)
    ]


@lru_cache(maxsize=1)
def problems_of_every_size(update, dtype):
    plain, full = {}, {"weight_decay": 0.01} | ({"momentum": 0.9} if update == "sgd_update" else {"step": 3})
    return [
        problem(update, generator(n), n, dtype, **chosen) for n in (0, *WIDTHS) for chosen in (plain, full)
    ]


@THINNED
def test_every_option(dtype, update, engine):
    for each in problems_of_every_option(update, dtype):
        check(engine, each)


def test_every_size(dtype, update, engine):
    for each in problems_of_every_size(update, dtype):
        check(engine, each)


def test_threads(dtype, update, isa):
    for chosen in (
        {},
        {"weight_decay": 0.01} | ({"momentum": 0.9, "nesterov": True} if update == "sgd_update" else {}),
    ):
        check_threads(_backend.kernels, problem(update, generator(update), 200_007, dtype, **chosen))


def test_tail_is_like_the_body(dtype, update, engine):
    """Equal parameters with equal gradients and states stay equal, wherever they are."""
    for n in WIDTHS:
        each = problem(update, generator(n), n, dtype, weight_decay=0.01)
        for name, value in each.arguments.items():
            if isinstance(value, Updated):
                each.arguments[name] = Updated(np.full(n, abs(value.value[0]), dtype))
        each.arguments["gradient"] = np.full(n, each.arguments["gradient"][0])
        for name, result in vars(solve(engine, each)).items():
            assert len(set(result)) == 1, f"{name} of {each}"


def test_first_steps_of_adam(dtype, engine):
    """From a state of zeros the first step is the learning rate against the sign of the gradient, however small that is."""
    g = np.array([1e-3, -1e-3, 5.0, -5e4, 0.0], dtype)
    zeros = np.zeros_like(g)
    arguments = {
        "parameters": Updated(zeros),
        "gradient": g,
        "first_moment": Updated(zeros),
        "second_moment": Updated(zeros),
    }
    settings = {name: values[0] for name, values in ADAM.items()} | {"epsilon": 1e-30}
    check(engine, Problem(adam_update, dtype, arguments | settings))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is(dtype, update, value, engine):
    for n in (5, 40):
        each = problem(update, generator(n), n, dtype)
        clean = solve(engine, each)
        each.arguments["gradient"] = each.arguments["gradient"].copy()
        each.arguments["gradient"][n - 2] = value
        spoilt = solve(engine, each)
        others = np.arange(n) != n - 2
        for name in vars(clean):
            assert getattr(clean, name)[others].tobytes() == getattr(spoilt, name)[others].tobytes()
            assert not np.isfinite(getattr(spoilt, name)[n - 2])


def test_a_state_ends_at_0_and_not_among_subnormal_numbers(dtype, update, engine):
    """Where the gradient stays 0. An update of subnormal numbers takes many times as long on some processors."""
    least = np.finfo(dtype).tiny
    momentum = {"momentum": 0.9} if update == "sgd_update" else {}
    states = {"velocity": 1.1} if update == "sgd_update" else {"first_moment": 1.1, "second_moment": 1.0005}
    each = problem(update, generator(update), 40, dtype, **momentum)
    each.arguments.update({name: Updated(np.full(40, size * least, dtype)) for name, size in states.items()})
    each.arguments["gradient"] = np.zeros(40, dtype)
    result = solve(engine, each)
    for name in states:
        assert not getattr(result, name).any(), name
    np.testing.assert_array_equal(result.parameters, each.arguments["parameters"].value)


def test_a_small_second_moment_stays_where_the_first_does(dtype, engine):
    """Or a step by their ratio would be one by m/ε."""
    least = np.finfo(dtype).tiny
    each = problem("adam_update", generator("small"), 40, dtype)
    each.arguments["gradient"] = np.zeros(40, dtype)
    each.arguments["first_moment"] = Updated(np.full(40, 2 * least, dtype))
    each.arguments["second_moment"] = Updated(np.full(40, least / 2, dtype))
    result = solve(engine, each)
    assert (result.first_moment > least).all()
    assert (result.second_moment > least / 4).all()
