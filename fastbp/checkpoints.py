"""A training on disk, whole: from its file it goes on to the same bits as if it had never stopped.

The file is one of `persistence`, of kind ``fastbp.Checkpoint``: numbers and names in the header, arrays by name beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import persistence
from fastbp.history import History

if TYPE_CHECKING:
    from fastbp.training import Run

__all__ = ["restore", "save"]

_FORMAT = "fastbp.Checkpoint"


def save(path: str | os.PathLike[str], run: Run) -> None:
    """Write the training as it is between two epochs."""
    net, optimizer = run.network, run.optimizer
    config: dict[str, Any] = {
        "network": net._description(),
        "optimizer": type(optimizer).__name__,
        "steps": optimizer.steps,
        "learning_rate": None if callable(optimizer.learning_rate) else optimizer.learning_rate,
        "epoch": run.epoch,
        "best_epoch": run.history.best_epoch,
        "generator": run.generator.bit_generator.state,
        "start": run.start,
        "callbacks": [],
    }
    arrays = {"parameters": net.parameters.copy()}
    for name, vector in optimizer.state(net.parameters).items():
        arrays[f"optimizer.{name}"] = vector
    for name, values in run.history.columns().items():
        arrays[f"history.{name}"] = np.array(values, np.float64)
    for number, callback in enumerate(run.callbacks):
        state = callback.get_state() if hasattr(callback, "get_state") else {}
        numbers = {name: value for name, value in state.items() if isinstance(value, (float, np.ndarray))}
        others = {name: value for name, value in state.items() if name not in numbers}
        config["callbacks"].append({"kind": type(callback).__name__, "state": others})
        arrays |= {f"callbacks.{number}.{name}": np.asarray(value) for name, value in numbers.items()}
    persistence.write(path, _FORMAT, config, arrays)


def first_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state that the generator had before the validation set was drawn."""
    start = persistence.read(path, _FORMAT)[0].get("start")
    if not isinstance(start, dict):
        raise persistence.bad_file(path, _FORMAT, "a damaged checkpoint")
    return start


def restore(path: str | os.PathLike[str], run: Run) -> None:
    """Put a training that has just begun where the file's is: all of it, or nothing."""
    config, arrays = persistence.read(path, _FORMAT)
    net, optimizer = run.network, run.optimizer
    kinds = [type(callback).__name__ for callback in run.callbacks]
    try:
        saved = [each["kind"] for each in config["callbacks"]]
        described = {"network": config["network"], "optimizer": config["optimizer"], "callbacks": saved}
        optimizer.reset()
        state = {f"optimizer.{name}": vector for name, vector in optimizer.state(net.parameters).items()}
        vectors = {"parameters": net.parameters, **state}
        read = {name: _like(vector, arrays[name]) for name, vector in vectors.items()}
        history = History(**_history(arrays), best_epoch=config["best_epoch"])
        generator = np.random.default_rng(0)
        generator.bit_generator.state = config["generator"]
        states = [_state(number, each["state"], arrays) for number, each in enumerate(config["callbacks"])]
        rates = {} if config["learning_rate"] is None else {"learning_rate": float(config["learning_rate"])}
        steps, epoch = int(config["steps"]), int(config["epoch"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise persistence.bad_file(path, _FORMAT, f"a damaged checkpoint ({cause!s:.300})") from cause
    ours = {"network": net._description(), "optimizer": type(optimizer).__name__, "callbacks": kinds}
    for name, expected in ours.items():
        if described[name] != expected:
            got = f"{os.fspath(path)!r}, whose {name} is {described[name]}"
            raise ValueError(f"resume: got {got}, expected {expected}")
    for name, vector in vectors.items():
        vector[:] = read[name]
    optimizer.steps, run.epoch, run.history = steps, epoch, history
    for name, rate in rates.items():
        setattr(optimizer, name, rate)
    run.generator.bit_generator.state = generator.bit_generator.state
    for callback, each in zip(run.callbacks, states, strict=True):
        if hasattr(callback, "set_state"):
            callback.set_state(each)


def _like(vector: np.ndarray, array: np.ndarray) -> np.ndarray:
    if (array.shape, array.dtype) != (vector.shape, vector.dtype):
        raise ValueError(f"{array.dtype} {array.shape} for {vector.dtype} {vector.shape}")
    return array


def _history(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    start = "history."
    return {
        name.removeprefix(start): array.tolist() for name, array in arrays.items() if name.startswith(start)
    }


def _state(number: int, others: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a callback had said of its state."""
    start = f"callbacks.{number}."
    kept = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
    return others | {name: array if array.ndim else array.item() for name, array in kept.items()}
