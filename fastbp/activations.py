"""Activations and their backward forms, elementwise or along the last axis.

Arrays of any number of axes; a kernel sees them as rows. The dtype that comes in, float32 or float64, goes
out. A backward form takes dE/da and returns dE/dz, from the activation's own output wherever its slope is a
function of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks


class Activation(NamedTuple):
    """What is known of an activation f, besides how it is computed."""

    slope_of_input: bool
    """Whether f' is computed from the input z, where the output f(z) does not determine it."""
    bound: float
    """Of |f|."""
    weights: str
    """The initializer of :mod:`fastbp.initializers` that suits layers of f."""


#: The activations of a layer, each with a slope that acts element by element; both backends have the same.
ACTIVATIONS = {name: Activation(*facts) for name, facts in _backend.kernels.activation_facts().items()}


def sigmoid(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The logistic function, 1 / (1 + exp(-x)).

    Parameters
    ----------
    x : array of float32 or float64, any shape
    out : numpy.ndarray of the shape and dtype of `x`, optional
        Where to write the result. It may be `x` itself and must not overlap it otherwise.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    numpy.ndarray
        `out` where given, else a new array; a NumPy scalar for a scalar.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        An `out` of the wrong shape, read-only, not contiguous in its last axis, or overlapping `x`.

    Notes
    -----
    0 at -inf, 1 at +inf, NaN at NaN; no exponential overflows on the way.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.sigmoid([-1000.0, 0.0, 1.0]).round(6).tolist()
    [0.0, 0.5, 0.731059]
    """
    return _activate("sigmoid", x, out, n_threads)


def identity(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """x itself, copied: the activation of a linear layer.

    Parameters, result and errors are those of :func:`sigmoid`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.identity([-2.0, 3.0]).tolist()
    [-2.0, 3.0]
    """
    return _activate("identity", x, out, n_threads)


def tanh(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The hyperbolic tangent, (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    Parameters, result and errors are those of :func:`sigmoid`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.tanh([-1000.0, 0.0, 1.0]).round(6).tolist()
    [-1.0, 0.0, 0.761594]
    """
    return _activate("tanh", x, out, n_threads)


def relu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The rectifier, max(x, 0); its slope at 0 is taken to be 0.

    Parameters, result and errors are those of :func:`sigmoid`. NaN stays NaN.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.relu([-2.0, 3.0]).tolist()
    [0.0, 3.0]
    """
    return _activate("relu", x, out, n_threads)


def leaky_relu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The leaky rectifier: x where x > 0, else x / 100; its slope at 0 is taken to be 1/100.

    Parameters, result and errors are those of :func:`sigmoid`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.leaky_relu([-2.0, 3.0]).tolist()
    [-0.02, 3.0]
    """
    return _activate("leaky_relu", x, out, n_threads)


def elu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The exponential linear unit: x where x > 0, else exp(x) - 1.

    Parameters, result and errors are those of :func:`sigmoid`. -1 at -inf; a tiny x keeps all its digits.

    References
    ----------
    D.-A. Clevert, T. Unterthiner, S. Hochreiter: Fast and Accurate Deep Network Learning by Exponential Linear
    Units (ELUs), arXiv:1511.07289; α = 1.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.elu([-1000.0, -1.0, 3.0]).round(6).tolist()
    [-1.0, -0.632121, 3.0]
    """
    return _activate("elu", x, out, n_threads)


def selu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The scaled exponential linear unit: λx where x > 0, else λα(exp(x) - 1).

    λ = 1.0507009873554805 and α = 1.6732632423543773 are the pair for which sums of mean 0 and variance 1 give
    outputs of mean 0 and variance 1, if a layer's weights have mean 0 and variance 1/I (:mod:`fastbp.initializers`,
    ``"lecun"``).

    Parameters, result and errors are those of :func:`sigmoid`. -λα at -inf; a tiny x keeps all its digits.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter: Self-Normalizing Neural Networks, arXiv:1706.02515,
    equation 2.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.selu([-1000.0, -1.0, 3.0]).round(6).tolist()
    [-1.758099, -1.111331, 3.152103]
    """
    return _activate("selu", x, out, n_threads)


def gelu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The Gaussian error linear unit, x·Φ(x), where Φ is the standard normal distribution function.

    This is the exact form, not the approximation by tanh: PyTorch's ``gelu(x)``, JAX's ``gelu(x,
    approximate=False)``.

    Parameters, result and errors are those of :func:`sigmoid`. 0 at -inf.

    References
    ----------
    D. Hendrycks, K. Gimpel: Gaussian Error Linear Units (GELUs), arXiv:1606.08415.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.gelu([-1.0, 0.0, 1.0]).round(6).tolist()
    [-0.158655, 0.0, 0.841345]
    """
    return _activate("gelu", x, out, n_threads)


def silu(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The sigmoid linear unit ("swish"), x / (1 + exp(-x)).

    Parameters, result and errors are those of :func:`sigmoid`. 0 at -inf.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.silu([-1.0, 0.0, 1.0]).round(6).tolist()
    [-0.268941, 0.0, 0.731059]
    """
    return _activate("silu", x, out, n_threads)


def mish(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """x·tanh(softplus(x)), computed as x·n / (n + 2) with n = exp(x)(exp(x) + 2).

    Parameters, result and errors are those of :func:`sigmoid`. 0 at -inf.

    References
    ----------
    D. Misra: Mish: A Self Regularized Non-Monotonic Activation Function, arXiv:1908.08681.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.mish([-1.0, 0.0, 1.0]).round(6).tolist()
    [-0.303401, 0.0, 0.865098]
    """
    return _activate("mish", x, out, n_threads)


def softplus(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """The smooth rectifier, ``ln(1 + exp(x))``, computed as ``max(x, 0) + log1p(exp(-|x|))``.

    Parameters, result and errors are those of :func:`sigmoid`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.softplus([-1000.0, 0.0, 1000.0]).round(6).tolist()
    [0.0, 0.693147, 1000.0]
    """
    return _activate("softplus", x, out, n_threads)


def softmax(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """Probabilities along the last axis: y_c = exp(x_c) / Σ_j exp(x_j).

    For an error use `softmax_cross_entropy`, which starts from the logits: probabilities have lost the small
    digits.

    Parameters
    ----------
    x : array of float32 or float64, shape (..., C)
    out : numpy.ndarray of the shape and dtype of `x`, optional
        Where to write the result. It may be `x` itself and must not overlap it otherwise.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    numpy.ndarray of the shape of `x`
        A row that holds NaN or +inf, or only -inf, becomes NaN, that row alone.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A scalar `x`, or an `out` of the wrong shape, read-only, not contiguous in its last axis, or
        overlapping `x`.

    Examples
    --------
    >>> import math, fastbp
    >>> fastbp.softmax([[1000.0, 1000.0 + math.log(3.0)]]).round(6).tolist()
    [[0.25, 0.75]]
    """
    return _softmax_family(_backend.kernels.softmax, x, out, n_threads)


def log_softmax(x: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None) -> np.ndarray:
    """Logarithms of probabilities along the last axis: ln y_c = x_c - ln Σ_j exp(x_j), never from y.

    Parameters, result and errors are those of :func:`softmax`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.log_softmax([[0.0, -1000.0]]).tolist()
    [[0.0, -1000.0]]
    """
    return _softmax_family(_backend.kernels.log_softmax, x, out, n_threads)


def logsumexp(x: ArrayLike, *, n_threads: int | None = None) -> np.ndarray:
    """ln Σ_c exp(x_c) over the last axis, computed as m + log1p(Σ_{c≠argmax} exp(x_c - m)) with m = max x.

    Parameters
    ----------
    x : array of float32 or float64, shape (..., C)
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    numpy.ndarray of shape (...)
        A NumPy scalar for a vector. -inf for a row of nothing but -inf, or of nothing at all; +inf for one
        with +inf.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A scalar `x`.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.logsumexp([[1000.0, 1000.0], [0.0, 0.0]]).round(6).tolist()
    [1000.693147, 0.693147]
    """
    z = _checks.last_axis("x", x)
    result = np.empty(z.shape[:-1], z.dtype)
    _backend.kernels.logsumexp(_checks.rows(z), result.reshape(-1), _checks.threads(n_threads))
    return _answer(result, None)


def activation_backward(
    name: str, grad: ArrayLike, a: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None
) -> np.ndarray:
    """From dE/da to dE/dz through an elementwise activation: dE/dz = dE/da ⊙ f'(z).

    ============  ==============================  ======================
    `name`        f'                              `a` is
    ============  ==============================  ======================
    identity      1                               the output f(z)
    sigmoid       a(1 - a)                        the output f(z)
    tanh          1 - a²                          the output f(z)
    relu          1 where a > 0, else 0           the output f(z)
    leaky_relu    1 where a > 0, else 1/100       the output f(z)
    elu           1 where a > 0, else 1 + a       the output f(z)
    selu          λ where a > 0, else λα + a      the output f(z)
    softplus      1 - exp(-a)                     the output f(z)
    gelu          Φ(z) + z·φ(z)                   **the input z**
    silu          σ(z)(1 + z(1 - σ(z)))           **the input z**
    mish          T + z(1 - T²)σ(z)               **the input z**
    ============  ==============================  ======================

    λ and α are those of `selu`, T is tanh(softplus(z)). The outputs of gelu, silu and mish do not determine their
    slopes, so these three take the input. The slopes of a softmax are a matrix, not a vector: see
    `softmax_backward`.

    Parameters
    ----------
    name : str
        One of the names above.
    grad : array of float32 or float64, any shape
        dE/da.
    a : array of the shape and dtype of `grad`
        What the table says.
    out : numpy.ndarray of the shape and dtype of `grad`, optional
        Where to write the result. It may be `grad` itself and must not overlap an input otherwise.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    numpy.ndarray of the shape of `grad`
        dE/dz; `out` where given, else a new array; a NumPy scalar for a scalar.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        An unknown name, or a wrong shape, or an `out` that is read-only, not contiguous in its last axis, or
        overlaps an input.

    Examples
    --------
    >>> import fastbp
    >>> a = fastbp.sigmoid([0.0, 100.0])
    >>> fastbp.activation_backward("sigmoid", [8.0, 8.0], a).round(6).tolist()
    [2.0, 0.0]
    """
    _checks.choice("name", name, ACTIVATIONS)
    g = _checks.floats("grad", grad)
    f = _checks.shape("a", _checks.floats_like("a", a, "grad", g), g.shape, "the shape of grad")
    result = _checks.output("out", out, g.shape, g.dtype, in_place="grad", grad=grad, a=a)
    _backend.kernels.activation_backward(
        name, _checks.rows(g), _checks.rows(f), _checks.rows(result), _checks.threads(n_threads)
    )
    return _answer(result, out)


def softmax_backward(
    grad: ArrayLike, y: ArrayLike, *, out: np.ndarray | None = None, n_threads: int | None = None
) -> np.ndarray:
    """From dE/dy to dE/dz through a softmax, the product with its full Jacobian along the last axis.

    With dy_j/dz_c = y_j ([j = c] - y_c)::

        dE/dz_c = Σ_j dE/dy_j · dy_j/dz_c,   so   dE/dz = y ⊙ (g - Σ_j g_j y_j)   with g = dE/dy

    Every output depends on every logit. Multiplying g by y(1 - y), the diagonal alone, is the classic
    mistake. For cross-entropy, g = -t/y gives y·Σt - t, which `softmax_cross_entropy` computes without the
    division.

    Parameters
    ----------
    grad : array of float32 or float64, shape (..., C)
        dE/dy.
    y : array of the shape and dtype of `grad`
        The output of the softmax.
    out : numpy.ndarray of the shape and dtype of `grad`, optional
        Where to write the result. It may be `grad` itself and must not overlap an input otherwise.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells.

    Returns
    -------
    numpy.ndarray of the shape of `grad`
        dE/dz; `out` where given, else a new array.

    Raises
    ------
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A scalar or a wrong shape, or an `out` that is read-only, not contiguous in its last axis, or overlaps
        an input.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> y, t = np.array([0.25, 0.25, 0.5]), np.array([0.0, 1.0, 0.0])
    >>> fastbp.softmax_backward(-t / y, y).tolist()  # y - t
    [0.25, -0.75, 0.5]
    """
    g = _checks.last_axis("grad", grad)
    probabilities = _checks.shape("y", _checks.floats_like("y", y, "grad", g), g.shape, "the shape of grad")
    result = _checks.output("out", out, g.shape, g.dtype, in_place="grad", grad=grad, y=y)
    _backend.kernels.softmax_backward(
        _checks.rows(g), _checks.rows(probabilities), _checks.rows(result), _checks.threads(n_threads)
    )
    return result


def _activate(name: str, x: ArrayLike, out: np.ndarray | None, n_threads: int | None) -> np.ndarray:
    """What the activations have in common."""
    z = _checks.floats("x", x)
    result = _checks.output("out", out, z.shape, z.dtype, in_place="x", x=x)
    _backend.kernels.activate(name, _checks.rows(z), _checks.rows(result), _checks.threads(n_threads))
    return _answer(result, out)


def _softmax_family(
    kernel: Callable[[np.ndarray, np.ndarray, int], None],
    x: ArrayLike,
    out: np.ndarray | None,
    n_threads: int | None,
) -> np.ndarray:
    """What softmax and log_softmax have in common."""
    z = _checks.last_axis("x", x)
    result = _checks.output("out", out, z.shape, z.dtype, in_place="x", x=x)
    kernel(_checks.rows(z), _checks.rows(result), _checks.threads(n_threads))
    return result


def _answer(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The array that was written; of a new array without axes its scalar, as NumPy's own functions do."""
    return result if result.ndim or out is not None else result[()]
