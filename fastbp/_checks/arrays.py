"""Checks of arrays that are read or written, and how they become what kernels address."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbp import _backend
from fastbp._checks import foreign

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
INT64 = np.dtype(np.int64)
FLOAT64 = np.dtype(np.float64)
_INTEGERS = bool, int, np.bool_, np.integer
_REALS = *_INTEGERS, float, np.floating
_CAST_BYTES = 64 * 2**20
_OVERLAP_WORK = 10_000  # steps to decide; two row-strided matrices take a handful, beyond it they "overlap"


# Arrays that are read ---------------------------------------------------------------------------------------


def array(name: str, value: Any) -> np.ndarray:
    """`value` as a plain ndarray; no copy is made of one, nor of a subclass such as a memmap."""
    if type(value) is np.ndarray:
        return value
    given = foreign.to_numpy(name, value)
    if given.ndim == 0 and given.dtype.kind == "O" and hasattr(value, "toarray"):
        got = type(value).__name__
        raise TypeError(f"{name}: got a sparse {got}, expected a dense array: {name}.toarray()")
    return given


def floats(name: str, value: Any) -> np.ndarray:
    """`value` as an array of float32 or float64 in native byte order; other dtypes are refused, not cast."""
    given = value if type(value) is np.ndarray else array(name, value)
    if given.dtype in FLOATS:
        return given
    native = given.dtype.newbyteorder("=")
    if native not in FLOATS:
        raise TypeError(f"{name}: got {_kind(given, value)}, expected float32 or float64")
    return cast(given, np.dtype(native.type))


def floats_like(name: str, value: Any, other_name: str, other: np.ndarray) -> np.ndarray:
    """`value` as an array of the float dtype of `other`, which it must have already."""
    given = floats(name, value)
    if given.dtype != other.dtype:
        raise TypeError(f"{name}: got dtype {given.dtype}, expected {other.dtype} like {other_name}")
    return given


def reals(name: str, value: Any) -> np.ndarray:
    """`value` as an array of some real dtype, which the caller then casts."""
    given = array(name, value)
    if given.dtype.kind == "O" and given.ndim:
        raise _objects(name, given, _REALS, FLOAT64, "real numbers", "convert it, as with .astype(float)")
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name}: got {_kind(given, value)}, expected real numbers")
    return given


def integers(name: str, given: np.ndarray, text: str) -> np.ndarray:
    """`given` as an array of some integer dtype, truth values as 0 and 1; `text` says in words what it may hold."""
    kind = given.dtype.kind
    if kind in "iu":
        return given
    if kind == "b":
        return given.astype(INT64)
    advice = "numpy.unique(..., return_inverse=True)[1] numbers names"
    if kind == "O" and given.ndim:
        raise _objects(name, given, _INTEGERS, INT64, text, advice)
    if kind == "f" and np.isnan(given).any():
        raise _odd_entry(name, given, np.isnan(given), text, advice)
    names = f" ({advice})" if kind in "SU" else ""
    raise TypeError(f"{name}: got dtype {given.dtype} of shape {given.shape}, expected {text}{names}")


def _objects(
    name: str, given: np.ndarray, kinds: tuple[type, ...], dtype: np.dtype, text: str, advice: str
) -> Exception:
    """The error for an array of objects: the first that is not of one of `kinds`, or too large for `dtype`, if there is one."""
    odd = np.array([not isinstance(entry, kinds) for entry in given.flat], bool).reshape(given.shape)
    if odd.any():
        return _odd_entry(name, given, odd, text, advice)
    try:
        given.astype(dtype)
    except OverflowError:
        return ValueError(f"{name}: got an integer beyond {dtype}, expected {text}")
    return TypeError(
        f"{name}: got dtype object, expected {text} (.astype({dtype.name!r}) makes numbers of it)"
    )


def _odd_entry(name: str, given: np.ndarray, odd: np.ndarray, text: str, advice: str) -> TypeError:
    """The error for the first entry of `given` that is `odd`."""
    place = [int(i) for i in np.unravel_index(odd.argmax(), odd.shape)]
    entry = given[tuple(place)]
    got = f"a {type(entry).__name__}"
    if (
        entry is None
        or type(entry).__name__ in ("NAType", "NaTType")
        or (isinstance(entry, float) and entry != entry)
    ):
        got, advice = f"a missing value ({entry})", "fill or drop what is missing"
    return TypeError(f"{name}: got {got} at {place}, expected {text} ({advice})")


def _kind(given: np.ndarray, value: Any) -> str:
    """How an error calls what `value` consists of; `given` is the array that became of it."""
    no_number = given.dtype.kind in "OSU" and given.ndim == 0
    return type(value).__name__ if no_number else f"dtype {given.dtype}"


def finite(name: str, given: np.ndarray) -> np.ndarray:
    """`given`, if each of its entries is finite."""
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: got entries that are NaN or infinite, expected finite ones")
    return given


def shape(name: str, given: np.ndarray, expected: tuple[int, ...], meaning: str = "") -> np.ndarray:
    """`given`, if it has the `expected` shape; `meaning` says in words why that one."""
    if given.shape != expected:
        raise ValueError(f"{name}: got shape {given.shape}, expected {expected}{meaning and ', ' + meaning}")
    return given


def dimensions(name: str, given: np.ndarray, letters: str, *allowed: int) -> np.ndarray:
    """`given`, if its number of axes is one of `allowed`; `letters` names the axes."""
    if given.ndim not in allowed:
        raise ValueError(f"{name}: got shape {given.shape}, expected {letters}")
    return given


def matrix(name: str, value: Any, letters: str) -> np.ndarray:
    """`value` as a float array of two axes, which `letters` name."""
    return dimensions(name, floats(name, value), letters, 2)


def last_axis(name: str, value: Any) -> np.ndarray:
    """`value` as a float array with a last axis, along which a softmax goes."""
    given = floats(name, value)
    if not given.ndim:
        raise ValueError(f"{name}: got shape (), expected (..., C)")
    return given


# Layout: from checked arrays to what kernels address --------------------------------------------------------


def rows(given: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """(..., C) as aligned rows (N, C), each contiguous, any distance apart; a scalar is one row of one."""
    if given.ndim != 2:
        lengths = given.shape or (1,)
        given = given.reshape(math.prod(lengths[:-1]), lengths[-1])
    flags = given.flags
    contiguous = flags.c_contiguous or given.strides[1] == given.itemsize or given.shape[1] == 1
    if contiguous and flags.aligned and (dtype is None or given.dtype == dtype):
        return given
    return cast(given, dtype)


def examples(given: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """(N,) or (N, O) as rows (N, O): a vector is N examples of one output."""
    return rows(given if given.ndim == 2 else given[:, None], dtype)


def vector(given: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A vector as a contiguous, aligned one of `dtype`."""
    flags = given.flags
    if flags.c_contiguous and flags.aligned and given.dtype == dtype:
        return given
    return cast(given, dtype)


