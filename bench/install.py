"""What an installation costs: the time of `import fastbp` beside NumPy's, the size of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

ROUNDS = 11
IMPORT = "import time; t = time.perf_counter(); import numpy; u = time.perf_counter(); import fastbp; \
print(u - t, time.perf_counter() - u)"
SUFFIXES = {".py", ".pyi", ".pxd", ".so", ".pyd", ".npz", ".md", ".h", ".def", ".typed"}


def report() -> str:
    """Return two lines."""
    import fastbp

    package = Path(fastbp.__file__).parent
    command = [sys.executable, "-c", IMPORT]
    runs = [
        subprocess.run(command, cwd=package.parent, capture_output=True, check=True) for _ in range(ROUNDS)
    ]
    numpy_s, fastbp_s = np.median([[float(word) for word in run.stdout.split()] for run in runs], axis=0)
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.suffix in SUFFIXES}
    compiled = sum(size for path, size in sizes.items() if path.suffix in (".so", ".pyd"))
    return (
        f"import  NumPy {numpy_s * 1e3:.0f} ms, then fastbp {fastbp_s * 1e3:.0f} ms (medians of {ROUNDS} processes)\n"
        f"size    {sum(sizes.values()) / 1e6:.1f} MB, of which {compiled / 1e6:.1f} MB compiled kernels ({package})"
    )
