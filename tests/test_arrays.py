"""Arrays, columns and tables of other libraries: what is read as it lies, what is copied, what is refused.

The table in docs/arrays.md is what these checks do: ``python tests/test_arrays.py`` writes it, a test compares it row by row.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_kinds import KINDS, TAKEN, memory
from good_calls import F32, GOOD, OUTPUTS, answer, refused, same, values, zeros

import fastbp
from fastbp import _checks

PAGE = Path(__file__).parents[1] / "docs" / "arrays.md"
MARK = "<!-- python tests/test_arrays.py -->\n"
pytestmark = pytest.mark.usefixtures("backend")


# The page --------------------------------------------------------------------------------------------------


def fate(check: Callable[[Any], np.ndarray], given: Any) -> tuple[str, str]:
    """What a check does with `given`, and the sentence in which it refuses it."""
    try:
        checked = check(given)
    except (TypeError, ValueError) as error:
        assert re.match(r"\w+: got .*, expected ", str(error))
        return "refused", f"{type(error).__name__}: {error}"
    return ("as it lies" if np.shares_memory(checked, memory(given)) else "copied"), ""


def as_floats(given: Any) -> np.ndarray:
    return _checks.examples(_checks.elementwise("x", given, 0, None)[0])


def as_examples(given: Any) -> np.ndarray:
    return _checks.networks.inputs("x", given, 4, np.dtype(F32))


def as_targets(given: Any) -> np.ndarray:
    return _checks.networks.targets("x", given, zeros(3, 4), 1, False, None)


def as_labels(given: Any) -> np.ndarray:
    labels, _ = _checks.class_targets(given, "logits", zeros(3, 4), 4, -100)
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]
    return labels


def row(name: str) -> str:
    """What becomes of a kind of array, as a line of the table."""
    kind = KINDS[name]
    a = values(3, 4)[:, 0].copy() if kind.column else values(3, 4)
    given = kind.of(a)
    fates = [fate(as_floats, given), fate(as_targets if kind.column else as_examples, given)]
    fates.append(fate(as_labels, kind.of(np.array([0, 1, 1]))) if kind.labels else ("–", ""))
    written, _ = fate(lambda out: _checks.output("out", out, a.shape, a.dtype), given)
    answers = [*(each for each, _ in fates), written.replace("as it lies", "written")]
    said = next((sentence for _, sentence in fates if sentence), "")
    return f"| {' | '.join([name, *answers, said])} |"


def on_the_page() -> list[str]:
    return PAGE.read_text("utf-8").partition(MARK)[2].splitlines()[2:]


needs_docs = pytest.mark.skipif(not PAGE.exists(), reason="no docs here")


@needs_docs
@pytest.mark.parametrize(("number", "name"), list(enumerate(KINDS)), ids=KINDS)
def test_the_page_says_what_is_so(number: int, name: str) -> None:
    assert on_the_page()[number] == row(name)


@needs_docs
def test_the_page_has_a_row_for_each_kind() -> None:
    assert len(on_the_page()) == len(KINDS)


# Every public function takes them ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TAKEN)
def test_a_function_takes_them_for_all_its_inputs(kind: str) -> None:
    for call in GOOD.values():
        given = {name: TAKEN[kind].of(call.arguments[name]) for name in call.inputs()}
        result = call.function(**call.changed(**given))
        for part in result if isinstance(result, tuple) else (result,):
            assert isinstance(part, (np.ndarray, np.generic, float, type(None)))
        same(answer(call, call.changed(**given)), answer(call, call.changed()))


def train(of: Callable[[np.ndarray], Any]) -> list[Any]:
    """All that a network does with arrays, each of which `of` makes another one."""
    x, labels, weights = values(12, 4), np.arange(12) % 3, values(12)
    X, T, w = of(x), of(labels), of(weights)
    net, sgd = fastbp.MLP([4, 5, 3], seed=0), fastbp.SGD(0.1)
    done = [net.logits(X), net.forward(X), net.predict(X), net.predict_proba(X)]
    done += [
        net.loss(X, T),
        net.loss(X, T, w),
        net.evaluate(X, T, sample_weight=w),
        net.gradients(X, T, w).flat,
    ]
    done += [net.step(X, T, sgd), net.step(X, T, sgd, w)]
    options: dict[str, Any] = {"optimizer": sgd, "epochs": 2, "progress": False}
    validation = {"validation_data": (X, T, w)}
    done.append(net.fit(X, T, sample_weight=w, class_weight=of(values(3)), **validation, **options).columns())
    done.append(net.fit([(X, T), (X, T, w)], **options).loss)
    done.append(net.parameters.copy())
    numbers = fastbp.MLP([4, 1], loss="squared_error", seed=0)
    done += [numbers.loss(X, w), numbers.step(X, w, fastbp.Adam()), numbers.predict(X)]
    rows = fastbp.MLP([4, 4], seed=0)
    done.append(rows.fit(X, X, batch_size=5, **(options | {"optimizer": fastbp.SGD()})).loss)
    checked = fastbp.check_gradient(rows, X, X), fastbp.check_gradient(fastbp.squared_error, X, X)
    parameters = values(6)
    fastbp.SGD(0.5).update(parameters, of(values(6)[::-1].copy()))
    return [*done, *checked, parameters]


def without_seconds(done: Any) -> Any:
    return {k: v for k, v in done.items() if k != "seconds"} if isinstance(done, dict) else done


@pytest.mark.parametrize("kind", TAKEN)
def test_a_network_takes_them(kind: str) -> None:
    for taken, usual in zip(train(TAKEN[kind].of), train(np.asarray), strict=True):
        assert type(taken) is type(usual)
        np.testing.assert_equal(without_seconds(taken), without_seconds(usual))


def test_no_library_is_imported_for_it() -> None:
    program = (
        "import sys, numpy as np, fastbp\n"
        "class A:\n def __array__(self, dtype=None, copy=None): return np.eye(3)\n"
        "fastbp.MLP([3, 3], seed=0).loss(A(), [0, 1, 2])\n"
        "print({'torch', 'jax', 'pandas', 'polars', 'pyarrow', 'numpy.ma'} & set(sys.modules))"
    )
    root = Path(fastbp.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"


# What is written, and what others write meanwhile -----------------------------------------------------------


@pytest.mark.parametrize(("case", "name"), OUTPUTS)
@pytest.mark.parametrize("kind", ["interface", "array", "dlpack", "torch"])
def test_what_is_written_is_an_array_of_numpy(kind: str, case: str, name: str) -> None:
    """Never a copy of what was given."""
    call = GOOD[case]
    given = TAKEN[kind].of(call.arguments[name].copy())
    text = f"{name}: got {type(given).__name__}, expected numpy.ndarray"
    refused(TypeError, text, call.function, **call.changed(**{name: given}))
    np.testing.assert_array_equal(memory(given), call.arguments[name])


def test_the_memory_of_a_tensor_is_written_through_an_array_of_it() -> None:
    torch = pytest.importorskip("torch")
    z, labels = torch.tensor(values(3, 4)), torch.tensor([0, 3, 2])
    expected = fastbp.softmax_cross_entropy(values(3, 4), [0, 3, 2])
    out = torch.zeros(3, 4)
    assert fastbp.softmax_cross_entropy(z, labels, grad_out=out.numpy()).loss == expected.loss
    np.testing.assert_array_equal(out, expected.grad)
    fastbp.softmax_cross_entropy(z, labels, grad_out=z.numpy())  # in place
    np.testing.assert_array_equal(z, expected.grad)


@pytest.mark.parametrize("kind", ["buffer", "interface", "array", "dlpack"])
def test_an_output_that_overlaps_an_input_is_found(kind: str) -> None:
    whole = values(4, 4)
    before = whole.copy()
    for call, name, out in (
        (GOOD["softmax_cross_entropy of rows"], "targets", "grad_out"),
        (GOOD["tanh"], "x", "out"),
    ):
        given = TAKEN[kind].of(whole[:3])
        with pytest.raises(
            ValueError, match=f"^{out}: got memory that overlaps {name}, expected memory of its own"
        ):
            call.function(**call.changed(**{name: given, out: whole[1:]}))
    np.testing.assert_array_equal(whole, before)
    call = GOOD["tanh"]
    np.testing.assert_array_equal(call.function(x=TAKEN[kind].of(whole), out=whole), call.function(x=before))


@pytest.mark.parametrize("kind", ["interface", "dlpack", "torch"])
def test_class_indices_that_another_thread_overwrites(kind: str) -> None:
    """They share its memory: the call ends with a number or with the one error, as with an array."""
    x, z = values(500, 4), values(500, 30)
    shared = TAKEN[kind].of(np.arange(500) % 30)
    labels, over = memory(shared), threading.Event()

    def overwrite() -> None:
        for number in itertools.cycle((2**50, -1, 30)):
            if over.is_set():
                return
            labels[number % 3 :: 3] = number
            labels[:] = np.arange(500) % 30

    net, ends = fastbp.MLP([4, 30], seed=0), 0
    thread = threading.Thread(target=overwrite)
    thread.start()
    try:
        for number in range(60):
            try:
                fastbp.softmax_cross_entropy(z, shared, n_threads=1 + number % 2)
                net.step(x, shared, fastbp.SGD(0.0))
                fastbp.linear_softmax_cross_entropy(x, values(4, 30), shared, max_memory=20_000)
            except IndexError:
                pass
            ends += 1
    finally:
        over.set()
        thread.join()
    assert ends == 60
    assert np.isfinite(net.parameters).all()


# What hides something ---------------------------------------------------------------------------------------


def holed(library: str) -> tuple[Any, Any]:
    """A table that lacks a number in row 1 of its second column, and that column."""
    module = pytest.importorskip(library)
    if library == "pandas":
        table = module.DataFrame({"a": [0.5, 1.0, 2.0], "b": module.Series([1, None, 3], dtype="Int64")})
    else:
        make = module.table if library == "pyarrow" else module.DataFrame
        table = make({"a": [0.5, 1.0, 2.0], "b": [1, None, 3]})
    return table, table["b"]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_missing_value_is_no_number(library: str) -> None:
    table, column = holed(library)
    net, numbers = fastbp.MLP([2, 4], seed=0), fastbp.MLP([4, 1], loss="squared_error", seed=0)
    text = "expected none (fill or drop what is missing)"
    refused(TypeError, f"x: got a missing value at [1, 1], {text}", net.forward, x=table)
    refused(TypeError, f"t: got a missing value at [1], {text}", net.loss, x=values(3, 2), t=column)
    refused(TypeError, f"t: got a missing value at [1], {text}", numbers.loss, x=values(3, 4), t=column)
    weighted = GOOD["squared_error"].changed(sample_weight=column)
    refused(TypeError, f"sample_weight: got a missing value at [1], {text}", fastbp.squared_error, **weighted)
    refused(
        TypeError, f"x: got a missing value at [2, 1], {text}", net.forward, x=[values(3), values(3), column]
    )


def test_a_missing_value_within_a_row_of_polars() -> None:
    polars = pytest.importorskip("polars")
    pairs, text = polars.Array(polars.Float64, 2), "expected none (fill or drop what is missing)"
    whole = polars.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pairs)
    np.testing.assert_array_equal(fastbp.relu(whole), [[1, 2], [3, 4]])
    holed = polars.Series([[1.0, 2.0], [3.0, None]], dtype=pairs)
    refused(TypeError, f"x: got a missing value at [1], {text}", fastbp.relu, x=holed)
    both = polars.Series([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": None}])
    refused(TypeError, f"x: got a missing value at [1], {text}", fastbp.relu, x=both)


def test_nan_in_a_dtype_of_numpy_is_a_number() -> None:
    pandas = pytest.importorskip("pandas")
    z = fastbp.MLP([2, 4], seed=0).forward(pandas.DataFrame({"a": [0.5, np.nan], "b": [1.0, 2.0]}))
    assert np.isnan(z).all(axis=1).tolist() == [False, True]


def test_masked_arrays_in_a_list() -> None:
    masked = np.ma.masked_array([1.0, 2.0], [False, True])
    text = "x: got a masked array, expected a plain one (fill or drop what is masked)"
    for given in ([masked], (np.ones(2), masked), [np.ma.masked, 1.0]):
        refused(TypeError, text, fastbp.tanh, x=given)


def test_columns_of_unlike_dtypes_are_put_side_by_side() -> None:
    pandas = pytest.importorskip("pandas")
    net = fastbp.MLP([3, 2], seed=0)
    table = pandas.DataFrame({"a": [0.5, 2.0], "b": [True, False], "c": np.array([3, 4], np.uint8)})
    np.testing.assert_array_equal(net.logits(table), net.logits([[0.5, 1, 3], [2, 0, 4]]))
    named = pandas.DataFrame({"a": [0.5, 2.0], "b": ["no", "yes"], "c": [True, False]})
    text = "x: got a str at [0, 1], expected real numbers (convert it, as with .astype(float))"
    refused(TypeError, text, net.logits, x=named)
    dated = pandas.DataFrame({"a": [0.5], "b": np.array(["2020-01-01"], "datetime64[s]"), "c": [True]})
    with pytest.raises(ValueError, match=r"^x: got a DataFrame that is no array \(.*\), expected an array$"):
        net.logits(dated)
    with pytest.raises(ValueError, match=r"^x: got shape \(2, 0\), expected \(N, 3\)"):
        net.logits(pandas.DataFrame(index=[0, 1]))


def test_a_traced_array_says_so_in_one_line() -> None:
    jax = pytest.importorskip("jax")
    text = r"^x: got a \w+ that is no array \(The numpy.ndarray conversion .*\), expected an array"
    with pytest.raises(ValueError, match=text):
        jax.jit(fastbp.tanh)(jax.numpy.ones(3))


@pytest.mark.parametrize("kind", [kind for kind in TAKEN if kind != "buffer"])
def test_examples_without_targets(kind: str) -> None:
    """An array is no iterable of batches."""
    given = TAKEN[kind].of(values(3, 4))
    message = "T: got None with X an array, expected one target for each row of X"
    refused(TypeError, message, fastbp.MLP([4, 2], seed=0).fit, X=given)


if __name__ == "__main__":
    head = "| what is given | as floats | as real numbers | as class indices | as `out` | the error |"
    before = PAGE.read_text("utf-8").partition(MARK)[0] + MARK
    PAGE.write_text(before + "\n".join([head, "|---" * 6 + "|", *map(row, KINDS)]) + "\n", "utf-8")
