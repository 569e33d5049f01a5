"""Tables as other programs write them: long lines, columns without a name, damaged files; and arguments that cannot be."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from fastbp.data import DataError, Preparation, Target, read, split

pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(text, name="table.csv"):
    Path(name).write_text(text, encoding="utf-8")
    return name


# -- CSV and Parquet -------------------------------------------------------------------------------------------------------------


def test_a_header_longer_than_a_megabyte():
    names = [f"column_{i:0143d}" for i in range(9_000)]
    table = read(written(",".join(names) + "\n" + ",".join(["1"] * len(names)) + "\n"))
    assert table.n_rows == 1 and len(table.names) == 9_000


def test_a_cell_longer_than_a_megabyte():
    table = read(written("a,b\n1,x\n2," + "y" * 3_000_000 + "\n3,z\n"))
    assert table.n_rows == 3 and [len(text) for text in table.texts("b").values] == [1, 3_000_000, 1]
    with pytest.raises(DataError, match=r"row 3: got 1 field, expected 2"):
        read(written("a,b\n1,x\n2," + "y" * 3_000_000 + "\n3\n"))


@pytest.mark.parametrize("blank", ["\n", "  \n", " , \n", "\n \n\r\n,\n"])
def test_blank_lines_before_the_header(blank):
    table = read(written(blank + "a,b\n1,x\n2,y\n"))
    assert table.names == ("a", "b") and table.n_rows == 2
    with pytest.raises(DataError, match=r"row 2: got 1 field, expected 2"):
        read(written(blank + "a,b\n1,x\n2\n"))
    assert read(written(blank + "a\n1\n2\n")).names == ("a",)


def test_columns_without_a_name_are_left_out():
    table = read(written(",a, ,y\n0,1,7,u\n1,2,8,v\n"))
    assert table.names == ("a", "y") and table.n_unnamed == 2
    np.testing.assert_array_equal(table.numbers(("a",)), [[1], [2]])


def test_the_index_of_pandas_is_no_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "y": ["u", "v", "u", "v"]})
    frame.to_csv("table.csv")
    frame[[True, True, False, True]].to_parquet("table.parquet")
    frame.set_index("a").to_parquet("named.parquet")
    assert read("table.csv").names == read("table.parquet").names == ("a", "y")
    assert read("table.parquet").n_unnamed == 1 and set(read("named.parquet").names) == {"a", "y"}


def test_columns_of_one_name_in_parquet():
    from pyarrow import parquet

    parquet.write_table(pa.table([pa.array([1]), pa.array([2])], ["a", "a"]), "table.parquet")
    with pytest.raises(DataError, match=r"table.parquet: column 'a': there are 2 columns of that name"):
        read("table.parquet")


def test_text_in_parquet_that_is_none():
    from pyarrow import parquet

    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<2i", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    parquet.write_table(pa.table({"a": bad}), "table.parquet")
    with pytest.raises(DataError, match=r"table.parquet: column 'a': a damaged column"):
        read("table.parquet").kind("a")


# -- arrays ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_data_that_cannot_be_used(write):
    write("table.npz", X=np.arange(12.0).reshape(4, 3), y=np.arange(4))
    good, draw = Path("table.npz").read_bytes(), random.Random(0)
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(draw.choice((1, 2, 8))):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        Path("bad.npz").write_bytes(bad)
        try:
            read("bad.npz")
        except DataError as error:
            assert str(error).startswith("bad.npz: ")


@pytest.mark.parametrize(
    "shape, text",
    [
        ((1,) * 200, "got an array of 200 axes, expected at most 32"),
        ((0, *(2**31,) * 3), "expected one that fits in memory"),
    ],
)
def test_idx_files_of_impossible_shapes(shape, text):
    folder = Path("folder")
    folder.mkdir()
    lengths = b"".join(struct.pack(">I", length) for length in shape)
    (folder / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, len(shape)]) + lengths)
    with pytest.raises(DataError, match=text):
        read(folder)


BIG = [2**53, 2**53 + 1, 2**53 + 2, 2**53 + 3, -(2**62) - 1, 5]


def test_large_numbers_as_names():
    """Are told apart, where they are names; where they are numbers, they cannot be classes."""
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": pa.array([*BIG, None]), "a": np.arange(7.0)}), "table.parquet")
    table = read("table.parquet")
    values, codes = table.texts("id")
    assert values == [str(n) for n in sorted(BIG)] and codes.tolist() == [2, 3, 4, 5, 0, 1, -1]
    written("id,a\n" + "".join(f"{n},{i}\n" for i, n in enumerate(BIG)))
    for name in ("table.parquet", "table.csv"):
        assert len(Target.learn(read(name), "id", "classification", as_text=True).classes) == 6
        with pytest.raises(
            DataError, match=r"column 'id', row 1: got 9007199254740992, expected a class within"
        ):
            Target.learn(read(name), "id", "classification")
    np.savez("table.npz", X=np.arange(6.0)[:, None], y=np.array(BIG))
    assert read("table.npz").texts("y").values == [str(n) for n in sorted(BIG)]


# -- what is learned -------------------------------------------------------------------------------------------------------------


def test_a_target_is_scaled_by_the_rows_to_train_on():
    np.savez("table.npz", X=np.arange(6.0)[:, None], y=[1.5, 2.5, 3.5, 4.5, 1e6, np.nan])
    table = read("table.npz")
    target = Target.learn(table, "y", "regression")
    preparation = Preparation.learn(table, target, rows=np.arange(4))
    assert preparation.target.shift == 3 and preparation.target.factor == 1 / np.std([1.5, 2.5, 3.5, 4.5])
    assert Preparation.learn(table, target).target == target and target.shift > 1e5
    with pytest.raises(DataError, match=r"column 'y': the target is 1.5 in all rows"):
        Preparation.learn(table, target, rows=np.arange(1))


def test_arguments_that_cannot_be():
    np.savez("table.npz", X=np.arange(6.0)[:, None], y=[0, 1, 0, 1, 0, 1])
    table = read("table.npz")
    target = Target.learn(table, "y")
    for call, kind, text in (
        (lambda: read(3), TypeError, "path: got int"),
        (
            lambda: Target.learn(table, "y", "foo"),
            ValueError,
            "task: got 'foo', expected one of classification",
        ),
        (lambda: split(table, target, 1.0), ValueError, "fraction: got 1.0, expected a number in"),
        (lambda: split(table, target, float("nan")), ValueError, "fraction: got nan"),
        (lambda: split(table, target, "a"), TypeError, "fraction: got str"),
        (lambda: split(table, target, 0.5, seed=-1), ValueError, "seed: got -1"),
        (
            lambda: Preparation.learn(table, target, ignore="X[0]"),
            TypeError,
            "ignore: got str, expected a list",
        ),
        (lambda: Preparation.learn(table, target, categories="X[0]"), TypeError, "categories: got str"),
    ):
        with pytest.raises(kind, match=text):
            call()
