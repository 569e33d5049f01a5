"""fastbp.torch in PyTorch's memory and graphs: what is shared, computed when, kept, refused, and compiled."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from tolerances import NO_WORSE
from torch_calls import (
    EPS,
    REDUCTIONS,
    F,
    T,
    Z,
    assert_agree,
    classes,
    generator,
    plain_linear,
    probabilities,
    rand,
    randn,
    solve,
)

import fastbp

torch = pytest.importorskip("torch")


import fastbp.torch as ours  # noqa: E402
from fastbp.torch import arguments, errors  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    generator.manual_seed(0)


CALLS = {
    "cross_entropy": lambda x, v, **options: ours.cross_entropy(x, T, **options),
    "binary_cross_entropy_with_logits": lambda x, v, **options: ours.binary_cross_entropy_with_logits(
        x, rand(*x.shape, dtype=x.dtype), **options
    ),
    "linear_cross_entropy": lambda x, v, **options: ours.linear_cross_entropy(x, v, T, **options),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def leaves(dtype=torch.float64):
    return randn(3, 4, dtype=dtype).requires_grad_(), randn(5, 4, dtype=dtype).requires_grad_()


@pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="PyTorch 2.13 has them")
def test_options_choose_the_memory(monkeypatch):
    x, v = torch.zeros(10, 30), torch.zeros(10**6, 30)
    kind = torch.nn.LinearCrossEntropyOptions
    chunks = [kind(batch_chunk_size=n, chunking_method=None) for n in (7, 1)]
    memory = [arguments.block_memory(options, x, v) for options in (None, kind(), *chunks)]
    assert memory == [64 * 2**20, (10 + 10**6) * 30 * 4 // 6, 8 * 4 * 10**6, 8 * 2**20]

    seen, real = [], fastbp.linear_softmax_cross_entropy

    def linear(*arrays, **options):
        seen.append(options["max_memory"])
        return real(*arrays, **options)

    monkeypatch.setattr(fastbp, "linear_softmax_cross_entropy", linear)
    x, v = leaves()
    plain, small = (ours.linear_cross_entropy(x, v, T, options=options) for options in (None, kind()))
    assert seen == [64 * 2**20, 8 * 2**20] and torch.equal(plain, small)
    with pytest.raises(
        TypeError, match=r"^options: got int, expected torch.nn.LinearCrossEntropyOptions or None"
    ):
        ours.linear_cross_entropy(x, v, T, options=3)


def test_nothing_is_copied(monkeypatch):
    seen = SimpleNamespace()

    def softmax(logits, targets, **options):
        seen.logits, seen.answer = logits, real(logits, targets, **options)
        return seen.answer

    def linear(inputs, weight, targets, **options):
        seen.inputs, seen.weight, seen.answer = inputs, weight, whole(inputs, weight, targets, **options)
        return seen.answer

    def address(array):
        return array.__array_interface__["data"][0]

    real, whole = fastbp.softmax_cross_entropy, fastbp.linear_softmax_cross_entropy
    monkeypatch.setattr(fastbp, "softmax_cross_entropy", softmax)
    monkeypatch.setattr(fastbp, "linear_softmax_cross_entropy", linear)
    x, v = leaves()
    ours.cross_entropy(x, T).backward(torch.tensor(2.0, dtype=torch.float64))
    assert address(seen.logits) == x.data_ptr()
    assert x.grad.data_ptr() == address(seen.answer.grad)  # the leaf took it for its own
    x.grad = None
    ours.linear_cross_entropy(x, v, T).backward()
    assert (address(seen.inputs), address(seen.weight)) == (x.data_ptr(), v.data_ptr())
    assert x.grad.data_ptr() == address(seen.answer.grad_inputs)
    assert v.grad.data_ptr() == address(seen.answer.grad_weight) and v.grad.is_contiguous()


@every_call
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_second_call_on_a_graph_that_is_kept(call, reduction):
    """Also where somebody has written into what the first one returned, or into a leaf's gradient, which accumulates."""
    x, v = leaves()
    loss = call(x, v, reduction=reduction)
    upstream = torch.full_like(loss, 3.0)
    (once,) = torch.autograd.grad(loss, x, upstream, retain_graph=True)
    kept = once.clone()
    once.zero_()
    (again,) = torch.autograd.grad(loss, x, upstream, retain_graph=True)
    assert torch.equal(again, kept)
    loss.backward(upstream, retain_graph=True)
    loss.backward(upstream)
    assert torch.allclose(x.grad, 2 * kept, rtol=NO_WORSE * EPS)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward(upstream)


