"""One-token faults of a source file in C, Cython or Python: what a hand might get wrong, found in the tokens.

An operator is a generator over :class:`Source` that yields (start, end, replacement). It sees code alone: no comment, no string
(and so no message and no docstring), no preprocessor condition. What could change nothing is left out as far as tokens tell.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

_NUMBER = r"0[xX][\da-fA-F]+[uUlL]*|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fFuUlLjJ]*"
_REST = rf"""|(?P<number>{_NUMBER})|(?P<name>[^\W\d]\w*)
|(?P<op>->|\+\+|--|<<=|>>=|<=|>=|==|!=|&&|\|\||[-+*/]=|//|\*\*|<<|>>|:=|[^\w\s])|(?P<newline>\n)"""
_C = r"""(?P<skip>/\*.*?\*/|//[^\n]*
|^[ \t]*\#[ \t]*(?:if|ifdef|ifndef|else|elif|endif|include|undef|pragma|error)\b(?:\\\n|[^\n])*
|^[ \t]*\#[ \t]*define[ ]+\w+(?:\([^)]*\))?|\\\n)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])+')"""
_PYTHON = r"""(?P<skip>\#[^\n]*|\\\n)
|(?P<string>[rbufcRBUFC]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))"""
_FLAGS = re.VERBOSE | re.DOTALL | re.MULTILINE
_LANGUAGES = {"c": re.compile(_C + _REST, _FLAGS), "python": re.compile(_PYTHON + _REST, _FLAGS)}
_KEYWORDS = re.compile(
    "and|as|assert|break|case|cdef|class|const|continue|cpdef|def|del|do|elif|else|enum|except|finally|for|from|goto|if|import|in|"
    "inline|is|lambda|nogil|noexcept|not|or|pass|print|raise|return|sizeof|static|struct|switch|try|typedef|while|with|yield"
).fullmatch
_OPENING, _CLOSING = dict(zip("([{", ")]}", strict=True)), set(")]}")
_LEAVES = {"raise", "return", "continue", "break", "goto"}
_EITHER_WAY = re.compile(r"v_(add|mul|max|eq)|_mm\d*_(add|mul|max)_\w+|f?min|f?max|minimum|maximum|smaller")
_SPARED_IN_C = re.compile(r"\w*(PREFETCH|prefetch|ask_for)\w*|_?[sS]tatic_assert")
_SPARED_IN_PYTHON = {"raise", "from", "import", "cimport", "assert", "except", "ctypedef"}


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class Fault(NamedTuple):
    operator: str
    path: str
    line: int
    start: int
    end: int
    replacement: str


@dataclass
class Source:
    """The tokens of a text, with what stands round each of them."""

    path: str
    text: str

    @property
    def is_c(self) -> bool:
        return self.path.endswith((".c", ".h"))

    @cached_property
    def all_tokens(self) -> list[Token]:
        matches = _LANGUAGES["c" if self.is_c else "python"].finditer(self.text)
        return [Token(m.lastgroup or "", m[0], *m.span()) for m in matches if m.lastgroup != "skip"]

    @cached_property
    def tokens(self) -> list[Token]:
        return [token for token in self.all_tokens if token.kind != "newline"]

    @cached_property
    def partner(self) -> dict[int, int]:
        """Of an opening bracket the closing one, and the other way round, by their indices."""
        pairs, open_ones = {}, []
        for i, token in enumerate(self.tokens):
            if token.kind == "op" and token.text in _OPENING:
                open_ones.append(i)
            elif token.kind == "op" and token.text in _CLOSING and open_ones:
                j = open_ones.pop()
                pairs[i], pairs[j] = j, i
        return pairs

    @cached_property
    def statement(self) -> list[int]:
        """For each token the index of the first one of its statement (in C roughly: after `;`, `{`, `}`)."""
        starts, first, depth, after = [], 0, 0, 0
        for i, token in enumerate(self.tokens):
            gap = self.text[after : token.start]
            if self.is_c:
                fresh = i > 0 and (self.tokens[i - 1].text in ";{}" or "#" in gap)
            else:
                fresh = depth == 0 and "\n" in gap.replace("\\\n", "")
                depth += (token.text in _OPENING) - (token.text in _CLOSING) if token.kind == "op" else 0
            first, after = i if fresh else first, token.end
            starts.append(first)
        return starts

    @cached_property
    def function(self) -> list[int]:
        """For each token the index of the first one of the body of its function; -1 outside of all, and in their heads."""
        return self._functions_of_c() if self.is_c else self._functions_of_python()

    def _functions_of_c(self) -> list[int]:
        within, i = [-1] * len(self.tokens), 0
        while i < len(self.tokens):
            end = self.partner.get(i, i) if self.tokens[i].text == "{" else i
            if end > i and i and self.tokens[i - 1].text == ")":
                within[i : end + 1] = [i] * (end + 1 - i)
            i = end + 1
        return within

    def _functions_of_python(self) -> list[int]:
        within, inside, margin = [-1] * len(self.tokens), -1, 0
        for i, token in enumerate(self.tokens):
            if self.statement[i] == i:
                indent = self.column(token)
                if inside >= 0 and indent <= margin:
                    inside = -1
                head = self.head_end(i)
                if head:
                    inside, margin = head + 1, indent
            within[i] = inside if i >= inside else -1
        return within

    def head_end(self, i: int) -> int:
        """The colon that ends the head of a function which starts at token i; 0 if none does."""
        if self.tokens[i].text not in ("def", "cdef", "cpdef"):
            return 0
        j, called = i, False
        while j < len(self.tokens) and self.statement[j] == i:
            if self.tokens[j].text == "(":
                called, j = True, self.partner.get(j, j)
            elif self.tokens[j].text == "=":
                return 0
            elif self.tokens[j].text == ":":
                return j if called else 0
            j += 1
        return 0

    def column(self, token: Token) -> int:
        return token.start - self.text.rfind("\n", 0, token.start) - 1

    def line(self, start: int) -> int:
        return self.text.count("\n", 0, start) + 1

    def at(self, i: int) -> str:
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def ends_operand(self, i: int) -> bool:
        if not 0 <= i < len(self.tokens):
            return False
        token = self.tokens[i]
        return (
            token.text in (")", "]")
            or token.kind in ("number", "string")
            or (token.kind == "name" and not _KEYWORDS(token.text))
        )

    def binary(self, i: int) -> bool:
        """An operator between two operands; pointers and signs have no space behind them."""
        return self.ends_operand(i - 1) and self.text[self.tokens[i].end].isspace()

    def calls(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Calls in functions: the index of the name, and of the first and last token of each argument."""
        for i, token in enumerate(self.tokens):
            if token.kind != "name" or _KEYWORDS(token.text) or self.at(i + 1) != "(" or self.function[i] < 0:
                continue
            if (
                self.tokens[i + 1].start == token.end
                and i + 1 in self.partner
                and self.at(i - 1) not in ("def", "class")
            ):
                yield i, self.split(i + 1)

    def split(self, opening: int) -> list[tuple[int, int]]:
        parts, start, i, end = [], opening + 1, opening + 1, self.partner[opening]
        while i < end:
            if self.at(i) == ",":
                parts.append((start, i - 1))
                start = i + 1
            i = self.partner[i] + 1 if self.at(i) in _OPENING and i in self.partner else i + 1
        return [(a, b) for a, b in [*parts, (start, end - 1)] if a <= b]

    def words(self, part: tuple[int, int]) -> str:
        return self.text[self.tokens[part[0]].start : self.tokens[part[1]].end]

    def primary_end(self, i: int) -> int:
        """The last token of the operand that starts at token i, with its calls, subscripts and members; -1 if none does."""
        if self.at(i) in ("-", "!", "&", "*") and self.is_c:
            i += 1
        if self.at(i) in ("(", "["):
            i = self.partner.get(i, -2)
        elif not (0 <= i < len(self.tokens) and self.tokens[i].kind in ("name", "number")) or _KEYWORDS(
            self.at(i)
        ):
            return -1
        while i >= 0:
            if self.at(i + 1) in ("(", "[") and self.tokens[i + 1].start == self.tokens[i].end:
                i = self.partner.get(i + 1, -2)
            elif self.at(i + 1) in (".", "->"):
                i += 2
            else:
                return i
        return -1


Edit = tuple[int, int, str]


def replaced(source: Source, i: int, text: str, last: int | None = None) -> Edit:
    return source.tokens[i].start, source.tokens[i if last is None else last].end, text


def sign(source: Source) -> Iterator[Edit]:
    swaps = {"+": "-", "-": "+", "+=": "-=", "-=": "+=", "v_add": "v_sub", "v_sub": "v_add"}
    for i, token in enumerate(source.tokens):
        near_text = "string" in (
            source.tokens[i - 1].kind,
            source.tokens[min(i + 1, len(source.tokens) - 1)].kind,
        )
        if near_text:
            continue
        if token.text in swaps and (source.function[i] >= 0 if token.kind == "name" else source.binary(i)):
            yield replaced(source, i, swaps[token.text])
        elif token.text == "-" and source.at(i - 1) not in ("return", "except", "?"):
            yield replaced(source, i, "")


def comparison(source: Source) -> Iterator[Edit]:
    swaps = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
    for i, token in enumerate(source.tokens):
        if token.text in swaps and source.binary(i) and not _chooses(source, i):
            yield replaced(source, i, swaps[token.text])


def _chooses(source: Source, i: int) -> bool:
    """`a < b ? a : b`, where nothing hangs on which of two equal numbers is taken."""
    right = source.primary_end(i + 1)
    if right < 0 or source.at(right + 1) != "?":
        return False
    yes = source.primary_end(right + 2)
    no = source.primary_end(yes + 2) if yes > 0 else -1
    return no > 0 and source.words((i + 1, right)) in (
        source.words((right + 2, yes)),
        source.words((yes + 2, no)),
    )


def _bounds(source: Source) -> Iterator[int]:
    """The last tokens of what ends a range, a slice, a loop or a vector."""
    for _, arguments in ((i, a) for i, a in source.calls() if source.at(i) == "range"):
        yield from (last for _, last in arguments[:2])
    for i, arguments in source.calls():
        if source.at(i) != "range":
            yield from (b for a, b in arguments if b == a + 2 and source.at(a + 1) == "-")
    for i, token in enumerate(source.tokens):
        end = source.partner.get(i, -1)
        if token.text == "for" and source.is_c and source.at(i + 1) == "(":
            stops = [j for j in range(i, source.partner.get(i + 1, i)) if source.at(j) == ";"]
            condition = [source.at(j) for j in range(stops[0], stops[1])] if len(stops) == 2 else []
            if set(condition) & {"<", "<=", ">", ">="} and not set(condition) & {"&&", "||"}:
                yield stops[1] - 1
        elif token.text == "[" and not source.is_c and source.function[i] >= 0:
            yield from (
                j - 1
                for j in range(i + 2, end + 1)
                if source.at(j) in (":", "]") and ":" in map(source.at, range(i, end))
            )


def off_by_one(source: Source) -> Iterator[Edit]:
    for i in _bounds(source):
        if source.ends_operand(i) and source.tokens[i].kind != "string":
            yield replaced(source, i, source.at(i) + " - 1")
            yield replaced(source, i, source.at(i) + " + 1")


def _siblings(a: str, b: str) -> bool:
    if a == b or _KEYWORDS(a) or _KEYWORDS(b):
        return False
    if len(a) == len(b) == 1:
        return a.isupper() == b.isupper()
    parts = [set(name.strip("_").split("_")) for name in (a, b)]
    return len(a) > 1 < len(b) and bool(parts[0] & parts[1]) and a.isupper() == b.isupper()


def operand(source: Source) -> Iterator[Edit]:
    """A name for its sibling: A_row for B_row in the same function, i for j in the same statement."""
    variables: dict[tuple[int, bool], dict[str, set[int]]] = {}
    places = []
    for i, token in enumerate(source.tokens):
        following = source.tokens[min(i + 1, len(source.tokens) - 1)]
        declares = following.kind in ("name", "string") and not _KEYWORDS(following.text)
        declares |= following.text == "*" and not source.text[following.end].isspace()
        named = source.at(i - 1) == "." and source.at(i - 2) in ("{", ",", "(")
        keyword = following.text == "=" and not source.text[token.end].isspace()
        if (
            token.kind == "name"
            and source.function[i] >= 0
            and following.text != "("
            and not (declares or named or keyword)
        ):
            member = source.at(i - 1) in (".", "->")
            group = variables.setdefault((source.function[i], member), {})
            group.setdefault(token.text, set()).add(source.statement[i])
            places.append((i, group))
    for i, group in places:
        for other, statements in sorted(group.items()):
            if _siblings(source.at(i), other) and (len(other) > 1 or source.statement[i] in statements):
                yield replaced(source, i, other)


def dropped_term(source: Source) -> Iterator[Edit]:
    for i, token in enumerate(source.tokens):
        if (
            token.text not in ("+", "-", "*", "/")
            or not source.binary(i)
            or source.tokens[i - 1].kind == "string"
        ):
            continue
        end = source.primary_end(i + 1)
        while (
            end > 0
            and token.text in "+-"
            and source.at(end + 1) in ("*", "/", "//")
            and source.binary(end + 1)
        ):
            end = source.primary_end(end + 2)
        if end > 0:
            yield source.tokens[i - 1].end, source.tokens[end].end, ""


def swapped_arguments(source: Source) -> Iterator[Edit]:
    for i, arguments in source.calls():
        if _EITHER_WAY.fullmatch(source.at(i)):
            continue
        for first, second in itertools.pairwise(arguments):
            a, b = source.words(first), source.words(second)
            if a != b and not any("=" in text or text.startswith("*") for text in (a, b)):
                yield replaced(source, first[0], f"{b}, {a}", second[1])


def missing_check(source: Source) -> Iterator[Edit]:
    for i, token in enumerate(source.tokens):
        if token.text not in ("if", "elif"):
            continue
        if source.is_c:
            end = source.partner.get(i + 1, -1)
            if end > 0 and source.at(end + 1 + (source.at(end + 1) == "{")) in _LEAVES:
                yield replaced(source, i + 1, "(0)", end)
        elif source.statement[i] == i:
            end = i
            while end < len(source.tokens) and source.at(end) != ":":
                end = source.partner[end] + 1 if source.at(end) in _OPENING else end + 1
            if source.at(end + 1) in (
                _LEAVES if source.path.endswith(".pyx") else {"raise"}
            ):  # a return in Python is a short cut
                yield replaced(source, i + 1, "False", end - 1)
    for i, arguments in source.calls():
        checks = source.at(i - 1) == "." and source.at(i - 2).endswith("_checks") and len(arguments) > 1
        if checks and source.tokens[arguments[0][0]].kind == "string":
            yield replaced(source, i - 2, source.words(arguments[1]), source.partner[i + 1])


def wrong_constant(source: Source) -> Iterator[Edit]:
    """A float by two units in the last place of its type, an integer by one."""
    for i, token in enumerate(source.tokens):
        text = token.text.rstrip("fFuUlL") if not token.text.lower().startswith("0x") else token.text
        status = source.at(i - 1) == "return" and token.text == "0"
        if (
            token.kind != "number"
            or status
            or (source.at(i - 1) == "-" and source.at(i - 2) in ("return", "except", "?"))
        ):
            continue
        if re.search(r"[.eE]", text) and not text.lower().startswith("0x"):
            single = token.text.endswith(("f", "F"))
            value = np.float32(text) if single else np.float64(text)
            if value != 0:
                wrong = np.nextafter(np.nextafter(value, value.dtype.type(0)), value.dtype.type(0))
                yield replaced(source, i, f"{wrong:.9g}f" if single else f"{wrong:.17g}")
        elif text.isdigit():
            flag = (
                text == "1" and source.at(i - 1) in ("(", ",") and source.at(i + 1) in (")", ",")
            )  # 2 would be as true
            yield replaced(source, i, ("0" if flag else str(int(text) + 1)) + token.text[len(text) :])


def minimum(source: Source) -> Iterator[Edit]:
    pairs = [
        ("min", "max"),
        ("minimum", "maximum"),
        ("fmin", "fmax"),
        ("argmin", "argmax"),
        ("FLT_MIN", "FLT_MAX"),
    ]
    swaps = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    for i, token in enumerate(source.tokens):
        if token.text in swaps and source.at(i + 1) == "(":
            yield replaced(source, i, swaps[token.text])
        elif token.text == "smaller" and source.at(i + 1) == "(" and source.function[i] >= 0:
            a, b = (source.words(part) for part in source.split(i + 1))
            yield replaced(source, i, f"-smaller(-({a}), -({b}))", source.partner[i + 1])


def logic(source: Source) -> Iterator[Edit]:
    swaps = {"&&": "||", "||": "&&", "and": "or", "or": "and"}
    for i, token in enumerate(source.tokens):
        if token.text in swaps:
            yield replaced(source, i, swaps[token.text])
        elif (token.text == "not" and source.at(i - 1) != "is" and source.at(i + 1) != "in") or (
            token.text == "!" and source.is_c
        ):
            yield replaced(source, i, "")


OPERATORS = {
    f.__name__.replace("_", " "): f
    for f in (
        sign, comparison, off_by_one, operand, dropped_term, swapped_arguments, missing_check, wrong_constant, minimum, logic,
    )
}  # fmt: skip


def _spared(source: Source) -> set[int]:
    """Lines in which no fault is drawn: messages, imports, what only asks for memory ahead of its time."""
    lines = set()
    for i, token in enumerate(source.tokens):
        first = source.tokens[source.statement[i]]
        if _SPARED_IN_C.fullmatch(token.text) if source.is_c else first.text in _SPARED_IN_PYTHON:
            lines.add(source.line(token.start))
    return lines


def faults_of(path: str, text: str) -> Iterator[Fault]:
    """Every fault that the operators find in a file."""
    source = Source(path, text)
    spared = _spared(source)
    for name, operator in OPERATORS.items():
        for start, end, replacement in sorted(set(operator(source))):
            line = source.line(start)
            if text[start:end] != replacement and line not in spared:
                yield Fault(name, path, line, start, end, replacement)
