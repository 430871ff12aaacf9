"""The carry of every algorithm: a summary of J at the last block boundary.

A carry answers three questions about J (S, P, m) of a lane: what it becomes when a block closes (absorb),
what a credit times it is (contract), and how it is forgotten (zero).  Everything else, the cell, the open
block, credits and resets, belongs to the engine and is the same for all.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport isfinite, sqrt
from libc.string cimport memcpy, memset

import numpy as np

from okcore import _memory
from okcore._memory import aligned_zeros
from okcore._validation import as_int

from okcore._blas cimport axpy, dot, gemm, matrix_times_column, row_times_matrix
from okcore._cells cimport CellKernel
from okcore._kernels cimport GRAM_PANEL, all_finite, gram_matrix, sum_of_squares
from okcore._reduction cimport Outcome, mix_terms, reduce_terms, scratch_bytes, scratch_doubles


cdef enum:
    NOT_FINITE = -1
    KEEP_ALL = -2


cdef void *address(array) except NULL:
    return <void *> <size_t> array.ctypes.data


cdef class Carry:
    """Base class; override the four methods below to write a carry in NumPy.

    Parameters
    ----------
    cell : okcore.Cell
    batch_size : int
        Lanes B.

    Attributes
    ----------
    arrays : dict of ndarray
        Everything the carry remembers, the lane as first axis: what a checkpoint holds.
    """

    def __init__(self, CellKernel cell, batch_size):
        self.cell = cell
        self.batch_size = as_int("batch_size", batch_size, 1)
        self.n_threads = 1
        self.m = cell.n_columns
        self.S = cell.state_size
        self.P = cell.n_rows
        self.needs_terms = True
        self.kept_rows = 0
        self.n_draws = 0
        self.compiled = False

    @property
    def arrays(self):
        """Everything the carry remembers, by name, lanes first; writing into an array changes the carry."""
        raise NotImplementedError("a carry must say what it remembers")

    def absorb(self, lane, Phi, u, A):
        """Close a block: J <- Phi J + sum_i A_i (x) u_i, with Phi (S, S), u (N, m), A (N, S, P)."""
        raise NotImplementedError("a carry must absorb a block")

    def contract(self, delta):
        """Return the sum over lanes of delta J, shape (P, m), for delta (B, S)."""
        raise NotImplementedError("a carry must contract a credit")

    def zero(self, lane):
        """Forget a lane: J <- 0."""
        for array in self.arrays.values():
            array[lane] = 0

    def dense(self, lane):
        """Return J of a lane, shape (S, P, m)."""
        raise NotImplementedError("a carry must show its influence matrix")

    @property
    def stats(self):
        """Figures about the last absorb, by name, one per lane."""
        return {}

    def check_arrays(self, arrays):
        """Raise ValueError if `arrays`, of the right shapes and finite, are still no state of this carry."""

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_threads = n_threads
        return 0

    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil:
        with gil:
            dtype = self.cell.dtype
            transition = (
                _memory.view(<size_t> Phi, (self.S, self.S), dtype) if alive else np.zeros((self.S, self.S), dtype)
            )
            self.absorb(
                lane,
                transition,
                _memory.view(<size_t> u, (n_terms, self.m), dtype),
                _memory.view(<size_t> A, (n_terms, self.S, self.P), dtype),
            )
        return 0

    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil:
        with gil:
            dtype = self.cell.dtype
            view = _memory.view(<size_t> gradient, (self.P, self.m), dtype)
            view += self.contract(_memory.view(<size_t> delta, (self.batch_size, self.S), dtype))
        return 0

    cdef int zero_lane(self, int lane) except -1 nogil:
        with gil:
            self.zero(lane)
        return 0


cdef class NoCarry(Carry):
    """TBPTT: nothing before the block is remembered."""

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.needs_terms = False
        self.compiled = True

    @property
    def arrays(self):
        return {}

    def dense(self, lane):
        return np.zeros((self.S, self.P, self.m), self.cell.dtype)

    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil:
        return 0

    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil:
        return 0

    cdef int zero_lane(self, int lane) except -1 nogil:
        return 0


# ---------------------------------------------------------------------------------------------------------------
# RTRL: J itself

cdef enum:
    COLUMN_PANEL = 512   # columns of J that pass through the cache together


cdef class ExactCarry(Carry):
    """RTRL: the influence matrix J (S, P, m) itself; S P m floats a lane."""

    cdef object influence_, nonzero_, panel_
    cdef void *influence
    cdef unsigned char *nonzero
    cdef void *panel

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.compiled = True
        self.influence_ = aligned_zeros((batch_size, self.S, self.P, self.m), cell.dtype)
        self.nonzero_ = np.zeros(batch_size, np.uint8)
        self.influence = address(self.influence_)
        self.nonzero = <unsigned char *> address(self.nonzero_)

    @property
    def arrays(self):
        return {"influence": self.influence_, "nonzero": self.nonzero_}

    def dense(self, lane):
        return self.influence_[lane].copy()

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.n_threads = n_threads
        self.panel_ = aligned_zeros((n_threads, self.S, COLUMN_PANEL), self.cell.dtype)
        self.panel = address(self.panel_)
        return 0

    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil:
        if self.cell.single:
            return exact_absorb[float](self, lane, thread, alive, n_terms, <float *> Phi, <float *> u, <float *> A)
        return exact_absorb[double](self, lane, thread, alive, n_terms, <double *> Phi, <double *> u, <double *> A)

    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil:
        if self.cell.single:
            exact_contract[float](self, <float *> delta, <float *> gradient)
        else:
            exact_contract[double](self, <double *> delta, <double *> gradient)
        return 0

    cdef int zero_lane(self, int lane) except -1 nogil:
        self.nonzero[lane] = 0
        memset(<char *> self.influence + lane * self.S * (<Py_ssize_t> self.P * self.m) * itemsize(self), 0,
               self.S * (<Py_ssize_t> self.P * self.m) * itemsize(self))
        return 0


cdef inline Py_ssize_t itemsize(Carry carry) noexcept nogil:
    return sizeof(float) if carry.cell.single else sizeof(double)


cdef int exact_absorb(
    ExactCarry carry, int lane, int thread, bint alive, int n_terms,
    const floating *Phi, const floating *u, const floating *A,
) noexcept nogil:
    cdef int S = carry.S, P = carry.P, m = carry.m, s
    cdef Py_ssize_t columns = <Py_ssize_t> P * m, start = 0
    cdef int width
    cdef floating *J = <floating *> carry.influence + lane * S * columns
    cdef floating *panel = <floating *> carry.panel + <Py_ssize_t> thread * S * COLUMN_PANEL
    cdef bint add = alive and carry.nonzero[lane]
    if alive and not all_finite(<Py_ssize_t> S * S, Phi):
        return 1
    if not all_finite(<Py_ssize_t> n_terms * S * P, A):
        return 1
    if add:
        # J <- Phi J, in place by panels of columns: (S, S)(S, P m), 2 S^2 P m flops
        while start < columns:
            width = <int> min(<Py_ssize_t> COLUMN_PANEL, columns - start)
            for s in range(S):
                if not all_finite(width, J + s * columns + start):
                    return 1
                memcpy(panel + s * width, J + s * columns + start, width * sizeof(floating))
            gemm[floating](False, False, S, width, S, 1, Phi, S, panel, width, 0, J + start, <int> columns)
            start += COLUMN_PANEL
    # J <- J + sum_i A_i (x) u_i: (N, S P)^T (N, m), 2 N S P m flops
    if n_terms > 0:
        gemm[floating](True, False, S * P, m, n_terms, 1, A, S * P, u, m, 1 if add else 0, J, m)
    elif not add:
        memset(J, 0, S * columns * sizeof(floating))
    carry.nonzero[lane] = add or n_terms > 0
    return 0


cdef void exact_contract(ExactCarry carry, const floating *delta, floating *gradient) noexcept nogil:
    # gradient (P m,) += delta (S,) J (S, P m): 2 S P m flops a lane, and J is read once
    cdef int lane, S = carry.S
    cdef Py_ssize_t columns = <Py_ssize_t> carry.P * carry.m
    for lane in range(carry.batch_size):
        if carry.nonzero[lane]:
            row_times_matrix[floating](S, <int> columns, 1, delta + lane * S,
                                       <floating *> carry.influence + lane * S * columns, <int> columns, 1, gradient)


# ---------------------------------------------------------------------------------------------------------------
# OK and KF-RTRL: sums of Kronecker products

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
        self.scratch_size = 2 * N * N + 4 * N * self.rank + N * GRAM_PANEL + N + scratch_doubles(N)
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
        cdef Py_ssize_t item = itemsize(self)
        memset(<char *> self.u + lane * (<Py_ssize_t> self.rank * self.m) * item, 0, self.rank * self.m * item)
        memset(<char *> self.A + lane * (<Py_ssize_t> self.rank * self.S * self.P) * item, 0,
               <Py_ssize_t> self.rank * self.S * self.P * item)
        self.active[lane] = 0
        self.variance[lane] = self.mixed_fraction[lane] = 0
        return 0


cdef int kronecker_absorb(
    KroneckerCarry carry, int lane, int thread, bint alive, int n_terms,
    const floating *Phi, floating *u, floating *A, const double *draws,
) noexcept nogil:
    cdef int S = carry.S, P = carry.P, m = carry.m, r = carry.rank, i, N, rank
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
    for i in range(n_old):
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
        mix_terms[floating](N, r, rank, m, <int> size, mix_u, mix_A, casts, u, A, lane_u, lane_A)
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
        row_times_matrix[floating](S, P, 1, delta + lane * S,
                                   <floating *> carry.A + <Py_ssize_t> index * S * P, P, 0, row)
    else:
        memset(row, 0, P * sizeof(floating))


cdef void kronecker_contract(KroneckerCarry carry, const floating *delta, floating *gradient) noexcept nogil:
    # gradient (P, m) += weight sum_{b, i} (delta_b A_bi)^T u_bi: the factors are read once (memory bound), then
    # one product (P, B r)(B r, m)
    cdef int index, terms = carry.batch_size * carry.rank, P = carry.P, m = carry.m
    if carry.n_threads == 1:
        for index in range(terms):
            contract_one[floating](carry, index, delta)
    else:
        for index in prange(terms, num_threads=carry.n_threads, schedule="static"):
            contract_one[floating](carry, index, delta)
    gemm[floating](True, False, P, m, terms, <floating> carry.weight, <floating *> carry.contracted, P,
                   <floating *> carry.u, m, 1, gradient, m)


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
        cdef double *signs = panel + N * GRAM_PANEL
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


# ---------------------------------------------------------------------------------------------------------------
# UORO: one rank-one product

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
        memset(<char *> self.a + lane * self.S * itemsize(self), 0, self.S * itemsize(self))
        memset(<char *> self.w + lane * (<Py_ssize_t> self.P * self.m) * itemsize(self), 0,
               <Py_ssize_t> self.P * self.m * itemsize(self))
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
        matrix_times_column[floating](S, S, 1, Phi, S, a, 0, moved)
    else:
        memset(moved, 0, S * sizeof(floating))
    for i in range(n_terms):
        row_times_matrix[floating](S, P, 1, nu, A + i * (<Py_ssize_t> S * P), P, 0, projected + i * P)
    for i in range(n_terms):
        for col in range(n_terms):
            norm_F += (<double> dot[floating](P, projected + i * P, projected + col * P)
                       * <double> dot[floating](m, u + i * m, u + col * m))
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
        weight = dot[floating](carry.S, delta + lane * carry.S, <floating *> carry.a + lane * carry.S)
        axpy[floating](<int> size, weight, <floating *> carry.w + lane * size, gradient)
