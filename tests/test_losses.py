"""The error functions: every option, shape and regime against the exact values; then the edge cases, row by row."""

from __future__ import annotations

import inspect
import itertools
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pairs
import pytest
from conftest import (
    SHAPES,
    THINNED,
    WIDTHS,
    Out,
    Problem,
    assert_near,
    assert_same_bits,
    check,
    check_threads,
    every_pair,
    generator,
    solve,
)

import fastbp
from fastbp import _backend
from fastbp.outputs import LOSSES

INF, NAN = np.inf, np.nan
ENTROPY = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))

# -- logits and targets --------------------------------------------------------------------------------------------------------
# Scales are such that the largest probability of a row is often above 0.9: softmax of small logits is nearly uniform, and hides
# what is wrong with the rest. See test_regimes_are_not_uniform.


def ordinary(rng, shape, favourite):
    return 8 * rng.standard_normal(shape)


def peaked(rng, shape, favourite):
    return 60 * rng.standard_normal(shape)


def shifted(rng, shape, favourite):
    return 1e4 + ordinary(rng, shape, favourite)


def with_minus_infinity(rng, shape, favourite):
    return np.where(rng.random(shape) < 0.3, -INF, ordinary(rng, shape, favourite))


def near_certain(rng, shape, favourite):
    """The favourite class leads by 1 to 100: from a doubt to a probability that rounds to 1."""
    z = ordinary(rng, shape, favourite)
    rows = np.arange(shape[0])
    z[rows, favourite] = z.max(axis=1) + rng.uniform(1, 100, shape[0])
    return z


REGIMES = {f.__name__: f for f in (ordinary, peaked, shifted, with_minus_infinity, near_certain)}

# The first value of each option is the one of a plain call; "none" shows the error of every row.
REDUCTION = {"reduction": ("none", "mean", "sum")}
SOFTMAX_OPTIONS = {
    "form": ("labels", "one_hot", "soft", "unnormalised"),
    "class_weights": (False, True),
    "sample_weights": (False, True),
    "ignored": (None, -100, 0),
    "label_smoothing": (0.0, 0.1),
    "lse_square_scale": (0.0, 0.01),
    "softcap": (0.0, 30.0),
    **REDUCTION,
}


def reduced(rng, x, sample_weights, reduction):
    """The sample weights, the last of them 0 and its row of `x` then NaN; and the arguments that every error function ends in."""
    n = len(x)
    s = None
    if sample_weights:
        s = rng.uniform(0.2, 2, n)
        s[-1], x[-1] = 0, NAN
    outputs = {"losses": Out((n,)) if reduction == "none" else None, "grad": Out(x.shape)}
    return s, {"mean": reduction == "mean", **outputs}


def softmax_problem(
    rng, shape, dtype, regime, function, form, class_weights, sample_weights, ignored, reduction, **scalars
):
    """Targets in one of the forms; rows that are not to be read, of an ignored label or of weight 0, hold NaN."""
    n, c = shape
    favourite = rng.integers(0, c, n)
    z = REGIMES[regime](rng, shape, favourite)
    labels = np.where(rng.random(n) < 0.5, favourite, rng.integers(0, c, n))
    one_hot = (np.arange(c) == labels[:, None]).astype(float)
    soft = rng.random(shape) ** 4 * (rng.random(shape) < 0.7) + 1e-3 * one_hot
    forms = {"one_hot": one_hot, "soft": soft / soft.sum(axis=1, keepdims=True), "unnormalised": soft.copy()}
    forms["unnormalised"][1:2] = 0
    if form == "labels" and ignored is not None:
        labels[rng.random(n) < 0.3] = ignored
        z[labels == ignored] = NAN
    s, rest = reduced(rng, z, sample_weights, reduction)
    arguments = {
        "logits": z.astype(dtype),
        "labels": labels if form == "labels" else None,
        "targets": None if form == "labels" else forms[form].astype(dtype),
        "class_weight": rng.uniform(0.2, 2, c) if class_weights else None,
        "sample_weight": s,
        "ignore_index": -100 if ignored is None else ignored,
        **scalars,
        **rest,
    }
    return Problem(function, dtype, arguments, in_place=("grad", "logits"))


