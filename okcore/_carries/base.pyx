"""The carry of every algorithm: a summary of J at the last block boundary.

A carry answers three questions about J (S, P, m) of a lane: what it becomes when a block closes (absorb),
what a credit times it is (contract), and how it is forgotten (zero).  Everything else, the cell, the open
block, credits and resets, belongs to the engine and is the same for all.
"""

import os

import numpy as np

from okcore._engine import memory as _memory
from okcore._validation import as_int

from okcore._engine.cell_kernel cimport CellKernel


cdef bint forked = False


def _note_fork():
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


cdef int threads_of(int n) noexcept nogil:
    return 1 if forked else n


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
        self.n_threads = self.lane_threads = 1
        self.m = cell.n_columns
        self.S = cell.state_size
        self.P = cell.n_rows
        self.item = cell.dtype.itemsize
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
