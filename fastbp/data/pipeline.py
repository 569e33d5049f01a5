"""A trained network together with what makes its inputs from a table: what the command line saves and loads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbp import _checks, activations, persistence
from fastbp.data.errors import DataError
from fastbp.data.preparation import Preparation
from fastbp.data.scores import Score, score
from fastbp.data.tables import Table
from fastbp.data.targets import Target
from fastbp.model import MLP

__all__ = ["Pipeline", "split"]

_FORMAT = "fastbp.Pipeline"  # of files
_LEARNED = "preparation."  # how the names of the arrays begin that are not the network's


class Pipeline:
    """A network and the preparation of its inputs.

    Parameters
    ----------
    net : MLP
    preparation : Preparation
    training : dict, optional
        Facts about the training for people to read, of what JSON can say.

    Examples
    --------
    >>> import fastbp
    >>> from fastbp.data import Pipeline, Preparation, Target, read
    >>> X, y = fastbp.datasets.load_digits()
    >>> np.savez("digits.npz", X=X, y=y)
    >>> table = read("digits.npz")
    >>> preparation = Preparation.learn(table, Target.learn(table, "y"))
    >>> pipeline = Pipeline(fastbp.MLP([64, 32, 10], seed=0), preparation)
    >>> _ = pipeline.net.fit(preparation.inputs(table).array(), y, progress=False)
    >>> pipeline.save("digits.model")
    >>> Pipeline.load("digits.model").predict(table)[:3]
    array(['0', '1', '2'], dtype='<U1')
    """

    def __init__(self, net: MLP, preparation: Preparation, training: dict[str, Any] | None = None) -> None:
        self.net, self.preparation, self.training = net, preparation, training or {}

    def predict(self, table: Table) -> np.ndarray:
        """What each row of a table is taken to be: the names of classes, or numbers (N,)."""
        return np.concatenate([prediction for prediction, _ in self.blocks(table)])

    def blocks(self, table: Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Predictions (n,) and outputs (n, O), probabilities where there are classes, a block of rows at a time."""
        target, names = self.preparation.target, np.array(self.preparation.target.classes)
        for _, block in self.preparation.inputs(table).blocks(self.net.layer_sizes[-1]):
            logits = self.net.logits(block)
            predictions = names[logits.argmax(axis=1)] if target.classes else target.number(logits)
            yield predictions, activations.softmax(logits, out=logits) if target.classes else logits

    def evaluate(self, table: Table, rows: np.ndarray | None = None) -> Score:
        """How well the rows of a table are predicted; by default all that have a target."""
        target = self.preparation.target
        rows = target.rows(table) if rows is None else rows
        if not len(rows):
            raise table.error("the target has no value at all", target.name)
        wanted = (target.indices if target.classes else target.numbers)(table)[rows]
        return score(self.net, self.preparation.inputs(table, rows), target, wanted)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network and preparation to one file, as :meth:`MLP.save` writes a network.

        Raises
        ------
        OSError
            If the file cannot be written; one of that name is as it was then.
        """
        config, arrays = self.net._to_config_and_arrays()
        header, learned = self.preparation.to_header_and_arrays()
        config = {"network": config, "preparation": header, "training": self.training}
        arrays |= {_LEARNED + name: array for name, array in learned.items()}
        persistence.write(path, _FORMAT, config, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pipeline:
        """The pipeline that :meth:`save` wrote to `path`. Nothing in the file is executed.

        Raises
        ------
        OSError
            If the file cannot be opened.
        ValueError
            If it is something else, or damaged; a :class:`DataError`.
        """
        name = os.fsdecode(path)
        try:
            config, arrays = persistence.read(path, _FORMAT)
            learned = {key: arrays.pop(key) for key in list(arrays) if key.startswith(_LEARNED)}
            learned = {key.removeprefix(_LEARNED): array for key, array in learned.items()}
            preparation = Preparation.from_header_and_arrays(config["preparation"], learned)
            net = MLP._from_config_and_arrays(path, _FORMAT, config["network"], arrays)
            ends = preparation.width, preparation.target.n_outputs
            if (net.layer_sizes[0], net.layer_sizes[-1]) != ends:
                raise ValueError(f"the network has the sizes {net.layer_sizes}, which its inputs do not fit")
            return cls(net, preparation, dict(config["training"]))
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            text = str(cause).removeprefix(f"path: {name!r} ")
            raise DataError(
                f"a damaged model ({cause!r:.300})" if text == str(cause) else text, source=name
            ) from cause


def split(
    table: Table, target: Target, fraction: float, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and those held out, by chance; of each class the same fraction, but never all of its rows.

    Rows without a target are in neither.

    Parameters
    ----------
    table : Table
    target : Target
    fraction : float in [0, 1)
        How much is held out.
    seed : int, optional

    Returns
    -------
    train, held_out : arrays of indices, ascending

    Examples
    --------
    >>> from fastbp.data import Target, read, split
    >>> np.savez("points.npz", X=[[1.0], [2.0], [3.0], [4.0], [5.0]], y=[0, 0, 1, 1, 1])
    >>> table = read("points.npz")
    >>> train, held_out = split(table, Target.learn(table, "y"), 0.4, seed=0)
    >>> len(train), len(held_out)
    (3, 2)
    """
    _checks.number("fraction", fraction, _checks.DECAY_RATE)
    rows, generator = target.rows(table), np.random.default_rng(_checks.networks.seed("seed", seed))
    groups = target.indices(table)[rows] if target.classes else np.zeros(len(rows), np.int64)
    order = generator.permutation(len(rows))
    order = order[np.argsort(groups[order], kind="stable")]  # by class, within a class by chance
    sizes = np.bincount(groups)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row within its class
    held = np.zeros(len(rows), bool)
    held[order] = place < np.minimum(np.round(fraction * sizes), np.maximum(sizes - 1, 0))[groups[order]]
    return rows[~held], rows[held]
