"""fit: epochs of batches, shuffling, what is reported, how it fails and how it is interrupted."""

from __future__ import annotations

import contextlib
import copy
import io
import sys

import numpy as np
import pytest
from interrupts import needs_signals, raising

import fastbp
from fastbp import MLP, SGD, Adam, DivergenceError, History, _backend, progress, training
from fastbp.outputs import LOSSES

N, BATCH = 103, 16  # six batches of 16 and one of 7
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 6))
LABELS = RNG.integers(0, 3, N)
ROWS = RNG.random((N, 3))
OPTIMIZERS = [
    lambda: SGD(0.3),
    lambda: SGD(0.2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    lambda: Adam(0.01),
]


def network(dtype="float32", **options):
    return MLP([6, 8, 3], dtype=dtype, seed=1, **options)


# Epochs of batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_is_a_sequence_of_steps(backend, make_optimizer, shuffle, dtype):
    net, stepped = network(dtype), network(dtype)
    history = net.fit(
        X, LABELS, epochs=3, batch_size=BATCH, optimizer=make_optimizer(), shuffle=shuffle, progress=False
    )
    generator, optimizer = copy.deepcopy(stepped)._generator, make_optimizer()
    for epoch in range(3):
        order = generator.permutation(N) if shuffle else np.arange(N)
        batches = [order[start : start + BATCH] for start in range(0, N, BATCH)]
        assert [len(rows) for rows in batches] == [16, 16, 16, 16, 16, 16, 7]
        losses = [stepped.step(X[rows], LABELS[rows], optimizer) for rows in batches]
        mean = np.average(
            losses, weights=[len(rows) for rows in batches]
        )  # over the examples, not the batches
        assert history.loss[epoch] == pytest.approx(mean, rel=N * np.finfo(np.float64).eps)
    assert (net.parameters == stepped.parameters).all()  # bit for bit


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.by_class])
def test_rows_of_targets(backend, loss):
    net = network(loss=loss)
    before = net.loss(X, ROWS)
    history = net.fit(X, ROWS, epochs=20, progress=False)
    assert history.loss[-1] < history.loss[0] and net.loss(X, ROWS) < before


def test_soft_targets_train_like_class_indices(backend):
    a, b = network("float64"), network("float64")
    a.fit(X, LABELS, epochs=3, progress=False)
    b.fit(X, np.eye(3)[LABELS], epochs=3, progress=False)
    # twelve updates, each of gradients that differ by a few roundings
    np.testing.assert_allclose(a.parameters, b.parameters, rtol=0, atol=12 * 16 * np.finfo(float).eps)


def test_a_seed_determines_the_training(backend):
    def trained(seed):
        net = MLP([6, 8, 3], seed=seed)
        net.fit(X, LABELS, epochs=2, batch_size=BATCH, progress=False)
        return net.parameters

    assert (trained(0) == trained(0)).all() and (trained(0) != trained(1)).any()


def test_shuffling_changes_the_order_from_epoch_to_epoch(backend):
    net, other = network(), network()
    net.fit(X, LABELS, epochs=2, batch_size=BATCH, progress=False)
    other.fit(X, LABELS, epochs=1, batch_size=BATCH, progress=False)
    other.fit(X, LABELS, epochs=1, batch_size=BATCH, progress=False)
    assert (net.parameters == other.parameters).all()  # a second call goes on where the first ended
    still = network()
    still.fit(X, LABELS, epochs=2, batch_size=BATCH, shuffle=False, progress=False)
    assert (net.parameters != still.parameters).any()


def test_inputs_are_not_touched(backend):
    x, t = X.astype(np.float32), LABELS.astype(np.int64)
    kept = x.copy(), t.copy()
    x.flags.writeable = t.flags.writeable = False
    network().fit(x, t, epochs=1, progress=False)
    assert (x == kept[0]).all() and (t == kept[1]).all()


def test_a_batch_may_be_larger_than_all(backend):
    net, whole = network(), network()
    net.fit(X, LABELS, epochs=2, batch_size=10**12, shuffle=False, progress=False)
    sgd = SGD()
    for _ in range(2):
        whole.step(X, LABELS, sgd)
    assert (net.parameters == whole.parameters).all()


