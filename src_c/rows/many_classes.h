/* Cross-entropy of a row of many logits, read from memory once, block by block. The exponentials of a block are relative to the
 * largest logit so far, M:  e_c = e^(z_c - M). Most blocks have no new maximum, so a row has few parts, each with one M. Once the
 * maximum m of the row is known, the factor e^(M - m) corrects the sum of a part and the gain of its gradient. The maximum of a
 * block is found while the block before it, perhaps the last of the previous row, is computed. softmax_cross_entropy.h derives
 * errors and gradients from m and rest = Σ_{c ≠ argmax} e^(z_c - m).
 */

/* The effective targets are u_c = w_c (keep t_c + uniform), plus keep w_c at a label. With labels t = 0, and the sum of u without
 * that of the label is the same for every row. The form, and whether the logits are `capped`, are compile-time constants:
 *
 *   LABEL   u_c = 0       UNIFORM   u_c = uniform       BY_CLASS   u_c = w_c uniform, all nonzero       OF_ROW   any u_c */
enum { LABEL, UNIFORM, BY_CLASS, OF_ROW };
typedef struct {
    const real *t, *w; /* (C); with OF_ROW either may be NULL */
    real keep, uniform;
} targets;
static ALWAYS_INLINE vec target_at(int form, const targets *u, fbp_size i, fbp_size left)
{
    vec v = v_all(u->uniform);
    if (form == UNIFORM) return v;
    if (form == OF_ROW && u->t) v = v_fma(v_all(u->keep), load_at(u->t + i, left, 0), v);
    return form == BY_CLASS || u->w ? v_mul(v, load_at(u->w + i, left, 0)) : v;
}

/* The gradient of a row:  d_c = (e_c gain - u_c) slope_c, all scaled, except for delta_top at a single maximum and delta_label at
 * the label. The first `done` elements are written. e may be d. If e is not d, d is written by non-temporal stores, since nobody
 * reads it soon and an ordinary store would first load the old line. While these stores wait for memory the next row is computed,
 * and may overwrite e and the slopes before element `done`. */
enum { MOST_PARTS = 256 };
typedef struct {
    fbp_size C, done;
    targets minus_u;
    const real *slope, *e;
    real *d, *top, *label, delta_top, delta_label; /* top, label: addresses in d, or NULL */
    int part, parts;                /* the part of element `done`, the number of parts */
    fbp_size start[MOST_PARTS + 1]; /* first element of each part, then C */
    double factor[MOST_PARTS];      /* M of each part, replaced by e^(M - m) in join_parts() */
    double rest[MOST_PARTS];        /* Σ e_c of each part but the last */
    real gain[MOST_PARTS];
} gradient_row;
static ALWAYS_INLINE void gradient_step(int form, int capped, int n, int streamed, const targets *minus_u, vec gain,
                                        const real *e, const real *slope, real *d, fbp_size i, fbp_size left)
{
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        const vec y = load_at(e + i, left, 0);
        vec delta = form == LABEL ? v_mul(y, gain) : v_fma(y, gain, target_at(form, minus_u, i, left));
        if (capped) delta = v_mul(delta, load_at(slope + i, left, 0));
        if (streamed) v_stream(d + i, delta);
        else store_at(d + i, delta, left);
    }
}

/* The number of elements from d to the next aligned vector */
static fbp_size unaligned(const real *d) { return (fbp_size)(-(uintptr_t)d % (W * sizeof(real)) / sizeof(real)); }

/* The gradient from element `done` to `until` at least, in whole steps, or to `end`, the end of the part; returns the new
 * `done`. */
