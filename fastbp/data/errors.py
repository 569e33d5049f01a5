"""The one error for data that cannot be used, and how it says where."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DataError", "extra"]


class DataError(ValueError):
    """Data that cannot be used: which file, which column, which row, and why, in one line.

    Rows are counted from 1 after the header; blank lines do not count.

    Examples
    --------
    >>> raise DataError("got 'x', expected a number", source="data.csv", column="age", row=17)
    Traceback (most recent call last):
    ...
    fastbp.data.errors.DataError: data.csv: column 'age', row 17: got 'x', expected a number
    """

    def __init__(
        self, text: str, *, source: str = "", column: str | None = None, row: int | None = None
    ) -> None:
        places = [f"column {column!r}"] if column is not None else []
        places += [f"row {row}"] if row is not None else []
        super().__init__(
            ": ".join(part for part in (source, ", ".join(places), " ".join(text.split())) if part)
        )


def extra(module: str, name: str, purpose: str) -> Any:
    """The `module` of a library that is not always there; without it a :class:`DataError` that names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] != module.split(".")[0]:
            raise  # it is there, but something that it needs is not
        library = module.split(".")[0]
        raise DataError(f"{purpose} needs {library}: pip install 'fastbp[{name}]'") from missing
