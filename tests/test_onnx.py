"""Networks as ONNX graphs: written for ONNX Runtime, read from PyTorch and scikit-learn, and files that are neither."""

from __future__ import annotations

import contextlib
import io
import random
import re
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import every_pair, generator
from tolerances import outputs_elsewhere

import fastbp
from fastbp.activations import ACTIVATIONS
from fastbp.outputs import LOSSES

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fastbp.onnx import forms, writer  # noqa: E402

DTYPES = ("float32", "float64")
W, B = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0.5, -1], np.float32)


def inputs_of(net, n_rows=13):
    return 2 * generator("onnx", n_rows).standard_normal((n_rows, net.layer_sizes[0])).astype(net.dtype)


def assert_near(net, x, outputs):
    """Two programs, each within its bound of the exact outputs."""
    layers = [(w.astype(float), b.astype(float)) for w, b in zip(net.weights, net.biases, strict=True)]
    bound = outputs_elsewhere(layers, net.activations, net.loss_name, x.astype(float))
    allowed = 2 * np.finfo(net.dtype).eps * bound.coefficient * bound.magnitude
    assert (np.abs(outputs.astype(float) - net.forward(x)) <= allowed).all()


def session(path):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def trained(*args, **options):
    """A network whose biases are not 0, either."""
    net = fastbp.MLP(*args, seed=0, **options)
    net.parameters[:] += 0.1 * generator("biases").standard_normal(len(net.parameters))
    return net


# -- there ---------------------------------------------------------------------------------------------------------------------


@every_pair(activation=list(ACTIVATIONS), loss=list(LOSSES), dtype=DTYPES, n_rows=[13, 1])
def test_predictions_are_those_of_onnx_runtime(activation, loss, dtype, n_rows, tmp_path):
    net = trained([7, 9, 6, 5], activation=[activation, "tanh"], loss=loss, dtype=dtype)
    net.to_onnx(tmp_path / "net.onnx")
    x = inputs_of(net, n_rows)
    outputs, *labels = session(tmp_path / "net.onnx").run(None, {"inputs": x})
    assert_near(net, x, outputs)
    assert outputs.dtype == net.dtype and len(labels) == (LOSSES[loss].decide is not None)
    for each in labels:
        np.testing.assert_array_equal(each, net.predict(x), strict=True)


def test_far_from_zero(tmp_path):
    """Where a careless formula overflows or cancels; 0 hidden layers are a network, too."""
    for activation in ACTIVATIONS:
        for dtype in DTYPES:
            net = fastbp.MLP(
                [1, 1, 1], activation=activation, loss="squared_error", init="zeros", dtype=dtype
            )
            net.parameters[:] = [1, 0, 1, 0]
            net.to_onnx(tmp_path / "net.onnx")
            x = np.array([[-1e30], [-700], [-38], [-2], [-1e-6], [0], [1e-6], [3], [710], [1e30]], net.dtype)
            assert_near(net, x, session(tmp_path / "net.onnx").run(["outputs"], {"inputs": x})[0])
    net = trained([4, 3])
    net.to_onnx(tmp_path / "net.onnx")
    assert_near(net, inputs_of(net), session(tmp_path / "net.onnx").run(None, {"inputs": inputs_of(net)})[0])


