"""What the ranks of a training do together, so that they do the same.

A. All ranks make the same calls in the same order: a step, a sum, a table. Each begins with the sum of a few words, the head: how
   many ranks are in a step, wish to stop after it, have failed. So a rank that fails needs to know nothing of where the others
   are: it answers their next head.
B. What decides anything is the same on all ranks: counts, sums that come from one rank, words of the lowest rank concerned.
C. A rank that wishes to stop says so in its next head, and all stop after that step. Ctrl-C is such a wish: between the messages
   of a step no exception may come.
D. What a network, its optimizer and the arguments have to have in common is compared before the first step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import signal
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _backend, _checks
from fastbp._config import __version__
from fastbp.batches import Arrays, Part, Stream
from fastbp.divergence import DivergenceError
from fastbp.lbfgs import LBFGS
from fastbp.mpi import Communicator, RankError

if TYPE_CHECKING:
    from fastbp.parameters import Layout
    from fastbp.training import Settings

__all__ = ["Ranks", "messages", "of"]

# Of the head; the last one is their number.
_LOSS, _WEIGHT, _PRESENT, _STEPPING, _WISHES, _FAILED, _WORDS = range(7)
_MASKS = 32  # words of 32 cores each
_told = False  # of ranks that share cores
_MESSAGE = 64 * 1024  # bytes of gradients from which a message pays; smaller layers go together


class Ranks:
    """Those of one training, as this one sees them; the engine's view is ``Ranks`` in `_kernel_api`."""

    def __init__(self, communicator: Communicator, layout: Layout, dtype: np.dtype) -> None:
        self.communicator, self.rank, self.size = communicator, communicator.rank, communicator.size
        self.gradient = layout.new_vector(dtype)
        self.sends, self._messages = messages(layout, dtype)
        self.steps, self.first_rows = 0, None
        self.wish = ""
        """Why this rank would stop, if it would."""
        self.stopped = self.present = self.failed = False
        """Of the last step: whether any rank wished to stop, had examples, has failed."""
        self.loss = 0.0
        """The sum of this rank's errors in the last step."""
        self.over = False
        """Whether all ranks know that one has failed."""
        self._head, self._pending = np.zeros(_WORDS), []

    # -- a step, as the engine makes it ------------------------------------------------------------------------

    steps: int
    first_rows: np.ndarray | None
    _pending: list[Any]

    def begin(self, loss: float, weight: float, present: bool) -> None:
        """Sums of errors and weights are known."""
        self.loss, self._head[:] = loss, (loss, weight, present, 1, self.wish != "", 0)
        self._pending = [self.communicator.begin_sum(self._head)]

    def send(self, layer: int) -> None:
        """So are the gradients from this layer to the one that was sent last."""
        self.communicator.go_on(self._pending[0])
        self._pending.append(self.communicator.begin_sum(self.gradient[self._messages[layer]]))

    def finish(self) -> tuple[float, float, bool, bool]:
        """Wait for all sums."""
        for each in self._pending:
            self.communicator.wait(each)
        self._pending = []
        loss, weight, present, _, wishes, failed = self._head.tolist()
        self.present, self.stopped, self.failed = present > 0, wishes > 0, failed > 0
        if weight:
            self._errors, self._weights = self._errors + loss, self._weights + weight
        return loss, weight, self.stopped, self.failed or not self.present

    # -- between two steps -------------------------------------------------------------------------------------

    def total(self, values: Any) -> np.ndarray:
        """The sum over all ranks."""
        self._meet()
        return self.communicator.total(values)

    def table(self, row: Any) -> np.ndarray:
        """Integers of each rank, a row each."""
        self._meet()
        return self.communicator.table(row)

    def agreed(self) -> str:
        """Why to stop: the reason of the lowest rank that has one, and which it is unless all have one; "" if none has."""
        wishes = self.table([self.wish != ""])[:, 0]
        if not wishes.any():
            return ""
        rank = int(wishes.argmax())
        reason = self.communicator.text(rank, self.wish)
        return reason if wishes.all() else f"{reason} (rank {rank})"

    def compare(self, facts: dict[str, Any], expected: str) -> None:
        """Refuse to go on unless all ranks have the same facts."""
        rows = self.table([_hash(repr(value)) for value in facts.values()])
        differs = rows != rows[0]
        if not differs.any():
            return
        rank = int(differs.any(axis=1).argmax())
        number = int(differs[rank].argmax())
        name, own = list(facts)[number], repr(list(facts.values())[number])
        first, other = (self.communicator.text(each, own) for each in (0, rank))
        self.over = True
        raise ValueError(
            f"comm: got rank {rank} with {name} {other:.200}, rank 0 with {first:.200}; {expected}"
        )

    def meet(
        self,
        network: dict[str, Any],
        settings: Settings,
        optimizer: Any,
        of_batches: bool,
        class_weight: Any,
        validated: bool,
        fraction: Any,
        resumed: bool,
        n_threads: int,
    ) -> None:
        """Refuse to begin unless all ranks mean the same training."""
        self.compare({"fastbp": __version__}, "expected the same version on all ranks")
        kernels = _backend.kernels
        facts = {
            "the kernels": kernels.isa() if hasattr(kernels, "isa") else "of the twin",
            **{name.replace("_", " "): value for name, value in network.items()},
            "epochs": settings.epochs,
            "shuffle": settings.shuffle,
            "clipping": settings.clips,
            "callbacks": [(type(each).__name__, hasattr(each, "batch_end")) for each in settings.callbacks],
            "optimizer": _described(optimizer),
            "batches": "of an iterable" if of_batches else "of arrays",
            "class weights": class_weight.tolist() if isinstance(class_weight, np.ndarray) else class_weight,
            "validation data": validated,
            "a validation fraction": fraction,
            "resume": resumed,
        }
        self.compare(facts, "expected the same training on all ranks")
        self._look_for_shared_cores(n_threads)

    def _look_for_shared_cores(self, n_threads: int) -> None:
        """Warn, on the first rank and once, of a host on which the ranks take more threads than they have cores."""
        global _told
        masks = [0] * _MASKS
        for core in os.sched_getaffinity(0):
            masks[core // 32 % _MASKS] |= 1 << core % 32
        rows = self.table([_hash(platform.node()), n_threads, *masks])
        for host in np.unique(rows[:, 0]):
            there = rows[rows[:, 0] == host]
            threads = int(there[:, 1].sum())
            cores = sum(int(word).bit_count() for word in np.bitwise_or.reduce(there[:, 2:]))
            if threads > cores and not (self.rank or _told):
                _told = True
                text = f"comm: got {len(there)} ranks on one host take {threads} threads on {cores} cores, expected one for each"
                advice = (
                    f"bind ranks to cores of their own, or set OMP_NUM_THREADS={max(1, cores // len(there))}"
                )
                warnings.warn(f"{text}: {advice}", RuntimeWarning, stacklevel=2)

    def compare_bits(self, parameters: np.ndarray, after: str) -> None:
        """Refuse to go on unless all ranks have the same parameters, bit for bit."""
        sums = self.table([zlib.crc32(parameters.view(np.uint8).data)])[:, 0]
        if (sums == sums[0]).all():
            return
        self.over = True
        rank = int((sums != sums[0]).argmax())
        advice = "expected the same sums on all ranks: fastbp.mpi.Communicator(comm, reproducible=True)"
        raise RuntimeError(f"comm: got other parameters on rank {rank} than on rank 0 {after}; {advice}")

    # -- failures ----------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """The head of everything that is not a step."""
        self._head[:] = 0
        self.communicator.wait(self.communicator.begin_sum(self._head))
        if self._head[_FAILED]:
            self.raise_failure()

    def raise_failure(self, own: BaseException | None = None) -> None:
        """All ranks learn which one has failed first, and why; those that have not raise an error that says so."""
        self.over = True
        rank = int(self.communicator.table([own is not None])[:, 0].argmax())
        text = self.communicator.text(rank, "" if own is None else f"{type(own).__name__}: {own}")
        if own is None:
            raise RankError(rank, text)

    def abandon(self, error: BaseException) -> None:
        """Answer the others, wherever they are, that this rank has failed; but not from within a step, of which they would take
        the answer for a message. There a second Ctrl-C ends, or a handler of the user's own, and who waits has a time-out."""
        if self.over or self._pending or isinstance(error, TimeoutError):
            return
        self._head[:] = 0
        self._head[_FAILED] = 1
        self.communicator.wait(self.communicator.begin_sum(self._head))
        if self._head[_STEPPING]:
            self.gradient[:] = 0
            messages = [layer for layer in reversed(range(len(self.sends))) if self.sends[layer]]
            pending = [
                self.communicator.begin_sum(self.gradient[self._messages[layer]]) for layer in messages
            ]
            for each in pending:
                self.communicator.wait(each)
        self.raise_failure(error)

    def diverged(self, concerned: bool, error: Callable[[], DivergenceError]) -> DivergenceError:
        """The error of the lowest rank that is concerned, or of the first if none is, for all to raise."""
        rank, own, told = int(self.table([concerned])[:, 0].argmax()), DivergenceError(), ""
        if rank == self.rank:
            own = error()
            told = json.dumps([str(own), own.epoch, own.batch, own.layer, own.largest_weight])
        text, *where = json.loads(self.communicator.text(rank, told))
        error_of_all, self.over = DivergenceError(f"rank {rank}: {text}"), True
        error_of_all.epoch, error_of_all.batch, error_of_all.layer, error_of_all.largest_weight = where
        return error_of_all

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """The first Ctrl-C is a wish to stop, the second one an error; a handler of the user's own stays."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def handler(number: int, frame: Any) -> None:
            self.wish = self.wish or "interrupted"
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    # -- batches -----------------------------------------------------------------------------------------------

    def share(self, batches: Arrays | Stream, drops: bool) -> None:
        """Agree on the steps of an epoch: as many as the rank has that has most. Those without examples left make them, too."""
        self._drops, self._firsts = drops, None
        if isinstance(batches, Stream):
            batches.n_batches, batches.alone = None, False
            return
        sizes = self.table([batches.n, batches.batch_size])
        self.over = not sizes[:, 0].any()  # of which all of them hear here
        _checks.ranks.some_examples("X", sizes[:, 0])
        batches.step_rows = int(sizes[:, 1].sum())
        batches.n_batches = int((-(-sizes[:, 0] // np.maximum(sizes[:, 1], 1))).max())
        if drops:
            steps = np.arange(batches.n_batches)[:, None]
            n, size = sizes[: self.rank].T
            self._firsts = np.clip(n - steps * size, 0, size).sum(axis=1, dtype=np.int64)

    _errors = _weights = 0.0
    _drops: bool = False
    _firsts: np.ndarray | None = None

    def mean(self) -> float:
        """The mean error of the epoch so far, summed here since into how many calls an epoch is cut differs among ranks."""
        return self._errors / self._weights if self._weights else math.nan

    def parts(self, batches: Arrays | Stream, parts: Iterator[Part], one_by_one: bool) -> Iterator[Part]:
        """Those of an epoch of this rank, then empty ones while others have examples; the engine is told what it needs."""
        self._errors = self._weights = 0.0
        done, n, rest = 0, batches.n_batches, batches.empty()
        for part in parts:
            yield self._next(part, done, part.n_batches)
            done += part.n_batches
        if n is None:
            self.present = True
            while self.present:
                yield self._next(rest, done, 1)
        while n is not None and done < n:
            steps = 1 if one_by_one else n - done
            yield self._next(rest, done, steps)
            done += steps

    def _next(self, part: Part, done: int, steps: int) -> Part:
        self.steps, self.first_rows = steps, None
        if self._firsts is not None:
            self.first_rows = self._firsts[done : done + steps]
        elif self._drops:
            rows = self.table([len(part.examples.x)])
            self.first_rows = rows[: self.rank].sum(axis=0)
        return part

    def generator(self, generator: np.random.Generator) -> np.random.Generator:
        """One for this rank, from one that is the same on all of them, and stays so."""
        return np.random.default_rng([int(generator.integers(2**63)), self.rank])


def messages(layout: Layout, dtype: np.dtype) -> tuple[np.ndarray, dict[int, slice]]:
    """Of each layer whether it ends a message, and the gradients that this message has: its own, and those of layers above."""
    sends, messages = np.zeros(len(layout.layers), np.uint8), {}
    start = stop = layout.size
    for layer in reversed(range(len(layout.layers))):
        i, o = layout.layers[layer]
        start -= (i + 1) * o
        if layer == 0 or (stop - start) * dtype.itemsize >= _MESSAGE:
            sends[layer], messages[layer], stop = 1, slice(start, stop), start
    return sends, messages


def _described(optimizer: Any) -> list[Any]:
    """What steps it makes, by numbers: a schedule by some of its rates, since functions have no names that others know."""
    if isinstance(optimizer, LBFGS):
        return [repr(optimizer)]
    rates = [getattr(optimizer, name, None) for name in getattr(optimizer, "rates", ())]
    numbers = [[rate(step) for step in (0, 1, 10, 100)] if callable(rate) else rate for rate in rates]
    options = [getattr(optimizer, name) for name in getattr(optimizer, "options", ())]
    others = [getattr(optimizer, name, None) for name in ("average", "decay_biases")]
    return [type(optimizer).__name__, *numbers, *options, *others]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@contextlib.contextmanager
def of(comm: Any, layout: Layout, dtype: np.dtype) -> Iterator[Ranks | None]:
    """The ranks of a communicator, for one training: None where there is but one. An error in it reaches all of them."""
    if comm is None:
        yield None
        return
    communicator = comm if isinstance(comm, Communicator) else Communicator(comm)
    if communicator.size > 1:
        ranks = Ranks(communicator, layout, dtype)
        try:
            yield ranks
        except BaseException as error:
            ranks.abandon(error)
            raise
    else:
        yield None
    if communicator is not comm:
        communicator.free()
