/* Every float32 x, or each `stride`-th, through every function of one number (one_number.def) of every instruction set that this
 * CPU can run, against the C library in double precision, whose error is below 10⁻⁶ of what is measured. Infinities are left to
 * test_kernels.c. Of NaN comes NaN.
 *
 * An error is counted in ulps: in the spacing of the float32 numbers at the function, or at the terms in it that cancel. Where
 * that is below the normal numbers it is in the smallest positive one. Printed is a table with the largest of each, and the x
 * that gave it; the exit status is 1 if one is beyond its bound.
 *
 * Usage: every_float32 [stride [threads]], by default 1 and 2 */
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "primitives.h"
#include "isa/machine.h"

#define LAMBDA 1.0507009873554804934193349852946 /* of selu, and λα */
#define LAMBDA_ALPHA 1.7580993408473768599402175208123

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double normal(double x) { return erfc(-x * 0.70710678118654752440) / 2; }
static double density(double x) { return exp(-x * x / 2) * 0.398942280401432677939946; }
static double sech_squared(double x) { const double q = exp(-2 * fabs(x)); return 4 * q / ((1 + q) * (1 + q)); }
static double mish_bend(double x) { const double s = softplus(x); return s > 300 ? 0 : sigmoid(x) * pow(cosh(s), -2); }

typedef struct { double y, size, size_unfused, floor; } answer; /* `lost` is what v_fma loses of a square if it rounds twice */
#define ONE_NUMBER(name, vectors, from, to, exact, how_large, least, bound)                                                    \
    static answer exact_##name(double x)                                                                                       \
    {                                                                                                                          \
        double lost = 1;                                                                                                       \
        answer a = {.y = exact, .floor = least};                                                                               \
        const double y = a.y;                                                                                                  \
        (void)y;                                                                                                               \
        a.size = fabs(how_large), lost += x * x / 4, a.size_unfused = fabs(how_large);                                         \
        return a;                                                                                                              \
    }
#define ACTIVATION(name, ...) ONE_NUMBER(name, , __VA_ARGS__)
#define SLOPE(name, ...) ONE_NUMBER(name##_slope, , __VA_ARGS__)
#include "one_number.def"
#undef ONE_NUMBER

typedef struct { const char *name; double from, to, bound; answer (*exact)(double); } function;
static const function FUNCTIONS[] = {
#define ONE_NUMBER(name, vectors, from, to, exact, size, floor, bound) {#name, from, to, bound, exact_##name},
#include "one_number.def"
#undef ONE_NUMBER
};
enum { COUNT = sizeof FUNCTIONS / sizeof FUNCTIONS[0], PIECE = 1 << 14, MOST_THREADS = 64 };

typedef void (*vectors)(fbp_size n, const float *x, float *y);
#define FBP_ISA(name, supported) extern const vectors one_number_##name[];
FBP_ISAS
#undef FBP_ISA
enum {
#define FBP_ISA(name, supported) isa_##name,
    FBP_ISAS
#undef FBP_ISA
    ISAS
};

/* The largest errors, at normal sizes and below them, what was the most of what is allowed, and the inputs */
typedef struct { double ulps[2], excess; float at[2]; long wrong; } worst;

/* The spacing of float32 at normal `size`, which is the same for all with this exponent */
static double spacing(double size)
{
    uint64_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits &= UINT64_C(0x7ff) << 52;
    memcpy(&size, &bits, sizeof bits);
    return size * FLT_EPSILON;
}

static void see(worst *w, float x, float got, const answer *a, double size, double bound)
{
    const double tiny = FLT_TRUE_MIN * a->floor;
    const int below = size < FLT_MIN * a->floor;
    const double unit = below ? tiny : spacing(size), least = FLT_EPSILON * size;
    const double allowed = bound * (least > tiny ? least : tiny);
    if (isinf(got) && got == (float)a->y) return;
    const double y = isinf(got) ? copysign(0x1p128, got) : got, error = fabs(y - a->y);
    if (!(error <= allowed)) w->wrong++;
    if (error > w->ulps[below] * unit) w->ulps[below] = error / unit, w->at[below] = x;
    if (error > w->excess * allowed) w->excess = error / allowed;
}

