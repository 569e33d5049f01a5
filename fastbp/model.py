"""The multilayer perceptron: layers, parameters, gradients, and no numerics of its own.

Design decisions:

A. All parameters are one flat vector ``[W1 (I, O) row by row, b1, W2, b2, ...]``; `weights` and `biases` are
   views into it. An optimizer's update, a network-wide sum or a file is then one operation on one array.
B. That array is created once and stays: the engine holds it. It is written into, never replaced; no more is
   anything else that the engine was made from.
C. The engine (``Network`` of the backend in use when the model is made) does a whole training step, and a
   whole epoch, in one call. What a model does around it is to check and convert.
D. The output layer is linear; the error acts on its logits. What the user sees as outputs (`outputs`)
   is formed from logits only when asked for.

Letters: N examples, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbp import (
    _backend,
    _checks,
    activations,
    checkpoints,
    evaluation,
    initializers,
    lbfgs,
    onnx,
    persistence,
    sources,
    training,
)
from fastbp.batches import Arrays, Examples
from fastbp.callbacks import MONITORED, Callback
from fastbp.divergence import divergence
from fastbp.history import History
from fastbp.initializers import Initializer
from fastbp.lbfgs import LBFGS
from fastbp.optimizers import OPTIMIZERS, SGD, Optimizer
from fastbp.outputs import LOSSES
from fastbp.parameters import Layout
from fastbp.precision import get_precision
from fastbp.ranks import of as of_communicator

if TYPE_CHECKING:
    from fastbp._kernel_api import Network

__all__ = ["MLP", "Gradients"]

_FORMAT = "fastbp.MLP"  # of files


# What the engine was made from stays for life, and how to do what an assignment was meant to do.
_FIXED = dict.fromkeys(
    (
        "layer_sizes",
        "activation",
        "activations",
        "dropout",
        "loss_name",
        "label_smoothing",
        "delta",
        "tau",
        "dtype",
        "n_threads",
        "precision",
        "init",
    ),
    "that of the network, which is made for one; make another MLP",
) | {
    "parameters": "the values to be written into the live array: net.parameters[:] = ...",
    "weights": "the values to be written into the live arrays: net.weights[0][:] = ...",
    "biases": "the values to be written into the live arrays: net.biases[0][:] = ...",
}


class Gradients(NamedTuple):
    """The error of a batch and its gradient, as :meth:`MLP.gradients` returns them.

    The arrays are views into one vector of their own, which later calls leave alone.
    """

    loss: float
    """The mean error over the examples."""
    weights: tuple[np.ndarray, ...]
    """dE/dW of each layer, (I, O)."""
    biases: tuple[np.ndarray, ...]
    """dE/db of each layer, (O,)."""

    @property
    def flat(self) -> np.ndarray:
        """The whole gradient as one vector, laid out like :attr:`MLP.parameters`."""
        arrays = [array for pair in zip(self.weights, self.biases, strict=True) for array in pair]
        base = arrays[0].base
        if isinstance(base, np.ndarray) and all(array.base is base for array in arrays):
            return base
        return np.concatenate([array.ravel() for array in arrays])  # pickling takes the views apart


# What a network is made of: all other attributes are the user's, or a subclass's, and go along in its copies.
_PARTS = {*_FIXED, "_engine", "_generator", "_dropout_seed", "_layout"}


class MLP:
    """A multilayer perceptron: dense layers, trained by back-propagation.

    Each hidden layer computes ``A = f(A_prev W + b)``, the last one the logits ``Z = A_prev W + b`` on which
    the error function acts.

    Parameters
    ----------
    layer_sizes : sequence of at least two positive integers
        Inputs, units of each hidden layer, outputs, as in ``[64, 32, 10]``.
    activation : str or sequence of str, default "sigmoid"
        f, of all the hidden layers, or one for each: identity, sigmoid, tanh, relu, leaky_relu, elu, selu, gelu, silu, mish
        or softplus.
    dropout : float in [0, 1), or a sequence of them, default 0
        How many of the outputs of the hidden layers, or of each, are set to 0 at random while the network trains; the
        others are multiplied by 1/(1 - dropout), so that nothing is to be changed afterwards [1]_. The random numbers
        follow from `seed` and the number of the step.
    label_smoothing : float in [0, 1], default 0
        For the two cross-entropies: targets t become (1 - s) t + s/C, or (1 - s) t + s/2 for logistic outputs. It is part of
        the error wherever the network tells one.
    loss : str, default "softmax_cross_entropy"
        The error function, which also determines what the outputs are:

        ========================= ================== =================================================
        loss                      outputs            targets
        ========================= ================== =================================================
        ``softmax_cross_entropy`` softmax(Z)         class indices (N,), or rows (N, C) of numbers >= 0
        ``sigmoid_cross_entropy`` 1/(1 + exp(-Z))    rows (N, O) of numbers in [0, 1]
        ``squared_error``         Z                  rows (N, O)
        ``sigmoid_squared_error`` 1/(1 + exp(-Z))    rows (N, O) of numbers in [0, 1]
        ``poisson_deviance``      exp(Z)             rows (N, O) of numbers >= 0
        ``huber``                 Z                  rows (N, O)
        ``quantile``              Z                  rows (N, O)
        ========================= ================== =================================================

        A network of one output also takes targets (N,) for (N, 1), unless its error is that of the softmax. Other
        targets are refused: at them the error has no minimum.
    delta : float > 0, default 1
        Where the error ``huber`` turns linear.
    tau : float in (0, 1), default 0.5
        Which quantile has the least error ``quantile``; by default the median.
    dtype : {"float32", "float64"}, default "float32"
        Of the parameters and of all that is computed. Examples of any real dtype are converted to it; they and
        their targets may be tables and columns of other libraries, if no value is missing and none is text.
    seed : int >= 0, optional
        Determines the initial weights and the shuffling. Without it they differ from one model to the next.
    n_threads : int >= 1, optional
        The most threads to use; by default as many as ``show_config()`` tells at the time of each call. Results have the
        same bits for any number.
    precision : {"highest", "high", "medium"}, optional
        Of float32 matrix products; by default the one that :func:`get_precision` tells at the time of each call. It is no
        property of the parameters, and files do not hold it.
    init : str or function, default "auto"
        How the weights of a layer are drawn, by name: glorot or glorot_uniform, glorot_normal, he or he_normal,
        he_uniform, lecun or lecun_normal, lecun_uniform, normal, uniform, orthogonal, zeros, or ``"auto"`` for what
        suits the activation; :mod:`fastbp.initializers` has the formulas. A function ``(rng, n_in, n_out)`` returns the
        weights (n_in, n_out) of a layer, drawn from the :class:`numpy.random.Generator` `rng`. Biases start at 0.

    Attributes
    ----------
    layer_sizes : tuple of int
    activation, activations : str or tuple of str, and tuple of str
        The argument, and that of each hidden layer.
    dropout : tuple of float
        That of each hidden layer.
    loss_name, init : str
        The arguments `loss` and `init`, which is ``"custom"`` for a function; ``loss`` itself is a method.
    label_smoothing, delta, tau : float
    dtype : numpy.dtype
    n_threads : int or None
    precision : str or None
    parameters : numpy.ndarray, one axis
        All the parameters, ``[W1 row by row, b1, W2, b2, ...]``, 64-byte aligned and live: what is written
        into it is what the network computes with. Like the other attributes it cannot be replaced.
    weights, biases : tuple of numpy.ndarray
        The weights (I, O) and biases (O,) of each layer: live views into `parameters`.

    Notes
    -----
    A model pickles and copies (``copy.deepcopy``) with its parameters, the state of its random numbers and all
    attributes that you or a subclass have set; copies are independent. It runs on the backend that was in use
    when it was made. Threads may share a model and take turns; copies of it run side by side. A copy or a file
    made while another thread trains has the parameters as they were between two updates. From a callback or a
    signal handler a model can be copied and saved, but a call within a call of the same thread is refused.

    A model keeps memory for a batch like the last one. Where that is more than 64 MB, it is given back as soon
    as a call has an eighth of the rows, or after a single call that had eight times those of the one before.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.

    Examples
    --------
    Exclusive or, which no network without a hidden layer can learn:

    >>> import fastbp
    >>> X, T = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> net = fastbp.MLP([2, 4, 2], activation="tanh", seed=0)
    >>> history = net.fit(X, T, epochs=500, batch_size=4, optimizer=fastbp.SGD(0.5), progress=False)
    >>> net.predict(X)
    array([0, 1, 1, 0])
    """

    def __init__(
        self,
        layer_sizes: Any,
        *,
        activation: str | Sequence[str] = "sigmoid",
        dropout: float | Sequence[float] = 0.0,
        loss: str = "softmax_cross_entropy",
        label_smoothing: float = 0.0,
        delta: float = 1.0,
        tau: float = 0.5,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
        n_threads: int | None = None,
        precision: str | None = None,
        init: str | Initializer = "auto",
    ) -> None:
        named = _checks.networks.initializer("init", init, ("auto", *initializers.INITIALIZERS))
        self._generator = np.random.default_rng(_checks.networks.seed("seed", seed))
        self._configure(
            layer_sizes,
            activation,
            loss,
            dtype,
            n_threads,
            named,
            dropout,
            label_smoothing,
            delta=delta,
            tau=tau,
            precision=precision,
        )
        if any(self.dropout):
            # from a copy: the weights are those that the seed gives without dropout
            self._dropout_seed = int(self._random_state().integers(2**63))
        self._build()
        self._draw_weights(init)

    def _configure(
        self,
        layer_sizes: Any,
        activation: str | Sequence[str],
        loss: str,
        dtype: DTypeLike,
        n_threads: int | None,
        init: str,
        dropout: float | Sequence[float] = 0.0,
        label_smoothing: float = 0.0,
        dropout_seed: int = 0,
        delta: float = 1.0,
        tau: float = 0.5,
        precision: str | None = None,
    ) -> None:
        """Check the arguments and keep them."""
        self.layer_sizes = _checks.networks.layer_sizes("layer_sizes", layer_sizes)
        self._layout = Layout(self.layer_sizes)
        n_hidden = len(self.layer_sizes) - 2
        self.activations = _checks.networks.activations(activation, n_hidden, activations.ACTIVATIONS)
        self.activation = activation if isinstance(activation, str) else self.activations
        self.dropout = _checks.networks.dropout(dropout, n_hidden)
        self._dropout_seed = _checks.networks.seed("dropout_seed", dropout_seed) or 0
        self.loss_name = _checks.choice("loss", loss, LOSSES)
        self.label_smoothing = _checks.networks.smoothing(label_smoothing, self.loss_name, LOSSES)
        self.dtype = _checks.networks.float_dtype("dtype", dtype)
        self.delta = _checks.networks.of_error("delta", delta, 1.0, self.loss_name, LOSSES, self.dtype)
        self.tau = _checks.networks.of_error("tau", tau, 0.5, self.loss_name, LOSSES, self.dtype)
        self.n_threads = n_threads  # checked where it is used
        self.precision = _checks.precision("precision", precision)
        self.init = _checks.choice("init", init, ("auto", "custom", *initializers.INITIALIZERS))

    def _build(self) -> None:
        """Allocate the parameters, cut the views, start the engine. The parameters have no values yet."""
        n_threads = None if self.n_threads is None else _checks.threads(self.n_threads)
        self.parameters = self._layout.new_vector(self.dtype)
        self.weights, self.biases = self._layout.views(self.parameters)
        self._start(_backend.kernels.Network, n_threads)
        _models[id(self)] = weakref.ref(self)

    def _start(self, network: type[Network], n_threads: int | None) -> None:
        """Start an engine on the parameters."""
        self._engine = self._engine_on(self.parameters, network, n_threads)

    def _engine_on(self, parameters: np.ndarray, network: type[Network], n_threads: int | None) -> Network:
        """One like the network's own on a vector laid out like the parameters."""
        return network(
            self.layer_sizes,
            self.activations,
            self.loss_name,
            parameters,
            n_threads,
            self.dropout,
            self._dropout_seed,
            self.label_smoothing,
            self._error_options().get(LOSSES[self.loss_name].parameter or "", 0.0),
            self.precision,
        )

    def _error_options(self) -> dict[str, Any]:
        """What the error function takes besides outputs, targets and their weights."""
        loss, options = LOSSES[self.loss_name], {}
        if loss.smooth:
            options["label_smoothing"] = self.label_smoothing
        if loss.parameter is not None:
            options[loss.parameter] = getattr(self, loss.parameter)
        return options

    def _draw_weights(self, init: str | Initializer) -> None:
        """Initial weights, drawn in float64 so that a seed means the same network in both dtypes."""
        last = self.activations[-1] if self.activations else self._only_activation()
        for weight, bias, activation in zip(
            self.weights, self.biases, (*self.activations, last), strict=True
        ):
            draw = initializers.initializer(init, activation)
            drawn = draw(self._generator, *weight.shape)
            weight[...] = _checks.networks.initial_weights("init", drawn, weight.shape, self.dtype)
            bias[...] = 0

    def _only_activation(self) -> str:
        """What was named though there is no hidden layer; it decides how weights are drawn."""
        return self.activation if isinstance(self.activation, str) else "identity"

    def __setattr__(self, name: str, value: Any) -> None:
        # `net.parameters += x` ends with the assignment of the very array, which is no replacement.
        if name in _FIXED and self.__dict__.get(name, value) is not value:
            raise AttributeError(f"{name}: got another object, expected {_FIXED[name]}")
        super().__setattr__(name, value)

    # What the network computes ------------------------------------------------------------------------------

    def logits(self, x: ArrayLike) -> np.ndarray:
        """The linear outputs Z of the last layer, (N, O), at the inputs `x` (N, I)."""
        return self._logits(self._inputs("x", x))

    def forward(self, x: ArrayLike) -> np.ndarray:
        """The outputs (N, O) at the inputs `x` (N, I): probabilities or predictions, as the loss determines.

        They are softmax(Z), 1/(1 + exp(-Z)), Z or exp(Z); see the table in :class:`MLP`. Like :meth:`logits` it takes
        NaN and infinity as they come, and shows what becomes of them; :meth:`predict` refuses them.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([2, 3], seed=0)
        >>> y = net.forward([[0.5, -1.0]])
        >>> y.shape, round(float(y.sum()), 6)
        ((1, 3), 1.0)
        """
        return self._outputs(self.logits(x))

    def loss(self, x: ArrayLike, t: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The weighted mean error over the examples `x` (N, I) with the targets `t`; NaN where the weights sum to 0."""
        examples = self._checker().examples(("x", "t", "sample_weight"), x, t, sample_weight, by_parts=True)
        return self._evaluate(self.parameters, examples, None)["loss"]

    def evaluate(
        self, X: ArrayLike, T: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> dict[str, float]:
        """How well the network does on examples, without dropout.

        Parameters
        ----------
        X : array of real numbers, shape (N, I)
        T : targets of the N examples, as the loss wants them; see the table in :class:`MLP`
        sample_weight : numbers >= 0, shape (N,), optional

        Returns
        -------
        dict
            ``loss``, the weighted mean error, and ``accuracy`` for the cross-entropies and ``sigmoid_squared_error``, how much
            of the weight is of examples whose class is predicted (of several logistic outputs, how many of them are), or ``r2``
            for the others, 1 - Σ w (t - y)² / Σ w (t - t̄)², the mean over the outputs. The logits of all rows are never held.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([2, 3], loss="squared_error", init="zeros")
        >>> net.evaluate([[0.0, 0.0], [1.0, 0.0]], [[1, 2, 3], [3, 4, 1]])
        {'loss': 10.0, 'r2': -5.666666666666667}
        """
        examples = self._checker().examples(("X", "T", "sample_weight"), X, T, sample_weight, by_parts=True)
        return self._evaluate(self.parameters, examples, None)

    def _evaluate(
        self,
        parameters: np.ndarray,
        examples: Examples,
        rows: np.ndarray | None,
        total: Callable[[Any], np.ndarray] = np.asarray,
    ) -> dict[str, float]:
        """With parameters that may be others than the network's own; `total` adds up over ranks."""
        engine = self._engine
        if parameters is not self.parameters:
            engine = self._engine_on(parameters, type(engine), engine.n_threads)
        options = {"n_threads": self.n_threads, **self._error_options()}
        loss, n_outputs = LOSSES[self.loss_name], self.layer_sizes[-1]
        blocks = evaluation.blocks(examples, rows, n_outputs, self.dtype)
        return evaluation.evaluate(engine, loss, blocks, n_outputs, options, total=total)

    def gradients(self, x: ArrayLike, t: ArrayLike, sample_weight: ArrayLike | None = None) -> Gradients:
        """The mean error over the examples and its gradient in every parameter, by back-propagation.

        Parameters
        ----------
        x : array of real numbers, shape (N, I)
        t : targets of the N examples, as the loss wants them; see the table in :class:`MLP`
        sample_weight : numbers >= 0, shape (N,), optional
            The error is Σ_n w_n E_n / Σ_n w_n.

        Returns
        -------
        Gradients
            ``(loss, weights, biases)``, of the shapes of :attr:`weights` and :attr:`biases`, and the same
            numbers as one vector in ``.flat``. The arrays are new at each call.

        Notes
        -----
        From the last layer to the first, with the batch's rows n::

            δ_last = dE/dZ,  δ_l = (δ_{l+1} W_{l+1}ᵀ) ⊙ f'(Z_l),  dE/dW_l = A_{l-1}ᵀ δ_l,  dE/db_l = Σ_n δ_l

        A batch without examples, or whose weights are all 0, has the error NaN and the gradient 0. There is no dropout.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([2, 3], seed=0)
        >>> loss, (dW,), (db,) = net.gradients([[1.0, 2.0]], [0])
        >>> dW.shape, db.shape
        ((2, 3), (3,))
        """
        inputs, targets = self._examples("x", x, "t", t)
        flat = np.zeros(self.parameters.shape, self.dtype)
        if not len(inputs):
            return Gradients(float("nan"), *self._layout.views(flat))
        weights = _checks.networks.example_weights("sample_weight", sample_weight, len(inputs))
        loss, _ = self._engine.gradient(inputs, targets, weights, flat)
        return Gradients(loss, *self._layout.views(flat))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """What the network takes the examples `X` (N, I) to be.

        Returns
        -------
        numpy.ndarray
            For ``softmax_cross_entropy`` the index of the most probable class, int64 (N,). For the two errors
            of logistic outputs 1 where the probability is above one half and 0 elsewhere, int64 (N, O). For
            the others the outputs (N, O) themselves, as :meth:`forward` returns them.

        Raises
        ------
        ValueError
            If an example holds NaN or infinity, or its outputs are NaN.
        """
        z = self._decided("X", X)
        decide = LOSSES[self.loss_name].decide
        return self._outputs(z) if decide is None else decide(z)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """The probability (N, O) of each class, or of each logistic output, for the examples `X` (N, I).

        Raises
        ------
        ValueError
            If the outputs are no probabilities, as those of ``squared_error`` and ``poisson_deviance``. If an example
            holds NaN or infinity, or its outputs are NaN.
        """
        if LOSSES[self.loss_name].decide is None:
            expected = ", ".join(name for name, loss in LOSSES.items() if loss.decide)
            raise ValueError(f"predict_proba: got the loss {self.loss_name}, expected one of {expected}")
        return self._outputs(self._decided("X", X))

    # Training -----------------------------------------------------------------------------------------------

    def step(
        self,
        x: ArrayLike,
        t: ArrayLike,
        optimizer: Optimizer,
        sample_weight: ArrayLike | None = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> float:
        """Train on one batch: gradient of the mean error, then the optimizer's update.

        Parameters
        ----------
        x : array of real numbers, shape (N, I)
        t : targets of the N examples
        optimizer : SGD, Adam or another of :mod:`fastbp.optimizers`
        sample_weight : numbers >= 0, shape (N,), optional
        clip_norm, clip_value : float > 0, optional
            See :meth:`fit`.

        Returns
        -------
        float
            The mean error before the update; NaN for a batch without examples, or whose weights are all 0, which updates
            nothing.

        Raises
        ------
        DivergenceError
            If the error, its gradient or the update is not finite. The parameters stay as they were.
        TypeError, ValueError
            A bad argument; also a target outside the range of the error function. Nothing has been changed then.

        Examples
        --------
        >>> import fastbp
        >>> net, sgd = fastbp.MLP([2, 4, 3], seed=0), fastbp.SGD(0.5)
        >>> losses = [net.step([[0, 1], [1, 0]], [1, 2], sgd) for _ in range(100)]
        >>> losses[-1] < 0.1 * losses[0]
        True
        """
        if (
            type(optimizer) in OPTIMIZERS
            and sample_weight is None
            and clip_norm is None
            and clip_value is None
        ):
            at_once = self._engine.step(x, t, optimizer)
            if at_once is not None:
                return at_once
        clips = _checks.training.clips(clip_norm, clip_value)
        check = self._checker()
        examples = check.examples(("x", "t", "sample_weight"), x, t, sample_weight)
        check.written = self._written(optimizer)
        inputs, targets, weights = check.apart(examples)
        batch_size = max(len(inputs), 1)
        loss, _, _, failure = self._engine.train(
            inputs, targets, weights, None, batch_size, optimizer, None, *clips
        )
        if failure:
            raise divergence(self, inputs, targets, failure)
        return loss

    def fit(
        self,
        X: Any,
        T: ArrayLike | None = None,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        optimizer: Optimizer | LBFGS | None = None,
        shuffle: bool = True,
        progress: bool = True,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        validation_data: Any = None,
        validation_fraction: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        callbacks: Iterable[Callback] = (),
        time_limit: float | None = None,
        resume: str | os.PathLike[str] | None = None,
        comm: Any = None,
    ) -> History:
        """Train on all the examples, `epochs` times over.

        Parameters
        ----------
        X : array of real numbers, shape (N, I), N >= 1, or an iterable
            Arrays may be memory maps larger than the memory: they are read a part at a time. Without `T`, an iterable of
            batches ``(x, t)`` or ``(x, t, sample_weight)``, or a function that returns an iterator, called once an epoch.
        T : targets of the N examples, as the loss wants them; see the table in :class:`MLP`
        epochs : int >= 0, default 10
        batch_size : int >= 1, default 32
            Examples in one update; the last batch of an epoch has what is left. Batches of an iterable are taken as they come.
        optimizer : Optimizer, optional
            By default ``SGD()``. It keeps its state, so that a second call goes on where the first ended.
        shuffle : bool, default True
            Put the examples into a new order before each epoch (the model's `seed` determines which).
        progress : bool, default True
            Show the training live on standard error: a line for each epoch, or one bar for all of them where they
            take less than a second or are more than a hundred.
        sample_weight : numbers >= 0, shape (N,), optional
            The error of a batch is Σ_n w_n E_n / Σ_n w_n; a batch whose weights are all 0 is skipped.
        class_weight : dict, array or "balanced", optional
            A weight for each class, multiplied into the examples' weights; ``"balanced"``: N / (C · how often the class
            occurs). For ``softmax_cross_entropy``, and for one logistic output, whose classes are 0 and 1.
        validation_data : (X, T) or (X, T, sample_weight), optional
            The network is evaluated on it after each epoch.
        validation_fraction : float in [0, 1), default 0
            Without `validation_data`, set so much of the examples aside for it, drawn at random, of each class alike.
        clip_norm : float > 0, optional
            A gradient of all parameters whose Euclidean norm is larger is scaled down to it.
        clip_value : float > 0, optional
            No element of the gradient counts for more than this, in either direction.
        callbacks : functions and objects, default none
            What is called after each epoch, and may stop the training; see :mod:`fastbp.callbacks`.
        time_limit : float > 0, optional
            Seconds after which training stops; an epoch under way is not counted.
        resume : path, optional
            Go on from the file of a :class:`fastbp.callbacks.Checkpoint`, written by the same call, to the same bits.
        comm : communicator of mpi4py, or :class:`fastbp.mpi.Communicator`, optional
            Processes that train together: each gives its own examples and its own `batch_size`, and a batch is what all of
            them have at a step. Errors, weights and gradients are summed over it, then divided, so that the result is that of
            one process on these batches; see docs/cluster.md.

        Returns
        -------
        History
            What was done in each epoch, and why it ended early if it did. Ctrl-C ends it after the update under way, with the
            history so far.

        Raises
        ------
        DivergenceError
            If the error of a batch, its gradient or the update is not finite. The message says where; the
            parameters are the last finite ones.
        TypeError, ValueError
            A bad argument; also a target outside the range of the error function. Nothing has been changed then.

        Notes
        -----
        It is the same, bit for bit, as :meth:`step` for each batch. With an optimizer that keeps an average, validation is
        done by that, and at the end it takes the place of the parameters.

        Examples
        --------
        >>> import fastbp
        >>> X, y = fastbp.datasets.load_digits()
        >>> net = fastbp.MLP([64, 32, 10], seed=0)
        >>> history = net.fit(X[:500], y[:500], epochs=3, progress=False)
        >>> len(history), history.loss[2] < history.loss[0]
        (3, True)
        """
        with of_communicator(comm, self._layout, self.dtype) as ranks:
            optimizer = SGD() if optimizer is None else optimizer
            check, draws = (
                self._checker(),
                resume is not None or type(validation_fraction) is not float or validation_fraction != 0,
            )
            generator = self._random_state() if draws else self._generator  # a refused call draws from a copy
            settings = training.Settings(
                epochs, batch_size, shuffle, progress, clip_norm, clip_value, callbacks, time_limit
            )
            saved = None if resume is None else checkpoints.read(resume)
            if saved is not None:
                checkpoints.compare(saved, self._description(), optimizer, settings.callbacks)
                generator.bit_generator.state = saved.start
            start = dict(generator.bit_generator.state)
            if ranks is not None:
                options = class_weight, validation_data is not None, validation_fraction, resume is not None
                threads = _checks.threads(self.n_threads)
                alike = self._description() | {"precision": self.precision or get_precision()}
                ranks.meet(alike, settings, optimizer, T is None, *options, threads)
            sets = sources.sets(
                check,
                X,
                T,
                sample_weight,
                class_weight,
                settings.batch_size,
                validation_data,
                validation_fraction,
                generator,
                ranks,
            )
            _checks.training.monitors(settings.callbacks, MONITORED, sets.monitored)
            if isinstance(optimizer, LBFGS):
                lbfgs.check(optimizer, settings, sets.batches, self.dropout, resume)
            else:
                check.written = self._written(optimizer)
            if isinstance(sets.batches, Arrays):
                sets.batches.examples = check.apart(sets.batches.examples)
            if ranks is not None:
                ranks.share(sets.batches, any(self.dropout))
            drawn = dict(generator.bit_generator.state)
            run = training.Run(self, optimizer, self._generator, settings, sets, start, drawn, ranks)
            return training.fit(run, saved)

    # Copies and files ---------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file: configuration, exact parameters, state of its random numbers.

        With the suffix ``.safetensors`` it has that format, otherwise that of NumPy's ``.npz`` without pickle: one
        array for the weights, and one for the biases, of each layer (docs/files.md). The name is taken as it is: no
        suffix is added. A file of that name is replaced only by a complete one. `n_threads` is not saved: how many
        threads pay depends on the machine; nor are attributes that you have set.

        Raises
        ------
        OSError
            If the file cannot be written; a ``PermissionError`` if one of that name, or its folder, is protected.
        """
        persistence.write(path, _FORMAT, *self._to_config_and_arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MLP:
        """The network that :meth:`save` wrote to `path`. Nothing in the file is executed.

        Raises
        ------
        OSError
            If the file cannot be opened.
        ValueError
            If it is no saved network, is damaged, or has the format of a newer fastbp.
        """
        return cls._from_config_and_arrays(path, _FORMAT, *persistence.read(path, _FORMAT))

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write what the network computes as an ONNX graph, for other runtimes and languages (docs/onnx.md).

        The graph takes ``inputs`` (N, I), any number of rows of the network's dtype, and returns ``outputs`` (N, O), what
        :meth:`forward` does. For the two cross-entropies and ``sigmoid_squared_error`` it also returns ``labels``, what
        :meth:`predict` does. Settings of training are not written: :meth:`save` keeps them. Needs the extra ``onnx``.

        Raises
        ------
        OSError
            If the file cannot be written; one of that name is as it was then.
        ValueError
            If the parameters take 2 GiB or more, which no file of ONNX can hold.
        """
        weights, biases = self._layout.views(self._engine.snapshot())
        onnx.write(path, weights, biases, self.activations, self.loss_name)

    @classmethod
    def from_onnx(cls, path: str | os.PathLike[str], *, loss: str | None = None) -> MLP:
        """The network in an ONNX file of :meth:`to_onnx`, PyTorch, skl2onnx or another program (docs/onnx.md).

        Parameters
        ----------
        path : str or path
            Its graph may have dense layers, fastbp's activations, and Softmax, Sigmoid, Exp or nothing at the end.
        loss : str, optional
            What the network is trained by. By default what :meth:`to_onnx` wrote, or the first loss in the table of
            :class:`MLP` that has such outputs. A graph without anything at the end returns logits, which are those of any loss.

        Raises
        ------
        OSError
            If the file cannot be opened.
        ValueError
            If it is damaged, keeps its weights in another file, or holds something else: the error names the first node
            that a network does not have. Nothing in a file is executed.

        Examples
        --------
        >>> import fastbp
        >>> net = fastbp.MLP([4, 8, 3], activation="gelu", seed=0)
        >>> net.to_onnx("net.onnx")  # doctest: +SKIP
        >>> fastbp.MLP.from_onnx("net.onnx").activations  # doctest: +SKIP
        ('gelu',)
        """
        loss = None if loss is None else _checks.choice("loss", loss, LOSSES)
        graph = onnx.read(path, loss)
        sizes = (len(graph.weights[0]), *(weight.shape[1] for weight in graph.weights))
        alike = len(set(graph.activations)) == 1
        net = cls.__new__(cls)
        net._configure(
            sizes,
            graph.activations[0] if alike else graph.activations,
            graph.loss,
            graph.weights[0].dtype,
            None,
            "custom",
        )
        arrays = {f"weights.{k}": array for k, array in enumerate(graph.weights)}
        arrays |= {f"biases.{k}": array for k, array in enumerate(graph.biases)}
        net._restore(arrays, np.random.default_rng())
        return net

    def _to_config_and_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file holds of a network."""
        config = self._configuration()
        del config["n_threads"], config["precision"]
        config |= {"dtype": self.dtype.name, "generator": self._random_state().bit_generator.state}
        return config, self._layout.named(self._engine.snapshot())

    @classmethod
    def _from_config_and_arrays(
        cls, path: str | os.PathLike[str], kind: str, config: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> MLP:
        """The network that a file of some kind holds."""
        net, generator = cls.__new__(cls), np.random.default_rng(0)
        newer = config.keys() - inspect.signature(net._configure).parameters - {"generator"}
        if newer:
            found = f"a network of a newer fastbp, with {', '.join(sorted(newer)):.200}"
            raise persistence.bad_file(path, kind, found)
        try:
            generator.bit_generator.state = config.pop("generator")
            net._configure(
                **config, n_threads=None, precision=None
            )  # its defaults are for files older than a setting
            net._restore(arrays, generator)
        except (TypeError, ValueError, KeyError, OverflowError) as cause:
            raise persistence.bad_file(path, kind, f"a damaged network ({cause!s:.300})") from cause
        return net

    def _configuration(self) -> dict[str, Any]:
        """The arguments of :meth:`_configure`."""
        return {
            "layer_sizes": self.layer_sizes,
            "activation": self.activation,
            "loss": self.loss_name,
            "dtype": self.dtype,
            "n_threads": self.n_threads,
            "precision": self.precision,
            "init": self.init,
            "dropout": self.dropout,
            "label_smoothing": self.label_smoothing,
            "dropout_seed": self._dropout_seed,
            "delta": self.delta,
            "tau": self.tau,
        }

    def _description(self) -> dict[str, Any]:
        """What two networks have in common that can go on with each other's parameters."""
        alike = {"layer_sizes", "loss", "dropout", "label_smoothing", "dropout_seed", "delta", "tau"}
        some = {name: value for name, value in self._configuration().items() if name in alike}
        some |= {"activations": self.activations, "dtype": self.dtype.name}
        described: dict[str, Any] = json.loads(json.dumps(some))  # lists for tuples
        return described

    def _restore(self, arrays: dict[str, np.ndarray], generator: np.random.Generator) -> None:
        """Complete a network that is configured and nothing else, with copies of the values of `arrays`."""
        self._layout.check(arrays, self.dtype)  # before anything of that size is allocated
        self._build()
        views = {"parameters": self.parameters} | self._layout.named(self.parameters)
        for name, array in arrays.items():
            views[name][...] = array
        self._generator = generator

    def _random_state(self) -> np.random.Generator:
        """A copy of the generator, from which another thread may be drawing numbers."""
        with self._generator.bit_generator.lock:
            return copy.deepcopy(self._generator)

    def __getstate__(self) -> tuple[Any, ...]:
        state = super().__getstate__()
        # those of __slots__ come apart
        attributes, slots = state if isinstance(state, tuple) else (state, {})
        others = {name: value for name, value in attributes.items() if name not in _PARTS} | slots
        return self._configuration(), self._engine.snapshot(), self._random_state(), others

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        configuration, parameters, generator, others = state
        self._configure(**configuration)
        self._restore({"parameters": parameters}, generator)
        for name, value in others.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        options = {"dropout": any(self.dropout) and self.dropout, **self._error_options()}
        more = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        head = (
            f"MLP({list(self.layer_sizes)}, activation={self.activation!r}, loss={self.loss_name!r}, "
            f"dtype={self.dtype.name!r}{more})"
        )
        return f"{head}\n{self._layout.table((*self.activations, 'identity'))}"

    # Between the user and the engine ------------------------------------------------------------------------

    def _inputs(self, name: str, x: Any) -> np.ndarray:
        return _checks.networks.inputs(name, x, self.layer_sizes[0], self.dtype)

    def _examples(self, x_name: str, x: Any, t_name: str, t: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs = _checks.networks.inputs(x_name, x, self.layer_sizes[0], self.dtype)
        loss = LOSSES[self.loss_name]
        return inputs, _checks.networks.targets(
            t_name, t, inputs, self.layer_sizes[-1], loss.by_class, loss.targets
        )

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        out = _backend.kernels.new_array((len(inputs), self.layer_sizes[-1]), self.dtype)
        if len(inputs):
            self._engine.logits(inputs, out)
        return out

    def _checker(self) -> sources.Checker:
        """The check of examples to train on."""
        sizes = self.layer_sizes
        return sources.Checker(sizes[0], sizes[-1], self.dtype, LOSSES[self.loss_name])

    def _written(self, optimizer: Optimizer) -> tuple[np.ndarray, ...]:
        """The arrays that updates by `optimizer` write."""
        _checks.optimizers.for_network("optimizer", optimizer, Optimizer)
        _checks.optimizers.steps(optimizer.steps)
        return _checks.optimizers.written("parameters", self.parameters, optimizer)

    def _decided(self, name: str, x: Any) -> np.ndarray:
        """The logits at finite inputs, if none is NaN."""
        inputs = _checks.networks.finite_rows(name, x, self._inputs(name, x))
        return _checks.networks.decided_rows(name, self._logits(inputs))

    def _outputs(self, logits: np.ndarray) -> np.ndarray:
        """What `logits` are as outputs, written over them."""
        return LOSSES[self.loss_name].outputs(logits, out=logits, n_threads=self.n_threads)


# By address, so that a dead network's entry goes to the next one there. A WeakSet would run a line of Python when a network dies,
# and Python drops what the handler of a signal raises in such a line: a Ctrl-C would be lost.
_models: dict[int, weakref.ref[MLP]] = {}


def _restart_in_child() -> None:
    """After a fork: the thread whose turn it was is not there any more."""
    for reference in list(_models.values()):
        if (net := reference()) is not None:
            net._start(type(net._engine), net._engine.n_threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_in_child)
