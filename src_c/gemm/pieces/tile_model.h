/* The tile unit emulated in AVX-512 for tests on machines without one, after Intel's description of tdpbf16ps: inputs and results
 * below 2⁻¹²⁶ are flushed to 0; the even terms of a sum are one chain of multiply-adds, the odd terms another, and the sum of
 * both is added to the tile. */
#include "lane_model.h"

static _Thread_local amx_tile model_tiles[8];

static __m512 model_add(__m512 a, __m512 b) { return flushed(_mm512_add_ps(flushed(a), flushed(b))); }

static __attribute__((noinline)) void model_multiply(amx_tile *c, const amx_tile *a, const amx_tile *b)
{
    for (int row = 0; row < GROUP; row++) {
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (int k = 0; k < GROUP; k++) {
            int pair;
            memcpy(&pair, a->bytes + 64 * row + 4 * k, sizeof pair);
            const __m512i pairs_a = _mm512_set1_epi32(pair), pairs_b = _mm512_loadu_si512(b->bytes + 64 * k);
            even = flushed(_mm512_fmadd_ps(low_halves(pairs_a), low_halves(pairs_b), even));
            odd = flushed(_mm512_fmadd_ps(high_halves(pairs_a), high_halves(pairs_b), odd));
        }
        char *to = c->bytes + 64 * row;
        _mm512_storeu_ps(to, model_add(_mm512_loadu_ps(to), model_add(even, odd)));
    }
}

static void model_store(const amx_tile *t, char *to, fbp_size row)
{
    for (int i = 0; i < GROUP; i++) memcpy(to + i * row, t->bytes + 64 * i, 64);
}

#define TILE_ZERO(t) memset(&model_tiles[t], 0, TILE_BYTES)
#define TILE_LOAD(t, p) memcpy(&model_tiles[t], p, TILE_BYTES)
#define TILE_STORE(t, p, row) model_store(&model_tiles[t], p, row)
#define TILE_MULTIPLY(c, a, b) model_multiply(&model_tiles[c], &model_tiles[a], &model_tiles[b])
static void configure_tiles(void) {}
static void release_tiles(void) {}
