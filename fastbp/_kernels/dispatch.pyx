"""Instruction sets, precision and threads: the C primitives in use, what products are made of, the number of threads"""

import os
from time import perf_counter

from fastbp._kernels.team cimport default_threads, is_forked

cdef extern from * nogil:
    """
    #if defined(__clang__)
    #define FBP_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FBP_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define FBP_COMPILER "Microsoft C"
    #else
    #define FBP_COMPILER "unknown"
    #endif
    """
    const char *FBP_COMPILER

# Nanoseconds of work that pay for waking one more thread, which takes about 30 µs
cdef double GRAIN = 30_000.0


cdef const fbp_kernels *kernels_for(size_t element_size) noexcept nogil:
    return fbp_kernels_for(element_size)


cdef int threads_for(int n_threads, double work) noexcept nogil:
    cdef double worthwhile = work / GRAIN
    return 1 if worthwhile < 2 or is_forked() else <int>min(<double>n_threads, worthwhile)


def activation_facts() -> dict[str, tuple[bool, float, str]]:
    """For each activation by name: whether its slope is computed from its input, the bound of its outputs, its initial weights"""
    cdef const fbp_activation *row
    facts = {}
    for kind in range(FBP_ACTIVATIONS):
        row = fbp_activation_facts(kind)
        facts[row.name.decode()] = row.slope == FBP_OF_INPUT, row.bound, row.weights.decode()
    return facts


cdef dict KINDS = {name: kind for kind, name in enumerate(activation_facts())}


cdef int activation_kind(str name) except -1:
    return KINDS[name]


cdef int MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))


cdef int most_threads(int n_threads) noexcept nogil:
    return min(default_threads() if n_threads < 1 else n_threads, 1 if is_forked() else MOST_THREADS)


def max_threads() -> int:
    """The default number of threads of a call, after threadpoolctl, OMP_NUM_THREADS, CPU affinity and quota"""
    return most_threads(0)


def thread_limit() -> int:
    """The largest number of threads of a call: a few per processor, since the system may refuse more; 1 in the child of a fork"""
    return 1 if is_forked() else MOST_THREADS


cdef int plain_threads(n_threads) except -1:
    if n_threads is None:
        return max_threads()
    if type(n_threads) is not int or n_threads < 1:
        return 0
    return min(n_threads, thread_limit())


def compiler() -> str:
    """The compiler of the kernels and its version."""
    return FBP_COMPILER.decode()


def isa() -> str:
    """The instruction set in use."""
    return fbp_isa().decode()


def available_isas() -> list[str]:
    """The instruction sets that are compiled in and that this CPU can run, best first."""
    cdef int i = 0
    names = []
    while fbp_isa_name(i) != NULL:
        names.append(fbp_isa_name(i).decode())
        i += 1
    return [name for name in names if name]


def use_isa(str name) -> None:
    """Make `name` the instruction set in use, for every kernel called from now on."""
    if fbp_use_isa(name.encode()) != 0:
        raise ValueError(f"instruction set: got {name!r}, expected one that this CPU can run: {', '.join(available_isas())}")


cdef dict PIECES = {"highest": 0, "high": 2, "medium": 1}
cdef int pieces_in_use = 0


cdef int named_pieces(precision) except -2:
    return -1 if precision is None else PIECES[precision]


cdef int chosen_pieces(int pieces) noexcept nogil:
    return pieces_in_use if pieces < 0 else pieces


def use_precision(str name) -> None:
    """Make `name` the precision of products that have none of their own, from the next call on."""
    global pieces_in_use
    pieces_in_use = named_pieces(name)


def unit(str precision) -> str:
    """The unit that forms products of this precision, with the instruction set in use; "" if they are those of float32."""
    return fbp_unit(PIECES[precision]).decode()


def fma_rate(int element_size, int64_t repetitions) -> float:
    """Measure the peak of one core in GFLOP/s: multiply-adds in registers, for elements of 4 or 8 bytes."""
    cdef const fbp_kernels *k = fbp_kernels_for(element_size)
    cdef double operations
    start = perf_counter()
    with nogil:
        operations = k.multiply_adds(repetitions)
    return operations / (perf_counter() - start) * 1e-9


if os.environ.get("FASTBP_ISA"):
    try:
        use_isa(os.environ["FASTBP_ISA"])
    except ValueError as unknown:
        raise ImportError(f"FASTBP_ISA: {unknown}") from None
