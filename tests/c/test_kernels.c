/* Every primitive of kernels.def, on every instruction set that this CPU can run, against its formula in long double.
 *
 * A. A line of LINES, at the end, says which primitive is called on which inputs, what must come out, and how exactly.
 * B. An error is counted in eps (the spacing of the dtype's numbers at 1) times the size of what was rounded: the result itself
 *    where nothing cancels, the sum of its terms where something does; or in the smallest positive number where that is more.
 *    NaN must be NaN, and an infinity that infinity.
 * C. Inputs and outputs lie in memory full of NaN, at odd offsets. A number read from outside an input, or left unwritten, spoils
 *    the result; a number written outside an output is seen.
 * D. A second run gives the same bits; so does one in place, or one of a product in parts, where the comments in src_c allow it.
 *
 * Usage: test_kernels [points in a sweep of an elementary function over all its arguments; 200000 unless told]
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastbp.h"

/* Bounds in eps; those of the elementary functions stand in src_c/math/elementary.h. A rounding errs by half an eps. */
#define EXP 1.0
#define LOG 1.5
#define SIGMOID 2.5
#define TANH 3.0
#define TAIL 4.0                          /* of the normal distribution */
#define GELU (TAIL + 0.5)                 /* x · tail */
#define SILU (SIGMOID + 0.5)              /* x · σ */
#define SOFTPLUS (EXP + LOG)              /* log1p(e^-|x|); the last addition is of something larger */
#define SIGMOID_SLOPE 1.5                 /* g · a (1 - a): three roundings */
#define TANH_SLOPE 2.0                    /* g · (1 - a)(1 + a): four */
#define GELU_SLOPE (TAIL + 2.0)           /* g · (tail - a φ), φ as good as the tail: three roundings and a constant */
#define SILU_SLOPE (2 * SIGMOID + 1.5)    /* g · σ(a) (1 + a σ(-a)): three roundings */
#define SOFTPLUS_SLOPE (EXP + 1.0)        /* g · (1 - e^-a) */
#define SUM 6.0                           /* 32 additions in a register, 4 between lanes: 2√36 roundings of independent sign */
#define SOFTMAX (2 * EXP + SUM + 1.0)     /* e^(z - m) · 1/(1 + rest): the rest is a sum of exponentials; two roundings */
#define LOG_SOFTMAX (EXP + SUM + 1.5)     /* (z - m) - log1p(rest): three */
#define CROSS_ENTROPY (SOFTMAX + 2.0)     /* scale · (y T - u): four more */
#define TARGETS 2.0                       /* w (keep t + uniform): two rounded constants, two operations */
#define SOFTMAX_SLOPE (SUM + 1.5)         /* y (g - Σ g y) */
#define SIGMOID_ERROR (SOFTPLUS + SUM)    /* Σ Q log1p(e) + |z| wrong */
#define SQUARED_ERROR (SUM + 1.5)         /* Σ ½ (y - t)² */
#define POISSON (EXP + LOG + SUM)         /* Σ e^z - t - t (z - ln t) */
#define SGD 5.0                           /* three rounded scalars and seven operations */
#define ADAM 10.0                         /* eight rounded scalars and twelve operations on the longest path */
#define CHAIN 1.0                         /* times √(K + 1): 2√(K + 1) roundings of independent sign, for K + 1 terms in order */
#define STEEPEST 1.13L                    /* the largest slope of any activation, that of gelu at √2 */
#define ACTIVATION 8.0L                   /* more than any activation or slope above, for what follows a product */

/* -- the dtype and the instruction set under test ----------------------------------------------------------------------------- */

typedef long double exact;
typedef struct { const char *name; size_t size; exact eps, tiny, largest, range; } dtype; /* range: beyond it, e^x is 0 or inf */
static const dtype DTYPES[] = {{"float32", sizeof(float), FLT_EPSILON, FLT_TRUE_MIN, FLT_MAX, 110},
                               {"float64", sizeof(double), DBL_EPSILON, DBL_TRUE_MIN, DBL_MAX, 760}};
static const dtype *type;
static const fbp_kernels *k;
static int fused; /* v_fma rounds once: the rounding error of a square is known */

static void *element(const void *p, fbp_size i) { return (char *)p + i * (fbp_size)type->size; }
static exact rounded(exact x) { return type->size == sizeof(float) ? (exact)(float)x : (exact)(double)x; }
static exact get(const void *p, fbp_size i) { return type->size == sizeof(float) ? ((const float *)p)[i] : ((const double *)p)[i]; }
static void put(void *p, fbp_size i, exact x)
{
    if (type->size == sizeof(float)) ((float *)p)[i] = (float)x;
    else ((double *)p)[i] = (double)x;
}

/* -- a problem: one call, and what must come out ------------------------------------------------------------------------------ */

enum { INPUTS = 4, OUTPUTS = 3, LONGEST = 1 << 18, LONGEST_ROW = 5000 };
enum primitive {
#define FBP_KERNEL(result, name, parameters, arguments) is_##name,
#include "kernels.def"
#undef FBP_KERNEL
    PRIMITIVES
};
typedef struct {
    int kind, rows, weighted, at_top, nesterov, step, bias, slope, any_result;
    double scale, smoothing, softcap, lse_square_scale, momentum, decay;
} options;
typedef struct { exact value, size, floor; } estimate; /* errors are counted in eps · size, or floor · (smallest positive number) */
typedef struct {
    enum primitive id;
    options o;
    fbp_size n, label;                                                    /* of a row */
    fbp_size M, N, K, A_row, A_column, B_row, B_column, slope_row, C_row; /* of a product C (M, N) = A (M, K) B (K, N) */
    int in_parts;
    fbp_size in_length[INPUTS], out_length[OUTPUTS];
    estimate result;
} problem;
static exact in[INPUTS][LONGEST];
static estimate want[OUTPUTS][LONGEST];
static const estimate ANYTHING = {0, 0, INFINITY};

