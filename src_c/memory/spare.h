/* Memory for large new arrays, on large pages. The system clears every new page, which takes a third or more of the time of a
 * large gradient (143 ms become 78 ms without it). So the memory of a freed array is kept for the next one, marked MADV_FREE: the
 * system may take its pages when memory is short, and only those are cleared again. One spare is kept; it is unmapped if the next
 * array does not fit. */
#ifndef FASTBP_SPARE_H
#define FASTBP_SPARE_H

#include "pages.h"

#include <numpy/arrayobject.h>

#if defined(MADV_FREE)

#include <stdatomic.h>
#include <string.h>

enum { FBP_LARGE_ARRAY = 32 << 20 }; /* bytes, from which on free() unmaps at once */

/* The header right before the first byte of an array */
typedef struct {
    char *mapping;
    size_t mapped, bytes; /* size of the mapping; largest size of the array */
    int used;             /* whether an earlier array had this memory */
} fbp_large;

static _Atomic(fbp_large *) fbp_spare;

static inline fbp_large *fbp_large_of(const void *array) { return (fbp_large *)array - 1; }

static inline fbp_large *fbp_large_mapped(size_t bytes)
{
    const size_t mapped = sizeof(fbp_large) + FBP_LARGE_PAGE + bytes;
    if (mapped < bytes) return NULL;
    char *mapping = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return NULL;
    char *array = fbp_space_start(mapping + sizeof(fbp_large), bytes);
    fbp_large *large = fbp_large_of(array);
    assert((char *)large >= mapping && array + bytes <= mapping + mapped);
    *large = (fbp_large){mapping, mapped, bytes, 0};
    return large;
}

static inline void fbp_large_unmapped(fbp_large *large)
{
    if (large) munmap(large->mapping, large->mapped);
}

/* Memory for at least FBP_LARGE_ARRAY bytes, uninitialized; NULL if there is none */
static inline void *fbp_large_array(size_t bytes)
{
    fbp_large *large = atomic_exchange(&fbp_spare, NULL);
    if (!large || large->bytes < bytes || large->bytes / 2 > bytes) {
        fbp_large_unmapped(large);
        large = fbp_large_mapped(bytes);
    }
    return large ? large + 1 : NULL;
}

static inline void fbp_free_large_array(void *array)
{
    fbp_large *large = fbp_large_of(array);
    assert(large->mapping < (char *)array && (char *)array + large->bytes <= large->mapping + large->mapped);
    large->used = 1;
    const int kept = madvise(array, large->bytes, MADV_FREE) == 0;
    fbp_large_unmapped(kept ? atomic_exchange(&fbp_spare, large) : large);
}

/* Whether its pages are probably mapped, since an earlier array used them */
static inline int fbp_large_array_used(const void *array) { return fbp_large_of(array)->used; }

/* -- as a memory handler of NumPy -- */

static void *fbp_handler_malloc(void *context, size_t bytes) { return (void)context, fbp_large_array(bytes); }

static void *fbp_handler_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    if (bytes && count > SIZE_MAX / bytes) return NULL;
    void *array = fbp_large_array(count * bytes);
    return array ? memset(array, 0, count * bytes) : NULL;
}

static void fbp_handler_free(void *context, void *array, size_t bytes)
{
    (void)context, (void)bytes;
    if (array) fbp_free_large_array(array);
}

static void *fbp_handler_realloc(void *context, void *array, size_t bytes)
{
    void *larger = fbp_handler_malloc(context, bytes);
    if (!larger || !array) return larger;
    const size_t before = fbp_large_of(array)->bytes;
    memcpy(larger, array, before < bytes ? before : bytes);
    fbp_free_large_array(array);
    return larger;
}

static PyDataMem_Handler fbp_handler = {
    "fastbp", 1, {NULL, fbp_handler_malloc, fbp_handler_calloc, fbp_handler_realloc, fbp_handler_free}};
static inline PyDataMem_Handler *fbp_large_array_handler(void) { return &fbp_handler; }

#else

enum { FBP_LARGE_ARRAY = 0 };
static inline int fbp_large_array_used(const void *array) { return (void)array, 0; }
static inline PyDataMem_Handler *fbp_large_array_handler(void) { return NULL; }

#endif
#endif
