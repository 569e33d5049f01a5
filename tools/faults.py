"""One-token faults of a source file in C, Cython or Python: what a hand might get wrong, found in the tokens.

An operator is a generator over :class:`Source` that yields (start, end, replacement). It sees code alone: no comment, no string
(and so no message and no docstring), no preprocessor condition. What could change nothing is left out as far as tokens tell.
"""

from __future__ import annotations

import collections
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
_OPENING, _CLOSING = set("([{"), set(")]}")
_STATUS = {"return", "except", "?"}  # before -1
_EITHER_WAY = re.compile(r"v_(add|mul|max|eq)|_mm\d*_(add|mul|max)_\w+|f?min|f?max|minimum|maximum|smaller")
_SPARED_IN_C = re.compile(
    r"\w*(PREFETCH|prefetch|ask_for|_on_tiles)\w*|\w*(SPINS|spins)|\w*_core|_?[sS]tatic_assert|assert"
)
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
    def tokens(self) -> list[Token]:
        matches = _LANGUAGES["c" if self.is_c else "python"].finditer(self.text)
        tokens = [
            Token(m.lastgroup or "", m[0], *m.span())
            for m in matches
            if m.lastgroup not in ("skip", "newline")
        ]
        return [*tokens, Token("end", "", len(self.text), len(self.text))]

    @cached_property
    def partner(self) -> dict[int, int]:
        """Of an opening bracket the closing one, and the other way round, by their indices."""
        pairs, open_ones = {}, []
        for i, token in enumerate(self.tokens):
            if token.text in _OPENING:
                open_ones.append(i)
            elif token.text in _CLOSING and open_ones:
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
                depth += (token.text in _OPENING) - (token.text in _CLOSING)
            first, after = i if fresh else first, token.end
            starts.append(first)
        return starts

    @cached_property
    def function(self) -> list[int]:
        """For each token the index of one that its function has in common; -1 outside of all, and in their heads."""
        return self._bodies_in_c() if self.is_c else self._bodies_in_python()

    def _bodies_in_c(self) -> list[int]:
        within, i = [-1] * len(self.tokens), 0
        while i < len(self.tokens):
            body = self.at(i) == "{" and self.at(i - 1) == ")"
            end = self.partner[i] + 1 if body else i + 1
            within[i:end] = [i if body else -1] * (end - i)
            i = end
        return within

    def _bodies_in_python(self) -> list[int]:
        within, inside = [-1] * len(self.tokens), -1
        for i, statement in itertools.groupby(range(len(self.tokens)), self.statement.__getitem__):
            last = max(statement)
            head = self.at(last) == ":" and self.at(i) in ("def", "cdef", "cpdef")
            outside = head or self.text[: self.tokens[i].start].endswith("\n")
            inside = -1 if outside else i if inside < 0 else inside
            within[i : last + 1] = [inside] * (last + 1 - i)
        return within

    @cached_property
    def unrolled(self) -> set[int]:
        """The tokens in heads of unrolled loops. These go over local arrays of vectors: one step too many writes behind them what
        nobody reads. Compilers drop it, and the sanitizers' run sees it."""
        heads = [
            i + 2
            for i in range(len(self.tokens))
            if self.at(i).startswith("UNROLL") and self.at(i + 1) == "for"
        ]
        return {j for i in heads for j in range(i, self.partner[i])}

    def line(self, start: int) -> int:
        return self.text.count("\n", 0, start) + 1

    def at(self, i: int) -> str:
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def ends_operand(self, i: int) -> bool:
        kind, text = self.tokens[i].kind, self.at(i)
        return text in (")", "]") or kind in ("number", "string") or (kind == "name" and not _KEYWORDS(text))

    def binary(self, i: int) -> bool:
        """An operator between two operands; pointers and signs have no space behind them."""
        return self.ends_operand(i - 1) and self.text[self.tokens[i].end : self.tokens[i + 1].start].isspace()

    def calls(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Calls in functions: the index of the name, and of the first and last token of each argument."""
        for i, (token, following) in enumerate(itertools.pairwise(self.tokens)):
            called = token.kind == "name" and following.text == "(" and following.start == token.end
            if (
                called
                and not _KEYWORDS(token.text)
                and self.function[i] >= 0
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
        elif self.tokens[i].kind == "string" or not self.ends_operand(i):
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
    swaps = {"+": "-", "-": "+", "+=": "-=", "-=": "+="}
    for i, token in enumerate(source.tokens):
        if token.text in ("v_add", "v_sub") and source.function[i] >= 0:
            yield replaced(source, i, "v_sub" if token.text == "v_add" else "v_add")
        elif token.text in swaps and source.binary(i):
            if "string" not in (source.tokens[i - 1].kind, source.tokens[i + 1].kind):
                yield replaced(source, i, swaps[token.text])
        elif token.text == "-" and source.at(i - 1) not in _STATUS:
            yield replaced(source, i, "")


def comparison(source: Source) -> Iterator[Edit]:
    swaps = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
    for i, token in enumerate(source.tokens):
        if token.text in swaps and source.binary(i) and i not in source.unrolled and not _chooses(source, i):
            yield replaced(source, i, swaps[token.text])


def _chooses(source: Source, i: int) -> bool:
    """`a < b ? a : b`, where nothing hangs on which of two equal numbers is taken."""
    right = source.primary_end(i + 1)
    if right < 0 or source.at(right + 1) != "?":
        return False
    yes = source.primary_end(right + 2)
    no = source.primary_end(yes + 2) if yes > 0 else -1
    return no > 0 and source.words((i + 1, right)) in map(source.words, ((right + 2, yes), (yes + 2, no)))


def _bounds(source: Source) -> Iterator[int]:
    """The last tokens of what ends a range, a loop, a slice, or tells how much is left (`n - i`)."""
    for i, arguments in source.calls():
        if source.at(i) == "range":
            yield from (last for _, last in arguments[:2])
        else:
            yield from (
                last for first, last in arguments if last == first + 2 and source.at(first + 1) == "-"
            )
    for i, end in source.partner.items():
        inside = [source.at(j) for j in range(i, end)]
        if source.at(i - 1) == "for" and inside.count(";") == 2:
            stop = len(inside) - inside[::-1].index(";") - 1
            condition = set(inside[inside.index(";") : stop])
            if condition & {"<", "<=", ">", ">="} and not condition & {"&&", "||"}:
                yield i + stop - 1
        elif source.at(i) == "[" and not source.is_c and source.function[i] >= 0 and ":" in inside:
            yield from (j - 1 for j in range(i + 2, end + 1) if source.at(j) in (":", "]"))


def off_by_one(source: Source) -> Iterator[Edit]:
    for i in _bounds(source):
        if source.ends_operand(i) and source.tokens[i].kind != "string":
            yield replaced(source, i, source.at(i) + " - 1")
            if i not in source.unrolled:
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
    groups = collections.defaultdict(lambda: collections.defaultdict(set))
    places = []
    for i, (token, following) in enumerate(itertools.pairwise(source.tokens)):
        declares = following.kind in ("name", "string") and not _KEYWORDS(following.text)
        declares |= following.text == "*" and not source.binary(i + 1)
        designates = source.at(i - 1) == "." and source.at(i - 2) in ("{", ",", "(")
        designates |= following.text == "=" and following.start == token.end
        other_kind = declares or designates or following.text == "(" or token.kind != "name"
        if source.function[i] >= 0 and not other_kind:
            group = groups[source.function[i], source.at(i - 1) in (".", "->"), following.text == "->"]
            group[token.text].add(source.statement[i])
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
        end, times = source.primary_end(i + 1), ("*", "/", "//") if token.text in "+-" else ()
        while end > 0 and source.at(end + 1) in times and source.binary(end + 1):
            end = source.primary_end(end + 2)
        if end > 0:
            yield source.tokens[i - 1].end, source.tokens[end].end, ""


def swapped_arguments(source: Source) -> Iterator[Edit]:
    for i, arguments in source.calls():
        if _EITHER_WAY.fullmatch(source.at(i)):
            continue
        for first, second in itertools.pairwise(arguments):
            a, b = source.words(first), source.words(second)
            product = source.at(i) in ("v_fma", "fma") and first == arguments[0]
            if a != b and not product and not any("=" in text or text.startswith("*") for text in (a, b)):
                yield replaced(source, first[0], f"{b}, {a}", second[1])


def missing_check(source: Source) -> Iterator[Edit]:
    """The condition of a way out; in Python of an error alone, since its returns are short cuts. And a call of the checks."""
    ways_out = {"raise"} if source.path.endswith(".py") else {"raise", "return", "continue", "break", "goto"}
    for i, token in enumerate(source.tokens):
        if token.text == "if" and source.is_c and source.at(i + 1) == "(":
            end = source.partner[i + 1]
            if source.at(end + 1 + (source.at(end + 1) == "{")) in ways_out:
                yield replaced(source, i + 1, "(0)", end)
        elif token.text in ("if", "elif") and source.statement[i] == i:
            end = i
            while source.at(end) not in (":", ""):
                end = source.partner.get(end, end) + 1 if source.at(end) in _OPENING else end + 1
            if source.at(end + 1) in ways_out:
                yield replaced(source, i + 1, "False", end - 1)
    for i, arguments in source.calls():
        checks = source.at(i - 1) == "." and source.at(i - 2).endswith("_checks") and len(arguments) > 1
        if checks and source.tokens[arguments[0][0]].kind == "string":
            yield replaced(source, i - 2, source.words(arguments[1]), source.partner[i + 1])


def wrong_constant(source: Source) -> Iterator[Edit]:
    """A float by two units in the last place of its type, an integer by one; 0 for 1 where that may be a flag."""
    for i, token in enumerate(source.tokens):
        number, suffix = re.fullmatch(r"(.*?)([fFuUlL]*)", token.text, re.DOTALL).groups()
        before, after = source.at(i - 1), source.at(i + 1)
        status = (before == "return" and number == "0") or (before == "-" and source.at(i - 2) in _STATUS)
        if token.kind != "number" or status or number[:2] in ("0x", "0X"):
            continue
        if re.search(r"[.eE]", number):
            kind, digits = (np.float32, 9) if suffix in ("f", "F") else (np.float64, 17)
            if kind(number) != 0:
                wrong = np.nextafter(np.nextafter(kind(number), kind(0)), kind(0))
                yield replaced(source, i, f"{wrong:.{digits}g}{suffix}")
        elif number.isdigit():
            flag = number == "1" and before in ("(", ",") and after in (")", ",")
            yield replaced(source, i, f"{0 if flag else int(number) + 1}{suffix}")


def minimum(source: Source) -> Iterator[Edit]:
    pairs = (("min", "max"), ("minimum", "maximum"), ("fmin", "fmax"), ("argmin", "argmax"))
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
        negates = (
            token.text == ("!" if source.is_c else "not")
            and source.at(i - 1) != "is"
            and source.at(i + 1) != "in"
        )
        if token.text in swaps or negates:
            yield replaced(source, i, swaps.get(token.text, ""))


OPERATORS = {
    f.__name__.replace("_", " "): f
    for f in (
        sign, comparison, off_by_one, operand, dropped_term, swapped_arguments, missing_check, wrong_constant, minimum, logic,
    )
}  # fmt: skip


def _spared(source: Source) -> set[int]:
    """Lines in which no fault is drawn: messages, imports, what only asks for memory or waits for threads."""
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
