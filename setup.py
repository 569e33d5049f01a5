"""Builds fastbp/_kernels from Cython and src_c/; everything else stands in pyproject.toml.

FASTBP_DEBUG=1      bounds checks, assertions, little optimization
FASTBP_SANITIZE=1   the same under the address and undefined-behaviour sanitizers (with the compiler's libasan preloaded)
FASTBP_WERROR=1     a warning of the compiler is an error
FASTBP_PURE=1       no kernels: a wheel for any platform, which runs on the NumPy twin and does not warn of it

Where there is no C compiler the package installs without its kernels and runs on its NumPy twin. A compiler that is there
and fails makes the installation fail, with its message.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import PlatformError

SANITIZE = os.environ.get("FASTBP_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("FASTBP_DEBUG") == "1"
WERROR = os.environ.get("FASTBP_WERROR") == "1"
PURE = os.environ.get("FASTBP_PURE") == "1"

KERNELS = Path("fastbp/_kernels")
VARIANTS = Path("src_c/variants")
EXACT = [
    "-fno-fast-math",
    "-fno-unsafe-math-optimizations",
    "-fno-finite-math-only",
    "-fno-associative-math",
    "-fno-reciprocal-math",
    "-fsigned-zeros",
]
HEADERS = [
    f"src_c/{name}" for name in ("fastbp.h", "functions.def", "activations.def", "errors.def", "updates.def")
]


def compiler_version() -> str:
    """What the compiler says of itself; "" where there is none, or one that is found in another way."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    try:
        return subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60).stdout
    except OSError:
        return ""


def build_folder() -> str:
    """A folder for each interpreter, NumPy, Cython, compiler and set of flags, so that two builds share nothing."""
    import Cython
    import numpy

    words = [
        sys.version,
        numpy.__version__,
        Cython.__version__,
        compiler_version(),
        str((DEBUG, SANITIZE, WERROR)),
    ]
    words += [
        f"{name}={os.environ.get(name)}"
        for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "ARCHFLAGS")
    ]
    return f"build/{sys.implementation.cache_tag}-{hashlib.sha256(repr(words).encode()).hexdigest()[:12]}"


BUILD = build_folder()
OBJECTS = f"{BUILD}/objects"  # not build_temp, which is another one for each editable installation


def extensions() -> list[Extension]:
    """One extension per .pyx. The primitives are linked into `dispatch` alone; the others reach them through its tables."""
    import numpy

    primitives = ["src_c/isa/dispatch.c", *sorted(str(path) for path in VARIANTS.glob("*.c"))]
    modules = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path), *(primitives if path.stem == "dispatch" else [])],
            include_dirs=["src_c", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION"),  # whose are memory handlers
                *([] if DEBUG else [("NDEBUG", None), ("CYTHON_WITHOUT_ASSERTIONS", None)]),
            ],
        )
        for path in sorted([*KERNELS.glob("*.pyx"), *KERNELS.parent.glob("*.pyx")])
    ]
    if not modules or len(primitives) == 1:
        raise SystemExit(
            f"fastbp: nothing to compile in {KERNELS} or {VARIANTS}: this source distribution is not complete"
        )
    return modules


