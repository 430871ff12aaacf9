from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from okcore import _validation

from okcore._engine.buffers cimport Buffers, address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport Block, Input, Sizes
from okcore._kernels cimport (
    all_finite,
    augmented_input,
    credit_times_immediate,
    credit_times_jacobian,
    dense_part,
    gemm_by_columns,
    immediate_factor,
    outer_products,
    part_start,
    parts_that_pay,
    preactivations,
    transition_times_jacobian,
    theta_T_row,
    transpose,
)

cdef extern from "simd.h":
    enum: MR_TAIL "OKCORE_MR_TAIL"

cdef enum:
    MANY_LANES = 4   # the least number of lanes for which copying theta^T once per run pays


cdef class Tape(Buffers):
    """The open block's steps: augmented inputs u_hat, diagonals d and c, the W_h each step used, resets, credits."""

    def __init__(self, CellKernel cell, int batch_size, int block, bint keeps_w, bint stays_empty):
        cdef Py_ssize_t B = batch_size, K = block
        cdef Sizes sizes = cell.sizes
        self.cell, self.batch_size, self.block = cell, batch_size, block
        self.keeps_w, self.stays_empty = keeps_w, stays_empty
        self.dtype = cell.dtype
        self.last_slot = -1
        self.u_hat = address(self.keep_zeros("u_hat", (K + 1, B, sizes.q, sizes.m), None))
        self.d = address(self.keep_zeros("d", (K + 1, B, sizes.q, sizes.k, sizes.G, sizes.n), None))
        self.c = address(self.keep_zeros("c", (K + 1, B, sizes.k, sizes.k, sizes.n), None))
        self.w = address(self.keep_zeros("w", (K + 1 if keeps_w else 0, sizes.P, sizes.n), None))
        self.w_slot = <int *> address(self.keep_zeros("w_slot", (K + 1,), np.intc))
        self.cut = <unsigned char *> address(self.keep_zeros("cut", (K + 1, B), np.uint8))
        self.credit = address(self.keep_zeros("credit", (K, B, sizes.n), None))

        self.state_next = self.reserve((B, sizes.S), None)
        self.before = self.reserve((B, sizes.S), None)
        self.pre = self.reserve((B, sizes.q, sizes.P), None)
        self.e = self.reserve((K, B, sizes.q, sizes.P), None)
        self.spare = self.reserve((B, sizes.S), None)
        self.theta_T = self.reserve((sizes.m, theta_T_row(sizes.P)), None)
        if cell.single:
            bind[float](self, NULL)
        else:
            bind[double](self, NULL)

    cdef void commit_step(self, int source) noexcept nogil:
        cdef Sizes sizes = self.cell.sizes
        cdef Py_ssize_t lanes = self.batch_size * self.cell.item
        cdef int target = self.open_steps
        if source != target:
            copy_row(self.u_hat, source, target, lanes * sizes.q * sizes.m)
            copy_row(self.d, source, target, lanes * sizes.q * sizes.k * sizes.P)
            copy_row(self.c, source, target, lanes * sizes.k * sizes.S)
            self.w_slot[target] = self.w_slot[source]
        if self.keeps_w:
            self.last_slot = self.w_slot[target]
        self.open_steps += 1

    cdef void cut_lane(self, int lane) noexcept nogil:
        self.cut[self.open_steps * self.batch_size + lane] = 1

    cdef void empty(self) noexcept nogil:
        memset(self.cut, 0, (self.open_steps + 1) * <Py_ssize_t> self.batch_size)
        self.open_steps = 0

    cdef void forget_credits(self) noexcept nogil:
        memset(self.credit, 0, <Py_ssize_t> self.open_steps * self.batch_size * self.cell.sizes.n * self.cell.item)
        self.credited = self.late = False

    cdef bint credits_are_finite(self):
        return np.isfinite(self.kept["credit"]).all()

    # ---- for study ---------------------------------------------------------------------------------------------

    def extend_influence(self, lane, J):
        """Return the influence (S, P, m) of a lane after the open block, for the one before it."""
        u_hat, cut = self.kept["u_hat"], self.kept["cut"]
        for tau in range(self.open_steps):
            if cut[tau, lane]:
                J = np.zeros_like(J)
            H, D = self.jacobians(tau, lane)
            J = np.tensordot(H, J, 1)
            for D_j, u_j in zip(D, u_hat[tau, lane], strict=True):
                J += D_j[:, :, None] * u_j
        return np.zeros_like(J) if cut[self.open_steps, lane] else J

    def jacobians(self, tau, lane):
        """Return the state Jacobian H (S, S) and the immediate Jacobian's D (q, S, P) of a step on the tape."""
        n, k, G, q = self.cell.sizes.n, self.cell.sizes.k, self.cell.sizes.G, self.cell.sizes.q
        unit = np.arange(n)
        D = np.zeros((q, k, n, G, n), self.dtype)
        D[:, :, unit, :, unit] = np.moveaxis(self.kept["d"][tau, lane], -1, 0)
        D = D.reshape(q, k * n, G * n)
        H = np.zeros((k, n, k, n), self.dtype)
        H[:, unit, :, unit] = np.moveaxis(self.kept["c"][tau, lane], -1, 0)
        H = H.reshape(k * n, k * n)
        if self.keeps_w:  # a horizon of 1 never looks back through W_h
            H[:, :n] += D[q - 1] @ self.kept["w"][self.kept["w_slot"][tau]]
        return H, D

    def augmented_inputs(self, tau, lane):
        """Return u_hat (q, m) of a step on the tape: a copy."""
        return self.kept["u_hat"][tau, lane].copy()

    # ---- saving and loading --------------------------------------------------------------------------------------

    def state_dict(self):
        """Return the open steps, copies; snapshots of W_h in the order of their first use."""
        j, kept = self.open_steps, self.kept
        state = {
            "open_steps": j, "credited": bool(self.credited), "late_credits": bool(self.late),
            "cut": kept["cut"][: j + 1].copy(),
        }  # fmt: skip
        for name in ("u_hat", "d", "c", "credit", "w_slot", "w"):
            state[name] = kept[name][:j].copy()
        if self.keeps_w:
            slots, first, renamed = np.unique(kept["w_slot"][:j], return_index=True, return_inverse=True)
            order = np.argsort(first)
            state["w"] = kept["w"][slots[order]]
            state["w_slot"] = np.argsort(order)[renamed].astype(np.intc) if j else state["w_slot"]
        return state

    def checked_state(self, state):
        """Return the entries of `state` that are the tape's, as arrays; ValueError or TypeError if they are none."""
        checked = {"open_steps": _validation.as_int("open_steps", state["open_steps"], 0)}
        j = checked["open_steps"]
        if j > (0 if self.stays_empty else self.block):
            raise ValueError(f"open_steps must be at most {0 if self.stays_empty else self.block}, got {j}")
        snapshots = len(state["w"]) if np.ndim(state["w"]) == 3 else 0
        if snapshots > j or (j and self.keeps_w and snapshots == 0):
            raise ValueError(f"w must hold from 1 to {j} snapshots, got {snapshots}")
        lengths = {"w": snapshots, "cut": j + 1}
        for name, array in self.kept.items():
            shape = (lengths.get(name, j), *array.shape[1:])
            checked[name] = _validation.as_floats(name, state[name], shape, array.dtype, finite=array.dtype.kind == "f")
        w_slot = checked["w_slot"]
        if self.keeps_w and j:  # in the order of their first use: a slot used again would be overwritten too soon
            if w_slot[0] != 0 or w_slot[j - 1] != snapshots - 1 or not np.isin(np.diff(w_slot), (0, 1)).all():
                raise ValueError(f"w_slot must rise from 0 to {snapshots - 1} by ones, got {w_slot}")
        elif w_slot.any():
            raise ValueError(f"w_slot must be zero, got {w_slot}")
        for name, blocks in self.cell._always_zero:
            if checked[name][blocks].any():
                raise ValueError(f"{name} is no tape of {type(self.cell).__name__}: what is always zero is not")
        for name in ("credited", "late_credits"):
            checked[name] = _validation.as_bool(name, state[name])
        return checked

    def restore(self, checked):
        """Go on from what `checked_state` returned."""
        for name, array in self.kept.items():
            if name in ("cut", "credit"):  # what lies behind the open steps is read as zero
                array[...] = 0
            array[: len(checked[name])] = checked[name]
        self.open_steps, self.credited, self.late = (
            checked[name] for name in ("open_steps", "credited", "late_credits"))
        self.last_slot = checked["w_slot"][self.open_steps - 1] if self.open_steps and self.keeps_w else -1
        self.has_theta_T = False


