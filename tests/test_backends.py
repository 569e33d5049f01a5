"""The two backends have one face; the instruction set, threads and processes do what was asked for."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pairs
import pytest
from conftest import ISAS, NATIVE_ONLY, THINNED, generator, running_on, shared_by
from forks import exit_code, fork

import fastbp
from fastbp import _backend, _kernel_api, _reference

# -- names and signatures ------------------------------------------------------------------------------------------------------


def promised(protocol: type) -> dict[str, Callable]:
    """What a protocol of `_kernel_api` itself names; a class is a property there."""
    return {
        name: value.fget if isinstance(value, property) else value
        for name, value in vars(protocol).items()
        if not name.startswith("_")
    }


PROMISED, ONLY_NATIVE = promised(_kernel_api.Kernels), promised(_kernel_api.NativeKernels)
FUNCTIONS = PROMISED.keys() - {"Network"}


def public_callables(module: ModuleType) -> dict[str, Callable]:
    """What a backend offers: not what it imports from elsewhere, nor its submodules."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "").startswith(module.__name__)
    }


REFERENCE = public_callables(_reference)


def parameters(function: Callable) -> OrderedDict[str, object]:
    """Names, in order, with their defaults; `self` aside."""
    return OrderedDict(
        (name, p.default) for name, p in inspect.signature(function).parameters.items() if name != "self"
    )


@NATIVE_ONLY
def test_the_same_names():
    from fastbp import _kernels

    assert set(_kernels.__all__) == set(public_callables(_kernels))
    assert set(REFERENCE) == set(PROMISED)
    assert set(public_callables(_kernels)) == set(PROMISED) | set(ONLY_NATIVE)


@NATIVE_ONLY
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_same_signatures(name):
    from fastbp import _kernels

    signature = parameters(PROMISED[name])
    assert parameters(getattr(_kernels, name)) == parameters(REFERENCE[name]) == signature
    without_threads = ("activation_facts", "first_bad_label", "new_array", "use_precision")
    assert name in without_threads or list(signature)[-1] == "n_threads"


@NATIVE_ONLY
@pytest.mark.parametrize("name", sorted(ONLY_NATIVE))
def test_the_signatures_of_the_compiled_kernels_alone(name):
    from fastbp import _kernels

    assert parameters(getattr(_kernels, name)) == parameters(ONLY_NATIVE[name])


@NATIVE_ONLY
def test_the_same_methods():
    from fastbp import _kernels

    ours, theirs, api = _kernels.Network, _reference.Network, _kernel_api.Network
    methods = [name for name, value in promised(api).items() if name != "n_threads"]
    for network in (ours, theirs):
        assert methods == [
            key for key, value in vars(network).items() if inspect.isroutine(value) and key[0] != "_"
        ]
        for method in methods:
            assert parameters(getattr(network, method)) == parameters(getattr(api, method))
    # A compiled class does not tell the signature of its constructor, but takes its arguments by name.
    given = {
        "layer_sizes": (1, 1),
        "activations": (),
        "loss": "squared_error",
        "parameters": np.zeros(2),
        "n_threads": 1,
        "dropout": (),
        "seed": 7,
        "label_smoothing": 0.0,
        "parameter": 0.0,
        "precision": "high",
    }
    assert list(given) == list(parameters(theirs)) == list(parameters(api.__init__))
    assert all(
        getattr(ours(**given), key) is value or getattr(ours(**given), key) == value
        for key, value in given.items()
        if key
        not in ("seed", "label_smoothing", "parameter", "precision")  # which the engine keeps to itself
    )


# -- which backend, which instruction set --------------------------------------------------------------------------------------

WITHOUT_KERNELS = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("fastbp._kernels"):
            raise ModuleNotFoundError("No module named 'fastbp._kernels.dispatch'", name="fastbp._kernels.dispatch")
sys.meta_path.insert(0, Missing())
"""
WHICH = "import fastbp; print(fastbp._backend.name, getattr(fastbp._backend.kernels, 'isa', lambda: '')())"


def python(code: str, **environment: str) -> tuple[int, str, str]:
    """Run a program in a new interpreter, with FASTBP_* as given: (exit code, output, errors)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTBP_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=inherited | environment,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def last_line(errors: str) -> str:
    return errors.splitlines()[-1]


def test_the_reference_can_be_forced():
    assert python(WHICH, FASTBP_BACKEND="reference") == (0, "reference", "")


@NATIVE_ONLY
def test_native_is_the_default():
    assert python(WHICH) == (0, f"native {ISAS[0]}", "")
    assert python(WHICH, FASTBP_BACKEND="native") == (0, f"native {ISAS[0]}", "")


def test_without_kernels_there_is_one_warning():
    code, output, errors = python(WITHOUT_KERNELS + WHICH)
    assert (code, output) == (0, "reference")
    assert (
        errors.count("RuntimeWarning") == 1
        and "NumPy twin" in errors
        and "FASTBP_BACKEND=reference" in errors
    )


