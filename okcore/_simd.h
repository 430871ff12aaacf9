/* Kernels written by hand, picked at run time by what the processor has: see docs/performance.md for what each one gains. */

#ifndef OKCORE_SIMD_H
#define OKCORE_SIMD_H

#include <stddef.h>

/* Rows are widened to double a panel at a time; its rows are a little apart, so that they do not share cache sets. */
#define OKCORE_PANEL 256
#define OKCORE_PANEL_STRIDE (OKCORE_PANEL + 8)

/* gram (n, n) += X X^T in double, X (n, columns) with row stride ld; the upper triangle only.
   panel: scratch of n OKCORE_PANEL_STRIDE doubles.  n (n + 1) / 2 columns multiply-adds. */
void okcore_sgram(int n, ptrdiff_t columns, const float *X, ptrdiff_t ld, double *panel, double *gram);
void okcore_dgram(int n, ptrdiff_t columns, const double *X, ptrdiff_t ld, double *panel, double *gram);

/* Y (rows, columns) <- alpha E X + beta Y; E (rows, inner) has its entry (i, k) at i e_row + k e_column, X (inner, columns).
   Y is not read where beta is 0.  rows inner columns multiply-adds. */
void okcore_sproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const float *X, ptrdiff_t ldx, float beta, float *Y, ptrdiff_t ldy);
void okcore_dproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const double *X, ptrdiff_t ldx, double beta, double *Y, ptrdiff_t ldy);

/* Y (rows, columns) <- alpha E Z^T + beta Y; E (rows, inner), Z (columns, inner). */
void okcore_sproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E,
                                ptrdiff_t lde, const float *Z, ptrdiff_t ldz, float beta, float *Y, ptrdiff_t ldy);
void okcore_dproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E,
                                ptrdiff_t lde, const double *Z, ptrdiff_t ldz, double beta, double *Y, ptrdiff_t ldy);

/* y <- sigmoid x, y <- tanh x; y may be x.  Within 3 units in the last place; NaN stays NaN. */
void okcore_ssigmoid(ptrdiff_t size, const float *x, float *y);
void okcore_dsigmoid(ptrdiff_t size, const double *x, double *y);
void okcore_stanh(ptrdiff_t size, const float *x, float *y);
void okcore_dtanh(ptrdiff_t size, const double *x, double *y);

/* Is no entry Inf or NaN? */
int okcore_sfinite(ptrdiff_t size, const float *x);
int okcore_dfinite(ptrdiff_t size, const double *x);

/* Are the vectors wider than the baseline's?  If not, BLAS is the faster one at products of many rows. */
int okcore_vectorised(void);

/* "avx512", "avx2" or "baseline" */
const char *okcore_instructions(void);

#endif
