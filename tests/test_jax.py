"""fastbp's errors as functions of JAX: the bits of fastbp's own, the numbers of optax, under every transformation."""

from __future__ import annotations

import doctest
import importlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import generator
from tolerances import BOUNDS, NO_WORSE, sum_of

import fastbp

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from fastbp import losses  # noqa: E402
from fastbp.jax import frames, linear_softmax_cross_entropy, softmax_cross_entropy  # noqa: E402

N, I, C = 13, 6, 5  # noqa: E741 - the letters of the field


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """float64 is there with JAX's x64 alone."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def problem(dtype, *batch):
    """Inputs, a layer, and targets of both kinds, as NumPy arrays."""
    rng = generator("jax", dtype, *batch)
    return SimpleNamespace(
        logits=3 * rng.standard_normal((*batch, N, C)).astype(dtype),
        inputs=rng.standard_normal((*batch, N, I)).astype(dtype),
        weight=rng.standard_normal((*batch, I, C)).astype(dtype),
        bias=rng.standard_normal((*batch, C)).astype(dtype),
        labels=rng.integers(0, C, (*batch, N)).astype(np.int32),
        rows=rng.dirichlet(np.ones(C), (*batch, N)).astype(dtype),
        class_weight=rng.uniform(0.5, 2, C).astype(dtype),
        sample_weight=rng.uniform(0.5, 2, (*batch, N)).astype(dtype),
        slopes=rng.uniform(-1, 2, (*batch, N)).astype(dtype),
    )


def same(got, want):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want), strict=True)


OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "all": {
        "ignore_index": 2,
        "label_smoothing": 0.1,
        "lse_square_scale": 1e-3,
        "softcap": 20.0,
        "n_threads": 2,
    },
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("transformed", [lambda f: f, jax.jit])
def test_the_bits_of_the_kernels(options, transformed, dtype, backend):
    p, options = problem(dtype), OPTIONS[options]
    weights = (
        {"class_weight": p.class_weight, "sample_weight": p.sample_weight} if "softcap" in options else {}
    )
    for targets in (p.labels, p.rows):
        given = {key: each for key, each in options.items() if targets is p.labels or key != "ignore_index"}
        want = fastbp.softmax_cross_entropy(p.logits, targets, **given, **weights)
        f = transformed(jax.value_and_grad(partial(softmax_cross_entropy, **given)))
        loss, grad = f(p.logits, targets, **weights)
        same(loss, want.loss)
        same(grad, want.grad)
        same(transformed(partial(softmax_cross_entropy, **given))(p.logits, targets, **weights), want.loss)

        want = fastbp.linear_softmax_cross_entropy(
            p.inputs, p.weight, targets, bias=p.bias, **given, **weights
        )
        layer = partial(linear_softmax_cross_entropy, **given)
        f = transformed(
            jax.value_and_grad(lambda x, w, b, t, f=layer, **k: f(x, w, t, bias=b, **k), (0, 1, 2))
        )
        loss, grads = f(p.inputs, p.weight, p.bias, targets, **weights)
        same(loss, want.loss)
        for got, each in zip(grads, want[1:4], strict=True):
            same(got, each)
    without = fastbp.linear_softmax_cross_entropy(p.inputs, p.weight, p.labels)
    same(jax.grad(linear_softmax_cross_entropy, 1)(p.inputs, p.weight, p.labels), without.grad_weight)


def test_each_example_with_its_slope(dtype, backend):
    """The derivative of Σ g_n E_n, for g of either sign, is that of the sum with the weights g."""
    p = problem(dtype)
    for weights in ({}, {"sample_weight": p.sample_weight}):
        all_weights = weights.get("sample_weight", 1) * p.slopes
        each = fastbp.softmax_cross_entropy(p.logits, p.labels, reduction="none", **weights)

        def f(z, t, weights=weights):
            errors = softmax_cross_entropy(z, t, reduction="none", **weights)
            return (errors * p.slopes).sum(), errors

        grad, errors = jax.jit(jax.grad(f, has_aux=True))(p.logits, p.labels)
        same(errors, each.loss)
        same(grad, p.slopes[:, None] * each.grad)

        def g(x, w, weights=weights):
            errors = linear_softmax_cross_entropy(x, w, p.labels, reduction="none", **weights)
            return (errors * p.slopes).sum()

        want = fastbp.linear_softmax_cross_entropy(
            p.inputs, p.weight, p.labels, reduction="sum", sample_weight=all_weights
        )
        for got, gradient in zip(jax.jit(jax.grad(g, (0, 1)))(p.inputs, p.weight), want[1:3], strict=True):
            same(got, gradient)


def test_vmap(dtype, backend):
    """Bits of a loop, for one axis and for two, wherever it lies, and for what is not mapped."""
    p = problem(dtype, 2, 3)
    f = jax.value_and_grad(softmax_cross_entropy)
    loss, grad = jax.jit(jax.vmap(jax.vmap(f)))(p.logits, p.labels)
    assert loss.shape == (2, 3) and grad.shape == (2, 3, N, C)
    for index in np.ndindex(2, 3):
        want = fastbp.softmax_cross_entropy(p.logits[index], p.labels[index])
        same(loss[index], want.loss)
        same(grad[index], want.grad)
    loss, _ = jax.vmap(f, in_axes=(1, None))(np.moveaxis(p.logits[0], 0, 1), p.labels[0, 0])
    same(loss, [fastbp.softmax_cross_entropy(z, p.labels[0, 0]).loss for z in p.logits[0]])

    layer = jax.vmap(jax.grad(linear_softmax_cross_entropy, 1), in_axes=(None, 0, None))
    grads = layer(p.inputs[0, 0], p.weight[0], p.labels[0, 0])
    for got, weight in zip(grads, p.weight[0], strict=True):
        same(got, fastbp.linear_softmax_cross_entropy(p.inputs[0, 0], weight, p.labels[0, 0]).grad_weight)
    same(jax.vmap(f)(p.logits[0][:1], p.labels[0][:1])[1][0], f(p.logits[0, 0], p.labels[0, 0])[1])


def test_optax(dtype):
    optax = pytest.importorskip("optax")
    p, eps, few = problem(dtype), np.finfo(dtype).eps, 2 * NO_WORSE + sum_of(C) + sum_of(N)

    def by_optax(z):
        return optax.softmax_cross_entropy_with_integer_labels(z, p.labels).mean()

    size = np.ptp(p.logits, axis=1).max() + np.log(C)
    (loss, grad), (want, want_grad) = (
        jax.jit(jax.value_and_grad(f))(p.logits)
        for f in (lambda z: softmax_cross_entropy(z, p.labels), by_optax)
    )
    assert abs(loss - want) <= few * eps * size and np.abs(grad - want_grad).max() <= few * eps * 2 / N

    def layer(f):
        answer = jax.jit(jax.value_and_grad(f, (0, 1, 2)))(p.inputs, p.weight, p.bias)
        return answer[0], *answer[1]

    got = layer(lambda x, w, b: linear_softmax_cross_entropy(x, w, p.labels, bias=b))
    want = layer(lambda x, w, b: by_optax(jnp.dot(x, w, precision="highest") + b))
    exact = {"inputs": p.inputs, "weight": p.weight, "bias": p.bias, "labels": p.labels, "grad_bias": p.bias}
    nothing = dict.fromkeys(("targets", "class_weight", "sample_weight", "losses"))
    zeros = dict.fromkeys(("label_smoothing", "lse_square_scale", "softcap"), 0.0)
    call = SimpleNamespace(**exact, **nothing, **zeros, ignore_index=-100, mean=True)
    bounds = BOUNDS["linear_softmax_cross_entropy"](call, SimpleNamespace(weight_sum=N), False)
    ones = np.full((N, C), 2 / N)  # what forming y - t costs
    naive = size, ones @ np.abs(p.weight).T, np.abs(p.inputs).T @ ones, ones.sum(axis=0)
    for name, ours, theirs, more in zip(
        ("loss", "grad_inputs", "grad_weight", "grad_bias"), got, want, naive, strict=True
    ):
        allowed = 2 * bounds[name].coefficient * bounds[name].magnitude + few * more
        assert (np.abs(np.asarray(ours) - np.asarray(theirs)) <= eps * allowed).all(), name


def test_edges(dtype, backend):
    p = problem(dtype)
    nothing = jnp.zeros((0, C), dtype)
    loss, grad = jax.value_and_grad(softmax_cross_entropy)(nothing, jnp.zeros(0, int))
    assert np.isnan(loss) and grad.shape == (0, C)
    ignored = jax.grad(softmax_cross_entropy)(p.logits, np.full(N, -100))
    assert not ignored.any()
    wild = p.logits.copy()
    wild[0], wild[1, 2] = np.nan, -np.inf
    same(
        softmax_cross_entropy(wild, p.labels, reduction="none"),
        fastbp.softmax_cross_entropy(wild, p.labels, reduction="none").loss,
    )
    assert fastbp.jax.softmax_cross_entropy is softmax_cross_entropy


P = problem("float32")
softmax, linear = softmax_cross_entropy, linear_softmax_cross_entropy
BAD = {
    "bfloat16": (lambda: softmax(jnp.asarray(P.logits, jnp.bfloat16), P.labels),
                 TypeError, r"^logits: got bfloat16, expected float32 or float64"),
    "integers": (lambda: softmax(P.labels[:, None], P.labels), TypeError, "^logits: got int32"),
    "a vector": (lambda: softmax(P.logits[0], P.labels), ValueError, r"^logits: got shape \(5,\), expected \(N, C\)"),
    "too few targets": (lambda: softmax(P.logits, P.labels[1:]), ValueError, r"^targets: got shape \(12,\)"),
    "real indices": (lambda: softmax(P.logits, P.slopes), TypeError, r"^targets: got float32 \(13,\)"),
    "weights": (lambda: softmax(P.logits, P.labels, class_weight=P.slopes), ValueError, "^class_weight: got shape"),
    "smoothing": (lambda: softmax(P.logits, P.labels, label_smoothing=2), ValueError, "^label_smoothing: got 2"),
    "reduction": (lambda: softmax(P.logits, P.labels, reduction="max"), ValueError, "^reduction: got 'max'"),
    "ignored rows": (lambda: softmax(P.logits, P.rows, ignore_index=1), ValueError, "^ignore_index: got 1 with rows"),
    "traced option": (lambda: jax.jit(lambda s: softmax(P.logits, P.labels, softcap=s))(3.0),
                      TypeError, "^softcap: got DynamicJaxprTracer"),
    "dtypes": (lambda: linear(P.inputs, P.weight.astype(np.float16), P.labels), TypeError, "^weight: got float16"),
    "widths": (lambda: linear(P.inputs, P.weight[1:], P.labels), ValueError, r"^weight: got float32 \(5, 5\)"),
    "bias": (lambda: linear(P.inputs, P.weight, P.labels, bias=P.slopes), ValueError, r"^bias: got shape"),
    "memory": (lambda: linear(P.inputs, P.weight, P.labels, max_memory=0), ValueError, "^max_memory: got 0"),
    "by targets": (lambda: jax.grad(lambda t: softmax(P.logits, t))(P.rows),
                   TypeError, r"^targets: got one to differentiate by, expected jax.lax.stop_gradient of it"),
    "by weights": (lambda: jax.grad(lambda s: softmax(P.logits, P.labels, sample_weight=s))(P.sample_weight),
                   TypeError, r"^sample_weight: got one to differentiate by"),
    "twice": (lambda: jax.hessian(softmax)(P.logits, P.labels), Exception, "can(no|')t"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("transformed", [lambda f: f, jax.jit])
def test_errors_of_the_computation(transformed, backend):
    """A class index out of range is seen when it is used; the next call is as if nothing had been."""
    labels = P.labels.copy()
    labels[4] = C
    message = r"TargetIndexError: targets: row 4 is 5, expected a class index in \[0, 5\)"
    for f in (softmax_cross_entropy, partial(linear_softmax_cross_entropy, P.inputs)):
        first = P.logits if f is softmax_cross_entropy else P.weight
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=message):
            jax.block_until_ready(transformed(f)(first, labels))
        assert np.isfinite(transformed(f)(first, P.labels))


def test_no_copy(monkeypatch):
    """What the function reads and writes is the memory of JAX's arrays."""
    seen, real = {}, losses.softmax_cross_entropy

    def spy(logits, targets, *, grad_out, **options):
        seen.update(logits=logits.ctypes.data, grad=grad_out.ctypes.data, writeable=logits.flags.writeable)
        return real(logits, targets, grad_out=grad_out, **options)

    monkeypatch.setattr(losses, "softmax_cross_entropy", spy)
    logits = jnp.asarray(P.logits)
    _, grad = jax.block_until_ready(
        jax.jit(jax.value_and_grad(softmax_cross_entropy))(logits, jnp.asarray(P.labels))
    )
    want = {
        "logits": logits.unsafe_buffer_pointer(),
        "grad": grad.unsafe_buffer_pointer(),
        "writeable": False,
    }
    assert seen == want


