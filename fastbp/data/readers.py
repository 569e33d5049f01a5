"""Files as tables: which format it is, the file itself tells by its first bytes, not by its name."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastbp import _checks
from fastbp.data import idx
from fastbp.data.errors import DataError
from fastbp.data.tables import INPUTS, TARGET, ArrayTable, Table

__all__ = ["read", "read_share"]

_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"


def read(path: str | os.PathLike[str]) -> Table:
    """Read a table: CSV, Parquet, ``.npz`` (arrays X and y), or a folder of IDX files such as MNIST's.

    Parameters
    ----------
    path : str or path-like
        A file, which may be compressed by gzip; a folder; or ``-``, the standard input.

    Returns
    -------
    Table

    Raises
    ------
    OSError
        If it cannot be opened.
    DataError
        If it is empty, damaged, none of these formats, or needs a library that is not installed.

    Notes
    -----
    The first line of a CSV file names the columns. The separator is the one of comma, semicolon, tab and bar that
    is most frequent in it. The text is UTF-8, with or without a byte order mark. Empty fields and ``NA``, ``N/A``,
    ``NaN``, ``null`` and ``?`` are missing values.

    Examples
    --------
    >>> import numpy as np
    >>> np.savez("points.npz", X=[[1.0, 2.0], [3.0, 4.0]], y=[0, 1])
    >>> read("points.npz").names
    ('X[0]', 'X[1]', 'y')
    """
    name = _checks.path("path", path)
    if os.path.isdir(name):
        return idx.read_folder(Path(name))
    if name == "-":
        if sys.stdin is None:
            raise DataError("it is closed", source="standard input")
        return _read_file("standard input", io.BytesIO(sys.stdin.buffer.read()))
    with open(name, "rb") as file:
        return _read_file(name, file if file.seekable() else io.BytesIO(file.read()))


def read_share(path: str | os.PathLike[str], rows: range) -> Table:
    """Some rows of a table to train on, at least one: no more is read of a Parquet file, but for whole row groups, nor of a
    folder of IDX files. Of other formats it is the whole table."""
    name = os.fsdecode(path)
    if os.path.isdir(name):
        return idx.read_folder(Path(name), rows)
    with open(name, "rb") as file:
        if file.read(4) != _PARQUET:
            return read(path)
        from fastbp.data import arrow  # here, because of what it imports

        file.seek(0)
        return arrow.read_parquet(name, file, rows)


def _read_file(source: str, file: BinaryIO) -> Table:
    start = file.read(4)
    file.seek(0)
    if not start:
        raise DataError("the file is empty", source=source)
    if start.startswith(_GZIP):
        return _read_file(source, io.BytesIO(_unpacked(source, file)))
    if start == _ZIP:
        return _read_npz(source, file)
    from fastbp.data import arrow  # here, because of what it imports

    return arrow.read_parquet(source, file) if start == _PARQUET else arrow.read_csv(source, file)


def _unpacked(source: str, file: BinaryIO) -> bytes:
    try:
        with gzip.open(file) as packed:
            return packed.read()
    except (EOFError, OSError, zlib.error) as cause:
        raise DataError(f"a damaged gzip file ({cause})", source=source) from cause


def _read_npz(source: str, file: BinaryIO) -> Table:
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = list(archive.files)
            x = archive[INPUTS] if INPUTS in names else None
            y = archive[TARGET] if TARGET in names else None
    except Exception as cause:  # a flipped bit makes zipfile, zlib, NumPy and tokenize raise almost anything
        raise DataError(f"a damaged .npz file, or arrays of objects ({cause})", source=source) from cause
    if x is None:
        raise DataError(
            f"got the arrays {', '.join(names) or 'none'}, expected X, and y to train", source=source
        )
    return ArrayTable(source, x, y)
