/* Every primitive of kernels.def, on every instruction set that this CPU can run, against its formula in long double.
 *
 * A. A line of LINES, near the end, tells which primitive is called on which inputs, what must come out, and how exactly.
 * B. An error is counted in eps (the spacing of the dtype's numbers at 1) times the size of what was rounded: of the result
 *    itself where nothing cancels, of the terms where something does; or in the smallest positive number, `tiny`, where that is
 *    more. NaN must be NaN, and an infinity that infinity.
 * C. Inputs and outputs lie in memory full of NaN, at odd offsets. A number read from outside an input, or left unwritten, spoils
 *    the result; one written outside an output is seen.
 * D. A second run gives the same bits; so does one in place, or one of a product in parts, where the comments in src_c allow it.
 *
 * Usage: test_kernels [points [dtype [isa]]], with so many points in a sweep of an elementary function over all its arguments;
 * 200000 unless told. With less than 100000 there are fewer rows and products as well; with less than 10000, for an emulator,
 * few.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "primitives.h"

/* Bounds in eps; the first five are stated in src_c/math/elementary.h. */
#define EXP 1.0
#define LOG 1.5
#define SIGMOID 2.0
#define TANH 2.0
#define TAIL 4.0      /* of the normal distribution; x²/4 more where v_fma rounds twice, for what is lost of the square x² */
#define ROUNDING 0.5  /* of one correctly rounded operation, or of a constant */
#define SUM 2.0       /* 36 additions, 4 of them between lanes: twice √36 roundings (rms 0.29 eps) of partial sums (rms 0.58) */
#define SOFTMAX (2 * EXP + SUM + 2 * ROUNDING) /* e^(z - m) · 1/(1 + rest), the rest being a sum of exponentials */
#define CHAIN 1.0     /* times √(K + 1): 2√(K + 1) roundings of independent sign, in a chain of K additions */
#define STEEPEST 1.76L  /* the largest slope of any activation, λα of selu below 0: it passes on the error of a product */
#define LAMBDA 1.0507009873554804934193349852946L /* of selu, and λα */
#define LAMBDA_ALPHA 1.7580993408473768599402175208123L
#define FOLLOWING 8.0L  /* more than the bound of any activation or slope, which comes on top */

/* -- the dtype and the instruction set under test ---------------------------------------------------------------------------- */
typedef long double exact;
typedef struct { const char *name; size_t size; exact eps, tiny, largest, range; } dtype; /* range: beyond it e^x is 0 or inf */
static const dtype DTYPES[] = {{"float32", sizeof(float), FLT_EPSILON, FLT_TRUE_MIN, FLT_MAX, 110},
                               {"float64", sizeof(double), DBL_EPSILON, DBL_TRUE_MIN, DBL_MAX, 760}};
static const dtype *type;
static const fbp_kernels *k;
static int fused; /* whether v_fma rounds once */
static const char *only; /* this instruction set; NULL: all */

static void *element(const void *p, fbp_size i) { return (char *)p + i * (fbp_size)type->size; }
static exact rounded(exact x) { return type->size == sizeof(float) ? (exact)(float)x : (exact)(double)x; }
static exact get(const void *p, fbp_size i)
{
    return type->size == sizeof(float) ? ((const float *)p)[i] : ((const double *)p)[i];
}
static void put(void *p, fbp_size i, exact x)
{
    if (type->size == sizeof(float)) ((float *)p)[i] = (float)x;
    else ((double *)p)[i] = (double)x;
}

/* -- a problem: one call, and what must come out ----------------------------------------------------------------------------- */
enum { INPUTS = 4, OUTPUTS = 3, LONGEST = 1 << 18, LONGEST_ROW = 5000 };
enum primitive {
#define FBP_KERNEL(result, name, parameters, arguments) is_##name,
#include "kernels.def"
#undef FBP_KERNEL
};
typedef struct {
    int kind, rows, weighted, at_top, nesterov, formed, step, bias, slope, add, update, pieces, any_result;
    double scale, smoothing, parameter, softcap, lse_square_scale, momentum, decay;
} options;
typedef struct { exact value, size, floor; } estimate; /* an error is counted in eps · size or floor · tiny */
typedef struct {
    enum primitive id;
    options o;
    fbp_size n, label;                                                    /* of a row */
    fbp_size M, N, K, A_row, A_column, B_row, B_column, slope_row, C_row; /* of a product C (M, N) = A (M, K) B (K, N) */
    int in_parts;
    int past_caches; /* with a row of scratch, the gradient is stored past the caches */
    fbp_size in_length[INPUTS], out_length[OUTPUTS];
    estimate result;
} problem;
static exact in[INPUTS][LONGEST];
static estimate want[OUTPUTS][LONGEST];
static const estimate ANYTHING = {0, 0, INFINITY};

/* -- the formulas ------------------------------------------------------------------------------------------------------------ */
static exact sigmoid(exact x) { return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x)); }
static exact softplus(exact x) { return x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x)); }
static exact density(exact x) /* φ(x); the exponential magnifies what x² loses */
{
    exact square = x * x;
    return expl(-square / 2) * (1 - fmal(x, x, -square) / 2) * 0.398942280401432677939946L;
}
static exact normal(exact x) /* Φ(x) = erfc(h)/2 with h = -x/√2; erfc(h) falls like e^(-h²) */
{
    exact h = -x * sqrtl(0.5L), square = h * h, lost = fmal(x, x / 2, -square) - fmal(h, h, -square);
    return erfcl(h) / 2 * (h > 0 ? 1 - lost : 1);
}
static exact grown(exact x) { return isfinite(x) ? 1 + fabsl(x) : 1; } /* by a factor x of what has underflowed */

/* f(x), or its slope from what activate_backward is given. Those of gelu, silu and mish have two terms, which may cancel. */
static estimate activation(int kind, int slope, exact x)
{
    const exact limit = isnan(x) ? x : x > 0;
    exact y = slope ? 1 : x, term = 0;
    switch (kind) {
    case FBP_SIGMOID: y = slope ? x * (1 - x) : sigmoid(x); break;
    case FBP_TANH: y = slope ? (1 - x) * (1 + x) : tanhl(x); break;
    case FBP_RELU: y = slope ? limit : x < 0 ? 0 : x; break;
    case FBP_LEAKY_RELU: y = (limit + (1 - limit) * 0.01L) * (slope ? 1 : x); break;
    case FBP_ELU: y = x > 0 ? (slope ? 1 : x) : slope ? 1 + x : expm1l(x); break;
    case FBP_SELU: y = x > 0 ? LAMBDA * (slope ? 1 : x) : LAMBDA_ALPHA * (slope ? 1 : expm1l(x)) + (slope ? x : 0); break;
    case FBP_SOFTPLUS: y = slope ? -expm1l(-x) : softplus(x); break;
    case FBP_GELU: y = normal(x), term = slope ? x * density(x) : 0; break;
    case FBP_MISH: y = tanhl(softplus(x)), term = slope ? x * sigmoid(x) / powl(coshl(softplus(x)), 2) : 0; break;
    case FBP_SILU: y = sigmoid(x), term = slope ? x * y * sigmoid(-x) : 0; break;
    }
    if (fbp_activation_facts(kind)->slope == FBP_OF_OUTPUT) return (estimate){y, y, 1};
    if (isinf(x)) return (estimate){slope ? limit : fmaxl(x, 0), 1, 1};
    const exact lost = kind == FBP_GELU && x < 0 && !fused ? 1 + x * x / 4 : 1; /* of the square in e^(-x²/2) */
    return (estimate){(slope ? 1 : x) * (y + term), (slope ? 1 : x) * (y + fabsl(term)) * lost, 1 + fabsl(x)};
}

