"""OK's and KF-RTRL's carries: sums of Kronecker products."""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport isfinite, sqrt
from libc.string cimport memcpy, memset

import numpy as np

from okcore._carries.base cimport Carry, absorb_function, contract_function
from okcore._carries.reduction cimport Outcome, reduce_terms, scratch_bytes, scratch_doubles
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NO_CONVERGENCE, NOT_FINITE, Block
from okcore._kernels cimport (
    GRAM_LD,
    contract_factors,
    gemm,
    gram_matrix,
    mix_terms,
    parts_that_pay,
    sum_of_squares,
    threads_of,
    transposed_gemm,
)

cdef enum:
    FAILED = -1             # something is not finite
    KEEP_ALL = -2           # all terms fit: nothing is mixed
    NO_SVD = -3             # it did not converge
    THREADS_PAY = 524288    # floats read by a contraction from which on waking threads is worth it


# What one thread works in
cdef struct Scratch:
    double *mix_u           # (N, rank) mixing coefficients: u'_l = sum_i mix_u[i, l] u_i
    double *mix_A           # (N, rank) and A'_l = sum_i mix_A[i, l] A_i
    void *casts             # (N, rank) either of them, in the cell's dtype
    bint precise_u, precise_A   # are their coefficients so large that terms cancel?
    double *packed          # (N + rank) GRAM_LD
    double *doubles
    void *bytes


cdef class KroneckerCarry(Carry)

# Fill in the coefficients that mix N = n_old + block.n_terms terms u (N, m), A (N, S, P); the old ones come first.
# Returns the number of terms that come out, KEEP_ALL, FAILED or NO_SVD.
ctypedef int (*mixing_function)(
    KroneckerCarry carry, const Block *block, int n_old, const void *u, const void *A, Scratch *scratch) noexcept nogil


cdef class KroneckerCarry(Carry):
    """J = weight sum_{i < rank} A_i (x) u_i, A_i (S, P), u_i (m,): rank (S P + m) floats per lane."""

    cdef readonly int rank
    cdef double weight
    cdef void *u                   # (B, rank, m)
    cdef void *A                   # (B, rank, S, P)
    cdef int *active               # (B,) terms in use; the others are zero
    cdef void *rows                # (B, rank, P) delta A_i
    cdef int most_terms
    cdef double *doubles           # (threads, doubles_size)
    cdef char *bytes               # (threads, bytes_size)
    cdef Py_ssize_t doubles_size, bytes_size
    cdef mixing_function mixing    # bound by the subclass

    def __init__(self, CellKernel cell, int batch_size, int rank):
        super().__init__(cell, batch_size)
        self.rank = self.front_rows = rank
        self.weight = 1
        self.u = address(self.keep("u", (rank, self.sizes.m)))
        self.A = address(self.keep("A", (rank, self.sizes.S, self.sizes.P)))
        self.active = <int *> address(self.keep("active", (), np.intc))
        self.rows = self.reserve((batch_size, rank, self.sizes.P), None)
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    def check_arrays(self, arrays):
        active = arrays["active"]
        if active.min() < 0 or active.max() > self.rank:
            raise ValueError(f"carry.active must be from 0 to {self.rank}, got {active}")

    def dense(self, lane):
        return self.dtype.type(self.weight) * np.einsum("isp,ij->spj", self.kept["A"][lane], self.kept["u"][lane])

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        cdef int N = self.rank + n_terms
        self.most_terms = N
        # two mixing matrices and a cast, columns in double, two Gram matrices, signs, the core's own
        self.doubles_size = 3 * N * self.rank + (N + self.rank) * GRAM_LD + 2 * N * N + N + scratch_doubles(N)
        self.bytes_size = scratch_bytes(N) + 64
        self.doubles = <double *> self.reserve((n_threads, self.doubles_size), np.float64)
        self.bytes = <char *> self.reserve((n_threads, self.bytes_size), np.uint8)
        return 0

    cdef Scratch scratch_of(self, int thread) noexcept nogil:
        cdef Py_ssize_t coefficients = <Py_ssize_t> self.most_terms * self.rank
        cdef Scratch scratch
        scratch.mix_u = self.doubles + thread * self.doubles_size
        scratch.mix_A = scratch.mix_u + coefficients
        scratch.casts = scratch.mix_A + coefficients
        scratch.precise_u = scratch.precise_A = False
        scratch.packed = scratch.mix_A + 2 * coefficients
        scratch.doubles = scratch.packed + (self.most_terms + self.rank) * GRAM_LD
        scratch.bytes = self.bytes + thread * self.bytes_size
        return scratch


