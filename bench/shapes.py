"""The named shapes: one row of the tables each, with the work that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, Protocol, TypeVar


@dataclass(frozen=True)
class StepShape:
    """One training step: layer sizes (inputs first) and the number of examples in the batch."""

    sizes: tuple[int, ...]
    batch: int
    label: str = ""

    @property
    def name(self) -> str:
        """As in the tables, e.g. "4-16-3 batch 8"."""
        return f"{self.label or '-'.join(map(str, self.sizes))} batch {self.batch}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of the matrix products; everything else is left out.

        Per layer and example 2·I·O each for A W, for Aᵀ δ and, but in the first layer, for δ Wᵀ.
        """
        products = _products(self.sizes)
        return 2 * self.batch * (3 * sum(products) - products[0])


@dataclass(frozen=True)
class PredictShape:
    """The probabilities of `batch` examples: layer sizes, inputs first."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """As in the tables, e.g. "784-128-10 rows 10000"."""
        return f"{'-'.join(map(str, self.sizes))} rows {self.batch}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of A W in each layer."""
        return 2 * self.batch * sum(_products(self.sizes))


@dataclass(frozen=True)
class FitShape:
    """A whole training on MNIST: layer sizes, examples in a batch, epochs."""

    sizes: tuple[int, ...]
    batch: int
    epochs: int

    @property
    def name(self) -> str:
        """As in the tables, e.g. "MNIST 784-100-10 batch 200"."""
        return f"MNIST {'-'.join(map(str, self.sizes))} batch {self.batch}"

    def operations(self, examples: int) -> int:
        """Those of the matrix products in an epoch."""
        return StepShape(self.sizes, examples).operations


@dataclass(frozen=True)
class EstimatorShape:
    """What is done with a classifier: a fit, a search by cross-validation, or the prediction of one example."""

    what: Literal["fit", "search", "predict"]
    data: Literal["MNIST", "digits", "random"]
    sizes: tuple[int, ...]
    batch: int
    epochs: int

    @property
    def name(self) -> str:
        """As in the tables, e.g. "fit digits 64-100-10 batch 200"."""
        return f"{self.what} {self.data} {'-'.join(map(str, self.sizes))} batch {self.batch}"

    def operations(self, examples: int) -> int:
        """Those of the matrix products: in an epoch, in 24 fits to two thirds of the examples and one to all, of one example."""
        epoch = StepShape(self.sizes, examples).operations
        if self.what == "predict":
            return epoch // (3 * examples)
        return epoch if self.what == "fit" else 17 * self.epochs * epoch


def _products(sizes: tuple[int, ...]) -> list[int]:
    """Return I·O of each layer."""
    return [inputs * outputs for inputs, outputs in pairwise(sizes)]


@dataclass(frozen=True)
class LossShape:
    """One error function with its gradient: logits of shape (rows, classes), and where the gradient goes.

    "new": to an array allocated by the call. "buffer": to an array of the caller's, used again and again.
    "in place": to the logits themselves.
    """

    kind: Literal["softmax", "sigmoid"]
    rows: int
    classes: int
    outputs: tuple[Literal["new", "buffer", "in place"], ...] = ("new",)

    @property
    def name(self) -> str:
        """As in the tables, e.g. "softmax 128x10"."""
        return f"{self.kind} {self.rows}x{self.classes}"

    def traffic(self, itemsize: int) -> int:
        """Bytes that must move: the logits read once, the gradient written once."""
        return 2 * self.rows * self.classes * itemsize


STEPS = (
    StepShape((4, 16, 3), 8),
    StepShape((8, 64, 64, 4), 32),
    StepShape((64, 128, 10), 64),
    StepShape((784, 128, 10), 128),
    StepShape((784, 512, 512, 10), 128),
    StepShape((1024, 1024, 1024, 1024, 1000), 256, label="1024x4-1000"),
    StepShape((2048, 4096, 4096, 1000), 512),
    StepShape((256, 256, 50_000), 1024),  # its last layer goes by blocks of rows
)

PREDICTIONS = (
    PredictShape((784, 128, 10), 1),
    PredictShape((784, 128, 10), 10_000),
)

FITS = (FitShape((784, 100, 10), batch=200, epochs=3),)

ESTIMATORS = (
    EstimatorShape("fit", "MNIST", (784, 100, 10), batch=200, epochs=3),
    EstimatorShape("fit", "digits", (64, 100, 10), batch=200, epochs=50),
    EstimatorShape("fit", "random", (20, 32, 1), batch=32, epochs=10),
    EstimatorShape("search", "digits", (64, 100, 10), batch=200, epochs=50),
    EstimatorShape("predict", "digits", (64, 100, 10), batch=200, epochs=5),
)

LOSSES = (
    LossShape("softmax", 128, 10),
    LossShape("softmax", 1024, 1000),
    LossShape("softmax", 4096, 32000, ("new", "buffer", "in place")),
    LossShape("softmax", 1024, 128256),
    LossShape("sigmoid", 4096, 1000),
)


class Named(Protocol):
    """Anything with a name to select it by."""

    @property
    def name(self) -> str: ...


Shape = TypeVar("Shape", bound=Named)


def select(shapes: tuple[Shape, ...], pattern: str) -> list[Shape]:
    """Return the shapes whose name contains `pattern`, which may hold the wildcards of a shell."""
    chosen = [shape for shape in shapes if fnmatchcase(shape.name, f"*{pattern}*")]
    if not chosen:
        raise SystemExit(f"no shape is named {pattern!r}: {'; '.join(shape.name for shape in shapes)}")
    return chosen
