"""Builds fastbp/_kernels from Cython and src_c/; everything else stands in pyproject.toml.

FASTBP_DEBUG=1      bounds checks, assertions, little optimization
FASTBP_SANITIZE=1   address and undefined-behaviour sanitizers (run Python with the compiler's libasan preloaded)

Without a working C compiler the package still installs, and runs on its NumPy twin.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FASTBP_DEBUG") == "1"
SANITIZE = os.environ.get("FASTBP_SANITIZE") == "1"

# What the last build in this folder was: of another kind, nothing of it is used again.
FLAVOUR = Path("build/flavour")
CHANGED = not FLAVOUR.exists() or FLAVOUR.read_text() != f"{DEBUG=} {SANITIZE=}"

KERNELS = Path("fastbp/_kernels")
C_SOURCES = ["src_c/dispatch.c", *sorted(str(path) for path in Path("src_c/variants").glob("*.c"))]
C_HEADERS = [str(path) for pattern in ("**/*.h", "*.def") for path in Path("src_c").glob(pattern)]


def extensions() -> list[Extension]:
    """One extension per .pyx. The primitives are linked into `dispatch` alone; the others reach them through its tables."""
    import numpy
    from Cython.Build import cythonize

    directives = {
        "language_level": 3,
        "binding": True,
        "embedsignature": True,
        "boundscheck": DEBUG,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": DEBUG,
        "freethreading_compatible": True,
    }
    modules = [
        Extension(
            f"fastbp._kernels.{path.stem}",
            [str(path), *(C_SOURCES if path.stem == "dispatch" else [])],
            include_dirs=["src_c", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"),  # whose are memory handlers
            ],
            depends=C_HEADERS,
        )
        for path in sorted(KERNELS.glob("*.pyx"))
    ]
    return cythonize(modules, compiler_directives=directives, build_dir="build/cython", force=CHANGED)


class BuildKernels(build_ext):
    """Adds the compiler's flags once it is known, and lets the installation go on if it does not work."""

    def build_extensions(self):
        compile_flags, link_flags = self.flags()
        for extension in self.extensions:
            extension.extra_compile_args = compile_flags
            extension.extra_link_args = link_flags
            if "-O3" in compile_flags and not SANITIZE and not extension.name.endswith(".dispatch"):
                extension.extra_compile_args = [*compile_flags, "-O2"]  # they call its loops: a sixth smaller
        super().build_extensions()

    def flags(self) -> tuple[list[str], list[str]]:
        if self.compiler.compiler_type == "msvc":
            return ["/O2", "/openmp", "/std:c11"], []
        compiling, linking = ["-std=c11", "-ffp-contract=off", "-pthread"], ["-pthread"]
        if DEBUG:
            compiling += ["-O1", "-g", "-UNDEBUG"]
        else:
            compiling += ["-O3", "-g0", "-fno-math-errno"]
            linking += ["-Wl,-s"] if sys.platform == "linux" else []
        if SANITIZE:
            checks = [
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=undefined",
                "-fno-omit-frame-pointer",
                "-DFBP_LOOPS_STAY",
                "-g1",  # with -g each of the unrolled tiles takes minutes
                "-O1",
            ]
            return [*compiling, *checks], checks[:1]
        if self.compiles(
            "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n", "-fopenmp"
        ):
            return [*compiling, "-fopenmp"], [*linking, "-fopenmp"]
        print(
            "fastbp: this compiler has no OpenMP; the kernels will use one thread unless told otherwise",
            file=sys.stderr,
        )
        return compiling, linking

    def compiles(self, program: str, flag: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            command = [*self.compiler.compiler_so, flag, str(source), "-o", str(Path(folder, "probe"))]
            command = [word for word in command if word != "-c"]
            try:
                return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
            except OSError:
                return False

    def run(self):
        self.force = self.force or CHANGED
        try:
            super().run()
            FLAVOUR.write_text(f"{DEBUG=} {SANITIZE=}")
            self.copy_extensions_to_source()  # so that `python -m fastbp` finds them in the source tree, too
        except Exception as failure:
            if os.environ.get("FASTBP_BACKEND") == "native":
                raise
            print(f"\nfastbp: WARNING: the compiled kernels were not built ({failure}).", file=sys.stderr)
            print(
                "fastbp: WARNING: fastbp installs without them and runs on its NumPy twin, many times slower.\n",
                file=sys.stderr,
            )
            self.extensions = []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
