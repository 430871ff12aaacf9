"""Pointwise steps of the built-in cells: new state, and the diagonals d and c of its Jacobians.

Every cell is pointwise in its pre-activations, so with s = f(pre, s') per unit
    d[j, a, g, i] = d s[a, i] / d pre[j, g, i]        (immediate Jacobian, F = sum_j D^j (x) u^j)
    c[a, b, i]    = d s[a, i] / d s'[b, i], pre held  (the part of the state Jacobian beside D* W_h E_h)
"""

from cython cimport floating
from libc.math cimport exp, tanh

import numpy as np

from okcore import _memory
from okcore._memory import aligned_zeros

cdef extern from "<math.h>" nogil:
    float expf(float)
    float tanhf(float)


cdef inline floating sigmoid(floating a) noexcept nogil:
    if floating is float:
        return 1 / (1 + expf(-a))
    else:
        return 1 / (1 + exp(-a))


cdef inline floating hyperbolic(floating a) noexcept nogil:
    if floating is float:
        return tanhf(a)
    else:
        return tanh(a)


cdef void rnn(
    int lanes, int n, const floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # h = tanh(a)
    cdef Py_ssize_t i
    cdef floating h
    for i in range(<Py_ssize_t> lanes * n):
        h = hyperbolic(pre[i])
        state_next[i] = h
        d[i] = 1 - h * h
        c[i] = 0


cdef void rhn(
    int lanes, int n, const floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # z = 2 sigma(a_z) - 1, f = sigma(a_f), h = f h' + (1 - f) z
    cdef int lane, i
    cdef Py_ssize_t at, row
    cdef floating s, z, f
    for lane in range(lanes):
        at = <Py_ssize_t> lane * n
        row = 2 * at
        for i in range(n):
            s = sigmoid(pre[row + i])
            z = 2 * s - 1
            f = sigmoid(pre[row + n + i])
            state_next[at + i] = f * state[at + i] + (1 - f) * z
            d[row + i] = (1 - f) * 2 * s * (1 - s)
            d[row + n + i] = (state[at + i] - z) * f * (1 - f)
            c[at + i] = f


cdef void lstm(
    int lanes, int n, const floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # rows i, f, g, o (torch's order); c = f c' + i g, h = o tanh(c); state [h, c]
    cdef int lane, i
    cdef const floating *a
    cdef const floating *cell_old
    cdef floating *h_next
    cdef floating *d_h
    cdef floating *d_c
    cdef floating *grid
    cdef floating gate_i, gate_f, gate_g, gate_o, old, new, squashed, dh_dc
    for lane in range(lanes):
        a = pre + <Py_ssize_t> lane * 4 * n
        cell_old = state + <Py_ssize_t> lane * 2 * n + n
        h_next = state_next + <Py_ssize_t> lane * 2 * n
        d_h = d + <Py_ssize_t> lane * 8 * n
        d_c = d_h + 4 * n
        grid = c + <Py_ssize_t> lane * 4 * n
        for i in range(n):
            gate_i = sigmoid(a[i])
            gate_f = sigmoid(a[n + i])
            gate_g = hyperbolic(a[2 * n + i])
            gate_o = sigmoid(a[3 * n + i])
            old = cell_old[i]
            new = gate_f * old + gate_i * gate_g
            squashed = hyperbolic(new)
            h_next[i] = gate_o * squashed
            h_next[n + i] = new
            dh_dc = gate_o * (1 - squashed * squashed)
            d_c[i] = gate_g * gate_i * (1 - gate_i)
            d_c[n + i] = old * gate_f * (1 - gate_f)
            d_c[2 * n + i] = gate_i * (1 - gate_g * gate_g)
            d_c[3 * n + i] = 0
            d_h[i] = dh_dc * d_c[i]
            d_h[n + i] = dh_dc * d_c[n + i]
            d_h[2 * n + i] = dh_dc * d_c[2 * n + i]
            d_h[3 * n + i] = squashed * gate_o * (1 - gate_o)
            grid[i] = 0                          # dh/dh'
            grid[n + i] = dh_dc * gate_f         # dh/dc'
            grid[2 * n + i] = 0                  # dc/dh'
            grid[3 * n + i] = gate_f             # dc/dc'


cdef void gru(
    int lanes, int n, const floating *pre, const floating *state, floating *state_next, floating *d, floating *c,
) noexcept nogil:
    # rows r, z, n ("reset after", torch's form); input and recurrence arrive apart:
    # g = tanh(x_n + r h_n), h = (1 - z) g + z h'
    cdef int lane, i
    cdef const floating *from_x
    cdef const floating *from_h
    cdef floating *d_x
    cdef floating *d_h
    cdef Py_ssize_t at
    cdef floating r, z, g, old, dh_dg
    for lane in range(lanes):
        at = <Py_ssize_t> lane * n
        from_x = pre + 6 * at
        from_h = from_x + 3 * n
        d_x = d + 6 * at
        d_h = d_x + 3 * n
        for i in range(n):
            r = sigmoid(from_x[i] + from_h[i])
            z = sigmoid(from_x[n + i] + from_h[n + i])
            g = hyperbolic(from_x[2 * n + i] + r * from_h[2 * n + i])
            old = state[at + i]
            state_next[at + i] = (1 - z) * g + z * old
            dh_dg = (1 - z) * (1 - g * g)
            d_x[i] = dh_dg * from_h[2 * n + i] * r * (1 - r)
            d_x[n + i] = (old - g) * z * (1 - z)
            d_x[2 * n + i] = dh_dg
            d_h[i] = d_x[i]
            d_h[n + i] = d_x[n + i]
            d_h[2 * n + i] = dh_dg * r
            c[at + i] = z


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
