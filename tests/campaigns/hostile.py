"""Files with faults at random, for everything that reads one: python -m campaigns.hostile [--runs N] [--seed S] [NAME ...]

A file is read, and what it holds is then of use, or refused by one ValueError that names it. Faults are of two kinds: bytes that
are changed, cut, repeated or exchanged; and files that are whole, checksums and all, of other headers and arrays than fastbp
writes. With atheris installed its coverage chooses the bytes (--atheris).
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gzip
import importlib.util
import os
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastbp
from fastbp import data, persistence
from fastbp.data import idx

MEMORY = 4 * 2**30
SECONDS = 60  # of one file
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where fsync costs nothing
X, Y = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 1, 0])


def network() -> fastbp.MLP:
    return fastbp.MLP([3, 4, 2], seed=0, dropout=0.25)


def fit(net: fastbp.MLP, path: str, epochs: int, **options: Any) -> fastbp.History:
    watched = fastbp.callbacks.EarlyStopping("loss"), fastbp.callbacks.Checkpoint(path)
    return net.fit(X, Y, epochs=epochs, optimizer=fastbp.Adam(), progress=False, callbacks=watched, **options)


# -- what reads files: of each a good file, and how to read and use one --------------------------------------------------------


def use_network(path: str) -> None:
    net = fastbp.MLP.load(path)
    assert net.logits(np.zeros((2, net.layer_sizes[0]))).shape == (2, net.layer_sizes[-1])


def use_checkpoint(path: str) -> None:
    fit(network(), f"{path}.next", 3, resume=path)


def use_table(path: str) -> None:
    table = data.read(path)
    assert len(table.names) >= 1


def use_onnx(path: str) -> None:
    net = fastbp.MLP.from_onnx(path)
    assert len(net.logits(np.zeros((2, net.layer_sizes[0])))) == 2


def make_idx(path: str) -> None:
    Path(path).write_bytes(struct.pack(">HBBII", 0, 8, 2, 3, 2) + bytes(range(6)))


def make_packed_idx(path: str) -> None:
    make_idx(path)
    Path(path).write_bytes(gzip.compress(Path(path).read_bytes(), mtime=0))


def make_csv(path: str) -> None:
    Path(path).write_text('a;b;"c ""d"""\n1;2.5;yes\n-3e5;NA;no\n;"4";ü\n', encoding="utf-8")


def there_is(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


Reader = tuple[str, Callable[[str], object], Callable[[str], object]]
READERS: dict[str, Reader] = {
    "npz": ("net.npz", lambda path: network().save(path), use_network),
    "safetensors": ("net.safetensors", lambda path: network().save(path), use_network),
    "checkpoint": ("run.npz", lambda path: fit(network(), path, 2), use_checkpoint),
    "checkpoint.safetensors": ("run.safetensors", lambda path: fit(network(), path, 2), use_checkpoint),
    "idx": ("images", make_idx, lambda path: idx.read_idx(Path(path))),
    "idx.gz": ("images.gz", make_packed_idx, lambda path: idx.read_idx(Path(path))),
    "table.npz": ("table.npz", lambda path: np.savez(path, X=X, y=Y), use_table),
}
if there_is("pyarrow"):
    READERS["csv"] = ("table.csv", make_csv, use_table)
if there_is("onnx"):
    READERS["onnx"] = ("net.onnx", lambda path: fastbp.MLP([3, 4, 2], seed=0).to_onnx(path), use_onnx)


def read(name: str, path: str) -> str:
    """How it ended, in a word; AssertionError where it was neither read nor refused as promised."""
    try:
        READERS[name][2](path)
    except ValueError as error:
        text = str(error)
        assert path in text or text.startswith("resume: "), (
            f"the file is not named: {type(error).__name__}: {text}"
        )
        assert "\n" not in text and len(text) < 2000, f"not a sentence: {text}"
        return "refused"
    except fastbp.DivergenceError:  # of numbers that are whole, but large
        return "read"
    return "read"


# -- faults ----------------------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 3, 2**31, 2**63, 2**64, 10**30, 0.5, -1.0, 1e308, "", "x", "relu", "float64", "\0", "ü" * 9,
    [], [3], [3, 4, 2], [[]], [0, 0], {}, {"x": 1}, [None], ["tanh"], 3.0,
)  # fmt: skip
DTYPES = ("f2", "f4", "f8", "i1", "i8", "u2", "?")


