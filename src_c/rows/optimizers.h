/* Optimizer updates of a flat run of parameters w with gradient g, in place. */

/* g ← g + λ w;  v ← μ v + g;  w ← w - η (g + μ v if nesterov else v).  velocity v is NULL where μ = 0, and then v = g. */
static void sgd_update(fbp_size n, const real *g, double learning_rate, double momentum, int nesterov, double weight_decay,
                       real *velocity, real *w)
{
    const vec eta = v_all((real)-learning_rate), mu = v_all((real)momentum), lambda = v_all((real)weight_decay);
    for (fbp_size i = 0; i < n; i += W) {
        fbp_size left = n - i;
        vec v_w = load_at(w + i, left, 0), step = load_at(g + i, left, 0);
        if (weight_decay != 0) step = v_fma(lambda, v_w, step);
        if (velocity) {
            vec v = v_fma(mu, load_at(velocity + i, left, 0), step);
            store_at(velocity + i, v, left);
            step = nesterov ? v_fma(mu, v, step) : v;
        }
        store_at(w + i, v_fma(eta, step, v_w), left);
    }
}

/* g ← g + λ w;  m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²;  w ← w - η m̂ / (√v̂ + ε)  with m̂ = m/(1-β₁^t), v̂ = v/(1-β₂^t), t = step.
 * Kingma & Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. */
static void adam_update(fbp_size n, const real *g, int64_t step, double learning_rate, double beta_1, double beta_2, double epsilon,
                        double weight_decay, real *m, real *v, real *w)
{
    const vec b1 = v_all((real)beta_1), c1 = v_all((real)(1 - beta_1)), b2 = v_all((real)beta_2), c2 = v_all((real)(1 - beta_2));
    const vec eta = v_all((real)(-learning_rate / (1 - pow(beta_1, (double)step)))), lambda = v_all((real)weight_decay);
    const vec root = v_all((real)(1 / sqrt(1 - pow(beta_2, (double)step)))), eps = v_all((real)epsilon);
    for (fbp_size i = 0; i < n; i += W) {
        fbp_size left = n - i;
        vec v_w = load_at(w + i, left, 0), v_g = load_at(g + i, left, 0);
        if (weight_decay != 0) v_g = v_fma(lambda, v_w, v_g);
        vec first = v_fma(b1, load_at(m + i, left, 0), v_mul(c1, v_g));
        vec second = v_fma(b2, load_at(v + i, left, 0), v_mul(v_mul(c2, v_g), v_g));
        store_at(m + i, first, left);
        store_at(v + i, second, left);
        vec denominator = v_fma(v_sqrt(second), root, eps);
        store_at(w + i, v_fma(eta, v_div(first, denominator), v_w), left);
    }
}

/* max |x_i|; NaN if any x_i is */
static double largest_magnitude(fbp_size n, const real *x)
{
    vec most = v_all(0), nan = v_all(0);
    for (fbp_size i = 0; i < n; i += W) {
        vec a = load_at(x + i, n - i, 0);
        most = v_max(v_abs(a), most);
        nan = v_select(v_eq(a, a), nan, a);
    }
    real unordered = v_sum(nan);
    return isnan(unordered) ? (double)unordered : (double)v_hmax(most);
}
