"""The last layer and its error in one, for so many classes that the logits of a batch would not fit in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbp import _backend, _checks
from fastbp.losses import _REDUCTIONS, Reduction, _in_dtype

MAX_MEMORY = 64 * 2**20


class LastLayerGrad(NamedTuple):
    """What `linear_softmax_cross_entropy` returns. Gradients are of the reduced error: of the mean with
    ``reduction="mean"``, of the sum otherwise.

    Attributes
    ----------
    loss : numpy.floating or numpy.ndarray of shape (N,)
        The reduced error, a scalar of the inputs' dtype; with ``reduction="none"`` the vector s_n E_n.
    grad_inputs : numpy.ndarray of shape (N, I)
    grad_weight : numpy.ndarray of shape (I, C)
        Laid out in memory like the weights: by columns if those are the transpose of a (C, I) array.
    grad_bias : numpy.ndarray of shape (C,) or None
        None where no bias was given.
    weight_sum : float
        Σ_n w_n, the sum of the examples' weights: N where there are none, 0 where every example is ignored.
    """

    loss: np.floating[Any] | np.ndarray
    grad_inputs: np.ndarray
    grad_weight: np.ndarray
    grad_bias: np.ndarray | None
    weight_sum: float


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
) -> LastLayerGrad:
    r"""A dense layer with softmax outputs, its cross-entropy and all gradients, without the (N, C) logits.

    The error is that of ``softmax_cross_entropy(linear(inputs, weight, bias), targets, ...)``, to the bit. With
    X the inputs, W the weight, b the bias and δ the gradient of the reduced error with respect to the logits ::

        Z  = X W + b
        dX = δ Wᵀ,   dW = Xᵀ δ,   db = Σ_n δ_n

    A block of rows of Z is formed at a time, turned into its rows of δ in place, and used up: only the
    gradients, and `max_memory` at most, are ever allocated. Nothing is computed twice.

    Parameters
    ----------
    inputs : array of float32 or float64, shape (N, I)
        One row for each example. Rows may lie any distance apart.
    weight : array of the dtype of `inputs`, shape (I, C)
        With any strides: the transpose of a (C, I) array, as of an embedding, is read as it lies.
    targets : array of integers, shape (N,), or of real numbers, shape (N, C)
        The class of each example, or a row of targets for each.
    bias : array of the dtype of `inputs`, shape (C,), optional
    class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale, softcap, reduction
        As in `softmax_cross_entropy`. Examples that are ignored or have sample weight 0 cost nothing.
    max_memory : int >= 1, default 64 MiB
        The most bytes to allocate besides the gradients. The more, the larger the blocks and the faster. What
        threads need for themselves lies within it: with little memory, fewer of them take part.
    precision : {"highest", "high", "medium"}, optional
        Of the three products, in float32; by default the one that :func:`get_precision` tells.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells. The result has the same bits for any number.

    Returns
    -------
    LastLayerGrad
        ``(loss, grad_inputs, grad_weight, grad_bias, weight_sum)``.

    Raises
    ------
    TargetIndexError
        A class index is neither in [0, C) nor `ignore_index`. It is an ``IndexError`` and a ``ValueError``.
    TypeError
        An argument of the wrong type or dtype.
    ValueError
        A wrong shape or value, `ignore_index` given with rows of targets, or a `max_memory` too small for one
        row; the message tells the least.

    Notes
    -----
    * The edge cases are those of `softmax_cross_entropy`. An example that is not read leaves no trace, whatever
      its inputs: the gradients are those of the batch without it, and its own row of `grad_inputs` is 0.
      Without any weight (an empty batch, all examples ignored, all weights 0) the mean is NaN, every gradient
      exactly 0.
    * `grad_weight` and `grad_bias` are sums over blocks: of another `max_memory` they may differ by rounding.
      Everything else has the same bits for any `max_memory`.
    * The NumPy twin, for machines without a compiler, holds all logits, whatever `max_memory` says.

    In PyTorch: ``linear_cross_entropy(inputs, weight.T, targets, ...)``.

    Cutting the batch into pieces, each of which turns its logits into gradients at once, is the method of
    Liger Kernel: P.-L. Hsu et al., arXiv:2410.10989 (2024), section 3.2.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> inputs, weight = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> answer = fastbp.linear_softmax_cross_entropy(inputs, weight, [0, 2])
    >>> round(float(answer.loss), 6)
    0.669079
    >>> answer.grad_weight.round(4).tolist()  # inputsᵀ (y - t) / 2
    [[-0.1065, 0.0533, 0.0533], [0.3333, 0.3333, -0.6667]]
    """
    x = _checks.matrix("inputs", inputs, "(N, I)")
    w = _checks.some_classes("weight", _checks.layer_weight(weight, 0, "inputs", x), "(I, C)")
    b = None if bias is None else _checks.layer_bias(bias, w)
    transposed = abs(w.strides[0]) < abs(w.strides[1])
    grad_weight = _backend.kernels.new_array(w.shape[::-1] if transposed else w.shape, w.dtype)
    grad_weight = grad_weight.T if transposed else grad_weight
    grads = np.empty(x.shape, x.dtype), grad_weight, None if b is None else np.empty(len(b), x.dtype)
    options = class_weight, sample_weight, ignore_index, label_smoothing, lse_square_scale, softcap
    loss, weight_sum = evaluate(x, w, b, targets, options, reduction, max_memory, precision, n_threads, grads)
    return LastLayerGrad(loss, *grads, weight_sum)


def evaluate(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    targets: ArrayLike,
    options: tuple[Any, ...],
    reduction: Reduction,
    max_memory: int,
    precision: str | None,
    n_threads: int | None,
    grads: tuple[np.ndarray, np.ndarray, np.ndarray | None],
) -> tuple[Any, float]:
    """The loss and the weight sum of a layer that has been checked; the gradients of x, w and b are written to `grads`."""
    arguments = (
        _checks.rows(x),
        w,
        b,
        *_checks.softmax_arguments("inputs", x, w.shape[1], targets, options),
        _checks.choice("reduction", reduction, _REDUCTIONS) == "mean",
        _checks.memory("max_memory", max_memory),
        _checks.precision("precision", precision),
    )
    threads = _checks.threads(n_threads)
    losses = np.empty(len(x), x.dtype) if reduction == "none" else None
    loss, weight_sum = _backend.kernels.linear_softmax_cross_entropy(*arguments, losses, *grads, threads)
    return _in_dtype(loss, x.dtype) if losses is None else losses, weight_sum
