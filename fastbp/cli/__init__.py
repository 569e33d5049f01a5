"""The command line: ``fastbp COMMAND …`` or ``python -m fastbp COMMAND …``.

A module for each command: ``HELP``, ``arguments(parser)``, and ``run(options)``, which returns the exit status.
Everything that can go wrong in all of them ends here, in one line on standard error:

=== ==========================================================================================
0   it is done
1   the answer is no: training diverged, a gradient is wrong, a bar of the demo was missed
2   an argument, a file or what is in it cannot be used
130 Ctrl-C
141 the reader of the output went away, as `head` does
=== ==========================================================================================
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastbp._config import __version__
from fastbp.cli import check, config, demo, evaluate, info, predict, train
from fastbp.data import DataError
from fastbp.divergence import DivergenceError

__all__ = ["main"]

_COMMANDS = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "info": info,
    "demo": demo,
    "config": config,
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the program's own); return the exit status."""
    name = "fastbp"
    try:
        try:
            options = _parser().parse_args(argv)
            name = f"fastbp {options.command}"
            return int(_COMMANDS[options.command].run(options))
        finally:
            print(end="", flush=True)  # here, where a broken pipe is caught
    except BrokenPipeError:
        _drop_output()
        return 141  # what a shell reports after SIGPIPE
    except KeyboardInterrupt:
        return _fail(130, "\ninterrupted")  # what a shell reports after Ctrl-C
    except DivergenceError as error:
        return _fail(1, f"{name}: {error}")
    except DataError as error:
        return _fail(2, f"{name}: {error}")
    except MemoryError as error:
        return _fail(1, f"{name}: not enough memory: {error}")
    except OSError as error:
        if error.filename is None:
            _drop_output()  # which is full, or closed
        return _fail(2, f"{name}: {error.filename or 'standard output'}: {error.strerror or error}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastbp", description="Train dense neural networks on the CPU, from NumPy.")
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        module.arguments(command)
    return parser


def _fail(status: int, text: str) -> int:
    print(text, file=sys.stderr)
    return status


def _drop_output() -> None:
    """Let nothing more go to standard output, not even what is still buffered."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
