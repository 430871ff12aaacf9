"""Pointers to what NumPy arrays hold."""


cdef inline void *address(array) except NULL:
    return <void *> <size_t> array.ctypes.data
