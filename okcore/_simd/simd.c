/* One body for all instruction sets: body.h is included once for each, with another length of vectors. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OKCORE_X86 1
#else
#define OKCORE_X86 0
#endif

/* The name of a kernel or a vector type for one type and instruction set: NAME(gram) is sgram_avx2, say.
   VL, the vector length, is the number of entries of a vector. */
#define NAME(base) NAME_FOR(base, ISA)
#define NAME_FOR(base, isa) JOIN(TYPE_PREFIX, base, _, isa)
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)
#define JOIN_(a, b, c, d) a##b##c##d
#define INLINE TARGET static inline __attribute__((always_inline))
#define VL (VECTOR_BYTES / (ptrdiff_t) sizeof(REAL))

#define VECTOR_BYTES 16
#define TARGET
#define ISA baseline
#define GRAM_NR 2
#define MR 4
#include "body.h"

#if OKCORE_X86
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define ISA avx2
#define GRAM_NR 3
#define MR 6
#include "body.h"

#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,avx2")))
#define ISA avx512
#define GRAM_NR 4
#define MR 8
#include "body.h"

static int level(void)
{
    static int found = -1; /* threads that find it unset all write the same value */
    if (found < 0) {
        const char *asked = getenv("OKCORE_INSTRUCTIONS"); /* for tests: at most this one */
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
    case 2: return NAME_FOR(kernel, avx512)(__VA_ARGS__);                                                              \
    case 1: return NAME_FOR(kernel, avx2)(__VA_ARGS__);                                                                \
    default: return NAME_FOR(kernel, baseline)(__VA_ARGS__);                                                           \
    }
#else
static int level(void) { return 0; }
#define DISPATCH(kernel, ...) return NAME_FOR(kernel, baseline)(__VA_ARGS__);
#endif

#define PUBLIC(kernel) JOIN(okcore_, TYPE_PREFIX, kernel, )

#define REAL float
#define TYPE_PREFIX s
#include "public.h"
#undef REAL
#undef TYPE_PREFIX

#define REAL double
#define TYPE_PREFIX d
#include "public.h"

okcore_pointwise okcore_cell(const char *name, int is_double, int sizes[3])
{
#define NAMED(cell, G, k, q)                                                                                           \
    if (strcmp(name, #cell) == 0) {                                                                                    \
        sizes[0] = G, sizes[1] = k, sizes[2] = q;                                                                      \
        return is_double ? step_d##cell : step_s##cell;                                                                \
    }
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
