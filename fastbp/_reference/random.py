# mypy: allow-untyped-defs, allow-untyped-calls
"""Random numbers of dropout, which depend on a key and on their place alone."""

from __future__ import annotations

import numpy as np

_HALF = 32  # counters of a block; it has twice as many words
_ROUNDS, _BY = 13, (13, 15, 26, 6, 17, 29, 16, 24)
_UINT64 = 2**64 - 1


def threefry(key, counter, stream):
    """Return both words of Threefry-2x32 with 13 rounds for each of the counters, uint32.

    J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    keys = low, high, np.uint32(0x1BD11BDA) ^ low ^ high
    with np.errstate(over="ignore"):
        x, y = counter.astype(np.uint32) + keys[0], np.full(counter.shape, stream, np.uint32) + keys[1]
        for each in range(_ROUNDS):
            by = np.uint32(_BY[each % 8])
            x = x + y
            y = (y << by | y >> np.uint32(32 - by)) ^ x
            if each % 4 == 3:
                n = each // 4 + 1
                x, y = x + keys[n % 3], y + keys[(n + 1) % 3] + np.uint32(n)
    return x, y


def dropout_factors(rate, key, stream, shape, first_row=0):
    """Return the factors of outputs of this shape, row by row: 0 with probability `rate`, else 1 / (1 - rate)."""
    if first_row:
        return dropout_factors(rate, key, stream, (first_row + shape[0], *shape[1:]))[first_row:]
    size = int(np.prod(shape))
    counters = np.arange(-(-size // (2 * _HALF)) * _HALF).reshape(-1, _HALF)
    words = np.stack(threefry(key, counters, stream), axis=1).reshape(-1)[
        :size
    ]  # first words, then second ones
    return np.where(words < int(rate * 2.0**32), 0.0, 1.0 / (1.0 - rate)).reshape(shape)


def step_key(seed, step):
    """Return the key of step number `step`, from 1."""
    return _mixed(seed ^ _mixed(step))


def _mixed(x):
    """Return the next number of SplitMix64 from state x (G. Steele et al., OOPSLA 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _UINT64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _UINT64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _UINT64
    return x ^ (x >> 31)
