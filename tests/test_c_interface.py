"""The functions for programs in Cython and C: what they compute, that they leave Python alone, and who is refused.

Most tests call them by their addresses, with types of arguments read from functions.def; the programs are those of the page
docs/c-and-cython.md, built from an installed package in another folder.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NATIVE_ONLY, generator
from interrupts import needs_signals, raising

import fastbp
from fastbp.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Optimizer, RMSprop

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/c-and-cython.md"
PROMISED = ROOT / "tests/files/abi_1.txt"
DONE, NO_MEMORY, WRONG_LABEL, WRONG_ARGUMENT = range(4)
NO_COMPILER = "/there/is/no/compiler"

pytestmark = NATIVE_ONLY


# -- what is written down --------------------------------------------------------------------------------------------------------


def header(name: str) -> str:
    """A header without comments"""
    text = Path(fastbp.get_include(), name).read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def lines(text: str) -> str:
    return " ".join(text.split())


@lru_cache
def functions() -> dict[str, str]:
    """The arguments of each function."""
    found = re.findall(r"FBP_FUNCTION\((\w+),\s*\(([^()]*)\)\)", header("functions.def"))
    return {name: lines(arguments) for name, arguments in found}


def structs() -> dict[str, str]:
    """The members of each struct."""
    found = re.findall(r"typedef struct {\n([^{}#]*)} (\w+);", header("fastbp.h"))
    return {name: lines(members) for members, name in found}


def numbers() -> dict[str, list[str]]:
    """The names of the rows of each list, in order."""
    patterns = {"activations": "ACTIVATION", "errors": "ERROR", "updates": "UPDATE"}
    return {
        name: re.findall(rf"^FBP_{each}\((\w+),", header(f"{name}.def"), re.MULTILINE)
        for name, each in patterns.items()
    }


def test_what_is_promised_stays_as_it_is():
    """A line that is missing here, or differs, needs another FBP_ABI; what comes is added at the end, and to the file."""
    assert fastbp.kernels.ABI == 1
    assert re.findall(r"#define FBP_ABI (\d+)", header("fastbp.h")) == ["1"]
    now = [f"{name}({arguments})" for name, arguments in functions().items()]
    now += [f"{name} {{ {members} }}" for name, members in structs().items()]
    now += [f"{name}: {', '.join(rows)}" for name, rows in numbers().items()]
    assert now == PROMISED.read_text(encoding="utf-8").splitlines()


def test_cython_declares_what_c_does():
    pxd = re.sub(r"#.*", "", (Path(fastbp.__file__).parent / "kernels.pxd").read_text(encoding="utf-8"))
    declared = {name: lines(arguments) for name, arguments in re.findall(r"cdef int (\w+)\(([^()]*)\)", pxd)}
    in_c = {
        name: arguments.replace("FBP_REAL", "real").replace("fbp_size", "Py_ssize_t")
        for name, arguments in functions().items()
    }
    assert declared == in_c

    members = {
        name: lines(body) for name, body in re.findall(r"ctypedef struct (\w+):\n((?: {8}.*\n|\s*\n)*)", pxd)
    }
    assert members == {
        name: structs()[name].replace(";", "") for name in ("fbp_error_options", "fbp_optimizer")
    }

    prefixes = {"activations": "", "errors": "FBP_", "updates": "FBP_UPDATE_"}
    lists = [[prefixes[name] + row for row in rows] for name, rows in numbers().items()]
    enums = [re.findall(r"\w+", names) for names in re.findall(r"enum:\n((?: {8}.*\n)+)", pxd)]
    assert enums[1:] == lists


# -- calls by address ------------------------------------------------------------------------------------------------------------


class Options(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("sample_weight", "class_weight", "pos_weight")],
        ("ignore_index", ctypes.POINTER(ctypes.c_int64)),
        *[(name, ctypes.c_double) for name in ("label_smoothing", "lse_square_scale", "softcap")],
        ("sum", ctypes.c_int),
    ]


class Step(ctypes.Structure):
    _fields_ = [
        ("rule", ctypes.c_int),
        ("decoupled", ctypes.c_int),
        ("step", ctypes.c_int64),
        ("learning_rate", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("rates", ctypes.c_double * 4),
        ("state", ctypes.c_void_p * 4),
    ]


NUMBERS = {"int": ctypes.c_int, "double": ctypes.c_double, "fbp_size": ctypes.c_ssize_t}


def function(name: str, dtype: type) -> Callable[..., int]:
    """A function that takes arrays for pointers, and None for NULL."""
    arguments = [argument.split() for argument in functions()[name].split(", ")]
    types = [ctypes.c_void_p if words[-1][0] == "*" else NUMBERS[words[0]] for words in arguments]
    call = ctypes.CFUNCTYPE(ctypes.c_int, *types)(fastbp.kernels.address(name, np.dtype(dtype).name, abi=1))

    def converted(argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            return argument.ctypes.data
        return ctypes.addressof(argument) if isinstance(argument, ctypes.Structure) else argument

    return lambda *given: call(*map(converted, given))


def matrix(dtype: type, rows: int, columns: int, *key: object) -> np.ndarray:
    """Rows with gaps between them."""
    wide = (2 * generator(rows, columns, *key).normal(size=(rows, columns + 3))).astype(dtype)
    return wide[:, :columns]


def row(a: np.ndarray) -> int:
    return a.strides[0] // a.itemsize


def same(*pairs: tuple[Any, Any]) -> None:
    for ours, pythons in pairs:
        assert np.asarray(ours, np.asarray(pythons).dtype).tobytes() == np.asarray(pythons).tobytes()


N, I, O = 40, 33, 17  # noqa: E741
LARGE = 1000, 150  # rows and columns for which threads are worthwhile
SHAPES = [(N, O, 1), (*LARGE, 2), (*LARGE, 0)]  # and how many threads


@pytest.mark.parametrize("name", numbers()["activations"])
def test_activations(name, dtype):
    kind, of_python = numbers()["activations"].index(name), name.removeprefix("FBP_").lower()
    for *shape, threads in SHAPES:
        x, grad, out = (matrix(dtype, *shape, key) for key in "xgo")
        expected = fastbp.activation_backward(of_python, grad, x)
        assert (
            function("activation_backward", dtype)(
                kind, *shape, grad, row(grad), x, row(x), threads, out, row(out)
            )
            == DONE
        )
        same((out, expected))
        if name != "FBP_IDENTITY":
            assert function("activate", dtype)(kind, *shape, x, row(x), threads, x, row(x)) == DONE
            same((x, getattr(fastbp, of_python)(matrix(dtype, *shape, "x"))))


def test_the_softmax_family(dtype):
    for *shape, threads in (*SHAPES, (3, 0, 1), (0, 3, 1)):
        x, grad, out = (matrix(dtype, *shape, key) for key in "xgo")
        vector = np.empty(shape[0], dtype)
        assert function("logsumexp", dtype)(*shape, x, row(x), threads, vector) == DONE
        same((vector, fastbp.logsumexp(x)))
        for name in ("log_softmax", "softmax"):
            assert function(name, dtype)(*shape, x, row(x), threads, out, row(out)) == DONE
            same((out, getattr(fastbp, name)(x)))
        expected = fastbp.softmax_backward(grad, out)
        assert (
            function("softmax_backward", dtype)(
                *shape, grad, row(grad), out, row(out), threads, grad, row(grad)
            )
            == DONE
        )
        same((grad, expected))


def options(n: int, c: int) -> list[dict[str, Any]]:
    """Those of Python: none, each by itself, and all."""
    draw = generator(n, c)
    each = {
        "sample_weight": draw.uniform(0, 2, n),
        "class_weight": draw.uniform(0.5, 2, c),
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "lse_square_scale": 0.01,
        "softcap": 3.0,
        "reduction": "sum",
    }
    return [{}, *({name: value} for name, value in each.items()), each]


def struct(given: dict[str, Any]) -> Options | None:
    """The same in C; what it points to lives as long as `given`."""
    if not given:
        return None
    result = Options()
    for name, value in given.items():
        if name == "reduction":
            result.sum = 1
        elif name == "ignore_index":
            result.ignore_index = ctypes.pointer(ctypes.c_int64(value))
        else:
            setattr(result, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    return result


@pytest.mark.parametrize(("n", "c", "threads"), SHAPES)
def test_softmax_cross_entropy(n, c, threads, dtype):
    z, soft = matrix(dtype, n, c, "z"), np.abs(matrix(dtype, n, c, "t"))
    labels = generator(n).integers(0, c, n)
    loss, weight_sum = ctypes.c_double(), ctypes.c_double()
    results = ctypes.addressof(loss), ctypes.addressof(weight_sum)
    for of_python in options(n, c):
        for targets in (labels, soft):
            if targets is soft and "ignore_index" in of_python:
                of_python = {key: value for key, value in of_python.items() if key != "ignore_index"}
            grad, losses = matrix(dtype, n, c, "d"), np.empty(n, dtype)
            given = (labels, None, 0) if targets is labels else (None, soft, row(soft))
            call = function("softmax_cross_entropy", dtype)
            in_c = struct(of_python)
            assert call(n, c, z, row(z), *given, in_c, threads, losses, grad, row(grad), *results) == DONE
            expected = fastbp.softmax_cross_entropy(z, targets, **of_python)
            each = fastbp.softmax_cross_entropy(z, targets, **{**of_python, "reduction": "none"})
            same((loss.value, expected.loss), (grad, expected.grad), (losses, each.loss))
            assert weight_sum.value == expected.weight_sum


@pytest.mark.parametrize("name", numbers()["errors"])
def test_elementwise_errors(name, dtype):
    of_python, call = getattr(fastbp, name.lower()), function("elementwise_error", dtype)
    loss, weight_sum = ctypes.c_double(), ctypes.c_double()
    results = ctypes.addressof(loss), ctypes.addressof(weight_sum)
    for n, o, threads in SHAPES:
        z, t = matrix(dtype, n, o, "z"), np.abs(matrix(dtype, n, o, "t")).clip(0, 1)
        given: dict[str, Any] = {"sample_weight": generator(n).uniform(0, 2, n)}
        if name == "SIGMOID_CROSS_ENTROPY":
            given |= {"pos_weight": generator(o).uniform(0.5, 2, o), "label_smoothing": 0.1}
        own = {"HUBER": {"delta": 0.7}, "QUANTILE": {"tau": 0.2}}.get(name, {})
        for choice in ({}, given, {**given, "reduction": "sum"}):
            grad = z.copy()
            in_c, parameter = struct(choice), next(iter(own.values()), 0.0)
            assert call(
                numbers()["errors"].index(name), parameter, n, o, grad, row(grad), t, row(t), in_c, threads, None,
                grad, row(grad), *results,
            ) == DONE  # fmt: skip
            expected = of_python(z, t, **choice, **own)
            same((loss.value, expected.loss), (grad, expected.grad))
            assert weight_sum.value == expected.weight_sum


def test_layers(dtype):
    for n, i, o, threads in (
        (N, I, O, 1),
        (200, 150, 130, 2),
        (200, 150, 130, 0),
        (3, 0, 5, 1),
        (0, 3, 5, 1),
    ):
        x, w, b, delta = (
            matrix(dtype, n, i, "x"),
            matrix(dtype, o, i, "w").T,
            matrix(dtype, 1, o, "b")[0],
            matrix(dtype, n, o, "d"),
        )
        strides = w.strides[0] // w.itemsize, w.strides[1] // w.itemsize
        out, below, gradient, sums = (
            np.empty((n, o), dtype),
            np.empty((n, i), dtype),
            np.empty((i, o), dtype),
            b * 0,
        )
        kind = numbers()["activations"].index("FBP_GELU")
        assert function("linear", dtype)(kind, n, i, o, x, row(x), w, *strides, b, threads, out, o) == DONE
        same((out, fastbp.linear(x, w, b, activation="gelu")))
        assert function("linear", dtype)(0, n, i, o, x, row(x), w, *strides, None, threads, out, o) == DONE
        same((out, fastbp.linear(x, w)))
        backward = function("linear_backward_input", dtype)
        assert backward(kind, n, i, o, delta, row(delta), w, *strides, x, row(x), threads, below, i) == DONE
        same((below, fastbp.linear_backward_input(delta, w, activation="gelu", a=x)))
        assert backward(0, n, i, o, delta, row(delta), w, *strides, None, 0, threads, below, i) == DONE
        same((below, fastbp.linear_backward_input(delta, w)))
        expected = fastbp.linear_backward_weight(x, delta)
        for biases in (sums, None):
            assert (
                function("linear_backward_weight", dtype)(
                    n, i, o, x, row(x), delta, row(delta), threads, gradient, o, biases
                )
                == DONE
            )
            same((gradient, expected.weight), (sums, expected.bias))


OPTIMIZERS = {
    "sgd": SGD(0.1, weight_decay=0.01),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": RMSprop(0.1, momentum=0.5, centered=True),
    "adagrad": Adagrad(0.1),
    "adam": Adam(0.1, amsgrad=True, weight_decay=0.01),
    "adamw": AdamW(0.1),
    "lion": Lion(0.1, weight_decay=0.01),
}


def step_of(optimizer: Optimizer, state: dict[str, np.ndarray], step: int) -> Step:
    """An optimizer's numbers, in C."""
    learning_rate, *rates, weight_decay = optimizer.hyper_parameters(np.dtype(np.float64))
    result = Step(
        numbers()["updates"].index(optimizer.rule), optimizer.decoupled, step, learning_rate, weight_decay
    )
    result.rates[:] = [*rates, 0, 0, 0, 0][:4]
    result.state[:] = [
        state[name].ctypes.data if name in state else None for name in (*optimizer.vectors, *"...")
    ][:4]
    return result


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers(optimizer, dtype):
    assert {each.rule for each in OPTIMIZERS.values()} == {*numbers()["updates"]} - {"muon"}
    for n, threads in ((1, 1), (1003, 1), (130_000, 2), (130_000, 0)):
        optimizer.reset()
        w, g = matrix(dtype, 1, n, "w")[0].copy(), matrix(dtype, 1, n, "g")[0]
        ours = w.copy()
        state = {name: np.zeros_like(kept) for name, kept in optimizer.state(w).items()}
        optimizer.reset()
        for step in (1, 2, 3):
            optimizer.update(w, g)
            in_c = step_of(optimizer, state, step)
            assert function("optimizer_update", dtype)(n, g, in_c, threads, ours) == DONE
            same((ours, w), *((state[name], kept) for name, kept in optimizer.state(w).items()))


