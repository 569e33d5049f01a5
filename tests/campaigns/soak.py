"""Long runs: python -m campaigns.soak [--seconds S] [PART ...]

memory          training, prediction, saving and loading, in nets of every kind: no growth of the memory in use
threads         networks trained at once, each from a thread of its own: the bits of one that is trained alone
forks           while another thread trains: the child trains, to the same bits
workers         processes of joblib, by the dozen: no thread, no process and no shared memory of theirs is left
interpreters    another interpreter in this process: an ImportError, and this one goes on

Every part takes S seconds, or as long as it takes once. Each step has a minute: one that hangs ends the process with all stacks.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import fastbp
from fastbp.optimizers import OPTIMIZERS

STEP = 60  # seconds
NOISE = 2 * 2**20  # bytes by which the memory in use may differ between two quarters of a run
NETS = 16
X, Y = fastbp.datasets.load_digits()


def trained(seed: int, n_threads: int | None = None, kind: type = fastbp.Adam) -> fastbp.MLP:
    """A small network after an epoch."""
    net = fastbp.MLP(
        [64, 20 + seed % 5, 10], activation=("relu", "gelu")[seed % 2], seed=seed, n_threads=n_threads
    )
    net.fit(
        X[:400], Y[:400], epochs=1, optimizer=kind(), progress=False, validation_data=(X[400:500], Y[400:500])
    )
    return net


def rounds(seconds: float, least: int = 1) -> Iterator[int]:
    """Numbers from 1, until the time is over; one that takes too long ends the process and shows where it is."""
    end, number = time.monotonic() + seconds, 0
    while number < least or time.monotonic() < end:
        faulthandler.dump_traceback_later(STEP, exit=True)
        number += 1
        yield number
    faulthandler.cancel_dump_traceback_later()


def in_use() -> int:
    """Bytes of this process that are in memory, when all that is free has been given back."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def memory(seconds: float) -> str:
    kinds, sizes = sorted(OPTIMIZERS, key=lambda kind: kind.__name__), []
    with tempfile.TemporaryDirectory() as folder:
        for number in rounds(seconds, 40):
            net = trained(number, kind=kinds[number % len(kinds)])
            net.predict_proba(X)
            net.save(path := f"{folder}/net{('.npz', '.safetensors')[number % 2]}")
            assert fastbp.MLP.load(path).evaluate(X, Y) == net.evaluate(X, Y)
            fastbp.linear_softmax_cross_entropy(X, np.zeros((64, 10), X.dtype), Y, max_memory=2**18)
            with contextlib.suppress(ValueError):
                net.step(X, np.full(len(X), 10), fastbp.SGD())
            del net
            sizes.append(in_use())
    quarter = len(sizes) // 4
    growth = min(sizes[-quarter:]) - min(sizes[quarter : 2 * quarter])
    assert growth < NOISE, (
        f"{growth} bytes more in use in the last quarter of {len(sizes)} rounds than in the second"
    )
    largest, since = max(sizes) / 2**20, "from the second quarter to the last"
    return f"{len(sizes)} trainings, {largest:.0f} MiB at most, {growth / 1024:+.0f} KiB {since}"


def threads(seconds: float) -> str:
    alone = [trained(seed, n_threads=1).parameters.tobytes() for seed in range(NETS)]
    with ThreadPoolExecutor(NETS) as pool:
        for number in rounds(seconds, 2):
            together = pool.map(
                trained, range(NETS), [(None, 1, 2, 3)[(number + seed) % 4] for seed in range(NETS)]
            )
            assert [net.parameters.tobytes() for net in together] == alone, "other bits than alone"
    return f"{number * NETS} networks, {NETS} at a time"


def forks(seconds: float) -> str:
    expected, over = trained(0).parameters.tobytes(), threading.Event()

    def train() -> None:
        while not over.is_set():
            trained(1, n_threads=2)

    other = threading.Thread(target=train)
    other.start()
    try:
        for number in rounds(seconds, 5):  # noqa: B007
            child = os.fork()
            if not child:
                signal.alarm(STEP // 2)
                os._exit(trained(0, n_threads=2).parameters.tobytes() != expected)
            _, status = os.waitpid(child, 0)
            assert status == 0, f"the child ended with {status}"
    finally:
        over.set()
        other.join(STEP)
    return f"{number} forks"


def _work(seed: int) -> bytes:
    return trained(seed).parameters.tobytes()


def left() -> dict[str, set[str]]:
    """What workers could leave behind, but for the folders that joblib removes when this process ends."""
    me = Path("/proc/self")
    return {
        "threads": {f"{(task / 'comm').read_text().strip()} {task.name}" for task in (me / "task").iterdir()},
        "processes": {
            child for task in (me / "task").iterdir() for child in (task / "children").read_text().split()
        },
        "shared memory": {
            name for name in os.listdir("/dev/shm") if not name.startswith("joblib_memmapping")
        },
    }


def workers(seconds: float) -> str:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    n, expected = 4, [_work(seed) for seed in range(8)]
    joblib.Parallel(n_jobs=n)(joblib.delayed(_work)(seed) for seed in range(8))
    get_reusable_executor(reuse=True).shutdown(wait=True)
    before = left()
    for number in rounds(seconds):  # noqa: B007
        done = joblib.Parallel(n_jobs=n)(joblib.delayed(_work)(seed) for seed in range(8))
        assert done == expected, "other bits than in this process"
        get_reusable_executor(reuse=True).shutdown(wait=True)
    gc.collect()
    more = {kind: found - before[kind] for kind, found in left().items()}
    assert not any(more.values()), f"left behind: {more}"
    return f"{n * number} workers"


INTERPRETER = """
try:
    import fastbp
    fastbp.MLP([2, 3], seed=0).loss([[1.0, 2.0]], [0])
except ImportError as error:
    assert str(error)
"""


def interpreters(seconds: float) -> str:
    try:
        import _xxsubinterpreters as other
    except ModuleNotFoundError:
        import _interpreters as other
    for number in rounds(seconds, 3):  # noqa: B007
        one = other.create()
        other.run_string(one, INTERPRETER)
        other.destroy(one)
        trained(0)
    return f"{number} interpreters"


PARTS: dict[str, Callable[[float], str]] = {
    part.__name__: part for part in (memory, threads, forks, workers, interpreters)
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="all without")
    parser.add_argument("--seconds", type=float, default=60, help="of each part (60)")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        print(f"{name}: {PARTS[name](options.seconds)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
