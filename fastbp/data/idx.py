"""IDX files, the format of MNIST and its kin: two zero bytes, type, number of axes, their lengths, the elements.

All numbers are big-endian. Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fastbp.data.errors import DataError
from fastbp.data.tables import ArrayTable

__all__ = ["read_folder", "read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 32  # that every NumPy has
_CHUNK = 1 << 20  # bytes: what a file promises is not allocated before it is there
_MOST_BYTES = 2**62
_EXAMPLES, _LABELS = r"images.*idx[2-9]", r"labels.*idx1"
_TRAINING, _TEST = r"train", r"t10k|test"


def read_folder(folder: Path, rows: range | None = None) -> ArrayTable:
    """The training examples of a folder; its test examples, if there are any, are ``.test`` of the table. Or some of the training
    examples alone."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if rows is not None:
        share = _part(folder, files, _TRAINING, rows) or _part(folder, files, _TEST, rows)
        return cast(ArrayTable, share)
    table, test = (_part(folder, files, part) for part in (_TRAINING, _TEST))
    if table is None and test is None:
        raise DataError(
            "got a folder without images in IDX files, expected train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "and the same of t10k for testing, or with .gz",
            source=str(folder),
        )
    if table is None or test is None:
        return cast(ArrayTable, table or test)
    if test.names != table.names:
        raise DataError("the examples for testing are not like those for training", source=str(folder))
    table.test = test
    return table


def _part(folder: Path, files: list[Path], part: str, rows: range | None = None) -> ArrayTable | None:
    """The examples of one part, with their labels if there are any; None where there are no examples."""
    x, y = (_only(folder, files, part, what) for what in (_EXAMPLES, _LABELS))
    if x is None:
        return None
    table = ArrayTable(str(x), read_idx(x, rows), None if y is None else read_idx(y, rows))
    table.first_row = 0 if rows is None else rows.start
    return table


def _only(folder: Path, files: list[Path], part: str, what: str) -> Path | None:
    """The one file with such a name, packed or not."""
    found = [file for file in files if re.search(f"({part}).*{what}", file.name)]
    unpacked = {
        file.name.removesuffix(".gz"): file for file in reversed(found)
    }  # the plain one, where both are
    if len(unpacked) > 1:
        raise DataError(f"got {' and '.join(sorted(unpacked))}, expected one of them", source=str(folder))
    return next(iter(unpacked.values()), None)


def read_idx(path: Path, rows: range | None = None) -> np.ndarray:
    """The array of an IDX file, which may be compressed by gzip; or some of its rows, which are there."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return _array(str(path), cast(BinaryIO, gzip.open(raw)) if packed else raw, rows)
    except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
        raise DataError(f"a damaged gzip file ({cause})", source=str(path)) from cause


def _array(source: str, file: BinaryIO, rows: range | None) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError("not an IDX file", source=source)
    dtype, n_axes = np.dtype(_TYPES[magic[2]]), magic[3]
    if n_axes > _MOST_AXES:
        raise DataError(f"got an array of {n_axes} axes, expected at most {_MOST_AXES}", source=source)
    lengths = file.read(4 * n_axes)
    if len(lengths) < 4 * n_axes:
        raise DataError("the file ends within its header", source=source)
    shape = tuple(int.from_bytes(lengths[4 * i : 4 * i + 4], "big") for i in range(n_axes))
    row = math.prod(shape[1:]) * dtype.itemsize
    if rows is not None:
        file.seek(file.tell() + rows.start * row)
        shape = len(rows), *shape[1:]
        some = np.frombuffer(file.read(len(rows) * row), dtype)
        return some.reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    size = shape[0] * row
    data = bytearray()
    while len(data) <= size and (chunk := file.read(_CHUNK)):
        data += chunk
    if len(data) != size:
        got = f"{len(data)} bytes" if len(data) < size else "more"
        raise DataError(f"got {got} after the header, which promises {size}, of shape {shape}", source=source)
    if row > _MOST_BYTES:  # of which there may be none, but NumPy counts them all the same
        raise DataError(f"got an array of shape {shape}, expected one that fits in memory", source=source)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
