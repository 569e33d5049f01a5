"""Some of the campaigns that `make` runs as a whole; docs/reliability.md tells what they found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NATIVE_ONLY

import fastbp

CAMPAIGN = Path(__file__).with_name("failures.py")


@NATIVE_ONLY
@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("cc")), reason="needs Linux and a C compiler"
)
def test_without_memory():
    names = ["softmax_cross_entropy, two", "linear_softmax", "fit, Adam", "evaluate", "save", "load"]
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    command = [sys.executable, str(CAMPAIGN), "--most", "30", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    failures = int(done.stdout.split(" failures, of which")[0].splitlines()[-1])
    assert failures > 100
