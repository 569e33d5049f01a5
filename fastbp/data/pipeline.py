"""A trained network together with what makes its inputs from a table: what the command line saves and loads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbp import activations, persistence
from fastbp.data.errors import DataError
from fastbp.data.preparation import Preparation
from fastbp.data.scores import Score, score
from fastbp.data.tables import Table
from fastbp.data.targets import Target
from fastbp.model import MLP

__all__ = ["Pipeline", "split"]


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
        header, arrays = self.preparation.to_header_and_arrays()
        net = self.net
        network = {"layer_sizes": net.layer_sizes, "activation": net.activation, "loss": net.loss_name}
        config = {"network": network, "preparation": header, "training": self.training}
        with persistence._replacing(path) as file:
            arrays |= {"header": np.array(json.dumps(config)), "parameters": net.parameters}
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pipeline:
        """The pipeline that :meth:`save` wrote to `path`. Nothing in the file is executed.

        Raises
        ------
        OSError
            If the file cannot be opened.
        ValueError
            If it is something else, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            config = json.loads(str(arrays.pop("header")))
            net = MLP(**config["network"], seed=0)
            net.parameters[:] = arrays.pop("parameters")
            preparation = Preparation.from_header_and_arrays(config["preparation"], arrays)
        except (TypeError, ValueError, KeyError) as cause:
            raise DataError(f"a damaged model ({cause})", source=os.fsdecode(path)) from cause
        return cls(net, preparation, config["training"])


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
    rows, generator = target.rows(table), np.random.default_rng(seed)
    groups = target.indices(table)[rows] if target.classes else np.zeros(len(rows), np.int64)
    order = generator.permutation(len(rows))
    order = order[np.argsort(groups[order], kind="stable")]  # by class, within a class by chance
    sizes = np.bincount(groups)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row within its class
    held = np.zeros(len(rows), bool)
    held[order] = place < np.minimum(np.round(fraction * sizes), np.maximum(sizes - 1, 0))[groups[order]]
    return rows[~held], rows[held]
