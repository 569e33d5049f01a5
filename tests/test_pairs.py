"""The choice of combinations: every pair is there, and few rows more than it takes."""

from __future__ import annotations

import itertools

import pairs
import pytest

OPTIONS = {"form": "abcd", "softcap": (0.0, 30.0), "ignored": (None, -100, 0), "mean": (False, True)}


def meaningful(row):
    return row["form"] == "a" or row["ignored"] is None


def met(rows):
    return {pair for row in rows for pair in itertools.combinations(row.items(), 2)}


def test_every_pair_that_means_something(monkeypatch):
    few = pairs.combinations(OPTIONS, "seed", meaningful)
    monkeypatch.setattr(pairs, "exhaustive", True)
    product = pairs.combinations(OPTIONS, "seed", meaningful)
    assert len(product) == 24 and met(few) == met(product)
    assert product[0] == few[0]


@pytest.mark.skipif(pairs.exhaustive, reason="there is nothing to choose")
def test_few_rows_the_same_in_every_process():
    few = pairs.combinations(OPTIONS, "seed", meaningful)
    assert few == pairs.combinations(OPTIONS, "seed", meaningful)
    assert few != pairs.combinations(OPTIONS, "another", meaningful)
    assert few[0] == {name: values[0] for name, values in OPTIONS.items()} and len(few) <= 12
    assert len(pairs.combinations(dict.fromkeys("abcdefgh", (False, True)))) <= 8


@pytest.mark.parametrize("options", [{"one": (1, 2, 3)}, {"one": (1, 2, 3), "other": "ab"}])
def test_one_option_or_two_are_all_combinations(options):
    rows = pairs.combinations(options)
    assert (
        len(rows)
        == len({tuple(row.items()) for row in rows})
        == len(list(itertools.product(*options.values())))
    )


@pytest.mark.skipif(pairs.exhaustive, reason="all are taken")
def test_values_take_turns():
    assert [pairs.in_turn("abcde", number, 2) for number in range(3)] == [["a", "b"], ["c", "d"], ["e", "a"]]
