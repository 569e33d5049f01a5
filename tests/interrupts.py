"""Interrupts as they come: by a signal, at any place of what runs."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
from collections.abc import Callable, Iterator

import pytest

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")


class Interrupt(BaseException):
    """What the handler raises."""


def raise_interrupt(signum: int, frame: object) -> None:
    raise Interrupt


AGAIN = (
    10.0  # seconds after which a signal is sent once more, in case that what its handler raised was dropped
)


@contextlib.contextmanager
def on_alarm(handler: Callable[[int, object], object]) -> Iterator[None]:
    """SIGALRM calls `handler`. No garbage is collected: Python drops what a handler raises in a finalizer."""
    collects, before = gc.isenabled(), signal.signal(signal.SIGALRM, handler)
    gc.disable()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if collects:
            gc.enable()


def alarm_after(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)


def interrupt(times: int, work: Callable[[], object]) -> None:
    """Run `work`, again and again, so often until an interrupt."""
    delay = random.Random(0)
    with on_alarm(raise_interrupt):
        for _ in range(times):
            try:
                alarm_after(delay.uniform(1e-5, 1e-3))
                while True:
                    work()
            except Interrupt:
                pass
