"""A training on disk, whole: from its file it goes on to the same bits as if it had never stopped.

The file is one of `persistence`, of kind ``fastbp.Checkpoint``: numbers and names in the header, arrays by name beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _checks, persistence
from fastbp.callbacks import EarlyStopping
from fastbp.history import History
from fastbp.lbfgs import LBFGS

if TYPE_CHECKING:
    from fastbp.optimizers import Optimizer
    from fastbp.training import Run

__all__ = ["Saved", "compare", "read", "restore", "save"]

_FORMAT = "fastbp.Checkpoint"


def save(path: str | os.PathLike[str], run: Run) -> None:
    """Write the training as it is between two epochs."""
    _checks.training.for_checkpoint(isinstance(run.optimizer, LBFGS), run.epoch != run.done, run.over)
    if run.rank:  # one file for all
        return
    net, optimizer = run.network, run.optimizer
    config: dict[str, Any] = {
        **_identity(net._description(), optimizer, run.callbacks),
        "steps": optimizer.steps,
        "rates": {name: None if callable(rate) else rate for name, rate in _rates_of(optimizer).items()},
        "epoch": run.epoch,
        "best_epoch": run.history.best_epoch,
        "generator": run.generator.bit_generator.state if run.epoch else run.drawn,
        "start": run.start,
        "states": [],
    }
    arrays = {"parameters": net.parameters.copy()}
    for name, vector in optimizer.state(net.parameters).items():
        arrays[f"optimizer.{name}"] = vector
    for name, values in run.history.columns().items():
        arrays[f"history.{name}"] = np.array(values, np.float64)
    for number, callback in enumerate(run.callbacks):
        state = _state_of(callback)
        numbers = {name: value for name, value in state.items() if isinstance(value, (float, np.ndarray))}
        config["states"].append({name: value for name, value in state.items() if name not in numbers})
        arrays |= {f"callbacks.{number}.{name}": np.asarray(value) for name, value in numbers.items()}
    persistence.write(path, _FORMAT, config, arrays)


def _rates_of(optimizer: Optimizer | LBFGS) -> dict[str, Any]:
    """Each a function, or a number as JSON has it."""
    names = () if isinstance(optimizer, LBFGS) else optimizer.rates
    given = {name: getattr(optimizer, name) for name in names}
    return {
        name: rate if callable(rate) or isinstance(rate, bool) else float(rate)
        for name, rate in given.items()
    }


def _state_of(callback: Any) -> dict[str, Any]:
    """What a callback wants to be kept: by names that arrays may have, arrays of numbers or what JSON can say."""
    if not hasattr(callback, "get_state"):
        return {}
    state = {}
    for name, value in callback.get_state().items():
        kept = value.item() if isinstance(value, np.generic) else value
        _checks.training.kept(f"{type(callback).__name__}.get_state", name, kept)
        state[name] = kept
    return state


def _identity(
    network: dict[str, Any], optimizer: Optimizer | LBFGS, callbacks: tuple[Any, ...]
) -> dict[str, Any]:
    """What has to be the same in the training that goes on."""
    return {
        "network": network,
        "optimizer": type(optimizer).__name__,
        "schedules": [name for name, rate in _rates_of(optimizer).items() if callable(rate)],
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
    rates: dict[str, Any]
    """Those of the optimizer, which are still to be checked; None for a schedule."""
    history: History
    vectors: dict[str, np.ndarray]
    """``parameters``, and ``optimizer.`` and the name of each vector of its state."""
    states: list[dict[str, Any]]
    """Of the callbacks."""


def read(path: str | os.PathLike[str]) -> Saved:
    """What :func:`save` wrote to `path`."""
    path = _checks.path("resume", path)
    try:
        config, arrays = persistence.read(path, _FORMAT)
    except ValueError as cause:
        raise ValueError(f"resume{str(cause).removeprefix('path')}") from cause
    try:
        epoch = _checks.integer("epoch", config["epoch"], 0, _checks.INT64_MAX, "an integer >= 0")
        states = config["states"]
        if len(states) != len(config["callbacks"]):
            raise ValueError(f"{len(states)} states of callbacks")
        return Saved(
            os.fspath(path),
            {name: config[name] for name in ("network", "optimizer", "schedules", "callbacks")},
            _generator_state(config["start"]),
            _generator_state(config["generator"]),
            epoch,
            _checks.optimizers.steps(config["steps"]),
            dict(config["rates"]),
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
    before = {name: getattr(optimizer, name) for name in optimizer.rates}
    try:
        _restore_rates(saved, optimizer)
        _compare_arrays(saved, run)
        _restore_states(saved, run.callbacks)
    except BaseException:
        for name, rate in before.items():
            setattr(optimizer, name, rate)
        raise
    optimizer.reset()
    for name, vector in _vectors(net.parameters, optimizer).items():
        vector[:] = saved.vectors[name]
    optimizer.steps = saved.steps
    run.epoch = run.done = saved.epoch
    run.history = saved.history
    run.generator.bit_generator.state = saved.generator


def _restore_rates(saved: Saved, optimizer: Optimizer) -> None:
    """Set the rates, on which it depends what else there is."""
    try:
        if saved.rates.keys() != optimizer.rates.keys():
            raise ValueError(f"the rates {', '.join(saved.rates)}")
        for name, check in optimizer.rates.items():
            if saved.rates[name] is not None:
                check(name, saved.rates[name], None)
                setattr(optimizer, name, saved.rates[name])
    except (TypeError, ValueError) as cause:
        raise _damaged(saved.path, cause) from cause


def _restore_states(saved: Saved, callbacks: tuple[Any, ...]) -> None:
    try:
        for callback, kept in zip(callbacks, saved.states, strict=True):
            if hasattr(callback, "set_state"):
                callback.set_state(kept)
    except (KeyError, TypeError, ValueError) as cause:
        raise _damaged(saved.path, cause) from cause


def _compare_arrays(saved: Saved, run: Run) -> None:
    """Refuse arrays that are not those of this training."""
    net, optimizer = run.network, run.optimizer
    state = _vectors(net.parameters, optimizer)
    if saved.vectors.keys() != state.keys():
        got, expected = (", ".join(sorted(each)) for each in (saved.vectors, state))
        raise ValueError(f"resume: got {saved.path!r} with {got:.300}, expected {expected}")
    lists = saved.history.columns().keys()
    if saved.epoch and lists != set(run.lists):
        got, expected = ", ".join(sorted(lists)), ", ".join(sorted(run.lists))
        raise ValueError(f"resume: got {saved.path!r} with a history of {got}, expected {expected}")
    states = zip(run.callbacks, saved.states, strict=True)
    best = [kept.get("best_parameters") for callback, kept in states if isinstance(callback, EarlyStopping)]
    arrays = [("best_parameters", each) for each in best if isinstance(each, np.ndarray)]
    for name, vector in [*saved.vectors.items(), *arrays]:
        if (vector.shape, vector.dtype) != (net.parameters.shape, net.parameters.dtype):
            raise _damaged(saved.path, f"{name}: {vector.dtype} {vector.shape}")


def _damaged(path: str | os.PathLike[str], cause: object) -> ValueError:
    error = persistence.bad_file(path, _FORMAT, f"a damaged checkpoint ({cause!s:.300})")
    return ValueError(f"resume{str(error).removeprefix('path')}")


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
