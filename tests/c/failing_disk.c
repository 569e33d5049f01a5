/* System calls on the files of one folder that fail when a test wants them to: a library for LD_PRELOAD.
 *
 * disk_fails(folder, n, fault, error): from now on the calls are counted that name a file in `folder`, or use a descriptor that
 * was opened by such a name. The n-th one has the fault:
 *
 *   FAILS     it is not made, and returns -1 with errno = error
 *   LASTS     so do all that follow, but for `close` and `unlink`, which a full disk grants
 *   SHORT     a write takes half of its bytes, and returns their number
 *   KILLED    this process ends by SIGKILL, within a write after half of its bytes, in place of any other call
 *
 * disk_works() ends that, and returns how many calls there were since. `lseek` is left out: it changes nothing on a disk, and has
 * no error for a regular file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FAILS, LASTS, SHORT, KILLED, FILES = 1024 };

static char folder[4096];
static long calls, at;
static int fault, error;
static char watched[FILES]; /* descriptors of files in the folder */

void disk_fails(const char *path, long n, int kind, int number)
{
    snprintf(folder, sizeof folder, "%s", path);
    memset(watched, 0, sizeof watched);
    calls = 0, fault = kind, error = number, at = n;
}

long disk_works(void)
{
    at = 0;
    return calls;
}

static int in_folder(const char *path) { return at > 0 && path != NULL && strncmp(path, folder, strlen(folder)) == 0; }
static int is_watched(int file) { return at > 0 && file >= 0 && file < FILES && watched[file]; }

/* Whether this call fails: `touches` the folder, and its turn has come */
static int fails(int touches, int lasting)
{
    if (!touches) return 0;
    const int here = ++calls == at, after = calls > at && fault == LASTS && lasting;
    if (here && fault == KILLED) kill(getpid(), SIGKILL);
    if (!(here && (fault == FAILS || fault == LASTS)) && !after) return 0;
    errno = error;
    return 1;
}

#define NEXT(name) static __typeof__(&name) next; if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, #name)
/* A call by names or by descriptors, which does nothing else than what it is for */
#define CALL(result, name, parameters, arguments, touches, lasting)                                                            \
    result name parameters                                                                                                     \
    {                                                                                                                          \
        NEXT(name);                                                                                                            \
        return fails(touches, lasting) ? (result)FAILED : next arguments;                                                      \
    }
#define FAILED -1
CALL(int, stat, (const char *p, struct stat *s), (p, s), in_folder(p), 1)
CALL(int, lstat, (const char *p, struct stat *s), (p, s), in_folder(p), 1)
CALL(int, fstat, (int f, struct stat *s), (f, s), is_watched(f), 1)
CALL(int, stat64, (const char *p, struct stat64 *s), (p, s), in_folder(p), 1)
CALL(int, lstat64, (const char *p, struct stat64 *s), (p, s), in_folder(p), 1)
CALL(int, fstat64, (int f, struct stat64 *s), (f, s), is_watched(f), 1)
CALL(int, rename, (const char *a, const char *b), (a, b), in_folder(b), 1)
CALL(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), in_folder(b), 1)
CALL(int, unlink, (const char *p), (p), in_folder(p), 0)
CALL(int, chmod, (const char *p, mode_t m), (p, m), in_folder(p), 1)
CALL(int, fchmod, (int f, mode_t m), (f, m), is_watched(f), 1)
CALL(int, fchmodat, (int d, const char *p, mode_t m, int g), (d, p, m, g), in_folder(p), 1)
CALL(int, fsync, (int f), (f), is_watched(f), 1)
CALL(int, fdatasync, (int f), (f), is_watched(f), 1)
CALL(int, ftruncate, (int f, off_t n), (f, n), is_watched(f), 1)
CALL(int, ftruncate64, (int f, off64_t n), (f, n), is_watched(f), 1)
CALL(int, flock, (int f, int how), (f, how), is_watched(f), 1)
CALL(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), is_watched(f), 1)
CALL(ssize_t, pwrite, (int f, const void *p, size_t n, off_t to), (f, p, n, to), is_watched(f), 1)
CALL(ssize_t, pwrite64, (int f, const void *p, size_t n, off64_t to), (f, p, n, to), is_watched(f), 1)
#undef FAILED
#define FAILED NULL
CALL(DIR *, opendir, (const char *p), (p), in_folder(p), 1)

ssize_t write(int file, const void *bytes, size_t n)
{
    NEXT(write);
    if (is_watched(file) && calls + 1 == at && fault >= SHORT && n > 1) {
        ssize_t done = next(file, bytes, n / 2);
        if (fault == KILLED) kill(getpid(), SIGKILL);
        calls++;
        return done;
    }
    return fails(is_watched(file), 1) ? -1 : next(file, bytes, n);
}

/* The call is made before it fails, as an interrupted or failed close leaves the descriptor closed on Linux. */
int close(int file)
{
    NEXT(close);
    const int touches = is_watched(file);
    if (touches) watched[file] = 0;
    const int failed = fails(touches, 0), number = errno, done = next(file);
    if (!failed) return done;
    errno = number;
    return -1;
}

static int opened(int file, int touches)
{
    if (touches && file >= 0 && file < FILES) watched[file] = 1;
    return file;
}
#define OPEN(name, parameters, first, path)                                                                                    \
    int name parameters                                                                                                        \
    {                                                                                                                          \
        NEXT(name);                                                                                                            \
        va_list rest;                                                                                                          \
        va_start(rest, flags);                                                                                                 \
        const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                          \
        va_end(rest);                                                                                                          \
        const int touches = in_folder(path);                                                                                   \
        return fails(touches, 1) ? -1 : opened(next first, touches);                                                           \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode), path)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), path)
OPEN(openat, (int from, const char *path, int flags, ...), (from, path, flags, mode), path)
OPEN(openat64, (int from, const char *path, int flags, ...), (from, path, flags, mode), path)
