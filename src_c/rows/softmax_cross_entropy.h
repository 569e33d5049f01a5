/* Softmax outputs with cross-entropy over rows of C logits. The errors come back unscaled or weighted, as told, and scale · dE/dz
 * goes to d, which may be z. A row without a finite maximum (NaN, +inf, all -inf) gives NaN throughout.
 *
 * With m = max z and rest = Σ_{c ≠ argmax} e^(z_c - m), and so y_c = e^(z_c - m) / (1 + rest):
 *
 *   ln Σ_c e^(z_c) - z_k = log1p(rest) + (m - z_k)                    no difference of large numbers
 *   y_c - 1 = -rest / (1 + rest)  at the maximum                      no difference from 1 at a near-certain target
 */

/* Rows whose targets are labels:  E = log1p(rest) + gap, gap = m - z_label;  dE/dz = y - onehot(label). The gradient of row n is
 * scaled by weights_n / divisor; a row of weight 0 is not read, and its gradient is 0. */
typedef struct {
    fbp_size C;
    const real *z;
    fbp_size z_row;
    const int64_t *labels;
    const double *weights;
    double divisor;
    real *d;
    fbp_size d_row;
} labelled_rows;

/* What one row leaves to be done for all of them: logarithms and divisions are best taken many at a time. */
enum { TOGETHER = 64 };
typedef struct { real rest[TOGETHER], gap[TOGETHER], scale[TOGETHER]; double exact_gap[TOGETHER]; } row_numbers;

static void many_classes(const labelled_rows *p, fbp_size n, row_numbers *of)
{
    const fbp_size C = p->C, label = (fbp_size)p->labels[n];
    const real *z = p->z + n * p->z_row, m = row_max(C, z);
    real *d = p->d + n * p->d_row;
    const double gap = (double)m - (double)z[label], scale = p->weights[n] / p->divisor;
    const double rest = exp_rest(C, z, m, d, 0), inverse = 1 / (1 + rest), e_label = (double)d[label];
    const vec factor = v_all((real)(scale * inverse));
    for (fbp_size i = 0; i < C; i += W) store_at(d + i, v_mul(load_at(d + i, C - i, 0), factor), C - i);
    d[label] = (real)(scale * (gap == 0 ? -rest * inverse : e_label * inverse - 1));
    of->rest[n] = (real)rest;
    of->exact_gap[n] = gap;
}

/* The exponentials of as many rows as fit into IN_STEP vectors, V for each, to e in whole vectors: to load from d what has just been
 * stored there in part, as the end of one row and right before the next, would stall. */
static ALWAYS_INLINE void few_exponentials(const labelled_rows *p, fbp_size n, int rows, int V, real *e, row_numbers *of)
{
    const fbp_size C = p->C;
    const vec zero = v_all(0), one = v_all(1);
    vec a[IN_STEP], x[IN_STEP], y[IN_STEP], maxima[IN_STEP];
    UNROLL for (int r = 0; r < rows; r++) {
        const real *z = p->z + (n + r) * p->z_row;
        const int read = p->weights[n + r] != 0;
        vec m = v_all(-INFINITY);
        UNROLL for (int v = 0; v < V; v++) {
            a[r * V + v] = read ? load_at(z + v * W, C - v * W, -INFINITY) : zero;
            m = v_max(a[r * V + v], m);
        }
        const real maximum = v_hmax(m);
        maxima[r] = v_all(maximum);
        UNROLL for (int v = 0; v < V; v++) y[r * V + v] = x[r * V + v] = v_sub(a[r * V + v], maxima[r]);
        of->exact_gap[n + r] = read ? (double)maximum - (double)z[p->labels[n + r]] : 0;
        of->gap[n + r] = read ? maximum - z[p->labels[n + r]] : 0;
        of->scale[n + r] = (real)(p->weights[n + r] / p->divisor);
    }
    v_exp_each(rows * V, y);
    UNROLL for (int r = 0; r < rows; r++) {
        vec sum = zero, ties = zero;
        UNROLL for (int v = 0; v < V; v++) {
            mask top = v_eq(x[r * V + v], zero);
            y[r * V + v] = v_regain(a[r * V + v], maxima[r], x[r * V + v], y[r * V + v]);
            sum = v_add(sum, v_select(top, zero, y[r * V + v]));
            ties = v_select(top, v_add(ties, one), ties);
            v_store(e + ((n + r) * V + v) * W, y[r * V + v]);
        }
        of->rest[n + r] = v_sum(sum) + (v_sum(ties) - 1);
    }
}

