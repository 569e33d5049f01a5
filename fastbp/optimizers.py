"""Updates of a parameter vector in place, as functions of plain arrays and as optimizers that keep the state.

An update is one kernel call over one flat vector. It changes the parameters and the state, never the
gradient. The L2 term `weight_decay` acts on the gradient, as in PyTorch's ``SGD`` and ``Adam``: g + λw takes
the place of g. In a network it leaves the biases alone, unless `decay_biases` asks for them.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks

Rate: TypeAlias = float | Callable[[int], float]
"""A number, or a function of the number of steps that were made before."""


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


class Optimizer:
    """What the optimizers share: rates, a step counter, and the state that belongs to one parameter vector.

    The rates are plain attributes, which may be set between updates, each to a number or to a function of the number
    of steps made before, 0, 1, ..., such as `fastbp.schedules` makes. They are checked again wherever they are used.
    An optimizer of a new rule says what stands below, and what it does is a line in ``src_c/updates.def``.
    """

    rule: ClassVar[str]
    """Its name in ``src_c/updates.def``."""
    rates: ClassVar[dict[str, Callable[..., float]]]
    """The learning rate, the rule's own in its order, the weight decay; each with the check of its values."""
    vectors: ClassVar[tuple[str, ...]]
    """Of the state, in the rule's order."""
    options: ClassVar[tuple[str, ...]] = ()
    """Flags of the constructor that are no rates: they decide which vectors there are."""
    decoupled: ClassVar[bool] = False
    """Whether the decay acts on the parameters themselves, not through the gradient."""
    learning_rate: Rate
    steps: int

    _rates_of: ClassVar[Any]  # optimizer -> its rates
    _owner: _Vector | None = None  # what the state belongs to; None where it is still to be seen
    # The very rates, and the dtype, that were last found to be in order: what is equal need not be, as True is to 1.0.
    _given: tuple[Any, ...] = ()
    _dtype: np.dtype | None = None
    _checked: tuple[float, ...] | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._rates_of = operator.attrgetter(*cls.rates)

    def __init__(self, average: float | None, decay_biases: bool, **settings: Any) -> None:
        self.reset()
        self._average = None if average is None else _checks.number("average", average, _checks.DECAY_RATE)
        self._decay_biases = _checks.flag("decay_biases", decay_biases)
        for name, value in settings.items():
            setattr(self, name, value if name in self.rates else _checks.flag(name, value))
        given = self._rates_of(self)
        for name, value, checked in zip(self.rates, given, self._rates_at(0, given, None), strict=True):
            setattr(self, name, value if _is_schedule(value) else checked)

    @property
    def average(self) -> float | None:
        """How much of the running mean of the parameters is kept at each step; None where there is none."""
        return self._average

    @property
    def decay_biases(self) -> bool:
        """Whether the weight decay acts on the biases of a network, too."""
        return self._decay_biases

    def reset(self) -> None:
        """Forget the state and the steps, as if no update had been made."""
        self.steps = 0
        self._vectors: dict[str, np.ndarray] = {}  # all that were ever needed
        self._names: tuple[str, ...] = ()  # those that are needed now, and the vectors themselves
        self._state: dict[str, np.ndarray] = {}
        self._owner = None

    def hyper_parameters(self, dtype: np.dtype | None = None) -> tuple[float, ...]:
        """The `rates` of the next update in their order, checked, as the kernel takes them.

        With a `dtype` they are also checked to be numbers that parameters of that dtype can be updated with.
        """
        given = self._rates_of(self)
        if self._checked is not None and dtype is self._dtype and all(map(operator.is_, given, self._given)):
            return self._checked
        checked = self._rates_at(self.steps, given, dtype)
        self._given, self._dtype = given, dtype
        self._checked = None if any(map(_is_schedule, given)) else checked
        return checked

    def scheduled_rates(self, n_steps: int, dtype: np.dtype) -> np.ndarray | None:
        """The `rates` of the next `n_steps` updates, a row each; None where all have the same."""
        given = self._rates_of(self)
        if not any(map(_is_schedule, given)):
            return None
        return np.array([self._rates_at(self.steps + i, given, dtype) for i in range(n_steps)], np.float64)

    def _rates_at(self, step: int, given: tuple[Any, ...], dtype: np.dtype | None) -> tuple[float, ...]:
        values = [value(step) if _is_schedule(value) else value for value in given]
        rates = tuple(
            check(name, value, dtype) for (name, check), value in zip(self.rates.items(), values, strict=True)
        )
        self._check_together(dict(zip(self.rates, rates, strict=True)))
        return rates

    def _check_together(self, rates: dict[str, float]) -> None:
        """Refuse rates that do not go together."""

    def _needed(self) -> tuple[str, ...]:
        """Those of `vectors` that there are at the present rates."""
        return self.vectors

    def state(self, parameters: np.ndarray) -> dict[str, np.ndarray]:
        """The vectors that go with `parameters` by name: those of `vectors` that are needed, and the ``"average"``.

        They are zeros at first, the average a copy of the parameters, and the same ones at every call.

        Raises
        ------
        ValueError
            The state belongs to another vector.
        """
        needed = self._needed() if self.average is None else (*self._needed(), "average")
        if not needed:
            return _NO_STATE
        if self._owner is None or self._owner.last() is not parameters:
            self._meet(parameters)
        if self._names != needed:
            for name in needed:
                if name not in self._vectors:
                    start = np.array if name == "average" else np.zeros_like
                    self._vectors[name] = start(np.asarray(parameters))
            self._names, self._state = needed, {name: self._vectors[name] for name in needed}
        return self._state

    def _meet(self, parameters: np.ndarray) -> None:
        """From now on the state belongs to `parameters`, if it may."""
        w = _checks.optimizers.flat("parameters", parameters)
        the_same = self._owner is None or self._owner.is_(w)
        kept = next(iter(self._vectors.values()), w)
        _checks.optimizers.state_of("parameters", w, kept, the_same, self)
        self._owner = _Vector(w)

    def update(self, parameters: np.ndarray, gradient: ArrayLike, *, n_threads: int | None = None) -> None:
        """One step, in place: parameters, state and `steps` change together, or not at all.

        The weight decay is that of all parameters: of a vector nobody knows which ones are biases. Arguments and errors are
        those of `sgd_update` and `adam_update`, and of `state`.
        """
        _checks.optimizers.steps(self.steps)
        threads = _checks.threads(n_threads)
        w = _checks.optimizers.flat("parameters", parameters)
        self.hyper_parameters(w.dtype)
        g = _checks.optimizers.flat_gradient(gradient, w)
        _checks.apart("parameters", w, "gradient", gradient)
        for name, vector in self.state(w).items():
            _checks.optimizers.flat_like(name, vector, w, parameters=w, gradient=gradient)
        _backend.kernels.optimizer_update(self, w, g, threads)

    def __setstate__(self, state: Any) -> None:
        """All attributes of the original; vectors of its own, which belong to the first parameters they meet."""
        for attributes in state if isinstance(state, tuple) else (state,):  # those of __slots__ come apart
            for name, value in (attributes or {}).items():
                setattr(self, name, value)
        self._vectors = {name: np.array(vector) for name, vector in self._vectors.items()}
        self._names, self._state, self._owner = (), {}, None

    def __repr__(self) -> str:
        average = () if self.average is None else ("average",)
        decays = ("decay_biases",) if self.decay_biases else ()
        names = (*self.rates, *self.options, *average, *decays)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


_NO_STATE: dict[str, np.ndarray] = {}


def _is_schedule(rate: Any) -> bool:
    return callable(rate) and not isinstance(rate, type)


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
    options = ("centered",)
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
    options = ("amsgrad",)
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


OPTIMIZERS = frozenset((SGD, RMSprop, Adam))
"""Those whose updates a network makes."""

_SGD, _ADAM = SGD(), Adam()  # of the functions, which bring their rates and state themselves
