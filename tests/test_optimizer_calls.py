"""The optimizers as a caller sees them: their rates, the state that they keep, and what they refuse."""

from __future__ import annotations

import array
import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from good_calls import F32, F64, refused, same, values, zeros
from interrupts import interrupt, needs_signals

import fastbp
from fastbp.optimizers import OPTIMIZERS

pytestmark = pytest.mark.usefixtures("backend")


def test_velocity_and_momentum_go_together() -> None:
    w, g, v = values(6), values(6), zeros(6)
    message = "velocity: got an array with momentum=0, expected None"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, velocity=v)
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.sgd_update, parameters=w, gradient=g, nesterov=True)


def test_parameters_are_one_vector_of_floats() -> None:
    for value, error, message in (
        (zeros(2, 3), ValueError, "parameters: got shape (2, 3), expected (6,)"),
        (zeros(), ValueError, "parameters: got shape (), expected (1,)"),
        ([0.0, 1.0], TypeError, "parameters: got list, expected numpy.ndarray"),
        (np.zeros(6, int), TypeError, "parameters: got dtype int64, expected float32 or float64"),
    ):
        refused(error, message, fastbp.sgd_update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.SGD().update, parameters=value, gradient=zeros(6))
        refused(error, message, fastbp.Adam().update, parameters=value, gradient=zeros(6))


KINDS = sorted(OPTIMIZERS, key=lambda kind: kind.__name__)
RATES = [(kind, name) for kind in KINDS for name in kind.rates]
EVERY_STATE = [
    fastbp.SGD(momentum=0.9),
    fastbp.RMSprop(momentum=0.9, centered=True),
    fastbp.Adagrad(),
    fastbp.Adam(amsgrad=True),
    fastbp.AdamW(amsgrad=True, average=0.9),
    fastbp.Lion(),
    fastbp.Muon(),
]


def test_every_state_is_here() -> None:
    assert {type(optimizer) for optimizer in EVERY_STATE} == OPTIMIZERS
    for optimizer in map(copy.deepcopy, EVERY_STATE):
        assert {*optimizer.state(values(6))} >= {*optimizer.vectors}


every_state = pytest.mark.parametrize("optimizer", EVERY_STATE, ids=repr)


