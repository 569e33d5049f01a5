"""The machine: its description, its measured peaks, and what holds every library to the same part of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "torch", "jax", "optax", "scikit-learn", "numba", "onnxruntime")
COPY_BYTES = 1 << 29  # per array: beyond every cache
PEAK_SAMPLE_S = 0.03
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",  # XLA, under JAX
)

# What each library calls the instruction set, so that all can be held to the same one.
ISA_ENVIRONMENT = {
    "avx2": {
        "FASTBP_ISA": "avx2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # YNNPACK, which XLA calls for products, obeys nothing; without it oneDNN takes its place.
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",  # else those of the machine are added
    },
}

# PyTorch is told when it is imported, by fastbp's own words.
JAX_PRECISION = {"highest": "float32", "high": "tensorfloat32", "medium": "bfloat16"}


def environment(threads: int, isa: str | None, precision: str, scratch: Path) -> dict[str, str]:
    """Return the environment of a process that measures with `threads` threads; libraries read it once.

    `scratch` is a folder of this run alone: from a lasting cache torch.compile takes code that was compiled
    for another instruction set, and computes nonsense.
    """
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / f"inductor-{threads}")}
    words = {"FASTBP_PRECISION": precision, "JAX_DEFAULT_MATMUL_PRECISION": JAX_PRECISION[precision]}
    held = {**counts, **caches, **words, **ISA_ENVIRONMENT.get(isa or "", {})}
    return {**os.environ, **held, "JAX_PLATFORMS": "cpu"}


@contextmanager
def confined(threads: int) -> Iterator[None]:
    """Let processes started inside run on so many cores only: a library without a setting obeys as well."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    if threads > len(cores):
        print(f"note: {threads} threads share {len(cores)} cores")
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class Peaks:
    """The best rates measured, in 1e9 floating point operations and 1e9 bytes per second; None: no way to."""

    gflops: float | None
    copy_gbs: float


def measure_peaks(threads: int, dtype: np.dtype) -> Peaks:
    """Measure both with `threads` threads at once; the best of several samples, since a peak is a bound."""
    return Peaks(_fma_peak(threads, dtype.itemsize), _copy_peak(threads))


def _fma_peak(threads: int, itemsize: int) -> float | None:
    """Return GFLOP/s of multiply-adds in registers, the sum over threads; None without compiled kernels."""
    try:
        from fastbp._kernels import fma_rate
    except ImportError:
        return None
    repetitions = 1000
    while _seconds(partial(fma_rate, itemsize, repetitions)) < PEAK_SAMPLE_S:
        repetitions *= 2
    with ThreadPoolExecutor(threads) as pool:
        return max(sum(pool.map(lambda _: fma_rate(itemsize, repetitions), range(threads))) for _ in range(7))


def _copy_peak(threads: int) -> float:
    """Return GB/s of `np.copyto` between two arrays, bytes read plus bytes written, split among threads."""
    source = np.ones((threads, COPY_BYTES // 8 // threads))
    target = np.ones_like(source)
    with ThreadPoolExecutor(threads) as pool:
        best = min(_seconds(lambda: list(pool.map(np.copyto, target, source))) for _ in range(5))
    return 2e-9 * source.nbytes / best


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def describe() -> dict[str, str]:
    """Return what times mean little without: processor, cores, system, versions, instruction set."""
    import fastbp
    from fastbp import _backend

    facts = {
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, of which {os.getloadavg()[0]:.1f} were busy in the last minute",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "fastbp": f"{fastbp.__version__} from {Path(fastbp.__file__).parent}",
        "backend": _backend.name,
    }
    if _backend.name == "native":
        from fastbp import _kernels

        facts["backend"] += f", {_kernels.isa()} (available: {' '.join(_kernels.available_isas())})"
        name = fastbp.get_precision()
        facts["precision"] = f"{name}: products of {_kernels.unit(name) or 'float32'}"
    else:
        facts["backend"] += ": no compiled kernels, so fastbp is its own NumPy twin here"
    return facts


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    """Return the installed version without importing anything, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def prefer_compiled() -> None:
    """Let an installed fastbp win over the source tree, the current folder, if that holds no compiled kernels."""
    kernels = Path("fastbp/_kernels").glob("dispatch.*")
    built = any(path.name.endswith(tuple(EXTENSION_SUFFIXES)) for path in kernels)
    if not built and sys.path and sys.path[0] in ("", os.getcwd()):
        sys.path.append(sys.path.pop(0))
