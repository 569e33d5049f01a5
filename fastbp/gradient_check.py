"""The public gradient check: a gradient against differences of the error, in float64."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _checks
from fastbp.model import MLP

__all__ = ["check_gradient"]

# Powers of two, so that x + h is exact. The first balances the error of the formula, h⁴/30 times the fifth
# derivative, against the rounding of the error, about eps·E/h. The others are for entries that disagree with
# it: the larger one resolves smaller gradients, the smaller ones step over no kink of a relu, nor over what
# bends sharply. A correct gradient agrees at some step, a wrong one at none; at a kink itself nothing does.
_STEPS = (2.0**-10, 2.0**-7, 2.0**-13, 2.0**-16, 2.0**-19)
_AGREES = 1e-8  # relative to the largest entry; a better agreement is not looked for
_EPS = float(np.finfo(np.float64).eps)


def check_gradient(
    model_or_function: MLP | Callable[..., Any], x: ArrayLike, *args: Any, **options: Any
) -> float:
    """Compare a gradient with central differences of the error; return the largest relative error.

    Below 1e-7 the gradient is right; a mistake in a formula gives 1e-3 or much more.

    Parameters
    ----------
    model_or_function : MLP or callable
        A network, all of whose parameters are checked; or an error function such as
        :func:`fastbp.softmax_cross_entropy`, called as ``f(x, *args, **options)``, which returns
        ``(error, gradient, ...)`` and is checked for its first argument. If it returns a named tuple with
        fields ``grad_<argument>``, it is checked for each of these arguments instead. If the error is a
        vector, the gradient is that of its sum.
    x : array
        Inputs (N, I) of a network; the first argument of a function, of any shape.
    *args, **options
        Of a network the targets alone; of a function all that it needs besides `x`.

    Returns
    -------
    float
        The largest error of all arrays checked (each W and each b of a network are one of them), where the
        error of an array with gradient g and differences d is ``max|g - d| / max(max|g|, max|d|)``. Entries
        are not compared one by one since a small one is known no better than the large ones. NaN if an error
        or a gradient is not finite, or if nothing could be compared.

    Warns
    -----
    RuntimeWarning
        Where the error has a kink, as at an input 0 of a relu, there is no derivative, and any gradient is as
        good as another: entries whose differences to the right and to the left disagree are left out. The
        warning says how many.

    Raises
    ------
    TypeError, ValueError
        If what is checked is not finite, or the function returns no gradient of its shape; or from the
        function itself.

    Notes
    -----
    The differences are of fourth order, ``[8 (E(w+h) - E(w-h)) - (E(w+2h) - E(w-2h))] / 12h`` with h = 2⁻¹⁰,
    and are repeated with other steps where they disagree with g. They cannot resolve gradients below about
    eps·E/h: an array with none larger than 10⁷ times that is measured against that size.

    A network is checked as it is, but in float64, with a copy of its parameters, on the backend in use. This
    takes four evaluations for each parameter, so a few examples are enough.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> x, t = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.5]]), [0, 2]
    >>> fastbp.check_gradient(fastbp.MLP([3, 4, 3], seed=0), x, t) < 1e-7
    True
    >>> fastbp.check_gradient(fastbp.softmax_cross_entropy, x, t, label_smoothing=0.1, reduction="sum") < 1e-7
    True

    A wrong gradient is found:

    >>> def wrong(z, t):
    ...     loss, grad, _ = fastbp.squared_error(z, t)
    ...     return loss, 1.01 * grad
    >>> round(fastbp.check_gradient(wrong, x, x + 1), 4)
    0.0099
    """
    if isinstance(model_or_function, MLP):
        if len(args) != 1 or options:
            got = ", ".join(["a network", "x", *(["..."] * len(args)), *(f"{name}=..." for name in options)])
            raise TypeError(f"check_gradient: got ({got}), expected (network, x, targets) and nothing else")
        return _verdict(_check_model(model_or_function, x, args[0]))
    if not callable(model_or_function):
        kind = type(model_or_function).__name__
        raise TypeError(f"model_or_function: got {kind}, expected an MLP or a function")
    return _verdict(_check_function(model_or_function, x, args, options))


class _Comparison(NamedTuple):
    """How a gradient of so many entries compares with differences."""

    error: float
    entries: int
    left_out: int  # of these


def _verdict(comparisons: list[_Comparison]) -> float:
    """The largest error, after a warning if entries were left out; NaN if all were."""
    entries, left_out = sum(c.entries for c in comparisons), sum(c.left_out for c in comparisons)
    if left_out:
        text = f"check_gradient: the error has a kink in {left_out} of {entries} entries, which were left out"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    if entries and left_out == entries:
        return float("nan")
    return float(np.max([c.error for c in comparisons], initial=0.0))


def _check_model(net: MLP, x: ArrayLike, t: ArrayLike) -> list[_Comparison]:
    copy = MLP(
        net.layer_sizes,
        activation=net.activation,
        loss=net.loss_name,
        **net._error_options(),
        dtype="float64",
        n_threads=net.n_threads,
    )
    copy.parameters[:] = net._engine.snapshot()  # another thread may be training
    inputs, targets = _point("x", x), _checks.array("t", t)
    gradients = copy.gradients(inputs, targets)
    pairs = [
        pair
        for layer in zip(copy.weights, gradients.weights, copy.biases, gradients.biases, strict=True)
        for pair in (layer[:2], layer[2:])
    ]
    return [_compare(lambda: copy.loss(inputs, targets), w, g, gradients.loss) for w, g in pairs]


def _check_function(
    function: Callable[..., Any], x: ArrayLike, args: tuple[Any, ...], options: dict[str, Any]
) -> list[_Comparison]:
    x = _point("x", x)
    answer = function(x.copy(), *args, **options)
    fields = [name for name in getattr(answer, "_fields", ()) if name.startswith("grad_")]
    if fields:
        return _check_named(function, inspect.signature(function).bind(x, *args, **options), answer, fields)
    if not isinstance(answer, tuple) or len(answer) < 2 or np.shape(answer[1]) != x.shape:
        expected = f"(error, gradient, ...) with a gradient of shape {x.shape}"
        raise TypeError(f"model_or_function: got a function that returns something else, expected {expected}")

    def error() -> float:
        return _total(function(x.copy(), *args, **options))  # a copy, which it may write over

    return [_compare(error, x, answer[1], _total(answer))]


def _check_named(
    function: Callable[..., Any], call: inspect.BoundArguments, answer: Any, fields: list[str]
) -> list[_Comparison]:
    """The gradients of `fields`, each by the argument of its name; None is no gradient."""
    comparisons = []
    for field in fields:
        gradient, name = getattr(answer, field), field.removeprefix("grad_")
        if gradient is None:
            continue
        w = _point(name, call.arguments[name]) if name in call.arguments else None
        if w is None or np.shape(gradient) != w.shape:
            expected = f"an argument {name} of its shape"
            raise TypeError(
                f"model_or_function: got {field} of shape {np.shape(gradient)}, expected {expected}"
            )
        call.arguments[name] = w
        comparisons.append(
            _compare(lambda: _total(function(*call.args, **call.kwargs)), w, gradient, _total(answer))
        )
    return comparisons


def _point(name: str, value: ArrayLike) -> np.ndarray:
    """A copy of an argument in float64, contiguous, which may be written into."""
    return _checks.finite(name, np.array(_checks.reals(name, value), np.float64, order="C"))


def _total(answer: tuple[Any, ...]) -> float:
    """The error that a function returned, or the sum of the errors."""
    return float(_checks.reals("error", answer[0]).sum())


def _compare(error: Callable[[], float], w: np.ndarray, gradient: ArrayLike, at_w: float) -> _Comparison:
    """`gradient`, shaped like w, against the derivative of `error()` in the entries of w.

    w is written into, and is as before in the end; `at_w` is the error there.
    """
    flat = w.reshape(-1)  # a view: w is contiguous
    g = _checks.reals("gradient", gradient).astype(np.float64).reshape(-1)
    if not (np.isfinite(at_w) and np.isfinite(g).all()):
        return _Comparison(float("nan"), g.size, 0)
    resolved = 1e7 * _EPS * abs(at_w) / _STEPS[0]
    d = np.array([_difference(error, flat, i, _STEPS[0]) for i in range(g.size)])
    for step in _STEPS[1:]:
        for i in _disagreeing(g, d, resolved):
            again = _difference(error, flat, i, step)
            if np.isnan(d[i]) or abs(g[i] - again) < abs(g[i] - d[i]):
                d[i] = again
    kinks = [i for i in _disagreeing(g, d, resolved) if _at_kink(error, flat, i, at_w)]
    g, d = np.delete(g, kinks), np.delete(d, kinks)
    scale = _scale(g, d, resolved)
    largest = float(np.abs(g - d).max() / scale) if g.size and scale else 0.0
    return _Comparison(largest, flat.size, len(kinks))


def _scale(g: np.ndarray, d: np.ndarray, resolved: float) -> float:
    """The size against which an array is measured."""
    return max(float(np.abs(g).max(initial=0.0)), float(np.abs(d).max(initial=0.0)), resolved)


def _disagreeing(g: np.ndarray, d: np.ndarray, resolved: float) -> list[int]:
    """The entries in which two arrays differ by more than they have to."""
    return [int(i) for i in np.flatnonzero(~(np.abs(g - d) <= _AGREES * _scale(g, d, resolved)))]


def _values(error: Callable[[], float], flat: np.ndarray, i: int, h: float) -> list[float]:
    """`error()` with entry i of `flat` moved by h, -h, 2h and -2h."""
    middle = flat[i]
    values = []
    try:
        for step in (h, -h, 2 * h, -2 * h):
            flat[i] = middle + step
            values.append(error())
    finally:
        flat[i] = middle
    return values


def _difference(error: Callable[[], float], flat: np.ndarray, i: int, h: float) -> float:
    """The derivative of `error()` for entry i of `flat`, to fourth order in h."""
    right, left, far_right, far_left = _values(error, flat, i, h)
    return float((8 * (right - left) - (far_right - far_left)) / (12 * h))


def _at_kink(error: Callable[[], float], flat: np.ndarray, i: int, at_w: float) -> bool:
    """Whether the derivatives to the right and to the left of entry i differ, by the same at two small steps.

    Without a kink that difference is of third order in h, and rounding alone, which has no size of its own. A kink that
    is too near for the smallest step counts as one at w: these two are not so small.
    """
    wide, narrow = (_jump(error, flat, i, h, at_w) for h in _STEPS[-3:-1])
    rounding = 100 * _EPS * abs(at_w) / _STEPS[-2]
    return abs(narrow) > rounding and abs(wide - narrow) <= 0.5 * abs(narrow)


def _jump(error: Callable[[], float], flat: np.ndarray, i: int, h: float, at_w: float) -> float:
    """The derivative to the right less that to the left, each to second order in h."""
    right, left, far_right, far_left = _values(error, flat, i, h)
    return float((4 * (right + left) - (far_right + far_left) - 6 * at_w) / (2 * h))
