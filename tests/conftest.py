"""Fixtures, and the one harness of all numerical tests.

A :class:`Problem` is one call of one backend function. :func:`check` solves it on the engine under test and asserts everything
that is promised of any call:

* its results are within the bounds of ``tolerances.py`` of the exact ones, which are the NumPy twin's in a wider precision;
* they are no worse than the twin's in the same dtype, plus ``NO_WORSE``;
* it reads nothing outside its inputs and writes nothing outside its outputs: both lie in larger buffers, of NaN and of canaries,
  at odd offsets and with gaps between the rows;
* it leaves its inputs as they were;
* the same bits come again in a second run, in place, on two threads, and from strided as from contiguous memory.

An *engine* is a backend, on one instruction set where it is the compiled one.

Tests run in as many processes as there are cores. Options of the command line: --exhaustive, --tenth, --isa (see CONTRIBUTING).
"""

from __future__ import annotations

import contextlib
import gc
import os

# Before NumPy is loaded: its own threads would wait, busily, for cores on which the other processes run.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pairs
import pytest

with warnings.catch_warnings():  # that fastbp runs on its NumPy twin: the tests say so by skipping
    warnings.simplefilter("ignore", RuntimeWarning)
    import fastbp
from tolerances import BOUNDS, BY_HAND, NO_WORSE, TERMS

from fastbp import _backend, _reference

pytest.register_assert_rewrite("good_calls")  # its assertions tell what differs, too

Array = np.ndarray

# -- the command line ----------------------------------------------------------------------------------------------------------

