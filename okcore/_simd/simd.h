/* Kernels written by hand, picked at run time by what the processor has; docs/performance.md says what each one gains. */

#ifndef OKCORE_SIMD_H
#define OKCORE_SIMD_H

#include <stddef.h>

/* Gram matrices: rows are widened to double a panel at a time; its rows are a little apart, so that they do not share
   cache sets. */
#define OKCORE_PANEL 256
#define OKCORE_PANEL_STRIDE (OKCORE_PANEL + 8)

/* A product's rows come in blocks of at least so many and its columns in panels of so many: a row, and a column, has the same
   bits wherever a product is cut at a multiple of them.  Fewer rows than that, at the end, are worked on one by one. */
#define OKCORE_BLOCK_ROWS 4
#define OKCORE_PANEL_COLUMNS 2048

/* gram (n, n) += X X^T in double, X (n, columns) with row stride ld; the upper triangle only.
   panel: scratch of n OKCORE_PANEL_STRIDE doubles.  n (n + 1) / 2 columns multiply-adds. */
void okcore_sgram(int n, ptrdiff_t columns, const float *X, ptrdiff_t ld, double *panel, double *gram);
void okcore_dgram(int n, ptrdiff_t columns, const double *X, ptrdiff_t ld, double *panel, double *gram);

/* Y (rows, columns) <- alpha E X + beta Y; E (rows, inner) has its entry (i, k) at i e_row + k e_column, X (inner, columns).
   Y is not read where beta is 0.  rows inner columns multiply-adds. */
void okcore_sproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E, ptrdiff_t e_row,
                     ptrdiff_t e_column, const float *X, ptrdiff_t ldx, float beta, float *Y, ptrdiff_t ldy);
void okcore_dproduct(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E,
                     ptrdiff_t e_row, ptrdiff_t e_column, const double *X, ptrdiff_t ldx, double beta, double *Y,
                     ptrdiff_t ldy);

/* Y (rows, columns) <- alpha E Z^T + beta Y; E (rows, inner), Z (columns, inner). */
void okcore_sproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, float alpha, const float *E,
                                ptrdiff_t lde, const float *Z, ptrdiff_t ldz, float beta, float *Y, ptrdiff_t ldy);
void okcore_dproduct_transposed(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, double alpha, const double *E,
                                ptrdiff_t lde, const double *Z, ptrdiff_t ldz, double beta, double *Y, ptrdiff_t ldy);

/* Y (columns, rows) = X^T, X (rows, columns) */
void okcore_stranspose(ptrdiff_t rows, ptrdiff_t columns, const float *X, float *Y);
void okcore_dtranspose(ptrdiff_t rows, ptrdiff_t columns, const double *X, double *Y);

/* Y (rows, G, n) = X C, X (rows, k, n), C the diagonals of a grid (k, G, n); the grids of two rows are `next_grid` entries
   apart, 0 if they share one.  rows k G n multiply-adds. */
void okcore_stimes_grid(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const float *X, const float *grid,
                        ptrdiff_t next_grid, float *Y);
void okcore_dtimes_grid(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const double *X, const double *grid,
                        ptrdiff_t next_grid, double *Y);

/* M (k n, n) = C W, C the diagonals of a grid (k, G, n), W (G n, n).  k G n^2 multiply-adds. */
void okcore_sgrid_times(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const float *grid, const float *W, float *M);
void okcore_dgrid_times(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const double *grid, const double *W, double *M);

/* The pointwise step of a built-in cell (cells.h): the float one or the double one, or NULL if there is none of that name.
   pre (lanes, q, G, n) is overwritten; state, state_next (lanes, k, n); d (lanes, q, k, G, n); c (lanes, k, k, n). */
typedef void (*okcore_pointwise)(ptrdiff_t lanes, ptrdiff_t n, void *pre, const void *state, void *state_next, void *d, void *c);
okcore_pointwise okcore_cell(const char *name, int is_double);

/* Is no entry Inf or NaN? */
int okcore_sfinite(ptrdiff_t size, const float *x);
int okcore_dfinite(ptrdiff_t size, const double *x);

/* Are the vectors wider than the baseline's?  If not, BLAS is the faster one at products of many rows. */
int okcore_vectorised(void);

/* "avx512", "avx2" or "baseline" */
const char *okcore_instructions(void);

#endif
