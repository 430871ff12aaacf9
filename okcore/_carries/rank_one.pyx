"""UORO's carry: one rank-one product."""

from cython cimport floating
from libc.math cimport isfinite, sqrt
from libc.string cimport memset

from okcore._carries.base cimport Carry, absorb_function, contract_function
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NOT_FINITE, Block
from okcore._kernels cimport dot_in_double, gemm, sum_of_squares


cdef class RankOneCarry(Carry):
    """UORO: J = a (x) w, a (S,), w (P, m): S + P m floats per lane."""

    cdef void *a
    cdef void *w
    cdef void *scratch       # (threads, scratch_size)
    cdef int scratch_size

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.n_draws = self.sizes.S
        self.a = address(self.keep("a", (self.sizes.S,)))
        self.w = address(self.keep("w", (self.sizes.P, self.sizes.m)))
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    def dense(self, lane):
        return self.kept["a"][lane][:, None, None] * self.kept["w"][lane]

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.scratch_size = 2 * self.sizes.S + n_terms * self.sizes.P
        self.scratch = self.reserve((n_threads, self.scratch_size), None)
        return 0


cdef void bind(RankOneCarry carry, floating *_) noexcept:
    carry.absorb_lane = <absorb_function> absorb_into_product[floating]
    carry.contract_lanes = <contract_function> credit_times_product[floating]


cdef int absorb_into_product(
    RankOneCarry carry, const Block *block, const floating *Phi, const floating *u, const floating *A,
) noexcept nogil:
    # a' = rho0 Phi a + rho1 nu,  w' = w / rho0 + nu^T F / rho1,  nu^T F = sum_i (nu A_i)^T u_i
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m, n_terms = block.n_terms, s, i, col
    cdef Py_ssize_t size = <Py_ssize_t> P * m
    cdef floating *a = <floating *> carry.a + block.lane * S
    cdef floating *w = <floating *> carry.w + block.lane * size
    cdef floating *nu = <floating *> carry.scratch + block.thread * carry.scratch_size
    cdef floating *moved = nu + S
    cdef floating *projected = moved + S     # rows nu A_i
    cdef double eps = 1e-7 if floating is float else 1e-14
    cdef double norm_w, norm_moved, norm_F = 0, rho0, rho1
    for s in range(S):
        nu[s] = -1 if block.draws[s] < 0.5 else 1
    if block.alive:
        gemm[floating](False, True, 1, S, S, 1, a, S, Phi, S, 0, moved, S)
    else:
        memset(moved, 0, S * sizeof(floating))
    for i in range(n_terms):
        gemm[floating](False, False, 1, P, S, 1, nu, S, A + i * (<Py_ssize_t> S * P), P, 0, projected + i * P, P)
    for i in range(n_terms):
        for col in range(n_terms):
            norm_F += (dot_in_double[floating](P, projected + i * P, projected + col * P)
                       * dot_in_double[floating](m, u + i * m, u + col * m))
    norm_w = sqrt(sum_of_squares[floating](size, w)) if block.alive else 0.0
    norm_moved = sqrt(sum_of_squares[floating](S, moved))
    norm_F = sqrt(max(0.0, norm_F))
    if not (isfinite(norm_w) and isfinite(norm_moved) and isfinite(norm_F)):
        return NOT_FINITE
    rho0 = sqrt((norm_w + eps) / (norm_moved + eps))
    rho1 = sqrt((norm_F + eps) / (sqrt(<double> S) + eps))
    for s in range(S):
        a[s] = <floating> (rho0 * moved[s] + rho1 * nu[s])
    # (N, P)^T (N, m): 2 N P m flops
    gemm[floating](True, False, P, m, n_terms, <floating> (1 / rho1), projected, P, u, m,
                   <floating> (1 / rho0) if block.alive else <floating> 0, w, m)
    return FINE


cdef int credit_times_product(
    RankOneCarry carry, int first, int end, const floating *delta, floating *gradient, bint add,
) noexcept nogil:
    # gradient (P m,) = (or +=) sum_b (delta_b . a_b) w_b
    cdef int lane, S = carry.sizes.S
    cdef floating weight
    cdef Py_ssize_t size = <Py_ssize_t> carry.sizes.P * carry.sizes.m
    for lane in range(first, end):
        weight = <floating> dot_in_double[floating](S, delta + lane * S, <floating *> carry.a + lane * S)
        gemm[floating](False, False, 1, <int> size, 1, 1, &weight, 1, <floating *> carry.w + lane * size, <int> size,
                       1 if add or lane > first else 0, gradient, <int> size)
    return FINE
