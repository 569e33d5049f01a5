"""The peers: each library as its own users would write the same step or the same error, at its best.

A step peer takes a `StepProblem`. `step()` trains on its batch once, `finish()` waits until that is done, and
`parameters()` returns the flat vector as fastbp lays it out. A loss peer takes a `LossProblem`. `call()`
computes the error and its gradient; `result()` returns (mean error, gradient) as NumPy sees them. Peers
compute in the problem's dtype and share its arrays where they can. A library is imported when a peer is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np

from .problems import LossProblem, StepProblem


class StepPeer(Protocol):
    """What every training step offers."""

    name: str
    package: str

    def __init__(self, problem: StepProblem) -> None: ...
    def step(self) -> object: ...
    def finish(self) -> None: ...
    def parameters(self) -> np.ndarray: ...


class LossPeer(Protocol):
    """What every error function offers."""

    name: str
    package: str

    def __init__(self, problem: LossProblem) -> None: ...
    def call(self) -> object: ...
    def finish(self) -> None: ...
    def result(self) -> tuple[float, np.ndarray]: ...


class _Synchronous:
    """A peer whose calls return when their work is done."""

    def finish(self) -> None:
        """Nothing is under way."""


def _flat(layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return [W1, b1, W2, b2, ...] as one vector."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])


# ---------------------------------------------------------------------------------------- training steps


class NumpyStep(_Synchronous):
    """NumPy by hand: the formulas of the derivation, results written into arrays that exist already."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: StepProblem) -> None:
        self.x, self.labels, self.rate = problem.x, problem.labels, problem.learning_rate
        self.layers = [(w.copy(), b.copy()) for w, b in problem.layers(problem.parameters)]
        batch = len(self.x)
        self.rows = np.arange(batch)
        self.outputs = [np.empty((batch, w.shape[1]), problem.dtype) for w, _ in self.layers]
        self.deltas = [np.empty_like(a) for a in self.outputs]
        self.gradients = [np.empty_like(w) for w, _ in self.layers]

    def step(self) -> float:
        """Forward, error, deltas, update."""
        a = self.x
        for (w, b), out in zip(self.layers, self.outputs, strict=True):
            z = np.matmul(a, w, out=out)
            z += b
            a = self._sigmoid(z) if w is not self.layers[-1][0] else z
        loss = self._softmax_error(a)
        for index in range(len(self.layers) - 1, -1, -1):
            (w, b), delta = self.layers[index], self.deltas[index]
            below = self.outputs[index - 1] if index else self.x
            gradient = np.matmul(below.T, delta, out=self.gradients[index])
            if index:
                down = np.matmul(delta, w.T, out=self.deltas[index - 1])
                down *= below
                np.subtract(1.0, below, out=below)
                down *= below
            gradient *= self.rate
            w -= gradient
            b -= self.rate * delta.sum(axis=0)
        return loss

    @staticmethod
    def _sigmoid(z: np.ndarray) -> np.ndarray:
        """1 / (1 + exp(-z)), in place."""
        np.negative(z, out=z)
        np.exp(z, out=z)
        z += 1.0
        return np.reciprocal(z, out=z)

    def _softmax_error(self, z: np.ndarray) -> float:
        """Return the mean error and leave its delta (y - t) / N in the last layer's place."""
        y = np.subtract(z, z.max(axis=1, keepdims=True), out=z)
        picked = y[self.rows, self.labels]
        delta = np.exp(y, out=self.deltas[-1])
        total = delta.sum(axis=1, keepdims=True)
        delta /= total
        delta[self.rows, self.labels] -= 1.0
        delta /= len(delta)
        return float(np.mean(np.log(total[:, 0]) - picked))

    def parameters(self) -> np.ndarray:
        """Flat."""
        return _flat(self.layers)


