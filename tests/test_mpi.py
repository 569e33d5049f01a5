"""Ranks that train together, as threads of this process: the result is that of one process on the batches put together, whatever
the split; and whatever goes wrong on one rank, all of them end, and say so. What only processes show is in test_mpiexec.py."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from conftest import every_pair
from fake_mpi import Blocking, Comm, World, together
from tolerances import AS_GOOD_AS_EQUAL
from training_data import LABELS, ROWS, WEIGHTS, N, X, network, rounding, told

from fastbp import (
    LBFGS,
    MLP,
    SGD,
    Adagrad,
    Adam,
    DivergenceError,
    Lion,
    Muon,
    RMSprop,
    batches,
    mpi,
    ranks,
    schedules,
)
from fastbp.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau
from fastbp.outputs import LOSSES


@pytest.fixture(autouse=True)
def _threads_share_cores(monkeypatch):
    monkeypatch.setattr(ranks, "_told", True)


CLOSE = rounding(200)  # of numbers about 1, after some twenty updates by sums of a hundred terms
OPTIONS = {"epochs": 3, "shuffle": False, "progress": False}
SPLITS = {1: [0, N], 2: [0, 30, N], 3: [0, 60, 60, N], 4: [0, 3, 40, 41, N]}  # of three ranks one is empty
SIZES = [7, 5, 9, 4]  # of batches
TARGETS = {
    "softmax_cross_entropy": LABELS,
    "sigmoid_cross_entropy": ROWS,
    "sigmoid_squared_error": ROWS,
    "poisson_deviance": 3 * ROWS,
}


def shard(rank: int, size: int, *arrays: Any) -> list[Any]:
    return [None if each is None else each[slice(*SPLITS[size][rank : rank + 2])] for each in arrays]


def union(size: int, *arrays: np.ndarray) -> Any:
    """At each step the batches of all ranks, put together."""

    def batches() -> Any:
        parts = [np.arange(*SPLITS[size][rank : rank + 2]) for rank in range(size)]
        for step in itertools.count():
            rows = [part[step * n : (step + 1) * n] for part, n in zip(parts, SIZES, strict=False)]
            if not sum(map(len, rows)):
                return
            yield tuple(each[np.concatenate(rows)] for each in arrays)

    return batches


def both(
    size: int, t: np.ndarray, made: dict[str, Any], weights: Any = None, kind: Any = Comm, **fit: Any
) -> tuple[Any, ...]:
    """Networks and histories: of all ranks, and of one process on the batches put together."""
    optimizer, validated = fit.pop("optimizer", SGD), fit.pop("validated", False)
    callbacks = fit.pop("callbacks", list)

    def work(comm: Any, rank: int) -> Any:
        net = network(**made)
        x, own, w = shard(rank, size, X, t, weights)
        more = {"validation_data": tuple(shard(rank, size, X, t))} if validated else {}
        more |= {"batch_size": SIZES[rank], "sample_weight": w, "comm": comm, "callbacks": callbacks()}
        return net, net.fit(x, own, optimizer=optimizer(), **OPTIONS | more | fit)

    results = together(size, work, kind)
    for each in results:
        if isinstance(each, BaseException):
            raise each
    alone = network(**made)
    more = {"validation_data": (X, t)} if validated else {}
    arrays = (X, t) if weights is None else (X, t, weights)
    history = alone.fit(
        union(size, *arrays), optimizer=optimizer(), callbacks=callbacks(), **OPTIONS | more | fit
    )
    return [net for net, _ in results], [history for _, history in results], alone, history


def check(nets: list[MLP], histories: list[Any], alone: MLP, history: Any) -> None:
    for net, each in zip(nets, histories, strict=True):
        assert net.parameters.tobytes() == nets[0].parameters.tobytes() and told(each) == told(histories[0])
    np.testing.assert_allclose(nets[0].parameters, alone.parameters, **CLOSE)
    for name, values in history.columns().items():
        if name != "seconds":
            np.testing.assert_allclose(getattr(histories[0], name), values, **CLOSE)
    assert (histories[0].best_epoch, histories[0].stopped) == (history.best_epoch, history.stopped)


# -- one process on the batches put together -------------------------------------------------------------------


@every_pair(
    "backend", loss=sorted(LOSSES), size=[1, 2, 3, 4], validated=[False, True], weighted=[False, True]
)
def test_losses(backend, loss, size, validated, weighted):
    t = TARGETS.get(loss, ROWS - 0.5)
    check(*both(size, t, {"loss": loss}, WEIGHTS if weighted else None, validated=validated))


HOW: dict[str, dict[str, Any]] = {
    "clipped": {"clip_norm": 0.1},
    "clipped by value": {"clip_value": 0.02},
    "both": {"clip_norm": 0.2, "clip_value": 0.05},
    "weights of classes": {"class_weight": {0: 2.0, 2: 0.5}},
    "Adam": {"optimizer": lambda: Adam(0.01, weight_decay=0.01, decay_biases=True)},
    "RMSprop": {"optimizer": lambda: RMSprop(0.01, momentum=0.5)},
    "Adagrad": {"optimizer": lambda: Adagrad(0.01)},
    "Muon": {"optimizer": lambda: Muon(0.01), "clip_norm": 0.3},
    "average": {"optimizer": lambda: SGD(0.1, momentum=0.9, average=0.9), "validated": True},
    "schedule": {"optimizer": lambda: SGD(schedules.cosine(0.3, 20, warmup=3))},
    "plateau": {
        "optimizer": lambda: SGD(1.0),
        "validated": True,
        "epochs": 12,
        "callbacks": lambda: [ReduceOnPlateau(patience=1), EarlyStopping(patience=3)],
    },
    "metric": {"callbacks": lambda: [EarlyStopping("validation_metric", patience=1)], "validated": True},
}


@every_pair(
    "backend",
    how=sorted(HOW),
    size=[2, 3, 4],
    dropped=[0.0, 0.4],
    smoothing=[0.0, 0.1],
    kind=[Comm, Blocking],
)
def test_options(backend, how, size, dropped, smoothing, kind):
    made = {"dropout": dropped, "label_smoothing": smoothing}
    check(*both(size, LABELS, made, kind=kind, **HOW[how]))


def test_lion(backend):
    """Its step is a sign, which a rounding can turn where a gradient is 0: so all of them are far from it."""
    nets, histories, *_ = both(3, LABELS, {}, optimizer=lambda: Lion(0.001))
    check(nets, histories, nets[0], histories[0])


@pytest.mark.parametrize("size", [2, 3])
def test_balanced_classes_are_counted_over_all_ranks(backend, size):
    counts = np.bincount(LABELS, minlength=3)
    balanced = dict(enumerate((N / 3 / counts).tolist()))
    nets, _, alone, _ = both(size, LABELS, {}, class_weight=balanced)

    def work(comm: Any, rank: int) -> MLP:
        net = network()
        more = {"class_weight": "balanced", "batch_size": SIZES[rank]}
        net.fit(*shard(rank, size, X, LABELS), comm=comm, **OPTIONS | more)
        return net

    for net in together(size, work):
        np.testing.assert_allclose(net.parameters, alone.parameters, **CLOSE)
        np.testing.assert_allclose(net.parameters, nets[0].parameters, **CLOSE)


@pytest.mark.parametrize("dropped", [0.0, 0.4])
@pytest.mark.parametrize("size", [2, 3])
def test_iterables(backend, size, dropped):
    """Nobody knows how many batches another rank has, until it has none."""

    def work(comm: Any, rank: int) -> MLP:
        net, own = network(dropout=dropped), shard(rank, size, X, LABELS)

        def source() -> Any:
            for start in range(0, len(own[0]), SIZES[rank]):
                yield tuple(each[start : start + SIZES[rank]] for each in own)

        net.fit(source, comm=comm, **OPTIONS)
        return net

    alone = network(dropout=dropped)
    alone.fit(union(size, X, LABELS), **OPTIONS)
    for net in together(size, work):
        np.testing.assert_allclose(net.parameters, alone.parameters, **CLOSE)


class CountBatches:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def batch_end(self, info: Any) -> None:
        self.seen.append(info.batch)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_calls_of_the_engine_need_not_match(backend, size, monkeypatch):
    """One rank has another dtype and is cast part by part, another looks at each batch."""
    monkeypatch.setattr(batches, "_CAST_BYTES", 1)
    monkeypatch.setattr("fastbp.sources._LARGE", 0)
    _, _, alone, _ = both(size, LABELS, {})

    def work(comm: Any, rank: int) -> MLP:
        net, (x, t) = network(), shard(rank, size, X, LABELS)
        net.fit(x.astype(np.float32) if rank else x, t, comm=comm, batch_size=SIZES[rank], **OPTIONS)
        return net

    results = together(size, work)
    assert {net.parameters.tobytes() for net in results} == {results[0].parameters.tobytes()}
    np.testing.assert_allclose(
        results[0].parameters, alone.parameters, atol=AS_GOOD_AS_EQUAL
    )  # by the rounding of X
    counts = CountBatches()
    nets, *others = both(size, LABELS, {}, callbacks=lambda: [counts])
    check(nets, *others)
    np.testing.assert_array_equal(nets[0].parameters, nets[-1].parameters)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_an_order_of_our_own(backend, size):
    def work(comm: Any, rank: int) -> MLP:
        net = network()
        ours = mpi.Communicator(comm, reproducible=True)
        net.fit(*shard(rank, size, X, LABELS), comm=ours, batch_size=SIZES[rank], **OPTIONS)
        return net

    _, _, alone, _ = both(size, LABELS, {})
    for net in together(size, work):
        np.testing.assert_allclose(net.parameters, alone.parameters, **CLOSE)


def test_shuffling_and_a_fraction_held_out(backend):
    """Each rank has an order of its own, and all of them the same state of the generator."""
    seen: list[set[bytes]] = [set(), set()]

    def work(comm: Any, rank: int) -> Any:
        def watch(info: Any) -> None:
            seen[rank].add(info.parameters.tobytes())

        net = network(seed=3)
        history = net.fit(
            X, LABELS, validation_fraction=0.2, comm=comm, epochs=3, progress=False, callbacks=[watch]
        )
        return net, history

    (net, a), (other, b) = together(2, work)
    assert told(a) == told(b) and len(a.validation_loss) == 3 and seen[0] == seen[1] and len(seen[0]) == 3
    assert net._random_state().bit_generator.state == other._random_state().bit_generator.state
    (again, c), _ = together(2, work)
    assert again.parameters.tobytes() == net.parameters.tobytes() and told(a) == told(c)


@pytest.mark.parametrize("size", [2, 3])
def test_lbfgs(backend, size):
    pytest.importorskip("scipy")

    def work(comm: Any, rank: int) -> Any:
        net = network()
        return net, net.fit(*shard(rank, size, X, LABELS), comm=comm, optimizer=LBFGS(), **OPTIONS)

    results = together(size, work)
    alone = network()
    history = alone.fit(X, LABELS, optimizer=LBFGS(), **OPTIONS)
    for net, each in results:
        np.testing.assert_allclose(net.parameters, alone.parameters, **rounding(10**5))  # of a line search
        np.testing.assert_allclose(each.loss, history.loss, **rounding(10**5))
    bad = X.copy()
    bad[N - 1, 2] = np.nan  # of the last rank
    errors = together(
        size,
        lambda comm, rank: network().fit(
            *shard(rank, size, bad, LABELS), comm=comm, optimizer=LBFGS(), **OPTIONS
        ),
    )
    assert {str(error)[:6] for error in errors} == {f"rank {size - 1}"}


# -- what is refused before the first step -----------------------------------------------------------------------


def change(**options: Any) -> Any:
    return lambda: (network(**options), {})


DIFFERENT = {
    "layer sizes": lambda: (network(outputs=4), {}),
    "loss": change(loss="sigmoid_cross_entropy"),
    "dtype": lambda: (network("float32"), {}),
    "activations": change(activation="relu"),
    "dropout": change(dropout=0.5),
    "label smoothing": change(label_smoothing=0.5),
    "parameters": change(seed=2),
    "epochs": lambda: (network(), {"epochs": 4}),
    "shuffle": lambda: (network(), {"shuffle": True}),
    "clipping": lambda: (network(), {"clip_norm": 1.0}),
    "optimizer": lambda: (network(), {"optimizer": SGD(0.2)}),
    "callbacks": lambda: (network(), {"callbacks": [print]}),
    "class weights": lambda: (network(), {"class_weight": "balanced"}),
    "validation data": lambda: (network(), {"validation_data": (X, LABELS)}),
    "a validation fraction": lambda: (network(), {"validation_fraction": 0.5}),
}


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_ranks_that_differ_are_refused(name):
    made = [network() for _ in range(3)]

    def work(comm: Any, rank: int) -> None:
        net, more = DIFFERENT[name]() if rank == 2 else (made[rank], {})
        t = ROWS if net.loss_name.startswith("sigmoid") else LABELS
        net.fit(X, t, comm=comm, **OPTIONS | more)

    before = made[0].parameters.copy()
    for error in together(3, work):
        assert isinstance(error, ValueError) and str(error).startswith(f"comm: got rank 2 with {name} ")
    np.testing.assert_array_equal(made[0].parameters, before)


def test_a_generator_that_has_drawn_is_refused():
    def work(comm: Any, rank: int) -> None:
        net = network()
        net._generator.integers(10, size=rank)
        net.fit(X, LABELS, comm=comm, **OPTIONS)

    for error in together(2, work):
        assert "got rank 1 with a generator" in str(error)


def test_another_version_is_refused(monkeypatch):
    versions = iter(["1.0", "2.0"])
    lock = threading.Lock()

    def compare(self: Any, facts: Any, expected: str) -> None:
        with lock:
            facts = {"fastbp": next(versions)} if "fastbp" in facts else facts
        original(self, facts, expected)

    from fastbp.ranks import Ranks

    original = Ranks.compare
    monkeypatch.setattr(Ranks, "compare", compare)
    for error in together(2, lambda comm, rank: network().fit(X, LABELS, comm=comm, **OPTIONS)):
        assert isinstance(error, ValueError) and "expected the same version on all ranks" in str(error)


def test_no_examples_at_all():
    for error in together(2, lambda comm, rank: network().fit(X[:0], LABELS[:0], comm=comm, **OPTIONS)):
        assert str(error) == "X: got no example on any of 2 ranks, expected some"
    for error in together(2, lambda comm, rank: network().fit(list, comm=comm, **OPTIONS)):
        assert str(error).startswith("X: got no batch in this epoch, expected some")


@pytest.mark.parametrize("comm", [3, "world", object()])
def test_what_is_no_communicator(comm):
    with pytest.raises(
        TypeError, match=r"^comm: got (int|str|object) without Dup, .* as mpi4py.MPI.COMM_WORLD"
    ):
        network().fit(X, LABELS, comm=comm, **OPTIONS)


def test_arguments_of_a_communicator():
    with pytest.raises(ValueError, match=r"^timeout: got 0"):
        mpi.Communicator(Comm(World(1), 0), timeout=0)
    (error,) = together(1, lambda comm, rank: mpi.Communicator(comm, reproducible=True), Blocking)
    assert isinstance(error, TypeError) and "without Ialltoall, Iallgather" in str(error)


# -- nobody hangs ------------------------------------------------------------------------------------------------


def fails_at(rank: int, when: str) -> Any:
    """How rank `rank` of a training fails."""

    class Fails:
        def __getattr__(self, name: str) -> Any:
            if name != when:
                raise AttributeError(name)
            return self.fail

        def fail(self, info: Any) -> None:
            if info.rank == rank and (when != "epoch_end" or info.epoch == 2):
                raise KeyError("no such thing")

    return Fails()


@pytest.mark.parametrize("when", ["fit_begin", "batch_end", "epoch_end", "fit_end"])
@pytest.mark.parametrize("reproducible", [False, True])
def test_an_exception_on_one_rank_ends_all(when, reproducible):
    def work(comm: Any, rank: int) -> None:
        ours = mpi.Communicator(comm, reproducible=reproducible)
        network().fit(X, LABELS, comm=ours, callbacks=[fails_at(1, when)], **OPTIONS)

    for rank, error in enumerate(together(3, work)):
        if rank == 1:
            assert isinstance(error, KeyError)
        else:
            assert isinstance(error, mpi.RankError) and error.rank == 1
            assert str(error) == "rank 1: KeyError: 'no such thing'"


@pytest.mark.parametrize("bad", [{"X": X[:, :2]}, {"T": LABELS + 9}, {"batch_size": 0}, {"clip_norm": -1}])
def test_a_bad_argument_on_one_rank_ends_all(bad):
    def work(comm: Any, rank: int) -> None:
        network().fit(**{"X": X, "T": LABELS, "comm": comm} | OPTIONS | (bad if rank == 1 else {}))

    first, second = together(2, work)
    assert isinstance(second, (ValueError, IndexError)) and isinstance(first, mpi.RankError)
    assert str(first) == f"rank 1: {type(second).__name__}: {second}"


def test_an_iterable_that_fails():
    def work(comm: Any, rank: int) -> None:
        def source() -> Any:
            yield X, LABELS
            if rank == 1:
                raise OSError("no such file")
            yield X, LABELS

        network().fit(source, comm=comm, **OPTIONS)

    errors = together(3, work)
    assert [type(error) for error in errors] == [mpi.RankError, OSError, mpi.RankError]


@every_pair("backend", failing=[0, 2], what=["inputs", "outputs", "update"])
def test_divergence_is_told_alike(backend, failing, what):
    bad = X.copy()
    bad[50, 2] = np.nan if what == "inputs" else 1.0

    def work(comm: Any, rank: int) -> None:
        net = network(loss="squared_error", activation="relu")
        t = ROWS * (1e200 if what == "outputs" and rank == failing else 1.0)
        rate = 1e308 if what == "update" else 1e-3
        x = bad if rank == failing else X
        net.fit(x, t, comm=comm, batch_size=10, optimizer=SGD(rate), **OPTIONS)

    errors = together(3, work)
    first = errors[0]
    assert all(isinstance(error, DivergenceError) and str(error) == str(first) for error in errors)
    assert (first.epoch, first.layer, first.largest_weight) == (
        errors[1].epoch,
        errors[1].layer,
        errors[1].largest_weight,
    )
    if what != "update":
        assert str(first).startswith(f"rank {failing}: training diverged in epoch 1, batch ")
    if what == "inputs":
        assert "the inputs of example 50 are not finite" in str(first) and first.batch == 6


def test_a_wish_to_stop_reaches_all():
    def stop(info: Any) -> bool:
        return info.rank == 1 and info.epoch == 2

    def work(comm: Any, rank: int) -> Any:
        net = network()
        return net, net.fit(X, LABELS, comm=comm, callbacks=[stop], **OPTIONS)

    results = together(3, work)
    assert {history.stopped for _, history in results} == {"a callback asked for it in epoch 2 (rank 1)"}
    assert {len(history) for _, history in results} == {2}
    assert len({net.parameters.tobytes() for net, _ in results}) == 1


def test_a_time_limit_on_one_rank():
    def work(comm: Any, rank: int) -> Any:
        net = network()
        more = {"time_limit": 0.05 if rank == 1 else None, "epochs": 10**6}
        return net, net.fit(X, LABELS, comm=comm, **OPTIONS | more)

    (net, a), (other, b) = together(2, work)
    assert a.stopped == b.stopped == "the time limit (rank 1)" and len(a) == len(b)
    assert net.parameters.tobytes() == other.parameters.tobytes()


def test_sums_that_differ_among_ranks_are_noticed():
    def work(comm: Any, rank: int) -> None:
        network().fit(X, LABELS, comm=comm, **OPTIONS)

    for error in together(3, work, astray=2):
        assert isinstance(error, RuntimeError)
        assert "got other parameters on rank 2 than on rank 0 after epoch 1" in str(error)


def test_a_rank_that_does_not_come():
    def work(comm: Any, rank: int) -> None:
        ours = mpi.Communicator(comm, timeout=0.2)
        if rank == 0:
            network().fit(X, LABELS, comm=ours, **OPTIONS)

    error, _ = together(2, work)
    assert isinstance(error, TimeoutError) and "comm: got no answer within 0.2" in str(error)


def test_ranks_that_share_cores_are_told_once(monkeypatch):
    monkeypatch.setattr(ranks, "_told", False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 70})

    def work(comm: Any, rank: int) -> None:
        network(n_threads=rank + 1).fit(X, LABELS, comm=comm, **OPTIONS)

    with pytest.warns(RuntimeWarning, match="3 ranks on one host take 6 threads on 2 cores") as told:
        assert together(3, work) == [None] * 3
        assert together(3, work) == [None] * 3
    assert len(told) == 1


@pytest.mark.parametrize("apart", ["cores", "hosts"])
def test_ranks_that_share_no_cores_are_told_nothing(monkeypatch, apart):
    monkeypatch.setattr(ranks, "_told", False)
    place, lock = itertools.count(), threading.Lock()

    def number(*ignored: Any) -> int:
        with lock:
            return next(place)

    if apart == "cores":
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {number()})
    else:
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
        monkeypatch.setattr("platform.node", lambda: f"node-{number()}")
    assert (
        together(3, lambda comm, rank: network(n_threads=1).fit(X, LABELS, comm=comm, **OPTIONS) and 0)
        == [0] * 3
    )


# -- files, messages ---------------------------------------------------------------------------------------------


def test_files_are_of_the_first_rank(tmp_path, capsys):
    def work(comm: Any, rank: int) -> None:
        files = [
            Checkpoint(tmp_path / f"{rank}.npz"),
            CSVLog(tmp_path / f"{rank}.csv"),
        ]
        network().fit(X, LABELS, comm=comm, callbacks=files, **OPTIONS | {"progress": True})

    assert together(3, work) == [None] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "0.npz"]
    assert len((tmp_path / "0.csv").read_text().splitlines()) == 4
    assert sum("epoch 3/3" in line for line in capsys.readouterr().err.split("\n")) <= 1


@pytest.mark.parametrize("resumed", [1, 2, 4])
def test_going_on_with_another_number_of_ranks(backend, resumed, tmp_path):
    """The batches put together are the same, so are the sums within rounding."""
    path = tmp_path / "training.npz"

    def work(comm: Any, rank: int, epochs: int = 2, **more: Any) -> Any:
        net, rows = network(dropout=0.2), slice(rank, None, comm.Get_size())
        net.fit(
            X[:96][rows], LABELS[:96][rows], comm=comm, batch_size=24 // comm.Get_size(),
            optimizer=Adam(), callbacks=[Checkpoint(path)], **OPTIONS | {"epochs": epochs} | more,
        )  # fmt: skip
        return net

    whole = together(2, lambda comm, rank: work(comm, rank, 4))[0]
    together(2, work)
    results = together(resumed, lambda comm, rank: work(comm, rank, 4, resume=path))
    if resumed == 2:
        assert results[0].parameters.tobytes() == whole.parameters.tobytes()
    assert len({net.parameters.tobytes() for net in results}) == 1


def test_mpi4py_is_not_imported():
    code = "import sys, fastbp, fastbp.mpi; assert not {'mpi4py', 'mpi4py.MPI'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
