"""The compiled half of a cell: its sizes, its parameters, and its pointwise step on plain pointers."""

ctypedef void (*pointwise_float)(
    Py_ssize_t lanes, Py_ssize_t n, float *pre, const float *state, float *state_next, float *d, float *c,
) noexcept nogil
ctypedef void (*pointwise_double)(
    Py_ssize_t lanes, Py_ssize_t n, double *pre, const double *state, double *state_next, double *d, double *c,
) noexcept nogil


cdef class CellKernel:
    cdef readonly int n_in, n_hidden, state_size, n_rows, n_columns
    cdef readonly object dtype
    cdef bint single, compiled
    cdef int n_gates_, n_state_blocks_, n_terms_
    cdef readonly object _theta    # (P, m), C-contiguous, never replaced
    cdef void *theta_data
    cdef pointwise_float step_float
    cdef pointwise_double step_double

    # state (lanes, S), pre (lanes, q, P) -> state_next (lanes, S), d (lanes, q, k, G, n), c (lanes, k, k, n);
    # pre may be overwritten; d and c must be zero before the first step
    cdef int step_lanes(
        self, int lanes, void *pre, void *state, void *state_next, void *d, void *c,
    ) except -1 nogil
