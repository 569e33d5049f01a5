"""Arrays, columns and tables of other libraries, by what they are called in docs/arrays.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

F64 = np.float64


# The smallest object of each protocol -----------------------------------------------------------------------


class Interface:
    def __init__(self, a: np.ndarray) -> None:
        self.__array_interface__ = a.__array_interface__
        self.a = a


class Array:
    def __init__(self, a: np.ndarray) -> None:
        self.a = a

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.a


class DLPack:
    """It can be counted and indexed as well, by which NumPy would take it for a sequence."""

    device = (1, 0)

    def __init__(self, a: np.ndarray) -> None:
        self.a = a

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, i: int) -> Any:
        return self.a[i]

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class OnAnotherDevice(DLPack, Array):
    """Its numbers would come along, were it asked for them."""

    device = (2, 0)


class Cuda(Array):
    __cuda_array_interface__ = None


def memory(given: Any) -> np.ndarray:
    """The array that a library itself makes of `given`: the same memory each time only if it is that of `given`."""
    return np.from_dlpack(given) if isinstance(given, DLPack) else np.asarray(given)


# What there is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How an array of NumPy becomes one of a library."""

    make: Callable[..., Any]
    library: str = "numpy"
    column: bool = False
    labels: bool = True
    """Whether it can hold class indices."""

    def of(self, a: np.ndarray) -> Any:
        return self.make(pytest.importorskip(self.library), a)


def columns(a: np.ndarray) -> dict[str, np.ndarray]:
    return {f"column {j}": a[:, j].copy() for j in range(a.shape[1])}


def _gap(a: np.ndarray) -> list[Any]:
    return [*a[:-1].tolist(), None]


def _nullable(pandas: Any, values: Any, like: np.ndarray | None = None) -> Any:
    """A column of a nullable dtype, with a mask."""
    a = values if like is None else like
    return pandas.Series(values, dtype={"f": "Float32", "i": "Int64"}[a.dtype.kind])


def _of_arrow(pandas: Any, a: np.ndarray) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pandas.Series(pandas.arrays.ArrowExtensionArray(pyarrow.array(a)))


def _nullable_table(pandas: Any, a: np.ndarray) -> Any:
    return pandas.DataFrame({name: _nullable(pandas, column) for name, column in columns(a).items()})


