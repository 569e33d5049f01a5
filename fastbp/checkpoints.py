"""A training on disk, whole: from its file it goes on to the same bits as if it had never stopped.

The file is one of `persistence`, of kind ``fastbp.Checkpoint``: numbers and names in the header, arrays by name beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks, persistence
from fastbp.history import History

if TYPE_CHECKING:
    from fastbp.lbfgs import LBFGS
    from fastbp.optimizers import Optimizer
    from fastbp.training import Run

__all__ = ["Saved", "compare", "read", "restore", "save"]

_FORMAT = "fastbp.Checkpoint"


def save(path: str | os.PathLike[str], run: Run) -> None:
    """Write the training as it is between two epochs."""
    if run.epoch != run.done:
        raise RuntimeError("save: got a call within an epoch, expected one at its end")
    if run.rank:  # one file for all
        return
    net, optimizer = run.network, run.optimizer
    config: dict[str, Any] = {
        **_identity(net._description(), optimizer, run.callbacks),
        "steps": optimizer.steps,
        "learning_rate": None if callable(optimizer.learning_rate) else float(optimizer.learning_rate),
        "epoch": run.epoch,
        "best_epoch": run.history.best_epoch,
        "generator": run.generator.bit_generator.state,
        "start": run.start,
        "states": [],
    }
    arrays = {"parameters": net.parameters.copy()}
    for name, vector in optimizer.state(net.parameters).items():
        arrays[f"optimizer.{name}"] = vector
    for name, values in run.history.columns().items():
        arrays[f"history.{name}"] = np.array(values, np.float64)
    for number, callback in enumerate(run.callbacks):
        state = callback.get_state() if hasattr(callback, "get_state") else {}
        numbers = {name: value for name, value in state.items() if isinstance(value, (float, np.ndarray))}
        config["states"].append({name: value for name, value in state.items() if name not in numbers})
        arrays |= {f"callbacks.{number}.{name}": np.asarray(value) for name, value in numbers.items()}
    persistence.write(path, _FORMAT, config, arrays)


def _identity(
    network: dict[str, Any], optimizer: Optimizer | LBFGS, callbacks: tuple[Any, ...]
) -> dict[str, Any]:
    """What has to be the same in the training that goes on."""
    return {
        "network": network,
        "optimizer": type(optimizer).__name__,
        "schedule": callable(optimizer.learning_rate),
        "callbacks": [type(callback).__name__ for callback in callbacks],
    }


@dataclass
class Saved:
    """What a file says, whole and of the right kinds."""

    path: str
    identity: dict[str, Any]
    start: dict[str, Any]
    generator: dict[str, Any]
    epoch: int
    steps: int
    learning_rate: float | None
    history: History
    vectors: dict[str, np.ndarray]
    """``parameters``, and ``optimizer.`` and the name of each vector of its state."""
    states: list[dict[str, Any]]
    """Of the callbacks."""


def read(path: str | os.PathLike[str]) -> Saved:
    """What :func:`save` wrote to `path`."""
    path = _checks.path("resume", path)
    config, arrays = persistence.read(path, _FORMAT)
    try:
        epoch = _checks.integer("epoch", config["epoch"], 0, _checks.INT64_MAX, "an integer >= 0")
        rate, states = config["learning_rate"], config["states"]
        if len(states) != len(config["callbacks"]):
            raise ValueError(f"{len(states)} states of callbacks")
        return Saved(
            os.fspath(path),
            {name: config[name] for name in ("network", "optimizer", "schedule", "callbacks")},
            _generator_state(config["start"]),
            _generator_state(config["generator"]),
            epoch,
            _checks.optimizers.steps(config["steps"]),
            None if rate is None else _checks.number("learning_rate", rate, _checks.NOT_NEGATIVE),
            _history(_under("history.", arrays), epoch, config["best_epoch"]),
            {name: array for name, array in arrays.items() if name.startswith(("parameters", "optimizer."))},
            [
                {**state, **_numbers(_under(f"callbacks.{number}.", arrays))}
                for number, state in enumerate(states)
            ],
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise _damaged(path, cause) from cause


def compare(
    saved: Saved, network: dict[str, Any], optimizer: Optimizer | LBFGS, callbacks: tuple[Any, ...]
) -> None:
    """Refuse to go on with something else than what was saved."""
    for name, expected in _identity(network, optimizer, callbacks).items():
        if saved.identity[name] != expected:
            got = f"{saved.path!r}, whose {name} is {saved.identity[name]!s:.300}"
            raise ValueError(f"resume: got {got}, expected {expected}")


def restore(saved: Saved, run: Run) -> None:
    """Put a training that has just begun where the file's is: all of it, or nothing."""
    net, optimizer = run.network, run.optimizer
    state = _vectors(net.parameters, optimizer)
    if saved.vectors.keys() != state.keys():
        got, expected = (", ".join(sorted(each)) for each in (saved.vectors, state))
        raise ValueError(f"resume: got {saved.path!r} with {got:.300}, expected {expected}")
    lists = saved.history.columns().keys()
    if saved.epoch and lists != set(run.lists):
        got, expected = ", ".join(sorted(lists)), ", ".join(sorted(run.lists))
        raise ValueError(f"resume: got {saved.path!r} with a history of {got}, expected {expected}")
    best = [state.get("best_parameters") for state in saved.states]  # of EarlyStopping
    arrays = [("best_parameters", each) for each in best if isinstance(each, np.ndarray)]
    for name, vector in [*saved.vectors.items(), *arrays]:
        if (vector.shape, vector.dtype) != (net.parameters.shape, net.parameters.dtype):
            raise _damaged(saved.path, f"{name}: {vector.dtype} {vector.shape}")
    try:
        for callback, kept in zip(run.callbacks, saved.states, strict=True):
            if hasattr(callback, "set_state"):
                callback.set_state(kept)
    except (KeyError, TypeError, ValueError) as cause:
        raise _damaged(saved.path, cause) from cause
    optimizer.reset()
    for name, vector in _vectors(net.parameters, optimizer).items():
        vector[:] = saved.vectors[name]
    optimizer.steps = saved.steps
    if saved.learning_rate is not None:
        optimizer.learning_rate = saved.learning_rate
    run.epoch = run.done = saved.epoch
    run.history = saved.history
    run.generator.bit_generator.state = saved.generator


def _damaged(path: str | os.PathLike[str], cause: object) -> ValueError:
    return persistence.bad_file(path, _FORMAT, f"a damaged checkpoint ({cause!s:.300})")


def _vectors(parameters: np.ndarray, optimizer: Optimizer) -> dict[str, np.ndarray]:
    state = optimizer.state(parameters)
    return {"parameters": parameters} | {f"optimizer.{name}": vector for name, vector in state.items()}


def _under(start: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those whose names begin so, by the rest of their names."""
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _generator_state(state: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    generator.bit_generator.state = state
    return dict(generator.bit_generator.state)


def _history(arrays: dict[str, np.ndarray], epoch: int, best_epoch: Any) -> History:
    lists = {name for name, value in vars(History()).items() if isinstance(value, list)}
    if not arrays.keys() <= lists or any(array.shape != (epoch,) for array in arrays.values()):
        raise ValueError(f"a history that is not of {epoch} epochs")
    history = History(**{name: array.astype(np.float64).tolist() for name, array in arrays.items()})
    if best_epoch is not None:
        history.best_epoch = _checks.integer("best_epoch", best_epoch, 1, epoch, "an epoch")
    return history


def _numbers(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a callback had as numbers and arrays."""
    return {name: array if array.ndim else array.item() for name, array in arrays.items()}
