/* Activations: elementwise f(x) and g ⊙ f'. Outputs may be inputs throughout. */

static ALWAYS_INLINE vec v_identity(vec x) { return x; }
/* a relu of NaN is NaN: v_max returns its second operand then */
static ALWAYS_INLINE vec v_relu(vec x) { return v_max(v_all(0), x); }
static ALWAYS_INLINE vec v_leaky_relu(vec x) { return v_select(v_lt(x, v_all(0)), v_mul(x, v_all((real)0.01)), x); }

static void activate(int kind, fbp_size n, const real *x, real *y)
{
    assert(is_activation(kind));
    assert(are_elements(x, n) && are_elements(y, n) && are_same_or_apart(n, x, y));
    switch (kind) {
    case FBP_SIGMOID: map_each(n, x, y, v_sigmoid_each); break;
    case FBP_TANH: map_each(n, x, y, v_tanh_each); break;
    case FBP_RELU: map(n, x, y, v_relu); break;
    case FBP_LEAKY_RELU: map(n, x, y, v_leaky_relu); break;
    case FBP_GELU: map(n, x, y, v_gelu); break;
    case FBP_SILU: map(n, x, y, v_silu); break;
    case FBP_SOFTPLUS: map(n, x, y, v_softplus); break;
    default: map(n, x, y, v_identity);
    }
}

/* f' as a function of the output a = f(z); gelu and silu, whose slope is no function of their output, take z itself. */
static ALWAYS_INLINE vec v_slope(int kind, vec a)
{
    const vec one = v_all(1), zero = v_all(0);
    vec unused;
    switch (kind) {
    case FBP_SIGMOID: return v_mul(a, v_sub(one, a));
    case FBP_TANH: return v_mul(v_sub(one, a), v_add(one, a));
    case FBP_RELU: return v_select(v_lt(zero, a), one, v_select(v_eq(a, a), zero, a));
    case FBP_LEAKY_RELU: return v_select(v_lt(zero, a), one, v_select(v_eq(a, a), v_all((real)0.01), a));
    case FBP_GELU: return v_gelu_slope(a);
    case FBP_SILU: return v_silu_slope(a);
    case FBP_SOFTPLUS: return v_negative(v_expm1_nonpositive(v_negative(a), &unused));
    default: return one;
    }
}

/* d (rows, n) = g ⊙ f'(a), or g alone */
typedef struct {
    fbp_size rows, n;
    const real *g;
    fbp_size g_row;
    const real *a;
    fbp_size a_row;
    real *d;
    fbp_size d_row;
} slope_rows;
static ALWAYS_INLINE void times_slope(int kind, const slope_rows *given)
{
    const slope_rows p = *given;
    for (fbp_size row = 0; row < p.rows; row++) {
        const real *g = p.g + row * p.g_row, *a = p.a + row * p.a_row;
        real *d = p.d + row * p.d_row;
        for (fbp_size i = 0; i < p.n; i += W) {
            vec slope = v_slope(kind, load_at(a + i, p.n - i, 0));
            store_at(d + i, v_mul(load_at(g + i, p.n - i, 0), slope), p.n - i);
        }
    }
}

static void activate_backward_rows(int kind, fbp_size rows, fbp_size n, const real *g, fbp_size g_row, const real *a, fbp_size a_row,
                                   real *d, fbp_size d_row)
{
    const slope_rows p = {rows, n, g, g_row, a, a_row, d, d_row};
    switch (kind) { /* one loop per kind, each with its slope inlined */
    case FBP_SIGMOID: times_slope(FBP_SIGMOID, &p); break;
    case FBP_TANH: times_slope(FBP_TANH, &p); break;
    case FBP_RELU: times_slope(FBP_RELU, &p); break;
    case FBP_LEAKY_RELU: times_slope(FBP_LEAKY_RELU, &p); break;
    case FBP_GELU: times_slope(FBP_GELU, &p); break;
    case FBP_SILU: times_slope(FBP_SILU, &p); break;
    case FBP_SOFTPLUS: times_slope(FBP_SOFTPLUS, &p); break;
    default: for (fbp_size row = 0; row < rows; row++) map(n, g + row * g_row, d + row * d_row, v_identity);
    }
}

static void activate_backward(int kind, fbp_size n, const real *g, const real *a, real *d)
{
    assert(is_activation(kind));
    assert(are_elements(g, n) && are_elements(a, n) && are_elements(d, n));
    assert(are_same_or_apart(n, g, d) && are_same_or_apart(n, a, d));
    activate_backward_rows(kind, 1, n, g, 0, a, 0, d, 0);
}
