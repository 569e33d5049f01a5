"""Children of a fork, which neither go on as a second test run nor are waited for without end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds that a child has


def fork(check: Callable[[], object]) -> int:
    """The process that does no more than to see whether check() holds."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """0 where the check held, 1 where it did not, 2 where it raised; -9 where it took too long."""
    limit = time.monotonic() + PATIENCE
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
