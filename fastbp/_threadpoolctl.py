"""threadpoolctl sees the threads of the kernels, and limits them, as those of an OpenMP library.

It has a list of controllers, to which ours is added as soon as threadpoolctl is imported, before fastbp or after it. fastbp does
not import it: that takes 6 ms and sets ``KMP_DUPLICATE_LIB_OK`` for the whole process. ``user_api`` is "openmp", so that what
limits OpenMP, or everything, limits the kernels too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NAME = "threadpoolctl"


def _register(threadpoolctl: ModuleType) -> None:
    if not hasattr(threadpoolctl, "register"):  # before 3.2
        return

    class FastbpController(threadpoolctl.LibController):  # type: ignore[misc, name-defined]
        user_api = "openmp"
        internal_api = "fastbp"
        filename_prefixes = ("team.",)  # of the extension fastbp/_kernels/team.pyx
        check_symbols = ("fbp_get_num_threads", "fbp_set_num_threads")

        def get_num_threads(self) -> int:
            threads: int = self.dynlib.fbp_get_num_threads()
            return threads

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fbp_set_num_threads(num_threads)

        def get_version(self) -> str:
            from fastbp._config import __version__

            return __version__

    threadpoolctl.register(FastbpController)


class _AtImport:
    """Finds threadpoolctl as it would be found anyway, and registers our controller when it has been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register(module)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the controller with threadpoolctl: now, if it has been imported, else when it is."""
    if (module := sys.modules.get(_NAME)) is not None:
        _register(module)
    sys.meta_path.insert(0, _AtImport())
