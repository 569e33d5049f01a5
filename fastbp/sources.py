"""What a network is trained on and validated by: from the arguments of ``fit`` to checked batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks
from fastbp.batches import Arrays, Examples, Stream
from fastbp.outputs import Loss

if TYPE_CHECKING:
    from fastbp.ranks import Ranks

__all__ = ["Checker", "Sets", "sets"]

_LARGE = 256 * 2**20  # bytes of examples that are not cast at once


@dataclass
class Checker:
    """What examples have to be like for a network, and arrays that its training writes into, as soon as they are known."""

    n_inputs: int
    n_outputs: int
    dtype: np.dtype
    loss: Loss
    class_weight: np.ndarray | None = None
    """Of each class."""
    written: Sequence[np.ndarray] = ()

    @property
    def n_classes(self) -> int:
        """How many classes the targets tell apart; 0 where they are no classes."""
        if self.loss.by_class:
            return self.n_outputs
        return 2 if self.loss.decide is not None and self.n_outputs == 1 else 0

    def examples(
        self, names: tuple[str, str, str], x: Any, t: Any, sample_weight: Any, by_parts: bool = False
    ) -> Examples:
        """Checked and in the network's dtype, but for very many of another dtype that are read `by_parts`; copied where training
        would write over them."""
        inputs = _checks.array(names[0], x)
        if not (by_parts and self._is_large(inputs)):
            given = inputs if inputs.ndim else x  # what is no array is called by its name
            inputs = _checks.networks.inputs(names[0], given, self.n_inputs, self.dtype)
        like = np.broadcast_to(self.dtype.type(0), inputs.shape)
        loss = self.loss
        targets = _checks.networks.targets(names[1], t, like, self.n_outputs, loss.by_class, loss.targets)
        weights = _checks.networks.example_weights(names[2], sample_weight, len(inputs))
        return self.apart(self.weighted(Examples(inputs, targets, weights)))

    def nothing(self) -> Examples:
        """No examples."""
        t = np.zeros(0, np.int64) if self.loss.by_class else np.zeros((0, self.n_outputs), self.dtype)
        return Examples(np.zeros((0, self.n_inputs), self.dtype), t, None)

    def weighted(self, examples: Examples) -> Examples:
        """With the weights of their classes multiplied into their own."""
        if self.class_weight is None:
            return examples
        of_classes = _checks.networks.weights_by_class(self.class_weight, examples.t)
        weights = of_classes if examples.weights is None else examples.weights * of_classes
        return examples._replace(weights=weights)

    def _is_large(self, x: np.ndarray) -> bool:
        """Whether `x` would take very much memory in the network's dtype, and has another."""
        fits = x.ndim == 2 and x.shape[1] == self.n_inputs and x.dtype.kind in "fiub"
        return fits and x.dtype != self.dtype and x.size * self.dtype.itemsize > _LARGE

    def apart(self, examples: Examples) -> Examples:
        """Copies of what training would write over."""
        x, t = (
            array.copy() if any(np.may_share_memory(array, vector) for vector in self.written) else array
            for array in examples[:2]
        )
        return examples._replace(x=x, t=t)


@dataclass(frozen=True)
class Sets:
    """Batches to train on; and of these and of the validation set the examples and their rows, None for all, if there are any."""

    batches: Arrays | Stream
    training: tuple[Examples, np.ndarray | None] | None
    validation: tuple[Examples, np.ndarray | None] | None

    @property
    def monitored(self) -> list[str]:
        """The lists of a history that callbacks can monitor."""
        validation = [] if self.validation is None else ["validation_loss", "validation_metric"]
        return ["loss", *validation, *([] if self.training is None else ["metric"])]


def sets(
    check: Checker,
    X: Any,
    T: Any,
    sample_weight: Any,
    class_weight: Any,
    batch_size: int,
    validation_data: Any,
    validation_fraction: float,
    generator: np.random.Generator,
    ranks: Ranks | None = None,
) -> Sets:
    """Check everything; then draw the validation set, if it is a fraction of the examples."""
    fraction = _checks.number("validation_fraction", validation_fraction, _checks.DECAY_RATE)
    if T is None:
        return _of_stream(check, X, sample_weight, class_weight, validation_data, fraction, ranks)
    examples = check.examples(("X", "T", "sample_weight"), X, T, sample_weight, by_parts=True)
    total = None
    if ranks is None:
        _checks.networks.some_examples("X", examples.x)
    else:
        total, generator = ranks.total, ranks.generator(generator) if fraction else generator
    check.class_weight = _checks.networks.class_weights(class_weight, examples.t, check.n_classes, total)
    examples, validation, rows = check.weighted(examples), _validation(check, validation_data, ranks), None
    if fraction and validation is None:
        rows, aside = _checks.training.held_out(
            fraction, examples.t, check.n_classes, generator, ranks is not None
        )
        validation = examples, aside
    return Sets(Arrays(examples, rows, batch_size, check.dtype), (examples, rows), validation)


def _of_stream(
    check: Checker,
    X: Any,
    sample_weight: Any,
    class_weight: Any,
    validation_data: Any,
    fraction: float,
    ranks: Ranks | None,
) -> Sets:
    _checks.training.stream_options(fraction, sample_weight)
    check.class_weight = _checks.networks.class_weights(class_weight, None, check.n_classes)
    stream = Stream(X, partial(_batch, check), check.nothing())
    return Sets(stream, None, _validation(check, validation_data, ranks))


def _batch(check: Checker, place: str, x: Any, t: Any, sample_weight: Any) -> Examples:
    return check.examples((f"{place}, x", f"{place}, t", f"{place}, sample_weight"), x, t, sample_weight)


def _validation(check: Checker, given: Any, ranks: Ranks | None) -> tuple[Examples, np.ndarray | None] | None:
    parts = _checks.training.validation_set(given)
    if parts is None:
        return None
    names = "validation_data[0]", "validation_data[1]", "validation_data[2]"
    examples = check.examples(names, *parts, by_parts=True)
    if ranks is None:
        _checks.networks.some_examples("validation_data[0]", examples.x)
    return examples, None
