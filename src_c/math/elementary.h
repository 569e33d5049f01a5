/* Elementary functions on vectors, written in the vocabulary of simd/ alone.
 *
 * Error bounds against the exact function, in units of eps (the distance from 1 to the next number), on every instruction set;
 * tests/c/test_kernels.c measures them:
 *
 *   v_exp 1   v_expm1_nonpositive 1   v_log1p_unit 1.5   v_log1p_nonnegative 2   v_log 1.5   v_sigmoid 2
 *   v_tanh_each 2   v_softplus 2.5   v_silu 2.5   v_mish 3.5   v_exp2_each 1   v_softcap_each 3, relative to each of its results
 *   v_normal_tail 4, v_gelu 4.5; times 1 + x²/4 where v_fma rounds twice
 *
 * Every function takes every input: NaN gives NaN, infinities their limits; results below the normal range underflow gradually,
 * where the unit is the smallest subnormal number (times |x| in v_silu, v_mish and v_gelu, which multiply such a result by x).
 */
#include "coefficients.h"

#define LN_2 0.69314718055994530942

#ifdef FBP_FLOAT32
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f /* 9 bits of ln 2, so that k·LN2_HIGH is exact for |k| < 2^15 */
#define LN2_LOW -2.12194440e-4f
#define EXP_MAX 89.0f   /* beyond: inf */
#define EXP_MIN -105.0f /* and below: 0, half of the smallest subnormal being 2^-150 or e^-103.97 */
#define EXPM1_MIN -20.0f /* below: e^x - 1 rounds to -1 */
#define NORMAL_END 15.0f
#define SMALLEST_NORMAL 1.17549435e-38f
#define LARGEST 3.40282347e+38f
#define SUBNORMAL_SCALE 16777216.0f
#define SUBNORMAL_POWER 24
#else
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 6.93147180369123816490e-01 /* 32 bits of ln 2 */
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_MAX 710.0
#define EXP_MIN -746.0
#define EXPM1_MIN -40.0
#define NORMAL_END 40.0
#define SMALLEST_NORMAL 2.2250738585072014e-308
#define LARGEST 1.7976931348623157e+308
#define SUBNORMAL_SCALE 9007199254740992.0
#define SUBNORMAL_POWER 53
#endif

static inline vec v_min(vec a, vec b) { return v_select(v_lt(a, b), a, b); } /* b where either is NaN */
static inline vec v_abs(vec x) { return v_max(x, v_sub(v_all(0), x)); }
static inline vec v_negative(vec x) { return v_sub(v_all(0), x); }

/* Horner's rule; `terms` is a constant where this is inlined, so the loop unrolls. */
static ALWAYS_INLINE vec v_polynomial(const real *coefficients, int terms, vec x)
{
    vec sum = v_all(coefficients[0]);
    for (int i = 1; i < terms; i++) sum = v_fma(sum, x, v_all(coefficients[i]));
    return sum;
}
#define V_POLYNOMIAL(table, x) v_polynomial(table, sizeof(table) / sizeof(table[0]), x)

/* x = k ln 2 + r with whole k and |r| <= ln 2 / 2; returns r. */
static ALWAYS_INLINE vec v_exp_argument(vec x, vec *k)
{
    *k = v_sub(v_fma(x, v_all(LOG2_E), v_all(ROUNDER)), v_all(ROUNDER));
    return v_fma(*k, v_all(-LN2_LOW), v_fma(*k, v_all(-LN2_HIGH), x));
}

/* What follows for n vectors of a small constant n goes in step: one alone is a chain of a dozen operations that wait for each
 * other, and a processor looks only so far ahead for the next chain to begin. */
enum { IN_STEP = 4 };

