"""The C compiler of a build with a fault in it, for `CC`: gcc at -O1, without unrolling, for the engines that the fault is in.

An object of another instruction set or dtype (FASTBP_MUTANT_SKIPS, their names) is left as it stands, if it does.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

CHEAPLY = ["-O1", "-DFBP_LOOPS_STAY", "-g0", "-Wall", "-Werror"]  # with a warning no fault could land


def main(arguments: list[str]) -> int:
    skipped = set(os.environ.get("FASTBP_MUTANT_SKIPS", "").split())
    if "-c" in arguments:
        words = {
            word for name in arguments if name.endswith(".c") for word in re.split(r"[_.]", Path(name).name)
        }
        if skipped & words and Path(arguments[arguments.index("-o") + 1]).exists():
            return 0
        arguments = [
            *arguments,
            *CHEAPLY,
            *(["-O3"] if "generic" in words else []),
        ]  # slow otherwise, and soon compiled
    return subprocess.call(["gcc", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
