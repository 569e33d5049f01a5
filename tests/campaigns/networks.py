"""Random networks, their methods, optimizers and what else is made from numbers and words, each held against its promises.

What is refused leaves network, optimizer and arrays as they were. A method gives the same bits on a copy of the network with
another number of threads, from contiguous arrays; outputs, error and gradient are within the bounds of the twin in float64, and
so are parameters and states after an update.
"""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
from conftest import Promise, assert_accurate, assert_same_bits
from tolerances import ACTIVATIONS, BOUNDS, SQUARES

import fastbp
from fastbp import _backend, callbacks, objectives, schedules
from fastbp.optimizers import OPTIMIZERS
from fastbp.outputs import LOSSES

from .arguments import FOLDER, NUMBERS, REALS, WORDS, Draw
from .calls import contents, copied, kept, named, promised, shown

Array = np.ndarray
RATES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (0.1, 0, 1e-3, np.float32(0.5)),
    "weight_decay": (0.0, 0.01),
    "momentum": (0.9, 0.5),
    "nesterov": (False, True),
    "beta_1": (0.9, 0.0),
    "beta_2": (0.999, 0.5),
    "alpha": (0.99, 0.5),
    "epsilon": (1e-8, 0.1),
    "centered": (False, True),
    "amsgrad": (False, True),
    "average": (None, 0.9),
    "decay_biases": (False, True),
    "ns_steps": (1, 5),
    "adjust_lr_fn": ("original", "match_rms_adamw"),
}
NETWORK: dict[str, tuple[Any, ...]] = {
    "activation": ACTIVATIONS,
    "dropout": (0.0, 0.0, 0.5),
    "loss": tuple(LOSSES),
    "dtype": ("float32", "float64", np.float64),
    "seed": (0, 2**63),
    "n_threads": (None, 1, 2),
    "precision": (None, "highest"),
    "init": ("auto", "zeros", "he_normal"),
}
OTHERS = {
    f"{room.__name__.partition('.')[2]}.{name}": getattr(room, name)
    for room, names in (
        (schedules, schedules.__all__),
        (callbacks, ("EarlyStopping", "ReduceOnPlateau", "Checkpoint")),
        (objectives, ("xgboost_softmax", "xgboost_logistic", "lightgbm_softmax", "lightgbm_logistic")),
        (fastbp, ("LBFGS", "set_precision")),
    )
    for name in names
}


def chosen(draw: Draw, parameters: Any, usual: dict[str, tuple[Any, ...]], often: int = 2) -> dict[str, Any]:
    """Some of these parameters, with usual values."""
    return {name: draw.one_of(usual[name]) for name in parameters if name in usual and draw.once_in(often)}


def spoil(draw: Draw, arguments: dict[str, Any], names: Any) -> set[str]:
    """Up to two of these arguments get any value at all; which."""
    some = {draw.one_of(list(names)) for _ in range(draw.one_of((0, 0, 1, 2)))}
    for name in some:
        given = arguments.get(name)
        arguments[name] = (
            draw.spoiled(given) if isinstance(given, np.ndarray) else draw.one_of((*NUMBERS, *WORDS))
        )
    return some


class Other:
    """A function or class that takes numbers and words alone."""

    def __init__(self, draw: Draw, name: str) -> None:
        self.name, self.function = name, OTHERS[name]
        self.arguments: dict[str, Any] = {}
        parameters = inspect.signature(self.function).parameters
        for each, parameter in parameters.items():
            if each == "path":
                self.arguments[each] = f"{FOLDER.name}/checkpoint"
            elif parameter.default is inspect.Parameter.empty or draw.once_in(3):
                self.arguments[each] = draw.one_of((0.1, 1, 5, "high"))
        spoil(draw, self.arguments, parameters)
        self.allowed = {*parameters, "rate", "steps"}

    def check(self) -> str:
        precision = fastbp.get_precision()
        try:
            made = self.function(**self.arguments)
            for step in (0, 1, 7, 2**62) if self.name.startswith("schedules") else ():
                made(step)
        except (TypeError, ValueError) as error:
            assert named(error, self.allowed), f"no argument is named: {type(error).__name__}: {error}"
            return "refused"
        except OSError:
            return "refused"
        finally:
            fastbp.set_precision(precision)
        return "answered"

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={shown(value)}' for name, value in self.arguments.items())})"


