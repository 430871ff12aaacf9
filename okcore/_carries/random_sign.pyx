"""KF-RTRL's carry: Kronecker products, each the sum of its terms with random signs."""

from cython cimport floating
from libc.math cimport fmax, fmin, isfinite, sqrt
from libc.string cimport memset

from okcore._carries.kronecker cimport FAILED, KEEP_ALL, KroneckerCarry, Scratch, mixing_function
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport Block
from okcore._kernels cimport sum_of_squares


cdef class RandomSignCarry(KroneckerCarry):
    """KF-RTRL: every copy is one Kronecker product, the sum of its terms with random signs; J is their mean."""

    def __init__(self, CellKernel cell, int batch_size, int copies):
        super().__init__(cell, batch_size, copies)
        self.weight = 1.0 / copies
        if self.single:
            self.mixing = <mixing_function> random_sign_mixing[float]
        else:
            self.mixing = <mixing_function> random_sign_mixing[double]

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_draws = self.rank * (1 + n_terms)
        return KroneckerCarry.prepare(self, n_terms, n_threads)


cdef int random_sign_mixing(
    RandomSignCarry carry, const Block *block, int n_old, const floating **u, const floating **A, Scratch *scratch,
) noexcept nogil:
    # u' = sum_i c_i p_i u_i, A' = sum_i c_i A_i / p_i with p_i = sqrt(|A_i| / |u_i|) and random signs c_i. Copy col
    # sums its own old term, row col, and all new ones. Zero terms drop out, and a lone term is kept exactly.
    cdef int copies = carry.rank, N = n_old + block.n_terms, col, i, count
    cdef Py_ssize_t size = <Py_ssize_t> carry.sizes.S * carry.sizes.P
    cdef double *norm_u = scratch.doubles
    cdef double *norm_A = norm_u + N
    cdef const double *row
    cdef double p, sign, least = 1e-30 if floating is float else 1e-150  # any p is unbiased: p and 1 / p must fit
    if N == 0:
        return KEEP_ALL
    for i in range(N):
        norm_u[i] = sqrt(sum_of_squares[floating](carry.sizes.m, u[i]))
        norm_A[i] = sqrt(sum_of_squares[floating](size, A[i]))
        if not (isfinite(norm_u[i]) and isfinite(norm_A[i])):
            return FAILED
    memset(scratch.mix_u, 0, N * copies * sizeof(double))
    memset(scratch.mix_A, 0, N * copies * sizeof(double))
    for col in range(copies):
        row = block.draws + col * (carry.n_draws // copies)
        count = 0
        for i in range(N):
            count += (i >= n_old or i == col) and norm_u[i] > 0 and norm_A[i] > 0
        for i in range(N):
            if (i < n_old and i != col) or norm_u[i] == 0 or norm_A[i] == 0:
                continue
            p, sign = 1, 1
            if count > 1:
                p = fmin(fmax(sqrt(norm_A[i] / norm_u[i]), least), 1 / least)
                sign = -1 if row[0 if i < n_old else 1 + i - n_old] < 0.5 else 1
            scratch.mix_u[i * copies + col] = sign * p
            scratch.mix_A[i * copies + col] = sign / p
    return copies
