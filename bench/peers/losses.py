"""The peers of the error functions.

`call()` computes the error of a `LossProblem` and its gradient; `result()` returns (mean error, gradient) as NumPy sees them.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..problems import LossProblem
from .libraries import Synchronous, import_jax, import_torch, jax_softmax_error, numpy_softmax_error


class LossPeer(Protocol):
    """What every error function offers."""

    name: str
    package: str

    def __init__(self, problem: LossProblem) -> None: ...
    def call(self) -> object: ...
    def finish(self) -> None: ...
    def result(self) -> tuple[float, np.ndarray]: ...


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
