"""The last layer and its error in one: against the exact values, against the functions it is made of, and within its memory."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from conftest import NATIVE_ONLY, THINNED, Compact, Out, Problem, check, check_threads, generator, solve
from interrupts import needs_signals, raising
from test_losses import SOFTMAX_OPTIONS, combined, sampled

import fastbp
from fastbp import _backend, _reference

NAN = np.nan
SIZES = [(1, 1, 1), (1, 3, 2), (2, 1, 5), (7, 4, 1), (5, 0, 3), (13, 17, 31), (33, 8, 65), (64, 33, 129)]
SIZES += [(5, 257, 40), (29, 9, 1003), (40, 20, 16), (130, 5, 24)]  # (N, I, C)
PLACE = list(inspect.signature(_reference.linear_softmax_cross_entropy).parameters).index("max_memory")


def least_memory(call, *arguments, **options) -> int:
    """What the error message of a call with next to no memory says it takes."""
    with pytest.raises(ValueError, match=r"^max_memory: got 1, expected at least \d+ bytes") as caught:
        call(*arguments, **options)
    return int(re.search(r"at least (\d+) bytes", str(caught.value)).group(1))


def in_small_blocks(kernels, *arguments):
    """The kernel with the least memory it takes, so that a block is a row, and `max_memory` more."""
    if kernels is not _reference:
        before, more, after = arguments[:PLACE], arguments[PLACE], arguments[PLACE + 1 :]
        least = least_memory(kernels.linear_softmax_cross_entropy, *before, 1, *after)
        arguments = (*before, least + more, *after)
    return kernels.linear_softmax_cross_entropy(*arguments)


def problem(rng, size, dtype, function="linear_softmax_cross_entropy", bias=True, max_memory=2**26, **chosen):
    """One call. Rows that are not to be read, of an ignored label or of weight 0, hold NaN."""
    n, i, c = size
    o = {name: values[0] for name, values in SOFTMAX_OPTIONS.items()} | chosen
    x, weight = 2 * rng.standard_normal((n, i)), 4 * rng.standard_normal((i, c)) / max(i, 1) ** 0.5
    labels = rng.integers(0, c, n)
    one_hot = (np.arange(c) == labels[:, None]).astype(float)
    soft = rng.random((n, c)) ** 4 + 1e-3 * one_hot
    forms = {"one_hot": one_hot, "soft": soft / soft.sum(axis=1, keepdims=True), "unnormalised": soft}
    if o["form"] == "labels" and o["ignored"] is not None:
        labels[rng.random(n) < 0.3] = o["ignored"]
        x[labels == o["ignored"]] = NAN
    s = None
    if o["sample_weights"]:
        s = rng.uniform(0.2, 2, n)
        s[-1], x[-1] = 0, NAN
    arguments = {
        "inputs": x.astype(dtype),
        "weight": weight.astype(dtype),
        "bias": rng.standard_normal(c).astype(dtype) if bias else None,
        "labels": labels if o["form"] == "labels" else None,
        "targets": None if o["form"] == "labels" else forms[o["form"]].astype(dtype),
        "class_weight": rng.uniform(0.2, 2, c) if o["class_weights"] else None,
        "sample_weight": s,
        "ignore_index": -100 if o["ignored"] is None else o["ignored"],
        "label_smoothing": o["label_smoothing"],
        "lse_square_scale": o["lse_square_scale"],
        "softcap": o["softcap"],
        "mean": o["reduction"] == "mean",
        "max_memory": max_memory,
        "precision": None,
        "losses": Out((n,)) if o["reduction"] == "none" else None,
        "grad_inputs": Out((n, i)),
        "grad_weight": Out((i, c)),
        "grad_bias": Out((c,)) if bias else None,
    }
    return Problem(function, dtype, arguments)


def small_blocks(rng, size, dtype, rows=0, **chosen):
    """The same in blocks of one row, or of so many more."""
    return problem(rng, size, dtype, in_small_blocks, max_memory=rows * 8 * (size[2] + size[1] + 1), **chosen)


# -- against the exact values --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def problems_of_every_option(dtype):
    options = {**SOFTMAX_OPTIONS, "small": (False, True), "bias": (True, False)}
    problems = []
    for chosen in combined(options, dtype):
        rng, small = generator(chosen), chosen.pop("small")
        problems.append((small_blocks if small else problem)(rng, (9, 6, 13), dtype, **chosen))
    return problems


@lru_cache(maxsize=1)
def problems_of_every_size(dtype):
    problems = []
    for size in SIZES:
        rng = generator(size)
        for chosen in ({}, {"ignored": -100}, sampled_options(rng), sampled_options(rng)):
            problems.append(problem(rng, size, dtype, **chosen))
            problems.append(small_blocks(rng, size, dtype, rows=rng.integers(0, 5), **chosen))
    return problems


def sampled_options(rng):
    chosen = sampled(rng, SOFTMAX_OPTIONS)
    return chosen if chosen["form"] == "labels" else chosen | {"ignored": None}


@THINNED
def test_every_option(dtype, engine):
    for each in problems_of_every_option(dtype):
        check(engine, each)


def test_every_size(dtype, engine):
    for each in problems_of_every_size(dtype):
        check(engine, each)


@pytest.mark.parametrize(
    ("size", "max_memory"),
    [((300, 70, 200), 2**26), ((40, 100, 1500), 2**26), ((131, 10, 12_001), 2**22)],  # the last in blocks
)
def test_threads(isa, dtype, size, max_memory):
    rng = generator(size)
    for chosen in ({}, sampled_options(rng)):
        check_threads(_backend.kernels, problem(rng, size, dtype, max_memory=max_memory, **chosen))


def test_finite_differences(backend):
    """Of the error for the inputs, the weight in both layouts, and the bias."""
    rng = generator("differences")
    x, w, b = rng.standard_normal((7, 4)), rng.standard_normal((4, 5)), rng.standard_normal(5)
    labels, weight = np.array([0, 3, -100, 1, 4, 2, 2]), rng.uniform(0.5, 2, 7)
    options = {"class_weight": rng.uniform(0.5, 2, 5), "sample_weight": weight, "label_smoothing": 0.1}
    options |= {"lse_square_scale": 0.05, "softcap": 5.0}

    def by(field, place):
        def function(value):
            x_, w_, b_ = (value if number == place else given for number, given in enumerate((x, w, b)))
            answer = fastbp.linear_softmax_cross_entropy(x_, w_, labels, bias=b_, **options)
            return answer.loss, getattr(answer, field)

        return function

    for field, place, value in (("grad_inputs", 0, x), ("grad_weight", 1, w), ("grad_bias", 2, b)):
        assert fastbp.check_gradient(by(field, place), value) < 1e-7
    transposed = by("grad_weight", 1)
    assert fastbp.check_gradient(lambda v: (transposed(v.T)[0], transposed(v.T)[1].T), w.T.copy()) < 1e-7


# -- against the functions that it is made of ----------------------------------------------------------------------------------


def ordinary(dtype, size=(50, 20, 70), ignored=True):
    n, i, c = size
    rng = generator(size)
    x, w = rng.standard_normal((n, i)).astype(dtype), rng.standard_normal((i, c)).astype(dtype)
    labels = rng.integers(0, c, n)
    if ignored:
        labels[rng.random(n) < 0.4] = -100
        x[labels == -100] = NAN
    return x, w, rng.standard_normal(c).astype(dtype), labels


def same(a, b):
    """Two answers, or parts of them, agree in every bit."""
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("form", ["labels", "rows"])
def test_it_is_what_it_is_made_of(isa, dtype, form):
    """In every bit, in one block; in many, all but the gradients that are sums over blocks."""
    for options in ({}, {"label_smoothing": 0.1}, {"softcap": 9.0}, {"reduction": "none"}):
        x, w, b, targets = ordinary(dtype, ignored=form == "labels")
        if form == "rows":
            targets = generator("rows").random((len(x), len(b)))
        weight = generator("weights").uniform(0.5, 2, len(b))
        loss, delta, weight_sum = fastbp.softmax_cross_entropy(
            fastbp.linear(x, w, b), targets, class_weight=weight, **options
        )
        read = np.isfinite(x[:, 0])
        grad_weight, grad_bias = fastbp.linear_backward_weight(x[read], delta[read])
        grad_inputs = fastbp.linear_backward_input(delta, w)

        def call(targets=targets, x=x, w=w, b=b, weight=weight, options=options, **more):
            return fastbp.linear_softmax_cross_entropy(
                x, w, targets, bias=b, class_weight=weight, **options, **more
            )

        want = (loss, grad_inputs, grad_weight, grad_bias, weight_sum)
        assert same(call(), want)
        least = least_memory(call, max_memory=1)
        for max_memory in (least, least + 9 * 70 * x.itemsize):
            got = call(max_memory=max_memory)
            assert same((got.loss, got.grad_inputs, got.weight_sum), (loss, grad_inputs, weight_sum))


@pytest.mark.parametrize("unread", [NAN, np.inf, 1.0])
def test_examples_that_are_not_read_leave_no_trace(isa, dtype, unread):
    """The gradients are those of the batch without them, in every bit and in blocks of any size."""
    x, w, b, labels = ordinary(dtype)
    read = labels != -100
    x[~read] = unread
    weight = read.astype(float)

    def alone(**options):
        return fastbp.linear_softmax_cross_entropy(x[read], w, labels[read], bias=b, **options)

    for ignoring in ({}, {"sample_weight": weight}):
        targets = np.where(read, labels, 0) if ignoring else labels

        def among(targets=targets, ignoring=ignoring, **options):
            return fastbp.linear_softmax_cross_entropy(x, w, targets, bias=b, **ignoring, **options)

        got, want = among(), alone()
        assert not got.grad_inputs[~read].any()
        assert same(got._replace(grad_inputs=got.grad_inputs[read]), want)
        one_row = among(max_memory=least_memory(among, max_memory=1))
        want = alone(max_memory=least_memory(alone, max_memory=1))
        assert same(one_row._replace(grad_inputs=one_row.grad_inputs[read]), want)


LAYOUTS = {
    "transposed": lambda w: w.T.copy().T,
    "every other element": lambda w: np.repeat(np.repeat(w, 2, axis=0), 3, axis=1)[::2, ::3],
    "transposed, with gaps": lambda w: np.repeat(w.T, 2, axis=1)[:, ::2].T,
    "backwards": lambda w: w[::-1, ::-1].copy()[::-1, ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_any_layout(backend, dtype, layout):
    """Read as they lie; and their gradient, which has the same bits, lies like them: by rows or by columns."""
    for size in SIZES:
        x, w, b, labels = ordinary(dtype, size)
        given = LAYOUTS[layout](w)
        assert (given == w).all()
        want = fastbp.linear_softmax_cross_entropy(x, w, labels, bias=b)
        got = fastbp.linear_softmax_cross_entropy(x, given, labels, bias=b)
        assert got.grad_weight.shape == w.shape
        assert (
            got.grad_weight.flags.f_contiguous
            if "transposed" in layout
            else got.grad_weight.flags.c_contiguous
        )
        if backend == "native":
            assert same(got, want), size
        else:
            np.testing.assert_allclose(got.grad_weight, want.grad_weight, atol=1e-5)


@THINNED
def test_public_agrees_with_the_kernels(backend, dtype):
    """Every option reaches the kernel as it was meant, and the answer comes back in the dtype that came in."""
    for chosen in combined(SOFTMAX_OPTIONS, "public"):
        each = problem(generator(chosen), (4, 3, 5), dtype, **chosen)
        outputs = ("losses", "grad_inputs", "grad_weight", "grad_bias", "mean")
        o = {name: value for name, value in each.arguments.items() if name not in outputs}
        x, w, labels, rows = o.pop("inputs"), o.pop("weight"), o.pop("labels"), o.pop("targets")
        if labels is None:
            del o["ignore_index"]
        o["softcap"] = o["softcap"] or None
        answer = fastbp.linear_softmax_cross_entropy(
            x, w, rows if labels is None else labels, reduction=chosen["reduction"], **o
        )
        want = solve(_backend.kernels, each, memory=Compact())
        error = want.losses if chosen["reduction"] == "none" else dtype(want.loss)
        gradients = (want.grad_inputs, want.grad_weight, want.grad_bias)
        assert same(answer, (error, *gradients, want.weight_sum)), str(each)
        assert {part.dtype for part in answer[:4]} == {np.dtype(dtype)} and type(answer.weight_sum) is float


# -- edge cases ----------------------------------------------------------------------------------------------------------------


def nothing_to_learn(dtype):
    """No row; rows that are all ignored or of weight 0, NaN among them."""
    x, w, b, labels = ordinary(dtype, (5, 4, 3), ignored=False)
    spoilt = x.copy()
    spoilt[1] = NAN
    yield x[:0], w, b, labels[:0], {}
    yield spoilt, w, b, np.full(5, -100), {}
    yield spoilt, w, b, labels, {"sample_weight": np.zeros(5)}


def test_nothing_to_learn(dtype, engine):
    """The mean is NaN, everything else 0."""
    for x, w, b, labels, options in nothing_to_learn(dtype):
        for weight in (w, w.T.copy().T):
            answers = [
                fastbp.linear_softmax_cross_entropy(x, weight, labels, bias=b, reduction=each, **options)
                for each in ("mean", "sum", "none")
            ]
            mean, total, none = (answer.loss for answer in answers)
            assert np.isnan(mean) and total == 0 and none.tolist() == [0] * len(x)
            for answer in answers:
                gradients = answer[1:4]
                assert [g.shape for g in gradients] == [x.shape, w.shape, b.shape]
                assert not any(g.any() for g in gradients) and answer.weight_sum == 0


def test_all_class_weights_zero(dtype, engine):
    """Nothing to average, and so nothing to learn, from a row of NaN either."""
    x, w, _, labels = ordinary(dtype, (5, 4, 3), ignored=False)
    x[2] = NAN
    answer = fastbp.linear_softmax_cross_entropy(x, w, labels, class_weight=[0, 0, 0])
    assert np.isnan(answer.loss) and answer.weight_sum == 0 and answer.grad_bias is None
    assert not answer.grad_inputs.any() and not answer.grad_weight.any()


def test_what_is_not_finite_stays_in_its_row(dtype, engine):
    x, w, b, labels = ordinary(dtype, ignored=False)
    clean = fastbp.linear_softmax_cross_entropy(x, w, labels, bias=b, reduction="none")
    x[3] = NAN
    answer = fastbp.linear_softmax_cross_entropy(x, w, labels, bias=b, reduction="none")
    others = np.arange(len(x)) != 3
    assert np.isnan(answer.loss[3]) and np.isnan(answer.grad_inputs[3]).all()
    np.testing.assert_array_equal(np.isnan(answer.loss), ~others)
    np.testing.assert_allclose(answer.loss[others], clean.loss[others], rtol=1e-5)
    assert np.isfinite(answer.grad_inputs[others]).all() and np.isnan(answer.grad_weight).all()


# -- memory, threads, interrupts -----------------------------------------------------------------------------------------------

PEAK = """
import numpy as np, fastbp, re

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))

