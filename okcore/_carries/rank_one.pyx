"""UORO's carry: one rank-one product."""

from cython cimport floating
from libc.math cimport isfinite, sqrt
from libc.string cimport memset

from okcore._engine.memory import aligned_zeros

from okcore._engine.address cimport address
from okcore._carries.base cimport Carry
from okcore._engine.cell_kernel cimport CellKernel
from okcore._kernels cimport dot_in_double, gemm, sum_of_squares


cdef class RankOneCarry(Carry):
    """UORO: J = a (x) w, a (S,), w (P, m): S + P m floats a lane."""

    cdef object a_, w_, scratch_
    cdef void *a
    cdef void *w
    cdef void *scratch
    cdef int scratch_size

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.compiled = True
        self.n_draws = self.S
        self.a_ = aligned_zeros((batch_size, self.S), cell.dtype)
        self.w_ = aligned_zeros((batch_size, self.P, self.m), cell.dtype)
        self.a = address(self.a_)
        self.w = address(self.w_)

    @property
    def arrays(self):
        return {"a": self.a_, "w": self.w_}

    def dense(self, lane):
        return self.a_[lane][:, None, None] * self.w_[lane]

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_threads = n_threads
        self.scratch_size = 2 * self.S + n_terms * self.P
        self.scratch_ = aligned_zeros((n_threads, self.scratch_size), self.cell.dtype)
        self.scratch = address(self.scratch_)
        return 0

    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil:
        if self.cell.single:
            return rank_one_absorb[float](
                self, lane, thread, alive, n_terms, <float *> Phi, <float *> u, <float *> A, draws)
        return rank_one_absorb[double](
            self, lane, thread, alive, n_terms, <double *> Phi, <double *> u, <double *> A, draws)

    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil:
        if self.cell.single:
            rank_one_contract[float](self, <float *> delta, <float *> gradient)
        else:
            rank_one_contract[double](self, <double *> delta, <double *> gradient)
        return 0

    cdef int zero_lane(self, int lane) except -1 nogil:
        memset(<char *> self.a + lane * self.S * self.item, 0, self.S * self.item)
        memset(<char *> self.w + lane * (<Py_ssize_t> self.P * self.m) * self.item, 0,
               <Py_ssize_t> self.P * self.m * self.item)
        return 0


cdef int rank_one_absorb(
    RankOneCarry carry, int lane, int thread, bint alive, int n_terms,
    const floating *Phi, const floating *u, const floating *A, const double *draws,
) noexcept nogil:
    # a' = rho0 Phi a + rho1 nu,  w' = w / rho0 + nu^T F / rho1,  nu^T F = sum_i (nu A_i)^T u_i
    cdef int S = carry.S, P = carry.P, m = carry.m, s, i, col
    cdef Py_ssize_t size = <Py_ssize_t> P * m
    cdef floating *a = <floating *> carry.a + lane * S
    cdef floating *w = <floating *> carry.w + lane * size
    cdef floating *nu = <floating *> carry.scratch + thread * carry.scratch_size
    cdef floating *moved = nu + S
    cdef floating *projected = moved + S     # rows nu A_i
    cdef double eps = 1e-7 if floating is float else 1e-14
    cdef double norm_w, norm_moved, norm_F = 0, rho0, rho1
    for s in range(S):
        nu[s] = -1 if draws[s] < 0.5 else 1
    if alive:
        gemm[floating](False, True, 1, S, S, 1, a, S, Phi, S, 0, moved, S)
    else:
        memset(moved, 0, S * sizeof(floating))
    for i in range(n_terms):
        gemm[floating](False, False, 1, P, S, 1, nu, S, A + i * (<Py_ssize_t> S * P), P, 0, projected + i * P, P)
    for i in range(n_terms):
        for col in range(n_terms):
            norm_F += (dot_in_double[floating](P, projected + i * P, projected + col * P)
                       * dot_in_double[floating](m, u + i * m, u + col * m))
    norm_w = sqrt(sum_of_squares[floating](size, w)) if alive else 0.0
    norm_moved = sqrt(sum_of_squares[floating](S, moved))
    norm_F = sqrt(max(0.0, norm_F))
    if not (isfinite(norm_w) and isfinite(norm_moved) and isfinite(norm_F)):
        return 1
    rho0 = sqrt((norm_w + eps) / (norm_moved + eps))
    rho1 = sqrt((norm_F + eps) / (sqrt(<double> S) + eps))
    for s in range(S):
        a[s] = <floating> (rho0 * moved[s] + rho1 * nu[s])
    # (N, P)^T (N, m): 2 N P m flops
    gemm[floating](True, False, P, m, n_terms, <floating> (1 / rho1), projected, P, u, m,
                   <floating> (1 / rho0) if alive else <floating> 0, w, m)
    return 0


cdef void rank_one_contract(RankOneCarry carry, const floating *delta, floating *gradient) noexcept nogil:
    # gradient (P m,) += sum_b (delta_b . a_b) w_b
    cdef int lane
    cdef floating weight
    cdef Py_ssize_t size = <Py_ssize_t> carry.P * carry.m
    for lane in range(carry.batch_size):
        weight = <floating> dot_in_double[floating](
            carry.S, delta + lane * carry.S, <floating *> carry.a + lane * carry.S)
        gemm[floating](False, False, 1, <int> size, 1, 1, &weight, 1,
                       <floating *> carry.w + lane * size, <int> size, 1, gradient, <int> size)
