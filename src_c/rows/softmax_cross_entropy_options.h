/* Softmax outputs with cross-entropy over rows of C logits, with options: targets that are rows, class weights, smoothing, lse², a
 * softcap. Errors and gradients are those of softmax_cross_entropy.h, and so is what is said there of maxima and of rest.
 */

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

/* A softcap counts as a quarter of the largest number at most: no z'/ln 2 overflows, and 1/softcap does not underflow. */
typedef struct { vec cap, inverse; } softcap_scales; /* of z'/ln 2 and of z */
static softcap_scales scales_of_softcap(double softcap)
{
    const double most = (double)LARGEST / 4, cap = softcap < most ? softcap : most;
    return (softcap_scales){v_all((real)(cap / LN_2)), v_all((real)(1 / cap))};
}

/* The gradient of a row, of which the first `done` elements are there: d_c = (e_c gain - u_c) slope_c, or at_maximum in place of the
 * difference where e_c = 1, with what is constant in the row scaled, and delta_label at the label, if there is one. e may be d. If
 * not, d is stored past the caches, and meanwhile the next row may take the place of e and of the slopes, behind `done`. */
typedef struct {
    fbp_size C, done;
    targets u;
    vec gain, at_maximum;
    int single; /* there is one maximum, and at_maximum is exact */
    const real *slope, *e;
    real *d, *label, delta_label;
} gradient_row;
static ALWAYS_INLINE void gradient_step(int form, int capped, int n, int past, const gradient_row *g, fbp_size i, fbp_size left)
{
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        vec e = load_at(g->e + i, left, 0), delta = v_sub(v_mul(e, g->gain), target_at(form, &g->u, i, left));
        if (g->single) delta = v_select(v_eq(e, v_all(1)), g->at_maximum, delta);
        if (capped) delta = v_mul(delta, load_at(g->slope + i, left, 0));
        if (past) v_stream(g->d + i, delta);
        else store_at(g->d + i, delta, left);
    }
}

static ALWAYS_INLINE void gradient_by_element(int form, int capped, gradient_row *g, fbp_size until)
{
    for (fbp_size i = g->done; i < until; i += W) gradient_step(form, capped, 1, 0, g, i, until - i);
    g->done = until;
}

/* All before element `until` at least */
static ALWAYS_INLINE void gradient_until(int form, int capped, int past, gradient_row *g, fbp_size until)
{
    for (; g->done < until && g->done + IN_STEP * W <= g->C; g->done += IN_STEP * W)
        gradient_step(form, capped, IN_STEP, past, g, g->done, IN_STEP * W);
    if (g->done < until) gradient_by_element(form, capped, g, g->C);
}

static ALWAYS_INLINE void finish_gradient(int form, int capped, int past, gradient_row *g)
{
    gradient_until(form, capped, past, g, g->C);
    if (g->label) *g->label = g->delta_label;
    g->label = NULL;
}

/* What a softcap makes of a row: z'/ln 2 to x, of which the maximum is returned, and -dz'/dz to minus_slope. x may be z, or where a
 * row still stands that is `leaving`, as may its slopes. */
