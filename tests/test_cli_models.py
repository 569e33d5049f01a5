"""The commands that train, predict, evaluate and check, and what they say of everything that can be wrong."""

from __future__ import annotations

import csv
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, said, train, write_houses

import fastbp
from fastbp import cli
from fastbp.cli import check

MNIST = Path(__file__).parents[2] / "shared/data/mnist"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def houses():
    write_houses()


@pytest.fixture
def prices(houses):
    train("price", "size", "prices")


@pytest.fixture
def sizes(houses):
    train("size", "price", "sizes")


# -- train ---------------------------------------------------------------------------------------------------------------------


def test_train_a_regression(backend, houses, capfd):
    command = "train houses.csv --target price --ignore size --epochs 40 --hidden 16,8 --activation tanh --output prices"
    out, err = said(capfd, command)
    lines = out.splitlines()
    assert lines[0] == "houses.csv: 200 rows, target 'price': regression"
    assert lines[1] == "network: 6-16-8-1, tanh, squared_error, 257 parameters"
    assert re.fullmatch(r"trained on 160 rows: 40 epochs, loss \d\S*, \d+\.\d\d s", lines[2])
    held_out = re.fullmatch(r"held out, 40 rows: R² (\S+), MAE \S+, RMSE \S+", lines[3])
    assert held_out and float(held_out[1]) > 0.9
    assert lines[4:] == ["saved as prices"]
    assert "epoch 40/40" in err


def test_train_a_classification(backend, houses, capfd):
    out, _ = said(
        capfd,
        "train houses.csv --target size --ignore price --hidden none --optimizer sgd --learning-rate 0.5",
    )
    lines = out.splitlines()
    assert lines[0] == "houses.csv: 200 rows, target 'size': classification, 2 classes"
    assert lines[1].startswith("network: 6-2, relu, softmax_cross_entropy")
    held_out = re.fullmatch(r"held out, 40 rows: accuracy (\S+)%, log-loss \S+", lines[3])
    assert held_out and float(held_out[1]) > 90 and len(lines) == 4
    assert os.listdir() == ["houses.csv"]  # without --output nothing is written


