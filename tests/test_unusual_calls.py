"""Unusual calls that are good: inputs of every layout, one number for many, empty batches, scalars, many axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from good_calls import (
    ELEMENTWISE,
    F32,
    F64,
    GOOD,
    INPUTS,
    LAYOUTS,
    LOSSES,
    MAPS,
    OUTPUTS,
    answer,
    backwards,
    fortran,
    read_only,
    refused,
    same,
    strided,
    subclass,
    values,
    with_gaps,
    zeros,
)

import fastbp
from fastbp import _backend

pytestmark = pytest.mark.usefixtures("backend")


# Inputs of every layout -------------------------------------------------------------------------------------


@pytest.fixture
def contract(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array that a kernel is handed is one that it can address."""
    kernels = _backend.kernels

    class Strict:
        def __getattr__(self, name: str) -> Any:
            if name == "softmax_cross_entropy_at_once":  # is handed whatever came, and looks at it itself
                return getattr(kernels, name)

            def call(*args: Any) -> Any:
                for a in (arg for arg in args if isinstance(arg, np.ndarray)):
                    assert a.dtype in (np.dtype(F32), np.dtype(F64), np.dtype(np.int64))
                    assert a.flags.aligned
                    rows = a.strides[-1] == a.itemsize or a.shape[-1] == 1
                    # any strides: a layer's weights, and their gradient, which is laid out like them
                    assert rows or (name.startswith("linear") and a.shape == args[1].shape)
                return getattr(kernels, name)(*args)

            return call

    monkeypatch.setattr(_backend, "kernels", Strict())


@pytest.mark.usefixtures("contract")
@pytest.mark.parametrize(("case", "name"), INPUTS)
def test_an_input_of_any_layout_works(case: str, name: str) -> None:
    call = GOOD[case]
    for layout in LAYOUTS:
        given = layout(call.arguments[name])
        before = given.tobytes()
        same(answer(call, call.changed(**{name: given})), answer(call, call.changed()))
        assert given.tobytes() == before


@pytest.mark.parametrize(("case", "name"), INPUTS)
def test_a_memory_map_works(case: str, name: str, tmp_path: Path) -> None:
    call = GOOD[case]
    value = call.arguments[name]
    value.tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", value.dtype, "r", shape=value.shape)
    same(answer(call, call.changed(**{name: mapped})), answer(call, call.changed()))


@pytest.mark.parametrize(("case", "name"), OUTPUTS)
def test_a_memory_map_can_be_written(case: str, name: str, tmp_path: Path) -> None:
    call = GOOD[case]
    value = call.arguments[name]
    value.tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", value.dtype, "r+", shape=value.shape)
    same(answer(call, call.changed(**{name: mapped})), answer(call, call.changed()))
    mapped.flush()
    usual = call.changed()
    call.function(**usual)
    assert (tmp_path / "numbers").read_bytes() == usual[name].tobytes()


