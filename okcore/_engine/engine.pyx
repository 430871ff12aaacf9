"""The engine: a tape of the open block, in front of a carry of everything before it.

    J_t = Phi_{t0->t} J_{t0} + sum_{tau = t0+1..t} Phi_{tau->t} F_tau

A gradient sweeps its credit back over the tape and hands what is left to the carry. A block that is full is absorbed
by the carry at the start of the next step. A local carry takes in each step at once, and the tape stays empty. Nothing
here knows which cell or which algorithm it runs.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy.random cimport bitgen_t

cimport numpy as cnp

import os

import numpy as np
from numpy.typing import ArrayLike

from okcore import _validation
from okcore._typing import FloatArray

from okcore._carries.base cimport Carry
from okcore._engine.arguments cimport as_credits, as_inputs, as_lanes, as_output, holds_symbols
from okcore._engine.buffers cimport Buffers, address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NO_CONVERGENCE, Block, Input, Sizes, Step
from okcore._engine.tape cimport Tape
from okcore._kernels cimport axpby, parts_that_pay, threads_of

cnp.import_array()

OVERFLOW_CHOICES = "raise", "forget"
cdef double BURST_SECONDS = 0.05   # of steps that `run` takes between two looks at the signals that came


cdef extern from *:
    """
    #include <time.h>
    static double okcore_seconds(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
    }
    """
    double seconds "okcore_seconds"() noexcept nogil


cdef class Engine(Buffers):
    """Steps, credits, blocks and resets for any cell and any carry; `okcore.Estimator` is its public face."""

    cdef readonly CellKernel cell
    cdef readonly Tape tape
    cdef readonly Carry carry
    cdef readonly int batch_size, block, n_threads
    cdef readonly long long steps        # time steps taken since the engine was made
    cdef readonly tuple generators       # one numpy Generator per lane
    cdef Sizes sizes                     # the cell's
    cdef void *state                     # (B, S)
    cdef void *input_d                   # (B, G, n) of the newest step: dh / dpre of the term that holds x
    cdef void *input_w                   # (P, v) the W_x it used
    cdef void *pending                   # (P, m) gradient of credits whose block has closed
    cdef bint has_pending                # False: pending is zero
    cdef void *late                      # (P, m) what each of the next `late_steps` late gradients gets of the carry's
    cdef readonly int late_steps         # part for the credits of closed blocks
    # Whether lanes of the same batch, in other estimators, go on: a reset of all lanes here then leaves the block's
    # boundaries where they are, as the reset of a part of a batch does.
    cdef public bint block_goes_on
    cdef bint forgets                    # an influence that overflows, and goes on
    cdef void *sum_before                # (P, m) the sum that a gradient is added to, if it forgets
    cdef readonly long long overflows    # how often it did: lanes, summed over time
    cdef bint in_use                     # a thread is inside a call
    cdef int *infos                      # (B,) what each lane's absorb returned
    cdef bitgen_t **bit_generators       # (B,)

    def __cinit__(self, *args, **kwargs):
        self.bit_generators = NULL

    def __init__(self, CellKernel cell, Carry carry, int block, tuple generators, int n_threads):
        cdef int B = carry.batch_size, lane
        if self.tape is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ must be called once")
        n_threads = min(n_threads, max(B, os.cpu_count() or 1))
        try:
            carry.start(generators, block, n_threads)
            tape = Tape(cell, B, block, block > 1 or carry.absorb_lane != NULL, carry.is_local())
        except MemoryError as error:
            raise MemoryError(f"the memory for blocks of {block} steps cannot be had: {error}") from None
        carry.tape = tape
        self.cell, self.batch_size, self.block, self.n_threads = cell, B, block, n_threads
        self.dtype, self.sizes = cell.dtype, cell.sizes
        self.carry, self.generators = carry, generators

        self.state = address(self.keep_zeros("state", (B, self.sizes.S), None))
        self.input_d = address(self.keep_zeros("input_d", (B, self.sizes.G, self.sizes.n), None))
        self.input_w = address(self.keep_zeros("input_w", (self.sizes.P, self.sizes.v), None))
        self.pending = address(self.keep_zeros("pending", (self.sizes.P, self.sizes.m), None))
        self.late = address(self.keep_zeros("late", (self.sizes.P, self.sizes.m), None))
        self.infos = <int *> self.reserve((B,), np.intc)
        self.bit_generators = <bitgen_t **> malloc(B * sizeof(bitgen_t *))
        if self.bit_generators == NULL:
            raise MemoryError
        for lane in range(B):
            self.bit_generators[lane] = <bitgen_t *> PyCapsule_GetPointer(
                generators[lane].bit_generator.capsule, "BitGenerator")
        self.tape = tape  # last: an engine without a tape is not made yet

    def __dealloc__(self):
        free(self.bit_generators)

    cdef int enter(self) except -1:
        # An engine is one stream. The interpreter's lock is held here, so no second thread comes between test and set.
        if self.tape is None:
            raise RuntimeError(f"{type(self).__name__}.__init__ must call super().__init__")
        if self.in_use:
            raise RuntimeError(
                f"{type(self).__name__} is in use: another thread is inside one of its calls "
                "(give each thread an estimator of its own)")
        self.in_use = True
        self.carry.failure = None
        return 0

    cdef void leave(self) noexcept:
        self.in_use = False

    def _call(self, function, *arguments):
        """Return function(*arguments), while nobody else may enter."""
        self.enter()
        try:
            return function(*arguments)
        finally:
            self.leave()

    # ---- what users call -----------------------------------------------------------------------------------------

    @property
    def on_overflow(self) -> str:
        """What happens to an influence that overflows, "raise" or "forget".

        "raise" (the default) raises FloatingPointError. "forget" sets the influence of the lane to zero, as a reset
        does, but keeps its state, and goes on: past steps of this lane add no more to gradients. ``overflows`` counts.
        """
        return OVERFLOW_CHOICES[self.forgets]

    @on_overflow.setter
    def on_overflow(self, value: str) -> None:
        self.forgets = OVERFLOW_CHOICES.index(_validation.as_choice("on_overflow", value, OVERFLOW_CHOICES))
        if self.forgets and self.sum_before == NULL:
            self.sum_before = self.reserve((self.sizes.P, self.sizes.m), None)

    def step(self, x: ArrayLike, reset: ArrayLike | None = None, out: FloatArray | None = None) -> FloatArray:
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
        cdef Input step = Input(x=NULL, symbols=NULL, reset=NULL, in_run=False, same_theta=False)
        self.enter()
        try:
            inputs = as_inputs("x", x, self.cell, self.batch_size, False)
            if holds_symbols(inputs):
                step.symbols = <const long long *> cnp.PyArray_DATA(inputs)
            else:
                step.x = cnp.PyArray_DATA(inputs)
            if reset is not None:
                reset = as_lanes("reset", reset, self.batch_size)
                step.reset = <unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> reset)
            hidden = as_output(out, self.cell, 2, self.batch_size, self.sizes.n, 0)
            with nogil:
                self.take_step(&step)
                self.copy_hidden(cnp.PyArray_DATA(hidden))
            return hidden
        finally:
            self.leave()

    def gradient(self, dh: ArrayLike, out: FloatArray | None = None, per_lane: bool = False) -> FloatArray:
        """Return the gradient of this step's loss with respect to theta, summed over lanes or one per lane.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        out : (P, m) or (B, P, m) array, optional
            Where to write the gradient.
        per_lane : bool
            Return each lane's gradient, (B, P, m), as eligibility traces need it.

        Returns
        -------
        (P, m) or (B, P, m) array
            A fresh array, or `out`. Zeros before the first step; a lane that was reset since the last
            step adds nothing.

        Notes
        -----
        Pure: it may be called any number of times (but where it overflows and `on_overflow` is "forget", the lane
        is forgotten). The open block is swept exactly, O(K P n) per lane, and
        the carry is contracted once. A carry in NumPy is contracted once per lane if `per_lane`.
        """
        cdef cnp.ndarray credit, gradient
        cdef bint apart
        self.enter()
        try:
            credit = as_credits("dh", dh, self.cell, -1, self.batch_size)
            apart = _validation.as_bool("per_lane", per_lane)
            if apart:
                gradient = as_output(out, self.cell, 3, self.batch_size, self.sizes.P, self.sizes.m)
            else:
                gradient = as_output(out, self.cell, 2, self.sizes.P, self.sizes.m, 0)
            with nogil:
                self.sweep(cnp.PyArray_DATA(credit), cnp.PyArray_DATA(gradient), apart, False)
            return gradient
        finally:
            self.leave()

    def late_gradient(self, dh: ArrayLike, out: FloatArray | None = None) -> FloatArray:
        """Return this step's gradient with the carry's part of it late: it comes after the block's end, in K shares.

        The open block's part for `dh` is returned at once. What the carry has to say to the credits of a block is
        computed when the block ends, for all of them together, and each of the next K calls returns a K-th of it. So
        the carry is contracted once per block and not once per step; no part of the gradient is lost or counted twice.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        out : (P, m) array, optional
            Where to write the gradient.

        Returns
        -------
        (P, m) array
            A fresh array, or `out`.

        Raises
        ------
        FloatingPointError
            If the gradient overflows; names the lane. The credit may have been taken.

        Notes
        -----
        For training at every step: call it once per step. With theta fixed, the sum over a run and 2 K further steps
        without credit is that of `gradient`. Cost: O(K P n) per lane and call, and a contraction per block. Where
        nothing is carried (`TBPTT`), or the rule is local, it is `gradient`.

        `accumulate`, `flush` and `run` go beside it; each begins its own sums.
        """
        cdef cnp.ndarray credit, gradient
        self.enter()
        try:
            credit = as_credits("dh", dh, self.cell, -1, self.batch_size)
            gradient = as_output(out, self.cell, 2, self.sizes.P, self.sizes.m, 0)
            with nogil:
                self.sweep_late(cnp.PyArray_DATA(credit), cnp.PyArray_DATA(gradient))
            return gradient
        finally:
            self.leave()

    def input_gradient(self, dh: ArrayLike, out: FloatArray | None = None) -> FloatArray:
        """Return the gradient of this step's loss with respect to this step's input: same-step only.

        Only the last step's input counts. What earlier inputs did to the loss by way of the state is left out: unlike
        theta, each of them is a variable of its own, which no influence matrix follows.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        out : (B, n_in) array, optional
            Where to write the gradient.

        Returns
        -------
        (B, n_in) array
            A fresh array, or `out`; for a symbol, the gradient with respect to its one-hot row. Zeros before the first
            step, and for a lane that was reset since the last step.

        Notes
        -----
        Exact for every estimator, and pure: W_x is that of the step, whatever was written into theta since. 2 B P n_in
        flops.
        """
        cdef cnp.ndarray credit, dx
        self.enter()
        try:
            credit = as_credits("dh", dh, self.cell, -1, self.batch_size)
            dx = as_output(out, self.cell, 2, self.batch_size, self.sizes.v, 0)
            with nogil:
                self.tape.sweep_to_input(self.tape, cnp.PyArray_DATA(credit), self.input_d, self.input_w,
                                         cnp.PyArray_DATA(dx), threads_of(self.n_threads))
            if not self.cell.all_finite(cnp.PyArray_SIZE(dx), cnp.PyArray_DATA(dx)):
                raise FloatingPointError(f"the gradient by the input is not finite at step {self.steps}")
            return dx
        finally:
            self.leave()

    def accumulate(self, dh: ArrayLike) -> None:
        """Add a credit of this step; calls add up until `flush`.

        Parameters
        ----------
        dh : (B, n_hidden) array
            dloss/dh of this step.
        """
        cdef cnp.ndarray credit
        self.enter()
        try:
            credit = as_credits("dh", dh, self.cell, -1, self.batch_size)
            with nogil:
                self.accumulate_credit(cnp.PyArray_DATA(credit))
        finally:
            self.leave()

    def flush(self, out: FloatArray | None = None) -> FloatArray:
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
            If the gradient overflows; names the lane. The credits are then dropped, as they are if a carry in Python
            raises.

        Notes
        -----
        One backward sweep over the open block serves all its credits: O(K P n) per lane and one contraction
        of the carry, where as many calls of `gradient` cost K times that.
        """
        cdef cnp.ndarray gradient
        self.enter()
        try:
            gradient = as_output(out, self.cell, 2, self.sizes.P, self.sizes.m, 0)
            with nogil:
                self.flush_into(cnp.PyArray_DATA(gradient))
            return gradient
        finally:
            self.leave()

    def run(
        self, xs: ArrayLike, dhs: ArrayLike | None = None, resets: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
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

        Notes
        -----
        Ctrl-C is noticed within a fraction of a second, or after the step that is being taken. `steps` then says how
        many were taken, and their credits wait for `flush`. The same holds after any other exception.
        """
        cdef cnp.ndarray inputs, credits, hidden, gradient
        cdef Input step = Input(x=NULL, symbols=NULL, reset=NULL, in_run=True, same_theta=False)
        cdef Py_ssize_t T, t = 0, burst = 1, lanes = self.batch_size, _
        cdef double start
        cdef Py_ssize_t row = lanes * self.sizes.n * self.cell.item   # bytes of one step's hidden states
        cdef char *h
        cdef char *dh = NULL
        self.enter()
        try:
            inputs = as_inputs("xs", xs, self.cell, self.batch_size, True)
            T = cnp.PyArray_DIM(inputs, 0)
            if holds_symbols(inputs):
                step.symbols = <const long long *> cnp.PyArray_DATA(inputs)
            else:
                step.x = cnp.PyArray_DATA(inputs)
            if dhs is not None:
                credits = as_credits("dhs", dhs, self.cell, T, self.batch_size)
                dh = <char *> cnp.PyArray_DATA(credits)
            if resets is not None:
                resets = _validation.as_mask("resets", resets, (T, self.batch_size))
                step.reset = <unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> resets)
            hidden = np.empty((T, self.batch_size, self.sizes.n), self.cell.dtype)
            gradient = as_output(None, self.cell, 2, self.sizes.P, self.sizes.m, 0)
            h = <char *> cnp.PyArray_DATA(hidden)
            with nogil:
                while t < T:
                    burst, start = min(burst, T - t), seconds()
                    for _ in range(burst):
                        self.take_step(&step)
                        self.copy_hidden(h + t * row)
                        if dh != NULL:
                            self.accumulate_credit(dh + t * row)
                        t += 1
                        step.same_theta = True
                        if step.symbols != NULL:
                            step.symbols += lanes
                        else:
                            step.x = <const char *> step.x + lanes * self.sizes.v * self.cell.item
                        if step.reset != NULL:
                            step.reset += lanes
                    with gil:
                        PyErr_CheckSignals()
                    burst = 2 * burst if seconds() - start < BURST_SECONDS else max(1, burst // 2)
                self.flush_into(cnp.PyArray_DATA(gradient))
            return hidden, gradient
        finally:
            self.leave()

    def reset(self, mask: ArrayLike | None = None) -> None:
        """Zero the state and the influence of the lanes in `mask` (all if None); credits given before stay."""
        self.enter()
        try:
            if mask is None:
                mask = np.ones(self.batch_size, bool)
            mask = as_lanes("mask", mask, self.batch_size)
            self.reset_lanes(<unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> mask))
        finally:
            self.leave()

    # ---- a step --------------------------------------------------------------------------------------------------

    cdef int take_step(self, const Input *step) except -1 nogil:
        # The step is computed behind the tape first: if its state is not finite nothing has changed. Then a full
        # block's end, the resets, and the step itself take effect.
        cdef int lane, slot = self.tape.open_steps, n_reset = 0
        lane = self.tape.compute_step(self.tape, step, self.state)
        if lane >= 0:
            with gil:
                raise FloatingPointError(
                    f"the state of lane {lane} is not finite at step {self.steps + 1}; "
                    "the step was not taken (smaller updates, or clip, keep it finite)")
        if step.reset != NULL:
            for lane in range(self.batch_size):
                n_reset += step.reset[lane] != 0
        if self.tape.open_steps == self.block and (n_reset < self.batch_size or self.block_goes_on):
            self.close_block()
        if n_reset > 0:
            self.reset_lanes(step.reset)
        memcpy(self.state, self.tape.state_next, self.batch_size * self.sizes.S * self.cell.item)
        self.steps += 1
        self.note_input(slot, step.same_theta)
        if self.carry.is_local():
            self.absorb_lanes()
        else:
            self.tape.commit_step(slot)
        return 0

    cdef void note_input(self, int slot, bint same_theta) noexcept nogil:
        # Keep what `input_gradient` needs of the newest step, for when its block is closed or theta has changed
        cdef Sizes sizes = self.sizes
        cdef Py_ssize_t item = self.cell.item, size = sizes.P * item, lane, row
        for lane in range(self.batch_size):
            memcpy(<char *> self.input_d + lane * size,
                   <char *> self.tape.d + (slot * self.batch_size + lane) * sizes.q * sizes.k * size, size)
        if not same_theta:
            for row in range(sizes.P):
                memcpy(<char *> self.input_w + row * sizes.v * item,
                       <char *> self.cell.theta_data + row * sizes.m * item, sizes.v * item)

    cdef void copy_hidden(self, void *h) noexcept nogil:
        cdef Py_ssize_t row = self.sizes.n * self.cell.item, state_row = self.sizes.S * self.cell.item
        cdef int lane
        for lane in range(self.batch_size):
            memcpy(<char *> h + lane * row, <char *> self.state + lane * state_row, row)

    # ---- gradients -----------------------------------------------------------------------------------------------

    cdef int sweep(self, const void *dh, void *gradient, bint per_lane, bint add) except -1 nogil:
        # gradient = credit . J for dh at the newest step, or for the tape's credits if dh is NULL; or += if add.
        # (P, m), or (B, P, m) if per_lane
        cdef Py_ssize_t size = <Py_ssize_t> self.sizes.P * self.sizes.m
        cdef int sums = self.batch_size if per_lane else 1, together = self.batch_size // sums, i, attempt = 0
        if add and self.forgets:
            memcpy(self.sum_before, gradient, size * self.cell.item)
        while True:
            self.tape.sweep(self.tape, dh, self.carry.delta, gradient, per_lane, add, self.carry.absorb_lane != NULL,
                            threads_of(self.n_threads))
            for i in range(sums):
                self.contract(i * together, (i + 1) * together, <char *> gradient + i * size * self.cell.item,
                              add or self.tape.open_steps > 0)
            if self.check_gradient(dh, gradient, sums, attempt):
                return 0
            if add:
                memcpy(gradient, self.sum_before, size * self.cell.item)
            attempt += 1

    cdef int sweep_late(self, const void *dh, void *gradient) except -1 nogil:
        # gradient = the tape's part for dh, and a share of the carry's part for closed blocks; dh waits on the tape.
        cdef bint add = self.late_steps > 0
        cdef int attempt = 0
        cdef Py_ssize_t size = <Py_ssize_t> self.sizes.P * self.sizes.m
        if self.carry.absorb_lane == NULL:  # nothing is carried, or a local rule: nothing is ever late
            return self.sweep(dh, gradient, False, False)
        if self.tape.open_steps > 0:  # there is a tape on which a credit can wait
            if self.tape.credited and not self.tape.late:
                self.sweep_credits()
            self.tape.add_credit(self.tape, dh)
            self.tape.late = True
        while True:
            if self.tape.open_steps == 0:
                self.sweep(dh, gradient, False, False)
            else:
                self.tape.sweep(
                    self.tape, dh, self.carry.delta, gradient, False, False, False, threads_of(self.n_threads))
            if add:
                self.combine(size, 1, self.late, 1, gradient)
            if self.check_gradient(dh, gradient, 1, attempt):
                break
            attempt += 1
        self.late_steps -= add
        return 0

    cdef int contract_late(self) except -1 nogil:
        # The carry's part for the tape's credits, and what is left of the blocks before, in K shares:
        # late <- (late_steps late + delta J) / K
        cdef Py_ssize_t size = <Py_ssize_t> self.sizes.P * self.sizes.m
        cdef double share = 1.0 / self.block
        cdef void *delta = self.carry.delta
        cdef int attempt = 0
        self.combine(size, 0, self.late, self.late_steps * share, self.late)
        self.late_steps = self.block
        if self.forgets:
            memcpy(self.sum_before, self.late, size * self.cell.item)
        while True:
            self.tape.sweep(self.tape, NULL, delta, NULL, False, False, True, threads_of(self.n_threads))
            self.combine(<Py_ssize_t> self.batch_size * self.sizes.S, 0, delta, share, delta)
            self.contract(0, self.batch_size, self.late, True)
            if self.check_gradient(NULL, self.late, 1, attempt):
                return 0
            memcpy(self.late, self.sum_before, size * self.cell.item)
            attempt += 1

    cdef int contract(self, int first, int end, void *gradient, bint add) except -1 nogil:
        # gradient = (or +=) the carry's part for the credit delta (B, S) of some lanes
        if self.carry.contract_lanes(self.carry, first, end, self.carry.delta, gradient, add) != FINE:
            self.drop(gradient)
            with gil:
                self.carry.raise_failure()
        return 0

    cdef bint check_gradient(self, const void *dh, void *gradient, int sums, int attempt) except -1 nogil:
        # True if it is finite, False if it must be computed once more: lanes that overflow have been forgotten; all, if
        # none does so by itself or the first attempt was not enough.
        if self.cell.all_finite(sums * <Py_ssize_t> self.sizes.P * self.sizes.m, gradient):
            return True
        self.drop(gradient)
        with gil:
            if not self.tape.credits_are_finite():
                raise FloatingPointError(f"the sum of credits is not finite at step {self.steps}")
            lanes = self.overflowing_lanes(dh)
            if self.forgets and attempt < 2:
                for lane in lanes if lanes and attempt == 0 else range(self.batch_size):
                    self.forget(lane)
                return False
            if not lanes:
                raise FloatingPointError(f"the sum of gradients is not finite at step {self.steps}")
            self.raise_overflow(lanes)
        return True

    cdef int forget(self, int lane) except -1:
        # As a reset of the influence, and of credits that would still look for it
        self.overflows += 1
        self.carry.zero_lane(lane)
        self.carry.raise_failure()
        if not self.carry.is_local():
            self.tape.cut_lane(lane)
            self.tape.kept["credit"][:, lane] = 0
        return 0

    cdef void drop(self, void *gradient) noexcept nogil:
        # Half a gradient must not stay, nor spoil the next one: these credits have none.
        if gradient == self.pending or gradient == self.late:
            memset(gradient, 0, <Py_ssize_t> self.sizes.P * self.sizes.m * self.cell.item)

    cdef void combine(self, Py_ssize_t size, double a, const void *x, double b, void *y) noexcept nogil:
        # y <- a x + b y
        if self.cell.single:
            axpby[float](size, a, <const float *> x, b, <float *> y)
        else:
            axpby[double](size, a, <const double *> x, b, <double *> y)

    cdef int accumulate_credit(self, const void *dh) except -1 nogil:
        if self.tape.open_steps > 0:
            if self.tape.credited and self.tape.late:
                self.sweep_credits()
            self.tape.add_credit(self.tape, dh)
            return 0
        self.has_pending = True
        return self.sweep(dh, self.pending, False, True)  # the newest step, if there is one, is not on the tape

    cdef int sweep_credits(self) except -1 nogil:
        if self.tape.credited:
            try:
                if self.tape.late:
                    self.contract_late()
                else:
                    self.has_pending = True
                    self.sweep(NULL, self.pending, False, True)
            finally:
                self.tape.forget_credits()
        return 0

    cdef int flush_into(self, void *gradient) except -1 nogil:
        cdef Py_ssize_t size = <Py_ssize_t> self.sizes.P * self.sizes.m * self.cell.item
        if self.tape.credited and not self.tape.late and not self.has_pending:  # straight into the gradient
            try:
                self.sweep(NULL, gradient, False, False)
            finally:
                self.tape.forget_credits()
            return 0
        self.sweep_credits()
        memcpy(gradient, self.pending, size)
        memset(self.pending, 0, size)
        self.has_pending = False
        return 0

    # ---- blocks and resets ---------------------------------------------------------------------------------------

    cdef int close_block(self) except -1 nogil:
        # Sweep the credits that wait, then let the carry absorb the tape.
        self.sweep_credits()
        if self.carry.absorb_lane == NULL:  # it remembers nothing
            self.tape.empty()
            return 0
        return self.absorb_lanes()

    cdef int absorb_lanes(self) except -1 nogil:
        # Hand every lane's block, or its newest step if the carry is local, to the carry, lanes spread over threads.
        # Only the lanes that overflow lose their influence.
        cdef int lane, failed = 0, threads = threads_of(self.carry.n_threads)
        if self.carry.is_local():
            threads = parts_that_pay(
                self.batch_size, 1, self.batch_size * <Py_ssize_t> self.sizes.S * self.sizes.G * self.sizes.m, threads)
        if threads == 1:
            for lane in range(self.batch_size):
                self.infos[lane] = absorb(self, lane, 0)
        else:
            for lane in prange(self.batch_size, num_threads=threads, schedule="dynamic"):
                self.infos[lane] = absorb(self, lane, threadid())
        self.tape.empty()
        for lane in range(self.batch_size):
            if self.infos[lane] != FINE:
                self.carry.zero_lane(lane)
                failed += 1
        if failed > 0:
            with gil:
                self.carry.raise_failure()
                remedy = ", was set to zero, and the step was " + ("taken" if self.carry.is_local() else "not taken")
                for lane in range(self.batch_size):
                    if self.infos[lane] == NO_CONVERGENCE:
                        raise np.linalg.LinAlgError(
                            f"the influence of lane {lane} could not be reduced at step {self.steps}{remedy}: "
                            "LAPACK's SVD did not converge")
                if self.forgets:
                    self.overflows += failed
                    return 0
                self.raise_overflow([lane for lane in range(self.batch_size) if self.infos[lane] != FINE], remedy)
        return 0

    cdef int reset_lanes(self, const unsigned char *mask) except -1 nogil:
        # Whatever raises, the reset is done; then the exception reaches the caller.
        cdef Py_ssize_t row = self.sizes.S * self.cell.item, size = self.sizes.P * self.cell.item
        cdef int lane, n_reset = 0
        cdef bint all_lanes
        for lane in range(self.batch_size):
            n_reset += mask[lane] != 0
        all_lanes = n_reset == self.batch_size and not self.block_goes_on
        try:
            if all_lanes:  # nothing is left of the block, so a new one starts
                self.sweep_credits()
        finally:
            if all_lanes:
                self.tape.empty()
            for lane in range(self.batch_size):
                if mask[lane]:
                    memset(<char *> self.state + lane * row, 0, row)
                    memset(<char *> self.input_d + lane * size, 0, size)
                    if all_lanes or self.carry.is_local():
                        self.carry.zero_lane(lane)
                    else:
                        self.tape.cut_lane(lane)
        if not self.carry.is_compiled():
            with gil:
                self.carry.raise_failure()
        return 0

    # ---- errors --------------------------------------------------------------------------------------------------

    cdef overflowing_lanes(self, const void *dh):
        # The lanes whose own gradient for dh, or for the tape's credits if dh is NULL, is not finite
        cdef Py_ssize_t size = <Py_ssize_t> self.sizes.P * self.sizes.m
        cdef cnp.ndarray gradients = np.empty((self.batch_size, self.sizes.P, self.sizes.m), self.dtype)
        cdef char *gradient = <char *> cnp.PyArray_DATA(gradients)
        cdef int lane
        delta = self.carry.view(self.carry.delta, (self.batch_size, self.sizes.S))
        self.tape.sweep(self.tape, dh, self.carry.delta, gradient, True, False, self.carry.absorb_lane != NULL, 1)
        lanes = []
        for lane in range(self.batch_size):
            self.carry.contract_lanes(
                self.carry, lane, lane + 1, self.carry.delta, gradient, self.tape.open_steps > 0)
            self.carry.raise_failure()
            if not (np.isfinite(delta[lane]).all() and self.cell.all_finite(size, gradient)):
                lanes.append(lane)
            gradient += size * self.cell.item
        return lanes

    cdef raise_overflow(self, lanes, remedy=""):
        where = ("lane " if len(lanes) == 1 else "lanes ") + ", ".join(map(str, lanes))
        raise FloatingPointError(
            f"the influence of {where} is not finite at step {self.steps}{remedy}: the product of the state Jacobians "
            "grows without bound (reset the lane, keep theta smaller, or set on_overflow to 'forget')")

    # ---- for okcore.Estimator: saving and restoring ----------------------------------------------------------------

    @property
    def _buffers(self):
        return dict(self.kept)

    def _restore(self, long long steps, int late_steps, long long overflows):
        self.steps, self.late_steps, self.overflows, self.has_pending = steps, late_steps, overflows, True


cdef int absorb(Engine e, int lane, int thread) noexcept nogil:
    # One lane's block or newest step, with its draws; returns what the carry's function does.
    cdef Sizes sizes = e.sizes
    cdef Py_ssize_t item = e.cell.item, i, at = lane
    cdef double *draws = e.carry.draws + thread * e.carry.n_draws
    cdef bitgen_t *bit_generator = e.bit_generators[lane]
    cdef Step step = Step(lane=lane, thread=thread, draws=draws)
    cdef Block block = Block(lane=lane, thread=thread, alive=True, n_terms=0, draws=draws)
    cdef void *phi
    cdef void *u
    cdef void *A
    cdef const void *Phi
    for i in range(e.carry.n_draws):
        draws[i] = bit_generator.next_double(bit_generator.state)
    if e.carry.is_local():  # the step is in the tape's first slot
        return e.carry.absorb_lane_step(
            e.carry, &step,
            <char *> e.tape.d + at * sizes.q * sizes.k * sizes.P * item,
            <char *> e.tape.c + at * sizes.k * sizes.S * item,
            <char *> e.tape.u_hat + at * sizes.q * sizes.m * item)
    at = <Py_ssize_t> thread * e.carry.room_rows
    u, A = <char *> e.carry.u_room + at * sizes.m * item, <char *> e.carry.A_room + at * sizes.S * sizes.P * item
    phi = <char *> e.carry.phi_room + <Py_ssize_t> thread * 2 * sizes.S * sizes.S * item
    Phi = e.tape.lane_terms(
        e.tape, &block, phi, <char *> e.carry.dense_room + <Py_ssize_t> thread * sizes.S * sizes.n * item, u, A)
    return e.carry.absorb_lane(e.carry, &block, Phi, u, A)


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