def test_the_same_command_makes_the_same_model(houses, capfd):
    for name, more in (("a", ""), ("b", ""), ("c", "--seed 1")):
        said(
            capfd, f"train houses.csv --target price --ignore size --epochs 2 --quiet --output {name} {more}"
        )
    a, b, c = (Path(name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("optimizer", ["rmsprop", "adagrad", "adamw", "lion", "muon"])
def test_train_by_any_optimizer(houses, capfd, optimizer):
    out, _ = said(capfd, f"train houses.csv --target price --epochs 40 --optimizer {optimizer}")
    held_out = re.search(r"held out, 40 rows: R² (\S+),", out)
    assert held_out and float(held_out[1]) > 0.5


def test_quiet(houses, capfd):
    pytest.importorskip("matplotlib")
    assert said(capfd, "train houses.csv --target price --quiet --output prices --plot p.svg") == ("", "")
    picture = Path("p.svg").read_text("utf-8")
    assert (
        "<!-- training -->" in picture and "<!-- held out -->" in picture
    )  # the legend, as comments beside its outlines
    assert Path("p.svg").read_bytes().startswith(b"<?xml") and Path("prices").stat().st_size


def test_without_held_out_rows(houses, capfd):
    out, _ = said(capfd, "train houses.csv --target price --validation-fraction 0 --epochs 1")
    assert "trained on 200 rows: 1 epoch," in out and "held out" not in out


def test_what_may_not_be_expected_is_noted(houses, capfd):
    Path("data.csv").write_text("x,k,e,t\n" + "1,7,,a\n2,7,,b\n" * 5 + "3,7,,\n")
    _, err = said(capfd, "train data.csv --target t --quiet")
    assert err.splitlines() == [
        "fastbp train: note: data.csv: 1 row without a target left out",
        "fastbp train: note: data.csv: column 'e' has no value: left out",
        "fastbp train: note: data.csv: column 'k' is constant: nothing is learned of it",
    ]


def test_arrays_and_their_target(capfd):
    np.savez("data.npz", X=np.random.default_rng(0).normal(size=(30, 2)), y=np.arange(30) % 3)
    out, _ = said(capfd, "train data.npz --epochs 1 --output model")
    assert "target 'y': classification, 3 classes" in out
    out, _ = said(capfd, "predict model data.npz")
    lines = out.splitlines()
    assert lines[0] == "y" and len(lines) == 31 and set(lines[1:]) <= {"0", "1", "2"}


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not here")
def test_mnist(capfd):
    out, _ = said(capfd, f"train {MNIST} --epochs 1 --batch-size 100 --output model")
    lines = out.splitlines()
    assert lines[1] == "network: 784-100-10, relu, softmax_cross_entropy, 79510 parameters"
    held_out = re.fullmatch(r"held out, 10000 rows: accuracy (\S+)%, log-loss \S+", lines[3])
    assert held_out and float(held_out[1]) > 93
    out, _ = said(capfd, f"evaluate model {MNIST}")
    assert held_out[1] in out  # of the part for testing


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nothing.csv --target price", "nothing.csv: No such file or directory"),
        ("folder --target price", "folder: got a folder without images in IDX files, expected train-images-idx3-ubyte, "
         "train-labels-idx1-ubyte, and the same of t10k for testing, or with .gz"),
        ("empty.csv --target price", "empty.csv: the file is empty"),
        ("houses.csv", "houses.csv: --target is missing, expected one of the columns area, rooms, district, garden, price, size"),
        ("houses.csv --target cost",
         "houses.csv: no column 'cost'; it has 'area', 'rooms', 'district', 'garden', 'price', 'size'"),
        ("houses.csv --target price --ignore a --ignore b",
         "houses.csv: no columns 'a', 'b'; it has 'area', 'rooms', 'district', 'garden', 'price', 'size'"),
        ("houses.csv --target district --task regression",
         "houses.csv: column 'district', row 1: got 'south', expected a number"),
        ("houses.csv --target price --output folder", "folder: Is a directory"),
        ("houses.csv --target price --output /dev/null", "/dev/null: is no regular file"),
        ("houses.csv --target price --output no/model", "no/model: No such file or directory"),
        ("houses.csv --target price --output houses.csv", "houses.csv: would be written over what is read"),
        ("houses.csv --target price --epochs 0", "argument --epochs: got 0, expected a number >= 1; see fastbp train --help"),
        ("houses.csv --target price --epochs x", "argument --epochs: invalid whole number value: 'x'; see fastbp train --help"),
        ("houses.csv --target price --hidden 3,x",
         "argument --hidden: got '3,x', expected units as in 100,50, or none; see fastbp train --help"),
        ("houses.csv --target price --learning-rate 0",
         "argument --learning-rate: got 0, expected a number >= 1.17549e-38 and < 3.40282e+38; see fastbp train --help"),
        ("houses.csv --target price --learning-rate 1e39 --optimizer sgd",
         "argument --learning-rate: got 1e39, expected a number >= 1.17549e-38 and < 3.40282e+38; see fastbp train --help"),
        ("houses.csv --target price --output one.png --plot ./one.png",
         "one.png: --plot and --output name one file, expected two"),
        ("houses.csv --target price --validation-fraction 1",
         "argument --validation-fraction: got 1, expected a number >= 0 and < 1; see fastbp train --help"),
    ],
)  # fmt: skip
def test_trainings_that_cannot_be(houses, capfd, arguments, expected):
    Path("folder").mkdir()
    Path("empty.csv").touch()
    refused(capfd, f"train {arguments}", expected)


def test_a_picture_of_no_known_format(houses, capfd):
    pytest.importorskip("matplotlib")
    _, err = said(capfd, "train houses.csv --target price --plot a.bmpp", status=2)
    assert re.match(r"fastbp train: a.bmpp: --plot: expected a name that ends in one of .*\bpng\b", err)


def test_a_training_that_diverges(houses, capfd):
    command = "train houses.csv --target price --optimizer sgd --learning-rate 1e30 --quiet --output model"
    _, err = said(capfd, command, status=1)
    assert (
        err.startswith("fastbp train: training diverged in epoch 1, batch 2 of 5: ") and err.count("\n") == 1
    )
    assert os.listdir() == ["houses.csv"]


