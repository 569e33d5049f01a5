/* What an instruction set makes of one number, over arrays of whole vectors: compiled once for each, with -DSIMD='"simd/avx2.h"'
 * -DISA=avx2 */
#include "primitives.h"
#define FBP_FLOAT32
#include "real.h"
#include SIMD
#include "math/elementary.h"
#include "rows/row.h"
#include "rows/activations.h"

#define ONE_NUMBER(name, vectors, ...)                                                                                         \
    static void each_##name(fbp_size n, const float *from, float *to)                                                          \
    {                                                                                                                          \
        for (fbp_size i = 0; i < n; i += W) {                                                                                  \
            vec other = v_all(0), x = v_load(from + i);                                                                        \
            v_store(to + i, vectors);                                                                                          \
            (void)other;                                                                                                       \
        }                                                                                                                      \
    }
#define ACTIVATION(name, ...) static void each_##name(fbp_size n, const float *x, float *y) { activate_##name(n, x, y); }
#define SLOPE(name, ...) ONE_NUMBER(name##_slope, v_##name##_slope(x), __VA_ARGS__)
#include "one_number.def"
#undef ONE_NUMBER
#undef ACTIVATION

#define NAMED_(isa) one_number_##isa
#define NAMED(isa) NAMED_(isa)
void (*const NAMED(ISA)[])(fbp_size, const float *, float *) = {
#define ONE_NUMBER(name, ...) each_##name,
#define ACTIVATION(name, ...) each_##name,
#include "one_number.def"
};
#if !defined(FBP_GENERIC) && defined(__x86_64__)
#include "simd/target_end.h"
#endif
