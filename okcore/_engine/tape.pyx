from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from okcore._engine.memory import aligned_zeros

from okcore._engine.address cimport address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._kernels cimport (
    BLOCK_ROWS,
    all_finite,
    augmented_input,
    credit_times_immediate,
    credit_times_jacobian,
    dense_part,
    immediate_factor,
    outer_products,
    part_start,
    parts_that_pay,
    preactivations,
    transpose,
    transition_times_jacobian,
)

cdef enum:
    MANY_LANES = 4   # from which theta^T, copied once a run, is worth its making


cdef class Tape:
    """The open block's steps: augmented inputs u_hat, diagonals d and c, the W_h each step used, resets, credits."""

    def __init__(self, CellKernel cell, int batch_size, int block, bint keeps_w):
        cdef int B = batch_size, K = block
        self.cell, self.batch_size, self.block, self.keeps_w = cell, B, K, keeps_w
        self.n, self.v, self.m = cell.n_hidden, cell.n_in, cell.n_columns
        self.q, self.k, self.G = cell.n_terms_, cell.n_state_blocks_, cell.n_gates_
        self.S, self.P = cell.state_size, cell.n_rows
        self.last_slot = -1

        dtype = cell.dtype
        self.arrays = {
            "u_hat": aligned_zeros((K + 1, B, self.q, self.m), dtype),
            "d": aligned_zeros((K + 1, B, self.q, self.k, self.G, self.n), dtype),
            "c": aligned_zeros((K + 1, B, self.k, self.k, self.n), dtype),
            "w": aligned_zeros((K + 1 if keeps_w else 0, self.P, self.n), dtype),
            "w_slot": np.zeros(K + 1, np.intc),
            "cut": np.zeros((K + 1, B), np.uint8),
            "credit": aligned_zeros((K, B, self.n), dtype),
        }
        self.u_hat = address(self.arrays["u_hat"])
        self.d = address(self.arrays["d"])
        self.c = address(self.arrays["c"])
        self.w = address(self.arrays["w"])
        self.w_slot = <int *> address(self.arrays["w_slot"])
        self.cut = <unsigned char *> address(self.arrays["cut"])
        self.credit = address(self.arrays["credit"])

        self.scratch = []
        self.before = self.make_scratch((B, self.S))
        self.pre = self.make_scratch((B, self.q, self.P))
        self.e = self.make_scratch((K, B, self.q, self.P))
        self.spare = self.make_scratch((B, self.S))
        self.theta_T = self.make_scratch((self.m, self.P))

    cdef void *make_scratch(self, shape) except NULL:
        array = aligned_zeros(shape, self.cell.dtype)
        self.scratch.append(array)
        return address(array)

    def restore(self, int open_steps, bint credited, int last_slot):
        """Say what the arrays hold, after they were written from outside."""
        self.open_steps, self.credited, self.last_slot = open_steps, credited, last_slot

    cdef int compute_step(
        self, const void *x, const long long *symbols, const unsigned char *reset, bint in_run, bint same_theta,
        void *state, void *state_next,
    ) except -2 nogil:
        if self.cell.single:
            return compute_step[float](
                self, <const float *> x, symbols, reset, in_run, same_theta,
                <const float *> state, <float *> state_next)
        return compute_step[double](
            self, <const double *> x, symbols, reset, in_run, same_theta,
            <const double *> state, <double *> state_next)

    cdef void commit_step(self, int source) noexcept nogil:
        cdef Py_ssize_t lanes = self.batch_size * (sizeof(float) if self.cell.single else sizeof(double))
        cdef int target = self.open_steps
        if source != target:
            copy_row(self.u_hat, source, target, lanes * self.q * self.m)
            copy_row(self.d, source, target, lanes * self.q * self.k * self.P)
            copy_row(self.c, source, target, lanes * self.k * self.S)
            self.w_slot[target] = self.w_slot[source]
        if self.keeps_w:
            self.last_slot = self.w_slot[target]
        self.open_steps += 1

    cdef void cut_lane(self, int lane) noexcept nogil:
        self.cut[self.open_steps * self.batch_size + lane] = 1

    cdef void empty(self) noexcept nogil:
        memset(self.cut, 0, (self.open_steps + 1) * self.batch_size)
        self.open_steps = 0

    cdef void add_credit(self, const void *dh) noexcept nogil:
        self.credited = True
        if self.cell.single:
            add_credit[float](self, <const float *> dh)
        else:
            add_credit[double](self, <const double *> dh)

    cdef void forget_credits(self) noexcept nogil:
        memset(self.credit, 0, <Py_ssize_t> self.open_steps * self.batch_size * self.n
               * (sizeof(float) if self.cell.single else sizeof(double)))
        self.credited = False

    cdef void sweep(
        self, const void *dh, void *delta, void *gradient, bint add, bint reach_back, int threads,
    ) noexcept nogil:
        if self.cell.single:
            sweep[float](self, <const float *> dh, <float *> delta, <float *> gradient, add, reach_back, threads)
        else:
            sweep[double](self, <const double *> dh, <double *> delta, <double *> gradient, add, reach_back, threads)

    cdef int lane_terms(
        self, int lane, void *phi, void *dense, void *u, void *A, bint *alive, void **transition,
    ) noexcept nogil:
        if self.cell.single:
            return lane_terms[float](
                self, lane, <float *> phi, <float *> dense, <float *> u, <float *> A, alive, transition)
        return lane_terms[double](
            self, lane, <double *> phi, <double *> dense, <double *> u, <double *> A, alive, transition)