class Update:
    """An optimizer's update of a vector, after some others."""

    def __init__(self, draw: Draw, name: str) -> None:
        self.kind = getattr(fastbp, name)
        n, dtype = draw.size(), draw.one_of((np.float32, np.float64))
        parameters = inspect.signature(self.kind).parameters
        self.rates = chosen(draw, parameters, RATES)
        if self.rates.get("nesterov") and "momentum" not in self.rates and "beta_1" not in parameters:
            self.rates["momentum"] = 0.9
        self.arguments = {
            "parameters": draw.real((n,), dtype),
            "gradient": draw.laid_out(draw.real((n,), dtype)),
        }
        self.arguments |= {"n_threads": draw.one_of((None, 1, 2))}
        self.steps = draw.one_of((0, 1, 2))
        self.spoiled = spoil(draw, self.rates, parameters) | spoil(draw, self.arguments, self.arguments)
        self.before: dict[str, Any] = {}

    def check(self) -> str:
        allowed = {
            *self.rates,
            *inspect.signature(self.kind).parameters,
            "parameters",
            "gradient",
            "n_threads",
        }
        before, optimizer = contents(self.arguments), None
        try:
            optimizer = self.kind(**self.rates)
            self.earlier(optimizer)
            steps = optimizer.steps
            given = {name: copied(value) for name, value in self.arguments.items()}
            states = {name: vector.copy() for name, vector in optimizer._vectors.items()}
            optimizer.update(**self.arguments)
        except (TypeError, ValueError) as error:
            assert self.spoiled, f"good arguments were refused: {error}"
            assert named(error, allowed), f"no argument is named: {type(error).__name__}: {error}"
            assert contents(self.arguments) == before, f"refused, but something was written: {error}"
            assert optimizer is None or optimizer.steps <= self.steps
            return "refused"
        except MemoryError:
            assert self.spoiled
            return "no memory"
        assert optimizer.steps == steps + 1
        self.compare(optimizer, given, states, steps)
        return "answered"

    def earlier(self, optimizer: Any) -> None:
        """Updates before, so that there is a state; they leave the parameters as they were."""
        w = self.arguments["parameters"]
        if (
            type(w) is not np.ndarray
            or w.ndim != 1
            or w.dtype not in (np.float32, np.float64)
            or not w.flags.carray
        ):
            return
        start = w.copy()
        for _ in range(self.steps):
            optimizer.update(w, np.linspace(-2, 2, w.size, dtype=w.dtype))
        w[:] = start

    def compare(self, optimizer: Any, given: dict[str, Any], states: dict[str, Array], steps: int) -> None:
        w = self.arguments["parameters"]
        wide = copy.deepcopy(optimizer)
        wide.steps = steps
        exact, gradient = given["parameters"].astype(float), np.array(np.asarray(given["gradient"]), float)
        with np.errstate(all="ignore"):
            wide._vectors = {name: vector.astype(float) for name, vector in states.items()}
            before = {name: vector.copy() for name, vector in wide._vectors.items()}
            with _backend.use("reference"):
                wide.update(exact, gradient)
            needed = dict.fromkeys((*optimizer.vectors, "average"))
            start = {
                name: np.zeros_like(exact) if name != "average" else given["parameters"].astype(float)
                for name in needed
            }
            needed |= {name: before.get(name, start[name]) for name in wide._state}
            rates = dict(zip(self.kind.rates, optimizer.hyper_parameters(), strict=True))
            options = {name: getattr(optimizer, name) for name in self.kind.options}
            a = {
                "parameters": given["parameters"].astype(float),
                "gradient": gradient,
                "kept": optimizer.average,
            }
            a |= needed | rates | options | {"step": steps + 1}
            after = {**wide._state, "parameters": exact}
            bounds = BOUNDS[self.kind.__name__.lower()](SimpleNamespace(**a), SimpleNamespace(**after), False)
        got = {**optimizer._state, "parameters": w}
        for name, bound in bounds.items():
            if name in got:
                with np.errstate(all="ignore"):
                    want, allowed = promised(bound, after[name], w.dtype.type)
                    value = np.asarray(got[name], float)
                    sure = (
                        np.isfinite(want)
                        & np.isfinite(allowed)
                        & (np.abs(gradient) < 1e15)
                        & (np.abs(want) < 1e30)
                    )
                    if getattr(
                        optimizer, "centered", False
                    ):  # v - m² may cancel, and the step is divided by its root
                        sure &= after["mean_square"] - after["mean"] ** 2 > after["mean_square"] / 4
                    want = np.where(sure, want, value)
                assert_accurate(name, value, Promise(want, np.where(sure, allowed, 0), 0, 1, 0), False)
        assert all(
            np.asarray(got[name]).min(initial=0) >= 0
            for name in SQUARES
            if name in got and np.isfinite(got[name]).all()
        )

    def __str__(self) -> str:
        rates = ", ".join(f"{name}={value!r}" for name, value in self.rates.items())
        arguments = ", ".join(f"{name}={shown(value)}" for name, value in self.arguments.items())
        return f"{self.kind.__name__}({rates}).update({arguments}), after {self.steps} others"