cdef void bind(Tape tape, floating *_) noexcept:
    tape.compute_step = <compute_step_function> step_all_lanes[floating]
    tape.add_credit = <add_credit_function> credit_newest_step[floating]
    tape.sweep = <sweep_function> sweep_back[floating]
    tape.sweep_to_input = <sweep_to_input_function> sweep_input[floating]
    tape.lane_terms = <lane_terms_function> collect_terms[floating]


cdef inline void copy_row(void *rows, int source, int target, Py_ssize_t size) noexcept nogil:
    memcpy(<char *> rows + target * size, <char *> rows + source * size, size)


cdef void snapshot_parameters(Tape tape, const floating *theta, bint same_theta) noexcept nogil:
    # Online updates: H_tau is made with the W_h in force at tau, so each distinct W_h is copied when it is used.
    # A ring of K + 1 snapshots is enough: the open block's steps have at most K, the new step one more.
    cdef int row, slot = tape.last_slot, P = tape.cell.sizes.P, n = tape.cell.sizes.n, m = tape.cell.sizes.m
    cdef Py_ssize_t size = <Py_ssize_t> P * n
    cdef const floating *W_h = theta + tape.cell.sizes.v
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


cdef int step_all_lanes(Tape tape, const Input *step, const floating *state) except -2 nogil:
    cdef Sizes sizes = tape.cell.sizes
    cdef int B = tape.batch_size, tau = tape.open_steps, lane
    cdef const floating *theta = <const floating *> tape.cell.theta_data
    cdef const floating *before = state
    cdef floating *state_next = <floating *> tape.state_next
    cdef floating *u_hat = <floating *> tape.u_hat + <Py_ssize_t> tau * B * sizes.q * sizes.m
    cdef floating *d = <floating *> tape.d + <Py_ssize_t> tau * B * sizes.q * sizes.k * sizes.P
    cdef floating *c = <floating *> tape.c + <Py_ssize_t> tau * B * sizes.k * sizes.S
    if step.reset != NULL or tape.cell.step == NULL:  # a cell in Python gets a copy
        memcpy(tape.before, state, <Py_ssize_t> B * sizes.S * sizeof(floating))
        before = <floating *> tape.before
    if step.reset != NULL:
        for lane in range(B):
            if step.reset[lane]:
                memset(<floating *> tape.before + lane * sizes.S, 0, sizes.S * sizeof(floating))
    snapshot_parameters[floating](tape, theta, step.same_theta)
    augmented_input[floating](
        B, sizes.q, sizes.v, sizes.n, sizes.S, <const floating *> step.x, step.symbols, before, u_hat)
    if not step.same_theta:
        tape.has_theta_T = False
    if step.in_run and B >= MANY_LANES and not tape.has_theta_T:
        transpose[floating](sizes.P, sizes.m, theta, <floating *> tape.theta_T, theta_T_row(sizes.P))
        tape.has_theta_T = True
    preactivations[floating](B, sizes.q, sizes.v, sizes.n, sizes.P, u_hat, theta,
                             <floating *> tape.theta_T if tape.has_theta_T else NULL, <floating *> tape.pre)
    if tape.cell.step == NULL:
        with gil:
            step_in_python(tape, d, c)
    else:
        tape.cell.step(B, sizes.n, tape.pre, before, state_next, d, c)
    for lane in range(B):
        if not all_finite[floating](sizes.S, state_next + lane * sizes.S):
            return lane
    return -1


