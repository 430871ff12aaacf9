/* LD_PRELOAD shim for test_memory.py: counts the process's allocations between start and stop, all threads.
 * glibc's own names do the work, so that nothing has to be looked up (and allocated) on the way.
 * Mappings that glibc's malloc makes for itself do not pass here; the malloc behind them does. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <errno.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long count, counting;
static long shown;

void count_start(long backtraces) { count = 0; shown = backtraces; counting = 1; }
long count_stop(void) { counting = 0; return count; }

/* backtrace() loads libgcc when first used */
__attribute__((constructor)) static void load(void) { void *frame; backtrace(&frame, 1); }

static void note(void) {
    void *frames[40];
    if (!counting) return;
    if (count++ < shown) {
        backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
        (void) !write(2, "\n", 1);
    }
}

void *malloc(size_t size) { note(); return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { note(); return __libc_calloc(n, size); }
void *realloc(void *p, size_t size) { note(); return __libc_realloc(p, size); }
void *memalign(size_t alignment, size_t size) { note(); return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { note(); return __libc_memalign(alignment, size); }
void *valloc(size_t size) { note(); return __libc_memalign(sysconf(_SC_PAGESIZE), size); }

int posix_memalign(void **p, size_t alignment, size_t size) {
    note();
    return (*p = __libc_memalign(alignment, size)) || !size ? 0 : ENOMEM;
}

void *reallocarray(void *p, size_t n, size_t size) {
    size_t bytes;
    note();
    if (__builtin_mul_overflow(n, size, &bytes)) { errno = ENOMEM; return NULL; }
    return __libc_realloc(p, bytes);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    note();
    return (void *) syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
void *mmap64(void *, size_t, int, int, int, off64_t) __attribute__((alias("mmap")));
