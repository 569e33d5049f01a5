"""What processes of MPI show. Run by test_mpiexec.py: ``mpiexec -n 4 python -m mpi4py cases.py NAME [ARGUMENT ...]``, all that
ends well in one launch, and what does not in one of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from tolerances import AS_GOOD_AS_EQUAL
from training_data import LABELS, ROWS, N, X, network, rounding, told

from fastbp import Adam, DivergenceError, cli, mpi
from fastbp.callbacks import Checkpoint
from fastbp.data import Pipeline

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.Get_rank(), COMM.Get_size()
OPTIONS: dict[str, Any] = {"epochs": 3, "shuffle": False, "progress": False, "batch_size": 5}
CUTS = [N * each * each // SIZE**2 for each in range(SIZE + 1)]


def own(*arrays: np.ndarray) -> list[np.ndarray]:
    return [each[CUTS[RANK] : CUTS[RANK + 1]] for each in arrays]


def union() -> Any:
    """At each step the batches of all ranks, put together."""
    shards = [np.arange(CUTS[rank], CUTS[rank + 1]) for rank in range(SIZE)]
    for start in range(0, max(map(len, shards)), 5):
        rows = np.concatenate([each[start : start + 5] for each in shards])
        yield X[rows], LABELS[rows]


def everywhere(value: Any) -> list[Any]:
    found: list[Any] = COMM.allgather(value)
    return found


def fitted(dtype: str = "float64", comm: Any = COMM, **options: Any) -> Any:
    net = network(dtype, dropout=0.3)
    more = {"validation_data": tuple(own(X, LABELS)), "clip_norm": 0.5, "comm": comm}
    return net, net.fit(*own(X, LABELS), optimizer=Adam(0.01), **OPTIONS | more | options)


# -- what ends well --------------------------------------------------------------------------------------------


def is_one_process() -> None:
    net, history = fitted()
    alone = network(dropout=0.3)
    one = alone.fit(union, optimizer=Adam(0.01), validation_data=(X, LABELS), clip_norm=0.5, **OPTIONS)
    np.testing.assert_allclose(net.parameters, alone.parameters, **rounding(200))
    np.testing.assert_allclose(history.validation_loss, one.validation_loss, **rounding(200))
    np.testing.assert_allclose(history.loss, one.loss, **rounding(200))
    assert len(set(everywhere(net.parameters.tobytes()))) == 1
    assert all(each == everywhere(told(history))[0] for each in everywhere(told(history)))


def is_reproducible() -> None:
    for dtype in ("float32", "float64"):
        comm = mpi.Communicator(COMM, reproducible=True)
        bits = {fitted(dtype, comm)[0].parameters.tobytes() for _ in range(3)}
        assert len(bits) == 1 and len(set(everywhere(bits.pop()))) == 1
        comm.free()


def tells_who_failed() -> None:
    def fail(info: Any) -> None:
        if info.rank == SIZE - 1 and info.epoch == 2:
            raise KeyError("no such thing")

    for _ in range(3):  # and all can go on
        try:
            fitted(callbacks=[fail])
        except KeyError:
            assert RANK == SIZE - 1
        except mpi.RankError as error:
            assert RANK < SIZE - 1 and str(error) == f"rank {SIZE - 1}: KeyError: 'no such thing'"
        else:
            raise AssertionError("no error")


def tells_who_diverged() -> None:
    bad = np.where(RANK == SIZE - 1, np.nan, X)
    try:
        network(loss="squared_error").fit(bad, ROWS, comm=COMM, **OPTIONS)
    except DivergenceError as error:
        assert (
            len(set(everywhere(str(error)))) == 1
            and f"{SIZE > 1 and f'rank {SIZE - 1}: '}" in f"False{error}"
        )
    else:
        raise AssertionError("no error")


def stops_by_an_interrupt() -> None:
    class Interrupt:
        def batch_end(self, info: Any) -> None:
            if RANK == SIZE - 1 and (info.epoch, info.batch) == (2, 3):
                os.kill(os.getpid(), signal.SIGINT)

    net, history = fitted(callbacks=[Interrupt()])
    assert history.stopped == ("interrupted" if SIZE == 1 else f"interrupted (rank {SIZE - 1})")
    assert len(history) == 1 and len(set(everywhere(net.parameters.tobytes()))) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def goes_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = COMM.bcast(str(Path(folder) / "training.npz"), 0)
        whole, _ = fitted(epochs=4, callbacks=[Checkpoint(path)])
        fitted(epochs=2, callbacks=[Checkpoint(path)])
        net, history = fitted(epochs=4, callbacks=[Checkpoint(path)], resume=path)
        assert net.parameters.tobytes() == whole.parameters.tobytes() and len(history) == 4
        COMM.Barrier()


# -- what does not ---------------------------------------------------------------------------------------------


def waits_for_ever() -> None:
    if RANK == 1:
        time.sleep(60)
    fitted(comm=mpi.Communicator(COMM, timeout=1.0))


def is_killed(folder: str, rank: str, step: str) -> None:
    class Kill:
        made = 0

        def batch_end(self, info: Any) -> None:
            self.made += 1
            if (int(rank), int(step)) == (RANK, self.made):
                os.kill(os.getpid(), signal.SIGKILL)

    fitted(epochs=1000, callbacks=[Checkpoint(Path(folder) / "training.npz"), Kill()])


def raises() -> None:
    fitted()
    if RANK == SIZE - 1:
        raise OSError("not in fit")
    fitted()


def trains_by_the_command_line() -> None:
    """Files of which each rank reads its share, and one that all read whole; each epoch has one batch of all rows."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(COMM.bcast(folder, 0))
        if RANK == 0:
            write_tables(folder)
        COMM.Barrier()
        options = ["--quiet", "--epochs", "3", "--hidden", "8", "--validation-fraction", "0", "--seed", "3"]
        sources = ["data.npz", "idx", *(["data.parquet"] if (folder / "data.parquet").exists() else [])]
        for source in sources:
            data, found = str(folder / source), []
            models = [str(folder / f"{source}-{each}.npz") for each in "ab"]
            assert (
                cli.main(
                    [
                        "train",
                        data,
                        "--target",
                        "y",
                        *options,
                        "--mpi",
                        "--batch-size",
                        "96",
                        "--output",
                        models[0],
                    ]
                )
                == 0
            )
            if RANK == 0:
                assert (
                    cli.main(
                        [
                            "train",
                            data,
                            "--target",
                            "y",
                            *options,
                            "--batch-size",
                            str(96 * SIZE),
                            "--output",
                            models[1],
                        ]
                    )
                    == 0
                )
                found = [Pipeline.load(model).net.parameters for model in models]
                np.testing.assert_allclose(*found, rtol=1e-3, atol=AS_GOOD_AS_EQUAL)  # float32
            COMM.Barrier()
        if SIZE > 1:
            try:
                status = cli.main(["train", data if RANK else "none.npz", *options, "--mpi"])
            except SystemExit as end:
                status = end.code
            assert status == (1 if RANK else 2)
        COMM.Barrier()


def write_tables(folder: Path) -> None:
    """96 rows in three formats."""
    x, y = X[:96], LABELS[:96]
    np.savez(folder / "data.npz", X=x, y=y)
    (folder / "idx").mkdir()
    images = np.clip(40 * x + 128, 0, 255).astype(np.uint8)
    header = bytes([0, 0, 8, 2]) + len(x).to_bytes(4, "big") + x.shape[1].to_bytes(4, "big")
    (folder / "idx" / "train-images-idx2-ubyte").write_bytes(header + images.tobytes())
    header = bytes([0, 0, 8, 1]) + len(y).to_bytes(4, "big")
    (folder / "idx" / "train-labels-idx1-ubyte").write_bytes(header + y.astype(np.uint8).tobytes())
    with contextlib.suppress(ModuleNotFoundError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {f"x{i}": x[:, i] for i in range(x.shape[1])} | {"y": y}
        pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=20)


def goes_well() -> None:
    for case in (
        is_one_process, is_reproducible, tells_who_failed, tells_who_diverged, stops_by_an_interrupt, goes_on,
        trains_by_the_command_line,
    ):  # fmt: skip
        case()
    print(f"rank {RANK} is well")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
