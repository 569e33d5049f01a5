/* Softmax outputs with cross-entropy over rows of C logits, for labels without options. Errors are weighted; the gradient goes to
 * d, which may be z. A row whose maximum is not finite (NaN, +inf, all -inf) gives NaN everywhere.
 *
 * With m = max z and rest = Σ_{c ≠ argmax} e^(z_c - m), y_c = e^(z_c - m) / (1 + rest):
 *
 *   ln Σ_c e^(z_c) - z_k = log1p(rest) + (m - z_k)                    no difference of large numbers
 *   y_c - 1 = -rest / (1 + rest)  at the maximum                      no cancellation at a near-certain target
 */

/* Rows whose targets are labels:  E = log1p(rest) + gap, gap = m - z_label;  dE/dz = y - onehot(label). The gradient of row n is
 * scaled by weights_n / divisor. A row of weight 0 is not read, and its gradient is 0. */
typedef struct {
    fbp_size N, C;
    const real *z;
    fbp_size z_row;
    const int64_t *labels;
    const double *weights; /* NULL: all 1 */
    double divisor;
    real scale; /* 1 / divisor */
    real *d;
    fbp_size d_row;
} labelled_rows;

static inline double weight_of(const labelled_rows *p, fbp_size n) { return p->weights ? p->weights[n] : 1; }
static inline real scale_of(const labelled_rows *p, fbp_size n)
{
    return p->weights ? (real)(p->weights[n] / p->divisor) : p->scale;
}

/* What the errors of a block of rows are computed from: logarithms of many numbers at a time are faster. */
enum { TOGETHER = 64, FEW = IN_STEP * W };
typedef struct { real rest[TOGETHER]; double gap[TOGETHER]; } row_numbers;

/* `streamed`: the gradient is written by non-temporal stores, and the exponentials stay in the scratch e (C). It is a
 * compile-time constant, which makes rows of 100 classes a tenth faster. */
static ALWAYS_INLINE void many_classes(const labelled_rows *p, real *e, int streamed, row_numbers *numbers)
{
    const fbp_size C = p->C;
    const targets none = {0};
    gradient_row rows[2], *g = &rows[0], *pending = streamed ? no_gradient(&rows[1]) : NULL;
    next_block next = {0};
    for (fbp_size n = 0; n < p->N; n++) {
        const fbp_size label = (fbp_size)p->labels[n];
        const real *z = p->z + n * p->z_row;
        const double scale = weight_of(p, n) / p->divisor;
        real *d = p->d + n * p->d_row;
        if (weight_of(p, n) == 0) {
            fill(C, 0, d);
            continue;
        }
        const double z_label = (double)z[label];
        const logit_row row = {C, z, n + 1 < p->N && weight_of(p, n + 1) != 0 ? z + p->z_row : NULL,
                               1, v_all(0), v_all(0), NULL, e ? e : d};
        const row_sums s = sum_up(LABEL, 0, &row, &none, streamed ? pending : NULL, &next, g);
        const double gap = (double)first_lane(s.maximum.x) - z_label, inverse = 1 / (1 + s.rest);
        const double e_label = exponential_at(g, row.e, label);
        numbers->rest[n] = (real)s.rest;
        numbers->gap[n] = gap;
        if (streamed) finish_gradient(LABEL, 0, 1, pending);
        set_gains(g, scale * inverse);
        g->C = C, g->done = 0, g->e = row.e, g->d = d, g->top = NULL, g->label = d + label;
        g->delta_label = (real)(scale * (gap == 0 ? -s.rest * inverse : e_label * inverse - 1));
        if (!streamed) {
            finish_gradient(LABEL, 0, 0, g);
        } else {
            align_gradient(LABEL, 0, g);
            swap_rows(&pending, &g);
        }
    }
    if (streamed) {
        finish_gradient(LABEL, 0, 1, pending);
        v_streamed();
    }
}

/* Few classes: up to TOGETHER rows of up to IN_STEP vectors. Each pass goes over all rows, to hide the latency of a row's
 * dependent operations, and W rows share the reductions across lanes. */
