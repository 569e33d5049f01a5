"""The benchmarks: each contestant is judged, a wrong one is marked, what is derived from times is right. No time is asserted."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import importlib.util
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # at the end: an installed fastbp stays the one under test

import fastbp
from bench import (
    boosting,
    inverse,
    linear,
    losses,
    memmap,
    memory,
    mnist,
    mpi,
    nielsen,
    options,
    peers,
    precision,
    predict,
    report,
    state,
    steps,
    sweep,
)
from bench.machine import Peaks
from bench.peers import losses as loss_peers
from bench.peers import steps as step_peers
from bench.problems import StepProblem
from bench.race import TWIN, Row, Setting
from bench.shapes import ESTIMATORS, FitShape, LossShape, PredictShape, StepShape
from bench.timing import Plan

STEP = StepShape((5, 7, 3), 6)
DTYPES = [np.dtype(name) for name in ("float32", "float64")]


@pytest.fixture(autouse=True, scope="module")
def what_others_left_stays():
    """Each measurement collects garbage before, among all that the tests before have imported: half a second in a row."""
    gc.freeze()


def setting(dtype):
    return Setting(
        dtype,
        1,
        Peaks(gflops=100.0, copy_gbs=10.0),
        Plan(sample_s=1e-5, budget_s=0.0, max_rounds=2, min_rounds=2),
    )


BENCHES = [
    (steps, STEP, step_peers.NumpyStep),
    (losses, LossShape("softmax", 6, 5, ("new", "buffer", "in place")), loss_peers.NumpyLoss),
    (losses, LossShape("sigmoid", 6, 5), loss_peers.NumpyLoss),
    (linear, linear.LinearShape(6, 4, 5), linear.NumpyLinear),
    (predict, PredictShape((5, 7, 3), 6), predict.NumpyPredict),
    (inverse, StepShape((4, 6, 4), 20), inverse.NumpyInverse),
]


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None and find_library(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "bench, shape, peer", BENCHES, ids=lambda value: getattr(value, "name", "").replace(" ", "-")
)
def test_all_contestants_compute_the_same(bench, shape, peer, dtype, backend):
    rows = bench.rows(shape, [peer], setting(dtype))
    assert {TWIN, "NumPy"} < {row.contestant for row in rows}
    for row in rows:
        assert row.residual < report.SUSPECT * np.finfo(dtype).eps and row.seconds > 0
        assert row.best_peer == ("NumPy" if row.ours else None)
    assert "!" not in report.block(rows, [TWIN, "NumPy"], dtype)


def test_a_wrong_contestant_is_marked(backend):
    class Wrong(step_peers.NumpyStep):
        def step(self):
            self.layers[0][0][0, 0] += 1
            return super().step()

    rows = steps.rows(STEP, [Wrong], setting(DTYPES[0]))
    marked = [
        line.split()[0] for line in report.block(rows, [TWIN, "NumPy"], DTYPES[0]).splitlines() if "!" in line
    ]
    assert marked == ["NumPy"]


def test_one_that_breaks_leaves_the_others(backend, capsys):
    class Broken(step_peers.NumpyStep):
        name = "Broken"

        def step(self):
            raise ArithmeticError("worn out")

    rows = steps.rows(STEP, [Broken, step_peers.NumpyStep], setting(DTYPES[0]))
    assert "Broken is left out of the next row: ArithmeticError: worn out" in capsys.readouterr().out
    assert [row.contestant for row in rows if not row.ours] == [TWIN, "NumPy"]


@needs("numba")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("products", ["by_loops", "by_blas"])
def test_numba(products, dtype, monkeypatch, backend):
    numba_step = pytest.importorskip("bench.peers.numba_step")
    monkeypatch.setattr(numba_step, "by_loops", getattr(numba_step, products))
    monkeypatch.setattr(numba_step, "by_blas", getattr(numba_step, products))
    (row,) = (
        row for row in steps.rows(STEP, [step_peers.NumbaStep], setting(dtype)) if row.contestant == "Numba"
    )
    assert row.residual < report.SUSPECT * np.finfo(dtype).eps


@needs("floatfann")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fann(dtype, backend):
    """What it computes is not comparable, so it has no residual; but a note says why."""
    (row,) = (
        row for row in steps.rows(STEP, [step_peers.FannStep], setting(dtype)) if row.contestant == "FANN"
    )
    assert row.residual is None
    assert f"FANN {step_peers.FannStep.incomparable}" in report.summary([row], dtype)


def test_choice(capsys):
    class Absent:
        name, package = "Absent", "no_such_package"

    class Unbound:
        name, package = "Unbound", "onnxruntime"

    kinds = [step_peers.NumpyStep, Absent]
    assert peers.choose(kinds, "all", quick=False, isa=None) == [step_peers.NumpyStep]
    assert capsys.readouterr().out == "Absent is left out: no_such_package is not installed\n"
    assert peers.choose(kinds, "num", quick=False, isa=None) == [step_peers.NumpyStep]
    assert peers.choose(kinds, "", quick=False, isa=None) == []
    if importlib.util.find_spec("onnxruntime"):
        assert peers.choose([Unbound], "all", quick=False, isa="avx2") == []


# -- whole training --------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    lengths = np.asarray(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Files in MNIST's format: 2×2 images, half of them compressed; the digit is where the light is."""
    labels = np.arange(40) % 4
    images = 255 * np.eye(4)[labels].reshape(-1, 2, 2)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    monkeypatch.setenv("FASTBP_MNIST", str(tmp_path))
    return images, labels