def test_the_twin_and_the_kernels_agree(dtype):
    histories = []
    for name in ("reference", "native"):
        try:
            with _backend.use(name):
                net = network(dtype)
                histories.append(net.fit(X, LABELS, epochs=5, batch_size=BATCH, progress=False).loss)
        except ModuleNotFoundError:
            pytest.skip("the compiled kernels are not built")
    # One rounding of the parameters in each of 35 updates, all in the same direction.
    np.testing.assert_allclose(*histories, rtol=35 * np.finfo(dtype).eps)


# History and the progress line ------------------------------------------------------------------------------


def test_history(backend):
    history = network().fit(X, LABELS, epochs=3, progress=False)
    assert isinstance(history, History) and len(history) == len(history.loss) == len(history.seconds) == 3
    assert all(isinstance(loss, float) for loss in history.loss) and all(s > 0 for s in history.seconds)
    assert repr(History([1.5, 0.5], [0.25, 0.5])) == "History(2 epochs, loss 1.5 -> 0.5, 0.75 s)"
    assert repr(History([1.5], [0.25])) == "History(1 epoch, loss 1.5 -> 1.5, 0.25 s)"
    assert repr(History()) == "History(0 epochs, 0 s)"
    assert History() == History([], [])


def test_no_epochs(backend):
    net = network()
    before = net.parameters.copy()
    assert len(net.fit(X, LABELS, epochs=0)) == 0 and (net.parameters == before).all()


def lines_of(err):
    """What stays of each line in the end."""
    return [line.split("\r")[-1].rstrip() for line in err.rstrip("\n").split("\n")]


def test_a_line_for_each_long_epoch(backend, capfd, monkeypatch):
    monkeypatch.setattr(progress, "_LONG_EPOCH", 0.0)
    history = network().fit(X, LABELS, epochs=2, batch_size=BATCH)
    out, err = capfd.readouterr()
    lines = lines_of(err)
    assert out == "" and len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {epoch}/2 ") and " 7/7 batches " in line
        assert line.endswith(f"loss {history.loss[epoch - 1]:.4f}")


@pytest.mark.parametrize(("epochs", "long"), [(3, 60.0), (100, 60.0), (101, 0.0), (500, 0.0)])
def test_one_bar_for_many_or_short_epochs(backend, capfd, monkeypatch, epochs, long):
    monkeypatch.setattr(progress, "_LONG_EPOCH", long)
    history = network().fit(X, LABELS, epochs=epochs, batch_size=BATCH)
    (line,) = lines_of(capfd.readouterr().err)
    assert line.startswith(f"epoch {epochs}/{epochs} ") and f" {7 * epochs}/{7 * epochs} batches " in line
    assert line.endswith(f"loss {history.loss[-1]:.4f}")


def test_one_short_epoch_has_a_line(backend, capfd):
    network().fit(X, LABELS, epochs=1, batch_size=BATCH)
    (line,) = lines_of(capfd.readouterr().err)
    assert line.startswith("epoch 1/1 ") and " 7/7 batches " in line


def test_the_bar_stays_where_training_diverged(backend, capfd):
    x = X.copy()
    x[80] = np.nan
    with pytest.raises(DivergenceError):
        network().fit(x, LABELS, epochs=3, batch_size=BATCH, shuffle=False)
    (line,) = lines_of(capfd.readouterr().err)
    assert line.startswith("epoch 1/3 ")


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def closed_stream():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed_stream(), Broken()], ids=["none", "closed", "broken"])
@pytest.mark.parametrize("long", [0.0, 60.0])
def test_without_standard_error_nothing_is_shown(backend, monkeypatch, stream, long):
    monkeypatch.setattr(progress, "_LONG_EPOCH", long)
    monkeypatch.setattr(sys, "stderr", stream)
    assert len(network().fit(X, LABELS, epochs=3, batch_size=BATCH)) == 3


def test_standard_error_may_go_while_it_is_written_to(backend, monkeypatch, tmp_path):
    stream = (tmp_path / "stderr").open("w")
    monkeypatch.setattr(sys, "stderr", stream)

    class Closing(SGD):
        def hyper_parameters(self, *arguments):
            stream.close()
            return super().hyper_parameters(*arguments)

    assert len(network().fit(X, LABELS, epochs=3, batch_size=BATCH, optimizer=Closing(0.1))) == 3


