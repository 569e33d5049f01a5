"""A JSON header and named arrays on disk: saved networks, and whatever else fastbp keeps in files.

Design decisions:

A. Two formats, both without pickle, so that loading executes nothing: by the suffix ``.safetensors`` that format,
   otherwise NumPy's ``.npz``. Each array has a name of its own and any other program can read it (docs/files.md).
B. Writing is atomic: the file under the final name is always whole (`replacing`).
C. A file is read as if an enemy had written it. What a header says is compared with the size of the file before
   memory is taken for it, so that reading never needs more than the file has bytes and a few megabytes; only
   what :func:`write` writes is accepted (stored members, row by row, plain numbers); a checksum covers it all.
D. The ``.safetensors`` format is read and written here: its library takes the last of two tensors of one name, and
   knows no checksum. Tests hold the two against each other.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import numpy as np

from fastbp import _checks
from fastbp._config import __version__
from fastbp.replacing import replacing

__all__ = ["read", "write"]

_FORMAT_VERSION = (
    2  # raised when an older fastbp could not read the file; 1 held all parameters as one vector
)
_LARGEST_HEADER = 2**20  # characters; parsed JSON takes up to 25 times its text
_PIECE = 2**20  # bytes read at a time
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*(\.[A-Za-z0-9][A-Za-z0-9_]*)*", re.ASCII)
_DTYPES = {
    "BOOL": np.dtype("bool"),
    **{f"I{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

_Path = str | os.PathLike[str]
_Arrays = Iterator[tuple[str, np.ndarray]]


def write(path: _Path, kind: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write what :func:`read` reads.

    Parameters
    ----------
    path : str or path
        With the suffix ``.safetensors`` the file has that format, otherwise it is an ``.npz`` archive.
    kind : str
        What the file holds, as in ``"fastbp.MLP"``.
    config : dict
        Whatever JSON can say, except NaN and infinity. What grows with the data or with the length of a training
        belongs among the arrays (text as its bytes): a header has at most a million characters.
    arrays : dict of arrays
        Of bool, integers or floats up to 64 bits. A name is words of letters, digits and underscores, joined by
        single dots; ``header`` is taken.

    Raises
    ------
    OSError
        If the file cannot be written; a file of that name is as it was then.
    TypeError, ValueError
        If `config` or `arrays` hold something else.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import persistence
    >>> persistence.write("means.npz", "fastbp.Means", {"columns": ["age"]}, {"means": np.array([39.5])})
    >>> persistence.read("means.npz", "fastbp.Means")
    ({'columns': ['age']}, {'means': array([39.5])})
    """
    path = _checks.path("path", path)
    header = _dumped(
        {
            "format": kind,
            "format_version": _FORMAT_VERSION,
            "fastbp_version": __version__,
            "config": dict(config),
        }
    )
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    put = _put_safetensors if _is_safetensors(path) else _put_npz
    with _locks_are_memory(), replacing(path) as file:
        put(file, header, plain)


