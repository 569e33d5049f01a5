"""Predictions: the probabilities of the classes for one example and for many, sigmoid hidden units, softmax.

fastbp's row is `MLP.predict_proba`, called from Python, NumPy in, NumPy out. Peers find the examples in their
own kind of array already, and wait for the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from fastbp import _backend

from .peers.libraries import (
    import_jax,
    import_torch,
    jax_layers,
    jax_logits,
    numpy_logits,
    sklearn_network,
    torch_network,
)
from .problems import PredictProblem
from .race import Entry, Row, Setting, Work, race, try_peers, twin
from .shapes import PREDICTIONS, PredictShape
from .timing import Contestant


def rows(shape: PredictShape, peers: Iterable[type[PredictPeer]], setting: Setting) -> list[Row]:
    """Check and measure all contestants of one shape."""
    problem = PredictProblem(shape, setting.dtype, setting.threads)
    entries = [_fastbp(problem), _twin(problem)]
    entries += try_peers(peers, lambda kind: _peer(kind, problem))
    return race(shape.name, entries, Work(shape.operations, "GFLOP/s", setting.peaks.gflops), setting.plan)


def _fastbp(problem: PredictProblem) -> Entry:
    """Return the public method."""
    network, x = problem.network(), problem.x
    residual = problem.residual(network.predict_proba(x))
    return Entry(Contestant("fastbp", lambda: network.predict_proba(x)), residual, ours=True)


def _twin(problem: PredictProblem) -> Entry:
    """Return the public method on the NumPy twin, in the same dtype."""
    with _backend.use("reference"):
        network = problem.network()
    return twin(lambda: network.predict_proba(problem.x), problem.residual)


def _peer(kind: type[PredictPeer], problem: PredictProblem) -> Entry:
    """Return the contestant of a library."""
    peer = kind(problem)
    residual = problem.residual(np.asarray(peer.predict()))
    return Entry(Contestant(peer.name, peer.predict), residual)


class PredictPeer(Protocol):
    """What every peer offers: `predict()` returns the probabilities, as an array of its own kind."""

    name: str
    package: str

    def __init__(self, problem: PredictProblem) -> None: ...
    def predict(self) -> Any: ...


class NumpyPredict:
    """NumPy by hand: results written into arrays that exist already."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: PredictProblem) -> None:
        self.x, self.layers = problem.x, problem.layers(problem.parameters)
        self.outputs = [np.empty((len(self.x), len(b)), problem.dtype) for _, b in self.layers]

    def predict(self) -> np.ndarray:
        """Forward."""
        y = numpy_logits(self.layers, self.x, self.outputs)
        y -= y.max(axis=1, keepdims=True)
        np.exp(y, out=y)
        y /= y.sum(axis=1, keepdims=True)
        return y


class TorchPredict:
    """PyTorch eager: `softmax(model(x))` in inference mode."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: PredictProblem) -> None:
        self.torch = import_torch(problem.threads)
        self.model = torch_network(problem).eval()
        self.x = self.torch.from_numpy(problem.x)

    def predict(self) -> Any:
        """Inference mode is `no_grad` with less bookkeeping."""
        with self.torch.inference_mode():
            return self.torch.softmax(self.model(self.x), 1)


class JaxPredict:
    """JAX: one jitted function."""

    name, package = "JAX", "jax"

    def __init__(self, problem: PredictProblem) -> None:
        jax = import_jax(problem.dtype)
        self.function = jax.jit(lambda layers, x: jax.nn.softmax(jax_logits(layers, x)))
        self.layers, self.x = jax_layers(problem), jax.numpy.array(problem.x)

    def predict(self) -> Any:
        """Wait for it."""
        return self.function(self.layers, self.x).block_until_ready()


class SklearnPredict:
    """scikit-learn: `MLPClassifier.predict_proba`."""

    name, package = "sklearn", "sklearn"

    def __init__(self, problem: PredictProblem) -> None:
        self.x, self.model = problem.x, sklearn_network(problem)

    def predict(self) -> np.ndarray:
        """The public method."""
        return self.model.predict_proba(self.x)


class OnnxPredict:
    """ONNX Runtime: Gemm and Sigmoid of each layer, and a Softmax, optimised by the runtime."""

    name, package = "ONNX", "onnxruntime"

    def __init__(self, problem: PredictProblem) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = problem.threads, 1
        model = _onnx_model(problem).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = {"x": problem.x}

    def predict(self) -> np.ndarray:
        """NumPy in, NumPy out."""
        return self.session.run(None, self.inputs)[0]


def _onnx_model(problem: PredictProblem) -> Any:
    """Return the network as a model of ONNX."""
    from onnx import checker, helper, numpy_helper

    nodes, constants, below = [], [], "x"
    layers = problem.layers(problem.parameters)
    for number, (w, b) in enumerate(layers, start=1):
        constants += [numpy_helper.from_array(w, f"W{number}"), numpy_helper.from_array(b, f"b{number}")]
        nodes.append(helper.make_node("Gemm", [below, f"W{number}", f"b{number}"], [f"z{number}"]))
        last = number == len(layers)
        below = "y" if last else f"a{number}"
        nodes.append(helper.make_node("Softmax" if last else "Sigmoid", [f"z{number}"], [below]))
    kind = helper.np_dtype_to_tensor_dtype(problem.dtype)
    ends = [
        helper.make_tensor_value_info(name, kind, [None, width])
        for name, width in (("x", problem.shape.sizes[0]), ("y", problem.shape.sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    # Versions of the format that every runtime of these years reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


SHAPES = PREDICTIONS
PEERS: tuple[type[PredictPeer], ...] = (NumpyPredict, TorchPredict, JaxPredict, SklearnPredict, OnnxPredict)