class TorchStep(_Synchronous):
    """PyTorch eager: `nn.Sequential`, `cross_entropy`, `backward`, SGD (fused where it can be)."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: StepProblem) -> None:
        torch = _torch(problem.threads)
        modules: list[Any] = []
        for w, b in problem.layers(problem.parameters):
            linear = torch.nn.Linear(*w.shape, dtype=torch.from_numpy(w).dtype)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            modules += [linear, torch.nn.Sigmoid()]
        self.model = torch.nn.Sequential(*modules[:-1])
        self.x, self.labels = torch.from_numpy(problem.x), torch.from_numpy(problem.labels)
        try:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.learning_rate, fused=True)
        except (RuntimeError, TypeError):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.learning_rate)
        self.error = self._error(torch)

    def _error(self, torch: Any) -> Any:
        """Return the function from inputs and labels to the mean error."""
        model, cross_entropy = self.model, torch.nn.functional.cross_entropy
        return lambda x, labels: cross_entropy(model(x), labels)

    def step(self) -> None:
        """As in every tutorial."""
        self.optimizer.zero_grad()
        self.error(self.x, self.labels).backward()
        self.optimizer.step()

    def parameters(self) -> np.ndarray:
        """Flat; PyTorch keeps W as (O, I)."""
        linears = [module for module in self.model if hasattr(module, "weight")]
        return _flat([(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in linears])


class TorchCompileStep(TorchStep):
    """The same with `torch.compile` over model and error; backward is compiled with it. Slow to start."""

    name, package = "torch.compile", "torch"

    def _error(self, torch: Any) -> Any:
        torch._dynamo.reset()  # else the ninth shape of a run would silently be left uncompiled
        return torch.compile(super()._error(torch), dynamic=False)


class JaxStep:
    """JAX: one jitted function from parameters to parameters, in donated memory; no call is waited for."""

    name, package = "JAX", "jax"

    def __init__(self, problem: StepProblem) -> None:
        jax = _jax(problem.dtype)
        jnp = jax.numpy

        def error(layers: Any, x: Any, labels: Any) -> Any:
            for w, b in layers[:-1]:
                x = jax.nn.sigmoid(x @ w + b)
            w, b = layers[-1]
            log_y = jax.nn.log_softmax(x @ w + b)
            return -jnp.mean(jnp.take_along_axis(log_y, labels[:, None], axis=1))

        def step(layers: Any, x: Any, labels: Any) -> Any:
            gradients = jax.grad(error)(layers, x, labels)
            return jax.tree.map(lambda p, g: p - problem.learning_rate * g, layers, gradients)

        self.jax, self.update = jax, jax.jit(step, donate_argnums=0)
        self.layers = [(jnp.array(w), jnp.array(b)) for w, b in problem.layers(problem.parameters)]
        self.x, self.labels = jnp.array(problem.x), jnp.array(problem.labels)

    def step(self) -> None:
        """One call."""
        self.layers = self.update(self.layers, self.x, self.labels)

    def finish(self) -> None:
        """Wait for the last step, which waits for those before it."""
        self.jax.block_until_ready(self.layers)

    def parameters(self) -> np.ndarray:
        """Flat."""
        return _flat([(np.asarray(w), np.asarray(b)) for w, b in self.layers])


class SklearnStep(_Synchronous):
    """scikit-learn: `MLPClassifier.partial_fit` on the batch, plain SGD, no L2 term."""

    name, package = "sklearn", "sklearn"

    def __init__(self, problem: StepProblem) -> None:
        from sklearn.neural_network import MLPClassifier

        sizes, batch = problem.shape.sizes, problem.shape.batch
        self.x, self.labels = problem.x, problem.labels
        self.model = MLPClassifier(
            sizes[1:-1],
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=batch,
            learning_rate_init=problem.learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )
        # The first call creates the parameters (and trains): overwrite them in place.
        self.model.partial_fit(self.x, self.labels, classes=np.arange(sizes[-1]))
        arrays = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        for mine, given in zip(arrays, problem.layers(problem.parameters), strict=True):
            mine[0][...], mine[1][...] = given

    def step(self) -> None:
        """One pass over the batch is one update."""
        self.model.partial_fit(self.x, self.labels)

    def parameters(self) -> np.ndarray:
        """Flat."""
        return _flat(list(zip(self.model.coefs_, self.model.intercepts_, strict=True)))


# --------------------------------------------------------------------------------------- error functions


class NumpyLoss(_Synchronous):
    """NumPy by hand: the stable formulas, few temporaries."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: LossProblem) -> None:
        self.logits, self.targets = problem.logits, problem.targets
        self.rows = np.arange(len(self.logits))
        self.call = {"softmax": self._softmax, "sigmoid": self._sigmoid}[problem.shape.kind]

    def _softmax(self) -> tuple[float, np.ndarray]:
        y = self.logits - self.logits.max(axis=1, keepdims=True)
        picked = y[self.rows, self.targets]
        np.exp(y, out=y)
        total = y.sum(axis=1, keepdims=True)
        y /= total * len(y)
        y[self.rows, self.targets] -= 1.0 / len(y)
        return float(np.mean(np.log(total[:, 0]) - picked)), y

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


class TorchLoss(_Synchronous):
    """PyTorch eager: `cross_entropy` or `binary_cross_entropy_with_logits`, forward and backward."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: LossProblem) -> None:
        torch = _torch(problem.threads)
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
        jax = _jax(problem.dtype)
        jnp = jax.numpy

        def softmax(z: Any, labels: Any) -> Any:
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1))

        def sigmoid(z: Any, t: Any) -> Any:
            return jnp.mean(jnp.sum(jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z))), axis=1))

        error = {"softmax": softmax, "sigmoid": sigmoid}[problem.shape.kind]
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


class SklearnLoss(_Synchronous):
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


# --------------------------------------------------------------------------------------------- libraries


def _torch(threads: int) -> Any:
    """Return torch, held to `threads` threads."""
    import torch

    torch.set_num_threads(threads)
    return torch


def _jax(dtype: np.dtype) -> Any:
    """Return jax, with double precision if need be; its threads come from the environment."""
    import jax

    jax.config.update("jax_enable_x64", dtype == np.float64)
    return jax


STEP_PEERS: tuple[type[StepPeer], ...] = (NumpyStep, TorchStep, TorchCompileStep, JaxStep, SklearnStep)
LOSS_PEERS: tuple[type[LossPeer], ...] = (NumpyLoss, TorchLoss, JaxLoss, SklearnLoss)

AnyPeer = TypeVar("AnyPeer", bound=StepPeer | LossPeer)


def choose(kinds: Iterable[type[AnyPeer]], names: str, quick: bool) -> list[type[AnyPeer]]:
    """Return the installed peers named in `names` ("torch,jax": parts of them, or "all"); tell the rest."""
    chosen = []
    for kind in kinds:
        if names != "all" and not any(name in kind.name.lower() for name in names.lower().split(",") if name):
            continue
        if find_spec(kind.package) is None:
            print(f"{kind.name} is left out: {kind.package} is not installed")
        elif names == "all" and quick and kind is TorchCompileStep:
            print(f"{kind.name} is left out of a quick run: it compiles for long (--peers torch has it)")
        else:
            chosen.append(kind)
    return chosen
