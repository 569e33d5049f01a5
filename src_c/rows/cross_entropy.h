/* The softmax cross-entropy of rows whose targets are labels. Without options a row takes three passes: its maximum; its exponentials and
 * their sum; its error and gradient. Rows of few classes go by several at a time, and each pass over all of them: softmax_cross_entropy.h.
 * How the passes over a row of many classes keep to the caches stands in many_classes.h, what options change in
 * softmax_cross_entropy_options.h. */

/* N rows whose targets are labels; errors_n = weights_n E_n. Without `weights`, NULL, all are 1; `errors` may be `weights`. `options` is
 * NULL where there is no option; a softcap takes `slope` (C) for scratch. With a row of scratch, e (C), for many classes, the gradient
 * goes to memory past the caches. d may be z, without e. */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, const fbp_cross_entropy *options, real *slope, real *e,
                                       real *d, fbp_size d_row, double *errors)
{
    assert(N == 0 || (C > 0 && labels && errors && are_elements(z, C)));
    assert(are_labels(N, C, labels) && are_options(C, options, slope, e));
    assert(are_rows(N, C, d, d_row) && each_same_or_apart(N, C, z, z_row, d, d_row));
    assert(!e || (z != d && apart_from_rows(C, e, N, C, d, d_row)));
    if (options)
        optional_rows(N, C, z, z_row, labels, weights, divisor, options, slope, e, d, d_row, errors);
    else
        plain_rows(N, C, z, z_row, labels, weights, divisor, e, d, d_row, errors);
}
