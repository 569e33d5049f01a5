"""Libraries that are loaded before all others and make calls of the system fail: tests/c/failing_*.c."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "c"


def preloaded(name: str) -> ctypes.CDLL:
    """The library made of tests/c/<name>.c. A program without it starts anew, with it, here."""
    loaded = Path(os.environ.get("LD_PRELOAD", ""))
    if loaded.stem == name:
        del os.environ["LD_PRELOAD"]  # of what this process starts
        loaded.unlink()  # what is loaded stays
        loaded.parent.rmdir()
        return ctypes.CDLL(None)
    target = Path(tempfile.mkdtemp()) / f"{name}.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-pthread", SOURCES / f"{name}.c", "-o", target, "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"LD_PRELOAD": str(target)})
