"""A campaign of errors in ulps: python -m campaigns.ulps [--stride N] [--points N] [--keep]

First every float32, or each N-th, through every function of one number, on every instruction set (tests/c/every_float32.c). Then
every kernel at random points, by regime, against the twin in a wider dtype (tests/tolerances.py): the largest error of each
result, in ulps, and what it is of the error that is allowed. An ulp is eps times the size of the entry itself; where terms cancel
in it, of these. --keep writes the inputs that gave the largest errors to tests/files/worst_inputs.json, which
tests/test_ulps.py tries again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import conftest
import numpy as np
import test_activations
import test_hessians
import test_layers
import test_linear_softmax_cross_entropy
import test_losses
from conftest import Compact, Out, Problem, error_of, generator, running_on, solve, squares_are_known

from fastbp.outputs import LOSSES

HERE = Path(__file__).parents[1]
WORST = HERE / "files" / "worst_inputs.json"
NAMES = ("avx512", "avx2", "generic") if platform.machine() == "x86_64" else ("neon", "generic")


# -- every float32 -----------------------------------------------------------------------------------------------------------


def build(folder: Path, *optimize: str) -> Path:
    """The program of tests/c/every_float32.c for all instruction sets."""
    flags = [
        "cc",
        *optimize,
        "-std=c11",
        "-ffp-contract=off",
        f"-I{HERE.parent / 'src_c'}",
        f"-I{HERE / 'c'}",
    ]

    def compiled(isa: str) -> str:
        its = ["-DFBP_GENERIC"] if isa == "generic" else []
        its += [f"-DISA={isa}", f'-DSIMD="simd/{isa}.h"']
        target = str(folder / f"{isa}.o")
        subprocess.run([*flags, *its, "-c", HERE / "c/one_number.c", "-o", target], check=True, timeout=300)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, NAMES))
    program = folder / "every_float32"
    command = [*flags, HERE / "c/every_float32.c", *objects, "-o", program, "-pthread", "-lm"]
    subprocess.run(command, check=True, timeout=300)
    return program


# -- every kernel at random points -------------------------------------------------------------------------------------------

WIDTH = 10  # classes or outputs of a row
WEIGHTS = (12, 5)  # of a layer


def tiny(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.exp2(rng.uniform(-60, -6, shape)) * rng.choice([-1, 1], shape)


def moderate(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return 4 * rng.standard_normal(shape)


def extreme(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return 60 * rng.standard_normal(shape)


def near_certain(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One of a row leads by 1 to 100."""
    z = 8 * rng.standard_normal(shape)
    z[np.arange(len(z)), rng.integers(0, shape[1], len(z))] = z.max(axis=1) + rng.uniform(1, 100, len(z))
    return z


REGIMES = {f.__name__.replace("_", " "): f for f in (tiny, moderate, extreme, near_certain)}

Make = Callable[[np.random.Generator, np.ndarray], Problem]


def of_error(name: str, **chosen: Any) -> Make:
    def make(rng: np.random.Generator, z: np.ndarray) -> Problem:
        each = test_losses.problem(name, rng, z.shape, z.dtype.type, **chosen)
        z = np.minimum(z, 70).astype(z.dtype) if name == "poisson_deviance" else z
        changed = {test_losses.first_argument(name): z}
        if LOSSES[name].targets is None:  # whatever they are, some are near the outputs
            changed["targets"] = (
                z + rng.standard_normal(z.shape) * rng.choice([0, 1e-6, 1], z.shape)
            ).astype(z.dtype)
        return each.changed(**changed)

    return make


