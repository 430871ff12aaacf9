"""TBPTT's carry: nothing before the block is remembered."""

from libc.string cimport memset

from okcore._carries.base cimport Carry
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE


cdef class NoCarry(Carry):
    """Nothing."""

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.contract_lanes = contract_nothing


cdef int contract_nothing(
    Carry carry, int first, int end, const void *delta, void *gradient, bint add,
) noexcept nogil:
    if not add:
        memset(gradient, 0, <Py_ssize_t> carry.sizes.P * carry.sizes.m * carry.item)
    return FINE
