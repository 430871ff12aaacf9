"""Pointwise steps of the built-in cells: new state, and the diagonals d and c of its Jacobians.

Every cell is pointwise in its pre-activations, so with s = f(pre, s') per unit
    d[j, a, g, i] = d s[a, i] / d pre[j, g, i]        (immediate Jacobian, F = sum_j D^j (x) u^j)
    c[a, b, i]    = d s[a, i] / d s'[b, i], pre held  (the part of the state Jacobian beside D* W_h E_h)
"""

from cython cimport floating

import numpy as np

from okcore import _memory
from okcore._memory import aligned_zeros

from okcore._kernels cimport sigmoid, tanh


cdef void rnn(
    int lanes, int n, floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # h = tanh(a)
    cdef Py_ssize_t i
    tanh[floating](<Py_ssize_t> lanes * n, pre, state_next)
    for i in range(<Py_ssize_t> lanes * n):
        d[i] = 1 - state_next[i] * state_next[i]
        c[i] = 0


cdef void rhn(
    int lanes, int n, floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # z = 2 sigmoid(a_z) - 1, f = sigmoid(a_f), h = f h' + (1 - f) z
    cdef int lane, i
    cdef Py_ssize_t at
    cdef const floating *s
    cdef const floating *f
    cdef floating *d_z
    cdef floating *d_f
    cdef floating z
    sigmoid[floating](<Py_ssize_t> lanes * 2 * n, pre, pre)
    for lane in range(lanes):
        at = <Py_ssize_t> lane * n
        s, f = pre + 2 * at, pre + 2 * at + n
        d_z, d_f = d + 2 * at, d + 2 * at + n
        for i in range(n):
            z = 2 * s[i] - 1
            state_next[at + i] = f[i] * state[at + i] + (1 - f[i]) * z
            d_z[i] = (1 - f[i]) * 2 * s[i] * (1 - s[i])
            d_f[i] = (state[at + i] - z) * f[i] * (1 - f[i])
            c[at + i] = f[i]


cdef void lstm(
    int lanes, int n, floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # rows i, f, g, o (torch's order); c = f c' + i g, h = o tanh(c); state [h, c]
    cdef int lane, i
    cdef floating *gate_i
    cdef floating *gate_f
    cdef floating *gate_g
    cdef floating *gate_o
    cdef const floating *old
    cdef floating *h
    cdef floating *new
    cdef floating *d_h
    cdef floating *d_c
    cdef floating *grid
    cdef floating dh_dc
    for lane in range(lanes):
        gate_i = pre + <Py_ssize_t> lane * 4 * n
        gate_f, gate_g, gate_o = gate_i + n, gate_i + 2 * n, gate_i + 3 * n
        old = state + <Py_ssize_t> lane * 2 * n + n
        h = state_next + <Py_ssize_t> lane * 2 * n
        new = h + n
        d_h = d + <Py_ssize_t> lane * 8 * n
        d_c = d_h + 4 * n
        grid = c + <Py_ssize_t> lane * 4 * n     # dh/dh', dh/dc', dc/dh', dc/dc'
        sigmoid[floating](2 * n, gate_i, gate_i)
        tanh[floating](n, gate_g, gate_g)
        sigmoid[floating](n, gate_o, gate_o)
        for i in range(n):
            new[i] = gate_f[i] * old[i] + gate_i[i] * gate_g[i]
        tanh[floating](n, new, h)
        for i in range(n):
            dh_dc = gate_o[i] * (1 - h[i] * h[i])
            d_c[i] = gate_g[i] * gate_i[i] * (1 - gate_i[i])
            d_c[n + i] = old[i] * gate_f[i] * (1 - gate_f[i])
            d_c[2 * n + i] = gate_i[i] * (1 - gate_g[i] * gate_g[i])
            d_c[3 * n + i] = 0
            d_h[i] = dh_dc * d_c[i]
            d_h[n + i] = dh_dc * d_c[n + i]
            d_h[2 * n + i] = dh_dc * d_c[2 * n + i]
            d_h[3 * n + i] = h[i] * gate_o[i] * (1 - gate_o[i])
            grid[i] = 0
            grid[n + i] = dh_dc * gate_f[i]
            grid[2 * n + i] = 0
            grid[3 * n + i] = gate_f[i]
            h[i] *= gate_o[i]


cdef void gru(
    int lanes, int n, floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # rows r, z, n ("reset after", torch's form); input and recurrence arrive apart:
    # g = tanh(x_n + r h_n), h = (1 - z) g + z h'
    cdef int lane, i
    cdef Py_ssize_t at
    cdef floating *r
    cdef floating *z
    cdef floating *g
    cdef const floating *from_h
    cdef const floating *h_n
    cdef floating *d_x
    cdef floating *d_h
    cdef floating dh_dg
    for lane in range(lanes):
        at = <Py_ssize_t> lane * n
        r, z, g = pre + 6 * at, pre + 6 * at + n, pre + 6 * at + 2 * n
        from_h, h_n = pre + 6 * at + 3 * n, pre + 6 * at + 5 * n
        d_x, d_h = d + 6 * at, d + 6 * at + 3 * n
        for i in range(2 * n):
            r[i] += from_h[i]
        sigmoid[floating](2 * n, r, r)
        for i in range(n):
            g[i] += r[i] * h_n[i]
        tanh[floating](n, g, g)
        for i in range(n):
            state_next[at + i] = (1 - z[i]) * g[i] + z[i] * state[at + i]
            dh_dg = (1 - z[i]) * (1 - g[i] * g[i])
            d_x[i] = dh_dg * h_n[i] * r[i] * (1 - r[i])
            d_x[n + i] = (state[at + i] - g[i]) * z[i] * (1 - z[i])
            d_x[2 * n + i] = dh_dg
            d_h[i] = d_x[i]
            d_h[n + i] = d_x[n + i]
            d_h[2 * n + i] = dh_dg * r[i]
            c[at + i] = z[i]


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
            self.step_float, self.step_double = rnn[float], rnn[double]
        elif kernel == "rhn":
            self.step_float, self.step_double = rhn[float], rhn[double]
        elif kernel == "lstm":
            self.step_float, self.step_double = lstm[float], lstm[double]
        elif kernel == "gru":
            self.step_float, self.step_double = gru[float], gru[double]
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
