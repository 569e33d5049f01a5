"""Callbacks: which are called when, with what, how they stop a training; those that fastbp provides; the clock."""

from __future__ import annotations

import copy
import pickle
import time
from types import SimpleNamespace

import numpy as np
import pytest
from training_data import BATCH, LABELS, OPTIONS, N, X, lists, network, same, told

from fastbp import SGD, Adam, schedules
from fastbp.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau

BATCHES = -(-N // BATCH)
FAST = OPTIONS | {"epochs": 20, "optimizer": None}


class Recorder:
    """Notes its name at each event."""

    def __init__(self, name, log, last=False):
        self.name, self.log, self.last = name, log, last

    def fit_begin(self, run):
        self.log.append((self.name, "fit_begin", run.epoch, run.batch))

    def epoch_end(self, run):
        self.log.append((self.name, "epoch_end", run.epoch, run.batch))

    def fit_end(self, run):
        self.log.append((self.name, "fit_end", run.epoch, run.batch))


# When, and in which order -----------------------------------------------------------------------------------


def test_order(backend):
    """That in which they were given, but those marked as last come after the others."""
    log = []
    given = [
        Recorder("a", log, last=True),
        Recorder("b", log),
        lambda run: log.append(("c", "epoch_end", run.epoch, run.batch)),
    ]
    network().fit(X, LABELS, callbacks=given, **OPTIONS | {"epochs": 2})
    epochs = [(name, "epoch_end", epoch, BATCHES) for epoch in (1, 2) for name in "bca"]
    begin, end = (
        [(name, "fit_begin", 0, 0) for name in "ba"],
        [(name, "fit_end", 2, BATCHES) for name in "ba"],
    )
    assert log == begin + epochs + end


def test_what_they_see(backend):
    net, adam, seen = network(), Adam(), []

    def look(run):
        assert run.network is net and run.optimizer is adam and run.epochs == 3
        assert run.parameters is net.parameters and lists(run.history) == {run.epoch}
        assert run.loss == run.history.loss[-1] and adam.steps == run.epoch * BATCHES
        net.evaluate(X, LABELS), copy.deepcopy(net), pickle.dumps(net)  # a network can be used between epochs
        seen.append(run.epoch)

    net.fit(X, LABELS, optimizer=adam, callbacks=look, **OPTIONS)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batch_end_sees_every_batch_and_changes_nothing(backend, dtype, shuffle, average):
    net, other, seen = network(dtype, dropout=0.3), network(dtype, dropout=0.3), []
    look = SimpleNamespace(
        batch_end=lambda run: seen.append((run.epoch, run.batch, run.optimizer.steps, run.loss))
    )
    options = OPTIONS | {"shuffle": shuffle, "validation_fraction": 0.1, "sample_weight": LABELS + 0.5}
    a = net.fit(X, LABELS, optimizer=SGD(0.1, momentum=0.9, average=average), callbacks=[look], **options)
    b = other.fit(X, LABELS, optimizer=SGD(0.1, momentum=0.9, average=average), **options)
    n = -(-93 // BATCH)
    assert [each[:3] for each in seen] == [
        (e, k, (e - 1) * n + k) for e in (1, 2, 3) for k in range(1, n + 1)
    ]
    assert [each[3] for each in seen[n - 1 :: n]] == a.loss
    assert (
        same(net, other)
        and a.validation_loss == b.validation_loss
        and a.loss == pytest.approx(b.loss, rel=1e-14)
    )


@pytest.mark.parametrize("answer", [True, np.True_])
def test_stopping_by_a_function(backend, answer):
    net, other = network(), network()
    history = net.fit(X, LABELS, callbacks=[lambda run: answer if run.epoch == 2 else None], **FAST)
    other.fit(X, LABELS, **OPTIONS | {"epochs": 2})
    assert (
        history.stopped == "a callback asked for it in epoch 2" and lists(history) == {2} and same(net, other)
    )


@pytest.mark.parametrize("answer", [None, False, np.False_, 1, "yes", [True], np.ones(2)])
def test_other_answers_do_not_stop(backend, answer):
    assert len(network().fit(X, LABELS, callbacks=[lambda run: answer], **OPTIONS)) == 3


def test_stopping_within_an_epoch(backend):
    """The updates stay, the epoch does not count; at its last batch it does."""
    for batch, whole in ((2, False), (BATCHES, True)):
        net, log = network(), []
        stop = SimpleNamespace(
            batch_end=lambda run, batch=batch: run.epoch == 2 and run.batch == batch,
            fit_end=lambda run, log=log: log.append((run.epoch, len(run.history))),
        )
        adam = Adam()
        history = net.fit(X, LABELS, optimizer=adam, callbacks=[stop], **OPTIONS)
        assert history.stopped == "a callback asked for it in epoch 2" and lists(history) == {1 + whole}
        assert adam.steps == BATCHES + batch and log == [(1 + whole, 1 + whole)]


def test_stopping_with_words_and_before_the_first_epoch(backend):
    net, words = network(), SimpleNamespace(epoch_end=lambda run: run.stop("good enough"))
    assert net.fit(X, LABELS, callbacks=[words], **FAST).stopped == "good enough"
    before = copy.deepcopy(net)
    first = SimpleNamespace(fit_begin=lambda run: True, fit_end=lambda run: True)
    history = net.fit(X, LABELS, callbacks=[first], **FAST)
    assert len(history) == 0 and history.stopped == "a callback asked for it in epoch 0" and same(net, before)


def test_nothing_was_stopped_where_all_epochs_were_made(backend):
    end = SimpleNamespace(fit_end=lambda run: True)
    for callback in (end, lambda run: run.epoch == 3, EarlyStopping("loss", patience=1, min_delta=10.0)):
        epochs = 2 if isinstance(callback, EarlyStopping) else 3
        history = network().fit(X, LABELS, callbacks=[callback], **OPTIONS | {"epochs": epochs})
        assert history.stopped == "" and len(history) == epochs


@pytest.mark.parametrize("event", ["fit_begin", "batch_end", "epoch_end", "fit_end"])
def test_errors_come_out(backend, event, capfd):
    def fail(run):
        raise LookupError(event)

    net = network()
    with pytest.raises(LookupError, match=event):
        net.fit(X, LABELS, callbacks=[SimpleNamespace(**{event: fail})], **OPTIONS | {"progress": True})
    assert not capfd.readouterr().err or event != "fit_begin"
    net.fit(X, LABELS, **OPTIONS)  # it goes on as if nothing had been


def test_a_class_with_a_call_and_events(backend):
    class Both:
        calls = batches = 0

        def __call__(self, run):
            self.calls += 1

        def batch_end(self, run):
            self.batches += 1

    both = Both()
    network().fit(X, LABELS, callbacks=[both], **OPTIONS)
    assert (both.calls, both.batches) == (3, 3 * BATCHES)


def test_a_monitor_of_any_kind(backend):
    """The attribute may mean something else to a user's own callback."""
    own = SimpleNamespace(monitor=["a list"], epoch_end=lambda run: None)
    assert len(network().fit(X, LABELS, callbacks=[own], **OPTIONS)) == 3


# EarlyStopping ----------------------------------------------------------------------------------------------


def stopping(values, **options):
    """After which epoch it stops, the best one, and the parameters left: those after epoch k are k."""
    stop = EarlyStopping(**options)
    history = SimpleNamespace(best_epoch=None, **{stop.monitor: []})
    net = SimpleNamespace(parameters=np.zeros(1))
    run = SimpleNamespace(history=history, network=net, parameters=np.zeros(1), epoch=0, reason="")
    run.stop = lambda reason: setattr(run, "reason", reason)
    stop.fit_begin(run)
    for value in values:
        run.epoch += 1
        getattr(history, stop.monitor).append(value)
        run.parameters[:] = net.parameters[:] = run.epoch
        stop.epoch_end(run)
        if run.reason:
            break
    stop.fit_end(run)
    return run.epoch, history.best_epoch, net.parameters[0]


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([3, 2, 1, 2, 2, 0], {"patience": 2}, (5, 3, 3)),
        ([3, 2, 1, 2, 2, 0], {"patience": 2, "restore_best": False}, (5, 3, 5)),
        ([3, 2, 1, 2, 2, 0], {"patience": 3}, (6, 6, 6)),
        ([3, 2, 1, 1, 1], {"patience": 2}, (5, 3, 3)),  # as good is not better
        ([3, 2, 2, 0], {"patience": 0}, (3, 2, 2)),
        ([3, 2, 2, 0], {"patience": 1}, (3, 2, 2)),
        ([3, 2.5, 2.25, 0], {"patience": 2, "min_delta": 1}, (3, 1, 1)),
        (
            [3, 2.5, 1.75, 0.5, 0],
            {"patience": 2, "min_delta": 1},
            (5, 4, 4),
        ),  # by more than the best, not the last
        ([1, 2, 3, 2, 2], {"patience": 2, "monitor": "validation_metric"}, (5, 3, 3)),
        ([1, 2, 3, 2, 2], {"patience": 2, "monitor": "metric"}, (5, 3, 3)),
        ([1, 2, 3, 2, 2], {"patience": 2, "monitor": "loss"}, (3, 1, 1)),
        ([NAN, 2, NAN, NAN], {"patience": 2}, (4, 2, 2)),
        ([NAN, NAN, NAN], {"patience": 2}, (3, 1, 1)),
    ],
)
def test_when_it_stops(values, options, expected):
    assert stopping(values, **options) == expected


