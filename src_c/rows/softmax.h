/* The softmax family over one row. Outputs may be inputs throughout. */

/* The exponentials of a short row are kept between two passes in an array padded to whole vectors: a load that follows a partial
 * store to the same place would stall. The exponentials of a long row are kept in its output. */
static ALWAYS_INLINE vec load_exp(const real *e, fbp_size left, int padded) { return padded ? v_load(e) : load_at(e, left, 0); }

/* Whether any of n vectors <= 0 has a zero. Nearly all steps of a row contain no maximum, and need not look for its lane. */
static ALWAYS_INLINE int any_zero(int n, const vec *x)
{
    vec largest = x[0];
    UNROLL for (int j = 1; j < n; j++) largest = v_max(largest, x[j]);
    return v_any(v_eq(largest, v_all(0)));
}

/* One step of exp_rest(): e^(z_c - m) of n vectors, of which only the last may be partial */
static ALWAYS_INLINE void exp_step(int n, const real *z, fbp_size left, vec maximum, vec *sum, vec *equal, real *e, int padded)
{
    const vec zero = v_all(0), one = v_all(1);
    vec a[IN_STEP], x[IN_STEP], y[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) {
        a[j] = load_at(z + j * W, left - j * W, -INFINITY);
        y[j] = x[j] = v_sub(a[j], maximum);
    }
    v_exp_each(n, y);
    UNROLL for (int j = 0; j < n; j++) y[j] = v_regain(a[j], maximum, x[j], y[j]);
    if (any_zero(n, x)) {
        UNROLL for (int j = 0; j < n; j++) {
            mask top = v_eq(x[j], zero);
            *sum = v_add(*sum, v_select(top, zero, y[j]));
            *equal = v_select(top, v_add(*equal, one), *equal);
        }
    } else {
        UNROLL for (int j = 0; j < n; j++) *sum = v_add(*sum, y[j]);
    }
    if (e) UNROLL for (int j = 0; j < n; j++) store_at(e + j * W, y[j], padded ? W : left - j * W);
}

/* rest = Σ_{c ≠ argmax} e^(z_c - m), so that Σ_c e^(z_c - m) = 1 + rest and a rest far below 1 keeps all its digits: entries
 * equal to the maximum m are counted, not summed, and one of them is left out. The exponentials go to e (C), unless it is NULL; e
 * may be z. NaN if m is not finite. */
static ALWAYS_INLINE double exp_rest(fbp_size C, const real *z, real m, real *e, int padded)
{
    const vec maximum = v_all(m);
    double rest = 0, ties = 0;
    for (fbp_size start = 0; start < C; start += BLOCK) {
        const fbp_size stop = smaller(start + BLOCK, C);
        vec sum = v_all(0), equal = v_all(0);
        fbp_size i = start;
        for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
            if (!padded) prefetch_next(IN_STEP, z, C, i);
            if (!padded && e) prefetch_next(IN_STEP, e, C, i);
            exp_step(IN_STEP, z + i, IN_STEP * W, maximum, &sum, &equal, e ? e + i : NULL, padded);
        }
        for (; i < stop; i += W) exp_step(1, z + i, C - i, maximum, &sum, &equal, e ? e + i : NULL, padded);
        rest += (double)v_sum(sum);
        ties += (double)v_sum(equal);
    }
    return rest + (ties - 1);
}

/* y_c = e^(z_c - m) / Σ; all NaN if the maximum is not finite */
static ALWAYS_INLINE void softmax_through(fbp_size C, const real *z, real *y, real *e, int padded)
{
    real m = row_max(C, z);
    if (!isfinite(m)) {
        fill(C, NAN, y);
        return;
    }
    const vec inverse = v_all((real)(1 / (1 + exp_rest(C, z, m, e, padded))));
    for (fbp_size i = 0; i < C; i += W) store_at(y + i, v_mul(load_exp(e + i, C - i, padded), inverse), C - i);
}
static void softmax_row(fbp_size C, const real *z, real *y)
{
    assert(are_elements(z, C) && are_elements(y, C) && are_same_or_apart(C, z, y));
    real e[BLOCK];
    if (C <= BLOCK)
        softmax_through(C, z, y, e, 1);
    else
        softmax_through(C, z, y, y, 0);
}

/* ln y_c = (z_c - m) - ln Σ */
static void log_softmax_row(fbp_size C, const real *z, real *y)
{
    assert(are_elements(z, C) && are_elements(y, C) && are_same_or_apart(C, z, y));
    real m = row_max(C, z);
    if (!isfinite(m)) {
        fill(C, NAN, y);
        return;
    }
    const vec maximum = v_all(m), log_sum = v_all((real)log1p(exp_rest(C, z, m, NULL, 0)));
    for (fbp_size i = 0; i < C; i += W)
        store_at(y + i, v_sub(v_sub(load_at(z + i, C - i, 0), maximum), log_sum), C - i);
}

/* h_c = scale y_c (1 - y_c), the slope of y_c in its own logit. With e_c = e^(z_c - m) and Σ = 1 + rest, 1 - y_c is rest/Σ where
 * e_c = 1, which no difference from 1 would keep; elsewhere y_c is below 1/2, and the difference loses nothing. */
static void softmax_hessian_row(fbp_size C, const real *z, double scale, real *h)
{
    assert(are_elements(z, C) && are_elements(h, C) && are_same_or_apart(C, z, h));
    const int padded = C <= BLOCK;
    real block[BLOCK], *e = padded ? block : h;
    const real m = row_max(C, z);
    if (!isfinite(m)) {
        fill(C, NAN, h);
        return;
    }
    const double rest = exp_rest(C, z, m, e, padded), inverse = 1 / (1 + rest);
    const vec one = v_all(1), gain = v_all((real)(scale * inverse)), minus_inverse = v_all((real)-inverse);
    const vec at_maximum = v_all((real)(scale * inverse * (rest * inverse)));
    for (fbp_size i = 0; i < C; i += W) {
        const vec a = load_exp(e + i, C - i, padded);
        const vec below = v_mul(v_mul(a, gain), v_fma(a, minus_inverse, one));
        store_at(h + i, v_select(v_eq(a, one), at_maximum, below), C - i);
    }
}

/* m + ln Σ; if the maximum is not finite, NaN for a row with a NaN, else the maximum */
static double logsumexp_row(fbp_size C, const real *z)
{
    assert(are_elements(z, C));
    real m = row_max(C, z);
    if (isfinite(m)) return (double)m + log1p(exp_rest(C, z, m, NULL, 0));
    for (fbp_size c = 0; c < C; c++)
        if (isnan(z[c])) return NAN;
    return m;
}

/* d = y ⊙ (g - Σ_c g_c y_c), the product with the full Jacobian */
typedef struct { const real *g, *y; } pair;
static ALWAYS_INLINE void products(const void *row, int n, fbp_size i, fbp_size left, vec *term)
{
    const pair *p = row;
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) term[j] = v_mul(load_at(p->g + i, left, 0), load_at(p->y + i, left, 0));
}
static void softmax_backward_row(fbp_size C, const real *g, const real *y, real *d)
{
    assert(are_elements(g, C) && are_elements(y, C) && are_elements(d, C));
    assert(are_same_or_apart(C, g, d) && are_same_or_apart(C, y, d));
    pair row = {g, y};
    const vec mean = v_all((real)sum_row(C, products, &row));
    for (fbp_size i = 0; i < C; i += W) {
        vec centred = v_sub(load_at(g + i, C - i, 0), mean);
        store_at(d + i, v_mul(load_at(y + i, C - i, 0), centred), C - i);
    }
}