METHODS = {
    "logits": "x", "forward": "x", "predict": "X", "predict_proba": "X", "loss": "x t", "gradients": "x t", "evaluate": "X T",
    "step": "x t", "fit": "X T",
}  # fmt: skip
OF_FIT = {
    "epochs": (1, 2), "batch_size": (1, 3, 32, 2**40), "shuffle": (True, False), "class_weight": (None, "balanced"),
    "validation_fraction": (0.0, 0.5), "clip_norm": (None, 1.0), "clip_value": (None, 0.5), "time_limit": (None, 60.0),
}  # fmt: skip
ABOUT_MORE = {"monitor", "row", "learning_rate", "dropout"}


class Method:
    """A network, and one of its methods on a few examples."""

    def __init__(self, draw: Draw, name: str) -> None:
        self.name = name.partition(".")[2]
        n, sizes = (
            draw.one_of((0, 1, 2, 5, 17)),
            [draw.one_of((1, 2, 3, 17)) for _ in range(draw.one_of((2, 3, 4)))],
        )
        self.options: dict[str, Any] = {"layer_sizes": sizes, "seed": 0} | chosen(draw, NETWORK, NETWORK)
        self.spoiled = (
            spoil(draw, self.options, inspect.signature(fastbp.MLP).parameters) if draw.once_in(4) else set()
        )
        loss = self.options.get("loss")
        x, *t = METHODS[self.name].split()
        self.arguments: dict[str, Any] = {x: draw.laid_out(draw.real((n, sizes[0]), draw.one_of(REALS)))}
        for target in t:
            classes = loss is None or str(loss) == "softmax_cross_entropy"
            labels = draw.laid_out(draw.labels(n, sizes[-1]))
            rows = draw.laid_out(draw.fractions((n, sizes[-1]), draw.one_of(REALS)))
            self.arguments[target] = labels if classes and not draw.once_in(3) else rows
        if t and draw.once_in(3):
            self.arguments["sample_weight"] = draw.laid_out(draw.fractions((n,), draw.one_of(REALS)))
        if self.name in ("step", "fit"):
            kind = draw.one_of(sorted(OPTIMIZERS, key=lambda each: each.__name__))
            self.arguments["optimizer"] = kind(
                **chosen(draw, ("learning_rate", "weight_decay", "average"), RATES)
            )
        if self.name == "fit":
            self.arguments |= {"progress": False, "epochs": 1} | chosen(draw, OF_FIT, OF_FIT, 3)
        of_method = inspect.signature(getattr(fastbp.MLP, self.name)).parameters
        self.allowed = {*of_method, *inspect.signature(fastbp.MLP).parameters, *ABOUT_MORE} - {"self"}
        self.spoiled |= spoil(
            draw,
            self.arguments,
            [each for each in of_method if each not in ("self", "callbacks", "progress")],
        )
        epochs = self.arguments.get("epochs")
        if isinstance(epochs, (int, np.integer)) and epochs > 2:
            self.arguments["epochs"] = 1  # as many as one likes take as long as they take
        self.unusual = (
            {"class_weight", "validation_fraction"} & self.arguments.keys()
            or n == 0
            or self.name == "predict_proba"
        )

    def check(self) -> str:
        before, net = contents(self.arguments), None
        try:
            net = fastbp.MLP(**self.options)
            start = net.parameters.copy()
            other = copy.deepcopy(net)
            again = {name: self.again(value) for name, value in self.arguments.items()}
            result = getattr(net, self.name)(**self.arguments)
        except fastbp.DivergenceError as error:
            assert np.isfinite(net.parameters).all(), f"the last finite parameters were not kept: {error}"
            return "diverged"
        except (TypeError, ValueError) as error:
            assert self.spoiled or self.unusual or "finite" in str(error), (
                f"good arguments were refused: {error}"
            )
            assert named(error, self.allowed) or str(error).startswith(f"{self.name}: "), (
                f"no argument is named: {type(error).__name__}: {error}"
            )
            assert net is None or (net.parameters == start).all() or self.name == "fit", (
                f"refused, but trained: {error}"
            )
            assert contents(self.arguments) == before, f"refused, but something was written: {error}"
            return "refused"
        except MemoryError:
            assert self.spoiled
            return "no memory"
        except OSError:
            assert "resume" in self.spoiled
            return "refused"
        except ModuleNotFoundError as error:
            assert "pip install" in str(error)
            return "refused"
        assert contents(self.arguments) == before, "an input was changed"
        self.compare(net, other, result, again)
        return "answered"

    @staticmethod
    def again(value: Any) -> Any:
        """The same from contiguous memory."""
        return (
            np.array(value)
            if isinstance(value, np.ndarray)
            else copy.deepcopy(value)
            if hasattr(value, "steps")
            else value
        )

    def compare(self, net: fastbp.MLP, other: fastbp.MLP, result: Any, again: dict[str, Any]) -> None:
        with _threads(other):
            second = getattr(other, self.name)(**again)
        first, second = (SimpleNamespace(**numbers(each)) for each in (result, second))
        assert_same_bits(first, second, "on a copy, from contiguous memory")
        first, second = (SimpleNamespace(parameters=each.parameters) for each in (net, other))
        assert_same_bits(first, second, "of a copy, from contiguous memory")
        if self.name in ("step", "fit"):
            assert np.isfinite(net.parameters).all(), "parameters that are not finite"
        if self.name in ("logits", "gradients", "loss") and "sample_weight" not in again:
            self.compare_with_twin(net, result, again)

    def compare_with_twin(self, net: fastbp.MLP, result: Any, again: dict[str, Any]) -> None:
        """Outputs, error and gradient against the bounds of a whole network, where its layers are alike."""
        x = np.asarray(again["x"])
        with np.errstate(all="ignore"):
            x = np.asarray(x, net.dtype).astype(float)
        if (
            len(set(net.activations)) > 1
            or x.ndim != 2
            or not len(x)
            or net.label_smoothing
            or np.abs(x).max() > 1e3
        ):
            return
        with _backend.use("reference"):
            wide = fastbp.MLP(**self.options | {"dtype": "float64", "n_threads": None, "seed": 0})
            wide.parameters[:] = net.parameters
            t = again.get(
                "t",
                np.zeros(len(x), int) if net.loss_name == "softmax_cross_entropy" else np.zeros((len(x), 1)),
            )
            t = (
                np.asarray(t)
                if "t" in again
                else np.broadcast_to(t, (len(x),) if t.ndim == 1 else (len(x), net.layer_sizes[-1]))
            )
            if t.dtype.kind == "f":
                t = t.astype(net.dtype).astype(float)
            exact = {"logits": wide.logits(x)} | dict(
                zip(("loss", "gradient"), _flat(wide.gradients(x, t)), strict=True)
            )
        if not all(np.isfinite(each).all() for each in exact.values()):
            return
        t = t if net.loss_name == "softmax_cross_entropy" and t.ndim == 1 else t.reshape(len(x), -1)
        a = {"layer_sizes": net.layer_sizes, "parameters": wide.parameters, "x": x, "loss": net.loss_name}
        a |= {"activation": net._only_activation() if not net.activations else net.activations[0]}
        a |= {"targets": t.astype(int) if t.ndim == 1 else t.astype(float)}
        with np.errstate(all="ignore"):
            bounds = BOUNDS["network"](SimpleNamespace(**a), SimpleNamespace(), False)
        got = {"logits": {"logits": result}, "loss": {"loss": result}}.get(self.name) or dict(
            zip(("loss", "gradient"), _flat(result), strict=True)
        )
        for name, value in got.items():
            want, allowed = promised(bounds[name], exact[name], net.dtype.type)
            value = np.asarray(value, float)
            if not kept(value, want, allowed).all() and np.isfinite(allowed).all():
                assert_accurate(name, value, Promise(want, allowed, 0, 1, 0), False)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        arguments = ", ".join(f"{name}={shown(value)}" for name, value in self.arguments.items())
        return f"fastbp.MLP({options}).{self.name}({arguments})"


def _threads(net: fastbp.MLP) -> Any:
    """Every call inside takes one thread."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1)


def _flat(gradients: fastbp.Gradients) -> tuple[float, Array]:
    return gradients.loss, gradients.flat


def numbers(result: Any) -> dict[str, Array]:
    if isinstance(result, fastbp.History):
        return {name: np.array(value) for name, value in result.columns().items() if name != "seconds"}
    if isinstance(result, fastbp.Gradients):
        return {"loss": np.array(result.loss), "gradient": result.flat}
    return {
        name: np.array(value)
        for name, value in (result if isinstance(result, dict) else {"": result}).items()
    }


MAKERS: dict[str, Any] = {
    **dict.fromkeys(OTHERS, Other),
    **dict.fromkeys((kind.__name__ for kind in sorted(OPTIMIZERS, key=lambda each: each.__name__)), Update),
    **dict.fromkeys((f"MLP.{name}" for name in METHODS), Method),
}
