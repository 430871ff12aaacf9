/* Kernels written by hand, chosen at run time by what the processor has; docs/performance.md says what each one gains.
   All matrices are row-major, and ld is the distance between two rows.

   On x86 gemm, gemm_in_place, gemm_nt, contract, the products with grids and the kernels of a unit's own rows take
   denormal numbers for zero, and give zero instead of one.  The others do not. */

#ifndef OKCORE_SIMD_H
#define OKCORE_SIMD_H

#include <stddef.h>

/* A Gram matrix is summed over OKCORE_GRAM_KC columns at a time, which are widened to double first.  The widened rows
   are OKCORE_GRAM_LD apart, a little more than their length, so that they do not share cache sets. */
#define OKCORE_GRAM_KC 256
#define OKCORE_GRAM_LD (OKCORE_GRAM_KC + 8)

/* C = A B may be cut into parts, over threads say, and keep its bits: at rows that are multiples of OKCORE_MR_TAIL, the
   fewest rows that a micro-kernel takes (up to three at the end go through gemv one by one), and at columns that are
   multiples of OKCORE_SPLIT_COLUMNS, whole vectors and enough of them to pay. */
#define OKCORE_MR_TAIL 4
#define OKCORE_SPLIT_COLUMNS 2048

/* gram (n, n) += X X^T in double, X (n, columns) given by its rows, times their scales (n,) unless those are NULL; the
   upper triangle only.  widened holds n OKCORE_GRAM_LD doubles.  n (n + 1) / 2 columns multiply-adds. */
void okcore_sgram(int n, ptrdiff_t columns, const float *const *rows, const double *scales, double *widened,
                  double *gram);
void okcore_dgram(int n, ptrdiff_t columns, const double *const *rows, const double *scales, double *widened,
                  double *gram);

/* x . y, summed in double */
double okcore_sdot_in_double(ptrdiff_t size, const float *x, const float *y);
double okcore_ddot_in_double(ptrdiff_t size, const double *x, const double *y);

/* C (m, n) <- alpha A B + beta C; A (m, k) has its entry (i, p) at i rs_a + p cs_a, B (k, n).  C is not read if beta
   is 0.  m n k multiply-adds. */
void okcore_sgemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float alpha, const float *A, ptrdiff_t rs_a, ptrdiff_t cs_a,
                  const float *B, ptrdiff_t ldb, float beta, float *C, ptrdiff_t ldc);
void okcore_dgemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha, const double *A, ptrdiff_t rs_a, ptrdiff_t cs_a,
                  const double *B, ptrdiff_t ldb, double beta, double *C, ptrdiff_t ldc);

/* y (n,) <- x (k,) B (k, n) + beta y, with the bits of gemm; from_memory says that most of B is not in L2. */
void okcore_scontract(int from_memory, ptrdiff_t n, ptrdiff_t k, const float *x, const float *B, ptrdiff_t ldb,
                      float beta, float *y);
void okcore_dcontract(int from_memory, ptrdiff_t n, ptrdiff_t k, const double *x, const double *B, ptrdiff_t ldb,
                      double beta, double *y);

/* gemm with denormal numbers, for factors near the ends of the range */
void okcore_sgradual_gemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float alpha, const float *A, ptrdiff_t rs_a,
                          ptrdiff_t cs_a, const float *B, ptrdiff_t ldb, float beta, float *C, ptrdiff_t ldc);
void okcore_dgradual_gemm(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha, const double *A, ptrdiff_t rs_a,
                          ptrdiff_t cs_a, const double *B, ptrdiff_t ldb, double beta, double *C, ptrdiff_t ldc);

/* B (m, n) <- A (m, m) B; packed holds 512 m bytes.  m m n multiply-adds. */
void okcore_sgemm_in_place(ptrdiff_t m, ptrdiff_t n, const float *A, float *B, ptrdiff_t ldb, float *packed);
void okcore_dgemm_in_place(ptrdiff_t m, ptrdiff_t n, const double *A, double *B, ptrdiff_t ldb, double *packed);

/* C (m, n) <- alpha A B^T + beta C; A (m, k), B (n, k).  C is not read if beta is 0.  m n k multiply-adds. */
void okcore_sgemm_nt(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float alpha, const float *A, ptrdiff_t lda, const float *B,
                     ptrdiff_t ldb, float beta, float *C, ptrdiff_t ldc);
void okcore_dgemm_nt(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha, const double *A, ptrdiff_t lda,
                     const double *B, ptrdiff_t ldb, double beta, double *C, ptrdiff_t ldc);

