"""A share of each campaign of random calls, files, signals and long runs; `make` runs as much of them as one wants.

Each in a process of its own, since they watch the time by themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NATIVE_ONLY

import fastbp

SHARES = {
    "fuzz.py": ["--batch", "--calls", "400"],
    "fuzz_files.py": ["--runs", "40"],
    "signals.py": ["--signals", "30"],
    "soak.py": ["--seconds", "0", "threads", "forks", "interpreters"],
}


@NATIVE_ONLY
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("script", SHARES)
def test_a_share_of(script: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    command = [sys.executable, str(Path(__file__).with_name(script)), *SHARES[script]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