@every_call
def test_logits_that_have_changed_are_not_read_again(call):
    x, v = leaves()
    y = x * 1
    loss = call(y, v)
    with torch.no_grad():
        y += 1
    torch.autograd.grad(loss, x, retain_graph=True)  # was computed before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


@every_call
def test_only_what_is_asked_for(call):
    x, v = leaves()
    loss = call(x.detach(), v)
    assert loss.requires_grad == (call is CALLS["linear_cross_entropy"])
    if loss.requires_grad:
        loss.backward()
        assert x.grad is None and v.grad.shape == v.shape


@every_call
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_gradient_is_computed_where_none_is_needed(call, reduction, monkeypatch):
    """Blocks of two rows: all their deltas go to the same memory."""
    outputs = set()

    def watched(function):
        def call(*arguments, grad_out=None, **options):
            outputs.add(grad_out is not None and grad_out.__array_interface__["data"][0])
            return function(*arguments, grad_out=grad_out, **options)

        return call

    x, v = leaves()
    generator.manual_seed(1)
    want = call(x, v, reduction=reduction).detach()
    monkeypatch.setattr(errors, "_BUFFER", 2 * 4 * 8)
    monkeypatch.setattr(arguments, "MAX_MEMORY", 2 * 5 * 8)
    for name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        monkeypatch.setattr(fastbp, name, watched(getattr(fastbp, name)))
    monkeypatch.delattr(fastbp, "linear_softmax_cross_entropy")
    with torch.no_grad():
        generator.manual_seed(1)
        loss = call(x, v, reduction=reduction)
    assert not loss.requires_grad and torch.allclose(loss, want, rtol=NO_WORSE * EPS)
    assert False not in outputs and len(outputs) <= 1


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.0, 3.0])], ids=["plain", "weighted"])
def test_the_mean_of_blocks(weight, monkeypatch):
    monkeypatch.setattr(errors, "_BUFFER", 2 * 4 * 4)
    z, t = randn(9, 4, dtype=torch.float32), classes(4, 9)
    assert torch.allclose(ours.cross_entropy(z, t, weight), F.cross_entropy(z, t, weight))
    assert ours.cross_entropy(z, torch.full_like(t, -100), weight).isnan()
    rows = probabilities((9, 4), 1).float()
    assert torch.allclose(ours.cross_entropy(z, rows, weight), F.cross_entropy(z, rows, weight))


