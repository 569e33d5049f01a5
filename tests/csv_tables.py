"""Tables for tests, from the text of CSV files in the current folder, and what is said of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastbp.data import DataError, Table, read


def table(text: str | bytes) -> Table:
    """The table in the CSV file `data.csv` of this text."""
    Path("data.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read("data.csv")


def parquet(name: str, **columns: Any) -> Table:
    """The table in a Parquet file of these columns."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), name)
    return read(name)


def refused(expected: str, work: Callable[[], object]) -> None:
    """`work` ends with that message, in a single line."""
    with pytest.raises(DataError) as caught:
        work()
    assert str(caught.value) == expected
