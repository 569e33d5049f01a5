"""A network as an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbp import _checks
from fastbp._config import __version__
from fastbp.onnx.forms import DOMAIN, FUNCTIONS, NODES, OUTPUTS, Node, function, library
from fastbp.replacing import replacing

__all__ = ["write"]

_MOST_BYTES = 2**31 - 2**20  # of a message of Protocol Buffers; the graph itself takes a few thousand


def write(
    path: str | os.PathLike[str],
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray],
    activations: Sequence[str],
    loss: str,
) -> None:
    """Write layers with weights (I, O) and biases (O,), the activations of the hidden ones, and the outputs of `loss`."""
    n_bytes = sum(array.nbytes for array in (*weights, *biases))
    if n_bytes > _MOST_BYTES:
        raise ValueError(
            f"parameters: got {n_bytes} bytes, expected at most {_MOST_BYTES}, as many as a file of ONNX can hold"
        )
    model = _model(weights, biases, activations, loss)
    with replacing(_checks.path("path", path)) as file:
        file.write(model.SerializeToString())


def _model(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], activations: Sequence[str], loss: str
) -> Any:
    onnx = library()
    helper, dtype = onnx.helper, weights[0].dtype
    graph = _Graph(helper, dtype)
    value = "inputs"
    for k, activation in enumerate((*activations, "identity")):
        value = graph.add(Node("Gemm"), f"linear.{k}", value, f"weights.{k}", f"biases.{k}")
        value = graph.activate(activation, f"activation.{k}", value)
    graph.end(loss, value)

    kind, n_outputs = helper.np_dtype_to_tensor_dtype(dtype), weights[-1].shape[1]
    info = helper.make_tensor_value_info
    ends = [info("outputs", kind, ["N", n_outputs])]
    if "labels" in graph.made:
        shape = ["N"] if loss == "softmax_cross_entropy" else ["N", n_outputs]
        ends.append(info("labels", onnx.TensorProto.INT64, shape))
    named = [(f"weights.{k}", array) for k, array in enumerate(weights)]
    named += [(f"biases.{k}", array) for k, array in enumerate(biases)]
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in named]
    made = helper.make_graph(
        graph.nodes, "fastbp.MLP", [info("inputs", kind, ["N", len(weights[0])])], ends, tensors
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    opsets += [helper.make_opsetid(DOMAIN, 1)] if graph.functions else []
    versions = helper.find_min_ir_version_for(opsets, ignore_unknown=True), 8 if graph.functions else 7
    model = helper.make_model(
        made,
        opset_imports=opsets,
        functions=[function(name) for name in sorted(graph.functions)],
        ir_version=max(versions),
        producer_name="fastbp",
        producer_version=__version__,
    )
    helper.set_model_props(model, {"fastbp.loss": loss})
    return model


class _Graph:
    """Nodes that come one after the other, the operator set and the functions that they need."""

    def __init__(self, helper: Any, dtype: np.dtype) -> None:
        self.helper, self.dtype, self.opset = helper, dtype, 13
        self.nodes: list[Any] = []
        self.made: set[str] = set()
        self.functions: set[str] = set()

    def add(self, node: Node, name: str, *inputs: str) -> str:
        """A node whose one output has its name."""
        self.opset = max(self.opset, node.opset)
        self.made.add(name)
        domain = DOMAIN if node.operator in FUNCTIONS else None
        self.nodes.append(
            self.helper.make_node(node.operator, inputs, [name], name, domain=domain, **node.attributes)
        )
        return name

    def activate(self, activation: str, name: str, z: str) -> str:
        if activation == "identity":
            return z
        if activation == "silu":
            return self.add(Node("Mul"), name, z, self.add(Node("Sigmoid"), f"{name}.sigmoid", z))
        if self.dtype == np.float64 and activation in FUNCTIONS:
            self.functions.add(activation)
            return self.add(Node(activation), name, z)
        return self.add(NODES[activation], name, z)

    def end(self, loss: str, z: str) -> None:
        """`outputs`, what `forward` returns, and `labels`, what `predict` does, where that is something else."""
        term = next(term for term, losses in OUTPUTS.items() if loss in losses)
        operator = "Identity" if term == "z" else term[0]
        self.add(Node(operator, attributes={"axis": -1} if operator == "Softmax" else {}), "outputs", z)
        if operator == "Softmax":
            self.add(Node("ArgMax", attributes={"axis": 1, "keepdims": 0}), "labels", z)
        elif operator == "Sigmoid":
            zero = self.helper.make_tensor("", self.helper.np_dtype_to_tensor_dtype(self.dtype), [], [0])
            self.add(Node("Constant", attributes={"value": zero}), "zero")
            is_positive = self.add(Node("Greater"), "is_positive", z, "zero")
            self.add(Node("Cast", attributes={"to": 7}), "labels", is_positive)  # int64