rng = np.random.default_rng(0)
x, w = rng.standard_normal((1024, 64), np.float32), rng.standard_normal((64, 32000), np.float32)
labels = rng.integers(0, 32000, 1024)
labels[::3] = -100
fastbp.linear_softmax_cross_entropy(x[:64], w[:, :64], labels[:64] % 64)  # threads have their stacks
open("/proc/self/clear_refs", "w").write("5")  # the peak is what is in use now
before = peak()
answer = fastbp.linear_softmax_cross_entropy(x, w, labels, max_memory=16 * 2**20)
print(peak() - before - answer.grad_inputs.nbytes - answer.grad_weight.nbytes)
"""


@NATIVE_ONLY
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peak of memory to be reset here")
def test_the_peak_of_memory():
    """Of the 131 MB that the logits would take, at most max_memory, and what the interpreter does meanwhile."""
    environment = os.environ | {"FASTBP_BACKEND": "native"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    assert 0 < int(done.stdout) < (16 + 3) * 2**20


@NATIVE_ONLY
def test_more_memory_than_it_needs_is_not_taken():
    """The work space is that of one block: next to nothing here, where malloc would refuse what is allowed."""
    x, w, b, labels = ordinary(np.float32)
    with _backend.use("native"):
        got = fastbp.linear_softmax_cross_entropy(x, w, labels, bias=b, max_memory=2**62)
        assert same(got, fastbp.linear_softmax_cross_entropy(x, w, labels, bias=b))


def test_any_number_of_threads_may_be_asked_for(isa):
    """With the least memory as well: those take part for which there is scratch."""
    x, w, _, labels = ordinary(np.float64, (64, 40, 3000))
    call = fastbp.linear_softmax_cross_entropy
    for memory in ({}, {"max_memory": least_memory(call, x, w, labels, max_memory=1)}):
        one, many = (call(x, w, labels, n_threads=n, **memory) for n in (1, 2**40))
        assert same(one[:3], many[:3])


@NATIVE_ONLY
@needs_signals
def test_an_interrupt_stops_it():
    """A call that would take minutes."""
    x, w = np.zeros((20_000, 512), np.float32), np.zeros((512, 60_000), np.float32)
    labels = np.zeros(len(x), int)
    with raising(KeyboardInterrupt) as send, _backend.use("native"), pytest.raises(KeyboardInterrupt):
        send(0.3)
        fastbp.linear_softmax_cross_entropy(x, w, labels)


# -- error messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": np.zeros(4)}, ValueError, "inputs: got shape (4,), expected (N, I)"),
        ({"weight": np.zeros((3, 5))}, ValueError, "weight: got shape (3, 5), expected (4, O) for inputs of shape (2, 4)"),
        ({"weight": np.zeros((4, 5), np.float32)}, TypeError, "weight: got dtype float32, expected float64 like inputs"),
        ({"weight": np.zeros((4, 0))}, ValueError, "weight: got shape (4, 0), expected (I, C) with at least one class"),
        ({"bias": np.zeros(4)}, ValueError, "bias: got shape (4,), expected (5,), one for each output"),
        ({"targets": [0, 1, 2]}, ValueError, "targets: got shape (3,), expected (2,), one class for each row of inputs"),
        ({"targets": np.zeros((2, 4))}, ValueError, "targets: got shape (2, 4), expected (2, 5), or class indices (2,)"),
        (
            {"targets": np.eye(5)[:2], "ignore_index": 0},
            ValueError,
            "ignore_index: got 0 with rows of targets, expected class indices",
        ),
        ({"class_weight": [1, 2]}, ValueError, "class_weight: got shape (2,), expected (5,), one weight for each class"),
        ({"reduction": "max"}, ValueError, "reduction: got 'max', expected one of mean, sum, none"),
        ({"max_memory": 0}, ValueError, "max_memory: got 0, expected a number of bytes, an integer >= 1"),
        ({"max_memory": 1e6}, TypeError, "max_memory: got float, expected a number of bytes, an integer >= 1"),
        (
            {"targets": [0, 5]},
            fastbp.TargetIndexError,
            "targets: row 1 is 5, expected a class index in [0, 5) or ignore_index=-100",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_wrong_is_named(backend, changes, error, message):
    good = {"inputs": np.ones((2, 4)), "weight": np.ones((4, 5)), "targets": np.array([0, 1])}
    with pytest.raises(error) as caught:
        fastbp.linear_softmax_cross_entropy(**good | changes)
    assert str(caught.value) == message


def test_the_least_memory_is_enough(isa, dtype):
    """One byte less is not, and says the same."""
    x, w, b, labels = ordinary(dtype, (6, 700, 900))
    for weight, targets in ((w, labels), (w.T.copy().T, labels), (w, np.abs(labels))):
        arguments = (np.nan_to_num(x), weight, targets)
        least = least_memory(fastbp.linear_softmax_cross_entropy, *arguments, bias=b, max_memory=1)
        fastbp.linear_softmax_cross_entropy(*arguments, bias=b, max_memory=least)
        with pytest.raises(
            ValueError, match=rf"^max_memory: got {least - 1}, expected at least {least} bytes"
        ):
            fastbp.linear_softmax_cross_entropy(*arguments, bias=b, max_memory=least - 1)


@pytest.mark.parametrize("read", [3, 40, 299])
def test_the_error_has_the_bits_of_the_two_functions_however_few_rows_are_read(isa, read):
    """Also where a product of all rows goes in pieces of its numbers, and one of those that are read would not."""
    rng = generator(read)
    x, w = (
        rng.standard_normal((300, 200)).astype(np.float32),
        rng.standard_normal((200, 300)).astype(np.float32),
    )
    labels = rng.integers(0, 300, 300)
    labels[rng.permutation(300)[read:]] = -100
    together = fastbp.linear_softmax_cross_entropy(x, w, labels, reduction="none")
    apart = fastbp.softmax_cross_entropy(fastbp.linear(x, w), labels, reduction="none")
    assert together.loss.tobytes() == apart.loss.tobytes()
