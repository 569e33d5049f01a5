/* Softmax outputs with cross-entropy over rows of C logits. The errors come back unscaled or weighted, as told, and scale · dE/dz
 * goes to d, which may be z. A row without a finite maximum (NaN, +inf, all -inf) gives NaN throughout.
 *
 * With m = max z and rest = Σ_{c ≠ argmax} e^(z_c - m), and so y_c = e^(z_c - m) / (1 + rest):
 *
 *   ln Σ_c e^(z_c) - z_k = log1p(rest) + (m - z_k)                    no difference of large numbers
 *   y_c - 1 = -rest / (1 + rest)  at the maximum                      no difference from 1 at a near-certain target
 */

/* Rows whose targets are labels:  E = log1p(rest) + gap, gap = m - z_label;  dE/dz = y - onehot(label). The gradient of row n is
 * scaled by weights_n / divisor; a row of weight 0 is not read, and its gradient is 0. Without weights all are 1. */
typedef struct {
    fbp_size N, C;
    const real *z;
    fbp_size z_row;
    const int64_t *labels;
    const double *weights; /* or NULL */
    double divisor;
    real scale; /* 1 / divisor */
    real *d;
    fbp_size d_row;
} labelled_rows;

static inline double weight_of(const labelled_rows *p, fbp_size n) { return p->weights ? p->weights[n] : 1; }
static inline real scale_of(const labelled_rows *p, fbp_size n) { return p->weights ? (real)(p->weights[n] / p->divisor) : p->scale; }

/* What one row leaves to be done for all of them: logarithms and divisions are best taken many at a time. */
enum { TOGETHER = 64, FEW = IN_STEP * W };
typedef struct { real rest[TOGETHER]; double gap[TOGETHER]; } row_numbers;

typedef struct {
    vec factor; /* of the exponentials */
    real delta_label;
} row_scales;

/* The exponentials of row n to e, and what makes a gradient of them; meanwhile the row before may be leaving. */
static ALWAYS_INLINE row_scales many_exponentials(const labelled_rows *p, fbp_size n, real *e, leaving_row *leaving, row_numbers *of)
{
    const fbp_size C = p->C, label = (fbp_size)p->labels[n];
    const real *z = p->z + n * p->z_row, m = row_max(C, z);
    const double gap = (double)m - (double)z[label], scale = weight_of(p, n) / p->divisor;
    const double rest = exp_rest(C, z, m, e, 0, leaving), inverse = 1 / (1 + rest), e_label = (double)e[label];
    of->rest[n] = (real)rest;
    of->gap[n] = gap;
    return (row_scales){v_all((real)(scale * inverse)), (real)(scale * (gap == 0 ? -rest * inverse : e_label * inverse - 1))};
}

static void many_classes(const labelled_rows *p, row_numbers *of)
{
    const fbp_size C = p->C;
    for (fbp_size n = 0; n < p->N; n++) {
        real *d = p->d + n * p->d_row;
        if (weight_of(p, n) == 0) {
            fill(C, 0, d);
            continue;
        }
        const row_scales s = many_exponentials(p, n, d, NULL, of);
        fbp_size i = 0;
        for (; i + IN_STEP * W <= C; i += IN_STEP * W)
            UNROLL for (int j = 0; j < IN_STEP; j++) v_store(d + i + j * W, v_mul(v_load(d + i + j * W), s.factor));
        for (; i < C; i += W) store_at(d + i, v_mul(load_at(d + i, C - i, 0), s.factor), C - i);
        d[p->labels[n]] = s.delta_label;
    }
}

/* The same with the exponentials of all rows, one after the other, in e (C), and the gradient past the caches */
static void many_classes_past_caches(const labelled_rows *p, real *e, row_numbers *of)
{
    const fbp_size C = p->C;
    leaving_row leaving = {0};
    real *label = NULL, delta_label = 0;
    for (fbp_size n = 0; n < p->N; n++) {
        real *d = p->d + n * p->d_row;
        if (weight_of(p, n) == 0) {
            fill(C, 0, d);
            continue;
        }
        const row_scales s = many_exponentials(p, n, e, &leaving, of);
        if (label) *label = delta_label;
        leaving = leave(C, e, s.factor, d);
        label = d + p->labels[n];
        delta_label = s.delta_label;
    }
    leave_on(&leaving, leaving.C);
    if (label) *label = delta_label;
    v_streamed();
}