def first_argument(function):
    """The name of an error function's first argument."""
    return next(iter(inspect.signature(getattr(fastbp, function)).parameters))


def elementwise_problem(
    rng, shape, dtype, regime, function, hard, sample_weights, reduction, pos_weights=None, **scalars
):
    """Targets 0 and 1 if `hard`, else anything between; for the Poisson deviance counts, or anything from 0 to 5."""
    n, o = shape
    x = REGIMES[regime](rng, shape, rng.integers(0, o, n))
    t = rng.integers(0, 2, shape) if hard else rng.random(shape)
    if function == "poisson_deviance":
        x = np.minimum(x, 70)  # sums of exp(70) stay within float32, which ends at exp(88.7)
        t = rng.poisson(3, shape) if hard else 5 * t * rng.integers(0, 2, shape)
    if LOSSES[function].targets is None:
        x[~np.isfinite(x)] = 0
        t = np.where(t < 0.5, x, 20 * rng.standard_normal(shape))
    s, rest = reduced(rng, x, sample_weights, reduction)
    first = first_argument(function)
    arguments = {first: x.astype(dtype), "targets": t.astype(dtype)}
    if pos_weights is not None:
        arguments["pos_weight"] = rng.uniform(0.2, 3, o) if pos_weights else None
    else:
        scalars = {"parameter": 0.0, **scalars}
    arguments |= {"sample_weight": s, **scalars, **rest}
    return Problem(function, dtype, arguments, in_place=("grad", first))


ELEMENTWISE_OPTIONS = {"hard": (True, False), "sample_weights": (False, True), **REDUCTION}
OPTIONS = {
    "softmax_cross_entropy": SOFTMAX_OPTIONS,
    "sigmoid_cross_entropy": {
        "pos_weights": (False, True),
        "label_smoothing": (0.0, 0.1),
        **ELEMENTWISE_OPTIONS,
    },
    "squared_error": ELEMENTWISE_OPTIONS,
    "sigmoid_squared_error": ELEMENTWISE_OPTIONS,
    "poisson_deviance": ELEMENTWISE_OPTIONS,
    "huber": {"parameter": (1.0, 12.5), **ELEMENTWISE_OPTIONS},
    "quantile": {"parameter": (0.5, 0.9), **ELEMENTWISE_OPTIONS},
}
ELEMENTWISE = list(OPTIONS)[1:]


def problem(function, rng, shape, dtype, regime="ordinary", **chosen):
    """One call of an error function; options that are not chosen have their first value."""
    make = elementwise_problem if function in ELEMENTWISE else softmax_problem
    plain = {name: values[0] for name, values in OPTIONS[function].items()}
    return make(rng, shape, dtype, regime, function, **{**plain, **chosen})


def combined(options, *seed):
    """Every pair of options, but for what has no meaning: an ignored label with rows of targets."""
    return pairs.combinations(
        options, seed, lambda row: row.get("form", "labels") == "labels" or row["ignored"] is None
    )


def sampled(rng, options):
    return {name: values[rng.integers(len(values))] for name, values in options.items()}


@pytest.fixture(params=OPTIONS)
def loss(request):
    return request.param


# -- against the exact values --------------------------------------------------------------------------------------------------
# The engine is the last argument, so that the problems and their exact results are the same objects for all engines in a row.


@lru_cache(maxsize=1)
def problems_of_every_option(loss, dtype):
    """In a tail after one vector, and in a few vectors and a tail."""
    return [
        problem(loss, generator(chosen), shape, dtype, **chosen)
        for shape in ((5, 13), (3, 70))
        for chosen in combined(OPTIONS[loss], dtype, shape)
    ]


@lru_cache(maxsize=1)
def problems_of_every_shape(loss, dtype):
    """Two regimes of each shape, the next shape in the next two."""
    problems = []
    for number, shape in enumerate(SHAPES, [*OPTIONS].index(loss) + 2 * (dtype is np.float64)):
        for regime in pairs.in_turn([*REGIMES], number, 2):
            rng = generator(loss, regime, shape)
            for chosen in ({}, sampled(rng, OPTIONS[loss])):
                problems.append(problem(loss, rng, shape, dtype, regime, **chosen))
    return problems


