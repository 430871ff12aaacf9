"""OK's and KF-RTRL's carries: sums of Kronecker products."""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport isfinite, sqrt
from libc.string cimport memcpy, memset

import numpy as np

from okcore._engine.memory import aligned_zeros

from okcore._engine.address cimport address
from okcore._carries.base cimport Carry, threads_of
from okcore._engine.cell_kernel cimport CellKernel
from okcore._kernels cimport PANEL_STRIDE, gemm, gram_matrix, parts_that_pay, sum_of_squares, transposed_gemm
from okcore._carries.reduction cimport Outcome, mix_terms, reduce_terms, scratch_bytes, scratch_doubles

cdef enum:
    NOT_FINITE = -1
    KEEP_ALL = -2
    THREADS_PAY = 524288    # floats read by a contraction from which waking threads is worth it


cdef class KroneckerCarry(Carry):
    """J = weight sum_{i < rank} A_i (x) u_i, A_i (S, P), u_i (m,): rank (S P + m) floats a lane."""

    cdef readonly int rank
    cdef double weight
    cdef object u_, A_, active_, contracted_, scratch_, bytes_, variance_, mixed_fraction_
    cdef void *u
    cdef void *A
    cdef void *contracted
    cdef int *active               # terms in use, the others are zero
    cdef double *scratch
    cdef char *bytes
    cdef double *variance
    cdef double *mixed_fraction
    cdef Py_ssize_t scratch_size, bytes_size
    cdef int most_terms

    def __init__(self, CellKernel cell, int batch_size, int rank):
        super().__init__(cell, batch_size)
        self.compiled = True
        self.rank = rank
        self.weight = 1
        self.kept_rows = rank
        self.u_ = aligned_zeros((batch_size, rank, self.m), cell.dtype)
        self.A_ = aligned_zeros((batch_size, rank, self.S, self.P), cell.dtype)
        self.contracted_ = aligned_zeros((batch_size, rank, self.P), cell.dtype)
        self.active_ = np.zeros(batch_size, np.int32)
        self.variance_ = np.zeros(batch_size)
        self.mixed_fraction_ = np.zeros(batch_size)
        self.u = address(self.u_)
        self.A = address(self.A_)
        self.contracted = address(self.contracted_)
        self.active = <int *> address(self.active_)
        self.variance = <double *> address(self.variance_)
        self.mixed_fraction = <double *> address(self.mixed_fraction_)

    @property
    def arrays(self):
        return {"u": self.u_, "A": self.A_, "active": self.active_,
                "variance": self.variance_, "mixed_fraction": self.mixed_fraction_}

    @property
    def stats(self):
        return {"variance": self.variance_.copy(), "mixed_fraction": self.mixed_fraction_.copy()}

    def check_arrays(self, arrays):
        active = arrays["active"]
        if active.min() < 0 or active.max() > self.rank:
            raise ValueError(f"carry.active must be from 0 to {self.rank}, got {active}")

    def dense(self, lane):
        return self.cell.dtype.type(self.weight) * np.einsum("isp,ij->spj", self.A_[lane], self.u_[lane])

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        cdef int N = self.rank + n_terms
        self.n_threads = n_threads
        self.most_terms = N
        self.n_draws = self.draws_for(n_terms)
        # two mixing matrices and their casts, two Gram matrices, the panel, signs, the core's own
        self.scratch_size = 2 * N * N + 4 * N * self.rank + N * PANEL_STRIDE + N + scratch_doubles(N)
        self.bytes_size = scratch_bytes(N) + 64
        self.scratch_ = aligned_zeros((n_threads, self.scratch_size), np.float64)
        self.bytes_ = aligned_zeros((n_threads, self.bytes_size), np.uint8)
        self.scratch = <double *> address(self.scratch_)
        self.bytes = <char *> address(self.bytes_)
        return 0

    cdef int draws_for(self, int n_terms) noexcept:
        return 0

    # Mixing coefficients for N = n_old + n_new terms u (N, m), A (N, S, P): columns of mix_u, mix_A (N, rank).
    # Returns the number of terms that come out, KEEP_ALL, or NOT_FINITE.
    cdef int mixing_coefficients(
        self, int lane, int n_old, int n_new, void *u, void *A, const double *draws,
        double *scratch, void *bytes, double *mix_u, double *mix_A,
    ) noexcept nogil:
        return KEEP_ALL

    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil:
        if self.cell.single:
            return kronecker_absorb[float](
                self, lane, thread, alive, n_terms, <float *> Phi, <float *> u, <float *> A, draws)
        return kronecker_absorb[double](
            self, lane, thread, alive, n_terms, <double *> Phi, <double *> u, <double *> A, draws)

    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil:
        if self.cell.single:
            kronecker_contract[float](self, <float *> delta, <float *> gradient)
        else:
            kronecker_contract[double](self, <double *> delta, <double *> gradient)
        return 0

    cdef int zero_lane(self, int lane) except -1 nogil:
        cdef Py_ssize_t size_u = self.rank * self.m * self.item
        cdef Py_ssize_t size_A = self.rank * (<Py_ssize_t> self.S * self.P) * self.item
        memset(<char *> self.u + lane * size_u, 0, size_u)
        memset(<char *> self.A + lane * size_A, 0, size_A)
        self.active[lane] = 0
        self.variance[lane] = self.mixed_fraction[lane] = 0
        return 0