/* Few classes: up to TOGETHER rows of up to IN_STEP vectors. Each pass goes over all rows, since what a row needs next comes at the end of
 * a long chain; and what goes over the lanes of a row goes over those of W rows at once. */
typedef struct {
    const real *row[TOGETHER + IN_STEP]; /* of logits; zeros in place of one that is not read, or that only fills the last step */
    real at_label[TOGETHER], scale[TOGETHER], maximum[TOGETHER + IN_STEP], sum[TOGETHER + IN_STEP], ties[TOGETHER + IN_STEP];
    real factor[TOGETHER], delta_label[TOGETHER];
    real e[(TOGETHER + IN_STEP) * FEW]; /* whole vectors: to load from d what has just been stored there in part would stall */
} few_rows;

static ALWAYS_INLINE void few_inputs(const labelled_rows *p, few_rows *of)
{
    static const real zeros[FEW];
    for (fbp_size n = 0; n < p->N; n++) {
        const int read = weight_of(p, n) != 0;
        of->row[n] = read ? p->z + n * p->z_row : zeros;
        of->at_label[n] = of->row[n][read ? p->labels[n] : 0];
        of->scale[n] = read ? scale_of(p, n) : 0;
    }
    for (int i = 0; i < IN_STEP; i++) of->row[p->N + i] = zeros;
}

/* m of R rows from row n on, each of V vectors */
static ALWAYS_INLINE void few_maxima(fbp_size C, fbp_size n, int R, int V, few_rows *of)
{
    const vec least = v_all(-INFINITY);
    vec m[W];
    UNROLL for (int i = 0; i < R; i++) {
        const real *z = of->row[n + i];
        m[i] = v_load_n(z + (V - 1) * W, C - (V - 1) * W, least);
        UNROLL for (int v = 0; v < V - 1; v++) m[i] = v_max(v_load(z + v * W), m[i]);
    }
    store_each(R, v_max, m, of->maximum + n);
}

/* e^(z - m) of as many rows as fit into IN_STEP vectors */
static ALWAYS_INLINE void few_exponentials(fbp_size C, fbp_size n, int V, few_rows *of)
{
    const int count = IN_STEP / V * V;
    const vec least = v_all(-INFINITY);
    vec a[IN_STEP], x[IN_STEP], y[IN_STEP];
    UNROLL for (int j = 0; j < count; j++) {
        const real *z = of->row[n + j / V] + j % V * W;
        a[j] = j % V < V - 1 ? v_load(z) : v_load_n(z, C - (V - 1) * W, least);
        y[j] = x[j] = v_sub(a[j], v_all(of->maximum[n + j / V]));
    }
    v_exp_each(count, y);
    UNROLL for (int j = 0; j < count; j++)
        v_store(of->e + (n * V + j) * W, v_regain(a[j], v_all(of->maximum[n + j / V]), x[j], y[j]));
}

/* Of R rows the sum of all e < 1, and the number of the others: these are maxima, or as good as */
static ALWAYS_INLINE void few_sums(fbp_size n, int R, int V, few_rows *of)
{
    const vec zero = v_all(0), one = v_all(1);
    vec sum[W], ties[W];
    UNROLL for (int i = 0; i < R; i++) {
        sum[i] = ties[i] = zero;
        UNROLL for (int v = 0; v < V; v++) {
            const vec e = v_load(of->e + ((n + i) * V + v) * W);
            const mask top = v_eq(e, one);
            sum[i] = v_add(sum[i], v_select(top, zero, e));
            ties[i] = v_select(top, v_add(ties[i], one), ties[i]);
        }
    }
    store_each(R, v_add, sum, of->sum + n);
    store_each(R, v_add, ties, of->ties + n);
}