def test_idx_files(digits, tmp_path):
    images, labels = digits
    assert np.array_equal(mnist.read_idx(tmp_path / "train-images-idx3-ubyte"), images)
    assert np.array_equal(mnist.read_idx(tmp_path / "t10k-labels-idx1-ubyte"), labels)


def test_whole_training(digits, backend):
    (row,) = mnist.rows(FitShape((4, 30, 4), 4, epochs=30), [], setting(DTYPES[0]))
    assert row.ours and row.accuracy == 1.0 and row.residual is None
    assert "100.00%" in report.block([row], [TWIN], DTYPES[0])


def test_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTBP_MNIST", str(tmp_path))
    assert mnist.rows(FitShape((784, 100, 10), 200, 3), [], setting(DTYPES[0])) == []
    assert "MNIST is left out" in (out := capsys.readouterr().out) and str(tmp_path) in out


@pytest.mark.parametrize("shape", ESTIMATORS[1:], ids=lambda shape: shape.name)
def test_estimators(shape, monkeypatch):
    pytest.importorskip("sklearn")
    from bench import sklearn

    monkeypatch.setattr(sklearn, "_GRID", {"alpha": [1e-4, 1e-3]})
    small = dataclasses.replace(shape, epochs=2, sizes=(shape.sizes[0], 5, shape.sizes[-1]))
    ours, theirs = sklearn.rows(small, sklearn.PEERS, setting(DTYPES[0]))
    assert ours.ours and abs(ours.accuracy - theirs.accuracy) < 0.01 and "sklearn" in ours.ratios


@needs("torch")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [losses.LossShape("softmax", 6, 5), losses.LossShape("sigmoid", 6, 5), linear.LinearShape(6, 4, 5)],
    ids=lambda shape: shape.name,
)
def test_torch(shape, dtype):
    from bench import torch

    mine, *theirs = torch.rows(shape, torch.PEERS, setting(dtype))
    assert mine.ours and mine.ratios.keys() == {row.contestant for row in theirs} and "PyTorch" in mine.ratios
    for row in (mine, *theirs):
        assert row.residual < report.SUSPECT * np.finfo(dtype).eps and row.seconds > 0


@needs("optax")
@pytest.mark.parametrize(
    "shape", [losses.LossShape("softmax", 6, 5), linear.LinearShape(6, 4, 5)], ids=lambda shape: shape.name
)
def test_jax(shape):
    from bench import jax

    mine, *theirs = jax.rows(shape, jax.PEERS, setting(DTYPES[0]))
    assert mine.ours and mine.ratios.keys() == {"optax", "callback"} == {row.contestant for row in theirs}
    for row in (mine, *theirs):
        assert row.residual < report.SUSPECT * np.finfo(DTYPES[0]).eps and row.seconds > 0


