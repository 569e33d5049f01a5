"""The peers: each library as its own users would use it, at its best, in the problem's dtype.

Peers share the problem's arrays where they can. A library is imported when a peer is made. `libraries.py` has what peers
share, `losses.py` and `steps.py` those of error functions and of training steps; those of predictions and whole training
stand beside their contests.
"""

from __future__ import annotations

from collections.abc import Iterable
from ctypes.util import find_library
from importlib.util import find_spec
from typing import Protocol, TypeVar

from fastbp import get_precision

# Instruction sets can not be forced on these: they would not take part on equal terms.
UNBOUND_BY_ISA = ("onnxruntime",)
COMPILES_FOR_LONG = "torch.compile"
OF_BFLOAT16 = "PyTorch autocast"  # which rounds to it: no peer of a higher precision


class Peer(Protocol):
    """What is needed to choose one."""

    name: str
    package: str


AnyPeer = TypeVar("AnyPeer", bound=Peer)


def choose(kinds: Iterable[type[AnyPeer]], names: str, quick: bool, isa: str | None) -> list[type[AnyPeer]]:
    """Return the installed peers named in `names` ("torch,jax": parts of them, or "all"); tell the rest."""
    chosen = []
    for kind in kinds:
        if names != "all" and not any(name in kind.name.lower() for name in names.lower().split(",") if name):
            continue
        if kind.name == OF_BFLOAT16 and get_precision() != "medium":
            continue
        if find_spec(kind.package) is None and find_library(kind.package) is None:
            print(f"{kind.name} is left out: {kind.package} is not installed")
        elif isa and kind.package in UNBOUND_BY_ISA:
            print(f"{kind.name} is left out: it can not be held to {isa}")
        elif names == "all" and quick and kind.name == COMPILES_FOR_LONG:
            print(f"{kind.name} is left out of a quick run: it compiles for long (--peers torch has it)")
        else:
            chosen.append(kind)
    return chosen
