"""A campaign of failing allocations: python -m campaigns.failures [--most N] [NAME ...]

Within a call the n-th allocation fails, for n = 1, 2, … until the call gets through: once that one alone, once with all that
follow. Each time the call must give its result (more slowly, perhaps) or raise MemoryError; a network must be as before or as
after; and the next call, with memory again, must give the right result. A crash ends this process: the last line names the call.
Networks are made beforehand, since NumPy's own generators do not survive the lack of memory.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import good_calls
import numpy as np

import fastbp

from .shims import preloaded

FOREIGN = (  # what NumPy's indexing and reductions, and Python where it makes a lock, say in place of MemoryError
    "error return without exception set",
    "returned NULL without setting an exception",
    "can't allocate lock",
)
LEAK = 1 << 16  # bytes that a second round over all failures may leave in use: caches of Python's

rng = np.random.default_rng(0)


class Case:
    """A call, what it gives, and what must be whole whatever comes of it."""

    def __init__(self, call: Callable[[], Any], nets: tuple[fastbp.MLP, ...] = ()) -> None:
        self.call, self.nets = call, nets
        self.before = [net.parameters.copy() for net in nets]
        self.expected = numbers(call())
        self.after = [net.parameters.copy() for net in nets]

    def reset(self) -> None:
        for net, before in zip(self.nets, self.before, strict=True):
            net.parameters[:] = before

    def is_whole(self) -> bool:
        """Each network is as before, or as after the call, or, within a training, finite."""
        return all(np.isfinite(net.parameters).all() for net in self.nets)

    def is_right(self, result: Any) -> bool:
        same = zip(numbers(result), self.expected, strict=True)
        nets = zip(self.nets, self.after, strict=True)
        return all(np.array_equal(*pair) for pair in same) and all(
            np.array_equal(net.parameters, after) for net, after in nets
        )


def numbers(result: Any) -> list[np.ndarray]:
    """The arrays and numbers of a result, copied."""
    if isinstance(result, fastbp.History):
        return [np.array(result.loss)]
    if isinstance(result, fastbp.MLP):
        return [result.parameters.copy()]
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return [each for part in result for each in numbers(part)]
    return [] if result is None else [np.array(result)]


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Every public function on little, then what takes threads, work spaces and files."""
    for name, good in good_calls.GOOD.items():
        yield name, lambda good=good: Case(lambda: good.function(**good.changed()))

    z, labels = rng.standard_normal((2048, 1000), np.float32), rng.integers(0, 1000, 2048)
    x, w = rng.standard_normal((512, 300), np.float32), rng.standard_normal((300, 400), np.float32)
    yield (
        "softmax_cross_entropy, two threads",
        lambda: Case(lambda: fastbp.softmax_cross_entropy(z, labels, n_threads=2)),
    )
    yield "linear, two threads", lambda: Case(lambda: fastbp.linear(x, w, n_threads=2))
    yield (
        "linear_softmax_cross_entropy, two threads",
        lambda: Case(
            lambda: fastbp.linear_softmax_cross_entropy(
                x, w, labels[:512] % 400, max_memory=1 << 18, n_threads=2
            )
        ),
    )

    X, y = fastbp.datasets.load_digits()
    path = folder / "net.npz"

    def network(**options: Any) -> fastbp.MLP:
        return fastbp.MLP([64, 40, 10], seed=0, **options)

    def fit(net: fastbp.MLP, **options: Any) -> fastbp.History:
        return net.fit(X[:400], y[:400], epochs=1, shuffle=False, progress=False, **options)

    def of(make: Callable[[fastbp.MLP], Callable[[], Any]], **options: Any) -> Callable[[], Case]:
        def case() -> Case:
            net = network(**options)
            return Case(make(net), (net,))

        return case

    yield "step", of(lambda net: lambda: net.step(X[:64], y[:64], fastbp.SGD(0.1)))
    yield "gradients", of(lambda net: lambda: net.gradients(X[:64], y[:64]))
    yield "fit", of(lambda net: lambda: fit(net))
    yield "fit, Adam", of(lambda net: lambda: fit(net, optimizer=fastbp.Adam()))
    yield "fit, validation", of(lambda net: lambda: fit(net, validation_data=(X[400:600], y[400:600])))
    yield "predict", of(lambda net: lambda: net.predict(X))
    yield "predict_proba", of(lambda net: lambda: net.predict_proba(X))
    yield "evaluate", of(lambda net: lambda: net.evaluate(X, y))
    yield "save", of(lambda net: lambda: net.save(path))
    yield "load", lambda: Case(lambda: fastbp.MLP.load(path))
    small = fastbp.MLP([4, 3, 2], dtype="float64", seed=0)
    yield "check_gradient", lambda: Case(lambda: fastbp.check_gradient(small, X[:3, :4], y[:3] % 2), (small,))


