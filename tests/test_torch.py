"""fastbp.torch beside torch.nn.functional: the same numbers, gradients and types of errors; what becomes of memory and graphs."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from pairs import combinations
from tolerances import ACTIVATIONS, NO_WORSE, sum_of

import fastbp

torch = pytest.importorskip("torch")

import fastbp.torch as ours  # noqa: E402
from fastbp.torch import errors  # noqa: E402

F = torch.nn.functional


EPS = torch.finfo(torch.float64).eps
REDUCTIONS = ["mean", "sum", "none"]
generator = torch.Generator()


@pytest.fixture(autouse=True)
def seeded():
    generator.manual_seed(0)


def rand(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def randn(*shape, dtype=torch.float64):
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def classes(n, *shape):
    return torch.randint(n, shape, generator=generator)


def probabilities(shape, axis):
    return randn(*shape).softmax(axis)


def solve(function, leaves, *arguments, **options):
    """The error, and the gradients of the leaves for a random gradient from above."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    loss = function(*leaves, *arguments, **options)
    upstream = torch.rand(loss.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    loss.backward(upstream.to(loss.dtype))
    return loss.detach(), *(leaf.grad for leaf in leaves)


def assert_agree(got, want, sizes):
    """Each within rounding of terms of this size: both are off by a few eps of them, and by what a sum of n adds."""
    for mine, theirs, size in zip(got, want, sizes, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        error = torch.where(mine.isnan() & theirs.isnan(), 0, (mine - theirs).abs())
        few = 2 * NO_WORSE + 2 * sum_of(1000)
        assert (error <= few * torch.finfo(mine.dtype).eps * size).all(), (mine, theirs)


def contiguous(x):
    return x


def every_other(x):
    """The same numbers with gaps between them."""
    return torch.stack([x, x], -1)[..., 0]


def by_columns(x):
    return x.T.contiguous().T if x.ndim == 2 else x


LAYOUTS = [contiguous, every_other, by_columns]


def words(row):
    return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in row.items())


# -- the same numbers ------------------------------------------------------------------------------------------------------------

CROSS_ENTROPY = combinations(
    {
        "shape": [(7, 5), (5,), (7, 5, 3), (4, 5, 2, 3), (0, 5), (7, 1), (300, 40)],
        "targets": ["classes", "some ignored", "all ignored", "class 2 ignored", "probabilities", "bytes"],
        "weighted": [False, True],
        "label_smoothing": [0.0, 0.1, 1.0],
        "reduction": REDUCTIONS,
        "layout": LAYOUTS,
    },
    meaningful=lambda row: row["shape"] != (7, 1) or row["targets"] != "class 2 ignored",
)


@pytest.mark.parametrize("row", CROSS_ENTROPY, ids=words)
def test_cross_entropy(row):
    shape, axis = row["shape"], min(1, len(row["shape"]) - 1)
    c, others = shape[axis], shape[:axis] + shape[axis + 1 :]
    z = row["layout"](randn(*shape))
    t, options = classes(c, *others), {name: row[name] for name in ("label_smoothing", "reduction")}
    if row["targets"] == "probabilities":
        t = row["layout"](probabilities(shape, axis))
    elif row["targets"] == "bytes":
        t = t.to(torch.uint8)
    elif row["targets"] == "some ignored":
        t = torch.where(rand(*others) < 0.5, -100, t)
    elif row["targets"] == "all ignored":
        t = torch.full_like(t, -100)
    elif row["targets"] == "class 2 ignored":
        options["ignore_index"] = 2
    w = row["layout"](0.5 + rand(c)) if row["weighted"] else None
    got = solve(ours.cross_entropy, [z], t, w, **options)
    want = solve(F.cross_entropy, [z], t.long() if t.dtype == torch.uint8 else t, w, **options)
    size = 1.5 * 2 * (1 + np.log(c) + 2 * float(z.abs().amax()) if z.numel() else 1)
    count = max(1, t.numel()) if row["reduction"] == "sum" else 1
    assert_agree(got, want, (size * count, 2 * 1.5))


SIGMOID = combinations(
    {
        "shape": [(7, 5), (), (9,), (7, 1), (4, 3, 2, 5), (0, 5), (30, 100)],
        "weight": [None, "all", "columns", "rows", "one"],
        "pos_weight": [None, "columns", "all", "one", "channels"],
        "reduction": REDUCTIONS,
        "layout": LAYOUTS,
        "soft": [True, False],
    }
)


def broadcasting(kind, shape):
    """Weights of outputs of this shape."""
    if kind is None:
        return None
    sizes = {
        "all": shape,
        "columns": shape[-1:],
        "rows": (*shape[:-1], 1) if shape else (),
        "one": (1,) if shape else (),
    }
    sizes["channels"] = (*shape[1:-1], 1) if len(shape) > 1 else ()
    return 0.5 + rand(*sizes[kind])


@pytest.mark.parametrize("row", SIGMOID, ids=words)
def test_binary_cross_entropy_with_logits(row):
    shape = row["shape"]
    z, t = row["layout"](randn(*shape)), row["layout"](rand(*shape))
    t = t if row["soft"] else t.round()
    options = {
        "weight": broadcasting(row["weight"], shape),
        "pos_weight": broadcasting(row["pos_weight"], shape),
    }
    got, want = (
        solve(function, [z], t, reduction=row["reduction"], **options)
        for function in (ours.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits)
    )
    largest = 1.5 * 1.5 * 2 * (1 + float(z.abs().amax()) if z.numel() else 1)
    count = max(1, z.numel()) if row["reduction"] == "sum" else 1
    assert_agree(got, want, (largest * count, largest))


LINEAR = combinations(
    {
        "rows": [7, None, 0, 60],
        "targets": ["classes", "some ignored", "all ignored", "probabilities"],
        "bias": [True, False],
        "weighted": [False, True],
        "label_smoothing": [0.0, 0.1],
        "reduction": REDUCTIONS,
        "layout": LAYOUTS,
    }
)


def plain_linear(x, v, target, *, linear_bias=None, **options):
    """PyTorch's own, which older versions lack."""
    return F.cross_entropy(F.linear(x, v, linear_bias), target, **options)


@pytest.mark.parametrize("row", LINEAR, ids=words)
def test_linear_cross_entropy(row):
    inputs, c, others = 4, 9, () if row["rows"] is None else (row["rows"],)
    x, v = row["layout"](randn(*others, inputs)), row["layout"](randn(c, inputs) / 3)
    t, options = classes(c, *others), {name: row[name] for name in ("label_smoothing", "reduction")}
    if row["targets"] == "probabilities":
        t = probabilities((*others, c), -1)
    elif row["targets"] == "some ignored":
        t = torch.where(rand(*others) < 0.5, -100, t)
    elif row["targets"] == "all ignored":
        t = torch.full_like(t, -100)
    options["weight"] = 0.5 + rand(c) if row["weighted"] else None
    leaves = [x, v, *([randn(c)] if row["bias"] else [])]

    def with_bias(function):
        return lambda x, v, b, t, **options: function(x, v, t, linear_bias=b, **options)

    functions = ours.linear_cross_entropy, plain_linear
    if row["bias"]:
        functions = map(with_bias, functions)
    got, want = (solve(function, leaves, t, **options) for function in functions)
    largest = 1 + float(max(x.abs().amax() if x.numel() else 1, v.abs().amax()))
    size = 1.5 * 2 * (1 + np.log(c) + 2 * inputs * largest**2)
    count = max(1, t.numel())
    sizes = (
        size * (count if row["reduction"] == "sum" else 1),
        *(3 * count * inputs * largest**2 for _ in leaves),
    )
    assert_agree(got, want, sizes)


def test_defaults_are_those_of_torch():
    for name in ("cross_entropy", "binary_cross_entropy_with_logits", "linear_cross_entropy"):
        if hasattr(F, name):
            theirs, mine = (inspect.signature(getattr(each, name)).parameters for each in (F, ours))
            assert [(p.name, p.kind, p.default) for p in mine.values()] == [
                (p.name, p.kind, p.default) for p in theirs.values()
            ]


def test_at_extremes():
    z = torch.tensor([[1e300, 0, 0], [-torch.inf, 0, 1], [torch.nan, 0, 1]], dtype=torch.float64)
    t = torch.tensor([1, 1, 2])
    got, want = (
        solve(function, [z], t, reduction="none") for function in (ours.cross_entropy, F.cross_entropy)
    )
    for mine, theirs in zip(got, want, strict=True):
        assert torch.allclose(mine, theirs, rtol=NO_WORSE * EPS, atol=NO_WORSE * EPS, equal_nan=True)


# -- the same errors -------------------------------------------------------------------------------------------------------------

Z, T = torch.zeros(3, 4), torch.tensor([0, 1, 2])
P, X, V = torch.full((3, 4), 0.25), torch.zeros(3, 5), torch.zeros(4, 5)
BAD_CALLS = {
    "no tensor": ("cross_entropy", (Z.numpy(), T), {}, "input: got ndarray"),
    "no axis": ("cross_entropy", (torch.tensor(1.0), torch.tensor(0.5)), {"ignore_index": 0}, "input: got shape ()"),
    "dtype of logits": ("cross_entropy", (Z.long(), T), {}, "input: got torch.int64"),
    "too few": ("cross_entropy", (Z, T[:2]), {}, r"target: got shape (2,), expected classes (3,)"),
    "too many axes": ("cross_entropy", (Z, T[:, None]), {}, "target: got shape (3, 1)"),
    "of one": ("cross_entropy", (Z[0], T), {}, "target: got shape (3,), expected classes ()"),
    "pixels": ("cross_entropy", (torch.zeros(2, 3, 4), torch.zeros(2, 5).long()), {}, "target: got shape (2, 5)"),
    "int32": ("cross_entropy", (Z, T.int()), {}, "target: got torch.int32"),
    "floats for classes": ("cross_entropy", (Z, T.float()), {}, "target: got torch.float32"),
    "integers for rows": ("cross_entropy", (Z, P.long()), {}, "target: got torch.int64 of the shape of the logits"),
    "class": ("cross_entropy", (Z, torch.tensor([0, 9, 1])), {}, "targets: row 1 is 9"),
    "ignored row": ("cross_entropy", (Z, P), {"ignore_index": 1}, "ignore_index: got 1 with probabilities"),
    "weights": ("cross_entropy", (Z, T, torch.ones(3)), {}, "weight: got shape (3,), expected (4,)"),
    "their dtype": ("cross_entropy", (Z, T, torch.ones(4).double()), {}, "weight: got torch.float64"),
    "no classes": ("cross_entropy", (Z[:, :0], T), {}, "logits: got shape (3, 0)"),
    "reduction": ("cross_entropy", (Z, T), {"reduction": "max"}, "reduction: got 'max'"),
    "smoothing": ("cross_entropy", (Z, T), {"label_smoothing": 2.0}, "label_smoothing: got 2.0"),
    "ignore_index": ("cross_entropy", (Z, T), {"ignore_index": 1.5}, "ignore_index: got float"),
    "shapes": ("binary_cross_entropy_with_logits", (Z, P[:, :1]), {}, "target: got shape (3, 1)"),
    "weight": (
        "binary_cross_entropy_with_logits", (Z, P), {"weight": torch.ones(3)}, "weight: got shape (3,), expected one"
    ),
    "pos_weight": (
        "binary_cross_entropy_with_logits", (Z, P), {"pos_weight": torch.ones(2, 3, 4)}, "pos_weight: got shape (2, 3, 4)"
    ),
    "its reduction": ("binary_cross_entropy_with_logits", (Z, P), {"reduction": None}, "reduction: got None"),
    "inputs": ("linear_cross_entropy", (X[:, :4], V, T), {}, "linear_weight: got shape (4, 5), expected (C, 4)"),
    "axes of inputs": ("linear_cross_entropy", (X[None], V, T), {}, "input: got shape (1, 3, 5)"),
    "vector": ("linear_cross_entropy", (X, V[0], T), {}, "linear_weight: got shape (5,)"),
    "bias": ("linear_cross_entropy", (X, V, T), {"linear_bias": torch.ones(3)}, "linear_bias: got shape (3,)"),
    "its dtype": ("linear_cross_entropy", (X, V.double(), T), {}, "linear_weight: got torch.float64"),
    "its rows": ("linear_cross_entropy", (X, V, P), {"ignore_index": -100}, "ignore_index: got -100"),
    "its classes": ("linear_cross_entropy", (X, V, T[:2]), {}, "target: got shape (2,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name):
    function, arguments, options, text = BAD_CALLS[name]
    with pytest.raises(Exception) as mine:
        getattr(ours, function)(*arguments, **options)
    assert text in str(mine.value) and str(mine.value).count("expected") == 1
    if hasattr(F, function):
        with pytest.raises(Exception) as theirs:
            getattr(F, function)(*arguments, **options)
        assert issubclass(mine.type, theirs.type) or name == "no classes"


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("legacy, reduction", [({"reduce": False}, "none"), ({"size_average": False}, "sum")])
def test_older_names_of_reductions(name, legacy, reduction):
    t = T if name == "cross_entropy" else P
    with pytest.warns(UserWarning, match="will be deprecated"):
        loss = getattr(ours, name)(Z, t, **legacy)
    assert torch.equal(loss, getattr(ours, name)(Z, t, reduction=reduction))


REFUSED = {
    "meta": ("cross_entropy", lambda: (Z.to("meta"), T), "input: got a tensor that is torch.strided on meta"),
    "sparse": (
        "cross_entropy",
        lambda: (Z.to_sparse(), T),
        "input: got a tensor that is torch.sparse_coo on cpu",
    ),
    "targets elsewhere": ("cross_entropy", lambda: (Z, T.to("meta")), "target: got a tensor that is"),
    "complex": ("cross_entropy", lambda: (Z.to(torch.complex64), T), "input: got torch.complex64"),
    "gradient of targets": ("cross_entropy", lambda: (Z, P.clone().requires_grad_()), "(target.detach())"),
    "of weights": ("cross_entropy", lambda: (Z, T, torch.ones(4, requires_grad=True)), "(weight.detach())"),
    "of positive ones": (
        "binary_cross_entropy_with_logits",
        lambda: (Z, P, None, None, None, "mean", torch.ones(4, requires_grad=True)),
        "(pos_weight.detach())",
    ),
    "more axes": ("linear_cross_entropy", lambda: (X, V[:, None], T), "linear_weight: got shape (4, 1, 5)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    function, arguments, text = REFUSED[name]
    with pytest.raises(NotImplementedError) as error:
        getattr(ours, function)(*arguments())
    assert text in str(error.value)


# -- memory and graphs -----------------------------------------------------------------------------------------------------------

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
    monkeypatch.setattr(errors, "MAX_MEMORY", 2 * 5 * 8)
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
        "linear_cross_entropy": (x, v, None, T, rand(5), *fields, -100, 0.1),
    }
    for name, arguments in checked.items():
        torch.library.opcheck(
            getattr(torch.ops.fastbp, name).default,
            arguments,
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


# -- networks as modules ---------------------------------------------------------------------------------------------------------


def network(activation="relu", **options):
    return fastbp.MLP([4, 6, 5, 3], **{"activation": activation, "seed": 0, "dtype": "float64"} | options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_there_and_back(activation):
    net = network(activation)
    for bias in net.biases:
        bias[:] = np.random.default_rng(0).standard_normal(bias.shape)
    x = 30 * randn(50, 4)  # far into the tails
    module = ours.to_module(net)
    size = float(np.abs(net.logits(x.numpy())).max()) + 1
    assert np.allclose(module(x).detach(), net.logits(x.numpy()), rtol=0, atol=100 * NO_WORSE * EPS * size)
    back = ours.from_module(module)
    assert np.array_equal(back.parameters, net.parameters) and back.activations == net.activations
    assert np.array_equal(back.forward(x.numpy()), net.forward(x.numpy()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_weights_are_shared(dtype):
    net = network(dtype=dtype)
    module = ours.to_module(net)
    for linear, weight, bias in zip(
        [each for each in module if isinstance(each, torch.nn.Linear)], net.weights, net.biases, strict=True
    ):
        assert (
            linear.weight.data_ptr() == weight.__array_interface__["data"][0] and linear.weight.requires_grad
        )
        assert linear.bias.data_ptr() == bias.__array_interface__["data"][0]
        assert tuple(linear.weight.shape) == (linear.out_features, linear.in_features) == weight.shape[::-1]
    x, before = randn(8, 4, dtype=getattr(torch, dtype)), net.parameters.copy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss = ours.cross_entropy(module(x), classes(3, 8))
    loss.backward()
    optimizer.step()
    assert (net.parameters != before).mean() > 0.5
    assert np.allclose(
        net.logits(x.numpy()), module(x).detach(), rtol=1e3 * torch.finfo(x.dtype).eps, atol=1e-5
    )


def test_what_no_layer_says_goes_along():
    net = network(
        ["gelu", "identity"], dropout=[0.0, 0.25], loss="sigmoid_cross_entropy", label_smoothing=0.1
    )
    module = ours.to_module(net)
    assert [type(each).__name__ for each in module] == [
        "Linear",
        "GELU",
        "Linear",
        "Identity",
        "Dropout",
        "Linear",
    ]
    back = ours.from_module(copy.deepcopy(module))
    for name in ("layer_sizes", "activations", "dropout", "loss_name", "label_smoothing", "dtype"):
        assert getattr(back, name) == getattr(net, name)
    assert ours.from_module(module, loss="squared_error", label_smoothing=0.0).loss_name == "squared_error"


def test_modules_of_others():
    nn = torch.nn
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU()), nn.Linear(6, 5), nn.Linear(5, 3))
    net = ours.from_module(module)
    assert net.activations == ("leaky_relu", "identity") and net.dtype == np.float32
    x = randn(9, 4, dtype=torch.float32)
    assert np.allclose(net.logits(x.numpy()), module(x).detach(), atol=1e-5)
    assert ours.from_module(nn.Linear(4, 3)).layer_sizes == (4, 3)


def refused_modules():
    nn = torch.nn
    first, last = nn.Linear(4, 6), nn.Linear(6, 3)
    return {
        "module[0]: got Conv2d": nn.Sequential(nn.Conv2d(1, 1, 1), last),
        "module[0]: got ReLU()": nn.Sequential(nn.ReLU(), last),
        "expected bias=True": nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), last),
        "module[1]: got LeakyReLU(negative_slope=0.2), expected negative_slope=0.01": nn.Sequential(
            first, nn.LeakyReLU(0.2), last
        ),
        "expected approximate='none'": nn.Sequential(first, nn.GELU(approximate="tanh"), last),
        "expected alpha=1.0": nn.Sequential(first, nn.ELU(0.5), last),
        "expected beta=1.0": nn.Sequential(first, nn.Softplus(2.0), last),
        "module[2]: got Tanh()": nn.Sequential(first, nn.ReLU(), nn.Tanh(), last),
        "module[1]: got Dropout": nn.Sequential(first, nn.Dropout(), nn.ReLU(), last),
        "expected a Linear as the last layer": nn.Sequential(first, nn.Sigmoid()),
        "module: got no layers": nn.Sequential(),
        "expected in_features=6": nn.Sequential(first, nn.ReLU(), nn.Linear(5, 3)),
        "got torch.float16 on cpu": nn.Sequential(nn.Linear(4, 6, dtype=torch.float16), nn.ReLU(), last),
        "expected torch.float32 like the first layer": nn.Sequential(
            first, nn.Linear(6, 3, dtype=torch.float64)
        ),
        "module[1][0]: got BatchNorm1d": nn.Sequential(first, nn.Sequential(nn.BatchNorm1d(6)), last),
    }


@pytest.mark.parametrize("text", refused_modules())
def test_modules_that_no_network_can_be(text):
    with pytest.raises(ValueError) as error:
        ours.from_module(refused_modules()[text])
    assert text in str(error.value)


def test_what_is_no_network_and_no_module():
    with pytest.raises(TypeError, match=r"net: got int, expected fastbp\.MLP"):
        ours.to_module(3)
    with pytest.raises(TypeError, match=r"module: got int, expected a torch\.nn\.Module"):
        ours.from_module(3)


# -- the package -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["functions", "modules"])
def test_doctests(name):
    module = importlib.import_module(f"fastbp.torch.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0 and tried > 5


def test_without_torch():
    code = "import sys; sys.modules['torch'] = None; import fastbp.torch"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert "expected it to be installed: pip install 'fastbp[torch]'" in found.stderr
