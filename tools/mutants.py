"""Faults in the sources, one at a time, and whether the ordinary tests notice: python tools/mutants.py --help

A. Faults are drawn with a seed from what tools/faults.py finds, in turn from every room of the house and every operator, never
   chosen by hand. Lines that are not compiled on this machine are left out; a fault that does not compile is drawn again.
B. The checkout is only read: a copy of it, the base, is built once, and each fault is set into a copy of the base. The build is
   setup.py's own, which compiles again what includes the fault, with tools/cc.py for a compiler: for one instruction set alone.
C. Then the ordinary tests run until the first failure, those of the room first. A crash counts as noticed, and so does a test
   that does not end, or a run three times as long as that without a fault.
D. Results are written as they come, to results.jsonl; what stands there of the same sources is not tried again.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
from faults import Fault, faults_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from quick import ROOMS, rooms_of  # noqa: E402

LEFT_OUT = {
    "src_c/fastbp.h",  # declarations,
    "src_c/primitives.h",  # and more of them
    "fastbp/_kernel_api.py",  # types: never imported
    "src_c/assumptions.h",  # asked in a debug build alone
    "src_c/threads/core.h",  # on which core a thread runs
    "src_c/isa/units.h",  # which units of bfloat16 there are, and what asks the system for leave to use tiles,
    "src_c/gemm/pieces/tile_unit.h",  # tiles,
    "src_c/gemm/pieces/tile_sums.h",  # sums on them,
    "src_c/gemm/product.h",  # and which products go there
}
MEMORY = 16 << 30  # bytes of address space of a test run: a fault must not take the machine with it
KINDS, FOLDERS = (".py", ".pyx", ".pxd", ".h", ".c", ".def"), ("fastbp", "src_c", "tests")

PYTEST = "-m pytest -x -q -n0 --tb=line -p no:cacheprovider -p tools.one_engine"
NOTHING_RAN = 5  # of pytest: all these tests need a library that is not here
BROWSER = "playground"  # which takes more address space than MEMORY
SLOW = ("twin_training", "docs", "bench", "c", "distribution")  # they come last


# -- what may be wrong ---------------------------------------------------------------------------------------------------------


def room(path: str) -> str:
    if path.startswith("src_c/"):
        return "/".join(path.split("/")[:-1])
    return "kernels" if path.endswith(".pyx") else "python"


def sources() -> list[str]:
    """The files that may be wrong. Like all paths from here on they start at the base, where this process works."""
    files = (
        str(path)
        for pattern in (
            "src_c/**/*.[ch]",
            "fastbp/_kernels/*.pyx",
            "fastbp/**/*.py",
        )
        for path in Path().glob(pattern)
    )
    return sorted(set(files) - LEFT_OUT)


def lines_compiled(source: str) -> set[tuple[str, int]]:
    """The lines of src_c/ that are left when the preprocessor has been through a C file."""
    folders = ("src_c", numpy.get_include(), sysconfig.get_path("include"))
    command = ["gcc", "-E", "-dD", "-std=c11", *(f"-I{folder}" for folder in folders), source]
    lines, path, number = set(), "", 0
    for line in subprocess.run(command, text=True, check=True, capture_output=True).stdout.splitlines():
        marker = re.match(r'# (\d+) "(.*)"', line)
        if marker:
            path, number = os.path.normpath(marker[2]), int(marker[1])
            continue
        if line.strip():
            lines.add((path, number))
        number += 1
    return lines


class House:
    """The instruction sets that can be tested here, and on which of them a line is compiled."""

    def __init__(self, isas: list[str]) -> None:
        variants = sorted(map(str, Path("src_c").glob("variants/*.c")))
        self.all = sorted({Path(path).stem.split("_")[0] for path in variants})
        self.isas = sorted(isas, key=lambda isa: -sum(Path(path).stem.startswith(isa) for path in variants))
        self.compiled = {
            path: lines_compiled(path) for path in variants if Path(path).stem.split("_")[0] in isas
        }
        self.reached = {path for lines in self.compiled.values() for path, _ in lines}

    @functools.cached_property
    def alone(self) -> set[tuple[str, int]]:
        """The lines of src_c/*.h that no variant includes: threads and memory, which Cython's C includes."""
        others = [
            path for path in sources() if re.fullmatch(r"src_c/\w+\.[ch]", path) and path not in self.reached
        ]
        return set().union(*map(lines_compiled, others))

    def skips(self, fault: Fault) -> tuple[str, set[str]] | None:
        """The instruction set to test a fault on, and what is neither rebuilt nor tested; None where the line is not compiled."""
        path, line = fault.path, fault.line
        variants = [Path(variant).stem for variant, lines in self.compiled.items() if (path, line) in lines]
        if not variants and path.startswith("src_c/") and (path, line) not in self.alone:
            return None
        isa = next(isa for isa in self.isas if not variants or any(name.startswith(isa) for name in variants))
        of_isa = "_".join(name for name in variants if name.startswith(isa)).split("_")
        dtypes = {"float32", "float64"}
        other = set(self.all) - {isa} | (dtypes - set(of_isa) if dtypes & set(of_isa) else set())
        return isa, other | (set() if path.endswith(".py") else {"reference"})


def draw(seed: int, house: House) -> Iterator[list[Fault]]:
    """Cells of faults, one for each room and operator, in turn; the faults of a cell in random order."""
    cells = collections.defaultdict(list)
    for path in sources():
        for fault in faults_of(path, Path(path).read_text()):
            if house.skips(fault):
                cells[f"{room(path)}: {fault.operator}"].append(fault)
    order = sorted(cells)
    random.Random(seed).shuffle(order)
    for name in order:
        random.Random(f"{seed} {name}").shuffle(cells[name])
    while any(cells.values()):
        for name in order:
            if cells[name]:
                yield cells[name]


# -- one fault -----------------------------------------------------------------------------------------------------------------


def with_fault(fault: Fault) -> str:
    text = Path(fault.path).read_text()
    return text[: fault.start] + fault.replacement + text[fault.end :]


def difference(fault: Fault) -> str:
    text, wrong = Path(fault.path).read_text(), with_fault(fault)
    start, rest = text.rfind("\n", 0, fault.start) + 1, len(text) - fault.end
    ends = (text.find("\n", fault.end), wrong.find("\n", len(wrong) - rest))
    return f"-{text[start : ends[0]]}\n+{wrong[start : ends[1]]}"


def key(fault: Fault) -> str:
    return hashlib.sha256(f"{fault.path} {fault.start} {with_fault(fault)}".encode()).hexdigest()[:12]


def digest(word: str, *folders: str) -> str:
    """Of the sources in these folders."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.suffix in KINDS)
    return hashlib.sha256(word.encode() + b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def copy_checkout(base: Path) -> None:
    """The files of the checkout as they stand; a file that is the same keeps its time, so that little is built again."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    names = [name for name in names if (ROOT / name).is_file()]
    for name in names:
        here, there = ROOT / name, base / name
        if not (there.exists() and there.read_bytes() == here.read_bytes()):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, there)
    for folder in FOLDERS:
        for path in base.glob(f"{folder}/**/*.*"):
            if path.suffix in KINDS and str(path.relative_to(base)) not in names:
                path.unlink()


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(
    command: list[str], folder: Path, log: Path, limit: float | None = None, **environment: str
) -> int | None:
    """The exit code, or None if it takes longer than `limit` seconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTBP_")}
    inherited |= {"FASTBP_BACKEND": "native", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    with log.open("w") as output:
        settings = {"cwd": folder, "env": inherited, "stdout": output, "stderr": output}
        process = subprocess.Popen(command, **settings, start_new_session=True, preexec_fn=limited)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def build(folder: Path, skips: set[str] = frozenset()) -> bool:
    compiler = f"{sys.executable} -S {ROOT / 'tools/cc.py'}"
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return run(command, folder, folder / "build.log", CC=compiler, FASTBP_MUTANT_SKIPS=" ".join(skips)) == 0


def test_files(path: str) -> tuple[list[str], list[str]]:
    """The test files that are likely to notice a fault in `path`, those of its rooms, and all others, slow ones last."""
    names = [path.stem.removeprefix("test_") for path in sorted(Path("tests").glob("test_*.py"))]
    likely = dict.fromkeys(
        name for room in rooms_of(path) for name in ROOMS[room][1].split() if name not in SLOW
    )
    others = sorted({*names} - {*likely, BROWSER}, key=lambda name: (name in SLOW, name))
    return [f"tests/test_{name}.py" for name in likely], [f"tests/test_{name}.py" for name in others]


def tested(
    folder: Path, path: str, isa: str, skips: set[str], limit: float | None = None
) -> tuple[str, float]:
    """What the ordinary tests say first, "" if nothing, and after how many seconds."""
    start = time.monotonic()
    command = [sys.executable, *PYTEST.split()]
    log, environment = folder / "tests.log", {"FASTBP_ISA": isa, "FASTBP_MUTANT_SKIPS": " ".join(skips)}
    for files in filter(None, test_files(path)):
        code = run([*command, *files], folder, log, limit, **environment)
        if code not in (0, NOTHING_RAN):
            break
    return verdict(code, log), time.monotonic() - start


def verdict(code: int | None, log: Path) -> str:
    """The test that failed, or in which Python crashed."""
    said = log.read_text(errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said, re.MULTILINE)
    crashed = re.search(r'(tests/test_\w+\.py)", line \d+ in (test_\w+)', said)
    if code in (0, NOTHING_RAN):
        return ""
    if code is None:
        return "no end"
    if code < 0:
        return f"{signal.Signals(-code).name} {'::'.join(crashed.groups()) if crashed else ''}".strip()
    return failed[1] if failed else f"exit code {code}"


# -- a run ---------------------------------------------------------------------------------------------------------------------


class Run:
    """The base, which this process works in, and the results so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.lock = folder, folder / "results.jsonl", threading.Lock()
        self.done: dict[str, dict] = {}
        copy_checkout(folder / "base")
        os.chdir(folder / "base")
        if not build(Path()):
            sys.exit(f"the sources do not build: {folder}/base/build.log")
        self.tests = digest("", "tests")
        if self.results.exists():
            self.done = {each["key"]: each for each in map(json.loads, self.results.read_text().splitlines())}

    def known(self, fault: Fault) -> dict | None:
        """An earlier result; what was not noticed is tried again once the tests are others."""
        result = self.done.get(key(fault))
        return result if result and (result["noticed"] or result["tests"] == self.tests) else None

    def keep(self, **result) -> dict:
        self.done[result["key"]] = result
        with self.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        return result

    def limit(self, isa: str, skips: set[str]) -> float:
        """Seconds for the tests of a fault, from how long they take on this instruction set without one; they must pass."""
        name = digest(isa, *FOLDERS)
        with self.lock:
            if name not in self.done:
                said, seconds = tested(Path(), "", isa, skips)
                if said:
                    sys.exit(f"without a fault, on {isa}: {said}")
                self.keep(key=name, isa=isa, seconds=round(seconds))
        return 60 + 3 * self.done[name]["seconds"]

    def attempt(self, fault: Fault, isa: str, skips: set[str], place: int) -> dict:
        """Build and test the base with the fault in it, in the place of a worker."""
        work = self.folder / f"work-{place}"
        shutil.rmtree(work, ignore_errors=True)
        subprocess.run(["cp", "-a", ".", work], check=True)
        (work / fault.path).write_text(with_fault(fault))
        facts = dict(
            key=key(fault), room=room(fault.path), isa=isa, **fault._asdict(), difference=difference(fault)
        )
        if not compiles(fault, work, skips):
            return self.keep(**facts, noticed="compiler")
        said, seconds = tested(work, fault.path, isa, skips, self.limit(isa, skips))
        return self.keep(**facts, noticed=said, seconds=round(seconds), tests=self.tests)


