# Everything arrives checked (fastbp/_checks.py): one float dtype per call, matrices whose rows are contiguous, flat vectors,
# int64 labels, float64 weights. The formulas stand with the public functions of the same names.
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.floating[Any]]
_Labels = NDArray[np.int64]
_Weights = NDArray[np.float64] | None

__all__: list[str]

def new_array(shape: tuple[int, ...], dtype: np.dtype) -> _Array: ...
def first_bad_label(labels: _Labels, n_classes: int, ignore_index: int) -> int: ...
def softmax_cross_entropy(
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
def sigmoid_cross_entropy(
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
def squared_error(
    outputs: _Array,
    targets: _Array,
    sample_weight: _Weights,
    mean: bool,
    losses: _Array | None,
    grad: _Array,
    n_threads: int,
) -> tuple[float, float]: ...
def sigmoid_squared_error(
    logits: _Array,
    targets: _Array,
    sample_weight: _Weights,
    mean: bool,
    losses: _Array | None,
    grad: _Array,
    n_threads: int,
) -> tuple[float, float]: ...
def poisson_deviance(
    logits: _Array,
    targets: _Array,
    sample_weight: _Weights,
    mean: bool,
    losses: _Array | None,
    grad: _Array,
    n_threads: int,
) -> tuple[float, float]: ...
def sigmoid(x: _Array, out: _Array, n_threads: int) -> None: ...
def tanh(x: _Array, out: _Array, n_threads: int) -> None: ...
def relu(x: _Array, out: _Array, n_threads: int) -> None: ...
def leaky_relu(x: _Array, out: _Array, n_threads: int) -> None: ...
def gelu(x: _Array, out: _Array, n_threads: int) -> None: ...
def silu(x: _Array, out: _Array, n_threads: int) -> None: ...
def softplus(x: _Array, out: _Array, n_threads: int) -> None: ...
def softmax(x: _Array, out: _Array, n_threads: int) -> None: ...
def log_softmax(x: _Array, out: _Array, n_threads: int) -> None: ...
def logsumexp(x: _Array, out: _Array, n_threads: int) -> None: ...
def activation_backward(name: str, grad: _Array, a: _Array, out: _Array, n_threads: int) -> None: ...
def softmax_backward(grad: _Array, y: _Array, out: _Array, n_threads: int) -> None: ...
def linear(
    x: _Array, weight: _Array, bias: _Array | None, activation: str, out: _Array, n_threads: int
) -> None: ...
def linear_backward_input(
    delta: _Array, weight: _Array, activation: str, a: _Array | None, out: _Array, n_threads: int
) -> None: ...
def linear_backward_weight(
    a_prev: _Array, delta: _Array, out: _Array, bias_out: _Array, n_threads: int
) -> None: ...
def linear_softmax_cross_entropy(
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
    losses: _Array | None,
    grad_inputs: _Array,
    grad_weight: _Array,
    grad_bias: _Array | None,
    n_threads: int,
) -> tuple[float, float]: ...
def sgd_update(
    parameters: _Array,
    gradient: _Array,
    velocity: _Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    n_threads: int,
) -> None: ...
def adam_update(
    parameters: _Array,
    gradient: _Array,
    first_moment: _Array,
    second_moment: _Array,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float,
    n_threads: int,
) -> None: ...
def optimizer_update(optimizer: Any, parameters: _Array, gradient: _Array, n_threads: int) -> None: ...

class Network:
    layer_sizes: tuple[int, ...]
    activation: str
    loss: str
    parameters: _Array
    n_threads: int | None
    def __init__(
        self,
        layer_sizes: tuple[int, ...],
        activation: str,
        loss: str,
        parameters: _Array,
        n_threads: int | None,
    ) -> None: ...
    def snapshot(self) -> _Array: ...
    def logits(self, x: _Array, out: _Array) -> None: ...
    def gradient(self, x: _Array, targets: NDArray[Any], gradient: _Array) -> float: ...
    def train(
        self,
        x: _Array,
        targets: NDArray[Any],
        order: _Labels,
        batch_size: int,
        optimizer: Any,
        report: Callable[[int, float], None] | None,
    ) -> tuple[float, int, str]: ...
    def step(self, x: Any, targets: Any, optimizer: Any) -> float | None: ...

def isa() -> str: ...
def available_isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def max_threads() -> int: ...
def thread_limit() -> int: ...
def has_threads() -> bool: ...
def compiler() -> str: ...
def fma_rate(element_size: int, repetitions: int) -> float: ...
