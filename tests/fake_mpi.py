"""Communicators of threads, with the methods of mpi4py that training needs. Collective calls meet in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

PATIENCE = 60.0  # seconds after which a test fails instead of waiting


class World:
    """What the ranks of one communicator share."""

    def __init__(self, size: int) -> None:
        self.size, self.lock, self.calls = (
            size,
            threading.Condition(),
            {},
        )  # calls: number -> what each rank gave
        self.copy: World | None = None  # the duplicate


class Request:
    """A call of one rank, which is over when all have made it; `read` takes what they gave."""

    def __init__(self, world: World, number: int, read: Callable[[list[Any]], None]) -> None:
        self._world, self._number, self._read, self._done = world, number, read, False

    def Test(self) -> bool:
        with self._world.lock:
            if not self._done and not self._all_came():
                self._world.lock.wait(0.01)  # or this thread keeps the others from coming
            if not self._done and self._all_came():
                self._read(self._world.calls[self._number])
                self._done = True
        return self._done

    def Wait(self) -> None:
        with self._world.lock:
            assert self._done or self._world.lock.wait_for(self._all_came, PATIENCE), "a rank waits for ever"
        self.Test()

    def _all_came(self) -> bool:
        return all(each is not None for each in self._world.calls[self._number])


class Comm:
    """That of one rank, whose sums are a little `astray` if asked for."""

    def __init__(self, world: World, rank: int, astray: bool = False) -> None:
        self._world, self._rank, self._number, self.astray = world, rank, 0, astray

    def Dup(self) -> Comm:
        with self._world.lock:
            self._world.copy = self._world.copy or World(self._world.size)
        return type(self)(self._world.copy, self._rank, self.astray)

    def Get_rank(self) -> int:
        return self._rank

    def Get_size(self) -> int:
        return self._world.size

    def _call(self, given: Any, read: Callable[[list[Any]], None]) -> Request:
        world, number = self._world, self._number
        self._number += 1
        with world.lock:
            world.calls.setdefault(number, [None] * world.size)[self._rank] = given
            world.lock.notify_all()
        return Request(world, number, read)

    def Iallreduce(self, source: np.ndarray, target: np.ndarray) -> Request:
        def read(given: list[np.ndarray]) -> None:
            assert len({(each.dtype, each.shape) for each in given}) == 1, (
                "the ranks do not make the same call"
            )
            target[...] = sum(given[1:], given[0])
            if self.astray and target.dtype.kind == "f":  # in the last bit, but for counts
                target[...] = np.where(target == np.round(target), target, np.nextafter(target, np.inf))

        return self._call(source.copy(), read)

    def Ialltoall(self, source: np.ndarray, target: np.ndarray) -> Request:
        return self._call(
            source.copy(), lambda given: np.copyto(target, [each[self._rank] for each in given])
        )

    def Iallgather(self, source: np.ndarray, target: np.ndarray) -> Request:
        return self._call(source.copy(), lambda given: np.copyto(target, given))

    def Bcast(self, array: np.ndarray, root: int) -> None:
        self._call(array.copy(), lambda given: np.copyto(array, given[root])).Wait()


class Blocking(Comm):
    """One that knows no operation under way."""

    Iallreduce = Ialltoall = Iallgather = property()  # type: ignore[assignment]

    def Allreduce(self, source: np.ndarray, target: np.ndarray) -> None:
        Comm.Iallreduce(self, source, target).Wait()


def together(
    size: int, work: Callable[[Any, int], Any], kind: type[Comm] = Comm, astray: int = -1
) -> list[Any]:
    """What work(comm, rank) returns on each of so many ranks, or the exception that it raises."""
    world, results = World(size), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(kind(world, rank, rank == astray), rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a rank waits for ever"
    return results
