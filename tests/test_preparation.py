"""What tables become: targets, inputs, a split; pipelines, their scores and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from csv_tables import parquet, refused, table
from tolerances import LAST_DIGITS, ROUNDING, sum_of

import fastbp
from fastbp.data import DataError, Pipeline, Preparation, Table, Target, split
from fastbp.data.tables import ArrayTable

NAN = float("nan")
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)


# -- targets -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "task", "classes"),
    [
        ("b a b", "classification", ("a", "b")),
        ("10 2 1.0", "classification", ("1", "2", "10")),
        ("true FALSE true", "classification", ("false", "true")),
        ("1 2 2.5", "regression", ()),
        (" ".join(map(str, range(21))), "regression", ()),
        (" ".join(map(str, range(20))), "classification", tuple(map(str, range(20)))),
    ],
)
def test_the_task_is_detected(column, task, classes):
    target = Target.learn(table("t\n" + "\n".join(column.split())), "t")
    assert (target.task, target.classes) == (task, classes)


def test_the_task_is_given():
    t = table("t\n1\n2\n4\n")
    assert Target.learn(t, "t", "regression").shift == pytest.approx(7 / 3)
    assert Target.learn(t, "t", "counts").loss == "poisson_deviance"
    assert Target.learn(table("t\n1.5\n2\n1.5\n"), "t", "classification").classes == ("1.5", "2")


@pytest.mark.parametrize(
    ("column", "task", "expected"),
    [
        ("a a", None, "the target is 'a' in all rows: there is nothing to learn"),
        ("3 3", None, "the target is '3' in all rows: there is nothing to learn"),
        ("3 3", "regression", "the target is 3 in all rows: there is nothing to learn"),
        ("NA NA", None, "the target has no value at all"),
        ("NA NA", "regression", "the target has no value at all"),
        ("NA NA", "classification", "the target has no value at all"),
        (" ".join(f"id{i}" for i in range(30)), None,
         "the target has 30 classes, as many as rows, expected classes that occur more than once"),
    ],
)  # fmt: skip
def test_targets_of_which_nothing_can_be_learned(column, task, expected):
    t = table("t,x\n" + "\n".join(f"{value},1" for value in column.split()))
    refused(f"data.csv: column 't': {expected}", lambda: Target.learn(t, "t", task))


def test_targets_of_the_wrong_kind():
    t = table("t,x\n1,1\nb,2\n-1,2\n")
    refused(
        "data.csv: column 't', row 2: got 'b', expected a number",
        lambda: Target.learn(t, "t", "regression"),
    )
    t = table("t,x\n1,1\n-1,2\n")
    refused(
        "data.csv: column 't', row 2: got a negative number, expected counts",
        lambda: Target.learn(t, "t", "counts"),
    )
    refused("data.csv: no column 'u'; it has 't', 'x'", lambda: Target.learn(t, "u"))


def test_classes_that_were_not_there():
    target = Target.learn(table("t\na\nb\na\n"), "t")
    later = table("t\nb\n\nc\n")
    expected = "data.csv: column 't', row 2: got the class 'c', expected one of those in training: a, b"
    refused(expected, lambda: target.indices(later))
    assert target.indices(table("t,x\nb,1\n,1\n")).tolist() == [1, -1]


def test_classes_named_by_numbers():
    target = Target.learn(table("t\n0\n1\n0\n"), "t")
    assert target.indices(table("t\n1.0\n0\n")).tolist() == [1, 0]
    assert target.indices(parquet("p", t=[0.0, 1.0])).tolist() == [0, 1]


# -- preparation ---------------------------------------------------------------------------------------------------------------

TRAINING = "n,c,k,t\n1,u,5,0\n2,v,5,1\n,u,5,0\n6,,5,1\n"


def learned(t: Table, **options) -> Preparation:
    return Preparation.learn(t, Target.learn(t, "t"), **options)


def test_inputs_by_hand():
    preparation = learned(table(TRAINING))
    assert preparation.names == ("n", "k", "c") and preparation.width == 5
    mean, deviation = 3, np.sqrt(14 / 3)
    n = (np.array([1, 2, 2, 6]) - mean) / deviation  # 2 is the median
    expected = np.column_stack([n, np.zeros(4), [0, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0]])
    got = preparation.inputs(table(TRAINING)).array()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=2 * ROUNDING * EPS)


def test_later_files_change_nothing():
    """A row alone becomes what it is among others; so do unknown and missing values, and a column that was constant."""
    preparation = learned(table(TRAINING))
    whole = preparation.inputs(table(TRAINING)).array()
    for i, line in enumerate(TRAINING.splitlines()[1:]):
        alone = preparation.inputs(table(f"n,c,k,t\n{line}\n")).array()
        np.testing.assert_array_equal(alone, whole[i : i + 1])
    other = preparation.inputs(table("extra,c,k,n\n2024-01-01,w,77,\n,v,,2\n")).array()
    assert other[0].tolist() == [whole[2, 0], 0, 1, 0, 0] and other[1].tolist() == whole[1].tolist()


def test_what_is_learned_comes_from_the_rows_to_train_on():
    t = table(TRAINING)
    rows = np.array([0, 1])
    preparation = learned(t, rows=rows)
    assert preparation.numbers.shift.tolist() == [1.5, 5] and preparation.categories[0].values == ("u", "v")
    assert not preparation.numbers.flagged.any()
    np.testing.assert_array_equal(preparation.inputs(t, rows).array(), preparation.inputs(t).array()[rows])


def test_columns_left_out_and_columns_as_categories():
    preparation = learned(table(TRAINING), ignore=["c"], categories=["k"])
    assert preparation.numbers.names == ("n",) and preparation.categories[0].values == ("5",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c,k\nu,5\n", "no column 'n'; it has 'c', 'k'"),
        ("n,c,k\n1,u,5\nx,u,5\n", "column 'n', row 2: got 'x', expected a number"),
        ("n,c,k\n1,u,5\n1e300,u,5\n", "column 'n', row 2: the number is too far from those in training"),
    ],
)
def test_later_files_that_do_not_fit(text, expected):
    preparation = learned(table(TRAINING))
    refused(f"data.csv: {expected}", lambda: preparation.inputs(table(text)).array())


def test_columns_that_cannot_be_prepared():
    many = "c,t\n" + "".join(f"word{i},{i % 2}\n" for i in range(1001))
    expected = (
        "data.csv: column 'c': 1001 different texts would be as many inputs, expected at most 1000; "
        "leave it out with --ignore"
    )
    refused(expected, lambda: learned(table(many)))
    assert learned(table(many.rsplit("\n", 2)[0])).width == 1000
    expected = "data.csv: column 'n': numbers up to 1e+300 are too large to be standardised"
    refused(expected, lambda: learned(table("n,t\n1e300,0\n1,1\n")))
    expected = "data.csv: there is no column with values to predict 't' from"
    refused(expected, lambda: learned(table("n,t\n,0\n,1\n")))
    refused(expected, lambda: learned(table("n,t\n,0\n,1\n"), categories=["n"]))


def test_names_that_no_file_holds(monkeypatch):
    monkeypatch.setattr("fastbp.data.preparation.MOST_CHARACTERS", 100)
    with pytest.raises(
        DataError, match=r"names of columns and categories take .* characters, expected at most 100; leave"
    ):
        learned(table(TRAINING))


def test_missing_numbers_in_images():
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)
    t = ArrayTable("images", x, np.array([0, 1]))
    preparation = Preparation.learn(t, Target.learn(t, "y"))
    with pytest.raises(
        DataError, match=r"later: column 'X\[1\]', row 2: the value is missing, as none was in training"
    ):
        preparation.inputs(ArrayTable("later", np.array([[0.0, 1, 2, 3], [0, NAN, 2, 3]]), None)).array()


def test_blocks_put_together_are_the_whole(monkeypatch):
    preparation = learned(table(TRAINING))
    whole = preparation.inputs(table(TRAINING)).array()
    monkeypatch.setattr("fastbp.data.preparation._BLOCK", 15)  # three rows of five
    blocks = list(preparation.inputs(table(TRAINING)).blocks())
    assert [start for start, _ in blocks] == [0, 3]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), whole)
    assert (
        len(list(preparation.inputs(table(TRAINING)).blocks(n_outputs=9))) == 4
    )  # one row of nine at a time


# -- the split -----------------------------------------------------------------------------------------------------------------


def test_split_by_classes():
    t = table("t,x\n" + "a,1\n" * 50 + "b,1\n" * 10 + "c,1\n" + ",1\n" * 3)
    target = Target.learn(t, "t")
    train, held = split(t, target, 0.2, seed=0)
    assert np.bincount(target.indices(t)[held]).tolist() == [10, 2]
    assert sorted([*train, *held]) == list(range(61))
    assert (
        split(t, target, 0.2, seed=0)[1].tolist()
        == held.tolist()
        != split(t, target, 0.2, seed=1)[1].tolist()
    )
    assert len(split(t, target, 0.0)[1]) == 0
    assert np.bincount(target.indices(t)[split(t, target, 0.999)[0]]).tolist() == [1, 1, 1]


# -- pipelines and scores ------------------------------------------------------------------------------------------------------


def trained(t: Table, task: str | None = None) -> Pipeline:
    target = Target.learn(t, "y", task)
    preparation = Preparation.learn(t, target)
    net = fastbp.MLP([preparation.width, 8, target.n_outputs], loss=target.loss, seed=0)
    net.fit(
        preparation.inputs(t).array(),
        target.targets(t, np.arange(t.n_rows)),
        epochs=5,
        optimizer=fastbp.Adam(0.01),
        progress=False,
    )
    return Pipeline(net, preparation, {"epochs": 5})


@pytest.fixture
def digits():
    x, y = fastbp.datasets.load_digits()
    return ArrayTable("digits", x[:300], y[:300])


@pytest.fixture
def numbers():
    x = np.random.default_rng(0).normal(3, 2, (200, 4))
    return ArrayTable("numbers", x, 100 + 5 * x @ [1, -2, 0, 3])


def test_score_of_classes(backend, digits, monkeypatch):
    pipeline = trained(digits)
    net, x = pipeline.net, pipeline.preparation.inputs(digits).array()
    y = digits.numbers(("y",))[:, 0].astype(int)
    monkeypatch.setattr("fastbp.data.preparation._BLOCK", 64 * 77)  # blocks of 77 rows
    score = pipeline.evaluate(digits)
    got = net.predict(x)
    assert score.measures["accuracy"] == pytest.approx((got == y).mean())
    assert score.measures["log-loss"] == pytest.approx(net.loss(x, y), rel=sum_of(300) * EPS)
    expected = np.zeros((10, 10), int)
    for row, column in zip(y, got, strict=True):
        expected[row, column] += 1
    np.testing.assert_array_equal(score.confusion, expected)
    assert pipeline.predict(digits).tolist() == [str(each) for each in got]


def test_score_of_numbers(backend, numbers):
    pipeline = trained(numbers, "regression")
    got, wanted = pipeline.predict(numbers), numbers.numbers(("y",))[:, 0]
    error = got - wanted
    measures = pipeline.evaluate(numbers).measures
    assert measures["MAE"] == pytest.approx(np.abs(error).mean())
    assert measures["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert measures["R²"] == pytest.approx(1 - error.var() / wanted.var(), abs=0.01) and measures["R²"] > 0.5
    target, net = pipeline.preparation.target, pipeline.net
    z = net.predict(pipeline.preparation.inputs(numbers).array())[:, 0]
    np.testing.assert_allclose(got, z * wanted.std() + wanted.mean(), rtol=LAST_DIGITS * EPS)
    assert target.targets(numbers, np.arange(200)).std() == pytest.approx(1)


def test_counts(backend):
    x = np.random.default_rng(0).normal(size=(300, 2))
    y = np.random.default_rng(1).poisson(np.exp(1 + x[:, 0]))
    t = ArrayTable("counts", x, y)
    pipeline = trained(t, "counts")
    got = pipeline.predict(t)
    np.testing.assert_allclose(
        got, pipeline.net.predict(pipeline.preparation.inputs(t).array())[:, 0], rtol=LAST_DIGITS * EPS
    )
    assert (got > 0).all() and pipeline.evaluate(t).measures["R²"] > 0.3


def test_rows_without_a_target_are_not_scored():
    t = table("x,y\n" + "1,a\n2,b\n" * 20 + "3,\n")
    target = Target.learn(t, "y")
    preparation = Preparation.learn(t, target)
    pipeline = Pipeline(fastbp.MLP([1, 2], seed=0), preparation)
    assert pipeline.evaluate(t).n_rows == 40
    with pytest.raises(DataError, match="column 'y': the target has no value at all"):
        pipeline.evaluate(table("x,y\n1,\n"))
    with pytest.raises(DataError, match="no column 'y'; it has 'x'"):
        pipeline.evaluate(table("x\n1\n"))


def test_saved_and_loaded():
    text = TRAINING.replace("t\n", "y\n", 1)
    t = table(text)
    pipeline = trained(t)
    pipeline.save("model")
    again = Pipeline.load("model")
    np.testing.assert_array_equal(again.net.parameters, pipeline.net.parameters)
    assert again.net.activation == pipeline.net.activation and again.training == {"epochs": 5}
    before, after = (each.preparation.to_header_and_arrays() for each in (pipeline, again))
    assert before[0] == after[0] == json.loads(json.dumps(before[0]))
    for name, array in before[1].items():
        np.testing.assert_array_equal(after[1][name], array)
    assert again.predict(t).tolist() == pipeline.predict(t).tolist()


def test_files_that_are_no_pipelines():
    fastbp.MLP([2, 3]).save("net")
    np.savez("arrays.npz", X=np.ones(3))
    Path("text").write_text("a,b\n1,2\n")
    for name in ("net", "arrays.npz", "text"):
        with pytest.raises(DataError, match=f"{name}: .*expected"):
            Pipeline.load(name)
    with pytest.raises(FileNotFoundError):
        Pipeline.load("nothing")
    pipeline = trained(table(TRAINING.replace("t\n", "y\n", 1)))
    pipeline.save("model")
    whole = Path("model").read_bytes()
    Path("model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="model: "):
        Pipeline.load("model")


def test_a_network_that_does_not_fit_its_inputs():
    preparation = learned(table(TRAINING))
    Pipeline(fastbp.MLP([preparation.width + 1, 2]), preparation).save("model")
    with pytest.raises(DataError, match=r"model: a damaged model .*sizes \(6, 2\)"):
        Pipeline.load("model")


@pytest.mark.parametrize("damage", ["numbers", "categories", "target", "shift"])
def test_a_preparation_with_a_part_missing(damage):
    header, arrays = learned(table(TRAINING)).to_header_and_arrays()
    header.pop(damage, None), arrays.pop(damage, None)
    with pytest.raises(KeyError):
        Preparation.from_header_and_arrays(header, arrays)
