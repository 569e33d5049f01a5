/* Errors whose outputs do not interact: the error of a row is a sum over its O outputs. For each error of ../errors.def a
 * function computes the terms of n vectors of outputs, and writes their scaled gradients to d. */
typedef struct {
    const real *z, *t, *pos_weight; /* logits or outputs; targets; weights of t = 1, or NULL */
    real keep, uniform;             /* smoothing replaces t by keep t + uniform, and 1 - t likewise */
    double parameter;               /* δ or τ; a double, so that 1 - τ is rounded once */
    real scale;
    real *d;
} output_row;

/* With A = 1 - t, B = p t (p: pos_weight), Q = A + B and e = e^-|z|, s = e/(1 + e) = σ(-|z|):
 *
 *   E = Q log1p(e) + |z| (A if z > 0 else B)         dE/dz = A - Q s  if z > 0,  Q s - B  else, which is (A - B)/2 at 0
 *
 * A parameter above 0 is the most that E counts for an output; dE/dz is not limited.
 * For p = 1, dE/dz = y - t, exact in both tails, and negated bit for bit if (z, t) becomes (-z, 1 - t). */
static ALWAYS_INLINE vec sigmoid_targets(const output_row *r, fbp_size i, fbp_size left, vec *B)
{
    vec t = load_at(r->t + i, left, 0), A = v_sub(v_all(1), t);
    *B = t;
    if (r->uniform != 0) { /* symmetric, unlike B = 1 - A, to keep the bits of (z, t) and (-z, 1 - t) the same */
        A = v_fma(A, v_all(r->keep), v_all(r->uniform));
        *B = v_fma(t, v_all(r->keep), v_all(r->uniform));
    }
    if (r->pos_weight) *B = v_mul(*B, load_at(r->pos_weight + i, left, 0));
    return A;
}
static ALWAYS_INLINE void sigmoid_cross_entropy_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    const vec zero = v_all(0), one = v_all(1);
    vec e[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) e[j] = v_negative(v_abs(load_at(r->z + i + j * W, left - j * W, 0)));
    v_exp_each(n, e);
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec z = load_at(r->z + i, left, 0), B, A = sigmoid_targets(r, i, left, &B), Q = v_add(A, B);
        mask positive = v_lt(zero, z);
        vec wrong = v_select(positive, A, B), miss = v_fma(v_negative(Q), v_div(e[j], v_add(one, e[j])), wrong);
        vec delta = v_select(positive, miss, v_negative(miss));
        if (r->uniform != 0) /* at 0, Q s would round Q before halving it; without smoothing Q is exact */
            delta = v_select(v_eq(z, zero), v_mul(v_all((real)0.5), v_sub(A, B)), delta);
        store_at(r->d + i, v_mul(delta, v_all(r->scale)), left);
        vec far = v_select(v_eq(wrong, zero), zero, v_mul(v_abs(z), wrong)); /* 0 · inf = 0 */
        term[j] = v_fma(Q, v_log1p_unit(e[j]), far);
        if (r->parameter > 0) term[j] = v_min(v_all((real)r->parameter), term[j]);
    }
}

/* E = ½ (y - t)²,  dE/dy = y - t */
static ALWAYS_INLINE void squared_error_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec miss = v_sub(load_at(r->z + i, left, 0), load_at(r->t + i, left, 0));
        store_at(r->d + i, v_mul(miss, v_all(r->scale)), left);
        term[j] = v_mul(v_mul(miss, v_all((real)0.5)), miss);
    }
}

