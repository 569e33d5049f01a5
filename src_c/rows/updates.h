/* Optimizer updates of parameters w with gradient g, in place: (rows, n) of them, or a flat run. State lies like w.
 *
 *   g ← scale g, held within ±clip;  g ← g + λ w unless the decay is decoupled
 *   d = step of the rule, which updates its states
 *   w ← (1 - η λ if the decay is decoupled) w - η d
 *   average ← β average + (1 - β) w
 *
 * Where the gradient stays 0, as for a relu that is never positive, a running mean shrinks step by step, and would end as a
 * subnormal number for ever, at which an update takes 14 times as long on a Xeon. So it becomes 0 there; what it adds to a
 * parameter vanished long before. A mean of squares does where what it divides is 0 as well, or the step would be that over ε. */

static ALWAYS_INLINE mask is_subnormal(vec x) { return v_lt(v_abs(x), v_all(LEAST_NORMAL)); } /* or 0 */
static ALWAYS_INLINE vec at_rest(mask rests, vec x) { return v_select(rests, v_all(0), x); }

/* What an update multiplies by, the same for all parameters; `rest` is 1 - rate, which is formed in float64. */
typedef struct {
    vec rate[FBP_RATES], rest[FBP_RATES];
    vec eta, shrink, lambda, scale, clip, average, average_rest, root; /* eta is negative; root is 1/√bias of the second mean */
    int scales, clips, decays, shrinks;
    int has[FBP_STATES];
} constants;

static ALWAYS_INLINE constants constants_of(const fbp_update *u, void *const *state)
{
    constants c;
    const double decay = u->learning_rate * u->weight_decay;
    UNROLL for (int i = 0; i < FBP_RATES; i++) c.rate[i] = v_all((real)u->rate[i]), c.rest[i] = v_all((real)(1 - u->rate[i]));
    c.eta = v_all((real)(-u->learning_rate / u->bias[0])), c.root = v_all((real)(1 / sqrt(u->bias[1])));
    c.shrink = v_all((real)(1 - decay)), c.lambda = v_all((real)u->weight_decay);
    c.scale = v_all((real)u->gradient_scale), c.clip = v_all((real)u->clip);
    c.average = v_all((real)u->average), c.average_rest = v_all((real)(1 - u->average));
    c.scales = u->gradient_scale != 1, c.clips = u->clip > 0;
    c.decays = u->weight_decay != 0 && !u->decoupled, c.shrinks = u->weight_decay != 0 && u->decoupled;
    UNROLL for (int i = 0; i < FBP_STATES; i++) c.has[i] = state[i] != NULL;
    return c;
}

/* velocity v, none without momentum μ:  v ← μ v + g;  d = g + μ v if nesterov, else v */
enum { SGD_MOMENTUM, SGD_NESTEROV };
static ALWAYS_INLINE vec sgd_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    const vec mu = c->rate[SGD_MOMENTUM];
    if (!c->has[0]) return g;
    vec v = v_fma(mu, state[0], g);
    state[0] = v = at_rest(is_subnormal(v), v);
    return u->rate[SGD_NESTEROV] != 0 ? v_fma(mu, v, g) : v;
}

/* mean square v; mean m if centred; velocity b with momentum μ:
 *
 *   v ← α v + (1-α) g²;  m ← α m + (1-α) g;  d = g / (√(v - m²) + ε);  b ← μ b + d;  d = b
 *
 * T. Tieleman & G. Hinton, Coursera: Neural networks for machine learning, lecture 6.5, 2012; centred as by A. Graves,
 * https://arxiv.org/abs/1308.0850, 2013, with ε outside the root as PyTorch has it. */