cdef int step_in_python(Tape tape, void *d, void *c) except -1:
    # The method `pointwise` of a cell in NumPy, its results checked
    cdef Sizes sizes = tape.cell.sizes
    cdef int B = tape.batch_size, k = sizes.k, G = sizes.G, q = sizes.q, n = sizes.n
    cell = tape.cell
    pre, state = tape.view(tape.pre, (B, q, G, n)), tape.view(tape.before, (B, k, n))
    pre.flags.writeable = state.flags.writeable = False
    results = cell.pointwise(pre, state)
    name_of_cell = type(cell).__name__
    if not isinstance(results, tuple) or len(results) != 3:
        raise TypeError(f"{name_of_cell}.pointwise must return (state, d, c), got {type(results).__name__}")
    targets = (
        ("state", tape.view(tape.state_next, (B, k, n))),
        ("d", tape.view(d, (B, q, k, G, n))),
        ("c", tape.view(c, (B, k, k, n))),
    )
    for (name, target), result in zip(targets, results, strict=True):
        result = np.asarray(result)
        if result.shape != target.shape:
            raise ValueError(f"{name_of_cell}.pointwise: {name} must have shape {target.shape}, got {result.shape}")
        if result.dtype != cell.dtype:
            raise TypeError(f"{name_of_cell}.pointwise: {name} must be {cell.dtype}, got {result.dtype}")
        target[...] = result
    return 0


cdef void credit_newest_step(Tape tape, const floating *dh) noexcept nogil:
    cdef int lane, i, n = tape.cell.sizes.n, B = tape.batch_size
    cdef floating *credit = <floating *> tape.credit + <Py_ssize_t> (tape.open_steps - 1) * B * n
    tape.credited = True
    for lane in range(B):
        if not tape.cut[tape.open_steps * B + lane]:  # not reset since its last step
            for i in range(n):
                credit[lane * n + i] += dh[lane * n + i]