@pytest.mark.parametrize("average", [None, 0.8])
@pytest.mark.parametrize("monitor", ["validation_loss", "validation_metric", "metric", "loss"])
def test_early_stopping_in_a_training(backend, monitor, average):
    """The network is left as it was after the best epoch, its running mean where there is one."""
    stop = EarlyStopping(monitor, patience=3)
    kept = []
    net = network()
    optimizer = SGD(2.0, momentum=0.5, average=average)
    callbacks = [stop, lambda run: kept.append(run.parameters.copy())]
    options = OPTIONS | {"epochs": 60, "optimizer": optimizer, "callbacks": callbacks}
    history = net.fit(X, LABELS, validation_fraction=0.3, **options)
    values = getattr(history, monitor)
    best = 1 + int(np.argmin(values) if monitor.endswith("loss") else np.argmax(values))
    assert history.best_epoch == best == stop.best_epoch and (net.parameters == kept[best - 1]).all()
    assert (
        len(history) == best + 3 and history.stopped == f"{monitor} has not become better for 3 epochs"
    ) or (len(history) == 60 and history.stopped == "")
    assert (history.metric != []) == (monitor == "metric")
    if monitor == "metric":
        assert len(history.metric) == len(history) and 0 <= min(history.metric) <= max(history.metric) <= 1


