/* What pieces of bfloat16 cannot hold: those below 2⁻¹²⁶ are flushed to 0, those near the largest number overflow. Elements of C
 * for which that could matter come from the ordinary product. */

/* Whether all sums over two panels are as exact as those of float32. Then nothing overflows; no piece is lost, since the last bit
 * of a number >= 2⁻¹⁰² is at least 2⁻¹²⁵; what a sum loses below 2⁻¹²⁶ is small beside the smallest product; and no number is NaN
 * or inf. */
#define EXACT_FROM 0x1p-102f
#define LEAST_PRODUCT 0x1p-92f
#define MOST_PRODUCT 0x1p100f
#define MOST_FACTOR 0x1p126f
static int in_range(const extent *a, const extent *b)
{
    return a->smallest >= EXACT_FROM && b->smallest >= EXACT_FROM && a->smallest * b->smallest >= LEAST_PRODUCT &&
           a->largest * b->largest <= MOST_PRODUCT && a->largest <= MOST_FACTOR && b->largest <= MOST_FACTOR;
}

/* A mask of the sums of row i, from column j on, that must be computed again. It depends on the two lines of a sum and on the sum
 * alone, so divisions change no bit. A term a b loses at most two pieces of a times b, two pieces of b times a, and some
 * eight products and sums, where each piece, product and sum is below 2⁻¹²⁶. Compared with a sum 2²⁴ times the loss of K terms,
 * that is less than a rounding. */
static mask at_least(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static mask sums_lost(const ending *d, fbp_size K, fbp_size i, fbp_size j, const extent *of_a, const extent *of_b)
{
    const vec largest_a = v_all(of_a->largest_of_line[i]), smallest_a = v_all(of_a->smallest_of_line[i]), zero = v_all(0);
    const vec largest_b = v_load(of_b->largest_of_line + j), smallest_b = v_load(of_b->smallest_of_line + j);
    const vec greatest = v_all(FLT_MAX);
    const vec sum = v_abs(v_load(d->sums + i * width_of(d->n) + j)), largest = v_max(largest_a, largest_b);
    const vec lost = v_mul(v_all((real)K * 0x1p-101f), v_fma(v_all(4), largest, v_all(8))); /* 2⁻¹²⁶ 2²⁵ */
    const mask finite = at_least(greatest, largest_a) & at_least(greatest, largest_b);
    const mask empty = finite & (v_eq(largest_a, zero) | v_eq(largest_b, zero));
    const mask low = finite & at_least(v_all(MOST_PRODUCT), v_mul(largest_a, largest_b)) & at_least(v_all(MOST_FACTOR), largest);
    const mask whole = at_least(smallest_a, v_all(EXACT_FROM)) & at_least(smallest_b, v_all(EXACT_FROM)) &
                       at_least(v_mul(smallest_a, smallest_b), v_all(LEAST_PRODUCT));
    return (mask)~(empty | (low & (whole | at_least(sum, lost)))) & first_lanes(smaller(W, d->n - j));
}

/* For panels that are not in range: replaces sums that may have lost too much by those of the ordinary product. */
static void mend_sums(const ending *d, fbp_size K, const real *a, fbp_size a_line, fbp_size a_k, const extent *of_a,
                      const real *b, fbp_size b_line, fbp_size b_k, const extent *of_b, real *scratch)
{
    real ordinary[SIDE * SIDE];
    const fbp_size width = width_of(d->n);
    const fbp_epilogue plain = {.activation = FBP_IDENTITY};
    int multiplied = 0;
    for (fbp_size i = 0; i < d->rows; i++) {
        for (fbp_size j = 0; j < d->n; j += W) {
            const mask lost = sums_lost(d, K, i, j, of_a, of_b);
            if (!lost) continue;
            if (!multiplied)
                multiply_ordinarily(d->rows, d->n, K, a, a_line, a_k, b, b_k, b_line, &plain, scratch, ordinary, width);
            multiplied = 1;
            v_store(d->sums + i * width + j,
                    v_select(lost, load_at(ordinary + i * width + j, d->n - j, 0), v_load(d->sums + i * width + j)));
        }
    }
}

#undef EXACT_FROM
#undef LEAST_PRODUCT
#undef MOST_PRODUCT
#undef MOST_FACTOR
