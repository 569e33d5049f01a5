/* Copies chosen rows of a matrix into consecutive rows. */
#ifndef FASTBP_GATHER_H
#define FASTBP_GATHER_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "primitives.h"

#if defined(__GNUC__) || defined(__clang__)
#define FBP_PREFETCH(p) __builtin_prefetch(p)
#else
#define FBP_PREFETCH(p) (void)(p)
#endif

/* The hardware prefetcher cannot predict the next row, and the latency of its first line is half the time of a copy. So each row
 * is prefetched FBP_AHEAD rows before it is copied. */
enum { FBP_AHEAD = 2 };
static inline void fbp_prefetch_row(const char *from, fbp_size row)
{
    enum { LINE = 64 };
    for (fbp_size byte = 0; byte < row; byte += LINE) FBP_PREFETCH(from + byte);
}

/* Row i of `to` (count, row bytes) is row order[i] of `from`, whose rows are from_row bytes apart. */
static inline void fbp_gather(fbp_size count, fbp_size row, const char *from, fbp_size from_row, const int64_t *order, char *to)
{
    assert(count >= 0 && row > 0);
    if (row == sizeof(int64_t)) { /* labels: a single load and store each */
        for (fbp_size i = 0; i < count; i++) memcpy(to + i * (fbp_size)sizeof(int64_t), from + order[i] * from_row,
                                                    sizeof(int64_t));
        return;
    }
    for (fbp_size i = 0; i < count; i++) {
        if (i + FBP_AHEAD < count) fbp_prefetch_row(from + order[i + FBP_AHEAD] * from_row, row);
        memcpy(to + i * row, from + order[i] * from_row, (size_t)row);
    }
}

/* The same for rows of n numbers. `copy` also returns the largest magnitude, which costs nothing while the next row is loaded
 * from memory. */
static inline void fbp_gather_numbers(fbp_size count, fbp_size n, fbp_size row, const char *from, fbp_size from_row,
                                      const int64_t *order, char *to, double (*copy)(fbp_size n, const void *x, void *y),
                                      double *largest)
{
    assert(count >= 0 && n > 0 && n <= row);
    for (fbp_size i = 0; i < count; i++) {
        if (i + FBP_AHEAD < count) fbp_prefetch_row(from + order[i + FBP_AHEAD] * from_row, row);
        largest[i] = copy(n, from + order[i] * from_row, to + i * row);
    }
}

#endif
