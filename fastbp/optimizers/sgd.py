"""Stochastic gradient descent."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the formulas are those of `sgd_update`.

    With momentum an optimizer serves one parameter vector: the velocity is made, of zeros, at the first update.
    A copy has a velocity of its own, which belongs to the first vector that the copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.1
    momentum : float in [0, 1], default 0
    nesterov : bool, default False
        Needs momentum.
    weight_decay : float >= 0, default 0
    average : float in [0, 1), optional
        Keep an exponential average of the parameters, of which this part is kept at each step: a ← average a +
        (1 - average) w after the update, from a = w after the first. :meth:`MLP.fit` validates by it, and leaves it in
        the network at the end.
    decay_biases : bool, default False
        In a network, let the weight decay act on the biases, too.

    Attributes
    ----------
    learning_rate, momentum, nesterov, weight_decay
        May be set between updates, to a number or to a function of the steps made before.
    steps : int
        How many updates have been made.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.SGD(0.5, momentum=0.5), np.array([1.0, 2.0])
    >>> for _ in range(2):
    ...     optimizer.update(parameters, np.array([1.0, 0.0]))
    >>> parameters.tolist(), optimizer.steps
    ([-0.25, 2.0], 2)
    >>> optimizer
    SGD(learning_rate=0.5, momentum=0.5, nesterov=False, weight_decay=0.0)
    """

    momentum: Rate
    rule, vectors = "sgd", ("velocity",)
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "momentum": _checks.optimizers.fraction,
        "nesterov": _checks.optimizers.flag,
        "weight_decay": _checks.optimizers.rate,
    }

    def __init__(
        self,
        learning_rate: Rate = 0.1,
        *,
        momentum: Rate = 0.0,
        nesterov: bool = False,
        weight_decay: Rate = 0.0,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average,
            decay_biases,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
        )

    def _check_together(self, rates: dict[str, float]) -> None:
        _checks.optimizers.nesterov(rates["nesterov"], rates["momentum"])

    def _needed(self) -> tuple[str, ...]:
        return self.vectors if self.momentum else ()