/* E = ½ (y - t)² with y = σ(z),  dE/dz = (y - t) y (1 - y);  y - t as in the cross-entropy above, y (1 - y) = e/(1 + e)² */
static ALWAYS_INLINE void sigmoid_squared_error_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    const vec one = v_all(1);
    vec e[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) e[j] = v_negative(v_abs(load_at(r->z + i + j * W, left - j * W, 0)));
    v_exp_each(n, e);
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec z = load_at(r->z + i, left, 0), t = load_at(r->t + i, left, 0);
        vec denominator = v_add(one, e[j]), s = v_div(e[j], denominator);
        vec miss = v_select(v_lt(v_all(0), z), v_sub(v_sub(one, t), s), v_sub(s, t));
        store_at(r->d + i, v_mul(v_mul(miss, v_div(s, denominator)), v_all(r->scale)), left);
        term[j] = v_mul(v_mul(miss, v_all((real)0.5)), miss);
    }
}

/* E = μ - t - t ln(μ/t) with μ = e^z, half the Poisson deviance (μ where t = 0, NaN where t < 0),  dE/dz = μ - t.
 * For small r = z - ln t these terms cancel, and E = t (e^r - 1 - r) = t r² EXP_TAIL(r) is used. */
static ALWAYS_INLINE void poisson_deviance_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    const vec zero = v_all(0);
    vec mean[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) mean[j] = v_min(v_all(EXP_MAX), load_at(r->z + i + j * W, left - j * W, 0));
    v_exp_each(n, mean);
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec z = load_at(r->z + i, left, 0), t = load_at(r->t + i, left, 0);
        vec miss = v_select(v_lt(t, zero), v_all(NAN), v_sub(mean[j], t)), ratio = v_sub(z, v_log(t));
        store_at(r->d + i, v_mul(miss, v_all(r->scale)), left);
        vec far = v_sub(miss, v_select(v_eq(t, zero), zero, v_mul(t, ratio)));
        vec near = v_mul(v_mul(v_mul(t, ratio), ratio), V_POLYNOMIAL(EXP_TAIL, ratio));
        term[j] = v_select(v_lt(v_abs(ratio), v_all((real)0.34)), near, far);
    }
}

/* With r = y - t and c = r clipped to ±δ:  E = c (r - ½ c), which is ½ r² for |r| <= δ and δ (|r| - ½ δ) beyond;  dE/dy = c */
static ALWAYS_INLINE void huber_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    const vec delta = v_all((real)r->parameter);
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec miss = v_sub(load_at(r->z + i, left, 0), load_at(r->t + i, left, 0));
        vec within = v_max(v_negative(delta), v_min(delta, miss)); /* NaN stays NaN */
        store_at(r->d + i, v_mul(within, v_all(r->scale)), left);
        term[j] = v_mul(within, v_sub(miss, v_mul(within, v_all((real)0.5))));
    }
}

/* With r = y - t:  dE/dy = 1 - τ for r > 0, -τ for r < 0, 0 at r = 0;  E = r dE/dy */
static ALWAYS_INLINE void quantile_terms(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const output_row *r = row;
    const vec zero = v_all(0), above = v_all((real)(1 - r->parameter)), below = v_all((real)-r->parameter);
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec miss = v_sub(load_at(r->z + i, left, 0), load_at(r->t + i, left, 0));
        vec slope = v_select(v_lt(miss, zero), below, v_select(v_lt(zero, miss), above, miss)); /* NaN stays NaN */
        store_at(r->d + i, v_mul(slope, v_all(r->scale)), left);
        term[j] = v_mul(slope, miss);
    }
}

static ALWAYS_INLINE output_row row_of(const real *z, const real *t, const fbp_error *error, double scale, real *d)
{
    const real keep = (real)(1 - error->smoothing), uniform = (real)(error->smoothing / 2);
    return (output_row){z, t, error->pos_weight, keep, uniform, error->parameter, (real)scale, d};
}

