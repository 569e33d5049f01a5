"""Instruction sets and threads: which C primitives are in use, and how many threads there are."""

import os
from time import perf_counter

cdef extern from * nogil:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FBP_OPENMP 1
    #else
    #define FBP_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    static int omp_get_num_procs(void) { return 1; }
    #endif
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
    bint FBP_OPENMP
    const char *FBP_COMPILER
    int omp_get_max_threads()
    int omp_get_num_procs()

# Nanoseconds of work that make it worth waking one more thread, which takes some 30 µs.
cdef double GRAIN = 30_000.0

# The child of a fork has none of its parent's threads, and perhaps a lock that one of them held: it uses one thread.
cdef bint forked = False


def _after_fork_in_child():
    global forked
    forked = True


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


cdef const fbp_kernels *kernels_for(size_t element_size) noexcept nogil:
    return fbp_kernels_for(element_size)


cdef int threads_for(int n_threads, double work) noexcept nogil:
    cdef double worthwhile = work / GRAIN
    return 1 if worthwhile < 2 or forked else <int>min(<double>n_threads, worthwhile)


_KINDS = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softplus")  # in the order of fastbp.h


cdef int activation_kind(str name) except -1:
    return _KINDS.index(name)


def max_threads() -> int:
    """The number of threads that OpenMP would use: OMP_NUM_THREADS, threadpoolctl and the CPU affinity are in it."""
    return 1 if forked else omp_get_max_threads()


_MOST_THREADS = max(64, 4 * omp_get_num_procs())  # asked once: it takes the system half a microsecond to tell


def thread_limit() -> int:
    """The most threads that a caller may ask for: a few per processor, lest the system refuse; 1 in the child of a fork."""
    return 1 if forked else _MOST_THREADS


cdef int plain_threads(n_threads) except -1:
    if n_threads is None:
        return max_threads()
    if type(n_threads) is not int or n_threads < 1:
        return 0
    return min(n_threads, thread_limit())


def openmp() -> bool:
    """Whether the kernels were compiled with OpenMP, which says how many threads a call may use by default."""
    return FBP_OPENMP


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