KINDS = {
    "`numpy.ndarray`, rows any distance apart": Kind(lambda np, a: np.repeat(a, 2, axis=0)[::2]),
    "`numpy.ndarray`, columns apart, or in Fortran order": Kind(
        lambda np, a: np.repeat(a, 2, axis=-1)[..., ::2]
    ),
    "`numpy.ndarray` of the other byte order": Kind(lambda np, a: a.astype(a.dtype.newbyteorder())),
    "`numpy.matrix`, `numpy.memmap`, any other subclass": Kind(lambda np, a: a.view(np.matrix), labels=False),
    "`numpy.ma.MaskedArray`": Kind(lambda np, a: np.ma.masked_array(a)),
    "float16, also longdouble": Kind(lambda np, a: a.astype(np.float16), labels=False),
    "bfloat16 and its like (ml_dtypes)": Kind(
        lambda kinds, a: a.astype(kinds.bfloat16), "ml_dtypes", labels=False
    ),
    "integers": Kind(lambda np, a: a.astype(np.int32)),
    "truth values": Kind(lambda np, a: a.astype(bool)),
    "complex numbers": Kind(lambda np, a: a.astype(np.complex64)),
    "objects, even if they are numbers": Kind(lambda np, a: a.astype(object)),
    "strings": Kind(lambda np, a: a.astype(str)),
    "dates": Kind(lambda np, a: a.astype(np.int64).astype("datetime64[D]")),
    "structured": Kind(lambda np, a: np.zeros(len(a), [("x", np.float32), ("y", np.float32)])),
    "lists of numbers": Kind(lambda np, a: a.tolist()),
    "`array.array`, `memoryview`": Kind(lambda np, a: memoryview(a)),
    "an object with `__array_interface__`": Kind(lambda np, a: Interface(a)),
    "an object with `__array__`": Kind(lambda np, a: Array(a)),
    "an object with `__dlpack__`": Kind(lambda np, a: DLPack(a)),
    "`__dlpack__` on a GPU (CUDA tensors, CuPy, JAX)": Kind(lambda np, a: OnAnotherDevice(a)),
    "`__cuda_array_interface__` (Numba)": Kind(lambda np, a: Cuda(a)),
    "`scipy.sparse`": Kind(lambda sparse, a: sparse.coo_array(a), "scipy.sparse", labels=False),
    "`torch.Tensor`": Kind(lambda torch, a: torch.tensor(a), "torch"),
    "`torch.Tensor`, transposed": Kind(lambda torch, a: torch.tensor(a.T.copy()).T, "torch", labels=False),
    "`torch.Tensor`, `requires_grad`": Kind(
        lambda torch, a: torch.tensor(a, requires_grad=True), "torch", labels=False
    ),
    "`torch.Tensor`, float16": Kind(lambda torch, a: torch.tensor(a).half(), "torch", labels=False),
    "`torch.Tensor`, bfloat16": Kind(lambda torch, a: torch.tensor(a).bfloat16(), "torch", labels=False),
    "`torch.Tensor`, sparse": Kind(lambda torch, a: torch.tensor(a).to_sparse(), "torch", labels=False),
    "`torch.Tensor` on `meta`": Kind(lambda torch, a: torch.tensor(a).to("meta"), "torch"),
    "`jax.Array`": Kind(lambda jnp, a: jnp.asarray(a), "jax.numpy"),
    "`jax.Array`, bfloat16": Kind(lambda jnp, a: jnp.asarray(a, jnp.bfloat16), "jax.numpy", labels=False),
    "`pyarrow.Array`": Kind(lambda arrow, a: arrow.array(a), "pyarrow", True),
    "`pyarrow.ChunkedArray` of one chunk": Kind(lambda arrow, a: arrow.chunked_array([a]), "pyarrow", True),
    "`pyarrow.ChunkedArray` of several": Kind(
        lambda arrow, a: arrow.chunked_array([a[:2], a[2:]]), "pyarrow", True
    ),
    "`pyarrow.Array`, `ChunkedArray` with a null": Kind(
        lambda arrow, a: arrow.array(_gap(a)), "pyarrow", True
    ),
    "`pyarrow.Table`, `RecordBatch`": Kind(lambda arrow, a: arrow.table(columns(a)), "pyarrow", labels=False),
    "`polars.Series`": Kind(lambda polars, a: polars.Series(a), "polars", True),
    "`polars.Series` with a null": Kind(lambda polars, a: polars.Series(_gap(a)), "polars", True),
    "`polars.DataFrame`": Kind(lambda polars, a: polars.DataFrame(columns(a)), "polars", labels=False),
    "`pandas.Series`": Kind(lambda pandas, a: pandas.Series(a), "pandas", True),
    "`pandas.Series`, nullable, nothing missing": Kind(_nullable, "pandas", True),
    "`pandas.Series` of Arrow, nothing missing": Kind(_of_arrow, "pandas", True),
    "`pandas.Series`, nullable or of Arrow, with `NA`": Kind(
        lambda pandas, a: _nullable(pandas, _gap(a), a), "pandas", True
    ),
    "`pandas.Series` of objects": Kind(
        lambda pandas, a: pandas.Series(a.tolist(), dtype=object), "pandas", True
    ),
    "`pandas.DataFrame` around one array": Kind(
        lambda pandas, a: pandas.DataFrame(a, copy=False), "pandas", labels=False
    ),
    "`pandas.DataFrame` of columns": Kind(
        lambda pandas, a: pandas.DataFrame(columns(a)), "pandas", labels=False
    ),
    "`pandas.DataFrame` of nullable columns, nothing missing": Kind(_nullable_table, "pandas", labels=False),
}


# Those of which a function may be given any number ----------------------------------------------------------


def _series_or_table(pandas: Any, a: np.ndarray) -> Any:
    return pandas.Series(a) if a.ndim == 1 else pandas.DataFrame(a)


def _series_or_polars(polars: Any, a: np.ndarray) -> Any:
    return polars.Series(a) if a.ndim == 1 else polars.DataFrame(columns(a))


def _arrow(pyarrow: Any, a: np.ndarray) -> Any:
    return pyarrow.array(a) if a.ndim == 1 else pyarrow.table(columns(a))


def _jax(jnp: Any, a: np.ndarray) -> Any:
    return a if a.dtype == F64 else jnp.asarray(a)  # which has no float64, unless it is told to


TAKEN = {
    "buffer": Kind(lambda np, a: memoryview(a)),
    "interface": Kind(lambda np, a: Interface(a)),
    "array": Kind(lambda np, a: Array(a)),
    "dlpack": Kind(lambda np, a: DLPack(a)),
    "matrix": Kind(lambda np, a: a.view(np.matrix) if a.ndim == 2 else a),
    "torch": Kind(lambda torch, a: torch.tensor(a), "torch"),
    "jax": Kind(_jax, "jax.numpy"),
    "pyarrow": Kind(_arrow, "pyarrow"),
    "polars": Kind(_series_or_polars, "polars"),
    "pandas": Kind(_series_or_table, "pandas"),
}
