"""Random calls of the functions, each held against what is promised of every call.

A call of good arguments, whatever their layout, is answered: within the bounds of ``tolerances.py`` of the float64 twin, with the
same bits as from contiguous memory and on any number of threads, its inputs unchanged. A call some of whose arguments may be
anything (`spoiled`) is answered as well, or refused by a TypeError, ValueError or IndexError that begins with an argument's name,
or by a MemoryError; then nothing has been written. `fuzz.py` makes as many calls as one wants.
"""

from __future__ import annotations

import inspect
import re
import signal
from types import SimpleNamespace
from typing import Any

import numpy as np
from conftest import Promise, assert_accurate, assert_same_bits, error_of, squares_are_known
from tolerances import ACTIVATIONS, BOUNDS, Bound

import fastbp
from fastbp import _backend, _reference

from .arguments import NUMBERS, REALS, WORDS, Draw, Pair

Array = np.ndarray

LOSS = {"sample_weight": "weights:N", "reduction": "word", "grad_out": "out:NC", "n_threads": "number"}
SOFTMAX = {
    "targets": "classes",
    "class_weight": "weights:C",
    "ignore_index": "number",
    "label_smoothing": "number",
}
MORE = {"lse_square_scale": "number", "softcap": "number"}
LOGISTIC = {"targets": "fractions:NC", "pos_weight": "weights:C", "label_smoothing": "number"}
MAP = {"x": "real:NC", "out": "out:NC", "n_threads": "number"}

FUNCTIONS: dict[str, dict[str, str]] = {
    "softmax_cross_entropy": {"logits": "real:NC", **SOFTMAX, **MORE, **LOSS},
    "softmax_cross_entropy_hessian": {"logits": "real:NC", **SOFTMAX, **LOSS, "hessian_out": "out:NC"},
    "sigmoid_cross_entropy": {"logits": "real:NC", **LOGISTIC, **LOSS},
    "sigmoid_cross_entropy_hessian": {"logits": "real:NC", **LOGISTIC, **LOSS, "hessian_out": "out:NC"},
    "squared_error": {"outputs": "real:NC", "targets": "rows:NC", **LOSS},
    "sigmoid_squared_error": {"logits": "real:NC", "targets": "fractions:NC", **LOSS},
    "poisson_deviance": {"logits": "real:NC", "targets": "fractions:NC", **LOSS},
    "huber": {"outputs": "real:NC", "targets": "rows:NC", "delta": "number", **LOSS},
    "quantile": {"outputs": "real:NC", "targets": "rows:NC", "tau": "number", **LOSS},
    "linear_softmax_cross_entropy": {
        "inputs": "real:NI", "weight": "real:IC", **SOFTMAX, "bias": "maybe:C", "sample_weight": "weights:N", **MORE,
        "reduction": "word", "max_memory": "number", "n_threads": "number",
    },
    **dict.fromkeys((*ACTIVATIONS, "softmax", "log_softmax"), MAP),
    "logsumexp": {"x": "real:NC", "n_threads": "number"},
    "activation_backward": {"name": "word", "grad": "real:NC", "a": "outputs:NC", "out": "out:NC", "n_threads": "number"},
    "softmax_backward": {"grad": "real:NC", "y": "fractions_like:NC", "out": "out:NC", "n_threads": "number"},
    "linear": {
        "x": "real:NI", "weight": "real:IC", "bias": "maybe:C", "activation": "word", "out": "out:NC", "n_threads": "number",
    },
    "linear_backward_input": {
        "delta": "real:NC", "weight": "real:IC", "activation": "word", "a": "outputs:NI", "out": "out:NI", "n_threads": "number",
    },
    "linear_backward_weight": {
        "a_prev": "real:NI", "delta": "real:NC", "out": "out:IC", "bias_out": "out:C", "n_threads": "number",
    },
}  # fmt: skip
"""By function and argument what it has to be, and its axes: N examples, I inputs, C classes or outputs."""

