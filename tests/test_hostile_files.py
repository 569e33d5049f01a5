"""Files that an enemy, or a failing disk, has written.

Nothing may be believed: every file here is refused with one sentence that names it, without a warning, and without memory for
what it promises.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from test_named_arrays import KIND, SUFFIXES, same

from fastbp import persistence

HUGE = 10**18
MEMORY = 64 * 2**20

HEADER = json.dumps({"format": KIND, "format_version": 2, "config": {}})
NESTED = "[" * 100_000 + "]" * 100_000


def npy(value) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(value), allow_pickle=True)
    return file.getvalue()


def promise(
    descr: str = "'<f8'", shape: str = "(2,)", order: str = "False", data: bytes = b"\0" * 16
) -> bytes:
    """An .npy member with a header of one's own."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def archive(*members, header=HEADER, method=zipfile.ZIP_STORED, change=lambda infos: None) -> bytes:
    """An archive of (name, content), with a directory of one's own."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as made:
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in ([] if header is None else [("header.npy", npy(header))]) + list(members):
            made.writestr(name, content)
        change(made.filelist)
    return file.getvalue()


def size(field: str, value: int):
    """A directory that lies about a member's size."""

    def change(infos):
        for name in ("file_size", "compress_size") if field == "both" else (field,):
            setattr(infos[-1], name, value)

    return change


def moved(infos):
    infos[-1].header_offset = infos[0].header_offset


def flagged(infos):
    infos[-1].flag_bits |= 1


def swallowed(content: bytes) -> bytes:
    """The archive, whose directory says that the second of two entries is the comment of the first."""
    first = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", first + 1)
    comment = struct.pack("<H", len(content) - 22 - second)
    return content[: first + 32] + comment + content[first + 34 :]


A = ("a.npy", npy(np.arange(4.0)))


