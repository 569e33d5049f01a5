"""The checks of a training: where its examples come from, how it goes, who looks on. The decisions are those of `_checks`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastbp._checks.foreign import offers_an_array
from fastbp._checks.networks import as_classes
from fastbp._checks.scalars import POSITIVE, number

# Where examples come from -------------------------------------------------------------------------------


def validation_set(value: Any) -> tuple[Any, Any, Any] | None:
    """Examples, targets and weights or None, not yet checked themselves; None where there is no validation set."""
    return (
        None
        if value is None
        else _two_or_three("validation_data: got", "(X, T) or (X, T, sample_weight)", value)
    )


def stream(value: Any) -> Any:
    """`value`, if it is an iterable, of batches to be hoped, or a function."""
    if offers_an_array(value):
        raise TypeError("T: got None with X an array, expected one target for each row of X")
    if not callable(value) and not isinstance(value, Iterable):
        text = "an array with T, or an iterable of batches (x, t), or a function that returns an iterator"
        raise TypeError(f"X: got {type(value).__name__} without T, expected {text}")
    return value


def batches(value: Any) -> Iterable[Any]:
    """What a function returned for an epoch."""
    if not isinstance(value, Iterable):
        raise TypeError(f"X: got a function that returns {type(value).__name__}, expected an iterator")
    return value


def stream_options(fraction: float, sample_weight: Any) -> None:
    """Refuse what needs to know all the examples of an iterable beforehand."""
    if fraction:
        text = "0 with an iterable of batches; validation_data can be given"
        raise ValueError(f"validation_fraction: got {fraction}, expected {text}")
    if sample_weight is not None:
        text = "None with an iterable of batches, which can be (x, t, sample_weight)"
        raise ValueError(f"sample_weight: got {type(sample_weight).__name__}, expected {text}")


def batch(number: int, value: Any) -> tuple[Any, Any, Any]:
    """The examples, targets and weights or None of a batch of an iterable, not yet checked themselves."""
    return _two_or_three(f"X: batch {number} is", "(x, t) or (x, t, sample_weight)", value)


def some_batches(number: int) -> None:
    """Refuse an epoch of an iterable without a batch."""
    if not number:
        text = "a list, or a function that returns a new iterator for each epoch"
        raise ValueError(f"X: got no batch in this epoch, expected some; an iterator ends once: give {text}")


def _two_or_three(got: str, expected: str, value: Any) -> tuple[Any, Any, Any]:
    several = isinstance(value, (tuple, list))
    if not several or len(value) not in (2, 3):
        what = f"{len(value)} things" if several else type(value).__name__
        raise TypeError(f"{got} {what}, expected {expected}")
    x, t, weights = (*value, None)[:3]
    return x, t, weights


# How they are trained on ------------------------------------------------------------------------------------------


def clips(clip_norm: Any, clip_value: Any) -> tuple[float, float]:
    """The largest norm of a gradient, and the largest magnitude of its elements; 0 where there is none."""
    given = {"clip_norm": clip_norm, "clip_value": clip_value}
    norm, value = (0.0 if each is None else number(name, each, POSITIVE) for name, each in given.items())
    return norm, value


def held_out(
    fraction: float, t: np.ndarray, n_classes: int, generator: np.random.Generator, may_be_none: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on, and which to set aside: so much of all, and of each class alike where targets are classes. Either
    may be empty if others have some."""
    order = generator.permutation(len(t))
    if n_classes:
        classes = as_classes(t, n_classes)
        labels = classes if classes.ndim == 1 else classes.argmax(axis=1)
        order = order[np.argsort(labels[order], kind="stable")]
    # Of any k examples in a row, k · fraction are taken, up to one: so it is with all, and with each class.
    taken = np.diff(np.floor(np.arange(len(t) + 1) * fraction + 0.5)) > 0
    if not may_be_none and (taken.all() or not taken.any()):
        text = "a fraction that leaves examples on both sides"
        raise ValueError(f"validation_fraction: got {fraction} of {len(t)} examples, expected {text}")
    return np.sort(order[~taken]), np.sort(order[taken])


def for_lbfgs(
    stream: bool, dropout: Iterable[float], clips: Iterable[float], checkpoints: bool, plateau: bool
) -> None:
    """Refuse what L-BFGS cannot do."""
    refused = (
        (stream, "an iterable of batches", "arrays"),
        (any(dropout), "dropout", "a network without"),
        (any(clips), "clipping", "none"),
        (checkpoints, "a checkpoint", "none: it keeps no state in files"),
        (plateau, "ReduceOnPlateau", "none: it has no learning rate"),
    )
    for there, what, expected in refused:
        if there:
            raise ValueError(f"optimizer: got LBFGS with {what}, expected {expected}")


def for_checkpoint(lbfgs: bool, within_epoch: bool, over: bool) -> None:
    """Refuse to write a training from which none could go on."""
    refused = (
        (lbfgs, "a training by LBFGS", "another optimizer: it keeps no state in files"),
        (over, "a call in fit_end", "one in epoch_end: parameters may be a mean, or the best ones, by now"),
        (within_epoch, "a call within an epoch", "one at its end"),
    )
    for there, got, expected in refused:
        if there:
            raise RuntimeError(f"save: got {got}, expected {expected}")


def kept(place: str, name: Any, value: Any) -> None:
    """Refuse a state of a callback that no file can hold."""
    if not (isinstance(name, str) and name.isascii() and name.isidentifier() and name[0] != "_"):
        raise ValueError(
            f"{place}: got the name {name!r:.80}, expected letters, digits and underscores after a letter"
        )
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            expected = "an array of bool, integers or floats up to 64 bits"
            raise TypeError(f"{place}: got {value.dtype} as {name!r}, expected {expected}")
        return
    try:
        json.dumps(value)
    except (TypeError, ValueError) as cause:
        expected = "numbers, arrays of them, or what JSON can say"
        raise TypeError(
            f"{place}: got {type(value).__name__} as {name!r} ({cause}), expected {expected}"
        ) from None


def monitors(given: Iterable[Any], known: Iterable[str], there: Iterable[str]) -> None:
    """Refuse callbacks that monitor one of the `known` lists of a history which is not `there`."""
    for callback in given:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor in known and monitor not in there:
            missing = "a validation set" if monitor.startswith("validation") else "examples in arrays"
            raise ValueError(f"monitor: got {monitor} without {missing}, expected {' or '.join(there)}")


def callbacks(name: str, value: Any, events: Iterable[str]) -> tuple[Any, ...]:
    """A function, or an object with a method for one of `events`, or any number of them."""
    given = tuple(value) if isinstance(value, Iterable) else (value,)
    for each in given:
        if isinstance(each, type) or not (callable(each) or any(hasattr(each, event) for event in events)):
            got = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise TypeError(
                f"{name}: got {got}, expected a function, or an object with any of {', '.join(events)}"
            )
    return given