/* For W rows, a lane for each, the factor of their exponentials and the delta at the label */
static ALWAYS_INLINE void few_factors(fbp_size n, fbp_size left, few_rows *of, real *to_rest)
{
    const vec zero = v_all(0), one = v_all(1), scale = load_at(of->scale + n, left, 0);
    const vec gap = v_sub(load_at(of->maximum + n, left, 0), load_at(of->at_label + n, left, 0));
    const vec rest = v_add(load_at(of->sum + n, left, 0), v_sub(load_at(of->ties + n, left, 1), one));
    const vec factor = v_div(scale, v_add(one, rest)), e_label = v_exp_below(v_negative(gap));
    const vec elsewhere = v_fma(e_label, factor, v_negative(scale)), at_maximum = v_mul(v_negative(rest), factor);
    store_at(of->factor + n, factor, left);
    store_at(of->delta_label + n, v_select(v_eq(gap, zero), at_maximum, elsewhere), left);
    store_at(to_rest + n, rest, left);
}

static ALWAYS_INLINE void few_deltas(const labelled_rows *p, fbp_size n, int V, const few_rows *of)
{
    const vec factor = v_all(of->factor[n]);
    const real *e = of->e + n * V * W;
    real *d = p->d + n * p->d_row;
    UNROLL for (int v = 0; v < V - 1; v++) v_store(d + v * W, v_mul(v_load(e + v * W), factor));
    v_store_n(d + (V - 1) * W, v_mul(v_load(e + (V - 1) * W), factor), p->C - (V - 1) * W);
    if (weight_of(p, n) != 0) d[p->labels[n]] = of->delta_label[n];
}

static ALWAYS_INLINE void few_classes(const labelled_rows *p, int V, row_numbers *to)
{
    enum { REST = (int)W < (int)IN_STEP ? (int)W : (int)IN_STEP }; /* rows of a block where fewer than W are left */
    const fbp_size N = p->N, C = p->C, filled = (N + IN_STEP - 1) / IN_STEP * IN_STEP;
    few_rows of;
    fbp_size n;
    few_inputs(p, &of);
    for (n = 0; n + W <= N; n += W) few_maxima(C, n, W, V, &of);
    for (; n < filled; n += REST) few_maxima(C, n, REST, V, &of);
    for (n = 0; n < filled; n += IN_STEP / V) few_exponentials(C, n, V, &of);
    for (n = 0; n + W <= N; n += W) few_sums(n, W, V, &of);
    for (; n < N; n += REST) few_sums(n, REST, V, &of);
    for (n = 0; n < N; n += W) few_factors(n, N - n, &of, to->rest);
    for (n = 0; n < N; n++) few_deltas(p, n, V, &of);
    for (n = 0; n < N; n++) to->gap[n] = (double)of.maximum[n] - (double)of.at_label[n];
}