cdef inline void copy_row(void *rows, int source, int target, Py_ssize_t size) noexcept nogil:
    memcpy(<char *> rows + target * size, <char *> rows + source * size, size)


cdef void snapshot_parameters(Tape tape, const floating *theta, bint same_theta) noexcept nogil:
    # Online updates: H_tau is made with the W_h in force at tau, so each distinct W_h is copied when it is used.
    # A ring of K + 1 snapshots is enough: the open block's steps have at most K, the new step one more.
    cdef int row, slot = tape.last_slot, P = tape.P, n = tape.n, m = tape.m
    cdef Py_ssize_t size = <Py_ssize_t> P * n
    cdef const floating *W_h = theta + tape.v
    cdef floating *snapshot
    cdef bint same = slot >= 0
    if not tape.keeps_w:
        return
    if same and not same_theta:
        snapshot = <floating *> tape.w + slot * size
        for row in range(P):
            if memcmp(snapshot + row * n, W_h + <Py_ssize_t> row * m, n * sizeof(floating)) != 0:
                same = False
                break
    if not same:
        slot = (slot + 1) % (tape.block + 1)
        snapshot = <floating *> tape.w + slot * size
        for row in range(P):
            memcpy(snapshot + row * n, W_h + <Py_ssize_t> row * m, n * sizeof(floating))
    tape.w_slot[tape.open_steps] = slot


cdef int compute_step(
    Tape tape, const floating *x, const long long *symbols, const unsigned char *reset,
    bint in_run, bint same_theta, const floating *state, floating *state_next,
) except -2 nogil:
    cdef int B = tape.batch_size, tau = tape.open_steps, q = tape.q, k = tape.k, S = tape.S, P = tape.P, m = tape.m
    cdef int lane
    cdef const floating *theta = <const floating *> tape.cell.theta_data
    cdef floating *before = <floating *> state
    cdef floating *u_hat = <floating *> tape.u_hat + <Py_ssize_t> tau * B * q * m
    cdef floating *d = <floating *> tape.d + <Py_ssize_t> tau * B * q * k * P
    cdef floating *c = <floating *> tape.c + <Py_ssize_t> tau * B * k * S
    if reset != NULL or not tape.cell.compiled:  # a cell in Python gets a copy
        before = <floating *> tape.before
        memcpy(before, state, <Py_ssize_t> B * S * sizeof(floating))
    if reset != NULL:
        for lane in range(B):
            if reset[lane]:
                memset(before + lane * S, 0, S * sizeof(floating))
    snapshot_parameters[floating](tape, theta, same_theta)
    augmented_input[floating](B, q, tape.v, tape.n, S, x, symbols, before, u_hat)
    if not same_theta:
        tape.has_theta_T = False
    if in_run and B >= MANY_LANES and not tape.has_theta_T:
        transpose[floating](P, m, theta, <floating *> tape.theta_T)
        tape.has_theta_T = True
    preactivations[floating](B, q, tape.v, tape.n, P, u_hat, theta,
                             <floating *> tape.theta_T if tape.has_theta_T else NULL, <floating *> tape.pre)
    tape.cell.step_lanes(B, tape.pre, before, state_next, d, c)
    for lane in range(B):
        if not all_finite[floating](S, state_next + lane * S):
            return lane
    return -1


cdef void add_credit(Tape tape, const floating *dh) noexcept nogil:
    cdef int lane, i, n = tape.n, B = tape.batch_size
    cdef floating *credit = <floating *> tape.credit + <Py_ssize_t> (tape.open_steps - 1) * B * n
    for lane in range(B):
        if not tape.cut[tape.open_steps * B + lane]:  # not reset since its last step
            for i in range(n):
                credit[lane * n + i] += dh[lane * n + i]