def test_files_that_may_not_be_touched(houses, capfd):
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    Path("houses.csv").chmod(0)
    refused(capfd, "train houses.csv --target price", "houses.csv: Permission denied")
    Path("folder").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    refused(capfd, "train houses.csv --target price --output folder/model", "folder/model: Permission denied")


@pytest.mark.parametrize(("library", "extra"), [("pyarrow.csv", "cli"), ("matplotlib.figure", "plot")])
def test_without_a_library(houses, capfd, monkeypatch, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    command = "train houses.csv --target price" + " --plot p.png" * (extra == "plot")
    what = {"cli": "reading CSV", "plot": "--plot"}[extra]
    refused(capfd, command, f"{what} needs {library.split('.')[0]}: pip install 'fastbp[{extra}]'")


# -- predict -------------------------------------------------------------------------------------------------------------------


def test_predict_numbers(prices, capfd):
    out, err = said(capfd, "predict prices houses.csv")
    header, *lines = out.splitlines()
    assert (header, len(lines), err) == ("price", 200, "")
    wanted = [float(row["price"]) for row in csv.DictReader(Path("houses.csv").read_text().splitlines())]
    assert np.corrcoef(np.array(lines, float), wanted)[0, 1] > 0.9


def test_predict_classes(sizes, capfd):
    out, _ = said(capfd, "predict sizes houses.csv --probabilities")
    header, *lines = csv.reader(out.splitlines())
    assert header == ["size", "p(large)", "p(small)"] and len(lines) == 200
    for name, large, small in lines:
        assert float(large) + float(small) == pytest.approx(1, abs=1e-5)
        assert name == ("large" if float(large) > float(small) else "small")
    assert said(capfd, "predict sizes houses.csv")[0].split() == ["size", *(line[0] for line in lines)]


def test_predict_into_a_file_what_comes_from_a_pipe(prices, capfd, monkeypatch):
    expected, _ = said(capfd, "predict prices houses.csv")
    with open("houses.csv") as houses:
        monkeypatch.setattr(sys, "stdin", houses)
        assert said(capfd, "predict prices - --output out.csv") == ("", "")
    assert Path("out.csv").read_text() == expected


def test_unknown_categories_are_predicted(prices, capfd):
    Path("new.csv").write_text("district,area,garden,rooms\nwest,100,true,\n,100,true,\n")
    _, west, missing = said(capfd, "predict prices new.csv")[0].splitlines()
    assert west == missing


def test_classes_are_quoted(capfd):
    pytest.importorskip("pyarrow")
    Path("data.csv").write_text('x,"t,t"\n' + '1,"a,b"\n2,"c ""d"""\n' * 9)
    assert cli.main(["train", "data.csv", "--target", "t,t", "--quiet", "--output", "model"]) == 0
    out, _ = said(capfd, "predict model data.csv")
    header, *lines = csv.reader(out.splitlines())
    assert header == ["t,t"] and {line[0] for line in lines} <= {"a,b", 'c "d"'}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nothing houses.csv", "nothing: No such file or directory"),
        (
            ". houses.csv",
            ".: holds no bytes: it is a folder, a pipe or a device, expected a whole file of the format fastbp.Pipeline",
        ),
        ("prices nothing", "nothing: No such file or directory"),
        ("prices less.csv", "less.csv: no columns 'rooms', 'garden'; it has 'area', 'district'"),
        ("prices bad.csv", "bad.csv: column 'area', row 2: got 'big', expected a number"),
        ("prices bad.csv --output out.csv", "bad.csv: column 'area', row 2: got 'big', expected a number"),
        (
            "prices houses.csv --probabilities",
            "prices: --probabilities: the model predicts numbers, not classes",
        ),
        ("prices houses.csv --output houses.csv", "houses.csv: would be written over what is read"),
        ("prices houses.csv --output prices", "prices: would be written over what is read"),
    ],
)
def test_predictions_that_cannot_be(prices, capfd, arguments, expected):
    Path("less.csv").write_text("area,district\n1,north\n")
    Path("bad.csv").write_text("area,rooms,district,garden\n1,1,north,true\nbig,1,north,true\n")
    refused(capfd, f"predict {arguments}", expected)


# -- evaluate, check, info -----------------------------------------------------------------------------------------------------