static ALWAYS_INLINE real softcap_row(int form, fbp_size C, const real *z, double softcap, gradient_row *leaving, real *minus_slope, real *x)
{
    const softcap_scales c = scales_of_softcap(softcap);
    const fbp_size ahead = smaller(PAGE, C); /* a whole long row would not fit into the cache beside what stands there */
    vec m = v_all(-INFINITY), a[IN_STEP], minus[IN_STEP];
    fbp_size i = 0;
    for (; i + IN_STEP * W <= C; i += IN_STEP * W) {
        prefetch_next(IN_STEP, z, ahead, i);
        if (leaving) gradient_until(form, 1, 1, leaving, i + IN_STEP * W);
        UNROLL for (int j = 0; j < IN_STEP; j++) a[j] = v_load(z + i + j * W);
        v_softcap_each(IN_STEP, c.cap, c.inverse, a, minus);
        UNROLL for (int j = 0; j < IN_STEP; j++) {
            v_store(x + i + j * W, a[j]);
            v_store(minus_slope + i + j * W, minus[j]);
            m = v_max(a[j], m);
        }
    }
    if (leaving) gradient_until(form, 1, 1, leaving, leaving->C);
    for (; i < C; i += W) {
        *a = load_at(z + i, C - i, 0);
        v_softcap_each(1, c.cap, c.inverse, a, minus);
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

/* Without a softcap e may be where a row still stands that is `leaving`, and the maximum of the next row is found meanwhile. */
static ALWAYS_INLINE row_sums sum_up(int form, int capped, fbp_size C, const real *x, real m, const targets *u, gradient_row *leaving,
                                     next_row *next, real *e)
{
    const vec maximum = v_all(m), zero = v_all(0);
    vec next_max[IN_STEP];
    start_max(next_max);
    row_sums sums = {0, 0, 0, 0, 0};
    for (fbp_size start = 0; start < C; start += BLOCK) {
        const fbp_size stop = smaller(start + BLOCK, C);
        block_sums s = {zero, zero, zero, zero, zero};
        fbp_size i = start;
        for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
            if (!capped) prefetch_next(IN_STEP, x, C, i + PAGE);
            if (!capped && next->z) max_step(next->z + i, next_max);
            if (!leaving) prefetch_next(IN_STEP, e, C, i);
            else if (!capped) gradient_until(form, 0, 1, leaving, i + IN_STEP * W);
            add_to_sums(form, capped, IN_STEP, x, i, IN_STEP * W, maximum, u, &s, e);
        }
        if (leaving && !capped) gradient_until(form, 0, 1, leaving, stop);
        for (; i < stop; i += W) add_to_sums(form, capped, 1, x, i, C - i, maximum, u, &s, e);
        sums.rest += (double)v_sum(s.rest);
        sums.ties += (double)v_sum(s.ties);
        sums.top += (double)v_sum(s.top);
        if (form == OF_ROW) sums.others += (double)v_sum(s.others);
        sums.deficit += (double)v_sum(s.deficit);
    }
    if (!capped && next->z) next->max = finish_max(C, next->z, next_max);
    return sums;
}

/* What is known of a row once its exponentials are summed. With u_c as above, T = Σ u, and `hot` the label's own target:
 *
 *   E = T log1p(rest) + Σ_c u_c (m - z_c) + s lse²,     lse = m + log1p(rest)
 *   dE/dz_c = y_c T - u_c + 2 s lse y_c;  at a single maximum  y T - u = (T - u - u rest) / (1 + rest),  T - u = Σ of the others
 */
typedef struct { double unit, m, gap, hot, u_label, e_label, share, rest, log_rest; } row_facts;
typedef struct { double error, gain, at_maximum, delta_label; int single; } row_outcome;
static ALWAYS_INLINE row_outcome outcome(int form, const fbp_cross_entropy *how, fbp_size C, const row_sums *s, const row_facts *of)
{
    double top = s->top, others = s->others, excess = -of->unit * s->deficit;
    if (form != OF_ROW && of->share == 0) excess = 0; /* 0 · inf = 0 */
    if (form == UNIFORM) top = of->share * s->ties, others = of->share * ((double)C - s->ties);
    if (form == BY_CLASS) top *= of->share, others = of->share * ((how->weight_sum - s->top) + how->weight_sum_lost);
    if (of->hot != 0) {
        if (of->gap == 0) top += of->hot;
        else others += of->hot;
        excess += of->hot * of->gap;
    }
    const double inverse = 1 / (1 + of->rest), T = top + others, lse = of->m + of->log_rest;
    double pull = 0, penalty = 0;
    if (how->lse_square_scale != 0) {
        pull = 2 * how->lse_square_scale * lse;
        penalty = how->lse_square_scale * lse * lse;
    }
    row_outcome r = {.error = T * of->log_rest + excess + penalty, .gain = (T + pull) * inverse, .single = of->rest < 1,
                     .at_maximum = (others + pull - top * of->rest) * inverse};
    r.delta_label = r.single && of->gap == 0 ? r.at_maximum : of->e_label * r.gain - of->u_label;
    return r;
}

/* One row, whose target is the row t (C) or, where that is NULL, the class `label`, with whatever `how` asks for. A softcap puts
 * z' in place of z, and takes `slope` (C) for scratch. The exponentials stand in e (C), which may be d. If not, the gradient of the
 * row before may be `leaving` meanwhile, and this one's is left to do. */
typedef struct {
    fbp_size C;
    const real *z, *t;
    fbp_size label;
    const fbp_cross_entropy *how;
    double scale;
    real *slope, *e, *d;
    gradient_row *leaving; /* NULL where e is d */
    const real *following; /* the row of logits after this one, if it will be read, or NULL */
    next_row *next;        /* what is known of this row, and then of that one */
} optional_row;
static ALWAYS_INLINE double cross_entropy(int form, int capped, const optional_row *p)
{
    const fbp_size C = p->C, label = p->label;
    const fbp_cross_entropy *how = p->how;
    const double keep = 1 - how->smoothing, uniform = how->smoothing / (double)C;
    const targets u = {p->t, how->class_weight, (real)keep, (real)uniform};
    const int labelled = form != OF_ROW || !u.t;
    const double share = (double)u.uniform, w_label = labelled && u.w ? (double)u.w[label] : 1, hot = labelled ? keep * w_label : 0;

    const real top_x = capped ? softcap_row(form, C, p->z, how->softcap, p->leaving, p->slope, p->e)
                       : p->next->z == p->z ? p->next->max : row_max(C, p->z);
    const real *x = capped ? p->e : p->z;
    const double unit = capped ? LN_2 : 1, m = unit * (double)top_x, gap = labelled ? unit * ((double)top_x - (double)x[label]) : 0;
    p->next->z = p->following;
    const row_sums s = sum_up(form, capped, C, x, top_x, &u, p->leaving, p->next, p->e);
    const double rest = s.rest + (s.ties - 1), e_label = labelled ? (double)p->e[label] : 0;
    const row_facts facts = {unit, m, gap, hot, hot + share * w_label, e_label, share, rest, log1p(rest)};
    const row_outcome r = outcome(form, how, C, &s, &facts);
    const double scale = capped ? -p->scale : p->scale, slope = labelled && capped ? (double)p->slope[label] : 1; /* minus dz'/dz */
    gradient_row g = {C, 0, {u.t, u.w, (real)(scale * keep), (real)(scale * uniform)}, v_all((real)(scale * r.gain)),
                      v_all((real)(scale * r.at_maximum)), r.single, p->slope, p->e, p->d, labelled ? p->d + label : NULL,
                      (real)(scale * (r.delta_label * slope))};
    if (p->leaving) {
        if (p->leaving->label) *p->leaving->label = p->leaving->delta_label;
        gradient_by_element(form, capped, &g, smaller(unaligned(p->d), C));
        *p->leaving = g;
    } else {
        finish_gradient(form, capped, 0, &g);
    }
    return r.error;
}

/* `call` with the form of the targets and whether there is a softcap */
#define OF_FORM(t, how, call) \
    do { \
        const int capped = (how)->softcap > 0; \
        if ((t) || (how)->share_of_0) capped ? call(OF_ROW, 1) : call(OF_ROW, 0); \
        else if ((how)->class_weight && (how)->smoothing != 0) capped ? call(BY_CLASS, 1) : call(BY_CLASS, 0); \
        else capped ? call(UNIFORM, 1) : call(UNIFORM, 0); \
    } while (0)

static double error_of(const optional_row *p)
{
    double error;
#define CALL(form, capped) (void)(error = cross_entropy(form, capped, p))
    OF_FORM(p->t, p->how, CALL);
#undef CALL
    return error;
}

static void finish_leaving(const real *t, const fbp_cross_entropy *how, gradient_row *leaving)
{
#define CALL(form, capped) finish_gradient(form, capped, 1, leaving)
    OF_FORM(t, how, CALL);
#undef CALL
    v_streamed();
}

/* d may be z. With a row of scratch, e (C), the gradient goes to memory past the caches. */
static double softmax_cross_entropy_row(fbp_size C, const real *z, const real *t, fbp_size label, const fbp_cross_entropy *how,
                                        double scale, real *slope, real *e, real *d)
{
    gradient_row leaving = {0};
    next_row next = {0};
    const double error = error_of(&(optional_row){C, z, t, label, how, scale, slope, e ? e : d, d, e ? &leaving : NULL, NULL, &next});
    if (e) finish_leaving(t, how, &leaving);
    return error;
}

static void many_optional_classes(const labelled_rows *p, const fbp_cross_entropy *how, real *slope, real *e, double *errors)
{
    gradient_row leaving = {0};
    next_row next = {0};
    for (fbp_size n = 0; n < p->N; n++) {
        const double weight = weight_of(p, n);
        const real *z = p->z + n * p->z_row, *following = n + 1 < p->N && weight_of(p, n + 1) != 0 ? z + p->z_row : NULL;
        real *d = p->d + n * p->d_row;
        const optional_row row = {p->C, z, NULL, (fbp_size)p->labels[n], how, weight / p->divisor, slope,
                                  e ? e : d, d, e ? &leaving : NULL, following, &next};
        if (weight == 0) fill(p->C, 0, d);
        errors[n] = weight == 0 ? 0 : weight * error_of(&row);
    }
    if (e) finish_leaving(NULL, how, &leaving);
}

/* Few classes, labels: the passes of softmax_cross_entropy.h, with more of them, and sums of more. All go over whole blocks of rows,
 * as many as a pass takes at a time. What takes a V holds so many vectors of a row in registers, and is compiled for each by OF_WIDTH. */
typedef struct {
    few_rows plain;
    real deficit[TOGETHER], top[TOGETHER]; /* Σ (x_c - m), or Σ w_c (x_c - m); Σ w_c at maxima */
    real log_rest[TOGETHER], x[(TOGETHER + IN_STEP) * FEW], slope[(TOGETHER + IN_STEP) * FEW];
} few_optional_rows;
#define OF_WIDTH(V, call) \
    switch (V) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    default: call(4); \
    }