def test_many_threads():
    """Calls wait for the GIL, and those who hold it never for calls."""
    f = jax.jit(jax.value_and_grad(softmax_cross_entropy))
    logits = np.tile(P.logits, (50, 40))
    labels = np.tile(P.labels, 50)
    want = fastbp.softmax_cross_entropy(logits, labels)
    with ThreadPoolExecutor(4) as pool:
        for loss, grad in pool.map(lambda _: jax.block_until_ready(f(logits, labels)), range(40)):
            same(loss, want.loss)
            same(grad, want.grad)


STRUCTURES = {
    "XLA_FFI_Buffer": (frames._Buffer, "dtype data rank dims"),
    "XLA_FFI_Args": (frames._Buffers, "size types args"),
    "XLA_FFI_Rets": (frames._Buffers, "size types rets"),
    "XLA_FFI_ByteSpan": (frames._Span, "ptr len"),
    "XLA_FFI_Attrs": (frames._Attributes, "size types names attrs"),
    "XLA_FFI_Api_Version": (frames._Version, "major_version minor_version"),
    "XLA_FFI_Metadata": (frames._Metadata, "struct_size api_version"),
    "XLA_FFI_Error_Create_Args": (frames._Error, "message errc"),
    "XLA_FFI_Api": (frames._Api, "api_version internal_api XLA_FFI_Error_Create"),
    "XLA_FFI_CallFrame": (frames._Frame, "api ctx stage args rets attrs"),
}


