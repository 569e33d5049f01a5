"""A campaign of failing disks: python -m campaigns.disk [--errors ENOSPC,EIO] [NAME ...]

While a file is written the n-th system call on its folder fails, for n = 1, 2, … until the file is written: that one alone or
with all that follow, by each error that a disk has; a write that takes half of its bytes; and death at that call (SIGKILL). Each
time there must be the old file or the new one, whole; an OSError that names it, or the new file; a network as before; and the
next writer must leave the new file and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastbp
from fastbp import checkpoints, cli

from .shims import preloaded

FAILS, LASTS, SHORT, KILLED = range(4)  # tests/c/failing_disk.c
PATIENCE = 60.0  # seconds until a process that should end, or die, is taken for one that never does


class Case:
    """A call that writes `path`, what is in that file, and what must be as before, or as after the call."""

    def __init__(
        self,
        path: Path,
        write: Callable[[], Any],
        contents: Callable[[Path], Any],
        net: fastbp.MLP,
        old: bytes,
    ) -> None:
        self.path, self._write, self.contents, self.net, self.old = path, write, contents, net, old
        self.parameters = net.parameters.copy()
        self.put_back()
        self.before = contents(path)
        self.write()
        self.after, self.parameters_after = contents(path), net.parameters.copy()
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def put_back(self) -> None:
        self.path.write_bytes(self.old)
        self.net.parameters[:] = self.parameters

    def write(self) -> None:
        self._write()

    def complaints(self, error: BaseException | None) -> Iterator[str]:
        """Right after a call that may have failed."""
        if not isinstance(error, (OSError, type(None))):
            yield f"{type(error).__name__}: {error}"
        elif error is not None and error.filename != os.fspath(self.path):
            yield f"an error that does not name the file: {error!r}"
        try:
            found = self.contents(self.path)
        except (OSError, ValueError) as damage:
            yield f"neither the old file nor the new one: {damage}"
        else:
            if found != self.after and (error is None or found != self.before):
                yield f"another file than the {'new' if error is None else 'old or the new'} one"
        if not any(
            np.array_equal(self.net.parameters, each) for each in (self.parameters, self.parameters_after)
        ):
            yield "a changed network"

    def complaints_of_the_next(self) -> Iterator[str]:
        """After another call, by a disk that works."""
        self.net.parameters[:] = self.parameters
        try:
            self.write()
        except Exception as error:
            yield f"the next call: {error!r}"
            return
        if self.contents(self.path) != self.after:
            yield "the next call: another file"
        if left := sorted({each.name for each in self.path.parent.iterdir()} - {self.path.name}):
            yield f"the next call: left {left}"
        if (n := len(os.listdir("/proc/self/fd"))) != self.descriptors:
            yield f"{n} open files in place of {self.descriptors}"


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Whatever writes a file that replaces another one."""
    X, y = fastbp.datasets.load_digits()
    inputs = folder / "data.npz"
    np.savez(inputs, X=X[:40], y=y[:40])

    def net(seed: int = 0) -> fastbp.MLP:
        return fastbp.MLP([64, 50, 10], seed=seed)

    def output(name: str) -> Path:
        """In a folder of its own."""
        (home := folder / f"{name}.d").mkdir()
        return home / name

    def saved(name: str) -> Case:
        network, path = net(), output(name)
        net(1).save(path)
        return Case(path, lambda: network.save(path), Path.read_bytes, network, path.read_bytes())

    def fit(network: fastbp.MLP, path: Path) -> None:
        network.fit(
            X[:40], y[:40], epochs=1, progress=False, optimizer=fastbp.SGD(0.1), shuffle=False,
            callbacks=[fastbp.callbacks.Checkpoint(path)],
        )  # fmt: skip

    def checkpoint() -> Case:
        network, path = net(), output("training.npz")
        fit(net(1), path)
        return Case(path, lambda: fit(network, path), training, network, path.read_bytes())

    def command(name: str, line: str, old: bytes) -> Case:
        path = output(name)
        return Case(path, lambda: run(f"{line} --output {path}"), Path.read_bytes, net(), old)

    train = f"train {inputs} --hidden 3 --epochs 1 --quiet --threads 1"
    model = folder / "model.npz"
    run(f"{train} --seed 1 --output {model}")
    yield "save .npz", lambda: saved("net.npz")
    yield "save .safetensors", lambda: saved("net.safetensors")
    yield "checkpoint", checkpoint
    yield "fastbp train", lambda: command("model.npz", train, model.read_bytes())
    yield "fastbp predict", lambda: command("table.csv", f"predict {model} {inputs}", b"y\n")