static void few_optional_maxima(fbp_size N, fbp_size C, int width, few_rows *of)
{
#define CALL(V) for (fbp_size n = 0; n < N; n += W) few_maxima(C, n, W, V, of)
    OF_WIDTH(width, CALL)
#undef CALL
}

static void few_optional_exponentials(fbp_size N, fbp_size C, int width, int capped, few_rows *of)
{
#define CALL(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_exponentials(C, n, V, 0, of)
#define CAPPED(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_exponentials(C, n, V, 1, of)
    if (capped) OF_WIDTH(width, CAPPED)
    else OF_WIDTH(width, CALL)
#undef CALL
#undef CAPPED
}

/* What a softcap makes of as many rows of logits as fit into IN_STEP vectors, in whole vectors */
static ALWAYS_INLINE void few_softcaps(fbp_size C, fbp_size n, int V, softcap_scales c, few_optional_rows *of)
{
    const int count = IN_STEP / V * V;
    vec a[IN_STEP], minus[IN_STEP];
    UNROLL for (int j = 0; j < count; j++) {
        const real *z = of->plain.row[n + j / V] + j % V * W;
        a[j] = j % V < V - 1 ? v_load(z) : v_load_n(z, C - (V - 1) * W, v_all(0));
    }
    v_softcap_each(count, c.cap, c.inverse, a, minus);
    UNROLL for (int j = 0; j < count; j++) {
        v_store(of->x + (n * V + j) * W, a[j]);
        v_store(of->slope + (n * V + j) * W, minus[j]);
    }
}
static void few_optional_softcaps(const labelled_rows *p, fbp_size N, int width, double softcap, few_optional_rows *of)
{
    const softcap_scales c = scales_of_softcap(softcap);
#define CALL(V) for (fbp_size n = 0; n < N; n += IN_STEP / V) few_softcaps(p->C, n, V, c, of)
    OF_WIDTH(width, CALL)
#undef CALL
    for (fbp_size n = 0; n < N + IN_STEP; n++) of->plain.row[n] = of->x + n * width * W;
    for (fbp_size n = 0; n < p->N; n++) of->plain.at_label[n] = of->plain.row[n][weight_of(p, n) != 0 ? p->labels[n] : 0];
}

