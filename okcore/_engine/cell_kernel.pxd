"""What the engine knows of a cell: its sizes, its parameters, and its pointwise step."""

from okcore._engine.messages cimport Sizes
from okcore._kernels cimport finite_function, pointwise_function


cdef class CellKernel:
    cdef readonly int n_in, n_hidden, state_size
    cdef readonly object dtype
    cdef readonly object _theta            # (P, m), C-contiguous, never replaced
    cdef Sizes sizes
    cdef Py_ssize_t item                   # bytes of a float
    cdef int type_number                   # NumPy's, of the dtype
    cdef bint single                       # float32?
    cdef void *theta_data                  # (P, m)
    cdef pointwise_function step           # the compiled step; NULL: the method `pointwise`
    cdef finite_function all_finite        # for the dtype
