"""Where the numbers of coefficients.h come from: near-minimax polynomials, fitted in 60 digits with mpmath.

    python src_c/math/coefficients.py > src_c/math/coefficients.h

Each table holds the coefficients of one polynomial, highest power first, for both dtypes; the number of coefficients is the
smallest whose error stays below a tenth of the rounding error of the result.
"""

from __future__ import annotations

from mpmath import atanh, chebyfit, erfc, exp, log, mp, mpf, pi, sqrt, tanh

mp.dps = 60


def exp_tail(r):
    """(e^r - 1 - r) / r² for |r| <= ln 2 / 2."""
    return (exp(r) - 1 - r) / r**2 if abs(r) > mpf("1e-12") else mpf(1) / 2 + r / 6


def exp2_tail(r):
    """(2^r - 1) / r for |r| <= 1/2."""
    return (mpf(2) ** r - 1) / r if abs(r) > mpf("1e-12") else log(2) + r * log(2) ** 2 / 2


def log_tail(z):
    """2 (atanh(s)/s - 1) / s² at z = s², for s = x/(2 + x) with |s| <= 1/3: log1p(x) = x - s (x - z·log_tail(z))."""
    s = sqrt(z)
    return 2 * (atanh(s) / s - 1) / z if z > mpf("1e-20") else mpf(2) / 3


def tanh_tail(u):
    """(tanh(x)/x - 1) / x² at u = x² <= 0.3: tanh(x) = x + x·u·tanh_tail(u)."""
    x = sqrt(u)
    return (tanh(x) / x - 1) / u if u > mpf("1e-20") else -mpf(1) / 3 + 2 * u / 15


def normal_tail(t):
    """(1 + 2x) e^(x²) erfc(x) / 2 at x = 3 (1 + t)/(1 - t), t from -1 to 1.

    The substitution is that of M. M. Shepherd and J. G. Laframboise, "Chebyshev approximation of (1+2x) exp(x²) erfc x in
    0 <= x < inf", Mathematics of Computation 36 (1981).
    """
    if t >= 1:
        return 1 / sqrt(pi)
    x = 3 * (1 + t) / (1 - t)
    if x > 300:  # the asymptotic series, where e^(x²) would be beyond all bounds
        return (1 + 2 * x) / (2 * x * sqrt(pi)) * (1 - 1 / (2 * x**2) + 3 / (4 * x**4) - 15 / (8 * x**6))
    return (1 + 2 * x) * exp(x * x) * erfc(x) / 2


#         name          function     interval                                  terms: float32, float64
TABLES = [
    ("EXP_TAIL", exp_tail, (-log(2) / 2 * mpf("1.0005"), log(2) / 2 * mpf("1.0005")), (5, 10)),
    ("EXP2_TAIL", exp2_tail, (-mpf("0.5005"), mpf("0.5005")), (6, 11)),
    ("LOG_TAIL", log_tail, (mpf(0), mpf(1) / 9), (4, 10)),
    ("TANH_TAIL", tanh_tail, (mpf(0), mpf(3) / 10), (5, 11)),
    ("NORMAL_TAIL", normal_tail, (mpf(-1), mpf(1)), (12, 25)),
]


def header() -> str:
    """The text of coefficients.h."""
    lines = ["/* Made by coefficients.py, which tells what each polynomial approximates. */"]
    for column, (dtype, digits, suffix) in enumerate((("FLOAT32", 9, "f"), ("FLOAT64", 17, ""))):
        lines += [f"#ifdef FBP_{dtype}"]
        for name, function, interval, terms in TABLES:
            numbers = chebyfit(function, list(interval), terms[column])
            lines += [f"static const real {name}[{terms[column]}] = {{"]
            lines += [f"    {float(c):.{digits}g}{suffix}," for c in numbers]
            lines += ["};"]
        lines += ["#endif"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(header())
