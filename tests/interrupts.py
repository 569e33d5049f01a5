"""Interrupts as they come: by a signal, at any place of what runs."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")


class Interrupt(BaseException):
    """What the handler raises."""


def _interrupt(signum: int, frame: object) -> None:
    raise Interrupt


AGAIN = 10.0  # seconds: Python drops what a handler raises while an object is being deleted, so another signal follows


def interrupt(times: int, work: Callable[[], object]) -> None:
    """Run `work`, again and again, so often until an interrupt."""
    delay, before = random.Random(0), signal.signal(signal.SIGALRM, _interrupt)
    try:
        for _ in range(times):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay.uniform(1e-5, 1e-3), AGAIN)
                while True:
                    work()
            except Interrupt:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
