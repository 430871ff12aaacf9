"""okcore's kernels for other packages, as C functions in ``__pyx_capi__``: see ``cython_kernels.pxd``."""
# What is exported has no fused types; the bodies behind it do. `api` also writes cython_kernels_api.h, for C and C++.

from cython cimport floating

from okcore._carries.reduction cimport reduce_sum, reduce_workspace
from okcore._kernels cimport (
    ALIGNMENT,
    aligned,
    contract_sum,
    dense_part,
    gemm,
    gram_matrix,
    immediate_factor,
    left_multiply_factors,
    packed_doubles,
    transition_times_jacobian,
)


cdef api int api_version() noexcept nogil:
    return 1


# ---- sums of Kronecker products --------------------------------------------------------------------------------------


cdef api Py_ssize_t skron_reduce_workspace(int N, int rank) noexcept nogil:
    return reduce_workspace(N, rank)


cdef api Py_ssize_t dkron_reduce_workspace(int N, int rank) noexcept nogil:
    return reduce_workspace(N, rank)


cdef api int skron_reduce(
    int N, int rank, int m, Py_ssize_t SP, const float *u, const float *A, const double *signs, double start,
    float *u_new, float *A_new, void *workspace, double *variance,
) noexcept nogil:
    return reduce_sum[float](N, rank, m, SP, -1, u, A, signs, start, u_new, A_new, workspace, variance)


cdef api int dkron_reduce(
    int N, int rank, int m, Py_ssize_t SP, const double *u, const double *A, const double *signs, double start,
    double *u_new, double *A_new, void *workspace, double *variance,
) noexcept nogil:
    return reduce_sum[double](N, rank, m, SP, -1, u, A, signs, start, u_new, A_new, workspace, variance)


cdef api void skron_left_multiply(
    int N, int T, int S, int P, const float *H, const float *A, float *out,
) noexcept nogil:
    left_multiply_factors[float](N, T, S, P, H, A, out)


cdef api void dkron_left_multiply(
    int N, int T, int S, int P, const double *H, const double *A, double *out,
) noexcept nogil:
    left_multiply_factors[double](N, T, S, P, H, A, out)


cdef api void skron_contract(
    int N, int S, int P, int m, const float *v, const float *u, const float *A, float *rows, float *gradient,
) noexcept nogil:
    contract_sum[float](N, S, P, m, v, u, A, rows, gradient)


cdef api void dkron_contract(
    int N, int S, int P, int m, const double *v, const double *u, const double *A, double *rows, double *gradient,
) noexcept nogil:
    contract_sum[double](N, S, P, m, v, u, A, rows, gradient)


# ---- Jacobian-times-factor -------------------------------------------------------------------------------------------


cdef api void simmediate_factor(int k, int G, int n, const float *Phi, const float *d, float *A) noexcept nogil:
    immediate_factor[float](k, G, n, Phi, d, A)


cdef api void dimmediate_factor(int k, int G, int n, const double *Phi, const double *d, double *A) noexcept nogil:
    immediate_factor[double](k, G, n, Phi, d, A)


cdef api void sjacobian_dense_part(
    int k, int G, int n, const float *d, const float *W_h, float *M,
) noexcept nogil:
    dense_part[float](k, G, n, d, W_h, M)


cdef api void djacobian_dense_part(
    int k, int G, int n, const double *d, const double *W_h, double *M,
) noexcept nogil:
    dense_part[double](k, G, n, d, W_h, M)


cdef api void stransition_times_jacobian(
    int k, int n, const float *Phi, const float *M, const float *c, float *Phi_next,
) noexcept nogil:
    transition_times_jacobian[float](k, n, Phi, M, c, Phi_next)


cdef api void dtransition_times_jacobian(
    int k, int n, const double *Phi, const double *M, const double *c, double *Phi_next,
) noexcept nogil:
    transition_times_jacobian[double](k, n, Phi, M, c, Phi_next)


# ---- products --------------------------------------------------------------------------------------------------------


cdef api void sgemm(
    int m, int n, int k, float alpha, const float *A, const float *B, float beta, float *C,
) noexcept nogil:
    gemm[float](False, False, m, n, k, alpha, A, max(1, k), B, n, beta, C, n)


cdef api void dgemm(
    int m, int n, int k, double alpha, const double *A, const double *B, double beta, double *C,
) noexcept nogil:
    gemm[double](False, False, m, n, k, alpha, A, max(1, k), B, n, beta, C, n)


cdef Py_ssize_t gram_workspace(int N) noexcept nogil:
    cdef Py_ssize_t doubles = packed_doubles(N, 0), pointers = N
    return ALIGNMENT + doubles * <Py_ssize_t> sizeof(double) + pointers * <Py_ssize_t> sizeof(void *)


cdef void gram_of_rows(int N, Py_ssize_t columns, const floating *X, void *workspace, double *gram) noexcept nogil:
    cdef double *packed = <double *> aligned(workspace)
    cdef const floating **rows = <const floating **> (packed + packed_doubles(N, 0))
    cdef int i
    for i in range(N):
        rows[i] = X + i * columns
    gram_matrix[floating](N, columns, rows, NULL, packed, gram)


cdef api Py_ssize_t sgram_workspace(int N) noexcept nogil:
    return gram_workspace(N)


cdef api Py_ssize_t dgram_workspace(int N) noexcept nogil:
    return gram_workspace(N)


cdef api void sgram(int N, Py_ssize_t columns, const float *X, void *workspace, double *gram) noexcept nogil:
    gram_of_rows[float](N, columns, X, workspace, gram)


cdef api void dgram(int N, Py_ssize_t columns, const double *X, void *workspace, double *gram) noexcept nogil:
    gram_of_rows[double](N, columns, X, workspace, gram)
