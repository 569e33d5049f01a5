"""The C compiler of a build with a fault in it, for `CC`: gcc at -O1, and only where the fault has a say.

An object or library that is newer than all it was made from is left as it stands; so are the objects of instruction sets that are
not under test (FASTBP_MUTANT_SKIPS, their names), as long as there are some.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

COMPILER = ["gcc"]
CHEAPLY = ["-O1", "-g0", "-Wno-error"]  # a fault may leave variables that nobody reads,
CHEAPLY += [
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
]  # but what no one would land is none


def made_from(output: Path, inputs: list[str]) -> list[Path]:
    """The files that `output` was made from, as the compiler wrote them down, or its inputs on the command line."""
    rule = output.with_suffix(".d")
    if output.suffix == ".o" and rule.exists():
        return [Path(name) for name in rule.read_text().replace("\\\n", " ").split(": ", 1)[1].split()]
    return [Path(name) for name in inputs]


def stands(output: Path, inputs: list[str]) -> bool:
    if not output.exists():
        return False
    skipped = set(os.environ.get("FASTBP_MUTANT_SKIPS", "").split())
    if any(skipped & set(re.split(r"[_.]", Path(name).name)) for name in inputs if name.endswith(".c")):
        return True
    built = output.stat().st_mtime_ns
    return all(source.exists() and source.stat().st_mtime_ns <= built for source in made_from(output, inputs))


def main(arguments: list[str]) -> int:
    if "-o" not in arguments:
        return subprocess.call([*COMPILER, *arguments])
    output = Path(arguments[arguments.index("-o") + 1])
    inputs = [word for word in arguments if word.endswith((".c", ".o")) and Path(word) != output]
    if stands(output, inputs):
        return 0
    if "-c" in arguments:
        arguments = [*arguments, *CHEAPLY, "-MD", "-MF", str(output.with_suffix(".d"))]
    return subprocess.call([*COMPILER, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