def of_layer(number: int, activation: str = "identity") -> Make:
    def make(rng: np.random.Generator, z: np.ndarray) -> Problem:
        inputs, outputs = WEIGHTS
        size = (max(1, z.size // inputs), inputs, outputs)
        each = test_layers.each_of(rng, size, z.dtype.type, activation)[number]
        first = ("x", "delta")[number]
        return each.changed(**{first: np.resize(z, each.arguments[first].shape)})

    return make


def problems() -> Iterator[tuple[str, Make]]:
    """Every function, and the options that change what is computed."""
    for name in test_losses.OPTIONS:
        yield name, of_error(name)
    yield "softmax_cross_entropy of rows", of_error("softmax_cross_entropy", form="soft")
    options = {"label_smoothing": 0.1, "lse_square_scale": 0.01, "class_weights": True}
    yield "softmax_cross_entropy with options", of_error("softmax_cross_entropy", **options)
    yield "softmax_cross_entropy with a softcap", of_error("softmax_cross_entropy", softcap=30.0)
    for name in test_hessians.CROSS_ENTROPIES:
        make = of_error(name)
        yield f"{name}_hessian", lambda rng, z, make=make: test_hessians.with_hessian(make(rng, z))
    for name in test_activations.NAMES:
        yield name, lambda _, z, name=name: test_activations.forward(name, z)
        if name not in ("log_softmax", "logsumexp"):
            yield (
                f"{name} backward",
                lambda rng, z, name=name: test_activations.backward(
                    name, rng.standard_normal(z.shape).astype(z.dtype), z
                ),
            )
    yield "linear", of_layer(0, "tanh")
    yield "linear_backward_input", of_layer(1, "tanh")
    yield "linear_softmax_cross_entropy", last_layer


def last_layer(rng: np.random.Generator, z: np.ndarray) -> Problem:
    size = (max(1, z.size // WEIGHTS[0]), *WEIGHTS)
    each = test_linear_softmax_cross_entropy.problem(rng, size, z.dtype.type)
    return each.changed(inputs=np.resize(z, each.arguments["inputs"].shape) / np.asarray(4, z.dtype))


class Worst(NamedTuple):
    """The largest error of a result: in ulps, of what is allowed, and the row of the call that gave it."""

    ulps: float
    allowed: float
    row: int


def errors(
    problem: Problem, got: Any, promises: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each result that has a row for each row of the inputs: its error in ulps, and of what is allowed, (N,)."""
    n = len(next(value for value in problem.arguments.values() if isinstance(value, np.ndarray)))
    for name, promise in promises.items():
        result = np.asarray(getattr(got, name), promise.want.dtype)
        if result.shape[:1] != (n,):
            continue
        with np.errstate(all="ignore"):
            error = error_of(result, promise.want)
            above = np.where(error > promise.negligible, error - promise.negligible, 0)
            ulps = np.where(above > 0, above / promise.unit, 0)
            allowed = np.where(error > 0, error / promise.allowed, 0)
        yield name, ulps.reshape(n, -1).max(axis=1), allowed.reshape(n, -1).max(axis=1)


def worst_of(problem: Problem, isa: str) -> dict[str, Worst]:
    with running_on(isa) as kernels, np.errstate(all="ignore"):
        promised = conftest.promises.__wrapped__(problem, squares_are_known(kernels, problem.dtype))
        got = solve(kernels, problem, memory=Compact())
    found = {}
    for name, ulps, allowed in errors(problem, got, promised):
        row = int(ulps.argmax())
        found[name] = Worst(float(ulps[row]), float(allowed.max()), row)
    return found


def row_of(problem: Problem, row: int) -> dict[str, Any]:
    """The arguments of a call with that row alone, as JSON has them."""
    n = len(next(value for value in problem.arguments.values() if isinstance(value, np.ndarray)))

    def plain(value: Any) -> Any:
        if isinstance(value, Out):
            shape = (1, *value.shape[1:]) if value.shape[0] == n else value.shape
            return {"out": shape}
        if isinstance(value, np.ndarray):
            return digits(value[row : row + 1] if len(value) == n else value)
        return value

    return {name: plain(value) for name, value in problem.arguments.items()}


def digits(x: np.ndarray) -> list[Any]:
    """As many as tell its numbers from others of their dtype."""
    return (
        np.array([float(str(each)) if x.dtype.kind == "f" else each for each in x.flat])
        .reshape(x.shape)
        .tolist()
    )


def from_row(case: dict[str, Any]) -> Problem:
    """The call of :func:`row_of` again."""
    dtype = np.dtype(case["dtype"]).type

    def array(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return Out(tuple(value["out"]))
        if not isinstance(value, list):
            return value
        return np.array(value, np.int64 if name == "labels" else float).astype(
            np.int64 if name == "labels" else dtype
        )

    return Problem(
        case["function"], dtype, {name: array(name, value) for name, value in case["arguments"].items()}
    )


def campaign(points: int) -> tuple[list[dict[str, Any]], bool]:
    """A table on standard output; the worst row of each function, dtype and result; whether all was within what is allowed."""
    kept, good = [], True
    print(f"| kernel | result | dtype | {' | '.join(REGIMES)} | of what is allowed |")
    print(f"|---|---|---|{'---|' * len(REGIMES)}---|")
    for label, make in problems():
        for dtype in (np.float32, np.float64):
            found: dict[str, dict[str, tuple[Worst, Problem]]] = {}
            for regime, draw in REGIMES.items():
                rng = generator(label, regime, np.dtype(dtype).name)
                problem = make(rng, draw(rng, (max(1, points // WIDTH), WIDTH)).astype(dtype))
                for isa in conftest.ISAS:
                    for name, worst in worst_of(problem, isa).items():
                        cell = found.setdefault(name, {})
                        if regime not in cell or worst.ulps > cell[regime][0].ulps:
                            cell[regime] = worst, problem
            for name, cell in found.items():
                ulps = " | ".join(f"{cell[regime][0].ulps:.2f}" for regime in REGIMES)
                most = max(worst.allowed for worst, _ in cell.values())
                good &= most <= 1
                print(f"| `{label}` | `{name}` | {np.dtype(dtype).name} | {ulps} | {most:.2f} |", flush=True)
                worst, problem = max(cell.values(), key=lambda pair: pair[0].ulps)
                if worst.ulps > 0:
                    case = {"function": problem.name, "dtype": np.dtype(dtype).name, "result": name}
                    arguments = row_of(problem, worst.row)
                    kept.append({**case, "ulps": round(worst.ulps, 2), "arguments": arguments})
    return kept, good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stride", type=int, default=1, help="every so many-th float32; 0: none (1)")
    parser.add_argument(
        "--points", type=int, default=10**6, help="random ones of each function and regime (10⁶)"
    )
    parser.add_argument("--keep", action="store_true", help="the worst inputs, for tests/test_ulps.py")
    options = parser.parse_args()
    failed = 0
    if options.stride:
        with tempfile.TemporaryDirectory() as folder:
            program = build(Path(folder), "-O3", "-fno-math-errno")  # as setup.py does
            threads = str(len(os.sched_getaffinity(0)))
            failed = subprocess.run([program, str(options.stride), threads], check=False).returncode
    kept, good = campaign(options.points)
    if options.keep:
        lines = ",\n".join(json.dumps(case) for case in kept)
        WORST.write_text(f"[\n{lines}\n]\n")
    return 0 if good and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
