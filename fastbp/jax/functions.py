"""The functions of JAX, their checks and their derivatives."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import fastbp
from fastbp import _checks
from fastbp.jax.calls import call
from fastbp.jax.frames import DTYPES
from fastbp.last_layer import MAX_MEMORY
from fastbp.losses import Reduction

__all__ = ["linear_softmax_cross_entropy", "softmax_cross_entropy"]

_FLOATS: tuple[np.dtype, ...] = (np.dtype(np.float32), np.dtype(np.float64))
_REALS: tuple[np.dtype, ...] = tuple(DTYPES.values())


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> jax.Array:
    """:func:`fastbp.softmax_cross_entropy` as a function of JAX, to be differentiated by `logits`.

    The same kernel, formula and options. Loss and gradient are computed at once, so that the loss alone takes as long as both.

    Parameters
    ----------
    logits : array of float32 or float64, shape (N, C)
    targets : array of integers, shape (N,), or of real numbers, shape (N, C)
    class_weight, sample_weight : arrays of shape (C,) and (N,), optional
    ignore_index, label_smoothing, lse_square_scale, softcap, n_threads
        As in :func:`fastbp.softmax_cross_entropy`; numbers of Python, which no transformation traces.
    reduction : {"mean", "sum", "none"}, default "mean"
        The weighted mean over the examples, the sum, or the vector of the weighted errors.

    Returns
    -------
    jax.Array
        The error, of the dtype of `logits`: a scalar, or with ``reduction="none"`` of shape (N,).

    Raises
    ------
    TypeError, ValueError
        A bad argument; also where a derivative by targets or weights is asked for, which there is none of.
    jax.errors.JaxRuntimeError or ValueError
        A class index out of range, found when the computation runs: the message is that of :class:`fastbp.TargetIndexError`,
        the class JAX's choice.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastbp.jax import softmax_cross_entropy
    >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> loss, grad = jax.jit(jax.value_and_grad(softmax_cross_entropy))(logits, jnp.array([0, 2]))
    >>> round(float(loss), 6)
    0.669079
    >>> [round(float(each), 4) for each in 2 * grad[1]]  # y - t; the mean divides by N = 2
    [0.3333, 0.3333, -0.6667]
    """
    z = _matrix("logits", logits, ("N", "C"))
    n, c = z.shape
    given = {"logits": z} | _constants(n, c, targets, class_weight, sample_weight)
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "lse_square_scale": lse_square_scale,
        "softcap": softcap,
        "reduction": reduction,
        "n_threads": n_threads,
    }
    return _evaluated("softmax_cross_entropy", given, options)


def linear_softmax_cross_entropy(
    inputs: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = _checks.IGNORE_INDEX,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    max_memory: int = MAX_MEMORY,
    precision: str | None = None,
    n_threads: int | None = None,
) -> jax.Array:
    """:func:`fastbp.linear_softmax_cross_entropy` as a function of JAX, to be differentiated by inputs, weight and bias.

    The error of ``softmax_cross_entropy(inputs @ weight + bias, targets, ...)``, without ever holding the (N, C) logits.

    Parameters
    ----------
    inputs : array of float32 or float64, shape (N, I)
    weight : array of the dtype of `inputs`, shape (I, C)
    targets : array of integers, shape (N,), or of real numbers, shape (N, C)
    bias : array of the dtype of `inputs`, shape (C,), optional
    class_weight, sample_weight : arrays of shape (C,) and (N,), optional
    ignore_index, label_smoothing, lse_square_scale, softcap, max_memory, precision, n_threads
        As in :func:`fastbp.linear_softmax_cross_entropy`; numbers of Python, which no transformation traces.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in :func:`softmax_cross_entropy`; the derivative of ``"none"`` computes everything a second time.

    Returns
    -------
    jax.Array
        The error, of the dtype of `inputs`: a scalar, or with ``reduction="none"`` of shape (N,).

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As :func:`softmax_cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastbp.jax import linear_softmax_cross_entropy
    >>> inputs, weight = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> loss = jax.jit(linear_softmax_cross_entropy)(inputs, weight, jnp.array([0, 2]))
    >>> round(float(loss), 6)
    0.669079
    """
    x = _matrix("inputs", inputs, ("N", "I"))
    w = _matrix("weight", weight, ("I", "C"))
    n, c = len(x), w.shape[1]
    if w.dtype != x.dtype or len(w) != x.shape[1]:
        raise ValueError(f"weight: got {w.dtype} {w.shape}, expected {x.dtype} ({x.shape[1]}, C)")
    given = {"inputs": x, "weight": w}
    if bias is not None:
        given["bias"] = _array("bias", bias, (x.dtype,), (c,))
    given |= _constants(n, c, targets, class_weight, sample_weight)
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "lse_square_scale": lse_square_scale,
        "softcap": softcap,
        "reduction": reduction,
        "max_memory": max_memory,
        "precision": precision,
        "n_threads": n_threads,
    }
    return _evaluated("linear_softmax_cross_entropy", given, options)


# Arguments, checked when a program is traced ------------------------------------------------------------------


def _matrix(name: str, value: ArrayLike, letters: tuple[str, str]) -> jax.Array:
    array = _array(name, value, _FLOATS)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name}: got shape {array.shape}, expected ({', '.join(letters)})")
    return array


def _array(name: str, value: ArrayLike, dtypes: Sequence[np.dtype], *shapes: tuple[int, ...]) -> jax.Array:
    array = jnp.asarray(value)
    if array.dtype not in dtypes:
        expected = "real numbers" if dtypes is _REALS else " or ".join(map(str, dtypes))
        raise TypeError(f"{name}: got {array.dtype}, expected {expected}")
    if shapes and array.shape not in shapes:
        raise ValueError(f"{name}: got shape {array.shape}, expected {' or '.join(map(str, shapes))}")
    return array


def _constants(
    n: int, c: int, targets: ArrayLike, class_weight: ArrayLike | None, sample_weight: ArrayLike | None
) -> dict[str, jax.Array]:
    """What no derivative is taken by."""
    t = _array("targets", targets, _REALS, (n,), (n, c))
    if t.ndim == 1 and t.dtype.kind not in "iu":
        raise TypeError(f"targets: got {t.dtype} {t.shape}, expected integers, or rows ({n}, {c})")
    given = {"targets": t}
    if class_weight is not None:
        given["class_weight"] = _array("class_weight", class_weight, _REALS, (c,))
    if sample_weight is not None:
        given["sample_weight"] = _array("sample_weight", sample_weight, _REALS, (n,))
    return given


def _evaluated(name: str, given: dict[str, jax.Array], options: dict[str, Any]) -> jax.Array:
    if options["ignore_index"] is _checks.IGNORE_INDEX:
        del options["ignore_index"]
    _try(getattr(fastbp, name), given, options)
    plain = {option: _plain(option, value) for option, value in options.items()}
    return _differentiable(name, tuple(given), json.dumps(plain))(*given.values())


def _try(function: Callable[..., Any], given: dict[str, jax.Array], options: dict[str, Any]) -> None:
    """One example of one class: what is wrong with an option is said here, by the function itself."""
    axes = {name: given[name].ndim for name in ("logits", "inputs", "weight", "targets") if name in given}
    tiny = {name: np.zeros((1,) * n, np.int64 if n == 1 else np.float64) for name, n in axes.items()}
    function(**tiny, **options)


def _plain(option: str, value: Any) -> Any:
    """A checked option as JSON has it."""
    if value is None or isinstance(value, str):
        return value
    return int(value) if option in ("ignore_index", "max_memory", "n_threads") else float(value)


# Derivatives ----------------------------------------------------------------------------------------------------

_LEARNED = ("logits", "inputs", "weight", "bias")  # what derivatives are taken by; these come first


@functools.cache
def _differentiable(name: str, operands: tuple[str, ...], text: str) -> Callable[..., jax.Array]:
    """The function of arrays for these operands and options, with its derivative."""
    options, n_learned = json.loads(text), sum(operand in _LEARNED for operand in operands)
    by_example = options["reduction"] == "none"
    again = by_example and "weight" in operands

    @jax.custom_vjp
    def loss(*arrays: jax.Array) -> jax.Array:
        return _loss_and_gradients(name, dict(zip(operands, arrays, strict=True)), options)[0]

    def forward(*primals: Any) -> tuple[jax.Array, Sequence[jax.Array]]:
        for operand, primal in zip(operands[n_learned:], primals[n_learned:], strict=True):
            if primal.perturbed:
                raise TypeError(
                    f"{operand}: got one to differentiate by, expected jax.lax.stop_gradient of it"
                )
        given = {operand: primal.value for operand, primal in zip(operands, primals, strict=True)}
        value, *gradients = _loss_and_gradients(name, given, options)
        return value, tuple(given.values()) if again else gradients

    def backward(kept: Sequence[jax.Array], slope: Any) -> tuple[jax.Array | None, ...]:
        if again:  # the gradients of the layer are sums over examples: other weights make other ones
            given = dict(zip(operands, kept, strict=True))
            given["sample_weight"] = given.get("sample_weight", 1) * slope
            _, *gradients = _loss_and_gradients(name, given, options | {"reduction": "sum"})
        else:
            gradients = [(slope[:, None] if by_example else slope) * gradient for gradient in kept]
        return *gradients, *(None for _ in operands[n_learned:])

    loss.defvjp(forward, backward, symbolic_zeros=True)
    function: Callable[..., jax.Array] = loss
    return function


def _loss_and_gradients(
    name: str, given: dict[str, jax.Array], options: dict[str, Any]
) -> tuple[jax.Array, ...]:
    learned = [array for operand, array in given.items() if operand in _LEARNED]
    shape = (len(learned[0]),) if options["reduction"] == "none" else ()
    results = [jax.ShapeDtypeStruct(shape, learned[0].dtype)]
    results += [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in learned]
    return call(name, list(given.items()), results, options)
