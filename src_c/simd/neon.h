/* NEON on aarch64: 4 float32 or 2 float64 lanes, 32 registers; part of every aarch64, so no target region. */
#include <arm_neon.h>

#ifdef FBP_FLOAT32
typedef float32x4_t vec;
typedef uint32x4_t mask;
enum { W = 4, MANTISSA_BITS = 23 };
#define OP(name) name##_f32
#define AS_INT vreinterpretq_s32_f32
#define AS_REAL vreinterpretq_f32_s32
#define INT(name) name##_s32
#define SHIFT_RIGHT(a, n) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), n))
#else
typedef float64x2_t vec;
typedef uint64x2_t mask;
enum { W = 2, MANTISSA_BITS = 52 };
#define OP(name) name##_f64
#define AS_INT vreinterpretq_s64_f64
#define AS_REAL vreinterpretq_f64_s64
#define INT(name) name##_s64
#define SHIFT_RIGHT(a, n) vreinterpretq_s64_u64(vshrq_n_u64(vreinterpretq_u64_s64(a), n))
#endif

static inline vec v_all(real x) { return OP(vdupq_n)(x); }
static inline vec v_load(const real *p) { return OP(vld1q)(p); }
static inline void v_store(real *p, vec a) { OP(vst1q)(p, a); }
static inline void v_stream(real *p, vec a) { v_store(p, a); }
static inline void v_streamed(void) {}
static inline vec v_load_n(const real *p, fbp_size n, vec rest)
{
    real lanes[W];
    v_store(lanes, rest);
    for (fbp_size i = 0; i < n; i++) lanes[i] = p[i];
    return v_load(lanes);
}
static inline void v_store_n(real *p, vec a, fbp_size n)
{
    real lanes[W];
    v_store(lanes, a);
    for (fbp_size i = 0; i < n; i++) p[i] = lanes[i];
}

static inline vec v_add(vec a, vec b) { return OP(vaddq)(a, b); }
static inline vec v_sub(vec a, vec b) { return OP(vsubq)(a, b); }
static inline vec v_mul(vec a, vec b) { return OP(vmulq)(a, b); }
static inline vec v_div(vec a, vec b) { return OP(vdivq)(a, b); }
static inline vec v_sqrt(vec a) { return OP(vsqrtq)(a); }
static inline vec v_fma(vec a, vec b, vec c) { return OP(vfmaq)(c, a, b); }

static inline mask v_lt(vec a, vec b) { return OP(vcltq)(a, b); }
static inline mask v_eq(vec a, vec b) { return OP(vceqq)(a, b); }
static inline vec v_select(mask m, vec yes, vec no) { return OP(vbslq)(m, yes, no); }
static inline int v_any(mask m) { return (vgetq_lane_u64((uint64x2_t)m, 0) | vgetq_lane_u64((uint64x2_t)m, 1)) != 0; }
static inline vec v_max(vec a, vec b) { return v_select(v_lt(b, a), a, b); } /* b where either is NaN */

static inline vec v_zip(vec a, vec b, vec *high)
{
    *high = OP(vzip2q)(a, b);
    return OP(vzip1q)(a, b);
}

/* 2^k for whole k that give a normal number: k moved into the exponent field by adding ROUNDER */
static inline vec pow2(vec k)
{
    return AS_REAL(INT(vaddq)(INT(vshlq_n)(AS_INT(v_add(k, v_all(ROUNDER))), MANTISSA_BITS), AS_INT(v_all(1))));
}
/* In two steps, so that only the last one may leave the normal range; and none where the result is 0 anyway, since processors
 * take many times as long for an underflow. */
static inline vec v_ldexp(vec a, vec k)
{
    a = v_select(v_lt(k, v_all(LEAST_POWER)), v_all(0), a);
    k = v_max(v_all(LEAST_POWER), k);
    vec half = v_sub(v_fma(k, v_all((real)0.5), v_all(ROUNDER)), v_all(ROUNDER));
    return v_mul(v_mul(a, pow2(half)), pow2(v_sub(k, half)));
}
static inline vec v_frexp(vec a, vec *k)
{
    vec exponent = AS_REAL(INT(vorrq)(SHIFT_RIGHT(AS_INT(a), MANTISSA_BITS), AS_INT(v_all(ROUNDER))));
    *k = v_sub(exponent, v_all(ROUNDER + EXPONENT_BIAS));
    enum { REST = 8 * sizeof(real) - MANTISSA_BITS };
    return AS_REAL(INT(vorrq)(SHIFT_RIGHT(INT(vshlq_n)(AS_INT(a), REST), REST), AS_INT(v_all(1))));
}

static inline real v_sum(vec a) { return OP(vaddvq)(a); }
static inline real v_hmax(vec a) { return OP(vmaxvq)(a); }

#undef INT
#undef AS_INT
#undef AS_REAL
#undef SHIFT_RIGHT
