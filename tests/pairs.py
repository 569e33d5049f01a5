"""Which combinations of options a test tries: every pair of values in an ordinary run, the full product with --exhaustive.

Nearly every fault that takes several options at once takes two of them. The rows of a test that meets all pairs are some tens
where the product has hundreds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

exhaustive = False
"""Whether the full product is asked for: conftest.py sets it before any test module is imported."""


def combinations(
    options: Mapping[str, Sequence[Any]],
    seed: object = "",
    meaningful: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Rows {option: value}: all that are meaningful, or few of them with every pair. The first row has all first values."""
    rows = (dict(zip(options, values, strict=True)) for values in itertools.product(*options.values()))
    product = [row for row in rows if meaningful(row)]
    return covering(product, seed) if product and not exhaustive else product


def covering(product: Sequence[Row], seed: object) -> list[Row]:
    """Few of these rows: any two values that are together in one of them are together in one of those.

    Greedy: the next row is the one with most pairs that are still missing. The seed decides between equals, so that another
    seed meets the same pairs in other rows.
    """
    rows = [product[0], *random.Random(repr(seed)).sample(product[1:], len(product) - 1)]
    bit_of: dict[Any, int] = {}
    pairs = []  # of each row, a bit for each
    for row in rows:
        of_row = itertools.combinations(row.items(), min(2, len(row)))
        pairs.append(sum(bit_of.setdefault(pair, 1 << len(bit_of)) for pair in of_row))
    missing, chosen, best = (1 << len(bit_of)) - 1, [], 0
    while missing:
        chosen.append(rows[best])
        missing &= ~pairs[best]
        best = max(range(len(rows)), key=lambda row: (pairs[row] & missing).bit_count())
    return chosen


def in_turn(values: Sequence[Any], number: int, n: int = 1) -> list[Any]:
    """The n values from this number on, round and round: what comes next takes the next ones. All of them with --exhaustive."""
    if exhaustive:
        return list(values)
    return [values[(n * number + i) % len(values)] for i in range(n)]
