"""Row-major BLAS and LAPACK, the only module that cimports SciPy; scalars by value, leading dimension = row stride."""

from cython cimport floating

# C (m, n) <- alpha op(A) op(B) + beta C, op(A) (m, k), op(B) (k, n);  2 m n k flops
cdef void gemm(
    bint trans_a, bint trans_b, int m, int n, int k,
    floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc,
) noexcept nogil

# A = K^T K of a positive definite A (n, n), K upper triangular over A; 0, or the order of the first bad minor
cdef int cholesky_upper(int n, double *A, int lda) noexcept nogil

# B (n, m) <- K^-1 B, K (n, n) upper triangular
cdef void solve_upper(int n, int m, const double *K, int ldk, double *B, int ldb) noexcept nogil

# C (n, n) = U diag(sigma) V^T, sigma descending: U holds the left vectors in its columns, VT the right ones in
# its rows. C is overwritten; `spare` (n, n), `work` (svd_lwork(n),) and `iwork` (8 n 64-bit words) are scratch.
# 0, or the LAPACK info code when both gesdd and gesvd fail.
cdef int svd(
    int n, double *C, double *U, double *sigma, double *VT, double *spare, double *work, void *iwork,
) noexcept nogil

# Doubles of `work` that `svd` needs
cdef int svd_lwork(int n) noexcept nogil
