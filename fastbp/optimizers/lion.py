"""Lion."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class Lion(Optimizer):
    """Lion: steps of one length, by the sign of a mean of the gradient [1]_, with decoupled weight decay.

    With w the parameters, g the gradient, η, β₁, β₂ and λ the rates, and the state m, zeros at first::

        w ← (1 - η λ) w - η sign(β₁ m + (1 - β₁) g)
        m ← β₂ m + (1 - β₂) g

    The sign of 0 is 0. An m below the smallest normal number becomes 0: where g stays 0, it would be subnormal for
    ever, slow, and a whole step.

    An optimizer serves one parameter vector. A copy has a state of its own, which belongs to the first vector that the
    copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.0001
        About a tenth of what suits Adam.
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.99
        How much of the mean goes into the step, and how much of it is kept.
    weight_decay : float >= 0, default 0
        About ten times what suits AdamW.
    average : float in [0, 1), optional
    decay_biases : bool, default False
        See :class:`SGD`.

    Attributes
    ----------
    learning_rate, beta_1, beta_2, weight_decay
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
    .. [1] X. Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.Lion(0.1), np.array([1.0, 2.0, 3.0])
    >>> optimizer.update(parameters, np.array([5.0, -0.01, 0.0]))
    >>> parameters.round(6).tolist()
    [0.9, 2.1, 3.0]
    """

    rule, vectors = "lion", ("mean",)
    decoupled = True
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "beta_1": _checks.optimizers.decay_rate,
        "beta_2": _checks.optimizers.decay_rate,
        "weight_decay": _checks.optimizers.rate,
    }

    def __init__(
        self,
        learning_rate: Rate = 1e-4,
        *,
        beta_1: Rate = 0.9,
        beta_2: Rate = 0.99,
        weight_decay: Rate = 0.0,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average,
            decay_biases,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
        )
