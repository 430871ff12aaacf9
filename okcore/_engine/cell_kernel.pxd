"""The compiled half of a cell: its sizes, its parameters, and its pointwise step on plain pointers."""

from okcore._kernels cimport pointwise_function


cdef class CellKernel:
    cdef readonly int n_in, n_hidden, state_size, n_rows, n_columns
    cdef readonly object dtype
    cdef bint single, compiled
    cdef int n_gates_, n_state_blocks_, n_terms_
    cdef readonly object _theta    # (P, m), C-contiguous, never replaced
    cdef void *theta_data
    cdef pointwise_function pointwise_step

    # state (lanes, S), pre (lanes, q, P) -> state_next (lanes, S), d (lanes, q, k, G, n), c (lanes, k, k, n);
    # pre may be overwritten; d and c must be zero before the first step
    cdef int step_lanes(
        self, int lanes, void *pre, void *state, void *state_next, void *d, void *c,
    ) except -1 nogil