/* The parts of the softmax of z (n): gap_c = m - z_c, e_c = exp(-gap_c), rest = Σ_{c ≠ top} e_c; all NaN without a finite
 * maximum. An error of blur_c eps in a gap is one relative to e_c: the gap is rounded, and after a softcap so are z_c and m. */
static struct { fbp_size top; exact m, rest, rest_size, log, log_size, gap[LONGEST_ROW], e[LONGEST_ROW], blur[LONGEST_ROW]; } row;
static void analyse(fbp_size n, const exact *z, double cap)
{
    row.top = 0, row.rest = row.rest_size = 0;
    for (fbp_size c = 1; c < n; c++)
        if (z[c] > z[row.top] || isnan(z[row.top])) row.top = c;
    row.m = n == 0 ? -INFINITY : cap > 0 ? cap * tanhl(z[row.top] / cap) : z[row.top];
    for (fbp_size c = 0; c < n; c++) {
        exact z_c = cap > 0 ? cap * tanhl(z[c] / cap) : z[c];
        row.gap[c] = isfinite(row.m) ? row.m - z_c : NAN;
        row.e[c] = expl(-row.gap[c]);
        row.blur[c] = row.e[c] > 0 ? row.gap[c] / 2 + (cap > 0 ? (TANH + 1) * (fabsl(row.m) + fabsl(z_c)) : 0) : 0;
        if (c != row.top) row.rest += row.e[c], row.rest_size += row.e[c] * (1 + row.blur[c]);
    }
    if (!isfinite(row.m) || isnan(row.rest)) row.m = row.rest = NAN;
    row.log = log1pl(row.rest);
    row.log_size = row.log + row.rest_size / (1 + row.rest);
}
static estimate softmax(fbp_size c)
{
    exact y = row.e[c] / (1 + row.rest);
    return (estimate){y, y * (1 + row.blur[c] + row.rest_size / (1 + row.rest)), 2};
}

/* scale y_c (1 - y_c); at the largest logit 1 - y_c is the share of the others */
static estimate softmax_hessian(fbp_size c, double scale)
{
    const estimate y = softmax(c);
    const exact others = c == row.top ? row.rest / (1 + row.rest) : 1 - y.value;
    const exact share = c == row.top && row.rest > 0 ? row.rest_size / row.rest : 1;
    return (estimate){scale * y.value * others, scale * y.size * others * share, 2};
}

/* scale (A + B) e/(1 + e)², A and B as below */
static estimate sigmoid_hessian(const options *o, exact z, exact t, exact p)
{
    const exact keep = 1 - (exact)o->smoothing, uniform = (exact)o->smoothing / 2, e = expl(-fabsl(z));
    const exact h = o->scale * (keep * (1 - t) + uniform + (keep * t + uniform) * p) * e / ((1 + e) * (1 + e));
    return (estimate){h, h, 1};
}

/* The delta of an output by its scale, and the term of the error; p multiplies the terms in t */
static estimate error_term(const options *o, exact z, exact t, exact p, estimate *d)
{
    const exact keep = 1 - (exact)o->smoothing, uniform = (exact)o->smoothing, e = expl(-fabsl(z)), s = e / (1 + e);
    exact error = 0, size = 0, A, B, ratio;
    switch (o->kind) {
    case FBP_SIGMOID_CROSS_ENTROPY:
        A = keep * (1 - t) + uniform / 2, B = (keep * t + uniform / 2) * p;
        d->value = z > 0 ? A - (A + B) * s : (A + B) * s - B, d->size = (z > 0 ? A : B) + (A + B) * s;
        size = error = (A + B) * log1pl(e) + ((z > 0 ? A : B) == 0 ? 0 : fabsl(z) * (z > 0 ? A : B));
        break;
    case FBP_SQUARED_ERROR:
        d->value = d->size = z - t;
        size = error = (z - t) * (z - t) / 2;
        break;
    case FBP_SIGMOID_SQUARED_ERROR: /* y - t is A or -A */
        A = z > 0 ? 1 - t - s : t - s, B = z > 0 ? 1 - t + s : t + s;
        d->value = (z > 0 ? A : -A) * s / (1 + e), d->size = B * s / (1 + e);
        error = A * A / 2, size = B * fabsl(A) + A * A;
        break;
    case FBP_POISSON_DEVIANCE: /* near its zero another formula takes over, as good as ln t is known */
        A = t < 0 ? NAN : expl(z), ratio = t == 0 ? 0 : z - logl(t);
        d->value = A - t, d->size = A + t;
        B = t == 0 ? 0 : t * fmaxl(1, fabsl(logl(t))), error = A - t - (t == 0 ? 0 : t * ratio);
        size = t != 0 && fabsl(ratio) < 0.34L ? error + B * fabsl(ratio) : A + t + (t == 0 ? 0 : t * fabsl(z) + B);
        break;
    case FBP_HUBER:
        A = fabsl(z - t), B = A > o->parameter ? rounded(o->parameter) : A;
        d->value = z < t ? -B : B, d->size = B;
        size = error = B * (A - B / 2);
        break;
    case FBP_QUANTILE:
        A = z - t;
        d->value = A > 0 ? 1 - (exact)o->parameter : A < 0 ? -(exact)o->parameter : A, d->size = fabsl(d->value);
        size = error = d->value * A;
        break;
    default: fprintf(stderr, "no formula for error %d\n", o->kind), exit(2);
    }
    return (estimate){error, size, 1};
}

/* Primitives with one output per element, and perhaps the sum of an error */
static void expect_elements(problem *p)
{
    const options o = p->o;
    exact total = 0, total_size = 0, mean = 0, mean_size = 0;
    if (p->id == is_softmax_row || p->id == is_log_softmax_row || p->id == is_softmax_hessian_row) analyse(p->n, in[0], 0);
    for (fbp_size i = 0; i < p->n; i++) mean += in[0][i] * in[1][i], mean_size += fabsl(in[0][i] * in[1][i]);
    for (fbp_size i = 0; i < p->n; i++) {
        exact z = in[0][i], t = in[1][i];
        estimate d = {0, 0, 2}, f, term = {0, 0, 0};
        switch (p->id) {
        case is_activate: d = activation(o.kind, 0, z); break;
        case is_activate_backward:
            f = activation(o.kind, 1, t), d = (estimate){z * f.value, z * f.size, f.floor * grown(z)};
            break;
        case is_softmax_row: d = softmax(i); break;
        case is_log_softmax_row: d.value = -row.gap[i] - row.log, d.size = row.gap[i] + row.log_size; break;
        case is_softmax_hessian_row: d = softmax_hessian(i, o.scale); break;
        case is_sigmoid_hessian_row: d = sigmoid_hessian(&o, z, t, o.weighted ? in[2][i] : 1); break;
        case is_softmax_backward_row: d.value = t * (z - mean), d.size = t * (fabsl(z) + mean_size); break;
        case is_elementwise_error_row:
        case is_elementwise_error_column:
            term = error_term(&o, z, t, o.weighted ? in[2][i] : 1, &d);
            d.value *= o.scale, d.size *= o.scale;
            break;
        default: break;
        }
        want[0][i] = d;
        total += term.value, total_size += term.size;
    }
    p->result = o.any_result ? ANYTHING : (estimate){total, total_size, (exact)p->n};
}