def compiles(fault: Fault, work: Path, skips: set[str]) -> bool:
    if not fault.path.endswith(".py"):
        return build(work, skips)
    try:
        compile(with_fault(fault), fault.path, "exec")
    except SyntaxError:
        return False
    return True


def table(results: list[dict]) -> str:
    """Noticed of tried, by room and operator; then each fault that was not noticed."""
    rooms, operators = (sorted({each[name] for each in results}) for name in ("room", "operator"))

    def share(kept: list[dict]) -> str:
        return f"{sum(bool(each['noticed']) for each in kept)}/{len(kept)}" if kept else ""

    lines = [f"| | {' | '.join(rooms)} | all |", f"|---|{'---|' * (len(rooms) + 1)}"]
    for operator in [*operators, "all"]:
        row = [each for each in results if operator in (each["operator"], "all")]
        cells = [share([each for each in row if each["room"] == name]) for name in rooms]
        lines.append(f"| {operator} | {' | '.join([*cells, share(row)])} |")
    for each in results:
        if not each["noticed"]:
            lines.append(
                f"\n{each['path']}:{each['line']}, {each['operator']} ({each['isa']})\n\n```diff\n{each['difference']}\n```"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=120, help="how many faults (120)")
    parser.add_argument("-j", type=int, default=1, help="how many at a time (1)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (1)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir(), "fastbp-mutants"),
        help="copies and results",
    )
    parser.add_argument(
        "--list", action="store_true", help="show what would be tried, compiled or not, and stop"
    )
    options = parser.parse_args()

    session = Run(options.folder.resolve())
    code = "from fastbp import _backend; print(*_backend.kernels.available_isas())"
    house = House(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    cells = draw(options.seed, house)
    if options.list:
        for fault in (next(cells).pop() for _ in range(options.n)):
            print(
                f"{fault.path}:{fault.line} {fault.operator} ({house.skips(fault)[0]})\n{difference(fault)}\n"
            )
        return
    session.limit(house.isas[0], set(house.all) - {house.isas[0]})
    results: list[dict] = []
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        list(pool.map(lambda place: work(session, house, cells, results, options.n, place), range(options.j)))
    print(table(results))


def work(
    session: Run, house: House, cells: Iterator[list[Fault]], results: list[dict], n: int, place: int
) -> None:
    """Try one fault after another until there are n results; one that does not compile makes room for the next of its cell."""
    cell: list[Fault] = []
    while True:
        with session.lock:
            if len(results) >= n:
                return
            cell = cell or next(cells)
            fault = cell.pop()
        result = session.known(fault) or session.attempt(fault, *house.skips(fault), place)
        if result["noticed"] == "compiler":
            continue
        cell = []
        with session.lock:
            results.append(result)
            said = result["noticed"] or "NOT NOTICED"
            print(f"{len(results)} {fault.path}:{fault.line} {fault.operator}: {said}", flush=True)


if __name__ == "__main__":
    main()