@THINNED
def test_every_option(dtype, loss, engine):
    for each in problems_of_every_option(loss, dtype):
        check(engine, each)


@THINNED
def test_every_shape(dtype, loss, engine):
    for each in problems_of_every_shape(loss, dtype):
        check(engine, each)


def test_regimes_are_not_uniform():
    rng = generator("uniform")
    for width in (3, 10, 129, 5000):
        for make in REGIMES.values():
            z = make(rng, (50, width), rng.integers(0, width, 50))
            z = z[np.isfinite(z).any(axis=1)]
            y = 1 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)
            assert np.mean(y > 0.9) > 0.1, (make.__name__, width)


@every_pair("isa", "dtype", loss=[*OPTIONS], shape=[(1301, 129), (37, 5003), (10_009, 2)])
def test_threads(isa, dtype, loss, shape):
    rng = generator(loss, shape)
    for chosen in ({}, sampled(rng, OPTIONS[loss])):
        check_threads(_backend.kernels, problem(loss, rng, shape, dtype, **chosen))


def test_rows_are_independent(dtype, loss, engine):
    """An example has the same error and delta, to the bit, alone and among others."""
    for width in WIDTHS:
        rng = generator(loss, width)
        whole = problem(loss, rng, (11, width), dtype, **{**sampled(rng, OPTIONS[loss]), "reduction": "none"})
        results = solve(engine, whole)
        for row in (0, 3, 10):
            arrays = {k: v for k, v in whole.arguments.items() if isinstance(v, np.ndarray) and len(v) == 11}
            arguments = {k: v[row : row + 1] for k, v in arrays.items()}
            arguments |= {"losses": Out((1,)), "grad": Out((1, width))}
            alone = solve(engine, whole.changed(**arguments))
            one, all_of_them = (np.column_stack([each.losses, each.grad]) for each in (alone, results))
            assert one.tobytes() == all_of_them[row].tobytes(), f"row {row} of {whole}"


LONG_ROWS = [((5, 5000), "labels"), ((5, 5000), "soft"), ((2, 300_001), "labels")]


@every_pair("dtype", "engine", case=range(len(LONG_ROWS)), softcap=[0.0, 30.0])
def test_maxima_that_rise(dtype, engine, case, softcap):
    """Every block of a row has a new maximum, however many there are."""
    shape, form = LONG_ROWS[case]
    rng, peaks = generator("rising", shape, softcap), slice(25, None, 50)
    regimes = [*zip(REGIMES, (0, 0.1, 0, 0.1, 0), strict=True)]
    if shape[1] > 10_000:  # slow: one regime of each softcap and dtype
        regimes = pairs.in_turn(regimes, 2 * bool(softcap) + (dtype is np.float64))
    for regime, smoothing in regimes:
        options = {**sampled(rng, SOFTMAX_OPTIONS), "label_smoothing": smoothing * (form == "labels")}
        options |= {"form": form, "softcap": softcap}
        each = problem("softmax_cross_entropy", rng, shape, dtype, regime, **options)
        z = each.arguments["logits"].copy()
        z[:, peaks] = np.sort(z[:, peaks], axis=1) + np.linspace(0, 20, z[:, peaks].shape[1], dtype=dtype)
        check(engine, each.changed(logits=z))


def test_tail_is_like_the_body(dtype, engine):
    """Equal logits in one block or behind the maximum have equal deltas, and so have equal outputs of the other errors."""
    for width in WIDTHS[3:]:
        rng = generator("tail", width)
        kinds = rng.integers(0, 3, (4, width))
        target = (
            width // 2 if width < 256 else 1
        )  # the maximum, apart from the others; rows of one block have none before it
        kinds[:, target] = 3
        for softcap in (0.0, 30.0):
            each = problem("softmax_cross_entropy", rng, (4, width), dtype, softcap=softcap)
            each = each.changed(logits=(7.3 * kinds).astype(dtype), labels=np.full(4, target))
            for row, kind in zip(solve(engine, each).grad, kinds, strict=True):
                assert all(len(set(row[kind == k])) <= 1 for k in range(3)), str(each)
        for name in ELEMENTWISE:
            each = problem(name, rng, (1, width), dtype)
            equal = {
                first_argument(name): np.full((1, width), -3.3, dtype),
                "targets": np.full((1, width), 0.7, dtype),
            }
            each = each.changed(**equal)
            assert len(set(solve(engine, each).grad[0])) == 1, str(each)


