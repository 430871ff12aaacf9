"""okcore's kernels as C functions for other packages, each for float (s) and double (d). docs/c-api.md shows their use.

Matrices are row-major and contiguous. Nothing is allocated or drawn at random, and any thread may call, without the
interpreter's lock. Outputs must not overlap inputs. A workspace is so many bytes at any address, uninitialised; more
bytes do as well. Notation is that of docs/mathematics.md: units n, gates G, state blocks k, S = k n, P = G n.
"""

# Grows when something is added. Nothing is changed or removed within a major version of okcore.
cdef int api_version() noexcept nogil


# ---- sums of Kronecker products J = sum_i A_i (x) u_i, u (N, m), A (N, S, P) or (N, SP) with SP = S P ----------------

# Bytes of the workspace of kron_reduce; they grow with N and with rank, so the largest serves for all.
cdef Py_ssize_t skron_reduce_workspace(int N, int rank) noexcept nogil
cdef Py_ssize_t dkron_reduce_workspace(int N, int rank) noexcept nogil

# J as at most rank >= 1 terms u_new (rank, m), A_new (rank, SP), unbiased and with the least variance; unused rows are
# zero. signs (N,) of +-1 is the draw, or NULL: systematic sampling from `start` in [0, 1). If N <= rank, the terms are
# copied. variance (or NULL) becomes s1^2 / k - s2, the mean squared error.
# Returns the number of terms that came out; -1 if something is not finite, in the terms, their inner products or the
# result; -2 if LAPACK's SVD does not converge by either of its algorithms. If negative, the results are zero.
cdef int skron_reduce(
    int N, int rank, int m, Py_ssize_t SP, const float *u, const float *A, const double *signs, double start,
    float *u_new, float *A_new, void *workspace, double *variance) noexcept nogil
cdef int dkron_reduce(
    int N, int rank, int m, Py_ssize_t SP, const double *u, const double *A, const double *signs, double start,
    double *u_new, double *A_new, void *workspace, double *variance) noexcept nogil

# out_i (T, P) = H (T, S) A_i (S, P), the factors of H J
cdef void skron_left_multiply(int N, int T, int S, int P, const float *H, const float *A, float *out) noexcept nogil
cdef void dkron_left_multiply(int N, int T, int S, int P, const double *H, const double *A, double *out) noexcept nogil

# gradient (P, m) = sum_i (v A_i)^T u_i = v J, v (S,); rows (N, P) is scratch
cdef void skron_contract(
    int N, int S, int P, int m, const float *v, const float *u, const float *A, float *rows,
    float *gradient) noexcept nogil
cdef void dkron_contract(
    int N, int S, int P, int m, const double *v, const double *u, const double *A, double *rows,
    double *gradient) noexcept nogil


# ---- Jacobian-times-factor: diagonals d (k, G, n) for D (S, P) and c (k, k, n) for C (S, S), W_h (P, n) --------------

# A (S, P) = Phi D, Phi (S, S) or NULL: the identity
cdef void simmediate_factor(int k, int G, int n, const float *Phi, const float *d, float *A) noexcept nogil
cdef void dimmediate_factor(int k, int G, int n, const double *Phi, const double *d, double *A) noexcept nogil

# M (S, n) = D W_h, the dense part of the state Jacobian H = M E_h + C, where E_h (n, S) picks the hidden state
cdef void sjacobian_dense_part(int k, int G, int n, const float *d, const float *W_h, float *M) noexcept nogil
cdef void djacobian_dense_part(int k, int G, int n, const double *d, const double *W_h, double *M) noexcept nogil

# Phi_next (S, S) = Phi H, Phi (S, S) or NULL: the identity
cdef void stransition_times_jacobian(
    int k, int n, const float *Phi, const float *M, const float *c, float *Phi_next) noexcept nogil
cdef void dtransition_times_jacobian(
    int k, int n, const double *Phi, const double *M, const double *c, double *Phi_next) noexcept nogil


# ---- products --------------------------------------------------------------------------------------------------------

# C (m, n) = alpha A (m, k) B (k, n) + beta C; C is not read if beta is 0
cdef void sgemm(
    int m, int n, int k, float alpha, const float *A, const float *B, float beta, float *C) noexcept nogil
cdef void dgemm(
    int m, int n, int k, double alpha, const double *A, const double *B, double beta, double *C) noexcept nogil

# Bytes of the workspace of gram, which grow with N
cdef Py_ssize_t sgram_workspace(int N) noexcept nogil
cdef Py_ssize_t dgram_workspace(int N) noexcept nogil

# gram (N, N) = X X^T, summed in double, X (N, columns)
cdef void sgram(int N, Py_ssize_t columns, const float *X, void *workspace, double *gram) noexcept nogil
cdef void dgram(int N, Py_ssize_t columns, const double *X, void *workspace, double *gram) noexcept nogil