/* Without class weights, NULL, w_c = 1 */
static ALWAYS_INLINE void few_sums_of_more(fbp_size C, const real *w, fbp_size n, int V, few_optional_rows *of)
{
    const vec zero = v_all(0), one = v_all(1);
    vec sum[W], ties[W], deficit[W], top[W];
    UNROLL for (int i = 0; i < W; i++) {
        const vec maximum = v_all(of->plain.maximum[n + i]);
        sum[i] = ties[i] = deficit[i] = top[i] = zero;
        UNROLL for (int v = 0; v < V; v++) {
            const fbp_size left = v < V - 1 ? W : C - (V - 1) * W;
            const vec gap = v_sub(load_at(of->plain.row[n + i] + v * W, left, -INFINITY), maximum);
            const vec e = v_load(of->plain.e + ((n + i) * V + v) * W), weight = w ? load_at(w + v * W, left, 0) : one;
            const mask at_top = v_eq(gap, zero);
            sum[i] = v_add(sum[i], v_select(at_top, zero, e));
            ties[i] = v_select(at_top, v_add(ties[i], one), ties[i]);
            top[i] = v_select(at_top, v_add(top[i], weight), top[i]);
            deficit[i] = v_fma(weight, first_lanes_of(gap, left, 0), deficit[i]);
        }
    }
    store_each(W, v_add, sum, of->plain.sum + n);
    store_each(W, v_add, ties, of->plain.ties + n);
    store_each(W, v_add, deficit, of->deficit + n);
    store_each(W, v_add, top, of->top + n);
}
static void few_optional_sums(fbp_size N, fbp_size C, const real *w, int width, few_optional_rows *of)
{
#define CALL(V) for (fbp_size n = 0; n < N; n += W) few_sums_of_more(C, w, n, V, of)
    OF_WIDTH(width, CALL)
#undef CALL
}

