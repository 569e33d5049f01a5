/* Labels are used as indices, but another thread or a signal handler may overwrite the caller's array after it was checked. So
 * labels are copied first, and the copy is checked and used. */
#ifndef FASTBP_LABELS_H
#define FASTBP_LABELS_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "primitives.h"

#if defined(__GNUC__) || defined(__clang__)
#define FBP_NOT_READ_AGAIN() __asm__ volatile("" ::: "memory")
#else
#define FBP_NOT_READ_AGAIN()
#endif

/* Copies the labels to `copy`; whether all are in [0, classes) */
static inline int fbp_take_labels(fbp_size count, fbp_size classes, const int64_t *labels, int64_t *copy)
{
    assert(count >= 0 && classes > 0);
    uint64_t beyond = 0;
    memcpy(copy, labels, (size_t)count * sizeof(int64_t));
    FBP_NOT_READ_AGAIN();
    for (fbp_size n = 0; n < count; n++) beyond |= (uint64_t)copy[n] >= (uint64_t)classes;
    return !beyond;
}

static inline int64_t fbp_label(const int64_t *labels, fbp_size n) { return *(const volatile int64_t *)(labels + n); }

#endif
