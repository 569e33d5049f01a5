"""Tables as training data: readers, the preparation of inputs and targets, and all of it with a network in one file.

This is what the command line is made of, and reads as well from Python::

    CSV, Parquet, .npz, IDX -> read -> Table -> Preparation -> Inputs -> MLP
"""

from fastbp.data.errors import DataError
from fastbp.data.pipeline import Pipeline, split
from fastbp.data.preparation import Inputs, Preparation
from fastbp.data.readers import read
from fastbp.data.scores import Score
from fastbp.data.tables import Table
from fastbp.data.targets import TASKS, Target

__all__ = [
    "TASKS",
    "DataError",
    "Inputs",
    "Pipeline",
    "Preparation",
    "Score",
    "Table",
    "Target",
    "read",
    "split",
]
