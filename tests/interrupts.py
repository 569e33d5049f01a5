"""Interrupts as they come: by a signal, at any place of what runs.

One signal is not enough. Python drops what a handler raises while an object is being deleted, and tells `sys.unraisablehook`; and
where another thread was given the signal, Python up to 3.11 calls the handler no sooner than the main thread has let go of the
GIL, which a loop need not do. So signals go on until one has raised what comes out.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")

EVERY = 0.01  # seconds


class Interrupt(BaseException):
    """What the handler raises."""


@contextlib.contextmanager
def raising(error: type[BaseException]) -> Iterator[Callable[[float], None]]:
    """Gives a function after whose call it takes so many seconds until `error` is raised, in whatever runs then; 0 is never."""
    wanted = False

    def handler(number: int, frame: object) -> None:
        nonlocal wanted
        if wanted:
            wanted = False
            raise error

    def dropped(what: Any) -> None:
        nonlocal wanted
        if what.exc_type is error:
            wanted = True  # the last thing: what is raised in here is lost
        else:
            hook(what)

    def send(seconds: float) -> None:
        nonlocal wanted
        wanted = seconds > 0
        signal.setitimer(signal.ITIMER_REAL, seconds, EVERY)

    before, hook = signal.signal(signal.SIGALRM, handler), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield send
    finally:
        send(0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def interrupt(times: int, work: Callable[[], object], seed: int = 0) -> None:
    """Run `work`, again and again, so often until an interrupt."""
    delay = random.Random(seed)
    with raising(Interrupt) as send:
        for _ in range(times):
            try:
                send(delay.uniform(1e-5, 1e-3))
                while True:
                    work()
            except Interrupt:
                pass
