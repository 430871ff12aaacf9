"""Arrays that live as long as their owner: made once, never moved, aligned to a cache line."""


# Where the data of an array starts
cdef inline void *address(array) except NULL:
    return <void *> <size_t> array.ctypes.data


cdef class Buffers:
    cdef object dtype            # of the arrays that do not name another
    cdef dict kept               # by name: what a saved state holds
    cdef list workspace          # whose contents last no longer than a call

    # A new array of zeros, kept under `name`; dtype None is the owner's.
    cdef object keep_zeros(self, name, shape, dtype)

    # A new array of zeros that no state holds.
    cdef void *reserve(self, shape, dtype) except NULL

    # The part of one of these arrays that starts at `data`, as an array: whoever holds it keeps its memory alive.
    cdef object view(self, const void *data, shape)