/* Y (columns, rows) = X^T, X (rows, columns) */
void okcore_stranspose(ptrdiff_t rows, ptrdiff_t columns, const float *X, float *Y, ptrdiff_t ldy);
void okcore_dtranspose(ptrdiff_t rows, ptrdiff_t columns, const double *X, double *Y, ptrdiff_t ldy);

/* Y (rows, G, n) = X C, X (rows, k, n), C the diagonals of a grid (k, G, n).  The grids of two rows are `next_grid`
   entries apart, 0 if they share one.  rows k G n multiply-adds. */
void okcore_stimes_grid(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const float *X, const float *grid,
                        ptrdiff_t next_grid, float *Y);
void okcore_dtimes_grid(ptrdiff_t rows, ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const double *X, const double *grid,
                        ptrdiff_t next_grid, double *Y);

/* M (k n, n) = C W, C the diagonals of a grid (k, G, n), W (G n, n).  k G n^2 multiply-adds. */
void okcore_sgrid_times(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const float *grid, const float *W, float *M);
void okcore_dgrid_times(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, const double *grid, const double *W, double *M);

/* For rules that keep of the influence only what a unit's own rows of theta do to that unit, J (k, G, n, m):
   J[a, g, i, :] <- sum_b H[a, b, i] J[b, g, i, :] + sum_j d[j, a, g, i] u[j, :], H (k, k, n), d (q, k, G, n), u (q, m).
   Is every new entry finite?  k (k + q) G n m multiply-adds; reads and writes J once. */
int okcore_sown_unit_update(ptrdiff_t k, ptrdiff_t q, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const float *H,
                            const float *d, const float *u, float *J);
int okcore_down_unit_update(ptrdiff_t k, ptrdiff_t q, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const double *H,
                            const double *d, const double *u, double *J);

/* gradient (G, n, m) <- sum_a delta[a, i] J[a, g, i, :] + beta gradient[g, i, :], delta (k, n), J (k, G, n, m).  The
   gradient is not read if beta is 0.  k G n m multiply-adds; reads J once. */
void okcore_sown_unit_contract(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const float *delta, const float *J,
                               float beta, float *gradient);
void okcore_down_unit_contract(ptrdiff_t k, ptrdiff_t G, ptrdiff_t n, ptrdiff_t m, const double *delta,
                               const double *J, double beta, double *gradient);

/* The pointwise step of a built-in cell (cells.h), for float or double; NULL if there is no cell of that name.
   pre (lanes, q, G, n) is overwritten; state, state_next (lanes, k, n); d (lanes, q, k, G, n); c (lanes, k, k, n). */
typedef void (*okcore_pointwise)(ptrdiff_t lanes, ptrdiff_t n, void *pre, const void *state, void *state_next, void *d,
                                 void *c);
okcore_pointwise okcore_cell(const char *name, int is_double, int sizes[3]); /* its gates, state blocks, terms */

/* outputs (rows, columns) <- scale (softmax of each row - one at its symbol y); returns the rows' sum of
   -log softmax[y], in nats.  rows columns exponentials. */
double okcore_ssoftmax_credit(ptrdiff_t rows, ptrdiff_t columns, const long long *y, double scale, float *outputs);
double okcore_dsoftmax_credit(ptrdiff_t rows, ptrdiff_t columns, const long long *y, double scale, double *outputs);

/* One step of Adam, in place if `write` is set, else only tested:
       mean <- beta1 mean + (1 - beta1) g, square <- beta2 square + (1 - beta2) g^2
       parameter <- parameter - rate mean / (sqrt(correction square) + eps)
   A mean or a square that would be denormal is 0.  A test returns whether every new entry is finite. */
int okcore_sadam(int write, ptrdiff_t size, double beta1, double beta2, double eps, double rate, double correction,
                 const float *gradient, float *parameter, float *mean, float *square);
int okcore_dadam(int write, ptrdiff_t size, double beta1, double beta2, double eps, double rate, double correction,
                 const double *gradient, double *parameter, double *mean, double *square);

/* Is no entry Inf or NaN? */
int okcore_sfinite(ptrdiff_t size, const float *x);
int okcore_dfinite(ptrdiff_t size, const double *x);

/* max |x|, NaN apart; 0 if there are no entries */
float okcore_slargest_magnitude(ptrdiff_t size, const float *x);
double okcore_dlargest_magnitude(ptrdiff_t size, const double *x);

/* Is it worth multiplying by hand?  In the baseline, BLAS is faster at products of many rows. */
int okcore_vectorised(void);

/* The instruction set in use */
const char *okcore_instructions(void);

/* The name of the set at a position, counted from the baseline, 0, to the widest that is compiled; NULL behind it */
const char *okcore_instruction_set(int position);

#endif
