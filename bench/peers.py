"""The peers: what those of all rows share, and those of the error functions.

Each library is used as its own users would, at its best. Peers compute in the problem's dtype and share its
arrays where they can. A library is imported when a peer is made.

A loss peer takes a `LossProblem`. `call()` computes the error and its gradient; `result()` returns (mean error,
gradient) as NumPy sees them. The peers of steps, predictions and whole training stand in files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from ctypes.util import find_library
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np

from fastbp import get_precision

from .problems import LossProblem, NetworkProblem


class LossPeer(Protocol):
    """What every error function offers."""

    name: str
    package: str

    def __init__(self, problem: LossProblem) -> None: ...
    def call(self) -> object: ...
    def finish(self) -> None: ...
    def result(self) -> tuple[float, np.ndarray]: ...


class Synchronous:
    """A peer whose calls return when their work is done."""

    def finish(self) -> None:
        """Nothing is under way."""


def flat(layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return [W1, b1, W2, b2, ...] as one vector."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])


# --------------------------------------------------------------------------------------- error functions


class NumpyLoss(Synchronous):
    """NumPy by hand: the stable formulas, few temporaries."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: LossProblem) -> None:
        self.logits, self.targets = problem.logits, problem.targets
        self.rows = np.arange(len(self.logits))
        self.call = {"softmax": self._softmax, "sigmoid": self._sigmoid}[problem.shape.kind]

    def _softmax(self) -> tuple[float, np.ndarray]:
        return numpy_softmax_error(self.logits, self.targets, self.rows)

    def _sigmoid(self) -> tuple[float, np.ndarray]:
        z, t = self.logits, self.targets
        e = np.exp(-np.abs(z))
        loss = np.sum(np.maximum(z, 0.0) - z * t + np.log1p(e)) / len(z)
        y = np.where(z >= 0.0, 1.0, e)
        y /= 1.0 + e
        y -= t
        y /= len(z)
        return float(loss), y

    def result(self) -> tuple[float, np.ndarray]:
        """Return mean error and gradient."""
        return self.call()


class TorchLoss(Synchronous):
    """PyTorch eager: `cross_entropy` or `binary_cross_entropy_with_logits`, forward and backward."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: LossProblem) -> None:
        torch = import_torch(problem.threads)
        self.logits = torch.from_numpy(problem.logits).requires_grad_()
        self.targets = torch.from_numpy(problem.targets)
        self.gradient = torch.autograd.grad
        functional, rows = torch.nn.functional, problem.shape.rows
        self.error = {
            "softmax": functional.cross_entropy,
            # PyTorch's mean is over outputs as well: the sum over outputs, the mean over examples by hand.
            "sigmoid": lambda z, t: functional.binary_cross_entropy_with_logits(z, t, reduction="sum") / rows,
        }[problem.shape.kind]

    def call(self) -> tuple[Any, Any]:
        """Error and gradient, as tensors."""
        loss = self.error(self.logits, self.targets)
        return loss, self.gradient(loss, self.logits)[0]

    def result(self) -> tuple[float, np.ndarray]:
        """Return both as NumPy sees them."""
        loss, gradient = self.call()
        return float(loss.detach()), gradient.numpy()


class JaxLoss:
    """JAX: a jitted `value_and_grad`."""

    name, package = "JAX", "jax"

    def __init__(self, problem: LossProblem) -> None:
        jax = import_jax(problem.dtype)
        jnp = jax.numpy

        def sigmoid(z: Any, t: Any) -> Any:
            return jnp.mean(jnp.sum(jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z))), axis=1))

        error = {"softmax": jax_softmax_error, "sigmoid": sigmoid}[problem.shape.kind]
        self.jax, self.function = jax, jax.jit(jax.value_and_grad(error))
        self.logits, self.targets = jnp.asarray(problem.logits), jnp.asarray(problem.targets)

    def call(self) -> None:
        """Wait for each result, or the gradients under way would fill the memory."""
        self.jax.block_until_ready(self.function(self.logits, self.targets))

    def finish(self) -> None:
        """Nothing is under way."""

    def result(self) -> tuple[float, np.ndarray]:
        """Return both as NumPy sees them."""
        loss, gradient = self.function(self.logits, self.targets)
        return float(loss), np.asarray(gradient)


class SklearnLoss(Synchronous):
    """scikit-learn: the compiled losses under its linear models and trees, into buffers; sums, not means."""

    name, package = "sklearn", "sklearn"

    def __init__(self, problem: LossProblem) -> None:
        from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss

        if problem.shape.kind == "softmax":
            self.loss, shape = HalfMultinomialLoss(problem.shape.classes), problem.logits.shape
        else:
            self.loss, shape = HalfBinomialLoss(), (problem.logits.size,)
        self.examples, self.threads = problem.shape.rows, problem.threads
        self.logits = problem.logits.reshape(shape)
        self.targets = problem.targets.ravel().astype(problem.dtype)
        self.losses, self.out = np.empty_like(self.targets), np.empty_like(self.logits)
        self.result_shape = problem.logits.shape

    def call(self) -> float:
        """Errors per example into `losses`, gradients into `out`."""
        self.loss.loss_gradient(
            self.targets, self.logits, loss_out=self.losses, gradient_out=self.out, n_threads=self.threads
        )
        return float(np.sum(self.losses))

    def result(self) -> tuple[float, np.ndarray]:
        """Return mean error and gradient."""
        return self.call() / self.examples, self.out.reshape(self.result_shape) / self.examples


LOSS_PEERS: tuple[type[LossPeer], ...] = (NumpyLoss, TorchLoss, JaxLoss, SklearnLoss)


# --------------------------------------------------------------------------------------------- libraries


def numpy_logits(
    layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, outputs: list[np.ndarray]
) -> np.ndarray:
    """Return the logits of `layers`, [(W, b), ...], with sigmoid hidden units; each layer's into its array of `outputs`."""
    for (w, b), z in zip(layers, outputs, strict=True):
        np.matmul(x, w, out=z)
        z += b
        x = z
        if w is not layers[-1][0]:  # 1 / (1 + exp(-z)), in place
            np.negative(z, out=z)
            np.exp(z, out=z)
            z += 1.0
            np.reciprocal(z, out=z)
    return x


