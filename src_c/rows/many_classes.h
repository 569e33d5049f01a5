/* Cross-entropy of a row of many logits, which is read from memory once. It goes by in blocks, and an exponential is relative to the
 * largest logit so far, M:  e_c = e^(z_c - M). Most blocks have no new maximum, so a row falls into few parts of one M each; the sum of a
 * part and the gain of its gradient take the factor e^(M - m) once m, the maximum of the row, is known. The maximum of a block is found
 * while the one before it is computed, be that the last of the row before. rest, Σ_{c ≠ argmax} e^(z_c - m), and what is made of it are
 * those of softmax_cross_entropy.h.
 */

/* The targets that act are u_c = w_c (keep t_c + uniform), and at a label more. With labels t = 0, and Σ u but for the label is that of
 * every row. Where these functions are inlined, the form is a constant, and so is whether the logits are `capped`:
 *
 *   LABEL   u_c = 0       UNIFORM   u_c = uniform       BY_CLASS   u_c = w_c uniform, none of them 0       OF_ROW   whatever there is */
enum { LABEL, UNIFORM, BY_CLASS, OF_ROW };
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

/* The gradient of a row, of which the first `done` elements are there: d_c = (e_c gain - u_c) slope_c, with what is constant in the
 * row scaled, but delta_top and delta_label at a single maximum and at the label, if there are any. e may be d. If not, d is stored
 * past the caches: nobody reads it soon, and such a store does not ask for what stood there before; and while it waits for memory the
 * next row is computed, which may take the place of e and of the slopes, behind `done`. */
enum { MOST_PARTS = 256 };
typedef struct {
    fbp_size C, done;
    targets minus_u;
    const real *slope, *e;
    real *d, *top, *label, delta_top, delta_label;
    int part, parts;                /* the one that `done` is in, and how many there are */
    fbp_size start[MOST_PARTS + 1]; /* of each, and C */
    double factor[MOST_PARTS];      /* the maximum, and then e^(M - m) */
    double rest[MOST_PARTS];        /* Σ e_c, of all but the last */
    real gain[MOST_PARTS];
} gradient_row;
static ALWAYS_INLINE void gradient_step(int form, int capped, int n, int streamed, const targets *minus_u, vec gain, const real *e,
                                        const real *slope, real *d, fbp_size i, fbp_size left)
{
    UNROLL for (int j = 0; j < n; j++, i += W, left -= W) {
        const vec y = load_at(e + i, left, 0);
        vec delta = form == LABEL ? v_mul(y, gain) : v_fma(y, gain, target_at(form, minus_u, i, left));
        if (capped) delta = v_mul(delta, load_at(slope + i, left, 0));
        if (streamed) v_stream(d + i, delta);
        else store_at(d + i, delta, left);
    }
}

/* The elements from d on up to an aligned one */
static fbp_size unaligned(const real *d) { return (fbp_size)(-(uintptr_t)d % (W * sizeof(real)) / sizeof(real)); }

/* Within a part: whole steps, from element `done` on, as long as it is before `until`, or by element; returns what is done then. */
static ALWAYS_INLINE fbp_size gradient_steps(int form, int capped, int streamed, const gradient_row *g, fbp_size done, fbp_size until, fbp_size end)
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

/* All before element `until` at least */
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

/* The next block to come, and its maximum. NULL where there is none. */
typedef struct { const real *z; real max; } next_block;

/* A row of logits z (C), or what a softcap makes of it: x = tanh(z inverse) takes the place of z, and e^(z'_c - m) is
 * 2^(to_power (x_c - max x)), and e^(unit (x_c - max x)). The exponentials go to e, which may be z, and minus the slopes, x² - 1, to
 * minus_slope. */
typedef struct {
    fbp_size C;
    const real *z, *following; /* the row after this one, if it will be read, or NULL */
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

/* e^(unit (a - b)), and what that difference lost in rounding brought back as in v_regain */
static double exp_of_difference(double unit, double a, double b)
{
    const double x = a - b, minus_b = x - a, lost = (a - (x - minus_b)) - (b + minus_b), y = exp(unit * x);
    return y > 0 ? y + y * unit * lost : y;
}

/* x_c and minus the slope there, of one logit, in every lane */
typedef struct { vec x, minus_slope; } logit;
static ALWAYS_INLINE logit logit_of(int capped, const logit_row *r, real z)
{
    logit l = {v_all(z), v_all(1)};
    if (capped) v_softcap_each(1, r->inverse, &l.x, &l.minus_slope);
    return l;
}

/* Sums over a row: e_c but at maxima; the number of these; in the forms BY_CLASS and OF_ROW w_c or u_c there, and in OF_ROW u_c elsewhere;
 * and u_c (x_c - m), where the sum of differences alone may overflow. The last maximum is element `step` + `lane`. */
typedef struct { vec rest, ties, top, others, deficit; } block_sums;
typedef struct { double rest, ties, top, others, deficit; logit maximum; fbp_size step; vec lane; } row_sums;
static ALWAYS_INLINE void add_to_sums(int form, int capped, int n, const logit_row *r, fbp_size i, fbp_size left, const targets *u,
                                      vec maximum, block_sums *s, row_sums *all)
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

/* From element `start` on logits are relative to a new maximum; what was one before is none any more. One of -inf stands for the least
 * number, from which -inf has a distance. */
static ALWAYS_INLINE void new_part(int form, int capped, const logit_row *r, const targets *u, fbp_size start, real z, row_sums *s, gradient_row *g)
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

/* From the maxima of the parts their factors; adds their sums to those of the last part. */
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

/* As long as two blocks, their exponentials and slopes stay in the first cache; but there are MOST_PARTS at most. They are about equal, so
 * that the maximum of one is found in the time of another. */
static fbp_size length_of_blocks(fbp_size C)
{
    const fbp_size step = IN_STEP * W, blocks = 1 + smaller((C - 1) / (4 * BLOCK), MOST_PARTS - 1);
    return (C + blocks * step - 1) / (blocks * step) * step;
}

/* e and the slopes may be where a row still stands that is `pending`. The parts and their maxima come to g. */
static ALWAYS_INLINE row_sums sum_up(int form, int capped, const logit_row *r, const targets *u, gradient_row *pending, next_block *next,
                                     gradient_row *g)
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
        const fbp_size next_length = smaller(length, to < C ? C - to : C), both = next->z ? smaller(next_length, to - from) : 0;
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

/* A gradient of no element */
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
