"""Every kind of bad call with its exact message.

A message is one sentence, "<argument>: got <what came>, expected <what>", and no bad call writes a byte. The
tests start from the table of good calls, and change one argument at a time. Bad outputs are in test_outputs.py.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from good_calls import (
    ELEMENTWISE,
    F32,
    F64,
    GOOD,
    INPUTS,
    LOSSES,
    UPDATES,
    Call,
    answer,
    refused,
    same,
    values,
    zeros,
)

import fastbp
from fastbp import outputs

pytestmark = pytest.mark.usefixtures("backend")


# One bad argument -------------------------------------------------------------------------------------------

Row = tuple[str, str, Any, type[Exception], str]

ONE_OF_ACTIVATIONS = (
    "expected one of identity, sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, mish, softplus"
)


def bad_arrays() -> Iterator[tuple[Any, str]]:
    """What is no array of float32 or float64, and what an error calls it."""
    for kind in ("int32", "float16", "complex64", "bool", "object", "datetime64[s]", "<U3", np.longdouble):
        yield np.zeros((3, 4), kind), f"dtype {np.dtype(kind)}"
    yield [[1, 2], [3, 4]], "dtype int64"
    yield [[None, 2.0]], "dtype object"
    yield 1, "dtype int64"
    yield None, "NoneType"
    yield "abc", "str"
    yield {1.0, 2.0}, "set"


def bad_values() -> Iterator[Row]:
    """(case, argument, bad value, error, message after the argument's name)."""
    for case, call in GOOD.items():
        first = call.arrays()[0]
        if case not in UPDATES:
            for value, got in bad_arrays():
                yield case, first, value, TypeError, f"got {got}, expected float32 or float64"
        for value in (0, -2):
            yield case, "n_threads", value, ValueError, f"got {value}, expected None or an integer >= 1"
        for value in (1.0, "2", True):
            got = type(value).__name__
            yield case, "n_threads", value, TypeError, f"got {got}, expected None or an integer >= 1"
    yield from bad_shapes()
    yield from bad_targets()
    yield from bad_weights()
    yield from bad_numbers()
    yield from bad_companions()


def bad_shapes() -> Iterator[Row]:
    for case in ("softmax_cross_entropy", "softmax_cross_entropy of rows"):
        for shape in ((), (12,), (1, 3, 4)):
            yield case, "logits", zeros(*shape), ValueError, f"got shape {shape}, expected (N, C)"
        text = "expected (N, C) with at least one class"
        yield case, "logits", zeros(3, 0), ValueError, f"got shape (3, 0), {text}"
    for case in ELEMENTWISE:
        for shape in ((), (1, 3, 4)):
            text = "expected (N, O), or (N,) for examples of one output"
            yield case, GOOD[case].arrays()[0], zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in ("softmax", "log_softmax", "logsumexp"):
        yield case, "x", F32(1.0), ValueError, "got shape (), expected (..., C)"
    yield "softmax_backward", "grad", 1.0, ValueError, "got shape (), expected (..., C)"
    for case, name, letters in (
        ("linear", "x", "(N, I)"),
        ("linear", "weight", "(I, O)"),
        ("linear_backward_input", "delta", "(N, O)"),
        ("linear_backward_input", "weight", "(I, O)"),
        ("linear_backward_weight", "a_prev", "(N, I)"),
        ("linear_backward_weight", "delta", "(N, O)"),
    ):
        for shape in ((), (4,), (1, 4, 2)):
            yield case, name, zeros(*shape), ValueError, f"got shape {shape}, expected {letters}"


def bad_targets() -> Iterator[Row]:
    case = "softmax_cross_entropy"
    text = "expected integer class indices, or rows of targets (3, 4)"
    names = " (numpy.unique(..., return_inverse=True)[1] numbers names)"
    for value, got in (
        ([0.0, 1.0, 2.0], f"dtype float64 of shape (3,), {text}"),
        (["a", "b", "c"], f"dtype <U1 of shape (3,), {text}{names}"),
        (np.array(["a", "b", "c"], object), f"a str at [0], {text}{names}"),
        (np.array([0, 1.0, 2], object), f"a float at [1], {text}{names}"),
        ([0.0, 1.0, np.nan], f"a missing value (nan) at [2], {text} (fill or drop what is missing)"),
        ([0, 1, None], f"a missing value (None) at [2], {text} (fill or drop what is missing)"),
    ):
        yield case, "targets", value, TypeError, f"got {got}"
    yield case, "targets", [0, 2**70, 1], ValueError, f"got an integer beyond int64, {text}"
    yield case, "targets", zeros(0), TypeError, f"got dtype float32 of shape (0,), {text}"
    for value in ([0, 1], []):
        text = "expected (3,), one class for each row of logits"
        yield case, "targets", value, ValueError, f"got shape ({len(value)},), {text}"
    for shape in ((), (3, 1), (4, 3), (3, 5), (1, 3, 4)):
        text = "expected (3, 4), or class indices (3,)"
        yield case, "targets", zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in ELEMENTWISE:
        for shape in ((3,), (3, 1), (1, 4), (4, 3), (1, 3, 4)):
            text = f"expected (3, 4), the shape of {GOOD[case].arrays()[0]}, or one number"
            yield case, "targets", zeros(*shape), ValueError, f"got shape {shape}, {text}"
    for case in LOSSES:
        for kind in ("complex128", "datetime64[s]", "timedelta64[s]", "<U1", "V4"):
            value = np.zeros((3, 4), kind)
            yield case, "targets", value, TypeError, f"got dtype {value.dtype}, expected real numbers"
        for entry, got, how in (
            ("1", "a str", "convert it, as with .astype(float)"),
            (1j, "a complex", "convert it, as with .astype(float)"),
            (None, "a missing value (None)", "fill or drop what is missing"),
            (np.datetime64("NaT", "s"), "a datetime64", "convert it, as with .astype(float)"),
        ):
            value = np.zeros((3, 4), object)
            value[1, 2] = entry
            yield case, "targets", value, TypeError, f"got {got} at [1, 2], expected real numbers ({how})"
        value = np.full((3, 4), 10**400, object)
        yield case, "targets", value, ValueError, "got an integer beyond float64, expected real numbers"

    case, text = "softmax_cross_entropy", "expected an integer in [-2**63, 2**63 - 1)"
    for value in (1.0, None, True):
        yield case, "ignore_index", value, TypeError, f"got {type(value).__name__}, {text}"
    for value in (2**64 - 1, 2**63 - 1, -(2**63) - 1):
        yield case, "ignore_index", value, ValueError, f"got {value}, {text}"
    text = "got 3 with rows of targets, expected class indices"
    yield "softmax_cross_entropy of rows", "ignore_index", 3, ValueError, text


def bad_weights() -> Iterator[Row]:
    for case, name, size, thing in (
        ("softmax_cross_entropy", "class_weight", 4, "class"),
        ("sigmoid_cross_entropy", "pos_weight", 4, "output"),
        *((case, "sample_weight", 3, "example") for case in LOSSES),
    ):
        for shape in ((7,), (size, 1), (1, size)):
            text = f"expected ({size},), one weight for each {thing}"
            yield case, name, zeros(*shape), ValueError, f"got shape {shape}, {text}"
        for value, got in (
            (zeros(size, dtype="complex64"), "dtype complex64"),
            ({0: 1.0}, "dict"),
            ("balanced", "str"),
        ):
            yield case, name, value, TypeError, f"got {got}, expected real numbers"


def bad_numbers() -> Iterator[Row]:
    softmax, sigmoid, sgd, adam = (
        "softmax_cross_entropy",
        "sigmoid_cross_entropy",
        "sgd_update",
        "adam_update",
    )
    intervals: dict[str, tuple[tuple[float, ...], list[tuple[str, str]]]] = {
        "a number in [0, 1]": (
            (-0.1, 1.1, 2),
            [(softmax, "label_smoothing"), (sigmoid, "label_smoothing"), (sgd, "momentum")],
        ),
        "a number in (0, 1)": ((-0.1, 0, 1, 1.1), [("quantile", "tau")]),
        "a number in [0, 1)": ((-0.1, 1.0, 1), [(adam, "beta_1"), (adam, "beta_2")]),
        "a finite number > 0": (
            (0.0, 0, -1.0),
            [(softmax, "softcap"), ("huber", "delta"), (adam, "epsilon")],
        ),
        "a finite number >= 0": (
            (-1e-9, -1),
            [
                (softmax, "lse_square_scale"),
                *((f, name) for f in UPDATES for name in ("learning_rate", "weight_decay")),
            ],
        ),
    }
    for text, (outside, places) in intervals.items():
        for case, name in places:
            for value in (*outside, np.nan, np.inf, -np.inf, F32(-1.0), 10**400):
                yield case, name, value, ValueError, f"got {value}, expected {text}"
            for value in ("0.5", [0.5], np.array(0.5), 0.5j, True, *(() if name == "softcap" else (None,))):
                yield case, name, value, TypeError, f"got {type(value).__name__}, expected {text}"
    for case in UPDATES:
        for name in ("learning_rate", "weight_decay"):
            text = "expected a number that float32 can hold, 0 to 3.4028234663852886e+38"
            yield case, name, 1e39, ValueError, f"got 1e+39, {text}"
    for value in (1e-46, 1e39):
        text = f"expected a number that float32 can hold, {np.finfo(F32).tiny} to {np.finfo(F32).max}"
        yield "huber", "delta", value, ValueError, f"got {value}, {text}"
    yield "quantile", "tau", 1e-46, ValueError, f"got 1e-46, {text}"
    for value in (0, -1, 2**63):
        yield adam, "step", value, ValueError, f"got {value}, expected an integer in [1, 2**63)"
    for value in (1.0, None, True):
        yield adam, "step", value, TypeError, f"got {type(value).__name__}, expected an integer in [1, 2**63)"
    for value in (1, "yes", None):
        yield sgd, "nesterov", value, TypeError, f"got {type(value).__name__}, expected True or False"
    for case in LOSSES:
        yield case, "reduction", "average", ValueError, "got 'average', expected one of mean, sum, none"
        yield case, "reduction", None, TypeError, "got NoneType, expected one of mean, sum, none"
    for case, name in (
        ("activation_backward", "name"),
        ("linear", "activation"),
        ("linear_backward_input", "activation"),
    ):
        yield case, name, "softmax", ValueError, f"got 'softmax', {ONE_OF_ACTIVATIONS}"
        yield case, name, np.tanh, TypeError, f"got ufunc, {ONE_OF_ACTIVATIONS}"


def bad_companions() -> Iterator[Row]:
    """Arrays that must be like another one."""
    for case, name, other in (
        ("activation_backward", "a", "grad"),
        ("softmax_backward", "y", "grad"),
        ("linear", "weight", "x"),
        ("linear", "bias", "weight"),
        ("linear_backward_input", "weight", "delta"),
        ("linear_backward_input", "a", "delta"),
        ("linear_backward_weight", "delta", "a_prev"),
        ("sgd_update", "gradient", "parameters"),
        ("adam_update", "gradient", "parameters"),
    ):
        value = GOOD[case].arguments[name]
        yield case, name, value.astype(F64), TypeError, f"got dtype float64, expected float32 like {other}"
        yield case, name, value.astype("int8"), TypeError, "got dtype int8, expected float32 or float64"
    for case, name, shape, text in (
        ("activation_backward", "a", (4, 3), "(3, 4), the shape of grad"),
        ("softmax_backward", "y", (4,), "(3, 4), the shape of grad"),
        ("linear", "weight", (3, 2), "(4, O) for x of shape (3, 4)"),
        ("linear", "bias", (4,), "(2,), one for each output"),
        ("linear_backward_input", "weight", (4, 3), "(I, 2) for delta of shape (3, 2)"),
        ("linear_backward_input", "a", (3, 2), "(3, 4), one row for each row of delta"),
        ("linear_backward_weight", "delta", (2, 2), "(3, O) for a_prev of shape (3, 4)"),
        ("sgd_update", "gradient", (5,), "(6,), the shape of parameters"),
        ("adam_update", "gradient", (6, 1), "(6,), the shape of parameters"),
    ):
        yield case, name, zeros(*shape), ValueError, f"got shape {shape}, expected {text}"
    text = "got None, expected shape (3, 4) for activation='tanh'"
    yield "linear_backward_input", "a", None, TypeError, text
    text = "got None with momentum=0.9, expected an array like parameters"
    yield "sgd_update", "velocity", None, TypeError, text
    for name in ("first_moment", "second_moment"):
        yield "adam_update", name, None, TypeError, "got NoneType, expected numpy.ndarray"


BAD: dict[tuple[str, str], list[tuple[Any, type[Exception], str]]] = {}
for _case, _name, *_rest in bad_values():
    BAD.setdefault((_case, _name), []).append(tuple(_rest))


@pytest.mark.parametrize(("case", "name"), BAD)
def test_a_bad_argument_is_named(case: str, name: str) -> None:
    for value, error, message in BAD[case, name]:
        refused(error, f"{name}: {message}", GOOD[case].function, **GOOD[case].changed(**{name: value}))


@pytest.mark.parametrize("case", [case for case in GOOD if case not in UPDATES])
def test_what_numpy_makes_no_plain_array_of(case: str) -> None:
    call = GOOD[case]
    name = call.arrays()[0]
    with pytest.raises(ValueError, match=f"^{name}: got a list that is no array .*, expected an array$"):
        call.function(**call.changed(**{name: [[1.0], [1.0, 2.0]]}))
    masked = np.ma.masked_array(call.arguments[name])
    message = f"{name}: got a masked array, expected a plain one (fill or drop what is masked)"
    refused(TypeError, message, call.function, **call.changed(**{name: masked}))


class Stubborn:
    """A tensor that requires a gradient, a sparse array of another library: it will not be an array, and says what to do."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )


class Sparse:
    """What SciPy's are to NumPy: one object, that knows how to become dense."""

    def toarray(self) -> np.ndarray:
        return zeros(3, 4)


@pytest.mark.parametrize(("case", "name"), [*INPUTS, ("MLP", "x"), ("MLP", "t")])
def test_what_could_become_an_array_says_how(case: str, name: str) -> None:
    net = fastbp.MLP([4, 4], seed=0)
    call = GOOD[case] if case in GOOD else Call(net.gradients, {"x": values(3, 4), "t": values(3, 4)})
    advice = "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
    message = f"{name}: got a Stubborn that is no array ({advice}), expected an array"
    refused(ValueError, message, call.function, **call.changed(**{name: Stubborn()}))
    message = f"{name}: got a sparse Sparse, expected a dense array: {name}.toarray()"
    refused(TypeError, message, call.function, **call.changed(**{name: Sparse()}))


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "dok_matrix"])
def test_sparse_arrays_of_scipy(kind: str) -> None:
    sparse = getattr(pytest.importorskip("scipy.sparse"), kind)(np.eye(4))
    net = fastbp.MLP([4, 2], seed=0)
    refused(TypeError, f"X: got a sparse {kind}, expected a dense array: X.toarray()", net.predict, X=sparse)
    assert net.predict(sparse.toarray()).shape == (4,)