cdef void sweep_back(
    Tape tape, const floating *dh, floating *delta, floating *gradient, bint per_lane, bint add, bint reach_back,
    int threads,
) noexcept nogil:
    # delta <- credit; for tau = newest .. oldest: e_tau = delta D_tau, delta <- delta H_tau (2 B P n flops).
    # Then gradient = (or +=) sum_tau e_tau^T u_hat_tau, one product over all steps, terms and lanes, or one per lane.
    cdef Sizes sizes = tape.cell.sizes
    cdef int B = tape.batch_size, open_steps = tape.open_steps, sums = B if per_lane else 1, i, part, parts
    parts = parts_that_pay(B, MR_TAIL, <Py_ssize_t> open_steps * B * sizes.P * sizes.n, threads)
    if parts == 1:
        sweep_lanes[floating](tape, 0, B, dh, delta, reach_back)
    else:
        for part in prange(parts, num_threads=parts, schedule="static"):
            sweep_lanes[floating](tape, part_start(B, MR_TAIL, part, parts),
                                  part_start(B, MR_TAIL, part + 1, parts), dh, delta, reach_back)
    if open_steps > 0 and gradient != NULL:
        for i in range(sums):  # of every `sums`-th row, from row i on
            outer_products[floating](
                open_steps * B // sums, sums, sizes.q, sizes.v, sizes.n, sizes.P,
                <floating *> tape.e + <Py_ssize_t> i * sizes.q * sizes.P,
                <floating *> tape.u_hat + <Py_ssize_t> i * sizes.q * sizes.m, <floating *> tape.pre,
                gradient + <Py_ssize_t> i * sizes.P * sizes.m, add, threads)


cdef void sweep_lanes(
    Tape tape, int first, int end, const floating *dh, floating *delta_of_all, bint reach_back,
) noexcept nogil:
    cdef Sizes sizes = tape.cell.sizes
    cdef int B = tape.batch_size, n = sizes.n, q = sizes.q, k = sizes.k, G = sizes.G, S = sizes.S, P = sizes.P
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


cdef void sweep_input(
    Tape tape, const floating *dh, const floating *d, const floating *W_x, floating *dx, int threads,
) noexcept nogil:
    # (B, P)(P, v): 2 B P v flops. tape.e is scratch, as it is between two sweeps.
    cdef Sizes sizes = tape.cell.sizes
    cdef floating *e = <floating *> tape.e
    credit_times_immediate[floating](tape.batch_size, 1, 1, sizes.G, sizes.n, dh, d, e)
    gemm_by_columns[floating](
        False, tape.batch_size, sizes.v, sizes.P, 1, e, sizes.P, W_x, sizes.v, 0, dx, sizes.v, threads)


cdef const floating *collect_terms(
    Tape tape, Block *block, floating *phi, floating *dense, floating *u, floating *A,
) noexcept nogil:
    # Phi <- I; for tau = newest .. oldest: A = Phi D_tau^j beside u_tau^j, then Phi <- Phi H_tau (2 S^2 n flops).
    cdef Sizes sizes = tape.cell.sizes
    cdef int q = sizes.q, k = sizes.k, G = sizes.G, n = sizes.n, S = sizes.S, P = sizes.P, m = sizes.m
    cdef int B = tape.batch_size, lane = block.lane, tau, j
    cdef Py_ssize_t at
    cdef floating *now = NULL
    cdef floating *after
    cdef const floating *d
    block.n_terms = 0
    block.alive = not tape.cut[tape.open_steps * B + lane]
    if not block.alive:
        return NULL
    for tau in range(tape.open_steps - 1, -1, -1):
        at = <Py_ssize_t> tau * B + lane
        d = <floating *> tape.d + at * q * k * P
        memcpy(u + block.n_terms * m, <floating *> tape.u_hat + at * q * m, q * m * sizeof(floating))
        for j in range(q):
            immediate_factor[floating](k, G, n, now, d + j * k * P, A + block.n_terms * (<Py_ssize_t> S * P))
            block.n_terms += 1
        if tape.cut[at]:
            block.alive = False
            return NULL
        dense_part[floating](k, G, n, d + (q - 1) * k * P,
                             <floating *> tape.w + tape.w_slot[tau] * (<Py_ssize_t> P * n), dense)
        after = phi if now != phi else phi + S * S
        transition_times_jacobian[floating](k, n, now, dense, <floating *> tape.c + at * k * S, after)
        now = after
    return now
