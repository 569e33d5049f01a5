/* Activations: elementwise f(x) and g ⊙ f'. Outputs may be inputs throughout. */

/* y = f(x), and f' computed from the output a = f(z) or from z: see activations.def */

static ALWAYS_INLINE vec v_identity(vec x) { return x; }
static ALWAYS_INLINE void activate_identity(fbp_size n, const real *x, real *y) { map(n, x, y, v_identity); }
static ALWAYS_INLINE vec v_identity_slope(vec a) { (void)a; return v_all(1); }

static ALWAYS_INLINE void activate_sigmoid(fbp_size n, const real *x, real *y) { map_each(n, x, y, v_sigmoid_each); }
static ALWAYS_INLINE vec v_sigmoid_slope(vec a) { return v_mul(a, v_sub(v_all(1), a)); }

static ALWAYS_INLINE void activate_tanh(fbp_size n, const real *x, real *y) { map_each(n, x, y, v_tanh_each); }
static ALWAYS_INLINE vec v_tanh_slope(vec a) { return v_mul(v_sub(v_all(1), a), v_add(v_all(1), a)); }

/* low where a <= 0, 1 where a > 0, NaN where a is NaN */
static ALWAYS_INLINE vec v_one_above_zero(vec a, real low)
{
    return v_select(v_lt(v_all(0), a), v_all(1), v_select(v_eq(a, a), v_all(low), a));
}

/* a relu of NaN is NaN: v_max returns its second operand then */
static ALWAYS_INLINE vec v_relu(vec x) { return v_max(v_all(0), x); }
static ALWAYS_INLINE void activate_relu(fbp_size n, const real *x, real *y) { map(n, x, y, v_relu); }
static ALWAYS_INLINE vec v_relu_slope(vec a) { return v_one_above_zero(a, 0); }

static ALWAYS_INLINE vec v_leaky_relu(vec x) { return v_select(v_lt(x, v_all(0)), v_mul(x, v_all((real)0.01)), x); }
static ALWAYS_INLINE void activate_leaky_relu(fbp_size n, const real *x, real *y) { map(n, x, y, v_leaky_relu); }
static ALWAYS_INLINE vec v_leaky_relu_slope(vec a) { return v_one_above_zero(a, (real)0.01); }

/* x where x > 0, else e^x - 1 */
static ALWAYS_INLINE void v_elu_each(int n, vec *x)
{
    vec below[IN_STEP], unused[IN_STEP];
    UNROLL for (int j = 0; j < n; j++) below[j] = v_min(v_all(0), x[j]);
    v_expm1_each(n, EXPM1_MIN, below, unused);
    UNROLL for (int j = 0; j < n; j++) x[j] = v_select(v_lt(v_all(0), x[j]), x[j], below[j]);
}
static ALWAYS_INLINE void activate_elu(fbp_size n, const real *x, real *y) { map_each(n, x, y, v_elu_each); }
static ALWAYS_INLINE vec v_elu_slope(vec a) { return v_select(v_lt(v_all(0), a), v_all(1), v_add(v_all(1), a)); }

/* λ x where x > 0, else λα (e^x - 1) */
#define SELU_SCALE 1.0507009873554804934193349852946 /* λ */
#define SELU_BELOW 1.7580993408473768599402175208123 /* λα */
static ALWAYS_INLINE void v_selu_each(int n, vec *x)
{
    v_elu_each(n, x);
    UNROLL for (int j = 0; j < n; j++)
        x[j] = v_mul(x[j], v_select(v_lt(v_all(0), x[j]), v_all((real)SELU_SCALE), v_all((real)SELU_BELOW)));
}
static ALWAYS_INLINE void activate_selu(fbp_size n, const real *x, real *y) { map_each(n, x, y, v_selu_each); }
static ALWAYS_INLINE vec v_selu_slope(vec a)
{
    return v_select(v_lt(v_all(0), a), v_all((real)SELU_SCALE), v_add(v_all((real)SELU_BELOW), a));
}

/* gelu, silu, mish: math/elementary.h has their slopes as well */
static ALWAYS_INLINE void activate_gelu(fbp_size n, const real *x, real *y) { map(n, x, y, v_gelu); }
static ALWAYS_INLINE void activate_silu(fbp_size n, const real *x, real *y) { map(n, x, y, v_silu); }
static ALWAYS_INLINE void activate_mish(fbp_size n, const real *x, real *y) { map(n, x, y, v_mish); }

static ALWAYS_INLINE void activate_softplus(fbp_size n, const real *x, real *y) { map(n, x, y, v_softplus); }
static ALWAYS_INLINE vec v_softplus_slope(vec a)
{
    vec unused;
    return v_negative(v_expm1_nonpositive(v_negative(a), &unused));
}

static void activate(int kind, fbp_size n, const real *x, real *y)
{
    assert(is_activation(kind));
    assert(are_elements(x, n) && are_elements(y, n) && are_same_or_apart(n, x, y));
    switch (kind) {
#define FBP_ACTIVATION(kind, name, slope, bound, weights) case kind: activate_##name(n, x, y); break;
#include "activations.def"
#undef FBP_ACTIVATION
    }
}

/* d (rows, n) = g ⊙ f'(a) */
typedef struct {
    fbp_size rows, n;
    const real *g;
    fbp_size g_row;
    const real *a;
    fbp_size a_row;
    real *d;
    fbp_size d_row;
} slope_rows;
static ALWAYS_INLINE void times_slope(vec (*slope)(vec), const slope_rows *given)
{
    const slope_rows p = *given;
    for (fbp_size row = 0; row < p.rows; row++) {
        const real *g = p.g + row * p.g_row, *a = p.a + row * p.a_row;
        real *d = p.d + row * p.d_row;
        for (fbp_size i = 0; i < p.n; i += W) {
            vec steepness = slope(load_at(a + i, p.n - i, 0));
            store_at(d + i, v_mul(load_at(g + i, p.n - i, 0), steepness), p.n - i);
        }
    }
}

static void activate_backward_rows(int kind, fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const real *a,
                                   fbp_size a_row, real *d, fbp_size d_row)
{
    const slope_rows p = {rows, n, g, g_row, a, a_row, d, d_row};
    switch (kind) { /* one loop per kind, each with its slope inlined */
#define FBP_ACTIVATION(kind, name, slope, bound, weights) case kind: times_slope(v_##name##_slope, &p); break;
#include "activations.def"
#undef FBP_ACTIVATION
    }
}

static void activate_backward(int kind, fbp_size n, const real *g, const real *a, real *d)
{
    assert(is_activation(kind));
    assert(are_elements(g, n) && are_elements(a, n) && are_elements(d, n));
    assert(are_same_or_apart(n, g, d) && are_same_or_apart(n, a, d));
    activate_backward_rows(kind, 1, n, g, 0, a, 0, d, 0);
}