cdef int kronecker_absorb(
    KroneckerCarry carry, int lane, int thread, bint alive, int n_terms,
    const floating *Phi, floating *u, floating *A, const double *draws,
) noexcept nogil:
    cdef int S = carry.S, P = carry.P, m = carry.m, r = carry.rank, i, N, rank, threads
    cdef Py_ssize_t size = <Py_ssize_t> S * P
    cdef int n_old = carry.active[lane] if alive else 0
    cdef floating *lane_u = <floating *> carry.u + <Py_ssize_t> lane * r * m
    cdef floating *lane_A = <floating *> carry.A + lane * r * size
    cdef double *mix_u = carry.scratch + thread * carry.scratch_size
    cdef double *mix_A = mix_u + carry.most_terms * r
    cdef floating *casts = <floating *> (mix_A + carry.most_terms * r)
    cdef double *scratch = mix_A + 3 * carry.most_terms * r

    # The old terms, moved through the block, go in front of the new ones: A_i <- Phi A_i, 2 S^2 P flops each.
    u -= n_old * m
    A -= n_old * size
    memcpy(u, lane_u, n_old * m * sizeof(floating))
    threads = parts_that_pay(n_old, 1, n_old * S * size, threads_of(carry.lane_threads))
    if threads == 1:
        for i in range(n_old):
            gemm[floating](False, False, S, P, S, 1, Phi, S, lane_A + i * size, P, 0, A + i * size, P)
    else:
        for i in prange(n_old, num_threads=threads, schedule="static"):
            gemm[floating](False, False, S, P, S, 1, Phi, S, lane_A + i * size, P, 0, A + i * size, P)
    N = n_old + n_terms

    rank = carry.mixing_coefficients(
        lane, n_old, n_terms, <void *> u, <void *> A, draws, scratch,
        <void *> (carry.bytes + thread * carry.bytes_size), mix_u, mix_A)
    if rank == NOT_FINITE:
        return 1
    if rank == KEEP_ALL:
        rank = N
        memcpy(lane_u, u, N * m * sizeof(floating))
        memcpy(lane_A, A, N * size * sizeof(floating))
    else:
        mix_terms[floating](N, r, rank, m, size, mix_u, mix_A, casts, u, A, lane_u, lane_A,
                            threads_of(carry.lane_threads))
    memset(lane_u + rank * m, 0, (r - rank) * m * sizeof(floating))
    memset(lane_A + rank * size, 0, (r - rank) * size * sizeof(floating))
    carry.active[lane] = rank
    return 0


cdef void contract_one(
    KroneckerCarry carry, int index, const floating *delta,
) noexcept nogil:
    # contracted (P,) = delta (S,) A_i (S, P); index runs over lanes and terms
    cdef int S = carry.S, P = carry.P, lane = index // carry.rank
    cdef floating *row = <floating *> carry.contracted + <Py_ssize_t> index * P
    if index % carry.rank < carry.active[lane]:
        gemm[floating](False, False, 1, P, S, 1, delta + lane * S, S,
                       <floating *> carry.A + <Py_ssize_t> index * S * P, P, 0, row, P)
    else:
        memset(row, 0, P * sizeof(floating))


cdef void kronecker_contract(KroneckerCarry carry, const floating *delta, floating *gradient) noexcept nogil:
    # gradient (P, m) += weight sum_{b, i} (delta_b A_bi)^T u_bi: the factors are read once (memory bound), then
    # one product (P, B r)(B r, m)
    cdef int index, terms = carry.batch_size * carry.rank, P = carry.P, m = carry.m
    cdef int threads = threads_of(max(carry.n_threads, carry.lane_threads)), all_threads = threads
    if terms * (<Py_ssize_t> carry.S * P) < THREADS_PAY:
        threads = 1
    if threads == 1:
        for index in range(terms):
            contract_one[floating](carry, index, delta)
    else:
        for index in prange(terms, num_threads=threads, schedule="static"):
            contract_one[floating](carry, index, delta)
    transposed_gemm[floating](P, m, terms, <floating> carry.weight, <floating *> carry.contracted, P,
                              <floating *> carry.u, m, 1, gradient, m, all_threads)