def test_wrong_arguments_write_nothing(dtype):
    """Sizes, labels and numbers of lists are looked at."""
    z, out, w = matrix(dtype, 3, 4, "z"), np.full((3, 4), 7, dtype), np.zeros((4, 4), dtype)
    loss = np.full(2, 7.0)
    results = loss.ctypes.data, loss.ctypes.data + 8

    def error(*targets: Any, n: int = 3, c: int = 4, given: Options | None = None) -> int:
        return function("softmax_cross_entropy", dtype)(
            n, c, z, row(z), *targets, given, 1, None, out, 4, *results
        )

    for label in (-1, 4, 2**40, -101):
        assert error(np.array([0, label, 1]), None, 0) == WRONG_LABEL
    assert error(np.array([0, 1, -100]), None, 0, given=struct({"ignore_index": 3})) == WRONG_LABEL
    assert error(None, None, 0) == WRONG_ARGUMENT
    assert error(np.array([0, 1, 2]), z, row(z)) == WRONG_ARGUMENT
    assert error(np.array([0, 1, 2]), None, 0, n=-1) == WRONG_ARGUMENT
    assert error(np.array([0, 1, 2]), None, 0, c=0) == WRONG_ARGUMENT

    for kind in (-1, len(numbers()["errors"])):
        assert function("elementwise_error", dtype)(
            kind, 0.0, 3, 4, z, row(z), z, row(z), None, 1, None, out, 4, *results
        ) == WRONG_ARGUMENT  # fmt: skip
    for kind in (-1, len(numbers()["activations"])):
        assert function("activate", dtype)(kind, 3, 4, z, row(z), 1, out, 4) == WRONG_ARGUMENT
        assert (
            function("activation_backward", dtype)(kind, 3, 4, z, row(z), z, row(z), 1, out, 4)
            == WRONG_ARGUMENT
        )
        layer = kind, 3, 4, 4, z, row(z), w, 4, 1
        assert function("linear", dtype)(*layer, None, 1, out, 4) == WRONG_ARGUMENT
        assert function("linear_backward_input", dtype)(*layer, z, row(z), 1, out, 4) == WRONG_ARGUMENT
    assert function("softmax", dtype)(3, -1, z, row(z), 1, out, 4) == WRONG_ARGUMENT
    assert (
        function("linear_backward_weight", dtype)(-1, 4, 4, z, row(z), z, row(z), 1, out, 4, None)
        == WRONG_ARGUMENT
    )
    update = function("optimizer_update", dtype)
    for wrong in (
        Step(-1, 0, 1),
        Step(5, 0, 1),
        Step(6, 0, 1),
        Step(0, 0, 0),
        Step(3, 0, 1),
        Step(0, 0, 1, 0.1, 0, (0.9,)),
    ):
        assert update(12, z, wrong, 1, out) == WRONG_ARGUMENT
    assert (out == 7).all() and (loss == 7).all()


