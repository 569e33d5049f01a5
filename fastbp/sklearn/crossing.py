"""Fitted models from scikit-learn's estimators to ours and back."""

from __future__ import annotations

from typing import Any


def from_sklearn(estimator: Any) -> Any:
    raise NotImplementedError


def to_sklearn(estimator: Any) -> Any:
    raise NotImplementedError