/* The largest magnitude, or the logarithm of a sum of exponentials, which may be infinite like the largest number */
static void expect_one_number(problem *p)
{
    const int magnitude = p->id == is_largest_magnitude;
    exact most = magnitude ? 0 : -INFINITY;
    for (fbp_size i = 0; i < p->n; i++) {
        exact x = magnitude ? fabsl(in[0][i]) : in[0][i];
        most = isnan(most) || x <= most ? most : x;
    }
    analyse(p->n, in[0], 0);
    p->result = (estimate){row.m + row.log, fabsl(row.m) + row.log_size, 1};
    if (magnitude || isinf(most)) p->result = (estimate){most, 0, 0};
}

static void expect_sum_of_squares(problem *p)
{
    exact sum = 0;
    for (fbp_size i = 0; i < p->n; i++) sum += in[0][i] * in[0][i];
    p->result = (estimate){sum, sum * (1 + p->n / 16 / 4), 0}; /* sixteen sums side by side */
}

/* Word i of the numbers that dropout draws: Threefry-2x32 with 13 rounds, one counter at a time */
enum { STREAM = 3, START = 150 }; /* within a block */
static const uint64_t KEY = 0x0123456789abcdef;
static uint32_t word(fbp_size i)
{
    static const int BY[] = {13, 15, 26, 6, 17, 29, 16, 24};
    const uint32_t keys[] = {(uint32_t)KEY, (uint32_t)(KEY >> 32), (uint32_t)KEY ^ (uint32_t)(KEY >> 32) ^ 0x1BD11BDA};
    uint32_t x = (uint32_t)(i / 64 * 32 + i % 32) + keys[0], y = STREAM + keys[1];
    for (uint32_t r = 0; r < 13; r++) {
        x += y;
        y = (y << BY[r % 8] | y >> (32 - BY[r % 8])) ^ x;
        if (r % 4 == 3) x += keys[(r / 4 + 1) % 3], y += keys[(r / 4 + 2) % 3] + r / 4 + 1;
    }
    return i / 32 % 2 ? y : x;
}
static void expect_dropout(problem *p)
{
    for (fbp_size i = 0; i < p->n; i++) {
        const exact y = word(START + i) < (uint32_t)(p->o.scale * 4294967296.0) ? 0 : in[0][i] / (1 - (exact)p->o.scale);
        want[0][i] = (estimate){y, fabsl(y), 1};
    }
    p->result = (estimate){0, 0, 0};
}

static void expect_copy(problem *p)
{
    expect_one_number(p);
    for (fbp_size i = 0; i < p->n; i++) want[0][i] = (estimate){in[0][i], 0, 0};
}

/* u_c = w_c ((1 - smoothing) t_c + smoothing / C), where t is a row, or 1 at a label */
static exact target(const problem *p, fbp_size c)
{
    const exact t = p->o.rows ? in[1][c] : c == p->label, w = p->o.weighted ? in[2][c] : 1;
    return w * ((1 - (exact)p->o.smoothing) * t + (exact)p->o.smoothing / p->n);
}

/* E = T log1p(rest) + Σ u_c gap_c + s lse²,  dE/dz' = y (T + 2 s lse) - u */
static void expect_cross_entropy(problem *p)
{
    const exact cap = p->o.softcap, square = p->o.lse_square_scale, *z = in[0];
    exact total = 0, excess = 0, excess_size = 0;
    analyse(p->n, z, p->o.softcap);
    if (p->o.at_top) p->label = row.top;
    for (fbp_size c = 0; c < p->n; c++) {
        exact u = target(p, c);
        total += u;
        if (u != 0) excess += u * row.gap[c], excess_size += u * (row.gap[c] + row.blur[c]);
    }
    const exact lse = row.m + row.log, lse_size = fabsl(row.m) + row.log_size;
    const exact pull = 2 * square * lse, pull_size = 2 * square * lse_size;
    for (fbp_size c = 0; c < p->n; c++) {
        exact u = target(p, c), x = cap > 0 ? fabsl(z[c] / cap) : 0, q = expl(-2 * x);
        exact slope = 4 * q / ((1 + q) * (1 + q)), scale = p->o.scale * slope, scale_size = q > 0 ? scale * (1 + 2 * x) : 0;
        exact delta = softmax(c).value * (total + pull) - u, size = softmax(c).size * (total + pull_size) + u;
        if (c == row.top) { /* the same without a difference from 1 */
            delta = (total - u + pull - u * row.rest) / (1 + row.rest);
            size = (total - u + pull_size + u * row.rest_size) / (1 + row.rest);
        }
        want[0][c] = (estimate){scale * delta, scale_size * size, 4 * (1 + total)};
        want[1][c] = ANYTHING; /* scratch */
    }
    const exact error = total * row.log + excess + square * lse * lse;
    p->result = (estimate){error, total * row.log_size + excess_size + square * lse_size * lse_size, (exact)p->n};
}

static exact finite_or_infinite(exact x) { return x > type->largest ? INFINITY : x; }
static void expect_update(problem *p) /* its size is that of the same formulas with every sign a plus */
{
    const exact mu = p->o.momentum, decay = p->o.decay, b1 = 0.9, b2 = 0.999, eta = 0.1;
    const exact unbias_1 = 1 - powl(b1, p->o.step), unbias_2 = 1 - powl(b2, p->o.step), epsilon = 1e-8;
    for (fbp_size i = 0; i < p->n; i++) {
        exact w = in[1][i], m = in[2][i], v = in[3][i], g = in[0][i] + decay * w, g_size = fabsl(in[0][i]) + decay * fabsl(w);
        exact next = m, next_size = fabsl(m), step = 0, step_size = 0, root; /* what is divided by, or has the sign */
        switch (p->o.kind) {
        case FBP_UPDATE_sgd:
            if (mu != 0) next = mu * m + g, next_size = mu * fabsl(m) + g_size; /* else there is no state to write */
            step = mu == 0 ? g : p->o.nesterov ? g + mu * next : next;
            step_size = mu == 0 ? g_size : p->o.nesterov ? g_size + mu * next_size : next_size;
            break;
        case FBP_UPDATE_rmsprop: /* b2 of the mean square, which is the first of its states, b1 of the velocity */
            next = b2 * m + (1 - b2) * g * g, next_size = b2 * m + (1 - b2) * g_size * g_size;
            root = sqrtl(finite_or_infinite(next)) + epsilon;
            step = b1 * v + g / root, step_size = b1 * fabsl(v) + g_size / root * (1 + next_size / next);
            want[2][i] = (estimate){step, step_size, 2};
            break;
        case FBP_UPDATE_adagrad:
            next = m + g * g, next_size = m + g_size * g_size, root = sqrtl(finite_or_infinite(next)) + epsilon;
            step = g / root, step_size = g_size / root * (1 + next_size / next);
            break;
        case FBP_UPDATE_adam:
            v = b2 * v + (1 - b2) * g * g;
            root = unbias_1 * (sqrtl(finite_or_infinite(v) / unbias_2) + epsilon);
            next = b1 * m + (1 - b1) * g, next_size = b1 * fabsl(m) + (1 - b1) * g_size;
            step = next / root, step_size = 2 * next_size / root;
            want[2][i] = (estimate){v, b2 * in[3][i] + (1 - b2) * g_size * g_size, 2};
            break;
        case FBP_UPDATE_lion: /* a sign may flip where its argument is smaller than its error */
            root = b1 * m + (1 - b1) * g;
            step = root > 0 ? 1 : root < 0 ? -1 : root, step_size = 1;
            if (isfinite(root)) step_size += 2 * (b1 * fabsl(m) + (1 - b1) * g_size) / fabsl(root);
            next = b2 * m + (1 - b2) * g, next_size = b2 * fabsl(m) + (1 - b2) * g_size;
            break;
        case FBP_UPDATE_muon: /* v is what was orthogonalised; without it the state stays */
            next = b1 * m + (1 - b1) * g, next_size = b1 * fabsl(m) + (1 - b1) * g_size;
            step = v, step_size = fabsl(v), want[2][i] = (estimate){v, fabsl(v), 2};
            if (!p->o.formed) {
                step = p->o.nesterov ? b1 * next + (1 - b1) * g : next;
                step_size = p->o.nesterov ? b1 * next_size + (1 - b1) * g_size : next_size;
                next = m, next_size = fabsl(m);
            }
            break;
        }
        want[0][i] = (estimate){w - eta * step, fabsl(w) + eta * step_size, 2};
        want[1][i] = (estimate){next, next_size, 2};
    }
}

