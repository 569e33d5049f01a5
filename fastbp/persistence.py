"""Networks on disk: one ``.npz`` archive of plain arrays, which NumPy reads by itself and without pickle.

An archive holds two arrays:

``header``      a string, JSON: ``{"format": "fastbp.MLP", "format_version": 1, "fastbp_version": "0.1.0",
                "config": {...}}``
``parameters``  the flat vector ``[W1 (I, O) row by row, b1, W2, b2, ...]`` in the network's dtype

Loading executes nothing from the file. Saving is atomic: the file under the final name is always whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastbp._config import __version__

__all__ = ["read_archive", "write_archive"]

_FORMAT = "fastbp.MLP"
_FORMAT_VERSION = 1  # raised when an older fastbp could not read the file


def write_archive(path: str | os.PathLike[str], config: dict[str, Any], parameters: np.ndarray) -> None:
    """Write what :func:`read_archive` reads: `config` (whatever JSON can say) and the flat `parameters`."""
    header = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fastbp_version": __version__,
        "config": config,
    }
    with _replacing(path) as file:
        np.savez(file, header=np.array(json.dumps(header)), parameters=parameters)


def read_archive(path: str | os.PathLike[str]) -> tuple[dict[str, Any], np.ndarray]:
    """The configuration and the flat parameters of a saved network.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no saved network, is damaged, or was written in a format newer than this one.
    """
    with open(path, "rb") as file:
        try:
            header, parameters = _read_arrays(file)
        except (
            Exception
        ) as cause:  # a flipped bit makes zipfile, NumPy, their tokenizer or json raise almost anything
            raise bad_file(path, f"something else, or a damaged file ({cause})") from cause
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise bad_file(path, "an archive of something else")
    if header.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"path: {os.fspath(path)!r} has format version {header.get('format_version')!r} "
            f"(fastbp {header.get('fastbp_version')!r}), expected {_FORMAT_VERSION}; a newer fastbp reads it"
        )
    if not isinstance(header.get("config"), dict):
        raise bad_file(path, "a damaged header")
    if not isinstance(parameters, np.ndarray):
        raise bad_file(path, "damaged parameters")
    return header["config"], parameters


def bad_file(path: str | os.PathLike[str], found: str) -> ValueError:
    """The error for a file that is not what :func:`write_archive` writes."""
    return ValueError(f"path: {os.fspath(path)!r} holds {found}, expected a network saved by MLP.save")


def _read_arrays(file: BinaryIO) -> tuple[Any, np.ndarray]:
    if not zipfile.is_zipfile(file):
        raise ValueError("not an .npz archive")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return json.loads(str(archive["header"])), archive["parameters"]


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` if the block ends without an error, and vanishes if not."""
    final = Path(
        os.path.realpath(os.fsdecode(path))
    )  # of a link, what it points to is replaced, not the link
    if not final.name or (final.exists() and not final.is_file()):
        raise ValueError(f"path: got {os.fspath(path)!r}, expected the name of a regular file or of none")
    temporary = final.with_name(f".{secrets.token_hex(8)}.tmp")  # same folder: a rename must do
    try:
        try:
            if final.exists():
                open(final, "r+b").close()  # a file that may not be written to may not be replaced either
            file = open(temporary, "xb")  # noqa: SIM115 - closed below
        except OSError as cause:  # about the folder, perhaps: say whose
            raise type(cause)(cause.errno, cause.strerror, os.fspath(path)) from None
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            temporary.chmod(final.stat().st_mode)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
