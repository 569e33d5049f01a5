/* Any machine with a C compiler: a vector is a short array, which compilers map to what the machine has. */
#if defined(__GNUC__) && !defined(__clang__)
/* Of the loop over the lines of two columns gcc 12 makes one that loads those of the next line already, also behind the last one,
 * where there may be no memory (tests/test_ends_of_memory.py). */
#pragma GCC optimize("no-tree-loop-vectorize")
#endif
#ifdef FBP_FLOAT32
enum { W = 4, MANTISSA_BITS = 23 };
typedef uint32_t integer;
#else
enum { W = 2, MANTISSA_BITS = 52 };
typedef uint64_t integer;
#endif
typedef struct { real at[W]; } vec;
typedef struct { int at[W]; } mask;

#define EACH_LANE for (int i = 0; i < W; i++)

static inline vec v_all(real x) { vec r; EACH_LANE r.at[i] = x; return r; }
static inline vec v_load(const real *p) { vec r; EACH_LANE r.at[i] = p[i]; return r; }
static inline void v_store(real *p, vec a) { EACH_LANE p[i] = a.at[i]; }
static inline void v_stream(real *p, vec a) { v_store(p, a); }
static inline void v_streamed(void) {}
static inline vec v_load_n(const real *p, fbp_size n, vec rest)
{
    for (fbp_size i = 0; i < n; i++) rest.at[i] = p[i];
    return rest;
}
static inline void v_store_n(real *p, vec a, fbp_size n) { for (fbp_size i = 0; i < n; i++) p[i] = a.at[i]; }

static inline vec v_add(vec a, vec b) { EACH_LANE a.at[i] += b.at[i]; return a; }
static inline vec v_sub(vec a, vec b) { EACH_LANE a.at[i] -= b.at[i]; return a; }
static inline vec v_mul(vec a, vec b) { EACH_LANE a.at[i] *= b.at[i]; return a; }
static inline vec v_div(vec a, vec b) { EACH_LANE a.at[i] /= b.at[i]; return a; }
static inline vec v_sqrt(vec a) { EACH_LANE a.at[i] = SQRT(a.at[i]); return a; }
/* two roundings: a fused one in software would cost a hundred times as much */
static inline vec v_fma(vec a, vec b, vec c) { EACH_LANE c.at[i] += a.at[i] * b.at[i]; return c; }
static inline vec v_max(vec a, vec b) { EACH_LANE b.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i]; return b; }

static inline mask v_lt(vec a, vec b) { mask m; EACH_LANE m.at[i] = a.at[i] < b.at[i]; return m; }
static inline mask v_eq(vec a, vec b) { mask m; EACH_LANE m.at[i] = a.at[i] == b.at[i]; return m; }
static inline vec v_select(mask m, vec yes, vec no) { EACH_LANE no.at[i] = m.at[i] ? yes.at[i] : no.at[i]; return no; }
static inline int v_any(mask m) { int any = 0; EACH_LANE any |= m.at[i]; return any; }

static inline vec v_zip(vec a, vec b, vec *high)
{
    vec low;
    for (int i = 0; i < W / 2; i++) {
        low.at[2 * i] = a.at[i], low.at[2 * i + 1] = b.at[i];
        high->at[2 * i] = a.at[W / 2 + i], high->at[2 * i + 1] = b.at[W / 2 + i];
    }
    return low;
}

static inline integer bits_of(real x) { integer b; memcpy(&b, &x, sizeof b); return b; }
static inline real real_of(integer b) { real x; memcpy(&x, &b, sizeof x); return x; }

/* 2^k for whole k that give a normal number: k moved into the exponent field by adding ROUNDER */
static inline real pow2(real k) { return real_of((bits_of(k + ROUNDER) << MANTISSA_BITS) + bits_of(1)); }
/* In two steps, so that only the last one may leave the normal range; and none where the result is 0 anyway, since processors
 * take many times as long for an underflow. */
static inline vec v_ldexp(vec a, vec k)
{
    EACH_LANE {
        if (k.at[i] < LEAST_POWER) a.at[i] = 0, k.at[i] = LEAST_POWER;
        real half = k.at[i] * (real)0.5 + ROUNDER - ROUNDER;
        a.at[i] = a.at[i] * pow2(half) * pow2(k.at[i] - half);
    }
    return a;
}
static inline vec v_frexp(vec a, vec *k)
{
    EACH_LANE {
        integer bits = bits_of(a.at[i]), fraction = bits & (((integer)1 << MANTISSA_BITS) - 1);
        k->at[i] = (real)(bits >> MANTISSA_BITS) - EXPONENT_BIAS;
        a.at[i] = real_of(fraction | bits_of(1));
    }
    return a;
}

static inline real v_sum(vec a)
{
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) a.at[i] += a.at[i + half];
    return a.at[0];
}
static inline real v_hmax(vec a)
{
    for (int i = 1; i < W; i++) a.at[0] = a.at[0] > a.at[i] ? a.at[0] : a.at[i];
    return a.at[0];
}

#undef EACH_LANE
