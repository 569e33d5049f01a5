"""The faults of `make mutants`: every operator finds what it should, and nothing in comments, messages and conditions;
and that what workflows call is there.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))
from faults import OPERATORS, faults_of  # noqa: E402

C = """\
/* sums a + b */
#if defined(A) && B < 2
#define TWICE(x) ((x) * 2)
#endif
static real sum(int n, const real *x, const real *y, int x_row, int y_row)
{
    // n - 1 < n
    if (n == 0) return -1;
    real total = 0.5f;
    for (int i = 0; i < n; i++) total += x[i * x_row] * y[i * y_row] + f("a - b", n - i);
    return total > 1 ? total : 1;
}
"""
CYTHON = """\
cdef int scaled(const Matrix *a, const Matrix *b, double *out) except -1 nogil:
    \"\"\"a < b\"\"\"
    cdef Py_ssize_t i
    if a.rows != b.rows:
        return -1
    for i in range(<Py_ssize_t>a.rows):
        out[i] = max(a.x[i], b.x[i]) - a.low
    return 0
"""
PYTHON = """\
def scale(x, factor=2, *, low=0.1):  # x * factor
    x = _checks.matrix("x", x, "(N, C)")
    if not factor > low and x.size:
        raise ValueError(f"factor: got {factor - 1}, " + "expected more")
    return x[1:factor] * factor
"""
SOURCES = {"sum.c": C, "scaled.pyx": CYTHON, "scale.py": PYTHON}
EXPECTED = {
    ("sign", "sum.c"): {"total -= x", "] - f(", "n + i)"},
    ("comparison", "sum.c"): {"n != 0", "i <= n;"},
    ("off by one", "sum.c"): {"i < n - 1;", "i < n + 1;", "n - i - 1)", "n - i + 1)"},
    ("operand", "sum.c"): {"x[i * y_row]", "y[i * x_row]", "x[n * x_row]", "i - i)", "n - n)"},
    ("dropped term", "sum.c"): {"y[i * y_row];", "x[i] *", "x[i * x_row] + f", '"a - b", n)', "((x))"},
    ("swapped arguments", "sum.c"): {'f(n - i, "a - b")'},
    ("missing check", "sum.c"): {"if (0) return"},
    ("wrong constant", "sum.c"): {"n == 1)", "0.49999994f", "i = 1;", "> 2 ?", ": 2;", "(x) * 3"},
    ("comparison", "scaled.pyx"): {"a.rows == b.rows"},
    ("sign", "scaled.pyx"): {") + a.low"},
    ("off by one", "scaled.pyx"): {"a.rows - 1)", "a.rows + 1)"},
    ("operand", "scaled.pyx"): {"if b.rows", "a.rows != a.rows", "max(b.x", "max(i.x", "a.x[b]", "a.x[i], a.x", "b.low"},
    ("dropped term", "scaled.pyx"): {"max(a.x[i], b.x[i])\n"},
    ("missing check", "scaled.pyx"): {"if False:"},
    ("minimum", "scaled.pyx"): {"min(a.x"},
    ("comparison", "scale.py"): {"factor >= low"},
    ("off by one", "scale.py"): {"x[1 - 1:", "x[1 + 1:", "factor - 1]", "factor + 1]"},
    ("dropped term", "scale.py"): {"x[1:factor]\n"},
    ("missing check", "scale.py"): {"x = x\n", "if False:"},
    ("swapped arguments", "scale.py"): {'matrix(x, "x", "(', '"x", "(N, C)", x)'},
    ("wrong constant", "scale.py"): {"factor=3", "low=0.0999999999999999", "x[2:"},
    ("logic", "scale.py"): {"if  factor", "low or x"},
}  # fmt: skip


def mutants(path: str, operator: str = "") -> list[str]:
    text = SOURCES[path]
    faults = [fault for fault in faults_of(path, text) if operator in ("", fault.operator)]
    return [text[: fault.start] + fault.replacement + text[fault.end :] for fault in faults]


@pytest.mark.parametrize(("operator", "path"), EXPECTED)
def test_operators(operator: str, path: str) -> None:
    found = mutants(path, operator)
    for part in EXPECTED[operator, path]:
        assert part not in SOURCES[path] and any(part in wrong for wrong in found), part


def test_every_operator_is_tested() -> None:
    assert {operator for operator, _ in EXPECTED} == set(OPERATORS)


@pytest.mark.parametrize("path", SOURCES)
def test_only_code_is_changed(path: str) -> None:
    """Comments, messages, docstrings, conditions of the preprocessor, heads of functions and status codes stay as they are."""
    kept = [
        "/* sums a + b */",
        "#if defined(A) && B < 2",
        "// n - 1 < n",
        "int x_row, int y_row)",
        "except -1",
        "<Py_ssize_t>",
    ]
    kept += ['"""a < b"""', "return 0\n", "return -1", "# x * factor", "{factor - 1}, "]
    kept = [part for part in kept if part in SOURCES[path]]
    assert kept
    for wrong in mutants(path):
        assert all(part in wrong for part in kept), wrong


def test_unrolled_loops_do_not_go_on() -> None:
    source = "void f(void) { UNROLL for (int i = 0; i < 4; i++) x[i] = a < b; }"
    found = {source[: f.start] + f.replacement + source[f.end :] for f in faults_of("a.c", source)}
    assert any("i < 4 - 1;" in each for each in found) and any("a <= b" in each for each in found)
    assert not any("i <= 4;" in each or "i < 4 + 1;" in each for each in found)


def test_python_stays_python() -> None:
    for wrong in mutants("scale.py"):
        ast.parse(wrong)


ROOT = TOOLS.parent
CALLERS = [*sorted((ROOT / ".github/workflows").glob("*.yml")), ROOT / "pyproject.toml", ROOT / "Makefile"]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda path: path.name)
def test_what_workflows_call_is_there(caller):
    text = caller.read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"run: make (\w+)", text)) <= set(targets)
    assert not [
        name for name in re.findall(r"\b(?:tests|tools)/\w+\.(?:py|c)\b", text) if not (ROOT / name).exists()
    ]


def test_every_action_is_pinned_to_a_commit():
    for workflow in CALLERS[:-2]:
        used = re.findall(r"uses: (.*)", workflow.read_text(encoding="utf-8"))
        assert used and all(re.search(r"@[0-9a-f]{40} # v\d", action) for action in used), workflow.name
