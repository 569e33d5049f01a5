/* Activations: elementwise f(x) and g ⊙ f', and the softmax family over one row. Outputs may be inputs throughout. */

static ALWAYS_INLINE vec v_identity(vec x) { return x; }
/* a relu of NaN is NaN: v_max returns its second operand then */
static ALWAYS_INLINE vec v_relu(vec x) { return v_max(v_all(0), x); }
static ALWAYS_INLINE vec v_leaky_relu(vec x) { return v_select(v_lt(x, v_all(0)), v_mul(x, v_all((real)0.01)), x); }

static void activate(int kind, fbp_size n, const real *x, real *y)
{
    assert(is_activation(kind));
    assert(are_elements(x, n) && are_elements(y, n) && are_same_or_apart(n, x, y));
    switch (kind) {
    case FBP_SIGMOID: map_each(n, x, y, v_sigmoid_each); break;
    case FBP_TANH: map_each(n, x, y, v_tanh_each); break;
    case FBP_RELU: map(n, x, y, v_relu); break;
    case FBP_LEAKY_RELU: map(n, x, y, v_leaky_relu); break;
    case FBP_GELU: map(n, x, y, v_gelu); break;
    case FBP_SILU: map(n, x, y, v_silu); break;
    case FBP_SOFTPLUS: map(n, x, y, v_softplus); break;
    default: map(n, x, y, v_identity);
    }
}

/* f' as a function of the output a = f(z); gelu and silu, whose slope is no function of their output, take z itself. */
static ALWAYS_INLINE vec v_slope(int kind, vec a)
{
    const vec one = v_all(1), zero = v_all(0);
    vec unused;
    switch (kind) {
    case FBP_SIGMOID: return v_mul(a, v_sub(one, a));
    case FBP_TANH: return v_mul(v_sub(one, a), v_add(one, a));
    case FBP_RELU: return v_select(v_lt(zero, a), one, v_select(v_eq(a, a), zero, a));
    case FBP_LEAKY_RELU: return v_select(v_lt(zero, a), one, v_select(v_eq(a, a), v_all((real)0.01), a));
    case FBP_GELU: return v_gelu_slope(a);
    case FBP_SILU: return v_silu_slope(a);
    case FBP_SOFTPLUS: return v_negative(v_expm1_nonpositive(v_negative(a), &unused));
    default: return one;
    }
}

/* d (rows, n) = g ⊙ f'(a), or g alone */
typedef struct {
    fbp_size rows, n;
    const real *g;
    fbp_size g_row;
    const real *a;
    fbp_size a_row;
    real *d;
    fbp_size d_row;
} slope_rows;
static ALWAYS_INLINE void times_slope(int kind, const slope_rows *given)
{
    const slope_rows p = *given;
    for (fbp_size row = 0; row < p.rows; row++) {
        const real *g = p.g + row * p.g_row, *a = p.a + row * p.a_row;
        real *d = p.d + row * p.d_row;
        for (fbp_size i = 0; i < p.n; i += W) {
            vec slope = v_slope(kind, load_at(a + i, p.n - i, 0));
            store_at(d + i, v_mul(load_at(g + i, p.n - i, 0), slope), p.n - i);
        }
    }
}

static void activate_backward_rows(int kind, fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const real *a, fbp_size a_row,
                                   real *d, fbp_size d_row)
{
    const slope_rows p = {rows, n, g, g_row, a, a_row, d, d_row};
    switch (kind) { /* one loop per kind, each with its slope inlined */
    case FBP_SIGMOID: times_slope(FBP_SIGMOID, &p); break;
    case FBP_TANH: times_slope(FBP_TANH, &p); break;
    case FBP_RELU: times_slope(FBP_RELU, &p); break;
    case FBP_LEAKY_RELU: times_slope(FBP_LEAKY_RELU, &p); break;
    case FBP_GELU: times_slope(FBP_GELU, &p); break;
    case FBP_SILU: times_slope(FBP_SILU, &p); break;
    case FBP_SOFTPLUS: times_slope(FBP_SOFTPLUS, &p); break;
    default: for (fbp_size row = 0; row < rows; row++) map(n, g + row * g_row, d + row * d_row, v_identity);
    }
}

static void activate_backward(int kind, fbp_size n, const real *g, const real *a, real *d)
{
    assert(is_activation(kind));
    assert(are_elements(g, n) && are_elements(a, n) && are_elements(d, n));
    assert(are_same_or_apart(n, g, d) && are_same_or_apart(n, a, d));
    activate_backward_rows(kind, 1, n, g, 0, a, 0, d, 0);
}

/* Between two passes the exponentials of a short row stand in a padded array of BLOCK elements, in whole vectors: loading what a
 * partial store has just written would stall. Those of a long row stand in its output. */
static ALWAYS_INLINE vec load_exp(const real *e, fbp_size left, int padded) { return padded ? v_load(e) : load_at(e, left, 0); }

/* Whether any of n vectors <= 0 holds a zero: the steps of a row in which no maximum stands, nearly all, are spared asking where. */
static ALWAYS_INLINE int any_zero(int n, const vec *x)
{
    vec largest = x[0];
    UNROLL for (int j = 1; j < n; j++) largest = v_max(largest, x[j]);
    return v_any(v_eq(largest, v_all(0)));
}

/* One step of the sums below: e^(z_c - m) of n vectors, all whole but perhaps the last. */
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

/* rest = Σ_{c ≠ argmax} e^(z_c - m), so that Σ_c e^(z_c - m) = 1 + rest with nothing lost however near 1 it is: entries equal to
 * the maximum m are counted, not summed, and one of them left out. e (C), where given, receives the exponentials, and may be z. NaN
 * where m is not finite. */
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

/* y_c = e^(z_c - m) / Σ; NaN throughout for a row without a finite maximum */
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

/* m + ln Σ; of a row without a finite maximum: NaN if it holds one, else that maximum */
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
