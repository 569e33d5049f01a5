"""How much memory of the process a call takes."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fastbp import _backend

Result = TypeVar("Result")


def growth(call: Callable[[], Result]) -> tuple[Result, int | None]:
    """Make the call. Return its result, and by how many bytes the process grew, at its peak: the result, too.

    None where Linux is not the system. What a large array of fastbp left is given to the system before, for the
    call would have it for nothing: an array that is too large for it takes its place, of which no page is used. So is
    what only a cycle of references still holds.
    """
    gc.collect()
    _backend.kernels.new_array((1 << 31,), np.dtype(np.uint8))
    before = _peak(reset=True)
    result = call()
    after = _peak()
    return result, None if before is None or after is None else after - before


def _peak(reset: bool = False) -> int | None:
    """Return the most bytes that the process has held since the last reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found.group(1)) if found else None
