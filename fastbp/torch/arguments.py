"""Checks of tensors: PyTorch's types of errors, in words that name the argument; NotImplementedError for what is refused."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from fastbp.last_layer import MAX_MEMORY
from fastbp.losses import Reduction

_SINGLE_AND_DOUBLE = (torch.float32, torch.float64)
_FLOATS = (*_SINGLE_AND_DOUBLE, torch.float16, torch.bfloat16)
_LABELS = (torch.int64, torch.uint8)
_LEAST_MEMORY = 8 * 2**20
_REDUCTIONS = ("mean", "sum", "none")


def reduction_of(size_average: Any, reduce: Any, reduction: Any) -> Reduction:
    """The reduction; the two older arguments take its place, with PyTorch's warning, if either is given."""
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean', 'sum' or 'none'")
    known: Reduction = reduction
    return known


def floats(name: str, value: Any) -> Tensor:
    """`value`, if it is a dense tensor of floats on the CPU."""
    tensor = _on_cpu(name, value)
    if tensor.dtype not in _FLOATS:
        raise NotImplementedError(
            f"{name}: got {tensor.dtype}, expected float32, float64, float16 or bfloat16"
        )
    return tensor


def constant(name: str, value: Any) -> Tensor:
    """The same of a tensor of which there is no gradient."""
    tensor = floats(name, value)
    if tensor.requires_grad and torch.is_grad_enabled():
        text = f"expected one that does not: its gradient is not computed ({name}.detach())"
        raise NotImplementedError(f"{name}: got a tensor that requires grad, {text}")
    return tensor


def _on_cpu(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a torch.Tensor")
    if not value.is_cpu or value.layout is not torch.strided:
        got = f"{value.layout} on {value.device}"
        raise NotImplementedError(f"{name}: got a tensor that is {got}, expected a dense one on the CPU")
    return value.resolve_neg()  # as of the imaginary part of a conjugate: NumPy has no such view


def class_targets(target: Any, shape: torch.Size, examples: torch.Size, ignore_index: Any) -> Tensor:
    """Probabilities of the `shape` of the logits, or classes of that of the `examples`, which lacks the axis of the classes."""
    if isinstance(target, Tensor) and target.shape == shape:
        if not target.dtype.is_floating_point:
            raise RuntimeError(
                f"target: got {target.dtype} of the shape of the logits, expected probabilities"
            )
        if ignore_index >= 0:
            raise RuntimeError(f"ignore_index: got {ignore_index} with probabilities, expected class indices")
        return constant("target", target)
    labels = _on_cpu("target", target)
    if labels.shape != examples and not (len(shape) == 1 and labels.shape == (1,)):
        kind = ValueError if len(shape) == 1 or labels.shape[:1] != shape[:1] else RuntimeError
        text = f"classes {tuple(examples)} or probabilities {tuple(shape)}"
        raise kind(f"target: got shape {tuple(labels.shape)}, expected {text}")
    if labels.dtype not in _LABELS:
        raise RuntimeError(f"target: got {labels.dtype}, expected class indices of int64 or uint8")
    return labels


def class_weight(weight: Any, n_classes: int, like: Tensor, target: Tensor) -> Tensor | None:
    """Weights of the classes; with class indices of the dtype of the logits, as PyTorch demands."""
    if weight is None:
        return None
    given = constant("weight", weight)
    if given.shape != (n_classes,):
        raise RuntimeError(
            f"weight: got shape {tuple(given.shape)}, expected ({n_classes},), one for each class"
        )
    if given.dtype != like.dtype and not target.dtype.is_floating_point:
        raise RuntimeError(f"weight: got {given.dtype}, expected {like.dtype} like input")
    return given


def softmax_numbers(ignore_index: Any, label_smoothing: Any) -> tuple[int, float]:
    """The options that are no tensors, as Python's numbers; a smoothing may come as True or in a tensor of one, as PyTorch's."""
    if type(ignore_index) is not int:
        if isinstance(ignore_index, bool) or not hasattr(ignore_index, "__index__"):
            raise TypeError(f"ignore_index: got {type(ignore_index).__name__}, expected int")
        ignore_index = operator.index(ignore_index)
    if type(label_smoothing) is not float:
        if isinstance(label_smoothing, str) or not hasattr(label_smoothing, "__float__"):
            raise TypeError(f"label_smoothing: got {type(label_smoothing).__name__}, expected float")
        label_smoothing = float(label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing: got {label_smoothing}, expected a number between 0 and 1")
    return ignore_index, label_smoothing


def block_memory(options: Any, x: Tensor, v: Tensor) -> int:
    """Bytes for blocks of the last layer's logits: many, or where `options` ask for few, less than the gradients take."""
    if options is None:
        return MAX_MEMORY
    kind = getattr(torch.nn, "LinearCrossEntropyOptions", None)  # since PyTorch 2.13
    if kind is None or not isinstance(options, kind):
        got = type(options).__name__
        raise TypeError(f"options: got {got}, expected torch.nn.LinearCrossEntropyOptions or None")
    if options.batch_chunk_size is not None:  # an eighth of the memory is for other things than logits
        block: int = options.batch_chunk_size * len(v) * x.element_size() * 8 // 7
        return max(block, _LEAST_MEMORY)
    gradients: int = (x.numel() + v.numel()) * x.element_size()
    return min(max(gradients // 6, _LEAST_MEMORY), MAX_MEMORY)


def output_weight(name: str, weight: Any, shape: torch.Size) -> Tensor | None:
    """Weights that broadcast to the `shape` of the logits."""
    if weight is None:
        return None
    given = constant(name, weight)
    ends = zip(reversed(given.shape), reversed(shape), strict=False)
    if given.ndim > len(shape) or any(own not in (1, extent) for own, extent in ends):
        text = f"one that broadcasts to {tuple(shape)}"
        raise RuntimeError(f"{name}: got shape {tuple(given.shape)}, expected {text}")
    return given


def in_one_dtype(*tensors: Any) -> tuple[torch.dtype, tuple[Any, ...]]:
    """The dtype of the result, and those of the tensors that are floats in the dtype to compute in: PyTorch's promotion. Half
    precision is computed in float32, and the result stays so under autocast."""
    first = result = tensors[0].dtype
    mixed = False
    for each in tensors:
        if each is not None and each.dtype is not first and each.dtype.is_floating_point:
            mixed, result = True, torch.promote_types(result, each.dtype)
    single_or_double = result in _SINGLE_AND_DOUBLE
    if single_or_double and not mixed:
        return result, tensors
    compute = result if single_or_double else torch.float32
    if not single_or_double and torch.is_autocast_enabled("cpu"):
        result = compute
    cast = (
        each if each is None or not each.dtype.is_floating_point else each.to(compute) for each in tensors
    )
    return result, tuple(cast)
