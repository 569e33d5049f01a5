"""Callbacks through scikit-learn's own protocol, which came with its version 1.9; before it there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin as Mixin
    from sklearn.callback import with_callbacks
except ModuleNotFoundError:

    class Mixin:  # type: ignore[no-redef]
        """No callbacks."""

    def with_callbacks(method: Any) -> Any:
        return method


@contextmanager
def around(est: Any, X: Any, y: Any) -> Iterator[Any]:
    """Tell callbacks of a fit; what it gives is put around each epoch, and gives a function that says whether to stop."""
    if not getattr(est, "_skl_callbacks", None):
        yield _nobody
        return
    raise NotImplementedError


@contextmanager
def _nobody(est: Any) -> Iterator[Callable[[], bool]]:
    yield _no


def _no() -> bool:
    return False
