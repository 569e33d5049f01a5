"""The updates of the optimizers, in place, against the exact values, and against recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pairs
import pytest
from conftest import THINNED, WIDTHS, Problem, Updated, check, check_threads, generator, solve
from tolerances import SQUARES, many_updates

from fastbp import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop, _backend
from fastbp.optimizers import OPTIMIZERS

RATES = {"learning_rate": (0.1, 0.0), "weight_decay": (0.0, 0.01)}
MOMENTS = {"beta_1": (0.9, 0.0), "beta_2": (0.999, 0.0)}
EPSILON = {"epsilon": (1e-8, 0.1)}
RULES: dict[str, tuple[Any, dict[str, tuple]]] = {  # the class, and the values of its own arguments
    "sgd": (SGD, {"momentum": (0.0, 0.9, 1.0), "nesterov": (False, True)}),
    "rmsprop": (
        RMSprop,
        {"alpha": (0.99, 0.5), "momentum": (0.0, 0.9, 1.0), "centered": (False, True)} | EPSILON,
    ),
    "adagrad": (Adagrad, EPSILON),
    "adam": (Adam, MOMENTS | EPSILON | {"amsgrad": (False, True)}),
    "adamw": (AdamW, MOMENTS | EPSILON | {"amsgrad": (False, True)}),
    "lion": (Lion, MOMENTS),
    "muon": (  # what is of matrices changes nothing in a vector: test_muon.py
        Muon,
        {"adam_ratio": (1.0, 0.5), "adam_epsilon": (1e-8, 0.1), "momentum": (0.95,), "nesterov": (True,)}
        | {"epsilon": (1e-7,), "ns_steps": (5,), "adjust_lr_fn": ("original",)}
        | MOMENTS,
    ),
}
OF_ALL = RATES | {"kept": (None, 0.9), "step": (1, 2, 1000, 10**9)}
EVERYTHING = {"momentum": 0.9, "nesterov": True, "centered": True, "amsgrad": True, "weight_decay": 0.01}


def options_of(rule: str) -> dict[str, tuple]:
    return RULES[rule][1] | OF_ALL


def everything(rule: str) -> dict[str, Any]:
    """All that the rule can do at once."""
    used = {name: value for name, value in EVERYTHING.items() if name in options_of(rule)}
    return used | {"kept": 0.9, "step": 3}


def optimizer_of(rule: str, kept: float | None = None, step: int = 1, **rates: Any) -> Any:
    return RULES[rule][0](**rates, average=kept)


def call_of(rule: str) -> Callable[..., None]:
    """One update as a function of its arrays and numbers by name, as the harness has them."""
    names = ("parameters", "gradient", *RULES[rule][0].vectors, "average", *options_of(rule))

    def call(kernels, *arguments):
        *arguments, n_threads = arguments
        given = dict(zip(names, arguments, strict=True))
        optimizer = optimizer_of(rule, **{name: given[name] for name in options_of(rule)})
        state = {name: given[name] for name in (*optimizer.vectors, "average") if given[name] is not None}
        rates = optimizer.hyper_parameters()
        kernels.update(
            optimizer, rates, state, given["step"], given["parameters"], given["gradient"], n_threads
        )

    call.__name__ = rule
    return call


CALLS = {rule: call_of(rule) for rule in RULES}


def problem(rule, rng, n, dtype, **chosen):
    """One update of n parameters, some of whose gradients are 0; the state is one that training could have left."""
    w, g, mean = (rng.standard_normal(n).astype(dtype) for _ in range(3))
    g[rng.random(n) < 0.1] = 0
    square = (mean * mean + rng.random(n).astype(dtype)).astype(dtype)
    settings = {name: values[0] for name, values in options_of(rule).items()} | chosen
    needed = optimizer_of(rule, **settings).state(w)
    state = dict.fromkeys((*RULES[rule][0].vectors, "average"))
    state |= {name: Updated(square if name in SQUARES else mean) for name in needed}
    if "largest_second_moment" in needed:
        state["largest_second_moment"] = Updated((square * rng.uniform(0.5, 1.5, n)).astype(dtype))
    return Problem(CALLS[rule], dtype, {"parameters": Updated(w), "gradient": g} | state | settings)


def states_of(each):
    """The names of the state vectors of the rule itself."""
    written = [name for name, value in each.arguments.items() if isinstance(value, Updated)]
    return [name for name in written if name not in ("parameters", "average")]


def combined(options, dtype):
    """Every pair of options, but for Nesterov's rule without momentum."""
    return pairs.combinations(
        options, dtype, lambda row: row.get("momentum") != 0 or not row.get("nesterov", False)
    )


