"""The tests of one room, on the fastest instruction set: `make quick ROOM=losses`, or of the rooms whose files have changed."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALL_KERNELS = (
    "src_c/simd/* src_c/math/* src_c/variants/* src_c/real.h src_c/primitives.h src_c/*.def src_c/kernels.h src_c/isa/dispatch.c "
    "src_c/isa/machine.h fastbp/_kernels/dispatch.*"
)

ROOMS = {  # name: (whose files, which tests); * stands for folders, too
    "losses": (
        "fastbp/losses.py fastbp/hessians.py src_c/errors.def src_c/rows/*err* src_c/rows/soft* src_c/rows/many* "
        "src_c/rows/row.h fastbp/_kernels/loss.* fastbp/_kernels/rows.*",
        "ends_of_memory losses losses_at_once losses_edges losses_many_digits losses_options hessians changed_during_a_call",
    ),
    "activations": (
        "fastbp/activations.py src_c/rows/activations.h src_c/rows/softmax.h src_c/rows/row.h fastbp/_kernels/activation.*",
        "activations",
    ),
    "layers": (
        "fastbp/layers.py src_c/gemm/* fastbp/_kernels/layer.* fastbp/_kernels/product.*",
        "layers ends_of_memory",
    ),
    "last_layer": (
        "fastbp/last_layer.py fastbp/_kernels/last_layer.*",
        "linear_softmax_cross_entropy many_classes",
    ),
    "optimizers": (
        "fastbp/optimizers/* fastbp/updates.py fastbp/_checks/optimizers.py fastbp/_reference/updates.py "
        "src_c/rows/updates.h src_c/updates.def fastbp/_kernels/optimizer.*",
        "optimizers optimizer_calls training_options",
    ),
    "network": (
        "fastbp/model.py fastbp/parameters.py fastbp/outputs.py "
        "fastbp/_checks/networks.py fastbp/_kernels/network.* fastbp/_kernels/step.* fastbp/_kernels/chunks.* "
        "src_c/memory/gather.h",
        "network_kernels chunks network_options model fit many_classes",
    ),
    "initializers": ("fastbp/initializers.py", "initializers"),
    "training": (
        "fastbp/training.py fastbp/history.py fastbp/progress.py fastbp/divergence.py fastbp/evaluation.py fastbp/lbfgs.py "
        "fastbp/_checks/training.py",
        "fit lbfgs training_weights training_validation training_edges callbacks",
    ),
    "batches": ("fastbp/batches.py fastbp/sources.py", "batches training_weights training_validation"),
    "ranks": ("fastbp/mpi.py fastbp/ranks.py fastbp/cli/processes.py", "mpi mpiexec"),
    "callbacks": ("fastbp/callbacks.py fastbp/checkpoints.py", "callbacks checkpoints"),
    "schedules": ("fastbp/schedules.py", "schedules"),
    "files": (
        "fastbp/persistence.py fastbp/replacing.py",
        "persistence named_arrays hostile_files campaigns",
    ),
    "checks": ("fastbp/_checks/*", "arrays bad_calls both_ways outputs unusual_calls sizes losses_at_once"),
    "twin": ("fastbp/_reference/*", "by_hand twin_digits twin_edges twin_gradients twin_training"),
    "threads": (
        "src_c/threads/* fastbp/_kernels/team.* fastbp/_kernels/processors.py "
        "fastbp/_backend.py fastbp/_kernel_api.py fastbp/_threadpoolctl.py",
        "backends threads arithmetic interrupts c",
    ),
    "memory": ("src_c/memory/spare.h src_c/memory/pages.h fastbp/_kernels/memory.*", "large_arrays"),
    "c": ("src_c/* tests/c/*", "c ulps"),
    "interface": ("fastbp/kernels.* src_c/fastbp.h src_c/functions.def", "c_interface embedding"),
    "gradient_check": ("fastbp/gradient_check.py", "gradient_check"),
    "data": ("fastbp/data/*", "data data_edges preparation"),
    "command_line": ("fastbp/cli/* fastbp/__main__.py", "cli cli_models"),
    "sklearn": ("fastbp/sklearn/*", "sklearn sklearn_own sklearn_edges"),
    "docs": ("docs/*.md README.md examples/*", "docs walks site playground"),
    "torch": ("fastbp/torch/*", "torch torch_graph torch_modules"),
    "jax": ("fastbp/jax/*", "jax"),
    "onnx": ("fastbp/onnx/*", "onnx"),
    "objectives": ("fastbp/objectives.py", "objectives hessians"),
    "bench": ("bench/*", "bench"),
    "distribution": ("setup.py pyproject.toml MANIFEST.in fastbp/__pyinstaller/*", "distribution"),
    "campaigns": ("tests/campaigns/*", "campaigns ulps"),
    "harness": (
        "tests/conftest.py tests/pairs.py tests/quick.py tests/tolerances.py tests/interrupts.py tests/forks.py",
        "pairs regressions interrupts",
    ),
}
KERNELS = ("losses", "activations", "layers", "last_layer", "optimizers", "network")


def changed() -> list[str]:
    """The files that differ from the last commit, and the new ones."""
    lines = subprocess.check_output(
        ["git", "status", "--porcelain", "-uall"], cwd=ROOT, text=True
    ).splitlines()
    return [line[3:].split(" -> ")[-1] for line in lines]


def rooms_of(file: str) -> list[str]:
    if any(fnmatch(file, pattern) for pattern in ALL_KERNELS.split()):
        return [*KERNELS, "c"]
    return [name for name, (files, _) in ROOMS.items() if any(fnmatch(file, each) for each in files.split())]


def main(names: list[str]) -> int:
    files = [] if names else changed()
    unknown = [name for name in names if name not in ROOMS]
    if unknown:
        sys.exit(f"ROOM: got {unknown[0]}, expected one of {', '.join(ROOMS)}")
    rooms = dict.fromkeys(names or [room for file in files for room in rooms_of(file)])
    tests = dict.fromkeys(f"tests/test_{test}.py" for room in rooms for test in ROOMS[room][1].split())
    tests |= dict.fromkeys(
        file for file in files if fnmatch(file, "tests/test_*.py") and (ROOT / file).exists()
    )
    if not tests:
        sys.exit(f"no room has changed since the last commit; ROOM is one of {', '.join(ROOMS)}")
    options = ["-q", "--isa=best", "--deselect=tests/test_c.py::test_kernels"]  # which compiles for long
    return subprocess.call([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
