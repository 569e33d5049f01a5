"""The errors that the checks and the kernels share. Nothing here imports anything of the package."""

from __future__ import annotations


class TargetIndexError(IndexError, ValueError):
    """A class index among the targets is outside the range of the classes."""

    __module__ = "fastbp"


def gone_astray(n_classes: int) -> TargetIndexError:
    """The error of a label that was in range when it was checked, and is not when a kernel reads it."""
    return TargetIndexError(
        f"targets: got a class index that left [0, {n_classes}) during the call, "
        "expected targets that nothing else changes meanwhile"
    )