THINNED = pytest.mark.thinned


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastbp")
    group.addoption(
        "--exhaustive", action="store_true", help="every combination of options, not every pair alone"
    )
    group.addoption(
        "--tenth",
        type=int,
        choices=range(10),
        help="with --exhaustive: of the tests that do more then, those whose names have this hash modulo 10",
    )
    group.addoption(
        "--isa", help="the tests of one instruction set, and those of none; 'best' is the fastest here"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thinned: sees more combinations with --exhaustive")
    pairs.exhaustive = config.getoption("exhaustive")
    if config.getoption("tenth") is not None and not pairs.exhaustive:
        raise pytest.UsageError("--tenth is a part of --exhaustive: give both")


def pytest_collectstart() -> None:
    """No garbage is searched for until all tests are collected."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there by now stays to the end: a search for garbage that went through all of it would take a third of a second."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what --tenth and --isa do; the name of a test alone decides, so all processes agree."""
    tenth, isa = config.getoption("tenth"), config.getoption("isa")
    isa = ISAS[0] if isa == "best" and ISAS else isa
    if isa and isa not in ("best", *ISAS):
        raise pytest.UsageError(f"--isa: got {isa!r}, expected best or one of {', '.join(ISAS)}")

    def wanted(item: pytest.Item) -> bool:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        of_isa = {parameters.get("isa"), parameters.get("engine")} - {None, "reference"}
        if isa and not of_isa <= {isa}:
            return False
        if tenth is None:
            return True
        return (
            item.get_closest_marker("thinned") is not None and zlib.crc32(item.nodeid.encode()) % 10 == tenth
        )

    kept = [item for item in items if wanted(item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
        items[:] = kept


# -- which engines there are ---------------------------------------------------------------------------------------------------


def _why_not_native() -> str:
    """Why the compiled kernels are not tested; "" where they are. With FASTBP_BACKEND=native the import above has failed."""
    if os.environ.get("FASTBP_BACKEND") == "reference":
        return "FASTBP_BACKEND=reference leaves the compiled kernels alone"
    try:
        with _backend.use("native"):
            return ""
    except ModuleNotFoundError as missing:
        return f"the compiled kernels are not built: {missing}"


NO_NATIVE = _why_not_native()
_SKIP = pytest.mark.skip(reason=NO_NATIVE)
NATIVE_ONLY = pytest.mark.skipif(bool(NO_NATIVE), reason=NO_NATIVE)


def _isas() -> list[str]:
    if NO_NATIVE:
        return []
    with _backend.use("native"):
        return list(_backend.kernels.available_isas())


ISAS = _isas()
_ISA_PARAMETERS = ISAS or [pytest.param("native", marks=_SKIP)]


@contextlib.contextmanager
def running_on(engine: str) -> Iterator[ModuleType]:
    """The whole package on "reference", or on the compiled kernels of one instruction set."""
    with _backend.use("reference" if engine == "reference" else "native"):
        if engine == "reference":
            yield _backend.kernels
            return
        before = _backend.kernels.isa()
        _backend.kernels.use_isa(engine)
        try:
            yield _backend.kernels
        finally:
            _backend.kernels.use_isa(before)


@pytest.fixture(params=["reference", pytest.param("native", marks=_SKIP if NO_NATIVE else ())])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn: the whole package runs on it."""
    with _backend.use(request.param):
        yield request.param


@pytest.fixture(params=_ISA_PARAMETERS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this machine in turn, on the compiled kernels."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=["reference", *_ISA_PARAMETERS])
def engine(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The functions of the NumPy twin, then the compiled ones on each instruction set."""
    with running_on(request.param) as kernels:
        yield kernels


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type[np.floating]:
    return request.param


@pytest.fixture(params=list(TERMS))
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each precision of products in turn, for every call that is given none."""
    before = fastbp.get_precision()
    fastbp.set_precision(request.param)
    yield request.param
    fastbp.set_precision(before)


VALUES = {
    "backend": ["reference", *([] if NO_NATIVE else ["native"])],
    "isa": ISAS,
    "engine": ["reference", *ISAS],
    "dtype": [np.float32, np.float64],
    "precision": list(TERMS),
}


def every_pair(*fixtures: str, **options: Any) -> Callable[[Callable], Callable]:
    """Runs a test with every pair of values of these fixtures and options; with --exhaustive in every combination."""
    rows = pairs.combinations({name: VALUES[name] for name in fixtures} | options)
    names = (*fixtures, *options)
    each = pytest.mark.parametrize(names, [tuple(row.values()) for row in rows], indirect=fixtures)
    return lambda test: THINNED(each(test))


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """The twin promises to be silent, whatever the input."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# -- inputs --------------------------------------------------------------------------------------------------------------------

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1003, 5000)
"""Around the lengths of vectors, of unrolled loops, of blocks of sums."""

SHAPES = [(1, 1), (37, 1), (1, 10)] + [((2, 3, 5)[i % 3], width) for i, width in enumerate(WIDTHS)]


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on `key` alone, in every process."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


# -- a call and its results ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Out:
    """An output of a call: an array of this shape, all of which is to be written."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Updated:
    """An array that a call reads and changes."""

    value: Array


@dataclass(frozen=True, eq=False)
class Problem:
    """One call in one dtype: `arguments` in the order of the signature, but for n_threads, which every function has last.

    `function` is the name of a backend function, or of an error that `elementwise_error` takes by its name, which is left out
    of the arguments; or a function whose first argument is the backend. Arrays of floats have the
    dtype of the call, but for the weights of examples, classes and outputs, which are float64 always. `in_place` names an output
    and the input in whose memory it may lie.
    """

    function: str | Callable[..., Any]
    dtype: type[np.floating]
    arguments: dict[str, Any]
    in_place: tuple[str, str] | None = None

    WEIGHTS = ("class_weight", "sample_weight", "pos_weight")

    def given(self, name: str, dtype: type[np.floating]) -> Any:
        """An argument as a call in `dtype` takes it."""
        value = self.arguments[name]
        value = value.value if isinstance(value, Updated) else value
        if isinstance(value, Array) and value.dtype.kind == "f":
            return value.astype(np.float64 if name in self.WEIGHTS else dtype)
        return value

    def changed(self, **arguments: Any) -> Problem:
        return replace(self, arguments={**self.arguments, **arguments})

    @property
    def name(self) -> str:
        return self.function if isinstance(self.function, str) else self.function.__name__

    @cached_property
    def exact(self) -> tuple[SimpleNamespace, SimpleNamespace]:
        """The arguments and the results in the precision of the oracle."""
        wide = ORACLE[self.dtype]
        arguments = {name: self.given(name, wide) for name in self.arguments}
        return SimpleNamespace(**arguments), solve(_reference, self, wide, memory=Compact())

    @cached_property
    def twin(self) -> SimpleNamespace:
        """The results of plain NumPy."""
        return solve(_reference, self, memory=Compact())

    def __str__(self) -> str:
        words = {
            name: f"{value.dtype}{list(value.shape)}" if isinstance(value, Array) else value
            for name, value in self.arguments.items()
            if not isinstance(value, (Out, Updated))
        }
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in words.items())})"


ORACLE = {np.float32: np.float64, np.float64: np.longdouble}
"""In which precision the twin gives the exact results. Where long double is no wider than double, a double has itself."""


class Guards:
    """Places arrays inside larger buffers, and tells whether a call wrote anything but its outputs.

    A vector or row starts LEAD elements into its buffer, aligned to nothing but its elements; GAP elements lie between rows; the
    TAIL is longer than any vector. Every byte round the contents, and of an output before the call, is 0xFF: as a float a NaN
    that no arithmetic makes, as a label -1.
    """

    LEAD, GAP, TAIL = 3, 5, 67

    def __init__(self) -> None:
        self._inputs: list[tuple[Array, bytes]] = []
        self._outputs: list[tuple[Array, Array]] = []

    def place(self, shape: tuple[int, ...], dtype: np.dtype, contents: Array | None, writable: bool) -> Array:
        width = shape[-1]
        rows = 1 if len(shape) == 1 else shape[0]
        end = self.LEAD + rows * (width + self.GAP)
        buffer = np.empty(end + self.TAIL, dtype)
        buffer.view(np.uint8)[:] = 0xFF
        placed = buffer[self.LEAD : end].reshape(rows, width + self.GAP)[:, :width]
        placed = placed[0] if len(shape) == 1 else placed
        if contents is not None:
            placed[...] = contents
        if writable:
            self._outputs.append((buffer, placed))
        else:
            self._inputs.append((buffer, buffer.tobytes()))
            placed.flags.writeable = False
        return placed

    def assert_intact(self) -> None:
        """Whatever was not an output is as it was. Destroys the outputs."""
        for buffer, before in self._inputs:
            assert buffer.tobytes() == before, "an input, or memory round it, was changed"
        for buffer, placed in self._outputs:
            placed.view(np.uint8)[...] = 0xFF
            assert (buffer.view(np.uint8) == 0xFF).all(), "memory round an output was changed"


class Compact:
    """Places arrays the ordinary way: contiguous, and freshly allocated."""

    def place(self, shape: tuple[int, ...], dtype: np.dtype, contents: Array | None, writable: bool) -> Array:
        return np.full(shape, np.nan, dtype) if contents is None else np.array(contents, dtype, order="C")

    def assert_intact(self) -> None:
        pass


def kernel_of(kernels: ModuleType, function: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function of a problem on this backend."""
    if not isinstance(function, str):
        return partial(function, kernels)
    if hasattr(kernels, function):
        return getattr(kernels, function)
    return lambda y, t, weight, *rest: kernels.elementwise_error(y, t, weight, function, *rest)


def solve(
    kernels: ModuleType,
    problem: Problem,
    dtype: type[np.floating] | None = None,
    *,
    n_threads: int = 1,
    memory: Guards | Compact | None = None,
    in_place: bool = False,
    keep: str = "",
) -> SimpleNamespace:
    """Every output of a problem by its name, and `loss` and `weight_sum` where they are returned; in its dtype or another.

    Arrays are placed in `memory`, but for the input named `keep`, which stays where and as it is.
    """
    dtype, memory = dtype or problem.dtype, memory or Guards()
    replaced, source = problem.in_place if in_place else (None, None)
    arguments, outputs = {}, {}
    for name, value in problem.arguments.items():
        given = problem.given(name, dtype)
        if name == replaced:
            arguments[name] = outputs[name] = arguments[source]
        elif isinstance(value, Out):
            arguments[name] = outputs[name] = memory.place(value.shape, np.dtype(dtype), None, True)
        elif isinstance(value, Updated):
            arguments[name] = outputs[name] = memory.place(given.shape, given.dtype, given, True)
        elif isinstance(value, Array) and name != keep:
            arguments[name] = memory.place(given.shape, given.dtype, given, name == source)
        else:
            arguments[name] = value  # no array, or one to keep
    returned = kernel_of(kernels, problem.function)(*arguments.values(), n_threads)
    results = {name: output.copy() for name, output in outputs.items()}
    memory.assert_intact()
    if returned is not None:
        results["loss"], results["weight_sum"] = (np.asarray(value) for value in returned)
    return SimpleNamespace(**results)


# -- the promises --------------------------------------------------------------------------------------------------------------


class Promise(NamedTuple):
    """What is promised of one result: its exact value, the error allowed, and the largest error of plain NumPy in `unit`."""

    want: Array
    allowed: Array
    negligible: Array  # what underflow alone explains
    unit: Array  # eps * magnitude
    of_numpy: float


def error_of(got: Array, want: Array) -> Array:
    """|got - want|; inf where one of them is NaN or infinite and the other is not, or differs."""
    with np.errstate(invalid="ignore"):
        error = np.abs(got - want)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0, np.where(np.isnan(error), np.inf, error))


def largest_in(unit: Array, error: Array, negligible: Array) -> float:
    """The largest error in `unit`, which may be 0 or NaN where there is none."""
    error = np.where(error > 0, error - negligible, 0)
    return float(np.max(np.where(error > 0, error / unit, 0), initial=0))


@lru_cache(maxsize=1024)
def promises(problem: Problem, squares_are_known: bool) -> dict[str, Promise]:
    """By the name of each result of a problem."""
    limits, wide = np.finfo(problem.dtype), ORACLE[problem.dtype]
    arguments, results = problem.exact
    promised = {}
    with np.errstate(all="ignore"):
        for name, bound in BOUNDS[problem.name](arguments, results, squares_are_known).items():
            want, twin = (np.asarray(getattr(each, name), wide) for each in (results, problem.twin))
            want = np.where(np.abs(want) > limits.max, np.copysign(np.inf, want), want)  # NaN compares false
            unit = np.asarray(limits.eps * bound.magnitude, wide)
            negligible = np.asarray(bound.underflow * limits.smallest_subnormal, wide)
            of_numpy = largest_in(unit, error_of(twin, want), negligible)
            promised[name] = Promise(want, unit * bound.coefficient + negligible, negligible, unit, of_numpy)
    return promised


def assert_accurate(name: str, got: Array, promise: Promise, compare: bool) -> None:
    """Within the bound, entry by entry; and if `compare`, at the worst entry no worse than plain NumPy plus NO_WORSE."""
    error = error_of(np.asarray(got, promise.want.dtype), promise.want)
    good = (error <= promise.allowed) | (error == 0)
    if not good.all():
        excess = np.where(good, -1, error / promise.allowed)
        worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), error.shape)
        place = f"{name}{list(map(int, worst))}" if worst else name
        raise AssertionError(
            f"{place} is {got[worst]!r}, exactly {promise.want[worst]!r}: "
            f"off by {error[worst]:.3g}, {excess[worst]:.3g} times what is allowed"
        )
    if compare:
        ours = largest_in(promise.unit, error, promise.negligible)
        assert ours <= promise.of_numpy + NO_WORSE, (
            f"{name}: {ours:.3g} eps off, NumPy {promise.of_numpy:.3g}"
        )