/* One function for each error, so that its terms are inlined into the loops */
typedef double (*error_of_row)(fbp_size O, const real *z, const real *t, const fbp_error *error, double scale, real *d);
#define FBP_ERROR(NUMBER, name, largest_target, parameter)                                                                     \
    static double name##_row(fbp_size O, const real *z, const real *t, const fbp_error *error, double scale, real *d)          \
    {                                                                                                                          \
        const output_row row = row_of(z, t, error, scale, d);                                                                  \
        return sum_row(O, name##_terms, &row);                                                                                 \
    }
#include "errors.def"
#undef FBP_ERROR
static const error_of_row ERROR_OF_ROW[] = {
#define FBP_ERROR(NUMBER, name, largest_target, parameter) name##_row,
#include "errors.def"
#undef FBP_ERROR
};

/* The error of a row, unscaled; scale · dE/dz goes to d, which may be z. */
static double elementwise_error_row(fbp_size O, const real *z, const real *t, const fbp_error *error, double scale, real *d)
{
    assert(are_elements(z, O) && are_elements(t, O) && are_elements(d, O));
    assert(are_same_or_apart(O, z, d) && are_apart(O, t, O, d) && error->kind >= 0 && error->kind < FBP_ERRORS);
    assert(!error->pos_weight || (are_elements(error->pos_weight, O) && are_apart(O, error->pos_weight, O, d)));
    return ERROR_OF_ROW[error->kind](O, z, t, error, scale, d);
}

/* N rows of one output each, of which a vector is computed at a time, to the bits of elementwise_error_row() for each. A
 * pos_weight is as long as a vector, and the same all along. */
static ALWAYS_INLINE void column_of_rows(fbp_size N, row_terms terms, output_row rows, double *errors)
{
    for (fbp_size n = 0; n < N; n += W, rows.z += W, rows.t += W, rows.d += W) {
        vec term;
        real error[W];
        terms(&rows, 1, 0, N - n, &term);
        v_store(error, v_add(v_all(0), term));
        for (fbp_size i = 0; i < smaller(W, N - n); i++) errors[n + i] = (double)error[i];
    }
}

typedef void (*errors_of_column)(fbp_size N, const output_row *rows, double *errors);
#define FBP_ERROR(NUMBER, name, largest_target, parameter)                                                                     \
    static void name##_column(fbp_size N, const output_row *rows, double *errors)                                              \
    {                                                                                                                          \
        column_of_rows(N, name##_terms, *rows, errors);                                                                        \
    }
#include "errors.def"
#undef FBP_ERROR
static const errors_of_column ERRORS_OF_COLUMN[] = {
#define FBP_ERROR(NUMBER, name, largest_target, parameter) name##_column,
#include "errors.def"
#undef FBP_ERROR
};

/* The errors of N rows of one output each, unscaled; scale · dE/dz goes to d, which may be z. */
static void elementwise_error_column(fbp_size N, const real *z, const real *t, const fbp_error *error, double scale, real *d,
                                     double *errors)
{
    assert(are_elements(z, N) && are_elements(t, N) && are_elements(d, N) && error->kind >= 0 && error->kind < FBP_ERRORS);
    assert(are_same_or_apart(N, z, d) && are_apart(N, t, N, d));
    const output_row rows = row_of(z, t, error, scale, d);
    ERRORS_OF_COLUMN[error->kind](N, &rows, errors);
}

/* h = scale d²E/dz² of the sigmoid cross-entropy, Q y (1 - y) with y (1 - y) = e/(1 + e)²: the square of no large number, and no
 * difference. h may be z. */
static void sigmoid_hessian_row(fbp_size O, const real *z, const real *t, const fbp_error *error, double scale, real *h)
{
    assert(are_elements(z, O) && are_elements(t, O) && are_elements(h, O));
    assert(are_same_or_apart(O, z, h) && are_apart(O, t, O, h));
    const output_row r = row_of(z, t, error, scale, h);
    const vec one = v_all(1), all = v_all(r.scale);
    for (fbp_size i = 0; i < O; i += W) {
        const vec e = v_exp_below(v_negative(v_abs(load_at(z + i, O - i, 0)))), inverse = v_div(one, v_add(one, e));
        vec B, A = sigmoid_targets(&r, i, O - i, &B);
        store_at(h + i, v_mul(v_mul(v_mul(e, inverse), inverse), v_mul(v_add(A, B), all)), O - i);
    }
}
