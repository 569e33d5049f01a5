"""Ranks: processes of one thread against one process of many threads, the sums between them, and a model of a cluster.

mpiexec starts this module as so many processes, which take samples in turn: while one works alone the others sleep. A sample is
an epoch of some steps; its time is that which the history tells. A ratio is the median of those within each round. The
model takes the fastest sample: what others on the machine take of a sample is no part of it.

The model: a step of P nodes takes the time of its products and update, and that of the sums of its messages, each after the one
before it and not before its gradients are there. A sum of n bytes takes the lesser of

    ring  2 (P - 1) α + 2 (P - 1)/P n β        tree  2 ⌈log2 P⌉ α + 2 (P - 1)/P n β

(R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH", 2005; the tree is
Rabenseifner's halving and doubling). "Hidden": the network goes on by itself while the processor computes, as with hardware or a
thread of its own that moves messages; "exposed": it does not.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import fastbp
from fastbp import ranks
from fastbp.parameters import Layout

from .shapes import StepShape

SHAPES = (
    StepShape((784, 512, 512, 10), 128),
    StepShape((1024, 1024, 1024, 1024, 1000), 256, "1024x4-1000"),
)
SAMPLE_S, ROUNDS, QUICK_ROUNDS = 0.5, 9, 3
NODES = tuple(2**k for k in range(1, 11))
GOAL = 0.9  # of efficiency


@dataclass(frozen=True)
class Network:
    """Seconds of a message, and of a byte."""

    name: str
    alpha: float
    beta: float


NETWORKS = (
    # β: the rate of the line. α: half of the 92 to 100 µs that a round trip by TCP took between virtual machines
    # (blogs.scalablelogic.com, "Enhanced networking in the AWS cloud, part 2", 2014) is 48 µs; without virtual machines less.
    Network("25 Gb/s Ethernet, TCP", 30e-6, 8 / 25e9),
    # α: "< 1 µs" (D. Panda, "The MVAPICH2 project", SC 2018), and as much for the software and switches of a large cluster
    Network("200 Gb/s InfiniBand", 2e-6, 8 / 200e9),
)


# -- the model ---------------------------------------------------------------------------------------------------------------


def messages(sizes: Sequence[int], itemsize: int = 4) -> list[tuple[float, int]]:
    """Of each message of a step: what share of the products is done when its gradients are there, and its bytes."""
    layers, dtype = list(pairwise(sizes)), np.dtype(f"f{itemsize}")
    _, sent = ranks.messages(Layout(sizes), dtype)
    work = sum(3 * i * o for i, o in layers) - math.prod(layers[0])
    done, found = sum(i * o for i, o in layers), []
    for number in reversed(range(len(layers))):
        i, o = layers[number]
        done += i * o
        if number in sent:
            part = sent[number]
            found.append((done / work, (part.stop - part.start) * itemsize))
        done += i * o
    return found


def sum_seconds(network: Network, nodes: int, n_bytes: int) -> float:
    """Of one message."""
    data = 2 * (nodes - 1) / nodes * n_bytes * network.beta
    return data + 2 * network.alpha * min(nodes - 1, math.ceil(math.log2(nodes)))


def step_seconds(network: Network, nodes: int, sizes: Sequence[int], compute: float, hidden: bool) -> float:
    """Of one step, whose products and update take `compute`."""
    if nodes == 1:
        return compute
    clock = 0.0
    for share, n_bytes in messages(sizes):
        clock = max(clock, share * compute if hidden else compute) + sum_seconds(network, nodes, n_bytes)
    return max(clock, compute)


def efficiency(
    network: Network, nodes: int, shape: StepShape, compute: float, strong: bool, hidden: bool
) -> float:
    """What part of the time is spent on products: with as many examples on each node as one has, or, `strong`, in all."""
    seconds = compute / nodes if strong else compute
    return seconds / step_seconds(network, nodes, shape.sizes, seconds, hidden)


def batch_for_goal(network: Network, nodes: int, shape: StepShape, compute: float, hidden: bool) -> int:
    """The examples of each node from which GOAL of the time is spent on products, which grows with them."""
    low, high = 1, 1 << 40
    while low < high:
        batch = (low + high) // 2
        seconds = compute * batch / shape.batch
        if seconds >= GOAL * step_seconds(network, nodes, shape.sizes, seconds, hidden):
            high = batch
        else:
            low = batch + 1
    return low


# -- what is measured --------------------------------------------------------------------------------------------------------


def rows(shapes: Sequence[StepShape], dtype: np.dtype, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Measure each shape on as many ranks as there are threads, and print what was measured and what follows."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        print("no mpiexec: pip install mpi4py mpich")
        return []
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    options = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else []
    measured = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "times.json"
            asked = json.dumps([shape.sizes, shape.batch, shape.label, dtype.name, quick, str(file)])
            command = [mpiexec, *options, "-n", str(threads), sys.executable, "-m", "bench.mpi", asked]
            subprocess.run(command, check=True)
            measured.append(json.loads(file.read_text()) | {"shape": shape.name})
        print(text(shape, measured[-1]), flush=True)
    return measured


def _work(sizes: list[int], batch: int, label: str, dtype: str, quick: bool, file: str) -> None:
    """Be one of the ranks."""
    from mpi4py import MPI

    world, shape = MPI.COMM_WORLD, StepShape(tuple(sizes), batch, label)
    times = measure(world, MPI.COMM_SELF, shape, dtype, QUICK_ROUNDS if quick else ROUNDS)
    if world.Get_rank() == 0:
        Path(file).write_text(json.dumps(times))


def measure(world: Any, alone: Any, shape: StepShape, dtype: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each contestant in each round, on the first rank."""
    size, rank = world.Get_size(), world.Get_rank()
    comm = fastbp.mpi.Communicator(world)
    fixed = fastbp.mpi.Communicator(world, reproducible=True)
    steps = max(2, int(SAMPLE_S * 50e9 / shape.operations))
    train = _Trainer(shape, dtype, steps, size)
    contestants: dict[str, tuple[bool, Callable[[], float]]] = {
        "one thread": (False, lambda: train(1, 1)),
        "one rank": (False, lambda: train(1, 1, fastbp.mpi.Communicator(alone))),
        "threads": (False, lambda: train(size, size)),
        "side by side": (True, lambda: train(1, 1)),
        "ranks": (True, lambda: train(1, 1, comm)),
        "reproducible": (True, lambda: train(1, 1, fixed)),
        "sums": (True, lambda: train.sums(comm)),
    }
    if size > 1:
        unsent = fastbp.mpi.Communicator(_Unsent(size))
        contestants["nothing sent"] = True, lambda: train(1, 1, unsent)
    names, times = list(contestants), {name: [] for name in contestants}
    for number in range(rounds + 1):  # the first is not counted
        order = names[number % len(names) :] + names[: number % len(names)]
        for name in order if number % 2 else order[::-1]:
            everybody, sample = contestants[name]
            _meet(world)
            seconds = sample() if everybody or rank == 0 else 0.0
            _meet(world)
            if number:
                times[name].append(seconds)
    return {"ranks": size, "steps": steps, "times": times}


