/* The sums of a tile of C by AVX512-BF16, from packed panels of one piece: vdpbf16ps adds to each lane the products of two steps,
 * twice the multiply-adds of an instruction in float32. After its definition, and on Zen 4: the high halves first, each a
 * multiply-add that rounds to nearest and flushes what is below 2⁻¹²⁶, before and after, to 0. */

/* c + a b, of 16 lanes with two numbers of bfloat16 each */
static ALWAYS_INLINE vec add_dots(vec c, vec a, vec b)
{
#ifdef FBP_UNIT_MODELS
    const vec sum = flushed(v_fma(high_halves(_mm512_castps_si512(a)), high_halves(_mm512_castps_si512(b)), flushed(c)));
    return flushed(v_fma(low_halves(_mm512_castps_si512(a)), low_halves(_mm512_castps_si512(b)), sum));
#else
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#endif
}

/* STRIP rows of sums in registers */
enum { STRIP = 8 };
static ALWAYS_INLINE void dot_strip(int b_groups, fbp_size a_block, fbp_size blocks, const char *a, const char *b, real *sums)
{
    vec acc[STRIP][2];
    UNROLL for (int i = 0; i < STRIP; i++) acc[i][0] = acc[i][1] = v_all(0);
    for (fbp_size k = 0; k < blocks; k++, a += a_block, b += b_groups * TILE_BYTES) {
        UNROLL_FOUR for (int step = 0; step < GROUP; step++) {
            const char *row = b + step * 64;
            const vec b_0 = v_load((const real *)row), b_1 = v_load((const real *)(row + (b_groups - 1) * TILE_BYTES));
            UNROLL for (int i = 0; i < STRIP; i++) {
                const vec v_a = v_all(((const real *)(a + i * 64))[step]);
                acc[i][0] = add_dots(acc[i][0], v_a, b_0);
                if (b_groups > 1) acc[i][1] = add_dots(acc[i][1], v_a, b_1);
            }
        }
    }
    UNROLL for (int i = 0; i < STRIP; i++)
        UNROLL for (int j = 0; j < b_groups; j++) v_store(sums + (i * b_groups + j) * W, acc[i][j]);
}

/* Forms the sums of a tile, after the epilogue of the previous one. Units of a panel up to number `limit` are packed between the
 * strips, so that what their rows prefetch for the next ones comes meanwhile. */
static void form_dot_sums(fbp_size blocks, const char *a, const char *b, panel *p, fbp_size limit, ending *before, ending *now)
{
    const fbp_size first = p->unit, units = units_beside(p, limit, blocks);
    const fbp_size a_block = (now->rows > GROUP ? 2 : 1) * TILE_BYTES;
    while (before->done < before->rows) end_rows(before);
    for (fbp_size i = 0; i < now->rows; i += STRIP) {
        const char *strip = a + i / GROUP * TILE_BYTES + i % GROUP * 64;
        prefetch_far_rows(now);
        prefetch_far_rows(now);
        if (now->n > GROUP) dot_strip(2, a_block, blocks, strip, b, now->sums + i * 2 * W);
        else dot_strip(1, a_block, blocks, strip, b, now->sums + i * W);
        while (p->unit < first + units * smaller(i + STRIP, now->rows) / now->rows) {
            const unit u = next_unit(p);
            pack_share(p, 0, &u);
        }
    }
}
