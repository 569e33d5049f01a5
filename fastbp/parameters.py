"""How all the parameters of a network lie in one flat vector: ``[W1 (I, O) row by row, b1, W2, b2, ...]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

__all__ = ["Layout"]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class Layout:
    """The layout for layers of these sizes, inputs first."""

    def __init__(self, layer_sizes: Sequence[int]) -> None:
        self.layers = list(pairwise(layer_sizes))
        """(I, O) of each layer."""
        self.size = sum((i + 1) * o for i, o in self.layers)

    def new_vector(self, dtype: np.dtype) -> np.ndarray:
        """A vector without values, whose first element lies on a multiple of 64 bytes."""
        n_bytes = self.size * dtype.itemsize
        buffer = np.empty(n_bytes + _ALIGNMENT, np.uint8)
        start = -buffer.ctypes.data % _ALIGNMENT
        return buffer[start : start + n_bytes].view(dtype)

    def views(self, flat: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """The weights (I, O) and biases (O,) of each layer in a vector that is laid out so."""
        weights, biases, start = [], [], 0
        for i, o in self.layers:
            middle, end = start + i * o, start + (i + 1) * o
            weights.append(flat[start:middle].reshape(i, o))
            biases.append(flat[middle:end])
            start = end
        return tuple(weights), tuple(biases)

    def named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The same by the names that they have in files."""
        weights, biases = self.views(flat)
        named = {f"weights.{k}": array for k, array in enumerate(weights)}
        return named | {f"biases.{k}": array for k, array in enumerate(biases)}

    def check(self, arrays: Mapping[str, np.ndarray], dtype: np.dtype) -> None:
        """Refuse arrays that are not those of :meth:`named`, nor ``parameters``, the whole vector; nothing is allocated."""
        expected: dict[str, tuple[int, ...]] = {f"weights.{k}": size for k, size in enumerate(self.layers)}
        expected |= {f"biases.{k}": (o,) for k, (_, o) in enumerate(self.layers)}
        if "parameters" in arrays:
            expected = {"parameters": (self.size,)}
        if arrays.keys() != expected.keys():
            raise ValueError(f"arrays: got {', '.join(arrays):.200}, expected {', '.join(expected):.200}")
        for name, shape in expected.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected {dtype} {shape}")

    def table(self, activations: Sequence[str]) -> str:
        """A line for each layer: what it computes, (I, O), the number of its parameters; and their sum."""
        rows = [("layer", "activation", "inputs", "outputs", "parameters")]
        for number, ((i, o), activation) in enumerate(zip(self.layers, activations, strict=True), start=1):
            rows.append((str(number), activation, f"{i:,}", f"{o:,}", f"{(i + 1) * o:,}"))
        rows.append(("", "", "", "", f"{self.size:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for layer, activation, *numbers in rows:
            cells = [layer.rjust(widths[0]), activation.ljust(widths[1])]
            cells += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)
