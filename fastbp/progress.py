"""What is shown of a training while it goes on: lines on standard error, through tqdm, in a terminal or a notebook."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Progress", "Silence"]

_LONG_EPOCH = 1.0  # second, of which the line may stay
_MANY_EPOCHS = 100  # of which no line stays, however long they are


class Silence:
    """Nothing is shown."""

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[Any]:
        yield None

    def close(self) -> None:
        pass


class Progress:
    """A line for each epoch that stays, or one bar for all where they are short or many: how long they are the first one tells.

    `n_batches` is None where nobody knows how many batches an epoch has.
    """

    def __init__(self, epochs: int, n_batches: int | None) -> None:
        self.epochs, self.n_batches = epochs, n_batches
        self.by_lines = epochs <= _MANY_EPOCHS or n_batches is None
        self.start = time.perf_counter()
        self.bar: Any = None  # the line that is being written

    @contextlib.contextmanager
    def epoch(self, number: int) -> Iterator[Line]:
        """Show an epoch."""
        title = f"epoch {number:{len(str(self.epochs))}}/{self.epochs}"
        if self.bar is None:
            before = 0 if self.by_lines else (number - 1) * (self.n_batches or 0)
            total = self.n_batches if self.by_lines else self.epochs * (self.n_batches or 0)
            self.bar = _bar(title, total, before, 0 if self.by_lines else time.perf_counter() - self.start)
        self.bar.set_description_str(title, refresh=False)
        try:
            yield Line(self.bar)
        except BaseException:
            self.bar.close()
            raise
        self._end(number)

    def _end(self, number: int) -> None:
        """Leave the line of an epoch behind, or that of all; but not the first one if a bar for all takes its place."""
        is_last = number == self.epochs
        is_short = time.perf_counter() - self.start < _LONG_EPOCH and self.n_batches is not None
        if number == 1 and self.by_lines and is_short and not is_last:
            self.by_lines = self.bar.leave = False
        elif not (is_last or self.by_lines):
            return
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Line:
    """The line of an epoch, as far as it has come."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._before, self._start = bar, bar.n, time.perf_counter()

    def show(self, done: int, loss: float, rows: int, others: str = "") -> None:
        """`done` batches of `rows` examples, the mean loss so far, and what else there is to say."""
        seconds = time.perf_counter() - self._start
        rate = f"{_short(rows / seconds)} rows/s, " if rows and seconds > 0 else ""
        self._bar.set_postfix_str(f"{rate}loss {loss:.4f}{others}", refresh=False)
        self._bar.update(self._before + done - self._bar.n)


def _short(number: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _bar(title: str, n_batches: int | None, done: int, seconds: float) -> Any:
    """A line on standard error that is written again and again, of work that began so many seconds ago."""
    try:
        tqdm, drawing = _tqdm()
    except ModuleNotFoundError as missing:
        text = "progress: got True without tqdm, expected tqdm to be installed, or progress=False"
        raise ModuleNotFoundError(text) from missing
    counted = "{n_fmt}/{total_fmt}" if n_batches is not None else "{n_fmt}"
    layout = f"{{desc}} {drawing} {counted} batches  {{elapsed}}{{postfix}}"
    bar = tqdm(desc=title, total=n_batches, initial=done, bar_format=layout, file=_StandardError())
    bar.start_t -= seconds
    return bar


def _tqdm() -> tuple[Any, str]:
    """The bar of a terminal, or of a notebook if one is running and has widgets, and how its layout names it. It is imported
    here, because `import fastbp` needs nothing but NumPy."""
    if "ipykernel" in sys.modules:
        with contextlib.suppress(ImportError):
            import ipywidgets  # noqa: F401
            from tqdm.notebook import tqdm as notebook

            return notebook, "{bar}"
    from tqdm import tqdm

    return tqdm, "{bar:24}"


class _StandardError:
    """Standard error, if there is one: that nothing can be shown is no reason to stop."""

    def write(self, text: str) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, broken, closed
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)