class BuildKernels(build_ext):
    """Compiles as many C files at a time as there are cores, each if anything that it includes is newer than its object."""

    def build_extensions(self) -> None:
        if not self.there_is_a_compiler():
            print(
                "\nfastbp: WARNING: there is no C compiler; fastbp installs without its compiled kernels",
                file=sys.stderr,
            )
            print("fastbp: WARNING: and runs on its NumPy twin, many times slower.\n", file=sys.stderr)
            self.extensions = []
            return
        for extension, in_c in zip(self.extensions, cythonized(self.extensions), strict=True):
            extension.sources = in_c.sources
        self.compile_all()
        super().build_extensions()  # which links
        if not self.editable_mode:
            self.copy_to_source()

    def there_is_a_compiler(self) -> bool:
        if self.compiler.compiler_type != "msvc":
            return shutil.which(self.compiler.compiler_so[0]) is not None
        try:
            self.compiler.initialize()
        except PlatformError:
            return False
        self.compiler.cc = (
            shutil.which("clang-cl") or self.compiler.cc
        )  # which knows vectors, and is found there, too
        return True

    def compile_all(self) -> None:
        compiling, linking = flags(self.compiler.compiler_type)
        jobs = [(extension, source) for extension in self.extensions for source in extension.sources]
        jobs.sort(key=lambda job: ("/variants/" not in job[1], "avx512" not in job[1]))  # the longest first

        def compiled(job: tuple[Extension, str]) -> str:
            return self.compiled(*job, compiling)

        with ThreadPoolExecutor(cores()) as pool:
            for (extension, _), target in zip(jobs, pool.map(compiled, jobs), strict=True):
                extension.extra_objects.append(target)
        for extension in self.extensions:
            extension.sources, extension.depends = [], extension.extra_objects
            extension.extra_link_args = linking

    def compiled(self, extension: Extension, source: str, compiling: list[str]) -> str:
        """The object of a C file."""
        target = Path(self.compiler.object_filenames([source], output_dir=OBJECTS)[0])
        dependencies = target.with_suffix(".d")
        if not self.force and up_to_date(target, dependencies):
            return str(target)
        if not source.startswith("src_c") and self.compiler.compiler_type != "msvc":
            # Cython converts structs that nobody asks it to, and leaves variables of assertions that are not there
            compiling = [*compiling, "-Wno-unused-function", "-Wno-unused-variable"]
            if "-O3" in compiling:
                compiling += ["-O2"]  # they call the loops: a sixth smaller
        recording = [] if self.compiler.compiler_type == "msvc" else ["-MMD", "-MF", str(dependencies)]
        self.compiler.compile(
            [source],
            output_dir=OBJECTS,
            macros=extension.define_macros,
            include_dirs=[*extension.include_dirs, *self.include_dirs],
            extra_postargs=[*compiling, *recording],
        )
        return str(target)

    def copy_to_source(self) -> None:
        """So that `python -m fastbp` and `python -m bench` find the kernels in the source tree, too; each file as a whole."""
        for extension in self.extensions:
            target = Path(self.get_ext_filename(extension.name))
            scratch = target.with_suffix(f".{os.getpid()}")
            shutil.copyfile(self.get_ext_fullpath(extension.name), scratch)
            os.replace(scratch, target)


def cythonized(modules: list[Extension]) -> list[Extension]:
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
    at_once = cores() if sys.platform == "linux" else 0  # elsewhere a process would run this file again
    return cythonize(modules, compiler_directives=directives, build_dir=f"{BUILD}/cython", nthreads=at_once)


def up_to_date(target: Path, dependencies: Path) -> bool:
    """Whether an object is newer than every file of this tree that its compilation has read.

    The headers of Python and NumPy are elsewhere, in each isolated build in another place; the folder's name has their versions.
    """
    if not target.exists() or not dependencies.exists():
        return False
    words = dependencies.read_text().replace("\\\n", " ").split()[1:]
    files = [Path(word) for word in words if not Path(word).is_absolute()]
    return all(
        file.exists() and file.stat().st_mtime < target.stat().st_mtime for file in [*files, Path(__file__)]
    )


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flags(compiler_type: str) -> tuple[list[str], list[str]]:
    """Those of compiling and of linking; they stand behind the user's, and take back what would break the arithmetic."""
    if compiler_type == "msvc":
        contract = ["/clang:-ffp-contract=off"] if shutil.which("clang-cl") else []
        return ["/O2", "/fp:precise", "/std:c11", *contract], []
    compiling, linking = ["-std=c11", "-pthread", "-ffp-contract=off", *EXACT], ["-pthread", "-lm", *EXACT]
    if DEBUG:  # with -g the sanitizers take minutes for an unrolled tile
        compiling += ["-O1", "-g1" if SANITIZE else "-g", "-UNDEBUG"]
    else:
        compiling += ["-O3", "-g0", "-fno-math-errno", *frugal()]
        linking += ["-O3", *(["-Wl,-s"] if sys.platform == "linux" else [])]
    if SANITIZE:
        checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        compiling += [*checks, "-fno-omit-frame-pointer", "-DFBP_LOOPS_STAY"]
        linking += checks[:1]
    return compiling + (["-Werror"] if WERROR else []), linking


def frugal() -> list[str]:
    """Of gcc: collect garbage earlier, which saves a third of a compilation's memory and takes a twentieth more of its time."""
    gcc = "Free Software Foundation" in compiler_version()
    return ["--param=ggc-min-expand=50", "--param=ggc-min-heapsize=65536"] if gcc else []


class BuildPython(build_py):
    """Puts the headers into the package, where `fastbp.get_include()` finds them."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if PURE:  # what tells a package that never had kernels from one whose kernels are missing
            self.packages.remove("fastbp._kernels")

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # what is no longer among the sources goes
        super().run()
        if not self.editable_mode:
            for header in HEADERS:
                target = Path(self.build_lib, "fastbp", "include", Path(header).name)
                self.mkpath(str(target.parent))
                self.copy_file(header, str(target))


setup(
    ext_modules=[] if PURE else extensions(),
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPython},
    options={"build": {"build_base": BUILD}},
)
