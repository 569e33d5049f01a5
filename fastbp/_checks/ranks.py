"""The checks of what processes train together with, and of what they have in all. The decisions are those of `_checks`."""

from __future__ import annotations

from typing import Any

_NEEDED = ("Dup", "Get_rank", "Get_size", "Bcast")
_FOR_AN_ORDER = ("Ialltoall", "Iallgather")


def communicator(name: str, value: Any, reproducible: bool) -> Any:
    """`value`, if it has the methods of a communicator that sums need, in an order of ours if they are to be `reproducible`."""
    missing = [each for each in _NEEDED if not callable(getattr(value, each, None))]
    if not missing and not any(hasattr(value, each) for each in ("Iallreduce", "Allreduce")):
        missing = ["Iallreduce"]
    if reproducible and not missing:
        missing = [each for each in _FOR_AN_ORDER if not hasattr(value, each)]
    if missing:
        got = f"{type(value).__name__} without {', '.join(missing)}"
        raise TypeError(f"{name}: got {got}, expected a communicator as mpi4py.MPI.COMM_WORLD is one")
    return value


def some_examples(name: str, counts: Any) -> None:
    """Refuse ranks none of which has an example."""
    if not counts.any():
        raise ValueError(f"{name}: got no example on any of {len(counts)} ranks, expected some")
