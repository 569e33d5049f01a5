/* Rows that lie anywhere in memory, copied one below the other. */
#ifndef FASTBP_GATHER_H
#define FASTBP_GATHER_H

#include <stdint.h>
#include <string.h>

#include "fastbp.h"

#if defined(__GNUC__)
#define FBP_PREFETCH(p) __builtin_prefetch(p)
#else
#define FBP_PREFETCH(p) (void)(p)
#endif

/* Row i of `to` (count, row bytes) is row order[i] of `from`, whose rows are from_row bytes apart. No processor foresees which row is
 * next, and a copy waits for its first line as long as for the rest; so each row is asked for while the AHEAD before it are copied. */
static inline void fbp_gather(fbp_size count, fbp_size row, const char *from, fbp_size from_row, const int64_t *order, char *to)
{
    enum { AHEAD = 2, LINE = 64 };
    if (row == sizeof(int64_t)) { /* labels: each a single load and store */
        for (fbp_size i = 0; i < count; i++) memcpy(to + i * (fbp_size)sizeof(int64_t), from + order[i] * from_row, sizeof(int64_t));
        return;
    }
    for (fbp_size i = 0; i < count; i++) {
        if (i + AHEAD < count)
            for (fbp_size byte = 0; byte < row; byte += LINE) FBP_PREFETCH(from + order[i + AHEAD] * from_row + byte);
        memcpy(to + i * row, from + order[i] * from_row, (size_t)row);
    }
}

#endif
