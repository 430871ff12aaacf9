/* Kernels that BLAS is bad at: long, skinny products of a few rows.  Picked at run time by what the processor has. */

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

/* Y (rank, columns) = M^T X, the first `rank` columns of M (n, r), X (n, columns) with row stride ldx, Y with ldy.
   n rank columns multiply-adds. */
void okcore_smix(int n, int r, int rank, ptrdiff_t columns, const float *M, const float *X, ptrdiff_t ldx, float *Y,
                 ptrdiff_t ldy);
void okcore_dmix(int n, int r, int rank, ptrdiff_t columns, const double *M, const double *X, ptrdiff_t ldx,
                 double *Y, ptrdiff_t ldy);

/* y <- sigmoid x, y <- tanh x; y may be x.  Within 3 units in the last place; NaN stays NaN. */
void okcore_ssigmoid(ptrdiff_t size, const float *x, float *y);
void okcore_dsigmoid(ptrdiff_t size, const double *x, double *y);
void okcore_stanh(ptrdiff_t size, const float *x, float *y);
void okcore_dtanh(ptrdiff_t size, const double *x, double *y);

/* "avx512", "avx2" or "baseline" */
const char *okcore_instructions(void);

#endif
