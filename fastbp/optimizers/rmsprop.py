"""RMSprop."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of the running mean of its squares [1]_.

    With w the parameters, g the gradient, η, α, ε, μ and λ the rates, and the states v, m, b, zeros at first::

        g ← g + λ w
        v ← α v + (1 - α) g²
        d = g / (√v + ε)            (centered:  m ← α m + (1 - α) g,  d = g / (√(v - m²) + ε) [2]_)
        w ← w - η d                 (with momentum:  b ← μ b + d,  w ← w - η b)

    An m or b below the smallest normal number becomes 0, and so does a v where g is that small: where g stays 0,
    they would be subnormal for ever, and slow.

    An optimizer serves one parameter vector. A copy has states of its own, which belong to the first vector that the
    copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.01
    alpha : float in [0, 1), default 0.99
        How much of the means is kept at each step.
    epsilon : float > 0, default 1e-8
        Added outside the root, as in PyTorch.
    momentum : float in [0, 1], default 0
    centered : bool, default False
        Divide by the standard deviation: take the square of the mean from the mean of the squares.
    weight_decay : float >= 0, default 0
    average : float in [0, 1), optional
    decay_biases : bool, default False
        See :class:`SGD`.

    Attributes
    ----------
    learning_rate, alpha, epsilon, momentum, weight_decay
        May be set between updates, to a number or to a function of the steps made before.
    steps : int
        How many updates have been made.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    References
    ----------
    .. [1] T. Tieleman, G. Hinton, Neural Networks for Machine Learning, lecture 6.5, Coursera 2012.
    .. [2] A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850, equations 38 to 45.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.RMSprop(0.1, alpha=0.75), np.array([1.0, 2.0])
    >>> optimizer.update(parameters, np.array([5.0, -0.01]))
    >>> parameters.round(6).tolist(), optimizer.steps  # the first step is η / √(1 - α) long in each direction
    ([0.8, 2.2], 1)
    >>> fastbp.RMSprop(centered=True)
    RMSprop(learning_rate=0.01, alpha=0.99, epsilon=1e-08, momentum=0.0, weight_decay=0.0, centered=True)
    """

    rule, vectors = "rmsprop", ("mean_square", "mean", "velocity")
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "alpha": _checks.optimizers.decay_rate,
        "epsilon": _checks.optimizers.epsilon,
        "momentum": _checks.optimizers.fraction,
        "weight_decay": _checks.optimizers.rate,
    }
    options = {"centered": _checks.flag}  # noqa: RUF012
    centered: bool
    momentum: Rate

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        *,
        alpha: Rate = 0.99,
        epsilon: Rate = 1e-8,
        momentum: Rate = 0.0,
        centered: bool = False,
        weight_decay: Rate = 0.0,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average,
            decay_biases,
            learning_rate=learning_rate,
            alpha=alpha,
            epsilon=epsilon,
            momentum=momentum,
            centered=centered,
            weight_decay=weight_decay,
        )

    def _needed(self) -> tuple[str, ...]:
        needed = zip(self.vectors, (True, self.centered, self.momentum), strict=True)
        return tuple(name for name, there in needed if there)
