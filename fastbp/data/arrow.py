"""CSV and Parquet through PyArrow (extra ``cli``).

Every column of a CSV file is read as text, and understood when it is asked for: what a value means must not depend
on the other values in the file. See docs/design/0009-tables.md for why PyArrow and not Polars.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from typing import Any, BinaryIO

import numpy as np

from fastbp.data.errors import DataError, extra
from fastbp.data.tables import Table, Texts, labels

__all__ = ["ArrowTable", "read_csv", "read_parquet"]

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "null", "NULL", "?")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity)$"
_TRUTH = r"^(?i:true|false)$"
_DATE = r"^\d{4}-\d{1,2}-\d{1,2}([T ].*)?$|^\d{1,2}[./]\d{1,2}[./]\d{2,4}$"
_DECIMAL_COMMA = r"^[+-]?\d*,\d+$"
_MOSTLY = 0.9  # of the values: a column with that many numbers is one of numbers, and the others are mistakes
_INDEX = (
    r"(__index_level_\d+__)?"  # the name of a column that pandas wrote its index in, without one of its own
)
_BLOCK = 2**20  # bytes that are parsed at a time; each has to hold a whole line
_MOST_BYTES = 2**31 - 1  # that PyArrow takes for a block
_NO_ROWS = "the file has a header and no rows"
_ADVICE = "leave it out with --ignore"


def read_csv(source: str, file: BinaryIO) -> ArrowTable:
    """The table in a CSV file."""
    arrow_csv, pa = (extra(name, "cli", "reading CSV") for name in ("pyarrow.csv", "pyarrow"))
    names, separator, before = _header(source, file)
    size = file.seek(0, os.SEEK_END)
    for block in (_BLOCK, min(size, _MOST_BYTES)):
        file.seek(0)
        try:
            table = arrow_csv.read_csv(
                file,
                # One thread alone tells the row of an error.
                read_options=arrow_csv.ReadOptions(use_threads=False, block_size=block, skip_rows=before),
                parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
            return ArrowTable(source, table, pa)
        except pa.ArrowInvalid as cause:
            text = str(cause)  # if one of these, a line may be longer than a block
            if size <= block or not ("straddling" in text or "Empty CSV" in text):
                raise _csv_error(source, file, text, before) from cause
    raise DataError(f"a line of more than {_MOST_BYTES} bytes", source=source)


def _header(source: str, file: BinaryIO) -> tuple[list[str], str, int]:
    """The names of the columns, the separator, and how many blank lines come before; the file is at its beginning afterwards."""
    names: list[str] = []
    before = 0
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        line = next((line for line in text if line.strip()), "")
        separator = max(",;\t|", key=re.sub('"[^"]*"', "", line).count)
        text.seek(0)
        rows = csv.reader(text, delimiter=separator)
        for names in rows:
            if any(map(str.strip, names)):
                break
            names, before = [], rows.line_num
    except (UnicodeDecodeError, csv.Error) as cause:
        text.detach()
        raise _csv_error(source, file, f"not a CSV file ({cause})") from cause
    text.detach().seek(0)
    if not names:
        raise DataError("the file holds blank lines alone", source=source)
    if all(re.fullmatch(_NUMBER, name.strip()) for name in names):
        raise DataError(
            f"got {line.strip()[:60]!r} as the first line, expected the names of the columns", source=source
        )
    return names, separator, before


def _csv_error(source: str, file: BinaryIO, text: str, before: int = 0) -> DataError:
    """The error for a file that cannot be parsed; `text` is PyArrow's or Python's, which counts the lines `before` the header."""
    file.seek(0)
    for number, line in enumerate(file, start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as bad:
            got = f"line {number}: got the byte 0x{line[bad.start]:02x}, expected text in UTF-8"
            return DataError(got, source=source)
    ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if ragged:
        row, n_expected, n_got = map(int, ragged.groups())
        hint = "; is a quotation mark missing?" if '"' in text else ""
        fields = "1 field" if n_got == 1 else f"{n_got} fields"
        return DataError(
            f"got {fields}, expected {n_expected} as in the header{hint}", source=source, row=row - 1 - before
        )
    if "Empty CSV file" in text:
        return DataError(_NO_ROWS, source=source)
    return DataError(text.splitlines()[0], source=source)


def read_parquet(source: str, file: BinaryIO, rows: range | None = None) -> ArrowTable:
    """The table in a Parquet file, or some of its rows, of which the row groups are read that they lie in."""
    parquet, pa = (extra(name, "cli", "reading Parquet") for name in ("pyarrow.parquet", "pyarrow"))
    try:
        whole = parquet.ParquetFile(file)
        if rows is None:
            return ArrowTable(source, whole.read(), pa)
        table = ArrowTable(source, _some_rows(whole, rows), pa)
        table.first_row = rows.start
        return table
    except (pa.ArrowException, OSError) as cause:
        raise DataError(f"a damaged Parquet file ({str(cause).splitlines()[0]})", source=source) from cause


def _some_rows(file: Any, rows: range) -> Any:
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    wanted = [n for n, end in enumerate(ends) if rows.start < end and end - sizes[n] < rows.stop]
    before = int(ends[wanted[0]]) - sizes[wanted[0]]
    return file.read_row_groups(wanted).slice(rows.start - before, len(rows))


class ArrowTable(Table):
    """A table of Arrow columns."""

    def __init__(self, source: str, table: Any, pa: Any) -> None:
        self.source, self.n_rows, self._pa = source, table.num_rows, pa
        stripped = [name.strip() for name in table.column_names]
        named = [i for i, name in enumerate(stripped) if not re.fullmatch(_INDEX, name)]
        self.names, self.n_unnamed = tuple(stripped[i] for i in named), len(stripped) - len(named)
        self._table = table.select(named).rename_columns(self.names)
        self._compute = extra("pyarrow.compute", "cli", "reading tables")
        self._columns: dict[str, Any] = {}
        self._numbers_of: dict[str, np.ndarray | None] = {}
        name, n_columns = Counter(self.names).most_common(1)[0] if self.names else ("", 0)
        if n_columns > 1:
            raise DataError(f"there are {n_columns} columns of that name", source=source, column=name)
        if not self.n_rows:
            raise DataError(_NO_ROWS, source=source)

    def kind(self, name: str) -> str:
        column = self._column(name)
        n_values = len(column) - column.null_count
        if not n_values:
            return "empty"
        if self._parsed(name) is not None:
            return "number"
        if self._count(column, _TRUTH) == n_values:
            return "truth"
        for pattern, what in ((_DATE, "a date"), (_DECIMAL_COMMA, "a number with a decimal comma")):
            if self._count(column, pattern) == n_values:
                row, value = self._first(column, pattern)
                raise self.error(
                    f"got {value!r}, {what}, expected a number or a category; {_ADVICE}", name, row
                )
        n_numbers = self._count(column, _NUMBER)
        if n_numbers >= _MOSTLY * n_values:
            row, value = self._first(column, _NUMBER, matching=False)
            others = f"a number, as in {n_numbers} of the {n_values} rows; or name the column in --categories"
            raise self.error(f"got {value!r}, expected {others}", name, row)
        return "text"

    def numbers(self, names: tuple[str, ...]) -> np.ndarray:
        block = np.empty((self.n_rows, len(names)))
        for i, name in enumerate(names):
            block[:, i] = self._numbers(name)
        return block

    def _numbers(self, name: str) -> np.ndarray:
        numbers = self._parsed(name)
        if numbers is None:
            numbers = self._truths(name)
        if np.isinf(numbers).any():
            raise self.error("got an infinite number", name, int(np.isinf(numbers).argmax()))
        return numbers

    def _parsed(self, name: str) -> np.ndarray | None:
        """A column as numbers, with NaN for missing ones; None where one of its texts is no number."""
        if name not in self._numbers_of:
            column = self._column(name)
            try:
                self._numbers_of[name] = self._cast(column)
                del self._columns[name]  # a copy that is hardly needed again
            except self._pa.ArrowInvalid:  # a plus sign is not for PyArrow
                numeric = self._count(column, _NUMBER) == len(column) - column.null_count
                self._numbers_of[name] = (
                    self._cast(self._compute.ascii_ltrim(column, "+")) if numeric else None
                )
        return self._numbers_of[name]

    def _truths(self, name: str) -> np.ndarray:
        """A column as 1 and 0 for true and false; an error at the first value that is neither, nor a number."""
        column, compute = self._column(name), self._compute
        bad = self._first(column, f"{_NUMBER}|{_TRUTH}", matching=False)
        if bad:
            raise self.error(f"got {bad[1]!r}, expected a number", name, bad[0])
        column = compute.utf8_lower(column)
        for text, digit in (("true", "1"), ("false", "0")):
            column = compute.replace_substring(column, text, digit)
        return self._cast(compute.ascii_ltrim(column, "+"))

    def _cast(self, column: Any) -> np.ndarray:
        numbers = self._compute.cast(column, self._pa.float64(), safe=False).to_numpy()
        return np.asarray(numbers, np.float64)

    def texts(self, name: str) -> Texts:
        column = self._column(name)
        if self._pa.types.is_integer(column.type):
            encoded = column.combine_chunks().dictionary_encode()
            values, codes = (
                encoded.dictionary.to_pylist(),
                encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False),
            )
            order = sorted(range(len(values)), key=values.__getitem__)
            places = np.array([*np.argsort(order), -1])
            return Texts([str(values[n]) for n in order], places[codes])
        if not self._is_text(column):
            return labels(self._numbers(name))
        encoded = column.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return _sorted([_truth(value) for value in encoded.dictionary.to_pylist()], codes)

    def _column(self, name: str) -> Any:
        """A column as numbers or as texts without spaces around them, and nulls where a value is missing."""
        if name not in self._columns:
            try:
                self._columns[name] = self._read(name, self._table[name])
            except self._pa.ArrowInvalid as cause:
                raise self.error(f"a damaged column ({cause})", name) from cause
        return self._columns[name]

    def _read(self, name: str, column: Any) -> Any:
        types, compute = self._pa.types, self._compute
        if types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        kind = column.type
        if types.is_null(kind) or types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind):
            return column
        if types.is_boolean(kind):
            return compute.cast(column, self._pa.string())
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
            raise self.error(f"got values of type {kind}, expected numbers or text; {_ADVICE}", name)
        column = compute.utf8_trim_whitespace(compute.cast(column, self._pa.large_string()))
        missing = compute.is_in(column, value_set=self._pa.array(MISSING, self._pa.large_string()))
        return compute.if_else(missing, self._pa.scalar(None, self._pa.large_string()), column)

    def _is_text(self, column: Any) -> bool:
        return bool(self._pa.types.is_string(column.type) or self._pa.types.is_large_string(column.type))

    def _count(self, column: Any, pattern: str) -> int:
        """How many values match."""
        return self._compute.sum(self._compute.match_substring_regex(column, pattern)).as_py() or 0

    def _first(self, column: Any, pattern: str, matching: bool = True) -> Any:
        """The first row, from 0, whose value matches, or does not, and the value; None where there is none."""
        matches = self._compute.match_substring_regex(column, pattern)
        row = self._compute.index(matches, matching).as_py()
        return None if row < 0 else (row, column[row].as_py())


def _truth(value: str) -> str:
    """True and False in one spelling, whoever wrote the file."""
    return value.lower() if re.fullmatch(_TRUTH, value) else value


def _sorted(values: list[str], codes: np.ndarray) -> Texts:
    """Texts in their order, each once."""
    names = sorted(set(values))
    places = {name: i for i, name in enumerate(names)}
    new = np.array(
        [places[value] for value in values] + [-1]
    )  # the last one for missing values, whose code is -1
    return Texts(names, new[codes])
