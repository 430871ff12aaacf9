"""The optimal reduction of N Kronecker terms to r (docs/mathematics.md section 4), seen from two Gram matrices."""

from cython cimport floating

cdef enum:
    FAILED = -1           # something is not finite
    NO_SVD = -2           # LAPACK's SVD did not converge, gesdd and gesvd both


cdef struct Outcome:
    int rank              # terms that came out, at most r
    double variance       # s1^2 / k - s2 of this reduction
    double mixed_fraction  # share of the singular values' sum that was mixed
    bint precise_u         # are the coefficients of the u_i so large that terms cancel? Then float32 is not enough
    bint precise_A

# Doubles and bytes of scratch for up to N terms
cdef Py_ssize_t scratch_doubles(int N) noexcept nogil
cdef Py_ssize_t scratch_bytes(int N) noexcept nogil

# gram_u, gram_A (N, N): inner products of the u_i and of the A_i (destroyed).
# mix_u, mix_A (N, r): u'_l = sum_i mix_u[i, l] u_i and A'_l = sum_i mix_A[i, l] A_i.
# signs (N,): the draw for mixing by signs; start in [0, 1): the draw for systematic sampling when signs is NULL.
# tolerance: what sqrt(variance) may be, relative to the norm of the sum, with the fewest terms; negative: with r terms.
# Where no fewer than all N terms come out, mix_u and mix_A are the identity.
# Returns 0, 1 if a Gram matrix is not finite, 2 if LAPACK failed.
cdef int reduce_terms(
    int N, int r, double tolerance, double *gram_u, double *gram_A, const double *signs, double start,
    double *scratch, void *bytes, double *mix_u, double *mix_A, Outcome *outcome,
) noexcept nogil

# u (N, m), A (N, size) -> at most rank terms u_new (rank, m), A_new (rank, size), unused rows zero; all of them if it
# fails. Where all N terms come out, they are a copy. signs, start and tolerance are those of reduce_terms; variance,
# which may be NULL, is the outcome's. Returns the number of terms that came out, FAILED or NO_SVD.
cdef int reduce_sum(
    int N, int rank, int m, Py_ssize_t size, double tolerance, const floating *u, const floating *A,
    const double *signs, double start, floating *u_new, floating *A_new, void *workspace, double *variance,
) noexcept nogil

# Bytes of its workspace, which may lie anywhere. They grow with both sizes.
cdef Py_ssize_t reduce_workspace(int N, int rank) noexcept nogil
