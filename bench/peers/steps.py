"""The peers of a training step: each library as its own users would write it, at its best.

A peer takes a `StepProblem`. `step()` trains `units` times on its batch, `finish()` waits until that is done,
and `parameters()` returns the flat vector as fastbp lays it out. A peer whose parameters can not be compared
says in `incomparable` why: it has no residual.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable
from ctypes.util import find_library
from typing import Any, Protocol

import numpy as np

from ..problems import StepProblem
from . import OF_BFLOAT16
from .libraries import (
    Synchronous,
    flat,
    import_jax,
    import_torch,
    jax_layers,
    jax_logits,
    jax_softmax_error,
    numpy_logits,
    numpy_softmax_error,
    sklearn_network,
    torch_network,
)


class StepPeer(Protocol):
    """What every training step offers."""

    name: str
    package: str
    units: int
    incomparable: str

    def __init__(self, problem: StepProblem) -> None: ...
    def step(self) -> object: ...
    def finish(self) -> None: ...
    def parameters(self) -> np.ndarray: ...


class StepDefaults(Synchronous):
    """What holds unless a peer says otherwise."""

    units, incomparable = 1, ""


class NumpyStep(StepDefaults):
    """NumPy by hand: the formulas of the derivation, results written into arrays that exist already."""

    name, package = "NumPy", "numpy"

    def __init__(self, problem: StepProblem) -> None:
        self.x, self.labels, self.rate = problem.x, problem.labels, problem.learning_rate
        self.layers = [(w.copy(), b.copy()) for w, b in problem.layers(problem.parameters)]
        batch = len(self.x)
        self.rows = np.arange(batch)
        self.outputs = [np.empty((batch, w.shape[1]), problem.dtype) for w, _ in self.layers]
        self.deltas = [np.empty_like(a) for a in self.outputs]
        self.gradients = [np.empty_like(w) for w, _ in self.layers]

    def step(self) -> float:
        """Forward, error, deltas, update."""
        z = numpy_logits(self.layers, self.x, self.outputs)
        loss, _ = numpy_softmax_error(z, self.labels, self.rows, out=self.deltas[-1])
        for index in range(len(self.layers) - 1, -1, -1):
            (w, b), delta = self.layers[index], self.deltas[index]
            below = self.outputs[index - 1] if index else self.x
            gradient = np.matmul(below.T, delta, out=self.gradients[index])
            if index:
                down = np.matmul(delta, w.T, out=self.deltas[index - 1])
                down *= below
                np.subtract(1.0, below, out=below)
                down *= below
            gradient *= self.rate
            w -= gradient
            b -= self.rate * delta.sum(axis=0)
        return loss

    def parameters(self) -> np.ndarray:
        """Flat."""
        return flat(self.layers)


class TorchStep(StepDefaults):
    """PyTorch eager: `nn.Sequential`, `cross_entropy`, `backward`, SGD in its fused form."""

    name, package = "PyTorch", "torch"

    def __init__(self, problem: StepProblem) -> None:
        torch = import_torch(problem.threads)
        self.model = torch_network(problem)
        self.x, self.labels = torch.from_numpy(problem.x), torch.from_numpy(problem.labels)
        self.error = torch.nn.functional.cross_entropy
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.learning_rate, fused=True)

    def step(self) -> None:
        """As in every tutorial."""
        self.optimizer.zero_grad()
        self.error(self.model(self.x), self.labels).backward()
        self.optimizer.step()

    def parameters(self) -> np.ndarray:
        """Flat; PyTorch keeps W as (O, I)."""
        linears = [module for module in self.model if hasattr(module, "weight")]
        return flat([(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in linears])


class TorchAutocastStep(TorchStep):
    """The same in bfloat16, by `torch.autocast`."""

    name, package = OF_BFLOAT16, "torch"

    def __init__(self, problem: StepProblem) -> None:
        super().__init__(problem)
        self.torch = import_torch(problem.threads)

    def step(self) -> None:
        """Forward and error under autocast, as its documentation says."""
        self.optimizer.zero_grad()
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
            error = self.error(self.model(self.x), self.labels)
        error.backward()
        self.optimizer.step()


class TorchCompileStep(TorchStep):
    """`torch.compile` over the whole step as one function, gradient and update included. Slow to start.

    That takes a third of the time of compiled model and error with `backward` and SGD around them.
    """

    name, package = "torch.compile", "torch"

    def __init__(self, problem: StepProblem) -> None:
        super().__init__(problem)
        self.torch = torch = import_torch(problem.threads)
        model, cross_entropy, rate = self.model, self.error, problem.learning_rate

        def error(parameters: Any, x: Any, labels: Any) -> Any:
            return cross_entropy(torch.func.functional_call(model, parameters, (x,)), labels)

        def step(parameters: Any, x: Any, labels: Any) -> None:
            gradients = torch.func.grad(error)(parameters, x, labels)
            for name, parameter in parameters.items():
                parameter.sub_(rate * gradients[name])

        torch._dynamo.reset()  # else the ninth shape of a run would silently be left uncompiled
        self.compiled = torch.compile(step, dynamic=False, fullgraph=True)
        self.state = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def step(self) -> None:
        """One call."""
        with self.torch.no_grad():
            self.compiled(self.state, self.x, self.labels)


class JaxStep(StepDefaults):
    """JAX: one jitted function from parameters to parameters, in donated memory; no call is waited for."""

    name, package = "JAX", "jax"

    def __init__(self, problem: StepProblem) -> None:
        jax = import_jax(problem.dtype)
        jnp = jax.numpy

        def error(layers: Any, x: Any, labels: Any) -> Any:
            return jax_softmax_error(jax_logits(layers, x), labels)

        def step(layers: Any, x: Any, labels: Any) -> Any:
            gradients = jax.grad(error)(layers, x, labels)
            return jax.tree.map(lambda p, g: p - problem.learning_rate * g, layers, gradients)

        self.jax, self.update = jax, jax.jit(step, donate_argnums=0)
        self.layers = jax_layers(problem)
        self.x, self.labels = jnp.array(problem.x), jnp.array(problem.labels)

    def step(self) -> None:
        """One call."""
        self.layers = self.update(self.layers, self.x, self.labels)

    def finish(self) -> None:
        """Wait for the last step, which waits for those before it."""
        self.jax.block_until_ready(self.layers)

    def parameters(self) -> np.ndarray:
        """Flat."""
        return flat([(np.asarray(w), np.asarray(b)) for w, b in self.layers])


class SklearnStep(StepDefaults):
    """scikit-learn: `MLPClassifier.partial_fit` on the batch, plain SGD, no L2 term."""

    name, package = "sklearn", "sklearn"

    def __init__(self, problem: StepProblem) -> None:
        self.x, self.labels = problem.x, problem.labels
        self.model = sklearn_network(
            problem,
            solver="sgd",
            batch_size=len(problem.x),
            learning_rate_init=problem.learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
        )

    def step(self) -> None:
        """One pass over the batch is one update."""
        self.model.partial_fit(self.x, self.labels)

    def parameters(self) -> np.ndarray:
        """Flat."""
        return flat(list(zip(self.model.coefs_, self.model.intercepts_, strict=True)))


class NumbaStep(StepDefaults):
    """Numba by hand: one compiled call, its matrix products by loops or by BLAS, whichever is faster here."""

    name, package = "Numba", "numba"

    def __init__(self, problem: StepProblem) -> None:
        from . import numba_step

        self.problem = problem
        choices = [numba_step.by_blas]
        if problem.shape.operations < LOOPS_OPERATIONS:
            choices.append(numba_step.by_loops)
        self.train = min(choices, key=self._seconds)
        self.arguments = self._arguments()

    def _arguments(self) -> tuple[Any, ...]:
        """Return what a step works on, with the parameters to start from."""
        problem, batch = self.problem, len(self.problem.x)
        layers = [(w.copy(), b.copy()) for w, b in problem.layers(problem.parameters)]
        weights, biases = zip(*layers, strict=True)
        outputs = tuple(np.empty((batch, len(b)), problem.dtype) for b in biases)
        deltas, gradients = tuple(map(np.empty_like, outputs)), tuple(map(np.empty_like, weights))
        rate = problem.dtype.type(problem.learning_rate)
        return problem.x, problem.labels, weights, biases, outputs, deltas, gradients, rate

    def _seconds(self, train: Callable[..., float]) -> float:
        """Return the best time of a few steps, compiled before."""
        arguments = self._arguments()
        train(*arguments)
        times = []
        for _ in range(NUMBA_TRIALS):
            started = time.perf_counter()
            train(*arguments)
            times.append(time.perf_counter() - started)
        return min(times)

    def step(self) -> float:
        """One call."""
        return self.train(*self.arguments)

    def parameters(self) -> np.ndarray:
        """Flat."""
        return flat(list(zip(self.arguments[2], self.arguments[3], strict=True)))


LOOPS_OPERATIONS = 100_000_000  # beyond, BLAS is faster by far
NUMBA_TRIALS = 5


class FannStep(StepDefaults):
    """FANN, in C: `fann_train_on_data` is a loop of `fann_train_epoch`, here with plain batch training.

    Its parameters stay its own: FANN has no softmax, and trains logistic outputs on their squared error.
    """

    name, package, units = "FANN", "floatfann", 16  # a shared library, in Debian's libfann-dev
    incomparable = "trains logistic outputs on their squared error, having no softmax"

    def __init__(self, problem: StepProblem) -> None:
        if problem.shape.operations > FANN_OPERATIONS:
            raise ValueError("its step takes seconds")
        library = find_library({4: "floatfann", 8: "doublefann"}[problem.dtype.itemsize])
        fann, pointer, unsigned = ctypes.CDLL(library), ctypes.c_void_p, ctypes.c_uint
        targets = np.eye(problem.shape.sizes[-1], dtype=problem.dtype)[problem.labels]

        @ctypes.CFUNCTYPE(None, unsigned, unsigned, unsigned, pointer, pointer)
        def example(n: int, _inputs: int, _outputs: int, x: int, t: int) -> None:
            ctypes.memmove(x, problem.x[n].ctypes.data, problem.x[n].nbytes)
            ctypes.memmove(t, targets[n].ctypes.data, targets[n].nbytes)

        fann.fann_create_standard_array.restype = fann.fann_create_train_from_callback.restype = pointer
        sizes = (unsigned * len(problem.shape.sizes))(*problem.shape.sizes)
        network = pointer(fann.fann_create_standard_array(len(sizes), sizes))
        data = pointer(fann.fann_create_train_from_callback(len(problem.x), sizes[0], sizes[-1], example))
        weakref.finalize(self, fann.fann_destroy, network)
        weakref.finalize(self, fann.fann_destroy_train, data)
        fann.fann_set_activation_function_hidden(network, FANN_SIGMOID)
        fann.fann_set_activation_function_output(network, FANN_SIGMOID)
        fann.fann_set_training_algorithm(network, FANN_TRAIN_BATCH)
        fann.fann_set_train_error_function(network, FANN_ERRORFUNC_LINEAR)
        fann.fann_set_learning_rate(network, ctypes.c_float(problem.learning_rate))
        # So many steps, without a report, until the error is below -1.
        self.arguments = network, data, unsigned(self.units), unsigned(0), ctypes.c_float(-1.0)
        self.train = fann.fann_train_on_data

    def step(self) -> None:
        """One call."""
        self.train(*self.arguments)

    def parameters(self) -> np.ndarray:
        """Not those of this problem."""
        raise NotImplementedError(self.incomparable)


FANN_OPERATIONS = 1_000_000_000
FANN_ERRORFUNC_LINEAR, FANN_TRAIN_BATCH, FANN_SIGMOID = 0, 1, 3  # fann_data.h


STEP_PEERS: tuple[type[StepPeer], ...] = (
    NumpyStep,
    NumbaStep,
    FannStep,
    TorchStep,
    TorchAutocastStep,
    TorchCompileStep,
    JaxStep,
    SklearnStep,
)