def test_without_kernels_native_is_an_error():
    code, _, errors = python(WITHOUT_KERNELS + WHICH, FASTBP_BACKEND="native")
    assert code == 1
    assert last_line(errors) == "ModuleNotFoundError: No module named 'fastbp._kernels.dispatch'"


def test_a_package_that_was_made_without_kernels_does_not_warn():
    """Then there is not even their folder."""
    never = WITHOUT_KERNELS.replace("._kernels.dispatch", "._kernels")
    assert python(never + WHICH) == (0, "reference", "")


def test_an_unknown_backend_is_an_error():
    code, _, errors = python(WHICH, FASTBP_BACKEND="cuda")
    assert code == 1
    assert last_line(errors) == "ImportError: FASTBP_BACKEND: got 'cuda', expected one of native, reference"


FINGERPRINT = """
import numpy as np, zlib
def fingerprint(kernels):
    x = np.sin(np.arange(50 * 999.0)).reshape(50, 999)
    sums = np.empty(50)
    kernels.logsumexp(x, sums, 1)
    few = x.ravel()[: 128 * 390].astype("float32").reshape(128, 390)
    product = np.empty((128, 128), "float32")
    kernels.linear(few, few.T, None, "identity", product, 1)
    return zlib.crc32(sums.tobytes() + product.tobytes())
"""


@NATIVE_ONLY
def test_the_forced_instruction_set_runs():
    """Each adds in an order of its own, so a sum tells which one ran, whatever name it reports."""
    space: dict = {}
    exec(FINGERPRINT, space)
    prints = {}
    for isa in ISAS:
        with running_on(isa) as kernels:
            assert kernels.isa() == isa
            prints[isa] = space["fingerprint"](kernels)
    assert len(set(prints.values())) == len(ISAS), "two instruction sets cannot be told apart"
    code = FINGERPRINT + "import fastbp._kernels as k; print(k.isa(), fingerprint(k))"
    for isa in ISAS:
        assert python(code, FASTBP_ISA=isa) == (0, f"{isa} {prints[isa]}", "")


@NATIVE_ONLY
@pytest.mark.parametrize("isa", ["avx1024", "AVX2", "neon,generic", "absent"])
def test_an_unavailable_instruction_set_is_an_error(isa):
    if isa == "absent":  # one that exists, but not here
        isa = next(name for name in ("neon", "avx2") if name not in ISAS)
    for environment in ({}, {"FASTBP_BACKEND": "native"}):
        code, _, errors = python(WHICH, FASTBP_ISA=isa, **environment)
        message = (
            f"FASTBP_ISA: instruction set: got {isa!r}, expected one that this CPU can run: {', '.join(ISAS)}"
        )
        assert code == 1 and last_line(errors) == f"ImportError: {message}"
    with _backend.use("native"):
        before = _backend.kernels.isa()
        with pytest.raises(ValueError, match="expected one that this CPU can run"):
            _backend.kernels.use_isa(isa)
        assert _backend.kernels.isa() == before


def test_the_instruction_set_means_nothing_to_the_reference():
    assert python(WHICH, FASTBP_ISA="avx1024", FASTBP_BACKEND="reference") == (0, "reference", "")


def test_switching_backends_is_undone():
    before = _backend.name, _backend.kernels
    with _backend.use("reference"):
        assert (_backend.name, _backend.kernels) == ("reference", _reference)
    assert (_backend.name, _backend.kernels) == before
    with pytest.raises(ZeroDivisionError), _backend.use("reference"):
        raise ZeroDivisionError
    assert (_backend.name, _backend.kernels) == before


def test_show_config(backend, capsys):
    config = fastbp.show_config()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(config)
    assert config["version"] == fastbp.__version__ == lines["version"]
    assert config["backend"] == backend == lines["backend"].split()[0]
    assert config["numpy"] == np.__version__ and config["threads"] >= 1
    if backend == "reference":
        assert (
            config["isa"] is config["available_isas"] is config["compiler"] is None and config["threads"] == 1
        )
        assert "NumPy twin" in lines["backend"] and lines["isa"] == "-"
    else:
        assert config["available_isas"] == ISAS and config["isa"] in ISAS
        assert lines["available_isas"] == ", ".join(ISAS) and len(config["compiler"]) > 3
        assert config["threading"] in ("own", "none") and config["threads"] == _backend.kernels.max_threads()


def test_the_rate_of_multiply_adds(isa):
    """A rate, and not a test of the machine: positive, and of the order of what a core can do."""
    for element_size in (4, 8):
        assert 0.01 < _backend.kernels.fma_rate(element_size, 10_000) < 10_000


# -- threads and processes -----------------------------------------------------------------------------------------------------


