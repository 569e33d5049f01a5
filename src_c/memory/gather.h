/* Rows that lie anywhere in memory, copied one below the other. */
#ifndef FASTBP_GATHER_H
#define FASTBP_GATHER_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "fastbp.h"

#if defined(__GNUC__)
#define FBP_PREFETCH(p) __builtin_prefetch(p)
#else
#define FBP_PREFETCH(p) (void)(p)
#endif

/* No processor foresees which row is next, and a copy waits for its first line as long as for the rest; so each row is asked for while
 * FBP_AHEAD before it are copied. */
enum { FBP_AHEAD = 2 };
static inline void fbp_ask_for_row(const char *from, fbp_size row)
{
    enum { LINE = 64 };
    for (fbp_size byte = 0; byte < row; byte += LINE) FBP_PREFETCH(from + byte);
}

/* Row i of `to` (count, row bytes) is row order[i] of `from`, whose rows are from_row bytes apart. */
static inline void fbp_gather(fbp_size count, fbp_size row, const char *from, fbp_size from_row, const int64_t *order, char *to)
{
    assert(count >= 0 && row > 0);
    if (row == sizeof(int64_t)) { /* labels: each a single load and store */
        for (fbp_size i = 0; i < count; i++) memcpy(to + i * (fbp_size)sizeof(int64_t), from + order[i] * from_row, sizeof(int64_t));
        return;
    }
    for (fbp_size i = 0; i < count; i++) {
        if (i + FBP_AHEAD < count) fbp_ask_for_row(from + order[i + FBP_AHEAD] * from_row, row);
        memcpy(to + i * row, from + order[i] * from_row, (size_t)row);
    }
}

/* The same of rows of n numbers; and the largest magnitude of each, which costs nothing while the next row comes from memory. */
static inline void fbp_gather_numbers(fbp_size count, fbp_size n, fbp_size row, const char *from, fbp_size from_row, const int64_t *order,
                                      char *to, double (*copy)(fbp_size n, const void *x, void *y), double *most)
{
    assert(count >= 0 && n > 0 && n <= row);
    for (fbp_size i = 0; i < count; i++) {
        if (i + FBP_AHEAD < count) fbp_ask_for_row(from + order[i + FBP_AHEAD] * from_row, row);
        most[i] = copy(n, from + order[i] * from_row, to + i * row);
    }
}

#endif
