"""The one place where arrays, columns and tables of other libraries become NumPy's, on the same memory where its layout allows.

No library is imported for it: the buffer protocol, ``__array_interface__``, ``__array__`` and ``__dlpack__`` are asked in this
order. What NumPy would misread is refused: it drops masks, and makes NaN of values that a column says are missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_PROTOCOLS = ("__array_interface__", "__array_struct__", "__array__")
_MAIN_MEMORY = (1, 3, 11)  # kDLCPU, kDLCUDAHost and kDLROCMHost of dlpack.h
_PLAIN = ("builtins", "numpy")  # modules whose types hide nothing


def offers_an_array(value: Any) -> bool:
    """Whether `value` is an array, a column or a table, and no mere sequence."""
    return any(hasattr(value, protocol) for protocol in (*_PROTOCOLS, "__dlpack__"))


def to_numpy(name: str, value: Any) -> np.ndarray:
    """`value` as a plain ndarray; no copy is made of what NumPy can address where it lies."""
    columns = None if type(value).__module__ in _PLAIN else _columns(value)
    for part, *place in _parts(value, columns):
        _is_in_main_memory(name, part)
        _hides_nothing(name, part, *place)
    try:
        return _side_by_side(columns) if columns else _asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        text = str(error).partition("\n")[0]  # says what to do, as of a tensor: .detach()
        got = type(value).__name__
        raise ValueError(f"{name}: got a {got} that is no array ({text}), expected an array") from None


def _columns(value: Any) -> Sequence[Any] | None:
    """The columns of a table, each of which has a dtype of its own; None for anything else."""
    if hasattr(value, "iloc") and value.ndim == 2:  # a DataFrame of pandas
        kinds = set(value.dtypes)
        whole = len(kinds) == 1 and isinstance(kinds.pop(), np.dtype)  # one array, perhaps
        return None if whole else [value.iloc[:, j] for j in range(value.shape[1])]
    if hasattr(value, "get_columns"):  # a DataFrame of polars
        return list(value.get_columns())
    if hasattr(value, "column_names"):  # a Table or a RecordBatch of PyArrow
        return list(value.columns)
    return None


def _parts(value: Any, columns: Sequence[Any] | None) -> Iterator[tuple[Any, list[int], list[int]]]:
    """What has to be looked at, `value` or what it consists of, and the place in it: what comes before a row and what after."""
    if columns:
        yield from ((column, [], [j]) for j, column in enumerate(columns))
    elif isinstance(value, (list, tuple)):
        odd = {kind for kind in set(map(type, value)) if kind.__module__ not in _PLAIN}
        yield from ((each, [i], []) for i, each in enumerate(value) if odd and type(each) in odd)
    elif type(value).__module__ not in _PLAIN:
        yield value, [], []


def _is_in_main_memory(name: str, value: Any) -> None:
    device = _MAIN_MEMORY[0]
    with contextlib.suppress(Exception):  # the attempt to convert it has better words
        device, _ = value.__dlpack_device__()
    if device not in _MAIN_MEMORY or hasattr(value, "__cuda_array_interface__"):
        text = "one in main memory (.cpu() of a tensor, .get() of CuPy's)"
        library = type(value).__module__.partition(".")[0]  # CuPy's arrays are called ndarray, too
        raise ValueError(f"{name}: got a {library}.{type(value).__name__} on another device, expected {text}")


def _hides_nothing(name: str, value: Any, before: list[int], after: list[int]) -> None:
    """Refuse masked arrays, and columns in which a value is missing; a NaN in a dtype of NumPy's own is a number."""
    if isinstance(value, np.ndarray):
        if is_masked(value):
            raise TypeError(f"{name}: got a masked array, expected a plain one (fill or drop what is masked)")
        return
    missing = getattr(value, "isna", None) or getattr(value, "is_null", None)  # pandas; polars and PyArrow
    own = isinstance(getattr(value, "dtype", None), np.dtype)
    if missing is None or own or getattr(value, "ndim", 1) != 1:
        return
    where = np.asarray(missing())
    if _is_nested(value) and _misses_within(value):
        where = np.array([_misses_within(value[n : n + 1]) for n in range(len(value))])
    if where.any():
        place = [*before, int(where.argmax()), *after]
        text = "expected none (fill or drop what is missing)"
        raise TypeError(f"{name}: got a missing value at {place}, {text}")


def _is_nested(value: Any) -> bool:
    """Whether a column, of polars, has rows that consist of several values."""
    return bool(getattr(getattr(value, "dtype", None), "is_nested", bool)())


def _misses_within(value: Any) -> bool:
    if not _is_nested(value):
        return bool(value.null_count())
    parts = value.struct.unnest().get_columns() if hasattr(value.dtype, "fields") else [value.explode()]
    return any(map(_misses_within, parts))


def is_masked(value: np.ndarray) -> bool:
    """Whether parts of `value` do not count."""
    return hasattr(type(value), "mask")  # without naming np.ma, whose first use imports it


def _asarray(value: Any) -> np.ndarray:
    alone = hasattr(value, "__dlpack__") and not any(hasattr(value, protocol) for protocol in _PROTOCOLS)
    return np.from_dlpack(value) if alone else np.asarray(value)


def _side_by_side(columns: Sequence[Any]) -> np.ndarray:
    """Columns (N,) as a new table (N, C), of the least dtype that can hold them all."""
    given = [np.asarray(column) for column in columns]
    table = np.empty((len(given[0]), len(given)), np.result_type(*{column.dtype for column in given}))
    for j, column in enumerate(given):
        table[:, j] = column
    return table
