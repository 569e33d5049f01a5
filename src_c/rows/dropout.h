/* Inverted dropout. The random numbers depend only on a key and the index of an element, so forward and backward pass, any
 * repetition and any division over threads agree.
 *
 * The generator is Threefry-2x32 with 13 rounds (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). HALF
 * counters give a block of 2 HALF words: the first words of all counters, then the second words. The counters are independent and
 * their number is a constant, so compilers vectorize the loop. */
enum { HALF = 32, DROPOUT_BLOCK = 2 * HALF, ROUNDS = 13 };

static ALWAYS_INLINE uint32_t rotated(uint32_t x, int by) { return x << by | x >> (32 - by); }

/* The block of the counters (first, stream) … (first + HALF - 1, stream) */
static void random_words(uint64_t key, uint32_t stream, uint32_t first, uint32_t words[DROPOUT_BLOCK])
{
    static const int BY[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    const uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32), keys[3] = {low, high, 0x1BD11BDA ^ low ^ high};
    for (int i = 0; i < HALF; i++) {
        uint32_t x = first + (uint32_t)i + keys[0], y = stream + keys[1];
        UNROLL for (int round = 0; round < ROUNDS; round++) {
            x += y, y = rotated(y, BY[round % 8]) ^ x;
            if (round % 4 == 3) { /* add a key every four rounds */
                const uint32_t n = (uint32_t)round / 4 + 1;
                x += keys[n % 3], y += keys[(n + 1) % 3] + n;
            }
        }
        words[i] = x, words[HALF + i] = y;
    }
}

/* y_i = x_i / (1 - rate), or 0 with probability `rate`. x holds the elements from `start` on of the outputs of layer `stream`;
 * y may be x. */
static void dropout(fbp_size n, const real *x, double rate, uint64_t key, int stream, fbp_size start, real *y)
{
    assert(are_elements(x, n) && are_elements(y, n) && are_same_or_apart(n, x, y));
    const uint32_t least = (uint32_t)(rate * 4294967296.0);
    const real factor = (real)(1 / (1 - rate));
    uint32_t words[DROPOUT_BLOCK];
    for (fbp_size i = -(start % DROPOUT_BLOCK); i < n; i += DROPOUT_BLOCK) {
        random_words(key, (uint32_t)stream, (uint32_t)((start + i) / 2), words);
        const fbp_size left = smaller(n - i, DROPOUT_BLOCK);
        for (fbp_size j = i < 0 ? -i : 0; j < left; j++) y[i + j] = words[j] < least ? 0 : x[i + j] * factor;
    }
}
