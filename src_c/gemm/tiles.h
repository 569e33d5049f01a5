/* The table of tile sizes: a tile of C is TILE_ROWS x (TILE_VECTORS · W) and stays in registers, with room left for a row of B
 * and a broadcast element of A. DEPTH terms of the sum are added at a time: deep enough that the loads and stores of C vanish, and
 * where a tile is small in bytes, so that a panel of B stays in the L1 cache; DEEPEST terms of Xᵀ δ, since its update needs a finished
 * sum. ROWS · DEPTH elements of A, half as many rows of deeper sums, fill about half an L2 cache.
 *
 *               registers   TILE_ROWS  TILE_VECTORS   in use       a panel of B
 *   avx512          32          14          2         28 + 2 + 1   64 KB in float32, 32 KB in float64; amx as well, see amx.h
 *   avx2            16           6          2         12 + 2 + 1   16 KB
 *   neon            32           8          3         24 + 3 + 1   24 KB
 *   generic         16 (SSE2)    4          2          8 + 2 + 1   16 KB
 */
#if defined(FBP_AVX512)
enum { TILE_ROWS = 14, TILE_VECTORS = 2 };
#elif defined(FBP_AVX2)
enum { TILE_ROWS = 6, TILE_VECTORS = 2 };
#elif defined(FBP_NEON)
enum { TILE_ROWS = 8, TILE_VECTORS = 3 };
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 2 };
#endif
enum { DEEPEST = 512, ROWS = 532 / TILE_ROWS * TILE_ROWS };
#if defined(FBP_AVX2)
enum { DEPTH = 256 };
#else
enum { DEPTH = 2048 / sizeof(real) };
#endif

/* An operand is read where it stands if it is read so few times, once for each panel of B or tile of A, that a packed copy does not
 * pay: A by line, A by step, and B. Where each step of k in B is on a page of its own, a copy pays for the second tile already; and
 * lines of A that are whole pages apart are packed at once, since they push each other out of the L1 cache. */
enum { FEW_PANELS = 8, MORE_PANELS = 16, FEW_TILES = 10 };
