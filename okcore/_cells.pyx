"""What the engine needs of a cell; the built-in cells' pointwise steps are in _simd_cells.h."""

import numpy as np

from okcore import _memory
from okcore._memory import aligned_zeros

cdef extern from "_simd.h" nogil:
    pointwise_float okcore_srnn, okcore_srhn, okcore_slstm, okcore_sgru
    pointwise_double okcore_drnn, okcore_drhn, okcore_dlstm, okcore_dgru


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
        if kernel == "rnn":
            self.step_float, self.step_double = okcore_srnn, okcore_drnn
        elif kernel == "rhn":
            self.step_float, self.step_double = okcore_srhn, okcore_drhn
        elif kernel == "lstm":
            self.step_float, self.step_double = okcore_slstm, okcore_dlstm
        elif kernel == "gru":
            self.step_float, self.step_double = okcore_sgru, okcore_dgru
        elif kernel is not None:
            raise ValueError(f"kernel must be 'rnn', 'rhn', 'lstm', 'gru' or None, got {kernel!r}")

    cdef int step_lanes(
        self, int lanes, void *pre, void *state, void *state_next, void *d, void *c,
    ) except -1 nogil:
        if not self.compiled:
            with gil:
                return step_in_python(self, lanes, pre, state, state_next, d, c)
        if self.single:
            self.step_float(lanes, self.n_hidden, <float *> pre, <float *> state, <float *> state_next,
                            <float *> d, <float *> c)
        else:
            self.step_double(lanes, self.n_hidden, <double *> pre, <double *> state, <double *> state_next,
                             <double *> d, <double *> c)
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
