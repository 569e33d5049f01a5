"""Updates of a parameter vector in place, as functions of plain arrays, which the caller keeps with their state.

An update is one kernel call over one flat vector. It changes the parameters and the state, never the
gradient. The L2 term `weight_decay` acts on the gradient, as in PyTorch's ``SGD`` and ``Adam``: g + λw takes
the place of g.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks
from fastbp.optimizers import SGD, Adam, Optimizer

_SGD, _ADAM = SGD(), Adam()  # the functions bring their rates and state themselves


def sgd_update(
    parameters: np.ndarray,
    gradient: ArrayLike,
    *,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    velocity: np.ndarray | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    n_threads: int | None = None,
) -> None:
    """One step of stochastic gradient descent, in place.

    With w the parameters, g the gradient, v the velocity, η, μ and λ the three rates::

        g ← g + λ w
        v ← μ v + g
        w ← w - η v             (with nesterov  w - η (g + μ v);  without momentum  w - η g)

    A v below the smallest normal number becomes 0: where g stays 0, v would be subnormal for ever, and slow.

    Parameters
    ----------
    parameters : numpy.ndarray of float32 or float64, shape (P,)
        Contiguous and writeable; updated in place.
    gradient : array of the shape and dtype of `parameters`
        Not changed.
    learning_rate : float >= 0, default 0.1
        η.
    momentum : float in [0, 1], default 0
        μ.
    velocity : numpy.ndarray like `parameters`, optional
        v, updated in place, zeros at first. It is needed with momentum and has no place without.
    nesterov : bool, default False
        Look ahead along the velocity; needs momentum.
    weight_decay : float >= 0, default 0
        λ: the error gains ½λ Σ w².
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, a velocity without momentum or momentum without one, arrays that overlap, or
        an array to be updated that is read-only or not contiguous. Nothing has been changed then.

    Notes
    -----
    The same as PyTorch's ``SGD`` with ``dampening=0``. scikit-learn keeps -η times our v, which is the same
    while η is constant.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> parameters, velocity = np.array([1.0, 2.0]), np.zeros(2)
    >>> for _ in range(2):
    ...     fastbp.sgd_update(parameters, [1.0, 0.0], learning_rate=0.5, momentum=0.5, velocity=velocity)
    >>> parameters.tolist(), velocity.tolist()
    ([-0.25, 2.0], [1.5, 0.0])
    """
    w = _checks.optimizers.flat("parameters", parameters)
    rates = _checked_rates(SGD, w.dtype, learning_rate, momentum, nesterov, weight_decay)
    _checks.optimizers.nesterov(nesterov, momentum)
    g = _checks.optimizers.flat_gradient(gradient, w)
    _checks.apart("parameters", w, "gradient", gradient)
    v = _checks.optimizers.velocity(velocity, momentum, parameters=w, gradient=gradient)
    state = {} if v is None else {"velocity": v}
    _backend.kernels.update(_SGD, rates, state, 1, w, g, _checks.threads(n_threads))


def adam_update(
    parameters: np.ndarray,
    gradient: ArrayLike,
    first_moment: np.ndarray,
    second_moment: np.ndarray,
    *,
    step: int,
    learning_rate: float = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    n_threads: int | None = None,
) -> None:
    """One step of Adam, in place.

    With w the parameters, g the gradient, m and v the moments, and step number t = 1, 2, ... ::

        g ← g + λ w
        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        w ← w - η · m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + ε)

    An m below the smallest normal number becomes 0, and with it such a v: where g stays 0, they would be
    subnormal for ever, and slow.

    Parameters
    ----------
    parameters : numpy.ndarray of float32 or float64, shape (P,)
        Contiguous and writeable; updated in place.
    gradient : array of the shape and dtype of `parameters`
        Not changed.
    first_moment, second_moment : numpy.ndarray like `parameters`
        m and v, updated in place, zeros before the first step.
    step : int >= 1
        t, which counts from 1.
    learning_rate : float >= 0, default 0.001
        η.
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
        How much of the moments is kept at each step.
    epsilon : float > 0, default 1e-8
        ε, added outside the root.
    weight_decay : float >= 0, default 0
        λ: the error gains ½λ Σ w². (This is not the decoupled decay of AdamW.)
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, arrays that overlap, or an array to be updated that is read-only or not
        contiguous. Nothing has been changed then.

    References
    ----------
    D. P. Kingma, J. Ba: Adam: A Method for Stochastic Optimization, arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> parameters, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> fastbp.adam_update(parameters, [5.0, -0.01], m, v, step=1, learning_rate=0.1)
    >>> parameters.round(6).tolist()  # the first step is η long in each direction
    [0.9, 2.1]
    """
    w = _checks.optimizers.flat("parameters", parameters)
    rates = _checked_rates(Adam, w.dtype, learning_rate, beta_1, beta_2, epsilon, weight_decay)
    t = _checks.optimizers.step_number(step)
    g = _checks.optimizers.flat_gradient(gradient, w)
    _checks.apart("parameters", w, "gradient", gradient)
    m = _checks.optimizers.flat_like("first_moment", first_moment, w, parameters=w, gradient=gradient)
    v = _checks.optimizers.flat_like(
        "second_moment", second_moment, w, parameters=w, gradient=gradient, first_moment=m
    )
    state = {"first_moment": m, "second_moment": v}
    _backend.kernels.update(_ADAM, rates, state, t, w, g, _checks.threads(n_threads))


def _checked_rates(kind: type[Optimizer], dtype: np.dtype, *rates: Any) -> tuple[float, ...]:
    return tuple(
        check(name, rate, dtype) for (name, check), rate in zip(kind.rates.items(), rates, strict=True)
    )
