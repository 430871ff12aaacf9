"""Exact RTRL as an algorithm of one's own, compiled: a carry on okcore's base, with okcore's exported kernels."""

import okcore

from cython cimport floating
from libc.math cimport isfinite
from libc.string cimport memcpy, memset

from okcore cimport FINE, NOT_FINITE, Block, Carry, CellKernel, absorb_function, address, contract_function
from okcore.cython_kernels cimport dgemm, sgemm


cdef inline void gemm(
    int m, int n, int k, const floating *A, const floating *B, floating beta, floating *C,
) noexcept nogil:
    if floating is float:
        sgemm(m, n, k, 1, A, B, beta, C)
    else:
        dgemm(m, n, k, 1, A, B, beta, C)


cdef class DenseCarry(Carry):
    """The influence matrix J (S, P, m) of every lane."""

    cdef void *J         # (B, S, P m)
    cdef void *moved     # (threads, S, P m)

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.J = address(self.keep("J", (self.sizes.S, self.sizes.P, self.sizes.m)))
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.moved = self.reserve((n_threads, self.sizes.S, self.sizes.P, self.sizes.m), None)
        return 0


cdef void bind(DenseCarry carry, floating *_) noexcept:      # for the dtype, once
    carry.absorb_lane = <absorb_function> absorb[floating]
    carry.contract_lanes = <contract_function> contract[floating]


cdef int absorb(
    DenseCarry carry, const Block *block, const floating *Phi, const floating *u, const floating *A,
) noexcept nogil:
    # J <- Phi J + sum_i A_i (x) u_i, or the sum alone after a reset
    cdef int S = carry.sizes.S, P = carry.sizes.P, m = carry.sizes.m, i
    cdef Py_ssize_t size = <Py_ssize_t> S * P * m, entry
    cdef floating *J = <floating *> carry.J + block.lane * size
    cdef floating *moved = <floating *> carry.moved + block.thread * size
    if block.alive:
        gemm[floating](S, P * m, S, Phi, J, 0, moved)
        memcpy(J, moved, size * sizeof(floating))
    else:
        memset(J, 0, size * sizeof(floating))
    for i in range(block.n_terms):
        gemm[floating](S * P, m, 1, A + <Py_ssize_t> i * S * P, u + <Py_ssize_t> i * m, 1, J)
    for entry in range(size):
        if not isfinite(J[entry]):
            return NOT_FINITE
    return FINE


cdef int contract(
    DenseCarry carry, int first, int end, const floating *delta, floating *gradient, bint add,
) noexcept nogil:
    # gradient = (or += if add) sum over the lanes of delta J
    cdef int S = carry.sizes.S, columns = carry.sizes.P * carry.sizes.m, lane
    for lane in range(first, end):
        gemm[floating](
            1, columns, S, delta + <Py_ssize_t> lane * S, <floating *> carry.J + <Py_ssize_t> lane * S * columns,
            1 if add or lane > first else 0, gradient)
    return FINE


class DenseRTRL(okcore.Estimator):
    """Exact RTRL in blocks."""

    quality = "exact"

    def __init__(self, cell, block=1, batch_size=1, n_threads=1):
        super().__init__(cell, DenseCarry(cell, batch_size), block, n_threads=n_threads)
