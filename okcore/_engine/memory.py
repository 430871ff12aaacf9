"""Buffers that live as long as their owner: aligned to a cache line, made once."""

import ctypes
import math

import numpy as np

ALIGNMENT = 64


def aligned_zeros(shape, dtype):
    """Return a C-contiguous array of zeros whose data starts on a 64-byte boundary.

    Large buffers are zeroed by the operating system page by page as they are first touched, so room that a
    run never uses (a snapshot of W_h per step, where theta stays fixed) costs no memory.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    buffer = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def view(address, shape, dtype):
    """Return an array over memory owned by somebody else, for the length of one call."""
    dtype = np.dtype(dtype)
    buffer = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)
