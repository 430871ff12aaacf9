"""Sums of Kronecker products: what OK's and KF-RTRL's carries share."""

from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

import numpy as np

from okcore._carries.base cimport Carry, absorb_function, contract_function
from okcore._carries.reduction cimport scratch_bytes, scratch_doubles
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NO_CONVERGENCE, NOT_FINITE, Block
from okcore._kernels cimport (
    contract_matrix,
    mix_terms,
    multiply_in_place,
    packed_doubles,
    parts_that_pay,
    threads_of,
    transposed_gemm,
)

cdef enum:
    THREADS_PAY = 524288    # floats read by a contraction from which on waking threads is worth it
    STRIPE = 128            # columns of a factor that are multiplied together


cdef class KroneckerCarry(Carry):
    """J = weight sum_{i < rank} A_i (x) u_i, A_i (S, P), u_i (m,): rank (S P + m) floats per lane."""

    def __init__(self, CellKernel cell, int batch_size, int rank):
        super().__init__(cell, batch_size)
        self.rank = rank
        self.weight = 1
        self.u = address(self.keep("u", (rank, self.sizes.m)))
        self.A = address(self.keep("A", (rank, self.sizes.S, self.sizes.P)))
        self.active = <int *> address(self.keep("active", (), np.intc))
        self.in_use = <int *> self.reserve((batch_size, rank), np.intc)
        self.rows = self.reserve((batch_size, rank, self.sizes.P), None)
        self.in_use_u = self.reserve((batch_size, rank, self.sizes.m), None)
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    def check_arrays(self, arrays):
        active = arrays["active"]
        if active.min() < 0 or active.max() > self.rank:
            raise ValueError(f"carry.active must be from 0 to {self.rank}, got {active}")

    def dense(self, lane):
        terms = slice(self.kept["active"][lane])
        return self.dtype.type(self.weight) * np.einsum(
            "isp,ij->spj", self.kept["A"][lane, terms], self.kept["u"][lane, terms])

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        cdef Py_ssize_t N = <Py_ssize_t> self.rank + n_terms
        self.most_terms = <int> N
        # two mixing matrices and a cast, two Gram matrices, signs, the core's own
        self.doubles_size = 3 * N * self.rank + 2 * N * N + N + scratch_doubles(<int> N)
        self.bytes_size = scratch_bytes(<int> N) + 64
        self.terms = <void **> self.reserve((n_threads, 2, N), np.uintp)
        self.doubles = <double *> self.reserve((n_threads, self.doubles_size), np.float64)
        self.bytes = <char *> self.reserve((n_threads, self.bytes_size), np.uint8)
        n_threads = max(n_threads, self.lane_threads)
        self.packed = <double *> self.reserve((n_threads, packed_doubles(<int> N, self.rank)), np.float64)
        self.stripe = self.reserve((n_threads, self.sizes.S, STRIPE), None)
        return 0

    cdef Scratch scratch_of(self, int thread) noexcept nogil:
        cdef Py_ssize_t coefficients = <Py_ssize_t> self.most_terms * self.rank
        cdef Scratch scratch
        scratch.mix_u = self.doubles + thread * self.doubles_size
        scratch.mix_A = scratch.mix_u + coefficients
        scratch.casts = scratch.mix_A + coefficients
        scratch.precise_u = scratch.precise_A = False
        scratch.doubles = scratch.mix_A + 2 * coefficients
        scratch.packed = self.packed + thread * packed_doubles(self.most_terms, self.rank)
        scratch.bytes = self.bytes + thread * self.bytes_size
        return scratch


cdef int terms_in_use(KroneckerCarry carry, int lane) noexcept nogil:
    return max(0, min(carry.active[lane], carry.rank))  # whatever a user has written into `arrays`


cdef void bind(KroneckerCarry carry, floating *_) noexcept:
    carry.absorb_lane = <absorb_function> absorb_into_sum[floating]
    carry.contract_lanes = <contract_function> credit_times_sum[floating]


