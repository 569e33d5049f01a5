"""Precision by name: who is asked, what follows, and how near the results are."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import generator

import fastbp

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
