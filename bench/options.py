"""What the options of `fit` cost: an epoch with each of them, and with all, beside an epoch of plain SGD.

All take turns, round by round. A time is the median over the rounds of what the history tells of an epoch, in which the pass over
the validation set is not counted; a ratio is the median of the ratios to plain SGD within the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

import fastbp

ROUNDS, QUICK_ROUNDS = 15, 2


@dataclass(frozen=True)
class EpochShape:
    """Layer sizes, inputs first, examples in a batch, and batches in an epoch; all options are to cost at most `bar`."""

    sizes: tuple[int, ...]
    batch: int
    batches: int
    bar: float

    @property
    def name(self) -> str:
        """As it is printed and chosen by."""
        return f"{'-'.join(map(str, self.sizes))} batch {self.batch}"


SHAPES = (EpochShape((784, 100, 10), 200, 100, 1.5), EpochShape((64, 32, 10), 32, 400, 2.0))


@dataclass(frozen=True)
class Variant:
    """A way to train: the arguments of the network, of its optimizer and of `fit`."""

    optimizer: type[fastbp.Optimizer] = fastbp.SGD
    network: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)


def variants(shape: EpochShape, epochs: int, weights: np.ndarray, validation: Any) -> dict[str, Variant]:
    """Return each option alone, and all of them."""
    cosine = fastbp.schedules.cosine(1e-3, steps=epochs * shape.batches)
    return {
        "plain SGD": Variant(),
        "AdamW": Variant(fastbp.AdamW, rates={"weight_decay": 0.0}),
        "… with decay": Variant(fastbp.AdamW),
        "cosine": Variant(rates={"learning_rate": cosine}),
        "dropout": Variant(network={"dropout": 0.2}),
        "decay": Variant(rates={"weight_decay": 1e-4}),
        "average": Variant(rates={"average": 0.999}),
        "clipping": Variant(fit={"clip_norm": 1.0}),
        "sample weights": Variant(fit={"sample_weight": weights}),
        "validation set": Variant(fit={"validation_data": validation}),
        "all": Variant(
            fastbp.AdamW,
            {"dropout": 0.2},
            {"learning_rate": cosine, "average": 0.999},
            {"clip_norm": 1.0, "sample_weight": weights, "validation_data": validation},
        ),
    }


def rows(shapes: Sequence[EpochShape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure and print each shape."""
    return [
        row for shape in shapes for row in _rows(shape, dtype, threads, QUICK_ROUNDS if quick else ROUNDS)
    ]


def _rows(shape: EpochShape, dtype: np.dtype, threads: int, rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    n = shape.batch * shape.batches
    x = rng.standard_normal((n, shape.sizes[0])).astype(dtype)
    t, weights = rng.integers(0, shape.sizes[-1], n), rng.uniform(0.5, 2.0, n)
    ways = variants(shape, rounds + 1, weights, (x[: n // 10], t[: n // 10]))
    trained = {name: _network(shape, way, dtype, threads) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            net, optimizer = trained[name]
            history = net.fit(
                x, t, epochs=1, batch_size=shape.batch, optimizer=optimizer, progress=False, **ways[name].fit
            )
            seconds[name].append(history.seconds[0])
    return [_row(shape, name, seconds, threads) for name in names]


def _network(
    shape: EpochShape, way: Variant, dtype: np.dtype, threads: int
) -> tuple[fastbp.MLP, fastbp.Optimizer]:
    net = fastbp.MLP(
        shape.sizes, dtype=dtype.name, activation="relu", seed=0, n_threads=threads, **way.network
    )
    return net, way.optimizer(**{"learning_rate": 1e-3} | way.rates)  # type: ignore[arg-type]


def _row(shape: EpochShape, name: str, seconds: dict[str, list[float]], threads: int) -> dict[str, Any]:
    own, plain = seconds[name][1:], seconds["plain SGD"][1:]
    ratio = median(a / b for a, b in zip(own, plain, strict=True))
    step = 1e6 * median(own) / shape.batches
    bar = f"  at most {shape.bar:g}" if name == "all" else ""
    print(f"{shape.name:24} {name:16} {1e3 * median(own):8.2f} ms {step:8.2f} µs a step {ratio:6.2f}{bar}")
    return {"shape": shape.name, "name": name, "seconds": median(own), "ratio": ratio}
