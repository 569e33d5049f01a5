"""Arguments of every kind, drawn by Hypothesis: numbers in every layout, dtype and regime, and what is none.

A drawn array is *good* where the function under test has to take it, whatever its layout; `spoiled` arrays, outputs and options
are those that may be refused. Sizes are small, but for `huge`: those that no machine has the memory for.
"""

from __future__ import annotations

import decimal
import fractions
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from good_calls import LAYOUTS, unaligned
from hypothesis import strategies as st

Array = np.ndarray
T = TypeVar("T")

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65)
HUGE = (2**31, 2**40, 2**62)
REALS = ("f2", "f4", "f8", ">f4", ">f8", "i1", "u2", ">i4", "i8", "u8", "?")
INTEGERS = ("i1", "i2", "i4", "i8", ">i8", "u1", "u2", ">u4", "u8")
STRANGE = (*REALS, "g", "c8", "O", "S3", "U2", "M8[D]", "m8[s]", "f4,f4", "V4")
EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-320, 1e-45, 1e-38, 3e38, -3e38, 1e308, 1e4]
)

NUMBERS: tuple[Any, ...] = (
    *(np.nan, np.inf, -np.inf, -1, 0, 1, 2, 0.5, -0.0, 1e-320, 1e-45, 1e39, 1e308, 2**31, 2**63, -(2**63), 10**400),
    *(np.float32(0.5), np.float16(0.25), np.longdouble(0.5), np.int8(1), np.uint64(2**64 - 1), np.bool_(True), True),
    *("0.5", b"1", None, 1j, [0.5], (1,), np.array(0.5), np.zeros(2), fractions.Fraction(1, 2), decimal.Decimal(1), object),
)  # fmt: skip
WORDS: tuple[Any, ...] = (
    "",
    "softmax",
    "Mean",
    "tanh ",
    "none\0",
    b"mean",
    None,
    3,
    True,
    ["mean"],
    np.str_("sum"),
    ...,
)
NO_ARRAYS: tuple[Callable[[], Any], ...] = tuple(
    lambda value=value: value
    for value in (None, 3, 0.5, True, "text", b"bytes", [], [[]], [[1.0], [1.0, 2.0]], {}, {1}, object, 1j, ..., range(3))
)  # fmt: skip


