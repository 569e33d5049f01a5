"""A sample of the campaign of `make ulps`, and the inputs that gave its largest errors."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import lru_cache

import pytest
from campaigns import ulps
from conftest import NATIVE_ONLY
from tolerances import ROUNDING


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_some_of_float32(tmp_path):
    """Every 131 071st number: of all exponents, and of both signs."""
    program = ulps.build(tmp_path, "-O0", "-DFBP_LOOPS_STAY")
    done = subprocess.run([program, "131071", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results, beyond = done.stdout.splitlines()[-1].split(" results, ")
    assert int(results) > 10**6 and beyond == "0 of them beyond their bound"


@lru_cache
def worst_inputs():
    cases = json.loads(ulps.WORST.read_text())
    assert len(cases) > 100
    return [(case, ulps.from_row(case)) for case in cases]


@NATIVE_ONLY
def test_worst_inputs(isa):
    """Within the bounds, and no farther off than they were found to be."""
    for case, problem in worst_inputs():
        found = ulps.worst_of(problem, isa)[case["result"]]
        assert found.allowed <= 1, (case["function"], case["result"])
        assert found.ulps <= case["ulps"] + ROUNDING, (case["function"], case["result"])
