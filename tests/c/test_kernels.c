/* Every primitive of kernels.def, on every instruction set that this CPU can run, against its formula in long double.
 *
 * A. A line of PRIMITIVES, at the end, says of a primitive how it is called, what must come out, and from which inputs.
 * B. An error is counted in eps (the spacing of the dtype's numbers at 1) times the size of what was rounded: the result itself
 *    where nothing cancels, the sum of its terms where something does; times the smallest positive number where that is larger.
 *    No error may exceed the bound of its line. NaN must be NaN, an infinity that infinity.
 * C. Inputs and outputs lie in memory filled with NaN, at odd offsets: a number read from outside an input, or left unwritten,
 *    spoils the result; a number written outside an output, or into an input, is noticed.
 * D. A second run gives the same bits, and so do a run in place and a product computed in parts, where the comments of src_c
 *    promise it.
 *
 * Usage: test_kernels [points of a sweep over the arguments of an elementary function, 200000]
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastbp.h"

typedef long double exact;

/* Bounds, in eps; those of the elementary functions stand in src_c/math/elementary.h. A rounding is half an eps. */
#define EXP 1.0
#define LOG 1.5
#define SIGMOID 2.5
#define TANH 3.0
#define TAIL 4.0                      /* of the normal distribution */
#define GELU (TAIL + 0.5)             /* x · tail */
#define SILU (SIGMOID + 0.5)          /* x · σ */
#define SOFTPLUS (EXP + LOG)          /* max(x, 0) + log1p(e), whose last addition LOG has room for */
#define SLOPE_SIGMOID 1.5             /* g · a (1 - a): three roundings */
#define SLOPE_TANH 2.0                /* g (1 - a)(1 + a): four */
#define SLOPE_GELU (TAIL + 2.0)       /* g (tail - a φ): φ errs like the tail; three roundings and a constant */
#define SLOPE_SILU (2 * SIGMOID + 1.5)/* g σ(a) (1 + a σ(-a)): two sigmoids, three roundings */
#define SLOPE_SOFTPLUS (EXP + 1.0)    /* g (1 - e^-a) */
#define SUM 6.0                       /* 32 additions in a register, 4 between lanes: 2√36 roundings of independent sign */
#define SOFTMAX (2 * EXP + SUM + 1.0) /* e^(z - m) · 1/(1 + rest): two exponentials, a sum, a quotient, a product */
#define LOG_SOFTMAX (EXP + SUM + 1.5) /* (z - m) - log1p(rest): three roundings */
#define CROSS_ENTROPY (SOFTMAX + 2.0) /* scale · (y T - u): scale, T and u are rounded, the difference and the product too */
#define PRODUCT_ROW (SUM + 1.5)       /* y (g - Σ g y) */
#define TARGETS 2.0                   /* w (keep t + uniform): two rounded constants, two operations */
#define SIGMOID_ERROR (SOFTPLUS + SUM)/* Σ Q log1p(e) + |z| wrong */
#define SQUARED_ERROR (SUM + 1.5)     /* Σ ½ (y - t)² */
#define POISSON (EXP + LOG + SUM)     /* Σ e^z - t - t (z - ln t) */
#define SGD 5.0                       /* three rounded scalars and seven operations */
#define ADAM 10.0                     /* eight rounded scalars and twelve operations on the longest path */
#define CHAIN 1.0                     /* √(K + 1): K + 1 additions in a row, 2√(K + 1) roundings of independent sign */
#define STEEPEST 1.13L                /* the largest slope of any activation, that of gelu at √2 */

/* -- the dtype and the instruction set under test ----------------------------------------------------------------------------- */

typedef struct { const char *name; size_t size; exact eps, tiny, largest, range; } dtype;
static const dtype DTYPES[] = {
    {"float32", sizeof(float), FLT_EPSILON, FLT_TRUE_MIN, FLT_MAX, 110},
    {"float64", sizeof(double), DBL_EPSILON, DBL_TRUE_MIN, DBL_MAX, 760}, /* range: beyond it e^x is 0 or inf */
};
static const dtype *type;
static const fbp_kernels *k;
static int fused; /* whether v_fma rounds once, so that the rounding error of a square is known */

static exact get(const void *p, fbp_size i) { return type->size == sizeof(float) ? ((const float *)p)[i] : ((const double *)p)[i]; }
static void put(void *p, fbp_size i, exact x)
{
    if (type->size == sizeof(float)) ((float *)p)[i] = (float)x;
    else ((double *)p)[i] = (double)x;
}
static exact rounded(exact x) { return type->size == sizeof(float) ? (exact)(float)x : (exact)(double)x; }