static worst found[MOST_THREADS][COUNT][ISAS];
static uint64_t stride = 1;
static atomic_long next_piece, results;

static void *work(void *mine)
{
    worst (*seen)[ISAS] = mine;
    static const vectors *const OF[] = {
#define FBP_ISA(name, supported) one_number_##name,
        FBP_ISAS
#undef FBP_ISA
    };
    const int runs[] = {
#define FBP_ISA(name, supported) supported,
        FBP_ISAS
#undef FBP_ISA
    };
    long tried = 0;
    static _Thread_local float x[PIECE], got[ISAS][PIECE];
    for (uint64_t start; (start = (uint64_t)atomic_fetch_add(&next_piece, 1) * PIECE * stride) >> 32 == 0;) {
        for (uint32_t i = 0; i < PIECE; i++) {
            const uint32_t bits = (uint32_t)(start + i * stride); /* past the last one it begins again, which does no harm */
            memcpy(&x[i], &bits, sizeof bits);
        }
        for (int f = 0; f < COUNT; f++) {
            const function *this = &FUNCTIONS[f];
            int any = 0;
            for (int i = 0; i < PIECE && !any; i++) any = isnan(x[i]) || (x[i] >= this->from && x[i] <= this->to);
            if (!any) continue;
            for (int isa = 0; isa < ISAS; isa++)
                if (runs[isa]) OF[isa][f](PIECE, x, got[isa]);
            for (int i = 0; i < PIECE; i++) {
                const int is_number = x[i] >= this->from && x[i] <= this->to;
                const answer a = is_number ? this->exact(x[i]) : (answer){0};
                for (int isa = 0; isa < ISAS; isa++) {
                    worst *w = &seen[f][isa];
                    if (!runs[isa]) continue;
                    if (is_number) see(w, x[i], got[isa][i], &a, isa == isa_generic ? a.size_unfused : a.size, this->bound);
                    else if (isnan(x[i]) && !isnan(got[isa][i])) w->wrong++;
                    tried++;
                }
            }
        }
    }
    results += tried;
    return NULL;
}

static void gather(worst *sum, const worst *w)
{
    for (int below = 0; below < 2; below++)
        if (w->ulps[below] > sum->ulps[below]) sum->ulps[below] = w->ulps[below], sum->at[below] = w->at[below];
    sum->excess = fmax(sum->excess, w->excess);
    sum->wrong += w->wrong;
}

static void say(double ulps, float at)
{
    if (ulps == 0) printf("0 | ");
    else printf("%.3g at `%a` | ", ulps, at);
}

int main(int count, char **arguments)
{
    static const char *const NAMES[] = {
#define FBP_ISA(name, supported) #name,
        FBP_ISAS
#undef FBP_ISA
    };
    pthread_t threads[MOST_THREADS];
    stride = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    const int n = count > 2 ? atoi(arguments[2]) : 2;
    if (stride < 1 || n < 1 || n > MOST_THREADS) return fprintf(stderr, "usage: every_float32 [stride [threads]]\n"), 2;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, found[i])) return fprintf(stderr, "no thread\n"), 2;
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);

    long wrong = 0;
    printf("| function | ");
    for (int isa = 0; isa < ISAS; isa++) printf("%s | ", NAMES[isa]);
    printf("below the normal numbers | of what is promised |\n|---|---|---|");
    for (int isa = 0; isa < ISAS; isa++) printf("---|");
    printf("\n");
    for (int f = 0; f < COUNT; f++) {
        worst of_all = {0};
        printf("| `%s` | ", FUNCTIONS[f].name);
        for (int isa = 0; isa < ISAS; isa++) {
            worst of_isa = {0};
            for (int i = 0; i < n; i++) gather(&of_isa, &found[i][f][isa]);
            say(of_isa.ulps[0], of_isa.at[0]);
            gather(&of_all, &of_isa);
        }
        say(of_all.ulps[1], of_all.at[1]);
        printf("%.2f |\n", of_all.excess);
        wrong += of_all.wrong;
        if (of_all.wrong) fprintf(stderr, "%s: %ld beyond the bound\n", FUNCTIONS[f].name, of_all.wrong);
    }
    printf("\n%ld results, %ld of them beyond their bound\n", (long)results, wrong);
    return wrong > 0;
}
