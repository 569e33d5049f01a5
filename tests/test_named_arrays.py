"""Named arrays on disk: exact in both formats, the same to other programs, and nothing that could not be read again."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from fastbp import persistence

KIND = "fastbp.Test"
SUFFIXES = ".npz", ".safetensors"
DTYPES = ["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]


def contents(seed: int = 0) -> dict[str, np.ndarray]:
    """An array of each dtype, and shapes without elements, without axes, and in other orders."""
    generator = np.random.default_rng(seed)

    def array(dtype, *shape):
        size = np.dtype(dtype).itemsize
        drawn = generator.integers(0, 2 if dtype == "bool" else 256, (*shape, size), np.uint8)
        return drawn.view(dtype)[..., 0]

    arrays = {f"all.{dtype}": array(dtype, 3, 5) for dtype in DTYPES}
    shapes = {"point": (), "none": (0,), "no.rows": (0, 3), "no_columns": (2, 0, 4), "deep": (2, 1, 3, 2)}
    arrays |= {
        f"{name}.{dtype}": array(dtype, *shape) for name, shape in shapes.items() for dtype in ("f4", "u1")
    }
    return arrays | {
        "columns": array("f8", 4, 3).T,
        "strided": array("f4", 6, 6)[::-2, 1::3],
        "swapped": array("f8", 7).astype(np.dtype("f8").newbyteorder("S")),
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether the arrays are equal to the last bit, in this machine's byte order and whichever order of names."""
    return found.keys() == expected.keys() and all(
        array.shape == expected[name].shape
        and array.dtype == expected[name].dtype.newbyteorder("=")
        and array.tobytes() == expected[name].astype(array.dtype).tobytes()
        for name, array in found.items()
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_round_trip_is_exact(tmp_path, suffix):
    path, arrays = tmp_path / f"file{suffix}", contents()
    config = {"text": 'δ \\ " \0 \U0001f600', "n": [2**127, -1.5, None, True], "deep": {"a": {}}}
    persistence.write(path, KIND, config, arrays)
    found_config, found = persistence.read(path, KIND)
    assert found_config == config and same(found, arrays)
    for array in found.values():
        array[...] = 0  # they may be written to


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_contents_are_the_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        persistence.write(tmp_path / f"{name}{suffix}", KIND, {}, contents())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_arrays(tmp_path, suffix):
    persistence.write(tmp_path / f"file{suffix}", KIND, {"a": 1}, {})
    assert persistence.read(tmp_path / f"file{suffix}", KIND) == ({"a": 1}, {})


def test_other_programs_read_the_archive(tmp_path):
    path, arrays = tmp_path / "file.npz", contents()
    persistence.write(path, KIND, {"a": 1}, arrays)
    with np.load(path, allow_pickle=False) as archive:
        found = dict(archive)
    assert json.loads(str(found.pop("header")))["config"] == {"a": 1} and same(
        found, {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    )


def test_the_library_of_safetensors_reads_the_file(tmp_path):
    library = pytest.importorskip("safetensors")
    path, arrays = tmp_path / "file.safetensors", contents()
    persistence.write(path, KIND, {"a": 1}, arrays)
    with library.safe_open(path, "numpy") as file:
        assert same({name: file.get_tensor(name) for name in file.keys()}, arrays)  # noqa: SIM118 - no mapping
        assert json.loads(file.metadata()["fastbp"])["config"] == {"a": 1}
    start = int.from_bytes(path.read_bytes()[:8], "little")
    assert start % 8 == 0


def test_the_library_of_safetensors_and_we_write_the_same_tensors(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(5, dtype="f4"), "c": np.array([True, False])}
    persistence.write(tmp_path / "ours.safetensors", KIND, {}, arrays)
    ours = (tmp_path / "ours.safetensors").read_bytes()
    theirs = library.save(arrays)
    length = [int.from_bytes(each[:8], "little") for each in (ours, theirs)]
    headers = [json.loads(each[8 : 8 + n]) for each, n in zip((ours, theirs), length, strict=True)]
    del headers[0]["__metadata__"]
    assert headers[0] == headers[1] and ours[8 + length[0] :] == theirs[8 + length[1] :]


# What is not written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("config", "arrays", "error", "part"),
    [
        (
            {},
            {"a": np.zeros(2, complex)},
            TypeError,
            "arrays: got complex128 as 'a', expected bool, integers",
        ),
        ({}, {"a": np.array([None])}, TypeError, "arrays: got object"),
        ({}, {"a": np.array("text")}, TypeError, "arrays: got <U4"),
        ({}, {"a": np.zeros(2, np.longdouble)}, TypeError, "arrays: got "),
        ({}, {"a": np.zeros(2, "datetime64[s]")}, TypeError, "arrays: got datetime64"),
        *(
            ({}, {name: np.zeros(2)}, ValueError, f"arrays: got the name {name!r}, expected words")
            for name in (
                "",
                "a..b",
                "../a",
                "/a",
                "a/b",
                ".a",
                "a.",
                "__metadata__",
                "header",
                "a\0",
                "a\n",
                "é",
            )
        ),
        ({"a": float("nan")}, {}, ValueError, "JSON"),
        ({"a": float("inf")}, {}, ValueError, "JSON"),
        ({"a": np.float32(1)}, {}, TypeError, "JSON"),
        ({"a": "x" * 2**20}, {}, ValueError, "config: got a header of 1048"),
    ],
    ids=lambda each: None if isinstance(each, dict) else str(each)[:20],
)
def test_what_cannot_be_read_again_is_not_written(tmp_path, suffix, config, arrays, error, part):
    with pytest.raises(error) as caught:
        persistence.write(tmp_path / f"file{suffix}", KIND, config, arrays)
    assert part in str(caught.value) and not os.listdir(tmp_path)
