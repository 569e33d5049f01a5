"""The C primitives without Python round them, by tests/c/test_kernels.c, on every instruction set that it finds.

An ordinary run hands it the primitives that are installed, which are compiled already. With --exhaustive whatever C compilers
there are compile them all, and those of another processor for which there is an emulator.
The rest of this file is about what is written down twice in src_c/ and must agree.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pairs
import pytest
from conftest import ISAS, NATIVE_ONLY, NO_NATIVE, THINNED

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src_c"
FLAGS = ["-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", str(SOURCE)]

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="an installed package has no C sources beside it")


@dataclass(frozen=True)
class Toolchain:
    """A compiler, what runs its programs, how many points each sweep has, and the one instruction set to test, or "" for all.

    Optimized little: most of the time would be the compiler's. What is installed is optimized, and is tested, too.
    """

    compiler: str
    link: tuple[str, ...] = ()
    emulator: str = ""
    points: int = 200_000
    isa: str = ""
    optimize: tuple[str, ...] = ("-O0", "-DFBP_LOOPS_STAY")

    def run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess:
        command = [self.emulator, str(program), *arguments] if self.emulator else [str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def build(self, sources: list[Path], folder: Path) -> Path:
        def compile_one(source: Path) -> Path:
            target = folder / f"{source.stem}.o"
            _must([self.compiler, *self.optimize, *FLAGS, "-c", str(source), "-o", str(target)])
            return target

        objects = _at_once(compile_one, sources)
        program = folder / "program.exe"  # as Windows wants it
        _must([self.compiler, *self.link, *map(str, objects), "-o", str(program), "-lm"])
        return program

    def skip_unless_it_works(self, folder: Path) -> None:
        for tool in filter(None, (self.compiler, self.emulator)):
            if not shutil.which(tool):
                pytest.skip(f"no {tool} on this machine")
        source = folder / "nothing.c"
        source.write_text("#include <math.h>\nint main(void) { return 0; }\n")
        try:
            self.run(self.build([source], folder)).check_returncode()
        except (AssertionError, OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{self.compiler} makes no program that runs here: {str(error)[:200]}")


def _at_once(f: Callable, arguments: Iterable) -> list:
    """On two cores."""
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(f, arguments))


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"


def _assert_passed(runs: Iterable[subprocess.CompletedProcess], isas: set[str]) -> None:
    """The run of each dtype has an exit status of 0 and no failure, and has tested these instruction sets."""
    for dtype, done in zip(DTYPES, runs, strict=True):
        report = done.stdout + done.stderr
        failures = "\n".join(line for line in report.splitlines() if not line.endswith("  ok"))
        closing = re.search(r"^(\d+) passed, (\d+) failed\n\Z", done.stdout, re.MULTILINE)
        assert closing, f"exit status {done.returncode}, and no closing line\n{failures}"
        assert (done.returncode, closing[2]) == (0, "0"), failures

        tested = re.findall(r"^.{34} (\w+) +(float\d\d) .* ok$", done.stdout, re.MULTILINE)
        assert len(tested) == int(closing[1])
        if dtype == "float32" or tested:  # float64 takes a long double that is wider
            assert {(isa, dtype) for isa in isas} <= set(tested)


DTYPES = ("float32", "float64")
TOOLCHAINS = [
    Toolchain("cc", points=50_000),
    Toolchain("clang", points=20_000),
    Toolchain("musl-gcc", ("-static",), points=2_000),
    Toolchain(
        "aarch64-linux-gnu-gcc", ("-static",), "qemu-aarch64", 1_000, "neon", ("-O1", "-DFBP_LOOPS_STAY")
    ),
]


NO_GENERIC = '#include "primitives.h"\nconst fbp_kernels fbp_generic_float32, fbp_generic_float64;\n'


@THINNED
@pytest.mark.parametrize(
    "toolchain", TOOLCHAINS if pairs.exhaustive else (), ids=lambda toolchain: toolchain.compiler
)
def test_kernels(toolchain: Toolchain, tmp_path: Path) -> None:
    """No warning, no failure, on all instruction sets."""
    toolchain.skip_unless_it_works(tmp_path)
    sources = [SOURCE / "isa/dispatch.c", ROOT / "tests/c/test_kernels.c"]
    sources += (SOURCE / "variants").glob(f"{toolchain.isa or '*'}_*.c")
    if toolchain.isa:  # `generic` is in the list of every processor, and was tested on this one
        sources.append(tmp_path / "generic.c")
        sources[-1].write_text(NO_GENERIC)
    program = toolchain.build(sources, tmp_path)
    tested = [toolchain.isa] if toolchain.isa else []
    runs = _at_once(lambda dtype: toolchain.run(program, str(toolchain.points), dtype, *tested), DTYPES)
    _assert_passed(runs, {toolchain.isa or "generic"})


RUN = """
import ctypes, sys
kernels, program, *arguments = sys.argv[1:]
ctypes.CDLL(kernels, ctypes.RTLD_GLOBAL)  # without Python's part of it, that is: not imported
arguments = [b"", *map(str.encode, arguments)]
sys.exit(ctypes.CDLL(program).main(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments)))
"""


def installed_program(folder: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs test_kernels.c on the primitives of fastbp/_kernels/dispatch, as optimized as they are."""
    from fastbp._kernels import dispatch

    Toolchain("cc").skip_unless_it_works(folder)
    toolchain = Toolchain("cc", ("-shared",), optimize=("-O1", "-fPIC"))
    library = toolchain.build([ROOT / "tests/c/test_kernels.c"], folder)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", RUN, dispatch.__file__, str(library), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    return run


