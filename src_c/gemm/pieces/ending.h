/* What becomes of the sums of a tile of C: it is stored, and its epilogue run, some rows at a time, between the instructions that
 * form the sums of the next tile. */
enum { ROWS_AT_ONCE = 4 };

/* A tile of C, up to SIDE x SIDE. Its epilogue runs some rows at a time, while the sums of the next tile are formed. */
typedef struct {
    fbp_size rows, n;
    fbp_size done;       /* rows whose epilogue has run */
    fbp_size prefetched; /* rows of C that were prefetched */
    tile t;
    int buffered;
    const fbp_epilogue *e;
    fbp_size row, column, C_row;
    real *C, *sums;
} ending;

/* `vectors` is a compile-time constant: 2 whole vectors, or 0 for any number of columns. */
static ALWAYS_INLINE void store_sums(int vectors, fbp_size rows, const real *sums, tile t)
{
    const fbp_size columns = vectors ? vectors * W : t.n, to_columns = vectors ? vectors * W : t.to_n, width = width_of(columns);
    const vec factor = v_all(t.factor);
    for (; rows > 0; rows--, sums += width, t.base += t.base_row, t.to += t.to_row) {
        UNROLL for (fbp_size j = 0; j < columns; j += W)
            store_at(t.to + j, v_fma(factor, v_load(sums + j), load_at(t.base + j, columns - j, 0)), to_columns - j);
    }
}

static __attribute__((noinline)) void end_rows(ending *d)
{
    static const real nothing[SIDE] = {0};
    const fbp_size i = d->done, rows = smaller(ROWS_AT_ONCE, d->rows - i);
    real *sums = d->sums + i * width_of(d->n);
    if (rows <= 0) return;
    d->done += rows;
    if (d->t.base || !d->buffered) {
        tile t = d->t;
        t.to += i * t.to_row;
        t.base = t.base ? t.base + i * t.base_row : nothing;
        if (t.n == SIDE)
            store_sums(SIDE / W, rows, sums, t);
        else
            store_sums(0, rows, sums, t);
    }
    if (d->buffered) finish_tile(rows, d->n, sums, d->e, d->row + i, d->column, d->C + i * d->C_row, d->C_row);
}

/* Prefetches some rows of C and of the update's state, if rows are too far apart for the hardware prefetcher. */
static __attribute__((noinline)) void prefetch_far_rows(ending *d)
{
    if (d->C_row <= PAGE || d->prefetched >= d->rows) return;
    for (int i = 0; i < ROWS_AT_ONCE; i++) prefetch_rows_of_c(&d->t, d->prefetched + i);
    d->prefetched += ROWS_AT_ONCE;
}
