"""Adam, and Adam with decoupled decay."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class Adam(Optimizer):
    """Adam; the formulas are those of `adam_update`.

    An optimizer serves one parameter vector: the two moments are made, of zeros, at the first update. A copy
    has moments of its own, which belong to the first vector that the copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float > 0, default 1e-8
    weight_decay : float >= 0, default 0
    amsgrad : bool, default False
        Divide by the root of the largest second moment so far [1]_.
    average : float in [0, 1), optional
    decay_biases : bool, default False
        See :class:`SGD`.

    Attributes
    ----------
    learning_rate, beta_1, beta_2, epsilon, weight_decay
        May be set between updates, to a number or to a function of the steps made before.
    steps : int
        How many updates have been made: the t of the last one.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    References
    ----------
    .. [1] S. Reddi, S. Kale, S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.Adam(0.1), np.array([1.0, 2.0])
    >>> optimizer.update(parameters, np.array([5.0, -0.01]))
    >>> parameters.round(6).tolist(), optimizer.steps
    ([0.9, 2.1], 1)
    >>> optimizer
    Adam(learning_rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.0, amsgrad=False)
    """

    rule, vectors = "adam", ("first_moment", "second_moment", "largest_second_moment")
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "beta_1": _checks.optimizers.decay_rate,
        "beta_2": _checks.optimizers.decay_rate,
        "epsilon": _checks.optimizers.epsilon,
        "weight_decay": _checks.optimizers.rate,
    }
    options = {"amsgrad": _checks.flag}  # noqa: RUF012
    amsgrad: bool

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        *,
        beta_1: Rate = 0.9,
        beta_2: Rate = 0.999,
        epsilon: Rate = 1e-8,
        weight_decay: Rate = 0.0,
        amsgrad: bool = False,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average,
            decay_biases,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
        )

    def _needed(self) -> tuple[str, ...]:
        return self.vectors if self.amsgrad else self.vectors[:2]


class AdamW(Adam):
    """Adam with decoupled weight decay [1]_: it shrinks the weights, and is no part of the gradient or its moments.

    With t = 1, 2, ... the number of the step, and the rest as in `adam_update`::

        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        w ← (1 - η λ) w - η · m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + ε)

    All else, subnormal moments included, is as in :class:`Adam`, whose parameters, attributes and errors it has.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float > 0, default 1e-8
    weight_decay : float >= 0, default 0.01
    amsgrad : bool, default False
    average : float in [0, 1), optional
    decay_biases : bool, default False

    Notes
    -----
    As in PyTorch the decay is multiplied by the learning rate, schedule included.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.AdamW(0.1, weight_decay=0.5), np.array([1.0, 2.0])
    >>> optimizer.update(parameters, np.array([5.0, 0.0]))
    >>> parameters.round(6).tolist()  # 0.95 of them, and a step of η against the gradient
    [0.85, 1.9]
    >>> optimizer
    AdamW(learning_rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.5, amsgrad=False)
    """

    decoupled = True

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        *,
        beta_1: Rate = 0.9,
        beta_2: Rate = 0.999,
        epsilon: Rate = 1e-8,
        weight_decay: Rate = 1e-2,
        amsgrad: bool = False,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            average=average,
            decay_biases=decay_biases,
        )
