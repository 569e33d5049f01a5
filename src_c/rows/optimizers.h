/* Optimizer updates of parameters w with gradient g, in place: (rows, n) of them, or a flat run. State lies like w.
 *
 * Where the gradient stays 0, as for a relu that is never positive, a state shrinks step by step, and would end as a subnormal number for
 * ever, at which an update takes 14 times as long on a Xeon. So m and the velocity become 0 there, and v where m does: what they
 * add to a parameter vanished long before.
 */

static ALWAYS_INLINE mask is_subnormal(vec x) { return v_lt(v_abs(x), v_all(LEAST_NORMAL)); } /* or 0 */

/* g ← g + λ w;  v ← μ v + g;  w ← w - η (g + μ v if nesterov else v).  velocity v is NULL where μ = 0, and then v = g. */
static ALWAYS_INLINE void sgd_rows(fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const fbp_update *u, real *velocity,
                                   real *w, fbp_size w_row)
{
    const vec eta = v_all((real)-u->learning_rate), mu = v_all((real)u->momentum), lambda = v_all((real)u->weight_decay);
    const int decays = u->weight_decay != 0, nesterov = u->nesterov;
    for (fbp_size row = 0; row < rows; row++) {
        for (fbp_size i = 0; i < n; i += W) {
            fbp_size left = n - i, at = row * w_row + i;
            vec v_w = load_at(w + at, left, 0), step = load_at(g + row * g_row + i, left, 0);
            if (decays) step = v_fma(lambda, v_w, step);
            if (velocity) {
                vec v = v_fma(mu, load_at(velocity + at, left, 0), step);
                v = v_select(is_subnormal(v), v_all(0), v);
                store_at(velocity + at, v, left);
                step = nesterov ? v_fma(mu, v, step) : v;
            }
            store_at(w + at, v_fma(eta, step, v_w), left);
        }
    }
}

/* g ← g + λ w;  m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²;  w ← w - η m̂ / (√v̂ + ε)  with m̂ = m/(1-β₁^t), v̂ = v/(1-β₂^t).
 * Kingma & Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. */
static ALWAYS_INLINE void adam_rows(fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const fbp_update *u, real *m, real *v,
                                    real *w, fbp_size w_row)
{
    const vec b1 = v_all((real)u->beta_1), c1 = v_all((real)(1 - u->beta_1)), lambda = v_all((real)u->weight_decay);
    const vec b2 = v_all((real)u->beta_2), c2 = v_all((real)(1 - u->beta_2)), eps = v_all((real)u->epsilon);
    const vec eta = v_all((real)(-u->learning_rate / u->bias_1)), root = v_all((real)(1 / sqrt(u->bias_2)));
    const int decays = u->weight_decay != 0;
    for (fbp_size row = 0; row < rows; row++) {
        for (fbp_size i = 0; i < n; i += W) {
            fbp_size left = n - i, at = row * w_row + i;
            vec v_w = load_at(w + at, left, 0), v_g = load_at(g + row * g_row + i, left, 0);
            if (decays) v_g = v_fma(lambda, v_w, v_g);
            vec first = v_fma(b1, load_at(m + at, left, 0), v_mul(c1, v_g));
            vec second = v_fma(v_mul(c2, v_g), v_g, v_mul(b2, load_at(v + at, left, 0)));
            const mask rests = is_subnormal(first);
            first = v_select(rests, v_all(0), first);
            second = v_select(rests, v_select(is_subnormal(second), v_all(0), second), second);
            store_at(m + at, first, left);
            store_at(v + at, second, left);
            vec denominator = v_fma(v_sqrt(second), root, eps);
            store_at(w + at, v_fma(eta, v_div(first, denominator), v_w), left);
        }
    }
}

/* Whether all of an update is w ← w - η g */
static inline int is_plain_sgd(const fbp_update *u) { return u->rule == FBP_SGD && u->momentum == 0 && u->weight_decay == 0; }

static void update_rows(fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const fbp_update *u, real *first, real *second,
                        real *w, fbp_size w_row)
{
    if (u->rule == FBP_ADAM)
        adam_rows(rows, n, g, g_row, u, first, second, w, w_row);
    else
        sgd_rows(rows, n, g, g_row, u, first, w, w_row);
}

static void update(fbp_size n, const real *g, const fbp_update *u, real *first, real *second, real *w)
{
    assert(is_update(u, first, second));
    assert(are_elements(g, n) && are_elements(w, n) && are_apart(n, g, n, w));
    assert(!first || (are_elements(first, n) && are_apart(n, first, n, w) && are_apart(n, first, n, g)));
    assert(!second || (are_elements(second, n) && are_apart(n, second, n, w) && are_apart(n, second, n, g)));
    update_rows(1, n, g, 0, u, first, second, w, 0);
}

/* max |x_i|; NaN if any x_i is. Unless y is NULL, x is copied there on the way. */
static double largest_magnitude(fbp_size n, const real *x, real *y)
{
    assert(are_elements(x, n) && (!y || (are_elements(y, n) && are_same_or_apart(n, x, y))));
    vec most[IN_STEP], nan[IN_STEP];
    UNROLL for (int j = 0; j < IN_STEP; j++) most[j] = nan[j] = v_all(0);
    for (fbp_size i = 0; i < n; i += IN_STEP * W) {
        UNROLL for (int j = 0; j < IN_STEP; j++) {
            const fbp_size left = n - i - j * W;
            if (left <= 0) break;
            vec a = load_at(x + i + j * W, left, 0);
            if (y) store_at(y + i + j * W, a, left);
            most[j] = v_max(v_abs(a), most[j]);
            nan[j] = v_select(v_eq(a, a), nan[j], a);
        }
    }
    for (int j = 1; j < IN_STEP; j++) most[0] = v_max(most[j], most[0]), nan[0] = v_add(nan[j], nan[0]);
    real unordered = v_sum(nan[0]);
    return isnan(unordered) ? (double)unordered : (double)v_hmax(most[0]);
}