USUAL: dict[str, tuple[Any, ...]] = {
    "label_smoothing": (0.0, 0.1, 1.0, 0, np.float32(0.25)),
    "lse_square_scale": (0.0, 0.01, 1),
    "softcap": (None, 30.0, 2),
    "delta": (1.0, 0.5, 3),
    "tau": (0.5, 0.05, np.float32(0.75)),
    "max_memory": (2**17, 2**20, 2**26, 2**70),
    "n_threads": (None, 1, 2, 3, np.int64(2), 2**70),
    "reduction": ("mean", "sum", "none"),
    "name": ACTIVATIONS,
    "activation": ACTIVATIONS,
}
FUSED = (
    "linear_softmax_cross_entropy",
    "linear_backward_weight",
)  # whose outputs are small, however many examples there are
IN_PLACE = {"grad_out": ("logits", "outputs"), "out": ("x", "grad")}


class Call:
    """A function and its arguments; which of these are good."""

    def __init__(self, draw: Draw, name: str) -> None:
        self.name, self.function, self.kinds = name, getattr(fastbp, name), FUNCTIONS[name]
        self.sizes = {letter: draw.size() for letter in "NIC"}
        if self.sizes["C"] == 0 and "softmax" in name:
            self.sizes["C"] = 1
        self.dtype = draw.one_of((np.float32, np.float64))
        self.arguments: dict[str, Any] = {}
        self.draw_good(draw)
        self.spoiled = {draw.one_of(list(self.kinds)) for _ in range(draw.one_of((0, 0, 1, 1, 2, 3)))}
        for argument in self.spoiled:
            self.arguments[argument] = self.spoil(draw, argument)

    def draw_good(self, draw: Draw) -> None:
        for argument, kind in self.kinds.items():
            what, _, letters = kind.partition(":")
            shape = tuple(self.sizes[letter] for letter in letters)
            value = self.good(draw, argument, what, shape)
            if value is not self:
                self.arguments[argument] = value
        if self.arguments.get("activation", "identity") == "identity" and "delta" in self.kinds:
            self.arguments.pop("a", None)  # then the slope is 1

    def good(self, draw: Draw, argument: str, what: str, shape: tuple[int, ...]) -> Any:
        """A good value of an argument; the call itself to leave it out."""
        if what == "real" or (what == "maybe" and draw.once_in(2)):
            return draw.laid_out(draw.real(shape, self.dtype))
        if what in ("outputs", "fractions_like"):
            return draw.laid_out(draw.fractions(shape, self.dtype))
        if what in ("rows", "fractions"):
            dtype = draw.one_of(REALS)
            if draw.once_in(8):
                return draw.one_of((0, 1, 0.5, True, np.float32(0.25)))
            usual = draw.fractions if what == "fractions" or np.dtype(dtype).kind in "ub" else draw.real
            return draw.laid_out(usual(shape, dtype))
        if what == "weights" and draw.once_in(3):
            return draw.laid_out(draw.fractions(shape, draw.one_of(REALS)))
        if what == "classes":
            rows = draw.once_in(3)
            return draw.laid_out(
                draw.fractions((self.sizes["N"], self.sizes["C"]), "f4") if rows else self.labels(draw)
            )
        if what == "out" and draw.once_in(2):
            like = f"real:{self.kinds[argument].partition(':')[2]}"
            source = next((name for name in IN_PLACE.get(argument, ()) if self.kinds.get(name) == like), None)
            if source and draw.once_in(3):  # in place
                self.arguments[source] = draw.output(shape, self.dtype)
                self.arguments[source][...] = draw.real(shape, self.dtype)
                return self.arguments[source]
            return draw.output(shape, self.dtype)
        if argument in ("name", "activation"):
            return draw.one_of(USUAL[argument])
        if what in ("number", "word") and draw.once_in(3) and argument in USUAL:
            return draw.one_of(USUAL[argument])
        return self

    def labels(self, draw: Draw) -> Array:
        labels = draw.labels(self.sizes["N"], self.sizes["C"])
        if draw.once_in(3):
            ignored = int(draw.one_of((0, 1, -1, -100, 2**62)))
            self.arguments["ignore_index"] = ignored
            if np.iinfo(labels.dtype).min <= ignored <= np.iinfo(labels.dtype).max:
                labels = np.where(draw.generator().random(len(labels)) < 0.3, ignored, labels).astype(
                    labels.dtype
                )
        return labels

    def spoil(self, draw: Draw, argument: str) -> Any:
        what = self.kinds[argument].partition(":")[0]
        value = self.arguments.get(argument)
        if what == "number":
            return draw.one_of(NUMBERS)
        if what == "word":
            return draw.one_of(WORDS)
        if what != "out" or not isinstance(value, np.ndarray):
            return draw.spoiled(value)
        inputs = [
            name for name, kind in self.kinds.items() if not kind.startswith(("out:", "number", "word"))
        ]
        inputs = [name for name in inputs if isinstance(self.arguments.get(name), np.ndarray)]
        source = draw.one_of(inputs) if inputs else ""
        given = draw.spoiled_output(value, [self.arguments[source]] if source else [])
        if isinstance(given, Pair):
            self.arguments[source] = given.source
            return given.out
        return given

    def check(self) -> str:
        """How the call ended, in a word; AssertionError if it did not keep what is promised."""
        return check(self)

    def __str__(self) -> str:
        return f"fastbp.{self.name}({', '.join(f'{name}={shown(value)}' for name, value in self.arguments.items())})"


