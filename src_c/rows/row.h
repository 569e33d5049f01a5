/* Loops over a row: W elements at a time, the last ones through a partial load, and sums in blocks. */

static ALWAYS_INLINE vec load_at(const real *p, fbp_size left, real rest)
{
    return left >= W ? v_load(p) : v_load_n(p, left, v_all(rest));
}

static ALWAYS_INLINE void store_at(real *p, vec a, fbp_size left)
{
    if (left >= W)
        v_store(p, a);
    else
        v_store_n(p, a, left);
}

static void fill(fbp_size n, real value, real *y)
{
    for (fbp_size i = 0; i < n; i++) y[i] = value;
}

/* y_i = f(x_i); y may be x */
static ALWAYS_INLINE void map(fbp_size n, const real *x, real *y, vec (*f)(vec))
{
    for (fbp_size i = 0; i < n; i += W) store_at(y + i, f(load_at(x + i, n - i, 0)), n - i);
}

/* The same where f takes n vectors at a time */
static ALWAYS_INLINE void map_each(fbp_size n, const real *x, real *y, void (*f)(int, vec *))
{
    vec v[IN_STEP];
    fbp_size i = 0;
    for (; i + IN_STEP * W <= n; i += IN_STEP * W) {
        UNROLL for (int j = 0; j < IN_STEP; j++) v[j] = v_load(x + i + j * W);
        f(IN_STEP, v);
        UNROLL for (int j = 0; j < IN_STEP; j++) v_store(y + i + j * W, v[j]);
    }
    for (; i < n; i += W) {
        *v = load_at(x + i, n - i, 0);
        f(1, v);
        store_at(y + i, *v, n - i);
    }
}

/* y_i = f over all lanes of x_i, for n vectors; n <= W is a power of 2. Each round halves the lanes of every result and, while
 * there are pairs of vectors, merges each pair: 3 operations for a pair, instead of 2 log2 W for each vector alone. The order of
 * operations in a result does not depend on n. */
static ALWAYS_INLINE void store_each(int n, vec (*f)(vec, vec), vec *x, real *y)
{
    assert(n > 0 && W % n == 0);
    const int apart = W / n; /* lanes from one result to the next */
    real lanes[W];
    UNROLL for (int left = W / 2; left > 0; left /= 2) {
        const int pairs = left / apart; /* 0 where one vector is left: it is halved against itself */
        UNROLL for (int i = 0; i < pairs + !pairs; i++) {
            vec high, low = v_zip(x[i], x[i + pairs], &high);
            x[i] = f(low, high);
        }
    }
    if (n == W) {
        v_store(y, x[0]);
    } else {
        v_store(lanes, x[0]);
        UNROLL for (int i = 0; i < n; i++) y[i] = lanes[i * apart];
    }
}

/* a in the first `left` lanes, rest in the others */
static ALWAYS_INLINE vec first_lanes_of(vec a, fbp_size left, real rest)
{
    static const real number[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return left >= W ? a : v_select(v_lt(v_load(number), v_all((real)left)), a, v_all(rest));
}

/* Σ_i term(row, i). A register sums BLOCK elements and a double sums the blocks, so the rounding error does not grow with the
 * row. `terms` computes n vectors of terms from element i on; the row has `left` elements from there. */
enum { BLOCK = 32 * W };
typedef void (*row_terms)(const void *row, int n, fbp_size i, fbp_size left, vec *term);
static ALWAYS_INLINE double sum_row(fbp_size n, row_terms terms, const void *row)
{
    double total = 0;
    for (fbp_size start = 0; start < n; start += BLOCK) {
        const fbp_size stop = smaller(start + BLOCK, n);
        vec sum = v_all(0), term[IN_STEP];
        fbp_size i = start;
        for (; i + IN_STEP * W <= stop; i += IN_STEP * W) {
            terms(row, IN_STEP, i, IN_STEP * W, term);
            UNROLL for (int j = 0; j < IN_STEP; j++) sum = v_add(sum, term[j]);
        }
        for (; i < stop; i += W) {
            terms(row, 1, i, n - i, term);
            sum = v_add(sum, first_lanes_of(term[0], n - i, 0));
        }
        total += (double)v_sum(sum);
    }
    return total;
}

enum { CACHE_LINE = 64 / sizeof(real) };

/* Prefetch n vectors from element i on of the next row, assumed to follow this one of `row` elements without a gap. Past the last
 * row of a matrix the prefetch is useless but harmless. */
static ALWAYS_INLINE void prefetch_next(int n, const real *p, fbp_size row, fbp_size i)
{
    UNROLL for (int at = 0; at < n * W; at += CACHE_LINE) PREFETCH_LATER(p + row + i + at);
}

/* The maximum of a row, one step at a time, ignoring NaN */
static ALWAYS_INLINE void start_max(vec *m)
{
    UNROLL for (int j = 0; j < IN_STEP; j++) m[j] = v_all(-INFINITY);
}
static ALWAYS_INLINE void max_step(const real *z, vec *m)
{
    UNROLL for (int j = 0; j < IN_STEP; j++) m[j] = v_max(v_load(z + j * W), m[j]);
}
static ALWAYS_INLINE real finish_max(fbp_size C, const real *z, fbp_size done, vec *m)
{
    for (; done < C; done += W) *m = v_max(load_at(z + done, C - done, -INFINITY), *m);
    UNROLL for (int j = 1; j < IN_STEP; j++) *m = v_max(m[j], *m);
    return v_hmax(*m);
}
static real row_max(fbp_size C, const real *z)
{
    vec m[IN_STEP];
    fbp_size i = 0;
    start_max(m);
    for (; i + IN_STEP * W <= C; i += IN_STEP * W) max_step(z + i, m);
    return finish_max(C, z, i, m);
}
