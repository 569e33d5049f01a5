/* The tile unit of Intel's AMX, or its model: one instruction multiplies a tile of 16 x 32 numbers of bfloat16 by one of 32 x 16
 * and adds the 16 x 16 sums in float32. It flushes numbers and sums below 2⁻¹²⁶ to 0. */
typedef struct {
    char bytes[TILE_BYTES];
} amx_tile;

#ifdef FBP_UNIT_MODELS
#include "tile_model.h"
#else

#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, p)                                                                                                        \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((fbp_size)64), "m"(*(const amx_tile *)(p)))
#define TILE_STORE(t, p, row) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((fbp_size)(row)) : "memory")
#define TILE_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* Eight tiles of 16 rows of 64 bytes */
static void configure_tiles(void)
{
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
}
static void release_tiles(void) { __asm__ volatile("tilerelease" ::); }

#endif
