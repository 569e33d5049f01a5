"""The processes of one command that mpiexec has started: which rows each of them trains on, and which one speaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fastbp.data.errors import extra
from fastbp.mpi import RankError

T = TypeVar("T")


class Alone:
    """This process alone."""

    rank, size = 0, 1
    comm: Any = None

    def range(self, n: int) -> range:
        """The numbers that this process takes of the first n."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def share(self, rows: np.ndarray, n: int) -> np.ndarray:
        """Those of some rows of a table of n that this process takes."""
        own = self.range(n)
        return rows[(rows >= own.start) & (rows < own.stop)]

    def alike(self, work: Callable[[], T]) -> T:
        """What `work` returns."""
        return work()

    def told(self, what: T) -> T:
        """What the first process has."""
        return what


class Processes(Alone):
    """All those of MPI's world."""

    def __init__(self) -> None:
        self.comm = extra("mpi4py.MPI", "mpi", "--mpi").COMM_WORLD
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def alike(self, work: Callable[[], T]) -> T:
        """What `work` returns. An error of any process ends all of them; the first one that has one of its own tells it."""
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        own = self.comm.allgather(0 if error is None else 1 if isinstance(error, RankError) else 2)
        if not any(own):
            return result
        if error is not None and own.index(max(own)) == self.rank:
            raise error
        raise SystemExit(1)

    def told(self, what: T) -> T:
        told: T = self.comm.bcast(what, 0)
        return told
