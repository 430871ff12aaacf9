"""The engine: a tape of the open block, in front of a carry of everything before it.

    J_t = Phi_{t0->t} J_{t0} + sum_{tau = t0+1..t} Phi_{tau->t} F_tau

The tape holds the block's steps: augmented inputs u_hat, diagonals d and c, and the W_h each step used.  A
gradient sweeps its credit back over the tape and hands what is left to the carry; a block that is full is
absorbed by the carry at the start of the next step.  Nothing here knows which cell or which algorithm it runs.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.string cimport memcmp, memcpy, memset
from libc.stdlib cimport free, malloc
from numpy.random cimport bitgen_t

cimport numpy as cnp

import numpy as np

from okcore import _validation
from okcore._memory import aligned_zeros

from okcore._blas cimport gemm
from okcore._carries cimport Carry
from okcore._cells cimport CellKernel
from okcore._kernels cimport (
    all_finite,
    augmented_input,
    credit_times_immediate,
    credit_times_jacobian,
    dense_part,
    immediate_factor,
    transition_times_jacobian,
)

cnp.import_array()


cdef void *address(array) except NULL:
    return <void *> <size_t> array.ctypes.data


cdef inline bint is_long(int type_number) noexcept nogil:
    # The integers that are read as `long long` without a copy
    return type_number == cnp.NPY_LONGLONG or (sizeof(long) == sizeof(long long) and type_number == cnp.NPY_LONG)


cdef bint in_range(Py_ssize_t size, const long long *symbols, int n_symbols) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        if not 0 <= symbols[i] < n_symbols:
            return False
    return True


cdef class Engine:
    """Steps, credits, blocks and resets for any cell and any carry; `okcore.Estimator` is its public face."""

    cdef readonly CellKernel cell
    cdef readonly Carry carry
    cdef readonly int batch_size, block, n_threads
    cdef readonly long long steps        # time steps taken since the engine was made
    cdef readonly int open_steps         # of which so many are on the tape
    cdef readonly bint credited          # does the tape hold credits that no flush has seen?
    cdef readonly list generators        # one numpy Generator a lane
    cdef readonly dict buffers           # everything that persists, by name
    cdef list workspace                  # everything that does not; kept alive here
    cdef object delta_array
    cdef bint keeps_w                    # are snapshots of W_h needed at all?
    cdef int last_slot                   # of the newest snapshot; -1: none
    cdef int n, v, m, q, k, G, S, P

    # the tape: K steps, and a slot for the step that is being taken, of
    cdef void *u_hat                     # (K + 1, B, q, m)
    cdef void *d                         # (K + 1, B, q, k, G, n)
    cdef void *c                         # (K + 1, B, k, k, n)
    cdef void *w                         # (K + 1, P, n) ring of snapshots
    cdef int *w_slot                     # (K + 1,) which snapshot each step used
    cdef unsigned char *cut              # (K + 1, B) lane was reset just before this step
    cdef void *credit                    # (K, B, n)
    cdef void *state                     # (B, S)
    cdef void *pending                   # (P, m) gradient of credits of blocks that have closed
    # scratch
    cdef void *state_before              # (B, S) the state a step starts from, resets done
    cdef void *state_next                # (B, S)
    cdef void *pre                       # (B, q, P)
    cdef void *e                         # (K, B, q, P) credits times D
    cdef void *delta                     # (B, S)
    cdef void *spare                     # (B, S)
    cdef void *phi                       # (threads, 2, S, S)
    cdef void *dense                     # (threads, S, n)
    cdef void *columns                   # (threads, kept + K q, m)
    cdef void *factors                   # (threads, kept + K q, S, P)
    cdef double *draws                   # (threads, n_draws)
    cdef int *infos                      # (B,) what each lane's absorb returned
    cdef bitgen_t **bit_generators

    def __cinit__(self, *args, **kwargs):
        self.bit_generators = NULL

    def __init__(self, CellKernel cell, Carry carry, int block, list generators, int n_threads):
        cdef int B = carry.batch_size, K = block, lane, rows
        self.cell, self.carry, self.batch_size, self.block = cell, carry, B, block
        self.n_threads = n_threads = min(n_threads, B)
        if not carry.compiled:
            n_threads = 1  # a carry written in Python holds the GIL
        self.generators = generators
        self.n, self.v, self.m = cell.n_hidden, cell.n_in, cell.n_columns
        self.q, self.k, self.G = cell.n_terms_, cell.n_state_blocks_, cell.n_gates_
        self.S, self.P = cell.state_size, cell.n_rows
        self.keeps_w = K > 1 or carry.needs_terms
        self.last_slot = -1
        carry.generators = generators
        carry.prepare(K * self.q, n_threads)

        dtype = cell.dtype
        self.buffers = {
            "state": aligned_zeros((B, self.S), dtype),
            "u_hat": aligned_zeros((K + 1, B, self.q, self.m), dtype),
            "d": aligned_zeros((K + 1, B, self.q, self.k, self.G, self.n), dtype),
            "c": aligned_zeros((K + 1, B, self.k, self.k, self.n), dtype),
            "w": aligned_zeros((K + 1 if self.keeps_w else 0, self.P, self.n), dtype),
            "w_slot": np.zeros(K + 1, np.intc),
            "cut": np.zeros((K + 1, B), np.uint8),
            "credit": aligned_zeros((K, B, self.n), dtype),
            "pending": aligned_zeros((self.P, self.m), dtype),
        }
        self.state = address(self.buffers["state"])
        self.u_hat = address(self.buffers["u_hat"])
        self.d = address(self.buffers["d"])
        self.c = address(self.buffers["c"])
        self.w = address(self.buffers["w"])
        self.w_slot = <int *> address(self.buffers["w_slot"])
        self.cut = <unsigned char *> address(self.buffers["cut"])
        self.credit = address(self.buffers["credit"])
        self.pending = address(self.buffers["pending"])

        self.workspace = []
        self.state_before = self.scratch((B, self.S), dtype)
        self.state_next = self.scratch((B, self.S), dtype)
        self.pre = self.scratch((B, self.q, self.P), dtype)
        self.e = self.scratch((K, B, self.q, self.P), dtype)
        self.delta_array = aligned_zeros((B, self.S), dtype)
        self.delta = address(self.delta_array)
        self.spare = self.scratch((B, self.S), dtype)
        self.infos = <int *> self.scratch((B,), np.intc)
        self.draws = <double *> self.scratch((n_threads, carry.n_draws), np.float64)
        if carry.needs_terms:
            rows = carry.kept_rows + K * self.q
            self.phi = self.scratch((n_threads, 2, self.S, self.S), dtype)
            self.dense = self.scratch((n_threads, self.S, self.n), dtype)
            self.columns = self.scratch((n_threads, rows, self.m), dtype)
            self.factors = self.scratch((n_threads, rows, self.S, self.P), dtype)

        self.bit_generators = <bitgen_t **> malloc(B * sizeof(bitgen_t *))
        if self.bit_generators == NULL:
            raise MemoryError
        for lane in range(B):
            self.bit_generators[lane] = <bitgen_t *> PyCapsule_GetPointer(
                generators[lane].bit_generator.capsule, "BitGenerator")

    def __dealloc__(self):
        free(self.bit_generators)

    cdef void *scratch(self, shape, dtype) except NULL:
        array = aligned_zeros(shape, dtype)
        self.workspace.append(array)
        return address(array)

    # ---- what users call -----------------------------------------------------------------------------------

    def step(self, x, reset=None, out=None):
        """Take one time step of every lane and return the hidden states.

        Parameters
        ----------
        x : (B, n_in) array of the cell's dtype, or (B,) array of integers
            Inputs; integers stand for one-hot rows.
        reset : (B,) array of bool, optional
            Lanes that start a new sequence before this step: zero state, zero influence.
        out : (B, n_hidden) array, optional
            Where to write the hidden states.

        Returns
        -------
        (B, n_hidden) array
            A fresh array, or `out`.

        Raises
        ------
        TypeError, ValueError
            For bad input; the estimator is as it was.
        FloatingPointError
            If a state or an influence overflows; names the lane and the step.
        """
        cdef cnp.ndarray inputs, hidden
        cdef const void *floats = NULL
        cdef const long long *symbols = NULL
        cdef unsigned char *mask = NULL
        inputs = self.inputs(x, "x", True)
        if is_long(cnp.PyArray_TYPE(inputs)):
            symbols = <const long long *> cnp.PyArray_DATA(inputs)
        else:
            floats = cnp.PyArray_DATA(inputs)
        if reset is not None:
            reset = self.lanes("reset", reset)
            mask = <unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> reset)
        hidden = self.output(out, self.batch_size, self.n)
        with nogil:
            self.take_step(floats, symbols, mask)
            self.copy_hidden(cnp.PyArray_DATA(hidden))
        return hidden

    def gradient(self, dh, out=None):
        """Return the gradient of this step's loss with respect to theta, summed over lanes.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        out : (P, m) array, optional
            Where to write the gradient.

        Returns
        -------
        (P, m) array
            A fresh array, or `out`.  Zeros before the first step; a lane that was reset since the last
            step adds nothing.

        Notes
        -----
        Pure: it may be called any number of times.  The open block is swept exactly, O(K P n) a lane, and the
        carry is contracted once.
        """
        cdef cnp.ndarray credit = self.credits(dh, "dh", -1)
        cdef cnp.ndarray gradient = self.output(out, self.P, self.m)
        with nogil:
            self.sweep(cnp.PyArray_DATA(credit), False, cnp.PyArray_DATA(gradient), False)
        return gradient

    def accumulate(self, dh):
        """Add a credit of this step; calls add up until `flush`.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        """
        cdef cnp.ndarray credit = self.credits(dh, "dh", -1)
        with nogil:
            self.add_credit(cnp.PyArray_DATA(credit))

    def flush(self, out=None):
        """Return the gradient summed over all credits since the last flush, and forget them.

        Parameters
        ----------
        out : (P, m) array, optional
            Where to write the gradient.

        Returns
        -------
        (P, m) array
            A fresh array, or `out`; zeros if there were no credits.

        Raises
        ------
        FloatingPointError
            If the gradient overflows; names the lane. The credits are then dropped.

        Notes
        -----
        One backward sweep over the open block serves all its credits: O(K P n) a lane and one contraction of
        the carry, where as many calls of `gradient` cost K times that.
        """
        cdef cnp.ndarray gradient = self.output(out, self.P, self.m)
        with nogil:
            self.flush_into(cnp.PyArray_DATA(gradient))
        return gradient

    def run(self, xs, dhs=None, resets=None):
        """Take T steps with theta fixed: `step` and `accumulate` T times, then `flush`.

        Parameters
        ----------
        xs : (T, B, n_in) array, or (T, B) array of integers
        dhs : (T, B, n_hidden) array, optional
            dloss/dh of every step; without it the steps get no credit.
        resets : (T, B) array of bool, optional

        Returns
        -------
        hs : (T, B, n_hidden) array
        gradient : (P, m) array
            Summed over steps and lanes, with the credits that were waiting before.
        """
        cdef cnp.ndarray inputs = self.inputs(xs, "xs", False), credits, hidden, gradient
        cdef Py_ssize_t T = cnp.PyArray_DIM(inputs, 0), t, item = sizeof(float) if self.cell.single else sizeof(double)
        cdef bint by_symbol = cnp.PyArray_NDIM(inputs) == 2
        cdef char *x = <char *> cnp.PyArray_DATA(inputs)
        cdef char *dh = NULL
        cdef char *h
        cdef unsigned char *masks = NULL
        cdef unsigned char *mask
        if dhs is not None:
            credits = self.credits(dhs, "dhs", T)
            dh = <char *> cnp.PyArray_DATA(credits)
        if resets is not None:
            resets = _validation.as_mask("resets", resets, (T, self.batch_size))
            masks = <unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> resets)
        hidden = np.empty((T, self.batch_size, self.n), self.cell.dtype)
        gradient = self.output(None, self.P, self.m)
        h = <char *> cnp.PyArray_DATA(hidden)
        with nogil:
            for t in range(T):
                mask = NULL if masks == NULL else masks + t * self.batch_size
                if by_symbol:
                    self.take_step(NULL, (<long long *> x) + t * self.batch_size, mask)
                else:
                    self.take_step(x + t * self.batch_size * self.v * item, NULL, mask)
                self.copy_hidden(h + t * self.batch_size * self.n * item)
                if dh != NULL:
                    self.add_credit(dh + t * self.batch_size * self.n * item)
            self.flush_into(cnp.PyArray_DATA(gradient))
        return hidden, gradient

    def reset(self, mask=None):
        """Zero the state and the influence of the lanes in `mask` (all if None); credits given before stay."""
        if mask is None:
            mask = np.ones(self.batch_size, bool)
        mask = self.lanes("mask", mask)
        self.reset_lanes(<unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> mask))

    # ---- arguments: the fast path here, everything else and all errors in _validation ------------------------

    cdef cnp.ndarray inputs(self, x, name, bint one_step):
        # (B, n_in) floats or (B,) symbols; with a leading T unless one_step
        cdef cnp.ndarray array
        cdef bint symbols
        cdef int axes = 1 if one_step else 2   # of symbols; floats have one more
        if cnp.PyArray_CheckExact(x) and cnp.PyArray_ISCARRAY_RO(x):
            array = x
            symbols = is_long(cnp.PyArray_TYPE(array))
            if not (
                cnp.PyArray_NDIM(array) == axes + (not symbols)
                and cnp.PyArray_DIM(array, axes - 1) == self.batch_size
                and (symbols or cnp.PyArray_TYPE(array) == self.type_number())
                and (symbols or cnp.PyArray_DIM(array, axes) == self.v)
            ):
                array = _validation.as_inputs(name, x, self.batch_size, self.v, self.cell.dtype, not one_step)
        else:
            array = _validation.as_inputs(name, x, self.batch_size, self.v, self.cell.dtype, not one_step)
        if is_long(cnp.PyArray_TYPE(array)):
            if not in_range(cnp.PyArray_SIZE(array), <long long *> cnp.PyArray_DATA(array), self.v):
                _validation.as_symbols(name, array, np.shape(array), self.v)  # says which
        elif not self.finite(array):
            _validation.raise_not_finite(name, array)
        return array

    cdef cnp.ndarray lanes(self, name, mask):
        # (B,) bools
        if (
            cnp.PyArray_CheckExact(mask) and cnp.PyArray_ISCARRAY_RO(mask) and cnp.PyArray_NDIM(mask) == 1
            and cnp.PyArray_TYPE(mask) == cnp.NPY_BOOL and cnp.PyArray_DIM(mask, 0) == self.batch_size
        ):
            return mask
        return _validation.as_mask(name, mask, (self.batch_size,))

    cdef int type_number(self):
        return cnp.NPY_FLOAT if self.cell.single else cnp.NPY_DOUBLE

    cdef bint finite(self, cnp.ndarray array):
        if self.cell.single:
            return all_finite[float](cnp.PyArray_SIZE(array), <float *> cnp.PyArray_DATA(array))
        return all_finite[double](cnp.PyArray_SIZE(array), <double *> cnp.PyArray_DATA(array))

    cdef cnp.ndarray credits(self, dh, name, Py_ssize_t length):
        # (B, n_hidden) if length is -1, else (length, B, n_hidden)
        # (B, n_hidden) floats, (length, B, n_hidden) for run
        cdef cnp.ndarray array
        if not (
            length < 0 and cnp.PyArray_CheckExact(dh) and cnp.PyArray_NDIM(dh) == 2
            and cnp.PyArray_TYPE(dh) == self.type_number() and cnp.PyArray_ISCARRAY_RO(dh)
            and cnp.PyArray_DIM(dh, 0) == self.batch_size and cnp.PyArray_DIM(dh, 1) == self.n
        ):
            shape = (self.batch_size, self.n)
            dh = _validation.as_floats(name, dh, shape if length < 0 else (length, *shape), self.cell.dtype)
        array = dh
        if not self.finite(array):
            _validation.raise_not_finite(name, array)
        return array

    cdef cnp.ndarray output(self, out, Py_ssize_t rows, Py_ssize_t columns):
        cdef int type_number = self.type_number()
        cdef cnp.npy_intp shape[2]
        if out is None:
            shape[0] = rows
            shape[1] = columns
            return cnp.PyArray_EMPTY(2, shape, type_number, 0)
        if not (
            cnp.PyArray_Check(out) and cnp.PyArray_NDIM(out) == 2 and cnp.PyArray_TYPE(out) == type_number
            and cnp.PyArray_ISCARRAY(out) and cnp.PyArray_DIM(out, 0) == rows and cnp.PyArray_DIM(out, 1) == columns
        ):
            _validation.raise_bad_out(out, (rows, columns), self.cell.dtype)
        return out

    # ---- a step ----------------------------------------------------------------------------------------------

    cdef int take_step(self, const void *x, const long long *symbols, const unsigned char *reset) except -1 nogil:
        # The step is computed into the tape's free slot first: if its state is not finite nothing has changed.
        # Then the resets, a full block's end, and the step itself take effect.
        cdef int lane, count = 0
        if self.cell.single:
            lane = compute_step[float](self, <const float *> x, symbols, reset)
        else:
            lane = compute_step[double](self, <const double *> x, symbols, reset)
        if lane >= 0:
            with gil:
                raise FloatingPointError(
                    f"the state of lane {lane} is not finite at step {self.steps + 1}; "
                    "the step was not taken (smaller updates, or clip, keep it finite)")
        if reset != NULL:
            for lane in range(self.batch_size):
                count += reset[lane] != 0
        lane = self.open_steps  # the slot that the step was computed into
        if count < self.batch_size and self.open_steps == self.block:
            self.close_block()
        if count > 0:
            self.reset_lanes(reset)
        if lane != self.open_steps:
            self.move_step(lane, self.open_steps)
        if self.keeps_w:
            self.last_slot = self.w_slot[self.open_steps]
        memcpy(self.state, self.state_next,
               self.batch_size * self.S * (sizeof(float) if self.cell.single else sizeof(double)))
        self.open_steps += 1
        self.steps += 1
        return 0

    cdef void move_step(self, int source, int target) noexcept nogil:
        cdef Py_ssize_t item = sizeof(float) if self.cell.single else sizeof(double)
        cdef Py_ssize_t lanes = self.batch_size * item
        copy_row(self.u_hat, source, target, lanes * self.q * self.m)
        copy_row(self.d, source, target, lanes * self.q * self.k * self.P)
        copy_row(self.c, source, target, lanes * self.k * self.S)
        self.w_slot[target] = self.w_slot[source]

    cdef void copy_hidden(self, void *h) noexcept nogil:
        cdef Py_ssize_t item = sizeof(float) if self.cell.single else sizeof(double)
        cdef int lane
        for lane in range(self.batch_size):
            memcpy(<char *> h + lane * self.n * item, <char *> self.state + lane * self.S * item, self.n * item)

    cdef int add_credit(self, const void *dh) except -1 nogil:
        if self.open_steps == 0:  # the newest step is not on the tape, if there is one
            self.sweep(dh, False, self.pending, True)
            return 0
        self.credited = True
        if self.cell.single:
            add_credit[float](self, <const float *> dh)
        else:
            add_credit[double](self, <const double *> dh)
        return 0

    # ---- gradients -------------------------------------------------------------------------------------------

    cdef int sweep(self, const void *dh, bint stored, void *gradient, bint add) except -1 nogil:
        # gradient <- (gradient if add) + credit . J for dh at the newest step, or for the stored credits
        cdef bint finite
        cdef Py_ssize_t size = <Py_ssize_t> self.P * self.m
        if not add:
            memset(gradient, 0, size * (sizeof(float) if self.cell.single else sizeof(double)))
        if self.cell.single:
            sweep_tape[float](self, <const float *> dh, stored, <float *> gradient)
        else:
            sweep_tape[double](self, <const double *> dh, stored, <double *> gradient)
        self.carry.contract_lanes(self.delta, gradient)
        if self.cell.single:
            finite = all_finite[float](size, <float *> gradient)
        else:
            finite = all_finite[double](size, <double *> gradient)
        if not finite:
            with gil:
                if add:  # these credits have no gradient, and must not poison the next
                    self.buffers["credit"][...] = 0
                    self.buffers["pending"][...] = 0
                self.raise_overflow(self.overflowing_lane())
        return 0

    cdef int flush_into(self, void *gradient) except -1 nogil:
        cdef Py_ssize_t item = sizeof(float) if self.cell.single else sizeof(double)
        cdef Py_ssize_t size = <Py_ssize_t> self.P * self.m * item
        if self.credited:
            self.sweep_credits()
        memcpy(gradient, self.pending, size)
        memset(self.pending, 0, size)
        return 0

    cdef int sweep_credits(self) except -1 nogil:
        cdef Py_ssize_t item = sizeof(float) if self.cell.single else sizeof(double)
        self.credited = False
        self.sweep(NULL, True, self.pending, True)
        memset(self.credit, 0, <Py_ssize_t> self.open_steps * self.batch_size * self.n * item)
        return 0

    # ---- blocks and resets -----------------------------------------------------------------------------------

    cdef int close_block(self) except -1 nogil:
        # Sweep what waits, then let the carry absorb the tape, lanes spread over threads.
        cdef int lane, bad = -1
        if self.credited:
            self.sweep_credits()
        if self.carry.needs_terms:
            if self.carry.n_threads == 1:
                for lane in range(self.batch_size):
                    self.infos[lane] = absorb(self, lane, 0)
            else:
                for lane in prange(self.batch_size, num_threads=self.carry.n_threads, schedule="dynamic"):
                    self.infos[lane] = absorb_quietly(self, lane, threadid())
        self.empty_tape()
        for lane in range(self.batch_size):
            if self.infos[lane] != 0:  # only this lane's influence is lost; the others have gone on
                self.carry.zero_lane(lane)
                bad = lane if bad < 0 else bad
        if bad >= 0:
            with gil:
                self.raise_overflow(bad, "; it was set to zero")
        return 0

    cdef void empty_tape(self) noexcept nogil:
        memset(self.cut, 0, (self.open_steps + 1) * self.batch_size)
        self.open_steps = 0

    cdef int reset_lanes(self, const unsigned char *mask) except -1 nogil:
        cdef Py_ssize_t item = sizeof(float) if self.cell.single else sizeof(double)
        cdef int lane, count = 0
        for lane in range(self.batch_size):
            count += mask[lane] != 0
        if count == self.batch_size:  # nothing is left of the block, so a new one starts
            if self.credited:
                self.sweep_credits()
            for lane in range(self.batch_size):
                self.carry.zero_lane(lane)
            self.empty_tape()
        for lane in range(self.batch_size):
            if mask[lane]:
                memset(<char *> self.state + lane * self.S * item, 0, self.S * item)
                if count < self.batch_size:
                    self.cut[self.open_steps * self.batch_size + lane] = 1
        return 0

    # ---- errors ----------------------------------------------------------------------------------------------

    cdef overflowing_lane(self):
        # The lane whose credit, or whose credit times influence, is not finite
        cdef cnp.ndarray gradient = np.empty((self.P, self.m), self.cell.dtype)
        credits = self.delta_array.copy()
        for lane in range(self.batch_size):
            self.delta_array[...] = 0
            self.delta_array[lane] = credits[lane]
            gradient[...] = 0
            self.carry.contract_lanes(self.delta, cnp.PyArray_DATA(gradient))
            if not (np.isfinite(credits[lane]).all() and np.isfinite(gradient).all()):
                return lane
        return None

    cdef raise_overflow(self, lane, remedy=""):
        where = "the sum of influences over lanes" if lane is None else f"the influence of lane {lane}"
        raise FloatingPointError(
            f"{where} is not finite at step {self.steps}{remedy}: the product of the state Jacobians grows "
            "without bound (reset the lane, or keep theta smaller)")

    # ---- for okcore.Estimator: copying and restoring ---------------------------------------------------------

    @property
    def _last_slot(self):
        return self.last_slot

    def _restore(self, long long steps, int open_steps, bint credited, int last_slot):
        self.steps = steps
        self.open_steps = open_steps
        self.credited = credited
        self.last_slot = last_slot


cdef inline void copy_row(void *rows, int source, int target, Py_ssize_t size) noexcept nogil:
    memcpy(<char *> rows + target * size, <char *> rows + source * size, size)


cdef void snapshot_parameters(Engine e, const floating *theta) noexcept nogil:
    # Online updates: H_tau is made with the W_h in force at tau, so each distinct W_h is copied when it is used.
    # A ring of K + 1 snapshots is enough: the open block's steps have at most K, the new step one more.
    cdef int row, slot = e.last_slot, P = e.P, n = e.n, m = e.m
    cdef Py_ssize_t size = <Py_ssize_t> P * n
    cdef const floating *W_h = theta + e.v
    cdef floating *snapshot
    cdef bint same = slot >= 0
    if not e.keeps_w:
        return
    if same:
        snapshot = <floating *> e.w + slot * size
        for row in range(P):
            if memcmp(snapshot + row * n, W_h + <Py_ssize_t> row * m, n * sizeof(floating)) != 0:
                same = False
                break
    if not same:
        slot = (slot + 1) % (e.block + 1)
        snapshot = <floating *> e.w + slot * size
        for row in range(P):
            memcpy(snapshot + row * n, W_h + <Py_ssize_t> row * m, n * sizeof(floating))
    e.w_slot[e.open_steps] = slot


cdef int compute_step(
    Engine e, const floating *x, const long long *symbols, const unsigned char *reset,
) except -2 nogil:
    # One step, into the slot after the tape's last and into state_next; nothing that counts is changed.
    # Returns -1, or the first lane whose new state is not finite.
    cdef int B = e.batch_size, tau = e.open_steps, lane, q = e.q, S = e.S, P = e.P, m = e.m
    cdef const floating *theta = <const floating *> e.cell.theta_data
    cdef floating *before = <floating *> e.state_before
    cdef floating *u_hat = <floating *> e.u_hat + <Py_ssize_t> tau * B * q * m
    cdef floating *d = <floating *> e.d + <Py_ssize_t> tau * B * q * e.k * P
    cdef floating *c = <floating *> e.c + <Py_ssize_t> tau * B * e.k * S
    memcpy(before, e.state, B * S * sizeof(floating))
    if reset != NULL:
        for lane in range(B):
            if reset[lane]:
                memset(before + lane * S, 0, S * sizeof(floating))
    snapshot_parameters[floating](e, theta)
    augmented_input[floating](B, q, e.v, e.n, S, x, symbols, before, u_hat)
    # pre (B q, P) = u_hat (B q, m) theta^T (m, P): 2 B q m P flops
    gemm[floating](False, True, B * q, P, m, 1, u_hat, m, theta, m, 0, <floating *> e.pre, P)
    e.cell.step_lanes(B, e.pre, before, e.state_next, d, c)
    for lane in range(B):
        if not all_finite[floating](S, <floating *> e.state_next + lane * S):
            return lane
    return -1


cdef void add_credit(Engine e, const floating *dh) noexcept nogil:
    cdef int lane, i, n = e.n, B = e.batch_size
    cdef floating *credit = <floating *> e.credit + <Py_ssize_t> (e.open_steps - 1) * B * n
    for lane in range(B):
        if not e.cut[e.open_steps * B + lane]:  # not reset since its last step
            for i in range(n):
                credit[lane * n + i] += dh[lane * n + i]


cdef void sweep_tape(Engine e, const floating *dh, bint stored, floating *gradient) noexcept nogil:
    # delta <- credit; for tau = newest .. oldest: e_tau = delta D_tau, delta <- delta H_tau.
    # Then gradient (P, m) += sum_tau e_tau^T u_hat_tau, one product over all steps, terms and lanes.  delta (B, S)
    # is left for the carry.
    cdef int B = e.batch_size, n = e.n, q = e.q, k = e.k, S = e.S, P = e.P, m = e.m, lane, i, tau
    cdef floating *delta = <floating *> e.delta
    cdef floating *rows
    cdef const floating *credit
    cdef const floating *d
    cdef const floating *c
    memset(delta, 0, B * S * sizeof(floating))
    if not stored:
        for lane in range(B):
            if not e.cut[e.open_steps * B + lane]:
                memcpy(delta + lane * S, dh + lane * n, n * sizeof(floating))
    for tau in range(e.open_steps - 1, -1, -1):
        rows = <floating *> e.e + <Py_ssize_t> tau * B * q * P
        d = <floating *> e.d + <Py_ssize_t> tau * B * q * k * P
        c = <floating *> e.c + <Py_ssize_t> tau * B * k * S
        if stored:
            credit = <floating *> e.credit + <Py_ssize_t> tau * B * n
            for lane in range(B):
                for i in range(n):
                    delta[lane * S + i] += credit[lane * n + i]
        credit_times_immediate[floating](B, q, k, e.G, n, delta, d, rows)
        if tau > 0 or e.carry.needs_terms:
            credit_times_jacobian[floating](
                B, q, k, e.G, n, rows, <floating *> e.w + e.w_slot[tau] * (<Py_ssize_t> P * n), c, delta,
                <floating *> e.spare)
        for lane in range(B):
            if e.cut[tau * B + lane]:
                memset(delta + lane * S, 0, S * sizeof(floating))
    if e.open_steps > 0:
        gemm[floating](True, False, P, m, e.open_steps * B * q, 1, <floating *> e.e, P, <floating *> e.u_hat, m,
                       1, gradient, m)


cdef int block_terms(
    Engine e, int lane, floating *phi, floating *dense, floating *columns, floating *factors, bint *alive,
    floating **transition,
) noexcept nogil:
    # The open block of one lane as terms, newest first: A = Phi_{tau->t} D_tau^j beside u_tau^j, and the
    # transition Phi_{t0->t} that carries the influence from before the block (alive: no reset cut it off).
    # 2 S^2 n flops a step.
    cdef int B = e.batch_size, q = e.q, k = e.k, G = e.G, n = e.n, S = e.S, P = e.P, m = e.m
    cdef int tau, j, count = 0
    cdef Py_ssize_t at
    cdef floating *now = NULL
    cdef floating *after
    alive[0] = not e.cut[e.open_steps * B + lane]
    if not alive[0]:
        return 0
    for tau in range(e.open_steps - 1, -1, -1):
        at = <Py_ssize_t> tau * B + lane
        memcpy(columns + count * m, <floating *> e.u_hat + at * q * m, q * m * sizeof(floating))
        for j in range(q):
            immediate_factor[floating](k, G, n, now, <floating *> e.d + (at * q + j) * k * P,
                                       factors + count * (<Py_ssize_t> S * P))
            count += 1
        if e.cut[at]:
            alive[0] = False
            return count
        dense_part[floating](k, G, n, <floating *> e.d + (at * q + q - 1) * k * P,
                             <floating *> e.w + e.w_slot[tau] * (<Py_ssize_t> P * n), dense)
        after = phi if now != phi else phi + S * S
        transition_times_jacobian[floating](k, n, now, dense, <floating *> e.c + at * k * S, after)
        now = after
    transition[0] = now
    return count


cdef int absorb_lane(Engine e, int lane, int thread, floating *unused) except -1 nogil:
    cdef int rows = e.carry.kept_rows + e.block * e.q, count, i
    cdef Py_ssize_t size = <Py_ssize_t> e.S * e.P
    cdef floating *phi = <floating *> e.phi + <Py_ssize_t> thread * 2 * e.S * e.S
    cdef floating *dense = <floating *> e.dense + <Py_ssize_t> thread * e.S * e.n
    cdef floating *columns = <floating *> e.columns + (<Py_ssize_t> thread * rows + e.carry.kept_rows) * e.m
    cdef floating *factors = <floating *> e.factors + (<Py_ssize_t> thread * rows + e.carry.kept_rows) * size
    cdef double *draws = e.draws + thread * e.carry.n_draws
    cdef bitgen_t *bit_generator = e.bit_generators[lane]
    cdef floating *transition = NULL
    cdef bint alive = True
    for i in range(e.carry.n_draws):
        draws[i] = bit_generator.next_double(bit_generator.state)
    count = block_terms[floating](e, lane, phi, dense, columns, factors, &alive, &transition)
    return e.carry.absorb_lane(lane, thread, alive, count, transition, columns, factors, draws)


cdef int absorb(Engine e, int lane, int thread) except -1 nogil:
    if e.cell.single:
        return absorb_lane[float](e, lane, thread, NULL)
    return absorb_lane[double](e, lane, thread, NULL)


cdef int absorb_quietly(Engine e, int lane, int thread) noexcept nogil:
    # For threads: only carries that never raise run there, and a call that could would cost each thread a Python
    # thread state.
    return absorb(e, lane, thread)


cdef extern from *:
    """
    #ifdef _OPENMP
    #define OKCORE_HAS_OPENMP 1
    #else
    #define OKCORE_HAS_OPENMP 0
    #endif
    #ifdef OKCORE_DEBUG
    #define OKCORE_IS_DEBUG 1
    #else
    #define OKCORE_IS_DEBUG 0
    #endif
    """
    bint OKCORE_HAS_OPENMP
    bint OKCORE_IS_DEBUG


def build_flags():
    """Say how the compiled modules were built."""
    return ("debug, bounds checked" if OKCORE_IS_DEBUG else "optimised") + (
        ", OpenMP" if OKCORE_HAS_OPENMP else ", no OpenMP")
