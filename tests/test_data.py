"""Readers of CSV, Parquet, arrays and images; what columns are taken for, and what is said of other files."""

from __future__ import annotations

import datetime
import gzip
import io
import struct
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from csv_tables import parquet, refused, table
from tolerances import ROUNDING

from fastbp.data import DataError, Preparation, Target, read
from fastbp.data.readers import read_share

NAN = float("nan")
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)


# -- CSV -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n1,x,2.5\n-3e2,y z,\n",
        "a;b;c\n1;x;2.5\n-3e2;y z;\n",
        "a\tb\tc\n1\tx\t2.5\n-3e2\ty z\tNA\n",
        "a|b|c\n1|x|2.5\n-3e2|y z|?\n",
        "\ufeffa,b,c\n1,x,2.5\n-3e2,y z,nan\n",
        "a,b,c\r\n1,x,2.5\r\n-3e2,y z,\r\n",
        '"a","b","c"\n"1","x","2.5"\n-3e2,"y z",""\n',
        " a,b ,c\n\n +1 , x,2.5\n\n-3e2,y z ,NULL",
    ],
    ids=["comma", "semicolon", "tab", "bar", "mark", "crlf", "quoted", "spaces"],
)
def test_one_table_in_many_spellings(text):
    t = table(text)
    assert t.names == ("a", "b", "c") and t.n_rows == 2
    assert [t.kind(name) for name in t.names] == ["number", "text", "number"]
    np.testing.assert_array_equal(t.numbers(("a", "c")), [[1, 2.5], [-300, NAN]])
    values, codes = t.texts("b")
    assert values == ["x", "y z"] and codes.tolist() == [0, 1]


def test_quotation_marks_keep_separators_and_lines():
    t = table('a,b\n"x, ""y""\nz",2\n"a,b;c;d;e",3\n')
    assert t.texts("a").values == ["a,b;c;d;e", 'x, "y"\nz']


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "data.csv: the file is empty"),
        ("\n \n", "data.csv: the file holds blank lines alone"),
        ("a,b\n", "data.csv: the file has a header and no rows"),
        ("a,b", "data.csv: the file has a header and no rows"),
        ("1,2\n3,4\n", "data.csv: got '1,2' as the first line, expected the names of the columns"),
        ("a,b,a\n1,2,3\n", "data.csv: column 'a': there are 2 columns of that name"),
        ("a,b\n1,2\n3\n", "data.csv: row 2: got 1 field, expected 2 as in the header"),
        ("a,b\n1,2,3\n", "data.csv: row 1: got 3 fields, expected 2 as in the header"),
        ('a,b\n1,2\n"3,4\n', "data.csv: row 2: got 1 field, expected 2 as in the header; is a quotation mark missing?"),
        (b"a,b\n1,2\n1,caf\xe9\n", "data.csv: line 3: got the byte 0xe9, expected text in UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "data.csv: line 1: got the byte 0xff, expected text in UTF-8"),
        (b"caf\xe9,b\n1,2\n", "data.csv: line 1: got the byte 0xe9, expected text in UTF-8"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 99)[:30],
         "data.csv: a damaged gzip file (Compressed file ended before the end-of-stream marker was reached)"),
        (gzip.compress(b""), "data.csv: the file is empty"),
    ],
    ids=range(14),
)  # fmt: skip
def test_files_that_are_no_tables(text, expected):
    refused(expected, lambda: table(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\n1\nx\n" + "2\n" * 9,
         "column 'a', row 2: got 'x', expected a number, as in 10 of the 11 rows; or name the column in --categories"),
        ("a,b\n,1\n2024-01-31,1\n",
         "column 'a', row 2: got '2024-01-31', a date, expected a number or a category; leave it out with --ignore"),
        ("a,b\n31.1.2024,1\n",
         "column 'a', row 1: got '31.1.2024', a date, expected a number or a category; leave it out with --ignore"),
        ("a;b\n3,5;1\n2,5;1\n",
         "column 'a', row 1: got '3,5', a number with a decimal comma, expected a number or a category; "
         "leave it out with --ignore"),
    ],
)  # fmt: skip
def test_columns_that_are_neither(text, expected):
    refused("data.csv: " + expected, lambda: table(text).kind("a"))


def test_kinds():
    t = table("n,t,x,e,m\n1,true,a,,1\n-.5e3,FALSE,b,NA,x\n,?,,nan,y\n")
    assert [t.kind(name) for name in t.names] == ["number", "truth", "text", "empty", "text"]
    np.testing.assert_array_equal(t.numbers(("t", "n")), [[1, 1], [0, -500], [NAN, NAN]])
    assert t.texts("t").values == ["false", "true"] and t.texts("x").codes.tolist() == [0, 1, -1]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e999"])