def read(path: _Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the arrays of a file that :func:`write` wrote; the arrays may be written to.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is something else, is damaged, or was written in a format newer than this one.
    """
    path = _checks.path("path", path)
    get = _get_safetensors if _is_safetensors(path) else _get_npz
    with _locks_are_memory(), _opened(path, kind) as file:
        with _errors_as_damage(path, kind):
            text, arrays = get(file, os.fstat(file.fileno()).st_size)
            header = _loaded(text)
        config = _config(path, kind, header)
        with _errors_as_damage(path, kind):
            return config, dict(arrays)


def bad_file(path: _Path, kind: str, found: str) -> ValueError:
    """The error for a file that is not what :func:`write` writes as a `kind`."""
    return ValueError(f"path: {os.fspath(path)!r} holds {found}, expected a whole file of the format {kind}")


def _is_safetensors(path: _Path) -> bool:
    return Path(os.fsdecode(path)).suffix.lower() == ".safetensors"


# Headers ----------------------------------------------------------------------------------------------------


def _config(path: _Path, kind: str, header: dict[str, Any]) -> dict[str, Any]:
    """What `header` says about the `kind` of thing that the caller expects."""
    if header.get("format") != kind:
        raise bad_file(path, kind, f"something else ({header.get('format')!r:.80})")
    version, config = header.get("format_version"), header.get("config")
    if type(version) is int and version > _FORMAT_VERSION:
        raise ValueError(
            f"path: {os.fspath(path)!r} has format version {version!r:.20} (fastbp {header.get('fastbp_version')!r:.80}), "
            f"expected at most {_FORMAT_VERSION}; a newer fastbp reads it"
        )
    if type(version) is not int or version < 1 or not isinstance(config, dict):
        raise bad_file(path, kind, "a damaged header")
    return config


def _dumped(value: dict[str, Any]) -> str:
    """The one way in which a value is written as JSON: checksums depend on it."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    if len(text) > _LARGEST_HEADER:
        raise ValueError(
            f"config: got a header of {len(text)} characters, expected at most {_LARGEST_HEADER}"
        )
    return text


def _loaded(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"a header that is {type(value).__name__}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a header that says something twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in the header")


# Arrays -----------------------------------------------------------------------------------------------------


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """`array` as it is written: row by row, little-endian."""
    _check_name(name)
    array = np.asarray(array, order="C")
    if array.dtype.newbyteorder("=") not in _CODES:
        raise TypeError(
            f"arrays: got {array.dtype} as {name!r}, expected bool, integers or floats up to 64 bits"
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "header":
        raise ValueError(f"arrays: got the name {name!r:.80}, expected words joined by dots, and not header")


def _raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def _taken(file: IO[bytes], name: str, dtype: np.dtype, shape: Iterable[int], n_bytes: int) -> np.ndarray:
    """The array in the next `n_bytes` of a file that is known to have so many."""
    shape = tuple(shape)
    if math.prod(shape) * dtype.itemsize != n_bytes:
        raise ValueError(f"{name}: {dtype} {shape} in {n_bytes} bytes")
    raw = np.empty(n_bytes, np.uint8)
    view = raw.data
    while view:
        piece = file.read(min(_PIECE, len(view)))
        if not piece:
            raise ValueError(f"{name}: the file ends within it")
        view[: len(piece)] = piece
        view = view[len(piece) :]
    if dtype.kind == "b" and raw.max(initial=0) > 1:
        raise ValueError(f"{name}: a bool that is neither 0 nor 1")
    return raw.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


# .npz -------------------------------------------------------------------------------------------------------

# What NumPy writes before an array of numbers, or of one string; its own reader evaluates this as Python
_NPY = re.compile(
    rb"\{'descr': '([<>|][biufU]\d+)', 'fortran_order': False, 'shape': \(((?:\d+, ?)*\d*)\), \} *\n"
)
_STORED_FLAGS = 0x800  # names in UTF-8; no other flag of a member means anything to us


def _put_npz(file: BinaryIO, header: str, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {"header": np.array(header), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _get_npz(file: BinaryIO, size: int) -> tuple[str, _Arrays]:
    """The text of the header, and the arrays, which are read as they are asked for."""
    if size < 22 or file.read(4) != b"PK\3\4":
        raise ValueError("not an .npz archive")
    file.seek(-22, os.SEEK_END)  # where the record stands that ends an archive without a comment
    end = re.fullmatch(rb"PK\x05\x06.{6}(..).{8}\x00\x00", file.read(), re.DOTALL)
    if not end:
        raise ValueError("the archive does not end where the file does")
    archive = zipfile.ZipFile(file)
    if int.from_bytes(end[1], "little") != min(len(archive.infolist()), 2**16 - 1):
        raise ValueError("the directory has lost members")  # one may be taken for the comment of another
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("two members of one name")
    for member in members.values():
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not stored or member.flag_bits & ~_STORED_FLAGS:
            raise ValueError(f"{member.filename}: compressed or encrypted")
    if sum(member.file_size for member in members.values()) > size:
        raise ValueError("members that are larger than the file")
    header = members.pop("header", None)
    if header is None:
        raise ValueError("an archive without a header")
    if header.file_size > 4 * _LARGEST_HEADER + 2**16:  # four bytes a character
        raise ValueError(f"a header of {header.file_size} bytes")
    text = str(_member(archive, header).item())
    return text, ((name, _member(archive, member)) for name, member in members.items())


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """The array in a member of an archive, which compares its checksum when the last byte is read."""
    name = member.filename
    if name != "header.npy":
        _check_name(name.removesuffix(".npy"))
    with archive.open(member) as file:
        start = file.read(10)
        length = int.from_bytes(start[8:], "little")
        found = _NPY.fullmatch(file.read(length))
        if start[:8] != b"\x93NUMPY\1\0" or not found or not name.endswith(".npy"):
            raise ValueError(f"{name}: not an array, or not one of plain numbers row by row")
        dtype, shape = (
            np.dtype(found[1].decode()),
            [int(each) for each in found[2].split(b",") if each.strip()],
        )
        if dtype.newbyteorder("=") not in _CODES and (dtype.kind, name, shape) != ("U", "header.npy", []):
            raise ValueError(f"{name}: an array of {dtype}")
        return _taken(file, name, dtype, shape, member.file_size - 10 - length)


# .safetensors: the length of a JSON header (8 bytes), the header, and the tensors, one right after the other --------


def _put_safetensors(file: BinaryIO, header: str, arrays: dict[str, np.ndarray]) -> None:
    entries: dict[str, Any] = {"__metadata__": {"fastbp": header}}
    end, in_order = 0, sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # each is aligned then
    for name, array in in_order:
        start, end = end, end + array.nbytes
        code = _CODES[array.dtype.newbyteorder("=")]
        entries[name] = {"dtype": code, "shape": array.shape, "data_offsets": [start, end]}
    checksum = zlib.crc32(_dumped(entries).encode())
    for _, array in in_order:
        checksum = zlib.crc32(_raw(array), checksum)
    entries["__metadata__"]["crc32"] = f"{checksum:08x}"
    text = _dumped(entries).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in in_order:
        file.write(_raw(array))


def _get_safetensors(file: BinaryIO, size: int) -> tuple[str, _Arrays]:
    """The text of the header, and the arrays, which are read as they are asked for."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER + 8):
        raise ValueError(f"not a .safetensors file, or one with a header of {length} bytes")
    entries = _loaded(file.read(length).decode())
    metadata = entries.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.keys() != {"fastbp", "crc32"}:
        raise ValueError("a .safetensors file that fastbp did not write")
    expected = metadata.pop("crc32")
    checksum = zlib.crc32(_dumped(entries).encode())
    text = entries.pop("__metadata__")["fastbp"]
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    end = 0
    for name, (_, _, start, stop) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise ValueError(f"{name}: a gap or an overlap before it")
        end = stop
    if 8 + length + end != size:
        raise ValueError(f"tensors of {end} bytes in a file of {size}")
    return text, _tensors(file, tensors, checksum, expected)


_Tensor = tuple[np.dtype, list[int], int, int]


def _tensor(name: str, entry: Any) -> _Tensor:
    """dtype, shape, first byte and the byte after the last one of a tensor."""
    _check_name(name)
    try:
        code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        dtype = _DTYPES[code].newbyteorder("<")
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name}: {entry!s:.100} is no tensor of bool, integers or floats") from None
    numbers = (*shape, start, stop) if isinstance(shape, list) else (None,)
    if not all(type(number) is int and number >= 0 for number in numbers) or start > stop:
        raise ValueError(f"{name}: {entry!s:.100} has no such shape, or no such place")
    return dtype, shape, start, stop


def _tensors(file: BinaryIO, tensors: dict[str, _Tensor], checksum: int, expected: str) -> _Arrays:
    for name, (dtype, shape, start, stop) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        array = _taken(file, name, dtype, shape, stop - start)
        checksum = zlib.crc32(_raw(array.astype(dtype, copy=False)), checksum)
        yield name, array
    if expected != f"{checksum:08x}":
        raise ValueError("a checksum of other contents")


# Files ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: _Path, kind: str) -> Iterator[BinaryIO]:
    """A regular file: one that has a size, and whose opening waits for nobody."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise bad_file(path, kind, "no bytes: it is a folder, a pipe or a device")
    with open(path, "rb") as file:
        yield file


_NO_LOCK = "can't allocate"


@contextlib.contextmanager
def _locks_are_memory() -> Iterator[None]:
    """Where there is no memory for the lock of a file, Python raises RuntimeError, "can't allocate read lock"."""
    try:
        yield
    except RuntimeError as cause:
        if _NO_LOCK not in str(cause):
            raise
        raise MemoryError(str(cause)) from None


@contextlib.contextmanager
def _errors_as_damage(path: _Path, kind: str) -> Iterator[None]:
    """A flipped bit makes zipfile, NumPy or json raise almost anything. MemoryError is about no file: one that is too
    small for what it promises is found out before memory is taken."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as cause:
        if _NO_LOCK in str(cause):
            raise
        raise bad_file(path, kind, f"something else, or a damaged file ({cause!s:.300})") from cause