@pytest.mark.parametrize("classes", [1, 3, 10, 16, 17, 33, 64, 65])
def test_a_row_is_the_same_in_any_company(dtype, classes, isa):
    """Few classes go by blocks of rows, whose last ones are summed otherwise; and rows of weight 1 need no weights."""
    rng = generator("company", classes)
    z, labels = (8 * rng.standard_normal((81, classes))).astype(dtype), rng.integers(0, classes, 81)
    z[::7] = z[::7].round()  # with maxima that are not alone
    z[5], z[6, 0] = NAN, INF

    def of(rows, **options):
        loss, grad, _ = fastbp.softmax_cross_entropy(z[rows], labels[rows], reduction="none", **options)
        return SimpleNamespace(loss=loss, grad=grad)

    everyone = of(slice(None))
    assert_same_bits(of(slice(None), sample_weight=np.ones(81)), everyone, "weights of 1")
    for n in (1, 2, 3, 4, 5, 8, 15, 16, 17, 63, 64, 65):
        rows = slice(4, 4 + n)
        assert_same_bits(
            of(rows), SimpleNamespace(loss=everyone.loss[rows], grad=everyone.grad[rows]), f"{n} rows"
        )


def test_shift_changes_nothing(dtype, engine):
    """Adding a constant to a row changes no bit where the sums are exact: multiples of 1/8, shifted by whole numbers."""
    most = 1e5 if dtype is np.float32 else 1e12
    shifts = np.array([[1.0], [-7.0], [1000.0], [-4096.0], [most], [-most]], dtype)
    for form, width in itertools.product(SOFTMAX_OPTIONS["form"], (2, 10, 33, 1003)):
        rng = generator("shift", form, width)
        before = problem("softmax_cross_entropy", rng, (6, width), dtype, form=form)
        z = np.round(8 * before.arguments["logits"]) / 8
        before, after = before.changed(logits=z), before.changed(logits=z + shifts)
        assert_same_bits(solve(engine, before), solve(engine, after), f"of {before} when shifted")


def test_first_bad_label(engine):
    rng = generator("labels")
    for n in (0, 1, 7, 64, 1003):
        labels = rng.integers(0, 10, n)
        labels[rng.random(n) < 0.2] = -100
        assert engine.first_bad_label(labels, 10, -100) == -1
        for row, bad in itertools.product({n // 2, n - 1} if n else (), (-1, 10, -101, 2**62, -(2**63))):
            spoilt = labels.copy()
            spoilt[row:] = bad
            assert engine.first_bad_label(spoilt, 10, -100) == row


# -- the public functions: forms of input and output ---------------------------------------------------------------------------


def public(each):
    """A call as a user makes it: (function, first argument, targets, options)."""
    options = {k: v for k, v in each.arguments.items() if k not in ("losses", "grad", "mean")}
    x = options.pop(first_argument(each.function))
    labels, targets, parameter = (
        options.pop("labels", None),
        options.pop("targets"),
        options.pop("parameter", None),
    )
    if LOSSES[each.function].parameter:
        options[LOSSES[each.function].parameter] = parameter
    if labels is None:
        options.pop("ignore_index", None)
    if "softcap" in options:
        options["softcap"] = options["softcap"] or None
    return getattr(fastbp, each.function), x, targets if labels is None else labels, options


def same(a, b):
    """Two answers, (loss, grad, weight_sum), agree in every bit."""
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))


