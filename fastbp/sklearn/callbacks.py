"""Callbacks through scikit-learn's own protocol, which came with its version 1.9; before it there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ModuleNotFoundError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No callbacks."""

    def with_callbacks(method: Any) -> Any:
        """`method` as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Epoch", "around", "untold", "with_callbacks"]

Epoch: TypeAlias = Callable[[], AbstractContextManager[Callable[[], bool]]]
"""What is put around an epoch; it gives a function that tells, after the epoch, whether a callback wants the fit to end."""


@contextmanager
def around(est: Any, X: Any, y: Any, sample_weight: Any) -> Iterator[Epoch]:
    """Tell the callbacks of `est` of a fit and, as its subtasks, of its epochs.

    It stands within `with_callbacks`, which ends what it begins.
    """
    if not (hasattr(est, "_skl_callbacks") or hasattr(est, "_parent_callback_ctx")):
        yield untold
        return
    context = est._init_callback_context(max_subtasks=est.max_iter)
    data = {"estimator": est, "X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
    context.call_on_fit_task_begin(**data)

    @contextmanager
    def epoch() -> Iterator[Callable[[], bool]]:
        of_epoch = context.subcontext(task_name="epoch").call_on_fit_task_begin(**data)
        stops: list[bool] = []
        yield lambda: bool(stops[0])
        stops.append(of_epoch.call_on_fit_task_end(**data, reconstruction_attributes=lambda: _fitted(est)))

    yield epoch
    context.call_on_fit_task_end(**data, reconstruction_attributes=lambda: _fitted(est))


def _fitted(est: Any) -> dict[str, Any]:
    """What an estimator needs to predict as `est` does now."""
    names = ("n_layers_", "n_outputs_", "out_activation_", "classes_", "_label_binarizer", "n_features_in_")
    known = {name: value for name, value in vars(est).items() if name in (*names, "feature_names_in_")}
    copies = {name: [array.copy() for array in getattr(est, name)] for name in ("coefs_", "intercepts_")}
    return known | copies


@contextmanager
def untold() -> Iterator[Callable[[], bool]]:
    """Where there are no callbacks."""
    yield lambda: False
