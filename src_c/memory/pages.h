/* Where a work space begins in the memory that was allocated for it: on a cache line, or a large space on a large page, of which the system
 * is asked to make it. In pages of 4 KB its rows are on more pages than a processor remembers: to look them up takes up to a
 * fifth of the time of large matrix products. malloc asks for nothing, NumPy does for its arrays from 4 MB on. */
#ifndef FASTBP_PAGES_H
#define FASTBP_PAGES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum { FBP_LINE = 64, FBP_LARGE_PAGE = 2 << 20 };
#define FBP_MOST_BYTES (PTRDIFF_MAX - FBP_LINE) /* of a space: room for the rest of its last line, and malloc fails */

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(MADV_HUGEPAGE)
/* Whole pages only: what is asked for is never more than the space. */
static inline void fbp_ask_for_large_pages(char *start, size_t bytes)
{
    (void)!madvise(start, bytes / FBP_LARGE_PAGE * FBP_LARGE_PAGE, MADV_HUGEPAGE); /* a wish */
}
static inline size_t fbp_space_alignment(size_t bytes) { return bytes < FBP_LARGE_PAGE ? FBP_LINE : FBP_LARGE_PAGE; }
#else
static inline void fbp_ask_for_large_pages(char *start, size_t bytes) { (void)start, (void)bytes; }
static inline size_t fbp_space_alignment(size_t bytes) { return (void)bytes, (size_t)FBP_LINE; }
#endif

/* How much to allocate for a space of so many bytes; what lies outside it is never touched. */
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