typedef struct {
    const real *row[TOGETHER + IN_STEP]; /* logits; zeros for a row of weight 0, and after the last row */
    real at_label[TOGETHER], scale[TOGETHER], maximum[TOGETHER + IN_STEP], sum[TOGETHER + IN_STEP], ties[TOGETHER + IN_STEP];
    real factor[TOGETHER], delta_label[TOGETHER];
    real e[(TOGETHER + IN_STEP) * FEW]; /* exponentials in whole vectors: a load after a partial store to d would stall */
} few_rows;

static ALWAYS_INLINE void few_inputs(const labelled_rows *p, fbp_size filled, few_rows *scratch)
{
    static const real zeros[FEW];
    for (fbp_size n = 0; n < p->N; n++) {
        const int read = weight_of(p, n) != 0;
        scratch->row[n] = read ? p->z + n * p->z_row : zeros;
        scratch->at_label[n] = scratch->row[n][read ? p->labels[n] : 0];
        scratch->scale[n] = read ? scale_of(p, n) : 0;
    }
    for (fbp_size n = p->N; n < filled + IN_STEP; n++) scratch->row[n] = zeros;
}

/* m of R rows of V vectors, from row n on */
static ALWAYS_INLINE void few_maxima(fbp_size C, fbp_size n, int R, int V, few_rows *scratch)
{
    const vec least = v_all(-INFINITY);
    vec m[W];
    UNROLL for (int i = 0; i < R; i++) {
        const real *z = scratch->row[n + i];
        m[i] = v_load_n(z + (V - 1) * W, C - (V - 1) * W, least);
        UNROLL for (int v = 0; v < V - 1; v++) m[i] = v_max(v_load(z + v * W), m[i]);
    }
    store_each(R, v_max, m, scratch->maximum + n);
}

/* e^(z - m), or 2^(to_power (z - m)) after a softcap, for as many rows as fit into IN_STEP vectors */
static ALWAYS_INLINE void few_exponentials(fbp_size C, fbp_size n, int V, const vec *to_power, few_rows *scratch)
{
    const int count = IN_STEP / V * V;
    const vec least = v_all(-INFINITY);
    vec a[IN_STEP], x[IN_STEP], y[IN_STEP];
    UNROLL for (int j = 0; j < count; j++) {
        const real *z = scratch->row[n + j / V] + j % V * W;
        a[j] = j % V < V - 1 ? v_load(z) : v_load_n(z, C - (V - 1) * W, least);
        y[j] = x[j] = v_sub(a[j], v_all(scratch->maximum[n + j / V]));
    }
    if (to_power) v_exp2_each(count, *to_power, y);
    else v_exp_each(count, y);
    UNROLL for (int j = 0; j < count; j++)
        v_store(scratch->e + (n * V + j) * W, to_power ? y[j] : v_regain(a[j], v_all(scratch->maximum[n + j / V]), x[j], y[j]));
}

/* For R rows the sum of all e < 1, and the number of e = 1: maxima, and logits that round to one */
static ALWAYS_INLINE void few_sums(fbp_size n, int R, int V, few_rows *scratch)
{
    const vec zero = v_all(0), one = v_all(1);
    vec sum[W], ties[W];
    UNROLL for (int i = 0; i < R; i++) {
        sum[i] = ties[i] = zero;
        UNROLL for (int v = 0; v < V; v++) {
            const vec e = v_load(scratch->e + ((n + i) * V + v) * W);
            const mask top = v_eq(e, one);
            sum[i] = v_add(sum[i], v_select(top, zero, e));
            ties[i] = v_select(top, v_add(ties[i], one), ties[i]);
        }
    }
    store_each(R, v_add, sum, scratch->sum + n);
    store_each(R, v_add, ties, scratch->ties + n);
}