cdef void sweep(
    Tape tape, const floating *dh, floating *delta, floating *gradient, bint add, bint reach_back, int threads,
) noexcept nogil:
    # delta <- credit; for tau = newest .. oldest: e_tau = delta D_tau, delta <- delta H_tau (2 B P n flops).
    # Then gradient (P, m) = (or +=) sum_tau e_tau^T u_hat_tau, one product over all steps, terms and lanes.
    cdef int B = tape.batch_size, P = tape.P, open_steps = tape.open_steps, part, parts
    parts = parts_that_pay(B, BLOCK_ROWS, <Py_ssize_t> open_steps * B * P * tape.n, threads)
    if parts == 1:
        sweep_lanes[floating](tape, 0, B, dh, delta, reach_back)
    else:
        for part in prange(parts, num_threads=parts, schedule="static"):
            sweep_lanes[floating](tape, part_start(B, BLOCK_ROWS, part, parts),
                                  part_start(B, BLOCK_ROWS, part + 1, parts), dh, delta, reach_back)
    if open_steps > 0:
        outer_products[floating](open_steps * B, tape.q, tape.v, tape.n, P, <floating *> tape.e,
                                 <floating *> tape.u_hat, <floating *> tape.pre, gradient, add, threads)
    elif not add:
        memset(gradient, 0, <Py_ssize_t> P * tape.m * sizeof(floating))


cdef void sweep_lanes(
    Tape tape, int first, int end, const floating *dh, floating *delta_of_all, bint reach_back,
) noexcept nogil:
    cdef int B = tape.batch_size, n = tape.n, q = tape.q, k = tape.k, G = tape.G, S = tape.S, P = tape.P
    cdef int open_steps = tape.open_steps, lanes = end - first, lane, i, tau
    cdef Py_ssize_t at
    cdef floating *delta = delta_of_all + first * S
    cdef floating *now = delta
    cdef floating *before = <floating *> tape.spare + first * S
    cdef floating *rows
    cdef const floating *credit
    cdef const floating *c
    cdef const floating *W_h
    memset(delta, 0, <Py_ssize_t> lanes * S * sizeof(floating))
    if dh != NULL:
        for lane in range(lanes):
            if not tape.cut[open_steps * B + first + lane]:
                memcpy(delta + lane * S, dh + (first + lane) * n, n * sizeof(floating))
    for tau in range(open_steps - 1, -1, -1):
        at = <Py_ssize_t> tau * B + first
        rows = <floating *> tape.e + at * q * P
        if dh == NULL:
            credit = <floating *> tape.credit + at * n
            for lane in range(lanes):
                for i in range(n):
                    now[lane * S + i] += credit[lane * n + i]
        credit_times_immediate[floating](lanes, q, k, G, n, now, <floating *> tape.d + at * q * k * P, rows)
        if tau > 0 or reach_back:
            c = <floating *> tape.c + at * k * S
            W_h = <floating *> tape.w + tape.w_slot[tau] * (<Py_ssize_t> P * n)
            credit_times_jacobian[floating](lanes, q, k, G, n, rows, W_h, c, now, before)
            now, before = before, now
        for lane in range(lanes):
            if tape.cut[at + lane]:
                memset(now + lane * S, 0, S * sizeof(floating))
    if now != delta:
        memcpy(delta, now, <Py_ssize_t> lanes * S * sizeof(floating))


cdef int lane_terms(
    Tape tape, int lane, floating *phi, floating *dense, floating *u, floating *A, bint *alive, void **transition,
) noexcept nogil:
    # Phi <- I; for tau = newest .. oldest: A = Phi D_tau^j beside u_tau^j, then Phi <- Phi H_tau: 2 S^2 n flops a step.
    cdef int B = tape.batch_size, q = tape.q, k = tape.k, G = tape.G, n = tape.n, S = tape.S, P = tape.P, m = tape.m
    cdef int tau, j, count = 0
    cdef Py_ssize_t at
    cdef floating *now = NULL
    cdef floating *after
    cdef const floating *d
    alive[0] = not tape.cut[tape.open_steps * B + lane]
    if not alive[0]:
        return 0
    for tau in range(tape.open_steps - 1, -1, -1):
        at = <Py_ssize_t> tau * B + lane
        d = <floating *> tape.d + at * q * k * P
        memcpy(u + count * m, <floating *> tape.u_hat + at * q * m, q * m * sizeof(floating))
        for j in range(q):
            immediate_factor[floating](k, G, n, now, d + j * k * P, A + count * (<Py_ssize_t> S * P))
            count += 1
        if tape.cut[at]:
            alive[0] = False
            return count
        dense_part[floating](k, G, n, d + (q - 1) * k * P,
                             <floating *> tape.w + tape.w_slot[tau] * (<Py_ssize_t> P * n), dense)
        after = phi if now != phi else phi + S * S
        transition_times_jacobian[floating](k, n, now, dense, <floating *> tape.c + at * k * S, after)
        now = after
    transition[0] = now
    return count