def shown(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)[:200]
    text = f"{type(value).__name__} {value.dtype.str} {value.shape} strides {value.strides}"
    return f"<{text}{' of ' + str(value.tolist())[:300] if value.size < 100 else ''}>"


# -- what is promised ----------------------------------------------------------------------------------------------------------


class TooLong(Exception):
    """What no machine has the memory for went on for a while, and a signal ended it."""


EXACT = dict.fromkeys(("loss", "losses", "out", "grad_weight", "grad_bias"), Bound(0.0, 0.0))
"""What is computed from nothing."""

NAMED = re.compile(r"([A-Za-z_]\w*): ")


def named(error: Exception, allowed: Any) -> bool:
    """Whether the message begins with the name of an argument."""
    found = NAMED.match(str(error))
    return found is not None and found[1] in allowed


def check(call: Call) -> str:
    """How a call ended, in a word; AssertionError if it did not keep what is promised."""
    before = contents(call.arguments)
    huge = any(isinstance(value, np.ndarray) and value.size > 2**27 for value in call.arguments.values())
    call.given = call.arguments if huge else {name: copied(value) for name, value in call.arguments.items()}
    try:
        if huge:
            signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
        try:
            result = call.function(**call.arguments)
        finally:
            if huge:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except (TypeError, ValueError, IndexError) as error:
        assert call.spoiled, f"good arguments were refused: {error}"
        assert named(error, call.kinds), f"no argument is named: {type(error).__name__}: {error}"
        assert contents(call.arguments) == before, f"refused, but something was written: {error}"
        return "refused"
    except MemoryError:
        assert huge or call.spoiled & {"max_memory"}, "no memory for little"
        return "no memory"
    except TooLong:
        assert huge
        return "interrupted"
    if huge:
        return "huge"
    written = [value for name, value in call.arguments.items() if call.kinds[name].startswith("out:")]
    for name, value in contents(call.arguments).items():
        given = call.arguments[name]
        if not any(isinstance(out, np.ndarray) and np.may_share_memory(given, out) for out in written):
            assert value == before[name], f"{name} was changed"
    compare(call, result)
    return "answered"


def copied(value: Any) -> Any:
    """An array as it was before the call."""
    buffers = np.ndarray, memoryview
    return (
        np.array(value) if isinstance(value, buffers) and not isinstance(value, np.ma.MaskedArray) else value
    )


def contents(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tobytes()
        if isinstance(value, np.ndarray) and value.size < 2**20 and value.dtype != object
        else None
        for name, value in arguments.items()
    }


def compare(call: Call, result: Any) -> None:
    """An answer with that to contiguous arrays, and with the twin's in float64."""
    got = results_of(result)
    dtype = got["grad" if "grad" in got else "grad_inputs" if "grad_inputs" in got else "out"].dtype.type
    inputs = plain(call, dtype)
    threads = {"n_threads": 2 if call.arguments.get("n_threads") == 1 else 1}
    again = results_of(call.function(**inputs | threads))
    assert_same_bits(SimpleNamespace(**got), SimpleNamespace(**again), "from contiguous memory")
    if "a" in call.spoiled:
        return  # no output of an activation: the slope there is any number
    wide = {name: widened(value) for name, value in inputs.items()}
    kernel, arguments, exact = twin(call, wide)
    some = (
        kernel.startswith("linear") or next(a for a in arguments.values() if isinstance(a, np.ndarray)).size
    )
    if (
        arguments.get("pos_weight") is not None
    ):  # whose sign is not checked, but by the bounds taken for granted
        arguments["pos_weight"] = np.abs(arguments["pos_weight"])
    narrow: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        known = squares_are_known(_backend.kernels, dtype)
        bounds = (
            BOUNDS[kernel](SimpleNamespace(**arguments), SimpleNamespace(**exact), known) if some else EXACT
        )
        for name in bounds.keys() & got.keys():
            want, allowed = promised(bounds[name], exact[name], np.float64 if name == "weight_sum" else dtype)
            value = np.asarray(got[name], float).reshape(want.shape)
            if not kept(
                value, want, allowed
            ).all():  # what plain NumPy in this dtype has no better is no fault
                narrow = narrow or twin(call, inputs)[2]
                want = np.where(kept(np.asarray(narrow[name], float), want, allowed), want, value)
                assert_accurate(name, value, Promise(want, allowed, 0, 1, 0), False)