def test_a_second_fit_begins_afresh(backend):
    stop = EarlyStopping("loss", patience=1)
    for _ in range(2):
        history = network().fit(X, LABELS, callbacks=[stop], **OPTIONS)
        assert history.best_epoch == stop.best_epoch == 3


@pytest.mark.parametrize("make", [EarlyStopping, ReduceOnPlateau])
@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        (
            {"monitor": "accuracy"},
            ValueError,
            "monitor: got 'accuracy', expected one of loss, validation_loss",
        ),
        ({"monitor": 3}, TypeError, "monitor: got int"),
        ({"patience": -1}, ValueError, "patience: got -1, expected an integer >= 0"),
        ({"patience": 1.0}, TypeError, "patience: got float"),
        ({"min_delta": -1}, ValueError, "min_delta: got -1"),
        ({"min_delta": NAN}, ValueError, "min_delta: got nan"),
    ],
)
def test_bad_arguments(make, changed, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        make(**changed)


@pytest.mark.parametrize("make", [EarlyStopping, ReduceOnPlateau])
@pytest.mark.parametrize("monitor", ["validation_loss", "validation_metric", "metric"])
def test_what_is_not_there_cannot_be_monitored(backend, make, monitor):
    """That is known before anything is done."""
    net, adam = network(), Adam()
    before = copy.deepcopy(net)
    given = ([(X, LABELS)], None) if monitor == "metric" else (X, LABELS)
    missing = "examples in arrays" if monitor == "metric" else "a validation set"
    with pytest.raises(ValueError, match=f"^monitor: got {monitor} without {missing}, expected loss"):
        net.fit(*given, optimizer=adam, callbacks=[make(monitor)], **OPTIONS)
    assert same(net, before) and not adam._vectors


# ReduceOnPlateau --------------------------------------------------------------------------------------------


def test_reduce_on_plateau(backend):
    """With so large a min_delta nothing is ever better than the first epoch."""
    plateau, sgd = ReduceOnPlateau("loss", patience=2, factor=0.5, min_delta=100.0, least=0.02), SGD(0.1)
    history = network().fit(X, LABELS, optimizer=sgd, callbacks=[plateau], **OPTIONS | {"epochs": 9})
    assert (
        history.learning_rate == [0.1] * 3 + [0.05] * 2 + [0.025] * 2 + [0.02] * 2
        and sgd.learning_rate == 0.02
    )
    small = SGD(0.01)  # below the least, it is left alone
    network().fit(X, LABELS, optimizer=small, callbacks=[plateau], **OPTIONS)
    assert small.learning_rate == 0.01


def test_a_plateau_of_a_schedule(backend):
    net = network()
    before = copy.deepcopy(net)
    message = "^optimizer: got a learning rate that is a function, expected a number"
    with pytest.raises(ValueError, match=message):
        callbacks = [ReduceOnPlateau("loss")]
        net.fit(
            X,
            LABELS,
            validation_fraction=0.1,
            optimizer=SGD(schedules.constant(0.1)),
            callbacks=callbacks,
            **OPTIONS,
        )
    assert same(net, before)


# CSVLog, Checkpoint -----------------------------------------------------------------------------------------


def test_the_log_is_the_history(backend, tmp_path):
    path, seen = tmp_path / "log.csv", []
    callbacks = [CSVLog(path), lambda run: seen.append(path.read_text().count("\n"))]
    history = network().fit(X, LABELS, validation_fraction=0.2, callbacks=callbacks, **OPTIONS)
    history.to_csv(tmp_path / "history.csv")
    assert path.read_bytes() == (tmp_path / "history.csv").read_bytes() and seen == [2, 3, 4]
    network().fit(X, LABELS, callbacks=callbacks[:1], **OPTIONS | {"epochs": 1})
    assert (
        path.read_text().startswith("epoch,loss,seconds,learning_rate\n1,")
        and path.read_text().count("\n") == 2
    )


@pytest.mark.parametrize(("every", "saved"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
@pytest.mark.parametrize("by", ["epochs", "callback"])
def test_when_a_checkpoint_is_written(backend, tmp_path, every, saved, by):
    written = []

    class Spy(Checkpoint):
        def epoch_end(self, run):
            run.save = lambda path: written.append(run.epoch)
            super().epoch_end(run)

    callbacks = [Spy(tmp_path / "c.npz", every=every), lambda run: by == "callback" and run.epoch == 5]
    epochs = 5 if by == "epochs" else 9
    network().fit(X, LABELS, callbacks=callbacks, **OPTIONS | {"epochs": epochs})
    assert written == saved


@pytest.mark.parametrize(("every", "kind"), [(0, ValueError), (1.0, TypeError), (True, TypeError)])
def test_bad_checkpoints(every, kind):
    with pytest.raises(kind, match=r"^every: got "):
        Checkpoint("c.npz", every=every)


# The clock --------------------------------------------------------------------------------------------------


def test_time_limit(backend, monkeypatch):
    """An epoch under way does not count; one that is over when the time is does."""
    slow = SimpleNamespace(batch_end=lambda run: time.sleep(0.002))
    sgd = SGD()
    history = network().fit(
        X, LABELS, time_limit=0.05, callbacks=[slow], optimizer=sgd, **OPTIONS | {"epochs": 10**6}
    )
    assert history.stopped == "the time limit" and lists(history) <= {len(history)}
    assert len(history) <= sgd.steps / BATCHES <= 25 / BATCHES


def test_a_time_limit_within_one_call_of_the_engine(backend):
    """Without callbacks and progress the clock is looked at, too."""
    net, sgd = network(), SGD(1e-4)
    x, labels = np.tile(X, (20_000, 1)), np.tile(LABELS, 20_000)
    history = net.fit(x, labels, epochs=1, batch_size=1, time_limit=0.15, optimizer=sgd, progress=False)
    assert len(history) == 0 and history.stopped == "the time limit" and 0 < sgd.steps < len(x)


def test_a_time_limit_that_is_not_reached(backend):
    net, other = network(), network()
    a = net.fit(X, LABELS, time_limit=1e6, **OPTIONS)
    assert a.stopped == "" and told(a) == told(other.fit(X, LABELS, **OPTIONS)) and same(net, other)