cdef void bind(KroneckerCarry carry, floating *_) noexcept:
    carry.absorb_lane = <absorb_function> absorb_into_sum[floating]
    carry.contract_lanes = <contract_function> credit_times_sum[floating]


cdef int absorb_into_sum(
    KroneckerCarry carry, const Block *block, const floating *Phi, const floating *new_u, const floating *new_A,
) noexcept nogil:
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m, r = carry.rank, lane = block.lane
    cdef int i, N, rank, threads, n_old = 0
    cdef Py_ssize_t size = <Py_ssize_t> S * P, first
    cdef floating *lane_u = <floating *> carry.u + <Py_ssize_t> lane * r * m
    cdef floating *lane_A = <floating *> carry.A + lane * r * size
    cdef Scratch scratch = carry.scratch_of(block.thread)
    # The old terms, moved through the block, go into the rows in front of the new ones: A_i <- Phi A_i, 2 S^2 P flops
    # each. Gram matrices and mixing then see one matrix of N rows.
    cdef floating *u
    cdef floating *A
    if block.alive:
        n_old = max(0, min(carry.active[lane], r))  # whatever a user has written into `arrays`
    first = <Py_ssize_t> block.thread * carry.room_rows + r - n_old
    u = <floating *> carry.u_room + first * m
    A = <floating *> carry.A_room + first * size
    memcpy(u, lane_u, n_old * m * sizeof(floating))
    threads = parts_that_pay(n_old, 1, n_old * S * size, threads_of(carry.lane_threads))
    if threads == 1:
        for i in range(n_old):
            gemm[floating](False, False, S, P, S, 1, Phi, S, lane_A + i * size, P, 0, A + i * size, P)
    else:
        for i in prange(n_old, num_threads=threads, schedule="static"):
            gemm[floating](False, False, S, P, S, 1, Phi, S, lane_A + i * size, P, 0, A + i * size, P)
    N = n_old + block.n_terms

    rank = carry.mixing(carry, block, n_old, u, A, &scratch)
    if rank == FAILED:
        return NOT_FINITE
    if rank == NO_SVD:
        return NO_CONVERGENCE
    if rank == KEEP_ALL:
        rank = N
        memcpy(lane_u, u, N * m * sizeof(floating))
        memcpy(lane_A, A, N * size * sizeof(floating))
    else:
        mix_terms[floating](N, r, rank, m, scratch.mix_u, scratch.precise_u, <floating *> scratch.casts,
                            scratch.packed, u, lane_u, 1)
        mix_terms[floating](N, r, rank, size, scratch.mix_A, scratch.precise_A, <floating *> scratch.casts,
                            scratch.packed, A, lane_A, threads_of(carry.lane_threads))
    memset(lane_u + rank * m, 0, (r - rank) * m * sizeof(floating))
    memset(lane_A + rank * size, 0, (r - rank) * size * sizeof(floating))
    carry.active[lane] = rank
    return FINE


cdef void contract_factor(KroneckerCarry carry, int index, const floating *delta) noexcept nogil:
    # rows (P,) = delta (S,) A_i (S, P); index runs over lanes and terms
    cdef int S = carry.sizes.S, P = carry.sizes.P, lane = index // carry.rank
    cdef floating *row = <floating *> carry.rows + <Py_ssize_t> index * P
    if index % carry.rank < carry.active[lane]:
        contract_factors[floating](1, S, P, delta + lane * S, <floating *> carry.A + <Py_ssize_t> index * S * P, row)
    else:
        memset(row, 0, P * sizeof(floating))


cdef int credit_times_sum(KroneckerCarry carry, const floating *delta, floating *gradient, bint add) noexcept nogil:
    # gradient (P, m) = (or +=) weight sum_{b, i} (delta_b A_bi)^T u_bi: the factors are read once (memory bound), then
    # one product (P, B r)(B r, m)
    cdef int index, terms = carry.batch_size * carry.rank, P = carry.sizes.P, m = carry.sizes.m
    cdef int threads = threads_of(max(carry.n_threads, carry.lane_threads)), all_threads = threads
    if terms * (<Py_ssize_t> carry.sizes.S * P) < THREADS_PAY:
        threads = 1
    if threads == 1:
        for index in range(terms):
            contract_factor[floating](carry, index, delta)
    else:
        for index in prange(terms, num_threads=threads, schedule="static"):
            contract_factor[floating](carry, index, delta)
    transposed_gemm[floating](P, m, terms, <floating> carry.weight, <floating *> carry.rows, P,
                              <floating *> carry.u, m, 1 if add else 0, gradient, m, all_threads)
    return FINE


