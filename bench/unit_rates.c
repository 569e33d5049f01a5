/* Rates of the units of one core that multiply bfloat16, in GFLOP/s, a line for each that is there: `name rate`. Whoever shares the
 * core shows in these numbers. Tiles without loads, with 8 loads for 12 products as "high" needs, and with one for each, as "medium". */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "../src_c/isa/units.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char operands[8 * 1024] __attribute__((aligned(64)));

/* Runs `code` so often, of `products` products of `operations` each, and prints the best of three rates. */
#define RATE(name, times, products, operations, code)                                                                          \
    do {                                                                                                                       \
        double best = 0;                                                                                                       \
        for (int round = 0; round < 3; round++) {                                                                              \
            const double start = now();                                                                                        \
            for (long i = 0; i < (times); i++) __asm__ volatile(code ::"r"(operands), "r"(64L) : "memory");                    \
            const double rate = 1e-9 * (times) * (products) * (operations) / (now() - start);                                  \
            if (rate > best) best = rate;                                                                                      \
        }                                                                                                                      \
        printf("%s %.0f\n", name, best);                                                                                       \
    } while (0)

#define DOT(c) "vdpbf16ps %%zmm12, %%zmm12, %%zmm" #c "\n"
#define PRODUCT(c, a, b) "tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c "\n"
#define LOAD(t, at) "tileloadd " #at "(%0,%1,1), %%tmm" #t "\n"
#define FOUR PRODUCT(0, 6, 4) PRODUCT(1, 6, 5) PRODUCT(2, 7, 4) PRODUCT(3, 7, 5)
#define TWO_AND_FOUR LOAD(6, 0) LOAD(7, 1024) FOUR
#define FOUR_AND_FOUR LOAD(4, 2048) LOAD(5, 3072) TWO_AND_FOUR

static void dots(void)
{
    __asm__ volatile("vpxord %%zmm12, %%zmm12, %%zmm12" ::);
    RATE("vdpbf16ps", 400000L, 12, 64.0,
         DOT(0) DOT(1) DOT(2) DOT(3) DOT(4) DOT(5) DOT(6) DOT(7) DOT(8) DOT(9) DOT(10) DOT(11));
}

static void tiles(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
    RATE("tiles", 40000L, 12, 16384.0, FOUR FOUR FOUR);
    RATE("tiles-8-loads-of-12", 40000L, 12, 16384.0, FOUR_AND_FOUR TWO_AND_FOUR TWO_AND_FOUR);
    RATE("tiles-12-loads-of-12", 40000L, 12, 16384.0, FOUR_AND_FOUR FOUR_AND_FOUR FOUR_AND_FOUR);
    __asm__ volatile("tilerelease" ::);
}

int main(void)
{
    if (fbp_has_dot()) dots();
    if (fbp_may_use_tiles()) tiles();
    return 0;
}