class Draw:
    """What is drawn, in the words of this file."""

    def __init__(self, draw: Callable[[st.SearchStrategy[T]], T]) -> None:
        self.draw = draw
        self.folder = FOLDER

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.draw(st.integers(0, len(values) - 1))]

    def once_in(self, n: int) -> bool:
        return self.draw(st.integers(0, n - 1)) == n - 1

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.draw(st.integers(0, 2**31)))

    def size(self) -> int:
        return self.one_of(SIZES)

    # -- numbers -------------------------------------------------------------------------------------------------------------

    def real(self, shape: tuple[int, ...], dtype: Any, wild: bool = False) -> Array:
        """Numbers of the size of 1 to 100; or also such as no training should meet."""
        rng = self.generator()
        mild = self.one_of((0.5, 4.0, 30.0)) * rng.standard_normal(shape)
        with np.errstate(over="ignore"):
            return np.asarray(
                np.where(rng.random(shape) < 0.3, rng.choice(EDGES, shape), mild) if wild else mild, dtype
            )

    def fractions(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Numbers in [0, 1], half of them 0 or 1."""
        rng = self.generator()
        return np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape)).astype(dtype)

    def labels(self, n: int, n_classes: int) -> Array:
        return self.generator().integers(0, max(n_classes, 1), n).astype(self.one_of(INTEGERS))

    # -- layouts -------------------------------------------------------------------------------------------------------------

    def laid_out(self, a: Array) -> Array:
        """The same numbers, elsewhere and otherwise in memory; or other ones that share it."""
        return a if self.once_in(3) else self.otherwise(a)

    def otherwise(self, a: Array) -> Array:
        layout = self.one_of((*LAYOUTS, memmap, reversed_columns, one_row, one_column, windows))
        return layout(a) if a.size and a.ndim and (a.itemsize > 1 or layout is not unaligned) else a

    def output(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """One that a kernel has to write, filled with what is not there after a call that was made."""
        out = np.full(shape, 99, dtype)
        if len(shape) != 2 or self.once_in(2):
            return out
        n, c = shape
        buffer = np.full((n, 2 * c + 3), 99, dtype)
        return self.one_of((buffer[:, 1 : c + 1], buffer[::-1, :c], out[::-1]))

    # -- what may be refused ---------------------------------------------------------------------------------------------------

    def spoiled(self, a: Any) -> Any:
        """Of another dtype, shape or kind, or with numbers that are none."""
        kind = self.draw(st.integers(0, 9))
        if kind == 0 or not isinstance(a, np.ndarray):
            return self.one_of(NO_ARRAYS)()
        if kind <= 2:
            with np.errstate(all="ignore"):
                return recast(np.ascontiguousarray(a).reshape(a.shape), self.one_of(STRANGE))
        if kind <= 4:
            return self.one_of((longer, shorter, empty, transposed, deeper, flatter, scalar))(a)
        if kind <= 6:
            return self.real(a.shape, a.dtype, wild=True) if a.dtype.kind == "f" else self.odd_integers(a)
        if kind <= 8:
            return self.one_of((masked, listed, viewed, matrix, objects))(a)
        return self.huge(a)

    def odd_integers(self, a: Array) -> Array:
        if a.dtype.kind not in "iu":
            return a
        limits = np.iinfo(a.dtype)
        odd = np.array([limits.min, limits.max, 0, 1], a.dtype)
        return np.where(self.generator().random(a.shape) < 0.2, self.generator().choice(odd, a.shape), a)

    def huge(self, a: Array) -> Array:
        """One number, as so many that there is no memory for a result."""
        lengths = [self.one_of((*HUGE, n, n)) for n in a.shape]
        try:
            return np.broadcast_to(np.ones((), a.dtype), tuple(lengths))
        except ValueError:  # NumPy itself has no such array
            return a

    def spoiled_output(self, a: Array, others: Sequence[Array]) -> Any:
        """Read-only, unaligned, strided, of another dtype or shape, on itself or on top of another array."""
        kind = self.draw(st.integers(0, 6))
        if kind == 0:
            return self.one_of(NO_ARRAYS)()
        if kind == 1:
            return recast(a, self.one_of(STRANGE))
        if kind == 2:
            return self.one_of((longer, shorter, empty, transposed, deeper, flatter, scalar))(a)
        if kind == 3 and others:
            return self.overlapping(a, self.one_of(others))
        if kind == 4:
            return self.one_of((masked, listed, viewed, matrix, objects))(a)
        return self.otherwise(a)

    def overlapping(self, a: Array, other: Array) -> Any:
        """An array like `a` that begins within the memory of `other`, and may end behind it."""
        if not isinstance(other, np.ndarray) or other.dtype != a.dtype or not other.size:
            return other
        buffer = np.zeros(other.size + a.size + 8, a.dtype)
        other = buffer[: other.size].reshape(other.shape)
        start = self.draw(st.integers(0, min(other.size, 8)))
        return Pair(other, buffer[start : start + a.size].reshape(a.shape))


class Pair:
    """An input that takes the place of the one drawn, and an output on top of it."""

    def __init__(self, source: Array, out: Array) -> None:
        self.source, self.out = source, out


FOLDER = tempfile.TemporaryDirectory(prefix="fastbp-fuzz-")


def memmap(a: Array) -> Array:
    """Read from a file."""
    with tempfile.TemporaryFile(dir=FOLDER.name) as file:
        a.tofile(file)
        file.flush()
        return np.memmap(file, a.dtype, "r", shape=a.shape)


def reversed_columns(a: Array) -> Array:
    return a[..., ::-1].copy()[..., ::-1]


def one_row(a: Array) -> Array:
    """The first row for all of them: a stride of 0."""
    return np.broadcast_to(a[:1], a.shape)


def one_column(a: Array) -> Array:
    return np.broadcast_to(a[..., :1], a.shape)


def windows(a: Array) -> Array:
    """Rows that overlap: each begins an element after the one before it."""
    if a.ndim != 2 or a.size < sum(a.shape):
        return a
    line = np.ascontiguousarray(a).ravel()[: sum(a.shape)]
    return np.lib.stride_tricks.as_strided(line, a.shape, (a.itemsize, a.itemsize))


def recast(a: Array, dtype: str) -> Array:
    """In another dtype, as far as NumPy knows a way; otherwise zeros of it."""
    try:
        return a.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(a.shape, dtype)


def longer(a: Array) -> Array:
    return np.concatenate([a, a[:1]]) if a.ndim and len(a) else np.zeros((1, *a.shape[1:]), a.dtype)


def shorter(a: Array) -> Array:
    return a[..., 1:] if a.ndim else a


def empty(a: Array) -> Array:
    return a[..., :0] if a.ndim else a


def transposed(a: Array) -> Array:
    return a.T


def deeper(a: Array) -> Array:
    return a[None]


def flatter(a: Array) -> Array:
    return a.reshape(-1)


def scalar(a: Array) -> Array:
    return a.reshape(-1)[0] if a.size else np.zeros((), a.dtype)


def masked(a: Array) -> Any:
    return np.ma.masked_array(a)


def listed(a: Array) -> Any:
    return a.tolist()


def viewed(a: Array) -> Any:
    return memoryview(np.ascontiguousarray(a))


def matrix(a: Array) -> Any:
    return a.view(np.matrix) if a.ndim == 2 else a


def objects(a: Array) -> Any:
    return a.astype(object)