/* -- the formulas ------------------------------------------------------------------------------------------------------------- */

static exact sigmoid(exact x) { return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x)); }
static exact density(exact x) /* φ(x); the exponential magnifies what x² loses */
{
    exact square = x * x;
    return expl(-square / 2) * (1 - fmal(x, x, -square) / 2) * 0.398942280401432677939946L;
}
static exact normal(exact x) /* Φ(x) = erfc(h)/2 with h = -x/√2, and erfc(h) falls like e^(-h²) */
{
    exact h = -x * sqrtl(0.5L), square = h * h, lost = fmal(x, x / 2, -square) - fmal(h, h, -square);
    return erfcl(h) / 2 * (h > 0 ? 1 - lost : 1);
}
static exact lost_in_square(exact x) { return fused || !(x < 0) ? 1 : 1 + x * x / 4; }
static exact grown(exact x) { return isfinite(x) ? 1 + fabsl(x) : 1; } /* by a factor x that multiplies what has underflowed */

static estimate activation(int kind, exact x)
{
    exact y = x;
    switch (kind) {
    case FBP_SIGMOID: y = sigmoid(x); break;
    case FBP_TANH: y = tanhl(x); break;
    case FBP_RELU: y = x < 0 ? 0 : x; break;
    case FBP_LEAKY_RELU: y = x < 0 ? 0.01L * x : x; break;
    case FBP_GELU: y = isinf(x) ? (x > 0 ? x : 0) : x * normal(x); return (estimate){y, y * lost_in_square(x), grown(x)};
    case FBP_SILU: y = x == -INFINITY ? 0 : x * sigmoid(x); return (estimate){y, y, grown(x)};
    case FBP_SOFTPLUS: y = x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x)); break;
    }
    return (estimate){y, y, 1};
}

/* f' from what activate_backward is given. gelu and silu have a minimum, near which two terms cancel. */
static estimate slope(int kind, exact a)
{
    exact y = 1, limit = isnan(a) ? a : a > 0;
    if (isinf(a) && (kind == FBP_GELU || kind == FBP_SILU)) return (estimate){limit, limit, 1};
    switch (kind) {
    case FBP_SIGMOID: y = a * (1 - a); break;
    case FBP_TANH: y = (1 - a) * (1 + a); break;
    case FBP_RELU: y = limit; break;
    case FBP_LEAKY_RELU: y = limit + (1 - limit) * 0.01L; break;
    case FBP_GELU: y = a * density(a); return (estimate){normal(a) + y, (normal(a) + fabsl(y)) * lost_in_square(a), grown(a)};
    case FBP_SILU: y = a * sigmoid(-a); return (estimate){sigmoid(a) * (1 + y), sigmoid(a) * (1 + fabsl(y)), grown(a)};
    case FBP_SOFTPLUS: y = -expm1l(-a); break;
    }
    return (estimate){y, y, 1};
}