enum { RMSPROP_ALPHA, RMSPROP_EPSILON, RMSPROP_MOMENTUM };
static ALWAYS_INLINE vec rmsprop_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    const vec alpha = c->rate[RMSPROP_ALPHA], rest = c->rest[RMSPROP_ALPHA];
    (void)u;
    vec v = v_fma(v_mul(rest, g), g, v_mul(alpha, state[0])), spread = v;
    state[0] = v = v_select(is_subnormal(g), at_rest(is_subnormal(v), v), v);
    if (c->has[1]) {
        vec m = v_fma(rest, g, v_mul(alpha, state[1]));
        state[1] = m = at_rest(is_subnormal(m), m);
        spread = v_max(v_all(0), v_fma(v_negative(m), m, v)); /* which rounding could make negative */
    }
    vec d = v_div(g, v_add(v_sqrt(spread), c->rate[RMSPROP_EPSILON]));
    if (!c->has[2]) return d;
    vec b = v_fma(c->rate[RMSPROP_MOMENTUM], state[2], d);
    return state[2] = at_rest(is_subnormal(b), b);
}

/* sum of squares v:  v ← v + g²;  d = g / (√v + ε).   J. Duchi, E. Hazan & Y. Singer, "Adaptive subgradient methods for online
 * learning and stochastic optimization", JMLR 12, 2011, with ε as PyTorch has it. */
enum { ADAGRAD_EPSILON };
static ALWAYS_INLINE vec adagrad_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    (void)u;
    vec v = v_fma(g, g, state[0]);
    state[0] = v = v_select(is_subnormal(g), at_rest(is_subnormal(v), v), v);
    return v_div(g, v_add(v_sqrt(v), c->rate[ADAGRAD_EPSILON]));
}

/* means m, v, and the largest v so far for AMSGrad:  m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²;  d = m / (√(v / bias₂) + ε),
 * where bias_i = 1 - β_i^t and η is over bias₁.   D. Kingma & J. Ba, "Adam: a method for stochastic optimization", 2015,
 * algorithm 1; AMSGrad: S. Reddi et al., "On the convergence of Adam and beyond", 2018. */
enum { ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON };
static ALWAYS_INLINE vec adam_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    (void)u;
    vec m = v_fma(c->rate[ADAM_BETA_1], state[0], v_mul(c->rest[ADAM_BETA_1], g));
    vec v = v_fma(v_mul(c->rest[ADAM_BETA_2], g), g, v_mul(c->rate[ADAM_BETA_2], state[1]));
    const mask rests = is_subnormal(m);
    state[0] = m = at_rest(rests, m);
    state[1] = v = v_select(rests, at_rest(is_subnormal(v), v), v);
    if (c->has[2]) {
        v = v_max(state[2], v);
        state[2] = v = v_select(rests, at_rest(is_subnormal(v), v), v);
    }
    return v_div(m, v_fma(v_sqrt(v), c->root, c->rate[ADAM_EPSILON]));
}

/* mean m:  d = the sign of β₁ m + (1-β₁) g, 0 at 0;  m ← β₂ m + (1-β₂) g.   X. Chen et al., "Symbolic discovery of optimization
 * algorithms", 2023, https://arxiv.org/abs/2302.06675, algorithm 2. */
enum { LION_BETA_1, LION_BETA_2 };
static ALWAYS_INLINE vec lion_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    (void)u;
    const vec to = v_fma(c->rate[LION_BETA_1], state[0], v_mul(c->rest[LION_BETA_1], g));
    vec m = v_fma(c->rate[LION_BETA_2], state[0], v_mul(c->rest[LION_BETA_2], g));
    state[0] = at_rest(is_subnormal(m), m);
    return v_select(v_lt(v_all(0), to), v_all(1), v_select(v_lt(to, v_all(0)), v_all(-1), to)); /* NaN stays */
}

/* mean m of a matrix's gradient:  m ← μ m + (1-μ) g.  Without O, d is what is to be orthogonalised, μ m + (1-μ) g if nesterov,
 * else m, and the state stays; with O, which has come of it, d = O.   K. Jordan, "Muon: an optimizer for hidden layers in
 * neural networks", https://kellerjordan.github.io/posts/muon/, 2024. */
