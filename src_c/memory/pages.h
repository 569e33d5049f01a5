/* Alignment of work spaces: to a cache line, or for a large space to a large page, which is then requested from the system. With
 * pages of 4 KB, TLB misses take up to a fifth of the time of large matrix products. malloc requests no large pages; NumPy does
 * for arrays from 4 MB on. */
#ifndef FASTBP_PAGES_H
#define FASTBP_PAGES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum { FBP_LINE = 64, FBP_LARGE_PAGE = 2 << 20 };
#define FBP_MOST_BYTES (PTRDIFF_MAX - FBP_LINE) /* the largest space: malloc fails, and rounding up to lines does not overflow */

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(MADV_HUGEPAGE)
/* Requests large pages for the whole large pages of a space. */
static inline void fbp_ask_for_large_pages(char *start, size_t bytes)
{
    (void)!madvise(start, bytes / FBP_LARGE_PAGE * FBP_LARGE_PAGE, MADV_HUGEPAGE); /* may be refused */
}
static inline size_t fbp_space_alignment(size_t bytes) { return bytes < FBP_LARGE_PAGE ? FBP_LINE : FBP_LARGE_PAGE; }
#else
static inline void fbp_ask_for_large_pages(char *start, size_t bytes) { (void)start, (void)bytes; }
static inline size_t fbp_space_alignment(size_t bytes) { return (void)bytes, (size_t)FBP_LINE; }
#endif

/* The bytes to allocate for a space of `bytes` bytes; the rest is never touched. */
static inline size_t fbp_space_room(size_t bytes) { return bytes + fbp_space_alignment(bytes); }

static inline char *fbp_space_start(char *memory, size_t bytes)
{
    const size_t alignment = fbp_space_alignment(bytes);
    char *start = memory + (alignment - (uintptr_t)memory % alignment) % alignment;
    assert(memory && (uintptr_t)start % FBP_LINE == 0 && start + bytes <= memory + fbp_space_room(bytes));
    if (alignment == FBP_LARGE_PAGE) fbp_ask_for_large_pages(start, bytes);
    return start;
}

#endif
