/* The softmax cross-entropy of rows whose targets are labels. A row without options takes three passes: its maximum; its
 * exponentials and their sum; its error and gradient. softmax_cross_entropy.h runs each pass over several rows of few classes.
 * many_classes.h blocks the passes over a long row for the caches. softmax_cross_entropy_options.h has the options. */

/* N rows whose targets are labels; errors_n = weights_n E_n.
 *
 *   weights   NULL if all are 1; may be `errors`
 *   options   NULL if there are none
 *   slope     (C) scratch for a softcap
 *   e         (C) scratch, or NULL; with it the gradient of rows of many classes is written by non-temporal stores
 *   d         may be z if e is NULL */
static void softmax_cross_entropy_rows(fbp_size N, fbp_size C, const real *z, fbp_size z_row, const int64_t *labels,
                                       const double *weights, double divisor, const fbp_cross_entropy *options, real *slope,
                                       real *e, real *d, fbp_size d_row, double *errors)
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