/* N rows; errors_n = w_n E_n. Without `weights`, NULL, all are 1; `errors` may be `weights`. With a row of scratch, e (C), for many
 * classes, the gradient goes to memory past the caches. d may be z, without e. */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, real *e, real *d, fbp_size d_row, double *errors)
{
    while (N > 0) {
        const fbp_size rows = smaller(TOGETHER, N);
        const labelled_rows p = {rows, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        row_numbers of;
        switch ((C + W - 1) / W) {
        case 1: few_classes(&p, 1, &of); break;
        case 2: few_classes(&p, 2, &of); break;
        case 3: few_classes(&p, 3, &of); break;
        case 4: few_classes(&p, 4, &of); break;
        default:
            for (fbp_size n = 0; n < rows; n++) of.rest[n] = 0, of.gap[n] = 0; /* of rows that are not read */
            if (e) many_classes_past_caches(&p, e, &of);
            else many_classes(&p, &of);
        }
        map(rows, of.rest, of.rest, v_log1p_nonnegative);
        for (fbp_size n = 0; n < rows; n++) {
            const double weight = weight_of(&p, n);
            errors[n] = weight == 0 ? 0 : weight * ((double)of.rest[n] + of.gap[n]);
        }
        N -= rows, z += rows * z_row, labels += rows, d += rows * d_row, errors += rows;
        if (weights) weights += rows;
    }
}

/* The targets that act are u_c = w_c (keep t_c + uniform), and at a label `hot` more. With labels t = 0, and Σ u but for the label is
 * that of every row. Where these functions are inlined, the form is a constant, and so is whether the logits are `capped`:
 *
 *   UNIFORM   u_c = uniform       BY_CLASS   u_c = w_c uniform, none of them 0       OF_ROW   whatever there is */
enum { UNIFORM, BY_CLASS, OF_ROW };
typedef struct {
    const real *t, *w; /* (C); in the form OF_ROW either may be NULL */
    real keep, uniform;
} targets;
static ALWAYS_INLINE vec target_at(int form, const targets *u, fbp_size i, fbp_size left)
{
    vec v = v_all(u->uniform);
    if (form == UNIFORM) return v;
    if (form == OF_ROW && u->t) v = v_fma(v_all(u->keep), load_at(u->t + i, left, 0), v);
    return form == BY_CLASS || u->w ? v_mul(v, load_at(u->w + i, left, 0)) : v;
}

/* What a softcap makes of a row: z'/ln 2 to x, of which the maximum is returned, and -dz'/dz to minus_slope. x may be z. A softcap
 * counts as a quarter of the largest number at most: no z'/ln 2 overflows, and 1/softcap does not underflow. */
static real softcap_row(fbp_size C, const real *z, double softcap, real *minus_slope, real *x)
{
    const double most = (double)LARGEST / 4, cap = softcap < most ? softcap : most;
    const vec c = v_all((real)(cap / LN_2)), inverse = v_all((real)(1 / cap));
    vec m = v_all(-INFINITY), a[IN_STEP], minus[IN_STEP];
    fbp_size i = 0;
    for (; i + IN_STEP * W <= C; i += IN_STEP * W) {
        prefetch_next(IN_STEP, z, C, i);
        UNROLL for (int j = 0; j < IN_STEP; j++) a[j] = v_load(z + i + j * W);
        v_softcap_each(IN_STEP, c, inverse, a, minus);
        UNROLL for (int j = 0; j < IN_STEP; j++) {
            v_store(x + i + j * W, a[j]);
            v_store(minus_slope + i + j * W, minus[j]);
            m = v_max(a[j], m);
        }
    }
    for (; i < C; i += W) {
        *a = load_at(z + i, C - i, 0);
        v_softcap_each(1, c, inverse, a, minus);
        store_at(x + i, *a, C - i);
        store_at(minus_slope + i, *minus, C - i);
        m = v_max(first_lanes_of(*a, C - i, -INFINITY), m);
    }
    return v_hmax(m);
}

/* Sums over a row: e^(x_c - m) but at maxima (2^(x_c - m) after a softcap); the number of these; u_c there, or w_c in the form BY_CLASS;
 * u_c elsewhere, in the form OF_ROW alone; and u_c (x_c - m) */
typedef struct { vec rest, ties, top, others, deficit; } block_sums;
typedef struct { double rest, ties, top, others, deficit; } row_sums;
static ALWAYS_INLINE void add_to_sums(int form, int capped, int n, const real *x, fbp_size i, fbp_size left, vec maximum,
                                      const targets *u, block_sums *s, real *e)
{
    const vec zero = v_all(0), one = v_all(1);
    vec a[IN_STEP], gap[IN_STEP], y[IN_STEP], target[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) {
        a[j] = load_at(x + i + j * W, left - j * W, -INFINITY);
        y[j] = gap[j] = v_sub(a[j], maximum);
    }
    if (capped) v_exp2_each(n, y);
    else v_exp_each(n, y);
    UNROLL for (int j = 0; j < n; j++) {
        if (!capped) y[j] = v_regain(a[j], maximum, gap[j], y[j]);
        store_at(e + i + j * W, y[j], left - j * W);
        target[j] = first_lanes_of(target_at(form, u, i + j * W, left - j * W), left - j * W, 0);
        vec deficit = v_fma(target[j], gap[j], s->deficit);
        if (form == OF_ROW || left < W) deficit = v_select(v_eq(target[j], zero), s->deficit, deficit); /* 0 · inf = 0 */
        s->deficit = deficit;
    }
    if (any_zero(n, gap)) {
        UNROLL for (int j = 0; j < n; j++) {
            const mask top = v_eq(gap[j], zero);
            const vec of_top = form == BY_CLASS ? load_at(u->w + i + j * W, left - j * W, 0) : target[j];
            s->rest = v_add(s->rest, v_select(top, zero, y[j]));
            s->ties = v_select(top, v_add(s->ties, one), s->ties);
            s->top = v_select(top, v_add(s->top, of_top), s->top);
            if (form == OF_ROW) s->others = v_add(s->others, v_select(top, zero, target[j]));
        }
    } else {
        UNROLL for (int j = 0; j < n; j++) {
            s->rest = v_add(s->rest, y[j]);
            if (form == OF_ROW) s->others = v_add(s->others, target[j]);
        }
    }
}

static ALWAYS_INLINE row_sums sum_up(int form, int capped, fbp_size C, const real *x, real m, const targets *u, real *e)
{
    const vec maximum = v_all(m), zero = v_all(0);
    row_sums sums = {0, 0, 0, 0, 0};
    for (fbp_size start = 0; start < C; start += BLOCK) {
        const fbp_size stop = smaller(start + BLOCK, C);
        block_sums s = {zero, zero, zero, zero, zero};
        fbp_size i = start;
        for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
            if (!capped) prefetch_next(IN_STEP, x, C, i);
            prefetch_next(IN_STEP, e, C, i);
            add_to_sums(form, capped, IN_STEP, x, i, IN_STEP * W, maximum, u, &s, e);
        }
        for (; i < stop; i += W) add_to_sums(form, capped, 1, x, i, C - i, maximum, u, &s, e);
        sums.rest += (double)v_sum(s.rest);
        sums.ties += (double)v_sum(s.ties);
        sums.top += (double)v_sum(s.top);
        if (form == OF_ROW) sums.others += (double)v_sum(s.others);
        sums.deficit += (double)v_sum(s.deficit);
    }
    return sums;
}