/* The parts of the softmax of z (n): gap_c = m - z_c, e_c = exp(-gap_c), rest = Σ_{c ≠ top} e_c; all NaN without a finite maximum.
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
        exact z_c = capped(z[c], cap);
        row.gap[c] = isfinite(row.m) ? row.m - z_c : NAN;
        row.e[c] = expl(-row.gap[c]);
        row.blur[c] = row.e[c] > 0 ? row.gap[c] / 2 + (cap > 0 ? (TANH + 1) * (fabsl(row.m) + fabsl(z_c)) : 0) : 0;
        if (c != row.top) row.rest += row.e[c], row.rest_size += row.e[c] * (1 + row.blur[c]);
    }
    if (!isfinite(row.m) || isnan(row.rest)) row.m = row.rest = NAN;
    row.log = log1pl(row.rest);
    row.log_size = row.log + row.rest_size / (1 + row.rest);
}
static estimate y_of(fbp_size c)
{
    exact y = row.e[c] / (1 + row.rest);
    return (estimate){y, y * (1 + row.blur[c] + row.rest_size / (1 + row.rest)), 2};
}

static estimate scaled(exact scale, exact value, exact size) { return (estimate){scale * value, scale * size, 2}; }

/* Whatever has one output per element of the row, and perhaps a sum over them */
static void expect_elements(problem *p)
{
    const options o = p->o;
    exact total = 0, total_size = 0, mean = 0, mean_size = 0;
    if (p->id == is_softmax_row || p->id == is_log_softmax_row) analyse(p->n, in[0], 0);
    for (fbp_size i = 0; i < p->n; i++) mean += in[0][i] * in[1][i], mean_size += fabsl(in[0][i] * in[1][i]);
    for (fbp_size i = 0; i < p->n; i++) {
        exact z = in[0][i], t = in[1][i], w = in[2][i], error = 0, size = 0, keep = 1 - (exact)o.smoothing;
        exact e = expl(-fabsl(z)), s = e / (1 + e), A, B, miss, ratio, u;
        estimate d = {0, 0, 1}, f;
        switch (p->id) {
        case is_activate: d = activation(o.kind, z); break;
        case is_activate_backward:
            f = slope(o.kind, t);
            d = (estimate){z * f.value, z * f.size, f.floor * grown(z)};
            break;
        case is_softmax_row: d = y_of(i); break;
        case is_log_softmax_row: d = (estimate){-row.gap[i] - row.log, row.gap[i] + row.log_size, 2}; break;
        case is_softmax_backward_row: d = (estimate){t * (z - mean), t * (fabsl(z) + mean_size), 2}; break;
        case is_effective_targets_row:
            u = (o.weighted ? t : 1) * (keep * (o.rows ? z : i == p->label) + (exact)o.smoothing / p->n);
            d = (estimate){u, u, 1};
            break;
        case is_sigmoid_cross_entropy_row:
            A = keep * (1 - t) + (exact)o.smoothing / 2, B = (keep * t + (exact)o.smoothing / 2) * (o.weighted ? w : 1);
            d = scaled(o.scale, z > 0 ? A - (A + B) * s : (A + B) * s - B, (z > 0 ? A : B) + (A + B) * s);
            size = error = (A + B) * log1pl(e) + ((z > 0 ? A : B) == 0 ? 0 : fabsl(z) * (z > 0 ? A : B));
            break;
        case is_squared_error_row:
            d = scaled(o.scale, z - t, z - t);
            size = error = (z - t) * (z - t) / 2;
            break;
        case is_sigmoid_squared_error_row:
            miss = z > 0 ? 1 - t - s : s - t, size = (z > 0 ? 1 - t : t) + s;
            d = scaled(o.scale, miss * s / (1 + e), size * s / (1 + e));
            error = miss * miss / 2, size = size * fabsl(miss) + miss * miss;
            break;
        case is_poisson_deviance_row: /* near its zero another formula takes over, which knows the ratio as well as ln t is known */
            u = t < 0 ? NAN : expl(z), ratio = t == 0 ? 0 : z - logl(t);
            d = scaled(o.scale, u - t, u + t);
            error = u - t - (t == 0 ? 0 : t * ratio);
            size = t == 0 ? u : t * (fabsl(z) + fabsl(logl(t)) + 1);
            size = t > 0 && fabsl(ratio) < 0.34L ? error + size * fabsl(ratio) : size + u + t;
            break;
        default: break;
        }
        want[0][i] = d;
        total += error, total_size += size;
    }
    p->result = o.any_result ? ANYTHING : (estimate){total, total_size, (exact)p->n};
}

static void expect_logsumexp(problem *p)
{
    exact most = -INFINITY;
    for (fbp_size c = 0; c < p->n; c++) most = isnan(most) || in[0][c] <= most ? most : in[0][c];
    analyse(p->n, in[0], 0);
    p->result = (estimate){isinf(most) ? most : row.m + row.log, fabsl(row.m) + row.log_size, 1};
}
static void expect_largest_magnitude(problem *p)
{
    exact most = 0;
    for (fbp_size i = 0; i < p->n; i++) most = isnan(most) || fabsl(in[0][i]) <= most ? most : fabsl(in[0][i]);
    p->result = (estimate){most, most, 0};
}

static void expect_cross_entropy_of_label(problem *p)
{
    analyse(p->n, in[0], 0);
    const fbp_size label = p->label = p->o.at_top ? row.top : p->label;
    const exact missing = (row.rest + (1 - row.e[label])) / (1 + row.rest); /* 1 - y_label */
    for (fbp_size c = 0; c < p->n; c++) want[0][c] = scaled(p->o.scale, y_of(c).value, y_of(c).size);
    const exact size = row.gap[label] == 0 ? row.rest_size / (1 + row.rest) : missing + y_of(label).size;
    want[0][label] = scaled(p->o.scale, -missing, size);
    p->result = (estimate){row.log + row.gap[label], row.log_size + row.gap[label], 1};
}

static void expect_cross_entropy_of_targets(problem *p)
{
    const exact cap = p->o.softcap, square = p->o.lse_square_scale, *z = in[0], *u = in[1];
    exact total = 0, excess = 0, excess_size = 0;
    analyse(p->n, z, p->o.softcap);
    for (fbp_size c = 0; c < p->n; c++) {
        total += u[c];
        if (u[c] != 0) excess += u[c] * row.gap[c], excess_size += u[c] * (row.gap[c] + row.blur[c]);
    }
    const exact lse = row.m + row.log, lse_size = fabsl(row.m) + row.log_size, pull = 2 * square;
    for (fbp_size c = 0; c < p->n; c++) {
        exact x = cap > 0 ? fabsl(z[c] / cap) : 0, q = expl(-2 * x), slope = 4 * q / ((1 + q) * (1 + q)), others = total - u[c];
        exact delta = y_of(c).value * (total + pull * lse) - u[c], size = y_of(c).size * (total + pull * lse_size) + u[c];
        if (c == row.top) {
            delta = (others + pull * lse - u[c] * row.rest) / (1 + row.rest);
            size = (others + pull * lse_size + u[c] * row.rest_size) / (1 + row.rest);
        }
        want[0][c] = scaled(p->o.scale, delta * slope, q > 0 ? size * slope * (1 + 2 * x) : 0);
        want[0][c].floor *= 2 * (1 + total);
        want[1][c] = ANYTHING;
    }
    const exact error = total * row.log + excess + square * lse * lse;
    p->result = (estimate){error, total * row.log_size + excess_size + square * lse_size * lse_size, (exact)p->n};
}

