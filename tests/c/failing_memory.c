/* Allocations that fail when a test wants them to: a library for LD_PRELOAD.
 *
 * fail_from(n, following): from now on allocations are counted, of all threads and of every library of the process; the n-th
 * one fails, and with `following` all after it. fail_no_more() ends that, and returns how many have failed. A failure is what a
 * system without memory would say: NULL with ENOMEM, MAP_FAILED, EAGAIN from pthread_create. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long until, failed; /* until: how many allocations there are to the one that fails; 0: none does */
static atomic_int all_that_follow;

void fail_from(long n, int following) {
    failed = 0;
    all_that_follow = following;
    until = n;
}

long fail_no_more(void) {
    until = 0;
    return failed;
}

static int fails(void) {
    if (until == 0)
        return 0;
    if (atomic_fetch_sub(&until, 1) != 1)
        return 0;
    failed++;
    if (all_that_follow)
        until = 1;
    return 1;
}

static void *nothing(void) {
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size) { return fails() ? nothing() : __libc_malloc(size); }

void *calloc(size_t n, size_t size) { return fails() ? nothing() : __libc_calloc(n, size); }

void *realloc(void *old, size_t size) { return fails() ? nothing() : __libc_realloc(old, size); }

void *aligned_alloc(size_t alignment, size_t size) { return fails() ? nothing() : __libc_memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    void *p = fails() ? NULL : __libc_memalign(alignment, size);
    if (p == NULL)
        return ENOMEM;
    *result = p;
    return 0;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    if (fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (fails())
        return EAGAIN;
    if (next == NULL)
        *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
    return next(thread, attributes, start, argument);
}