@THINNED
def test_public_agrees_with_the_kernels(backend, dtype, loss):
    """Every option reaches the kernel as it was meant, and the answer comes back in the dtype that came in."""
    for chosen in combined(OPTIONS[loss], "public"):
        each = problem(loss, generator(chosen), (4, 5), dtype, **chosen)
        function, x, targets, options = public(each)
        answer = function(x, targets, reduction=chosen["reduction"], **options)
        want = solve(_backend.kernels, each)
        error = want.losses if chosen["reduction"] == "none" else dtype(want.loss)
        assert same(answer, (error, want.grad, want.weight_sum)), str(each)
        assert type(answer.loss) is type(error) and type(answer.weight_sum) is float
        assert answer.grad.dtype == answer.loss.dtype == dtype


def test_memory_maps(backend, dtype, loss, tmp_path):
    """Inputs on disk, readable only; the gradient in a file, too."""
    each = problem(loss, generator(loss), (6, 11), dtype)
    function, x, targets, _ = public(each)
    want = function(x, targets)
    for number, array in enumerate((x, targets)):
        array.tofile(tmp_path / str(number))
    maps = [np.memmap(tmp_path / str(i), a.dtype, "r", shape=a.shape) for i, a in enumerate((x, targets))]
    out = np.memmap(tmp_path / "grad", dtype, "w+", shape=x.shape)
    answer = function(*maps, grad_out=out)
    assert answer.grad is out and same(answer, want)


def test_targets_of_every_dtype(backend, dtype):
    x, rows = generator("rows").standard_normal((4, 3)).astype(dtype), np.eye(3)[[2, 0, 1, 2]]
    for loss in OPTIONS:
        function = getattr(fastbp, loss)
        want = function(x, rows.astype(dtype))
        for kind in ("f2", "f4", "f8", ">f4", "i1", "u8", "?"):
            assert same(function(x, rows.astype(kind)), want), (loss, kind)
        assert same(function(x, rows.tolist()), want)


def test_elementwise_vectors_and_numbers(backend, dtype):
    """(N,) is N examples of one output; one number is the target of all."""
    x = generator("vectors").standard_normal(7).astype(dtype)
    for loss in ELEMENTWISE:
        function = getattr(fastbp, loss)
        vector, column = function(x, np.ones(7)), function(x[:, None], np.ones((7, 1)))
        assert vector.grad.shape == (7,) and vector.weight_sum == 7
        assert same(vector, column) and same(vector, function(x, 1))


# -- the edge cases of the contract, row by row --------------------------------------------------------------------------------


def logits_and_labels(dtype):
    return generator("edges").standard_normal((5, 4)).astype(dtype) * 5, np.array([0, 3, 1, 2, 3])


@pytest.mark.parametrize("bad", [4, -1, -101, 2**40, -(2**63)])
def test_index_out_of_range(dtype, engine, bad):
    z, labels = logits_and_labels(dtype)
    labels[3] = bad
    message = f"targets: row 3 is {bad}, expected a class index in [0, 4) or ignore_index=-100"
    for error in (IndexError, ValueError, fastbp.TargetIndexError):
        with pytest.raises(error) as caught:
            fastbp.softmax_cross_entropy(z, labels)
        assert str(caught.value) == message


@pytest.mark.parametrize("bad", [2**64 - 100, 2**64 - 1, 2**63])
def test_index_that_wraps_is_out_of_range(backend, bad):
    z, labels = logits_and_labels(np.float32)
    labels = labels.astype(np.uint64)
    labels[1] = bad
    with pytest.raises(IndexError, match=f"row 1 is {bad}, "):
        fastbp.softmax_cross_entropy(z, labels)


@pytest.mark.parametrize("unread", [NAN, INF, -INF])
def test_ignored_rows_are_not_read(backend, dtype, unread):
    z, labels = logits_and_labels(dtype)
    spoilt, labels[[1, 4]] = z.copy(), -100
    spoilt[[1, 4]] = unread
    options = {"lse_square_scale": 0.1, "softcap": 20.0}
    clean, dirty = (fastbp.softmax_cross_entropy(x, labels, **options) for x in (z, spoilt))
    assert same(clean, dirty) and dirty.weight_sum == 3
    assert not dirty.grad[[1, 4]].any() and np.isfinite(dirty.grad).all()
    weight = np.array([1.0, 0, 1, 1, 0])
    for loss in OPTIONS:
        targets = labels % 4 if loss == "softmax_cross_entropy" else 0.5
        answer = getattr(fastbp, loss)(spoilt, targets, sample_weight=weight)
        assert not answer.grad[[1, 4]].any() and np.isfinite(answer.loss) and answer.weight_sum == 3