static void expect_sgd(problem *p)
{
    const exact eta = 0.1, mu = p->o.momentum, decay = p->o.decay;
    for (fbp_size i = 0; i < p->n; i++) {
        exact w = in[1][i], v = in[2][i], g = in[0][i] + decay * w, g_size = fabsl(in[0][i]) + decay * fabsl(w);
        exact next = mu * v + g, next_size = mu * fabsl(v) + g_size;
        exact step = p->o.nesterov ? g + mu * next : next, step_size = p->o.nesterov ? g_size + mu * next_size : next_size;
        want[0][i] = (estimate){w - eta * step, fabsl(w) + eta * step_size, 2};
        want[1][i] = (estimate){mu > 0 ? next : v, mu > 0 ? next_size : 0, 2};
    }
}
static void expect_adam(problem *p)
{
    const exact eta = 0.001, b1 = 0.9, b2 = 0.999, epsilon = 1e-8, decay = p->o.decay;
    const exact unbias_1 = 1 - powl(b1, p->o.step), unbias_2 = 1 - powl(b2, p->o.step);
    for (fbp_size i = 0; i < p->n; i++) {
        exact w = in[1][i], g = in[0][i] + decay * w, g_size = fabsl(in[0][i]) + decay * fabsl(w);
        exact m = b1 * in[2][i] + (1 - b1) * g, m_size = b1 * fabsl(in[2][i]) + (1 - b1) * g_size;
        exact v = b2 * in[3][i] + (1 - b2) * g * g, v_size = b2 * in[3][i] + (1 - b2) * g_size * g_size;
        exact divisor = unbias_1 * (sqrtl((v > type->largest ? INFINITY : v) / unbias_2) + epsilon);
        want[0][i] = (estimate){w - eta * m / divisor, fabsl(w) + 2 * eta * m_size / divisor, 2};
        want[1][i] = (estimate){m, m_size, 2};
        want[2][i] = (estimate){v, v_size, 2};
    }
}

static void expect_product(problem *p)
{
    for (fbp_size i = 0; i < p->out_length[0]; i++) want[0][i] = (estimate){NAN, 0, 0}; /* as before, between the rows */
    for (fbp_size i = 0; i < p->M; i++)
        for (fbp_size j = 0; j < p->N; j++) {
            exact c = p->o.bias ? in[2][j] : 0, size = fabsl(c);
            for (fbp_size l = 0; l < p->K; l++) {
                exact term = in[0][i * p->A_row + l * p->A_column] * in[1][l * p->B_row + j * p->B_column];
                c += term, size += fabsl(term);
            }
            size *= sqrtl((exact)p->K + 1);
            estimate f = p->o.slope ? slope(p->o.kind, in[3][i * p->slope_row + j]) : activation(p->o.kind, c);
            if (p->o.slope) f.size = size * fabsl(f.value) + ACTIVATION * fabsl(c * f.size), f.value *= c;
            else f.size = p->o.kind == FBP_IDENTITY ? size : STEEPEST * size + ACTIVATION * fabsl(f.size);
            want[0][i * p->C_row + j] = f;
        }
    p->result = (estimate){1, 0, 0}; /* call() has seen nothing written round the scratch memory */
}
static void expect_column_sums(problem *p)
{
    for (fbp_size j = 0; j < p->N; j++) {
        want[0][j] = (estimate){0, 0, 1};
        for (fbp_size i = 0; i < p->M; i++) {
            exact x = in[3][i * p->slope_row + j];
            want[0][j].value += x, want[0][j].size += fabsl(x) * sqrtl((exact)p->M + 1);
        }
    }
}
static void expect_yes(problem *p) { p->result = (estimate){1, 0, 0}; }

/* -- inputs ------------------------------------------------------------------------------------------------------------------- */

static exact uniform(exact low, exact high) /* splitmix64 */
{
    static uint64_t state;
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return low + (high - low) * (exact)((z ^ (z >> 31)) >> 11) * 0x1p-53L;
}
static int one_in(int n) { return uniform(0, n) < 1; }
static exact sign(void) { return one_in(2) ? 1 : -1; }

enum { ORDINARY, CERTAIN, TIES, STEEP, TINY, SOME_MINUS_INF, ALL_MINUS_INF, ONE_INF, ONE_NAN, INF_AND_NAN, FLAVOURS, SWEEP = FLAVOURS };
static const char *const FLAVOUR_NAMES[] = {"ordinary", "near-certain", "ties", "1e38", "zeros and subnormals", "some -inf",
                                            "all -inf", "one inf", "one NaN", "inf and NaN", "sweep"};
