# Everything in okcore is row-major and BLAS is column-major: a row-major matrix is the transpose of the
# column-major matrix in the same memory, so each wrapper swaps operands instead of copying.

from cython cimport floating
from libc.string cimport memcpy
from scipy.linalg cimport cython_blas, cython_lapack

include "_blas_int.pxi"


cdef void gemm(
    bint trans_a, bint trans_b, int m, int n, int k,
    floating alpha, const floating *A, int lda, const floating *B, int ldb,
    floating beta, floating *C, int ldc,
) noexcept nogil:
    cdef char ta = b"T" if trans_a else b"N"
    cdef char tb = b"T" if trans_b else b"N"
    cdef blas_int m_ = m, n_ = n, k_ = k, lda_ = lda, ldb_ = ldb, ldc_ = ldc
    # C^T = op(B)^T op(A)^T
    if floating is float:
        cython_blas.sgemm(&tb, &ta, &n_, &m_, &k_, &alpha, <float *> B, &ldb_, <float *> A, &lda_,
                          &beta, C, &ldc_)
    else:
        cython_blas.dgemm(&tb, &ta, &n_, &m_, &k_, &alpha, <double *> B, &ldb_, <double *> A, &lda_,
                          &beta, C, &ldc_)


cdef int cholesky_upper(int n, double *A, int lda) noexcept nogil:
    # The row-major upper triangle is the column-major lower one: A = L L^T with L = K^T.
    cdef char uplo = b"L"
    cdef blas_int n_ = n, lda_ = lda, info = 0
    cython_lapack.dpotrf(&uplo, &n_, A, &lda_, &info)
    return <int> info


cdef void solve_upper(int n, int m, const double *K, int ldk, double *B, int ldb) noexcept nogil:
    # K X = B  <=>  X^T K^T = B^T, and K^T is the column-major lower triangle.
    cdef char side = b"R", uplo = b"L", trans = b"N", diag = b"N"
    cdef blas_int n_ = n, m_ = m, ldk_ = ldk, ldb_ = ldb
    cdef double one = 1.0
    cython_blas.dtrsm(&side, &uplo, &trans, &diag, &m_, &n_, &one, <double *> K, &ldk_, B, &ldb_)


cdef int svd(
    int n, double *C, double *U, double *sigma, double *VT, double *spare, double *work, void *iwork,
) noexcept nogil:
    # LAPACK reads C^T = V diag(sigma) U^T.  Its left vectors, in column-major columns, are our rows of V^T;
    # its right ones, in column-major rows, are our columns of U.
    cdef char job = b"S"
    cdef blas_int n_ = n, lwork = svd_lwork(n), info = 0
    memcpy(spare, C, n * n * sizeof(double))
    cython_lapack.dgesdd(&job, &n_, &n_, C, &n_, sigma, VT, &n_, U, &n_, work, &lwork, <blas_int *> iwork, &info)
    if info > 0:  # divide and conquer did not converge: rare, and the QR iteration is the usual way out
        info = 0
        cython_lapack.dgesvd(&job, &job, &n_, &n_, spare, &n_, sigma, VT, &n_, U, &n_, work, &lwork, &info)
    return <int> info


cdef int svd_lwork(int n) noexcept nogil:
    return 4 * n * n + 7 * n + 64 * n  # gesdd's documented need, and room for blocked code