def test_no_memory_is_told():
    """Of a product whose packed blocks no machine holds: the operands are one row each, again and again."""
    x, out = np.ones(8, np.float32), np.full(8, 7, np.float32)
    size = 2**61
    assert function("softmax_cross_entropy", np.float32)(
        size, 1, x, 0, None, x, 0, None, 1, None, out, 0, *[out.ctypes.data] * 2
    ) == NO_MEMORY  # fmt: skip
    assert (out == 7).all()


# -- Python is left alone --------------------------------------------------------------------------------------------------------

ROWS = 300_000


def long_call() -> tuple[np.ndarray, Callable[[], int]]:
    """Some tenths of a second, in which a call from Python would look for signals several times"""
    x, out = np.ones(16, np.float32), np.full((ROWS, 16), 7, np.float32)
    gelu = numbers()["activations"].index("FBP_GELU")
    weight = np.ones((16, 16), np.float32)
    call = function("linear", np.float32)
    return out, lambda: call(gelu, ROWS, 16, 16, x, 0, weight, 16, 1, None, 1, out, 16)


def ended_without_the_gil() -> bool:
    """Whether a call that began in another thread wrote its last number while this thread kept the GIL."""
    out, call = long_call()
    statuses: list[int] = []
    begun: list[bool] = []

    def run() -> None:
        begun.append(True)
        statuses.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    while not begun:  # an Event would hand the GIL over before the call
        time.sleep(1e-4)
    had_ended, limit = bool(statuses), time.monotonic() + 5
    while (out[0, 0] == 7 or out[-1, -1] == 7) and time.monotonic() < limit:
        pass
    ended = out[0, 0] != 7 and out[-1, -1] != 7
    thread.join()
    assert statuses == [DONE]
    return ended and not had_ended


