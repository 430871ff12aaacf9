"""okcore's kernels through ctypes, which lets go of the interpreter's lock while one runs."""

import ctypes

import numpy as np

from okcore import cython_kernels

get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def kernel(name, result, *arguments):
    """Return a function of okcore.cython_kernels; its capsule's name is its signature."""
    capsule = cython_kernels.__pyx_capi__[name]
    return ctypes.CFUNCTYPE(result, *arguments)(get_pointer(capsule, get_name(capsule)))


size, pointer = ctypes.c_int, ctypes.c_void_p
skron_contract = kernel("skron_contract", None, size, size, size, size, pointer, pointer, pointer, pointer, pointer)
dkron_contract = kernel("dkron_contract", None, size, size, size, size, pointer, pointer, pointer, pointer, pointer)


def contract(v, u, A, rows, gradient):
    function = skron_contract if v.dtype == np.float32 else dkron_contract
    function(*A.shape, u.shape[1], *(array.ctypes.data for array in (v, u, A, rows, gradient)))