static exact argument(int flavour)
{
    switch (flavour) {
    case TIES: return floorl(uniform(-1, 3));
    case STEEP: return one_in(3) ? sign() * type->largest / 3.4L : uniform(-9, 9);
    case TINY: return one_in(4) ? 0 : one_in(3) ? -0.0L : sign() * type->tiny * floorl(uniform(0, 1000));
    case SOME_MINUS_INF: return one_in(3) ? -INFINITY : uniform(-9, 9);
    case ALL_MINUS_INF: return -INFINITY;
    case SWEEP:
        if (one_in(4)) return sign() * ldexpl(uniform(1, 2), (int)uniform(logbl(type->tiny), logbl(type->largest)));
        return uniform(-1, 1) * (one_in(3) ? 2 : one_in(2) ? type->range / 7 : type->range);
    default: return uniform(-9, 9);
    }
}
/* what: z any argument, t targets from 0 to 1, c counts, w positive weights, g signed numbers up to 1, 0 zeros */
static void fill(exact *x, fbp_size n, char what, int flavour)
{
    for (fbp_size i = 0; i < n; i++) {
        exact u = uniform(0, 1);
        x[i] = rounded(what == 'z' ? argument(flavour) : what == 't' ? fminl(1, fmaxl(0, 1.6L * u - 0.3L))
                     : what == 'c' ? (flavour == TIES && u < 0.1L ? -1 : fmaxl(0, 3 * u - 1))
                     : what == 'w' ? 0.25L + u : what == 'g' ? 2 * u - 1 : 0);
    }
    if (what != 'z' || n == 0) return;
    fbp_size at = (fbp_size)uniform(0, n), next = (at + 1) % n;
    if (flavour == CERTAIN) x[at] = 60;
    if (flavour == ONE_INF || flavour == INF_AND_NAN) x[at] = INFINITY;
    if (flavour == ONE_NAN || flavour == INF_AND_NAN) x[next] = NAN;
}

/* -- guarded memory ----------------------------------------------------------------------------------------------------------- */

enum { LEAD = 3, TRAIL = 67 }; /* elements, filled with bytes of 0xFF: a NaN that no arithmetic makes */
typedef struct { unsigned char *start; size_t bytes; } block;
static void *contents(block b) { return element(b.start, LEAD); }
static block place(fbp_size n, const exact *x)
{
    size_t bytes = (size_t)(LEAD + n + TRAIL) * type->size;
    block b = {malloc(bytes), bytes};
    memset(b.start, 0xFF, bytes);
    for (fbp_size i = 0; x && i < n; i++) put(contents(b), i, x[i]);
    return b;
}
static int same(block a, block b) { return memcmp(a.start, b.start, a.bytes) == 0; }
static int intact(block b)
{
    size_t changed = 0;
    for (size_t i = 0; i < LEAD * type->size; i++) changed += b.start[i] != 0xFF;
    for (size_t i = 1; i <= TRAIL * type->size; i++) changed += b.start[b.bytes - i] != 0xFF;
    return changed == 0;
}

/* -- the calls ---------------------------------------------------------------------------------------------------------------- */

static int multiply(const problem *p, void **x, void *C, fbp_size i, fbp_size m, fbp_size j, fbp_size n) /* rows i.., columns j.. */
{
    fbp_epilogue then = {p->o.kind, p->o.bias ? element(x[2], j) : NULL,
                         p->o.slope ? element(x[3], i * p->slope_row + j) : NULL, p->slope_row};
    block scratch = place(k->matrix_product_scratch(m, n, p->K), NULL);
    k->matrix_product(m, n, p->K, element(x[0], i * p->A_row), p->A_row, p->A_column, element(x[1], j * p->B_column), p->B_row,
                      p->B_column, &then, contents(scratch), element(C, i * p->C_row + j), p->C_row);
    int good = intact(scratch);
    free(scratch.start);
    return good;
}
static double call(const problem *p, void **x, void **y)
{
    const options o = p->o;
    const fbp_size n = p->n, i = p->in_parts ? p->M / 2 : 0, j = p->in_parts ? p->N / 2 / k->tile_columns() * k->tile_columns() : 0;
    switch (p->id) {
    case is_activate: k->activate(o.kind, n, x[0], y[0]); break;
    case is_activate_backward: k->activate_backward(o.kind, n, x[0], x[1], y[0]); break;
    case is_softmax_row: k->softmax_row(n, x[0], y[0]); break;
    case is_log_softmax_row: k->log_softmax_row(n, x[0], y[0]); break;
    case is_logsumexp_row: return k->logsumexp_row(n, x[0]);
    case is_softmax_backward_row: k->softmax_backward_row(n, x[0], x[1], y[0]); break;
    case is_softmax_cross_entropy_row: return k->softmax_cross_entropy_row(n, x[0], p->label, o.scale, y[0]);
    case is_effective_targets_row:
        k->effective_targets_row(n, o.rows ? x[0] : NULL, p->label, o.weighted ? x[1] : NULL, o.smoothing, y[0]);
        break;
    case is_softmax_cross_entropy_targets_row:
        return k->softmax_cross_entropy_targets_row(n, x[0], x[1], o.softcap, o.lse_square_scale, o.scale, y[1], y[0]);
    case is_sigmoid_cross_entropy_row:
        return k->sigmoid_cross_entropy_row(n, x[0], x[1], o.weighted ? x[2] : NULL, o.smoothing, o.scale, y[0]);
    case is_squared_error_row: return k->squared_error_row(n, x[0], x[1], o.scale, y[0]);
    case is_sigmoid_squared_error_row: return k->sigmoid_squared_error_row(n, x[0], x[1], o.scale, y[0]);
    case is_poisson_deviance_row: return k->poisson_deviance_row(n, x[0], x[1], o.scale, y[0]);
    case is_sgd_update: k->sgd_update(n, x[0], 0.1, o.momentum, o.nesterov, o.decay, o.momentum > 0 ? y[1] : NULL, y[0]); break;
    case is_adam_update: k->adam_update(n, x[0], o.step, 0.001, 0.9, 0.999, 1e-8, o.decay, y[1], y[2], y[0]); break;
    case is_largest_magnitude: return k->largest_magnitude(n, x[0]);
    case is_matrix_product:
        return multiply(p, x, y[0], 0, i, 0, j) && multiply(p, x, y[0], i, p->M - i, 0, j) && multiply(p, x, y[0], 0, i, j, p->N - j)
            && multiply(p, x, y[0], i, p->M - i, j, p->N - j);
    case is_matrix_product_scratch: return k->matrix_product_scratch(0, 0, 0) == 0;
    case is_tile_columns: return k->tile_columns() > 0;
    case is_column_sums: k->column_sums(p->M, p->N, x[3], p->slope_row, y[0]); break;
    case is_multiply_adds: return k->multiply_adds(3) == 3 * k->multiply_adds(1);
    case PRIMITIVES: break;
    }
    return 0;
}