/* -- a problem: one call, and what it must give ------------------------------------------------------------------------------- */

enum { INPUTS = 4, OUTPUTS = 3, LONGEST = 1 << 18, LONGEST_ROW = 5000 };

typedef struct {
    int kind, weighted, unlabelled, nesterov, at_top, step, bias, slope;
    double scale, smoothing, softcap, lse_square_scale, momentum, decay;
} options;

typedef struct {
    fbp_size n, label;                                             /* of a row */
    fbp_size M, N, K, A_row, A_column, B_row, B_column, slope_row; /* of a product: C (M, N) = A (M, K) B (K, N) */
    int divided;                                                   /* the product is computed in four parts */
    options o;
    fbp_size in_length[INPUTS], out_length[OUTPUTS];
    exact result, result_unit;
} problem;

static exact in[INPUTS][LONGEST], want[OUTPUTS][LONGEST], unit[OUTPUTS][LONGEST];

/* The error of an exact x is counted in eps · size, or in `floor` times the smallest positive number. */
static exact unit_of(exact size, exact floor) { return fmaxl(type->eps * fabsl(size), type->tiny * floor); }
static void expect(int output, fbp_size i, exact x, exact size, exact floor)
{
    want[output][i] = x;
    unit[output][i] = unit_of(size, floor);
}
static void expect_result(problem *p, exact x, exact size)
{
    p->result = x;
    p->result_unit = unit_of(size, (exact)(p->n + 1));
}

/* -- the formulas ------------------------------------------------------------------------------------------------------------- */

static exact sigmoid(exact x) { return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x)); }
static exact density(exact x) /* φ(x); fmal knows what x² lost */
{
    exact square = x * x;
    return expl(-square / 2) * (1 - fmal(x, x, -square) / 2) * 0.398942280401432677939946L;
}
static exact normal(exact x) /* Φ(x) = erfc(h)/2 with h = -x/√2; erfc falls like e^(-h²) */
{
    exact h = -x * sqrtl(0.5L), square = h * h, lost = fmal(x, x / 2, -square) - fmal(h, h, -square);
    return erfcl(h) / 2 * (h > 0 ? 1 - lost : 1);
}
static exact lost_in_square(exact x) { return fused || !(x < 0) ? 1 : 1 + x * x / 4; }

typedef struct { exact value, size, floor; } function_value;

static function_value activation(int kind, exact x)
{
    exact y = x, floor = 1, lost = 1;
    switch (kind) {
    case FBP_SIGMOID: y = sigmoid(x); break;
    case FBP_TANH: y = tanhl(x); break;
    case FBP_RELU: y = x < 0 ? 0 : x; break;
    case FBP_LEAKY_RELU: y = x < 0 ? 0.01L * x : x; break;
    case FBP_GELU: y = x == -INFINITY ? 0 : x == INFINITY ? x : x * normal(x), floor = 1 + fabsl(x), lost = lost_in_square(x); break;
    case FBP_SILU: y = x == -INFINITY ? 0 : x * sigmoid(x), floor = 1 + fabsl(x); break;
    case FBP_SOFTPLUS: y = x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x)); break;
    }
    return (function_value){y, y * lost, floor}; /* gelu and silu multiply what underflows by x */
}

/* f' from what activate_backward is given; gelu and silu have a minimum, near which two terms cancel */
static function_value slope(int kind, exact a)
{
    exact s = sigmoid(a), limit = a > 0, floor = 1 + (isinf(a) ? 0 : fabsl(a));
    switch (kind) {
    case FBP_SIGMOID: return (function_value){a * (1 - a), a * (1 - a), 1};
    case FBP_TANH: return (function_value){(1 - a) * (1 + a), (1 - a) * (1 + a), 1};
    case FBP_RELU: return (function_value){limit, limit, 1};
    case FBP_LEAKY_RELU: return (function_value){a > 0 ? 1 : 0.01L, 1, 1};
    case FBP_GELU:
        if (isinf(a)) return (function_value){limit, 1, 1};
        return (function_value){normal(a) + a * density(a), (normal(a) + fabsl(a) * density(a)) * lost_in_square(a), floor};
    case FBP_SILU:
        if (isinf(a)) return (function_value){limit, 1, 1};
        return (function_value){s * (1 + a * sigmoid(-a)), s * (1 + fabsl(a) * sigmoid(-a)), floor};
    case FBP_SOFTPLUS: return (function_value){-expm1l(-a), expm1l(-a), 1};
    }
    return (function_value){1, 1, 1};
}

