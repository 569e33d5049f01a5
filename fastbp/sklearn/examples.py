"""The examples of a fit or a prediction: an array, or a sparse matrix of which some rows at a time become one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from fastbp.model import MLP

_MOST_BYTES = 64 * 2**20  # that rows of a sparse matrix take when they are dense


def rows_of(x: Any, dtype: np.dtype) -> Any:
    """`x` as rows that an engine takes: an array in C order, or CSR."""
    return x.tocsr().astype(dtype, copy=False) if sparse.issparse(x) else np.ascontiguousarray(x, dtype)


def runs(x: Any, count: int, batch_size: int) -> Iterator[slice]:
    """`count` rows, cut at batches: all at once if `x` is an array, else as many as may be dense at a time."""
    step = max(count, 1)
    if sparse.issparse(x):
        step = max(1, _MOST_BYTES // (batch_size * x.shape[1] * x.dtype.itemsize)) * batch_size
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def dense(x: Any, rows: Any) -> np.ndarray:
    """These rows of a sparse matrix."""
    return np.ascontiguousarray(x[rows].toarray())


def logits(net: MLP, x: Any) -> np.ndarray:
    """The linear outputs (N, C) of a network at finite examples of the right width."""
    if not sparse.issparse(x):
        return net.logits(x)
    x = rows_of(x, net.dtype)
    parts = [net.logits(dense(x, run)) for run in runs(x, x.shape[0], 1)]
    return np.concatenate(parts) if parts else np.empty((0, net.layer_sizes[-1]), net.dtype)