def test_infinite_numbers(value):
    t = table(f"a\n1\n{value}\n")
    refused("data.csv: column 'a', row 2: got an infinite number", lambda: t.numbers(("a",)))


@pytest.mark.parametrize("value", ["0x10", "++1", "1_000", "1,5", "one", "1 2", "--1", "1e", "."])
def test_no_numbers(value):
    t = table(f'a;b\n1;1\n"{value}";1\n')
    refused(f"data.csv: column 'a', row 2: got {value!r}, expected a number", lambda: t.numbers(("a",)))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n")))
    t = read("-")
    assert t.source == "standard input" and t.numbers(("b",)) == 2


def test_compressed():
    assert table(gzip.compress(b"a,b\n1,2\n")).names == ("a", "b")


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def test_parquet():
    import pyarrow

    t = parquet(
        "data",  # the name does not matter
        i=pyarrow.array([1, None, 3], pyarrow.int16()),
        f=pyarrow.array([1.5, NAN, None], pyarrow.float32()),
        d=[Decimal("1.25"), None, Decimal("2")],
        b=[True, False, None],
        s=["x", " y ", "NA"],
        c=pyarrow.array(["u", "v", None]).dictionary_encode(),
        when=[datetime.date(2024, 1, 31)] * 3,
        many=[[1], [2], [3]],
        nothing=pyarrow.nulls(3),
    )
    kinds = ["number", "number", "number", "truth", "text", "text"]
    assert [t.kind(name) for name in t.names[:6]] == kinds and t.kind("nothing") == "empty"
    numbers = [[1, 1.5, 1.25, 1], [NAN, NAN, NAN, 0], [3, NAN, 2, NAN]]
    np.testing.assert_array_equal(t.numbers(("i", "f", "d", "b")), numbers)
    assert t.texts("s") == (["x", "y"], pytest.approx([0, 1, -1])) and t.texts("c").values == ["u", "v"]
    assert t.texts("i").values == ["1", "3"] and t.texts("b").values == ["false", "true"]
    for name, kind in (("when", "date32[day]"), ("many", "list<element: int64>")):
        expected = f"data: column {name!r}: got values of type {kind}, expected numbers or text; leave it out with --ignore"
        refused(expected, lambda name=name: t.kind(name))