def nothing_to_average(loss, dtype):
    """No row; rows of weight 0; and where there are labels, rows that are all ignored."""
    z, labels = logits_and_labels(dtype)
    targets = labels if loss == "softmax_cross_entropy" else np.ones_like(z)
    yield z[:0], targets[:0], {}
    yield z, targets, {"sample_weight": np.zeros(5)}
    if loss == "softmax_cross_entropy":
        yield z, np.full(5, -100), {}


def test_nothing_to_average(dtype, loss, engine):
    """The mean is NaN, everything else 0; without a warning, which would be an error here."""
    for z, targets, options in nothing_to_average(loss, dtype):
        answers = [
            getattr(fastbp, loss)(z, targets, reduction=each, **options) for each in ("mean", "sum", "none")
        ]
        mean, total, none = (answer.loss for answer in answers)
        assert np.isnan(mean) and total == 0 and none.tolist() == [0] * len(z)
        for answer in answers:
            assert answer.grad.shape == z.shape and not answer.grad.any() and answer.weight_sum == 0
            assert answer.grad.dtype == answer.loss.dtype == dtype


def test_minus_infinity_without_target(dtype, engine):
    """0 log 0 = 0."""
    z = np.array([[-INF, 0, np.log(3)]], dtype)
    y = np.array([0, 0.25, 0.75])
    for targets, row, error in (
        ([1], [0, 1, 0], np.log(4)),
        ([[0, 1, 0]], [0, 1, 0], np.log(4)),
        ([y], y, ENTROPY),
    ):
        answer = fastbp.softmax_cross_entropy(z, targets)
        assert_near(answer.loss, error)
        assert_near(answer.grad[0], y - row)
        assert answer.grad[0, 0] == 0


def test_minus_infinity_at_the_target(dtype, engine):
    """An infinite error, and still y - t."""
    z = np.array([[-INF, 0, 0], [1, 0, 0]], dtype)
    for targets in (np.array([0, 0]), np.eye(3)[[0, 0]]):
        answer = fastbp.softmax_cross_entropy(z, targets, reduction="none")
        assert answer.loss[0] == INF and np.isfinite(answer.loss[1])
        assert answer.grad[0].tolist() == [-1, 0.5, 0.5]
        assert fastbp.softmax_cross_entropy(z, targets).loss == INF


SPOILT = [[NAN, 0, 0, 0], [0, 0, 0, NAN], [INF, 0, 0, 0], [0, INF, INF, -INF], [-INF] * 4, [NAN] * 4]


@every_pair("engine", "dtype", row=range(len(SPOILT)), form=["labels", "rows"])
def test_rows_without_a_softmax(engine, dtype, row, form):
    """NaN in that row alone; at widths where the spoilt entry is in a vector's body and in its tail."""
    for repeat in (1, 9):
        z, labels = logits_and_labels(dtype)
        z = np.tile(z, repeat)
        targets = labels if form == "labels" else np.eye(4 * repeat)[labels]
        clean = fastbp.softmax_cross_entropy(z, targets, reduction="none")
        z[2] = np.repeat(SPOILT[row], repeat)
        for options in ({}, {"lse_square_scale": 0.1}):
            answer = fastbp.softmax_cross_entropy(z, targets, reduction="none", **options)
            assert np.isnan(answer.grad[2]).all() and np.isnan(answer.loss[2])
        answer = fastbp.softmax_cross_entropy(z, targets, reduction="none")
        others = np.arange(5) != 2
        assert same((answer.loss[others], answer.grad[others]), (clean.loss[others], clean.grad[others]))
        assert np.isnan(fastbp.softmax_cross_entropy(z, targets).loss)