OTHERS = """#include "primitives.h"
const fbp_kernels fbp_generic_float32, fbp_generic_float64, fbp_avx2_float32, fbp_avx2_float64, fbp_avx512_float64;
"""
PIECES = ("1000", "float32", "avx512")
"""What test_kernels.c is asked for products in pieces."""


def products_tested(done: subprocess.CompletedProcess) -> dict[str, str]:
    """The checksum of all results of each line of products that was tested."""
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    row = r"^(matrix_product.*?) +avx512 +float32 .* ([0-9a-f]{8}) +\d+  ok$"
    return dict(re.findall(row, done.stdout, re.MULTILINE))


@pytest.mark.skipif("avx512" not in ISAS, reason="the models of the units are written in AVX-512")
def test_products_on_models_of_the_units(tmp_path: Path) -> None:
    """What src_c/gemm/pieces/ makes of the arithmetic of each unit, whether this machine has it or not; where it has, the bits
    of the installed kernels are those of the model."""
    toolchain = Toolchain("cc", optimize=("-Og", "-DFBP_LOOPS_STAY", "-DFBP_UNIT_MODELS"))
    toolchain.skip_unless_it_works(tmp_path)
    others = tmp_path / "others.c"
    others.write_text(OTHERS)
    sources = [
        SOURCE / "isa/dispatch.c",
        SOURCE / "variants/avx512_float32.c",
        ROOT / "tests/c/test_kernels.c",
        others,
    ]
    program = toolchain.build(sources, tmp_path)
    tested = {}
    for unit in ("amx", "avx512_bf16"):
        command, environment = [str(program), *PIECES], os.environ | {"FBP_MODEL": unit}
        tested[unit] = products_tested(
            subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        )
    high, medium = (
        [each[name] for each in tested.values()]
        for name in ("matrix_product, high", "matrix_product, medium")
    )
    assert len(set(high)) == len(set(medium)) == 2  # other units, other bits
    if not NO_NATIVE:
        from fastbp._kernels import unit

        installed = products_tested(installed_program(tmp_path)(*PIECES))
        for precision in ("high", "medium"):
            of_model = tested.get(unit(precision), tested["avx512_bf16"])  # whose "high" is float32
            assert installed[f"matrix_product, {precision}"] == of_model[f"matrix_product, {precision}"]


@NATIVE_ONLY
@pytest.mark.skipif(
    sys.platform != "linux", reason="a library finds the primitives of another one on Linux only"
)
def test_installed_kernels(tmp_path: Path) -> None:
    run, points = installed_program(tmp_path), "200000" if pairs.exhaustive else "20000"
    _assert_passed(_at_once(lambda dtype: run(points, dtype), DTYPES), set(ISAS))


WITHOUT_ASSUMPTIONS = {"tile_columns", "tile_depth"}


def test_every_primitive_opens_with_what_it_assumes() -> None:
    primitives = re.findall(r"^FBP_KERNEL\(\w+, (\w+)", (SOURCE / "kernels.def").read_text(), re.MULTILINE)
    bodies = "".join(path.read_text(encoding="utf-8") for path in SOURCE.glob("*/*.h"))
    opening = re.compile(r"^static \w+ (\w+)\([^)]*\)\n{\n    assert\(", re.MULTILINE)
    assert set(primitives) - set(opening.findall(bodies)) == WITHOUT_ASSUMPTIONS