# -- what is no table of contestants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", nielsen.SHAPES, ids=lambda run: run.name)
def test_his_loop_makes_the_same_update(run, backend):
    rng = np.random.default_rng(0)
    x, targets = rng.uniform(0, 1, (10, 5)), np.eye(3)[rng.integers(0, 3, 10)]
    net = nielsen.network((5, 4, 3), run.loss, 0, x.dtype)
    layers = [(w.T.copy(), b[:, None].copy()) for w, b in zip(net.weights, net.biases, strict=True)]
    batch = list(zip(x[:, :, None], targets[:, :, None], strict=True))
    layers = nielsen.his_update(run, layers, batch, run.decay / 50)
    net.step(x, targets, fastbp.SGD(run.learning_rate, weight_decay=run.decay / 50))
    for (w, b), weight, bias in zip(layers, net.weights, net.biases, strict=True):
        assert np.allclose(w.T, weight, rtol=1e-12, atol=1e-14)
        assert np.allclose(b[:, 0], bias, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("run", nielsen.SHAPES[2:], ids=lambda run: run.name)
def test_published_accuracies(run, monkeypatch, tmp_path, capsys, backend):
    labels = np.arange(600) % 10
    images = np.zeros((600, 2, 5))
    images.reshape(600, 10)[np.arange(600), labels] = 255
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    monkeypatch.setenv("FASTBP_MNIST", str(tmp_path))
    (row,) = nielsen.rows([run], DTYPES[0], 1, quick=True)
    assert len(row["accuracies"][0]) == 3 and row["ratio"] > 0
    assert f"{run.published:.2%}" in capsys.readouterr().out


def test_published_accuracies_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTBP_MNIST", str(tmp_path))
    assert nielsen.rows(nielsen.SHAPES, DTYPES[0], 1, quick=True) == []
    assert "MNIST is left out" in capsys.readouterr().out


def test_options(capsys, backend):
    rows = options.rows([options.EpochShape((6, 5, 3), 4, 10, 2.0)], DTYPES[0], 1, quick=True)
    assert [row["name"] for row in rows][::10] == ["plain SGD", "all"]
    assert rows[0]["ratio"] == 1 and all(row["seconds"] > 0 for row in rows)
    assert "at most 2" in capsys.readouterr().out.splitlines()[-1]


def test_boosting(capsys, backend, monkeypatch):
    """Without the libraries, whose objectives are those of test_objectives.py."""
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    rows = boosting.rows([boosting.BoostingShape(30, 3, trained=True)], DTYPES[0], 1, quick=True)
    ours, usual = rows[0]["fastbp"], rows[0]["NumPy"]
    assert ours["error"] < 1e-6 and usual["error"] < 1.1 and ours["ratio"] == 1
    assert "lightgbm is left out" in capsys.readouterr().out


@pytest.mark.parametrize("stored", ["float32", "uint8"])
def test_memory_maps(stored, capsys, backend):
    (row,) = memmap.rows([memmap.MapShape(stored, 1 << 22, 64)], DTYPES[0], 1, quick=True)
    assert row["rows"] * 64 * np.dtype(stored).itemsize == 1 << 16
    assert f"{row['rows']} rows" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told on Linux only")
def test_anonymous_memory_is_seen():
    with memmap.Watch() as watch:
        kept = np.ones(1 << 23)
        time.sleep(0.05)
    assert watch.most - watch.before > 0.9 * kept.nbytes


# -- what is derived from times --------------------------------------------------------------------------------------------------


def test_cliffs_and_jumps():
    curve = sweep.Curve("", "", [1.0, 2.0, 2.5, 2.25, 2.2, 9.0], residual=0.0)
    assert curve.cliffs == [(3, 5, 2.5 / 2.2)]  # the smallest of the larger ones is not always the next
    assert curve.jumps == [(2, 1, 2.0), (3, 2, 1.25), (6, 5, 9.0 / 2.2)]
    assert "3 (×1.14 of 5)" in sweep.text(curve)


def test_the_model_of_a_cluster():
    """By hand: 4-2-3 has the products 8 + 6 forward, 6 back and 8 + 6 for the gradients: the second layer's is there after
    14 + 6 of 34, the first after all. Both go in one message, of 4 (2 (4 + 1) + 3 (2 + 1)) bytes."""
    network = mpi.Network("", alpha=1.0, beta=0.5)
    assert mpi.messages((4, 2, 3)) == [(1.0, 76)]
    large = [(14e4 + 6e4) / 34e4, 1.0]
    assert [share for share, _ in mpi.messages((400, 200, 300))] == pytest.approx(large)
    assert mpi.sum_seconds(network, 2, 100) == 2 * 1 + 2 * 0.5 * 100 * 0.5
    assert mpi.sum_seconds(network, 1000, 0) == 2 * 10
    shape = StepShape((400, 200, 300), 8)
    assert mpi.step_seconds(network, 1, shape.sizes, 5.0, hidden=False) == 5.0
    sums = sum(mpi.sum_seconds(network, 4, n_bytes) for _, n_bytes in mpi.messages(shape.sizes))
    assert mpi.step_seconds(network, 4, shape.sizes, 5.0, hidden=False) == pytest.approx(5.0 + sums)
    last = mpi.sum_seconds(network, 4, mpi.messages(shape.sizes)[-1][1])
    assert mpi.step_seconds(network, 4, shape.sizes, 1e9, hidden=True) == pytest.approx(1e9 + last)
    batch = mpi.batch_for_goal(network, 4, shape, 5.0, hidden=False)
    seconds = 5.0 * batch / 8
    assert 0.9 <= seconds / (seconds + sums) < 0.9001


def test_a_step_of_which_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(fastbp.ranks, "_told", True)  # that threads share cores
    shape, size = StepShape((5, 4, 3), 8), 3
    train = mpi._Trainer(shape, "float32", steps=2, n_ranks=1)
    unsent = fastbp.mpi.Communicator(mpi._Unsent(size))
    assert train(1, 1, unsent) > 0 and unsent.size == size and unsent._in_place == mpi.IN_PLACE


def test_what_is_told_of_ranks(tmp_path):
    times = {
        "one thread": [2.0, 4.0], "one rank": [2.0, 4.0], "threads": [2.5, 4.5], "side by side": [2.0, 4.0],
        "ranks": [4.0, 6.0], "reproducible": [8.0, 12.0], "sums": [2.0, 2.0], "nothing sent": [3.0, 5.0],
    }  # fmt: skip
    measured = {"ranks": 2, "steps": 1, "times": times, "shape": mpi.SHAPES[0].name}
    text = mpi.text(mpi.SHAPES[0], measured)
    assert "a rank with comm, of the speed without: 1.000" in text
    assert "reproducible, of the speed of others: 0.500" in text
    assert "of the sums were hidden: 50%; the model, nothing hidden: 1.21 of the step" in text
    assert text.count("InfiniBand") == 10
    pytest.importorskip("matplotlib")
    mpi.draw([{"rows": [measured]}], tmp_path / "mpi.svg")
    assert "<svg" in (tmp_path / "mpi.svg").read_text()


def test_a_sweep(backend):
    shapes = tuple(StepShape((5, h, 3), 4) for h in (1, 2, 3))
    curve = sweep.curve(sweep.Sweep("5-H-3", "H", shapes), DTYPES[0], 1, quick=True)
    assert len(curve.seconds) == len(shapes) and min(curve.seconds) > 0
    assert curve.residual < report.SUSPECT * np.finfo(DTYPES[0]).eps


@needs("matplotlib")
def test_a_picture(tmp_path):
    curve = {"name": "5-H-3", "axis": "H", "seconds": [2e-6, 1e-6], "residual": 0.0}
    sweep.draw([{"threads": 1, "dtype": "float32", "rows": [curve]}], tmp_path / "sweep.svg")
    assert "<svg" in (tmp_path / "sweep.svg").read_text()


def test_summary_names_the_fastest_peer():
    ratios = {TWIN: 0.5, "NumPy": 3.0, "JAX": 1.25, "PyTorch": 4.0}
    row = Row(
        "4-16-3 batch 8", "fastbp step", True, 1e-6, 0.0, 9, 50.0, "GFLOP/s", 0.5, 1e-7, None, "", ratios
    )
    assert row.best_peer == "JAX"  # the twin is none
    line = report.summary([row], DTYPES[0]).splitlines()[2]
    assert line.split() == [
        "4-16-3",
        "batch",
        "8,",
        "step",
        "4",
        "1.25",
        "(JAX)",
        "50%",
        "of",
        "peak",
        "1.0e-07",
    ]


def test_problems_judge_by_the_twin_in_float64(backend):
    problem = StepProblem(STEP, DTYPES[0], 1)
    assert problem.judge.dtype == np.float64
    updated = problem.parameters.astype(np.float64) - problem.learning_rate * problem.judge
    assert problem.residual(updated) < np.finfo(np.float32).eps
    assert problem.residual(updated + problem.learning_rate) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told on Linux only")
def test_growth_is_what_a_call_holds_at_its_peak():
    """Also where it would get a large array from what another left, and where it drops it again"""

    def ones() -> np.ndarray:
        array = fastbp.relu(np.ones((1 << 12, 1 << 12), np.float32))  # 64 MB, and 64 MB of what it is made of
        return array[:1].copy()

    for _ in range(3):
        few, grown = memory.growth(ones)
        assert few.shape == (1, 1 << 12)
        assert grown is not None and 1.9 * (1 << 26) < grown < 2.2 * (1 << 26)
    _, grown = memory.growth(lambda: None)
    assert grown is not None and grown < 1 << 22


def test_a_picture_is_drawn_from_what_a_table_wrote(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import pictures

    rows = [dataclasses.asdict(row) for row in steps.rows(STEP, (step_peers.NumpyStep,), setting(DTYPES[0]))]
    facts = {"processor": "none", "backend": "native, avx2"}
    table = {
        "bench": "steps",
        "dtype": "float32",
        "threads": 1,
        "machine": facts,
        "peaks": {"gflops": 100.0},
        "rows": rows,
    }
    report.write_csv(tmp_path / "steps.csv", [table])
    found = pictures.ratios(tmp_path / "steps.csv")
    peer = next(row for row in rows if not row["ours"] and row["contestant"] != TWIN)
    ours = next(row for row in rows if row["ours"])
    assert found[peer["shape"]][peer["contestant"]] == pytest.approx(
        peer["seconds"] / ours["seconds"], rel=1e-2
    )
    pictures.draw(tmp_path / "steps.csv", tmp_path / "steps.svg")
    assert peer["shape"] in (tmp_path / "steps.svg").read_text()


def test_the_state_of_the_machine(backend):
    """A rate of each unit, before, between and after; what is told holds them."""
    with state.Watch() as watch:
        for _ in range(4):
            watch.look()
    lines = watch.report().splitlines()
    assert all(rate > 0 for look in watch.looks for rate in look.values())
    assert len({tuple(look) for look in watch.looks}) == 1
    assert [line.split("  ")[1].strip() for line in lines[1 : 1 + len(watch.looks[0])]] == list(
        watch.looks[0]
    )
    unit = fastbp.show_config()["products"]["medium"]
    assert ("vdpbf16ps" in watch.looks[0]) or unit != "avx512_bf16" or not watch.program


def test_accuracy_by_precision(capsys, backend):
    """Each precision in turn, on the same seeds; in float64 all are the same."""
    shapes = [
        precision.Shape("", terms=64),
        precision.Shape("digits", (64, 32, 10), 32, 4),
    ]
    rows = precision.rows(shapes, DTYPES[1], 1, quick=True)
    assert [row["precision"] for row in rows] == 2 * list(precision.PRECISIONS)
    assert all(row["largest"] < 1e-15 for row in rows[:3])
    assert rows[3]["accuracy"] == rows[5]["accuracy"] and min(rows[3]["accuracy"]) > 0.3
    assert "to highest  +0.00% ± 0.00%" in capsys.readouterr().out


def test_the_residual_that_is_suspect_follows_the_precision():
    assert report.limit(DTYPES[0]) == report.SUSPECT * np.finfo(np.float32).eps
    fastbp.set_precision("medium")
    try:
        assert report.limit(DTYPES[0]) == report.SUSPECT_ROUNDED["medium"]
        assert report.limit(DTYPES[1]) == report.SUSPECT * np.finfo(float).eps
    finally:
        fastbp.set_precision("highest")


def test_a_step_of_less_precision_stands_beside_the_highest(backend):
    fastbp.set_precision("medium")
    try:
        rows = steps.rows(StepShape((64, 80, 70), 128), [step_peers.NumpyStep], setting(DTYPES[0]))
    finally:
        fastbp.set_precision("highest")
    by_name = {row.contestant: row for row in rows}
    assert by_name["highest"].residual < report.limit(DTYPES[0])
    assert by_name["fastbp step"].ratios.keys() == {TWIN, "highest", "NumPy"}
    assert by_name["fastbp step"].best_peer == "NumPy"


def test_parts_by_the_threads_of_an_executor(capsys):
    from bench import executor

    (row,) = executor.rows([executor.ExecutorShape(60, 7, 20)], DTYPES[0], 2, quick=True)
    assert row["seconds"] > 0 and set(row["ratios"]) == {"workers", "whole"}
    assert "60 x 7 in parts of 20" in capsys.readouterr().out
