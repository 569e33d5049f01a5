"""fastbp.torch beside torch.nn.functional: the same numbers, gradients and types of errors."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
from pairs import combinations
from tolerances import NO_WORSE
from torch_calls import (
    EPS,
    REDUCTIONS,
    F,
    P,
    T,
    V,
    X,
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

torch = pytest.importorskip("torch")


import fastbp.torch as ours  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    generator.manual_seed(0)


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


def test_numbers_of_other_kinds():
    """What PyTorch takes for a number: of NumPy, in a tensor, a flag; and a view that only PyTorch knows to be negative."""
    for options in (
        {"label_smoothing": np.float32(0.5), "ignore_index": np.int64(1)},
        {"label_smoothing": True},
        {"label_smoothing": torch.tensor(0.5)},
    ):
        assert torch.allclose(ours.cross_entropy(Z, T, **options), F.cross_entropy(Z, T, **options))
    turned = torch.complex(Z, Z).conj().imag
    assert turned.is_neg() and torch.allclose(ours.cross_entropy(turned, T), F.cross_entropy(-Z, T))


# -- the same errors -------------------------------------------------------------------------------------------------------------

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
    "no smoothing": ("cross_entropy", (Z, T), {"label_smoothing": None}, "label_smoothing: got NoneType"),
    "written": ("linear_cross_entropy", (X, V, T), {"label_smoothing": "1"}, "label_smoothing: got str"),
    "ignore_index": ("cross_entropy", (Z, T), {"ignore_index": 1.5}, "ignore_index: got float"),
    "a flag": ("cross_entropy", (Z, T), {"ignore_index": True}, "ignore_index: got bool"),
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


# -- the package -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["functions", "modules"])
def test_doctests(name):
    module = importlib.import_module(f"fastbp.torch.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0 and tried > 5


def test_without_torch():
    code = "import sys; sys.modules['torch'] = None; import fastbp.torch"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "expected it to be installed: pip install 'fastbp[torch]'" in found.stderr