def test_a_tensor_that_requires_a_gradient() -> None:
    torch = pytest.importorskip("torch")
    net, x = fastbp.MLP([4, 2], seed=0), torch.ones((3, 4), requires_grad=True)
    with pytest.raises(
        ValueError, match=r"^X: got a Tensor that is no array \(.*\.detach\(\).*\), expected an array$"
    ):
        net.predict(x)
    assert net.predict(x.detach()).shape == (3,)


@pytest.mark.parametrize("case", GOOD)
def test_options_are_keywords(case: str) -> None:
    call = GOOD[case]
    with pytest.raises(TypeError, match="positional argument"):
        call.function(*call.arguments.values(), None, None)


# Class indices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "row", "value"),
    [
        ([0, 4, 1], 1, "4"),
        ([0, 1, -1], 2, "-1"),
        ([-101, 9, 9], 0, "-101"),
        (np.array([0, 1, 255], np.uint8), 2, "255"),
        (np.array([0, -128, 1], np.int8), 1, "-128"),
        (np.array([0, 1, 2**63], np.uint64), 2, "9223372036854775808"),
        (np.array([0, 2**64 - 100, 1], np.uint64), 1, "18446744073709551516"),  # as int64 it would be -100
        (np.array([0, 4, 1], ">i2"), 1, "4"),
    ],
    ids=str,
)
def test_a_class_index_out_of_range_is_quoted(targets: Any, row: int, value: str) -> None:
    message = f"targets: row {row} is {value}, expected a class index in [0, 4) or ignore_index=-100"
    call = GOOD["softmax_cross_entropy"]
    refused(fastbp.TargetIndexError, message, call.function, **call.changed(targets=targets))


