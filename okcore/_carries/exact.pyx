"""RTRL's carry: the influence matrix itself."""

from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.string cimport memset

import numpy as np

from okcore._carries.base cimport Carry, absorb_function, contract_function
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NOT_FINITE, Block
from okcore._kernels cimport all_finite, contract_matrix, multiply_in_place, parts_that_pay, threads_of, transposed_gemm


cdef enum:
    STRIPE = 512   # columns of J that pass through the cache together


cdef class ExactCarry(Carry):
    """RTRL: the influence matrix J (S, P, m) itself; S P m floats per lane."""

    cdef void *influence
    cdef unsigned char *nonzero        # has the lane an influence at all?
    cdef void *stripe                  # (threads, S, STRIPE)

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.influence = address(self.keep("influence", (self.sizes.S, self.sizes.P, self.sizes.m)))
        self.nonzero = <unsigned char *> address(self.keep("nonzero", (), np.uint8))
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    def dense(self, lane):
        return self.kept["influence"][lane].copy()

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.stripe = self.reserve((max(n_threads, self.lane_threads), self.sizes.S, STRIPE), None)
        return 0


cdef void bind(ExactCarry carry, floating *_) noexcept:
    carry.absorb_lane = <absorb_function> absorb_into_influence[floating]
    carry.contract_lanes = <contract_function> credit_times_influence[floating]


cdef int absorb_into_influence(
    ExactCarry carry, const Block *block, const floating *Phi, const floating *u, const floating *A,
) noexcept nogil:
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m, lane = block.lane, thread = block.thread
    cdef int n_terms = block.n_terms, stripes, i, threads = threads_of(carry.lane_threads)
    cdef Py_ssize_t columns = <Py_ssize_t> P * m
    cdef floating *J = <floating *> carry.influence + lane * S * columns
    cdef bint add = block.alive and carry.nonzero[lane]
    if block.alive and not all_finite[floating](<Py_ssize_t> S * S, Phi):
        return NOT_FINITE
    if not all_finite[floating](<Py_ssize_t> n_terms * S * P, A):
        return NOT_FINITE
    if add:
        # J <- Phi J, in place by stripes of columns: (S, S)(S, P m), 2 S^2 P m flops
        stripes = <int> ((columns + STRIPE - 1) // STRIPE)
        threads = parts_that_pay(stripes, 1, S * <Py_ssize_t> S * columns, threads)
        if threads == 1:
            for i in range(stripes):
                move_stripe[floating](carry, thread, i, Phi, J)
        else:
            for i in prange(stripes, num_threads=threads, schedule="static"):
                move_stripe[floating](carry, threadid(), i, Phi, J)
    # J <- J + sum_i A_i (x) u_i: (N, S P)^T (N, m), 2 N S P m flops
    if n_terms > 0:
        transposed_gemm[floating](S * P, m, n_terms, 1, A, S * P, u, m, 1 if add else 0, J, m,
                                  threads_of(carry.lane_threads))
    elif not add:
        memset(J, 0, S * columns * sizeof(floating))
    carry.nonzero[lane] = add or n_terms > 0
    return FINE if all_finite[floating](S * columns, J) else NOT_FINITE


cdef void move_stripe(ExactCarry carry, int thread, int index, const floating *Phi, floating *J) noexcept nogil:
    # A stripe of columns of J <- Phi J, by way of a copy
    cdef int S = carry.sizes.S
    cdef Py_ssize_t columns = <Py_ssize_t> carry.sizes.P * carry.sizes.m, start = <Py_ssize_t> index * STRIPE
    cdef floating *copy = <floating *> carry.stripe + <Py_ssize_t> thread * S * STRIPE
    multiply_in_place[floating](
        S, <int> min(<Py_ssize_t> STRIPE, columns - start), Phi, J + start, <int> columns, copy)


cdef int credit_times_influence(
    ExactCarry carry, int first, int end, const floating *delta, floating *gradient, bint add,
) noexcept nogil:
    # gradient (P m,) = (or +=) delta (S,) J (S, P m): 2 S P m flops per lane, and J is read once
    cdef int lane, S = carry.sizes.S
    cdef Py_ssize_t columns = <Py_ssize_t> carry.sizes.P * carry.sizes.m
    for lane in range(first, end):
        if carry.nonzero[lane]:
            contract_matrix[floating](
                (end - first) * S * columns, <int> columns, S, delta + lane * S,
                <floating *> carry.influence + lane * S * columns, 1 if add else 0, gradient,
                threads_of(max(carry.n_threads, carry.lane_threads)))
            add = True
    if not add:
        memset(gradient, 0, columns * sizeof(floating))
    return FINE