@every_call
def test_a_second_derivative_is_refused(call):
    x, v = leaves()
    generator.manual_seed(1)
    (gradient,) = torch.autograd.grad(call(x, v), x, create_graph=True)
    generator.manual_seed(1)
    assert torch.equal(gradient, torch.autograd.grad(call(x, v), x)[0])
    with pytest.raises(RuntimeError, match="got a second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction):
    options = {"reduction": reduction, "label_smoothing": 0.1}
    x, v, b, w = (
        each.requires_grad_(i < 3) for i, each in enumerate((randn(3, 4), randn(4, 4), randn(4), rand(4)))
    )
    rows = probabilities((3, 4), 1)
    check = torch.autograd.gradcheck
    assert check(lambda z: ours.cross_entropy(z, T, w, **options), x)
    assert check(lambda z: ours.cross_entropy(z, rows, w, **options), x)
    assert check(
        lambda z: ours.binary_cross_entropy_with_logits(z, rows, w, reduction=reduction, pos_weight=w), x
    )
    assert check(
        lambda *given: ours.linear_cross_entropy(*given[:2], T, linear_bias=given[2], **options), (x, v, b)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["cross_entropy", "binary_cross_entropy_with_logits", "linear_cross_entropy"]
)
def test_half_precision_is_computed_in_float32(name, dtype):
    """And rounded once: as PyTorch's result in float32 is."""
    t = probabilities((3, 4), 1).to(dtype) if name.startswith("binary") else T
    given = [randn(3, 4, dtype=dtype)] + [randn(5, 4, dtype=dtype)] * (name == "linear_cross_entropy")

    def of_torch(*arguments):
        arguments = [each.float() if each.is_floating_point() else each for each in arguments]
        if name == "linear_cross_entropy":
            return plain_linear(*arguments).to(dtype)
        return getattr(F, name)(*arguments).to(dtype)

    got, want = solve(getattr(ours, name), given, t), solve(of_torch, given, t)
    assert_agree(got, want, [1 + each.abs().amax() for each in want])
    with torch.autocast("cpu"):
        assert getattr(ours, name)(*given, t).dtype == torch.float32


def test_dtypes_that_are_promoted():
    z, rows, w = randn(3, 4, dtype=torch.float32), probabilities((3, 4), 1), rand(4)
    for mine, theirs in (
        (ours.cross_entropy, F.cross_entropy),
        (ours.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
    ):
        got, want = (solve(function, [z], rows, w) for function in (mine, theirs))
        assert [each.dtype for each in got] == [each.dtype for each in want] == [torch.float64, torch.float32]
        assert_agree([each.float() for each in got], [each.float() for each in want], (30, 3))


def test_threads_are_those_of_torch(monkeypatch):
    seen = []

    def watched(*arguments, n_threads=None, **options):
        seen.append(n_threads)
        return real(*arguments, n_threads=n_threads, **options)

    real = fastbp.softmax_cross_entropy
    monkeypatch.setattr(fastbp, "softmax_cross_entropy", watched)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ours.cross_entropy(Z, T)
    finally:
        torch.set_num_threads(before)
    assert seen == [3]


def test_transforms_of_functions_are_refused():
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda z: ours.cross_entropy(z, T))(Z)
    with pytest.raises(RuntimeError):
        torch.func.vmap(lambda z, t: ours.cross_entropy(z, t))(Z, T)


def test_compiled():
    """As one graph: the operators tell the compiler what they are."""

    def program(x, v, b, t):
        total = 0
        for reduction in REDUCTIONS:
            options = {"reduction": reduction}
            total = total + 2 * ours.cross_entropy(3 * x, T, **options).sum()
            total = total + 3 * ours.binary_cross_entropy_with_logits(x, t, t, **options).sum()
            total = total + 4 * ours.linear_cross_entropy(x, v, T, linear_bias=b, **options).sum()
        return total

    given, t = (randn(3, 4), randn(5, 4), randn(5)), rand(3, 4)
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
    got, want = (solve(function, given, t) for function in (compiled, program))
    assert_agree(got, want, [1 + each.abs().max() for each in want])
    with torch.no_grad():
        assert_agree([compiled(*given, t)], want[:1], [1 + want[0]])


def test_operators():
    """What PyTorch asks of one: its schema, its shapes without numbers, its gradient."""
    x, v = leaves()
    fields = (None, True, "mean")
    checked = {
        "cross_entropy": (x, T, None, *fields, -100, 0.1),
        "binary_cross_entropy_with_logits": (x, rand(3, 4), None, rand(4), *fields),
        "linear_cross_entropy": (x, v, None, T, rand(5), *fields, -100, 0.1, 2**26),
    }
    for name, given in checked.items():
        torch.library.opcheck(
            getattr(torch.ops.fastbp, name).default,
            given,
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@every_call
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_checkpoints_compute_it_again(call, reduction):
    x, v = leaves()

    def loss(x):
        generator.manual_seed(1)
        return call(2 * x, v, reduction=reduction).sum()

    again = importlib.import_module("torch.utils.checkpoint").checkpoint(loss, x, use_reentrant=False)
    assert torch.equal(*(torch.autograd.grad(each, x)[0] for each in (again, loss(x))))


def test_products_are_as_precise_as_torch_is_told(monkeypatch):
    seen = []

    def watched(*arguments, precision=None, **options):
        seen.append(precision)
        return real(*arguments, precision=precision, **options)

    real = fastbp.linear_softmax_cross_entropy
    monkeypatch.setattr(fastbp, "linear_softmax_cross_entropy", watched)
    before = torch.get_float32_matmul_precision()
    x, v = leaves()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            ours.linear_cross_entropy(x, v, T)
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "high", "medium"]