def cast(given: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """`given` as a new C-ordered array; a large one by blocks of rows, between which Python sees signals."""
    if given.nbytes <= _CAST_BYTES:
        return np.array(given, dtype, order="C")
    new = np.empty(given.shape, dtype or given.dtype)
    step = _rows_at_a_time(given)
    for start in range(0, len(given), step):
        new[start : start + step] = given[start : start + step]
    return new


def _rows_at_a_time(given: np.ndarray) -> int:
    return max(1, len(given) * _CAST_BYTES // given.nbytes)


def blocks(given: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """All different rows, in blocks with their first row's number; of rows that are the same memory there is one."""
    if given.size:
        distinct = given if given.strides[0] else given[:1]
        step = _rows_at_a_time(distinct)
        for start in range(0, len(distinct), step):
            yield start, distinct[start : start + step]


# Arrays that are written ------------------------------------------------------------------------------------


def output(
    name: str,
    out: np.ndarray | None,
    expected: tuple[int, ...],
    dtype: np.dtype,
    /,
    in_place: str | None = None,
    **inputs: Any,
) -> np.ndarray:
    """`out` itself, if a kernel can write it and it is apart from the `inputs`; a new array for None.

    `in_place` names the one input whose very memory `out` may be, element upon element.
    """
    if out is None:
        return _backend.kernels.new_array(expected, dtype)
    writable(name, out, expected, dtype)
    for other_name, other in inputs.items():
        apart(name, out, other_name, other, or_equal=other_name == in_place)
    return out


def writable(name: str, out: np.ndarray, expected: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`out`, if it is an array of this shape and dtype that a kernel can write where it stands."""
    ndarray(name, out)
    if out.dtype != dtype:
        raise TypeError(f"{name}: got dtype {out.dtype}, expected {dtype}")
    shape(name, out, expected)
    if not out.flags.writeable:
        raise ValueError(f"{name}: got a read-only array, expected a writeable one")
    if not out.flags.aligned:
        raise ValueError(f"{name}: got an unaligned array, expected an aligned one")
    if not out.flags.c_contiguous and not _separate_rows(out):
        text = "contiguous rows that do not overlap" if out.ndim == 2 else "a C-contiguous array"
        raise ValueError(f"{name}: got shape {out.shape} with strides {out.strides}, expected {text}")
    return out


def ndarray(name: str, value: Any) -> np.ndarray:
    """`value`, if it is an array already; a mask would keep parts of it from being written."""
    if type(value) is not np.ndarray and (not isinstance(value, np.ndarray) or foreign.is_masked(value)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected numpy.ndarray")
    return value


def apart(name: str, out: np.ndarray, other_name: str, other: Any, or_equal: bool = False) -> None:
    """Refuse `out` where it shares memory with `other`; `or_equal` allows the very same memory."""
    if other is None or (or_equal and out is other):
        return
    other = other if type(other) is np.ndarray else array(other_name, other)
    if _overlap(out, other) and not (or_equal and _same_memory(out, other)):
        text = f"memory of its own, or exactly that of {other_name}" if or_equal else "memory of its own"
        raise ValueError(f"{name}: got memory that overlaps {other_name}, expected {text}")


def _separate_rows(out: np.ndarray) -> bool:
    """Whether a matrix that is not C-contiguous consists of contiguous rows of which no two share a byte."""
    if out.ndim != 2:
        return False
    distance, step = out.strides
    width = out.shape[1] * out.itemsize
    return bool((step == out.itemsize or out.shape[1] == 1) and abs(distance) >= width)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a byte belongs to both; taken for granted where that is too hard to decide."""
    if not np.may_share_memory(a, b):  # the bounds do not even touch
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)  # type: ignore[arg-type]  # any int will do
    except np.exceptions.TooHardError:
        return True


def _same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether each element of `a` lies exactly where that of `b` does."""
    return (
        (a.shape, a.dtype) == (b.shape, b.dtype)
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and all(n == 1 or s == t for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    )