@every_pair("backend", activation=list(ACTIVATIONS), loss=list(LOSSES), dtype=DTYPES)
def test_back_to_the_same_bits(activation, loss, dtype, tmp_path, backend):
    net = trained([4, 6, 5, 3], activation=activation, loss=loss, dtype=dtype)
    net.to_onnx(tmp_path / "net.onnx")
    back = fastbp.MLP.from_onnx(tmp_path / "net.onnx")
    assert repr(back) == repr(net) and back.parameters.tobytes() == net.parameters.tobytes()
    back.fit(inputs_of(net), np.ones((13, 3)) / 3, epochs=1, progress=False)
    assert back.parameters.tobytes() != net.parameters.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_oldest_operators(activation, dtype, tmp_path):
    trained([4, 6, 3], activation=activation, dtype=dtype).to_onnx(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    versions = {each.domain: each.version for each in model.opset_import}
    assert versions[""] == {"gelu": 20, "mish": 18}.get(activation, 13) if dtype == "float32" else 13
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["N", ""]
    assert bool(model.functions) == (dtype == "float64" and activation in forms.FUNCTIONS)


def test_normal_tail_is_that_of_the_kernels():
    header = Path(__file__).parents[1] / "src_c/math/coefficients.h"
    if not header.exists():
        pytest.skip("an installed package has no sources")
    numbers = re.findall(r"NORMAL_TAIL\[25\] = \{(.*?)\}", header.read_text(), re.DOTALL)[0]
    assert tuple(float(each) for each in numbers.split(",") if each.strip()) == forms._NORMAL_TAIL


def test_a_file_is_replaced_by_a_whole_one_only(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    net = trained([4, 3])
    net.to_onnx(path)
    before = path.read_bytes()
    with monkeypatch.context() as small:
        small.setattr(writer, "_MOST_BYTES", 59)
        with pytest.raises(ValueError, match=r"^parameters: got 60 bytes, expected at most 59, as many as"):
            net.to_onnx(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        net.to_onnx(tmp_path / "none" / "net.onnx")


# -- from elsewhere --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"dynamo": False, "opset_version": 13}, "float32"),
        ({"dynamo": False}, "float64"),
        ({"opset_version": 18}, "float32"),
        ({}, "float64"),
    ],
)
def test_from_pytorch(options, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    if options.get("dynamo", True):
        pytest.importorskip("onnxscript")
        options = {"dynamo": True, "external_data": False, **options}
    kinds = {
        "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "selu": "SELU",
        "gelu": "GELU", "silu": "SiLU", "mish": "Mish", "softplus": "Softplus", "identity": "Identity",
    }  # fmt: skip
    torch.manual_seed(0)
    layers = [torch.nn.Flatten()]
    for kind in kinds.values():
        layers += [
            torch.nn.Linear(6, 6, bias=kind != "ReLU"),
            getattr(torch.nn, kind)(),
            torch.nn.Dropout(0.1),
        ]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(6, 3), torch.nn.Softmax(dim=1))
    module.to(getattr(torch, dtype)).eval()
    x = torch.randn(13, 6, dtype=getattr(torch, dtype))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(tmp_path / "net.onnx"), verbose=False, **options)
    net = fastbp.MLP.from_onnx(tmp_path / "net.onnx")
    assert net.activations == tuple(kinds) and net.loss_name == "softmax_cross_entropy" and net.dtype == dtype
    assert_near(net, x.numpy(), module(x).detach().numpy())


def test_from_scikit_learn(tmp_path):
    skl2onnx, neural = pytest.importorskip("skl2onnx"), pytest.importorskip("sklearn.neural_network")
    rng, path = generator("skl2onnx"), tmp_path / "net.onnx"
    X = rng.standard_normal((40, 4))
    classifier = neural.MLPClassifier((5, 3), activation="tanh", max_iter=3, random_state=0)
    words = np.array(["a", "b", "c"])[rng.integers(0, 3, 40)]
    regressor = neural.MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0)
    cases = [
        (classifier, words, "softmax_cross_entropy"),
        (classifier, rng.integers(0, 2, 40), "sigmoid_cross_entropy"),
        (classifier, rng.integers(0, 2, (40, 3)), "sigmoid_cross_entropy"),
        (regressor, rng.standard_normal(40), "squared_error"),
    ]
    for estimator, y, loss in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # three iterations are few
            estimator.fit(X, y)
        want = getattr(estimator, "predict_proba", estimator.predict)(X)
        want = want[:, 1:] if want.shape[-1] == 2 else want.reshape(40, -1)
        for dtype in DTYPES:
            model = skl2onnx.to_onnx(estimator, X[:1].astype(dtype))  # with its ZipMap
            path.write_bytes(model.SerializeToString())
            net = fastbp.MLP.from_onnx(path)
            assert net.loss_name == loss and net.dtype == dtype
            assert_near(net, X.astype(dtype), want)


def model_of(
    *nodes, outputs=("y",), inputs=("x",), tensors=(("W", W), ("b", B)), functions=(), shape=(None, 3)
):
    """Bytes of a graph of these nodes."""
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("fastbp", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions).SerializeToString()


def node(operator, inputs, output="y", name="", **attributes):
    return helper.make_node(operator, inputs.split(), [output], name, **attributes)


