/* Softmax outputs with cross-entropy over rows of C logits, with options: rows of targets, class weights, label smoothing, an
 * lse² penalty, a softcap. The treatment of maxima and `rest` is that of softmax_cross_entropy.h. */

/* A softcap is limited to a quarter of the largest number: no power of 2 overflows, and 1/softcap does not underflow. */
static double softcap_of(const fbp_cross_entropy *options)
{
    return options->softcap < (double)LARGEST / 4 ? options->softcap : (double)LARGEST / 4;
}
static vec to_power(double cap) { return v_all((real)(cap / LN_2)); }

/* Error and gradient of a row from its sums. With u_c of many_classes.h, T = Σ u, and `hot` the label's own part of its target:
 *
 *   E = T log1p(rest) + Σ_c u_c (m - z_c) + s lse²,     lse = m + log1p(rest)
 *   dE/dz_c = y_c T - u_c + 2 s lse y_c;  at a single maximum  y T - u = (T - u - u rest) / (1 + rest),  T - u = Σ of the others
 */
typedef struct { double unit, m, gap, hot, u_label, e_label, share, rest, log_rest; } row_facts;
typedef struct { double error, gain, at_maximum, delta_label; int single; } row_outcome;
static ALWAYS_INLINE row_outcome outcome(int form, const fbp_cross_entropy *options, fbp_size C, const row_sums *s,
                                         const row_facts *facts)
{
    double top = s->top, others = s->others, excess = -facts->unit * s->deficit;
    if (form != OF_ROW && facts->share == 0) excess = 0; /* 0 · inf = 0 */
    if (form == UNIFORM) top = facts->share * s->ties, others = facts->share * ((double)C - s->ties);
    if (form == BY_CLASS)
        top *= facts->share, others = facts->share * ((options->weight_sum - s->top) + options->weight_sum_lost);
    if (facts->hot != 0) {
        if (facts->gap == 0) top += facts->hot;
        else others += facts->hot;
        excess += facts->hot * facts->gap;
    }
    const double inverse = 1 / (1 + facts->rest), T = top + others, lse = facts->m + facts->log_rest;
    double pull = 0, penalty = 0;
    if (options->lse_square_scale != 0) {
        pull = 2 * options->lse_square_scale * lse;
        penalty = options->lse_square_scale * lse * lse;
    }
    row_outcome r = {.error = T * facts->log_rest + excess + penalty, .gain = (T + pull) * inverse, .single = facts->rest < 1,
                     .at_maximum = (others + pull - top * facts->rest) * inverse};
    r.delta_label = r.single && facts->gap == 0 ? r.at_maximum : facts->e_label * r.gain - facts->u_label;
    return r;
}

/* One row. Its target is the row t (C), or the class `label` if t is NULL. A softcap takes `slope` (C) for scratch. The
 * exponentials go to e (C), which may be d. If e is not d, the gradient of the previous row, `pending`, is finished meanwhile,
 * and that of this row is left pending in g. */
typedef struct {
    fbp_size C;
    const real *z, *t;
    fbp_size label;
    const fbp_cross_entropy *options;
    double scale;
    real *slope, *e, *d;
    gradient_row *g, *pending; /* pending: NULL if e is d */
    const real *following;     /* the next row of logits, or NULL if it is not read */
    next_block *next;
} optional_row;
static ALWAYS_INLINE double cross_entropy(int form, int capped, const optional_row *p)
{
    const fbp_size C = p->C, label = p->label;
    const fbp_cross_entropy *options = p->options;
    const double keep = 1 - options->smoothing, uniform = options->smoothing / (double)C;
    const targets u = {p->t, options->class_weight, (real)keep, (real)uniform};
    const int labelled = form != OF_ROW || !u.t;
    const double share = (double)u.uniform, w_label = labelled && u.w ? (double)u.w[label] : 1;
    const double hot = labelled ? keep * w_label : 0;

    const double unit = capped ? softcap_of(options) : 1;
    const logit_row row = {C, p->z, p->following, unit, v_all((real)(1 / unit)), to_power(unit), p->slope, p->e};
    const logit at_label = logit_of(capped, &row, labelled ? p->z[label] : 0);
    const row_sums s = sum_up(form, capped, &row, &u, p->pending, p->next, p->g);
    const double top_x = (double)first_lane(s.maximum.x), gap = labelled ? unit * (top_x - (double)first_lane(at_label.x)) : 0;
    const double e_label = labelled ? exponential_at(p->g, p->e, label) : 0;
    const row_facts facts = {unit, unit * top_x, gap, hot, hot + share * w_label, e_label, share, s.rest, log1p(s.rest)};
    const row_outcome r = outcome(form, options, C, &s, &facts);
    const double scale = capped ? -p->scale : p->scale; /* slopes are stored as -dz'/dz */
    if (p->pending) finish_gradient(form, capped, 1, p->pending);
    gradient_row *g = p->g;
    set_gains(g, scale * r.gain);
    g->C = C, g->done = 0, g->slope = p->slope, g->e = p->e, g->d = p->d;
    g->minus_u = (targets){u.t, u.w, (real)(-scale * keep), (real)(-scale * uniform)};
    g->top = form != LABEL && r.single ? p->d + s.step + (fbp_size)v_hmax(s.lane) : NULL;
    g->delta_top = (real)(scale * (r.at_maximum * (double)first_lane(s.maximum.minus_slope)));
    g->label = labelled ? p->d + label : NULL;
    g->delta_label = (real)(scale * (r.delta_label * (double)first_lane(at_label.minus_slope)));
    if (p->pending) align_gradient(form, capped, g);
    else finish_gradient(form, capped, 0, g);
    return r.error;
}

