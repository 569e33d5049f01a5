"""The errors as nodes of autograd's graph: a `Function` for eager calls, an operator for compiled ones.

A. With "mean" and "sum" the gradient comes with the error; backward multiplies it by what comes from above, in place, unless that
   is 1, and hands it on without keeping a reference, so that a leaf takes it for its ``grad`` as it is. On a graph that is kept
   a second call computes it anew from the inputs.
B. With "none" it is computed in backward, where its rows' factors are known.
C. An operator takes twice the time of a `Function` around small batches, but a compiler can see what it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbp.torch.errors import Error, LinearError, SigmoidError, SoftmaxError


def reduced(error: Error, leaves: tuple[Tensor | None, ...], *constants: Tensor | None) -> Tensor:
    """The error of the tensors; there are gradients of the leaves."""
    loss: Tensor
    needed = False
    if torch.is_grad_enabled():
        for each in leaves:
            needed = needed or (each is not None and each.requires_grad)
    if torch.compiler.is_compiling():
        operator = _OPERATORS[type(error)]
        loss = operator(*leaves, *constants, None, needed and error.reduction != "none", *error)[0]
        return loss
    if needed:
        loss = _Node.apply(error, *leaves, *constants)
        return loss
    return error.evaluate(*leaves, *constants, gradient=False)[0]


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error: Error, *tensors: Tensor | None) -> Tensor:
        ctx.error = error
        ctx.save_for_backward(*tensors)
        if error.reduction == "none":
            ctx.gradients = None
            return error.evaluate(*tensors, gradient=False)[0]
        loss, gradients = error.evaluate(*tensors)
        ctx.gradients = (None, *gradients, *(None,) * (len(tensors) - len(gradients)))
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or torch.is_grad_enabled():
            return _anew(ctx, upstream)
        return _multiplied(gradients, upstream)


def _multiplied(gradients: tuple[Tensor | None, ...], factor: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients, multiplied in place by what comes from above; which is 1 below most losses."""
    if factor.item() != 1:
        for each in gradients:
            if each is not None:
                each.mul_(factor)
    return gradients


def _anew(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """What backward returns where the gradients are not at hand, or are to be part of a graph themselves."""
    tensors = ctx.saved_tensors
    with torch.no_grad():
        if ctx.error.reduction == "none":
            gradients = ctx.error.evaluate(*tensors, scale=upstream)[1]
        else:
            gradients = _multiplied(ctx.error.evaluate(*tensors)[1], upstream)
    if torch.is_grad_enabled():
        # PyTorch's own once_differentiable would return constants where nothing above depends on a leaf
        sources = [upstream, *(each for each in tensors if each is not None)]
        gradients = [None if each is None else _Once.apply(each, *sources) for each in gradients]
    return None, *gradients, *(None,) * (len(tensors) - len(gradients))


class _Once(torch.autograd.Function):
    """A gradient, a function of all that it was computed from, of which there is no further one."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "got a second derivative of an error of fastbp.torch, expected a first one; torch.nn.functional has both"
        )


def _operator(name: str, kind: type[Error], leaves: str, constants: str, options: str) -> Any:
    """The operator ``fastbp::name``: the tensors, ``scale`` and ``gradient`` of `evaluate`, the fields of the error."""
    count = leaves.count("Tensor")
    last = count + constants.count("Tensor")  # where `scale` stands

    def call(*arguments: Any) -> tuple[Tensor, ...]:
        given, scale, gradient, fields = arguments[:last], *arguments[last : last + 2], arguments[last + 2 :]
        loss, gradients = kind(*fields).evaluate(*given, scale=scale, gradient=gradient)
        return (loss, *(loss.new_empty(0) if each is None else each.contiguous() for each in gradients))

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        given, gradient, reduction = arguments[:last], arguments[last + 1], arguments[last + 2]
        z = given[0]
        shape = (z.shape if kind is SigmoidError else z.shape[:1]) if reduction == "none" else ()
        needed = (each if gradient else None for each in given[:count])
        return (
            z.new_empty(shape),
            *(z.new_empty(0) if each is None else each.new_empty(each.shape) for each in needed),
        )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[last + 2 :]
        ctx.save_for_backward(*(inputs[:last] if ctx.options[0] == "none" else output[1:]))

    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.options[0] == "none":
            gradients = operator(*ctx.saved_tensors, upstream, True, *ctx.options)[1:]
        else:
            gradients = [upstream * each for each in ctx.saved_tensors]
        gradients = [each if each.numel() else None for each in gradients]
        return (*gradients, *(None,) * (last - count + 2 + len(ctx.options)))

    results = ", ".join(["Tensor"] * (1 + count))
    schema = f"({leaves}, {constants}, Tensor? scale, bool gradient, {options}) -> ({results})"
    operator = torch.library.custom_op(f"fastbp::{name}", call, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup)
    return operator


_CLASSES = "Tensor target, Tensor? weight", "str reduction, int ignore_index, float label_smoothing"
_OUTPUTS = "Tensor target, Tensor? weight, Tensor? pos_weight", "str reduction"
_LINEAR = "Tensor input, Tensor linear_weight, Tensor? linear_bias"
_OPERATORS = {
    SoftmaxError: _operator("cross_entropy", SoftmaxError, "Tensor input", *_CLASSES),
    SigmoidError: _operator("binary_cross_entropy_with_logits", SigmoidError, "Tensor input", *_OUTPUTS),
    LinearError: _operator(
        "linear_cross_entropy", LinearError, _LINEAR, _CLASSES[0], f"{_CLASSES[1]}, int max_memory"
    ),
}