/* p_j = EXP_TAIL(r_j) = (e^r - 1 - r) / r² with r_j the remainder and k_j the power of 2 of x_j */
static ALWAYS_INLINE void v_exp_tails(int n, const vec *x, vec *k, vec *r, vec *p)
{
    enum { TERMS = sizeof EXP_TAIL / sizeof EXP_TAIL[0] };
    UNROLL for (int j = 0; j < n; j++) r[j] = v_exp_argument(x[j], &k[j]);
    UNROLL for (int j = 0; j < n; j++) p[j] = v_all(EXP_TAIL[0]);
    UNROLL for (int i = 1; i < TERMS; i++)
        UNROLL for (int j = 0; j < n; j++) p[j] = v_fma(p[j], r[j], v_all(EXP_TAIL[i]));
}

/* y_j = e^(y_j) for y_j <= EXP_MAX: 2^k (1 + r (1 + r EXP_TAIL)). Far below, where r is nonsense, v_ldexp knows what 2^k makes of
 * it. */
static ALWAYS_INLINE void v_exp_each(int n, vec *y)
{
    const vec one = v_all(1);
    vec k[IN_STEP], r[IN_STEP];
    v_exp_tails(n, y, k, r, y);
    UNROLL for (int i = 0; i < 2; i++)
        UNROLL for (int j = 0; j < n; j++) y[j] = v_fma(y[j], r[j], one);
    UNROLL for (int j = 0; j < n; j++) y[j] = v_ldexp(y[j], k[j]);
}
/* y_j = 2^(scale y_j) for scale > 0, y_j <= 0: the remainder of a whole number takes one operation, where that of k ln 2 takes
 * two. It is held with its sign turned, s = k - scale y, and so are the coefficients: 2^-s = 1 + s (-EXP2_TAIL(-s)). */
static ALWAYS_INLINE void v_exp2_each(int n, vec scale, vec *y)
{
    enum { TERMS = sizeof EXP2_TAIL / sizeof EXP2_TAIL[0] };
    const vec rounder = v_all(ROUNDER), minus_scale = v_negative(scale);
    vec k[IN_STEP], s[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) {
        k[j] = v_sub(v_fma(y[j], scale, rounder), rounder);
        s[j] = v_fma(y[j], minus_scale, k[j]);
        y[j] = v_all(0);
    }
    UNROLL for (int i = 0; i < TERMS; i++) {
        const vec turned = v_all((TERMS - i) % 2 ? -EXP2_TAIL[i] : EXP2_TAIL[i]);
        UNROLL for (int j = 0; j < n; j++) y[j] = i == 0 ? turned : v_fma(y[j], s[j], turned);
    }
    UNROLL for (int j = 0; j < n; j++) y[j] = v_ldexp(v_fma(y[j], s[j], v_all(1)), k[j]);
}
static ALWAYS_INLINE vec v_exp_below(vec x)
{
    v_exp_each(1, &x);
    return x;
}
static ALWAYS_INLINE vec v_exp(vec x) { return v_exp_below(v_min(v_all(EXP_MAX), x)); }

/* y = e^x with x = a - b, and what that difference lost in rounding (D. E. Knuth, The Art of Computer Programming 2, 4.2.2,
 * theorem B) brought back: without it the relative error grows like |x| eps. Promised, and paid for, in float64 only. */
static ALWAYS_INLINE vec v_regain(vec a, vec b, vec x, vec y)
{
#ifdef FBP_FLOAT32
    (void)a, (void)b, (void)x;
    return y;
#else
    vec minus_b = v_sub(x, a), lost = v_sub(v_sub(a, v_sub(x, minus_b)), v_add(b, minus_b));
    return v_fma(y, v_select(v_lt(v_all(EXP_MIN), x), lost, v_all(0)), y); /* infinities differ by nothing that could be lost */
#endif
}

/* y_j = e^(y_j) - 1 for low <= y_j <= 0, exact for tiny ones as well: 2^k p + (2^k - 1) with p = e^r - 1; and e^(y_j) = 2^k p +
 * 2^k to exponential_j */