def promised(bound: Bound, exact: Array, dtype: type) -> tuple[Array, Array]:
    """The exact value as this dtype has it, and the error allowed. Where the terms of a sum overflow, anything may come out."""
    limits, exact = np.finfo(dtype), np.asarray(exact, float)
    want = np.where(np.abs(exact) > limits.max, np.copysign(np.inf, exact), exact)
    allowed = limits.eps * bound.magnitude * bound.coefficient + bound.underflow * limits.smallest_subnormal
    allowed = (1 + (dtype is np.float64)) * allowed  # the twin in float64 is no more exact than that
    return want, np.broadcast_to(np.where(bound.magnitude > limits.max, np.inf, allowed), want.shape)


def kept(value: Array, want: Array, allowed: Array) -> Array:
    error = error_of(value, want)
    return (error <= allowed) | (error == 0)


def results_of(result: Any) -> dict[str, Array]:
    """By the names of the kernels."""
    if isinstance(result, fastbp.WeightGrad):
        return {"out": result.weight, "bias_out": result.bias}
    if not isinstance(result, tuple):
        return {"out": np.asarray(result)}
    named = {name: np.asarray(value) for name, value in result._asdict().items() if value is not None}
    if named["loss"].ndim:
        named["losses"] = named.pop("loss")
    return named


def plain(call: Call, dtype: type) -> dict[str, Any]:
    """The inputs as contiguous arrays; targets in the dtype of the call, to which they are cast, weights in float64."""
    inputs: dict[str, Any] = {}
    for name, value in call.given.items():
        what = call.kinds[name].partition(":")[0]
        if what in ("number", "word"):
            inputs[name] = value
        elif what != "out" and value is not None:
            a = np.array(np.asarray(value), order="C")
            labels = what == "classes" and a.ndim == 1
            target = a.dtype.newbyteorder("=") if labels else np.float64 if what == "weights" else dtype
            with np.errstate(all="ignore"):
                inputs[name] = a.astype(target) if not labels or a.dtype.kind in "iub" else value
    return inputs


def widened(value: Any) -> Any:
    real = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if real else value


class Recorder:
    """The twin, which remembers the arguments of its last call."""

    kernel: str
    arguments: dict[str, Any]
    returned: Any

    def __getattr__(self, name: str) -> Any:
        function = getattr(_reference, name)
        if name in ("new_array", "first_bad_label", "softmax_cross_entropy_at_once"):
            return function

        def call(*given: Any) -> Any:
            names = inspect.signature(function).parameters
            self.kernel, self.arguments = name, dict(zip(names, given, strict=True))
            self.returned = function(*given)
            return self.returned

        return call


def twin(call: Call, inputs: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The key of the bounds of a call, the arguments of its kernel, and the twin's results by their names."""
    with _backend.use("reference"):
        recorder = Recorder()
        _backend.kernels = recorder  # type: ignore[assignment]
        result = call.function(**inputs)
    arguments = recorder.arguments
    exact = results_of(result)
    for name in exact:  # in the shapes of the kernel
        if isinstance(arguments.get(name), np.ndarray):
            exact[name] = arguments[name]
    if recorder.returned is not None:
        exact["loss"], exact["weight_sum"] = recorder.returned
    if "error" in arguments:  # whose bounds call the outputs logits, some of them
        arguments = arguments | {"logits": arguments["outputs"]}
    return arguments.get("error", recorder.kernel), arguments, exact
