"""Precision by name: who is asked, what follows, and how near the results are."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import test_layers
import test_linear_softmax_cross_entropy as test_last_layer
import test_network_kernels
import tolerances
from conftest import (
    NATIVE_ONLY,
    Compact,
    assert_accurate,
    assert_same_bits,
    generator,
    promises,
    solve,
    squares_are_known,
)
from tolerances import ACTIVATIONS, product_of

import fastbp
from fastbp import _backend

NAMES = ("highest", "high", "medium")


@pytest.fixture(autouse=True)
def as_it_was():
    before = fastbp.get_precision()
    yield
    fastbp.set_precision(before)


# -- by name -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_set_and_get(backend, name):
    fastbp.set_precision(name)
    assert fastbp.get_precision() == name


def test_another_name(backend):
    with pytest.raises(ValueError, match=r"^name: got 'low', expected one of highest, high, medium$"):
        fastbp.set_precision("low")
    with pytest.raises(TypeError, match=r"^name: got NoneType, expected one of highest, high, medium$"):
        fastbp.set_precision(None)  # type: ignore[arg-type]
    assert fastbp.get_precision() == "highest"


def process(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import fastbp; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def test_the_environment():
    assert process("print(fastbp.get_precision())", FASTBP_PRECISION="medium").stdout == "medium\n"
    assert process("print(fastbp.get_precision())", FASTBP_PRECISION="").stdout == "highest\n"
    wrong = process("", FASTBP_PRECISION="half").stderr
    assert wrong.endswith(
        "ImportError: FASTBP_PRECISION: got 'half', expected one of highest, high, medium\n"
    )


def test_show_config(backend, capsys):
    fastbp.set_precision("high")
    config = fastbp.show_config()
    assert config["precision"] == "high"
    assert list(config["products"]) == list(NAMES) and config["products"]["highest"] == "float32"
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["precision"] == "high"
    assert shown["products"].startswith("highest: float32, high: ")


def test_only_fast_instruction_sets_have_units(isa):
    if isa != "avx512":
        assert set(fastbp.show_config()["products"].values()) == {"float32"}


# -- of a network, and of a call -----------------------------------------------------------------------------------------------


def test_a_network_has_its_own(backend):
    assert fastbp.MLP([2, 3]).precision is None
    net = fastbp.MLP([2, 3], precision="medium", seed=0)
    assert (
        net.precision == copy.deepcopy(net).precision == pickle.loads(pickle.dumps(net)).precision == "medium"
    )
    with pytest.raises(AttributeError, match=r"^precision: got another object"):
        net.precision = "high"
    with pytest.raises(ValueError, match=r"^precision: got 'low', expected one of highest, high, medium$"):
        fastbp.MLP([2, 3], precision="low")


def test_a_file_does_not_hold_it(tmp_path, backend):
    """It is no property of the weights: whoever loads them chooses."""
    net = fastbp.MLP([2, 3], precision="medium", seed=0)
    net.save(tmp_path / "net.npz")
    again = fastbp.MLP.load(tmp_path / "net.npz")
    assert again.precision is None
    np.testing.assert_array_equal(again.parameters, net.parameters)


def test_a_call_takes_it(backend):
    x, w = np.eye(2, dtype=np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"^precision: got 'low', expected one of highest, high, medium$"):
        fastbp.linear_softmax_cross_entropy(x, w, [0, 1], precision="low")
    results = [fastbp.linear_softmax_cross_entropy(x, w, [0, 1], precision=name).loss for name in NAMES]
    assert len(set(results)) == 1  # too small to gain by another arithmetic


def test_float64_is_not_touched(isa):
    rng = generator("float64")
    x, w = rng.normal(size=(300, 300)), rng.normal(size=(300, 300))
    results = []
    for name in NAMES:
        fastbp.set_precision(name)
        results.append(fastbp.linear(x, w).tobytes())
    assert len(set(results)) == 1


# -- what is promised of the results -------------------------------------------------------------------------------------------

LAST_LAYERS = [(13, 17, 31), (130, 200, 150), (260, 131, 1003)]  # (N, I, C)
NETWORKS = [((7, 15, 16, 9), 33), ((150, 200, 130, 40), 140), ((784, 130, 10), 128)]


def check_within(problem, name, monkeypatch):
    """Every result within the bounds of its precision, and of the same bits on two threads and in other memory."""
    monkeypatch.setattr(tolerances, "product_of", lambda k: product_of(k, name))
    got = solve(_backend.kernels, problem)
    with np.errstate(all="ignore"):
        promised = promises.__wrapped__(problem, squares_are_known(_backend.kernels, np.float32))
        for result, promise in promised.items():
            assert_accurate(result, getattr(got, result), promise, compare=False)
    again = solve(_backend.kernels, problem, n_threads=2, memory=Compact())
    assert_same_bits(got, again, f"on two threads of {problem}")
    monkeypatch.undo()
    return got


@NATIVE_ONLY
@pytest.mark.parametrize("name", NAMES[1:])
def test_every_size_of_a_layer(name, monkeypatch):
    fastbp.set_precision(name)
    for number, size in enumerate(test_layers.SIZES + test_layers.IN_PIECES):
        activation = ACTIVATIONS[number % len(ACTIVATIONS)]
        for each in test_layers.each_of(generator(size), size, np.float32, activation):
            check_within(each, name, monkeypatch)


@NATIVE_ONLY
@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("size", LAST_LAYERS)
def test_the_last_layer(name, size, monkeypatch):
    for reduction in ("mean", "none"):
        each = test_last_layer.problem(generator(size), size, np.float32, reduction=reduction)
        check_within(each.changed(precision=name), name, monkeypatch)


@NATIVE_ONLY
@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize(("sizes", "rows"), NETWORKS)
def test_a_network(name, sizes, rows, monkeypatch):
    fastbp.set_precision(name)
    check_within(test_network_kernels.problem(sizes, rows, np.float32), name, monkeypatch)


@NATIVE_ONLY
@pytest.mark.parametrize("name", NAMES[1:])
def test_a_unit_is_used_where_there_is_one(name):
    """Which the bits tell, whoever asks for it; without one they are those of float32."""
    has_unit = fastbp.show_config()["products"][name] != "float32"
    rng = generator("unit")
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((160, 200), (200, 170)))
    labels, d = rng.integers(0, 170, 160), rng.standard_normal((160, 170)).astype(np.float32)
    net = fastbp.MLP([200, 170], seed=0)
    own = fastbp.MLP([200, 170], seed=0, precision=name)

    def results():
        yield fastbp.linear(x, w).tobytes()
        yield fastbp.linear_backward_input(d, w).tobytes()
        yield fastbp.linear_backward_weight(x, d).weight.tobytes()
        yield fastbp.linear_softmax_cross_entropy(x, w, labels).grad_weight.tobytes()
        yield net.logits(x).tobytes()
        yield net.gradients(x, labels).flat.tobytes()

    before = list(results())
    given = fastbp.linear_softmax_cross_entropy(x, w, labels, precision=name).grad_weight.tobytes()
    by_net = own.logits(x).tobytes(), own.gradients(x, labels).flat.tobytes()
    fastbp.set_precision(name)
    after = list(results())
    assert [a != b for a, b in zip(before, after, strict=True)] == [has_unit] * len(before)
    assert (given, *by_net) == tuple(after[3:])
    fastbp.set_precision("highest")
    assert list(results()) == before
    assert own.logits(x).tobytes() == after[4]


@NATIVE_ONLY
@pytest.mark.parametrize("name", NAMES)
def test_training_has_the_same_bits_on_any_number_of_threads(name):
    rng = generator("threads")
    x, t = rng.standard_normal((300, 150)).astype(np.float32), rng.integers(0, 40, 300)
    trained = []
    for n_threads in (1, 2, 3):
        net = fastbp.MLP([150, 260, 200, 40], seed=0, precision=name, n_threads=n_threads)
        net.fit(x, t, epochs=2, batch_size=128, optimizer=fastbp.Adam(), progress=False)
        trained.append(net.parameters.tobytes())
    assert len(set(trained)) == 1
