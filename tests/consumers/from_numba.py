"""okcore's kernels from code that numba compiles."""

import ctypes

import numba
from numba.extending import get_cython_function_address

size, pointer = ctypes.c_int, ctypes.c_void_p
kind = ctypes.CFUNCTYPE(None, size, size, size, size, pointer, pointer, pointer, pointer, pointer)
skron_contract = kind(get_cython_function_address("okcore.cython_kernels", "skron_contract"))
dkron_contract = kind(get_cython_function_address("okcore.cython_kernels", "dkron_contract"))


@numba.njit
def contract(v, u, A, rows, gradient):
    N, S, P = A.shape
    if v.itemsize == 4:
        skron_contract(N, S, P, u.shape[1], v.ctypes, u.ctypes, A.ctypes, rows.ctypes, gradient.ctypes)
    else:
        dkron_contract(N, S, P, u.shape[1], v.ctypes, u.ctypes, A.ctypes, rows.ctypes, gradient.ctypes)