@pytest.mark.parametrize("rows", [range(7), range(2, 5), range(3, 4), range(4, 7), range(6, 7)])
def test_a_share_of_the_rows(rows):
    """Of Parquet, here in row groups of 3, and of IDX; other formats are read as a whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"a": np.arange(7.0), "b": list("pqpqrrr")}
    pq.write_table(pa.table(columns), "table", row_group_size=3)
    some = read_share("table", rows)
    assert (some.n_rows, some.first_row) == (len(rows), rows.start)
    np.testing.assert_array_equal(some.numbers(("a",))[:, 0], rows)
    values, codes = some.texts("b")
    assert [values[code] for code in codes] == [columns["b"][row] for row in rows]
    assert str(some.error("bad", "a", 0)) == f"table: column 'a', row {rows.start + 1}: bad"
    images = np.arange(7 * 6, dtype="u1").reshape(7, 3, 2)
    for pack, end in ((bytes, ""), (gzip.compress, ".gz")):
        Path(f"train-images-idx3-ubyte{end}").write_bytes(pack(idx(images, 8)))
        Path(f"train-labels-idx1-ubyte{end}").write_bytes(pack(idx(np.arange(7, dtype="u1"), 8)))
        some = read_share(".", rows)
        np.testing.assert_array_equal(some.numbers(some.names[:-1]), images.reshape(7, 6)[rows])
        np.testing.assert_array_equal(some.numbers(("y",))[:, 0], rows)
        assert (some.n_rows, some.first_row) == (len(rows), rows.start)
        Path(f"train-images-idx3-ubyte{end}").unlink()
    np.savez("arrays.npz", X=np.zeros((7, 2)))
    assert read_share("arrays.npz", rows).n_rows == 7


def test_damaged_parquet():
    parquet("whole", a=[1, 2])
    Path("half").write_bytes(Path("whole").read_bytes()[:100])
    with pytest.raises(DataError, match="half: a damaged Parquet file"):
        read("half")


# -- arrays and images ---------------------------------------------------------------------------------------------------------


def npz(path, **arrays):
    np.savez(path, **arrays)
    return read(path)


def test_arrays():
    t = npz("data.npz", X=np.arange(12).reshape(3, 2, 2), y=np.array(["b", "a", "b"]))
    assert t.names == ("X[0]", "X[1]", "X[2]", "X[3]", "y") and t.kind("y") == "text"
    np.testing.assert_array_equal(t.numbers(t.names[:4]), np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(t.numbers(("X[3]", "X[1]")), [[3, 1], [7, 5], [11, 9]])
    assert t.texts("y").values == ["a", "b"] and t.texts("y").codes.tolist() == [1, 0, 1]
    t = npz("data.npz", X=np.ones((2, 1)), y=np.array([[True], [False]]))
    assert t.kind("y") == "truth" and t.texts("y").values == ["false", "true"]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": np.ones((2, 2))}, "got the arrays x, expected X, and y to train"),
        ({"X": np.ones(2)}, "X: got shape (2,), expected rows of numbers"),
        ({"X": np.ones((0, 2))}, "X: got shape (0, 2), expected rows of numbers"),
        ({"X": np.ones((2, 2), complex)}, "X: got an array of complex128, expected real numbers"),
        ({"X": np.ones((2, 2)), "y": np.ones(3)}, "y: got shape (3,), expected (2,), as X has 2 rows"),
    ],
)
def test_arrays_that_are_no_table(arrays, expected):
    refused(f"data.npz: {expected}", lambda: npz("data.npz", **arrays))


def test_arrays_of_objects_are_not_unpickled():
    with pytest.raises(DataError, match=r"a damaged \.npz file, or arrays of objects"):
        npz("data.npz", X=np.array([[{}]], object))
    Path("data.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(DataError, match=r"a damaged \.npz file"):
        read("data.npz")


def idx(array: np.ndarray, code: int) -> bytes:
    """An IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_images(pack):
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3), np.uint8)
    end = ".gz" if pack is gzip.compress else ""
    for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        Path(f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(images[rows], 8)))
        Path(f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx(np.arange(5, dtype="u1")[rows], 8)))
    t = read(".")
    np.testing.assert_array_equal(t.numbers(t.names[:6]), images[:3].reshape(3, 6))
    assert t.test.texts("y").values == ["3", "4"]
    preparation = Preparation.learn(t, Target.learn(t, "y"))
    constant = (images[:3] == images[0]).all(axis=0).ravel()
    expected = np.where(constant, 0, images[3:].reshape(2, 6) / 255)
    np.testing.assert_allclose(preparation.inputs(t.test).array(), expected, rtol=2 * ROUNDING * EPS)


@pytest.mark.parametrize(("code", "dtype"), [(9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_types_of_idx(code, dtype):
    array = np.array([[-3, 2], [100, 7]], dtype)
    Path("train-images.idx2").write_bytes(idx(array, code))
    t = read(".")
    np.testing.assert_array_equal(t.numbers(t.names), array)


WHOLE = idx(np.zeros((2, 2), "u1"), 8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not an IDX file"),
        (b"\1" + WHOLE[1:], "not an IDX file"),
        (WHOLE[:7], "the file ends within its header"),
        (WHOLE[:-1], "got 3 bytes after the header, which promises 4, of shape (2, 2)"),
        (WHOLE + b"\0", "got more after the header, which promises 4, of shape (2, 2)"),
        (struct.pack(">HBB3I", 0, 14, 3, *[2**32 - 1] * 3),
         f"got 0 bytes after the header, which promises {8 * (2**32 - 1) ** 3}, of shape ({2**32 - 1}, "
         f"{2**32 - 1}, {2**32 - 1})"),
        (gzip.compress(WHOLE)[:-9], "a damaged gzip file (Compressed file ended before the end-of-stream marker was reached)"),
    ],
    ids=["empty", "magic", "header", "less", "more", "promise", "gzip"],
)  # fmt: skip
def test_damaged_idx(content, expected):
    Path("train-images-idx2").write_bytes(content)
    refused(f"train-images-idx2: {expected}", lambda: read("."))


def test_folders_without_images():
    with pytest.raises(DataError, match="got a folder without images in IDX files"):
        read(".")
    for name in ("a-train-images-idx3-ubyte", "b-train-images-idx3-ubyte.gz"):
        Path(name).write_bytes(WHOLE)
    with pytest.raises(
        DataError, match="got a-train-images-idx3-ubyte and b-train-images-idx3-ubyte, expected one"
    ):
        read(".")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    Path("data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"reading CSV needs pyarrow: pip install 'fastbp\[cli\]'"):
        read("data.csv")
