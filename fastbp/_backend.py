"""The only place that picks the compiled kernels or their NumPy twin.

``FASTBP_BACKEND=native`` makes a missing extension an error, ``FASTBP_BACKEND=reference`` chooses the twin.
Callers write ``_backend.kernels.f(...)`` at call time, so that :func:`use` can switch the whole package.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from fastbp import _threadpoolctl

if TYPE_CHECKING:
    from fastbp._kernel_api import Kernels, NativeKernels

name: str
kernels: Kernels


def _native() -> NativeKernels:
    import fastbp._kernels  # `from fastbp import` would hide that there are none

    return fastbp._kernels


def _reference() -> Kernels:
    from fastbp import _reference

    return _reference


_BACKENDS: dict[str, Callable[[], Kernels]] = {"native": _native, "reference": _reference}


def _pick(wanted: str | None) -> tuple[str, Kernels]:
    """The name and the module of the backend asked for; of the best one there is where none was."""
    if wanted:
        if wanted not in _BACKENDS:
            raise ImportError(f"FASTBP_BACKEND: got {wanted!r}, expected one of {', '.join(_BACKENDS)}")
        return wanted, _BACKENDS[wanted]()
    try:
        return "native", _native()
    except ModuleNotFoundError as missing:  # an extension that is there but does not load is an error
        if (
            missing.name == "fastbp._kernels"
        ):  # the wheel for any platform, which was built without them on purpose
            return "reference", _reference()
        # Without --no-cache-dir pip would install the wheel that it made and kept when there was no compiler.
        warnings.warn(
            f"fastbp runs on its NumPy twin, many times slower: the compiled kernels are not installed ({missing}). "
            "Install a C compiler, then `pip install --force-reinstall --no-deps --no-cache-dir fastbp`, or the folder that "
            "it was installed from in place of the last word; or set FASTBP_BACKEND=reference to accept this.",
            RuntimeWarning,
            stacklevel=4,
        )
        return "reference", _reference()


@contextlib.contextmanager
def use(wanted: str) -> Iterator[None]:
    """Switch this process to the backend `wanted` ("native" or "reference") inside a ``with`` block."""
    global name, kernels
    before = name, kernels
    name, kernels = _pick(wanted)
    try:
        yield
    finally:
        name, kernels = before


def native() -> NativeKernels | None:
    """The kernels in use, if they are the compiled ones."""
    return cast("NativeKernels", kernels) if name == "native" else None


def thread_count(n_threads: int | None) -> int:
    """The number of threads a call may use: what was asked for, else what `show_config()` tells; 1 on the twin."""
    compiled = native()
    if compiled is None:
        return 1
    return compiled.max_threads() if n_threads is None else min(n_threads, compiled.thread_limit())


name, kernels = _pick(os.environ.get("FASTBP_BACKEND"))
_threadpoolctl.register()