def test_evaluate_classes(sizes, capfd):
    out, _ = said(capfd, "evaluate sizes houses.csv")
    lines = [re.split(" {2,}", line.strip()) for line in out.splitlines()]
    assert lines[0] == ["houses.csv: 200 rows, target 'size'"]
    table = {line[0]: line[1:] for line in lines}
    assert table["true, down; predicted, across"] == ["large", "small"]
    counts = np.array([table[name] for name in ("large", "small")], int)
    wanted = [row["size"] for row in csv.DictReader(Path("houses.csv").read_text().splitlines())]
    assert counts.sum(axis=1).tolist() == [wanted.count("large"), wanted.count("small")]
    assert table["accuracy"] == [f"{counts.trace() / 200:.2%}"] and float(table["log-loss"][0]) > 0


def test_evaluate_numbers(prices, capfd):
    out, _ = said(capfd, "evaluate prices houses.csv")
    assert re.search(r"R² +0\.9\d*\n  MAE +\S+\n  RMSE +\S+\n$", out)


def test_many_classes_are_for_a_picture(capfd):
    np.savez("data.npz", X=np.arange(84.0)[:, None], y=np.repeat(np.arange(21), 4))
    said(capfd, "train data.npz --task classification --epochs 1 --quiet --output model")
    assert "the confusion matrix of 21 classes is for a picture" in said(capfd, "evaluate model data.npz")[0]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
@pytest.mark.parametrize("model", ["prices", "sizes"])
def test_pictures(model, suffix, capfd, request):
    pytest.importorskip("matplotlib")
    request.getfixturevalue(model)
    said(capfd, f"evaluate {model} houses.csv --plot picture.{suffix}")
    assert Path(f"picture.{suffix}").read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix])


def test_evaluations_that_cannot_be(sizes, capfd):
    text = Path("houses.csv").read_text()
    Path("unknown.csv").write_text(text.replace("small", "tiny"))
    row = next(i for i, line in enumerate(text.splitlines()) if line.endswith("small"))
    expected = f"unknown.csv: column 'size', row {row}: got the class 'tiny', expected one of those in training: large, small"
    refused(capfd, "evaluate sizes unknown.csv", expected)
    Path("without.csv").write_text("area,rooms,district,garden\n1,1,north,true\n")
    refused(
        capfd,
        "evaluate sizes without.csv",
        "without.csv: no column 'size'; it has 'area', 'rooms', 'district', 'garden'",
    )
    Path("some.csv").write_text("area,rooms,district,garden,size\n1,1,north,true,small\n1,1,north,true,\n")
    out, err = said(capfd, "evaluate sizes some.csv")
    assert err == "fastbp evaluate: note: some.csv: 1 row without a target left out\n" and "1 row," in out


@pytest.mark.parametrize("target", ["price", "size"])
def test_check(backend, houses, capfd, target):
    out, _ = said(capfd, f"check houses.csv --target {target} --hidden 5 --activation tanh --rows 4")
    error = re.search(r"largest relative error of the gradient on 4 rows: (\S+)\n", out)
    assert error and float(error[1]) <= 1e-7 and "which is right" in out


def test_a_check_that_fails(houses, capfd, monkeypatch):
    monkeypatch.setattr(check, "_RIGHT", 0.0)
    assert "which is WRONG" in said(capfd, "check houses.csv --target price", status=1)[0]


def test_info(sizes, capfd):
    out, _ = said(capfd, "info sizes")
    assert re.sub(r"(loss +|log-loss |accuracy )[\d.]+", r"\1…", out) == (
        "sizes: predicts 'size', classification\n"
        "  classes         large, small\n"
        "  numbers         area, rooms, garden\n"
        "  may be missing  rooms\n"
        "  category        district: north, south\n"
        "  network         6-100-2, relu, softmax_cross_entropy, 902 parameters\n"
        "  rows            160\n"
        "  epochs          20\n"
        "  batch size      32\n"
        "  optimizer       adam\n"
        "  loss            …\n"
        "  held out        accuracy …%, log-loss …\n"
    )


def test_info_on_something_else(houses, capfd):
    fastbp.MLP([2, 3]).save("net")
    for name in ("net", "houses.csv"):
        _, err = said(capfd, f"info {name}", status=2)
        assert err.startswith(f"fastbp info: {name}: ") and err.count("\n") == 1
