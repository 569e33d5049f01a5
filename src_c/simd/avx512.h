/* AVX-512 (F, DQ, BW, VL): 16 float32 or 8 float64 lanes, 32 registers, lane masks in registers of their own.
 * The vocabulary is described in simd/README.md; every instruction set defines exactly these names. */
#include <immintrin.h>
#define FBP_TARGET "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"
#include "target_begin.h"

#ifdef FBP_FLOAT32
typedef __m512 vec;
typedef __mmask16 mask;
enum { W = 16 };
#define OP(name) _mm512_##name##_ps
#define CMP(a, b, how) _mm512_cmp_ps_mask(a, b, how)
#else
typedef __m512d vec;
typedef __mmask8 mask;
enum { W = 8 };
#define OP(name) _mm512_##name##_pd
#define CMP(a, b, how) _mm512_cmp_pd_mask(a, b, how)
#endif

static inline mask first_lanes(fbp_size n) { return (mask)((1u << n) - 1u); }

static inline vec v_all(real x) { return OP(set1)(x); }
static inline vec v_load(const real *p) { return OP(loadu)(p); }
static inline void v_store(real *p, vec a) { OP(storeu)(p, a); }
static inline void v_stream(real *p, vec a) { OP(stream)(p, a); }
static inline void v_streamed(void) { _mm_sfence(); }
static inline vec v_load_n(const real *p, fbp_size n, vec rest) { return OP(mask_loadu)(rest, first_lanes(n), p); }
static inline void v_store_n(real *p, vec a, fbp_size n) { OP(mask_storeu)(p, first_lanes(n), a); }

static inline vec v_add(vec a, vec b) { return OP(add)(a, b); }
static inline vec v_sub(vec a, vec b) { return OP(sub)(a, b); }
static inline vec v_mul(vec a, vec b) { return OP(mul)(a, b); }
static inline vec v_div(vec a, vec b) { return OP(div)(a, b); }
static inline vec v_sqrt(vec a) { return OP(sqrt)(a); }
static inline vec v_fma(vec a, vec b, vec c) { return OP(fmadd)(a, b, c); }
static inline vec v_max(vec a, vec b) { return OP(max)(a, b); }

static inline mask v_lt(vec a, vec b) { return CMP(a, b, _CMP_LT_OQ); }
static inline mask v_eq(vec a, vec b) { return CMP(a, b, _CMP_EQ_OQ); }
static inline vec v_select(mask m, vec yes, vec no) { return OP(mask_blend)(m, no, yes); }
static inline int v_any(mask m) { return m != 0; }

static inline vec v_zip(vec a, vec b, vec *high)
{
#ifdef FBP_FLOAT32
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i upper = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i upper = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
#endif
    *high = OP(permutex2var)(a, upper, b);
    return OP(permutex2var)(a, low, b);
}

/* No lane is scaled whose result is 0 anyway: some processors take a hundred times as long for an underflow. */
static inline vec v_ldexp(vec a, vec k) { return OP(maskz_scalef)(CMP(k, v_all(LEAST_POWER), _CMP_NLT_UQ), a, k); }
static inline vec v_frexp(vec a, vec *k)
{
    *k = OP(getexp)(a);
    return OP(getmant)(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}

static inline real v_sum(vec a) { return OP(reduce_add)(a); }
static inline real v_hmax(vec a) { return OP(reduce_max)(a); }

#undef CMP