/* -- the table ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    enum primitive id;
    void (*expect)(problem *);
    const char *inputs;      /* what each is filled with, see fill() */
    int outputs, in_place;   /* how many; bit i: the first may be input i; UPDATES: output o begins as input o + 1 */
    double bound;
    const options *options;
    int variants, sweep;
} line;
enum { UPDATES = 1 << INPUTS };
#define OPTIONS(...) (const options[]){__VA_ARGS__}, sizeof((const options[]){__VA_ARGS__}) / sizeof(options)
#define FUNCTION(name, KIND, bound) {name, is_activate, expect_elements, "z", 1, 1, bound, OPTIONS({.kind = KIND}), 1}
#define SLOPE(name, KIND, inputs, bound) {name "'", is_activate_backward, expect_elements, inputs, 1, 3, bound, OPTIONS({.kind = KIND}), 0}

static const line LINES[] = {
    FUNCTION("sigmoid", FBP_SIGMOID, SIGMOID),
    FUNCTION("tanh", FBP_TANH, TANH),
    FUNCTION("relu", FBP_RELU, 0),
    FUNCTION("leaky_relu", FBP_LEAKY_RELU, 1), /* a rounded constant, a product */
    FUNCTION("gelu", FBP_GELU, GELU),
    FUNCTION("silu", FBP_SILU, SILU),
    FUNCTION("softplus", FBP_SOFTPLUS, SOFTPLUS),
    FUNCTION("identity", FBP_IDENTITY, 0),
    SLOPE("sigmoid", FBP_SIGMOID, "gt", SIGMOID_SLOPE),
    SLOPE("tanh", FBP_TANH, "gg", TANH_SLOPE),
    SLOPE("relu", FBP_RELU, "gz", 0),
    SLOPE("leaky_relu", FBP_LEAKY_RELU, "gz", 1),
    SLOPE("gelu", FBP_GELU, "gz", GELU_SLOPE),
    SLOPE("silu", FBP_SILU, "gz", SILU_SLOPE),
    SLOPE("softplus", FBP_SOFTPLUS, "gw", SOFTPLUS_SLOPE),
    SLOPE("identity", FBP_IDENTITY, "zg", 0),
    {"exp, by poisson_deviance_row", is_poisson_deviance_row, expect_elements, "z0", 1, 1, EXP, OPTIONS({.scale = 1, .any_result = 1}), 1},
    {"softmax_row", is_softmax_row, expect_elements, "z", 1, 1, SOFTMAX, OPTIONS({0}), 0},
    {"log_softmax_row", is_log_softmax_row, expect_elements, "z", 1, 1, LOG_SOFTMAX, OPTIONS({0}), 0},
    {"logsumexp_row", is_logsumexp_row, expect_logsumexp, "z", 0, 0, LOG_SOFTMAX, OPTIONS({0}), 0},
    {"softmax_backward_row", is_softmax_backward_row, expect_elements, "gt", 1, 3, SOFTMAX_SLOPE, OPTIONS({0}), 0},
    {"softmax_cross_entropy_row", is_softmax_cross_entropy_row, expect_cross_entropy_of_label, "z", 1, 1, CROSS_ENTROPY,
     OPTIONS({.scale = 1}, {.scale = 0.3, .at_top = 1}), 0},
    {"effective_targets_row", is_effective_targets_row, expect_elements, "tw", 1, 0, TARGETS,
     OPTIONS({.rows = 1}, {.rows = 1, .weighted = 1, .smoothing = 0.1}, {.weighted = 1, .smoothing = 0.1}, {0}), 0},
    {"softmax_cross_entropy_targets_row", is_softmax_cross_entropy_targets_row, expect_cross_entropy_of_targets, "zt", 2, 1,
     CROSS_ENTROPY, OPTIONS({.scale = 1}, {.scale = 0.3, .lse_square_scale = 0.01}, {.scale = 1, .softcap = 3}), 0},
    {"sigmoid_cross_entropy_row", is_sigmoid_cross_entropy_row, expect_elements, "ztw", 1, 1, SIGMOID_ERROR,
     OPTIONS({.scale = 1}, {.scale = 0.3, .weighted = 1, .smoothing = 0.1}), 0},
    {"squared_error_row", is_squared_error_row, expect_elements, "zg", 1, 1, SQUARED_ERROR, OPTIONS({.scale = 1}, {.scale = 0.3}), 0},
    {"sigmoid_squared_error_row", is_sigmoid_squared_error_row, expect_elements, "zt", 1, 1, SQUARED_ERROR + SIGMOID,
     OPTIONS({.scale = 0.3}), 0},
    {"poisson_deviance_row", is_poisson_deviance_row, expect_elements, "zc", 1, 1, POISSON, OPTIONS({.scale = 0.3}), 0},
    {"sgd_update", is_sgd_update, expect_sgd, "zgg", 2, UPDATES, SGD,
     OPTIONS({0}, {.momentum = 0.9}, {.momentum = 0.9, .nesterov = 1, .decay = 0.01}), 0},
    {"adam_update", is_adam_update, expect_adam, "zggw", 3, UPDATES, ADAM, OPTIONS({.step = 1}, {.step = 9}, {.step = 999, .decay = 0.01}), 0},
    {"largest_magnitude", is_largest_magnitude, expect_largest_magnitude, "z", 0, 0, 0, OPTIONS({0}), 0},
    {"matrix_product", is_matrix_product, expect_product, "zggt", 1, 0, CHAIN, NULL, 0, 0},
    {"column_sums", is_column_sums, expect_column_sums, "000z", 1, 0, CHAIN, NULL, 0, 0},
    {"matrix_product_scratch", is_matrix_product_scratch, expect_yes, "", 0, 0, 0, OPTIONS({0}), 0},
    {"tile_columns", is_tile_columns, expect_yes, "", 0, 0, 0, OPTIONS({0}), 0},
    {"multiply_adds", is_multiply_adds, expect_yes, "", 0, 0, 0, OPTIONS({0}), 0},
};
enum { COUNT = sizeof LINES / sizeof LINES[0], ISAS = 8 };

