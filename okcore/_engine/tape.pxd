"""The tape: the steps of the open block, exactly, in front of whatever the carry makes of all before them."""

from okcore._engine.cell_kernel cimport CellKernel


cdef class Tape:
    cdef readonly CellKernel cell
    cdef readonly int batch_size, block
    cdef readonly int open_steps         # steps on the tape
    cdef readonly bint credited          # does it hold credits that no sweep has taken?
    cdef readonly int last_slot          # of the newest snapshot of W_h; -1: none
    cdef readonly dict arrays            # everything on the tape, by name
    cdef list scratch                    # everything that is not; kept alive here
    cdef bint keeps_w                    # are snapshots of W_h needed at all?
    cdef int n, v, m, q, k, G, S, P

    # K steps, and a slot for the step that is being taken, of
    cdef void *u_hat                     # (K + 1, B, q, m)
    cdef void *d                         # (K + 1, B, q, k, G, n)
    cdef void *c                         # (K + 1, B, k, k, n)
    cdef void *w                         # (K + 1, P, n) ring of snapshots
    cdef int *w_slot                     # (K + 1,) which snapshot each step used
    cdef unsigned char *cut              # (K + 1, B) lane was reset just before this step
    cdef void *credit                    # (K, B, n)
    # scratch
    cdef void *before                    # (B, S) the state a step starts from, resets done
    cdef void *pre                       # (B, q, P)
    cdef void *e                         # (K, B, q, P) credits times D
    cdef void *spare                     # (B, S)
    cdef void *theta_T                   # (m, P) theta^T of a run, if has_theta_T
    cdef bint has_theta_T

    # One step from `state` (B, S) into `state_next` (B, S) and the slot behind the tape; nothing that counts is
    # changed. in_run: theta will not change for some steps; same_theta: nor has it since the last.
    # Returns -1, or the first lane whose new state is not finite.
    cdef int compute_step(
        self, const void *x, const long long *symbols, const unsigned char *reset, bint in_run, bint same_theta,
        void *state, void *state_next,
    ) except -2 nogil

    # Make the step in slot `source` the newest one on the tape.
    cdef void commit_step(self, int source) noexcept nogil

    # Mark a lane as reset after the newest step.
    cdef void cut_lane(self, int lane) noexcept nogil

    # Forget all steps.
    cdef void empty(self) noexcept nogil

    # Add dh (B, n) to the newest step's credit.
    cdef void add_credit(self, const void *dh) noexcept nogil
    cdef void forget_credits(self) noexcept nogil

    # gradient (P, m) = (or += if add) the tape's part for dh (B, n) at the newest step, or for the stored credits if dh
    # is NULL; delta (B, S) becomes what is left of the credit at the block's start, if `reach_back`.
    cdef void sweep(
        self, const void *dh, void *delta, void *gradient, bint add, bint reach_back, int threads,
    ) noexcept nogil

    # The block of one lane as terms u (count, m), A (count, S, P), newest first, and its transition, one of the two
    # (S, S) in `phi`; alive: no reset cut the lane off from before the block. Returns count.
    cdef int lane_terms(
        self, int lane, void *phi, void *dense, void *u, void *A, bint *alive, void **transition,
    ) noexcept nogil

    cdef void *make_scratch(self, shape) except NULL
