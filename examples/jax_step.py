"""
A network in JAX
================

Its last layer and error are fastbp's: one line is another than with optax.

The network sorts the handwritten digits. Its parameters are a tree of JAX's, its epoch is jitted; the error takes the place of
``optax.softmax_cross_entropy_with_integer_labels(hidden @ weight + bias, labels).mean()``, and never forms the logits.
"""

import jax
import jax.numpy as jnp

import fastbp
from fastbp.jax import linear_softmax_cross_entropy

SIZES, RATE, BATCH, EPOCHS = (64, 32, 10), 0.2, 32, 20


def parameters(key):
    """Weights (I, O) and biases (O,) of each layer."""
    keys = jax.random.split(key, len(SIZES) - 1)
    shapes = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [(jax.random.normal(key, (i, o)) * (2 / i) ** 0.5, jnp.zeros(o)) for key, i, o in shapes]


def hidden(layers, x):
    """The outputs of the hidden layers, N rows."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x


def loss(layers, x, labels):
    """The mean error."""
    weight, bias = layers[-1]
    return linear_softmax_cross_entropy(hidden(layers, x), weight, labels, bias=bias)


@jax.jit
def epoch(layers, X, y, batches):
    """The parameters after gradient descent on one batch after the other, and the errors before each step."""

    def step(layers, rows):
        value, gradients = jax.value_and_grad(loss)(layers, X[rows], y[rows])
        return jax.tree.map(lambda p, g: p - RATE * g, layers, gradients), value

    return jax.lax.scan(step, layers, batches)


def main():
    """Train on 1500 digits, test on the others."""
    X, y = fastbp.datasets.load_digits()
    X, y = jnp.asarray(X, jnp.float32), jnp.asarray(y)
    layers = parameters(jax.random.key(0))
    for number in range(EPOCHS):
        order = jax.random.permutation(jax.random.key(number), 1500)
        layers, errors = epoch(layers, X, y, order[: 1500 - 1500 % BATCH].reshape(-1, BATCH))
    weight, bias = layers[-1]
    right = jnp.argmax(hidden(layers, X[1500:]) @ weight + bias, axis=1) == y[1500:]
    print(f"loss {errors.mean():.3f}, accuracy {right.mean():.3f}")
    assert right.mean() > 0.9


if __name__ == "__main__":
    main()
