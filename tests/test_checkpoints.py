"""Checkpoint and resume: to the same bits as a training that was never interrupted, and from no bad file at all."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import THINNED, every_pair
from training_data import BATCH, LABELS, N, X, network, same, told

from fastbp import MLP, SGD, Adam, persistence, schedules, training
from fastbp.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau
from fastbp.optimizers import OPTIMIZERS

EPOCHS, STEPS = 6, 6 * -(-N // BATCH)
SOME: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "RMSprop": [{}, {"momentum": 0.9, "centered": True}],
    "Adam": [{}, {"amsgrad": True}],
    "AdamW": [{}, {"amsgrad": True}],
}
MADE = {
    f"{kind.__name__}({', '.join(more)})": partial(kind, **more)
    for kind in sorted(OPTIMIZERS, key=lambda kind: kind.__name__)
    for more in SOME.get(kind.__name__, [{}])
}
DATA: dict[str, dict[str, Any]] = {
    "plain": {},
    "in order": {"shuffle": False, "clip_norm": 0.5},
    "set aside": {"validation_fraction": 0.3, "clip_value": 0.01},
    "weighted": {"validation_fraction": 0.3, "class_weight": "balanced", "sample_weight": X[:, 0] ** 2},
}
ROWS = {
    "optimizer": list(MADE),
    "rate": ["number", "schedule"],
    "average": [None, 0.9],
    "dropout": [0.0, 0.3],
    "data": list(DATA),
    "callbacks": ["none", "early", "plateau", "both"],
    "suffix": [".npz", ".safetensors"],
}


def made(optimizer, rate, average, dropout, data, callbacks):
    """A network, an optimizer, callbacks, and the other arguments of ``fit``: new ones at each call."""
    rates = {"learning_rate": schedules.cosine(0.05, STEPS, warmup=5)} if rate == "schedule" else {}
    monitor = "validation_loss" if "validation_fraction" in DATA[data] else "loss"
    given = []
    if callbacks in ("early", "both"):
        given.append(EarlyStopping(monitor, patience=4, min_delta=1e-3))
    if callbacks in ("plateau", "both") and rate == "number":
        given.append(ReduceOnPlateau(monitor, patience=1, factor=0.5, min_delta=0.01))
    options = {"batch_size": BATCH, "progress": False} | DATA[data]
    made = MADE[optimizer](average=average, weight_decay=0.01, **rates)
    return network("float32", dropout=dropout), made, given, options


def everything(net, optimizer, callbacks, history):
    """All that a training has come to."""
    state = {name: vector.tobytes() for name, vector in optimizer.state(net.parameters).items()}
    kept = [callback.get_state().items() for callback in callbacks if hasattr(callback, "get_state")]
    kept = [
        {name: None if value is None else np.asarray(value, float).tobytes() for name, value in each}
        for each in kept
    ]
    generator = net._random_state().bit_generator.state
    rate = optimizer.learning_rate
    return (
        net.parameters.tobytes(),
        state,
        optimizer.steps,
        None if callable(rate) else rate,
        kept,
        generator,
        told(history),
    )


@every_pair("backend", **ROWS)
def test_a_resumed_training_is_the_uninterrupted_one(
    backend, tmp_path, optimizer, rate, average, dropout, data, callbacks, suffix
):
    """Parameters, state of the optimizer, best weights, random numbers, history: bit for bit."""
    path, row = tmp_path / f"c{suffix}", (optimizer, rate, average, dropout, data, callbacks)
    net, optimizer, callbacks, options = made(*row)
    history = net.fit(X, LABELS, epochs=EPOCHS, optimizer=optimizer, callbacks=callbacks, **options)
    whole = everything(net, optimizer, callbacks, history)

    net, optimizer, callbacks, options = made(*row)
    part = net.fit(
        X, LABELS, epochs=3, optimizer=optimizer, callbacks=[*callbacks, Checkpoint(path)], **options
    )
    net, optimizer, callbacks, options = made(*row)
    net.parameters[:] = 7  # of which nothing is to be left
    history = net.fit(
        X,
        LABELS,
        epochs=EPOCHS,
        optimizer=optimizer,
        callbacks=[*callbacks, Checkpoint(path)],
        resume=path,
        **options,
    )
    assert everything(net, optimizer, callbacks, history) == whole
    assert history.seconds[:3] == part.seconds


def test_resuming_within_the_same_objects(backend, tmp_path):
    """What they have done since the checkpoint is forgotten."""
    path = tmp_path / "c.npz"
    net, adam, options = network(), Adam(average=0.9), {"batch_size": BATCH, "progress": False}
    stop = EarlyStopping("loss", patience=9)

    def copy_of_3(run):
        if run.epoch == 3:
            run.save(path)

    callbacks = [stop, copy_of_3]
    history = net.fit(X, LABELS, epochs=5, optimizer=adam, callbacks=callbacks, **options)
    first = everything(net, adam, [stop], history)
    again = net.fit(X, LABELS, epochs=5, optimizer=adam, callbacks=callbacks, resume=path, **options)
    assert everything(net, adam, [stop], again) == first


def test_a_training_that_was_over_is_over(backend, tmp_path):
    """Stopped early, and killed before `fit` came back: nothing more is done, and the best weights are there."""
    path = tmp_path / "c.npz"

    def train(**options):
        net, stop = network(), EarlyStopping("loss", patience=2, min_delta=10.0)
        history = net.fit(
            X,
            LABELS,
            epochs=9,
            optimizer=Adam(),
            callbacks=[stop, Checkpoint(path, every=5)],
            progress=False,
            **options,
        )
        return net, history

    (net, history), (other, again) = train(), train(resume=path)
    assert len(history) == 3 and history.stopped and same(net, other) and told(again) == told(history)


def test_only_what_a_callback_itself_keeps_stops_a_resumed_training(backend, tmp_path):
    """Not a time limit, nor what a function said."""
    path = tmp_path / "c.npz"
    net, other = network(), network()
    part = net.fit(
        X, LABELS, epochs=4, callbacks=[lambda run: run.epoch == 2, Checkpoint(path)], progress=False
    )
    assert len(part) == 2 and part.stopped
    net = network()
    history = net.fit(
        X, LABELS, epochs=4, callbacks=[lambda run: None, Checkpoint(path)], resume=path, progress=False
    )
    assert told(history) == told(other.fit(X, LABELS, epochs=4, progress=False)) and same(net, other)


def test_the_log_has_each_epoch_once(backend, tmp_path):
    """Killed between the line of epoch 4 and its checkpoint."""
    path, log = tmp_path / "c.npz", tmp_path / "log.csv"
    callbacks = [CSVLog(log), Checkpoint(path)]

    def killed(run):
        if run.epoch == 4:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        network().fit(X, LABELS, epochs=6, callbacks=[callbacks[0], killed, callbacks[1]], progress=False)
    assert log.read_text().count("\n") == 5
    given = [callbacks[0], lambda run: None, callbacks[1]]
    history = network().fit(X, LABELS, epochs=6, callbacks=given, resume=path, progress=False)
    history.to_csv(tmp_path / "history.csv")
    assert log.read_bytes() == (tmp_path / "history.csv").read_bytes() and len(history) == 6


RATES = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}


def test_rates_that_a_callback_has_set(backend, tmp_path):
    """A training goes on with them, whatever the call says."""

    def changed(run):
        if run.epoch == 2:
            run.optimizer.momentum, run.optimizer.nesterov, run.optimizer.weight_decay = 0.5, True, 0.01

    def trained(epochs, optimizer, **options):
        net = network()
        given = [changed, Checkpoint(tmp_path / "c.npz")]
        net.fit(X, LABELS, epochs=epochs, optimizer=optimizer, callbacks=given, progress=False, **options)
        return net

    whole = trained(5, SGD(0.1))
    trained(3, SGD(0.1))
    optimizer = SGD(0.2, weight_decay=0.5)
    assert same(trained(5, optimizer, resume=tmp_path / "c.npz"), whole)
    assert optimizer.hyper_parameters() == (0.1, 0.5, 1.0, 0.01)


def test_saved_before_the_first_epoch(backend, tmp_path):
    """After the validation set was drawn."""
    begins = SimpleNamespace(fit_begin=lambda run: run.epoch or run.save(tmp_path / "c.npz"))
    options = {"epochs": 2, "callbacks": [begins], "validation_fraction": 0.2, "progress": False}
    whole, resumed = network(), network()
    whole.fit(X, LABELS, **options)
    resumed.fit(X, LABELS, resume=tmp_path / "c.npz", **options)
    assert same(whole, resumed)


def test_saving_at_the_end_is_refused(backend, tmp_path):
    """The parameters may be a mean, or the best ones, by then."""
    ends = SimpleNamespace(fit_end=lambda run: run.save(tmp_path / "c.npz"))
    with pytest.raises(RuntimeError, match=r"^save: got a call in fit_end, expected one in epoch_end"):
        network().fit(X, LABELS, epochs=1, callbacks=[ends], progress=False)
    assert not list(tmp_path.iterdir())


def test_the_time_is_over_before_the_checkpoint(backend, tmp_path, monkeypatch):
    """Which then is the last one."""
    look = training._look

    def slow(run, seconds):
        look(run, seconds)
        run.settings.deadline = 0.0

    monkeypatch.setattr(training, "_look", slow)
    history = network().fit(
        X, LABELS, epochs=9, callbacks=[Checkpoint(tmp_path / "c.npz", every=7)], progress=False
    )
    assert (len(history), history.stopped) == (1, "the time limit") and (tmp_path / "c.npz").exists()


class Keeping:
    def __init__(self, **state):
        self.state = state

    def epoch_end(self, training):
        pass

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def test_states_of_numpy_numbers(backend, tmp_path):
    given = {
        "best": np.float32(0.5),
        "waited": np.int64(3),
        "seen": np.bool_(True),
        "best_parameters": np.zeros(3),
    }
    keeps = Keeping(**given)
    checkpoint(tmp_path / "c.npz", [keeps])
    keeps.state = {}
    options = {"optimizer": SGD(0.1, momentum=0.9), "validation_fraction": 0.1, "progress": False}
    callbacks = [keeps, Checkpoint(tmp_path / "c.npz")]
    network().fit(X, LABELS, epochs=3, callbacks=callbacks, resume=tmp_path / "c.npz", **options)
    assert keeps.state.pop("best_parameters").tolist() == [0, 0, 0]
    assert keeps.state == {"best": 0.5, "waited": 3, "seen": True}


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ({"_best": 1.0}, ValueError, "got the name '_best', expected letters, digits"),
        ({"best-loss": 1}, ValueError, "got the name 'best-loss', expected letters, digits"),
        ({3: 1}, ValueError, "got the name 3, expected letters, digits"),
        ({"best": {1, 2}}, TypeError, "got set as 'best' .*, expected numbers, arrays"),
        ({"best": np.array(["a"])}, TypeError, "got <U1 as 'best', expected an array of bool"),
    ],
)
def test_states_that_no_file_can_hold(backend, tmp_path, state, kind, message):
    with pytest.raises(kind, match=rf"^Keeping.get_state: {message}"):
        checkpoint(tmp_path / "c.npz", [_keeping(state)])
    assert not list(tmp_path.iterdir())


def _keeping(state):
    keeps = Keeping()
    keeps.state = state
    return keeps


def test_saving_within_an_epoch_is_refused(backend, tmp_path):
    look = SimpleNamespace(batch_end=lambda run: run.save(tmp_path / "c.npz"))
    with pytest.raises(RuntimeError, match=r"^save: got a call within an epoch, expected one at its end"):
        network().fit(X, LABELS, epochs=1, callbacks=[look], progress=False)
    assert not list(tmp_path.iterdir())


# Files that are refused -------------------------------------------------------------------------------------


def checkpoint(path, callbacks=()):
    options = {"optimizer": SGD(0.1, momentum=0.9), "validation_fraction": 0.1, "progress": False}
    network().fit(X, LABELS, epochs=2, callbacks=[*callbacks, Checkpoint(path)], **options)


@pytest.fixture(params=[".npz", ".safetensors"])
def saved(backend, tmp_path, request):
    path = tmp_path / f"c{request.param}"
    checkpoint(path)
    return path


def refused(path, kind=ValueError, net=None, optimizer=None, callbacks=None, match=".", epochs=4):
    """That nothing is changed by it."""
    net, optimizer = net or network(), optimizer or SGD(0.1, momentum=0.9)
    before, state = copy.deepcopy(net), {name: vector.copy() for name, vector in optimizer._vectors.items()}
    steps, rate = optimizer.steps, optimizer.learning_rate
    callbacks = [Checkpoint(path)] if callbacks is None else callbacks
    with pytest.raises(kind, match=match) as caught:
        net.fit(
            X,
            LABELS,
            epochs=epochs,
            optimizer=optimizer,
            callbacks=callbacks,
            resume=path,
            validation_fraction=0.1,
            progress=False,
        )
    assert same(net, before) and optimizer.steps == steps and optimizer.learning_rate is rate
    assert all((optimizer._vectors[name] == vector).all() for name, vector in state.items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"net": MLP([6, 9, 3], dtype="float64", seed=1)}, "whose network is .*, expected .*"),
        ({"net": network("float32")}, "whose network is"),
        ({"net": network(activation="relu")}, "whose network is"),
        ({"net": network(dropout=0.5)}, "whose network is"),
        ({"net": network(label_smoothing=0.5)}, "whose network is"),
        ({"net": network(loss="squared_error")}, "whose network is"),
        ({"optimizer": Adam()}, "whose optimizer is SGD, expected Adam"),
        (
            {"optimizer": SGD(schedules.constant(0.1), momentum=0.9)},
            r"whose schedules is \[\], expected \['learning_rate'\]",
        ),
        (
            {"optimizer": SGD(0.1, momentum=lambda step: 0.9)},
            r"whose schedules is \[\], expected \['momentum'\]",
        ),
        (
            {"optimizer": SGD(momentum=0.9, average=0.5)},
            "expected optimizer.average, optimizer.velocity, parameters$",
        ),
        ({"callbacks": []}, r"whose callbacks is \['Checkpoint'\], expected \[\]"),
        ({"callbacks": [EarlyStopping(), Checkpoint("c")]}, r"expected \['EarlyStopping', 'Checkpoint'\]"),
    ],
)
def test_another_training(saved, changed, message):
    refused(
        saved,
        match=f"^resume: got .*{message}",
        **{name: copy.deepcopy(value) for name, value in changed.items()},
    )


def test_a_refused_file_leaves_the_optimizer_free(saved):
    """The network was wrong: the right one can have it."""
    sgd = SGD(0.1, momentum=0.9)
    refused(saved, net=network("float32"), optimizer=sgd)
    options = {"optimizer": sgd, "validation_fraction": 0.1, "resume": saved, "progress": False}
    assert len(network().fit(X, LABELS, epochs=3, callbacks=[Checkpoint(saved)], **options)) == 3


def test_another_validation(saved):
    """Whose history could not go on."""
    message = (
        "^resume: got .* with a history of .*, validation_metric, expected learning_rate, loss, seconds$"
    )
    options = {"optimizer": SGD(0.1, momentum=0.9), "resume": saved, "progress": False}
    with pytest.raises(ValueError, match=message):
        network().fit(X, LABELS, epochs=3, callbacks=[Checkpoint(saved)], **options)


def test_no_file(backend, tmp_path):
    refused(tmp_path / "none.npz", FileNotFoundError)
    refused(tmp_path, match="it is a folder, a pipe or a device")
    refused(3.0, TypeError, callbacks=[], match="^resume: got float, expected the name of a file")


def test_foreign_and_damaged_files(saved, tmp_path):
    content = saved.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        refused(saved, match="^resume: .*expected a whole file of the format fastbp.Checkpoint")
    config, arrays = persistence.read(saved, "fastbp.Checkpoint") if saved.write_bytes(content) else ({}, {})
    for place in np.linspace(0, len(content) - 1, 53).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 0x40
        saved.write_bytes(flipped)
        try:  # a date in an archive, for one, means nothing to us
            same_config, same_arrays = persistence.read(saved, "fastbp.Checkpoint")
        except ValueError:
            refused(saved)
        else:
            assert same_config == config and all((same_arrays[name] == arrays[name]).all() for name in arrays)
    network().save(saved)
    refused(saved, match=r"something else \('fastbp.MLP'\)")


@pytest.mark.parametrize(
    "change",
    [
        *({"drop": name} for name in ("network", "optimizer", "schedules", "callbacks", "states", "steps")),
        *({"drop": name} for name in ("rates", "epoch", "best_epoch", "generator", "start")),
        *({"steps": value} for value in (-1, 2**63, 1.5, "3", None, True)),
        *({"epoch": value} for value in (-1, 3, 1.5, None)),
        *({"best_epoch": value} for value in (0, 3, "1", 1.0)),
        *({"rates": RATES | {"learning_rate": value}} for value in (-1.0, "a", [], True)),
        *(
            {"rates": value}
            for value in (None, [], {}, 0.1, RATES | {"nesterov": 1.0}, RATES | {"other": 1.0})
        ),
        *(
            {name: value}
            for name in ("generator", "start")
            for value in (None, 3, {}, {"bit_generator": "MT19937"})
        ),
        *({"states": value} for value in (None, [], [1], [{}, {}], "a", [None])),
    ],
    ids=str,
)
def test_hostile_headers(backend, tmp_path, change):
    path = tmp_path / "c.npz"
    checkpoint(path)
    config, arrays = persistence.read(path, "fastbp.Checkpoint")
    config.pop(change["drop"]) if "drop" in change else config.update(change)
    persistence.write(path, "fastbp.Checkpoint", config, arrays)
    refused(path, match="^resume: ")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("parameters", np.zeros(3)),
        ("parameters", np.zeros((83, 1))),
        ("parameters", np.zeros(83, np.float32)),
        ("optimizer.velocity", np.zeros(82)),
        ("optimizer.other", np.zeros(83)),
        ("history.loss", np.zeros(3)),
        ("history.loss", np.zeros((2, 2))),
        ("history.loss", np.array(1.0)),
        ("history.other", np.zeros(2)),
        ("history.stopped", np.zeros(2)),
        ("history.best_epoch", np.zeros(2)),
        ("history.keep", np.zeros(2)),
    ],
)
def test_hostile_arrays(backend, tmp_path, name, array):
    path = tmp_path / "c.npz"
    checkpoint(path)
    config, arrays = persistence.read(path, "fastbp.Checkpoint")
    persistence.write(path, "fastbp.Checkpoint", config, arrays | {name: array})
    refused(path, match="^resume: ")


def test_hostile_states_of_callbacks(backend, tmp_path):
    path, given = tmp_path / "c.npz", [EarlyStopping("loss"), Checkpoint(tmp_path / "c.npz")]
    checkpoint(path, given[:1])
    config, arrays = persistence.read(path, "fastbp.Checkpoint")
    without = {name: value for name, value in config["states"][0].items() if name != "waited"}
    for state in (without, without | {"waited": "a"}, without | {"waited": 0, "best_epoch": 1.5}):
        persistence.write(
            path, "fastbp.Checkpoint", config | {"states": [state, *config["states"][1:]]}, arrays
        )
        refused(path, callbacks=given, match="damaged checkpoint")
    for name, array in (
        ("best", np.zeros(2)),
        ("best_parameters", np.zeros(1)),
        ("best_parameters", np.zeros((83, 1))),
    ):
        persistence.write(path, "fastbp.Checkpoint", config, arrays | {f"callbacks.0.{name}": array})
        refused(path, callbacks=given, match="damaged checkpoint")


# Killed -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np
import fastbp
from fastbp.callbacks import Checkpoint, EarlyStopping

path, done = sys.argv[1:]
rng = np.random.default_rng(0)
x, labels = rng.normal(size=(300, 20)), rng.integers(0, 4, 300)
net = fastbp.MLP([20, 32, 4], dropout=0.2, seed=3)
optimizer = fastbp.Adam(fastbp.schedules.cosine(0.01, 40 * 20), average=0.9, amsgrad=True)
import os
history = net.fit(
    x, labels, epochs=40, batch_size=12, optimizer=optimizer, validation_fraction=0.2, class_weight="balanced", progress=False,
    callbacks=[EarlyStopping(patience=100), Checkpoint(path)], resume=path if os.path.exists(path) else None,
)
state = optimizer.state(net.parameters)
np.savez(done, parameters=net.parameters, loss=history.loss, validation=history.validation_loss, best=history.best_epoch, **state)
"""


PATIENCE = 120.0  # seconds that a training may take


def start(path, done):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, os.fspath(path), os.fspath(done)], env=environment
    )


def written(done):
    return {name: array.tobytes() for name, array in np.load(done).items()}


@THINNED
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_kills(tmp_path, suffix, request):
    """SIGKILL at random instants, again and again, until it has come to its end: with the bits of one that nobody killed."""
    begin = time.monotonic()
    assert start(tmp_path / f"whole{suffix}", tmp_path / "whole.npz").wait(PATIENCE) == 0
    long, delay = time.monotonic() - begin, random.Random(suffix)
    path, done = tmp_path / f"c{suffix}", tmp_path / "done.npz"
    for _ in range(50 if request.config.getoption("exhaustive") else 5):
        process = start(path, done)
        try:
            code = process.wait(delay.uniform(0.4, 1.0) * long)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            assert code == 0
            path.unlink()  # it had come to its end: once more from the beginning
    assert start(path, done).wait(PATIENCE) == 0
    assert written(done) == written(tmp_path / "whole.npz")