@pytest.fixture(params=RULES)
def rule(request):
    return request.param


def test_every_optimizer_is_here():
    assert {kind for kind, _ in RULES.values()} == OPTIMIZERS
    for kind, options in RULES.values():
        assert {*options, *RATES} == {*kind.rates, *kind.options}


@lru_cache(maxsize=1)
def problems_of_every_option(rule, dtype):
    return [
        problem(rule, generator(chosen), 37, dtype, **chosen) for chosen in combined(options_of(rule), dtype)
    ]


@lru_cache(maxsize=1)
def problems_of_every_size(rule, dtype):
    ways = {}, everything(rule)
    return [problem(rule, generator(n), n, dtype, **chosen) for n in (0, *WIDTHS) for chosen in ways]


@THINNED
def test_every_option(dtype, rule, engine):
    for each in problems_of_every_option(rule, dtype):
        check(engine, each)


def test_every_size(dtype, rule, engine):
    for each in problems_of_every_size(rule, dtype):
        check(engine, each)


def test_threads(dtype, rule, isa):
    for chosen in ({}, everything(rule)):
        check_threads(_backend.kernels, problem(rule, generator(rule), 200_007, dtype, **chosen))


def test_tail_is_like_the_body(dtype, rule, engine):
    """Equal parameters with equal gradients and states stay equal, wherever they are."""
    for n in WIDTHS:
        each = problem(rule, generator(n), n, dtype, **everything(rule))
        for name, value in each.arguments.items():
            if isinstance(value, Updated):
                each.arguments[name] = Updated(np.full(n, abs(value.value[0]), dtype))
        each.arguments["gradient"] = np.full(n, each.arguments["gradient"][0])
        for name, result in vars(solve(engine, each)).items():
            assert len(set(result)) == 1, f"{name} of {each}"


def test_the_first_step(dtype, rule, engine):
    """From a state of zeros, by gradients of any size."""
    g = np.array([1e-3, -1e-3, 5.0, -5e4, 0.0], dtype)
    small = {"epsilon": 1e-30} if "epsilon" in options_of(rule) else {}
    for chosen in (small, everything(rule) | small | {"step": 1}):
        each = problem(rule, generator(rule), 5, dtype, **chosen)
        zeros = {name: Updated(np.zeros_like(g)) for name in states_of(each)}
        each.arguments.update(zeros, gradient=g)
        check(engine, each)


def test_no_number_stays_where_it_is_not_finite(dtype, rule, engine):
    """But what comes of it is in its own place, and to be seen there."""
    for n, value in ((5, np.nan), (40, np.nan), (5, np.inf), (40, np.inf)):
        each = problem(rule, generator(n), n, dtype, **everything(rule))
        clean = solve(engine, each)
        each.arguments["gradient"] = each.arguments["gradient"].copy()
        each.arguments["gradient"][n - 2] = value
        spoilt = solve(engine, each)
        others, there = np.arange(n) != n - 2, []
        for name in vars(clean):
            assert getattr(clean, name)[others].tobytes() == getattr(spoilt, name)[others].tobytes()
            there.append(bool(np.isfinite(getattr(spoilt, name)[n - 2])))
        assert not all(there) if value == np.inf else not any(there), there  # the sign of infinity is 1