cdef int absorb_into_sum(
    KroneckerCarry carry, const Block *block, const floating *Phi, floating *new_u, floating *new_A,
) noexcept nogil:
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m, r = carry.rank, lane = block.lane
    cdef int i, N, rank, threads, n_old = 0, n_before = terms_in_use(carry, lane)
    cdef Py_ssize_t size = <Py_ssize_t> S * P
    cdef floating *lane_u = <floating *> carry.u + <Py_ssize_t> lane * r * m
    cdef floating *lane_A = <floating *> carry.A + lane * r * size
    cdef const floating **u = <const floating **> (carry.terms + <Py_ssize_t> block.thread * 2 * carry.most_terms)
    cdef const floating **A = u + carry.most_terms
    cdef Scratch scratch = carry.scratch_of(block.thread)
    if block.alive:
        n_old = n_before
    N = n_old + block.n_terms
    for i in range(N):
        u[i] = lane_u + i * m if i < n_old else new_u + (i - n_old) * m
        A[i] = lane_A + i * size if i < n_old else new_A + (i - n_old) * size
    # A_i <- Phi A_i in place, 2 S^2 P flops each
    threads = parts_that_pay(n_old, 1, n_old * S * size, threads_of(carry.lane_threads))
    if threads == 1:
        for i in range(n_old):
            move_factor[floating](carry, block.thread, Phi, lane_A + i * size)
    else:
        for i in prange(n_old, num_threads=threads, schedule="static"):
            move_factor[floating](carry, threadid(), Phi, lane_A + i * size)

    rank = carry.mixing(carry, block, n_old, <const void **> u, <const void **> A, &scratch)
    if rank == FAILED:
        return NOT_FINITE
    if rank == NO_SVD:
        return NO_CONVERGENCE
    if rank == KEEP_ALL:
        rank = N
        memcpy(lane_u + n_old * m, new_u, block.n_terms * m * sizeof(floating))
        memcpy(lane_A + n_old * size, new_A, block.n_terms * size * sizeof(floating))
    else:
        mix_terms[floating](N, r, rank, m, scratch.mix_u, scratch.precise_u, <floating *> scratch.casts,
                            scratch.packed, u, NULL, lane_u, 1)
        mix_terms[floating](N, r, rank, size, scratch.mix_A, scratch.precise_A, <floating *> scratch.casts,
                            scratch.packed, A, NULL, lane_A, threads_of(carry.lane_threads))
    if rank < n_before:  # the rows of terms that are not in use are zero
        memset(lane_u + rank * m, 0, (n_before - rank) * m * sizeof(floating))
        memset(lane_A + rank * size, 0, (n_before - rank) * size * sizeof(floating))
    carry.active[lane] = rank
    return FINE


cdef void move_factor(KroneckerCarry carry, int thread, const floating *Phi, floating *A) noexcept nogil:
    cdef int S = carry.sizes.S, P = carry.sizes.P, start = 0
    cdef floating *copy = <floating *> carry.stripe + <Py_ssize_t> thread * S * STRIPE
    while start < P:
        multiply_in_place[floating](S, min(STRIPE, P - start), Phi, A + start, P, copy)
        start += STRIPE


cdef void contract_factor(KroneckerCarry carry, int index, int terms, const floating *delta) noexcept nogil:
    # rows (P,) = delta (S,) A_i (S, P) and a copy of u_i, side by side with those of the other terms in use
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m
    cdef Py_ssize_t term = carry.in_use[index], size = <Py_ssize_t> S * P
    contract_matrix[floating](terms * size, P, S, delta + term // carry.rank * S, <floating *> carry.A + term * size, 0,
                              <floating *> carry.rows + <Py_ssize_t> index * P, 1)
    memcpy(<floating *> carry.in_use_u + <Py_ssize_t> index * m, <floating *> carry.u + term * m, m * sizeof(floating))


cdef int credit_times_sum(
    KroneckerCarry carry, int first, int end, const floating *delta, floating *gradient, bint add,
) noexcept nogil:
    # gradient (P, m) = (or +=) weight sum_{b, i} (delta_b A_bi)^T u_bi over the terms in use: the factors are read once
    # (memory bound), then one product (P, terms)(terms, m)
    cdef int index, lane, i, terms = 0, P = carry.sizes.P, m = carry.sizes.m
    cdef int threads = threads_of(max(carry.n_threads, carry.lane_threads)), all_threads = threads
    for lane in range(first, end):
        for i in range(terms_in_use(carry, lane)):
            carry.in_use[terms] = lane * carry.rank + i
            terms += 1
    if terms * (<Py_ssize_t> carry.sizes.S * P) < THREADS_PAY:
        threads = 1
    if threads == 1:
        for index in range(terms):
            contract_factor[floating](carry, index, terms, delta)
    else:
        for index in prange(terms, num_threads=threads, schedule="static"):
            contract_factor[floating](carry, index, terms, delta)
    transposed_gemm[floating](P, m, terms, <floating> carry.weight, <floating *> carry.rows, P,
                              <floating *> carry.in_use_u, m, 1 if add else 0, gradient, m, all_threads)
    return FINE
