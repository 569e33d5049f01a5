"""What peers share: how each library is made ready, and networks and errors in the words of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp import get_precision

from ..problems import NetworkProblem


class Synchronous:
    """A peer whose calls return when their work is done."""

    def finish(self) -> None:
        """Nothing is under way."""


def flat(layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return [W1, b1, W2, b2, ...] as one vector."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])


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