def test_a_state_ends_at_0_and_not_among_subnormal_numbers(dtype, rule, engine):
    """Where the gradient stays 0. An update of subnormal numbers takes many times as long on some processors."""
    never_shrink = ("sum_of_squares", "largest_second_moment")
    least = np.finfo(dtype).tiny
    full = {name: value for name, value in everything(rule).items() if name != "weight_decay"}
    each = problem(rule, generator(rule), 40, dtype, **full)
    for name in states_of(each):
        size = 0.5 if name in never_shrink else 1.0005
        each.arguments[name] = Updated(np.full(40, size * least, dtype))
    each.arguments["gradient"] = np.zeros(40, dtype)
    first = solve(engine, each)
    for name in states_of(each):
        assert not getattr(first, name).any(), name
    later = each.changed(**{name: Updated(value) for name, value in vars(first).items()})
    np.testing.assert_array_equal(solve(engine, later).parameters, first.parameters)


def test_a_small_square_stays_where_what_it_divides_does(dtype, rule, engine):
    """Or a step by their ratio would be one by m/ε."""
    least = np.finfo(dtype).tiny
    each = problem(rule, generator("small"), 40, dtype)
    each.arguments["gradient"] = np.full(40, 2 * least)
    for name in states_of(each):
        each.arguments[name] = Updated(np.full(40, (0.5 if name in SQUARES else 2) * least, dtype))
    result = solve(engine, each)
    for name in states_of(each):
        assert (getattr(result, name) > least / 4).all(), name


# -- against recorded values ---------------------------------------------------------------------------------------------------

RECORDED: list[tuple[Callable[[], Any], list[float]]] = [
    (lambda: SGD(0.1), [0.90017781155802, -2.09077208905431, 0.50831777792908]),
    (lambda: SGD(0.1, weight_decay=0.1), [0.73375693559308, -1.72100263056147, 0.41799403180764]),
    (lambda: SGD(0.1, momentum=0.9), [0.27262854032812, -2.32058079422608, 0.47293499604355]),
    (
        lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        [-0.12218845493267, -0.42923353905505, 0.06177242914582],
    ),
    (lambda: RMSprop(), [0.88175910312665, -2.05850967037796, 0.45107950841728]),
    (lambda: RMSprop(weight_decay=0.1), [0.81495105939546, -1.89332862750091, 0.40434993229248]),
    (
        lambda: RMSprop(centered=True, alpha=0.9),
        [0.95752240370556, -2.02256141965846, 0.48348767489935],
    ),
    (lambda: RMSprop(momentum=0.9), [0.00054008084990, -2.36102387828018, 0.03565476591931]),
    (
        lambda: RMSprop(centered=True, momentum=0.9, weight_decay=0.1),
        [-0.18207523735108, -1.30754396768712, -0.16008164914607],
    ),
    (lambda: Adagrad(), [0.98817550014650, -2.00578918040467, 0.49508829623580]),
    (lambda: Adagrad(0.1, weight_decay=0.1), [0.81633529007477, -1.89567197569980, 0.40447638221363]),
    (lambda: Adam(0.1), [0.63875128849010, -2.15480940344454, 0.40977927000515]),
    (
        lambda: Adam(0.1, amsgrad=True, beta_2=0.9),
        [0.64010282629324, -2.15366549639420, 0.41005601011002],
    ),
    (lambda: Adam(0.1, weight_decay=0.1), [0.48556824285594, -1.65800192619386, 0.28323179098482]),
    (lambda: AdamW(0.1), [0.62495167917245, -2.11271462105274, 0.40154733731557]),
    (
        lambda: AdamW(0.1, amsgrad=True, beta_2=0.9, weight_decay=0.1),
        [0.51371960476712, -1.76663750613234, 0.33444260313977],
    ),
    (lambda: Lion(0.01), [0.98, -2.02, 0.5]),
    (lambda: Lion(0.01, weight_decay=0.1), [0.96046618033655, -1.98051623651002, 0.49019353764323]),
]


@pytest.mark.parametrize(("make", "want"), RECORDED, ids=[repr(make()) for make, _ in RECORDED])
def test_recorded(make, want, backend):
    """Three parameters after twenty steps: PyTorch's in float64, of Lion those of a loop in NumPy (test_against_pytorch.py)."""
    w, optimizer = np.array([1.0, -2.0, 0.5]), make()
    for step in range(20):
        optimizer.update(w, np.sin((step + 1) * np.arange(1.0, 4.0)))
    assert (np.abs(w - want) <= many_updates(20) * np.finfo(float).eps).all(), w - want
