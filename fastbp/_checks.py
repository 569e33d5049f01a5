"""The only place where input is checked: what leaves it is what the kernels read.

Here are the checks of numbers, arrays, targets and layers; those that only optimizers or networks need stand in
`_optimizer_checks` and `_network_checks`, and keep to the same decisions:

A. An error is one sentence, "<argument>: got <what came>, expected <what>". A wrong kind of thing (type,
   dtype) is a ``TypeError``; a wrong value, shape or place in memory is a ``ValueError``.
B. Attributes only. Values are checked where they become addresses (class indices), where no dtype speaks for them (tables
   of objects), and where a network learns from them or decides on them (`_network_checks`).
C. An input is copied only where a kernel could not read it: foreign byte order, unaligned, strided in its
   last axis, objects, another dtype where a cast is promised. Rows may lie any distance apart, in any direction.
D. An output is never copied: it is written as it stands or refused, before the first byte is written.
E. Two arrays overlap if one byte belongs to both: the columns of one buffer may be input and output.

Dimension letters: N examples, I inputs, O outputs, C classes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from fastbp import _backend
from fastbp._errors import TargetIndexError

_MaybeArray: TypeAlias = np.ndarray | None

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
IGNORE_INDEX = -100
INT64 = np.dtype(np.int64)
_FLOAT64 = np.dtype(np.float64)
_INTEGERS = bool, int, np.bool_, np.integer
_REALS = *_INTEGERS, float, np.floating
INT64_MAX = 2**63 - 1
_CAST_BYTES = 64 * 2**20
_OVERLAP_WORK = 10_000  # steps to decide; two row-strided matrices take a handful, beyond it they "overlap"


class Interval:
    """The numbers an argument may be, both ends included, and how an error names them."""

    __slots__ = "high", "low", "text"  # read in half the time of a tuple's fields

    def __init__(self, low: float, high: float, text: str) -> None:
        self.low, self.high, self.text = low, high, text


FRACTION = Interval(0.0, 1.0, "a number in [0, 1]")
DECAY_RATE = Interval(0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)")
NOT_NEGATIVE = Interval(0.0, sys.float_info.max, "a finite number >= 0")
POSITIVE = Interval(math.nextafter(0.0, 1.0), sys.float_info.max, "a finite number > 0")


# Scalars ----------------------------------------------------------------------------------------------------


def number(name: str, value: Any, interval: Interval) -> float:
    """`value` as a Python float, if it is a real number inside `interval` (NaN is in none)."""
    if type(value) is not float and (
        isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating))
    ):
        raise TypeError(f"{name}: got {type(value).__name__}, expected {interval.text}")
    if not interval.low <= value <= interval.high:
        raise ValueError(f"{name}: got {value}, expected {interval.text}")
    return float(value)


def positive_in(name: str, value: Any, dtype: np.dtype) -> float:
    """A number > 0 that `dtype` can hold as a normal number: neither 0 nor infinite when it is cast."""
    checked = number(name, value, POSITIVE)
    limits = np.finfo(dtype)
    if not float(limits.tiny) <= checked <= float(limits.max):
        raise ValueError(
            f"{name}: got {value}, expected a number that {dtype} can hold, {limits.tiny} to {limits.max}"
        )
    return checked


def integer(name: str, value: Any, low: int, high: float, text: str) -> int:
    """`value` as a Python int, if it is an integer in [low, high]; `text` says in words what it may be."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise TypeError(f"{name}: got {type(value).__name__}, expected {text}")
    if not low <= value <= high:
        raise ValueError(f"{name}: got {value}, expected {text}")
    return int(value)