static void expect_activate(problem *p)
{
    for (fbp_size i = 0; i < p->n; i++) {
        function_value f = activation(p->o.kind, in[0][i]);
        expect(0, i, f.value, f.size, f.floor);
    }
}
static void expect_activate_backward(problem *p)
{
    for (fbp_size i = 0; i < p->n; i++) {
        function_value f = slope(p->o.kind, in[1][i]);
        expect(0, i, in[0][i] * f.value, in[0][i] * f.size, f.floor * (1 + fabsl(in[0][i])));
    }
}

/* The parts of the softmax of z (n): gap_c = m - z_c, e_c = exp(-gap_c), rest = Σ_{c ≠ top} e_c, all NaN without a finite maximum.
 * An error of blur_c eps in a gap is one relative to e_c: the gap is rounded, and after a softcap so are z_c and m. */
static struct { fbp_size top; exact m, rest, rest_size, log, log_size, gap[LONGEST_ROW], e[LONGEST_ROW], blur[LONGEST_ROW]; } row;
static exact capped(exact z, double cap) { return cap > 0 ? cap * tanhl(z / cap) : z; }
static void analyse(fbp_size n, const exact *z, double cap)
{
    row.top = 0, row.rest = row.rest_size = 0;
    for (fbp_size c = 1; c < n; c++)
        if (z[c] > z[row.top] || isnan(z[row.top])) row.top = c;
    row.m = n ? capped(z[row.top], cap) : -INFINITY;
    for (fbp_size c = 0; c < n; c++) {
        row.gap[c] = isfinite(row.m) ? row.m - capped(z[c], cap) : NAN;
        row.e[c] = expl(-row.gap[c]);
        row.blur[c] = row.e[c] > 0 ? row.gap[c] / 2 + (cap > 0 ? (TANH + 1) * (fabsl(row.m) + fabsl(capped(z[c], cap))) : 0) : 0;
        if (c == row.top) continue;
        row.rest += row.e[c];
        row.rest_size += row.e[c] * (1 + row.blur[c]);
    }
    if (!isfinite(row.m) || isnan(row.rest)) row.m = row.rest = NAN; /* a NaN in the row spoils the rest */
    row.log = log1pl(row.rest);
    row.log_size = row.log + row.rest_size / (1 + row.rest);
}
static exact y_of(fbp_size c) { return row.e[c] / (1 + row.rest); }
static exact y_size(fbp_size c) { return y_of(c) * (1 + row.blur[c] + row.rest_size / (1 + row.rest)); }

static void expect_softmax_row(problem *p)
{
    analyse(p->n, in[0], 0);
    for (fbp_size c = 0; c < p->n; c++) expect(0, c, y_of(c), y_size(c), 2);
}
static void expect_log_softmax_row(problem *p)
{
    analyse(p->n, in[0], 0);
    for (fbp_size c = 0; c < p->n; c++) expect(0, c, -row.gap[c] - row.log, row.gap[c] + row.log_size, 2);
}
static void expect_logsumexp_row(problem *p)
{
    exact most = -INFINITY;
    for (fbp_size c = 0; c < p->n; c++) most = isnan(in[0][c]) || in[0][c] > most ? in[0][c] : most;
    analyse(p->n, in[0], 0);
    expect_result(p, isinf(most) ? most : row.m + row.log, fabsl(row.m) + row.log_size);
    for (fbp_size c = 0; c < p->n; c++)
        if (isnan(in[0][c])) p->result = NAN;
}
static void expect_softmax_backward_row(problem *p)
{
    exact mean = 0, size = 0;
    for (fbp_size c = 0; c < p->n; c++) mean += in[0][c] * in[1][c], size += fabsl(in[0][c] * in[1][c]);
    for (fbp_size c = 0; c < p->n; c++) expect(0, c, in[1][c] * (in[0][c] - mean), in[1][c] * (fabsl(in[0][c]) + size), 2);
}

