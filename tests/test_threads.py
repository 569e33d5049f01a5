"""How many threads a call takes, on which cores they run, and when they end."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest
from conftest import NATIVE_ONLY

import fastbp
from fastbp import _backend

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
TWO_CORES = pytest.mark.skipif(len(CORES) < 2, reason="a single core")


def run(code: str, **environment: str) -> str:
    """What a program prints in a new interpreter, in an environment that says of threads only what is given."""
    silent = ("OMP_", "GOMP_", "KMP_", "FASTBP_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(silent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=inherited | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- the environment and the quota ---------------------------------------------------------------------------------------------


@NATIVE_ONLY
@pytest.mark.parametrize(
    ("text", "threads"),
    [
        *[("3", 3), (" 3 , 2", 3), ("12,4,1", 12)],
        *[(text, 0) for text in ("", "0", "-1", "+2", "many", "4,x", "2,0", "2,", "1e3", "9" * 5000)],
    ],
)
def test_the_environment_chooses(text, threads):
    """The first number of a list, which is ignored where one is none."""
    from fastbp._kernels import processors

    assert processors.chosen({"OMP_NUM_THREADS": text}) == threads
    assert processors.chosen({"OMP_NUM_THREADS": text, "OMP_THREAD_LIMIT": "2"}) == min(threads, 2)
    assert processors.chosen({"OMP_NUM_THREADS": text, "OMP_THREAD_LIMIT": "no"}) == threads
    assert processors.chosen({}) == processors.chosen({"OMP_THREAD_LIMIT": "2"}) == 0


V1 = "5:cpu,cpuacct:{path}\n3:cpuset:/elsewhere\n0::/\n"
QUOTAS = {
    "none": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, 0),
    "version 2": ("0::/a\n", {"a/cpu.max": "200000 100000\n"}, 2),
    "rounded up": ("0::/a\n", {"a/cpu.max": "210000 100000\n"}, 3),
    "at least one": ("0::/a\n", {"a/cpu.max": "1000 100000\n"}, 1),
    "the least on the way up": (
        "0::/a/b/c\n",
        {"cpu.max": "800000 100000", "a/cpu.max": "300000 100000", "a/b/c/cpu.max": "500000 100000"},
        3,
    ),
    "a path of the host": ("0::/host/path\n", {"cpu.max": "400000 100000\n"}, 4),
    "a path above what is seen": ("0::/../../x\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        V1.format(path="/a"),
        {"cpu/a/cpu.cfs_quota_us": "150000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, none": (
        V1.format(path="/a"),
        {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        0,
    ),
    "version 1, a path of the host": (
        V1.format(path="/docker/0a1b"),
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "of another controller": (
        "3:cpuset:/a\n",
        {"cpu/a/cpu.cfs_quota_us": "150000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        0,
    ),
    "nonsense": ("0::/a\n\nno colons\n::", {"a/cpu.max": "two hundred\n", "cpu.max": "1 0\n"}, 0),
    "nothing": ("", {}, 0),
}


@NATIVE_ONLY
@pytest.mark.parametrize("case", QUOTAS)
def test_the_quota_of_processor_time(case, tmp_path):
    from fastbp._kernels import processors

    groups, files, cores = QUOTAS[case]
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{k}": v for k, v in files.items()},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processors.most({}, tmp_path) == cores
    assert processors.most({"OMP_THREAD_LIMIT": "2"}, tmp_path) == (min(cores, 2) or 2)


@NATIVE_ONLY
def test_a_system_without_control_groups(tmp_path):
    from fastbp._kernels import processors

    assert processors.most({}, tmp_path) == 0


THREADS = "import fastbp; print(fastbp._backend.thread_count(None))"


@NATIVE_ONLY
def test_the_number_in_a_process():
    """Of the environment at the import; what it says wrongly is not said."""
    default = run(THREADS)
    assert 1 <= int(default) <= len(CORES)
    assert run(THREADS, OMP_NUM_THREADS="3,2") == "3"
    assert run(THREADS, OMP_NUM_THREADS="none") == default
    assert run(THREADS, OMP_THREAD_LIMIT="1") == "1"
    assert run(THREADS, OMP_NUM_THREADS="1000000") == run(
        "import fastbp; print(fastbp._backend.thread_count(10**6))"
    )


@NATIVE_ONLY
@LINUX
@TWO_CORES
def test_the_affinity_of_the_process():
    """Before the import and after it, of the main thread, whichever thread asks."""
    default = run(THREADS)
    narrow = f"import os; os.sched_setaffinity(0, [{CORES[-1]}]); "
    assert run(narrow + THREADS) == "1"
    wait = """
import time
def wait(threads):
    start = time.monotonic()
    while fastbp._backend.thread_count(None) != threads and time.monotonic() < start + 30:
        time.sleep(0.05)
    print(fastbp._backend.thread_count(None), end=" ")
