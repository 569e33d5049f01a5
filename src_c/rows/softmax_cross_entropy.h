/* Softmax outputs with cross-entropy over one row of C logits. Each function returns the row's error, unscaled, and writes
 * scale · dE/dz to d, which may be z. A row without a finite maximum (NaN, +inf, all -inf) gives NaN throughout.
 *
 * With m = max z and rest = Σ_{c ≠ argmax} e^(z_c - m), and so y_c = e^(z_c - m) / (1 + rest):
 *
 *   ln Σ_c e^(z_c) - z_k = log1p(rest) + (m - z_k)                    no difference of large numbers
 *   y_c - 1 = -rest / (1 + rest)  at the maximum                      no difference from 1 at a near-certain target
 */

/* The target is the class `label`:  E = ln Σ e^z - z_label,  dE/dz = y - onehot(label) */
static ALWAYS_INLINE double cross_entropy_through(fbp_size C, const real *z, fbp_size label, double scale, real *d, real *e, int padded)
{
    real m = row_max(C, z), z_label = z[label];
    if (!isfinite(m)) {
        fill(C, NAN, d);
        return NAN;
    }
    real e_label;
    v_store_n(&e_label, v_exp(v_all(z_label - m)), 1);
    double rest = exp_rest(C, z, m, e, padded), inverse = 1 / (1 + rest);
    const vec factor = v_all((real)(scale * inverse));
    for (fbp_size i = 0; i < C; i += W) store_at(d + i, v_mul(load_exp(e + i, C - i, padded), factor), C - i);
    double delta = z_label == m ? -rest * inverse : (double)e_label * inverse - 1;
    d[label] = (real)(scale * delta);
    return log1p(rest) + ((double)m - (double)z_label);
}
static double softmax_cross_entropy_row(fbp_size C, const real *z, fbp_size label, double scale, real *d)
{
    real e[BLOCK];
    return C <= BLOCK ? cross_entropy_through(C, z, label, scale, d, e, 1) : cross_entropy_through(C, z, label, scale, d, d, 0);
}

/* The targets that act, (C):  u_c = w_c ((1 - smoothing) t_c + smoothing / C),  with t the row given or, where it is NULL, the
 * one-hot row of `label`, and w_c = 1 where class_weight is NULL. */
static void effective_targets_row(fbp_size C, const real *t, fbp_size label, const real *class_weight, double smoothing, real *u)
{
    const vec uniform = v_all((real)(smoothing / (double)C)), keep = v_all((real)(1 - smoothing));
    for (fbp_size i = 0; i < C; i += W) {
        vec v = t ? v_fma(keep, load_at(t + i, C - i, 0), uniform) : uniform;
        if (class_weight) v = v_mul(v, load_at(class_weight + i, C - i, 0));
        store_at(u + i, v, C - i);
    }
    if (!t) {
        double hot = 1 - smoothing + smoothing / (double)C;
        u[label] = (real)(class_weight ? hot * (double)class_weight[label] : hot);
    }
}

typedef struct { const real *z, *u; real m; } target_row;
static ALWAYS_INLINE vec top_term(const void *row, fbp_size i, fbp_size left)
{
    const target_row *r = row;
    return v_select(v_eq(load_at(r->z + i, left, 0), v_all(r->m)), load_at(r->u + i, left, 0), v_all(0));
}
static ALWAYS_INLINE vec others_term(const void *row, fbp_size i, fbp_size left)
{
    const target_row *r = row;
    return v_select(v_eq(load_at(r->z + i, left, 0), v_all(r->m)), v_all(0), load_at(r->u + i, left, 0));
}
/* u_c (m - z_c), which is 0 where u_c is 0, for infinite z_c too */
static ALWAYS_INLINE vec excess_term(const void *row, fbp_size i, fbp_size left)
{
    const target_row *r = row;
    vec u = load_at(r->u + i, left, 0), gap = v_sub(v_all(r->m), load_at(r->z + i, left, 0));
    return v_select(v_eq(u, v_all(0)), v_all(0), v_mul(u, gap));
}

/* z' = c tanh(z/c) to capped, which may be z, and dz'/dz = 1 - tanh² = 4q/(1 + q)² with q = e^(-2|z/c|) to slope */
static void softcap_row(fbp_size C, const real *z, real c, real *capped, real *slope)
{
    const vec cap = v_all(c), one = v_all(1);
    for (fbp_size i = 0; i < C; i += W) {
        vec x = v_div(load_at(z + i, C - i, 0), cap), q = v_exp(v_mul(v_all(-2), v_abs(x))), p = v_add(one, q);
        store_at(capped + i, v_mul(cap, v_tanh(x)), C - i);
        store_at(slope + i, v_div(v_mul(v_all(4), q), v_mul(p, p)), C - i);
    }
}

/* The target is a row u (C) that need not sum to 1, T = Σ u. A softcap > 0 puts z' in place of z; slope (C) is its scratch.
 *
 *   E = T log1p(rest) + Σ_c u_c (m - z_c) + s lse²,     lse = m + log1p(rest)
 *   dE/dz_c = y_c T - u_c + 2 s lse y_c;  at a single maximum  y T - u = (T - u - u rest) / (1 + rest),  T - u = Σ of the others
 */
static double softmax_cross_entropy_targets_row(fbp_size C, const real *z, const real *u, double softcap, double lse_square_scale,
                                                double scale, real *slope, real *d)
{
    if (softcap > 0) {
        softcap_row(C, z, (real)softcap, d, slope);
        z = d;
    }
    target_row row = {z, u, row_max(C, z)};
    if (!isfinite(row.m)) {
        fill(C, NAN, d);
        return NAN;
    }
    double top = sum_row(C, top_term, &row), others = sum_row(C, others_term, &row), T = top + others;
    double excess = sum_row(C, excess_term, &row), rest = exp_rest(C, z, row.m, d, 0); /* z may be gone from here on */
    double inverse = 1 / (1 + rest), lse = (double)row.m + log1p(rest), pull = 0, penalty = 0;
    if (lse_square_scale != 0) {
        pull = 2 * lse_square_scale * lse;
        penalty = lse_square_scale * lse * lse;
    }

    const vec one = v_all(1), gain = v_all((real)((T + pull) * inverse));
    const vec at_maximum = v_all((real)((others + pull - top * rest) * inverse));
    const int single = rest < 1;
    for (fbp_size i = 0; i < C; i += W) {
        vec e = load_at(d + i, C - i, 0);
        vec delta = v_fma(e, gain, v_negative(load_at(u + i, C - i, 0)));
        if (single) delta = v_select(v_eq(e, one), at_maximum, delta);
        if (softcap > 0) delta = v_mul(delta, load_at(slope + i, C - i, 0));
        store_at(d + i, v_mul(delta, v_all((real)scale)), C - i);
    }
    return T * log1p(rest) + excess + penalty;
}