def assert_same_bits(a: SimpleNamespace, b: SimpleNamespace, what: str) -> None:
    """Two results agree in every bit; any NaN equals any other."""
    for name, first in vars(a).items():
        second = getattr(b, name)
        if first.tobytes() != second.tobytes():
            first, second = (np.where(np.isnan(x), np.nan, x) for x in (first, second))
            assert first.tobytes() == second.tobytes(), f"{name}: other bits {what}"


def assert_near(got: Array, want: Any) -> None:
    """Equal up to a few roundings of numbers of the size of 1, or of their own size: for values worked by hand."""
    got = np.asarray(got)
    error = error_of(np.asarray(got, float), np.asarray(want, float))
    assert (error <= BY_HAND * np.finfo(got.dtype).eps * np.maximum(1, np.abs(want))).all(), (got, want)


def squares_are_known(kernels: ModuleType, dtype: type[np.floating]) -> bool:
    """Whether exp(-x²/2) is computed without the rounding error of x², by the kernels as by the oracle.

    Of the kernels that takes fused multiply-add; the normal distribution of the twin is that of float64 in every dtype.
    """
    return dtype is np.float32 and (kernels is _reference or kernels.isa() in ("avx2", "avx512", "neon"))


def check(kernels: ModuleType, problem: Problem) -> None:
    """Assert all that is promised of a problem. Bits that may not change are a promise of the compiled kernels."""
    compiled = kernels is not _reference
    try:
        got = solve(kernels, problem)
        with np.errstate(all="ignore"):
            for name, promise in promises(problem, squares_are_known(kernels, problem.dtype)).items():
                assert_accurate(name, getattr(got, name), promise, compare=compiled)
        if problem.in_place:
            assert_same_bits(got, solve(kernels, problem, in_place=True), "in place")
        if compiled:
            again = solve(kernels, problem, n_threads=2, memory=Compact())
            assert_same_bits(got, again, "in a second run, from contiguous memory")
    except AssertionError as error:
        raise AssertionError(f"{problem}: {error}") from error


@contextlib.contextmanager
def shared_by(n_threads: int) -> Iterator[None]:
    """The compiled call inside is large enough for so many threads: it fails if they had nothing to share."""
    from fastbp._kernels.team import SEVERAL_THREADS, last_team

    _, before = last_team()
    yield
    threads, tasks = last_team()
    if n_threads > 1 and SEVERAL_THREADS:
        assert (threads, tasks > before) == (n_threads, True), f"not shared by {n_threads} threads"


def check_threads(kernels: ModuleType, problem: Problem) -> None:
    """The same bits on one, two and three threads, which share the work."""
    one = solve(kernels, problem, memory=Compact())
    for n in (2, 3):
        with shared_by(n):
            several = solve(kernels, problem, n_threads=n, memory=Compact())
        assert_same_bits(one, several, f"on {n} threads of {problem}")
