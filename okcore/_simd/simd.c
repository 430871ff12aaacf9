/* One body for every instruction set: body.h, included once for each with another vector width. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OKCORE_X86 1
#else
#define OKCORE_X86 0
#endif

/* For every instruction set and type: the name of a kernel (sgram_avx2), and the entries of a vector */
#define LOCAL(kernel) KERNEL(kernel, SUFFIX)
#define KERNEL(kernel, suffix) JOIN(FIRST, kernel, _, suffix)
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)
#define JOIN_(a, b, c, d) a##b##c##d
#define INLINE TARGET static inline __attribute__((always_inline))
#define LANES (BYTES / (ptrdiff_t) sizeof(REAL))

#define BYTES 16
#define TARGET
#define SUFFIX baseline
#define GRAM_COLUMNS 2
#define ROWS 4
#include "body.h"

#if OKCORE_X86
#define BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define SUFFIX avx2
#define GRAM_COLUMNS 2
#define ROWS 4
#include "body.h"

#define BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,avx2")))
#define SUFFIX avx512
#define GRAM_COLUMNS 4
#define ROWS 8
#include "body.h"

static int level(void)
{
    static int found = -1; /* written with the same value by every thread that comes here first */
    if (found < 0) {
        const char *asked = getenv("OKCORE_INSTRUCTIONS"); /* for tests: no more than this */
        int most = asked == NULL ? 2 : strcmp(asked, "baseline") == 0 ? 0 : strcmp(asked, "avx2") == 0 ? 1 : 2;
        int has = 0;
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
            has = 1;
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
                has = 2;
        }
        found = has < most ? has : most;
    }
    return found;
}

#define DISPATCH(kernel, ...)                                                                                          \
    switch (level()) {                                                                                                 \
    case 2: return KERNEL(kernel, avx512)(__VA_ARGS__);                                                                \
    case 1: return KERNEL(kernel, avx2)(__VA_ARGS__);                                                                  \
    default: return KERNEL(kernel, baseline)(__VA_ARGS__);                                                             \
    }
#else
static int level(void) { return 0; }
#define DISPATCH(kernel, ...) return KERNEL(kernel, baseline)(__VA_ARGS__);
#endif

#define PUBLIC(kernel) JOIN(okcore_, FIRST, kernel, )

#define REAL float
#define FIRST s
#include "public.h"
#undef REAL
#undef FIRST

#define REAL double
#define FIRST d
#include "public.h"

okcore_pointwise okcore_cell(const char *name, int is_double)
{
#define NAMED(cell)                                                                                                    \
    if (strcmp(name, #cell) == 0)                                                                                      \
        return is_double ? step_d##cell : step_s##cell;
    EACH_CELL(NAMED)
#undef NAMED
    return NULL;
}

int okcore_vectorised(void)
{
    return level() > 0;
}

const char *okcore_instructions(void)
{
    static const char *const names[] = {"baseline", "avx2", "avx512"};
    return names[level()];
}