@pytest.mark.parametrize(("kind", "name"), RATES)
def test_rates_are_checked_when_made_and_when_used(kind: type, name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: got str, expected ") as made:
        kind(**{name: "much"})
    optimizer = kind()
    setattr(optimizer, name, "much")
    refused(TypeError, str(made.value), optimizer.update, parameters=values(6), gradient=values(6))
    refused(TypeError, str(made.value), optimizer.hyper_parameters)
    assert optimizer.steps == 0


# Of what is no rate: a value that cannot be, and the error.
OPTIONS = {
    "average": ((1.0, ValueError, "got 1.0, expected a number in [0, 1)"), (-0.5, ValueError, "got -0.5, expected"),
                ("much", TypeError, "got str, expected a number in [0, 1)"), (True, TypeError, "got bool, expected")),
    "decay_biases": ((1, TypeError, "got int, expected True or False"),),
    "nesterov": ((1, TypeError, "got int, expected True or False"),),
    "centered": (("no", TypeError, "got str, expected True or False"),),
    "amsgrad": ((None, TypeError, "got NoneType, expected True or False"),),
    "ns_steps": ((0, ValueError, "got 0, expected"), (2.5, TypeError, "got float, expected")),
    "adjust_lr_fn": (("much", ValueError, "got 'much', expected one of"),),
}  # fmt: skip


def test_every_option_is_here() -> None:
    assert OPTIONS.keys() == {"average", "decay_biases"}.union(*(kind.options for kind in KINDS)) | {
        "nesterov"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_checked_when_made(kind: type) -> None:
    for name in inspect.signature(kind).parameters.keys() & OPTIONS.keys():
        for value, error, text in OPTIONS[name]:
            with pytest.raises(error) as made:
                kind(**{name: value})
            assert str(made.value).startswith(f"{name}: {text}")


@pytest.mark.parametrize(
    ("kind", "name"), [rate for rate in RATES if rate[1] in ("learning_rate", "weight_decay")]
)
def test_rates_beyond_the_dtype_are_refused_where_it_is_known(kind: type, name: str) -> None:
    """Cast to float32 they would be infinite: inf · 0 is NaN where the gradient is 0."""
    optimizer = kind(**{name: 1e39})
    optimizer.update(values(6, dtype=F64), zeros(6, dtype=F64))
    optimizer.reset()
    message = f"{name}: got 1e+39, expected a number that float32 can hold, 0 to 3.4028234663852886e+38"
    refused(ValueError, message, optimizer.update, parameters=values(6), gradient=zeros(6))
    net = fastbp.MLP([3, 2], seed=0)
    x, labels = values(4, 3), np.array([0, 1, 0, 1])
    refused(ValueError, message, net.step, x=x, t=labels, optimizer=optimizer)
    refused(ValueError, message, net.fit, X=x, T=labels, optimizer=optimizer, progress=False)
    assert (optimizer.steps, np.isfinite(net.parameters).all()) == (0, True)


@pytest.mark.parametrize("optimizer", [fastbp.SGD(), *EVERY_STATE], ids=repr)
def test_a_count_that_is_none(optimizer: fastbp.optimizers.Optimizer) -> None:
    optimizer, net, x, labels = (
        copy.deepcopy(optimizer),
        fastbp.MLP([3, 2], seed=0),
        values(4, 3),
        np.array([0, 1, 0, 1]),
    )
    for steps, error in (
        ("a", TypeError),
        (None, TypeError),
        (True, TypeError),
        (-1, ValueError),
        (2**63 - 1, ValueError),
    ):
        optimizer.steps = steps
        message = f"steps: got {type(steps).__name__ if error is TypeError else steps}, expected an integer in [0, 2**62]"
        refused(
            error, message, optimizer.update, parameters=net.parameters, gradient=zeros(net.parameters.size)
        )
        refused(error, message, net.step, x=x, t=labels, optimizer=optimizer)
        refused(error, message, net.fit, X=x, T=labels, optimizer=optimizer, progress=False)
        assert optimizer.steps is steps


def test_nesterov_needs_momentum() -> None:
    message = "nesterov: got True with momentum=0, expected momentum > 0"
    refused(ValueError, message, fastbp.SGD, nesterov=True)
    assert fastbp.SGD(nesterov=True, momentum=0.5).hyper_parameters() == (0.1, 0.5, True, 0.0)


@every_state
def test_a_state_belongs_to_one_vector(optimizer: fastbp.optimizers.Optimizer) -> None:
    optimizer, w = copy.deepcopy(optimizer), values(6)
    optimizer.update(w, values(6))
    kept = [vector.copy() for vector in optimizer.state(w).values()]
    name = type(optimizer).__name__
    for other, got in ((values(7), "7 values of float32"), (values(6, dtype=F64), "6 values of float64")):
        message = (
            f"parameters: got {got}, expected 6 of float32, "
            f"the vector this {name} keeps a state for; optimizer.reset() forgets it, a new optimizer has none"
        )
        refused(ValueError, message, optimizer.update, parameters=other, gradient=other.copy())
        refused(ValueError, message, optimizer.state, parameters=other)
    message = (
        f"parameters: got another vector than the one this {name} keeps a state for, expected that one; "
        "optimizer.reset() forgets it, a new optimizer has none, copy.copy(optimizer) takes it along"
    )
    for other in (w.copy(), np.concatenate([w, w])[6:]):
        refused(ValueError, message, optimizer.update, parameters=other, gradient=values(6))
        refused(ValueError, message, optimizer.state, parameters=other)
        same([other], [w])
    assert optimizer.steps == 1
    same(list(optimizer.state(w).values()), kept)
    optimizer.reset()
    other = values(7)
    optimizer.update(other, values(7))
    assert (optimizer.steps, next(iter(optimizer.state(other).values())).size) == (1, 7)


@pytest.mark.parametrize("memory", [bytearray(48), memoryview(bytearray(48)), array.array("d", [0.0] * 6)])
def test_a_vector_is_the_same_in_every_view(memory: Any) -> None:
    """Each call may bring another array over the same memory, and the last one may be gone."""
    optimizer = fastbp.Adam()
    for view in (
        lambda: np.frombuffer(memory),
        lambda: np.frombuffer(memory).view(np.uint8).view(F64),
        lambda: np.ndarray((6,), F64, memory),
    ):
        optimizer.update(view(), values(6, dtype=F64))
        optimizer.update(view()[:], values(6, dtype=F64))
    assert optimizer.steps == 6
    with pytest.raises(ValueError, match="got another vector than the one this Adam keeps a state for"):
        optimizer.update(np.zeros(6), values(6, dtype=F64))


def test_memory_used_again_is_another_vector() -> None:
    optimizer = fastbp.SGD(momentum=0.9)
    optimizer.update(
        values(6), values(6)
    )  # which is gone after that, and the next one likely to be where it was
    with pytest.raises(ValueError, match="got another vector than the one this SGD keeps a state for"):
        optimizer.update(values(6), values(6))


def mapped(optimizer: Any, tmp_path: Path) -> Any:
    """The optimizer as joblib hands it to a worker, or loads it with mmap_mode="r": its vectors are maps of files."""
    twin = copy.copy(optimizer)
    vectors = {name: read_only(tmp_path / name, vector) for name, vector in twin._vectors.items()}
    state = vars(twin) | {"_vectors": vectors}
    twin.__setstate__(state)
    return twin


def read_only(path: Path, vector: np.ndarray) -> np.ndarray:
    np.save(path, vector)
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "copy": lambda optimizer, _: copy.copy(optimizer),
    "deepcopy": lambda optimizer, _: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, _: pickle.loads(pickle.dumps(optimizer)),
    "pickle with buffers": lambda optimizer, _: with_buffers(optimizer),
    "memory maps": mapped,
}


def with_buffers(optimizer: Any) -> Any:
    """Through a pickle whose buffers come as bytes, which are read-only."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


class WithMore(fastbp.Adam):
    __slots__ = ("slot",)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("optimizer", [*EVERY_STATE, WithMore()], ids=repr)
def test_copies_keep_all_and_go_on_by_themselves(
    duplicate: str, optimizer: fastbp.optimizers.Optimizer, tmp_path: Path
) -> None:
    optimizer, kind = copy.deepcopy(optimizer), type(optimizer)
    w, gradient = values(6), values(6)
    optimizer.update(w, gradient)
    optimizer.note = ["of the user"]
    if kind is WithMore:
        optimizer.slot = 7
    twin, other = COPIES[duplicate](optimizer, tmp_path), w.copy()
    assert type(twin) is kind and twin.note == ["of the user"] and getattr(twin, "slot", 7) == 7
    assert twin.steps == 1 and repr(twin) == repr(optimizer)
    for _ in range(2):  # in turns: neither sees the other
        twin.update(other, gradient)
        optimizer.update(w, gradient)
    same([other, *twin.state(other).values()], [w, *optimizer.state(w).values()])
    assert twin.steps == optimizer.steps == 3
    for mine, theirs in zip(twin.state(other).values(), optimizer.state(w).values(), strict=True):
        assert not np.shares_memory(mine, theirs)
    with pytest.raises(ValueError, match=r"^parameters: got another vector"):
        twin.update(w, gradient)  # it has met one


@every_state
def test_a_state_that_cannot_be_written_changes_nothing(optimizer: fastbp.optimizers.Optimizer) -> None:
    for name in optimizer.vectors:
        optimizer, w = copy.deepcopy(optimizer), values(6)
        optimizer.reset()
        optimizer.update(w, values(6))
        kept = [vector.copy() for vector in (w, *optimizer.state(w).values())]
        optimizer.state(w)[name].flags.writeable = False
        message = f"{name}: got a read-only array, expected a writeable one"
        refused(ValueError, message, optimizer.update, parameters=w, gradient=values(6))
        same([w, *optimizer.state(w).values()], kept)
        assert optimizer.steps == 1


@needs_signals
@pytest.mark.parametrize("optimizer", [fastbp.SGD(1.0), *EVERY_STATE], ids=repr)
def test_an_interrupted_update_is_counted_if_it_was_made(optimizer: fastbp.optimizers.Optimizer) -> None:
    optimizer, by_hand = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    w, other, g = np.zeros(2000), np.zeros(2000), np.ones(2000)
    interrupt(200, lambda: optimizer.update(w, g, n_threads=1))
    assert optimizer.steps > 0
    for _ in range(optimizer.steps):
        by_hand.update(other, g, n_threads=1)
    same([w, *optimizer.state(w).values()], [other, *by_hand.state(other).values()])


def test_a_failed_update_is_no_step() -> None:
    optimizer = fastbp.Adam()
    message = "gradient: got shape (5,), expected (6,), the shape of parameters"
    refused(ValueError, message, optimizer.update, parameters=values(6), gradient=values(5))
    assert optimizer.steps == 0
    assert not any(vector.any() for vector in optimizer.state(values(6)).values())


def test_optimizers_call_the_updates() -> None:
    w, v = values(6), zeros(6)
    sgd, by_sgd = fastbp.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=0.1), w.copy()
    rates = {"learning_rate": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    for _ in range(3):
        sgd.update(by_sgd, w)
    expected = w.copy()
    for _ in range(3):
        fastbp.sgd_update(expected, w, velocity=v, **rates)
    same([by_sgd, *sgd.state(by_sgd).values()], [expected, v])

    adam, by_adam, m, v = fastbp.Adam(0.5, beta_1=0.8, weight_decay=0.1), w.copy(), zeros(6), zeros(6)
    for _ in range(3):
        adam.update(by_adam, w)
    expected = w.copy()
    for step in (1, 2, 3):
        fastbp.adam_update(expected, w, m, v, step=step, learning_rate=0.5, beta_1=0.8, weight_decay=0.1)
    same([by_adam, *adam.state(by_adam).values()], [expected, m, v])
    assert (sgd.steps, adam.steps, sgd.rule, adam.rule) == (3, 3, "sgd", "adam")


def test_an_optimizer_shows_its_rates() -> None:
    for optimizer, text in (
        (
            fastbp.SGD(1, momentum=F32(0.5)),
            "SGD(learning_rate=1.0, momentum=0.5, nesterov=False, weight_decay=0.0)",
        ),
        (
            fastbp.Adam(),
            "Adam(learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-08, weight_decay=0.0, amsgrad=False)",
        ),
    ):
        assert repr(optimizer) == text
        assert repr(pickle.loads(pickle.dumps(optimizer))) == text


def test_momentum_may_come_and_go() -> None:
    optimizer, w = fastbp.SGD(), values(6)
    optimizer.update(w, w.copy())
    assert optimizer.state(w) == {}
    optimizer.momentum = 0.9
    optimizer.update(w, w.copy())
    assert optimizer.state(w)["velocity"].any()
    optimizer.momentum = 0.0
    optimizer.update(w, w.copy())
    assert (optimizer.state(w), optimizer.steps) == ({}, 3)


def test_defaults():
    """To the last bit: they are part of the contract, and a rate of another rounding would pass every other test."""
    adam = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    sgd = {"learning_rate": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    rmsprop = {"learning_rate": 1e-2, "alpha": 0.99, "epsilon": 1e-8, "momentum": 0.0, "weight_decay": 0.0}
    muon = {"learning_rate": 2e-2, "momentum": 0.95, "nesterov": True, "epsilon": 1e-7, "weight_decay": 0.1}
    muon |= {"beta_1": 0.9, "beta_2": 0.999, "adam_epsilon": 1e-8}
    for function, defaults in (
        (fastbp.adam_update, adam),
        (fastbp.Adam, adam | {"amsgrad": False}),
        (fastbp.AdamW, adam | {"amsgrad": False, "weight_decay": 1e-2}),
        (fastbp.sgd_update, sgd),
        (fastbp.SGD, sgd),
        (fastbp.RMSprop, rmsprop | {"centered": False}),
        (fastbp.Adagrad, {"learning_rate": 1e-2, "epsilon": 1e-10, "weight_decay": 0.0}),
        (fastbp.Lion, {"learning_rate": 1e-4, "beta_1": 0.9, "beta_2": 0.99, "weight_decay": 0.0}),
        (fastbp.Muon, muon | {"ns_steps": 5, "adjust_lr_fn": "original", "adam_ratio": 0.05}),
    ):
        given = inspect.signature(function).parameters
        assert {name: given[name].default for name in defaults} == defaults
