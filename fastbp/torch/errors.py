"""The errors on tensors: from checked tensors to the kernels' arrays and back, without a copy.

Each error is a NamedTuple of its options. `evaluate` takes the tensors, first those that it has gradients of, and returns the
reduced error and these gradients. With ``scale``, the gradient that comes from above with
``reduction="none"``, they are the gradients of Σ_n scale_n E_n. Without ``gradient`` nothing of the size of the inputs is
allocated: the rows' deltas go, block after block, to one small buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

import fastbp
from fastbp._checks import IGNORE_INDEX
from fastbp.losses import Reduction

Answer: TypeAlias = tuple[Tensor, tuple[Tensor | None, ...]]
_Part: TypeAlias = Callable[
    [slice, np.ndarray], np.ndarray
]  # the logits of some rows, in the buffer if they are new

_BUFFER = 4 * 2**20  # bytes of deltas that nobody asked for: within the caches, and enough for all threads
_LEAST_WIDTH = 64  # of rows of independent outputs: of shorter ones the call would be most of the work


class SoftmaxError(NamedTuple):
    """Of logits (N, C), classes (N,) or rows of probabilities (N, C), and weights (C,) of the classes."""

    reduction: Reduction
    ignore_index: int
    label_smoothing: float

    def evaluate(
        self,
        z: Tensor,
        target: Tensor,
        weight: Tensor | None,
        *,
        scale: Tensor | None = None,
        gradient: bool = True,
    ) -> Answer:
        """The error, and the gradient of the logits."""
        logits, targets = _array(z), _array(target)
        reduction, options = _softmax_options(self, len(logits), targets, weight, scale)
        if gradient:
            answer = fastbp.softmax_cross_entropy(logits, targets, reduction=reduction, **options)
            return _tensor(answer.loss), (torch.from_numpy(answer.grad),)
        buffer = _buffer(logits.shape, logits.dtype, _BUFFER)
        loss = _loss_alone(
            fastbp.softmax_cross_entropy, lambda part, _: logits[part], targets, buffer, reduction, options
        )
        return loss, (None,)


class LinearError(NamedTuple):
    """Of the logits x Wᵀ + b, of inputs x (N, I), weights W (C, I) and a bias b (C,), otherwise as `SoftmaxError`."""

    reduction: Reduction
    ignore_index: int
    label_smoothing: float
    max_memory: int
    """Bytes for blocks of logits."""

    def evaluate(
        self,
        x: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        *,
        scale: Tensor | None = None,
        gradient: bool = True,
    ) -> Answer:
        """The error, and the gradients of inputs, weights and bias."""
        inputs, w, targets = _array(x), _array(linear_weight).T, _array(target)
        bias = None if linear_bias is None else _array(linear_bias)
        reduction, options = _softmax_options(self, len(inputs), targets, weight, scale)
        if gradient:
            options |= {"precision": torch.get_float32_matmul_precision(), "max_memory": self.max_memory}
            answer = fastbp.linear_softmax_cross_entropy(
                inputs, w, targets, bias=bias, reduction=reduction, **options
            )
            grad_bias = None if answer.grad_bias is None else torch.from_numpy(answer.grad_bias)
            grads = torch.from_numpy(answer.grad_inputs), torch.from_numpy(answer.grad_weight.T), grad_bias
            return _tensor(answer.loss), grads
        threads = options["n_threads"]

        def logits(part: slice, buffer: np.ndarray) -> np.ndarray:
            return fastbp.linear(inputs[part], w, bias, out=buffer, n_threads=threads)

        buffer = _buffer((len(inputs), w.shape[1]), inputs.dtype, self.max_memory)
        loss = _loss_alone(fastbp.softmax_cross_entropy, logits, targets, buffer, reduction, options)
        return loss, (None, None, None)


class SigmoidError(NamedTuple):
    """Of independent logits of any shape, targets of that shape, and weights of outputs and of positive targets that broadcast
    to it.

    The kernel knows a weight for each row and one for the positive targets of each column. All else is computed from the kernels
    of the two terms: with u = w p t and v = w (1 - t), E = u softplus(-z) + v softplus(z) and dE/dz = v σ(z) - u σ(-z).
    """

    reduction: Reduction

    def evaluate(
        self,
        z: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        *,
        scale: Tensor | None = None,
        gradient: bool = True,
    ) -> Answer:
        """The error, and the gradient of the logits."""
        width = _row_width(z, pos_weight)
        if self.reduction == "none" or weight is not None or width == 0:
            return self._by_terms(z.detach(), target.detach(), weight, pos_weight, scale, gradient)
        rows, targets = _array(z.reshape(-1, width)), _array(target.reshape(-1, width))
        options: dict[str, Any] = {"n_threads": torch.get_num_threads()}
        if pos_weight is not None:
            options["pos_weight"] = _array(pos_weight.reshape(-1).expand(width))
        if self.reduction == "mean":
            options["sample_weight"] = np.full(len(rows), 1 / z.numel())
        if gradient:
            answer = fastbp.sigmoid_cross_entropy(rows, targets, reduction="sum", **options)
            return _tensor(answer.loss), (torch.from_numpy(answer.grad).reshape(z.shape),)
        buffer = _buffer(rows.shape, rows.dtype, _BUFFER)
        loss = _loss_alone(
            fastbp.sigmoid_cross_entropy, lambda part, _: rows[part], targets, buffer, "sum", options
        )
        return loss, (None,)

    def _by_terms(
        self,
        z: Tensor,
        t: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        scale: Tensor | None,
        gradient: bool,
    ) -> Answer:
        u, v = t if pos_weight is None else t * pos_weight.detach(), 1 - t
        if weight is not None:
            u, v = u * weight.detach(), v * weight.detach()
        losses = u * _elementwise(fastbp.softplus, -z) + v * _elementwise(fastbp.softplus, z)
        grad = None
        if gradient:
            grad = v * _elementwise(fastbp.sigmoid, z) - u * _elementwise(fastbp.sigmoid, -z)
            if scale is not None:
                grad *= scale
            elif self.reduction == "mean":
                grad /= max(1, z.numel())
        return {"mean": losses.mean, "sum": losses.sum, "none": losses.clone}[self.reduction](), (grad,)


Error: TypeAlias = SoftmaxError | LinearError | SigmoidError


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor."""
    array: np.ndarray = tensor.detach().numpy()
    return array