def test_silence(backend, capfd):
    network().fit(X, LABELS, epochs=2, progress=False)
    assert capfd.readouterr() == ("", "")


def test_without_tqdm(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^progress: got True without tqdm, expected .*progress=False$"
    ):
        network().fit(X, LABELS)
    network().fit(X, LABELS, epochs=1, progress=False)


# What it refuses --------------------------------------------------------------------------------------------

FIT_ERRORS = [
    ({"epochs": -1}, ValueError, "epochs: got -1, expected an integer >= 0"),
    ({"epochs": 1.5}, TypeError, "epochs: got float, expected an integer >= 0"),
    ({"batch_size": 0}, ValueError, "batch_size: got 0, expected an integer >= 1"),
    ({"batch_size": None}, TypeError, "batch_size: got NoneType, expected an integer >= 1"),
    ({"optimizer": "sgd"}, TypeError, "optimizer: got str, expected an instance of Optimizer"),
    ({"shuffle": "yes"}, TypeError, "shuffle: got str, expected True or False"),
    ({"progress": 1}, TypeError, "progress: got int, expected True or False"),
    ({"X": np.empty((0, 6)), "T": []}, ValueError, "X: got shape (0, 6), expected at least one example"),
    ({"X": X[:, 1:]}, ValueError, "X: got shape (103, 5), expected (N, 6), one row for each example"),
    ({"T": LABELS[1:]}, ValueError, "T: got 102 class indices, expected 103, one for each row of inputs"),
    (
        {"T": LABELS + 1},
        IndexError,
        f"T: row {(LABELS == 2).argmax()} is 3, expected a class index in [0, 3)",
    ),
]


@pytest.mark.parametrize(("changed", "kind", "message"), FIT_ERRORS)
def test_bad_calls(backend, changed, kind, message):
    net = network()
    before = net.parameters.copy()
    arguments = {"X": X, "T": LABELS, "epochs": 1, "progress": False} | changed
    with pytest.raises(kind) as caught:
        net.fit(**arguments)
    assert str(caught.value) == message
    assert (net.parameters == before).all()


# Divergence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson_deviance"])
def test_divergence_keeps_the_last_finite_parameters(backend, loss, kind, dtype):
    def make_optimizer():
        far = float(
            np.sqrt(np.finfo(dtype).max)
        )  # Adam's first step, after which outputs overflow when squared
        return {"sgd": SGD(1e3), "momentum": SGD(1e3, momentum=0.9), "adam": Adam(far)}[kind]

    net = MLP([6, 4, 3], activation="identity", loss=loss, dtype=dtype, seed=0)
    stepped = copy.deepcopy(net)
    with pytest.raises(DivergenceError) as caught:
        net.fit(
            X, ROWS, epochs=1000, batch_size=BATCH, optimizer=make_optimizer(), shuffle=False, progress=False
        )
    error, message = caught.value, str(caught.value)
    assert np.isfinite(net.parameters).all()
    assert message.startswith(f"training diverged in epoch {error.epoch}, batch {error.batch} of 7: ")
    assert f"layer {error.layer} (" in message and error.layer in (1, 2)
    assert f"the largest weight is {error.largest_weight:.6g}, weights[" in message
    assert abs(error.largest_weight) == max(np.abs(w).max() for w in net.weights)
    assert len(error.history) == error.epoch - 1 and isinstance(error, ArithmeticError)

    optimizer = make_optimizer()
    with pytest.raises(DivergenceError, match=r"^training diverged in this step: "):
        for step in range(7 * 1000):
            start = step % 7 * BATCH
            stepped.step(X[start : start + BATCH], ROWS[start : start + BATCH], optimizer)
    assert divmod(step, 7) == (error.epoch - 1, error.batch - 1)
    assert (net.parameters == stepped.parameters).all() and optimizer.steps == step