@pytest.mark.parametrize(("of", "line"), [("error", "ERROR"), ("update", "UPDATE")])
def test_every_row_of_the_lists_has_its_line(of: str, line: str) -> None:
    """In the table of tests/c/test_kernels.c."""
    listed = re.findall(
        rf"^FBP_{line}\((?:[A-Z_]+, )?([a-z_]+)", (SOURCE / f"{of}s.def").read_text(), re.MULTILINE
    )
    tested = re.findall(rf"^    {line}\((\w+)", (ROOT / "tests/c/test_kernels.c").read_text(), re.MULTILINE)
    assert tested == listed


def test_a_debug_build_asks_what_primitives_assume(tmp_path: Path) -> None:
    """A call that breaks an assumption ends there, with a message that says which."""
    toolchain = Toolchain("cc", ("-pthread",), optimize=("-O0", "-UNDEBUG", "-pthread"))
    toolchain.skip_unless_it_works(tmp_path)
    program = toolchain.build(
        [SOURCE / "variants/generic_float32.c", ROOT / "tests/c/test_assumptions.c"], tmp_path
    )
    sound, *broken = toolchain.run(program).stdout.split()
    assert sound == "sound" and len(broken) == 12
    assert toolchain.run(program, "0").returncode == 0
    for number, name in enumerate(broken, start=1):
        done = toolchain.run(program, str(number))
        assert (done.returncode, "ssertion" in done.stderr) == (3, True), f"{name}: {done}"


RACES = "-fsanitize=thread"  # where it is there: a race is a failure


WINE = shutil.which("wine64") or shutil.which("wine64", path="/usr/lib/wine") or "wine"
THREADS = {
    "plain": Toolchain("cc", ("-pthread",), optimize=("-O1", "-pthread")),
    "races": Toolchain("cc", ("-pthread", RACES), optimize=("-O1", "-pthread", RACES)),
    "windows": Toolchain("x86_64-w64-mingw32-gcc", ("-static", "-pthread"), WINE, optimize=("-O2",)),
}


@pytest.mark.parametrize("kind", THREADS)
def test_teams(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of every task once, whoever else calls, on teams of up to five threads."""
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    toolchain = THREADS[kind]
    toolchain.skip_unless_it_works(tmp_path)
    done = toolchain.run(toolchain.build([ROOT / "tests/c/test_team.c"], tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 19
    assert all(line.endswith(": ok") for line in lines)


@pytest.mark.filterwarnings(
    "ignore:Descending:DeprecationWarning"
)  # mpmath 1.3 fits polynomials in no other order
def test_coefficients_are_those_of_their_program() -> None:
    """coefficients.h is generated, and committed so that a build needs no mpmath."""
    pytest.importorskip("mpmath")
    path = SOURCE / "math" / "coefficients.py"
    specification = importlib.util.spec_from_file_location("coefficients", path)
    coefficients = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(coefficients)
    assert coefficients.header() + "\n" == path.with_suffix(".h").read_text(encoding="utf-8")


def _declarations(pattern: str, text: str) -> list[tuple[str, str, str]]:
    """(result, name, parameters) of each match, with void for the element type and white space as a rule."""
    found = re.findall(pattern, text, re.MULTILINE)
    return [
        (result, name, " ".join(parameters.replace("REAL", "void").split()))
        for result, name, parameters in found
    ]


def test_cython_declares_what_c_defines() -> None:
    """The table of dispatch.pxd is that of kernels.def: the C compiler never compares them."""
    defined = _declarations(
        r"^FBP_KERNEL\((\w+), (\w+),\s*\(([^()]*)\)",
        (SOURCE / "kernels.def").read_text(encoding="utf-8"),
    )
    pxd = (ROOT / "fastbp" / "_kernels" / "dispatch.pxd").read_text(encoding="utf-8")
    declared = _declarations(r"^ +(\w+) \(\*(\w+)\)\(([^()]*)\) noexcept nogil$", pxd)
    assert [name for _, name, _ in declared] == [name for _, name, _ in defined]
    assert declared == [
        (result, name, "" if parameters == "void" else parameters) for result, name, parameters in defined
    ]