"""
    later = f"import fastbp; {narrow}{wait}wait(1); os.sched_setaffinity(0, {CORES}); wait({default})"
    assert run(later) == f"1 {default}"
    pinned = f"os.sched_setaffinity(0, [{CORES[0]}]); print(fastbp._backend.thread_count(None))"
    in_a_thread = f"import fastbp, os, threading; t = threading.Thread(target=lambda: exec({pinned!r})); t.start(); t.join()"
    assert run(in_a_thread) == default


# -- the cores of the helpers --------------------------------------------------------------------------------------------------

HELPERS = """
import os, time
import numpy as np
def tasks():
    return set(map(int, os.listdir("/proc/self/task")))
def helpers(n_threads=2):
    "The threads that a call with n_threads makes."
    before = tasks()
    x = np.ones((512, 512), "float32")
    fastbp.linear(x, x, n_threads=n_threads)
    return tasks() - before
def cores(thread, wanted=None):
    "Those of a thread, when they are those that are wanted or some time has passed."
    for _ in range(300):
        found = sorted(os.sched_getaffinity(thread))
        if found == wanted:
            break
        time.sleep(0.05)
    return found
"""
LIBGOMP = ctypes.util.find_library("gomp")
BINDINGS = [{"OMP_PROC_BIND": "close"}, {"GOMP_CPU_AFFINITY": " ".join(map(str, CORES))}]


@NATIVE_ONLY
@LINUX
@TWO_CORES
@pytest.mark.skipif(not LIBGOMP, reason="no libgomp on this machine")
@pytest.mark.parametrize("first", ["fastbp", "libgomp"])
@pytest.mark.parametrize("binding", BINDINGS, ids=str)
def test_helpers_are_not_bound_with_the_main_thread(binding, first):
    """OpenMP libraries bind the main thread to one core when they are loaded."""
    load = f"import ctypes; ctypes.CDLL({LIBGOMP!r})"
    order = [load, "import fastbp"] if first == "libgomp" else ["import fastbp", load]
    report = f"""
import os
print(len(os.sched_getaffinity(0)), fastbp._backend.thread_count(None), [cores(t, {CORES}) for t in helpers()])
"""
    assert (
        run("\n".join(order) + HELPERS + report, **binding) == f"1 {run(THREADS)} [{CORES}]"
    )  # the main thread was bound


@NATIVE_ONLY
@LINUX
@TWO_CORES
def test_helpers_follow_the_process():
    """A helper that was made on one core uses both when the process may, and leaves one when the process does."""
    code = f"""
import fastbp
{HELPERS}
os.sched_setaffinity(0, [{CORES[0]}])
time.sleep(1.1)
helper, = helpers()
narrow = cores(helper, [{CORES[0]}])
os.sched_setaffinity(0, {CORES})
time.sleep(1.1)
again = helpers()
print(narrow, again, cores(helper, {CORES}))
"""
    assert run(code) == f"[{CORES[0]}] set() {CORES}"


@NATIVE_ONLY
@LINUX
def test_helpers_end():
    """Many threads that call once leave no helpers behind; the next call has some again."""
    code = f"""
import fastbp
from threading import Barrier, Thread
{HELPERS}
gate = Barrier(16, timeout=60)
def call():
    gate.wait()
    x = np.ones((512, 512), "float32")
    for _ in range(3):
        fastbp.linear(x, x, n_threads=8)