static ALWAYS_INLINE fbp_size gradient_steps(int form, int capped, int streamed, const gradient_row *g, fbp_size done,
                                             fbp_size until, fbp_size end)
{
    const targets minus_u = g->minus_u;
    const vec gain = v_all(g->gain[g->part]);
    const real *e = g->e, *slope = g->slope;
    real *d = g->d;
    for (; done < until && done + IN_STEP * W <= end; done += IN_STEP * W)
        gradient_step(form, capped, IN_STEP, streamed, &minus_u, gain, e, slope, d, done, IN_STEP * W);
    if (done >= until) return done;
    for (; done < end; done += W) gradient_step(form, capped, 1, 0, &minus_u, gain, e, slope, d, done, end - done);
    return end;
}
static ALWAYS_INLINE void align_gradient(int form, int capped, gradient_row *g)
{
    const fbp_size end = smaller(g->done + unaligned(g->d + g->done), g->start[g->part + 1]);
    g->done = gradient_steps(form, capped, 1, g, g->done, end, end);
}

/* The gradient up to element `until` at least, over any number of parts */
static ALWAYS_INLINE void gradient_until(int form, int capped, int streamed, gradient_row *g, fbp_size until)
{
    while (g->done < until) {
        const fbp_size end = g->start[g->part + 1];
        g->done = gradient_steps(form, capped, streamed, g, g->done, until, end);
        if (g->done < end || end == g->C) break;
        g->part++;
        if (streamed) align_gradient(form, capped, g);
    }
}
static ALWAYS_INLINE void finish_gradient(int form, int capped, int streamed, gradient_row *g)
{
    gradient_until(form, capped, streamed, g, g->C);
    if (g->top) *g->top = g->delta_top;
    if (g->label) *g->label = g->delta_label;
    g->top = g->label = NULL;
}

/* The block after the current one, NULL if there is none, and its maximum */
typedef struct { const real *z; real max; } next_block;

/* A row of logits z (C). A softcap replaces z by x = tanh(z inverse), and e^(z'_c - m) = e^(unit (x_c - max x)) by
 * 2^(to_power (x_c - max x)). The exponentials go to e, which may be z; the negative slopes, x² - 1, go to minus_slope. */
typedef struct {
    fbp_size C;
    const real *z, *following; /* this row; the next row, or NULL if it is not read */
    double unit;
    vec inverse, to_power;
    real *minus_slope, *e;
} logit_row;

static real first_lane(vec a)
{
    real lanes[W];
    v_store(lanes, a);
    return lanes[0];
}

/* e^(unit (a - b)), corrected for the rounding of a - b like v_regain() */
static double exp_of_difference(double unit, double a, double b)
{
    const double x = a - b, minus_b = x - a, lost = (a - (x - minus_b)) - (b + minus_b), y = exp(unit * x);
    return y > 0 ? y + y * unit * lost : y;
}

/* One logit in every lane: x_c, and the negative slope */
typedef struct { vec x, minus_slope; } logit;
static ALWAYS_INLINE logit logit_of(int capped, const logit_row *r, real z)
{
    logit l = {v_all(z), v_all(1)};
    if (capped) v_softcap_each(1, r->inverse, &l.x, &l.minus_slope);
    return l;
}

/* Sums over a row:
 *
 *   rest      e_c, without the maxima
 *   ties      the number of maxima
 *   top       at maxima: w_c with BY_CLASS, u_c with OF_ROW
 *   others    elsewhere: u_c with OF_ROW
 *   deficit   u_c (x_c - m); the differences are weighted first, since their own sum may overflow
 *
 * The last maximum is element `step` + `lane`. */
