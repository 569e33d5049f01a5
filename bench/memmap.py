"""Training on a file that is not to be read as a whole: the memory that `fit` takes on a memory map of 4 GB.

The pages of the file belong to the cache of the system. What counts is the anonymous memory, which Linux tells as RssAnon: its
growth while `fit` makes an epoch and validates on a tenth of the rows, looked at 200 times a second. The file is sparse, so that
most of its zeros take no room on the disk.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastbp

LIMIT = 300e6  # bytes


@dataclass(frozen=True)
class MapShape:
    """The dtype of the file, its bytes, the columns of a row."""

    stored: str
    size: int
    columns: int = 1024

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        return f"{self.size / 1e9:.3g} GB of {self.stored}, {self.columns} columns"


SHAPES = (MapShape("float32", 4 << 30), MapShape("uint8", 4 << 30))


def rows(shapes: Sequence[MapShape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Train on and print each; with `quick` on a 64th of it."""
    return [_row(shape, shape.size // (64 if quick else 1), dtype, threads) for shape in shapes]


def _row(shape: MapShape, size: int, dtype: np.dtype, threads: int) -> dict[str, Any]:
    n = size // (shape.columns * np.dtype(shape.stored).itemsize)
    with tempfile.TemporaryDirectory() as folder:
        x = np.memmap(Path(folder) / "x", shape.stored, "w+", shape=(n, shape.columns))
        x[:: max(1, n // 1000)] = 1
        labels = np.arange(n) % 10
        net = fastbp.MLP([shape.columns, 32, 10], dtype=dtype.name, seed=0, n_threads=threads)
        net.fit(x[:2000], labels[:2000], epochs=1, batch_size=1000, progress=False)
        started = time.perf_counter()
        with Watch() as watch:
            net.fit(x, labels, epochs=1, batch_size=1000, validation_fraction=0.1, progress=False)
        seconds = time.perf_counter() - started
        del x
    grown = watch.most - watch.before
    verdict = "" if not watch.before else "within" if grown < LIMIT else "MISSED"
    print(
        f"{shape.name:36} {n} rows, {seconds:.1f} s an epoch, {1e-6 * grown:.0f} MB of anonymous memory  {verdict}"
    )
    return {"shape": shape.name, "rows": n, "seconds": seconds, "grown": grown}


class Watch:
    """The most anonymous memory of the process while a block runs; 0 where Linux is not the system."""

    def __enter__(self) -> Watch:
        self.before = self.most = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, anonymous())

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def anonymous() -> int:
    """Return the bytes of memory that no file stands for."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found.group(1)) if found else 0
