"""What the documentation shows runs, and shows what comes out: doctests of the modules, blocks of the pages, examples."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pairs
import pytest
from conftest import NATIVE_ONLY, NO_NATIVE, THINNED

import fastbp
from fastbp import _backend, cli

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MODULES = ["fastbp"] + [
    module.name
    for package in (fastbp, fastbp.data, fastbp.optimizers)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    if not module.name.split(".")[-1].startswith("_") or module.name.split(".")[-1] == "_config"
]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PEERS = (
    r"torch|sklearn|safetensors|pyarrow|matplotlib|onnxruntime|onnxscript|jax|joblib|dask|numba|mpi4py|xgboost|lightgbm|"
    r"fastbp\.kernels"
)
IMPORTED = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
VARIES = re.compile(r"\d+\.\d+ s\b|\d\.\de-\d\d")  # seconds, and rounding errors


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Examples may save files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name, backend):
    if name in ("fastbp.sklearn", "fastbp.torch", "fastbp.jax"):
        pytest.importorskip(name.removeprefix("fastbp."))
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("name", fastbp.__all__)
def test_what_has_parameters_has_an_example(name):
    thing = getattr(fastbp, name)
    methods = (
        [value for key, value in vars(thing).items() if not key.startswith("_")]
        if isinstance(thing, type)
        else []
    )
    described = [
        each for each in (thing, *methods) if "Parameters\n" in (getattr(each, "__doc__", None) or "")
    ]
    assert not [each.__qualname__ for each in described if ">>>" not in each.__doc__]


def blocks(page: Path) -> list[str]:
    """The blocks of a page, each preceded by as many empty lines as lie before it, so that errors name its line."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text[: match.start(2)].count("\n") + match.group(2) for match in BLOCK.finditer(text)]


def peer_of(block: str) -> str | None:
    """The library that a block needs beside fastbp: not everybody has it."""
    imported = re.search(rf"^(?:import|from) ({PEERS})\b", block, re.MULTILINE)
    return imported and imported.group(1)


def call(command: str) -> str:
    """What a command writes; to standard error as well, if it fails. One of fastbp alone is called in this process."""
    if re.match("fastbp [^|<>;&]*$", command):
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            status = cli.main(shlex.split(command)[1:])
        return out.getvalue() + (err.getvalue() if status else "")
    program = f'fastbp() {{ {shlex.quote(sys.executable)} -m fastbp "$@"; }}; {command}'
    environment = os.environ | {
        "PYTHONPATH": str(Path(fastbp.__file__).parents[1]),
        "FASTBP_BACKEND": _backend.name,
    }
    return subprocess.run(
        program, shell=True, env=environment, capture_output=True, text=True, timeout=60
    ).stdout


def run_commands(block: str) -> None:
    """The commands of a console, each of which has to write what is shown below it; what varies may differ."""
    for command, shown in COMMAND.findall(block):
        assert VARIES.sub("…", call(command)) == VARIES.sub("…", shown), command


def run(page: Path, *peers: str) -> None:
    """The blocks of a page, one after the other in one namespace: those that need no peer, or one of these.

    Those with prompts are doctests, or commands of a shell.
    """
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if peer_of(block) not in (None, *peers):
            continue
        if block.lstrip().startswith("$ "):
            pytest.importorskip("pyarrow")
            pytest.importorskip("matplotlib")
            run_commands(block)
        elif ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, namespace, page.name, str(page), 0)
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            runner.run(test, clear_globs=False)
            namespace = test.globs
            assert runner.failures == 0
        else:
            exec(compile(block, str(page), "exec"), namespace)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_here(peer: str) -> bool:
    """Without its import: what is asked for is in fastbp only where there are compiled kernels."""
    return not peer.startswith("fastbp.") and importlib.util.find_spec(peer) is not None


@THINNED
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_blocks(page, backend):
    """Those that need no peer, by themselves; with --exhaustive on the twin, which takes long, beside all peers that are here."""
    peers = {peer for peer in map(peer_of, blocks(page)) if peer and is_here(peer)}
    run(page, *(peers if backend == "reference" and pairs.exhaustive else ()))


COMPARED = sorted({(page, peer) for page in PAGES for peer in map(peer_of, blocks(page)) if peer})


@pytest.mark.parametrize(
    ("page", "peer"), COMPARED, ids=lambda each: each if isinstance(each, str) else named(each)
)
@NATIVE_ONLY
def test_python_blocks_beside(page, peer):
    pytest.importorskip(peer)
    with _backend.use("native"):
        run(page, peer)


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_examples(example, backend, monkeypatch):
    text = example.read_text(encoding="utf-8")
    if backend == "reference" and "matplotlib" in text and not NO_NATIVE:
        pytest.skip("what is drawn takes long on the twin")
    for library in sorted(set(IMPORTED.findall(text)) - {"fastbp"} - sys.stdlib_module_names):
        pytest.importorskip(library)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # plt.show()
    runpy.run_path(str(example), run_name="__main__")