def test_a_loss_of_ones_own(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(model_of(node("Gemm", "x W b")))
    x = generator("logits").standard_normal((4, 3)).astype(np.float32)
    logits = fastbp.MLP.from_onnx(path)
    assert logits.loss_name == "squared_error"
    for loss in LOSSES:  # a graph without an output function returns logits of any
        net = fastbp.MLP.from_onnx(path, loss=loss)
        assert net.loss_name == loss
        np.testing.assert_array_equal(net.logits(x), logits.forward(x))
    path.write_bytes(model_of(node("Gemm", "x W b", "z"), node("Softmax", "z")))
    with pytest.raises(
        ValueError, match=r"^loss: got 'huber' for outputs of Softmax, expected one of softmax_cross_entropy$"
    ):
        fastbp.MLP.from_onnx(path, loss="huber")
    with pytest.raises(ValueError, match=r"^loss: got 'hinge', expected one of"):
        fastbp.MLP.from_onnx(path, loss="hinge")


def test_layers_as_others_spell_them(tmp_path):
    """Every way in which a bias and a turned weight can be written is the same layer."""
    turned = ("V", np.ascontiguousarray(W.T))
    spelled = [
        model_of(node("Gemm", "x W b")),
        model_of(node("MatMul", "x W", "z"), node("Add", "z b")),
        model_of(node("MatMul", "x W", "z"), node("Add", "b z")),
        model_of(node("Gemm", "x V b", transB=1), tensors=[turned, ("b", B[None])]),
        model_of(node("Transpose", "V", "W"), node("Gemm", "x W b"), tensors=[turned, ("b", B)]),
        model_of(node("Identity", "b", "c"), node("Identity", "x", "u"), node("Gemm", "u W c")),
    ]
    for content in spelled:
        (tmp_path / "net.onnx").write_bytes(content)
        net = fastbp.MLP.from_onnx(tmp_path / "net.onnx")
        np.testing.assert_array_equal(net.weights[0], W)
        np.testing.assert_array_equal(net.biases[0], B)


LINEAR = node("Gemm", "x W b", "z", "first")
SQUARE = [("W", W), ("b", B), ("V", np.eye(2, dtype=np.float32)), ("d", np.eye(2))]
IMPOSTOR = helper.make_function(
    "fastbp", "gelu", ["x"], ["y"], [node("Relu", "x")], [helper.make_opsetid("", 20)]
)
FOREIGN = {
    "another operator": (model_of(node("Conv", "x W", name="c")), r"the node 'c' \(Conv\), expected dense layers"),
    "without a name": (model_of(LINEAR, node("LRN", "z")), r"node 2 \(LRN\)"),
    "the first of two": (model_of(LINEAR, node("Abs", "z", "a"), node("Neg", "a")), r"node 2 \(Abs\)"),
    "an attribute": (model_of(LINEAR, node("LeakyRelu", "z", name="l", alpha=0.5)), r"'l' \(LeakyRelu, alpha=0.5\)"),
    "a name of two lines": (model_of(node("Gem\n", "x W", name="g")), r"'g' \(Gem\?\)"),
    "a scaled product": (model_of(node("Gemm", "x W b", name="g", alpha=2.0)), r"'g' \(Gemm, alpha=2.0\)"),
    "gelu by tanh": (model_of(LINEAR, node("Gelu", "z", name="g", approximate="tanh")), r"'g' \(Gelu, approximate=tanh\)"),
    "an activation at the end": (model_of(LINEAR, node("Relu", "z", name="r")), r"'r' \(Relu\)"),
    "two activations": (model_of(LINEAR, node("Tanh", "z", "a"), node("Tanh", "a", name="t")), r"'t' \(Tanh\)"),
    "half an activation": (
        model_of(LINEAR, node("Exp", "z", "a", "e"), node("Gemm", "a V"), tensors=SQUARE), r"'e' \(Exp\)"),
    "scaled inputs": (model_of(node("Mul", "x x", "a", "m"), node("Gemm", "a W")), r"'m' \(Mul\)"),
    "a sum of layers": (
        model_of(LINEAR, node("Gemm", "z V", "u"), node("Add", "z u", name="skip"), tensors=SQUARE), r"'skip' \(Add\)"),
    "two biases": (model_of(LINEAR, node("Add", "z b", name="again")), r"'again' \(Add\)"),
    "weights of the left": (model_of(node("MatMul", "W x", name="m")), r"'m' \(MatMul\)"),
    "weights that are computed": (model_of(node("MatMul", "x x", name="m")), r"'m' \(MatMul\)"),
    "several axes": (model_of(LINEAR, outputs=("z",), shape=(None, 5, 3)), "inputs of 3 axes, expected a matrix"),
    "two inputs": (model_of(LINEAR, inputs=("x", "u")), r"2 inputs \(x, u\), expected one"),
    "two outputs": (model_of(LINEAR, outputs=("z", "W")), r"2 outputs \(z, W\), expected one"),
    "no layer": (model_of(node("Identity", "x")), "outputs that depend on no layer"),
    "two dtypes": (model_of(LINEAR, node("Gemm", "z d"), tensors=SQUARE), "numbers of 2 dtypes"),
    "half precision": (
        model_of(node("MatMul", "x W"), tensors=[("W", W.astype(np.float16))]), "an array of FLOAT16, expected FLOAT or DOUBLE"),
    "another shape": (model_of(LINEAR, node("Reshape", "z s", name="r"), tensors=[*SQUARE, ("s", np.array([-1, 1]))]), "'r'"),
    "another bias": (model_of(node("Gemm", "x W W")), r"adds an array of shape \(3, 2\), expected \(2,\)"),
    "another width": (model_of(LINEAR, node("MatMul", "z W")), r"multiplies by an array of shape \(3, 2\), expected"),
    "an impostor": (model_of(LINEAR, node("gelu", "z", name="g", domain="fastbp"), functions=[IMPOSTOR]), r"'g' \(gelu\)"),
    "without its function": (model_of(LINEAR, node("gelu", "z", name="g", domain="fastbp")), r"'g' \(gelu\)"),
    "nothing computed": (model_of(LINEAR, node("Relu", "q")), r"takes 'q', expected what is computed before"),
    "computed twice": (model_of(LINEAR, LINEAR), "'z' computed twice"),
    "in a circle": (model_of(node("Add", "y b")), r"takes 'y', expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_the_first_node_that_is_something_else(case, tmp_path):
    content, message = FOREIGN[case]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: got '.*net.onnx' with .*" + message):
        fastbp.MLP.from_onnx(tmp_path / "net.onnx")


# -- as if an enemy had written it ---------------------------------------------------------------------------------------------


def changed(change):
    """The bytes of a small network whose weights were changed."""
    model = onnx.ModelProto.FromString(model_of(LINEAR, outputs=("z",)))
    change(model.graph.initializer[0])
    return model.SerializeToString()


def far_away(tensor):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "/etc/passwd", "offset": "0", "length": "24"}.items():
        tensor.external_data.add(key=key, value=value)


def test_weights_in_another_file_are_not_read(tmp_path):
    (tmp_path / "net.onnx").write_bytes(changed(far_away))
    with pytest.raises(
        ValueError, match=r"weights of the node 'first' \(Gemm\) in another file, which is never opened"
    ):
        fastbp.MLP.from_onnx(tmp_path / "net.onnx")


def shaped(*dims):
    def change(tensor):
        tensor.dims[:] = dims

    return change


def bare(tensor):
    tensor.ClearField("raw_data")
    tensor.dims[:] = [2**40, 2**40]


DAMAGED = {
    "nothing": b"",
    "text": b"some text that is no graph at all",
    "deep": b"\x3a\x80\x08" * 5000,
    "zeros": bytes(10_000),
    "huge": changed(shaped(10**9, 10**9)),
    "negative": changed(shaped(-2, -3)),
    "too small": changed(shaped(2, 2)),
    "empty": changed(shaped(0, 2**40)),
    "no data": changed(bare),
    "cut off": model_of(LINEAR)[:-20],
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(case, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(DAMAGED[case])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^path: .*net.onnx'"):
            fastbp.MLP.from_onnx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_flipped_bits(tmp_path):
    """A network or one error, whatever the bits; nothing else, and no warning."""
    path, rng = tmp_path / "net.onnx", random.Random(0)
    fastbp.MLP([3, 4, 2], activation="gelu", dtype="float64", seed=0).to_onnx(path)
    content = path.read_bytes()
    for _ in range(150):
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 4))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):
            fastbp.MLP.from_onnx(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastbp.MLP.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="a folder, a pipe or a device"):
        fastbp.MLP.from_onnx(tmp_path)


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: trained([2, 2]).to_onnx("net.onnx"), lambda: fastbp.MLP.from_onnx("net.onnx")):
        with pytest.raises(
            ModuleNotFoundError, match=r"^fastbp.onnx: got no onnx, .* pip install 'fastbp\[onnx\]'"
        ):
            call()