def test_ignore_index_with_rows(backend):
    z, labels = logits_and_labels(np.float32)
    with pytest.raises(ValueError, match="ignore_index: got 0 with rows of targets"):
        fastbp.softmax_cross_entropy(z, np.eye(4)[labels], ignore_index=0)


@pytest.mark.parametrize("scale", [1e8, 1e38])
def test_huge_logits(dtype, engine, scale):
    """The error of a class that is behind by d is d; nothing overflows on the way to it, and equal logits are still equal."""
    z = np.array([[scale, -scale, 0], [-scale, -scale, -scale], [scale, scale, scale]], dtype)
    answer = fastbp.softmax_cross_entropy(z, np.array([1, 0, 2]), reduction="none")
    assert_near(answer.loss, [2 * z[0, 0], np.log(3), np.log(3)])
    assert answer.grad[0].tolist() == [1, -1, 0]
    small = fastbp.softmax_cross_entropy(np.zeros((1, 3), dtype), np.array([0]), reduction="none")
    assert same((answer.loss[1:2], answer.grad[1:2]), small[:2])


def test_sigmoid_cross_entropy_is_symmetric(dtype, engine):
    """(x, 1) and (-x, 0) are one question: the same error, and deltas of opposite sign, in every bit."""
    limits, rng = np.finfo(dtype), generator("symmetric")
    special = [0.0, -0.0, INF, -INF, limits.max, limits.tiny, limits.smallest_subnormal, 1e4]
    x = rng.standard_normal(1000)
    x = np.concatenate([special, 30 * x, 1e-3 * x]).astype(dtype)
    yes, no = (fastbp.sigmoid_cross_entropy(*pair, reduction="none") for pair in ((x, 1), (-x, 0)))
    assert same((yes.loss,), (no.loss,)) and np.array_equal(yes.grad, -no.grad)
    assert (yes.loss[2:4].tolist(), yes.grad[2:4].tolist()) == ([0, INF], [0, -1])


def test_poisson_deviance_at_the_edges(dtype, engine):
    """A count of 0 costs exp(z); a negative one is no count."""
    for width in (4, 40):
        z = np.resize(np.array([0.0, -INF, 2.0, 0.0], dtype), (1, width))
        t = np.resize([1.0, 0.0, 0.0, -1.0], (1, width))
        good = t >= 0
        answer = fastbp.poisson_deviance(z[good], t[good], reduction="none")
        assert_near(answer.loss, np.resize([0, 0, np.exp(2)], good.sum()))
        assert_near(answer.grad, np.resize([0, 0, np.exp(2)], good.sum()))
        spoilt = fastbp.poisson_deviance(z, t)
        assert np.isnan(spoilt.loss) and np.array_equal(np.isnan(spoilt.grad), ~good)


# -- a gradient larger than the caches ------------------------------------------------------------------------------------------


@every_pair("isa", "dtype", all_options=[False, True])
def test_a_gradient_that_goes_past_the_caches_has_the_bits_of_one_in_place(isa, dtype, all_options):
    """Of 64 MiB and more, in rows of odd length, some of them not read, among zeros that are to stay."""
    rng = generator("past the caches", dtype, all_options)
    n, c = 2 * 2**20 * 8 // (16411 * np.dtype(dtype).itemsize // 4) + 1, 16411
    z, labels = rng.standard_normal((n, c), dtype).astype(dtype) * dtype(8), rng.integers(0, c, n)
    labels[[0, 7, 8, n - 1]] = -100
    options = {}
    if all_options:
        weights = rng.uniform(0.5, 2, c)
        options = {"class_weight": weights, "label_smoothing": 0.1, "lse_square_scale": 0.01, "softcap": 30.0}
    around = np.zeros((n + 2, c), dtype)
    loss, grad, _ = fastbp.softmax_cross_entropy(z, labels, grad_out=around[1:-1], n_threads=2, **options)
    assert z.nbytes >= 64 * 2**20 and not around[[0, -1]].any()
    there, _, _ = fastbp.softmax_cross_entropy(z, labels, grad_out=z, n_threads=1, **options)
    assert loss == there
    assert np.array_equal(grad.view(np.uint8), z.view(np.uint8))
