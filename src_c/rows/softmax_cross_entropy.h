/* Softmax outputs with cross-entropy over rows of C logits. The errors come back unscaled or weighted, as told, and scale · dE/dz
 * goes to d, which may be z. A row without a finite maximum (NaN, +inf, all -inf) gives NaN throughout.
 *
 * With m = max z and rest = Σ_{c ≠ argmax} e^(z_c - m), and so y_c = e^(z_c - m) / (1 + rest):
 *
 *   ln Σ_c e^(z_c) - z_k = log1p(rest) + (m - z_k)                    no difference of large numbers
 *   y_c - 1 = -rest / (1 + rest)  at the maximum                      no difference from 1 at a near-certain target
 */

/* The target is the class `label`:  E = log1p(rest) + gap, gap = m - z_label;  dE/dz = y - onehot(label). Returns rest. */
static ALWAYS_INLINE double cross_entropy_through(fbp_size C, const real *z, fbp_size label, double scale, double *gap, real *d,
                                                  real *e, int padded)
{
    real m = row_max(C, z);
    *gap = (double)m - (double)z[label];
    if (!isfinite(m)) {
        fill(C, NAN, d);
        return NAN;
    }
    const double rest = exp_rest(C, z, m, e, padded), inverse = 1 / (1 + rest), e_label = (double)e[label];
    const vec factor = v_all((real)(scale * inverse));
    for (fbp_size i = 0; i < C; i += W) store_at(d + i, v_mul(load_exp(e + i, C - i, padded), factor), C - i);
    d[label] = (real)(scale * (*gap == 0 ? -rest * inverse : e_label * inverse - 1));
    return rest;
}

/* N rows, each with a label and a weight:  errors_n = w_n E_n, and w_n / divisor · dE_n/dz to d. A row of weight 0 is not read, and
 * its gradient is 0. `errors` may be `weights`. The logarithms are taken of many rows at once. */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, real *d, fbp_size d_row, double *errors)
{
    enum { ROWS = 64 };
    real e[BLOCK], rest[ROWS];
    double gap[ROWS];
    for (fbp_size start = 0; start < N; start += ROWS) {
        const fbp_size rows = smaller(ROWS, N - start);
        for (fbp_size n = 0; n < rows; n++) {
            const double weight = weights[start + n], scale = weight / divisor;
            const real *from = z + (start + n) * z_row;
            const fbp_size label = (fbp_size)labels[start + n];
            real *to = d + (start + n) * d_row;
            rest[n] = 0, gap[n] = 0;
            if (weight == 0)
                fill(C, 0, to);
            else if (C <= BLOCK)
                rest[n] = (real)cross_entropy_through(C, from, label, scale, &gap[n], to, e, 1);
            else
                rest[n] = (real)cross_entropy_through(C, from, label, scale, &gap[n], to, to, 0);
        }
        map(rows, rest, rest, v_log1p_nonnegative);
        for (fbp_size n = 0; n < rows; n++) {
            const double weight = weights[start + n];
            errors[start + n] = weight == 0 ? 0 : weight * ((double)rest[n] + gap[n]);
        }
    }
}

/* The targets that act are u_c = w_c (keep t_c + uniform), with no t where a label tells what is added to one of them. */
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

/* One row, whose target is the row t (C) or, where that is NULL, the class `label`, with whatever `how` asks for. A softcap puts
 * z' in place of z, and takes `slope` (C) for scratch. With u_c as above (the label's with 1 - smoothing more, times w), T = Σ u:
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
    const vec zero = v_all(0), one = v_all(1), cap = v_all((real)how->softcap);
    const vec twice_inverse = v_all(capped ? (real)(2 / how->softcap) : 0);
    real m = row_max(C, z), z_label = t ? 0 : z[label];
    if (capped) { /* no smaller logit has a larger tanh but for a rounding */
        vec unused;
        v_store_n(&m, v_softcap(v_all(m), cap, twice_inverse, &unused), 1);
        v_store_n(&z_label, v_softcap(v_all(z_label), cap, twice_inverse, &unused), 1);
    }
    if (!isfinite(m)) {
        fill(C, NAN, d);
        return NAN;
    }

    const vec maximum = v_all(m);
    double rest = 0, ties = 0, top = 0, others = 0, excess = 0; /* `top` and `others`: Σ u at the maximum, and elsewhere */
    for (fbp_size start = 0; start < C; start += BLOCK) {
        vec e_sum = zero, equal = zero, top_sum = zero, others_sum = zero, excess_sum = zero;
        for (fbp_size i = start; i < smaller(start + BLOCK, C); i += W) {
            prefetch_next(z, C, i);
            prefetch_next(d, C, i);
            vec x = load_at(z + i, C - i, -INFINITY), g, target = first_lanes_of(target_at(&u, i, C - i), C - i, 0);
            if (capped) {
                x = first_lanes_of(v_softcap(x, cap, twice_inverse, &g), C - i, -INFINITY);
                store_at(slope + i, g, C - i);
            }
            x = v_sub(x, maximum);
            vec e = v_exp_below(x);
            mask at_top = v_eq(x, zero);
            e_sum = v_select(at_top, e_sum, v_add(e_sum, e));
            equal = v_select(at_top, v_add(equal, one), equal);
            top_sum = v_select(at_top, v_add(top_sum, target), top_sum);
            others_sum = v_select(at_top, others_sum, v_add(others_sum, target));
            excess_sum = v_select(v_eq(target, zero), excess_sum, v_fma(target, v_negative(x), excess_sum)); /* 0 · inf = 0 */
            store_at(d + i, e, C - i);
        }
        rest += (double)v_sum(e_sum);
        ties += (double)v_sum(equal);
        top += (double)v_sum(top_sum);
        others += (double)v_sum(others_sum);
        excess += (double)v_sum(excess_sum);
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
