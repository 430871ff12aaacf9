/* One body for every instruction set: _simd_body.h, included once for each with another vector width. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_simd.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OKCORE_X86 1
#else
#define OKCORE_X86 0
#endif

#define BYTES 16
#define TARGET
#define SUFFIX baseline
#define GRAM_COLUMNS 2
#define ROWS 4
#include "_simd_body.h"

#if OKCORE_X86
#define BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define SUFFIX avx2
#define GRAM_COLUMNS 2
#define ROWS 4
#include "_simd_body.h"

#define BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,avx2")))
#define SUFFIX avx512
#define GRAM_COLUMNS 4
#define ROWS 8
#include "_simd_body.h"

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
    case 2: kernel##_avx512(__VA_ARGS__); break;                                                                       \
    case 1: kernel##_avx2(__VA_ARGS__); break;                                                                         \
    default: kernel##_baseline(__VA_ARGS__);                                                                           \
    }
#else
static int level(void) { return 0; }
#define DISPATCH(kernel, ...) kernel##_baseline(__VA_ARGS__);
#endif

void okcore_sgram(int n, ptrdiff_t columns, const float *X, ptrdiff_t ld, double *panel, double *gram)
{
    DISPATCH(sgram, n, columns, X, ld, panel, gram)
}

void okcore_dgram(int n, ptrdiff_t columns, const double *X, ptrdiff_t ld, double *panel, double *gram)
{
    DISPATCH(dgram, n, columns, X, ld, panel, gram)
}

void okcore_sproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const float *X, ptrdiff_t ldx, float beta, float *Y, ptrdiff_t ldy)
{
    DISPATCH(sproduct, rows, inner, columns, alpha, E, e_row, e_column, X, ldx, beta, Y, ldy)
}

void okcore_sproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E,
                                ptrdiff_t lde, const float *Z, ptrdiff_t ldz, float beta, float *Y, ptrdiff_t ldy)
{
    DISPATCH(sproduct_transposed, rows, inner, columns, alpha, E, lde, Z, ldz, beta, Y, ldy)
}

void okcore_dproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const double *X, ptrdiff_t ldx, double beta, double *Y, ptrdiff_t ldy)
{
    DISPATCH(dproduct, rows, inner, columns, alpha, E, e_row, e_column, X, ldx, beta, Y, ldy)
}

void okcore_dproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E,
                                ptrdiff_t lde, const double *Z, ptrdiff_t ldz, double beta, double *Y, ptrdiff_t ldy)
{
    DISPATCH(dproduct_transposed, rows, inner, columns, alpha, E, lde, Z, ldz, beta, Y, ldy)
}

void okcore_ssigmoid(ptrdiff_t size, const float *x, float *y)
{
    DISPATCH(ssigmoid, size, x, y)
}

void okcore_dsigmoid(ptrdiff_t size, const double *x, double *y)
{
    DISPATCH(dsigmoid, size, x, y)
}

void okcore_stanh(ptrdiff_t size, const float *x, float *y)
{
    DISPATCH(stanh, size, x, y)
}

void okcore_dtanh(ptrdiff_t size, const double *x, double *y)
{
    DISPATCH(dtanh, size, x, y)
}

int okcore_sfinite(ptrdiff_t size, const float *x)
{
    int finite;
    DISPATCH(finite = sfinite, size, x)
    return finite;
}

int okcore_dfinite(ptrdiff_t size, const double *x)
{
    int finite;
    DISPATCH(finite = dfinite, size, x)
    return finite;
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
