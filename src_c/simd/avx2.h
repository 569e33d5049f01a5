/* AVX2 with FMA3: 8 float32 or 4 float64 lanes, 16 registers; a mask is a vector of all-ones or all-zeros lanes. */
#include <immintrin.h>
#define FBP_TARGET "avx2,fma"
#include "target_begin.h"

#ifdef FBP_FLOAT32
typedef __m256 vec;
enum { W = 8, MANTISSA_BITS = 23 };
#define OP(name) _mm256_##name##_ps
#define INT(name) _mm256_##name##_epi32
#define AS_INT _mm256_castps_si256
#define AS_REAL _mm256_castsi256_ps
typedef int32_t integer;
#else
typedef __m256d vec;
enum { W = 4, MANTISSA_BITS = 52 };
#define OP(name) _mm256_##name##_pd
#define INT(name) _mm256_##name##_epi64
#define AS_INT _mm256_castpd_si256
#define AS_REAL _mm256_castsi256_pd
typedef int64_t integer;
#endif
typedef vec mask;

static inline vec v_all(real x) { return OP(set1)(x); }
static inline vec v_load(const real *p) { return OP(loadu)(p); }
static inline void v_store(real *p, vec a) { OP(storeu)(p, a); }
static inline void v_stream(real *p, vec a) { OP(stream)(p, a); }
static inline void v_streamed(void) { _mm_sfence(); }

/* all ones in the first n lanes: a window on W ones followed by W zeros */
static inline __m256i first_lanes(fbp_size n)
{
    static const integer window[2 * 8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}
static inline vec v_load_n(const real *p, fbp_size n, vec rest)
{
    __m256i m = first_lanes(n);
    return OP(blendv)(rest, OP(maskload)(p, m), AS_REAL(m));
}
static inline void v_store_n(real *p, vec a, fbp_size n) { OP(maskstore)(p, first_lanes(n), a); }

static inline vec v_add(vec a, vec b) { return OP(add)(a, b); }
static inline vec v_sub(vec a, vec b) { return OP(sub)(a, b); }
static inline vec v_mul(vec a, vec b) { return OP(mul)(a, b); }
static inline vec v_div(vec a, vec b) { return OP(div)(a, b); }
static inline vec v_sqrt(vec a) { return OP(sqrt)(a); }
static inline vec v_fma(vec a, vec b, vec c) { return OP(fmadd)(a, b, c); }
static inline vec v_max(vec a, vec b) { return OP(max)(a, b); }

static inline mask v_lt(vec a, vec b) { return OP(cmp)(a, b, _CMP_LT_OQ); }
static inline mask v_eq(vec a, vec b) { return OP(cmp)(a, b, _CMP_EQ_OQ); }
static inline vec v_select(mask m, vec yes, vec no) { return OP(blendv)(no, yes, m); }
static inline int v_any(mask m) { return OP(movemask)(m) != 0; }

static inline vec v_zip(vec a, vec b, vec *high) /* within halves, then the halves put in order */
{
    vec low = OP(unpacklo)(a, b), upper = OP(unpackhi)(a, b);
#ifdef FBP_FLOAT32
    *high = _mm256_permute2f128_ps(low, upper, 0x31);
    return _mm256_permute2f128_ps(low, upper, 0x20);
#else
    *high = _mm256_permute2f128_pd(low, upper, 0x31);
    return _mm256_permute2f128_pd(low, upper, 0x20);
#endif
}

/* 2^k for whole k that give a normal number: k moved into the exponent field by adding ROUNDER */
static inline vec pow2(vec k)
{
    __m256i bits = AS_INT(v_add(k, v_all(ROUNDER)));
    return AS_REAL(INT(add)(INT(slli)(bits, MANTISSA_BITS), AS_INT(v_all(1))));
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
    __m256i bits = AS_INT(a), one = AS_INT(v_all(1));
    vec exponent = AS_REAL(_mm256_or_si256(INT(srli)(bits, MANTISSA_BITS), AS_INT(v_all(ROUNDER))));
    *k = v_sub(exponent, v_all(ROUNDER + EXPONENT_BIAS));
    __m256i fraction = INT(srli)(INT(slli)(bits, 8 * sizeof(real) - MANTISSA_BITS), 8 * sizeof(real) - MANTISSA_BITS);
    return AS_REAL(_mm256_or_si256(fraction, one));
}

static inline real v_sum(vec a)
{
#ifdef FBP_FLOAT32
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
#else
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
#endif
}
static inline real v_hmax(vec a)
{
#ifdef FBP_FLOAT32
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
#else
    __m128d h = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(h, _mm_unpackhi_pd(h, h)));
#endif
}

#undef INT
#undef AS_INT
#undef AS_REAL
