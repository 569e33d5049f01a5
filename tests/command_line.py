"""Calls of the command line in this process, and a table and models to call it on, in the current folder."""

from __future__ import annotations

import csv
import os
import random

import pytest

from fastbp import cli


def write_houses() -> None:
    """`houses.csv`: 200 houses; numbers, some of them missing, a category, a truth value, two targets."""
    pytest.importorskip("pyarrow")
    chance = random.Random(0)
    with open("houses.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["area", "rooms", "district", "garden", "price", "size"])
        for _ in range(200):
            area, district = chance.randrange(30, 200), chance.choice(["north", "south"])
            rooms = "" if chance.random() < 0.1 else area // 25
            garden = chance.random() < 0.4
            price = 2.5 * area + 80 * (district == "south") + 60 * garden
            writer.writerow([area, rooms, district, garden, price, "large" if area > 110 else "small"])


def train(target: str, other: str, model: str) -> None:
    """A model of `houses.csv`."""
    assert (
        cli.main(f"train houses.csv --target {target} --ignore {other} --quiet --output {model}".split()) == 0
    )


def said(capfd, command: str, status: int = 0) -> tuple[str, str]:
    """What `command` writes to standard output and standard error; a parser's error exits."""
    try:
        got = cli.main(command.split())
    except SystemExit as end:
        got = end.code
    out, err = capfd.readouterr()
    assert got == status, err
    return out, err


def refused(capfd, command: str, expected: str, status: int = 2) -> None:
    """`command` ends with that line on standard error, nothing on standard output, and no file more."""
    before = sorted(os.listdir())
    out, err = said(capfd, command, status)
    assert (out, err) == ("", f"fastbp {command.split()[0]}: {expected}\n")
    assert sorted(os.listdir()) == before