/* d_c = (e_c gain - u_c) slope_c, or at_maximum in place of the difference where e_c = 1, with what is constant in the row scaled; e may
 * be d, and if it is not, n whole vectors of several go past the caches. */
static ALWAYS_INLINE void gradient_step(int form, int capped, int single, int n, fbp_size i, fbp_size left, const targets *u, vec gain,
                                        vec at_maximum, const real *slope, const real *row, real *d)
{
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec e = load_at(row + i, left, 0), delta = v_sub(v_mul(e, gain), target_at(form, u, i, left));
        if (single) delta = v_select(v_eq(e, v_all(1)), at_maximum, delta);
        if (capped) delta = v_mul(delta, load_at(slope + i, left, 0));
        if (n > 1 && row != d) v_stream(d + i, delta);
        else store_at(d + i, delta, left);
    }
}

/* One row, whose target is the row t (C) or, where that is NULL, the class `label`, with whatever `how` asks for. A softcap puts
 * z' in place of z, and takes `slope` (C) for scratch. The exponentials stand in e (C), which may be d. With u_c as above, and T = Σ u:
 *
 *   E = T log1p(rest) + Σ_c u_c (m - z_c) + s lse²,     lse = m + log1p(rest)
 *   dE/dz_c = y_c T - u_c + 2 s lse y_c;  at a single maximum  y T - u = (T - u - u rest) / (1 + rest),  T - u = Σ of the others
 */