/* At most TOGETHER rows of V vectors each. */
static ALWAYS_INLINE void few_classes(const labelled_rows *p, fbp_size N, int V, row_numbers *of)
{
    const int rows = IN_STEP / V;
    const vec zero = v_all(0), one = v_all(1);
    real e[TOGETHER * IN_STEP * W], factor[TOGETHER], delta_label[TOGETHER];
    fbp_size n = 0;
    for (; n + rows <= N; n += rows) few_exponentials(p, n, rows, V, e, of);
    for (; n < N; n++) few_exponentials(p, n, 1, V, e, of);
    for (n = 0; n < N; n += W) {
        vec rest = load_at(of->rest + n, N - n, 0), gap = load_at(of->gap + n, N - n, 0), scale = load_at(of->scale + n, N - n, 0);
        vec f = v_div(scale, v_add(one, rest)), e_label = v_exp_below(v_negative(gap));
        vec delta = v_select(v_eq(gap, zero), v_mul(v_negative(rest), f), v_fma(e_label, f, v_negative(scale)));
        store_at(factor + n, f, N - n);
        store_at(delta_label + n, delta, N - n);
    }
    for (n = 0; n < N; n++) {
        real *d = p->d + n * p->d_row;
        const vec f = v_all(factor[n]);
        UNROLL for (int v = 0; v < V; v++) {
            vec delta = v_mul(v_load(e + (n * V + v) * W), f);
            store_at(d + v * W, p->weights[n] == 0 ? zero : delta, p->C - v * W);
        }
        if (p->weights[n] != 0) d[p->labels[n]] = delta_label[n];
    }
}

/* N rows; errors_n = w_n E_n. `errors` may be `weights`. */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, real *d, fbp_size d_row, double *errors)
{
    while (N > 0) {
        const fbp_size rows = smaller(TOGETHER, N);
        const labelled_rows p = {C, z, z_row, labels, weights, divisor, d, d_row};
        row_numbers of;
        switch ((C + W - 1) / W) {
        case 1: few_classes(&p, rows, 1, &of); break;
        case 2: few_classes(&p, rows, 2, &of); break;
        case 3: few_classes(&p, rows, 3, &of); break;
        case 4: few_classes(&p, rows, 4, &of); break;
        default:
            for (fbp_size n = 0; n < rows; n++) {
                of.rest[n] = 0, of.exact_gap[n] = 0;
                if (weights[n] == 0) fill(C, 0, d + n * d_row);
                else many_classes(&p, n, &of);
            }
        }
        map(rows, of.rest, of.rest, v_log1p_nonnegative);
        for (fbp_size n = 0; n < rows; n++)
            errors[n] = weights[n] == 0 ? 0 : weights[n] * ((double)of.rest[n] + of.exact_gap[n]);
        N -= rows, z += rows * z_row, labels += rows, weights += rows, d += rows * d_row, errors += rows;
    }
}

/* The targets that act are u_c = w_c (keep t_c + uniform); without t a label tells which of them is more. */
typedef struct {
    const real *t, *w; /* (C), or NULL */
    real keep, uniform;
} targets;
static ALWAYS_INLINE vec target_at(const targets *u, fbp_size i, fbp_size left)
{
    vec v = v_all(u->uniform);
    if (u->t) v = v_fma(v_all(u->keep), load_at(u->t + i, left, 0), v);
    return u->w ? v_mul(v, load_at(u->w + i, left, 0)) : v;
}

/* Logits, or what a softcap makes of them, n vectors in step. The lanes beyond the row are -inf. */
typedef struct {
    int capped;
    vec c, inverse_c;
} softcap;
static ALWAYS_INLINE void logits_at(int n, const real *z, fbp_size left, const softcap *cap, real *slope, vec *x)
{
    vec slopes[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) x[j] = load_at(z + j * W, left - j * W, -INFINITY);
    if (!cap->capped) return;
    v_softcap_each(n, cap->c, cap->inverse_c, x, slopes);
    UNROLL for (int j = 0; j < n; j++) {
        x[j] = first_lanes_of(x[j], left - j * W, -INFINITY);
        store_at(slope + j * W, slopes[j], left - j * W);
    }
}
static real capped_logit(real z, const softcap *cap)
{
    real capped, slope[W];
    vec x;
    logits_at(1, &z, 1, cap, slope, &x);
    v_store_n(&capped, x, 1);
    return capped;
}

/* Sums over a row: e^(z_c - m) but at maxima, the number of these, u_c there and elsewhere, and u_c (m - z_c) */
typedef struct { vec rest, ties, top, others, excess; } row_sums;
static ALWAYS_INLINE void add_to_sums(int n, vec *x, fbp_size i, fbp_size left, vec maximum, const targets *u, row_sums *s, real *e)
{
    const vec zero = v_all(0), one = v_all(1);
    vec a[IN_STEP], y[IN_STEP], target[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) {
        a[j] = x[j];
        y[j] = x[j] = v_sub(a[j], maximum);
    }
    v_exp_each(n, y);
    UNROLL for (int j = 0; j < n; j++) {
        y[j] = v_regain(a[j], maximum, x[j], y[j]);
        target[j] = first_lanes_of(target_at(u, i + j * W, left - j * W), left - j * W, 0);
        s->excess = v_select(v_eq(target[j], zero), s->excess, v_fma(target[j], v_negative(x[j]), s->excess)); /* 0 · inf = 0 */
        store_at(e + j * W, y[j], left - j * W);
    }
    if (any_zero(n, x)) {
        UNROLL for (int j = 0; j < n; j++) {
            mask top = v_eq(x[j], zero);
            s->rest = v_add(s->rest, v_select(top, zero, y[j]));
            s->ties = v_select(top, v_add(s->ties, one), s->ties);
            s->top = v_select(top, v_add(s->top, target[j]), s->top);
            s->others = v_add(s->others, v_select(top, zero, target[j]));
        }
    } else {
        UNROLL for (int j = 0; j < n; j++) {
            s->rest = v_add(s->rest, y[j]);
            s->others = v_add(s->others, target[j]);
        }
    }
}

