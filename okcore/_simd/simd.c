/* One body for all instruction sets: body.h is included once for each, with another length of vectors. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

/* The name of a kernel or a vector type for one type and instruction set: NAME(gram) is sgram_avx2, say.
   VL, the vector length, is the number of entries of a vector. */
#define NAME(base) NAME_FOR(base, ISA)
#define NAME_FOR(base, isa) JOIN(TYPE_PREFIX, base, _, isa)
#define JOIN(a, b, c, d) JOIN_(a, b, c, d)
#define JOIN_(a, b, c, d) a##b##c##d
#define INLINE TARGET static inline __attribute__((always_inline))
#define VL (VECTOR_BYTES / (ptrdiff_t) sizeof(REAL))

/* The instruction sets of each family of processors, with what each keeps in registers: EACH_SET names them, from the
   narrowest to the widest, and widest() is what this processor has.  Every processor has the baseline, in which BLAS
   multiplies matrices; in the others, gemm.h does. */

#define VECTOR_BYTES 16
#define TARGET
#define ISA baseline
#define GRAM_NR 2
#define MR 4
#define TAIL_NV 2
#define DOT_SUMS VL
#include "body.h"

#if defined(__x86_64__)

#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define ISA avx2
#define GRAM_NR 3
#define MR 6
#define TAIL_NV 3
#define DOT_SUMS 8
#include "body.h"

#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,avx2")))
#define ISA avx512
#define GRAM_NR 4
#define MR 8
#define TAIL_NV 4
#define DOT_SUMS VL
#include "body.h"

#define EACH_SET(X, ...) X(baseline, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__)

static int widest(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")
        || !__builtin_cpu_supports("avx512bw"))
        return 1;
    return 2;
}

#elif defined(__aarch64__)

/* Every processor of this family has it.  Short vectors, but 32 of them, and fused multiply-adds: 16 sums are as many as
   four pipelines of latency 4 can work on (Neoverse V1, Apple M1), and leave registers for A and B.  12 rows would load
   0.58 operands per multiply-add, 8 load 0.63, and sizes are more often multiples of 8. */
#define VECTOR_BYTES 16
#define TARGET
#define ISA neon
#define GRAM_NR 4
#define MR 8
#define TAIL_NV 4
#define DOT_SUMS 16
#include "body.h"

#define EACH_SET(X, ...) X(baseline, __VA_ARGS__) X(neon, __VA_ARGS__)

static int widest(void)
{
    return 1;
}

#else

#define EACH_SET(X, ...) X(baseline, __VA_ARGS__)

static int widest(void)
{
    return 0;
}

#endif

#define NAME_OF(set, ...) #set,
static const char *const names[] = {EACH_SET(NAME_OF, )};

static int level(void)
{
    static int found = -1; /* threads that find it unset all write the same value */
    if (found < 0) {
        const char *asked = getenv("OKCORE_INSTRUCTIONS"); /* for tests: at most this one */
        int most = widest();
        for (int set = 0; asked != NULL && set < most; set++)
            if (strcmp(asked, names[set]) == 0)
                most = set;
        found = most;
    }
    return found;
}

#define POSITION(set, ...) AT_##set,
enum { EACH_SET(POSITION, ) };
#define CALL(set, kernel, ...) case AT_##set: return NAME_FOR(kernel, set)(__VA_ARGS__);
#define DISPATCH(kernel, ...)                                                                                          \
    switch (level()) {                                                                                                 \
        EACH_SET(CALL, kernel, __VA_ARGS__)                                                                            \
    default: __builtin_unreachable();                                                                                  \
    }

/* On x86, arithmetic with denormal numbers (below 1.2e-38 in float) is slow on some processors, and products of Jacobians
   over a block come down there whenever a network forgets.  Within a FLUSHED kernel the processor takes them for zero;
   the caller's arithmetic stays as it was. */
#if defined(__x86_64__)
#define FLUSH_AND_DENORMALS_ARE_ZERO 0x8040u

static inline unsigned flush_denormals(void)
{
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | FLUSH_AND_DENORMALS_ARE_ZERO);
    return before;
}

static inline void restore_denormals(const unsigned *before)
{
    __builtin_ia32_ldmxcsr(*before);
}

#define FLUSHED(kernel, ...)                                                                                           \
    unsigned before __attribute__((cleanup(restore_denormals), unused)) = flush_denormals();                           \
    DISPATCH(kernel, __VA_ARGS__)
#else
#define FLUSHED DISPATCH
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
    return names[level()];
}

const char *okcore_instruction_set(int position)
{
    return position < (int) (sizeof names / sizeof *names) ? names[position] : NULL;
}
