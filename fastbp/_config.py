"""What this installation is: version, backend, instruction set, threads, compiler, headers."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import _backend, _checks
from fastbp.precision import get_precision

__version__ = "0.1.0"


def show_config() -> dict[str, Any]:
    """Print what runs here, and return it.

    Returns
    -------
    dict
        ``version``; ``backend``, "native" (compiled) or "reference" (the NumPy twin); ``isa``, the instruction set in use, and
        ``available_isas``, all that this CPU can run; ``precision``, the one in use, and ``products``, what
        those of float32 are formed of here in each precision; ``threads``, how many a call uses by default; ``threading``,
        "own", or "none" where the kernels were compiled without threads; ``compiler``; ``numpy``, ``python``, ``machine``. What
        only compiled kernels have is None on the twin.

    Examples
    --------
    >>> config = show_config()  # doctest: +ELLIPSIS
    version         0.1.0
    ...
    >>> config["backend"] in ("native", "reference")
    True
    """
    native = _backend.native()
    config = {
        "version": __version__,
        "backend": _backend.name,
        "isa": native and native.isa(),
        "available_isas": native and native.available_isas(),
        "precision": get_precision(),
        "products": {name: (native and native.unit(name)) or "float32" for name in _checks.PRECISIONS},
        "threads": _backend.thread_count(None),
        "threading": native and ("own" if native.has_threads() else "none"),
        "compiler": native and native.compiler(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    notes = {
        "backend": " (compiled kernels)"
        if native
        else " (the NumPy twin: the compiled kernels are not in use)"
    }
    for key, value in config.items():
        if isinstance(value, dict):
            value = [f"{name}: {what}" for name, what in value.items()]
        shown = ", ".join(value) if isinstance(value, list) else "-" if value is None else value
        print(f"{key:<15} {shown}{notes.get(key, '')}")
    return config


def get_include() -> str:
    """The folder of ``fastbp.h``, for C compilers and for Cython modules that ``cimport fastbp.kernels``.

    Examples
    --------
    >>> from pathlib import Path
    >>> (Path(get_include()) / "fastbp.h").exists()
    True
    """
    package = Path(__file__).parent
    installed = package / "include"
    return str(installed if installed.exists() else package.parent / "src_c")