def memory(name: str, value: Any) -> int:
    """`value` as a number of bytes, as many as an int64 can say at most."""
    return min(integer(name, value, 1, math.inf, "a number of bytes, an integer >= 1"), INT64_MAX)


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """`value`, if it is one of `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {type(value).__name__}, expected one of {', '.join(options)}")
    if value not in options:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(options)}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` as a Python bool, if it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")
    return bool(value)


def instance(name: str, value: Any, *kinds: type) -> Any:
    """`value`, if it is an instance of one of `kinds`."""
    if not isinstance(value, kinds):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: got {got}, expected an instance of {expected}")
    return value


def threads(n_threads: int | None) -> int:
    """How many threads a kernel may use, at least 1."""
    if n_threads is not None:
        n_threads = integer("n_threads", n_threads, 1, math.inf, "None or an integer >= 1")
    return _backend.thread_count(n_threads)


# Arrays that are read ---------------------------------------------------------------------------------------


def array(name: str, value: Any) -> np.ndarray:
    """`value` as a plain ndarray; no copy is made of one, nor of a subclass such as a memmap."""
    if type(value) is np.ndarray:
        return value
    if _is_masked(value):
        raise TypeError(f"{name}: got a masked array, expected a plain one (fill or drop what is masked)")
    got = type(value).__name__
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # which says what to do, as of a tensor: .detach()
        raise ValueError(f"{name}: got a {got} that is no array ({error}), expected an array") from None
    if given.ndim == 0 and given.dtype.kind == "O" and hasattr(value, "toarray"):
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
    return _cast(given, native)


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
        return _of_objects(
            name, given, _REALS, _FLOAT64, "real numbers", "convert it, as with .astype(float)"
        )
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
        return _of_objects(name, given, _INTEGERS, INT64, text, advice)
    if kind == "f" and np.isnan(given).any():
        raise _odd_entry(name, given, np.isnan(given), text, advice)
    names = f" ({advice})" if kind in "SU" else ""
    raise TypeError(f"{name}: got dtype {given.dtype} of shape {given.shape}, expected {text}{names}")


def _of_objects(
    name: str, given: np.ndarray, kinds: tuple[type, ...], dtype: np.dtype, text: str, advice: str
) -> np.ndarray:
    """Objects, as tables of unlike or nullable columns consist of, as `dtype`, if each is of one of `kinds`."""
    if not all(issubclass(kind, kinds) for kind in set(map(type, given.flat))):
        odd = np.array([not isinstance(entry, kinds) for entry in given.flat]).reshape(given.shape)
        raise _odd_entry(name, given, odd, text, advice)
    try:
        return given.astype(dtype)
    except OverflowError:
        raise ValueError(f"{name}: got an integer beyond {dtype}, expected {text}") from None


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
    if type(value) is np.ndarray and value.ndim == 2 and value.dtype in FLOATS:
        return value
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
    return _cast(given, dtype)


def examples(given: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """(N,) or (N, O) as rows (N, O): a vector is N examples of one output."""
    return rows(given if given.ndim == 2 else given[:, None], dtype)


def vector(given: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A vector as a contiguous, aligned one of `dtype`."""
    flags = given.flags
    if flags.c_contiguous and flags.aligned and given.dtype == dtype:
        return given
    return _cast(given, dtype)


