"""fastbp in programs that divide their work themselves: the recipes of docs/embedding.md, and what they stand on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import NATIVE_ONLY, _backend

import fastbp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/embedding.md"
BLOCK = r"^```{}\n(.*?)^```"
PEERS = {"joblib": "joblib", "Dask": "dask", "Numba": "numba"}


def recipes() -> dict[str, tuple[str, str]]:
    """For each section of the page its program, and what it prints."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:] if PAGE.exists() else []

    def block(language: str, section: str) -> str:
        (found,) = re.findall(BLOCK.format(language), section, re.MULTILINE | re.DOTALL)
        return found

    return {each.split("\n")[0]: (block("py", each), block("text", each)) for each in sections}


@pytest.mark.parametrize("name", recipes())
def test_recipe(name, tmp_path):
    """It prints what the page shows."""
    if name in PEERS:
        pytest.importorskip(PEERS[name])
    if name == "Numba":
        pytest.importorskip("fastbp.kernels")
    if name == "Dask":
        pytest.importorskip("dask.array")
    program, shown = recipes()[name]
    (tmp_path / "recipe.py").write_text(program, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(Path(fastbp.__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "recipe.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == shown, done.stdout + done.stderr


ROWS = 200_000


def seen_at_work(attempts: int = 20) -> bool:
    """Whether a call in another thread began to write while this one, which had the GIL, never gave it away."""
    x, weight = np.ones((ROWS, 16), np.float32), np.ones((16, 16), np.float32)
    begun: list[bool] = []

    def call(out: np.ndarray) -> None:
        begun.append(True)
        _backend.kernels.linear(x, weight, None, "gelu", out, 1)  # NumPy gives it away in the checks

    for _ in range(attempts):
        begun.clear()
        out = np.full((ROWS, 16), 7, np.float32)
        thread = threading.Thread(target=call, args=(out,))
        thread.start()
        while not begun:  # an Event would hand the GIL over before the call
            time.sleep(1e-4)
        untouched, limit = out[0, 0] == out[-1, -1] == 7, time.monotonic() + 5
        while out[0, 0] == out[-1, -1] == 7 and time.monotonic() < limit:
            pass
        touched = not out[0, 0] == out[-1, -1] == 7
        thread.join()
        assert (out != 7).all()
        if untouched and touched:
            return True
    return False


@NATIVE_ONLY
def test_a_call_gives_the_gil_away():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds: a thread that has the GIL keeps it until it gives it away
    try:
        assert seen_at_work()
    finally:
        sys.setswitchinterval(interval)
