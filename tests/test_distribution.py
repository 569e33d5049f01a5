"""What is built from the sources: by which compiler, with which flags, and that a source distribution builds the same.

A build of everything takes a minute, so most tests build a `sample`: the same setup.py, one small module, one small C file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pairs
import pytest
from conftest import NATIVE_ONLY, THINNED

ROOT = Path(__file__).resolve().parent.parent
MADE = shutil.ignore_patterns(
    "build", "*.so", "__pycache__", "*.egg-info", ".git", ".*_cache", ".venv", ".hypothesis"
)
NO_COMPILER = "/there/is/no/compiler"


def _missing() -> str:
    """Why nothing can be built here; "" where it can."""
    try:
        import Cython  # noqa: F401
        import setuptools
    except ModuleNotFoundError as missing:
        return str(missing)
    if int(setuptools.__version__.split(".")[0]) < 77:
        return f"setuptools {setuptools.__version__} is older than the build asks for"
    return "" if (ROOT / "setup.py").exists() else "an installed package has no setup.py beside it"


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FASTBP_", "PYTEST_"))}
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=300
    )


def build(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "setup.py", "-q", *command], folder, **environment)


MODULE = """
cdef extern from "sample.h":
    double sum_of_exponentials(int n, const double *x)

def nan_is_seen(double x):
    return x != x

def sum_of(double x):
    cdef double[4] all = [x, x, x, x]
    return sum_of_exponentials(4, all)
"""

PRIMITIVE = """
#include "../sample.h"
#include <math.h>
double sum_of_exponentials(int n, const double *x)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp(x[i]);
    return sum;
}
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A source tree that is built in a second or two."""
    folder = tmp_path / "sample"
    for path in ("fastbp/_kernels", "fastbp/datasets", "fastbp/__pyinstaller", "src_c/variants", "src_c/isa"):
        (folder / path).mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    files = {
        "fastbp/__init__.py": "",
        "fastbp/_config.py": '__version__ = "0"',
        "fastbp/_kernels/__init__.py": "",
        "fastbp/_kernels/dispatch.pyx": MODULE,
        "src_c/isa/dispatch.c": "int fbp_nothing;",
        "src_c/variants/generic_float32.c": PRIMITIVE,
        "src_c/sample.h": "double sum_of_exponentials(int n, const double *x);",
    }
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder


def compiled(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for path in (folder / "fastbp/_kernels").glob("*" + _suffix())}


def _suffix() -> str:
    return sysconfig.get_config_var("EXT_SUFFIX") or ".so"


# -- compilers and flags -------------------------------------------------------------------------------------------------------


def test_no_compiler_leaves_the_twin(sample):
    done = build(sample, "build_ext", "--inplace", CC=NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "WARNING: there is no C compiler" in done.stderr
    assert not compiled(sample)


def test_a_compiler_that_fails_makes_the_installation_fail_with_its_message(sample):
    (sample / "src_c/isa/dispatch.c").write_text("#error what the compiler says\n", encoding="utf-8")
    done = build(sample, "build_ext", "--inplace")
    assert done.returncode != 0
    assert "what the compiler says" in done.stdout + done.stderr


def test_nothing_to_compile_is_an_error(sample):
    for path in (sample / "fastbp/_kernels").glob("*.pyx"):
        path.unlink()
    done = build(sample, "build_ext", "--inplace")
    assert done.returncode != 0
    assert "nothing to compile" in done.stderr


FLUSHED = """
import sys
import numpy as np
sys.path.insert(0, ".")
least = np.array([np.finfo(np.float32).smallest_subnormal])
from fastbp._kernels import dispatch
print(dispatch.nan_is_seen(float("nan")), dispatch.sum_of(0.0), least[0] + least[0] > least[0])
"""


FLAGS = ["-Ofast", "-O3 -ffinite-math-only -fno-signed-zeros -fassociative-math"]


@THINNED
@NATIVE_ONLY
@pytest.mark.parametrize("flags", [*FLAGS, *(["-O2 -ffast-math"] if pairs.exhaustive else [])])
def test_flags_that_break_the_arithmetic_are_taken_back(sample, flags):
    """NaN is seen, exp is that of the standard, and nobody's subnormal numbers are flushed to 0 from the import on."""
    done = build(sample, "build_ext", "--inplace", CFLAGS=flags, LDFLAGS=flags)
    assert done.returncode == 0, done.stderr
    done = run([sys.executable, "-c", FLUSHED], sample)
    assert done.stdout.split() == ["True", "4.0", "True"], done.stdout + done.stderr
    (primitive,) = sample.glob("build/*/objects/src_c/variants/generic_float32.o")
    if shutil.which("nm"):
        symbols = run(["nm", "--undefined-only", str(primitive)], sample).stdout
        assert "exp" in symbols
        assert "_ZGV" not in symbols, "a vector function that only -ffast-math calls"


