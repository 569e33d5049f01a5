"""
Data that do not fit into memory
================================

Batches from a generator, and from a Parquet file through PyArrow.

`fit` takes a function that returns an iterator of batches (x, t), and calls it once an epoch; examples are shuffled where they
come from, here by the order of the row groups and within each.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fastbp

BATCH = 128
X, LABELS = fastbp.datasets.load_digits()  # stands for something larger


def generated():
    """Examples as they are made: digits, moved by noise that is new in each epoch."""
    rng = np.random.default_rng()
    order = rng.permutation(len(X))
    for start in range(0, len(X), BATCH):
        rows = order[start : start + BATCH]
        yield X[rows] + 0.05 * rng.standard_normal((len(rows), 64), np.float32), LABELS[rows]


def write(path: Path) -> None:
    """A table of 64 columns and one of labels, in row groups of 512."""
    columns = {f"pixel{i}": X[:, i] for i in range(64)}
    pq.write_table(pa.table(columns | {"label": LABELS}), path, row_group_size=512)


def from_parquet(path: Path):
    """A function that reads the file once: one row group in memory at a time."""

    def read():
        rng, file = np.random.default_rng(), pq.ParquetFile(path)
        for group in rng.permutation(file.num_row_groups):
            table = file.read_row_group(group)
            labels = table.column("label").to_numpy()
            x = np.column_stack([column.to_numpy() for column in table.drop_columns("label").columns])
            order = rng.permutation(len(x))
            for start in range(0, len(x), BATCH):
                rows = order[start : start + BATCH]
                yield x[rows], labels[rows]

    return read


def main():
    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.parquet"
        write(path)
        for name, source in (("a generator, with noise", generated), ("Parquet", from_parquet(path))):
            net = fastbp.MLP([64, 32, 10], activation="relu", seed=0)
            history = net.fit(source, epochs=10, optimizer=fastbp.Adam(0.01), progress=False)
            print(f"batches from {name}: accuracy {net.evaluate(X, LABELS)['accuracy']:.3f}")
            axes.semilogy(range(1, 11), history.loss, label=f"batches from {name}")
    net = fastbp.MLP([64, 32, 10], activation="relu", seed=0)
    history = net.fit(X, LABELS, epochs=10, batch_size=BATCH, optimizer=fastbp.Adam(0.01), progress=False)
    axes.semilogy(range(1, 11), history.loss, "k:", label="all in memory")
    axes.set(xlabel="epoch", ylabel="mean error")
    axes.legend()
    plt.show()


if __name__ == "__main__":
    main()
