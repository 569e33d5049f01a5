"""Benchmarks of fastbp: `python -m bench steps`, `losses`, `linear`, `predict`, `mnist`, `sklearn`, `inverse`,
`options`, `nielsen`, `memmap`, `sweep`, `install`.

How a number comes about, and where to read it:

1. `shapes.py` names the rows: what is computed, and how many operations or bytes it takes.
2. `problems.py` makes the inputs of a row; `steps.py`, `losses.py`, `predict.py` and `mnist.py` its contestants:
   fastbp, its NumPy twin (`fastbp._reference`) and, with `--peers`, other libraries. `peers/` has
   what peers share, and those of error functions and steps.
3. Every contestant, peers included, is checked once against the float64 twin (`problems.py`): the residual.
   Whole training is judged by its accuracy instead.
4. `timing.py` measures all contestants of a row interleaved, in one process, and gives medians and ratios.
5. `machine.py` measures what the machine can do at best: multiply-adds in registers, copying in memory.
6. `race.py` puts the row together, `report.py` prints it, and a summary: how fastbp stands to the fastest peer.

`inverse.py` is a row of its own, a tiny network on a large batch. `options.py` measures what the options of `fit`
cost, `nielsen.py` trains to published accuracies, `memmap.py` on a file of 4 GB. `sweep.py` measures fastbp alone, at
all sizes from 1 on, prints the cliffs and draws the curves; `install.py` times the import. Each thread count runs in a
process of its own, whose environment holds every library to it.
"""