/* -- solving a problem, and the verdict --------------------------------------------------------------------------------------- */

typedef struct { double worst; long cases, failures; } verdict;
static verdict verdicts[COUNT][ISAS][2];

typedef struct { block in[INPUTS], out[OUTPUTS]; double result; int clean; } run;
static run solve(const line *l, const problem *p, int shared) /* the first output in the place of input `shared`, unless -1 */
{
    run r = {.clean = 1};
    void *x[INPUTS], *y[OUTPUTS];
    for (int i = 0; i < INPUTS; i++) r.in[i] = place(p->in_length[i], in[i]), x[i] = contents(r.in[i]);
    for (int o = 0; o < OUTPUTS; o++) {
        r.out[o] = place(p->out_length[o], l->in_place == UPDATES && o < l->outputs ? in[o + 1] : shared >= 0 && o == 0 ? in[shared] : NULL);
        y[o] = contents(r.out[o]);
    }
    if (shared >= 0) x[shared] = y[0];
    r.result = call(p, x, y);
    for (int i = 0; i < INPUTS; i++) {
        block before = place(p->in_length[i], in[i]);
        r.clean &= same(r.in[i], before);
        free(before.start), free(r.in[i].start);
    }
    for (int o = 0; o < OUTPUTS; o++) r.clean &= intact(r.out[o]);
    return r;
}
static int agrees(const run *a, run b) /* in every bit; done with b */
{
    int good = b.clean && memcmp(&a->result, &b.result, sizeof b.result) == 0;
    for (int o = 0; o < OUTPUTS; o++) good &= same(a->out[o], b.out[o]), free(b.out[o].start);
    return good;
}

static double error_of(exact got, estimate e)
{
    exact unit = fmaxl(type->eps * fabsl(e.size), type->tiny * e.floor), error = fabsl(got - e.value) / unit;
    if (e.floor == INFINITY || got == e.value || (isnan(got) && isnan(e.value))) return 0;
    if (isinf(got) && fabsl(e.value) > type->largest) return got * e.value > 0 ? 0 : INFINITY;
    return isnan(error) ? INFINITY : (double)error;
}

static void judge(const line *l, problem *p, const char *isa, int number, const char *flavour)
{
    run first = solve(l, p, -1);
    const char *wrong = first.clean ? NULL : "wrote where it may not";
    if (!agrees(&first, solve(l, p, -1))) wrong = "other bits in a second run";
    for (int i = 0; i < INPUTS; i++)
        if (l->in_place >> i & 1 && !agrees(&first, solve(l, p, i))) wrong = "other bits in place";
    p->in_parts = 1;
    if (p->id == is_matrix_product && !agrees(&first, solve(l, p, -1))) wrong = "other bits in parts";
    p->in_parts = 0;

    char where[160] = "its result";
    exact got = first.result;
    estimate expected = p->result;
    double worst = error_of(got, expected);
    for (int o = 0; o < OUTPUTS; free(first.out[o++].start))
        for (fbp_size i = 0; i < p->out_length[o]; i++) {
            exact x = get(contents(first.out[o]), i);
            double error = error_of(x, want[o][i]);
            if (error <= worst) continue;
            worst = error, got = x, expected = want[o][i];
            snprintf(where, sizeof where, "element %td of output %d, of input %.9Lg %.9Lg", i, o, in[0][i], in[1][i]);
        }
    verdict *v = &verdicts[l - LINES][number][type - DTYPES];
    v->worst = fmax(v->worst, worst), v->cases++;
    if (!wrong && worst <= l->bound) return;
    if (v->failures++ == 0)
        printf("%s %s %s, n %td, M %td N %td K %td, %s: %s, %s: %.17Lg, exactly %.17Lg\n", l->name, isa, type->name, p->n, p->M,
               p->N, p->K, flavour, wrong ? wrong : "too far off", where, got, expected.value);
}

