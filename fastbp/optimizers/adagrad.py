"""Adagrad."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class Adagrad(Optimizer):
    """Adagrad: the gradient over the root of the sum of its squares [1]_.

    With w the parameters, g the gradient, η, ε and λ the rates, and the state v, zeros at first::

        g ← g + λ w
        v ← v + g²
        w ← w - η g / (√v + ε)

    A v below the smallest normal number becomes 0 where g is that small, at which it would be slow for ever.

    An optimizer serves one parameter vector. A copy has a state of its own, which belongs to the first vector that the
    copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.01
    epsilon : float > 0, default 1e-10
        Added outside the root, as in PyTorch.
    weight_decay : float >= 0, default 0
    average : float in [0, 1), optional
    decay_biases : bool, default False
        See :class:`SGD`.

    Attributes
    ----------
    learning_rate, epsilon, weight_decay
        May be set between updates, to a number or to a function of the steps made before.
    steps : int
        How many updates have been made.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    Notes
    -----
    PyTorch's ``lr_decay=a`` is the schedule ``lambda step: learning_rate / (1 + a * step)``.

    References
    ----------
    .. [1] J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic
       optimization", Journal of Machine Learning Research 12, 2011.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.Adagrad(0.1), np.array([1.0, 2.0])
    >>> for gradient in ([3.0, -0.3], [4.0, -0.4]):
    ...     optimizer.update(parameters, np.array(gradient))
    >>> parameters.round(6).tolist()  # 0.1 · 3/3, then 0.1 · 4/√(3² + 4²), in each direction
    [0.82, 2.18]
    """

    rule, vectors = "adagrad", ("sum_of_squares",)
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "epsilon": _checks.optimizers.epsilon,
        "weight_decay": _checks.optimizers.rate,
    }

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        *,
        epsilon: Rate = 1e-10,
        weight_decay: Rate = 0.0,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average, decay_biases, learning_rate=learning_rate, epsilon=epsilon, weight_decay=weight_decay
        )
