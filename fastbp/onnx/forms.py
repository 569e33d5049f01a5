"""How activations and outputs are spelled in ONNX, for the writer and the reader."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "DOMAIN",
    "FUNCTIONS",
    "HIDDEN",
    "KNOWN",
    "NODES",
    "OUTPUTS",
    "USUAL",
    "Node",
    "Term",
    "function",
    "library",
]

DOMAIN = "fastbp"  # of the functions below
_OPSET = 13  # of their operators

Term = Any  # "x" the inputs, "z" linear outputs, a float, or a tuple (operator, *terms)


class Node(NamedTuple):
    """An operator of ONNX, the first set that has it, and its attributes."""

    operator: str
    opset: int = 13
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never written


# Of the float32 activations that one standard operator computes; `identity` is no node, and `silu` is two
NODES = {
    "sigmoid": Node("Sigmoid"),
    "tanh": Node("Tanh"),
    "relu": Node("Relu"),
    "leaky_relu": Node("LeakyRelu", attributes={"alpha": 0.01}),
    "elu": Node("Elu"),
    "selu": Node("Selu"),
    "gelu": Node("Gelu", 20),
    "mish": Node("Mish", 18),
    "softplus": Node("Softplus"),
}

# 1 - Φ(x) = exp(-x²/2) P(t) / (1 + 2h), h = x/√2, t = (h - 3)/(h + 3): NORMAL_TAIL in src_c/math/coefficients.h
_NORMAL_TAIL = (
    4.4321383893688582e-10, 4.9429277851603285e-10, -4.2502142288996579e-09, -6.6631974001476243e-09,
    2.0903958405646586e-08, 5.0935037293405888e-08, -7.0800369987621571e-08, -3.0832484836436457e-07,
    1.7841923245587239e-07, 1.7362073374739461e-06, -3.657552774699913e-07, -1.0050283984565468e-05,
    2.4747425028718794e-06, 6.2549676184285458e-05, -5.2579899908942001e-05, -0.00038991613605561022,
    0.00094434517957826738, 0.001264695908033306, -0.011885257459322958, 0.034154013671989225,
    -0.059636831707653493, 0.064822579351380305, -0.023781147176725435, -0.067810553062290585,
    0.6265040291348648,
)  # fmt: skip

_EXPM1 = """
    low = Min(x, 0)
    half = Mul(low, 0.5)
    t = Tanh(half)
    twice = Add(t, t)
    rest = Sub(1, t)
    below = Div(twice, rest)
    up = Greater(x, 0)
"""  # exp(x) - 1 = 2 t/(1 - t), t = tanh(x/2), at x <= 0: nothing cancels

# The bodies of the functions, a node a line: float64 only
FUNCTIONS = {
    "leaky_relu": """
    below = Mul(x, 0.01)
    up = Greater(x, 0)
    y = Where(up, x, below)
""",
    "elu": f"""{_EXPM1}
    y = Where(up, x, below)
""",
    "selu": f"""{_EXPM1}
    scaled = Mul(x, 1.0507009873554804934193349852946)
    scaled_below = Mul(below, 1.7580993408473768599402175208123)
    y = Where(up, scaled, scaled_below)
""",
    "softplus": """
    size = Abs(x)
    minus = Neg(size)
    e = Exp(minus)
    sum = Add(e, 1)
    log = Log(sum)
    above = Max(x, 0)
    y = Add(above, log)
""",
    # tanh(ln(1 + e^x)) = n/(n + 2), n = e^x (e^x + 2), or with u = e^-|x| at x > 0: (1 + 2u)/(1 + 2u + 2u²)
    "mish": """
    size = Abs(x)
    minus = Neg(size)
    u = Exp(minus)
    twice = Add(u, u)
    square = Mul(u, u)
    n_below = Add(square, twice)
    d_below = Add(n_below, 2)
    n_above = Add(twice, 1)
    squares = Add(square, square)
    d_above = Add(n_above, squares)
    up = Greater(x, 0)
    n = Where(up, n_above, n_below)
    d = Where(up, d_above, d_below)
    quotient = Div(n, d)
    y = Mul(x, quotient)