cdef class OptimalKroneckerSumCarry(KroneckerCarry):
    """OK: reduced from rank + K q terms to rank, unbiased and of minimum variance."""

    cdef bint by_signs

    def __init__(self, CellKernel cell, int batch_size, int rank, mixing):
        super().__init__(cell, batch_size, rank)
        self.by_signs = mixing == "signs"

    cdef int draws_for(self, int n_terms) noexcept:
        return self.rank + n_terms if self.by_signs else 1

    cdef int mixing_coefficients(
        self, int lane, int n_old, int n_new, void *u, void *A, const double *draws,
        double *scratch, void *bytes, double *mix_u, double *mix_A,
    ) noexcept nogil:
        cdef Outcome outcome
        cdef int N = n_old + n_new, i, info
        cdef double *gram_u = scratch
        cdef double *gram_A = gram_u + N * N
        cdef double *panel = gram_A + N * N
        cdef double *signs = panel + N * PANEL_STRIDE
        if N == 0:
            return KEEP_ALL
        if self.cell.single:
            gram_matrix[float](N, self.m, <float *> u, panel, gram_u)
            gram_matrix[float](N, <Py_ssize_t> self.S * self.P, <float *> A, panel, gram_A)
        else:
            gram_matrix[double](N, self.m, <double *> u, panel, gram_u)
            gram_matrix[double](N, <Py_ssize_t> self.S * self.P, <double *> A, panel, gram_A)
        if N <= self.rank:
            for i in range(N):
                if not (isfinite(gram_u[i * N + i]) and isfinite(gram_A[i * N + i])):
                    return NOT_FINITE
            self.variance[lane] = self.mixed_fraction[lane] = 0
            return KEEP_ALL
        if self.by_signs:
            for i in range(N):
                signs[i] = -1 if draws[i] < 0.5 else 1
        info = reduce_terms(
            N, self.rank, gram_u, gram_A, signs if self.by_signs else NULL, draws[0],
            signs + N, bytes, mix_u, mix_A, &outcome)
        if info != 0:
            return NOT_FINITE
        self.variance[lane] = outcome.variance
        self.mixed_fraction[lane] = outcome.mixed_fraction
        return outcome.rank


cdef class RandomSignCarry(KroneckerCarry):
    """KF-RTRL: every copy is one Kronecker product, the sum of its terms with random signs; J is their mean."""

    def __init__(self, CellKernel cell, int batch_size, int copies):
        super().__init__(cell, batch_size, copies)
        self.weight = 1.0 / copies

    @property
    def stats(self):
        return {}

    cdef int draws_for(self, int n_terms) noexcept:
        return self.rank * (1 + n_terms)

    cdef int mixing_coefficients(
        self, int lane, int n_old, int n_new, void *u, void *A, const double *draws,
        double *scratch, void *bytes, double *mix_u, double *mix_A,
    ) noexcept nogil:
        # u' = sum_i c_i p_i u_i, A' = sum_i c_i A_i / p_i with p_i = sqrt(|A_i| / |u_i|) and random signs c_i.
        # Copy col sums its own old term, row col, and all new ones; zero terms drop out, a lone term is kept exactly.
        cdef int copies = self.rank, N = n_old + n_new, col, i, count
        cdef Py_ssize_t size = <Py_ssize_t> self.S * self.P
        cdef double *norm_u = scratch
        cdef double *norm_A = norm_u + N
        cdef const double *row
        cdef double p, sign
        if N == 0:
            return KEEP_ALL
        for i in range(N):
            if self.cell.single:
                norm_u[i] = sqrt(sum_of_squares[float](self.m, <float *> u + i * self.m))
                norm_A[i] = sqrt(sum_of_squares[float](size, <float *> A + i * size))
            else:
                norm_u[i] = sqrt(sum_of_squares[double](self.m, <double *> u + i * self.m))
                norm_A[i] = sqrt(sum_of_squares[double](size, <double *> A + i * size))
            if not (isfinite(norm_u[i]) and isfinite(norm_A[i])):
                return NOT_FINITE
        memset(mix_u, 0, N * copies * sizeof(double))
        memset(mix_A, 0, N * copies * sizeof(double))
        for col in range(copies):
            row = draws + col * (self.n_draws // copies)
            count = 0
            for i in range(N):
                count += (i >= n_old or i == col) and norm_u[i] > 0 and norm_A[i] > 0
            for i in range(N):
                if (i < n_old and i != col) or norm_u[i] == 0 or norm_A[i] == 0:
                    continue
                p, sign = 1, 1
                if count > 1:
                    p = sqrt(norm_A[i] / norm_u[i])
                    sign = -1 if row[0 if i < n_old else 1 + i - n_old] < 0.5 else 1
                mix_u[i * copies + col] = sign * p
                mix_A[i * copies + col] = sign / p
        return copies
