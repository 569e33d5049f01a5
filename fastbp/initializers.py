"""How the weights of a layer are drawn before training. Its biases start at 0.

A layer of I inputs and O outputs has weights (I, O):

==============================  ==============================================================  ======
name                            weights                                                         source
==============================  ==============================================================  ======
``glorot``, ``glorot_uniform``  uniform in ±sqrt(6 / (I + O))                                   [1]_
``glorot_normal``               normal with variance 2 / (I + O)                                [1]_
``he``, ``he_normal``           normal with variance 2 / I                                      [2]_
``he_uniform``                  uniform in ±sqrt(6 / I)                                         [2]_
``lecun``, ``lecun_normal``     normal with variance 1 / I                                      [3]_
``lecun_uniform``               uniform in ±sqrt(3 / I)                                         [3]_
``normal``                      normal with standard deviation 0.05, for any I and O
``uniform``                     uniform in ±0.05, for any I and O
``orthogonal``                  a random matrix with orthonormal columns, or rows where I < O   [4]_
``zeros``                       0: the units of a hidden layer stay copies of each other
==============================  ==============================================================  ======

``auto`` is the one that suits the layer's activation: ``glorot`` for identity, sigmoid and tanh, ``he`` for relu,
leaky_relu, elu, gelu, silu, mish and softplus, ``lecun`` for selu, whose constants assume it [5]_. The last layer, which has
none, is drawn as the one before it.

All are drawn in float64, so that a seed means the same network in both dtypes.

References
----------
.. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
   equation 16.
.. [2] K. He et al., "Delving deep into rectifiers", 2015, https://arxiv.org/abs/1502.01852, equation 10.
.. [3] Y. LeCun et al., "Efficient BackProp", 1998, equation 16.
.. [4] A. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014,
   https://arxiv.org/abs/1312.6120; drawn as in F. Mezzadri, "How to generate random matrices from the classical compact
   groups", 2007, https://arxiv.org/abs/math-ph/0609050.
.. [5] G. Klambauer et al., "Self-normalizing neural networks", 2017, https://arxiv.org/abs/1706.02515.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastbp.activations import ACTIVATIONS

__all__ = ["INITIALIZERS", "Initializer", "initializer"]

#: ``(rng, n_in, n_out) -> weights (n_in, n_out)``
Initializer = Callable[[np.random.Generator, int, int], np.ndarray]


def _normal(variance: Callable[[int, int], float]) -> Initializer:
    return lambda rng, i, o: rng.normal(0.0, np.sqrt(variance(i, o)), (i, o))


def _uniform(square_of_limit: Callable[[int, int], float]) -> Initializer:
    def draw(rng: np.random.Generator, i: int, o: int) -> np.ndarray:
        limit = np.sqrt(square_of_limit(i, o))
        return rng.uniform(-limit, limit, (i, o))

    return draw


def _orthogonal(rng: np.random.Generator, i: int, o: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((max(i, o), min(i, o))))
    q *= np.copysign(1.0, np.diag(r))  # the one Q with a positive diagonal of R is uniformly distributed
    return q if i >= o else q.T


INITIALIZERS: dict[str, Initializer] = {
    "glorot": _uniform(lambda i, o: 6 / (i + o)),
    "glorot_uniform": _uniform(lambda i, o: 6 / (i + o)),
    "glorot_normal": _normal(lambda i, o: 2 / (i + o)),
    "he": _normal(lambda i, o: 2 / i),
    "he_normal": _normal(lambda i, o: 2 / i),
    "he_uniform": _uniform(lambda i, o: 6 / i),
    "lecun": _normal(lambda i, o: 1 / i),
    "lecun_normal": _normal(lambda i, o: 1 / i),
    "lecun_uniform": _uniform(lambda i, o: 3 / i),
    "normal": _normal(lambda i, o: 0.05**2),
    "uniform": _uniform(lambda i, o: 0.05**2),
    "orthogonal": _orthogonal,
    "zeros": lambda rng, i, o: np.zeros((i, o)),
}


def initializer(init: str | Initializer, activation: str) -> Initializer:
    """The function that draws the weights of a layer with this activation: by name, by ``"auto"``, or itself."""
    if not isinstance(init, str):
        return init
    return INITIALIZERS[ACTIVATIONS[activation].weights if init == "auto" else init]