""",
    # Beyond 39 the tail is 0 in float64
    "gelu": """
    size = Abs(x)
    a = Min(size, 39)
    square = Mul(a, a)
    exponent = Mul(square, -0.5)
    density = Exp(exponent)
    h = Mul(a, 0.70710678118654752440)
    less = Sub(h, 3)
    more = Add(h, 3)
    t = Div(less, more)
    p0 = Identity({})
{}
    part = Mul(density, {})
    two = Add(h, h)
    divisor = Add(two, 1)
    tail = Div(part, divisor)
    rest = Sub(1, tail)
    up = Greater(x, 0)
    share = Where(up, rest, tail)
    low = Max(x, -39)
    y = Mul(low, share)
""".format(
        _NORMAL_TAIL[0],
        "\n".join(
            f"    m{k} = Mul(p{k - 1}, t)\n    p{k} = Add(m{k}, {c})"
            for k, c in enumerate(_NORMAL_TAIL[1:], start=1)
        ),
        f"p{len(_NORMAL_TAIL) - 1}",
    ),
}

_TWICE_CDF = ("Add", 1.0, ("Erf", ("Div", "z", float(np.float32(2**0.5)))))
_THRESHOLD = ("Greater", "z", 20.0)

HIDDEN: dict[Term, str] = {
    "z": "identity",
    **{(node.operator, "z"): name for name, node in NODES.items()},
    **{(f"{DOMAIN}.{name}", "z"): name for name in FUNCTIONS},
    ("Mul", "z", ("Sigmoid", "z")): "silu",
    ("Swish", "z"): "silu",
    ("Mul", "z", ("Tanh", ("Softplus", "z"))): "mish",
    ("Mul", 0.5, ("Mul", "z", _TWICE_CDF)): "gelu",
    ("Mul", "z", ("Mul", 0.5, _TWICE_CDF)): "gelu",
    ("Where", _THRESHOLD, "z", ("Softplus", "z")): "softplus",  # PyTorch's
}
"""The terms of the activations. What commutes has its operands in the order of `ordered`."""

OUTPUTS: dict[Term, tuple[str, ...]] = {
    "z": ("squared_error", "huber", "quantile"),
    ("Softmax", "z"): ("softmax_cross_entropy",),
    ("Sigmoid", "z"): ("sigmoid_cross_entropy", "sigmoid_squared_error"),
    ("Exp", "z"): ("poisson_deviance",),
    # both classes of scikit-learn's binary classifier
    ("Concat", ("Sub", 1.0, ("Sigmoid", "z")), ("Sigmoid", "z")): ("sigmoid_cross_entropy",),
}
"""The terms of the outputs, and the losses whose outputs they are, the likeliest first."""

USUAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,), "transB": (0, 1)},
    "LeakyRelu": {"alpha": (0.01,)},
    "Elu": {"alpha": (1.0,)},
    "Selu": {"alpha": (1.67326319217681884765625,), "gamma": (1.05070102214813232421875,)},
    "Gelu": {"approximate": ("none",)},
    "Swish": {"alpha": (1.0,)},
    "Softmax": {"axis": (1, -1)},
    "Concat": {"axis": (1, -1)},
    "Flatten": {"axis": (1, -1)},
}
"""The values of attributes with which an operator is what it means here; there are no others."""


def _parts(term: Term) -> Iterator[Term]:
    yield term
    if isinstance(term, tuple):
        for each in term[1:]:
            yield from _parts(each)


KNOWN = {part for term in (*HIDDEN, *OUTPUTS) for part in _parts(term)}
"""All that occurs in a term of the tables."""


def function(name: str) -> Any:
    """The function of the model that computes the activation `name` in float64."""
    helper, nodes = library().helper, []
    constants: dict[str, str] = {}
    for line in FUNCTIONS[name].split("\n"):
        found = re.fullmatch(r"\s+(\w+) = (\w+)\((.*)\)", line)
        if not found:
            continue
        inputs = found[3].split(", ")
        for number in inputs:
            if not number[0].isalpha() and number not in constants:
                constants[number] = f"c{len(constants)}"
                value = helper.make_tensor("", library().TensorProto.DOUBLE, [], [float(number)])
                nodes.append(helper.make_node("Constant", [], [constants[number]], value=value))
        nodes.append(helper.make_node(found[2], [constants.get(each, each) for each in inputs], [found[1]]))
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, [helper.make_opsetid("", _OPSET)])


def library() -> Any:
    """The package `onnx`."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as missing:
        if missing.name != "onnx":
            raise  # it is there, but something that it needs is not
        raise ModuleNotFoundError(
            "fastbp.onnx: got no onnx, expected it to be installed: pip install 'fastbp[onnx]'", name="onnx"
        ) from missing