def _tensor(loss: np.floating[Any] | np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(loss))


def _softmax_options(
    error: SoftmaxError | LinearError,
    n: int,
    targets: np.ndarray,
    weight: Tensor | None,
    scale: Tensor | None,
) -> tuple[Reduction, dict[str, Any]]:
    """The reduction and the options of the kernel's call. PyTorch's mean over rows of targets divides by N, weights or not."""
    by_rows = targets.dtype.kind == "f"
    options: dict[str, Any] = {"n_threads": torch.get_num_threads()}
    if error.ignore_index != IGNORE_INDEX and not by_rows:
        options["ignore_index"] = error.ignore_index
    if error.label_smoothing:
        options["label_smoothing"] = error.label_smoothing
    if weight is not None:
        options["class_weight"] = _array(weight)
    if scale is not None:
        options["sample_weight"] = _array(scale)
        return "sum", options
    if error.reduction == "mean" and by_rows and weight is not None and n:
        options["sample_weight"] = np.full(n, 1 / n)
        return "sum", options
    return error.reduction, options


def _row_width(z: Tensor, pos_weight: Tensor | None) -> int:
    """How many outputs to call a row where there are no weights but `pos_weight`; 0 where the kernel has no such rows."""
    if z.numel() == 0:
        return 0
    if pos_weight is not None and pos_weight.numel() > 1:
        return z.shape[-1] if pos_weight.numel() == pos_weight.shape[-1] else 0
    width = z.numel() // z.shape[0] if z.ndim > 1 else 1
    return width if width >= _LEAST_WIDTH else z.numel()


def _elementwise(function: Callable[..., np.ndarray], z: Tensor) -> Tensor:
    return _tensor(function(z.numpy(), n_threads=torch.get_num_threads()))


def _buffer(shape: tuple[int, ...], dtype: np.dtype, most: int) -> np.ndarray:
    """For as many rows as `most` bytes hold, at least one."""
    n, width = shape
    return np.empty((max(1, min(n, most // max(1, width * dtype.itemsize))), width), dtype)


def _loss_alone(
    error: Callable[..., fastbp.LossGrad],
    logits: _Part,
    targets: np.ndarray,
    buffer: np.ndarray,
    reduction: Reduction,
    options: dict[str, Any],
) -> Tensor:
    """The reduced error of rows, as many at a time as the buffer has; it takes their deltas."""
    n, rows, weights = len(targets), len(buffer), options.pop("sample_weight", None)

    def block(start: int, reduction: Reduction) -> fastbp.LossGrad:
        part = slice(start, start + rows)
        out = buffer[: len(targets[part])]
        weight = None if weights is None else weights[part]
        return error(
            logits(part, out),
            targets[part],
            grad_out=out,
            sample_weight=weight,
            reduction=reduction,
            **options,
        )

    if n <= rows:
        return _tensor(block(0, reduction).loss)
    answers = [block(start, "none" if reduction == "none" else "sum") for start in range(0, n, rows)]
    if reduction == "none":
        return _tensor(np.concatenate([answer.loss for answer in answers]))
    total = math.fsum(float(answer.loss) for answer in answers)
    divisor = math.fsum(answer.weight_sum for answer in answers) if reduction == "mean" else 1
    return _tensor(buffer.dtype.type(total / divisor if divisor else math.nan))
