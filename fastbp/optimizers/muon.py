"""Muon."""

from __future__ import annotations

from fastbp import _checks
from fastbp.optimizers.base import Optimizer, Rate


class Muon(Optimizer):
    """Muon: a hidden matrix goes by its momentum, made nearly orthogonal [1]_; all else goes by :class:`AdamW`.

    Of a network, the weights (I, O) of every layer but the last are hidden matrices. With G the gradient of such a matrix W,
    η, μ and λ the rates, and the state M, zeros at first::

        M ← μ M + (1 - μ) G
        X ← μ M + (1 - μ) G  (M without nesterov);  X ← X / max(‖X‖, ε)
        X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, `ns_steps` times, with a, b, c = 3.4445, -4.7750, 2.0315
        W ← (1 - η λ) W - η √max(1, O/I) X

    The iteration of Newton and Schulz takes the singular values of X, from 1 % on, to between 0.68 and 1.14: a step is about as
    long in all directions, those that gradients seldom have included. The biases, and the last layer, go by AdamW with the
    learning rate ``adam_ratio * learning_rate``.

    An optimizer serves one parameter vector. A copy has a state of its own, which belongs to the first vector that the
    copy meets.

    Parameters
    ----------
    learning_rate : float >= 0, default 0.02
    momentum : float in [0, 1), default 0.95
    nesterov : bool, default True
    epsilon : float > 0, default 1e-7
        The least norm by which X is divided.
    ns_steps : int in [1, 99], default 5
        Iterations, of three matrix products each.
    adjust_lr_fn : {"original", "match_rms_adamw"}
        The factor of a step: √max(1, O/I) [1]_, or 0.2 √max(I, O), with which it has the mean square of an AdamW step, so that
        AdamW's learning rate and decay serve as well [2]_ (with ``adam_ratio=1``).
    adam_ratio : float >= 0, default 0.05
        AdamW's learning rate over that of the matrices: a schedule is one for both.
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    adam_epsilon : float > 0, default 1e-8
        AdamW's.
    weight_decay : float >= 0, default 0.1
        Decoupled, for all weights.
    average : float in [0, 1), optional
    decay_biases : bool, default False
        See :class:`SGD`.

    Attributes
    ----------
    learning_rate, momentum, nesterov, epsilon, adam_ratio, beta_1, beta_2, adam_epsilon, weight_decay
        May be set between updates, to a number or to a function of the steps made before.
    steps : int
        How many updates have been made.

    Raises
    ------
    TypeError, ValueError
        A rate of the wrong type or outside its range, here or, where it was set afterwards, when it is used; there
        also one that the dtype of the parameters cannot hold.

    Notes
    -----
    ``MLP.step`` and ``MLP.fit`` know which parameters are a matrix. :meth:`update` gets one vector, in which there is none:
    it is AdamW's.

    [1]_ leaves the first layer of a language model to AdamW as well: an embedding, of which an example reads one row. The inputs
    of a network here are numbers, which meet all rows of the first matrix; so it is a hidden one, without which a network of one
    hidden layer would have none. Where inputs are one-hot, that is not so.

    All defaults but the learning rate are those of ``torch.optim.Muon`` and ``torch.optim.AdamW``. PyTorch orthogonalises in
    bfloat16; here all is in the dtype of the parameters. Its matrices are (O, I).

    References
    ----------
    .. [1] K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
       https://kellerjordan.github.io/posts/muon/.
    .. [2] J. Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> X, y = fastbp.datasets.load_digits()
    >>> net = fastbp.MLP([64, 32, 32, 10], activation="tanh", dtype="float64", seed=0)
    >>> gradient, before = net.gradients(X, y).weights[1], net.weights[1].copy()
    >>> loss = net.step(X, y, fastbp.Muon(weight_decay=0.0))
    >>> of_gradient = np.linalg.svd(gradient, compute_uv=False)
    >>> of_step = np.linalg.svd((before - net.weights[1]) / 0.02, compute_uv=False)
    >>> (of_gradient / of_gradient[0])[[0, 7, 9, 12]].round(2).tolist()
    [1.0, 0.18, 0.03, 0.01]
    >>> of_step[[0, 7, 9, 12]].round(1).tolist()
    [1.2, 1.0, 0.9, 0.7]
    """

    rule, vectors, decoupled = "adam", ("first_moment", "second_moment"), True
    of_matrices = 4
    rates = {  # noqa: RUF012
        "learning_rate": _checks.optimizers.rate,
        "momentum": _checks.optimizers.decay_rate,
        "nesterov": _checks.optimizers.flag,
        "epsilon": _checks.optimizers.epsilon,
        "adam_ratio": _checks.optimizers.rate,
        "beta_1": _checks.optimizers.decay_rate,
        "beta_2": _checks.optimizers.decay_rate,
        "adam_epsilon": _checks.optimizers.epsilon,
        "weight_decay": _checks.optimizers.rate,
    }
    options = {  # noqa: RUF012
        "ns_steps": _checks.optimizers.iterations,
        "adjust_lr_fn": _checks.optimizers.adjustment,
    }
    ns_steps: int
    adjust_lr_fn: str

    def __init__(
        self,
        learning_rate: Rate = 2e-2,
        *,
        momentum: Rate = 0.95,
        nesterov: bool = True,
        epsilon: Rate = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str = "original",
        adam_ratio: Rate = 0.05,
        beta_1: Rate = 0.9,
        beta_2: Rate = 0.999,
        adam_epsilon: Rate = 1e-8,
        weight_decay: Rate = 0.1,
        average: float | None = None,
        decay_biases: bool = False,
    ) -> None:
        super().__init__(
            average,
            decay_biases,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            epsilon=epsilon,
            adam_ratio=adam_ratio,
            beta_1=beta_1,
            beta_2=beta_2,
            adam_epsilon=adam_epsilon,
            weight_decay=weight_decay,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