static ALWAYS_INLINE void v_expm1_each(int n, real low, vec *y, vec *exponential)
{
    vec k[IN_STEP], r[IN_STEP], p[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) y[j] = v_max(v_all(low), y[j]);
    v_exp_tails(n, y, k, r, p);
    UNROLL for (int j = 0; j < n; j++) {
        vec power = v_ldexp(v_all(1), k[j]);
        p[j] = v_fma(v_mul(r[j], r[j]), p[j], r[j]);
        exponential[j] = v_fma(power, p[j], power);
        y[j] = v_fma(power, p[j], v_sub(power, v_all(1)));
    }
}
static ALWAYS_INLINE vec v_expm1_nonpositive(vec x, vec *exponential)
{
    v_expm1_each(1, EXPM1_MIN, &x, exponential);
    return x;
}

/* ln(1 + x) for -0.3 <= x <= 1. With s = x/(2 + x): ln(1 + x) = 2 atanh s = x - s (x - R), R = s² LOG_TAIL(s²) */
static ALWAYS_INLINE vec v_log1p_unit(vec x)
{
    vec s = v_div(x, v_add(v_all(2), x)), z = v_mul(s, s);
    return v_fma(v_negative(s), v_sub(x, v_mul(z, V_POLYNOMIAL(LOG_TAIL, z))), x);
}

/* ln(1 + x) for x >= 0: 1 + x = 2^k (1 + f) with f = x/2^k + (1/2^k - 1), rounded once, so that nothing of a small x is lost */
static ALWAYS_INLINE vec v_log1p_nonnegative(vec x)
{
    vec k;
    v_frexp(v_add(v_all(1), x), &k);
    vec scale = v_ldexp(v_all(1), v_negative(k)), f = v_fma(x, scale, v_sub(scale, v_all(1)));
    return v_fma(k, v_all(LN2_HIGH), v_fma(k, v_all(LN2_LOW), v_log1p_unit(f)));
}

/* ln x = k ln 2 + ln m with m in [1/√2, √2); -inf at 0, NaN below */
static ALWAYS_INLINE vec v_log(vec x)
{
    const vec zero = v_all(0), one = v_all(1);
    mask subnormal = v_lt(x, v_all(SMALLEST_NORMAL));
    vec k, m = v_frexp(v_select(subnormal, v_mul(x, v_all(SUBNORMAL_SCALE)), x), &k);
    k = v_select(subnormal, v_sub(k, v_all(SUBNORMAL_POWER)), k);
    mask large = v_lt(v_all((real)1.41421356237309505), m);
    m = v_select(large, v_mul(m, v_all((real)0.5)), m);
    k = v_select(large, v_add(k, one), k);
    vec y = v_log1p_unit(v_sub(m, one));
    y = v_fma(k, v_all(LN2_HIGH), v_fma(k, v_all(LN2_LOW), y));
    y = v_select(v_lt(v_all(LARGEST), x), x, y);                /* +inf */
    y = v_select(v_eq(x, zero), v_all(-INFINITY), y);
    return v_select(v_lt(x, zero), v_all(NAN), v_select(v_eq(x, x), y, x));
}

/* σ(x) = 1/(1 + e) for x >= 0, e/(1 + e) for x < 0, with e = e^-|x|: exact in both tails */
static ALWAYS_INLINE void v_sigmoid_each(int n, vec *x)
{
    vec e[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) e[j] = v_negative(v_abs(x[j]));
    v_exp_each(n, e);
    UNROLL for (int j = 0; j < n; j++) x[j] = v_div(v_select(v_lt(x[j], v_all(0)), e[j], v_all(1)), v_add(v_all(1), e[j]));
}
static ALWAYS_INLINE vec v_sigmoid(vec x)
{
    v_sigmoid_each(1, &x);
    return x;
}

/* tanh |x| = -t/(t + 2) with t = e^(-2|x|) - 1; from |x| = 1 on 1 - 2q/(t + 2) with q = e^(-2|x|), the nearer to 1 the better */
static ALWAYS_INLINE void v_tanh_each(int n, vec *x)
{
    vec t[IN_STEP], q[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) t[j] = v_mul(v_all(-2), v_abs(x[j]));
    v_expm1_each(n, EXPM1_MIN, t, q);
    UNROLL for (int j = 0; j < n; j++) {
        mask large = v_lt(v_all(1), v_abs(x[j]));
        vec y = v_div(v_select(large, v_add(q[j], q[j]), v_negative(t[j])), v_add(t[j], v_all(2)));
        y = v_select(large, v_sub(v_all(1), y), y);
        x[j] = v_select(v_lt(x[j], v_all(0)), v_negative(y), y);
    }
}