/* For W rows, one in each lane: the factor of the exponentials, and the delta at the label */
static ALWAYS_INLINE void few_factors(fbp_size n, fbp_size left, few_rows *scratch, real *to_rest)
{
    const vec zero = v_all(0), one = v_all(1), scale = load_at(scratch->scale + n, left, 0);
    const vec gap = v_sub(load_at(scratch->maximum + n, left, 0), load_at(scratch->at_label + n, left, 0));
    const vec rest = v_add(load_at(scratch->sum + n, left, 0), v_sub(load_at(scratch->ties + n, left, 1), one));
    const vec factor = v_div(scale, v_add(one, rest)), e_label = v_exp_below(v_negative(gap));
    const vec elsewhere = v_fma(e_label, factor, v_negative(scale)), at_maximum = v_mul(v_negative(rest), factor);
    store_at(scratch->factor + n, factor, left);
    store_at(scratch->delta_label + n, v_select(v_eq(gap, zero), at_maximum, elsewhere), left);
    store_at(to_rest + n, rest, left);
}

static ALWAYS_INLINE void few_deltas(const labelled_rows *p, fbp_size n, int V, const few_rows *scratch)
{
    const vec factor = v_all(scratch->factor[n]);
    const real *e = scratch->e + n * V * W;
    real *d = p->d + n * p->d_row;
    UNROLL for (int v = 0; v < V - 1; v++) v_store(d + v * W, v_mul(v_load(e + v * W), factor));
    v_store_n(d + (V - 1) * W, v_mul(v_load(e + (V - 1) * W), factor), p->C - (V - 1) * W);
    if (weight_of(p, n) != 0) d[p->labels[n]] = scratch->delta_label[n];
}

static ALWAYS_INLINE void few_classes(const labelled_rows *p, int V, row_numbers *numbers)
{
    enum { REST = (int)W < (int)IN_STEP ? (int)W : (int)IN_STEP }; /* rows at a time when fewer than W are left */
    const fbp_size N = p->N, C = p->C, filled = (N + IN_STEP - 1) / IN_STEP * IN_STEP;
    assert(N <= TOGETHER && C <= V * W && C > (V - 1) * W);
    few_rows scratch;
    fbp_size n;
    few_inputs(p, filled, &scratch);
    for (n = 0; n + W <= N; n += W) few_maxima(C, n, W, V, &scratch);
    for (; n < filled; n += REST) few_maxima(C, n, REST, V, &scratch);
    for (n = 0; n < filled; n += IN_STEP / V) few_exponentials(C, n, V, NULL, &scratch);
    for (n = 0; n + W <= N; n += W) few_sums(n, W, V, &scratch);
    for (; n < N; n += REST) few_sums(n, REST, V, &scratch);
    for (n = 0; n < N; n += W) few_factors(n, N - n, &scratch, numbers->rest);
    for (n = 0; n < N; n++) few_deltas(p, n, V, &scratch);
    for (n = 0; n < N; n++) numbers->gap[n] = (double)scratch.maximum[n] - (double)scratch.at_label[n];
}

/* Errors and gradients of N rows */
static void plain_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels, const double *weights,
                       double divisor, real *e, real *d, fbp_size d_row, double *errors)
{
    while (N > 0) {
        const fbp_size rows = smaller(TOGETHER, N);
        const labelled_rows p = {rows, C, z, z_row, labels, weights, divisor, (real)(1 / divisor), d, d_row};
        row_numbers numbers;
        switch ((C + W - 1) / W) {
        case 1: few_classes(&p, 1, &numbers); break;
        case 2: few_classes(&p, 2, &numbers); break;
        case 3: few_classes(&p, 3, &numbers); break;
        case 4: few_classes(&p, 4, &numbers); break;
        default:
            for (fbp_size n = 0; n < rows; n++) numbers.rest[n] = 0, numbers.gap[n] = 0; /* for rows of weight 0 */
            if (e) many_classes(&p, e, 1, &numbers);
            else many_classes(&p, NULL, 0, &numbers);
        }
        map(rows, numbers.rest, numbers.rest, v_log1p_nonnegative);
        for (fbp_size n = 0; n < rows; n++) {
            const double weight = weight_of(&p, n);
            errors[n] = weight == 0 ? 0 : weight * ((double)numbers.rest[n] + numbers.gap[n]);
        }
        N -= rows, z += rows * z_row, labels += rows, d += rows * d_row, errors += rows;
        if (weights) weights += rows;
    }
}
