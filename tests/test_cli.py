"""The command line: the demo on both backends, its bars, and how all commands behave among other tools."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import said, train, write_houses

import fastbp
from fastbp import _backend, cli
from fastbp.cli import demo

needs_posix = pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastbp.__file__).parents[1]))  # of processes that begin there


@pytest.fixture
def houses():
    write_houses()


@pytest.fixture
def prices(houses):
    train("price", "size", "prices")


def run(*arguments, **options):
    """A process of its own."""
    command = [sys.executable, "-m", "fastbp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


# -- demo and config -----------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(demo, "_LEAST_ACCURACY", 1.01)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    monkeypatch.setattr(fastbp, "check_gradient", lambda *arguments: float("nan"))
    out, _ = said(capfd, "demo", status=1)
    assert len(re.findall(r"MISSED$", out, re.MULTILINE)) == 2


def test_config(backend, capfd):
    ours, _ = said(capfd, "config")
    fastbp.show_config()
    assert ours == capfd.readouterr().out and fastbp.__version__ in ours


# -- among other tools ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_command(capfd, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert said(capfd, "demo", status=130) == ("", "\ninterrupted\n")


def test_out_of_memory(capfd, monkeypatch):
    def greedy(options):
        raise MemoryError("1 EB")

    monkeypatch.setattr(demo, "run", greedy)
    assert said(capfd, "demo", status=1) == ("", "fastbp demo: not enough memory: 1 EB\n")


@needs_posix
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


@needs_posix
def test_in_a_pipe(prices):
    """`cat houses.csv | fastbp predict prices - | head -n 2`, of more lines than a pipe holds."""
    header, *lines = Path("houses.csv").read_text().splitlines()
    Path("many.csv").write_text("\n".join([header, *lines * 200]))
    program = f"{sys.executable} -m fastbp predict prices -"
    script = f"cat many.csv | {{ {program}; echo $? >status; }} | head -n 2"
    result = subprocess.run(script, shell=True, capture_output=True, text=True, timeout=60)
    assert (result.stderr, result.stdout.split("\n")[0], Path("status").read_text()) == ("", "price", "141\n")


@needs_posix
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written(prices, output):
    if output.endswith("full") and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    script = f"{sys.executable} -m fastbp predict prices houses.csv {output}"
    result = subprocess.run(script, shell=True, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.startswith("fastbp predict: standard output")
    assert result.stderr.count("\n") == 1


@needs_posix
def test_ctrl_c(houses):
    """In the middle of a training: nothing is written, nothing but one line is said."""
    command = [
        sys.executable,
        "-m",
        "fastbp",
        *["train", "houses.csv", "--target", "price", "--epochs", "1000000", "--output", "m"],
    ]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored, it would be ignored in there, too
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            shown = ""
            while "epoch" not in shown:
                more = process.stderr.read(64)
                assert more, "it has ended"
                shown += more
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()  # if it has not seen the signal
    assert process.returncode == 130
    assert err.endswith("\ninterrupted\n") and "Traceback" not in err
    assert os.listdir() == ["houses.csv"]


def test_as_a_module():
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"fastbp {fastbp.__version__}\n")
    nothing, unknown = run(), run("nonsense")
    assert nothing.returncode == unknown.returncode == 2
    assert nothing.stderr == "fastbp: the following arguments are required: command; see fastbp --help\n"
    assert unknown.stderr.startswith("fastbp: argument command: invalid choice: 'nonsense'")


def test_the_libraries_are_loaded_when_they_are_needed():
    program = "import sys, fastbp.cli; print(sorted({'pyarrow', 'matplotlib', 'tqdm'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "check", "info", "demo", "config"])
def test_help_names_the_commands(command, capfd):
    assert command in said(capfd, "--help")[0]
    assert said(capfd, f"{command} --help")[0].startswith(f"usage: fastbp {command}")