@NATIVE_ONLY
def test_other_flags_are_another_folder_and_the_same_ones_compile_nothing_again(sample):
    def objects() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sample.glob("build/**/*.o")}

    def changed_by_a_build(**environment: str) -> set[str]:
        before = objects()
        assert build(sample, "build_ext", "--inplace", **environment).returncode == 0
        return {
            path.parent.name + "/" + path.name for path, time in objects().items() if time != before.get(path)
        }

    all_of_them = {"_kernels/dispatch.o", "isa/dispatch.o", "variants/generic_float32.o"}
    assert changed_by_a_build(CFLAGS="-O0") == all_of_them
    assert changed_by_a_build(CFLAGS="-O0") == set()
    os.utime(sample / "src_c/sample.h", (2e9, 2e9))
    assert changed_by_a_build(CFLAGS="-O0") == {"_kernels/dispatch.o", "variants/generic_float32.o"}
    os.utime(sample / "src_c/sample.h")
    assert changed_by_a_build(CFLAGS="-O1") == all_of_them
    assert len({path.relative_to(sample).parts[1] for path in objects()}) == 2


# -- source distributions ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=MADE)
    done = build(folder / "tree", "sdist", "--dist-dir", str(folder))
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_a_source_distribution_holds_all_that_is_kept(sdist):
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no clone of the repository")
    kept = run(["git", "ls-files", "-z"], ROOT).stdout.split("\0")[:-1]
    left_out = {".gitignore"}
    missing = [
        name
        for name in kept
        if name not in left_out and (ROOT / name).exists() and not (sdist / name).exists()
    ]
    assert not missing
    assert [
        name
        for name in kept
        if (sdist / name).exists() and (sdist / name).read_bytes() != (ROOT / name).read_bytes()
    ] == []


def _wheel(tree: Path, to: Path, **environment: str) -> dict[str, bytes]:
    """What is in the wheel of a tree, but for the kernels themselves."""
    done = build(tree, "bdist_wheel", "--dist-dir", str(to), CC=NO_COMPILER, **environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = to.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl") == ("FASTBP_PURE" in environment)
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("RECORD")}


@pytest.fixture(scope="module")
def from_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _wheel(sdist, tmp_path_factory.mktemp("wheel"))


