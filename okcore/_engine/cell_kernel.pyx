"""What the engine needs of a cell; the built-in cells' pointwise steps are in _simd_cells.h."""

import numpy as np

from okcore._engine import memory as _memory
from okcore._engine.memory import aligned_zeros

from okcore._kernels cimport pointwise_step_of


cdef class CellKernel:
    """Sizes, parameters and pointwise step; `okcore.Cell` adds everything a user sees."""

    def __init__(self, n_in, n_hidden, dtype, n_gates, n_state_blocks, n_terms, kernel):
        self.n_in = n_in
        self.n_hidden = n_hidden
        self.dtype = np.dtype(dtype)
        self.single = self.dtype == np.float32
        self.n_gates_ = n_gates
        self.n_state_blocks_ = n_state_blocks
        self.n_terms_ = n_terms
        self.state_size = n_state_blocks * n_hidden
        self.n_rows = n_gates * n_hidden
        self.n_columns = n_in + n_hidden + n_terms
        self._theta = aligned_zeros((self.n_rows, self.n_columns), self.dtype)
        self.theta_data = <void *> <size_t> self._theta.ctypes.data
        self.compiled = kernel is not None
        if kernel is not None:
            self.pointwise_step = pointwise_step_of(kernel.encode(), not self.single)
            if self.pointwise_step == NULL:
                raise ValueError(f"kernel must be the name of a step in _simd/cells.h, got {kernel!r}")

    cdef int step_lanes(
        self, int lanes, void *pre, void *state, void *state_next, void *d, void *c,
    ) except -1 nogil:
        if not self.compiled:
            with gil:
                return step_in_python(self, lanes, pre, state, state_next, d, c)
        self.pointwise_step(lanes, self.n_hidden, pre, state, state_next, d, c)
        return 0


cdef int step_in_python(
    CellKernel cell, int lanes, void *pre, void *state, void *state_next, void *d, void *c,
) except -1:
    cdef int k = cell.n_state_blocks_, G = cell.n_gates_, q = cell.n_terms_, n = cell.n_hidden
    name_of_cell = type(cell).__name__
    pre_view = _memory.view(<size_t> pre, (lanes, q, G, n), cell.dtype)
    state_view = _memory.view(<size_t> state, (lanes, k, n), cell.dtype)
    pre_view.flags.writeable = state_view.flags.writeable = False
    results = cell.pointwise(pre_view, state_view)
    if not isinstance(results, tuple) or len(results) != 3:
        raise TypeError(f"{name_of_cell}.pointwise must return (state, d, c), got {type(results).__name__}")
    shapes = (lanes, k, n), (lanes, q, k, G, n), (lanes, k, k, n)
    addresses = <size_t> state_next, <size_t> d, <size_t> c
    for name, shape, address, result in zip(("state", "d", "c"), shapes, addresses, results, strict=True):
        result = np.asarray(result)
        if result.shape != shape:
            raise ValueError(f"{name_of_cell}.pointwise: {name} must have shape {shape}, got {result.shape}")
        if result.dtype != cell.dtype:
            raise TypeError(f"{name_of_cell}.pointwise: {name} must be {cell.dtype}, got {result.dtype}")
        _memory.view(address, shape, cell.dtype)[...] = result
    return 0