static void expect_softmax_cross_entropy_row(problem *p)
{
    analyse(p->n, in[0], 0);
    if (p->o.at_top) p->label = row.top;
    const fbp_size label = p->label;
    const exact scale = p->o.scale, missing = (row.rest - (row.e[label] - row.e[row.top])) / (1 + row.rest); /* 1 - y_label */
    for (fbp_size c = 0; c < p->n; c++) expect(0, c, scale * y_of(c), scale * y_size(c), 2);
    if (row.gap[label] == 0) expect(0, label, -scale * missing, scale * row.rest_size / (1 + row.rest), 2);
    else expect(0, label, -scale * missing, scale * (missing + y_size(label)), 2);
    expect_result(p, row.log + row.gap[label], row.log_size + row.gap[label]);
}
static void expect_effective_targets_row(problem *p)
{
    for (fbp_size c = 0; c < p->n; c++) {
        exact t = p->o.unlabelled ? in[0][c] : c == p->label, keep = 1 - (exact)p->o.smoothing;
        exact u = (p->o.weighted ? in[1][c] : 1) * (keep * t + (exact)p->o.smoothing / p->n);
        expect(0, c, u, u, 1);
    }
}
static void expect_softmax_cross_entropy_targets_row(problem *p)
{
    const exact scale = p->o.scale, cap = p->o.softcap, square = p->o.lse_square_scale, *z = in[0], *u = in[1];
    exact total = 0, excess = 0, excess_size = 0;
    analyse(p->n, z, p->o.softcap);
    for (fbp_size c = 0; c < p->n; c++) {
        total += u[c];
        excess += u[c] == 0 ? 0 : u[c] * row.gap[c];
        excess_size += u[c] == 0 ? 0 : u[c] * (row.gap[c] + row.blur[c]);
    }
    const exact lse = row.m + row.log, lse_size = fabsl(row.m) + row.log_size, pull = 2 * square * lse, pull_size = 2 * square * lse_size;
    for (fbp_size c = 0; c < p->n; c++) {
        exact delta = y_of(c) * (total + pull) - u[c], size = y_size(c) * (total + pull_size) + u[c], slope = 1, slope_size = 1;
        if (c == row.top) {
            exact others = total - u[c];
            delta = (others + pull - u[c] * row.rest) / (1 + row.rest);
            size = (others + pull_size + u[c] * row.rest_size) / (1 + row.rest);
        }
        if (cap > 0) {
            exact q = expl(-2 * fabsl(z[c] / cap));
            slope = 4 * q / ((1 + q) * (1 + q)), slope_size = slope * (q > 0 ? 1 + 2 * fabsl(z[c] / cap) : 1);
        }
        expect(0, c, scale * delta * slope, scale * size * slope_size, 4 * (1 + total));
        expect(1, c, NAN, INFINITY, 1); /* scratch */
    }
    expect_result(p, total * row.log + excess + square * lse * lse, total * row.log_size + excess_size + square * lse_size * lse_size);
}

static void expect_sigmoid_cross_entropy_row(problem *p)
{
    const exact keep = 1 - (exact)p->o.smoothing, uniform = (exact)p->o.smoothing / 2, scale = p->o.scale;
    exact total = 0;
    for (fbp_size i = 0; i < p->n; i++) {
        exact z = in[0][i], t = in[1][i], A = keep * (1 - t) + uniform, B = (keep * t + uniform) * (p->o.weighted ? in[2][i] : 1);
        exact e = expl(-fabsl(z)), s = e / (1 + e), wrong = z > 0 ? A : B;
        exact d = z > 0 ? A - (A + B) * s : (A + B) * s - B;
        expect(0, i, scale * d, scale * (wrong + (A + B) * s), 2);
        total += (A + B) * log1pl(e) + (wrong == 0 ? 0 : fabsl(z) * wrong);
    }
    expect_result(p, total, total);
}
static void expect_squared_error_row(problem *p)
{
    exact total = 0;
    for (fbp_size i = 0; i < p->n; i++) {
        exact miss = in[0][i] - in[1][i];
        expect(0, i, p->o.scale * miss, p->o.scale * miss, 2);
        total += miss * miss / 2;
    }
    expect_result(p, total, total);
}
static void expect_sigmoid_squared_error_row(problem *p)
{
    exact total = 0, size = 0;
    for (fbp_size i = 0; i < p->n; i++) {
        exact z = in[0][i], t = in[1][i], e = expl(-fabsl(z)), s = e / (1 + e), target = z > 0 ? 1 - t : t;
        exact miss = z > 0 ? target - s : s - target, sizes = target + s;
        expect(0, i, p->o.scale * miss * s / (1 + e), p->o.scale * sizes * s / (1 + e), 2);
        total += miss * miss / 2, size += sizes * fabsl(miss) + miss * miss;
    }
    expect_result(p, total, size);
}
static void expect_poisson_deviance_row(problem *p)
{
    exact total = 0, size = 0;
    for (fbp_size i = 0; i < p->n; i++) {
        exact z = in[0][i], t = in[1][i], mean = t < 0 ? NAN : expl(z), log_t = t == 0 ? 0 : logl(t);
        expect(0, i, p->o.scale * (mean - t), p->o.scale * (mean + t), 2);
        total += mean - t - (t == 0 ? 0 : t * (z - log_t));
        size += mean + t + (t == 0 ? 0 : t * (fabsl(z) + fabsl(log_t) + 1));
    }
    expect_result(p, total, size);
}

