"""The base of the carries that are sums of Kronecker products: a subclass says how N terms become at most `rank`."""

from okcore._carries.base cimport Carry
from okcore._carries.reduction cimport FAILED, NO_SVD
from okcore._engine.messages cimport Block

cdef enum:
    KEEP_ALL = -3           # all terms fit: nothing is mixed


# What one thread works in
cdef struct Scratch:
    double *mix_u           # (N, rank) mixing coefficients: u'_l = sum_i mix_u[i, l] u_i
    double *mix_A           # (N, rank) and A'_l = sum_i mix_A[i, l] A_i
    void *casts             # (N, rank) either of them, in the cell's dtype
    bint precise_u, precise_A   # are their coefficients so large that terms cancel?
    double *packed          # for gram_matrix and mix_terms
    double *doubles
    void *bytes


cdef class KroneckerCarry(Carry)

# Fill in the coefficients that mix N = n_old + block.n_terms terms: the old ones, moved through the block, then the
# block's own, newest step first. u[i] (m,) and A[i] (S, P) are where term i is.
# Returns the number of terms that come out, KEEP_ALL, FAILED or NO_SVD.
ctypedef int (*mixing_function)(
    KroneckerCarry carry, const Block *block, int n_old, const void **u, const void **A, Scratch *scratch,
) noexcept nogil


cdef class KroneckerCarry(Carry):
    cdef readonly int rank
    cdef double weight
    cdef void *u                   # (B, rank, m)
    cdef void *A                   # (B, rank, S, P)
    cdef int *active               # (B,) terms in use; the others are zero
    cdef int *in_use               # (B rank,) which terms are in use, counted over the lanes
    cdef void *rows                # (B rank, P) delta A_i of the terms in use
    cdef void *in_use_u            # (B rank, m) their u_i
    cdef int most_terms
    cdef double *packed            # (threads, packed_doubles)
    cdef void *stripe              # (threads, S, STRIPE)
    cdef void **terms              # (threads, 2, most_terms) where the u_i and the A_i are
    cdef double *doubles           # (threads, doubles_size)
    cdef char *bytes               # (threads, bytes_size)
    cdef Py_ssize_t doubles_size, bytes_size
    cdef mixing_function mixing    # bound by the subclass

    cdef Scratch scratch_of(self, int thread) noexcept nogil