def bomb() -> bytes:
    """A small file that grows to all the memory that there is."""
    return archive(("a.npy", npy(np.zeros(MEMORY // 8))), method=zipfile.ZIP_DEFLATED)


ARCHIVES = {
    "nothing": (b"", "not an .npz"),
    "text": (b"some text, longer than the end of an archive", "not an .npz"),
    "no members": (b"PK\5\6" + b"\0" * 18, "not an .npz"),
    "no header": (archive(A, header=None), "without a header"),
    "huge shape": (archive(("a.npy", promise(shape=f"({HUGE},)"))), f"({HUGE},) in 16 bytes"),
    "huge product": (archive(("a.npy", promise(shape="(4294967296, 4294967296)"))), "in 16 bytes"),
    "a number of many digits": (archive(("a.npy", promise(shape=f"({'9' * 5000},)"))), "damaged"),
    "huge, empty": (archive(("a.npy", promise(shape=f"(0, {2**64})", data=b""))), "damaged"),
    "huge dtype": (archive(("a.npy", promise(f"'<U{10**8}'", "()"))), "a.npy: an array of <U100000000"),
    "huge header": (archive(header="x" * 2**20 + "x" * 2**15), "a header of 4"),
    "huge dtype of header": (
        archive(("header.npy", promise(f"'<U{10**8}'", "()")), header=None),
        "in 16 bytes",
    ),
    "negative shape": (archive(("a.npy", promise(shape="(-2, -1)"))), "a.npy: not an array"),
    "a hundred axes": (archive(("a.npy", promise(shape=f"({'1, ' * 100})", data=b"\0" * 8))), "damaged"),
    "more data": (archive(("a.npy", A[1] + b"\0")), "in 33 bytes"),
    "less data": (archive(("a.npy", A[1][:-1])), "in 31 bytes"),
    "object": (archive(("a.npy", npy(np.array([None])))), "a.npy: not an array"),
    "complex": (archive(("a.npy", npy(np.zeros(1, complex)))), "a.npy: not an array"),
    "record": (archive(("a.npy", npy(np.zeros(1, "f4,f4")))), "a.npy: not an array"),
    "text array": (archive(("a.npy", npy("text"))), "a.npy: an array of <U4"),
    "unknown dtype": (archive(("a.npy", promise("'<f3'"))), "damaged"),
    "long double": (archive(("a.npy", promise("'<f16'", "(1,)"))), "a.npy: an array of"),
    "columns first": (archive(("a.npy", npy(np.zeros((2, 3), order="F")))), "row by row"),
    "code": (archive(("a.npy", promise(shape="(__import__('os').abort(),)"))), "a.npy: not an array"),
    "nested .npy": (archive(("a.npy", promise(shape="(" * 30_000))), "a.npy: not an array"),
    "newer .npy": (archive(("a.npy", A[1].replace(b"NUMPY\1", b"NUMPY\4", 1))), "a.npy: not an array"),
    "bool of 2": (archive(("a.npy", promise("'|b1'", data=b"\1\2"))), "neither 0 nor 1"),
    "no array": (archive(("a.npy", b"text")), "a.npy: not an array"),
    "no suffix": (archive(("a", A[1])), "a: not an array"),
    "dots": (archive(("../a.npy", A[1])), "got the name '../a'"),
    "root": (archive(("/etc/a.npy", A[1])), "got the name '/etc/a'"),
    "one name twice": (archive(A, A), "two members of one name"),
    "two headers": (archive(("header.npy", npy(HEADER))), "two members of one name"),
    "header of numbers": (archive(A, ("header.npy", npy(np.zeros(2))), header=None), "damaged"),
    "header is no character": (
        archive(("header.npy", promise("'<U2'", "()", data=b"\xff" * 8)), header=None),
        "damaged",
    ),
    "directory: bomb": (archive(A, change=size("both", HUGE)), "larger than the file"),
    "directory: 2 GB": (archive(A, change=size("both", 2**31 - 1)), "larger than the file"),
    "directory: stored size": (archive(A, change=size("compress_size", HUGE)), "compressed or encrypted"),
    "directory: size": (archive(A, change=size("file_size", HUGE)), "compressed or encrypted"),
    "directory: smaller": (archive(A, change=size("both", 100)), "damaged"),
    "directory: negative": (archive(A, change=size("both", 0)), "damaged"),
    "directory: another place": (archive(A, change=moved), "damaged"),
    "directory: a member is another's comment": (swallowed(archive(A)), "lost members"),
    "deflated bomb": (bomb, "compressed or encrypted"),
    "bzip2": (archive(A, method=zipfile.ZIP_BZIP2), "compressed or encrypted"),
    "lzma": (archive(A, method=zipfile.ZIP_LZMA), "compressed or encrypted"),
    "encrypted": (archive(A, change=flagged), "compressed or encrypted"),
    "trailing garbage": (archive(A) + b"garbage", "does not end where the file does"),
    "leading garbage": (b"garbage" + archive(A), "not an .npz"),
    "another archive behind": (archive(A) + archive(A)[:-1], "does not end where the file does"),
    "end without beginning": (b"PK\3\4" + archive(A)[-22:], "damaged"),
    "a locator of 64 bits": (
        b"PK\3\4" + b"PK\6\7" + struct.pack("<IQI", 0, 2**63, 1) + b"PK\5\6" + b"\xff" * 16 + b"\0\0",
        "damaged",
    ),
}


def tensors(entries, data: bytes = b"", *, header=HEADER, length: int | None = None, metadata=None) -> bytes:
    """A .safetensors file, with a checksum that is right where `entries` are a dict."""
    if isinstance(entries, dict):
        described = {"__metadata__": {"fastbp": header}} | entries
        checksum = zlib.crc32(data, zlib.crc32(json.dumps(described, sort_keys=True).encode()))
        described["__metadata__"] = metadata or {"fastbp": header, "crc32": f"{checksum:08x}"}
        entries = json.dumps(described)
    text = entries.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int = 0, stop: int = 8, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop], **more}


GOOD = tensors({"a": tensor()}, b"\0" * 8)
METADATA = json.dumps({"fastbp": HEADER, "crc32": "00000000"})
T = json.dumps(tensor())

SAFETENSORS = {
    "nothing": (b"", "a header of 0 bytes"),
    "seven bytes": (b"\1" * 7, "not a .safetensors file"),
    "text": (b"some text, longer than eight bytes", "not a .safetensors file"),
    "header only promised": (tensors({"a": tensor()}, length=HUGE), f"a header of {HUGE} bytes"),
    "header longer than the file": (tensors({}, length=10**4), "a header of 10000 bytes"),
    "header of 2^64 - 1": (tensors({}, length=2**64 - 1), "a header of"),
    "header of 2 MB": (tensors("{" + " " * 2**21 + "}"), "a header of 2097154 bytes"),
    "header cut": (tensors({"a": tensor()}, b"\0" * 8, length=60), "damaged"),
    "huge tensor": (tensors({"a": tensor(0, HUGE, [HUGE // 4])}, b"\0" * 8), f"tensors of {HUGE} bytes"),
    "huge shape": (tensors({"a": tensor(shape=[HUGE])}, b"\0" * 8), f"({HUGE},) in 8 bytes"),
    "huge product": (tensors({"a": tensor(shape=[2**32, 2**32])}, b"\0" * 8), "in 8 bytes"),
    "huge, empty": (tensors({"a": tensor(0, 0, [0, 2**64])}), "damaged"),
    "many digits": (tensors(f'{{"__metadata__": {METADATA}, "a": {"9" * 5000}}}'), "damaged"),
    "a hundred axes": (tensors({"a": tensor(0, 4, [1] * 100)}, b"\0" * 4), "damaged"),
    "negative shape": (tensors({"a": tensor(shape=[-1, -2])}, b"\0" * 8), "no such shape"),
    "shape of floats": (tensors({"a": tensor(shape=[2.0])}, b"\0" * 8), "no such shape"),
    "shape of bools": (tensors({"a": tensor(0, 4, [True])}, b"\0" * 4), "no such shape"),
    "shape of nothing": (tensors({"a": tensor(0, 4, {})}, b"\0" * 4), "no such shape"),
    "backwards": (tensors({"a": tensor(8, 0)}, b"\0" * 8), "no such shape, or no such place"),
    "negative place": (tensors({"a": tensor(-8, 0)}, b"\0" * 8), "no such place"),
    "three offsets": (
        tensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, b"\0" * 8),
        "no tensor",
    ),
    "overlap": (tensors({"a": tensor(), "b": tensor(4, 12)}, b"\0" * 12), "b: a gap or an overlap"),
    "the same place": (tensors({"a": tensor(), "b": tensor()}, b"\0" * 8), "a gap or an overlap"),
    "gap": (tensors({"a": tensor(), "b": tensor(12, 20)}, b"\0" * 20), "b: a gap or an overlap"),
    "gap at the start": (tensors({"a": tensor(4, 12)}, b"\0" * 12), "a: a gap or an overlap"),
    "trailing garbage": (GOOD + b"garbage", "tensors of 8 bytes in a file of"),
    "less data": (GOOD[:-1], "tensors of 8 bytes in a file of"),
    "dots": (tensors({"../a": tensor()}, b"\0" * 8), "got the name '../a'"),
    "empty name": (tensors({"": tensor()}, b"\0" * 8), "got the name ''"),
    "surrogate": (
        tensors(f'{{"__metadata__": {METADATA}, "\\ud800": {T}}}', b"\0" * 8),
        "got the name '\\ud800'",
    ),
    "one name twice": (tensors(f'{{"__metadata__": {METADATA}, "a": {T}, "a": {T}}}', b"\0" * 8), "twice"),
    "one key twice": (tensors(f'{{"__metadata__": {METADATA}, "a": {{"shape": [], "shape": []}}}}'), "twice"),
    "two metadata": (tensors(f'{{"__metadata__": {METADATA}, "__metadata__": {METADATA}}}'), "twice"),
    "object": (tensors({"a": tensor(dtype="object")}, b"\0" * 8), "no tensor of bool"),
    "complex": (tensors({"a": tensor(shape=[1], dtype="C64")}, b"\0" * 8), "no tensor of bool"),
    "bfloat16": (tensors({"a": tensor(shape=[4], dtype="BF16")}, b"\0" * 8), "no tensor of bool"),
    "dtype is a list": (tensors({"a": tensor(dtype=[])}, b"\0" * 8), "no tensor of bool"),
    "no tensor": (tensors({"a": 1}, b"\0" * 8), "a: 1 is no tensor"),
    "bool of 2": (tensors({"a": tensor(0, 2, dtype="BOOL")}, b"\1\2"), "neither 0 nor 1"),
    "NaN": (tensors('{"a": NaN}'), "NaN in the header"),
    "Infinity": (tensors('{"a": -Infinity}'), "-Infinity in the header"),
    "nested": (tensors('{"a": ' + NESTED + "}"), "damaged"),
    "a list": (tensors("[1, 2]"), "a header that is list"),
    "not UTF-8": (struct.pack("<Q", 4) + b"{\xff}\xff", "damaged"),
    "UTF-16": (struct.pack("<Q", 6) + "{}".encode("utf-16"), "damaged"),
    "no metadata": (tensors(f'{{"a": {T}}}', b"\0" * 8), "fastbp did not write"),
    "metadata of others": (tensors({}, metadata={"format": "pt"}), "fastbp did not write"),
    "more metadata": (
        tensors({}, metadata={"fastbp": HEADER, "crc32": "", "more": ""}),
        "fastbp did not write",
    ),
    "metadata is a list": (tensors('{"__metadata__": [1]}'), "fastbp did not write"),
    "another checksum": (
        tensors({}, metadata={"fastbp": HEADER, "crc32": "00000000"}),
        "a checksum of other",
    ),
    "checksum is a number": (tensors({}, metadata={"fastbp": HEADER, "crc32": 0}), "a checksum of other"),
    "header is a number": (tensors({}, header=3), "damaged"),
}

HEADERS = {  # our own, inside either format
    "empty": ("", "damaged"),
    "no JSON": ("{", "damaged"),
    "a list": ("[]", "a header that is list"),
    "another format": (HEADER.replace(KIND, "fastbp.MLP"), "something else ('fastbp.MLP')"),
    "NaN": ('{"format": NaN}', "NaN in the header"),
    "twice": ('{"format": "a", "format": "b"}', "twice"),
    "twice inside": ('{"config": {"a": 1, "a": 2}}', "twice"),
    "nested": (NESTED, "damaged"),
    "many digits": (f'{{"format": {"9" * 5000}}}', "damaged"),
    "a long format": (json.dumps({"format": "x" * 10**5}), "something else ('xxx"),
    "version 3": (HEADER.replace(": 2", ": 3"), "has format version 3"),
    "version true": (HEADER.replace(": 2", ": true"), "a damaged header"),
    "version 2.0": (HEADER.replace(": 2", ": 2.0"), "a damaged header"),
    "config is a list": (HEADER.replace("{}", "[]"), "a damaged header"),
    "many lists": ("[" + "[]," * 340_000 + "[]]", "a header that is list"),
}

HOSTILE = {  # what a file holds, or what makes that, if it takes long; and what the message says
    **{f"{name}.npz": case for name, case in ARCHIVES.items()},
    **{f"{name}.safetensors": case for name, case in SAFETENSORS.items()},
    **{f"header {name}.npz": (archive(header=text or " "), part) for name, (text, part) in HEADERS.items()},
    **{
        f"header {name}.safetensors": (tensors({}, header=text), part)
        for name, (text, part) in HEADERS.items()
    },
}


@pytest.mark.parametrize(
    "content",
    [archive(A), tensors({"a": tensor(), "b": tensor(8, 8, [0, 3])}, b"\0" * 8)],
    ids=SUFFIXES,
)
def test_the_builders_of_hostile_files_can_build_good_ones(tmp_path, content):
    path = tmp_path / ("file.npz" if content[:2] == b"PK" else "file.safetensors")
    path.write_bytes(content)
    assert persistence.read(path, KIND)[1].keys() >= {"a"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, name):
    content, part = HOSTILE[name]
    content = content() if callable(content) else content
    path = tmp_path / f"file{os.path.splitext(name)[1]}"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with (
            warnings.catch_warnings(record=True) as seen,
            pytest.raises(ValueError, match=r"^path: ") as caught,
        ):
            warnings.simplefilter("always")
            persistence.read(path, KIND)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert repr(os.fspath(path)) in message and part in message and "expected " in message and not seen
    assert len(message) < 600 + len(str(path))


READ_ALL = """
import os, resource, sys
from fastbp import persistence
def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (address_space() + int(sys.argv[2]),) * 2)
for name in sorted(os.listdir(sys.argv[1])):
    try:
        persistence.read(os.path.join(sys.argv[1], name), "fastbp.Test")
    except ValueError:
        print(name)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the size of a process, as Linux tells it")
def test_hostile_files_are_refused_where_memory_is_scarce(tmp_path):
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content() if callable(content) else content)
    command = [sys.executable, "-c", READ_ALL, os.fspath(tmp_path), str(MEMORY)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.splitlines() == sorted(HOSTILE)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "pipe.npz")
    signal.alarm(20)
    try:
        for path in (*tmp_path.iterdir(), os.devnull):
            with pytest.raises(ValueError, match="a folder, a pipe or a device") as caught:
                persistence.read(path, KIND)
            assert repr(os.fspath(path)) in str(caught.value)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch, suffix):
    path, config = tmp_path / f"file{suffix}", persistence._config
    persistence.write(path, KIND, {}, {"a": np.zeros(2**17)})

    def cut(*arguments):
        os.truncate(path, 2**19)
        return config(*arguments)

    monkeypatch.setattr(persistence, "_config", cut)
    with pytest.raises(ValueError, match=r"^path: .* a damaged file \("):
        persistence.read(path, KIND)


def test_a_lack_of_memory_is_not_taken_for_damage(tmp_path, monkeypatch):
    persistence.write(tmp_path / "file.npz", KIND, {}, {"a": np.zeros(2)})

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(persistence, "_taken", no_memory)
    with pytest.raises(MemoryError):
        persistence.read(tmp_path / "file.npz", KIND)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """One fault, somewhere: a bit, a byte or a run of bytes, a cut, something more or something less."""
    at = draw.randrange(len(whole))
    run = bytes(draw.randrange(256) for _ in range(draw.choice((1, 1, 2, 8, 40))))
    return draw.choice(
        (
            whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :],
            whole[:at] + run + whole[at + len(run) :],
            whole[:at] + run + whole[at:],
            whole[:at] + whole[at + len(run) :],
            whole[:at],
            whole[:at] + whole[draw.randrange(len(whole)) :],
        )
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_an_error_or_loads_what_was_written(tmp_path, suffix):
    path, draw = tmp_path / f"file{suffix}", random.Random(suffix)
    arrays = {
        "weights.0": np.arange(12.0).reshape(3, 4),
        "biases.0": np.arange(4, dtype="f4"),
        "n": np.array(3),
    }
    config = {"layer_sizes": [3, 4], "seed": 2**100}
    persistence.write(path, KIND, config, arrays)
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        content = damaged(whole, draw)
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                found_config, found = persistence.read(path, KIND)
            except (ValueError, OSError) as error:
                assert str(path) in str(error)
                refused += 1
            else:
                assert found_config == config and same(found, arrays), content
        assert not seen
    assert refused > 200