/* One row, whose target is the row t (C) or, where that is NULL, the class `label`, with whatever `how` asks for. A softcap puts
 * z' in place of z, and takes `slope` (C) for scratch. With u_c as above, the label's with (1 - smoothing) w more, and T = Σ u:
 *
 *   E = T log1p(rest) + Σ_c u_c (m - z_c) + s lse²,     lse = m + log1p(rest)
 *   dE/dz_c = y_c T - u_c + 2 s lse y_c;  at a single maximum  y T - u = (T - u - u rest) / (1 + rest),  T - u = Σ of the others
 */
static double softmax_cross_entropy_row(fbp_size C, const real *z, const real *t, fbp_size label, const fbp_cross_entropy *how,
                                        double scale, real *slope, real *d)
{
    const targets u = {t, how->class_weight, (real)(1 - how->smoothing), (real)(how->smoothing / (double)C)};
    const double w_label = !t && u.w ? (double)u.w[label] : 1, hot = t ? 0 : (1 - how->smoothing) * w_label;
    const int capped = how->softcap > 0;
    const softcap cap = {capped, v_all((real)how->softcap), v_all(capped ? (real)(1 / how->softcap) : 0)};
    const real m = capped_logit(row_max(C, z), &cap), z_label = t ? 0 : capped_logit(z[label], &cap); /* tanh is monotonic */

    const vec maximum = v_all(m), zero = v_all(0), one = v_all(1);
    double rest = 0, ties = 0, top = 0, others = 0, excess = 0;
    for (fbp_size start = 0; start < C; start += BLOCK) {
        const fbp_size stop = smaller(start + BLOCK, C);
        row_sums s = {zero, zero, zero, zero, zero};
        vec x[IN_STEP];
        fbp_size i = start;
        for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
            prefetch_next(IN_STEP, z, C, i);
            prefetch_next(IN_STEP, d, C, i);
            logits_at(IN_STEP, z + i, IN_STEP * W, &cap, slope + i, x);
            add_to_sums(IN_STEP, x, i, IN_STEP * W, maximum, &u, &s, d + i);
        }
        for (; i < stop; i += W) {
            logits_at(1, z + i, C - i, &cap, slope + i, x);
            add_to_sums(1, x, i, C - i, maximum, &u, &s, d + i);
        }
        rest += (double)v_sum(s.rest);
        ties += (double)v_sum(s.ties);
        top += (double)v_sum(s.top);
        others += (double)v_sum(s.others);
        excess += (double)v_sum(s.excess);
    }
    rest += ties - 1;
    if (hot != 0) {
        if (z_label == m) top += hot;
        else others += hot;
        excess += hot * ((double)m - (double)z_label);
    }

    const double T = top + others, inverse = 1 / (1 + rest), log_rest = log1p(rest), lse = (double)m + log_rest;
    double pull = 0, penalty = 0;
    if (how->lse_square_scale != 0) {
        pull = 2 * how->lse_square_scale * lse;
        penalty = how->lse_square_scale * lse * lse;
    }
    const double gain = (T + pull) * inverse, at_maximum = (others + pull - top * rest) * inverse;
    const int single = rest < 1;
    double delta_label = 0;
    if (!t) {
        delta_label = single && z_label == m ? at_maximum : (double)d[label] * gain - (hot + (double)u.uniform * w_label);
        if (capped) delta_label *= (double)slope[label];
    }
    const vec v_gain = v_all((real)gain), v_maximum = v_all((real)at_maximum), v_scale = v_all((real)scale);
    for (fbp_size i = 0; i < C; i += W) {
        vec e = load_at(d + i, C - i, 0), delta = v_fma(e, v_gain, v_negative(target_at(&u, i, C - i)));
        if (single) delta = v_select(v_eq(e, one), v_maximum, delta);
        if (capped) delta = v_mul(delta, load_at(slope + i, C - i, 0));
        store_at(d + i, v_mul(delta, v_scale), C - i);
    }
    if (!t) d[label] = (real)(scale * delta_label);
    return T * log_rest + excess + penalty;
}
