"""The network in an ONNX file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastbp import _checks, persistence
from fastbp.onnx.forms import DOMAIN, FUNCTIONS, HIDDEN, KNOWN, OUTPUTS, USUAL, Term, function, library

__all__ = ["Graph", "read"]

_EXPECTED = "dense layers (Gemm, or MatMul and Add), fastbp's activations, and Softmax, Sigmoid, Exp or nothing at the end"
_COMMUTE = ("Add", "Mul")
_SAME = (
    "Identity",
    "Dropout",
    "Cast",
    "Flatten",
    "Reshape",
    "ai.onnx.ml.ZipMap",
)  # of a matrix, see `_Reader._same`
_FLOATS: dict[int, np.dtype] = {1: np.dtype(np.float32), 11: np.dtype(np.float64)}  # of TensorProto
_INT64 = 7
_LABELS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 13)  # integers, strings and bools


class Graph(NamedTuple):
    """What a file holds of a network."""

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    activations: list[str]
    loss: str


class _Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray | None
    activation: str
    """Of the inputs; that of the network's own is ``identity``."""
    below: _Layer | None


class _Value(NamedTuple):
    """A tensor that depends on the inputs: a term in the linear outputs of `layer`."""

    layer: _Layer | None
    term: Term
    node: Any


class _Foreign(Exception):
    """What there is in a file that is no network of fastbp's, and what was expected."""


def read(path: str | os.PathLike[str], loss: str | None) -> Graph:
    """The network in a file, for training by `loss`, or by what the file says, or by what its outputs suggest."""
    onnx, foreign, path = library(), "", _checks.path("path", path)
    with persistence._opened(path, "ONNX") as file, persistence._errors_as_damage(path, "ONNX"):
        model = onnx.ModelProto.FromString(file.read())
        try:
            output = _Reader(model).output()
        except _Foreign as found:
            foreign = "".join(
                each if each.isprintable() else "?" for each in str(found)
            )  # names of the file's
    if foreign:
        raise ValueError(f"path: got {os.fspath(path)!r} with {foreign}")
    said = next((each.value for each in model.metadata_props if each.key == "fastbp.loss"), None)
    layers = _layers(output.layer)
    return Graph(
        [layer.weight for layer in layers],
        [
            np.zeros(layer.weight.shape[1], layer.weight.dtype) if layer.bias is None else layer.bias
            for layer in layers
        ],
        [layer.activation for layer in layers[1:]],
        _loss(output.term, loss, said),
    )


def _layers(last: _Layer | None) -> list[_Layer]:
    layers = []
    while last is not None:
        layers.append(last)
        last = last.below
    return layers[::-1]


def _loss(term: Term, asked: str | None, said: str | None) -> str:
    """Any loss will do for linear outputs: they may be its logits."""
    possible = OUTPUTS[term]
    if asked is None:
        return said if said in possible else possible[0]
    if term != "z" and asked not in possible:
        raise ValueError(
            f"loss: got {asked!r} for outputs of {term[0]}, expected one of {', '.join(possible)}"
        )
    return asked