def test_a_source_distribution_builds_the_same_package(from_sdist, tmp_path):
    """File by file; the kernels come of the same sources, as the test before tells."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=MADE)
    from_tree = _wheel(tree, tmp_path / "a")
    assert set(from_sdist) == set(from_tree)
    assert from_sdist == from_tree
    for name in ("fastbp.h", "functions.def", "activations.def", "errors.def", "updates.def"):
        assert from_tree[f"fastbp/include/{name}"] == (ROOT / "src_c" / name).read_bytes()
    assert "fastbp/datasets/digits.npz" in from_tree
    assert [name for name in from_tree if name.endswith(".pxd")] == ["fastbp/kernels.pxd"], (
        "the others are internal"
    )


PURE_PROGRAM = """
import fastbp
X, y = fastbp.datasets.load_digits()
net = fastbp.MLP([64, 8, 10], seed=0)
net.fit(X[:64], y[:64], epochs=1, progress=False)
print(fastbp.show_config()["backend"], fastbp.__file__)
"""


def test_a_wheel_for_any_platform_has_no_kernels_and_does_not_warn_of_it(sdist, from_sdist, tmp_path):
    files = _wheel(sdist, tmp_path / "wheel", FASTBP_PURE="1")
    assert set(files) == {name for name in from_sdist if not name.startswith("fastbp/_kernels/")}
    for name, content in files.items():
        target = tmp_path / "installed" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    program = tmp_path / "program.py"
    program.write_text(PURE_PROGRAM, encoding="utf-8")
    done = run(
        [sys.executable, "-W", "error", str(program)], tmp_path, PYTHONPATH=str(tmp_path / "installed")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["reference", str(tmp_path / "installed/fastbp/__init__.py")]
    native = {"FASTBP_BACKEND": "native", "PYTHONPATH": str(tmp_path / "installed")}
    refused = run([sys.executable, "-c", "import fastbp"], tmp_path, **native)
    assert refused.stderr.endswith("ModuleNotFoundError: No module named 'fastbp._kernels'\n")


# -- who else must find the kernels --------------------------------------------------------------------------------------------

PROGRAM = """
import numpy as np, fastbp
assert fastbp.show_config()["backend"] == "native"
X, y = fastbp.datasets.load_digits()
net = fastbp.MLP([64, 16, 10], seed=0)
print(len(net.fit(X, y, epochs=1, progress=False)))
"""


@NATIVE_ONLY
def test_a_frozen_program_has_kernels_and_data(tmp_path):
    pytest.importorskip("PyInstaller")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    hooks = str(ROOT / "fastbp/__pyinstaller")  # an installed fastbp tells it by an entry point
    freeze = [sys.executable, "-m", "PyInstaller", "--additional-hooks-dir", hooks, "--log-level", "ERROR"]
    # What tqdm and L-BFGS may use, this program does not: with everything that hangs on it, minutes to freeze.
    others = "scipy", "pandas", "dask", "matplotlib", "IPython", "ipywidgets", "Cython", "PIL", "tkinter"
    freeze += [f"--exclude-module={name}" for name in others] + ["program.py"]
    import fastbp

    frozen = run(freeze, tmp_path, PYTHONPATH=str(Path(fastbp.__file__).parent.parent))
    assert frozen.returncode == 0, frozen.stderr
    done = run([str(tmp_path / "dist/program/program")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("1\n")


EXTENSION = """
from fastbp.kernels cimport FBP_RELU, activate

def relu_of(double x):
    activate(FBP_RELU, 1, 1, &x, 1, 1, &x, 1)
    return x
"""

CIMPORTING = """
import sys
import fastbp
from setuptools import Extension, setup
from Cython.Build import cythonize

setup(
    name="cimporting",
    script_args=["-q", "build_ext", "--inplace"],
    ext_modules=cythonize([Extension("cimporting", ["cimporting.pyx"], include_dirs=[fastbp.get_include()])]),
)
import cimporting
print(cimporting.relu_of(-2.0), cimporting.relu_of(3.0))
"""


@NATIVE_ONLY
def test_cython_programs_cimport_it(tmp_path):
    """From an installed fastbp as from an editable one: its folder is on the path of modules."""
    (tmp_path / "cimporting.pyx").write_text(EXTENSION, encoding="utf-8")
    (tmp_path / "build.py").write_text(CIMPORTING, encoding="utf-8")
    installed = run([sys.executable, "-c", "import fastbp"], tmp_path).returncode == 0
    environment = {} if installed else {"PYTHONPATH": str(ROOT)}
    done = run([sys.executable, "build.py"], tmp_path, CFLAGS="-O0", **environment)
    assert done.stdout.endswith("0.0 3.0\n"), done.stdout + done.stderr
