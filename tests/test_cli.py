"""The command line: the demo on both backends, its bars, the other commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fastbp
from fastbp import _backend, cli


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fastbp", *arguments], capture_output=True, text=True, timeout=60
    )


def test_demo(backend, capfd):
    assert cli.main(["demo"]) == 0
    out, err = capfd.readouterr()
    assert "64-32-10" in out and "MISSED" not in out
    rows = [re.split(" {3,}", line.strip()) for line in out.splitlines()]
    results = {row[0]: row[1:] for row in rows}
    assert float(results["accuracy on 360 held-out images"][0].rstrip("%")) >= 96
    assert float(results["gradient check, largest relative error"][0]) <= 1e-7
    assert re.fullmatch(r"NumPy's own \d+\.\d{3} s \d+\.\d 0\.\d{6}", " ".join(results["NumPy twin"]))
    assert ("all of this is the NumPy twin" in out) == (backend == "reference")
    if backend == "native":
        assert results["compiled kernels"][0] == _backend.kernels.isa()
        assert (
            float(results["relative difference of the two losses"][0]) <= 20 * 45 * np.finfo(np.float32).eps
        )
    lines = [line.split("\r")[-1] for line in err.rstrip("\n").split("\n")]
    assert re.match(r"epoch 20/20 .* 900/900 batches .*loss \d\.\d{4}", lines[-1])
    assert len(lines) == 1 or backend == "reference"  # whose epochs may be long


def test_a_bar_that_is_missed(backend, capfd, monkeypatch):
    monkeypatch.setattr(cli, "_LEAST_ACCURACY", 1.01)
    monkeypatch.setattr(cli, "_EPOCHS", 1)
    monkeypatch.setattr(fastbp, "check_gradient", lambda *arguments: float("nan"))
    assert cli.main(["demo"]) == 1
    out, _ = capfd.readouterr()
    assert len(re.findall(r"MISSED$", out, re.MULTILINE)) == 2


def test_config(backend, capfd):
    assert cli.main(["config"]) == 0
    ours = capfd.readouterr().out
    fastbp.show_config()
    assert ours == capfd.readouterr().out and fastbp.__version__ in ours


def test_an_interrupted_demo(backend, capfd, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "demo", interrupted)
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capfd.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("commands", [["demo"], ["config"], ["--help"], ["--version"]], ids=" ".join)
def test_a_reader_that_goes_away(commands):
    """As in `fastbp demo | head -1`: it ends as other programs do, and complains of nothing."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastbp", *commands], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.close(read)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141 or (
        process.returncode == 0 and commands[0].startswith("--")
    )  # argparse's own
    assert "Traceback" not in err and "Broken" not in err


def test_as_a_module():
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"fastbp {fastbp.__version__}\n")
    assert run("config").stdout.strip()
    nothing, unknown = run(), run("nonsense")
    assert nothing.returncode == unknown.returncode == 2
    assert "usage: fastbp" in nothing.stderr and "nonsense" in unknown.stderr


@pytest.mark.parametrize("command", ["demo", "config"])
def test_help_names_the_commands(command, capfd):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0 and command in capfd.readouterr().out