def numpy_softmax_error(
    z: np.ndarray, labels: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Return the mean cross-entropy and its delta (y - t) / N, in `out`, which may be `z`. `rows`: 0, 1, ... N - 1."""
    y = np.subtract(z, z.max(axis=1, keepdims=True), out=out)
    picked = y[rows, labels]
    np.exp(y, out=y)
    total = y.sum(axis=1, keepdims=True)
    y /= total * len(y)
    y[rows, labels] -= 1.0 / len(y)
    return float(np.mean(np.log(total[:, 0]) - picked)), y


def import_torch(threads: int) -> Any:
    """Return torch, held to `threads` threads and the precision in use."""
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(get_precision())
    return torch


def import_jax(dtype: np.dtype) -> Any:
    """Return jax, with double precision if need be; its threads come from the environment."""
    import jax

    jax.config.update("jax_enable_x64", dtype == np.float64)
    return jax


def jax_layers(problem: NetworkProblem) -> list[tuple[Any, Any]]:
    """Return the problem's parameters, [(W, b), ...], as arrays of JAX."""
    from jax.numpy import array

    return [(array(w), array(b)) for w, b in problem.layers(problem.parameters)]


def jax_logits(layers: Any, x: Any) -> Any:
    """Return the logits of `layers` with sigmoid hidden units."""
    from jax.nn import sigmoid

    for w, b in layers[:-1]:
        x = sigmoid(x @ w + b)
    w, b = layers[-1]
    return x @ w + b


def jax_softmax_error(z: Any, labels: Any) -> Any:
    """Return the mean cross-entropy."""
    from jax import nn, numpy

    return -numpy.mean(numpy.take_along_axis(nn.log_softmax(z), labels[:, None], axis=1))


def torch_network(problem: NetworkProblem) -> Any:
    """Return the problem's network as a `Sequential` of `Linear` and `Sigmoid`; PyTorch keeps W as (O, I)."""
    torch = import_torch(problem.threads)
    modules: list[Any] = []
    for w, b in problem.layers(problem.parameters):
        linear = torch.nn.Linear(*w.shape, dtype=torch.from_numpy(w).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        modules += [linear, torch.nn.Sigmoid()]
    return torch.nn.Sequential(*modules[:-1])


def sklearn_network(problem: NetworkProblem, **options: Any) -> Any:
    """Return the problem's network as an `MLPClassifier`, without its L2 term."""
    from sklearn.neural_network import MLPClassifier

    sizes = problem.shape.sizes
    model = MLPClassifier(sizes[1:-1], activation="logistic", alpha=0.0, shuffle=False, **options)
    # The first call creates the parameters (and trains): overwrite them in place.
    model.partial_fit(problem.x, problem.labels, classes=np.arange(sizes[-1]))
    arrays = zip(model.coefs_, model.intercepts_, strict=True)
    for mine, given in zip(arrays, problem.layers(problem.parameters), strict=True):
        mine[0][...], mine[1][...] = given
    return model


# ------------------------------------------------------------------------------------------------ choice

# Instruction sets can not be forced on these: they would not take part on equal terms.
UNBOUND_BY_ISA = ("onnxruntime",)
COMPILES_FOR_LONG = "torch.compile"
OF_BFLOAT16 = "PyTorch autocast"  # which rounds to it: no peer of a higher precision


class Peer(Protocol):
    """What is needed to choose one."""

    name: str
    package: str


AnyPeer = TypeVar("AnyPeer", bound=Peer)


def choose(kinds: Iterable[type[AnyPeer]], names: str, quick: bool, isa: str | None) -> list[type[AnyPeer]]:
    """Return the installed peers named in `names` ("torch,jax": parts of them, or "all"); tell the rest."""
    chosen = []
    for kind in kinds:
        if names != "all" and not any(name in kind.name.lower() for name in names.lower().split(",") if name):
            continue
        if kind.name == OF_BFLOAT16 and get_precision() != "medium":
            continue
        if find_spec(kind.package) is None and find_library(kind.package) is None:
            print(f"{kind.name} is left out: {kind.package} is not installed")
        elif isa and kind.package in UNBOUND_BY_ISA:
            print(f"{kind.name} is left out: it can not be held to {isa}")
        elif names == "all" and quick and kind.name == COMPILES_FOR_LONG:
            print(f"{kind.name} is left out of a quick run: it compiles for long (--peers torch has it)")
        else:
            chosen.append(kind)
    return chosen
