/* The dtype that simd/, math/, rows/ and gemm/ are compiled for */
#include "glibc.h"

#include <float.h>
#include <math.h>
#include <string.h>

#ifdef FBP_FLOAT32
typedef float real;
#define ROUNDER 12582912.0f /* 1.5·2^23: adding it rounds to a whole number, which then stands in the low bits */
#define EXPONENT_BIAS 127
#define LEAST_POWER -150 /* a number below 2 times a smaller power of 2 is less than half the smallest subnormal: 0 */
#define LEAST_NORMAL FLT_MIN
#define SQRT sqrtf
#else
typedef double real;
#define ROUNDER 6755399441055744.0 /* 1.5·2^52 */
#define EXPONENT_BIAS 1023
#define LEAST_POWER -1075
#define LEAST_NORMAL DBL_MIN
#define SQRT sqrt
#endif

/* `generic` must be correct everywhere and quick to compile. Without inlining and unrolling it compiles 20 times as fast and runs
 * about as fast, since unrolling gains little if vectors are kept in memory. */
#if defined(__GNUC__) || defined(__clang__)
#ifdef FBP_GENERIC
#define ALWAYS_INLINE inline
#else
#define ALWAYS_INLINE inline __attribute__((always_inline))
#endif
#if defined(FBP_LOOPS_STAY) || defined(FBP_GENERIC) /* FBP_LOOPS_STAY: unrolled loops take the sanitizers minutes to compile */
#define UNROLL
#define UNROLL_FOUR
#else
#define UNROLL _Pragma("GCC unroll 32")
#define UNROLL_FOUR _Pragma("GCC unroll 4")
#endif
#define PREFETCH(p) __builtin_prefetch(p)
#define PREFETCH_TO_WRITE(p) __builtin_prefetch(p, 1)
#define PREFETCH_LATER(p) __builtin_prefetch(p, 0, 2) /* into the L2 cache */
#else
#define ALWAYS_INLINE inline
#define UNROLL
#define UNROLL_FOUR
#define PREFETCH(p)
#define PREFETCH_TO_WRITE(p)
#define PREFETCH_LATER(p)
#endif

enum { PAGE = 4096 / sizeof(real) }; /* of memory, in elements */

static inline fbp_size smaller(fbp_size a, fbp_size b) { return a < b ? a : b; }

#include "assumptions.h"
