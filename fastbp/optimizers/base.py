"""What the optimizers share: rates, a step counter, the state of one parameter vector, and the update in place."""

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
    of_matrices: ClassVar[int] = 0
    """How many of the `rates`, right after the learning rate, are those of a network's hidden matrices; 0 or as Muon has them."""
    options: ClassVar[dict[str, Callable[[str, Any], Any]]] = {}
    """What else the constructor takes, each with its check: which vectors there are, what is done with them."""
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
            setattr(self, name, value if name in self.rates else self.options[name](name, value))
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
        table, steps = np.empty((n_steps, len(given))), range(self.steps, self.steps + n_steps)
        for column, (name, check), value in zip(table.T, self.rates.items(), given, strict=True):
            column[:] = (
                [check(name, value(step), dtype) for step in steps]
                if _is_schedule(value)
                else check(name, value, dtype)
            )
        if n_steps:
            self._check_together(dict(zip(self.rates, table.min(axis=0).tolist(), strict=True)))
        return table

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