def test_divergence_names_the_layer_and_the_weight(backend):
    net = MLP([6, 4, 3], activation="relu", loss="squared_error", seed=0)
    net.weights[1][2, 1] = -3e38
    net.weights[0][:], net.biases[0][:] = 0, 1e4  # finite hidden units, infinite outputs
    with pytest.raises(DivergenceError) as caught:
        net.step(X, ROWS, SGD())
    assert str(caught.value) == (
        "training diverged in this step: the outputs of layer 2 (4, 3) are not finite; the largest weight is "
        "-3e+38, weights[1][2, 1]. The network keeps its last finite parameters. "
        "A smaller learning rate may help."
    )
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (None, None, 2)


@pytest.mark.parametrize("optimizer", [SGD(3e38), SGD(1.0, weight_decay=3e38)], ids=repr)
def test_a_finite_gradient_whose_update_overflows(backend, optimizer):
    net = network(activation="identity")
    net.parameters *= 10
    before = net.parameters.copy()
    with pytest.raises(
        DivergenceError, match=r"the update overflows, with a gradient of up to [\d.e-]+ in layer"
    ):
        net.step(10 * X, LABELS, optimizer)
    assert (net.parameters == before).all()


@pytest.mark.parametrize(
    "optimizer", [SGD(3e38), SGD(3e38, momentum=0.9, nesterov=True), Adam(3e38)], ids=repr
)
def test_parameters_are_finite_at_any_time(backend, optimizer):
    net, optimizer = network(), copy.deepcopy(optimizer)
    with pytest.raises(DivergenceError):
        for _ in range(5):
            before = net.parameters.copy()
            net.step(X, LABELS, optimizer)
            assert np.isfinite(net.parameters).all()
    assert (net.parameters == before).all()


def large_weight(net):
    net.weights[0][0, 0] = np.finfo(net.dtype).max * 0.9


def large_weights(net):
    net.parameters[:] = np.sqrt(np.finfo(net.dtype).max) * 1e5


def no_change(net):
    pass


LARGE = [
    (large_weight, lambda: SGD(0.1, momentum=0.9, weight_decay=1.0)),
    (large_weight, lambda: SGD(0.1, momentum=0.9, weight_decay=0.01)),
    (large_weight, lambda: SGD(1.0, weight_decay=1.0)),
    (large_weight, lambda: SGD(1e3, momentum=1.0, weight_decay=1e-3)),
    (large_weights, lambda: Adam(weight_decay=0.1)),
    (large_weights, lambda: Adam(weight_decay=1e-20)),
    (large_weights, lambda: Adam(1e3, beta_1=1 - 1e-7)),
    (no_change, lambda: SGD(1e3, momentum=1.0, nesterov=True, weight_decay=1.0)),
    (no_change, lambda: SGD(900.0, momentum=0.999, weight_decay=1e-3)),
    (no_change, lambda: Adam(900.0, epsilon=1e-11, weight_decay=1e-3)),
    (no_change, lambda: Adam(1e18, weight_decay=0.9)),
]


@pytest.mark.parametrize("start", range(len(LARGE)))
def test_fit_and_step_refuse_the_same_updates(backend, dtype, start):
    """The first that makes a parameter or a state infinite, weight decay included; what there was before it stays."""
    prepare, make_optimizer = LARGE[start]
    nets, optimizers, made = [], [], []
    x, rows = X.copy(), np.arange(N)
    x[:, 0] = 0  # the largest weight meets nothing
    for by_steps in (False, True):
        net, optimizer = MLP([6, 8, 3], activation="tanh", dtype=dtype, seed=1), make_optimizer()
        prepare(net)
        with contextlib.suppress(DivergenceError):
            for _ in range(5):
                if by_steps:
                    for first in range(0, N, BATCH):
                        net.step(
                            x[rows[first : first + BATCH]], LABELS[rows[first : first + BATCH]], optimizer
                        )
                else:
                    net.fit(
                        x,
                        LABELS,
                        epochs=1,
                        batch_size=BATCH,
                        optimizer=optimizer,
                        shuffle=False,
                        progress=False,
                    )
        nets.append(net)
        optimizers.append(optimizer)
        made.append(optimizer.steps)
        for vector in (net.parameters, *optimizer.state(net.parameters).values()):
            assert np.isfinite(vector).all()
    assert made[0] == made[1]
    for a, b in zip(
        *(
            (net.parameters, *optimizer.state(net.parameters).values())
            for net, optimizer in zip(nets, optimizers, strict=True)
        ),
        strict=True,
    ):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_data_that_are_not_finite_are_named(backend, what):
    x, t = X.copy(), ROWS.copy()
    (x if what == "inputs" else t)[41, 2] = np.nan
    net = network(loss="squared_error")
    with pytest.raises(
        DivergenceError, match=f"batch [1-7] of 7: the {what} of example 41 are not finite; "
    ) as caught:
        net.fit(x, t, batch_size=BATCH, progress=False)
    assert caught.value.layer is None and "learning rate" not in str(caught.value)
    assert np.isfinite(net.parameters).all()


