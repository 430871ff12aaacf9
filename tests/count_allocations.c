/* LD_PRELOAD shim for test_memory.py: counts what all threads of the process allocate between start and stop,
 * with OpenBLAS's own allocations apart.  glibc's inner names do the work, so nothing has to be looked up.
 * Mappings that malloc makes for itself do not pass here; the malloc behind them does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_long counts[2], counting; /* counts: others, OpenBLAS */
static long shown;

/* The first few of each kind are shown on stderr, with backtraces. */
void count_start(long backtraces) {
    counts[0] = counts[1] = 0;
    shown = backtraces;
    counting = 1;
}

void count_stop(long *result) {
    counting = 0;
    result[0] = counts[0];
    result[1] = counts[1];
}

/* backtrace() loads libgcc when first used */
__attribute__((constructor)) static void load(void) { void *frame; backtrace(&frame, 1); }

static void note(const void *caller) {
    Dl_info library;
    void *frames[40];
    int blas;
    if (!counting) return;
    blas = dladdr(caller, &library) && library.dli_fname && strstr(library.dli_fname, "openblas");
    if (counts[blas]++ < shown) {
        backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
        (void) !write(2, "\n", 1);
    }
}

#define NOTE note(__builtin_return_address(0))

void *malloc(size_t size) { NOTE; return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { NOTE; return __libc_calloc(n, size); }
void *realloc(void *p, size_t size) { NOTE; return __libc_realloc(p, size); }
void *memalign(size_t alignment, size_t size) { NOTE; return __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { NOTE; return __libc_memalign(alignment, size); }
void *valloc(size_t size) { NOTE; return __libc_memalign(sysconf(_SC_PAGESIZE), size); }

int posix_memalign(void **p, size_t alignment, size_t size) {
    void *block;
    NOTE;
    block = __libc_memalign(alignment, size);
    if (!block) return ENOMEM;
    *p = block;
    return 0;
}

void *reallocarray(void *p, size_t n, size_t size) {
    size_t bytes;
    NOTE;
    if (!__builtin_mul_overflow(n, size, &bytes)) return __libc_realloc(p, bytes);
    errno = ENOMEM;
    return NULL;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    NOTE;
    return (void *) syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    NOTE;
    return (void *) syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