/* What a term a b lacks at most, in eps |a b|, by the number of pieces: 2⁻⁷ + 2⁻¹⁶, of two roundings; 2⁻¹⁵, see tile_sums.h */
static const exact TERM[] = {0, 0x1.008p16L, 0x1p8L};
static void expect_product(problem *p)
{
    const int kind = p->o.kind;
    const int stands = p->o.add || p->o.update; /* C begins as input 1 */
    for (fbp_size i = 0; i < p->out_length[0]; i++) /* as before, between the rows */
        want[0][i] = stands ? (estimate){in[1][i], 0, 0} : (estimate){NAN, 0, 0};
    for (fbp_size i = 0; i < p->M; i++)
        for (fbp_size j = 0; j < p->N; j++) {
            const exact before = stands ? in[1][i * p->C_row + j] : 0;
            exact c = p->o.bias ? in[2][j] : p->o.add ? before : 0, size = fabsl(c);
            for (fbp_size l = 0; l < p->K; l++) {
                exact term = in[0][i * p->A_row + l * p->A_column] * in[1][l * p->B_row + j * p->B_column];
                c += term, size += fabsl(term);
            }
            size *= sqrtl((exact)p->K + 1) + TERM[p->o.pieces];
            estimate f = activation(kind, p->o.slope, p->o.slope ? in[3][i * p->slope_row + j] : c);
            if (p->o.slope) f = (estimate){c * f.value, size * fabsl(f.value) + FOLLOWING * fabsl(c * f.size), f.floor};
            else f.size = kind == FBP_IDENTITY ? size : STEEPEST * size + FOLLOWING * fabsl(f.size);
            if (p->o.update) f = (estimate){before - 0.1L * c, fabsl(before) + 0.1L * size, 2};
            want[0][i * p->C_row + j] = f;
        }
    p->result = (estimate){1, 0, 0}; /* its scratch memory was enough */
}
static void expect_yes(problem *p) { p->result = (estimate){1, 0, 0}; }