@pytest.mark.parametrize("where", ["weights", "biases"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_were_not_finite_before_are_named(backend, where, value):
    """Nobody is told that the last finite ones are kept, nor to learn more slowly."""
    net = MLP([6, 8, 4, 3], activation="identity", seed=0)
    getattr(net, where)[1][..., 2] = value
    before = net.parameters.copy()
    for call in (lambda: net.step(X, LABELS, SGD()), lambda: net.fit(X, LABELS, progress=False)):
        with pytest.raises(DivergenceError) as caught:
            call()
        assert ": the parameters of layer 2 (8, 4) were not finite before; " in str(caught.value)
        assert str(caught.value).endswith("The network keeps the parameters that it had.")
        assert caught.value.layer == 2
        assert net.parameters.tobytes() == before.tobytes()


# Ctrl-C -----------------------------------------------------------------------------------------------------


def long_training(backend):
    """A network and examples of which an epoch takes a second or more."""
    n = 40_000 if backend == "native" else 10_000
    x = np.random.default_rng(0).normal(size=(n, 256)).astype(np.float32)
    return MLP([256, 4096, 10], seed=0, n_threads=1), x, np.arange(n) % 10


def assert_valid(net, x, t):
    assert np.isfinite(net.parameters).all()
    before = net.parameters.copy()
    assert np.isfinite(net.step(x[:32], t[:32], SGD())) and (net.parameters != before).any()
    assert np.isfinite(net.fit(x[:64], t[:64], epochs=1, progress=False).loss[0])


@needs_signals
def test_an_interrupt_stops_within_an_epoch(backend):
    net, x, t = long_training(backend)
    start, optimizer = net.parameters.copy(), SGD()
    with raising(KeyboardInterrupt) as send:
        send(0.3)
        history = net.fit(x, t, epochs=100, batch_size=32, optimizer=optimizer, progress=False)
    assert history.stopped == "interrupted" and len(history) == optimizer.steps // -(-len(x) // 32)
    assert optimizer.steps % -(-len(x) // 32) != 0  # updates in an epoch
    assert (net.parameters != start).any()  # it has learned something until then
    assert_valid(net, x, t)


def test_an_interrupt_inside_the_progress_line(backend, monkeypatch):
    calls = []

    class Interrupting:
        def __init__(self, epochs, n_batches):
            self.n_batches = n_batches

        @contextlib.contextmanager
        def epoch(self, number):
            yield self

        def show(self, done, loss, rows, others):
            assert 0 < done <= self.n_batches and np.isfinite(loss)
            calls.append(done)
            if len(calls) == 2:
                raise KeyboardInterrupt

        def close(self):
            calls.append("closed")

    monkeypatch.setattr(training, "Progress", Interrupting)
    net, x, t = long_training(backend)
    assert net.fit(x, t, epochs=3).stopped == "interrupted"
    assert len(calls) == 3 and calls[-1] == "closed"
    assert_valid(net, x, t)


# End to end -------------------------------------------------------------------------------------------------


def test_digits(backend):
    x, y = fastbp.datasets.load_digits()
    assert x.shape == (1797, 64) and x.dtype == np.float32 and (x.min(), x.max()) == (0, 1)
    assert y.dtype == np.int64 and np.bincount(y).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1437], order[1437:]
    net = MLP([64, 32, 10], seed=0)
    net.fit(x[train], y[train], epochs=15, optimizer=SGD(0.3, momentum=0.9), progress=False)
    assert (net.predict(x[test]) == y[test]).mean() > 0.96