def large_calls() -> list:
    """Calls of the public functions that are large enough to be shared out, each a function of the number of threads."""
    rng = generator("large")
    x = (8 * rng.standard_normal((600, 500))).astype(np.float32)
    w, labels = rng.standard_normal((500, 200)).astype(np.float32), rng.integers(0, 500, 600)
    t = rng.integers(0, 2, (600, 500))
    return [
        lambda n: fastbp.softmax_cross_entropy(x, labels, n_threads=n),
        lambda n: fastbp.sigmoid_cross_entropy(x, t, n_threads=n),
        lambda n: (fastbp.softmax(x, n_threads=n),),
        lambda n: (fastbp.gelu(x, n_threads=n),),
        lambda n: (fastbp.linear(x, w, n_threads=n),),
        lambda n: fastbp.linear_backward_weight(x, x[:, :70], n_threads=n),
        lambda n: fastbp.linear_softmax_cross_entropy(x, x.T, labels, max_memory=2**23, n_threads=n),
        lambda n: fastbp.MLP([500, 64, 500], seed=0, n_threads=n).gradients(x, labels),
    ]


@NATIVE_ONLY
def test_large_calls_are_shared_out():
    with _backend.use("native"):
        for call in large_calls():
            with shared_by(2):
                call(2)


def bits(answer) -> list[bytes]:
    """Every array of an answer, or of the tuples within it."""
    return [
        part
        for each in answer
        for part in (bits(each) if isinstance(each, tuple) else [np.asarray(each).tobytes()])
    ]


def test_concurrent_calls(backend):
    """Python threads that call at once, each with outputs of its own, get the bits that one would; with 1 and with 2 threads."""
    calls = large_calls()
    want = [bits(call(1)) for call in calls]
    gate = threading.Barrier(4)

    def worker(first: int) -> bool:
        gate.wait(timeout=30)
        order = [(first + i) % len(calls) for i in range(len(calls))]
        return all(bits(calls[i](1 + (first + i) % 2)) == want[i] for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(worker, range(4)))


@NATIVE_ONLY
def test_kernels_leave_the_gil():
    """While one thread is in a kernel another runs Python: it sees the clock in the middle half of a call."""
    x = generator("gil").standard_normal((4000, 1000)).astype(np.float32)
    calls: list[tuple[float, float]] = []

    def work():
        for _ in range(5):
            start = time.perf_counter()
            fastbp.gelu(x, out=x, n_threads=1)
            calls.append((start, time.perf_counter()))

    with running_on(ISAS[-1]):
        thread = threading.Thread(target=work)
        thread.start()
        seen = []
        while thread.is_alive():
            seen.append(time.perf_counter())
            time.sleep(0)
    middles = [(start + (end - start) / 4, end - (end - start) / 4) for start, end in calls]
    assert any(low < now < high for low, high in middles for now in seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes(backend):
    """After threads have run in the parent, with as many asked for in the child."""
    calls = large_calls()
    want = [bits(call(2)) for call in calls]
    assert exit_code(fork(lambda: [bits(call(2)) for call in calls] == want)) == 0
    assert [bits(call(2)) for call in calls] == want  # and the parent goes on


# -- processors that are not here ----------------------------------------------------------------------------------------------

EMULATOR = shutil.which("qemu-x86_64")
OLDER = {  # which instruction sets there are
    "Nehalem": ["generic"],
    "Haswell": ["avx2", "generic"],
    "Haswell,-fma": ["generic"],  # as some of VIA's are
    "Haswell,-avx2": ["generic"],
}
ELSEWHERE = """
import numpy as np, fastbp
from fastbp import _backend
print(*_backend.kernels.available_isas())
net = fastbp.MLP([20, 30, 3], seed=0)
x, t = np.linspace(-1, 1, 640).reshape(32, 20), np.arange(32) % 3
net.step(x, t, fastbp.SGD(0.1, momentum=0.9))
print(net.loss(x, t))
"""


@NATIVE_ONLY
@pytest.mark.skipif(
    EMULATOR is None or "avx2" not in ISAS, reason="there is no qemu-x86_64, or nothing to emulate with it"
)
@THINNED
@pytest.mark.parametrize("processor", [*OLDER] if pairs.exhaustive else ["Haswell", "Haswell,-fma"])
def test_an_older_processor(processor):
    """What is compiled in and cannot run there is left alone, from the import on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTBP_")}
    environment["OPENBLAS_CORETYPE"] = "Nehalem"  # OpenBLAS takes every processor with AVX2 for one with FMA
    command = [sys.executable, "-c", ELSEWHERE]
    (found, loss), (_, here) = (
        subprocess.check_output([*on, *command], text=True, env=environment, timeout=240).splitlines()
        for on in ([EMULATOR, "-cpu", processor], [])
    )
    assert found.split() == OLDER[processor]
    assert float(loss) == pytest.approx(float(here), rel=1e-5)