class Campaign:
    def __init__(self, library: ctypes.CDLL, most: int) -> None:
        self.library, self.most = library, most
        self.failures = self.foreign = 0
        self.wrong: list[str] = []

    def attempt(self, case: Case, n: int, following: bool) -> tuple[int, BaseException | None, Any]:
        """How many allocations failed, what the call raised, and what it gave."""
        error = result = None
        self.library.fail_from(n, following)
        try:
            result = case.call()
        except BaseException as raised:
            error = raised
        finally:
            failed = self.library.fail_no_more()
        return failed, error, result

    def round(self, name: str, case: Case, following: bool) -> int:
        """The failures of a call, from its first allocation on."""
        total = 0
        for n in range(1, self.most + 1):
            case.reset()
            failed, error, result = self.attempt(case, n, following)
            if not failed:
                break
            total += 1
            where = f"{name}, allocation {n}{' and those after it' if following else ''}"
            if any(text in str(error) for text in FOREIGN):
                self.foreign += 1
            elif error is not None and not isinstance(error, MemoryError):
                self.wrong.append(f"{where}: {type(error).__name__}: {error}")
            if error is None and not case.is_right(result):
                self.wrong.append(f"{where}: a wrong result")
            if not case.is_whole():
                self.wrong.append(f"{where}: a network that is not finite")
            del error, result
            case.reset()
            if not case.is_right(case.call()):
                self.wrong.append(f"{where}: the next call is wrong")
        return total

    def run(self, name: str, case: Case) -> None:
        print(f"{name}: ", end="", flush=True)
        counts = [self.round(name, case, following) for following in (False, True)]
        in_use = _in_use()
        again = sum(self.round(name, case, following) for following in (False, True))
        grown = _in_use() - in_use
        if grown > LEAK:
            self.wrong.append(f"{name}: {grown} bytes more in use after {again} failures")
        self.failures += sum(counts) + again
        print(f"{counts[0]} single failures, {counts[1]} that lasted", flush=True)


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _in_use() -> int:
    gc.collect()  # errors hold their frames, and the arrays in them
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="calls whose name begins so; all without")
    parser.add_argument(
        "--most", type=int, default=800, help="the last allocation of a call that fails (800)"
    )
    options = parser.parse_args()
    campaign = Campaign(preloaded("failing_memory"), options.most)
    sys.unraisablehook = lambda _: None  # ZipFile's end, without the memory to begin
    with tempfile.TemporaryDirectory() as folder:
        for name, make in cases(Path(folder)):
            if not options.names or any(name.startswith(each) for each in options.names):
                campaign.run(name, make())
    print(
        f"{campaign.failures} failures, of which NumPy or Python did not say MemoryError in {campaign.foreign}"
    )
    print(f"{len(campaign.wrong)} were not handled")
    print("\n".join(campaign.wrong))
    return bool(campaign.wrong)


if __name__ == "__main__":
    sys.exit(main())