def test_the_index_error_is_of_both_kinds_and_can_travel() -> None:
    with pytest.raises(fastbp.TargetIndexError) as caught:
        fastbp.softmax_cross_entropy(zeros(3, 4), [0, 1, 4], ignore_index=-1)
    error = caught.value
    assert isinstance(error, IndexError)
    assert isinstance(error, ValueError)
    assert str(error) == "targets: row 2 is 4, expected a class index in [0, 4) or ignore_index=-1"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert (type(error).__module__, type(error).__qualname__) == ("fastbp", "TargetIndexError")


@pytest.mark.parametrize("kind", ["b", "h", "i", "l", "q", "B", "H", "I", "L", "Q", ">i4", ">u8"])
def test_class_indices_are_of_any_integer_dtype(kind: str) -> None:
    call = GOOD["softmax_cross_entropy"]
    expected = answer(call, call.changed())
    same(answer(call, call.changed(targets=call.arguments["targets"].astype(kind))), expected)


@pytest.mark.parametrize(
    ("kind", "ignored"), [("u1", 255), ("i8", -1), ("u8", 2**62), ("i4", 1), ("i8", -100)]
)
def test_the_label_to_ignore_is_any_integer(kind: str, ignored: int) -> None:
    targets = np.array([0, ignored, 2], kind)
    _, grad, weight_sum = fastbp.softmax_cross_entropy(values(3, 4), targets, ignore_index=np.int64(ignored))
    assert weight_sum == 2.0
    assert grad.any(axis=1).tolist() == [True, False, True]


