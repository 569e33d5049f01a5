"""Random calls of everything that is public, as many as one wants: python -m campaigns.fuzz [--calls N] [--seed S] [NAME ...]

Each batch of calls runs in a process of its own, with 4 GiB of address space and a minute for a call. One that crashes or hangs
is repeated and tells its last call; one that breaks a promise is made smaller by Hypothesis. `calls` and `networks` say
what is promised.
"""

from __future__ import annotations

import argparse
import ast
import collections
import faulthandler
import itertools
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence

from conftest import ISAS, running_on
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from . import calls, networks
from .arguments import Draw

BATCH = 2000  # calls of one process
MEMORY = 4 * 2**30
SECONDS = 60  # of one call
QUICK = settings(
    database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False,
    phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
)  # fmt: skip
MAKERS = dict.fromkeys(calls.FUNCTIONS, calls.Call) | networks.MAKERS


def _too_long(signum: int, frame: object) -> None:
    raise calls.TooLong


def make_calls(
    names: Sequence[str], number: int, first_seed: int, trace: bool = False
) -> collections.Counter[str]:
    """How the calls ended, by a word each; AssertionError with the smallest call that does not keep its promise."""
    ends: collections.Counter[str] = collections.Counter()

    @seed(first_seed)
    @settings(QUICK, max_examples=number)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        draw = Draw(data.conjecture_data.draw)
        name = draw.one_of(names)
        call = MAKERS[name](draw, name)
        if trace:
            print(call, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            ends[call.check()] += 1
        except AssertionError as error:
            raise AssertionError(f"{error}\n{call}") from error
        except Exception as error:
            error.add_note(str(call))
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings(
                "ignore", "overflow encountered in cast"
            )  # NumPy's, of targets beyond the dtype
            one()
    finally:
        signal.signal(signal.SIGALRM, before)
    return ends


def batch(options: argparse.Namespace) -> int:
    """The process of one batch: its last line is the count of every end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()
    isas = ISAS or ["reference"]
    with running_on(isas[options.seed % len(isas)]):
        print(dict(make_calls(options.names, options.calls, options.seed, options.trace)))
    return 0


def campaign(options: argparse.Namespace) -> int:
    """Batch after batch; how many calls ended how, and what went wrong."""
    ends: collections.Counter[str] = collections.Counter()
    wrong, began = 0, time.monotonic()
    for first_seed in itertools.count(options.seed):
        number = min(BATCH, options.calls - sum(ends.values()))
        if number <= 0:
            break
        numbers = ["--calls", str(number), "--seed", str(first_seed)]
        command = [sys.executable, "-m", __spec__.name, "--batch", *numbers, *options.names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            ends.update(ast.literal_eval(done.stdout.splitlines()[-1]))
            print(f"\r{sum(ends.values())} calls", end="", file=sys.stderr, flush=True)
            continue
        wrong += 1
        ends["in batches that failed"] += number
        print(f"seed {first_seed}, exit status {done.returncode}\n{done.stderr[-6000:]}", flush=True)
        if done.returncode < 0 or "Timeout" in done.stderr:
            again = subprocess.run([*command, "--trace"], capture_output=True, text=True, check=False)
            print("The last call:", "\n".join(again.stdout.splitlines()[-1:]))
    print(
        f"{sum(ends.values())} calls in {time.monotonic() - began:.0f} s: {dict(ends.most_common())}; {wrong} batches failed"
    )
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a function; all without")
    parser.add_argument("--calls", type=int, default=200_000, help="how many (200 000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch (0)")
    parser.add_argument("--batch", action="store_true", help="make the calls in this process")
    parser.add_argument("--trace", action="store_true", help="show each call before it is made")
    options = parser.parse_args()
    options.names = options.names or list(MAKERS)
    return batch(options) if options.batch else campaign(options)


if __name__ == "__main__":
    sys.exit(main())