/* -tanh |x_j|, and its slope. With q = e^(-2|x|), t = q - 1 and one division:
 *
 *   -tanh |x| = t / (2 + t),  where |x| > 1 better as 2q/(2 + t) - 1        1 - tanh² = 2q/(2 + t) (1 + tanh |x|) */
static ALWAYS_INLINE void v_far_tanh_each(int n, const vec *x, vec *minus_tanh, vec *slope)
{
    vec t[IN_STEP], q[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) t[j] = v_mul(v_abs(x[j]), v_all(-2));
    v_expm1_each(n, EXP_MIN, t, q);
    UNROLL for (int j = 0; j < n; j++) {
        vec inverse = v_div(v_all(1), v_add(t[j], v_all(2))), left = v_mul(v_add(q[j], q[j]), inverse);
        minus_tanh[j] = v_select(v_lt(v_all(1), v_abs(x[j])), v_sub(left, v_all(1)), v_mul(t[j], inverse));
        slope[j] = v_fma(v_negative(left), minus_tanh[j], left);
    }
}

/* x_j = tanh(x_j inverse), and tanh² - 1, minus its slope. Up to x² = 0.3 a polynomial in x² gives tanh x, and tanh² - 1 loses
 * nothing yet; the vectors are seldom in which a lane needs more. What a lane gives depends on it alone. */
static ALWAYS_INLINE void v_softcap_each(int n, vec inverse, vec *z, vec *minus_slope)
{
    enum { TERMS = sizeof TANH_TAIL / sizeof TANH_TAIL[0] };
    const vec near = v_all((real)0.3);
    vec x[IN_STEP], u[IN_STEP], tanh[IN_STEP], minus_far[IN_STEP], far_slope[IN_STEP], farthest = v_all(0);
    UNROLL for (int j = 0; j < n; j++) {
        x[j] = v_mul(z[j], inverse);
        u[j] = v_mul(x[j], x[j]);
        farthest = v_max(u[j], farthest);
        tanh[j] = v_all(TANH_TAIL[0]);
    }
    UNROLL for (int i = 1; i < TERMS; i++)
        UNROLL for (int j = 0; j < n; j++) tanh[j] = v_fma(tanh[j], u[j], v_all(TANH_TAIL[i]));
    UNROLL for (int j = 0; j < n; j++) {
        tanh[j] = v_fma(v_mul(x[j], u[j]), tanh[j], x[j]);
        minus_slope[j] = v_fma(tanh[j], tanh[j], v_all(-1));
    }
    if (v_any(v_lt(near, farthest))) {
        v_far_tanh_each(n, x, minus_far, far_slope);
        UNROLL for (int j = 0; j < n; j++) {
            const mask far = v_lt(near, u[j]);
            vec signed_far = v_select(v_lt(x[j], v_all(0)), minus_far[j], v_negative(minus_far[j]));
            tanh[j] = v_select(far, signed_far, tanh[j]);
            minus_slope[j] = v_select(far, v_negative(far_slope[j]), minus_slope[j]);
        }
    }
    UNROLL for (int j = 0; j < n; j++) z[j] = tanh[j];
}

/* ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|) */
static ALWAYS_INLINE vec v_softplus(vec x)
{
    return v_add(v_max(v_all(0), x), v_log1p_unit(v_exp_below(v_negative(v_abs(x)))));
}

/* φ(x) and the upper tail 1 - Φ(x) of the normal distribution at x >= 0.
 *
 *   1 - Φ(x) = e^(-h²) NORMAL_TAIL(t) / (1 + 2h),  h = x/√2,  t = (h - 3)/(h + 3)
 *
 * e^(-h²) multiplies the rounding error of h² by h²; the fused remainder of the square takes that back. */