def test_structures_are_those_of_the_header(tmp_path):
    """The offset of each field, as a C compiler sees it, and the numbers of what is told apart."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    fields = [(name, field) for name, (_, words) in STRUCTURES.items() for field in words.split()]
    lines = [f'printf("%zu\\n", offsetof(struct {name}, {field}));' for name, field in fields]
    lines += [f"printf(\"%d\\n\", (int){word});" for word in (
        "XLA_FFI_API_MAJOR", "XLA_FFI_ExecutionStage_EXECUTE", "XLA_FFI_AttrType_STRING", "XLA_FFI_Extension_Metadata",
        "XLA_FFI_Error_Code_INVALID_ARGUMENT", "XLA_FFI_DataType_F32", "XLA_FFI_DataType_F64", "XLA_FFI_DataType_S32",
        "XLA_FFI_DataType_S64", "XLA_FFI_DataType_PRED", "XLA_FFI_DataType_U8", "XLA_FFI_DataType_U64",
    )]  # fmt: skip
    program = tmp_path / "offsets.c"
    program.write_text(
        '#include <stdio.h>\n#include "xla/ffi/api/c_api.h"\nint main(void) {\n' + "\n".join(lines) + "\n}\n"
    )
    compiled = tmp_path / "offsets"
    subprocess.run(
        ["cc", f"-I{jax.ffi.include_dir()}", str(program), "-o", str(compiled)], check=True, timeout=60
    )
    told = [int(line) for line in subprocess.run([compiled], capture_output=True, check=True).stdout.split()]
    ours = []
    for name, (structure, words) in STRUCTURES.items():
        own = [field for kind in structure.__mro__[1::-1] for field, _ in vars(kind).get("_fields_", ())]
        own = own[len(own) - len(words.split()) :]
        ours += [getattr(structure, field).offset for field in own]
        assert len(own) == len(words.split()), name
    numbers = {dtype.name: number for number, dtype in frames.DTYPES.items()}
    ours += [frames._MAJOR, frames._EXECUTE, frames._STRING, frames._METADATA, frames._INVALID_ARGUMENT]
    ours += [numbers[name] for name in ("float32", "float64", "int32", "int64", "bool", "uint8", "uint64")]
    assert told == ours


def test_examples_of_docstrings(backend):
    module = importlib.import_module("fastbp.jax.functions")
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_without_jax(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[:2] == ["fastbp", "jax"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ModuleNotFoundError, match=r"^fastbp.jax: got no jax, .* pip install 'fastbp\[jax\]'"):
        importlib.import_module("fastbp.jax")
