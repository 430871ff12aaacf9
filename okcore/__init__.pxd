"""What a compiled carry of another package may cimport: ``from okcore cimport Carry``. docs/extending.md shows one.

These names stay within a major version of okcore. A carry holds the fields of its base, so it is built against the
version it runs with. The kernels are in ``okcore.cython_kernels``.
"""

from okcore._carries.base cimport Carry, absorb_function, absorb_step_function, contract_function
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NOT_FINITE, Block, Sizes, Step
