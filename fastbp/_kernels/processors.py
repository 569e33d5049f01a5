"""How many threads a call should take that does not say, from what the environment and the system tell.

``OMP_NUM_THREADS`` and ``OMP_THREAD_LIMIT`` mean what they mean to OpenMP. The processor time that a control group grants counts
in cores, rounded up: a container that may use 2 of 64 cores gets 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_NOT_BINDING = ("", "false", "disabled", "none")


def chosen(environment: Mapping[str, str]) -> int:
    """The first number of ``OMP_NUM_THREADS``, within ``OMP_THREAD_LIMIT``; 0 where the variable is not set or makes no sense."""
    first = _numbers(environment.get("OMP_NUM_THREADS", ""))[:1]
    return min(first + _numbers(environment.get("OMP_THREAD_LIMIT", ""))[:1]) if first else 0


def most(environment: Mapping[str, str], root: Path) -> int:
    """The most threads where none were chosen: the quota of processor time and ``OMP_THREAD_LIMIT``; 0 where there is neither."""
    limits = _numbers(environment.get("OMP_THREAD_LIMIT", ""))[:1]
    return min([*limits, *_quotas(root)], default=0)


def _numbers(text: str) -> list[int]:
    """Positive numbers with commas between them; none where anything is something else."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)*", text):
        return []
    numbers = [int(number) for number in text.split(",")]
    return numbers if min(numbers) > 0 else []


def _quotas(root: Path) -> list[int]:
    """The cores that each control group of this process grants, from its own up to the outermost that can be seen.

    A container may be told its path on the host, which it does not see, and sees its own group as the outermost: so folders that
    are not there are passed over.
    """
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        for group in (inside, *inside.parents):
            if controllers:  # version 1
                folder = root / "sys/fs/cgroup/cpu" / group
                words = [
                    _text(folder / "cpu.cfs_quota_us").strip(),
                    _text(folder / "cpu.cfs_period_us").strip(),
                ]
            else:
                words = _text(root / "sys/fs/cgroup" / group / "cpu.max").split()
            if len(words) == 2 and all(
                word.isdigit() and int(word) > 0 for word in words
            ):  # not "max", -1 or nothing
                found.append(-(-int(words[0]) // int(words[1])))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def cores() -> set[int]:
    """The cores of the main thread; as many numbers as there are cores where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(os.getpid())
    return set(range(os.cpu_count() or 1))


def is_bound(environment: Mapping[str, str]) -> bool:
    """Whether OpenMP libraries bind threads to cores. They do so to the main thread, when they are loaded or first used."""
    return any(environment.get(name, "").strip().lower() not in _NOT_BINDING for name in _BINDING)


def cores_before_binding(maps: Path) -> set[int]:
    """The cores that the OpenMP libraries loaded so far found before they bound the main thread to some of them."""
    found = cores()
    libraries = {line.split(maxsplit=5)[-1] for line in _text(maps).splitlines()}
    for library in libraries:
        if re.match(r"lib[gi]?omp5?[-.]", os.path.basename(library)):
            with contextlib.suppress(OSError, AttributeError):  # deleted since, or older than OpenMP 4.5
                found |= _places(ctypes.CDLL(library))
    return found


def _places(openmp: ctypes.CDLL) -> set[int]:
    found: set[int] = set()
    for place in range(openmp.omp_get_num_places()):
        numbers = (ctypes.c_int * openmp.omp_get_place_num_procs(place))()
        openmp.omp_get_place_proc_ids(place, numbers)
        found.update(numbers)
    return found
