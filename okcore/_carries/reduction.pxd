"""The optimal reduction of N Kronecker terms to r (docs/mathematics.md section 4), seen from two Gram matrices."""


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
