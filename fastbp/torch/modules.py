"""Networks as modules, and modules as networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import fastbp

_SOFTPLUS_THRESHOLD = (
    50.0  # beyond it softplus(z) is z in every dtype; PyTorch's own, 20, is not beyond it in float64
)

# What computes exactly the function of this name; a module of the same class is the function if it has the same settings.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "elu": lambda: nn.ELU(1.0),
    "selu": nn.SELU,
    "gelu": lambda: nn.GELU(approximate="none"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": lambda: nn.Softplus(1.0, _SOFTPLUS_THRESHOLD),
}
_SETTINGS = {
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "gelu": ("approximate",),
    "softplus": ("beta",),
}


def to_module(net: fastbp.MLP) -> nn.Sequential:
    """An ``nn.Sequential`` that computes the logits of a network, on the same weights.

    Each ``Linear`` has for its weight, (O, I), a transposed view of the network's, (I, O), and its bias as it lies: what an
    optimizer of either side writes, the other computes with. Dropout is a ``Dropout`` after the activation; call ``eval()`` on
    the module to leave it out, as predictions of the network do.

    Parameters
    ----------
    net : fastbp.MLP

    Returns
    -------
    torch.nn.Sequential
        With the attribute `fastbp`, the settings that no layer has: ``loss`` and ``label_smoothing``.

    Raises
    ------
    TypeError
        If it is no network.

    Examples
    --------
    >>> import numpy as np, torch, fastbp
    >>> from fastbp.torch import to_module
    >>> net = fastbp.MLP([2, 4, 3], activation="tanh", seed=0)
    >>> module = to_module(net)
    >>> module
    Sequential(
      (0): Linear(in_features=2, out_features=4, bias=True)
      (1): Tanh()
      (2): Linear(in_features=4, out_features=3, bias=True)
    )
    >>> net.weights[0][:] = 0.5
    >>> module[0].weight[0, 0].item()
    0.5
    """
    if not isinstance(net, fastbp.MLP):
        raise TypeError(f"net: got {type(net).__name__}, expected fastbp.MLP")
    modules: list[nn.Module] = []
    hidden = list(zip(net.activations, net.dropout, strict=True))
    for weight, bias in zip(net.weights, net.biases, strict=True):
        linear = nn.Linear(*weight.shape, device="meta")
        linear.weight = nn.Parameter(torch.from_numpy(weight.T))
        linear.bias = nn.Parameter(torch.from_numpy(bias))
        modules.append(linear)
        if hidden:
            activation, rate = hidden.pop(0)
            modules += [_ACTIVATIONS[activation]()] + ([nn.Dropout(rate)] if rate else [])
    module = nn.Sequential(*modules)
    module.fastbp = {"loss": net.loss_name, **net._error_options()}
    return module


def from_module(
    module: nn.Module,
    *,
    loss: str | None = None,
    label_smoothing: float | None = None,
    seed: int | None = None,
    n_threads: int | None = None,
) -> fastbp.MLP:
    """A network with the layers of a module and copies of its weights: the inverse of :func:`to_module`.

    Parameters
    ----------
    module : torch.nn.Sequential or torch.nn.Linear
        ``Linear`` layers with biases; after each but the last at most one activation that a network knows, then at most one
        ``Dropout``. A ``Sequential`` within it is taken apart; a layer that stands in two places becomes two.
    loss, label_smoothing : optional
        Of the network. By default those of the network that `to_module` made the module from, or those of ``fastbp.MLP``.
    seed, n_threads : optional
        As in ``fastbp.MLP``.

    Returns
    -------
    fastbp.MLP
        Of the module's dtype. Its logits are the module's outputs.

    Raises
    ------
    ValueError
        A module that a network cannot be: the message names the first such layer by its place and says why.
    TypeError
        No module.

    Examples
    --------
    >>> import torch, fastbp
    >>> from fastbp.torch import from_module
    >>> net = from_module(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.GELU(), torch.nn.Linear(4, 3)))
    >>> net.layer_sizes, net.activations
    ((2, 4, 3), ('gelu',))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    linears, activations, rates = _layers(module)
    noted = getattr(module, "fastbp", {})
    of_error = {name: noted[name] for name in ("delta", "tau") if name in noted and loss is None}
    net = fastbp.MLP(
        [linears[0].in_features, *(linear.out_features for linear in linears)],
        activation=activations,
        dropout=rates,
        loss=noted.get("loss", "softmax_cross_entropy") if loss is None else loss,
        label_smoothing=noted.get("label_smoothing", 0.0) if label_smoothing is None else label_smoothing,
        dtype=str(linears[0].weight.dtype).removeprefix("torch."),
        seed=seed,
        n_threads=n_threads,
        init="zeros",
        **of_error,
    )
    for linear, weight, bias in zip(linears, net.weights, net.biases, strict=True):
        weight[:], bias[:] = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
    return net