@pytest.mark.parametrize("layout", [read_only, backwards, with_gaps, subclass])
def test_rows_are_not_copied(layout: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel can read where it stands arrives there."""
    seen: list[Any] = []

    def record(*args: Any) -> tuple[float, float]:
        seen.extend(args)
        return 0.0, 0.0

    recorder = SimpleNamespace(
        elementwise_error=record, linear=record, max_threads=lambda: 1, new_array=np.empty
    )
    monkeypatch.setattr(_backend, "kernels", recorder)
    monkeypatch.setattr(_backend, "name", "reference")
    outputs, targets, weight = layout(values(3, 4)), layout(values(3, 4)), layout(values(4, 2)).T.copy().T
    fastbp.squared_error(outputs, targets)
    assert np.shares_memory(seen[0], outputs)
    assert np.shares_memory(seen[1], targets)
    seen.clear()
    fastbp.linear(outputs, weight)
    assert np.shares_memory(seen[0], outputs)
    assert np.shares_memory(seen[1], weight)  # a transposed one


# Unusual calls that are good --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_a_vector_is_examples_of_one_output(case: str) -> None:
    function = getattr(fastbp, case)
    x, t, w = values(5), values(5)[::-1], values(5)
    for reduction in ("mean", "sum", "none"):
        loss, grad, weight_sum = function(strided(x), t, sample_weight=w, reduction=reduction)
        expected = function(x[:, None], t[:, None], sample_weight=w, reduction=reduction)
        same([np.array(loss), grad[:, None], np.array(weight_sum)], [np.array(part) for part in expected])


@pytest.mark.parametrize("case", ELEMENTWISE)
def test_one_number_is_the_target_of_all(case: str) -> None:
    call = GOOD[case]
    for target in (1, 0.5, True, F32(2.0), np.array(3)):
        full = np.full((3, 4), target, F32)
        same(answer(call, call.changed(targets=target)), answer(call, call.changed(targets=full)))


@pytest.mark.parametrize(
    "case", [case for case in LOSSES if case != "softmax_cross_entropy"] + ["softmax_cross_entropy of rows"]
)
def test_rows_of_targets_are_cast(case: str) -> None:
    call = GOOD[case]
    targets = np.eye(3, 4)
    expected = answer(call, call.changed(targets=targets.astype(F32)))
    for kind in ("bool", "u1", "i8", "f2", "f8", "g"):
        same(answer(call, call.changed(targets=targets.astype(kind))), expected)


def test_one_number_weighs_all_positives() -> None:
    call = GOOD["sigmoid_cross_entropy"]
    same(answer(call, call.changed(pos_weight=2)), answer(call, call.changed(pos_weight=[2, 2, 2, 2])))


def test_lists_are_arrays_of_float64() -> None:
    loss, grad, weight_sum = fastbp.softmax_cross_entropy([[0.0, 0.0]], [1])
    assert (type(loss), grad.dtype, type(weight_sum)) == (np.float64, np.dtype(F64), float)


def test_the_loss_is_a_scalar_of_the_dtype(dtype: type[np.floating]) -> None:
    loss, grad, weight_sum = fastbp.squared_error(zeros(3, 4, dtype=dtype), 1)
    assert (type(loss), grad.dtype, type(weight_sum)) == (dtype, np.dtype(dtype), float)
    losses = fastbp.squared_error(zeros(3, 4, dtype=dtype), 1, reduction="none").loss
    assert (losses.dtype, losses.tolist()) == (np.dtype(dtype), [2.0, 2.0, 2.0])


@pytest.mark.filterwarnings("error")
def test_a_sum_beyond_float32_is_infinite_without_a_warning() -> None:
    loss, grad, _ = fastbp.softmax_cross_entropy(F32([[3e38, 0.0]] * 4), [1, 1, 1, 1], reduction="sum")
    assert (type(loss), loss) == (F32, np.inf)
    assert grad.tolist() == [[1.0, -1.0]] * 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("targets", [[], np.zeros(0, int), np.zeros((0, 4))], ids=["list", "indices", "rows"])
def test_an_empty_batch(case: str, targets: Any) -> None:
    function = getattr(fastbp, case)
    if case != "softmax_cross_entropy":
        targets = np.zeros((0, 4))
    for reduction, expected in (("mean", "nan"), ("sum", "0.0"), ("none", "[]")):
        loss, grad, weight_sum = function(zeros(0, 4), targets, reduction=reduction)
        assert (str(np.array(loss).tolist()), grad.shape, weight_sum) == (expected, (0, 4), 0.0)


@pytest.mark.parametrize("name", MAPS)
def test_arrays_of_any_number_of_axes(name: str) -> None:
    function = getattr(fastbp, name)
    x = values(2, 3, 4)
    expected = function(x.reshape(6, 4)).reshape(2, 3, 4)
    for given in (x, fortran(x), strided(x), with_gaps(x)):
        np.testing.assert_array_equal(function(given), expected)
    assert function(x, out=x) is x
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(function(values(4)), function(values(1, 4))[0])
    assert function(zeros(2, 0, 4)).shape == (2, 0, 4)
    assert function(zeros(2, 3, 0)).shape == (2, 3, 0)


@pytest.mark.parametrize("name", [name for name in MAPS if "softmax" not in name])
def test_a_scalar_gives_a_scalar(name: str) -> None:
    function = getattr(fastbp, name)
    y = function(F32(0.5))
    assert (type(y), y) == (F32, function(F32([0.5]))[0])
    assert type(function(0.5)) is F64
    out = zeros()
    assert function(F32(0.5), out=out) is out
    assert out == y


def test_logsumexp_drops_the_last_axis() -> None:
    x = values(2, 3, 4)
    y = fastbp.logsumexp(x)
    assert (y.shape, y.dtype) == ((2, 3), np.dtype(F32))
    np.testing.assert_array_equal(fastbp.logsumexp(fortran(x)), y)
    assert type(fastbp.logsumexp(x[0, 0])) is F32
    assert fastbp.logsumexp(x[0, 0]) == y[0, 0]
    assert fastbp.logsumexp(zeros(2, 0)).tolist() == [-np.inf, -np.inf]


def test_backward_of_scalars_and_of_many_axes() -> None:
    assert type(fastbp.activation_backward("relu", 2.0, 1.0)) is F64
    grad, y = values(2, 3, 4), values(2, 3, 4)[::-1]
    for function in (fastbp.softmax_backward, lambda g, a: fastbp.activation_backward("silu", g, a)):
        flat = function(grad.reshape(6, 4), y.reshape(6, 4))
        np.testing.assert_array_equal(function(grad, y), flat.reshape(2, 3, 4))


def test_the_slope_of_the_identity_needs_nothing() -> None:
    delta, weight = values(3, 2), values(4, 2)
    expected = fastbp.linear_backward_input(delta, weight)
    np.testing.assert_array_equal(fastbp.linear_backward_input(delta, weight, a=zeros(3, 4)), expected)
    refused(
        ValueError,
        "a: got shape (3, 2), expected (3, 4), one row for each row of delta",
        fastbp.linear_backward_input,
        delta=delta,
        weight=weight,
        a=delta,
    )


@pytest.mark.parametrize("count", [1, 2, np.int64(3), 10**12, 2**70])
def test_any_number_of_threads_gives_the_same(count: int) -> None:
    for call in GOOD.values():
        same(answer(call, call.changed(n_threads=count)), answer(call, call.changed()))


# Tables and columns of other libraries ----------------------------------------------------------------------

TABLE = np.array(
    [[1.5, 0.0], [-2.0, 1.0], [0.25, 1.0]]
)  # the second column is one of integers, or of truth values


def tables() -> dict[str, Callable[[], Any]]:
    """The same numbers, in columns of many dtypes."""

    def of_pandas(first: str, second: str) -> Callable[[], Any]:
        def table() -> Any:
            pandas = pytest.importorskip("pandas")
            if "pyarrow" in first + second:
                pytest.importorskip("pyarrow")
            a, b = TABLE[:, 0].tolist(), TABLE[:, 1].astype(bool if "bool" in second else int).tolist()
            return pandas.DataFrame({"a": pandas.Series(a, dtype=first), "b": pandas.Series(b, dtype=second)})

        return table

    def of_polars() -> Any:
        polars = pytest.importorskip("polars")
        return polars.DataFrame({"a": TABLE[:, 0], "b": TABLE[:, 1] > 0})

    def of_arrow() -> Any:
        return pytest.importorskip("pyarrow").table({"a": TABLE[:, 0], "b": TABLE[:, 1] > 0})

    pairs = [("float64", "bool"), ("float64", "Int64"), ("Float64", "Float64"), ("Float32", "boolean")]
    pairs += [
        ("double[pyarrow]", "double[pyarrow]"),
        ("float[pyarrow]", "int64[pyarrow]"),
        ("double[pyarrow]", "bool[pyarrow]"),
    ]
    pandas = {f"pandas {first}, {second}": of_pandas(first, second) for first, second in pairs}
    return {**pandas, "polars": of_polars, "pyarrow": of_arrow}


@pytest.mark.parametrize("kind", tables())
def test_a_table_of_real_numbers_is_taken_as_an_array(kind: str) -> None:
    table = tables()[kind]()
    net = fastbp.MLP([2, 3], seed=0, dtype="float64")
    np.testing.assert_array_equal(net.logits(table), net.logits(TABLE))
    regression = fastbp.MLP([2, 2], loss="squared_error", seed=0, dtype="float64")
    assert regression.loss(TABLE, table) == regression.loss(TABLE, TABLE)
    outputs = values(3, 2, dtype=F64)
    assert fastbp.squared_error(outputs, table).loss == fastbp.squared_error(outputs, TABLE).loss
    error = fastbp.softmax_cross_entropy
    assert (
        error(outputs, [0, 1, 0], sample_weight=table_column(table)).loss
        == error(outputs, [0, 1, 0], sample_weight=TABLE[:, 1]).loss
    )


def table_column(table: Any) -> Any:
    """The second column, whatever library the table is of."""
    return table["b"]


@pytest.mark.parametrize(
    "kind",
    [
        "bool",
        "boolean",
        "bool[pyarrow]",
        "Int8",
        "int64[pyarrow]",
        "category",
        "polars",
        "pyarrow",
        "list",
    ],
)
def test_a_column_of_integers_or_truth_values_is_one_of_labels(kind: str) -> None:
    labels = [True, False, True] if "bool" in kind or kind in ("polars", "pyarrow", "list") else [1, 0, 1]
    if kind == "list":
        column: Any = labels
    elif kind == "polars":
        column = pytest.importorskip("polars").Series(labels)
    elif kind == "pyarrow":
        column = pytest.importorskip("pyarrow").array(labels)
    else:
        pandas = pytest.importorskip("pandas")
        if "pyarrow" in kind:
            pytest.importorskip("pyarrow")
        column = pandas.Series(labels, dtype=kind)
    net, x = fastbp.MLP([2, 2], seed=0), values(3, 2)
    assert net.loss(x, column) == net.loss(x, [1, 0, 1])
    assert fastbp.softmax_cross_entropy(x, column).loss == fastbp.softmax_cross_entropy(x, [1, 0, 1]).loss
    assert net.step(x, column, fastbp.SGD()) == fastbp.MLP([2, 2], seed=0).step(
        x, np.array([1, 0, 1]), fastbp.SGD()
    )


@pytest.mark.parametrize("kind", ["Float64", "Int64", "boolean", "double[pyarrow]"])
def test_a_missing_value_is_named_by_its_place(kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
    table = pandas.DataFrame({"a": [0.5, 1.0], "b": pandas.Series([1, None], dtype=kind)})
    message = "x: got a missing value at [1, 1], expected none (fill or drop what is missing)"
    refused(TypeError, message, fastbp.MLP([2, 2], seed=0).logits, x=table)


def test_names_for_labels_are_to_be_numbered() -> None:
    pandas = pytest.importorskip("pandas")
    net, column = fastbp.MLP([2, 2], seed=0), pandas.Series(["no", "yes", "no"], dtype="category")
    text = "expected integer class indices (numpy.unique(..., return_inverse=True)[1] numbers names)"
    refused(TypeError, f"t: got a str at [0], {text}", net.loss, x=values(3, 2), t=column)
    assert np.isfinite(net.loss(values(3, 2), np.unique(column, return_inverse=True)[1]))