def _cast(given: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
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


# Targets and weights ----------------------------------------------------------------------------------------


def some_classes(name: str, given: np.ndarray, letters: str) -> np.ndarray:
    """`given`, if its columns, which are classes, are at least one."""
    if not given.shape[1]:
        raise ValueError(f"{name}: got shape {given.shape}, expected {letters} with at least one class")
    return given


def class_targets(
    targets: Any, name: str, examples: np.ndarray, n_classes: int, ignore_index: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Targets of the rows of `examples` (`name`): ``(labels, None)`` for class indices (N,), ``(None, rows)``
    for rows (N, C)."""
    given = targets if type(targets) is np.ndarray else array("targets", targets)
    n = len(examples)
    usual = given.dtype is INT64 and given.shape == (n,) and given.flags.carray
    if (
        usual and _backend.kernels.first_bad_label(given, n_classes, ignore_index) < 0
    ):  # nothing is left to ask
        return given, None
    if given.ndim == 1:
        return class_indices(targets, given, name, n, n_classes, ignore_index), None
    shape("targets", reals("targets", given), (n, n_classes), f"or class indices ({n},)")
    if ignore_index != IGNORE_INDEX:
        raise ValueError(f"ignore_index: got {ignore_index} with rows of targets, expected class indices")
    return None, rows(given, examples.dtype)


def class_indices(
    targets: Any, given: np.ndarray, name: str, n: int, n_classes: int, ignore_index: int
) -> np.ndarray:
    """Integers (N,) as int64, each in [0, C) or `ignore_index`; `given` is what became of `targets`."""
    if given.size or given is targets:  # the dtype of [] means nothing
        text = f"integer class indices, or rows of targets ({n}, {n_classes})"
        given = integers("targets", given, text)
    if len(given) != n:
        text = f"({n},), one class for each row of {name}"
        raise ValueError(f"targets: got shape {given.shape}, expected {text}")
    labels = vector(given, INT64)
    if labels is not given and given.dtype.kind == "u":
        labels[labels < 0] = INT64_MAX  # too large for int64: 2**64 - 100 was cast to -100, but is no -100
    bad = _backend.kernels.first_bad_label(labels, n_classes, ignore_index)
    if bad >= 0:
        raise TargetIndexError(
            f"targets: row {bad} is {given[bad]}, "
            f"expected a class index in [0, {n_classes}) or ignore_index={ignore_index}"
        )
    return labels


def label_to_ignore(ignore_index: Any) -> int:
    """`ignore_index` as an int64, save the largest, for which `class_indices` has another use."""
    text = "an integer in [-2**63, 2**63 - 1)"
    return integer("ignore_index", ignore_index, -(2**63), INT64_MAX - 1, text)


def softmax_arguments(
    name: str, examples: np.ndarray, n_classes: int, targets: Any, options: tuple[Any, ...]
) -> tuple[_MaybeArray, _MaybeArray, _MaybeArray, _MaybeArray, int, float, float, float]:
    """What the kernels of a softmax cross-entropy take of targets and options, for the rows of `examples` (`name`):
    ``(labels, targets, class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale, softcap)``."""
    class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale, softcap = options
    if ignore_index is not IGNORE_INDEX:
        ignore_index = label_to_ignore(ignore_index)
    labels, targets = class_targets(targets, name, examples, n_classes, ignore_index)
    return (
        labels,
        targets,
        None if class_weight is None else weights("class_weight", class_weight, n_classes, "class"),
        None if sample_weight is None else weights("sample_weight", sample_weight, len(examples), "example"),
        ignore_index,
        number("label_smoothing", label_smoothing, FRACTION),
        number("lse_square_scale", lse_square_scale, NOT_NEGATIVE),
        0.0 if softcap is None else positive_in("softcap", softcap, examples.dtype),
    )


def target_rows(targets: Any, name: str, outputs: np.ndarray) -> np.ndarray:
    """Targets of an elementwise error, shaped like `outputs` (`name`) or one number, as rows (N, O)."""
    given = reals("targets", targets)
    if given.ndim == 0:
        given = np.full(outputs.shape, given, outputs.dtype)
    shape("targets", given, outputs.shape, f"the shape of {name}, or one number")
    return examples(given, outputs.dtype)


def elementwise(
    name: str, outputs: Any, targets: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Outputs (`name`) of shape (N,) or (N, O), their targets as rows (N, O), the weights of the examples."""
    given = dimensions(name, floats(name, outputs), "(N, O), or (N,) for examples of one output", 1, 2)
    sample_weights = weights("sample_weight", sample_weight, len(given), "example")
    return given, target_rows(targets, name, given), sample_weights


def weights(name: str, value: Any, size: int, each: str) -> np.ndarray | None:
    """Optional weights, one for each of `size` things, as float64; their values are the caller's affair."""
    if value is None:
        return None
    given = shape(name, reals(name, value), (size,), f"one weight for each {each}")
    return vector(given, _FLOAT64)


def output_weights(name: str, value: Any, size: int) -> np.ndarray | None:
    """Optional weights of `size` outputs, as float64; one number serves them all."""
    if value is not None:
        value = reals(name, value)
        if value.ndim == 0:
            value = np.full(size, value, _FLOAT64)
    return weights(name, value, size, "output")


# Layers -----------------------------------------------------------------------------------------------------


def layer_weight(value: Any, axis: int, name: str, given: np.ndarray) -> np.ndarray:
    """`value` as weights (I, O) of any strides, whose `axis` is as long as the rows of `given` (`name`)."""
    weight = dimensions("weight", floats_like("weight", value, name, given), "(I, O)", 2)
    size = given.shape[1]
    if weight.shape[axis] != size:
        text = f"({size}, O)" if axis == 0 else f"(I, {size})"
        text = f"{text} for {name} of shape {given.shape}"
        raise ValueError(f"weight: got shape {weight.shape}, expected {text}")
    return weight if weight.flags.aligned else _cast(weight, None)


def layer_bias(value: Any, weight: np.ndarray) -> np.ndarray:
    """`value` as the bias (O,) of a layer with these weights (I, O)."""
    bias = floats_like("bias", value, "weight", weight)
    return vector(shape("bias", bias, weight.shape[1:], "one for each output"), weight.dtype)


def layer_delta(value: Any, a_prev: np.ndarray) -> np.ndarray:
    """`value` as deltas (N, O), one row for each row of `a_prev`."""
    delta = dimensions("delta", floats_like("delta", value, "a_prev", a_prev), "(N, O)", 2)
    if len(delta) != len(a_prev):
        raise ValueError(
            f"delta: got shape {delta.shape}, expected ({len(a_prev)}, O) for a_prev of shape {a_prev.shape}"
        )
    return delta


def slope_source(
    value: Any, activation: str, expected: tuple[int, ...], delta: np.ndarray
) -> np.ndarray | None:
    """`value` as the rows that the slope of `activation` needs; None where that is 1 everywhere."""
    if value is None:
        if activation != "identity":
            raise TypeError(f"a: got None, expected shape {expected} for activation={activation!r}")
        return None
    given = shape("a", floats_like("a", value, "delta", delta), expected, "one row for each row of delta")
    return None if activation == "identity" else rows(given)


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
    if not isinstance(value, np.ndarray) or _is_masked(value):
        raise TypeError(f"{name}: got {type(value).__name__}, expected numpy.ndarray")
    return value


def apart(name: str, out: np.ndarray, other_name: str, other: Any, or_equal: bool = False) -> None:
    """Refuse `out` where it shares memory with `other`; `or_equal` allows the very same memory."""
    if other is None or (or_equal and out is other):
        return
    other = np.asarray(other)
    if _overlap(out, other) and not (or_equal and _same_memory(out, other)):
        text = f"memory of its own, or exactly that of {other_name}" if or_equal else "memory of its own"
        raise ValueError(f"{name}: got memory that overlaps {other_name}, expected {text}")


def _is_masked(value: Any) -> bool:
    # Without naming np.ma, whose first use imports it.
    return isinstance(value, np.ndarray) and hasattr(value, "mask")


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