/* `call` with the form of the targets, and whether there is a softcap, as constants */
#define OF_FORM(t, options, call) \
    do { \
        const int capped = (options)->softcap > 0; \
        if ((t) || (options)->share_of_0) capped ? call(OF_ROW, 1) : call(OF_ROW, 0); \
        else if ((options)->smoothing == 0) capped ? call(LABEL, 1) : call(LABEL, 0); \
        else if ((options)->class_weight) capped ? call(BY_CLASS, 1) : call(BY_CLASS, 0); \
        else capped ? call(UNIFORM, 1) : call(UNIFORM, 0); \
    } while (0)

static double error_of(const optional_row *p)
{
    double error;
#define CALL(form, capped) (void)(error = cross_entropy(form, capped, p))
    OF_FORM(p->t, p->options, CALL);
#undef CALL
    return error;
}

static void finish_pending(const real *t, const fbp_cross_entropy *options, gradient_row *pending)
{
#define CALL(form, capped) finish_gradient(form, capped, 1, pending)
    OF_FORM(t, options, CALL);
#undef CALL
    v_streamed();
}

/* d may be z if e is NULL. With a row of scratch, e (C), the gradient is written by non-temporal stores. */
static double softmax_cross_entropy_row(fbp_size C, const real *z, const real *t, fbp_size label,
                                        const fbp_cross_entropy *options, double scale, real *slope, real *e, real *d)
{
    assert(C > 0 && are_options(C, options, slope, e));
    assert(are_elements(z, C) && are_elements(d, C) && are_same_or_apart(C, z, d));
    assert(t ? are_elements(t, C) && are_apart(C, t, C, d) : label >= 0 && label < C);
    assert(!e || (z != d && are_apart(C, e, C, d)));
    gradient_row rows[2], *pending = e ? no_gradient(&rows[1]) : NULL;
    next_block next = {0};
    const double error = error_of(&(optional_row){C, z, t, label, options, scale, slope, e ? e : d, d, &rows[0], pending, NULL,
                                                  &next});
    if (e) finish_pending(t, options, &rows[0]);
    return error;
}

static void many_optional_classes(const labelled_rows *p, const fbp_cross_entropy *options, real *slope, real *e, double *errors)
{
    gradient_row rows[2], *g = &rows[0], *pending = e ? no_gradient(&rows[1]) : NULL;
    next_block next = {0};
    for (fbp_size n = 0; n < p->N; n++) {
        const double weight = weight_of(p, n);
        const real *z = p->z + n * p->z_row, *following = n + 1 < p->N && weight_of(p, n + 1) != 0 ? z + p->z_row : NULL;
        real *d = p->d + n * p->d_row;
        const optional_row row = {p->C, z, NULL, (fbp_size)p->labels[n], options, weight / p->divisor, slope, e ? e : d, d, g,
                                  pending, following, &next};
        errors[n] = 0;
        if (weight == 0) {
            fill(p->C, 0, d);
            continue;
        }
        errors[n] = weight * error_of(&row);
        if (pending) swap_rows(&pending, &g);
    }
    if (e) finish_pending(NULL, options, pending);
}

/* Few classes, labels: the passes of softmax_cross_entropy.h, and more. Each pass runs over whole steps of rows. A function with
 * a parameter V holds V vectors of a row in registers; OF_WIDTH compiles it for each V. */
