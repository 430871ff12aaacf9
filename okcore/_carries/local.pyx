"""SnAp-1's carry: of the influence only what a unit's own rows of theta do to that unit's own state."""

from cython cimport floating

from okcore._carries.base cimport Carry, absorb_step_function, contract_function
from okcore._engine.buffers cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NOT_FINITE, Step
from okcore._kernels cimport own_unit_contract, own_unit_update


cdef class OwnUnitCarry(Carry):
    """SnAp-1: J[(a, i), (g, i), :] for every unit i, state block a and gate g; k P m floats per lane."""

    cdef void *J         # (B, k, G, n, m)
    cdef void *H         # (threads, k, k, n) each unit's own part of the state Jacobian

    def __init__(self, CellKernel cell, int batch_size):
        super().__init__(cell, batch_size)
        self.J = address(self.keep("J", (self.sizes.k, self.sizes.G, self.sizes.n, self.sizes.m)))
        if self.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        self.H = self.reserve((n_threads, self.sizes.k, self.sizes.S), None)
        return 0


cdef void bind(OwnUnitCarry carry, floating *_) noexcept:
    carry.absorb_lane_step = <absorb_step_function> absorb_own_units[floating]
    carry.contract_lanes = <contract_function> credit_times_own_units[floating]


cdef int absorb_own_units(
    OwnUnitCarry carry, const Step *step, const floating *d, const floating *c, const floating *u,
) noexcept nogil:
    # J <- mask (H J + sum_j D_j (x) u_j): H[a, b, i] = c[a, b, i], and where b is h + sum_g d*[a, g, i] W_h[(g, i), i].
    # 2 k^2 P m + 2 q k P m flops; J is read and written once.
    cdef int v = carry.sizes.v, n = carry.sizes.n, G = carry.sizes.G, k = carry.sizes.k, q = carry.sizes.q
    cdef int m = carry.sizes.m, a, g, i
    cdef Py_ssize_t P = carry.sizes.P
    cdef const floating *theta = <const floating *> carry.cell.theta_data
    cdef const floating *d_h = d + (q - 1) * k * P                 # of the term that W_h multiplies
    cdef floating *H = <floating *> carry.H + step.thread * k * k * n
    for i in range(k * k * n):
        H[i] = c[i]
    for a in range(k):
        for g in range(G):
            for i in range(n):
                H[a * k * n + i] += d_h[a * P + g * n + i] * theta[(g * n + i) * <Py_ssize_t> m + v + i]
    if own_unit_update[floating](k, q, G, n, m, H, d, u, <floating *> carry.J + step.lane * k * P * m):
        return FINE
    return NOT_FINITE


cdef int credit_times_own_units(
    OwnUnitCarry carry, int first, int end, const floating *delta, floating *gradient, bint add,
) noexcept nogil:
    # gradient[(g, i), :] = (or +=) sum over lanes and a of delta[a, i] J[a, g, i, :]
    cdef int k = carry.sizes.k, G = carry.sizes.G, n = carry.sizes.n, m = carry.sizes.m, lane
    for lane in range(first, end):
        own_unit_contract[floating](
            k, G, n, m, delta + lane * k * n, <floating *> carry.J + lane * k * (<Py_ssize_t> G * n * m),
            add or lane > first, gradient)
    return FINE
