"""Updates of a parameter vector in place, as functions of plain arrays and as optimizers that keep the state.

An update is one kernel call over one flat vector. It changes the parameters and the state, never the
gradient. The L2 term `weight_decay` acts on the gradient, as in PyTorch's ``SGD`` and ``Adam``: g + λw takes
the place of g.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks


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
    rates = _checks.optimizers.sgd_hyper_parameters(learning_rate, momentum, nesterov, weight_decay, w.dtype)
    g = _checks.optimizers.flat_gradient(gradient, w)
    _checks.apart("parameters", w, "gradient", gradient)
    v = _checks.optimizers.velocity(velocity, momentum, parameters=w, gradient=gradient)
    _backend.kernels.sgd_update(w, g, v, *rates, _checks.threads(n_threads))


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
    rates = learning_rate, beta_1, beta_2, epsilon, weight_decay
    rates = _checks.optimizers.adam_hyper_parameters(*rates, w.dtype)
    t = _checks.optimizers.step_number(step)
    g = _checks.optimizers.flat_gradient(gradient, w)
    _checks.apart("parameters", w, "gradient", gradient)
    m = _checks.optimizers.flat_like("first_moment", first_moment, w, parameters=w, gradient=gradient)
    v = _checks.optimizers.flat_like(
        "second_moment", second_moment, w, parameters=w, gradient=gradient, first_moment=m
    )
    _backend.kernels.adam_update(w, g, m, v, t, *rates, _checks.threads(n_threads))


_UNCHECKED = object()  # no rate of anybody


class Optimizer:
    """What the optimizers share: a step counter, and the state that belongs to one parameter vector.

    The rates are plain attributes, so that a schedule can change them; they are checked again wherever they
    are used.
    """

    name: str
    _rates: tuple[str, ...]
    vectors: tuple[str, ...]  # of the state
    _owner: _Vector | None = None  # what the state belongs to; None where it is still to be seen
    # The very rates, and the dtype, that were last found to be in order: what is equal need not be, as True is to 1.0.
    _checked: tuple[Any, ...]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the state and the steps, as if no update had been made."""
        self.steps = 0
        self._state: tuple[np.ndarray, ...] = ()
        self._owner = None

    @abstractmethod
    def hyper_parameters(self, dtype: np.dtype | None = None) -> tuple[float, ...]:
        """The rates, checked, as the kernel takes them."""

    @abstractmethod
    def state(self, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
        """The vectors that go with `parameters`, in the order of `vectors`, or none."""

    def update(self, parameters: np.ndarray, gradient: ArrayLike, *, n_threads: int | None = None) -> None:
        """One step, in place: parameters, state and `steps` change together, or not at all.

        Arguments and errors are those of `sgd_update` and `adam_update`, and of `state`.
        """
        _checks.optimizers.steps(self.steps)
        threads = _checks.threads(n_threads)
        w = _checks.optimizers.flat("parameters", parameters)
        self.hyper_parameters(w.dtype)
        g = _checks.optimizers.flat_gradient(gradient, w)
        _checks.apart("parameters", w, "gradient", gradient)
        for name, vector in zip(self.vectors, self.state(w), strict=False):
            _checks.optimizers.flat_like(name, vector, w, parameters=w, gradient=gradient)
        _backend.kernels.optimizer_update(self, w, g, threads)

    def _state_of(self, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
        """The vectors that go with `parameters`, zeros at first, the same ones at every call."""
        if self._owner is not None and self._owner.last() is parameters:
            return self._state
        w = _checks.optimizers.flat("parameters", parameters)
        if not self._state:
            self._state = tuple(np.zeros(w.shape, w.dtype) for _ in self.vectors)
        the_same = self._owner is None or self._owner.is_(w)
        _checks.optimizers.state_of("parameters", w, self._state[0], the_same, self)
        self._owner = _Vector(w)
        return self._state

    def __setstate__(self, state: Any) -> None:
        """All attributes of the original; vectors of its own, which belong to the first parameters they meet."""
        for attributes in state if isinstance(state, tuple) else (state,):  # those of __slots__ come apart
            for name, value in (attributes or {}).items():
                setattr(self, name, value)
        self._state, self._owner = tuple(np.array(vector) for vector in self._state), None

    def __repr__(self) -> str:
        rates = ", ".join(f"{rate}={getattr(self, rate)!r}" for rate in self._rates)
        return f"{type(self).__name__}({rates})"


class _Vector:
    """Which vector a state belongs to: by its memory, of which every call may bring another view."""

    def __init__(self, vector: np.ndarray) -> None:
        self.last = weakref.ref(vector)
        self._start, self._memory = vector.ctypes.data, _reference_to(_memory_of(vector))

    def is_(self, vector: np.ndarray) -> bool:
        """Whether it is that memory, and not other memory that has taken its place."""
        return self._start == vector.ctypes.data and self._memory() is _memory_of(vector)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # a copy of the state does not belong to the vector


def _memory_of(vector: np.ndarray) -> Any:
    """The object whose memory it is."""
    owner, base = vector, vector.base
    while base is not None:
        owner, base = base, getattr(base, "obj" if isinstance(base, memoryview) else "base", None)
    return owner


def _reference_to(owner: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(owner)
    except TypeError:  # of a bytearray there are none
        return lambda: owner


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

    Attributes
    ----------
    learning_rate, momentum, nesterov, weight_decay
        May be set between updates.
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

    name = "sgd"
    _rates = ("learning_rate", "momentum", "nesterov", "weight_decay")
    vectors = ("velocity",)
    _checked = (_UNCHECKED,) * 5

    def __init__(
        self,
        learning_rate: float = 0.1,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.learning_rate, self.momentum, self.nesterov, self.weight_decay = (
            _checks.optimizers.sgd_hyper_parameters(learning_rate, momentum, nesterov, weight_decay)
        )

    def hyper_parameters(self, dtype: np.dtype | None = None) -> tuple[float, float, bool, float]:
        """``(learning_rate, momentum, nesterov, weight_decay)``, checked, as the kernel takes them.

        With a `dtype` they are also checked to be numbers that parameters of that dtype can be updated with.
        """
        rates = self.learning_rate, self.momentum, self.nesterov, self.weight_decay
        rate, momentum, nesterov, decay = rates
        a, b, c, d, e = self._checked
        if rate is not a or momentum is not b or nesterov is not c or decay is not d or dtype is not e:
            _checks.optimizers.sgd_hyper_parameters(*rates, dtype)
            self._checked = *rates, dtype
        return rates

    def state(self, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
        """``(velocity,)`` for `parameters`, or ``()`` without momentum.

        Raises
        ------
        ValueError
            The velocity belongs to another vector.
        """
        return self._state_of(parameters) if self.momentum else ()


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

    Attributes
    ----------
    learning_rate, beta_1, beta_2, epsilon, weight_decay
        May be set between updates.
    steps : int
        How many updates have been made: the t of the last one.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> optimizer, parameters = fastbp.Adam(0.1), np.array([1.0, 2.0])
    >>> optimizer.update(parameters, np.array([5.0, -0.01]))
    >>> parameters.round(6).tolist(), optimizer.steps
    ([0.9, 2.1], 1)
    >>> optimizer
    Adam(learning_rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.0)
    """

    name = "adam"
    _rates = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")
    vectors = ("first_moment", "second_moment")
    _checked = (_UNCHECKED,) * 6

    def __init__(
        self,
        learning_rate: float = 1e-3,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.learning_rate, self.beta_1, self.beta_2, self.epsilon, self.weight_decay = (
            _checks.optimizers.adam_hyper_parameters(learning_rate, beta_1, beta_2, epsilon, weight_decay)
        )

    def hyper_parameters(self, dtype: np.dtype | None = None) -> tuple[float, float, float, float, float]:
        """``(learning_rate, beta_1, beta_2, epsilon, weight_decay)``, checked, as the kernel takes them.

        With a `dtype` they are also checked to be numbers that parameters of that dtype can be updated with.
        """
        rates = self.learning_rate, self.beta_1, self.beta_2, self.epsilon, self.weight_decay
        rate, b1, b2, eps, decay = rates
        a, b, c, d, e, f = self._checked
        if rate is not a or b1 is not b or b2 is not c or eps is not d or decay is not e or dtype is not f:
            _checks.optimizers.adam_hyper_parameters(*rates, dtype)
            self._checked = *rates, dtype
        return rates

    def state(self, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
        """``(first_moment, second_moment)`` for `parameters`.

        Raises
        ------
        ValueError
            The moments belong to another vector.
        """
        return self._state_of(parameters)
