"""Ranks as processes of a real MPI, which mpiexec starts: tests/mpi/cases.py. Skipped where there is none."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import NATIVE_ONLY
from training_data import LABELS, X, network

from fastbp import Adam
from fastbp.callbacks import Checkpoint

pytest.importorskip("mpi4py")
TESTS = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PATIENCE = 120  # seconds after which a launch has failed

pytestmark = [
    NATIVE_ONLY,
    pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec"),
]


def launch(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """So many ranks of cases.py, on a thread each."""
    assert MPIEXEC is not None
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True, timeout=60).stdout
    options = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else []
    command = [
        MPIEXEC,
        *options,
        "-n",
        str(size),
        sys.executable,
        "-m",
        "mpi4py",
        str(TESTS / "mpi/cases.py"),
    ]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class Kill:
    """In the place of the one that killed."""

    def epoch_end(self, info: object) -> bool:
        return True


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_are_one_process(size):
    done = launch(size, "goes_well")
    assert done.returncode == 0, done.stderr
    assert all(f"rank {rank} is well" in done.stdout for rank in range(size))  # perhaps in one line


def test_a_rank_that_does_not_come_is_named():
    done = launch(3, "waits_for_ever")
    assert (
        done.returncode != 0
        and "TimeoutError: comm: got no answer within 1 s from rank 1 of 3" in done.stderr
    )


def test_an_exception_between_two_trainings_ends_all():
    done = launch(2, "raises")
    assert done.returncode != 0 and "OSError: not in fit" in done.stderr


def test_a_rank_that_is_killed(tmp_path, request):
    """At a random step, so also while others write: the launch ends, and the file is the last complete one."""
    for number in range(20 if request.config.getoption("exhaustive") else 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        size, step = random.randint(2, 4), random.randint(1, 150)
        start = time.monotonic()
        done = launch(size, "is_killed", folder, random.randrange(size), step)
        assert done.returncode != 0 and time.monotonic() - start < PATIENCE
        files = [path for path in folder.iterdir() if path.name == "training.npz"]
        if step > 40:  # an epoch has 21 steps at most
            assert files
        for file in files:
            net = network(dropout=0.3)
            history = net.fit(
                X, LABELS, epochs=10**3, resume=file, shuffle=False, optimizer=Adam(0.01), clip_norm=0.5,
                callbacks=[Checkpoint(file), Kill()], validation_data=(X, LABELS), progress=False,
            )  # fmt: skip
            assert len(history) > 1
