"""
Many processes train one network
================================

Each process has its own examples; at each step the gradient is the sum over those of all.

Start it by ``mpiexec -n 4 python -m mpi4py data_parallel.py``; with ``python data_parallel.py`` there is one process,
and nothing else changes. A laptop has an MPI after ``pip install 'fastbp[mpi]' mpich``.
"""

import matplotlib.pyplot as plt
from mpi4py import MPI

import fastbp

EXAMPLES, BATCH = 1500, 120  # of all processes together


def main():
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    X, y = fastbp.datasets.load_digits()
    own = slice(rank, EXAMPLES, size)  # a real program reads them from a file of its own

    net = fastbp.MLP([64, 128, 10], activation="relu", dropout=0.2, seed=0)  # the same seed everywhere
    history = net.fit(
        X[own],
        y[own],
        epochs=20,
        batch_size=BATCH // size,
        optimizer=fastbp.AdamW(0.005),
        validation_data=(X[EXAMPLES + rank :: size], y[EXAMPLES + rank :: size]),
        callbacks=[fastbp.callbacks.EarlyStopping(patience=5)],
        progress=False,
        comm=comm,
    )
    if rank == 0:  # all of them have the same network and the same history
        best = history.validation_metric[history.best_epoch - 1]
        print(
            f"{size} processes, {len(history)} epochs: accuracy {best:.1%} on {len(X) - EXAMPLES} other digits"
        )
        history.plot()
        plt.show()


if __name__ == "__main__":
    main()
