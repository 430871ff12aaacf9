import math

import numpy as np

from okcore._kernels cimport ALIGNMENT


def aligned_zeros(shape, dtype):
    """Return a C-contiguous array of zeros whose data starts on a 64-byte boundary.

    The operating system zeroes a large array page by page as it is first touched. Room that a run never uses (a
    snapshot of W_h per step, where theta stays fixed) therefore costs no memory.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    buffer = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


cdef class Buffers:
    """Base class of what owns arrays: the tape, the carries, the engine."""

    def __cinit__(self, *args, **kwargs):
        self.kept = {}
        self.workspace = []

    cdef object keep_zeros(self, name, shape, dtype):
        self.kept[name] = aligned_zeros(shape, self.dtype if dtype is None else dtype)
        return self.kept[name]

    cdef void *reserve(self, shape, dtype) except NULL:
        array = aligned_zeros(shape, self.dtype if dtype is None else dtype)
        self.workspace.append(array)
        return address(array)

    cdef object view(self, const void *data, shape):
        cdef Py_ssize_t start
        for array in [*self.kept.values(), *self.workspace]:
            start = <Py_ssize_t> data - <Py_ssize_t> address(array)
            if 0 <= start < array.nbytes:
                start //= array.itemsize
                return array.reshape(-1)[start : start + math.prod(shape)].reshape(shape)
        raise AssertionError("these data belong to none of the arrays")
