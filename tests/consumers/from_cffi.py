"""okcore's kernels through cffi: a function is the address in its capsule."""

import cffi
import numpy as np
from from_ctypes import get_name, get_pointer

from okcore import cython_kernels

ffi = cffi.FFI()


def kernel(name, real):
    capsule, type = cython_kernels.__pyx_capi__[name], f"void (*)(int, int, int, int{f', {real} *' * 5})"
    return ffi.cast(type, get_pointer(capsule, get_name(capsule)))


skron_contract, dkron_contract = kernel("skron_contract", "float"), kernel("dkron_contract", "double")


def contract(v, u, A, rows, gradient):
    single = v.dtype == np.float32
    arrays = (ffi.from_buffer("float[]" if single else "double[]", array) for array in (v, u, A, rows, gradient))
    (skron_contract if single else dkron_contract)(*A.shape, u.shape[1], *arrays)
