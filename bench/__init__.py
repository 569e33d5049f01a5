"""Benchmarks of fastbp: `python -m bench steps`, `python -m bench losses` and `python -m bench linear`.

How a number comes about, and where to read it:

1. `shapes.py` names the rows: what is computed, and how many operations or bytes it takes.
2. `problems.py` makes the inputs of a row, `steps.py` and `losses.py` its contestants: fastbp, its NumPy twin
   (`fastbp._reference`) and, with `--peers`, the libraries of `peers.py`.
3. Every contestant, peers included, is checked once against the float64 twin (`problems.py`): the residual.
4. `timing.py` measures all contestants of a row interleaved, in one process, and gives medians and ratios.
5. `machine.py` measures what the machine can do at best: multiply-adds in registers, copying in memory.
6. `race.py` puts the row together, `report.py` prints it.

Each thread count runs in a process of its own, whose environment holds every library to that count.
"""