before = tasks()
threads = [Thread(target=call) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
made = len(tasks() - before)
for _ in range(600):
    if tasks() <= before:
        break
    time.sleep(0.05)
print(made >= 7, len(tasks() - before), len(helpers(3)))
"""
    assert run(code) == "True 0 2"


# -- limits --------------------------------------------------------------------------------------------------------------------

LIMITS = """
import fastbp
def threads():
    return fastbp._backend.thread_count(None)
import numpy as np
from fastbp._kernels.team import last_team
x = np.ones((600, 600), "float32")
def used():
    "The threads of a call that does not say how many; 1 where it had no team."
    _, before = last_team()
    fastbp.linear(x, x)
    n, tasks = last_team()
    return n if tasks > before else 1
"""


@NATIVE_ONLY
@pytest.mark.parametrize("order", ["import fastbp, threadpoolctl", "import threadpoolctl, fastbp"])
def test_threadpoolctl_limits(order):
    """All libraries, or OpenMP's; what was set is seen at once by calls, and taken back."""
    pytest.importorskip("threadpoolctl")
    code = f"""
{order}
{LIMITS}
from threadpoolctl import threadpool_limits
print(threads(), used(), end="; ")
with threadpool_limits(1):
    print(threads(), used(), end=" ")
    with threadpool_limits(2, user_api="openmp"):
        print(threads(), used(), end=" ")
    print(threads(), used(), end="; ")
with threadpool_limits(1, user_api="openmp"):
    print(threads(), used(), end="; ")
with threadpool_limits(1, user_api="blas"):
    print(threads(), used(), end="; ")
print(threads(), used(), end="; ")
[ours] = [i for i in threadpoolctl.threadpool_info() if i["internal_api"] == "fastbp"]
print(ours["user_api"], ours["num_threads"], ours["version"])
"""
    want = f"3 3; 1 1 2 2 1 1; 1 1; 3 3; 3 3; openmp 3 {fastbp.__version__}"
    assert run(code, OMP_NUM_THREADS="3") == want


@NATIVE_ONLY
def test_a_limit_holds_where_it_was_set():
    """In the main thread for all; in another one for that thread; two that overlap restore what was before."""
    pytest.importorskip("threadpoolctl")
    code = f"""
import fastbp
{LIMITS}
from threading import Barrier, Thread
from threadpoolctl import threadpool_limits
gate = Barrier(2, timeout=30)
seen = []
def first():
    with threadpool_limits(1):
        gate.wait(); gate.wait()
        seen.append(threads())
    gate.wait(); gate.wait()
def second():
    gate.wait()
    with threadpool_limits(2):
        gate.wait(); gate.wait()
        seen.append(threads())
    seen.append(threads())
    gate.wait()
pair = [Thread(target=first), Thread(target=second)]
[t.start() for t in pair]
[t.join() for t in pair]
print(seen, threads())
with threadpool_limits(1):
    t = Thread(target=lambda: print(threads(), end=" "))
    t.start()
    t.join()
print(threads())
"""
    assert run(code, OMP_NUM_THREADS="3") == "[1, 2, 3] 3\n1 3"


@NATIVE_ONLY
def test_fastbp_does_without_threadpoolctl():
    """It neither imports it nor minds that it is missing or old."""
    assert run("import sys, fastbp; print('threadpoolctl' in sys.modules)") == "False"
    assert run(f"import sys; sys.modules['threadpoolctl'] = None; {THREADS}", OMP_NUM_THREADS="3") == "3"
    assert run(f"import sys; sys.modules['threadpoolctl'] = sys; {THREADS}", OMP_NUM_THREADS="3") == "3"


@NATIVE_ONLY
@pytest.mark.parametrize(
    ("backend", "threads"), [('"loky", inner_max_num_threads=1', 1), ('"loky"', None), ('"threading"', 1)]
)
def test_the_workers_of_joblib(backend, threads):
    """Processes that are told by their environment; threads that share the limit of the main thread."""
    pytest.importorskip("joblib")
    pytest.importorskip("threadpoolctl")
    code = f"""
import fastbp, joblib, threadpoolctl
def work(i):
    exec({LIMITS!r}, globals())
    return threads(), used()
with threadpoolctl.threadpool_limits(1), joblib.parallel_config({backend}, n_jobs=2):
    print(*sorted(set(joblib.Parallel()(joblib.delayed(work)(i) for i in range(4)))))
"""
    if threads is None:  # what joblib leaves to each of two processes
        threads = max(1, int(run("import joblib; print(joblib.cpu_count())")) // 2)
    assert run("import fastbp\n" + code) == f"({threads}, {threads})"


@NATIVE_ONLY
def test_the_threads_of_dask():
    pytest.importorskip("dask")
    pytest.importorskip("threadpoolctl")
    code = f"""
import dask, fastbp, threadpoolctl
{LIMITS}
for limit in (1, 2, None):
    with threadpoolctl.threadpool_limits(limit):
        print(*dask.compute(*[dask.delayed(threads)() for _ in range(4)], scheduler="threads", num_workers=2))
"""
    assert run(code, OMP_NUM_THREADS="3") == "1 1 1 1\n2 2 2 2\n3 3 3 3"


# -- forks and builds without threads ------------------------------------------------------------------------------------------


@NATIVE_ONLY
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_from_a_signal_handler():
    """During a call on two threads: the child goes on with it alone, to the same bits, and the parent with its team."""
    code = """
import os, signal, sys
import numpy as np
import fastbp
rng = np.random.default_rng(0)
x, w = rng.standard_normal((2000, 1400)), rng.standard_normal((1400, 1400))
want = fastbp.linear(x, w, n_threads=2)
children = []
def fork(signal_number, frame):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
    children.append(child)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.signal(signal.SIGVTALRM, fork)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.03)
same = True
while not children:
    same &= bool((fastbp.linear(x, w, n_threads=2) == want).all())
same &= bool((fastbp.linear(x, w, n_threads=2) == want).all())
if 0 in children:
    os._exit(0 if same else 1)
_, status = os.waitpid(children[0], 0)
print(same, os.waitstatus_to_exitcode(status))
"""
    assert run(code) == "True 0"


@NATIVE_ONLY
def test_a_build_without_threads_says_so(monkeypatch, capsys):
    with _backend.use("native"):
        monkeypatch.setattr(_backend.kernels, "has_threads", lambda: False)
        assert fastbp.show_config()["threading"] == "none"
    assert "threading       none" in capsys.readouterr().out.splitlines()
