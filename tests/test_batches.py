"""Where examples come from: iterables of batches, memory maps, arrays too large to be cast at once, tables of other libraries."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from conftest import every_pair
from training_data import BATCH, LABELS, OPTIONS, ROWS, WEIGHTS, N, X, lists, network, same, told

from fastbp import SGD, Adam, DivergenceError, batches, sources
from fastbp.callbacks import EarlyStopping

STARTS = range(0, N, BATCH)
PARTS = [(X[start : start + BATCH], LABELS[start : start + BATCH]) for start in STARTS]
WEIGHTED = [(X[s : s + BATCH], LABELS[s : s + BATCH], WEIGHTS[s : s + BATCH]) for s in STARTS]
IN_ORDER = OPTIONS | {"shuffle": False}


def generator(parts=PARTS):
    yield from parts


class Loader:
    """An iterable that knows no length."""

    def __iter__(self):
        return generator()


# Iterables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("source", [PARTS, tuple(map(list, PARTS)), generator, lambda: iter(PARTS), Loader()])
def test_batches_are_taken_as_they_come(backend, dtype, source, shuffle):
    net, other = network(dtype), network(dtype)
    validation = {"validation_data": (X[:20], LABELS[:20])}
    a = net.fit(source, optimizer=Adam(), **validation, **OPTIONS | {"shuffle": shuffle, "batch_size": 5})
    b = other.fit(X, LABELS, optimizer=Adam(), **validation, **IN_ORDER)
    assert same(net, other) and a.validation_loss == b.validation_loss and lists(a) == {3}
    assert a.loss == pytest.approx(b.loss, rel=1e-13) and a.best_epoch == b.best_epoch


def test_a_generator_serves_one_epoch(backend):
    net, other = network(), network()
    net.fit(generator(), **OPTIONS | {"epochs": 1})
    other.fit(X, LABELS, **IN_ORDER | {"epochs": 1})
    assert same(net, other)
    with pytest.raises(
        ValueError, match=r"^X: got no batch in this epoch, expected some; an iterator ends once: give a"
    ):
        net.fit(generator(), **OPTIONS)


@pytest.mark.parametrize("source", [WEIGHTED, lambda: generator(WEIGHTED)])
def test_batches_with_weights(backend, source):
    net, other = network(), network()
    a = net.fit(source, **OPTIONS)
    b = other.fit(X, LABELS, sample_weight=WEIGHTS, **IN_ORDER)
    assert same(net, other) and a.loss == pytest.approx(b.loss, rel=1e-13)


def test_batches_of_all_sizes(backend):
    """Empty ones, and those of no weight, are passed over."""
    net, other, seen = network(), network(), []
    empty, none = (X[:0], LABELS[:0]), (X[:3], LABELS[:3], np.zeros(3))
    source = [empty, *PARTS[:2], none, empty, (X[32:], LABELS[32:], None)]

    class Look:
        def batch_end(self, run):
            seen.append(run.batch)

    sgd, plain = SGD(), SGD()
    history = net.fit(source, optimizer=sgd, callbacks=[Look()], **OPTIONS | {"epochs": 1})
    losses = [other.step(*part, plain) for part in (*PARTS[:2], (X[32:], LABELS[32:]))]
    assert same(net, other) and seen == [1, 2, 3, 4] and sgd.steps == 3
    assert history.loss == pytest.approx([np.average(losses, weights=[16, 16, N - 32])], rel=1e-14)
    assert np.isnan(network().fit([empty], **OPTIONS | {"epochs": 1}).loss).all()


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            None,
            TypeError,
            r"X: got NoneType without T, expected an array with T, or an iterable of batches \(x, t\)",
        ),
        (3, TypeError, "X: got int without T"),
        (X, TypeError, "T: got None with X an array, expected one target for each row of X"),
        ([X], TypeError, r"X: batch 1 is ndarray, expected \(x, t\) or \(x, t, sample_weight\)"),
        ([(X,)], TypeError, "X: batch 1 is 1 things, expected"),
        ([(X, LABELS, None, None)], TypeError, "X: batch 1 is 4 things"),
        ("abc", TypeError, "X: batch 1 is str"),
        ({"x": X}, TypeError, "X: batch 1 is str"),
        ([], ValueError, "X: got no batch in this epoch"),
        (list, ValueError, "X: got no batch in this epoch"),
        (
            [PARTS[0], (X[:, :5], LABELS)],
            ValueError,
            r"X: batch 2, x: got shape \(103, 5\), expected \(N, 6\)",
        ),
        ([PARTS[0], (X, LABELS + 1)], ValueError, r"X: batch 2, t: row \d+ is 3, expected a class index"),
        ([(X, LABELS, -WEIGHTS)], ValueError, r"X: batch 1, sample_weight: row \d+ is -"),
        ([(X, LABELS[1:])], ValueError, "X: batch 1, t: got 102 class indices"),
    ],
)
def test_wrong_sources(backend, source, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        network().fit(source, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"validation_fraction": 0.1},
            "validation_fraction: got 0.1, expected 0 with an iterable of batches",
        ),
        (
            {"sample_weight": WEIGHTS},
            r"sample_weight: got ndarray, expected None with an iterable .* \(x, t, sample_w",
        ),
        ({"callbacks": [EarlyStopping("metric")]}, "monitor: got metric without examples in arrays"),
    ],
)
def test_what_iterables_do_not_go_with(backend, options, message):
    net, adam = network(), Adam()
    before = copy.deepcopy(net)
    with pytest.raises(ValueError, match=f"^{message}"):
        net.fit(PARTS, optimizer=adam, **options, **OPTIONS)
    assert same(net, before) and not adam._vectors


def test_an_error_of_the_source_comes_out(backend):
    def broken():
        yield PARTS[0]
        raise OSError("the disk")

    sgd = SGD()
    with pytest.raises(OSError, match="the disk"):
        network().fit(broken, optimizer=sgd, **OPTIONS)
    assert sgd.steps == 1


def test_a_stopped_source_is_closed(backend):
    """Its `finally` runs, and the batches of a list that end it are an epoch."""
    closed = []

    def source():
        try:
            yield from PARTS
        finally:
            closed.append(True)

    class Stop:
        def batch_end(self, run):
            return run.batch == self.batch

    stop = Stop()
    stop.batch = 2
    assert len(network().fit(source, callbacks=[stop], **OPTIONS)) == 0 and closed == [True]
    stop.batch = len(PARTS)
    assert len(network().fit(PARTS, callbacks=[stop], **OPTIONS)) == 1


def test_divergence_in_a_batch_of_an_iterable(backend):
    bad = X[:5].copy()
    bad[3, 1] = np.nan
    with pytest.raises(
        DivergenceError, match="epoch 1, batch 2 of 2: the inputs of example 3 are not finite"
    ) as caught:
        network().fit([PARTS[0], (bad, LABELS[:5])], **OPTIONS)
    assert (caught.value.epoch, caught.value.batch) == (1, 2)


def test_examples_that_training_writes_over(backend):
    """The parameters themselves as a batch: it is of the values before its update."""
    net = network(loss="squared_error")
    other = copy.deepcopy(net)
    view, t = net.parameters[:72].reshape(12, 6), ROWS[:12]
    net.fit([(view, t)] * 3, **OPTIONS | {"epochs": 1})
    for _ in range(3):
        other.step(other.parameters[:72].reshape(12, 6).copy(), t, SGD())
    assert same(net, other)


# Arrays, large and foreign ----------------------------------------------------------------------------------


def cast_by_parts(monkeypatch):
    monkeypatch.setattr(sources, "_LARGE", 100)
    monkeypatch.setattr(batches, "_CAST_BYTES", 2 * BATCH * 6 * 8)


@pytest.fixture(params=["whole", "by parts"])
def by_parts(request, monkeypatch):
    """Whether arrays count as too large to be cast at once, and are cast two batches at a time."""
    if request.param == "by parts":
        cast_by_parts(monkeypatch)


FOREIGN = ["float16", ">f4", ">f8", "int8", "uint16", "int64", "bool", "longdouble"]
LAYOUTS = ["array", "memmap", "read-only", "strided", "reversed", "Fortran"]


@every_pair("backend", "dtype", given=FOREIGN, layout=LAYOUTS, shuffle=[True, False], parts=[True, False])
def test_examples_of_another_dtype(backend, dtype, given, layout, shuffle, parts, monkeypatch, tmp_path):
    """The same bits as those that were cast before; with weights, a validation set and a metric."""
    if parts:
        cast_by_parts(monkeypatch)
    x = (X * 3).astype(given)
    if layout == "memmap":
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif layout == "read-only":
        x.flags.writeable = False
    elif layout == "strided":
        x = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    elif layout == "reversed":
        x = x[::-1].copy()[::-1]
    elif layout == "Fortran":
        x = np.asfortranarray(x)
    if x.dtype == np.longdouble and np.longdouble is np.float64:
        pytest.skip("no wider floats here")
    net, other = network(dtype, dropout=0.1), network(dtype, dropout=0.1)
    callbacks = [EarlyStopping("metric")]
    options = OPTIONS | {
        "shuffle": shuffle,
        "sample_weight": WEIGHTS,
        "validation_fraction": 0.2,
        "callbacks": callbacks,
    }
    a = net.fit(x, LABELS, optimizer=Adam(), **options)
    b = other.fit(np.array(x, dtype), LABELS, optimizer=Adam(), **options)
    assert same(net, other) and a.loss == pytest.approx(b.loss, rel=1e-13)
    assert told(a) | {"loss": 0} == told(b) | {"loss": 0}


@pytest.mark.parametrize("given", ["float32", "float64", "int16"])
def test_a_step_and_a_batch_are_cast_at_once(backend, dtype, by_parts, given):
    x = (X * 3).astype(given)
    nets = [network(dtype) for _ in range(3)]
    nets[0].step(x, LABELS, SGD())
    nets[1].fit([(x, LABELS)], **OPTIONS | {"epochs": 1})
    nets[2].step(x.astype(dtype), LABELS, SGD())
    assert same(nets[0], nets[2]) and same(nets[1], nets[2])


def test_rows_of_large_arrays_are_named(backend, by_parts):
    """By their place among those that were given."""
    x = X.astype(np.float32)
    x[77, 2] = np.inf
    with pytest.raises(DivergenceError, match="the inputs of example 77 are not finite"):
        network().fit(x, LABELS, **OPTIONS)


def test_large_values_do_not_fit(backend, by_parts):
    """What float32 cannot hold becomes infinite, which training tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, at the cast
        with pytest.raises(DivergenceError, match="the inputs of example 0 are not finite"):
            network("float32").fit(
                np.full((4, 6), 1e300), [0, 1, 2, 0], shuffle=False, epochs=1, progress=False
            )


def test_lists_and_tables(backend):
    net, other = network(), network()
    other.fit(X, LABELS, sample_weight=WEIGHTS, validation_data=(X, LABELS), **OPTIONS)
    net.fit(
        X.tolist(),
        LABELS.tolist(),
        sample_weight=WEIGHTS.tolist(),
        validation_data=[X.tolist(), LABELS.tolist()],
        **OPTIONS,
    )
    assert same(net, other)


def test_pandas(backend):
    pandas = pytest.importorskip("pandas")
    net, other = network(), network()
    frame, index = pandas.DataFrame(X), range(N, 2 * N)  # labels that are no places
    series = pandas.Series(LABELS, index=index)
    net.fit(
        frame, series, sample_weight=pandas.Series(WEIGHTS, index=index), validation_fraction=0.2, **OPTIONS
    )
    other.fit(X, LABELS, sample_weight=WEIGHTS, validation_fraction=0.2, **OPTIONS)
    assert same(net, other)
