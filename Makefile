# One word each. PYTHON chooses the interpreter: make test PYTHON=.venv/bin/python
PYTHON ?= python
CAMPAIGNS = PYTHONPATH=tests $(PYTHON) -m campaigns

.PHONY: install build test quick lint types debug sanitize failures disk races parallel fuzz hostile signals soak ulps wheels mutants docs bench demo clean

install:  ## the package with everything that developing it needs
	$(PYTHON) -m pip install -e '.[dev]'

build:  ## recompile the kernels in place
	$(PYTHON) setup.py build_ext --inplace

test:
	$(PYTHON) -m pytest

quick:  ## the fastest instruction set alone; make quick ROOM=losses, or without ROOM what changed since the last commit
	$(PYTHON) tests/quick.py $(ROOM)

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	cython-lint fastbp
	$(PYTHON) tools/columns.py

types:
	$(PYTHON) -m mypy

debug:  ## bounds checks and assertions
	FASTBP_DEBUG=1 $(PYTHON) setup.py build_ext --inplace

sanitize:  ## the same, and then: LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 python -m pytest
	FASTBP_SANITIZE=1 $(PYTHON) setup.py build_ext --inplace

failures:  ## allocations that fail, one after the other, in every call: a few minutes
	$(CAMPAIGNS).failures

disk:  ## system calls that fail, or at which the process dies, while a file is written: half a minute
	$(CAMPAIGNS).disk

races:  ## a million tasks of the threads under ThreadSanitizer: a quarter of an hour
	cc -O1 -g -fsanitize=thread -pthread -std=c11 -Isrc_c tests/c/test_team.c -o build/test_team -lm
	build/test_team 170 | sort | uniq -c

fuzz:  ## random calls of everything public, held against the twin: 200 000, or what one wants: FUZZ="--calls 10000000"
	$(CAMPAIGNS).fuzz $(FUZZ)

hostile:  ## files with random faults, for everything that reads one: HOSTILE="--runs 100000 npz"
	$(CAMPAIGNS).hostile $(HOSTILE)

signals:  ## 10 000 signals at random moments of a training and of the cross-entropies: SIGNALS="--signals 100000 fit"
	$(CAMPAIGNS).signals $(SIGNALS)

soak:  ## long runs under memory watch, many threads, forks, workers: a minute each, or hours: SOAK="--seconds 10800 memory"
	$(CAMPAIGNS).soak $(SOAK)

ulps:  ## every float32 through every function of one number, and a million random points through each kernel: an hour
	$(CAMPAIGNS).ulps $(ULPS)

parallel:  ## tests that four threads run at the same time (pytest-run-parallel): a few minutes
	$(PYTHON) -m pytest -n0 -q --isa=best --parallel-threads=4 -k "$(ALONE)" $(PARALLEL:%=tests/test_%.py)
ALONE = not threads and not signal and not interrupt and not within_a_call and not given_back and not digits  # mpmath has one precision
PARALLEL ?= losses losses_edges hessians activations layers linear_softmax_cross_entropy optimizers \
	network_kernels model initializers schedules error_parameters arrays

wheels:  ## dist/: a source distribution, wheels for all interpreters found, one for any platform; each tested without a compiler
	$(PYTHON) tools/wheels.py $(WHEELS)

mutants:  ## faults in the sources, one at a time: do the tests notice? An hour or two; -n, -j, --seed: MUTANTS="-n 20 -j 2"
	$(PYTHON) tools/mutants.py $(MUTANTS)

docs:  ## the site, in docs/_build/html; a warning is an error
	$(PYTHON) -m sphinx -q -W --keep-going -b html docs docs/_build/html

bench:
	$(PYTHON) -m bench steps
	$(PYTHON) -m bench losses
	$(PYTHON) -m bench linear

demo:
	$(PYTHON) -m fastbp demo

clean:
	rm -rf build fastbp.egg-info docs/_build docs/gallery fastbp/*.so fastbp/*.pyd fastbp/_kernels/*.so fastbp/_kernels/*.pyd
