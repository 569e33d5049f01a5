"""A file that appears whole or not at all: a saved network, a picture, a table of predictions.

What is written has another name until it is complete, in the same folder: a dot, eight hexadecimal digits that follow from the
final name, sixteen by chance, ``.tmp``. A writer holds a lock on it, which ends with its process however that ends, so that
the next writer of the same name can tell what a dead one has left, and removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":  # where there is no lock that ends with its process, and nothing is removed
    import fcntl

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` if the block ends without an error, and vanishes if not."""
    final = Path(os.path.realpath(os.fsdecode(path)))  # of a link, what it points to is replaced
    _check(path, final)
    temporary = final.with_name(f"{_start_of_names(final)}{secrets.token_hex(8)}.tmp")
    try:
        with _errors_about(path, final, temporary):
            if final.exists():
                open(final, "r+b").close()  # a file that may not be written to may not be replaced either
            with _new(temporary) as file:
                _remove_what_the_dead_left(final, temporary)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if final.exists():
                    temporary.chmod(final.stat().st_mode)
                if sys.platform == "win32":
                    file.close()  # what is open cannot be renamed there
                os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):  # the next writer removes it
            temporary.unlink(missing_ok=True)
        raise


def _check(path: str | os.PathLike[str], final: Path) -> None:
    if not final.name or (final.exists() and not final.is_file()):
        raise ValueError(f"path: got {os.fspath(path)!r}, expected the name of a regular file or of none")


@contextlib.contextmanager
def _errors_about(path: str | os.PathLike[str], final: Path, temporary: Path) -> Iterator[None]:
    """Lets an OSError that names one of the two, or nothing, name the file that its user knows."""
    try:
        yield
    except OSError as cause:
        if cause.errno is None or cause.filename not in (None, str(final), str(temporary)):
            raise
        raise OSError(cause.errno, cause.strerror, os.fspath(path)) from None


def _start_of_names(final: Path) -> str:
    return f".{zlib.crc32(os.fsencode(final.name)):08x}"


@contextlib.contextmanager
def _new(temporary: Path) -> Iterator[BinaryIO]:
    """A new file of this name, locked where the file system can do that."""
    while True:
        with open(temporary, "xb") as file:
            if sys.platform != "win32":
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # nobody took it for a dead one's before it was locked
                yield file
                return


def _remove_what_the_dead_left(final: Path, ours: Path) -> None:
    """Files of writers of this name that hold no lock any more; what cannot be opened or locked stays, and so does our own, for
    which there may have been no lock."""
    if sys.platform == "win32":
        return
    left = re.compile(re.escape(_start_of_names(final)) + r"[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError), os.scandir(final.parent) as folder:
        for entry in folder:
            theirs = left.fullmatch(entry.name) and entry.name != ours.name
            if theirs and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError), open(entry.path, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
