"""The shorter way of an ordinary softmax cross-entropy: the same bits as the way with all checks, and not taken when in doubt."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest

import fastbp
from fastbp import _backend

pytestmark = pytest.mark.skipif(_backend.name != "native", reason="the twin has one way only")

SHAPES = [(1, 1), (1, 3), (3, 16), (65, 10), (128, 17), (7, 257), (130, 4000)]


def problem(n: int, c: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * c)
    return (10 * rng.standard_normal((n, c))).astype(dtype), rng.integers(0, c, n)


IGNORED = int("-100")  # the default, but another object: it was given, so everything is checked
NO_OPTIONS = {
    "class_weight": None,
    "sample_weight": None,
    "label_smoothing": 0.0,
    "lse_square_scale": 0.0,
    "softcap": None,
}


def at_once(z: object, labels: object, grad: object, threads: object, **options) -> tuple | None:
    given = (NO_OPTIONS | options).values()
    return _backend.kernels.softmax_cross_entropy_at_once(z, labels, *given, grad, threads)


def long_way(z: np.ndarray, labels: np.ndarray, **options) -> fastbp.LossGrad:
    return fastbp.softmax_cross_entropy(z, labels, ignore_index=IGNORED, **options)


def some_options(n: int, c: int, dtype: str) -> dict[str, dict]:
    rng = np.random.default_rng(1)
    weights = {
        "class_weight": rng.uniform(0.5, 2, c).astype(dtype),
        "sample_weight": rng.uniform(0.5, 2, n).astype(dtype),
    }
    numbers = {"label_smoothing": 0.1, "lse_square_scale": 0.01, "softcap": 30.0}
    each = {name: {name: value} for name, value in (weights | numbers).items()}
    return {"none": {}, **each, "all": weights | numbers}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits(shape: tuple[int, int], dtype: str) -> None:
    for option in some_options(1, 1, dtype):
        assert_same_bits(shape, dtype, option)


def assert_same_bits(shape: tuple[int, int], dtype: str, option: str) -> None:
    z, labels = problem(*shape, dtype)
    options = some_options(*shape, dtype)[option]
    z[0, 0], z[-1, -1] = np.inf, -np.inf
    labels[1::7] = -100
    expected = long_way(z, labels, **options)
    buffer, logits = np.full_like(z, np.nan), z.copy()
    for grad_out in (None, buffer, logits):
        given = z if grad_out is not logits else logits
        got = at_once(given, labels, grad_out, 2, **options)
        assert got is not None
        assert [x.tobytes() for x in got[:2]] == [x.tobytes() for x in expected[:2]]
        assert (type(got[0]), got[2]) == (type(expected.loss), expected.weight_sum)
        assert grad_out is None or got[1] is grad_out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_whose_dtype_is_another_object_take_it(dtype: str) -> None:
    """Those that were pickled have it; those of a network have the one that all others have."""
    z, labels = pickle.loads(pickle.dumps(problem(65, 10, dtype)))
    net = fastbp.MLP([10, 3], dtype=np.dtype(dtype).newbyteorder("="))
    assert z.dtype is not np.dtype(dtype) and net.logits(z).dtype is np.dtype(dtype)
    assert at_once(z, labels, None, None) is not None
    assert net._engine.step(z, labels % 3, fastbp.SGD()) is not None


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = problem(5, 4, "float64")
    taken = []
    short_way = _backend.kernels.softmax_cross_entropy_at_once
    monkeypatch.setattr(
        _backend.kernels, "softmax_cross_entropy_at_once", lambda *a: taken.append(1) or short_way(*a)
    )
    short, long = fastbp.softmax_cross_entropy(z, labels), long_way(z, labels)
    assert taken == [1]
    assert type(short) is type(long)
    assert short.grad.tobytes() == long.grad.tobytes()
    for options in ({"reduction": "sum"}, {"ignore_index": -1}):
        fastbp.softmax_cross_entropy(z, labels, **options)
    assert taken == [1]
    for options in some_options(5, 4, "float64").values():
        fastbp.softmax_cross_entropy(z, labels, **options)
    assert len(taken) == 1 + len(some_options(5, 4, "float64"))


def readonly(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def misaligned(x: np.ndarray) -> np.ndarray:
    memory = np.zeros(x.nbytes + 1, np.uint8)
    y = memory[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


class Subclass(np.ndarray):
    """Of which nothing is known."""


Z, LABELS = problem(6, 4, "float64")
MEMORY = np.zeros(100)
NOT_IN_ORDER = {
    "another kind of logits": (Z.tolist(), LABELS, None, 1),
    "a subclass": (Z.view(np.matrix), LABELS, None, 1),
    "another dtype": (Z.astype(np.float16), LABELS, None, 1),
    "another byte order": (Z.astype(">f8"), LABELS, None, 1),
    "logits that are misaligned": (misaligned(Z), LABELS, None, 1),
    "columns first": (np.asfortranarray(Z), LABELS, None, 1),
    "rows apart": (np.zeros((6, 8))[:, :4], LABELS, None, 1),
    "three axes": (Z[None], LABELS, None, 1),
    "no rows": (Z[:0], LABELS[:0], None, 1),
    "no classes": (Z[:, :0], LABELS, None, 1),
    "rows of targets": (Z, Z, None, 1),
    "short integers": (Z, LABELS.astype(np.int32), None, 1),
    "labels of another byte order": (Z, LABELS.astype(">i8"), None, 1),
    "labels that are misaligned": (Z, misaligned(LABELS), None, 1),
    "labels that are a subclass": (Z, LABELS.view(Subclass), None, 1),
    "labels in a list": (Z, LABELS.tolist(), None, 1),
    "labels apart": (Z, np.zeros(12, np.int64)[::2], None, 1),
    "too few labels": (Z, LABELS[:5], None, 1),
    "a label too large": (Z, np.full(6, 4), None, 1),
    "a label below 0": (Z, np.full(6, -1), None, 1),
    "a gradient that is no array": (Z, LABELS, Z.tolist(), 1),
    "a gradient that is a subclass": (Z, LABELS, np.zeros((6, 4)).view(np.matrix), 1),
    "a gradient of another byte order": (Z, LABELS, Z.astype(">f8"), 1),
    "a gradient that is misaligned": (Z, LABELS, misaligned(Z), 1),
    "a gradient that is read-only": (Z, LABELS, readonly(Z), 1),
    "a gradient of another dtype": (Z, LABELS, Z.astype(np.float32), 1),
    "a gradient of another shape": (Z, LABELS, np.zeros((4, 6)), 1),
    "a gradient with rows apart": (Z, LABELS, np.zeros((6, 8))[:, :4], 1),
    "a gradient over a part of the logits": (
        MEMORY[:24].reshape(6, 4),
        LABELS,
        MEMORY[4:28].reshape(6, 4),
        1,
    ),
    "a gradient over the labels": (Z, MEMORY[20:26].view(np.int64), MEMORY[:24].reshape(6, 4), 1),
    "no threads": (Z, LABELS, None, 0),
    "a number of threads that is none": (Z, LABELS, None, True),
}


@pytest.mark.parametrize("case", NOT_IN_ORDER)
def test_left_to_the_way_with_all_checks(case: str) -> None:
    logits, labels, grad, threads = NOT_IN_ORDER[case]
    before = np.array(grad)
    assert at_once(logits, labels, grad, threads) is None
    assert np.array(grad).tobytes() == before.tobytes()


def outcome(call: Callable[[], fastbp.LossGrad]) -> object:
    """The bits that it returns, or how it fails."""
    try:
        loss, grad, weight_sum = call()
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return type(loss), loss.tobytes(), np.asarray(grad).dtype, np.asarray(grad).tobytes(), weight_sum


@pytest.mark.parametrize("case", NOT_IN_ORDER)
def test_which_gives_the_same_answer_or_error(case: str) -> None:
    logits, labels, grad, threads = NOT_IN_ORDER[case]
    before = copy.deepcopy(grad)
    options = {"grad_out": grad, "n_threads": threads}
    with np.errstate(all="raise"):
        short = outcome(lambda: fastbp.softmax_cross_entropy(logits, labels, **options))
    if isinstance(grad, np.ndarray) and grad.flags.writeable:
        grad[...] = before
    assert short == outcome(lambda: long_way(logits, labels, **options))
    if isinstance(grad, np.ndarray) and grad.flags.writeable:
        grad[...] = before


def test_beyond_float32() -> None:
    """An error that is larger than the largest number is inf, and nobody is warned."""
    z = np.array([[np.finfo(np.float32).max, -np.finfo(np.float32).max]], np.float32)
    loss = fastbp.softmax_cross_entropy(z, np.array([1])).loss
    assert type(loss) is np.float32
    assert loss == np.inf


@pytest.mark.parametrize(
    "grad_out", [Z.tolist(), 3, "x", object(), memoryview(Z)], ids=lambda x: type(x).__name__
)
def test_what_is_no_gradient_is_named(grad_out: object) -> None:
    with pytest.raises(TypeError, match=r"^grad_out: got \w+, expected numpy.ndarray$"):
        fastbp.softmax_cross_entropy(Z, LABELS, grad_out=grad_out)


OPTIONS_NOT_IN_ORDER = {
    "class weights in a list": {"class_weight": [1.0] * 4},
    "class weights that are whole numbers": {"class_weight": np.ones(4, np.int64)},
    "too few class weights": {"class_weight": np.ones(3)},
    "class weights apart": {"class_weight": np.ones(8)[::2]},
    "class weights in a column": {"class_weight": np.ones((4, 1))},
    "sample weights of another byte order": {"sample_weight": np.ones(6, ">f8")},
    "too many sample weights": {"sample_weight": np.ones(7)},
    "one sample weight": {"sample_weight": 1.0},
    "smoothing that is no float": {"label_smoothing": 1},
    "too much smoothing": {"label_smoothing": 1.5},
    "smoothing that is no number": {"label_smoothing": np.nan},
    "a negative scale": {"lse_square_scale": -1.0},
    "an infinite scale": {"lse_square_scale": np.inf},
    "a scale of NumPy's": {"lse_square_scale": np.float64(0.1)},
    "a softcap of 0": {"softcap": 0.0},
    "an infinite softcap": {"softcap": np.inf},
    "a softcap below all normal numbers": {"softcap": 1e-310},
    "a gradient over the class weights": {
        "class_weight": MEMORY[20:24],
        "grad_out": MEMORY[:24].reshape(6, 4),
    },
    "a gradient over the sample weights": {
        "sample_weight": MEMORY[:6],
        "grad_out": MEMORY[:24].reshape(6, 4),
    },
}


@pytest.mark.parametrize("case", OPTIONS_NOT_IN_ORDER)
def test_options_that_are_left_to_it(case: str) -> None:
    options = dict(OPTIONS_NOT_IN_ORDER[case])
    assert (
        at_once(
            Z, LABELS, options.get("grad_out"), 1, **{k: v for k, v in options.items() if k != "grad_out"}
        )
        is None
    )
    with np.errstate(all="raise"):
        short = outcome(lambda: fastbp.softmax_cross_entropy(Z, LABELS, **options))
        assert short == outcome(lambda: long_way(Z, LABELS, **options))


def test_all_rows_ignored() -> None:
    loss, grad, weight_sum = at_once(Z, np.full(6, -100), None, 1)
    assert np.isnan(loss)
    assert not grad.any()
    assert weight_sum == 0