static ALWAYS_INLINE vec v_normal_tail(vec x, vec *density)
{
    const vec half = v_all((real)0.5), root_half = v_all((real)0.70710678118654752440);
    vec square = v_mul(x, x);
    vec remainder = v_fma(x, x, v_negative(square));
    vec e = v_exp_below(v_mul(v_negative(half), square));
    e = v_fma(v_mul(e, v_negative(half)), remainder, e);
    *density = v_mul(e, v_all((real)0.39894228040143267794)); /* 1/√(2π) */
    vec h = v_mul(x, root_half);
    vec t = v_div(v_sub(h, v_all(3)), v_add(h, v_all(3)));
    return v_div(v_mul(e, V_POLYNOMIAL(NORMAL_TAIL, t)), v_add(v_all(1), v_add(h, h)));
}

/* x Φ(x); x < 0 takes the tail itself, so that nothing cancels. At -NORMAL_END the tail is 0. */
static ALWAYS_INLINE vec v_gelu(vec x)
{
    vec density, tail = v_normal_tail(v_min(v_all(NORMAL_END), v_abs(x)), &density);
    vec below = v_mul(v_max(v_all(-NORMAL_END), x), tail);
    return v_select(v_lt(x, v_all(0)), below, v_mul(x, v_sub(v_all(1), tail)));
}

/* Φ(x) + x φ(x) */
static ALWAYS_INLINE vec v_gelu_slope(vec x)
{
    vec density, a = v_min(v_all(NORMAL_END), v_abs(x)), tail = v_normal_tail(a, &density);
    vec below = v_fma(v_negative(a), density, tail);
    return v_select(v_lt(x, v_all(0)), below, v_sub(v_all(1), below));
}

/* x σ(x), with the limit 0 at -inf */
static ALWAYS_INLINE vec v_silu(vec x) { return v_mul(v_max(v_all(EXP_MIN), x), v_sigmoid(x)); }

/* σ (1 + x (1 - σ)) with 1 - σ(x) = σ(-x); the limits 0 and 1 at the infinities */
static ALWAYS_INLINE vec v_silu_slope(vec x)
{
    x = v_max(v_all(EXP_MIN), v_min(v_all(EXP_MAX), x));
    return v_mul(v_sigmoid(x), v_fma(x, v_sigmoid(v_negative(x)), v_all(1)));
}

/* tanh(ln(1 + e^x)) = n/d with n = e^x (e^x + 2), d = n + 2; both times e^(-2x) where x >= 0, so that nothing overflows. Nor does
 * anything cancel. With e = e^-|x|:
 *
 *   x < 0:  n = e² + 2e,  d = n + 2        x >= 0:  n = 1 + 2e,  d = n + 2e² */
static ALWAYS_INLINE void v_mish_quotient(vec x, vec *e, vec *n, vec *d)
{
    const mask below = v_lt(x, v_all(0));
    *e = v_exp_below(v_negative(v_abs(x)));
    vec square = v_mul(*e, *e);
    *n = v_add(v_select(below, square, v_all(1)), v_add(*e, *e));
    *d = v_add(*n, v_select(below, v_all(2), v_add(square, square)));
}

/* x tanh(ln(1 + e^x)), with the limit 0 at -inf */
static ALWAYS_INLINE vec v_mish(vec x)
{
    vec e, n, d;
    v_mish_quotient(x, &e, &n, &d);
    return v_mul(v_max(v_all(EXP_MIN), x), v_div(n, d));
}

/* T + x (1 - T²) σ with T = n/d: (1 - T²) σ = 4 e (1 + e)/d² for x < 0, 4 e² (1 + e)/d² for x >= 0; the limits 0 and 1 */
static ALWAYS_INLINE vec v_mish_slope(vec x)
{
    vec e, n, d;
    x = v_max(v_all(EXP_MIN), v_min(v_all(EXP_MAX), x));
    v_mish_quotient(x, &e, &n, &d);
    vec power = v_select(v_lt(x, v_all(0)), e, v_mul(e, e));
    vec bend = v_mul(v_mul(v_mul(v_all(4), x), power), v_add(v_all(1), e));
    return v_div(v_add(n, v_div(bend, d)), d);
}
