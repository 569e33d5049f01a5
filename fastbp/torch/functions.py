"""The public functions: check, give the tensors the shapes and the dtype that the kernels know, enter autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbp._checks import IGNORE_INDEX
from fastbp.torch import arguments
from fastbp.torch.errors import LinearError, SigmoidError, SoftmaxError
from fastbp.torch.graph import reduced


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """:func:`torch.nn.functional.cross_entropy` on the kernels of :func:`fastbp.softmax_cross_entropy`.

    Arguments, defaults, reductions and types of errors are PyTorch's. The error of one example is
    -Σ_c w_c [(1 - ε) t_c + ε/C] ln softmax(z)_c.

    Parameters
    ----------
    input : tensor of float32, float64, float16 or bfloat16, shape (C,), (N, C) or (N, C, d1, ...)
        Logits, on the CPU. Half precision is computed in float32.
    target : tensor of int64 or uint8, shape (), (N,) or (N, d1, ...), or of floats, of the shape of `input`
        Classes, or probabilities, of which no gradient is computed.
    weight : tensor of shape (C,), optional
        w_c, of the classes; of which no gradient is computed.
    size_average, reduce : bool, optional
        Older names of `reduction`, with PyTorch's warning.
    ignore_index : int, default -100
        Examples of this class are not read: error 0, gradient 0, not counted by the mean.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over classes is Σ E_n / Σ_n w_target(n), over probabilities Σ E_n / N, as in PyTorch.
    label_smoothing : float in [0, 1], default 0
        ε.

    Returns
    -------
    tensor
        The error: a scalar, or with "none" of the shape of classes. NaN for the mean of no examples.

    Raises
    ------
    NotImplementedError
        A tensor that is sparse or not on the CPU, an input of another dtype, or `weight` or `target` that requires grad.
    RuntimeError, ValueError, IndexError, TypeError
        Another bad argument: the types that PyTorch raises.

    Notes
    -----
    The gradient comes with the error, in one pass over the logits; it is not computed under ``torch.no_grad()``. A second
    derivative is refused. As many threads are used as ``torch.get_num_threads()`` tells, where they pay.

    Examples
    --------
    >>> import torch
    >>> from fastbp.torch import cross_entropy
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0, 2]))
    >>> loss.backward()
    >>> round(loss.item(), 6), (2 * logits.grad[1]).numpy().round(4)  # y - t; the mean divides by N = 2
    (0.669079, array([ 0.3333,  0.3333, -0.6667], dtype=float32))
    """
    reduced_to = arguments.reduction_of(size_average, reduce, reduction)
    z = arguments.floats("input", input)
    if z.ndim == 0:
        raise RuntimeError("input: got shape (), expected (C,), (N, C) or (N, C, d1, ...)")
    ignore_index, label_smoothing = arguments.softmax_numbers(ignore_index, label_smoothing)
    axis = 0 if z.ndim == 1 else 1
    shape = z.shape[:axis] + z.shape[axis + 1 :]
    t = arguments.class_targets(target, z.shape, shape, ignore_index)
    w = arguments.class_weight(weight, z.shape[axis], z, t)
    result, (z, t, w) = arguments.in_one_dtype(z, t, w)
    if z.ndim != 2:
        t = _rows(t, axis) if t.dtype.is_floating_point else t.reshape(-1)
        z = _rows(z, axis)
    loss = reduced(SoftmaxError(reduced_to, ignore_index, label_smoothing), (z,), t, w)
    return _out(loss, result, shape if reduced_to == "none" else None)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.binary_cross_entropy_with_logits` on the kernels of :func:`fastbp.sigmoid_cross_entropy`.

    Arguments, defaults, reductions and types of errors are PyTorch's. The error of one output is
    -w [p t ln σ(z) + (1 - t) ln(1 - σ(z))].

    Parameters
    ----------
    input : tensor of float32, float64, float16 or bfloat16, any shape
        Logits, on the CPU. Half precision is computed in float32.
    target : tensor of floats of the shape of `input`
        Usually in [0, 1]; of which no gradient is computed.
    weight, pos_weight : tensors of floats that broadcast to that shape, optional
        w, of the outputs, and p, of the positive targets; of which no gradient is computed.
    size_average, reduce : bool, optional
        Older names of `reduction`, with PyTorch's warning.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is over all outputs, whatever the weights.

    Returns
    -------
    tensor
        The error: a scalar, or with "none" of the shape of `input`. NaN for the mean of nothing.

    Raises
    ------
    NotImplementedError
        A tensor that is sparse or not on the CPU, of another dtype, or a constant that requires grad.
    RuntimeError, ValueError, TypeError
        Another bad argument: the types that PyTorch raises.

    Notes
    -----
    Those of :func:`cross_entropy`. Without `weight`, with one `pos_weight` for all or for each column, and reduced, error and
    gradient are one call of one kernel; otherwise they are computed from its terms, several times slower.

    Examples
    --------
    >>> import torch
    >>> from fastbp.torch import binary_cross_entropy_with_logits
    >>> logits = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> loss = binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0]), reduction="sum")
    >>> round(loss.item(), 6)  # ln 2 + ln(1 + e²)
    2.820075
    """
    reduced_to = arguments.reduction_of(size_average, reduce, reduction)
    z, t = arguments.floats("input", input), arguments.constant("target", target)
    if t.shape != z.shape:
        raise ValueError(f"target: got shape {tuple(t.shape)}, expected {tuple(z.shape)} like input")
    w = arguments.output_weight("weight", weight, z.shape)
    p = arguments.output_weight("pos_weight", pos_weight, z.shape)
    result, (z, t, w, p) = arguments.in_one_dtype(z, t, w, p)
    return _out(reduced(SigmoidError(reduced_to), (z,), t, w, p), result, None)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """:func:`torch.nn.functional.linear_cross_entropy` on the kernel of :func:`fastbp.linear_softmax_cross_entropy`.

    The error is that of ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)``, without its logits: they are
    formed by blocks of rows, in 64 MiB at most, or in less by `options`. Arguments, defaults, reductions and types of errors are
    PyTorch's.

    Parameters
    ----------
    input : tensor of float32, float64, float16 or bfloat16, shape (I,) or (N, I)
        On the CPU. Half precision is computed in float32, of which copies are made.
    linear_weight : tensor of the dtype of `input`, shape (C, I)
        PyTorch's (C, d1, ..., I) is refused.
    target, weight, reduction, label_smoothing
        As in :func:`cross_entropy`.
    linear_bias : tensor of the dtype of `input`, shape (C,), optional
    ignore_index : int, optional
        The class whose examples are not read, -100 by default; for classes only.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Ask for less memory, where time matters less: blocks of ``batch_chunk_size`` rows, or by default of a sixth of the
        memory of the gradients; of 8 MiB at least. The other fields are PyTorch's own affair.

    Returns
    -------
    tensor
        The error: a scalar, or with "none" (N,), or () for one example. NaN for the mean of no examples.

    Raises
    ------
    NotImplementedError
        A tensor that is sparse or not on the CPU, of another dtype, a `linear_weight` with more axes, or a constant that
        requires grad.
    RuntimeError, ValueError, IndexError, TypeError
        Another bad argument: the types that PyTorch raises.

    Notes
    -----
    Those of :func:`cross_entropy`. All three gradients come with the error. With ``reduction="none"`` they are computed in the
    backward pass instead, from logits that are formed once more.

    Examples
    --------
    >>> import torch
    >>> from fastbp.torch import linear_cross_entropy
    >>> x, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(3, 2, requires_grad=True)
    >>> loss = linear_cross_entropy(x, weight, torch.tensor([0, 2]))
    >>> loss.backward()
    >>> round(loss.item(), 6), weight.grad.shape
    (1.098612, torch.Size([3, 2]))
    """
    reduced_to = arguments.reduction_of(None, None, reduction)
    x, v = arguments.floats("input", input), arguments.floats("linear_weight", linear_weight)
    if x.ndim not in (1, 2):
        raise RuntimeError(f"input: got shape {tuple(x.shape)}, expected (I,) or (N, I)")
    if v.ndim > 2:
        raise NotImplementedError(f"linear_weight: got shape {tuple(v.shape)}, expected (C, I)")
    if v.ndim < 2 or v.shape[1] != x.shape[-1]:
        raise RuntimeError(f"linear_weight: got shape {tuple(v.shape)}, expected (C, {x.shape[-1]})")
    b = None if linear_bias is None else arguments.floats("linear_bias", linear_bias)
    if b is not None and b.shape != v.shape[:1]:
        raise RuntimeError(f"linear_bias: got shape {tuple(b.shape)}, expected ({len(v)},)")
    for name, given in (("linear_weight", v), ("linear_bias", b)):
        if given is not None and given.dtype != x.dtype:
            raise RuntimeError(f"{name}: got {given.dtype}, expected {x.dtype} like input")
    shape = x.shape[:-1]
    logits = torch.Size((*shape, len(v)))
    if ignore_index is not None and isinstance(target, Tensor) and target.shape == logits:
        raise RuntimeError(f"ignore_index: got {ignore_index} with probabilities, expected class indices")
    ignored, smoothing = IGNORE_INDEX if ignore_index is None else ignore_index, label_smoothing
    ignored, smoothing = arguments.softmax_numbers(ignored, smoothing)
    t = arguments.class_targets(target, logits, shape, ignored)
    w = arguments.class_weight(weight, len(v), x, t)
    result, (x, v, b, t, w) = arguments.in_one_dtype(x, v, b, t, w)
    if x.ndim == 1:
        t = _rows(t, 0) if t.dtype.is_floating_point else t.reshape(-1)
        x = x[None]
    memory = arguments.block_memory(options, x, v)
    loss = reduced(LinearError(reduced_to, ignored, smoothing, memory), (x, v, b), t, w)
    return _out(loss, result, shape if reduced_to == "none" else None)


def _rows(x: Tensor, axis: int) -> Tensor:
    """The rows (N, C) of a tensor whose classes lie along `axis`."""
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _out(loss: Tensor, dtype: torch.dtype, shape: torch.Size | None) -> Tensor:
    loss = loss if loss.dtype is dtype else loss.to(dtype)
    return loss if shape is None or loss.shape == shape else loss.reshape(shape)
