"""What PyInstaller is told when it freezes a program that uses fastbp; found by the entry point of this package."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folders of PyInstaller's hooks."""
    return [str(Path(__file__).parent)]