typedef struct {
    few_rows plain;
    real deficit[TOGETHER], top[TOGETHER]; /* Σ u_c (x_c - m); Σ w_c at maxima */
    real log_rest[TOGETHER], x[(TOGETHER + IN_STEP) * FEW], slope[(TOGETHER + IN_STEP) * FEW];
} few_optional_rows;
#define OF_WIDTH(V, call) \
    switch (V) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    default: call(4); \
    }

static void few_optional_maxima(fbp_size N, fbp_size C, int width, few_rows *scratch)
{
#define CALL(V) for (fbp_size n = 0; n < N; n += W) few_maxima(C, n, W, V, scratch)
    OF_WIDTH(width, CALL)
#undef CALL
}

static void few_optional_exponentials(fbp_size N, fbp_size C, int width, double cap, few_rows *scratch)
{
    const vec scale = to_power(cap);
#define CALL(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_exponentials(C, n, V, NULL, scratch)
#define CAPPED(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_exponentials(C, n, V, &scale, scratch)
    if (cap > 0) OF_WIDTH(width, CAPPED)
    else OF_WIDTH(width, CALL)
#undef CALL
#undef CAPPED
}

/* The softcap of as many rows of logits as fit into IN_STEP vectors; results in whole vectors */
static ALWAYS_INLINE void few_softcaps(fbp_size C, fbp_size n, int V, vec inverse, few_optional_rows *scratch)
{
    const int count = IN_STEP / V * V;
    vec a[IN_STEP], minus[IN_STEP];
    UNROLL for (int j = 0; j < count; j++) {
        const real *z = scratch->plain.row[n + j / V] + j % V * W;
        a[j] = j % V < V - 1 ? v_load(z) : v_load_n(z, C - (V - 1) * W, v_all(0));
    }
    v_softcap_each(count, inverse, a, minus);
    UNROLL for (int j = 0; j < count; j++) {
        v_store(scratch->x + (n * V + j) * W, a[j]);
        v_store(scratch->slope + (n * V + j) * W, minus[j]);
    }
}
static void few_optional_softcaps(const labelled_rows *p, fbp_size N, int width, double cap, few_optional_rows *scratch)
{
    const vec inverse = v_all((real)(1 / cap));
#define CALL(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_softcaps(p->C, n, V, inverse, scratch)
    OF_WIDTH(width, CALL)
#undef CALL
    for (fbp_size n = 0; n < N + IN_STEP; n++) scratch->plain.row[n] = scratch->x + n * width * W;
    for (fbp_size n = 0; n < p->N; n++)
        scratch->plain.at_label[n] = scratch->plain.row[n][weight_of(p, n) != 0 ? p->labels[n] : 0];
}

/* The sums of W rows; w = NULL means all w_c = 1 */
static ALWAYS_INLINE void few_sums_of_more(fbp_size C, const real *w, vec share, fbp_size n, int V, few_optional_rows *scratch)
{
    const vec zero = v_all(0), one = v_all(1);
    vec sum[W], ties[W], deficit[W], top[W];
    UNROLL for (int i = 0; i < W; i++) {
        const vec maximum = v_all(scratch->plain.maximum[n + i]);
        sum[i] = ties[i] = deficit[i] = top[i] = zero;
        UNROLL for (int v = 0; v < V; v++) {
            const fbp_size left = v < V - 1 ? W : C - (V - 1) * W;
            const vec gap = v_sub(load_at(scratch->plain.row[n + i] + v * W, left, -INFINITY), maximum);
            const vec e = v_load(scratch->plain.e + ((n + i) * V + v) * W), weight = w ? load_at(w + v * W, left, 0) : one;
            const mask at_top = v_eq(gap, zero);
            sum[i] = v_add(sum[i], v_select(at_top, zero, e));
            ties[i] = v_select(at_top, v_add(ties[i], one), ties[i]);
            top[i] = v_select(at_top, v_add(top[i], weight), top[i]);
            deficit[i] = v_fma(w ? v_mul(share, weight) : share, first_lanes_of(gap, left, 0), deficit[i]);
        }
    }
    store_each(W, v_add, sum, scratch->plain.sum + n);
    store_each(W, v_add, ties, scratch->plain.ties + n);
    store_each(W, v_add, deficit, scratch->deficit + n);
    store_each(W, v_add, top, scratch->top + n);
}
static void few_optional_sums(fbp_size N, fbp_size C, const real *w, real uniform, int width, few_optional_rows *scratch)
{
    const vec share = v_all(uniform);
#define CALL(V) for (fbp_size n = 0; n < N; n += W) few_sums_of_more(C, w, share, n, V, scratch)
    OF_WIDTH(width, CALL)
#undef CALL
}

