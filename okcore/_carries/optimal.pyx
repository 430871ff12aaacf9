"""OK's carry: a sum of Kronecker products, reduced without bias and with the least possible variance."""

from cython cimport floating
from libc.math cimport isfinite

import numpy as np

from okcore._carries.kronecker cimport FAILED, KEEP_ALL, NO_SVD, KroneckerCarry, Scratch, mixing_function
from okcore._carries.reduction cimport Outcome, reduce_terms
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport Block
from okcore._kernels cimport gram_matrix


cdef class OptimalKroneckerSumCarry(KroneckerCarry):
    """OK: reduced from rank + K q terms to rank, or to as few as a tolerance of noise allows; of minimum variance."""

    cdef bint by_signs
    cdef double tolerance            # of noise, relative to the norm of what is reduced; negative: none
    cdef double *variance            # (B,) s1^2 / k - s2 of the last reduction
    cdef double *mixed_fraction      # (B,) the share of the singular values that it mixed

    def __init__(self, CellKernel cell, int batch_size, int rank, mixing, tolerance=None):
        super().__init__(cell, batch_size, rank)
        self.by_signs = mixing == "signs"
        self.tolerance = -1 if tolerance is None else tolerance
        self.variance = <double *> address(self.keep("variance", (), np.float64))
        self.mixed_fraction = <double *> address(self.keep("mixed_fraction", (), np.float64))
        if self.single:
            self.mixing = <mixing_function> optimal_mixing[float]
        else:
            self.mixing = <mixing_function> optimal_mixing[double]

    @property
    def stats(self):
        figures = {"variance": "variance", "mixed_fraction": "mixed_fraction", "rank": "active"}
        return {figure: self.kept[name].copy() for figure, name in figures.items()}

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_draws = self.rank + n_terms if self.by_signs else 1
        return KroneckerCarry.prepare(self, n_terms, n_threads)


cdef int optimal_mixing(
    OptimalKroneckerSumCarry carry, const Block *block, int n_old, const floating **u, const floating **A,
    Scratch *scratch,
) noexcept nogil:
    cdef Outcome outcome
    cdef int N = n_old + block.n_terms, lane = block.lane, i, info
    cdef double *gram_u = scratch.doubles
    cdef double *gram_A = gram_u + N * N
    cdef double *signs = gram_A + N * N
    if N == 0:
        return KEEP_ALL
    gram_matrix[floating](N, carry.sizes.m, u, NULL, scratch.packed, gram_u)
    gram_matrix[floating](N, <Py_ssize_t> carry.sizes.S * carry.sizes.P, A, NULL, scratch.packed, gram_A)
    if N <= carry.rank and carry.tolerance < 0:
        for i in range(N):
            if not (isfinite(gram_u[i * N + i]) and isfinite(gram_A[i * N + i])):
                return FAILED
        carry.variance[lane] = carry.mixed_fraction[lane] = 0
        return KEEP_ALL
    if carry.by_signs:
        for i in range(N):
            signs[i] = -1 if block.draws[i] < 0.5 else 1
    info = reduce_terms(N, carry.rank, carry.tolerance, gram_u, gram_A, signs if carry.by_signs else NULL,
                        block.draws[0], signs + N, scratch.bytes, scratch.mix_u, scratch.mix_A, &outcome)
    if info != 0:
        return NO_SVD if info == 2 else FAILED
    scratch.precise_u, scratch.precise_A = outcome.precise_u, outcome.precise_A
    carry.variance[lane] = outcome.variance
    carry.mixed_fraction[lane] = outcome.mixed_fraction
    return KEEP_ALL if outcome.rank == N else outcome.rank
