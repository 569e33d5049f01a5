/* Tile sizes. A tile of C, TILE_ROWS x (TILE_VECTORS · W), stays in registers, beside a row of B and a broadcast element of A.
 * DEPTH terms of the sums are added at a time: enough to amortize the loads and stores of C, and few enough to keep a panel of a
 * narrow B in the L1 cache. Xᵀ δ adds DEEPEST terms, since an update needs complete sums. ROWS · DEPTH elements of A, with half
 * as many rows for deeper sums, fill about half an L2 cache.
 *
 *               registers   TILE_ROWS  TILE_VECTORS   in use       a panel of B
 *   avx512          32          14          2         28 + 2 + 1   64 KB in float32, 32 KB in float64
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

/* An operand is read in place if it is read too few times for a packed copy to pay: row-major A for up to FEW_PANELS panels of B,
 * column-major A for MORE_PANELS, B for FEW_TILES tiles of A. If each row of B is on a page of its own, a copy pays from the
 * second tile on. If the rows of A are a multiple of a page apart, A is always packed, since they map to the same set of the L1
 * cache. */
enum { FEW_PANELS = 8, MORE_PANELS = 16, FEW_TILES = 10 };
