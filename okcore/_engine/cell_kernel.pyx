cimport numpy as cnp

import numpy as np

from okcore._engine.buffers import aligned_zeros

from okcore._engine.buffers cimport address
from okcore._engine.messages cimport Sizes
from okcore._kernels cimport finite_function_for, pointwise_step


cdef class CellKernel:
    """The compiled side of a cell; `okcore.Cell` adds everything a user sees."""

    def __init__(self, n_in, n_hidden, dtype, n_gates, n_state_blocks, n_terms, kernel):
        if self._theta is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ must be called once: theta is one fixed buffer")
        cdef int v = n_in, n = n_hidden, G = n_gates, k = n_state_blocks, q = n_terms
        self.sizes = Sizes(v=v, n=n, G=G, k=k, q=q, S=k * n, P=G * n, m=v + n + q)
        self.n_in, self.n_hidden, self.state_size = v, n, k * n
        self.dtype = np.dtype(dtype)
        self.item = self.dtype.itemsize
        self.single = self.dtype == np.float32
        self.type_number = cnp.NPY_FLOAT if self.single else cnp.NPY_DOUBLE
        self.all_finite = finite_function_for(self.single)
        self._theta = aligned_zeros((G * n, v + n + q), self.dtype)
        self.theta_data = address(self._theta)
        if kernel is not None:
            self.step = pointwise_step(kernel.encode(), self.single)
            if self.step == NULL:
                raise ValueError(f"kernel must be the name of a step in _simd/cells.h, got {kernel!r}")
