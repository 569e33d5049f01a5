"""A file that appears whole or not at all: a saved network, a picture, a table of predictions."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
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