static ALWAYS_INLINE void few_optional_classes(int form, int capped, const labelled_rows *p, const fbp_cross_entropy *how, double *errors)
{
    enum { STEP = (int)W > (int)IN_STEP ? (int)W : (int)IN_STEP };
    const fbp_size N = p->N, C = p->C, whole = (N + STEP - 1) / STEP * STEP;
    const int width = (int)((C + W - 1) / W);
    const real *w = how->class_weight;
    const double keep = 1 - how->smoothing, uniform = how->smoothing / (double)C, share = (double)(real)uniform;
    const double unit = capped ? LN_2 : 1;
    few_optional_rows all;
    few_rows *of = &all.plain;
    few_inputs(p, whole, of);
    if (capped) few_optional_softcaps(p, whole, width, how->softcap, &all);
    few_optional_maxima(whole, C, width, of);
    few_optional_exponentials(whole, C, width, capped, of);
    few_optional_sums(whole, C, form == BY_CLASS ? w : NULL, width, &all);
    for (fbp_size n = 0; n < N; n++) of->sum[n] += of->ties[n] - 1;
    map(N, of->sum, all.log_rest, v_log1p_nonnegative);
    for (fbp_size n = 0; n < N; n++) {
        const double weight = weight_of(p, n), scale = (capped ? -weight : weight) / p->divisor;
        real *d = p->d + n * p->d_row;
        if (weight == 0) {
            fill(C, 0, d);
            errors[n] = 0;
            continue;
        }
        const fbp_size label = (fbp_size)p->labels[n], at = n * width * W;
        const double w_label = w ? (double)w[label] : 1, hot = keep * w_label, gap = (double)of->maximum[n] - (double)of->at_label[n];
        const row_sums s = {.ties = of->ties[n], .top = all.top[n], .deficit = share * all.deficit[n]};
        const row_facts facts = {unit, unit * (double)of->maximum[n], unit * gap, hot, hot + share * w_label,
                                 (double)of->e[at + label], share, (double)of->sum[n], (double)all.log_rest[n]};
        const row_outcome r = outcome(form, how, C, &s, &facts);
        const double slope = capped ? (double)all.slope[at + label] : 1;
        gradient_row g = {C, 0, {NULL, w, 0, (real)(scale * uniform)}, v_all((real)(scale * r.gain)), v_all((real)(scale * r.at_maximum)),
                          r.single, all.slope + at, of->e + at, d, d + label, (real)(scale * (r.delta_label * slope))};
        finish_gradient(form, capped, 0, &g);
        errors[n] = weight * r.error;
    }
}
#undef OF_WIDTH

/* N rows whose targets are labels; errors_n = weights_n E_n. Without `weights`, NULL, all are 1; `errors` may be `weights`. `how` is
 * NULL where there is no option; a softcap takes `slope` (C) for scratch. With a row of scratch, e (C), for many classes, the gradient
 * goes to memory past the caches. d may be z, without e. */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, const fbp_cross_entropy *how, real *slope, real *e,
                                       real *d, fbp_size d_row, double *errors)
{
    if (!how) {
        plain_rows(N, C, z, z_row, labels, weights, divisor, e, d, d_row, errors);
        return;
    }
    if (C > FEW || how->share_of_0) {
        const labelled_rows p = {N, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        many_optional_classes(&p, how, slope, e, errors);
        return;
    }
    const int by_class = how->class_weight && how->smoothing != 0, capped = how->softcap > 0;
    while (N > 0) {
        const fbp_size rows = smaller(TOGETHER, N);
        const labelled_rows p = {rows, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        if (by_class) {
            if (capped) few_optional_classes(BY_CLASS, 1, &p, how, errors);
            else few_optional_classes(BY_CLASS, 0, &p, how, errors);
        } else {
            if (capped) few_optional_classes(UNIFORM, 1, &p, how, errors);
            else few_optional_classes(UNIFORM, 0, &p, how, errors);
        }
        N -= rows, z += rows * z_row, labels += rows, d += rows * d_row, errors += rows;
        if (weights) weights += rows;
    }
}
