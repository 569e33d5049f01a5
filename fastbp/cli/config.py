"""``fastbp config``."""

from __future__ import annotations

import argparse

from fastbp._config import show_config

HELP = "show version, backend, instruction set, threads and compiler"


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    """Show what :func:`fastbp.show_config` shows."""
    show_config()
    return 0