typedef struct {
    fbp_size C;
    const real *z, *t;
    fbp_size label;
    const fbp_cross_entropy *how;
    double scale;
    real *slope, *e, *d;
} optional_row;
static ALWAYS_INLINE double cross_entropy(int form, int capped, const optional_row *p)
{
    const fbp_size C = p->C, label = p->label;
    const fbp_cross_entropy *how = p->how;
    const double keep = 1 - how->smoothing, uniform = how->smoothing / (double)C;
    const targets u = {p->t, how->class_weight, (real)keep, (real)uniform};
    const int labelled = form != OF_ROW || !u.t;
    const double share = (double)u.uniform, w_label = labelled && u.w ? (double)u.w[label] : 1, hot = labelled ? keep * w_label : 0;

    const real top_x = capped ? softcap_row(C, p->z, how->softcap, p->slope, p->e) : row_max(C, p->z), *x = capped ? p->e : p->z;
    const double unit = capped ? LN_2 : 1, m = unit * (double)top_x, gap = labelled ? unit * ((double)top_x - (double)x[label]) : 0;
    const row_sums s = sum_up(form, capped, C, x, top_x, &u, p->e);
    double top = s.top, others = s.others, excess = -unit * s.deficit;
    if (form != OF_ROW && share == 0) excess = 0; /* 0 · inf = 0 */
    if (form == UNIFORM) top = share * s.ties, others = share * ((double)C - s.ties);
    if (form == BY_CLASS) top *= share, others = share * ((how->weight_sum - s.top) + how->weight_sum_lost);
    if (hot != 0) {
        if (gap == 0) top += hot;
        else others += hot;
        excess += hot * gap;
    }

    const double rest = s.rest + (s.ties - 1), inverse = 1 / (1 + rest), log_rest = log1p(rest), T = top + others, lse = m + log_rest;
    double pull = 0, penalty = 0;
    if (how->lse_square_scale != 0) {
        pull = 2 * how->lse_square_scale * lse;
        penalty = how->lse_square_scale * lse * lse;
    }
    const double gain = (T + pull) * inverse, at_maximum = (others + pull - top * rest) * inverse;
    const double scale = capped ? -p->scale : p->scale; /* minus, as it is -dz'/dz that follows */
    const int single = rest < 1;
    double delta_label = 0;
    if (labelled) {
        delta_label = single && gap == 0 ? at_maximum : (double)p->e[label] * gain - (hot + share * w_label);
        if (capped) delta_label *= (double)p->slope[label];
    }
    const targets scaled = {u.t, u.w, (real)(scale * keep), (real)(scale * uniform)};
    const vec v_gain = v_all((real)(scale * gain)), v_maximum = v_all((real)(scale * at_maximum));
    fbp_size i = p->e == p->d ? 0 : smaller(unaligned(p->d), C);
    if (i > 0) gradient_step(form, capped, single, 1, 0, i, &scaled, v_gain, v_maximum, p->slope, p->e, p->d);
    for (; i + IN_STEP * W <= C; i += IN_STEP * W)
        gradient_step(form, capped, single, IN_STEP, i, IN_STEP * W, &scaled, v_gain, v_maximum, p->slope, p->e, p->d);
    for (; i < C; i += W) gradient_step(form, capped, single, 1, i, C - i, &scaled, v_gain, v_maximum, p->slope, p->e, p->d);
    if (p->e != p->d) v_streamed();
    if (labelled) p->d[label] = (real)(scale * delta_label);
    return T * log_rest + excess + penalty;
}

/* d may be z. With a row of scratch, e (C), the gradient goes to memory past the caches. */
static double softmax_cross_entropy_row(fbp_size C, const real *z, const real *t, fbp_size label, const fbp_cross_entropy *how,
                                        double scale, real *slope, real *e, real *d)
{
    const optional_row p = {C, z, t, label, how, scale, slope, e ? e : d, d};
    const int capped = how->softcap > 0;
    if (t || how->share_of_0) return capped ? cross_entropy(OF_ROW, 1, &p) : cross_entropy(OF_ROW, 0, &p);
    if (how->class_weight && how->smoothing != 0) return capped ? cross_entropy(BY_CLASS, 1, &p) : cross_entropy(BY_CLASS, 0, &p);
    return capped ? cross_entropy(UNIFORM, 1, &p) : cross_entropy(UNIFORM, 0, &p);
}