def training(path: Path) -> tuple[int, bytes]:
    saved = checkpoints.read(path)
    return saved.epoch, saved.vectors["parameters"].tobytes()


def run(line: str) -> None:
    """A command line; one that fails raises the error that it has told, about the file or its folder."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        status = cli.main(line.split())
    if status:
        path = line.split()[-1]
        named = any(f": {name}: " in told.getvalue() for name in (path, os.path.dirname(path)))
        raise OSError(0, told.getvalue(), path if named else None)


class Campaign:
    def __init__(self, library: ctypes.CDLL, errors: list[str]) -> None:
        self.library, self.errors = library, errors
        self.faults = 0
        self.wrong: list[str] = []

    def fail(self, case: Case, n: int, fault: int, number: int) -> tuple[bool, BaseException | None]:
        """Whether the n-th call was reached, and what the writer raised."""
        error = None
        self.library.disk_fails(os.fsencode(case.path.parent), n, fault, number)
        try:
            case.write()
        except BaseException as raised:
            error = raised
        return self.library.disk_works() >= n, error

    def kill(self, case: Case, n: int) -> tuple[bool, BaseException | None]:
        """The same of a process that dies at the n-th call, which raises nothing any more."""
        child = os.fork()
        if child == 0:
            os._exit(not self.fail(case, n, KILLED, 0)[0])
        end = time.monotonic() + PATIENCE
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True, TimeoutError("a writer that does not end")
            time.sleep(1e-4)
        died = os.WIFSIGNALED(done[1])
        return died, OSError(0, "killed", os.fspath(case.path)) if died else None

    def round(self, name: str, case: Case, what: str, fault: Callable[[int], Any]) -> int:
        """One fault after the other, until there is none."""
        n = 1
        while True:
            case.put_back()
            reached, error = fault(n)
            if not reached:
                return n - 1
            found = [*case.complaints(error), *case.complaints_of_the_next()]
            self.wrong += [f"{name}, {what} at call {n}: {each}" for each in found]
            del error
            n += 1

    def run(self, name: str, case: Case) -> None:
        print(f"{name}: ", end="", flush=True)
        faults: dict[str, Callable[[int], Any]] = {}
        for each in self.errors:
            number = getattr(errno, each)
            faults[each] = lambda n, number=number: self.fail(case, n, FAILS, number)
            if each != "EINTR":  # whatever goes on for ever is no interrupt
                faults[f"{each} from there on"] = lambda n, number=number: self.fail(case, n, LASTS, number)
        faults["half a write"] = lambda n: self.fail(case, n, SHORT, 0)
        faults["SIGKILL"] = lambda n: self.kill(case, n)
        counts = [self.round(name, case, what, fault) for what, fault in faults.items()]
        self.faults += sum(counts)
        print(f"{sum(counts)} faults in {max(counts)} calls", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases whose name begins so; all without")
    parser.add_argument(
        "--errors", default="ENOSPC,EDQUOT,EIO,EINTR", help="of the disk (ENOSPC,EDQUOT,EIO,EINTR)"
    )
    options = parser.parse_args()
    campaign = Campaign(preloaded("failing_disk"), options.errors.split(","))
    with tempfile.TemporaryDirectory() as folder:
        for name, make in cases(Path(folder).resolve()):
            if not options.names or any(name.startswith(each) for each in options.names):
                campaign.run(name, make())
    print(*campaign.wrong, f"{campaign.faults} faults, {len(campaign.wrong)} not handled", sep="\n")
    return bool(campaign.wrong)


if __name__ == "__main__":
    sys.exit(main())
