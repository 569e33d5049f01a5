"""The site: every public name and every page has its place, and what was built of it needs no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = DOCS / "_build" / "html"
MODULES = {"callbacks", "datasets", "schedules"}  # whose names stand on a page of theirs
DOCUMENTED = re.compile(r"^\.\. auto(?:function|class|exception|module):: (\S+)", re.MULTILINE)
ADDRESS = re.compile(r"^(?:https?:)?//")
needs_docs = pytest.mark.skipif(not (DOCS / "conf.py").exists(), reason="no docs here")


def documented() -> list[str]:
    return [name for page in DOCS.glob("api/*.rst") for name in DOCUMENTED.findall(page.read_text("utf-8"))]


@needs_docs
def test_the_reference_has_every_public_name_once():
    names = documented()
    assert len(set(names)) == len(names)
    expected = set(fastbp.__all__) - {"__version__"}
    assert {name.removeprefix("fastbp.") for name in names} >= expected


@needs_docs
def test_the_text_for_programs_names_every_page():
    shown = set(re.findall(r"\]\((\S+\.md)\)", (DOCS / "llms.txt").read_text("utf-8")))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.glob("*.md")}
    assert shown == pages - {"index.md"}


class Fetched(HTMLParser):
    """What a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in {"script", "img", "iframe", "source"}:
            self.addresses.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") != "canonical":
            self.addresses.append(values.get("href") or "")


@pytest.mark.skipif(not SITE.exists(), reason="the site is not built")
def test_the_site_needs_no_network():
    pages = list(SITE.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text("utf-8"))
        assert not [address for address in parser.addresses if ADDRESS.match(address)], page
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text("utf-8")), style


@needs_docs
def test_the_tests_that_the_derivation_names_exist():
    text = (DOCS / "derivation.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 30
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE), (
            file,
            test,
        )
    sections = re.split(r"(?m)^#{2,3} ", text)[1:]
    assert all("*Tested by*" in section for section in sections if "**In numbers" in section)