static void expect_sgd_update(problem *p)
{
    const exact eta = 0.1L, mu = p->o.momentum, decay = p->o.decay;
    for (fbp_size i = 0; i < p->n; i++) {
        exact w = in[1][i], v = in[2][i], g = in[0][i] + decay * w, g_size = fabsl(in[0][i]) + decay * fabsl(w);
        exact next = mu * v + g, next_size = mu * fabsl(v) + g_size;
        exact step = p->o.nesterov ? g + mu * next : next, step_size = p->o.nesterov ? g_size + mu * next_size : next_size;
        expect(0, i, w - eta * step, fabsl(w) + eta * step_size, 2);
        expect(1, i, mu > 0 ? next : v, mu > 0 ? next_size : 0, 2);
    }
}
static void expect_adam_update(problem *p)
{
    const exact eta = 0.001L, b1 = 0.9L, b2 = 0.999L, epsilon = 1e-8L, decay = p->o.decay;
    const exact unbias_1 = 1 - powl(b1, p->o.step), unbias_2 = 1 - powl(b2, p->o.step);
    for (fbp_size i = 0; i < p->n; i++) {
        exact w = in[1][i], g = in[0][i] + decay * w, g_size = fabsl(in[0][i]) + decay * fabsl(w);
        exact m = b1 * in[2][i] + (1 - b1) * g, m_size = b1 * fabsl(in[2][i]) + (1 - b1) * g_size;
        exact v = b2 * in[3][i] + (1 - b2) * g * g, v_size = b2 * in[3][i] + (1 - b2) * g_size * g_size;
        exact root = sqrtl(v > type->largest ? INFINITY : v), divisor = unbias_1 * (root / sqrtl(unbias_2) + epsilon);
        expect(0, i, w - eta * m / divisor, fabsl(w) + 2 * eta * m_size / divisor, 2);
        expect(1, i, m, m_size, 2);
        expect(2, i, v, v_size, 2);
    }
}
static void expect_largest_magnitude(problem *p)
{
    exact most = 0;
    for (fbp_size i = 0; i < p->n; i++) most = isnan(most) || fabsl(in[0][i]) <= most ? most : fabsl(in[0][i]);
    expect_result(p, most, most);
}

static void expect_matrix_product(problem *p)
{
    for (fbp_size i = 0; i < p->out_length[0]; i++) expect(0, i, NAN, 0, 1); /* between the rows nothing may be written */
    for (fbp_size i = 0; i < p->M; i++)
        for (fbp_size j = 0; j < p->N; j++) {
            exact c = p->o.bias ? in[2][j] : 0, size = fabsl(c);
            for (fbp_size l = 0; l < p->K; l++) {
                exact term = in[0][i * p->A_row + l * p->A_column] * in[1][l * p->B_row + j * p->B_column];
                c += term, size += fabsl(term);
            }
            size *= sqrtl((exact)p->K + 1);
            function_value f = p->o.slope ? slope(p->o.kind, in[3][i * p->slope_row + j]) : activation(p->o.kind, c);
            if (p->o.slope) expect(0, i * (p->N + 5) + j, c * f.value, size * f.value + 8 * fabsl(c) * f.size, f.floor);
            else expect(0, i * (p->N + 5) + j, f.value, STEEPEST * size + 8 * (p->o.kind != FBP_IDENTITY) * f.size, f.floor);
        }
}
static void expect_column_sums(problem *p)
{
    for (fbp_size o = 0; o < p->N; o++) {
        exact sum = 0, size = 0;
        for (fbp_size n = 0; n < p->M; n++) sum += in[3][n * p->slope_row + o], size += fabsl(in[3][n * p->slope_row + o]);
        expect(0, o, sum, size * sqrtl((exact)p->M + 1), 1);
    }
}
