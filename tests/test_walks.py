"""The walks of docs/walks.md are those that the code takes: each file has the function, and in it the line that leads on."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "walks.md").read_text(encoding="utf-8")
WALKS = [
    re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", part, re.MULTILINE)
    for part in PAGE.split("\n## ")[1:]
]
DEFINITION = r"^(?:    )?(?:def|cdef|static)\b[^\n;]*?[ *]{name}\("

pytestmark = pytest.mark.skipif(
    not (ROOT / "src_c").exists(), reason="an installed package without its sources"
)


def body_of(file: str, name: str) -> str:
    """From the definition of a function up to the next one of its depth."""
    text = (ROOT / file).read_text(encoding="utf-8")
    start = re.search(DEFINITION.format(name=re.escape(name)), text, re.MULTILINE)
    assert start, f"{file} defines no {name}"
    indent = re.match(" *", start[0])[0]
    end = re.search(rf"^{indent}(?:def|cdef|static|class)\b", text[start.end() :], re.MULTILINE)
    return text[start.start() : start.end() + end.start() if end else None]


def test_their_length():
    assert [len(walk) for walk in WALKS] == [6, 12]


@pytest.mark.parametrize("step", [step for walk in WALKS for step in walk], ids=lambda step: step[0])
def test_each_step(step):
    file, name, line = step
    assert line in body_of(file, name)


def test_each_step_leads_to_the_next():
    """A name in the line by which one goes down is known in the next file."""
    for walk in WALKS:
        for (_, _, line), (file, _, _) in itertools.pairwise(walk):
            text = (ROOT / file).read_text(encoding="utf-8")
            names = [name for name in re.findall(r"\w+", line) if len(name) > 1]
            assert any(re.search(rf"\b{name}\b", text) for name in names), f"{line} leads to {file}"
