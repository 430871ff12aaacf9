"""The base of every carry, and the whole contract of a compiled one.

A compiled carry is a `cdef class` on `Carry` in a module of its own. Its constructor, after `Carry.__init__`,

1. keeps its arrays: ``self.A = address(self.keep("A", (rank, S, P)))`` is (B, rank, S, P), zero, of the cell's dtype.
   What is kept is what a checkpoint holds, what a reset zeroes, and what `Carry.arrays` shows;
2. says how many random numbers each of its calls takes (`n_draws`), if any; where that depends on the length of a
   block, it does so in `prepare`;
3. binds its functions for the dtype: `contract_lanes`, and either `absorb_lane` or, if it is local, `absorb_lane_step`;
   neither of the two if it remembers nothing. The casts accept any signature, so copy the ones below.

The functions get plain pointers and neither allocate nor raise. They must not leave anything that is not finite in a
lane without returning NOT_FINITE: the engine then zeroes that lane and reports it.

Lanes are absorbed side by side on threads, so whatever a call writes beside its own lane belongs to `thread`, a number
below `n_threads`. `contract_lanes` is called from one thread, and may use `n_threads` threads. With
one lane, `lane_threads` threads are free inside `absorb_lane`. Branch to a plain loop where the number is 1: OpenMP
allocates a team for a prange inside the engine's own, even of one thread.
"""

from okcore._engine.buffers cimport Buffers
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport Block, Sizes, Step


cdef class Carry(Buffers)

# Close a block of one lane: J <- Phi J + sum_i A_i (x) u_i, or J <- sum_i A_i (x) u_i if not block.alive (the lane was
# reset inside the block, and Phi is NULL), with Phi (S, S), u (n_terms, m), A (n_terms, S, P). block.n_terms may be
# less than a whole block's, even 0. The newest step comes first; within a step, terms j = 0 .. q - 1. u and A may be
# overwritten. Returns FINE or NOT_FINITE.
ctypedef int (*absorb_function)(Carry carry, const Block *block, const void *Phi, void *u, void *A) noexcept nogil

# A local carry: take in the newest step of one lane, d (q, k, G, n), c (k, k, n), u (q, m). Theta as it was used in the
# step is carry.cell.theta_data (P, m). Returns FINE or NOT_FINITE.
ctypedef int (*absorb_step_function)(
    Carry carry, const Step *step, const void *d, const void *c, const void *u) noexcept nogil

# gradient (P, m) = (or += if add) sum over the lanes first .. end - 1 of delta J, delta (B, S). Returns FINE.
ctypedef int (*contract_function)(
    Carry carry, int first, int end, const void *delta, void *gradient, bint add) noexcept nogil

cdef enum:
    MOST_ARRAYS = 16


cdef class Carry(Buffers):
    cdef readonly CellKernel cell
    cdef readonly int batch_size
    cdef readonly tuple generators     # one numpy Generator per lane, given by the engine
    cdef Sizes sizes                   # the cell's
    cdef bint single                   # float32?
    cdef Py_ssize_t item               # bytes of a float

    # Bound by the subclass for the dtype; a subclass in Python has its methods called instead
    cdef absorb_function absorb_lane
    cdef absorb_step_function absorb_lane_step
    cdef contract_function contract_lanes

    # Set by the subclass, in its constructor or in `prepare`
    cdef int n_draws                   # random numbers per lane and call of absorb_lane or absorb_lane_step

    # Set by the engine
    cdef int n_threads                 # lanes that are absorbed at the same time
    cdef int lane_threads              # threads inside a lane: more than 1 only where there is one lane
    cdef object failure                # the exception of a method in Python

    # The room a closing block is worked in, per thread
    cdef int room_rows                 # the most terms of a block
    cdef void *u_room                  # (room_rows, m)
    cdef void *A_room                  # (room_rows, S, P)
    cdef void *phi_room                # (2, S, S)
    cdef void *dense_room                # (S, n)
    cdef double *draws                 # (n_draws,)
    cdef void *delta                   # (B, S) the credit that is contracted

    cdef Buffers tape                  # whose arrays the steps are in, for a carry in Python
    cdef int n_kept
    cdef char *kept_data[MOST_ARRAYS]
    cdef Py_ssize_t kept_size[MOST_ARRAYS]   # bytes per lane

    # Make what depends on the length of a block, n_terms terms at most, and on n_threads; called once.
    cdef int prepare(self, int n_terms, int n_threads) except -1

    # For the engine
    cdef bint is_local(self) noexcept nogil
    cdef bint is_compiled(self) noexcept nogil
    cdef int start(self, tuple generators, int block, int n_threads) except -1
    cdef void zero_lane(self, int lane) noexcept nogil
    cdef int raise_failure(self) except -1

    # For the base itself
    cdef bint defines(self, name)
    cdef bint lane_is_finite(self, int lane) except -1
    cdef int keep_array(self, name, array) except -1
    cdef void fail(self, error) noexcept
