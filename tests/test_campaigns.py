"""A share of each campaign that `make` runs as a whole (tests/campaigns); docs/reliability.md tells what they found.

Each in a process of its own, since they watch time and memory by themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NATIVE_ONLY

import fastbp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
FOLDERS = (Path(fastbp.__file__).parents[1], Path(__file__).parent)  # of the packages fastbp and campaigns
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


def campaign(name: str, *arguments: str, folder: Path | None = None) -> str:
    """What it says; its temporary files are in `folder`."""
    command = [sys.executable, "-m", f"campaigns.{name}", *arguments]
    environment = ENVIRONMENT | ({"TMPDIR": str(folder)} if folder else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@NATIVE_ONLY
@pytest.mark.parametrize(
    "share",
    [
        "fuzz --batch --calls 400",
        "hostile --runs 40",
        "signals --signals 30",
        "soak --seconds 0 threads forks interpreters",
    ],
)
def test_a_share_of(share: str) -> None:
    campaign(*share.split())


@NATIVE_ONLY
@needs_compiler
def test_without_memory():
    names = ["softmax_cross_entropy, two", "linear_softmax", "fit, Adam", "evaluate", "save", "load"]
    told = campaign("failures", "--most", "30", *names)
    assert int(told.split(" failures, of which")[0].splitlines()[-1]) > 100


@needs_compiler
def test_without_a_disk(tmp_path):
    memory = Path("/dev/shm")  # where nobody waits for a disk
    folder = memory if os.access(memory, os.W_OK) else tmp_path
    told = campaign("disk", "--errors", "ENOSPC", "save .safetensors", "fastbp predict", folder=folder)
    assert int(told.splitlines()[-1].split(" faults, 0 not handled")[0]) > 200


SMALL = """
import errno, os, subprocess, sys
import fastbp
folder = sys.argv[1]
path = f"{folder}/net.npz"

def refused(net, number):
    try:
        net.save(path)
    except OSError as error:
        assert (error.errno, error.filename) == (number, path), repr(error)
        assert os.listdir(folder) == ["net.npz"]
        assert (fastbp.MLP.load(path).parameters == small.parameters).all()
    else:
        raise SystemExit("it was saved")

small = fastbp.MLP([64, 50, 10], seed=0)
small.save(path)
refused(fastbp.MLP([64, 500, 10], seed=0), errno.ENOSPC)
subprocess.run(["mount", "-o", "remount,ro", folder], check=True, timeout=60)
refused(small, errno.EROFS)
subprocess.run(["mount", "-o", "remount,rw", folder], check=True, timeout=60)
small.save(path)
print("saved")
"""


def _mounts(folder: Path) -> list[str]:
    """What a command begins with that has a file system of 64 kB of its own in `folder`."""
    mount = 'mount -t tmpfs -o size=64k none "$1" && shift && exec "$@"'
    return ["unshare", "-rm", "sh", "-c", mount, "-", str(folder)]


def test_a_small_disk(tmp_path):
    """One that is full, and one that may only be read: of root, too, whom permissions do not bind."""
    if not shutil.which("unshare"):
        pytest.skip("needs Linux")
    if subprocess.run([*_mounts(tmp_path), "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("nothing may be mounted here")
    command = [*_mounts(tmp_path), sys.executable, "-c", SMALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (0, "saved\n"), done.stderr