# ---- OK --------------------------------------------------------------------------------------------------------------

cdef class OptimalKroneckerSumCarry(KroneckerCarry):
    """OK: reduced from rank + K q terms to rank, unbiased and of minimum variance."""

    cdef bint by_signs
    cdef double *variance            # (B,) s1^2 / k - s2 of the last reduction
    cdef double *mixed_fraction      # (B,) the share of the singular values that it mixed

    def __init__(self, CellKernel cell, int batch_size, int rank, mixing):
        super().__init__(cell, batch_size, rank)
        self.by_signs = mixing == "signs"
        self.variance = <double *> address(self.keep("variance", (), np.float64))
        self.mixed_fraction = <double *> address(self.keep("mixed_fraction", (), np.float64))
        if self.single:
            self.mixing = <mixing_function> optimal_mixing[float]
        else:
            self.mixing = <mixing_function> optimal_mixing[double]

    @property
    def stats(self):
        return {name: self.kept[name].copy() for name in ("variance", "mixed_fraction")}

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_draws = self.rank + n_terms if self.by_signs else 1
        return KroneckerCarry.prepare(self, n_terms, n_threads)


cdef int optimal_mixing(
    OptimalKroneckerSumCarry carry, const Block *block, int n_old, const floating *u, const floating *A,
    Scratch *scratch,
) noexcept nogil:
    cdef Outcome outcome
    cdef int N = n_old + block.n_terms, lane = block.lane, i, info
    cdef double *gram_u = scratch.doubles
    cdef double *gram_A = gram_u + N * N
    cdef double *signs = gram_A + N * N
    if N == 0:
        return KEEP_ALL
    gram_matrix[floating](N, carry.sizes.m, u, scratch.packed, gram_u)
    gram_matrix[floating](N, <Py_ssize_t> carry.sizes.S * carry.sizes.P, A, scratch.packed, gram_A)
    if N <= carry.rank:
        for i in range(N):
            if not (isfinite(gram_u[i * N + i]) and isfinite(gram_A[i * N + i])):
                return FAILED
        carry.variance[lane] = carry.mixed_fraction[lane] = 0
        return KEEP_ALL
    if carry.by_signs:
        for i in range(N):
            signs[i] = -1 if block.draws[i] < 0.5 else 1
    info = reduce_terms(N, carry.rank, gram_u, gram_A, signs if carry.by_signs else NULL, block.draws[0], signs + N,
                        scratch.bytes, scratch.mix_u, scratch.mix_A, &outcome)
    if info != 0:
        return NO_SVD if info == 2 else FAILED
    scratch.precise_u, scratch.precise_A = outcome.precise_u, outcome.precise_A
    carry.variance[lane] = outcome.variance
    carry.mixed_fraction[lane] = outcome.mixed_fraction
    return outcome.rank


# ---- KF-RTRL ---------------------------------------------------------------------------------------------------------

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
    RandomSignCarry carry, const Block *block, int n_old, const floating *u, const floating *A, Scratch *scratch,
) noexcept nogil:
    # u' = sum_i c_i p_i u_i, A' = sum_i c_i A_i / p_i with p_i = sqrt(|A_i| / |u_i|) and random signs c_i. Copy col
    # sums its own old term, row col, and all new ones. Zero terms drop out, and a lone term is kept exactly.
    cdef int copies = carry.rank, N = n_old + block.n_terms, m = carry.sizes.m, col, i, count
    cdef Py_ssize_t size = <Py_ssize_t> carry.sizes.S * carry.sizes.P
    cdef double *norm_u = scratch.doubles
    cdef double *norm_A = norm_u + N
    cdef const double *row
    cdef double p, sign
    if N == 0:
        return KEEP_ALL
    for i in range(N):
        norm_u[i] = sqrt(sum_of_squares[floating](m, u + i * m))
        norm_A[i] = sqrt(sum_of_squares[floating](size, A + i * size))
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
                p = sqrt(norm_A[i] / norm_u[i])
                sign = -1 if row[0 if i < n_old else 1 + i - n_old] < 0.5 else 1
            scratch.mix_u[i * copies + col] = sign * p
            scratch.mix_A[i * copies + col] = sign / p
    return copies
