"""The tape: the steps of the open block, exactly, in front of whatever the carry makes of all before them."""

from okcore._engine.buffers cimport Buffers
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport Block, Input


cdef class Tape(Buffers)

# One step from `state` (B, S) into `state_next` and the slot behind the tape; nothing that counts is changed.
# Returns -1, or the first lane whose new state is not finite.
ctypedef int (*compute_step_function)(Tape tape, const Input *step, const void *state) except -2 nogil

# Add dh (B, n) to the newest step's credit.
ctypedef void (*add_credit_function)(Tape tape, const void *dh) noexcept nogil

# gradient = (or += if add) the tape's part for dh (B, n) at the newest step, or for the stored credits if dh is NULL:
# (P, m), or (B, P, m) if per_lane; NULL: only delta is wanted. delta (B, S) becomes what is left of the credit at the
# block's start, if `reach_back`. With no open step, gradient is left as it is.
ctypedef void (*sweep_function)(
    Tape tape, const void *dh, void *delta, void *gradient, bint per_lane, bint add, bint reach_back, int threads,
) noexcept nogil

# dx (B, v) = (dh D) W_x, dh (B, n), for the h rows d (B, G, n) of a step's D and the W_x (P, v) it used.
ctypedef void (*sweep_to_input_function)(
    Tape tape, const void *dh, const void *d, const void *W_x, void *dx, int threads) noexcept nogil

# The steps of block.lane as terms u (n_terms, m), A (n_terms, S, P), newest first; fills in alive and n_terms. Returns
# the transition Phi (S, S), a matrix inside phi (2, S, S); NULL if the lane was reset. dense (S, n) is scratch.
ctypedef const void *(*lane_terms_function)(
    Tape tape, Block *block, void *phi, void *dense, void *u, void *A) noexcept nogil


cdef class Tape(Buffers):
    cdef readonly CellKernel cell
    cdef readonly int batch_size, block
    cdef readonly int open_steps         # steps on the tape
    cdef bint credited                   # does it hold credits that no sweep has taken?
    cdef bint late                       # are they those of `late_gradient`: is only the carry's part still to come?
    cdef int last_slot                   # of the newest snapshot of W_h; -1: none
    cdef bint keeps_w                    # are snapshots of W_h needed at all?
    cdef bint stays_empty                # for a local carry, which takes in each step at once

    # Kept, of K steps and a slot for the step that is being taken
    cdef void *u_hat                     # (K + 1, B, q, m)
    cdef void *d                         # (K + 1, B, q, k, G, n)
    cdef void *c                         # (K + 1, B, k, k, n)
    cdef void *w                         # (K + 1, P, n) ring of snapshots
    cdef int *w_slot                     # (K + 1,) which snapshot each step used
    cdef unsigned char *cut              # (K + 1, B) the lane was reset just before this step
    cdef void *credit                    # (K, B, n)
    # Workspace
    cdef void *state_next                # (B, S) the state after the step that is being taken
    cdef void *before                    # (B, S) the state it starts from, resets done
    cdef void *pre                       # (B, q, P)
    cdef void *e                         # (K, B, q, P) credits times D
    cdef void *spare                     # (B, S)
    cdef void *theta_T                   # (m, theta_T_row(P)) theta^T of a run, if has_theta_T
    cdef bint has_theta_T

    # For the dtype, bound when the tape is made
    cdef compute_step_function compute_step
    cdef add_credit_function add_credit
    cdef sweep_function sweep
    cdef sweep_to_input_function sweep_to_input
    cdef lane_terms_function lane_terms

    # Make the step in slot `source` the newest one on the tape.
    cdef void commit_step(self, int source) noexcept nogil

    # Mark a lane as reset after the newest step.
    cdef void cut_lane(self, int lane) noexcept nogil

    # Forget all steps.
    cdef void empty(self) noexcept nogil

    cdef void forget_credits(self) noexcept nogil
    cdef bint credits_are_finite(self)