enum { MUON_MOMENTUM, MUON_NESTEROV };
static ALWAYS_INLINE vec muon_step(const fbp_update *u, const constants *c, vec g, vec *state)
{
    const vec mu = c->rate[MUON_MOMENTUM], fresh = v_mul(c->rest[MUON_MOMENTUM], g), m = v_fma(mu, state[0], fresh);
    if (!c->has[1]) return u->rate[MUON_NESTEROV] != 0 ? v_fma(mu, m, fresh) : m;
    state[0] = at_rest(is_subnormal(m), m);
    return state[1];
}

typedef vec (*update_step)(const fbp_update *u, const constants *c, vec g, vec *state);

/* The loop of a rule with `states` states; its step is inlined. */
static ALWAYS_INLINE void each_parameter(int states, update_step step, fbp_size rows, fbp_size n, const real *g, fbp_size g_row,
                                         const fbp_update *u, void *const *state, real *w, fbp_size w_row)
{
    const constants c = constants_of(u, state);
    real *s[FBP_STATES], *const average = state[FBP_AVERAGE];
    UNROLL for (int j = 0; j < states; j++) s[j] = state[j];
    for (fbp_size row = 0; row < rows; row++) {
        for (fbp_size i = 0; i < n; i += W) {
            const fbp_size left = n - i, at = row * w_row + i;
            vec v_w = load_at(w + at, left, 0), v_g = load_at(g + row * g_row + i, left, 0), v_s[FBP_STATES];
            if (c.scales) v_g = v_mul(v_g, c.scale);
            if (c.clips) v_g = v_min(c.clip, v_max(v_negative(c.clip), v_g)); /* NaN, as the second operand, stays */
            if (c.decays) v_g = v_fma(c.lambda, v_w, v_g);
            UNROLL for (int j = 0; j < states; j++) v_s[j] = c.has[j] ? load_at(s[j] + at, left, 0) : v_all(0);
            const vec d = step(u, &c, v_g, v_s);
            UNROLL for (int j = 0; j < states; j++)
                if (c.has[j]) store_at(s[j] + at, v_s[j], left);
            if (c.shrinks) v_w = v_mul(v_w, c.shrink);
            v_w = v_fma(c.eta, d, v_w);
            store_at(w + at, v_w, left);
            if (average)
                store_at(average + at, v_fma(c.average, load_at(average + at, left, 0), v_mul(c.average_rest, v_w)), left);
        }
    }
}

/* Whether all of an update is w ← w - η g, which a matrix product does by itself */
static inline int is_plain_sgd(const fbp_update *u, void *const *state)
{
    return u->rule == FBP_UPDATE_sgd && !state[0] && !state[FBP_AVERAGE] && u->weight_decay == 0 && u->gradient_scale == 1 &&
           u->clip <= 0;
}

static void update_rows(fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const fbp_update *u, void *const *state,
                        real *w, fbp_size w_row)
{
    switch (u->rule) {
#define FBP_UPDATE(name, states, corrected)                                                                                    \
    case FBP_UPDATE_##name: each_parameter(states, name##_step, rows, n, g, g_row, u, state, w, w_row); break;
#include "../updates.def"
#undef FBP_UPDATE
    }
}

static void update(fbp_size n, const real *g, const fbp_update *u, void *const *state, real *w)
{
    assert(is_update(u, state) && are_elements(g, n) && are_elements(w, n) && are_apart(n, g, n, w));
    for (int i = 0; i < FBP_STATES; i++)
        assert(!state[i] || (are_elements(state[i], n) && are_apart(n, state[i], n, w) && are_apart(n, state[i], n, g)));
    update_rows(1, n, g, 0, u, state, w, 0);
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

/* Σ x_i², in float64: LANES sums side by side, added in order. Parts of a vector, cut at multiples of LANES, make its sum. */
static double sum_of_squares(fbp_size n, const real *x)
{
    assert(are_elements(x, n));
    enum { LANES = 16 };
    double sum[LANES] = {0}, total = 0;
    fbp_size i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++) sum[0] += (double)x[i] * (double)x[i];
    for (int j = 0; j < LANES; j++) total += sum[j];
    return total;
}