typedef struct { vec rest, ties, top, others, deficit; } block_sums;
typedef struct { double rest, ties, top, others, deficit; logit maximum; fbp_size step; vec lane; } row_sums;
static ALWAYS_INLINE void add_to_sums(int form, int capped, int n, const logit_row *r, fbp_size i, fbp_size left,
                                      const targets *u, vec maximum, block_sums *s, row_sums *all)
{
    static const real number[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vec zero = v_all(0), one = v_all(1);
    vec x[IN_STEP], minus[IN_STEP], gap[IN_STEP], y[IN_STEP], target[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) x[j] = load_at(r->z + i + j * W, left - j * W, -INFINITY);
    if (capped) {
        v_softcap_each(n, r->inverse, x, minus);
        UNROLL for (int j = 0; j < n; j++) {
            store_at(r->minus_slope + i + j * W, minus[j], left - j * W);
            x[j] = first_lanes_of(x[j], left - j * W, -INFINITY);
        }
    }
    UNROLL for (int j = 0; j < n; j++) y[j] = gap[j] = v_sub(x[j], maximum);
    if (capped) v_exp2_each(n, r->to_power, y);
    else v_exp_each(n, y);
    UNROLL for (int j = 0; j < n; j++) {
        if (!capped) y[j] = v_regain(x[j], maximum, gap[j], y[j]);
        store_at(r->e + i + j * W, y[j], left - j * W);
        target[j] = first_lanes_of(target_at(form, u, i + j * W, left - j * W), left - j * W, 0);
        if (form == LABEL) continue;
        const vec deficit = v_fma(target[j], first_lanes_of(gap[j], left - j * W, 0), s->deficit);
        s->deficit = form == OF_ROW ? v_select(v_eq(target[j], zero), s->deficit, deficit) : deficit; /* 0 · inf = 0 */
    }
    if (any_zero(n, gap)) {
        if (form != LABEL) all->step = i;
        UNROLL for (int j = 0; j < n; j++) {
            const mask top = v_eq(gap[j], zero);
            s->rest = v_add(s->rest, v_select(top, zero, y[j]));
            s->ties = v_select(top, v_add(s->ties, one), s->ties);
            if (form == BY_CLASS) s->top = v_select(top, v_add(s->top, load_at(u->w + i + j * W, left - j * W, 0)), s->top);
            if (form == OF_ROW) s->top = v_select(top, v_add(s->top, target[j]), s->top);
            if (form == OF_ROW) s->others = v_add(s->others, v_select(top, zero, target[j]));
            if (form != LABEL) all->lane = v_select(top, v_add(v_load(number), v_all((real)(j * (int)W))), all->lane);
        }
    } else {
        UNROLL for (int j = 0; j < n; j++) {
            s->rest = v_add(s->rest, y[j]);
            if (form == OF_ROW) s->others = v_add(s->others, target[j]);
        }
    }
}

static ALWAYS_INLINE void terms_of(const void *w, int n, fbp_size i, fbp_size left, vec *term)
{
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) term[j] = load_at((const real *)w + i, left, 0);
}
static double sum_of(fbp_size n, const real *w) { return sum_row(n, terms_of, w); }

/* Begins a part at element `start`, relative to the new maximum z; the maxima before it become ordinary elements. A maximum of
 * -inf is replaced by the least finite number, so that -inf minus the maximum is -inf, not NaN. */
static ALWAYS_INLINE void new_part(int form, int capped, const logit_row *r, const targets *u, fbp_size start, real z,
                                   row_sums *s, gradient_row *g)
{
    s->maximum = logit_of(capped, r, z > -LARGEST ? z : -LARGEST);
    s->lane = v_all(0);
    assert(g->parts < MOST_PARTS);
    g->start[g->parts] = start;
    g->factor[g->parts] = (double)first_lane(s->maximum.x);
    if (start > 0) {
        const double classes = form == BY_CLASS ? sum_of(start, u->w) : (double)start;
        const double seen = form == OF_ROW ? s->others + s->top : (double)u->uniform * classes;
        g->rest[g->parts - 1] = s->rest + s->ties;
        s->rest = s->ties = 0;
        if (form == OF_ROW) s->others += s->top;
        s->top = 0;
        if (seen != 0) s->deficit -= seen * (g->factor[g->parts] - g->factor[g->parts - 1]);
    }
    g->parts++;
}

/* Computes the factors of the parts from their maxima, and adds the sums of all parts. */
static ALWAYS_INLINE void join_parts(double unit, row_sums *s, gradient_row *g)
{
    const int last = g->parts - 1;
    for (int part = 0; part < last; part++) {
        g->factor[part] = exp_of_difference(unit, g->factor[part], g->factor[last]);
        s->rest += g->rest[part] * g->factor[part];
    }
    g->factor[last] = 1;
    s->rest += s->ties - 1;
}