static void on_each_isa(const line *l, problem *p, const char *flavour)
{
    const char *isa;
    int ready = 0; /* the formulas depend on `fused`, but on nothing else of an instruction set */
    for (int number = 0; (isa = fbp_isa_name(number)); number++) {
        if (fbp_use_isa(isa) != 0) continue;
        const int fuses = strcmp(isa, "generic") != 0;
        k = fbp_kernels_for(type->size);
        if (!ready || fuses != fused) fused = fuses, l->expect(p);
        ready = 1;
        judge(l, p, isa, number, flavour);
    }
}

static void row_of(const line *l, fbp_size n, int variant, int flavour)
{
    problem p = {.id = l->id, .o = l->options[variant], .n = n, .label = (fbp_size)uniform(0, n)};
    for (int i = 0; l->inputs[i]; i++) fill(in[i], p.in_length[i] = n, l->inputs[i], flavour);
    for (int o = 0; o < l->outputs; o++) p.out_length[o] = n;
    on_each_isa(l, &p, FLAVOUR_NAMES[flavour]);
}

static void rows(const line *l, fbp_size points)
{
    static const fbp_size LARGE[] = {63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000, LONGEST_ROW};
    const int labelled = l->id == is_softmax_cross_entropy_row || l->id == is_effective_targets_row;
    const fbp_size W3 = (fbp_size)(3 * 64 / type->size); /* 3 vectors of AVX-512 */
    for (int variant = 0; variant < l->variants; variant++) {
        for (fbp_size n = labelled; n <= W3; n++)
            for (int flavour = 0; flavour < FLAVOURS; flavour++) row_of(l, n, variant, flavour);
        for (size_t i = 0; i < sizeof LARGE / sizeof LARGE[0]; i++) row_of(l, LARGE[i], variant, (int)(i * 3) % FLAVOURS);
        row_of(l, LONGEST_ROW, variant, ORDINARY);
    }
    if (l->sweep) row_of(l, points, 0, SWEEP);
}

static void product_of(const line *l, fbp_size M, fbp_size N, fbp_size K, int strides, int then, int flavour)
{
    problem p = {.id = l->id, .M = M, .N = N, .K = K, .slope_row = N + 2, .C_row = N + 5, .in_length = {0, 0, N, M * (N + 2)}};
    const int A_lies = strides & 1, B_lies = strides & 2;
    p.A_row = A_lies ? 1 : K + 3, p.A_column = A_lies ? M + 3 : 1, p.in_length[0] = A_lies ? K * (M + 3) : M * (K + 3);
    p.B_row = B_lies ? 1 : N + 3, p.B_column = B_lies ? K + 3 : 1, p.in_length[1] = B_lies ? N * (K + 3) : K * (N + 3);
    p.out_length[0] = l->id == is_column_sums ? N : M * p.C_row;
    p.o = (options){.bias = then == 1 || then == 2, .kind = then < 2 ? FBP_IDENTITY : (int)uniform(1, FBP_ACTIVATIONS), .slope = then == 3};
    for (int i = 0; l->inputs[i]; i++) fill(in[i], p.in_length[i], l->inputs[i], flavour);
    on_each_isa(l, &p, FLAVOUR_NAMES[flavour]);
}

static void products(const line *l)
{
    static const fbp_size EDGES[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 24, 25, 28, 29, 31, 32, 33, 65};
    static const fbp_size DEPTHS[] = {0, 1, 2, 7, 33};
    static const fbp_size LARGE[][3] = {{5, 9, 255}, {5, 9, 257}, {15, 3, 600}, {300, 2, 3}, {2, 4130, 3}};
    for (size_t m = 0; m < 24; m++)
        for (size_t n = 0; n < 24; n++)
            product_of(l, EDGES[m], EDGES[n], DEPTHS[(m + n) % 5], (int)uniform(0, 4), (int)uniform(0, 4), one_in(9) ? ONE_NAN : ORDINARY);
    for (int i = 0; i < 5 * 16; i++) product_of(l, LARGE[i / 16][0], LARGE[i / 16][1], LARGE[i / 16][2], i % 4, i / 4 % 4, ORDINARY);
}

int main(int argc, char **argv)
{
    const fbp_size points = argc > 1 ? atol(argv[1]) : 200000;
    for (type = DTYPES; type < DTYPES + 2; type++)
        for (const line *l = LINES; l < LINES + COUNT; l++) l->options ? rows(l, points) : products(l);

    long passed = 0, failed = 0;
    const char *isa;
    printf("%-34s %-8s %-8s %10s %10s %8s\n", "primitive", "isa", "dtype", "error/eps", "bound", "cases");
    for (int i = 0; i < COUNT; i++)
        for (int number = 0; (isa = fbp_isa_name(number)); number++)
            for (int t = 0; t < 2; t++) {
                const verdict v = verdicts[i][number][t];
                if (v.cases == 0) continue;
                v.failures ? failed++ : passed++;
                printf("%-34s %-8s %-8s %10.3g %10.3g %8ld  %s\n", LINES[i].name, isa, DTYPES[t].name, v.worst, LINES[i].bound, v.cases,
                       v.failures ? "FAILED" : "ok");
            }
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed > 0;
}
