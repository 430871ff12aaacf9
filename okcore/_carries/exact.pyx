"""RTRL's carry: the influence matrix itself."""

from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset

import numpy as np

from okcore._engine.memory import aligned_zeros

from okcore._engine.address cimport address
from okcore._carries.base cimport Carry, threads_of
from okcore._engine.cell_kernel cimport CellKernel
from okcore._kernels cimport all_finite, gemm, gemm_by_columns, parts_that_pay, transposed_gemm


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
        self.panel_ = aligned_zeros((max(n_threads, self.lane_threads), self.S, COLUMN_PANEL), self.cell.dtype)
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
        memset(<char *> self.influence + lane * self.S * (<Py_ssize_t> self.P * self.m) * self.item, 0,
               self.S * (<Py_ssize_t> self.P * self.m) * self.item)
        return 0


cdef int exact_absorb(
    ExactCarry carry, int lane, int thread, bint alive, int n_terms,
    const floating *Phi, const floating *u, const floating *A,
) noexcept nogil:
    cdef int S = carry.S, P = carry.P, m = carry.m, panels, i, bad = 0, threads = threads_of(carry.lane_threads)
    cdef Py_ssize_t columns = <Py_ssize_t> P * m
    cdef floating *J = <floating *> carry.influence + lane * S * columns
    cdef bint add = alive and carry.nonzero[lane]
    if alive and not all_finite(<Py_ssize_t> S * S, Phi):
        return 1
    if not all_finite(<Py_ssize_t> n_terms * S * P, A):
        return 1
    if add:
        # J <- Phi J, in place by panels of columns: (S, S)(S, P m), 2 S^2 P m flops
        panels = <int> ((columns + COLUMN_PANEL - 1) // COLUMN_PANEL)
        threads = parts_that_pay(panels, 1, S * S * columns, threads)
        if threads == 1:
            for i in range(panels):
                bad += move_panel[floating](carry, thread, i, Phi, J)
        else:
            for i in prange(panels, num_threads=threads, schedule="static"):
                bad += move_panel[floating](carry, threadid(), i, Phi, J)
        if bad > 0:
            return 1
    # J <- J + sum_i A_i (x) u_i: (N, S P)^T (N, m), 2 N S P m flops
    if n_terms > 0:
        transposed_gemm[floating](S * P, m, n_terms, 1, A, S * P, u, m, 1 if add else 0, J, m,
                                  threads_of(carry.lane_threads))
    elif not add:
        memset(J, 0, S * columns * sizeof(floating))
    carry.nonzero[lane] = add or n_terms > 0
    return 0


cdef int move_panel(ExactCarry carry, int thread, int index, const floating *Phi, floating *J) noexcept nogil:
    # A panel of columns of J <- Phi J, by way of a copy; 1 if something is not finite
    cdef int S = carry.S, s, width
    cdef Py_ssize_t columns = <Py_ssize_t> carry.P * carry.m, start = <Py_ssize_t> index * COLUMN_PANEL
    cdef floating *panel = <floating *> carry.panel + <Py_ssize_t> thread * S * COLUMN_PANEL
    width = <int> min(<Py_ssize_t> COLUMN_PANEL, columns - start)
    for s in range(S):
        memcpy(panel + s * width, J + s * columns + start, width * sizeof(floating))
    gemm[floating](False, False, S, width, S, 1, Phi, S, panel, width, 0, J + start, <int> columns)
    for s in range(S):
        if not all_finite(width, J + s * columns + start):
            return 1
    return 0


cdef void exact_contract(ExactCarry carry, const floating *delta, floating *gradient) noexcept nogil:
    # gradient (P m,) += delta (S,) J (S, P m): 2 S P m flops a lane, and J is read once
    cdef int lane, S = carry.S
    cdef Py_ssize_t columns = <Py_ssize_t> carry.P * carry.m
    for lane in range(carry.batch_size):
        if carry.nonzero[lane]:
            gemm_by_columns[floating](
                False, 1, <int> columns, S, 1, delta + lane * S, S, <floating *> carry.influence + lane * S * columns,
                <int> columns, 1, gradient, <int> columns, threads_of(max(carry.n_threads, carry.lane_threads)))