/* Two blocks with their exponentials and slopes fit into the L1 cache, unless that makes more than MOST_PARTS blocks. All have
 * about the same length, so that the search for the maximum of one fits into the time of another. */
static fbp_size length_of_blocks(fbp_size C)
{
    const fbp_size step = IN_STEP * W, blocks = 1 + smaller((C - 1) / (4 * BLOCK), MOST_PARTS - 1);
    return (C + blocks * step - 1) / (blocks * step) * step;
}

/* The sums of a row; its parts and their maxima go to g. If `pending` is not NULL, that gradient is finished meanwhile, always
 * ahead of this row, which overwrites its e and slopes. */
static ALWAYS_INLINE row_sums sum_up(int form, int capped, const logit_row *r, const targets *u, gradient_row *pending,
                                     next_block *next, gradient_row *g)
{
    const vec zero = v_all(0);
    const fbp_size C = r->C, length = length_of_blocks(C);
    row_sums sums = {0, 0, 0, 0, 0, {zero, zero}, 0, zero};
    real top = -INFINITY;
    g->parts = g->part = 0;
    for (fbp_size from = 0; from < C; from += length) {
        const fbp_size to = smaller(from + length, C);
        const real max = next->z == r->z + from ? next->max : row_max(to - from, r->z + from);
        if (from == 0 || max > top) new_part(form, capped, r, u, from, top = max, &sums, g);
        const vec maximum = sums.maximum.x;
        next->z = to < C ? r->z + to : r->following;
        const fbp_size next_length = smaller(length, to < C ? C - to : C);
        const fbp_size both = next->z ? smaller(next_length, to - from) : 0;
        vec next_max[IN_STEP];
        start_max(next_max);
        for (fbp_size start = from; start < to; start += BLOCK) {
            const fbp_size stop = smaller(start + BLOCK, to);
            block_sums s = {zero, zero, zero, zero, zero};
            fbp_size i = start;
            for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
                prefetch_next(IN_STEP, r->z, smaller(length, C), i + PAGE);
                if (i - from + IN_STEP * W <= both) max_step(next->z + (i - from), next_max);
                if (pending) gradient_until(form, capped, 1, pending, i + IN_STEP * W);
                else if (r->e != r->z) prefetch_next(IN_STEP, r->e, C, i);
                add_to_sums(form, capped, IN_STEP, r, i, IN_STEP * W, u, maximum, &s, &sums);
            }
            if (pending) gradient_until(form, capped, 1, pending, stop);
            for (; i < stop; i += W) add_to_sums(form, capped, 1, r, i, C - i, u, maximum, &s, &sums);
            sums.rest += (double)v_sum(s.rest);
            sums.ties += (double)v_sum(s.ties);
            if (form >= BY_CLASS) sums.top += (double)v_sum(s.top);
            if (form == OF_ROW) sums.others += (double)v_sum(s.others);
            if (form != LABEL) sums.deficit += (double)v_sum(s.deficit);
        }
        if (next->z) next->max = finish_max(next_length, next->z, both / (IN_STEP * W) * (IN_STEP * W), next_max);
    }
    g->start[g->parts] = C;
    join_parts(r->unit, &sums, g);
    if (!capped && top == -INFINITY) sums.rest = NAN;
    return sums;
}

/* e^(z_c - m) of element c */
static double exponential_at(const gradient_row *g, const real *e, fbp_size c)
{
    int part = g->parts - 1;
    while (g->start[part] > c) part--;
    return (double)e[c] * g->factor[part];
}

static void set_gains(gradient_row *g, double gain)
{
    for (int part = 0; part < g->parts; part++) g->gain[part] = (real)(gain * g->factor[part]);
}

/* An empty gradient */
static gradient_row *no_gradient(gradient_row *g)
{
    g->C = g->done = g->start[0] = g->start[1] = 0;
    g->part = 0, g->parts = 1, g->gain[0] = 0;
    g->top = g->label = NULL;
    return g;
}
static void swap_rows(gradient_row **a, gradient_row **b)
{
    gradient_row *was = *a;
    *a = *b, *b = was;
}
