"""What the rest of the package may ask of a backend: the types of ``_backend.kernels``, whichever it is.

Nobody imports this at run time. mypy holds every call against it, and the twin; the compiled kernels have no types, and a
test compares their names and arguments with these.

Everything arrives checked (fastbp/_checks): one float dtype per call, matrices whose rows are contiguous, flat vectors,
int64 labels, float64 weights. The formulas stand with the public functions of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastbp.optimizers import Optimizer

_Array = NDArray[np.floating[Any]]
_Labels = NDArray[np.int64]
_Weights = NDArray[np.float64] | None


class Ranks(Protocol):
    """What sums a step over the processes of a training, for :meth:`Network.train`.

    In each step: ``begin``, a ``send`` for each layer that `sends` names, from the last one to the first, ``finish``.
    """

    steps: int
    """How many are to be made, without examples if there are no more."""
    gradient: _Array
    """That of this process, which becomes that of all."""
    sends: NDArray[np.uint8]
    """Of each layer: whether its gradient is to be sent as soon as it is there, with those of the layers above it that wait."""
    first_rows: NDArray[np.int64] | None
    """For each step, the rows that lower ranks have; None where nothing depends on them."""

    def begin(self, loss: float, weight: float, present: bool) -> None: ...
    def send(self, layer: int) -> None: ...
    def finish(self) -> tuple[float, float, bool, bool]:
        """The sums of errors and weights; whether to stop after this step, and whether not even to make it."""
        ...


class Network(Protocol):
    """The engine of a network."""

    def __init__(
        self,
        layer_sizes: tuple[int, ...],
        activations: tuple[str, ...],
        loss: str,
        parameters: _Array,
        n_threads: int | None,
        dropout: tuple[float, ...] = (),
        seed: int = 0,
        label_smoothing: float = 0.0,
        parameter: float = 0.0,
        precision: str | None = None,
    ) -> None: ...

    largest_error: float
    """What the error of an example, or of each logistic output, counts at most in the means that are told; or infinity. Its
    gradient is not limited."""

    @property
    def n_threads(self) -> int | None: ...
    def snapshot(self) -> _Array: ...
    def logits(self, x: _Array, out: _Array) -> None: ...
    def gradient(
        self, x: _Array, targets: NDArray[Any], weights: _Weights, gradient: _Array
    ) -> tuple[float, float]: ...
    def train(
        self,
        x: _Array,
        targets: NDArray[Any],
        weights: _Weights,
        order: _Labels | None,
        batch_size: int,
        optimizer: Optimizer,
        report: Callable[[int, float], object] | None,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        batches: NDArray[np.float64] | None = None,
        ranks: Ranks | None = None,
    ) -> tuple[float, float, int, str]: ...
    def step(self, x: Any, targets: Any, optimizer: Optimizer) -> float | None: ...


class Kernels(Protocol):
    """The functions of both backends."""

    @property
    def Network(self) -> type[Network]: ...
    def new_array(self, shape: tuple[int, ...], dtype: np.dtype) -> _Array: ...
    def first_bad_label(self, labels: _Labels, n_classes: int, ignore_index: int) -> int: ...
    def softmax_cross_entropy(
        self,
        logits: _Array,
        labels: _Labels | None,
        targets: _Array | None,
        class_weight: _Weights,
        sample_weight: _Weights,
        ignore_index: int,
        label_smoothing: float,
        lse_square_scale: float,
        softcap: float,
        mean: bool,
        losses: _Array | None,
        grad: _Array,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def softmax_cross_entropy_at_once(
        self,
        logits: Any,
        labels: Any,
        class_weight: Any,
        sample_weight: Any,
        label_smoothing: Any,
        lse_square_scale: Any,
        softcap: Any,
        grad: Any,
        n_threads: Any,
    ) -> tuple[np.floating[Any], np.ndarray, float] | None: ...
    def softmax_cross_entropy_hessian(
        self,
        logits: _Array,
        labels: _Labels | None,
        targets: _Array | None,
        class_weight: _Weights,
        sample_weight: _Weights,
        ignore_index: int,
        label_smoothing: float,
        hessian: _Array,
        mean: bool,
        losses: _Array | None,
        grad: _Array,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def sigmoid_cross_entropy(
        self,
        logits: _Array,
        targets: _Array,
        pos_weight: _Weights,
        sample_weight: _Weights,
        label_smoothing: float,
        mean: bool,
        losses: _Array | None,
        grad: _Array,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def sigmoid_cross_entropy_hessian(
        self,
        logits: _Array,
        targets: _Array,
        pos_weight: _Weights,
        sample_weight: _Weights,
        label_smoothing: float,
        hessian: _Array,
        mean: bool,
        losses: _Array | None,
        grad: _Array,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def elementwise_error(
        self,
        outputs: _Array,
        targets: _Array,
        sample_weight: _Weights,
        error: str,
        parameter: float,
        mean: bool,
        losses: _Array | None,
        grad: _Array,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def activation_facts(self) -> dict[str, tuple[bool, float, str]]: ...
    def activate(self, name: str, x: _Array, out: _Array, n_threads: int) -> None: ...
    def softmax(self, x: _Array, out: _Array, n_threads: int) -> None: ...
    def log_softmax(self, x: _Array, out: _Array, n_threads: int) -> None: ...
    def logsumexp(self, x: _Array, out: _Array, n_threads: int) -> None: ...
    def activation_backward(
        self, name: str, grad: _Array, a: _Array, out: _Array, n_threads: int
    ) -> None: ...
    def softmax_backward(self, grad: _Array, y: _Array, out: _Array, n_threads: int) -> None: ...
    def linear(
        self, x: _Array, weight: _Array, bias: _Array | None, activation: str, out: _Array, n_threads: int
    ) -> None: ...
    def linear_backward_input(
        self, delta: _Array, weight: _Array, activation: str, a: _Array | None, out: _Array, n_threads: int
    ) -> None: ...
    def linear_backward_weight(
        self, a_prev: _Array, delta: _Array, out: _Array, bias_out: _Array, n_threads: int
    ) -> None: ...
    def linear_softmax_cross_entropy(
        self,
        inputs: _Array,
        weight: _Array,
        bias: _Array | None,
        labels: _Labels | None,
        targets: _Array | None,
        class_weight: _Weights,
        sample_weight: _Weights,
        ignore_index: int,
        label_smoothing: float,
        lse_square_scale: float,
        softcap: float,
        mean: bool,
        max_memory: int,
        precision: str | None,
        losses: _Array | None,
        grad_inputs: _Array,
        grad_weight: _Array,
        grad_bias: _Array | None,
        n_threads: int,
    ) -> tuple[float, float]: ...
    def use_precision(self, name: str) -> None: ...
    def update(
        self,
        optimizer: Optimizer | type[Optimizer],
        rates: tuple[float, ...],
        state: dict[str, np.ndarray],
        step: int,
        parameters: _Array,
        gradient: _Array,
        n_threads: int,
    ) -> None: ...
    def optimizer_update(
        self, optimizer: Optimizer, parameters: _Array, gradient: _Array, n_threads: int
    ) -> None: ...


class NativeKernels(Kernels, Protocol):
    """Those of the compiled kernels, with what only these have."""

    def isa(self) -> str: ...
    def available_isas(self) -> list[str]: ...
    def use_isa(self, name: str) -> None: ...
    def max_threads(self) -> int: ...
    def thread_limit(self) -> int: ...
    def has_threads(self) -> bool: ...
    def compiler(self) -> str: ...
    def unit(self, precision: str) -> str: ...
    def fma_rate(self, element_size: int, repetitions: int) -> float: ...