class _Reader:
    """Walks through the nodes that the outputs depend on."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph
        self.functions = {each.name: each for each in model.functions if each.domain == DOMAIN}
        self.values: dict[str, Any] = {each.name: each for each in self.graph.initializer}
        self.dtypes: set[np.dtype] = set()

    def output(self) -> _Value:
        """The outputs."""
        inputs = [each for each in self.graph.input if each.name not in self.values]
        if len(inputs) != 1:
            raise _Foreign(f"{len(inputs)} inputs ({_names(inputs)}), expected one matrix of examples")
        shape = inputs[0].type.tensor_type
        if shape.HasField("shape") and len(shape.shape.dim) != 2:
            raise _Foreign(f"inputs of {len(shape.shape.dim)} axes, expected a matrix of examples")
        outputs = [each for each in self.graph.output if each.type.tensor_type.elem_type not in _LABELS]
        if len(outputs) != 1:
            raise _Foreign(f"{len(outputs)} outputs ({_names(outputs)}), expected one matrix beside labels")
        self.values[inputs[0].name] = _Value(None, "x", None)
        for node in self._needed(outputs[0].name):
            self.values[node.output[0]] = self._value(node, [self._input(node, name) for name in node.input])
        output = self.values[outputs[0].name]
        if not isinstance(output, _Value) or output.layer is None:
            raise _Foreign(f"outputs that depend on no layer, expected {_EXPECTED}")
        if output.term not in OUTPUTS:
            self._refuse(output.node)
        if len(self.dtypes) != 1:
            raise _Foreign(f"numbers of {len(self.dtypes)} dtypes, expected either float32 or float64")
        return output

    def _needed(self, name: str) -> list[Any]:
        """The nodes that the tensor `name` depends on, in the order of the graph."""
        made: dict[str, int] = {}
        for number, node in enumerate(self.graph.node):
            for each in filter(None, node.output):
                if each in made or each in self.values:
                    raise _Foreign(f"{each!r:.80} computed twice, expected once")
                made[each] = number
        wanted, needed = [name], set()
        while wanted:
            number = made.get(wanted.pop(), -1)
            if number >= 0 and number not in needed:
                needed.add(number)
                wanted += self.graph.node[number].input
        return [self.graph.node[number] for number in sorted(needed)]

    def _input(self, node: Any, name: str) -> Any:
        if name and name not in self.values:
            raise _Foreign(
                f"{self._described(node)}, which takes {name!r:.80}, expected what is computed before it"
            )
        return self.values.get(name)

    def _value(self, node: Any, inputs: list[Any]) -> Any:
        """What a node computes: a constant, or a term."""
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        values = [each for each in inputs if isinstance(each, _Value)]
        if operator == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            return node.attribute[0].t
        if operator == "Identity" and len(inputs) == 1:
            return inputs[0]  # of a constant, too
        if operator == "Transpose" and not values and len(inputs) == 1:
            return self._turned(node, inputs[0])
        if not values or any(value.layer is not values[0].layer for value in values):
            self._refuse(node)
        first = values[0]
        if operator in _SAME and len(values) == 1 and first is inputs[0]:
            return self._same(node, operator, first, inputs[1:])
        if operator in ("Gemm", "MatMul"):
            return self._linear(node, operator, first, inputs)
        if operator == "Add" and len(values) == 1 and first.term == "z":
            return self._with_bias(node, first, next(each for each in inputs if each is not first))
        if node.domain == DOMAIN and self.functions.get(node.op_type) != _expected(node.op_type):
            self._refuse(node)
        operands = [each.term if isinstance(each, _Value) else self._scalar(node, each) for each in inputs]
        if operator in _COMMUTE:
            operands.sort(key=lambda term: (isinstance(term, tuple), repr(term)))
        term = (operator, *operands)
        if term not in KNOWN or _strange(node):
            self._refuse(node)
        return _Value(first.layer, term, node)

    def _turned(self, node: Any, constant: Any) -> np.ndarray:
        array = self._array(node, constant)
        if array.ndim != 2 or _attributes(node).get("perm", [1, 0]) != [1, 0]:
            self._refuse(node)
        return array.T

    def _same(self, node: Any, operator: str, value: _Value, others: list[Any]) -> _Value:
        """A matrix that a node leaves as it is: what training or another shape would change."""
        attributes = _attributes(node)
        if operator == "Cast":
            kind = attributes.get("to")
            if kind not in _FLOATS:
                self._refuse(node)
            self.dtypes.add(_FLOATS[kind])
        elif operator == "Flatten":
            if _strange(node):
                self._refuse(node)
        elif operator == "Reshape":
            width = 0 if value.layer is None else value.layer.weight.shape[1]
            shape = self._array(node, others[0], _INT64).tolist() if len(others) == 1 else []
            if len(shape) != 2 or shape[0] not in (-1, 0) or shape[1] != width:
                self._refuse(node)
        elif operator == "Dropout" and len(others) > 1 and others[1] is not None:
            self._refuse(node)  # which may be told to drop
        return value

    def _linear(self, node: Any, operator: str, value: _Value, inputs: list[Any]) -> _Value:
        constants = [each for each in inputs[1:] if each is not None]
        if (
            value is not inputs[0]
            or not 1 <= len(constants) <= (2 if operator == "Gemm" else 1)
            or len(inputs) < 2
        ):
            self._refuse(node)
        if value.layer is not None and value.term not in HIDDEN:
            self._refuse(value.node)
        if _strange(node):
            self._refuse(node)
        weight = self._array(node, inputs[1])
        weight = weight.T if _attributes(node).get("transB") else weight
        width = None if value.layer is None else value.layer.weight.shape[1]
        if weight.ndim != 2 or not weight.size or width not in (None, len(weight)):
            raise _Foreign(
                f"{self._described(node)}, which multiplies by an array of shape {weight.shape}, expected (I, O)"
            )
        activation = "identity" if value.layer is None else HIDDEN[value.term]
        made = _Value(_Layer(weight, None, activation, value.layer), "z", node)
        return made if len(constants) == 1 else self._with_bias(node, made, constants[1])

    def _with_bias(self, node: Any, value: _Value, constant: Any) -> _Value:
        layer, bias = value.layer, self._array(node, constant)
        if layer is None or layer.bias is not None:
            self._refuse(node)
        n_outputs = layer.weight.shape[1]
        if bias.shape not in ((), (1,), (1, 1), (n_outputs,), (1, n_outputs)):
            raise _Foreign(
                f"{self._described(node)}, which adds an array of shape {bias.shape}, expected ({n_outputs},)"
            )
        whole = np.broadcast_to(bias.reshape(-1), n_outputs)
        return _Value(layer._replace(bias=whole), "z", node)

    def _scalar(self, node: Any, constant: Any) -> Term:
        """A number as terms have it: in float32."""
        array = self._array(node, constant)
        if array.size != 1:
            self._refuse(node)
        return float(array.reshape(()).astype(np.float32))

    def _array(self, node: Any, tensor: Any, *others: int) -> np.ndarray:
        """The numbers of a tensor in the file, of float32 or float64 or one of the `others`."""
        onnx = library()
        if isinstance(tensor, np.ndarray):
            return tensor
        if not isinstance(tensor, onnx.TensorProto):
            self._refuse(node)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            raise _Foreign(
                f"the weights of {self._described(node)} in another file, which is never opened, "
                "expected them within the file, as torch.onnx.export(..., external_data=False) writes them"
            )
        if tensor.data_type not in (*_FLOATS, *others):
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise _Foreign(
                f"{self._described(node)}, which takes an array of {kind}, expected FLOAT or DOUBLE"
            )
        dtype = _FLOATS.get(tensor.data_type, np.dtype(np.int64))
        held = len(tensor.raw_data) // dtype.itemsize or max(
            len(tensor.float_data), len(tensor.double_data), len(tensor.int64_data)
        )
        if len(tensor.dims) > 2 or math.prod(tensor.dims) != held or min(tensor.dims, default=0) < 0:
            raise ValueError(f"an array of shape {tuple(tensor.dims)!s:.80} with {held} numbers")
        array: np.ndarray = onnx.numpy_helper.to_array(tensor)
        if dtype.kind == "f" and array.ndim:
            self.dtypes.add(dtype)
        return array

    def _refuse(self, node: Any) -> NoReturn:
        raise _Foreign(f"{self._described(node)}, expected {_EXPECTED}")

    def _described(self, node: Any) -> str:
        number = next(k for k, each in enumerate(self.graph.node, start=1) if each is node or each == node)
        name = f"the node {node.name!r:.80}" if node.name else f"node {number}"
        options = "".join(f", {key}={value!s:.40}" for key, value in sorted(_strange(node).items()))
        return f"{name} ({node.op_type:.40}{options})"


def _names(values: Sequence[Any]) -> str:
    return f"{', '.join(value.name for value in values):.200}"


def _attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node: a number, a word, a list of integers; None for others."""
    fields = {1: "f", 2: "i", 3: "s", 7: "ints"}
    found: dict[str, Any] = {}
    for each in node.attribute:
        value: Any = getattr(each, fields[each.type]) if each.type in fields else None
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        found[each.name] = list(value) if each.type == 7 else value
    return found


def _strange(node: Any) -> dict[str, Any]:
    """The attributes that make a node something else than its operator means here."""
    usual = USUAL.get(node.op_type, {})
    return {
        name: value
        for name, value in _attributes(node).items()
        if not any(_alike(value, each) for each in usual.get(name, ()))
    }


def _alike(value: Any, usual: Any) -> bool:
    if isinstance(value, float) and isinstance(usual, float):
        return math.isclose(value, usual, rel_tol=2**-22)  # attributes are float32
    return bool(value == usual)


def _expected(name: str) -> Any:
    return function(name) if name in FUNCTIONS else None