/* -- inputs ------------------------------------------------------------------------------------------------------------------ */
static double uniform(double low, double high) /* splitmix64 */
{
    static uint64_t state;
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return low + (high - low) * (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}
static int one_in(int n) { return uniform(0, n) < 1; }
static exact sign(void) { return one_in(2) ? 1 : -1; }

enum {
    ORDINARY, CERTAIN, TIES, STEEP, TINY, SOME_MINUS_INF, ALL_MINUS_INF, ONE_INF, ONE_NAN, INF_AND_NAN, SWEEP, FAR_APART,
    FLAVOURS = SWEEP
};
static const char *const FLAVOUR_NAMES[] = {"ordinary", "near-certain", "ties", "1e38", "zeros and subnormals", "some -inf",
                                            "all -inf", "one inf", "one NaN", "inf and NaN", "sweep", "far apart"};
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
/* what: z any argument, t targets from 0 to 1, c counts (of TIES: near e^z, or negative), w positive weights, g signed numbers up
 * to 1, 0 and 1 themselves */
static exact drawn(char what, int flavour, exact z)
{
    switch (what) {
    case 'z': return argument(flavour);
    case 't': return fmin(1, fmax(0, uniform(-0.3, 1.3)));
    case 'c': return flavour != TIES ? fmax(0, uniform(-1, 2)) : one_in(10) ? -1 : uniform(0.9, 1.1) * expl(z);
    case 'w': return uniform(0.25, 1.25);
    case 'g': return uniform(-1, 1);
    default: return what - '0';
    }
}
static void fill(exact *x, fbp_size n, char what, int flavour)
{
    for (fbp_size i = 0; i < n; i++) x[i] = rounded(drawn(what, flavour, in[0][i]));
    if (what != 'z' || n == 0) return;
    fbp_size at = (fbp_size)uniform(0, n);
    if (flavour == CERTAIN) x[at] = 60;
    if (flavour == ONE_INF || flavour == INF_AND_NAN) x[at] = INFINITY;
    if (flavour == ONE_NAN || flavour == INF_AND_NAN) x[(at + 1) % n] = NAN;
}

/* Large numbers of A meet small ones of B, and zeros: a product of the largest numbers of two lines need not occur. */
static void spread(const problem *p)
{
    for (fbp_size l = 0; l < p->K; l++) {
        const int power = (int)uniform(0, 98);
        for (fbp_size i = 0; i < p->M; i++) {
            exact *a = &in[0][i * p->A_row + l * p->A_column];
            *a = one_in(2) ? 0 : rounded(ldexpl(*a, power));
        }
        for (fbp_size j = 0; j < p->N; j++) {
            exact *b = &in[1][l * p->B_row + j * p->B_column];
            *b = one_in(2) ? 0 : rounded(ldexpl(*b, -22 - power));
        }
    }
}

/* -- guarded memory ---------------------------------------------------------------------------------------------------------- */
enum { LEAD = 3, TRAIL = 67 }; /* elements, of bytes 0xFF: a NaN that no arithmetic makes */
typedef struct { unsigned char *start; size_t bytes; } block;
static void *contents(block b) { return element(b.start, LEAD); }
static block place(fbp_size n, const exact *x)
{
    size_t bytes = (size_t)(LEAD + n + TRAIL) * type->size;
    block b = {memset(malloc(bytes), 0xFF, bytes), bytes};
    for (fbp_size i = 0; x && i < n; i++) put(contents(b), i, x[i]);
    return b;
}
static block copy_of(block b) { return (block){memcpy(malloc(b.bytes), b.start, b.bytes), b.bytes}; }
static int same(block a, block b) { return memcmp(a.start, b.start, a.bytes) == 0; }
static int intact(block b)
{
    int good = 1;
    for (size_t i = 0; i < LEAD * type->size; i++) good &= b.start[i] == 0xFF;
    for (size_t i = 1; i <= TRAIL * type->size; i++) good &= b.start[b.bytes - i] == 0xFF;
    return good;
}

/* -- the calls --------------------------------------------------------------------------------------------------------------- */
/* Rows i.., columns j.. */
static int multiply(const problem *p, void **x, void *C, fbp_size i, fbp_size m, fbp_size j, fbp_size n)
{
    block scratch = place(k->matrix_product_scratch(m, n, p->K, p->o.pieces), NULL);
    const fbp_update sgd = {.rule = FBP_UPDATE_sgd, .learning_rate = 0.1, .bias = {1, 1}, .gradient_scale = 1};
    fbp_epilogue then = {
        .activation = p->o.kind, .bias = p->o.bias ? element(x[2], j) : NULL,
        .slope = p->o.slope ? element(x[3], i * p->slope_row + j) : NULL, .slope_row = p->slope_row,
        .accumulate = p->o.add, .update = p->o.update ? &sgd : NULL, .pieces = p->o.pieces,
    };
    k->matrix_product(m, n, p->K, element(x[0], i * p->A_row), p->A_row, p->A_column, element(x[1], j * p->B_column), p->B_row,
                      p->B_column, &then, contents(scratch), element(C, i * p->C_row + j), p->C_row);
    int good = intact(scratch);
    free(scratch.start);
    return good;
}
static double magnitudes(const problem *p, const void *B)
{
    exact sum = 0;
    for (fbp_size l = 0; l < p->K; l++)
        for (fbp_size j = 0; j < p->N; j++) sum += fabsl(get(B, l * p->B_row + j));
    return (double)sum;
}
static int close_to(double a, double b) { return fabs(a - b) <= 1e-3 * b; }
static double call(const problem *p, void **x, void **y)
{
    const options o = p->o;
    fbp_cross_entropy cross_entropy;
    fbp_update rates;
    double error = 0;
    static double row[LONGEST], errors[LONGEST];
    void *e = p->past_caches ? row : NULL;
    const fbp_size n = p->n, unit = k->tile_columns(), i = p->in_parts ? p->M / 2 : 0;
    const fbp_size j = p->in_parts ? p->N / 2 / unit * unit : 0;
    switch (p->id) { /* a primitive without a case is an error of compilation, by -Wall -Werror */
    case is_activate: k->activate(o.kind, n, x[0], y[0]); break;
    case is_activate_backward: k->activate_backward(o.kind, n, x[0], x[1], y[0]); break;
    case is_softmax_row: k->softmax_row(n, x[0], y[0]); break;
    case is_log_softmax_row: k->log_softmax_row(n, x[0], y[0]); break;
    case is_logsumexp_row: return k->logsumexp_row(n, x[0]);
    case is_softmax_backward_row: k->softmax_backward_row(n, x[0], x[1], y[0]); break;
    case is_softmax_hessian_row: k->softmax_hessian_row(n, x[0], o.scale, y[0]); break;
    case is_softmax_cross_entropy_rows: /* one of them; the twin of the package knows them all */
        k->softmax_cross_entropy_rows(1, n, x[0], n, (const int64_t[]){p->label}, (const double[]){1}, 1 / o.scale, NULL, NULL, e,
                                      y[0], n, &error);
        return error;
    case is_softmax_cross_entropy_row:
        cross_entropy = (fbp_cross_entropy){o.weighted ? x[2] : NULL, o.smoothing, o.lse_square_scale, o.softcap, 0, 0, 0};
        for (fbp_size c = 0; o.weighted && c < n; c++) {
            const exact w = get(x[2], c), sum = cross_entropy.weight_sum + w;
            cross_entropy.weight_sum_lost += (double)(cross_entropy.weight_sum - (double)sum + w);
            cross_entropy.weight_sum = (double)sum;
            cross_entropy.share_of_0 |= o.smoothing != 0 && fabsl(w) * o.smoothing / n < type->tiny / type->eps;
        }
        return k->softmax_cross_entropy_row(n, x[0], o.rows ? x[1] : NULL, p->label, &cross_entropy, o.scale, y[1], e, y[0]);
    case is_elementwise_error_row:
        return k->elementwise_error_row(n, x[0], x[1], &(fbp_error){o.kind, o.weighted ? x[2] : NULL, o.smoothing, o.parameter},
                                        o.scale, y[0]);
    case is_elementwise_error_column:
        k->elementwise_error_column(n, x[0], x[1], &(fbp_error){o.kind, NULL, o.smoothing, o.parameter}, o.scale, y[0], errors);
        exact sum = 0;
        for (fbp_size c = 0; c < n; c++) sum += errors[c];
        return (double)sum;
    case is_sigmoid_hessian_row:
        k->sigmoid_hessian_row(n, x[0], x[1], &(fbp_error){o.kind, o.weighted ? x[2] : NULL, o.smoothing, o.parameter}, o.scale,
                               y[0]);
        break;
    case is_update:
        rates = (fbp_update){.rule = o.kind, .learning_rate = 0.1, .rate = {0.9, 0.999, 1e-8}, .bias = {1, 1},
                             .gradient_scale = 1};
        rates.weight_decay = o.decay;
        if (o.kind == FBP_UPDATE_sgd) rates.rate[0] = o.momentum, rates.rate[1] = o.nesterov;
        if (o.kind == FBP_UPDATE_rmsprop) rates.rate[0] = 0.999, rates.rate[1] = 1e-8, rates.rate[2] = 0.9;
        if (o.kind == FBP_UPDATE_adagrad) rates.rate[0] = 1e-8;
        if (o.kind == FBP_UPDATE_adam) rates.bias[0] = 1 - pow(0.9, o.step), rates.bias[1] = 1 - pow(0.999, o.step);
        void *state[FBP_STATES] = {o.kind == FBP_UPDATE_sgd && o.momentum == 0 ? NULL : y[1]};
        if (o.kind == FBP_UPDATE_adam) state[1] = y[2];
        if (o.kind == FBP_UPDATE_rmsprop) state[2] = y[2];
        if (o.kind == FBP_UPDATE_muon) rates.rate[1] = o.nesterov, state[1] = o.formed ? y[2] : NULL;
        k->update(n, x[0], &rates, state, y[0]);
        break;
    case is_largest_magnitude: return k->largest_magnitude(n, x[0], y[0]);
    case is_sum_of_squares: return k->sum_of_squares(n, x[0]);
    case is_dropout: k->dropout(n, x[0], o.scale, KEY, STREAM, START, y[0]); break;
    case is_matrix_product:
        return multiply(p, x, y[0], 0, i, 0, j) & multiply(p, x, y[0], i, p->M - i, 0, j) &
               multiply(p, x, y[0], 0, i, j, p->N - j) & multiply(p, x, y[0], i, p->M - i, j, p->N - j);
    case is_product_pieces: /* never where a number meets few others, or sums are short */
        return k->product_pieces(n, 1, n, 1) == 0 && k->product_pieces(n, n, 9, 1) == 0;
    case is_matrix_product_scratch: /* it grows with each size, also where one more term takes a block more */
        for (int pieces = 0; pieces < 3; pieces++)
            if (k->matrix_product_scratch(7, 9, n, 0) > k->matrix_product_scratch(70, 9, n, pieces) ||
                k->matrix_product_scratch(70, 9, n, pieces) > k->matrix_product_scratch(70, 90, n, pieces) ||
                k->matrix_product_scratch(70, 90, n, pieces) > k->matrix_product_scratch(70, 90, n + 1, pieces))
                return 0;
        return 1;
    case is_tile_columns: return k->tile_columns() > 0;
    case is_tile_depth: return k->tile_depth() > 0;
    case is_column_sums: /* in two parts, which give the bits of one */
        if (p->in_parts) {
            const fbp_size first = p->K / 3;
            k->column_sums(first, p->N, x[1], p->B_row, 0, y[0]);
            k->column_sums(p->K - first, p->N, element(x[1], first * p->B_row), p->B_row, 1, y[0]);
            return 1;
        }
        return close_to(k->column_sums(p->K, p->N, x[1], p->B_row, 0, y[0]), magnitudes(p, x[1]));
    case is_multiply_adds: return k->multiply_adds(3) == 3 * k->multiply_adds(1);
    }
    return 0;
}

/* -- the table --------------------------------------------------------------------------------------------------------------- */
enum { UPDATES = 1 << INPUTS, VARIANTS = 4 };
typedef struct {
    const char *name;
    enum primitive id;
    void (*expect)(problem *);
    const char *inputs;         /* what each is filled with, see fill() */
    int outputs, in_place;      /* bit i: the first output may lie in input i; UPDATES: output o begins as input o + 1 */
    double bound;
    options variants[VARIANTS]; /* the first, and others whose scale is not 0 */
    int sweep;
} line;
#define LINE(name, ...) {#name, is_##name, __VA_ARGS__, 0}
#define FUNCTION(name, KIND, bound) {name, is_activate, expect_elements, "z", 1, 1, bound, {{.kind = KIND}}, 1}
#define SLOPE(name, KIND, inputs, bound) \
    {name "'", is_activate_backward, expect_elements, inputs, 1, 3, bound, {{.kind = KIND}}, 0}
#define ERROR(name, inputs, ...) {#name, is_elementwise_error_row, expect_elements, inputs, 1, 1, __VA_ARGS__, 0}
#define UPDATE(name, inputs, outputs, ...) {"update, " #name, is_update, expect_update, inputs, outputs, UPDATES, __VA_ARGS__, 0}
static const line LINES[] = {
    {"exp, by poisson_deviance", is_elementwise_error_row, expect_elements, "z0", 1, 1, EXP,
     {{.kind = FBP_POISSON_DEVIANCE, .scale = 1, .any_result = 1}}, 1},
    FUNCTION("identity", FBP_IDENTITY, 0),
    FUNCTION("sigmoid", FBP_SIGMOID, SIGMOID),
    FUNCTION("tanh", FBP_TANH, TANH),
    FUNCTION("relu", FBP_RELU, 0),
    FUNCTION("leaky_relu", FBP_LEAKY_RELU, 2 * ROUNDING),
    FUNCTION("elu", FBP_ELU, EXP),
    FUNCTION("selu", FBP_SELU, EXP + 2 * ROUNDING),
    FUNCTION("gelu", FBP_GELU, TAIL + ROUNDING),
    FUNCTION("silu", FBP_SILU, SIGMOID + ROUNDING),
    FUNCTION("mish", FBP_MISH, EXP + 5 * ROUNDING),                 /* x n/d: an exponential, five operations */
    FUNCTION("softplus", FBP_SOFTPLUS, EXP + LOG),                  /* max(x, 0) + log1p(e^-|x|) */
    SLOPE("identity", FBP_IDENTITY, "zg", 0),
    SLOPE("sigmoid", FBP_SIGMOID, "gt", 3 * ROUNDING),
    SLOPE("tanh", FBP_TANH, "gg", 4 * ROUNDING),
    SLOPE("relu", FBP_RELU, "gz", 0),
    SLOPE("leaky_relu", FBP_LEAKY_RELU, "gz", 2 * ROUNDING),
    SLOPE("elu", FBP_ELU, "gg", 2 * ROUNDING),
    SLOPE("selu", FBP_SELU, "gg", 4 * ROUNDING),                    /* λα + a for a > -1, at least 0.75 */
    SLOPE("gelu", FBP_GELU, "gz", TAIL + 4 * ROUNDING),             /* tail - a φ, and φ is as good as the tail */
    SLOPE("silu", FBP_SILU, "gz", 2 * SIGMOID + 3 * ROUNDING),      /* σ(a) (1 + a σ(-a)) */
    SLOPE("mish", FBP_MISH, "gz", 2 * EXP + 8 * ROUNDING),          /* (n + 4 x e² (1 + e)/d)/d */
    SLOPE("softplus", FBP_SOFTPLUS, "gw", EXP + 2 * ROUNDING),      /* 1 - e^-a */
    LINE(softmax_row, expect_elements, "z", 1, 1, SOFTMAX, {{0}}),
    LINE(log_softmax_row, expect_elements, "z", 1, 1, EXP + SUM + LOG + 2 * ROUNDING, {{0}}),
    LINE(logsumexp_row, expect_one_number, "z", 0, 0, EXP + SUM + LOG + 2 * ROUNDING, {{0}}),
    LINE(softmax_backward_row, expect_elements, "gt", 1, 3, SUM + 3 * ROUNDING, {{0}}),
    LINE(softmax_hessian_row, expect_elements, "z", 1, 1, 2 * SOFTMAX + 4 * ROUNDING, {{.scale = 1}, {.scale = 0.3}}),
    LINE(softmax_cross_entropy_rows, expect_cross_entropy, "z", 1, 1, SOFTMAX + 3 * ROUNDING,
         {{.scale = 1}, {.scale = 0.3, .at_top = 1}}),
    LINE(softmax_cross_entropy_row, expect_cross_entropy, "ztw", 2, 1, SOFTMAX + 8 * ROUNDING, /* targets have four roundings */
         {{.rows = 1, .scale = 1}, {.scale = 0.3, .weighted = 1, .smoothing = 0.1, .lse_square_scale = 0.01},
          {.rows = 1, .scale = 1, .softcap = 3}, {.scale = 1, .at_top = 1, .weighted = 1, .smoothing = 0.1, .softcap = 3}}),
    ERROR(sigmoid_cross_entropy, "ztw", EXP + LOG + SUM + 4 * ROUNDING,
          {{.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 1},
           {.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 0.3, .weighted = 1, .smoothing = 0.1}}),
    LINE(elementwise_error_column, expect_elements, "zt", 1, 1, EXP + LOG + 4 * ROUNDING, /* summed in many digits */
         {{.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 1}, {.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 0.3, .smoothing = 0.1},
          {.kind = FBP_SQUARED_ERROR, .scale = 0.3}, {.kind = FBP_HUBER, .scale = 1, .parameter = 0.3}}),
    LINE(sigmoid_hessian_row, expect_elements, "ztw", 1, 1, EXP + 9 * ROUNDING,
         {{.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 1},
          {.kind = FBP_SIGMOID_CROSS_ENTROPY, .scale = 0.3, .weighted = 1, .smoothing = 0.1}}),
    ERROR(squared_error, "zg", SUM + 3 * ROUNDING, {{.kind = FBP_SQUARED_ERROR, .scale = 0.3}}),
    ERROR(sigmoid_squared_error, "zt", 2 * SIGMOID + SUM, {{.kind = FBP_SIGMOID_SQUARED_ERROR, .scale = 0.3}}),
    ERROR(poisson_deviance, "zc", EXP + LOG + SUM + 2 * ROUNDING, {{.kind = FBP_POISSON_DEVIANCE, .scale = 0.3}}),
    ERROR(huber, "zg", SUM + 4 * ROUNDING,
          {{.kind = FBP_HUBER, .scale = 0.3, .parameter = 1}, {.kind = FBP_HUBER, .scale = 1, .parameter = 0.3}}),
    ERROR(quantile, "zg", SUM + 3 * ROUNDING,
          {{.kind = FBP_QUANTILE, .scale = 0.3, .parameter = 0.5}, {.kind = FBP_QUANTILE, .scale = 1, .parameter = 0.9}}),
    UPDATE(sgd, "zgg", 2, 10 * ROUNDING, /* three scalars, seven operations */
           {{.scale = 1, .kind = FBP_UPDATE_sgd}, {.scale = 1, .kind = FBP_UPDATE_sgd, .momentum = 0.9},
            {.scale = 1, .kind = FBP_UPDATE_sgd, .momentum = 0.9, .nesterov = 1, .decay = 0.01}}),
    UPDATE(rmsprop, "zgwg", 3, 20 * ROUNDING, /* seven scalars, thirteen operations on the longest path */
           {{.scale = 1, .kind = FBP_UPDATE_rmsprop}, {.scale = 1, .kind = FBP_UPDATE_rmsprop, .decay = 0.01}}),
    UPDATE(adagrad, "zgw", 2, 10 * ROUNDING, /* three scalars, seven operations */
           {{.scale = 1, .kind = FBP_UPDATE_adagrad}, {.scale = 1, .kind = FBP_UPDATE_adagrad, .decay = 0.01}}),
    UPDATE(adam, "zggw", 3, 20 * ROUNDING, /* eight scalars, twelve operations on the longest path */
           {{.scale = 1, .kind = FBP_UPDATE_adam, .step = 1}, {.scale = 1, .kind = FBP_UPDATE_adam, .step = 9},
            {.scale = 1, .kind = FBP_UPDATE_adam, .step = 999, .decay = 0.01}}),
    UPDATE(lion, "zgg", 2, 10 * ROUNDING, /* five scalars, five operations */
           {{.scale = 1, .kind = FBP_UPDATE_lion}, {.scale = 1, .kind = FBP_UPDATE_lion, .decay = 0.01}}),
    UPDATE(muon, "zggz", 3, 10 * ROUNDING, /* four scalars, six operations */
           {{.scale = 1, .kind = FBP_UPDATE_muon}, {.scale = 1, .kind = FBP_UPDATE_muon, .nesterov = 1},
            {.scale = 1, .kind = FBP_UPDATE_muon, .formed = 1, .decay = 0.01}}),
    LINE(dropout, expect_dropout, "z", 1, 1, 2 * ROUNDING, {{.scale = 0.3}, {.scale = 0.5}}),
    LINE(largest_magnitude, expect_one_number, "z", 0, 0, 0, {{0}}),
    LINE(sum_of_squares, expect_sum_of_squares, "g", 0, 0, 4 * ROUNDING, {{0}}),
    {"largest_magnitude, copied", is_largest_magnitude, expect_copy, "z", 1, 1, 0, {{0}}, 0},
    LINE(matrix_product, expect_product, "zggt", 1, 0, CHAIN, {{0}}),
    {"matrix_product, added", is_matrix_product, expect_product, "zggt", 1, UPDATES, CHAIN, {{.add = 1}}, 0},
    {"matrix_product, update", is_matrix_product, expect_product, "zggt", 1, UPDATES, CHAIN, {{.update = 1}}, 0},
    {"matrix_product, medium", is_matrix_product, expect_product, "zggt", 1, 0, CHAIN, {{.pieces = 1}}, 0},
    {"matrix_product, high", is_matrix_product, expect_product, "zggt", 1, 0, CHAIN, {{.pieces = 2}}, 0},
    {"matrix_product, medium, added", is_matrix_product, expect_product, "zggt", 1, UPDATES, CHAIN, {{.add = 1, .pieces = 1}}, 0},
    {"matrix_product, medium, update", is_matrix_product, expect_product, "zggt", 1, UPDATES, CHAIN,
     {{.update = 1, .pieces = 1}}, 0},
    {"matrix_product, high, update", is_matrix_product, expect_product, "zggt", 1, UPDATES, CHAIN,
     {{.update = 1, .pieces = 2}}, 0},
    LINE(product_pieces, expect_yes, "", 0, 0, 0, {{0}}),
    LINE(column_sums, expect_product, "1g", 1, 0, CHAIN, {{0}}), /* the product of a row of ones */
    LINE(matrix_product_scratch, expect_yes, "", 0, 0, 0, {{0}}),
    LINE(tile_columns, expect_yes, "", 0, 0, 0, {{0}}),
    LINE(tile_depth, expect_yes, "", 0, 0, 0, {{0}}),
    LINE(multiply_adds, expect_yes, "", 0, 0, 0, {{0}}),
};
enum { COUNT = sizeof LINES / sizeof LINES[0], ISAS = 8 };
typedef struct { double worst; long cases, failures; uint32_t bits; } verdict;
static verdict verdicts[COUNT][ISAS][2];

/* -- solving a problem, and the verdict -------------------------------------------------------------------------------------- */
typedef struct { block out[OUTPUTS]; int outputs, clean; double result; } run;
static run solve(const line *l, const problem *p, int shared) /* the first output lies in input `shared`, unless that is -1 */
{
    const int inputs = (int)strlen(l->inputs);
    run r = {.outputs = l->outputs, .clean = 1};
    block from[INPUTS], before[INPUTS];
    void *x[INPUTS] = {0}, *y[OUTPUTS] = {0};
    for (int i = 0; i < inputs; i++) {
        from[i] = place(p->in_length[i], in[i]), before[i] = copy_of(from[i]);
        x[i] = contents(from[i]);
    }
    for (int o = 0; o < r.outputs; o++) {
        const int begins_as = l->in_place == UPDATES ? o + 1 : o == 0 ? shared : -1;
        r.out[o] = place(p->out_length[o], begins_as < 0 ? NULL : in[begins_as]), y[o] = contents(r.out[o]);
    }
    if (shared >= 0) x[shared] = y[0];
    r.result = call(p, x, y);
    if (isnan(r.result)) r.result = NAN; /* whose sign depends on the order of factors, and means nothing */
    for (int o = 0; o < r.outputs; o++)
        for (fbp_size i = 0; i < p->out_length[o]; i++)
            if (isnan(get(y[o], i))) put(y[o], i, NAN);
    for (int o = 0; o < r.outputs; o++) r.clean &= intact(r.out[o]);
    for (int i = 0; i < inputs; free(before[i].start), free(from[i++].start)) r.clean &= same(from[i], before[i]);
    return r;
}
static int agrees(const run *a, run b) /* in every bit; that is the end of b */
{
    int good = b.clean && memcmp(&a->result, &b.result, sizeof b.result) == 0;
    for (int o = 0; o < b.outputs; free(b.out[o++].start)) good &= same(a->out[o], b.out[o]);
    return good;
}

static double error_of(exact got, estimate e)
{
    exact error = fabsl(got - e.value) / fmaxl(type->eps * fabsl(e.size), type->tiny * e.floor);
    if (e.floor == INFINITY || got == e.value || (isnan(got) && isnan(e.value))) return 0;
    if (isinf(got) && fabsl(e.value) > type->largest) return got * e.value > 0 ? 0 : INFINITY;
    return isnan(error) ? INFINITY : (double)error;
}

static int takes_labels(enum primitive id) { return id == is_softmax_cross_entropy_rows || id == is_softmax_cross_entropy_row; }

static void judge(const line *l, problem *p, int number, const char *flavour)
{
    run first = solve(l, p, -1);
    const char *wrong = first.clean ? NULL : "wrote where it may not";
    if (!agrees(&first, solve(l, p, -1))) wrong = "other bits in a second run";
    for (int i = 0; i < INPUTS; i++)
        if (l->in_place >> i & 1 && !agrees(&first, solve(l, p, i))) wrong = "other bits in place";
    p->in_parts = 1;
    if ((p->id == is_matrix_product || p->id == is_column_sums) && !agrees(&first, solve(l, p, -1)))
        wrong = "other bits in parts";
    p->in_parts = 0;
    p->past_caches = 1;
    if (takes_labels(p->id) && !agrees(&first, solve(l, p, -1))) wrong = "other bits past the caches";
    p->past_caches = 0;

    exact got = first.result, value = p->result.value;
    double worst = error_of(got, p->result);
    fbp_size output = -1, at = 0;
    uint32_t bits = 0; /* a checksum of all outputs */
    for (int o = 0; o < l->outputs; o++)
        for (size_t i = 0; i < first.out[o].bytes; i++) bits = bits * 16777619u ^ first.out[o].start[i];
    for (int o = 0; o < l->outputs; free(first.out[o++].start))
        for (fbp_size i = 0; i < p->out_length[o]; i++) {
            exact x = get(contents(first.out[o]), i);
            double error = error_of(x, want[o][i]);
            if (error > worst) worst = error, got = x, value = want[o][i].value, output = o, at = i;
        }
    verdict *v = &verdicts[l - LINES][number][type - DTYPES];
    v->cases++, v->worst = fmax(v->worst, worst);
    v->bits = v->bits * 31 + bits;
    if ((wrong || worst > l->bound) && v->failures++ == 0)
        printf("%s, %s %s, %s, n = %td, M N K = %td %td %td: %s, %.3g eps, [%td] of output %td is %.17Lg, exactly %.17Lg\n",
               l->name, fbp_isa(), type->name, flavour, p->n, p->M, p->N, p->K, wrong ? wrong : "inexact", worst, at, output, got,
               value);
}

static void on_each_isa(const line *l, problem *p, int flavour)
{
    const char *isa;
    int expected = -1;
    for (int i = 0; i < INPUTS && l->inputs[i]; i++) fill(in[i], p->in_length[i], l->inputs[i], flavour);
    if (flavour == FAR_APART) spread(p);
    for (int number = 0; (isa = fbp_isa_name(number)); number++) {
        if ((only && strcmp(isa, only) != 0) || fbp_use_isa(isa) != 0) continue;
        k = fbp_kernels_for(type->size);
        fused = strcmp(isa, "generic") != 0;
        if (expected < 0 || (p->o.kind == FBP_GELU && fused != expected)) l->expect(p);
        expected = fused;
        judge(l, p, number, FLAVOUR_NAMES[flavour]);
    }
}

static void one_row(const line *l, int variant, fbp_size n, int flavour)
{
    problem p = {.id = l->id, .o = l->variants[variant], .n = n, .label = (fbp_size)uniform(0, n)};
    for (size_t i = 0; i < strlen(l->inputs); i++) p.in_length[i] = n;
    for (int o = 0; o < l->outputs; o++) p.out_length[o] = n;
    on_each_isa(l, &p, flavour);
}
static void rows(const line *l, fbp_size points, int thorough)
{
    static const fbp_size LARGE[] = {63, 64, 65, 127, 129, 255, 256, 257, 511, 512, 513, 1000, LONGEST_ROW, LONGEST};
    const int labelled = takes_labels(l->id);
    for (int variant = 0; variant < VARIANTS && (variant == 0 || l->variants[variant].scale != 0); variant++) {
        for (fbp_size n = labelled; n <= 3 * 64 / (fbp_size)type->size; n++) /* to three of the widest vectors */
            for (int flavour = 0; flavour < FLAVOURS; flavour++)
                if (thorough || flavour == 3 * n % FLAVOURS) one_row(l, variant, n, flavour);
        for (int i = 0; LARGE[i] <= (thorough ? LONGEST_ROW : 256); i++) one_row(l, variant, LARGE[i], (3 * i + 4) % FLAVOURS);
    }
    if (l->sweep) one_row(l, 0, points, SWEEP);
}

static void one_product(const line *l, fbp_size M, fbp_size N, fbp_size K, int strides, int then, int flavour)
{
    const int A_down = strides & 1, B_down = strides & 2, step = strides & 4 ? 2 : 1; /* 2: no neighbours in memory */
    problem p = {
        .id = l->id, .M = M, .N = N, .K = K, .slope_row = N + 2, .C_row = N + 5,
        .A_row = step * (A_down ? 1 : K + 3), .A_column = step * (A_down ? M + 3 : 1),
        .B_row = step * (B_down ? 1 : N + 3), .B_column = step * (B_down ? K + 3 : 1),
        .in_length = {step * (A_down ? K * (M + 3) : M * (K + 3)), step * (B_down ? N * (K + 3) : K * (N + 3)), N, M * (N + 2)},
        .out_length = {M * (N + 5)},
        .o = l->variants[0],
    };
    if (!p.o.add && !p.o.update) {
        p.o.bias = then == 1 || then == 2, p.o.slope = then == 3;
        p.o.kind = then < 2 ? FBP_IDENTITY : (int)uniform(1, FBP_ACTIVATIONS);
    }
    on_each_isa(l, &p, flavour);
}
static void products(const line *l, fbp_size points)
{
    static const fbp_size EDGES[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 23, 24, 28, 29, 31, 32, 33, 65};
    static const fbp_size DEPTHS[] = {0, 1, 2, 7, 33};
    static const fbp_size LARGE[][3] = {{5, 9, 255}, {5, 9, 257}, {15, 3, 600}, {540, 35, 3}, {2, 4130, 3}, {150, 290, 9},
                                        {20, 600, 35}, {70, 100, 70}, {300, 90, 65}, {35, 40, 530}, {40, 1100, 70},
                                        {17, 1030, 35}};
    const int few = points < 10000, thorough = points >= 100000;
    for (int i = 0; i < 24 * 24; i += thorough ? 1 : few ? 19 : 5) { /* no step is a divisor of what it goes through */
        const int strides = (int)uniform(0, 8), then = (int)uniform(0, 4), flavour = one_in(9) ? ONE_NAN : ORDINARY;
        if (l->id == is_column_sums) one_product(l, 1, EDGES[i % 24], EDGES[i / 24], 0, 0, ORDINARY);
        else one_product(l, EDGES[i / 24], EDGES[i % 24], DEPTHS[i % 23 % 5], strides, then, flavour);
    }
    for (int i = 0; i < 12 * 32 && l->id == is_matrix_product; i += thorough ? 1 : few ? 37 : 13)
        if (!l->variants[0].update || LARGE[i / 32][2] <= 256) /* an update takes a sum of one block */
            one_product(l, LARGE[i / 32][0], LARGE[i / 32][1], LARGE[i / 32][2], i % 8, i / 8 % 4, ORDINARY);
    for (int i = 0; i < 8 && l->id == is_matrix_product && l->in_place == 0; i += thorough ? 1 : 4)
        for (int large = 7; large < 10; large++)
            one_product(l, LARGE[large][0], LARGE[large][1], LARGE[large][2], i, 0, FAR_APART);
}

int main(int argc, char **argv)
{
    const long asked = argc > 1 ? atol(argv[1]) : 200000, points = asked < LONGEST ? asked : LONGEST;
    const int thorough = points >= 100000;
    long passed = 0, failed = fbp_use_isa("none") == 0;
    only = argc > 3 ? argv[3] : NULL;
    for (type = DTYPES; type < DTYPES + (LDBL_MANT_DIG > DBL_MANT_DIG ? 2 : 1); type++) { /* the formulas need a wider type */
        if (argc > 2 && strcmp(argv[2], type->name) != 0) continue;
        for (const line *l = LINES; l < LINES + COUNT; l++)
            l->id == is_matrix_product || l->id == is_column_sums ? products(l, points) : rows(l, points, thorough);
    }
    printf("%-34s %-8s %-8s %10s %10s %8s %8s\n", "primitive", "isa", "dtype", "error/eps", "bound", "bits", "cases");
    for (int i = 0; i < COUNT * ISAS * 2; i++) {
        const int l = i / 2 / ISAS, number = i / 2 % ISAS, t = i % 2;
        const verdict v = verdicts[l][number][t];
        if (v.cases == 0) continue;
        printf("%-34s %-8s %-8s %10.3g %10.3g %08x %8ld  %s\n", LINES[l].name, fbp_isa_name(number), DTYPES[t].name, v.worst,
               LINES[l].bound, (unsigned)v.bits, v.cases, v.failures ? "FAILED" : "ok");
        v.failures ? failed++ : passed++;
    }
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed > 0;
}