# Examples of a network --------------------------------------------------------------------------------------

UNIT, COUNT = "a number in [0, 1]", "a finite number >= 0"
NAN, INF = float("nan"), float("inf")
BAD_TARGETS = [
    ("softmax_cross_entropy", (-0.25, NAN, INF), COUNT),
    ("sigmoid_cross_entropy", (-1.0, 2.0, 255.0, np.nextafter(F32(1), F32(2)), NAN, INF), UNIT),
    ("sigmoid_squared_error", (-1.0, 2.0, NAN, -INF), UNIT),
    ("poisson_deviance", (-1.0, -1e-30, NAN, INF), COUNT),
]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("optimizer", [fastbp.SGD(0.1, momentum=0.5), fastbp.Adam()], ids=repr)
@pytest.mark.parametrize(
    ("loss", "outside", "allowed"), BAD_TARGETS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_target_that_the_error_is_not_defined_for(
    loss: str, outside: tuple[float, ...], allowed: str, optimizer: Any, dtype: type
) -> None:
    """Not after a training that diverges, or goes on to ever smaller errors: before the first step."""
    net, x = fastbp.MLP([4, 3], loss=loss, dtype=dtype, seed=0), values(5, 4, dtype=dtype)
    before = net.parameters.copy()
    for value in outside:
        t = np.zeros((5, 3), dtype)
        t[3, 1] = value
        held = f" that {np.dtype(dtype)} can hold" if np.isinf(value) else ""
        message = f"row 3 is {t[3, 1]} in column 1, expected {allowed}{held}"
        refused(ValueError, f"t: {message}", net.step, x=x, t=t, optimizer=optimizer)
        refused(ValueError, f"t: {message}", net.step, x=x, t=t.tolist(), optimizer=optimizer)
        refused(ValueError, f"t: {message}", net.gradients, x=x, t=t)
        refused(ValueError, f"t: {message}", net.loss, x=x, t=t)
        refused(ValueError, f"T: {message}", net.fit, X=x, T=t, optimizer=optimizer, progress=False)
    assert (net.parameters == before).all()
    assert optimizer.steps == 0
    good = np.array([[0, 1, 0.5]] * 5, dtype)
    assert np.isfinite(net.step(x, good, copy.deepcopy(optimizer)))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_targets_of_one_output_and_those_beyond_the_dtype() -> None:
    x = values(4, 2)
    net = fastbp.MLP([2, 1], loss="sigmoid_cross_entropy", seed=0)
    for t in ([1, -1, 1, 1], [[1], [-1], [1], [1]]):
        refused(ValueError, f"t: row 1 is -1, expected {UNIT}", net.loss, x=x, t=t)
    net = fastbp.MLP([2, 1], loss="poisson_deviance", seed=0)
    message = f"t: row 2 is 1e+39, expected {COUNT} that float32 can hold"
    refused(ValueError, message, net.loss, x=x, t=[1, 2, 1e39, 0])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("value", "shown"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf"), (1e39, "1e+39")])
def test_nothing_is_predicted_of_what_is_not_finite(loss: str, value: float, shown: str) -> None:
    """Class 0, "no", or a number, would hide that the example is none."""
    net, x = fastbp.MLP([3, 4, 2], activation="tanh", loss=loss, seed=0), np.zeros((5, 3))
    x[3, 1] = x[4, 0] = value
    message = f"X: row 3 has {shown} in column 1, expected numbers that are finite in float32"
    refused(ValueError, message, net.predict, X=x)
    refused(ValueError, message, net.predict, X=x.tolist())
    if outputs.LOSSES[loss].decide:
        refused(ValueError, message, net.predict_proba, X=x)
    assert np.isnan(net.logits(x)[3:]).all() == np.isnan(net.forward(x)[3:]).all() == np.isnan(value)
    assert len(net.predict(x[:3])) == 3
    assert len(net.predict(np.full((2, 3), 3e38, F32))) == 2  # whose squares overflow


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_predicted_by_a_network_that_is_not_finite(loss: str) -> None:
    net = fastbp.MLP([3, 2], loss=loss, seed=0)
    net.biases[0][1] = np.nan
    message = "X: row 0 gives NaN, expected parameters that are finite and not too large"
    refused(ValueError, message, net.predict, X=values(4, 3))


# The checks themselves --------------------------------------------------------------------------------------


MODULES = ("losses", "activations", "layers", "updates", "sources", "batches")


def test_no_module_but_checks_raises_type_or_value_errors_in_the_functions() -> None:
    """The only place where input is checked: the modules of functions, and what leads to batches, contain no ``raise``."""
    folder = Path(fastbp.__file__).parent
    modules = [folder / f"{name}.py" for name in MODULES]
    for module in (*modules, *(folder / "optimizers").glob("*.py")):
        assert not re.search(r"^\s*raise\b", module.read_text("utf-8"), re.MULTILINE), module