def _layers(module: nn.Module) -> tuple[list[nn.Linear], list[str], list[float]]:
    """The linear layers; the activation and the rate of dropout of each but the last."""
    linears: list[nn.Linear] = []
    activations: list[str] = []
    rates: list[float] = []
    after = "nothing"  # what the last module was
    for place, layer in _flat("", module):
        _see_no_hooks(place, layer)
        if type(layer) is nn.Linear:
            if linears and after == "Linear":
                activations.append("identity")
                rates.append(0.0)
            linears.append(_usable(place, layer, linears))
            after = "Linear"
        elif type(layer) is nn.Dropout and after == "activation":
            rates[-1] = layer.p
            after = "Dropout"
        elif after == "Linear" and (name := _activation(place, layer)) is not None:
            activations.append(name)
            rates.append(0.0)
            after = "activation"
        else:
            raise _refused(place, layer, f"a layer that a network has after {after}")
    if after != "Linear":
        text = "a Linear as the last layer: the outputs of a network's layers are logits, and its loss says what becomes of them"
        raise ValueError(f"module: got {'no layers' if after == 'nothing' else 'another'}, expected {text}")
    return linears, activations, rates


def _flat(place: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield place, module
        return
    _see_no_hooks(place, module)
    for name, child in module._modules.items():  # named_children() leaves out what stands in two places
        if child is not None:
            yield from _flat(f"{place}[{name}]", child)


def _see_no_hooks(place: str, module: nn.Module) -> None:
    """Hooks compute what a network does not: `weight_norm`, pruning, anything of the user's."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if hooks:
        names = ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in hooks)
        raise _refused(place, module, "a layer without hooks", f"{type(module).__name__} with {names}")


def _usable(place: str, linear: nn.Linear, before: list[nn.Linear]) -> nn.Linear:
    """A linear layer, if a network can have it after those `before`."""
    if linear.bias is None:
        raise _refused(place, linear, "bias=True")
    weight = linear.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        raise _refused(place, linear, "float32 or float64 on the CPU", f"{weight.dtype} on {weight.device}")
    if before and weight.dtype != before[0].weight.dtype:
        raise _refused(place, linear, f"{before[0].weight.dtype} like the first layer", str(weight.dtype))
    if before and linear.in_features != before[-1].out_features:
        raise _refused(
            place, linear, f"in_features={before[-1].out_features}, as many as the layer before has outputs"
        )
    return linear


def _activation(place: str, layer: nn.Module) -> str | None:
    """The name of the activation that a module is; None if it is none of a network's."""
    for name, make in _ACTIVATIONS.items():
        like = make()
        if type(layer) is type(like):
            for setting in _SETTINGS.get(name, ()):
                if getattr(layer, setting) != getattr(like, setting):
                    raise _refused(place, layer, f"{setting}={getattr(like, setting)!r}")
            return name
    return None


def _refused(place: str, layer: Any, expected: str, got: str | None = None) -> ValueError:
    return ValueError(f"module{place}: got {got or layer}, expected {expected}")
