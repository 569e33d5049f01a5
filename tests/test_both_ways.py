"""The quick way and the way with all checks give one answer: every odd value in the place of every argument, alone and in pairs.

The two calls that have a quick way are `softmax_cross_entropy` and `MLP.step`. Each call is made three times: as it is, with the
quick way closed, and on the twin, which has none. What comes is the same bits, or the same error with the same text; of the twin
the errors alone are compared.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import _backend

pytestmark = pytest.mark.skipif(_backend.name != "native", reason="the twin has one way only")

RNG = np.random.default_rng(7)
Z = RNG.standard_normal((3, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1])


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def odd_values() -> list[Any]:
    """Numbers, and what is none; nearly right arrays of every kind."""
    numbers = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**70, 10**400, 0.0, 1.0, -1.0, 0.5, 1e-310, 1e39, 1e300]
    others = [
        np.nan,
        np.inf,
        True,
        None,
        "a",
        "",
        [],
        {},
        1j,
        object,
        np.float32(1),
        np.int64(1),
        np.array(1.0),
        np.bool_(1),
    ]
    dtypes = ["f4", "f8", "f2", ">f4", "c8", "i8", "i4", "u8", "?", "O", "U1", "M8[s]"]
    shapes = [(3, 4), (3,), (4,), (3, 0), (0, 4), (0,), (4, 3), (1, 3, 4), ()]
    arrays = [np.zeros(shape, dtype) for shape in shapes for dtype in dtypes]
    arrays += [np.full(3, label) for label in (-100, -101, -1, 3, 4, 2**63 - 1)]
    arrays += [np.full((3, 4), value, "f4") for value in (np.nan, np.inf, 1e38, -1)]
    layouts = [
        read_only(Z),
        Z[::-1],
        np.asfortranarray(Z),
        Z[None],
        np.ma.masked_array(Z),
        np.zeros((3, 8), "f4")[:, ::2],
    ]
    lists = [
        Z.tolist(),
        LABELS.tolist(),
        [0, 1],
        [-100] * 3,
        [2**70, 0, 0],
        [0.5, 1, 0],
        [True, False, True],
        [[1], [1, 2]],
    ]
    return [*numbers, *others, *arrays, *layouts, *lists]


ODD = odd_values()


def outcome(call: Callable[[], Any]) -> Any:
    """The bits that come, or the error and its text."""
    try:
        answer = call()
    except (TypeError, ValueError, ArithmeticError) as error:
        return type(error), str(error)
    return [(np.asarray(part).dtype, np.asarray(part).tobytes()) for part in answer]


def is_error(result: Any) -> bool:
    return isinstance(result, tuple) and not issubclass(result[0], ArithmeticError)


def one_answer(call: Callable[[], Any], long_way: Callable[[], Any], about: Any) -> None:
    with np.errstate(all="ignore"):
        short, long = outcome(call), outcome(long_way)
        assert short == long, about
        with _backend.use("reference"):
            twin = outcome(call)
    if is_error(short) or is_error(twin):
        assert short == twin, about
        assert re.match(r"\w+: (got|row) ", short[1]), short  # no bare error of NumPy or of C


# softmax_cross_entropy --------------------------------------------------------------------------------------

ARGUMENTS = {
    "logits": Z,
    "targets": LABELS,
    "class_weight": np.ones(4),
    "sample_weight": np.ones(3),
    "label_smoothing": 0.1,
    "lse_square_scale": 0.1,
    "softcap": 5.0,
    "grad_out": np.zeros_like(Z),
    "n_threads": 1,
}


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Makes a call with the quick way of `softmax_cross_entropy` closed."""

    def call_closed(call: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(_backend.kernels, "softmax_cross_entropy_at_once", lambda *arguments: None)
            return call()

    return call_closed


def both_ways_of_the_loss(closed: Callable[[Callable[[], Any]], Any], changed: dict[str, Any]) -> None:
    def call() -> Any:
        return fastbp.softmax_cross_entropy(**(copy.deepcopy(ARGUMENTS) | copy.deepcopy(changed)))

    one_answer(call, lambda: closed(call), changed)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_odd_argument_of_the_loss(closed: Any, name: str) -> None:
    for value in ODD:
        both_ways_of_the_loss(closed, {name: value})


@pytest.mark.parametrize("names", list(itertools.combinations(ARGUMENTS, 2)), ids="-".join)
def test_two_odd_arguments_of_the_loss(closed: Any, names: tuple[str, str]) -> None:
    for _ in range(60):
        both_ways_of_the_loss(closed, {name: ODD[RNG.integers(len(ODD))] for name in names})


def test_ignored_rows_without_classes(closed: Any) -> None:
    for targets in (np.full(3, -100), [-100] * 3):
        changed = {
            "logits": np.zeros((3, 0), "f4"),
            "targets": targets,
            "class_weight": None,
            "grad_out": None,
        }
        both_ways_of_the_loss(closed, changed)


# MLP.step ---------------------------------------------------------------------------------------------------


class LongWay:
    """An engine whose `step` is never at first sight in order."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self, *arguments: Any) -> None:
        return None


RATES = [
    *((fastbp.SGD, name, 1.0) for name in ("learning_rate", "momentum", "weight_decay", "nesterov", "steps")),
    *(
        (fastbp.Adam, name, 0.5)
        for name in ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay", "steps")
    ),
]


def step(loss: str, changed: dict[str, Any], long: bool, setting: tuple[Any, str, Any] | None = None) -> Any:
    """A step after which the optimizer gets an odd rate, and a step with it; parameters and error of that."""
    net = fastbp.MLP([4, 4], loss=loss, seed=0)
    kind, name, usual = setting or (fastbp.SGD, "learning_rate", 0.1)
    optimizer = kind(momentum=0.5) if kind is fastbp.SGD else kind()
    if long:
        net._engine = LongWay(net._engine)
    arguments = {"x": Z, "t": LABELS if loss == "softmax_cross_entropy" else abs(Z), "optimizer": optimizer}
    setattr(optimizer, name, int(usual) if name == "steps" else name == "nesterov" or usual)
    net.step(**arguments)
    if name in changed:
        setattr(optimizer, name, changed[name])
    error = net.step(**(arguments | {key: value for key, value in changed.items() if key in arguments}))
    return error, net.parameters, optimizer.steps


def both_ways_of_a_step(loss: str, changed: dict[str, Any], setting: Any = None) -> None:
    one_answer(
        lambda: step(loss, changed, False, setting),
        lambda: step(loss, changed, True, setting),
        (changed, setting),
    )


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error", "poisson_deviance"])
@pytest.mark.parametrize("name", ["x", "t", "optimizer"])
def test_one_odd_argument_of_a_step(loss: str, name: str) -> None:
    for value in ODD:
        both_ways_of_a_step(loss, {name: value})


@pytest.mark.parametrize("setting", RATES, ids=lambda setting: f"{setting[0].__name__}-{setting[1]}")
def test_one_odd_rate_of_a_step(setting: tuple[Any, str, Any]) -> None:
    for value in ODD:
        both_ways_of_a_step("softmax_cross_entropy", {setting[1]: value}, setting)


@pytest.mark.parametrize("one", [True, np.True_, np.array(1.0), 1 + 0j], ids=repr)
@pytest.mark.parametrize(
    "setting", [rate for rate in RATES if rate[2] == 1.0 and rate[1] != "nesterov"], ids=lambda rate: rate[1]
)
def test_what_equals_the_last_rate_but_is_no_number(setting: tuple[Any, str, Any], one: Any) -> None:
    with pytest.raises(TypeError, match=f"^{setting[1]}: got {type(one).__name__}, expected "):
        step("softmax_cross_entropy", {setting[1]: one}, long=False, setting=setting)


def test_an_odd_rate_and_an_odd_argument_of_a_step() -> None:
    for setting, name in itertools.product(RATES, ("x", "t")):
        for _ in range(20):
            changed = {setting[1]: ODD[RNG.integers(len(ODD))], name: ODD[RNG.integers(len(ODD))]}
            both_ways_of_a_step("softmax_cross_entropy", changed, setting)
