"""Processes that train one network together, each on its own examples.

``net.fit(X_shard, y_shard, ..., comm=MPI.COMM_WORLD)`` in each of them, started as ``mpiexec -n 4 python -m mpi4py train.py``:
see docs/cluster.md.
fastbp imports no MPI. It calls the communicator it is handed, by its buffer methods alone.

Terms: rank, the number of a process; shard, the examples of a rank.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any

import numpy as np

from fastbp import _checks

__all__ = ["Communicator", "RankError"]

_SPIN = 1e-2  # seconds of waiting without a pause, then for a twentieth of what has been waited so far
_GRACE = 5.0  # seconds in which ranks that wait as well can say so, when the time is over
_TAG = 32191  # of what they say


class RankError(RuntimeError):
    """Another rank has failed.

    Attributes
    ----------
    rank : int
        The lowest one that has.
    """

    rank: int

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(f"rank {rank}: {text}")
        self.rank = rank


class Communicator:
    """A communicator as :meth:`fastbp.MLP.fit` uses it, for what is to be said beside it.

    Parameters
    ----------
    comm : communicator of mpi4py, or an object with its methods
        ``Dup``, ``Get_rank``, ``Get_size``, ``Bcast``, and ``Iallreduce`` or ``Allreduce`` on buffers. It is duplicated once,
        here, by all its ranks, so that no message of ours meets one of yours.
    reproducible : bool, default False
        Add gradients in an order of our own: the same bits from run to run for the same number of ranks, whatever algorithm the
        MPI chooses, and on all ranks. It needs ``Ialltoall`` and ``Iallgather``. A sum then sends as many bytes as the best
        algorithm does, in two operations with an addition between them, and nothing is computed meanwhile.
    timeout : float > 0 or None, default 600
        Seconds that a rank waits for the others, before it raises a :class:`TimeoutError` that says which ones did not come;
        None: for ever.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.

    Examples
    --------
    On a single process nothing is sent. With four, each of them runs this:

    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> comm = fastbp.mpi.Communicator(MPI.COMM_WORLD, reproducible=True)  # doctest: +SKIP
    >>> history = net.fit(X[comm.rank :: comm.size], y[comm.rank :: comm.size], comm=comm)  # doctest: +SKIP
    """

    def __init__(self, comm: Any, *, reproducible: bool = False, timeout: float | None = 600.0) -> None:
        self.reproducible = _checks.flag("reproducible", reproducible)
        _checks.ranks.communicator("comm", comm, self.reproducible)
        self.timeout = math.inf if timeout is None else _checks.number("timeout", timeout, _checks.POSITIVE)
        self.waited = 0.0
        """Seconds that this rank has waited for others, for sums included."""
        self._comm, self.rank, self.size = comm, int(comm.Get_rank()), int(comm.Get_size())
        self._comm = self._duplicate()
        # MPI's own word for "where it stands", without an import of it
        self._in_place = getattr(sys.modules.get(type(self._comm).__module__), "IN_PLACE", None)

    def free(self) -> None:
        """Give the duplicate back."""
        getattr(self._comm, "Free", lambda: None)()

    # -- what training is made of ------------------------------------------------------------------------------

    def begin_sum(self, vector: np.ndarray) -> Any:
        """Begin to add up a contiguous vector over all ranks, in its place; for :meth:`wait`."""
        if self.reproducible:
            self._sum_in_order(vector)
            return None
        source = vector.copy() if self._in_place is None else self._in_place
        if hasattr(self._comm, "Iallreduce"):
            return self._comm.Iallreduce(source, vector), source
        self._comm.Allreduce(source, vector)
        return None

    def wait(self, pending: Any) -> None:
        """Wait for a sum."""
        if pending is not None:
            self._wait_for(pending[0])

    def go_on(self, pending: Any) -> None:
        """Let MPI move what is on its way: many do so within their calls alone."""
        if pending is not None:
            pending[0].Test()

    def total(self, values: Any) -> np.ndarray:
        """A sum of few numbers over all ranks, of the same bits on all of them."""
        summed = np.array(values, np.float64)
        self.wait(self.begin_sum(summed.reshape(-1)))
        self._broadcast(summed, 0)
        return summed

    def table(self, row: Any) -> np.ndarray:
        """Integers of each rank, a row each."""
        rows = np.zeros((self.size, len(row)), np.int64)
        rows[self.rank] = row
        self.wait(self.begin_sum(rows.reshape(-1)))
        return rows

    def text(self, root: int, text: str) -> str:
        """What rank `root` has to say."""
        letters = np.frombuffer(text.encode(), np.uint8).copy()
        length = int(self.table([len(letters)])[root, 0])
        if self.rank != root:
            letters = np.zeros(length, np.uint8)
        self._broadcast(letters, root)
        return letters.tobytes().decode()

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        if hasattr(self._comm, "Ibcast"):  # which can be waited for like the sums
            self._wait_for(self._comm.Ibcast(array, root))
        else:
            self._comm.Bcast(array, root)

    # -- in an order of our own --------------------------------------------------------------------------------

    def _sum_in_order(self, vector: np.ndarray) -> None:
        """Rank r adds up block r of all ranks, in pairs of their numbers, and everybody gets all blocks."""
        length = -(-len(vector) // self.size)
        mine, all_of_one = (np.zeros((self.size, length), vector.dtype) for _ in range(2))
        mine.reshape(-1)[: len(vector)] = vector
        self._wait_for(self._comm.Ialltoall(mine, all_of_one))
        n = self.size
        while n > 1:
            half = (n + 1) // 2
            all_of_one[: n - half] += all_of_one[half:n]
            n = half
        self._wait_for(self._comm.Iallgather(all_of_one[0], mine))
        vector[:] = mine.reshape(-1)[: len(vector)]

    def _duplicate(self) -> Any:
        if not hasattr(self._comm, "Idup"):
            return self._comm.Dup()
        duplicate, request = self._comm.Idup()
        self._wait_for(request)
        return duplicate

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wait_for(self, request: Any) -> None:
        start = time.perf_counter()
        if self.timeout == math.inf:
            request.Wait()
        else:
            self._wait_until(request, start, start + self.timeout)
        self.waited += time.perf_counter() - start

    def _wait_until(self, request: Any, start: float, end: float) -> None:
        """Wait as MPI does, by asking again and again, but not for ever, and with a pause from time to time."""
        while not request.Test():
            now = time.perf_counter()
            if now > end or (now - start > _SPIN and self._others_gave_up()):
                raise TimeoutError(self._who_did_not_come())
            if now - start > _SPIN:
                time.sleep(min((now - start) / 20, 0.05))
            else:
                os.sched_yield()  # to a rank that has come to the same core

    def _others_gave_up(self) -> bool:
        return hasattr(self._comm, "Iprobe") and bool(self._comm.Iprobe(tag=_TAG))

    def _who_did_not_come(self) -> str:
        """Say to all that this rank waits, and listen which ones do as well."""
        text = (
            f"comm: got no answer within {self.timeout:.3g} s from {{}} of {self.size}, expected all of them"
        )
        if not all(hasattr(self._comm, name) for name in ("Isend", "Irecv", "Iprobe")):
            return text.format("some")
        others = [rank for rank in range(self.size) if rank != self.rank]
        heard = {rank: np.zeros(1, np.int64) for rank in others}
        asked = {rank: self._comm.Irecv(word, rank, _TAG) for rank, word in heard.items()}
        said = [self._comm.Isend(np.ones(1, np.int64), rank, _TAG) for rank in others]
        silent, end = set(others), time.perf_counter() + min(_GRACE, self.timeout)
        while silent and time.perf_counter() < end:
            silent -= {rank for rank in silent if asked[rank].Test()}
            time.sleep(0.01)
        del said
        names = ", ".join(map(str, sorted(silent))) or "nobody in particular"
        return text.format(f"rank {names}" if len(silent) < 2 else f"ranks {names}")