IN_PLACE = "in place"  # the word for it of the communicator below: fastbp looks for it where its class is


class _Unsent:
    """A communicator whose sums are there at once: all ranks say what this one does, and gradients stay as they are."""

    def __init__(self, size: int) -> None:
        self.size = size

    def Dup(self) -> _Unsent:
        return self

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return self.size

    def Bcast(self, array: np.ndarray, root: int) -> None:
        pass

    def Allreduce(self, source: Any, vector: np.ndarray) -> None:
        if vector.dtype == np.int64:  # a table, with a row for each rank
            vector.reshape(self.size, -1)[1:] = vector[: len(vector) // self.size]
        elif len(vector) < 16:
            vector *= self.size


def _meet(world: Any) -> None:
    """A barrier in which who waits sleeps, so that who works has the cores."""
    request = world.Ibarrier()
    while not request.Test():
        time.sleep(0.002)


class _Trainer:
    """Networks of a shape, and examples for them."""

    def __init__(self, shape: StepShape, dtype: str, steps: int, n_ranks: int) -> None:
        rng = np.random.default_rng(0)
        self.shape, self.dtype, self.steps = shape, dtype, steps
        self.x = rng.standard_normal((n_ranks * shape.batch * steps, shape.sizes[0]), np.float32).astype(
            dtype
        )
        self.t = rng.integers(0, shape.sizes[-1], len(self.x))
        self.nets: dict[int, fastbp.MLP] = {}

    def __call__(self, threads: int, batches: int, comm: Any = None) -> float:
        """Seconds of a step of so many batches at once."""
        if threads not in self.nets:
            self.nets[threads] = fastbp.MLP(
                self.shape.sizes, activation="relu", dtype=self.dtype, seed=0, n_threads=threads
            )
        size = batches * self.shape.batch
        n = size * self.steps
        net, sgd = self.nets[threads], fastbp.SGD(1e-6)
        net.parameters[:] = 0.01
        history = net.fit(
            self.x[:n],
            self.t[:n],
            epochs=1,
            batch_size=size,
            optimizer=sgd,
            shuffle=False,
            progress=False,
            comm=comm,
        )
        return history.seconds[0] / self.steps

    def sums(self, comm: fastbp.mpi.Communicator) -> float:
        """Seconds of the sums of a step, without a step."""
        _, sent = ranks.messages(Layout(self.shape.sizes), np.dtype(self.dtype))
        parts = [np.zeros(part.stop - part.start, self.dtype) for part in sent.values()]
        started = time.perf_counter()
        for _ in range(self.steps):
            for pending in [comm.begin_sum(part) for part in parts]:
                comm.wait(pending)
        return (time.perf_counter() - started) / self.steps


# -- what is told ------------------------------------------------------------------------------------------------------------


def ratio(times: dict[str, list[float]], faster: str, slower: str, units: float = 1.0) -> float:
    """How many times the speed of `slower` that of `faster` is, who does so many units of its work."""
    return float(np.median([b * units / a for a, b in zip(times[faster], times[slower], strict=True)]))


def text(shape: StepShape, measured: dict[str, Any]) -> str:
    """The numbers of a shape, and the model's."""
    times, n_ranks = measured["times"], measured["ranks"]
    median = {name: float(np.median(values)) for name, values in times.items()}
    lines = [f"{shape.name} on each of {n_ranks} rank{'s' * (n_ranks > 1)}, steps of:"]
    lines += [f"  {name:14} {seconds * 1e6:10.0f} µs" for name, seconds in median.items()]
    lines.append(f"  a rank with comm, of the speed without: {ratio(times, 'one rank', 'one thread'):.3f}")
    if n_ranks > 1:
        together, apart, sums = (np.array(times[name]) for name in ("ranks", "nothing sent", "sums"))
        hidden = float(np.median(1 - (together - apart) / sums))
        predicted = float(np.median((apart + sums) / together))
        lines += [
            f"  {n_ranks} ranks x 1 thread, of the speed of 1 x {n_ranks}: {ratio(times, 'ranks', 'threads'):.3f}",
            f"  reproducible, of the speed of others: {ratio(times, 'reproducible', 'ranks'):.3f}",
            f"  of the sums were hidden: {hidden:.0%}; the model, nothing hidden: {predicted:.2f} of the step",
            *scaling(shape, min(times["threads"]), n_ranks),
        ]
    return "\n".join(lines)


def scaling(shape: StepShape, compute: float, cores: int) -> list[str]:
    """The model's table for nodes like this machine, each with one rank on all its cores."""
    node = StepShape(shape.sizes, cores * shape.batch, shape.label)
    lines = [
        f"  nodes of {cores} such cores, {node.batch} examples each; efficiency exposed / hidden",
        f"  {'':24}{'nodes':>6} {'weak':>11} {'strong':>11} {'examples for 90 %':>20}",
    ]
    for network in NETWORKS:
        for nodes in NODES:
            cells = [
                [efficiency(network, nodes, node, compute, strong, hidden) for hidden in (False, True)]
                for strong in (False, True)
            ]
            weak, strong = (f"{exposed:4.0%} / {hidden:4.0%}" for exposed, hidden in cells)
            goal = [batch_for_goal(network, nodes, node, compute, hidden) for hidden in (False, True)]
            lines.append(
                f"  {network.name:24}{nodes:6} {weak:>11} {strong:>11} {f'{goal[0]} / {goal[1]}':>20}"
            )
    return lines


def draw(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the model's efficiency over the nodes: weak scaling on the left, strong on the right."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    found = [row for table in tables for row in table["rows"] if row["ranks"] > 1]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, strong in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        for row in found:
            shape = next(shape for shape in SHAPES if shape.name == row["shape"])
            compute = min(row["times"]["threads"])
            for network in NETWORKS:
                curves = [
                    [efficiency(network, nodes, shape, compute, strong, hidden) for nodes in NODES]
                    for hidden in (True, False)
                ]
                label = f"{shape.label or '-'.join(map(str, shape.sizes))}, {network.name}"
                (line,) = axes.plot(NODES, curves[0], label=label)
                axes.plot(NODES, curves[1], ":", color=line.get_color())
        axes.set(title="as many examples in all" if strong else "as many examples on each node")
        axes.set(xlabel="nodes", xscale="log", xticks=NODES, xticklabels=NODES, ylim=(0, 1.02))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if not strong:
            axes.legend(fontsize="small", loc="lower left")
    figure.supylabel("efficiency (dotted: no sum hidden)")
    figure.savefig(path)
    print(f"drawn in {path}")


if __name__ == "__main__":
    _work(*json.loads(sys.argv[1]))
