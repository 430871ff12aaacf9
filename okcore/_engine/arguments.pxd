"""What users pass to a step, checked: arrays that are already as they must be go through without a call of Python."""

cimport numpy as cnp

from okcore._engine.cell_kernel cimport CellKernel


# Is `array` of integers that are read as `long long` without a copy?
cdef bint holds_symbols(cnp.ndarray array) noexcept

# Inputs of one step, (B, n_in) floats or (B,) symbols; with T first if `many`
cdef cnp.ndarray as_inputs(name, value, CellKernel cell, Py_ssize_t batch_size, bint many)

# Finite floats (B, n_hidden); with T first unless it is -1
cdef cnp.ndarray as_credits(name, value, CellKernel cell, Py_ssize_t T, Py_ssize_t batch_size)

# Bools (B,)
cdef cnp.ndarray as_lanes(name, value, Py_ssize_t batch_size)

# An array (a, b, c)[:axes] to write to: `out`, or a new one if it is None
cdef cnp.ndarray as_output(out, CellKernel cell, int axes, Py_ssize_t a, Py_ssize_t b, Py_ssize_t c)
