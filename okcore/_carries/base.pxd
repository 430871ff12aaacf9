"""The carry: what an algorithm keeps of all that came before the open block. One class per algorithm."""

from okcore._engine.cell_kernel cimport CellKernel


# The threads to use of n: 1 in a forked child, whose parent's OpenMP threads are not there.
cdef int threads_of(int n) noexcept nogil


cdef class Carry:
    cdef readonly CellKernel cell
    cdef readonly int batch_size
    cdef readonly int n_threads      # lanes that are absorbed at the same time
    cdef readonly int lane_threads   # threads inside a lane, set by the engine: more than 1 where there is one lane
    cdef public list generators      # one numpy Generator a lane, set by the engine
    cdef readonly bint needs_terms   # does absorb() look at Phi and at the terms?
    cdef readonly int kept_rows      # rows the engine leaves free in front of a block's terms
    cdef readonly int n_draws        # random numbers per lane and absorb
    cdef bint compiled
    cdef int m, S, P
    cdef Py_ssize_t item             # bytes of a float

    # Size the scratch for blocks of at most n_terms terms and the threads; called once, by the engine.
    cdef int prepare(self, int n_terms, int n_threads) except -1

    # J <- Phi J + sum_i A_i (x) u_i for one lane, or J <- sum_i A_i (x) u_i if not alive (Phi is then undefined).
    # u (n_terms, m) and A (n_terms, S, P) may be overwritten, as may the kept_rows rows in front of each.
    # Returns 0, or 1 if something is not finite.
    cdef int absorb_lane(
        self, int lane, int thread, bint alive, int n_terms, void *Phi, void *u, void *A, const double *draws,
    ) except -1 nogil

    # gradient (P, m) += sum over lanes of delta J, delta (B, S)
    cdef int contract_lanes(self, void *delta, void *gradient) except -1 nogil

    # J <- 0
    cdef int zero_lane(self, int lane) except -1 nogil