def test_a_call_never_takes_the_gil():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds: a thread that has the GIL keeps it until it gives it away
    try:
        assert any(ended_without_the_gil() for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


@needs_signals
def test_signals_wait_for_the_caller():
    class Interrupted(Exception):
        pass

    out, call = long_call()
    with raising(Interrupted) as send, pytest.raises(Interrupted):
        send(0.005)
        call()
        for _ in range(100):
            pass
    assert (out != 7).all(), "it has ended before"


# -- programs --------------------------------------------------------------------------------------------------------------------


def block(language: str, number: int = 0) -> str:
    """A program of the page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )[number]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FASTBP_", "PYTEST_"))}
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules with fastbp as it is installed: the package of the setup, with the kernels that are here."""
    here = Path(fastbp.__file__).parent
    if here.parent != ROOT:
        return here.parent
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    done = run(command, ROOT, CC=NO_COMPILER)
    assert done.returncode == 0, done.stderr
    for kernel in here.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        shutil.copyfile(kernel, folder / "fastbp" / kernel.relative_to(here))
    return folder


TRAIN = """
import numpy as np, fastbp, softmax_regression
assert fastbp.__file__.startswith({installed!r}), fastbp.__file__
x, labels = fastbp.datasets.load_digits()
x = np.ascontiguousarray(x, np.float32)
weight, bias = np.zeros((64, 10), np.float32), np.zeros(10, np.float32)
loss = softmax_regression.train(x, labels.astype(np.int64), weight, bias, 0.5, 5)
w, b = np.zeros((64, 10), np.float32), np.zeros(10, np.float32)
for _ in range(5):
    error = fastbp.softmax_cross_entropy(fastbp.linear(x, w, b), labels)
    gradient = fastbp.linear_backward_weight(x, error.grad)
    fastbp.sgd_update(w.reshape(-1), gradient.weight.reshape(-1), learning_rate=0.5)
    fastbp.sgd_update(b, gradient.bias, learning_rate=0.5)
print(np.float32(loss) == error.loss, np.array_equal(w, weight), np.array_equal(b, bias), bool(loss < 2))
"""

ANOTHER_TYPE = """
import fastbp.kernels
functions = fastbp.kernels.__pyx_capi__
for name in functions:
    if "linear" in name and "backward" not in name:
        functions[name] = functions["__pyx_fuse_0softmax"]
import softmax_regression
"""


def test_a_cython_program(installed, tmp_path):
    """That of the page, built elsewhere from the installed package, trains as Python does; another ABI is refused."""
    pytest.importorskip("Cython")
    (tmp_path / "softmax_regression.pyx").write_text(block("cython"), encoding="utf-8")
    (tmp_path / "setup.py").write_text(block("py"), encoding="utf-8")
    path = {"PYTHONPATH": str(installed)}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = run(build, tmp_path, CFLAGS="-O0 -Werror=incompatible-pointer-types", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run([sys.executable, "-c", TRAIN.format(installed=str(installed))], tmp_path, **path)
    assert done.stdout == "True True True True\n", done.stdout + done.stderr
    done = run([sys.executable, "-c", ANOTHER_TYPE], tmp_path, **path)
    message = r"TypeError: C function fastbp\.kernels\..*linear.* has wrong signature \(expected int \(int, Py_ssize_t"
    assert re.search(message, done.stderr), done.stdout + done.stderr


def test_a_c_program(installed, tmp_path):
    """That of the page writes what the page shows; compiled with the header of another ABI, or a later one, it is refused."""
    config = sysconfig.get_config_vars()
    library = f"python{config['LDVERSION']}"
    compiler = (os.environ.get("CC") or "cc").split()[0]
    if not shutil.which(compiler) or not list(Path(config["LIBDIR"]).glob(f"lib{library}*")):
        pytest.skip("no C compiler, or no Python to link with")
    environment = {"PYTHONPATH": os.pathsep.join([str(installed), *filter(None, sys.path)])}

    def output(name: str, **changes: tuple[str, str]) -> str:
        """Of the program, compiled with changed headers."""
        folder = tmp_path / name
        shutil.copytree(installed / "fastbp/include", folder)
        for path, (old, new) in changes.items():
            header = folder / path.replace("_", ".")
            assert old in header.read_text(encoding="utf-8")
            header.write_text(header.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        (folder / "program.c").write_text(block("c"), encoding="utf-8")
        link = [f"-L{config['LIBDIR']}", f"-Wl,-rpath,{config['LIBDIR']}", f"-l{library}"]
        flags = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{config['INCLUDEPY']}"]
        done = run([compiler, *flags, "program.c", "-o", "program", *link], folder)
        assert done.returncode == 0, done.stderr
        done = run([str(folder / "program")], folder, **environment)
        return done.stdout + "".join(done.stderr.splitlines()[-1:])

    version = fastbp.__version__
    assert output("same") == block("text").replace("fastbp 0.1.0", f"fastbp {version}")
    assert output("another", fastbp_h=("#define FBP_ABI 1\n", "#define FBP_ABI 2\n")) == (
        f"ImportError: fastbp.h: this program was compiled for ABI 2 of fastbp, and fastbp {version} has ABI 1: compile it again"
    )
    more = "FBP_FUNCTION(activate,", "FBP_FUNCTION(to_come, (void))\nFBP_FUNCTION(activate,"
    assert output("later", functions_def=more) == (
        f"ImportError: fastbp.h: this program was compiled for a later fastbp than {version}: install that one"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("softmax", "float32", 2), ImportError, f"abi: got 2, expected 1, that of fastbp {fastbp.__version__}: see what"),
        (("softmin", "float32", 1), ValueError, "name: got 'softmin', expected one of activate, activation_backward, softmax"),
        (("softmax", "float16", 1), ValueError, "dtype: got 'float16', expected one of float32, float64"),
    ],
)  # fmt: skip
def test_what_address_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        fastbp.kernels.address(*arguments[:2], abi=arguments[2])


def test_fastbp_imports_without_it():
    code = "import sys, fastbp; print('fastbp.kernels' in sys.modules)"
    assert run([sys.executable, "-c", code], ROOT).stdout == "False\n"


if not pytestmark.args[0]:
    import fastbp.kernels
