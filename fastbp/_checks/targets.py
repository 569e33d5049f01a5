"""Checks of targets and of the weights of examples, classes and outputs."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from fastbp import _backend
from fastbp._checks.arrays import (
    FLOAT64,
    INT64,
    array,
    dimensions,
    examples,
    floats,
    integers,
    reals,
    rows,
    shape,
    vector,
)
from fastbp._checks.scalars import FRACTION, INT64_MAX, NOT_NEGATIVE, integer, number, positive_in
from fastbp._errors import TargetIndexError

_MaybeArray: TypeAlias = np.ndarray | None

IGNORE_INDEX = -100


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


def whole_labels(name: str, labels: Any) -> np.ndarray:
    """Class indices (N,) as int64 that libraries for boosting keep as floats; rows of targets stay as they are."""
    given = reals(name, labels)
    if given.ndim != 1 or given.dtype.kind != "f":
        return given
    odd = ~(np.abs(given) < 2**53) | (given != np.rint(given))  # NaN is odd, too
    if odd.any():
        row = int(odd.argmax())
        raise ValueError(
            f"{name}: got {given[row]} in row {row}, expected class indices, which are whole numbers"
        )
    return given.astype(INT64)


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
    return vector(given, FLOAT64)


def output_weights(name: str, value: Any, size: int) -> np.ndarray | None:
    """Optional weights of `size` outputs, as float64; one number serves them all."""
    if value is not None:
        value = reals(name, value)
        if value.ndim == 0:
            value = np.full(size, value, FLOAT64)
    return weights(name, value, size, "output")