def spoiled_bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at, kind = draw.randrange(len(changed) + 1), draw.randrange(6)
        part = bytes(changed[at : at + draw.choice((1, 2, 4, 8, 64))])
        if kind == 0:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            changed[at : at + len(part)] = draw.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * len(part)
        elif kind == 2:
            del changed[at : at + len(part)]
        elif kind == 3:
            changed[at:at] = part * draw.choice((1, 2, 100))
        elif kind == 4:
            del changed[at:]
        elif part:
            to = draw.randrange(len(changed))
            changed[to : to + len(part)] = part
    return bytes(changed)


def spoiled_value(value: Any, draw: random.Random) -> Any:
    """JSON with an odd value somewhere."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {other: each for other, each in value.items() if other != key}
        return value | {key: spoiled_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.6:
        at = draw.randrange(len(value))
        return [*value[:at], spoiled_value(value[at], draw), *value[at + 1 :]]
    return copy.deepcopy(draw.choice(ODD))


def spoiled_array(a: np.ndarray, draw: random.Random) -> np.ndarray:
    kind = draw.randrange(5)
    if kind == 0:
        return a.astype(draw.choice(DTYPES))
    if kind == 1:
        return a.reshape(draw.choice(((-1,), (1, *a.shape), (*a.shape, 1), a.shape[::-1])))
    if kind == 2:
        return a[..., :-1] if a.ndim else np.zeros(2, a.dtype)
    if kind == 3:
        return np.zeros(draw.choice(((), (0,), (3, 0), (2, 3, 4))), a.dtype)
    with np.errstate(all="ignore"):
        return np.full_like(
            a, draw.choice((0, 1, 3e38)) if a.dtype.kind != "f" else draw.choice((np.nan, np.inf, 3e38, -1))
        )


def spoiled_file(name: str, good: str, path: str, draw: random.Random) -> None:
    """A whole file of another header, or of other arrays."""
    kind = "fastbp.Checkpoint" if name.startswith("checkpoint") else "fastbp.MLP"
    config, arrays = persistence.read(good, kind)
    for _ in range(draw.choice((1, 1, 2, 3))):
        what = draw.randrange(3)
        if what < 2:
            given = spoiled_value(config, draw)
            config = given if isinstance(given, dict) else config
        else:
            key = draw.choice(sorted(arrays) or ["a"])
            if draw.random() < 0.2:
                arrays.pop(key, None)
            elif draw.random() < 0.2:
                arrays[draw.choice(("x", f"{key}.0", "weights.9", "history.loss", "callbacks.0.best"))] = (
                    np.ones(3, np.float32)
                )
            elif key in arrays:
                arrays[key] = spoiled_array(arrays[key], draw)
    persistence.write(path, kind, config, arrays)


def campaign(name: str, runs: int, seed: int) -> dict[str, int]:
    """How the files were taken, by a word each; AssertionError with the seed of the first one that was not."""
    ends = {"read": 0, "refused": 0}
    file, make, _ = READERS[name]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        good, path = f"{folder}/good-{file}", f"{folder}/{file}"
        make(good)
        content = Path(good).read_bytes()
        ours = name.startswith(("npz", "safetensors", "checkpoint"))
        for run in range(seed, seed + runs):
            draw = random.Random(f"{name} {run}")
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                if ours and run % 3:
                    spoiled_file(name, good, path, draw)
                else:
                    Path(path).write_bytes(spoiled_bytes(content, draw))
                ends[read(name, path)] += 1
            except Exception as error:
                raise AssertionError(f"{name}, --seed {run}: {type(error).__name__}: {error}") from error
            finally:
                faulthandler.cancel_dump_traceback_later()
    return ends


def by_coverage(name: str, runs: int) -> None:
    """The same reader, but libFuzzer chooses the bytes; it ends this process."""
    import atheris

    atheris.instrument_all()
    file, make, _ = READERS[name]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        make(str(corpus / file))
        path = f"{folder}/{file}"

        def one(content: bytes) -> None:
            Path(path).write_bytes(content)
            read(name, path)

        atheris.Setup(
            [sys.argv[0], f"-atheris_runs={runs}", f"-timeout={SECONDS}", "-rss_limit_mb=4096", str(corpus)],
            one,
        )
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(READERS)}; all without")
    parser.add_argument("--runs", type=int, default=10_000, help="of each (10 000)")
    parser.add_argument("--seed", type=int, default=0, help="the first one (0)")
    parser.add_argument("--atheris", action="store_true", help="coverage chooses, for one NAME")
    options = parser.parse_args()
    if options.atheris:
        by_coverage(options.names[0], options.runs)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name in options.names or READERS:
        print(f"{name}: {campaign(name, options.runs, options.seed)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