/* The deltas of a row except at the label; `single`: the only maximum gets at_maximum */
static ALWAYS_INLINE void few_optional_deltas(int form, int capped, fbp_size C, const targets *minus_u, real gain,
                                              real at_maximum, int single, const real *e, const real *slope, real *d)
{
    for (fbp_size i = 0; i < C; i += W) {
        const vec y = v_load(e + i);
        vec delta = v_fma(y, v_all(gain), target_at(form, minus_u, i, C - i));
        if (single) delta = v_select(v_eq(y, v_all(1)), v_all(at_maximum), delta);
        if (capped) delta = v_mul(delta, v_load(slope + i));
        store_at(d + i, delta, C - i);
    }
}

static ALWAYS_INLINE void few_optional_classes(int form, int capped, const labelled_rows *p, const fbp_cross_entropy *options,
                                               double *errors)
{
    enum { STEP = (int)W > (int)IN_STEP ? (int)W : (int)IN_STEP };
    const fbp_size N = p->N, C = p->C, whole = (N + STEP - 1) / STEP * STEP;
    const int width = (int)((C + W - 1) / W);
    const real *w = options->class_weight;
    const double keep = 1 - options->smoothing, uniform = options->smoothing / (double)C, share = (double)(real)uniform;
    const double cap = capped ? softcap_of(options) : 0, unit = capped ? cap : 1;
    few_optional_rows all;
    few_rows *scratch = &all.plain;
    few_inputs(p, whole, scratch);
    if (capped) few_optional_softcaps(p, whole, width, cap, &all);
    few_optional_maxima(whole, C, width, scratch);
    few_optional_exponentials(whole, C, width, cap, scratch);
    few_optional_sums(whole, C, form == BY_CLASS ? w : NULL, (real)uniform, width, &all);
    for (fbp_size n = 0; n < N; n++) scratch->sum[n] += scratch->ties[n] - 1;
    map(N, scratch->sum, all.log_rest, v_log1p_nonnegative);
    for (fbp_size n = 0; n < N; n++) {
        const double weight = weight_of(p, n), scale = (capped ? -weight : weight) / p->divisor;
        real *d = p->d + n * p->d_row;
        if (weight == 0) {
            fill(C, 0, d);
            errors[n] = 0;
            continue;
        }
        const fbp_size label = (fbp_size)p->labels[n], at = n * width * W;
        const double w_label = w ? (double)w[label] : 1, hot = keep * w_label;
        const double gap = (double)scratch->maximum[n] - (double)scratch->at_label[n];
        const row_sums s = {.ties = scratch->ties[n], .top = all.top[n], .deficit = all.deficit[n]};
        const row_facts facts = {unit, unit * (double)scratch->maximum[n], unit * gap, hot, hot + share * w_label,
                                 (double)scratch->e[at + label], share, (double)scratch->sum[n], (double)all.log_rest[n]};
        const row_outcome r = outcome(form, options, C, &s, &facts);
        const targets minus_u = {NULL, w, 0, (real)(-scale * uniform)};
        few_optional_deltas(form, capped, C, &minus_u, (real)(scale * r.gain), (real)(scale * r.at_maximum), r.single,
                            scratch->e + at, all.slope + at, d);
        d[label] = (real)(scale * (r.delta_label * (capped ? (double)all.slope[at + label] : 1)));
        errors[n] = weight * r.error;
    }
}
#undef OF_WIDTH

/* Errors and gradients of N rows; unless e is NULL, gradients of many classes are written by non-temporal stores */
static void optional_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels, const double *weights,
                          double divisor, const fbp_cross_entropy *options, real *slope, real *e, real *d, fbp_size d_row,
                          double *errors)
{
    if (C > FEW || options->share_of_0) {
        const labelled_rows p = {N, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        many_optional_classes(&p, options, slope, e, errors);
        return;
    }
    const int by_class = options->class_weight && options->smoothing != 0, capped = options->softcap > 0;
    while (N > 0) {
        const fbp_size rows = smaller(TOGETHER, N);
        const labelled_rows p = {rows, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        if (by_class) {
            if (capped) few_optional_classes(BY_CLASS, 1, &p, options, errors);
            else few_optional_classes(BY_CLASS, 0, &p, options, errors);
        } else {
            if (capped) few_optional_classes(UNIFORM, 1, &p, options, errors);
            else few_optional_classes(UNIFORM, 0, &p, options, errors);
        }
        N -= rows, z += rows * z_row, labels += rows, d += rows * d_row, errors += rows;
        if (weights) weights += rows;
    }
}
