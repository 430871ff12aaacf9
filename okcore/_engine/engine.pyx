"""The engine: a tape of the open block, in front of a carry of everything before it.

    J_t = Phi_{t0->t} J_{t0} + sum_{tau = t0+1..t} Phi_{tau->t} F_tau

A gradient sweeps its credit back over the tape and hands what is left to the carry; a block that is full is absorbed by
the carry at the start of the next step.  Nothing here knows which cell or which algorithm it runs.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange, threadid
from libc.string cimport memcpy, memset
from libc.stdlib cimport free, malloc
from numpy.random cimport bitgen_t

cimport numpy as cnp

import os

import numpy as np

from okcore import _validation
from okcore._engine.memory import aligned_zeros

from okcore._engine.address cimport address
from okcore._carries.base cimport Carry, threads_of
from okcore._engine.cell_kernel cimport CellKernel
from okcore._kernels cimport all_finite
from okcore._engine.tape cimport Tape

cnp.import_array()


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
    cdef readonly Tape tape
    cdef readonly Carry carry
    cdef readonly int batch_size, block, n_threads
    cdef readonly long long steps        # time steps taken since the engine was made
    cdef readonly list generators        # one numpy Generator a lane
    cdef readonly dict buffers           # state and pending, by name
    cdef list workspace                  # what lasts no longer than a call; kept alive here
    cdef int n, v, m, S, P
    cdef Py_ssize_t item                 # bytes of a float
    cdef void *state                     # (B, S)
    cdef void *pending                   # (P, m) gradient of credits whose block has closed
    cdef bint has_pending                # False: pending is zero
    cdef void *state_next                # (B, S)
    cdef void *delta                     # (B, S) the credit at the block's start
    cdef object delta_array
    cdef object failure                  # an exception of a carry in Python
    # of each thread, for closing a block
    cdef void *phi                       # 2 (S, S)
    cdef void *dense                     # (S, n)
    cdef void *columns                   # (rows, m)
    cdef void *factors                   # (rows, S, P)
    cdef double *draws                   # (n_draws,)
    cdef int rows                        # the carry's own terms, then the block's
    cdef int *infos                      # (B,) what each lane's absorb returned
    cdef bitgen_t **bit_generators

    def __cinit__(self, *args, **kwargs):
        self.bit_generators = NULL

    def __init__(self, CellKernel cell, Carry carry, int block, list generators, int n_threads):
        cdef int B = carry.batch_size, lane, terms = block * cell.n_terms_
        self.cell, self.carry, self.batch_size, self.block = cell, carry, B, block
        self.tape = Tape(cell, B, block, block > 1 or carry.needs_terms)
        self.n_threads = n_threads = min(n_threads, max(B, os.cpu_count() or 1))
        if not carry.compiled:
            n_threads = 1  # a carry written in Python holds the GIL
        if B == 1:
            carry.lane_threads = n_threads
        n_threads = min(n_threads, B)
        self.n, self.v, self.m = cell.n_hidden, cell.n_in, cell.n_columns
        self.S, self.P = cell.state_size, cell.n_rows
        self.item = cell.dtype.itemsize
        self.generators = carry.generators = generators
        carry.prepare(terms, n_threads)

        dtype = cell.dtype
        self.buffers = {"state": aligned_zeros((B, self.S), dtype), "pending": aligned_zeros((self.P, self.m), dtype)}
        self.state = address(self.buffers["state"])
        self.pending = address(self.buffers["pending"])
        self.has_pending = True
        self.delta_array = aligned_zeros((B, self.S), dtype)
        self.delta = address(self.delta_array)

        self.workspace = []
        self.state_next = self.scratch((B, self.S), dtype)
        self.infos = <int *> self.scratch((B,), np.intc)
        self.draws = <double *> self.scratch((n_threads, carry.n_draws), np.float64)
        if carry.needs_terms:
            self.rows = carry.kept_rows + terms
            self.phi = self.scratch((n_threads, 2, self.S, self.S), dtype)
            self.dense = self.scratch((n_threads, self.S, self.n), dtype)
            self.columns = self.scratch((n_threads, self.rows, self.m), dtype)
            self.factors = self.scratch((n_threads, self.rows, self.S, self.P), dtype)

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
            self.take_step(floats, symbols, mask, False, False)
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
            self.gradient_into(cnp.PyArray_DATA(credit), cnp.PyArray_DATA(gradient))
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
            self.accumulate_credit(cnp.PyArray_DATA(credit))

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
        cdef Py_ssize_t T = cnp.PyArray_DIM(inputs, 0), t, item = self.item
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
                    self.take_step(NULL, (<long long *> x) + t * self.batch_size, mask, True, t > 0)
                else:
                    self.take_step(x + t * self.batch_size * self.v * item, NULL, mask, True, t > 0)
                self.copy_hidden(h + t * self.batch_size * self.n * item)
                if dh != NULL:
                    self.accumulate_credit(dh + t * self.batch_size * self.n * item)
            self.flush_into(cnp.PyArray_DATA(gradient))
        return hidden, gradient

    def reset(self, mask=None):
        """Zero the state and the influence of the lanes in `mask` (all if None); credits given before stay."""
        self.check_made()
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
        self.check_made()
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
        # (B, n_hidden) floats, (length, B, n_hidden) for run
        cdef cnp.ndarray array
        self.check_made()
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
        cdef int type_number
        cdef cnp.npy_intp shape[2]
        self.check_made()
        type_number = self.type_number()
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

    cdef int take_step(
        self, const void *x, const long long *symbols, const unsigned char *reset, bint in_run, bint same_theta,
    ) except -1 nogil:
        # The step is computed behind the tape first: if its state is not finite nothing has changed.  Then a full
        # block's end, the resets, and the step itself take effect.
        cdef int lane, slot = self.tape.open_steps, count = 0
        lane = self.tape.compute_step(x, symbols, reset, in_run, same_theta, self.state, self.state_next)
        if lane >= 0:
            with gil:
                raise FloatingPointError(
                    f"the state of lane {lane} is not finite at step {self.steps + 1}; "
                    "the step was not taken (smaller updates, or clip, keep it finite)")
        if reset != NULL:
            for lane in range(self.batch_size):
                count += reset[lane] != 0
        if count < self.batch_size and self.tape.open_steps == self.block:
            self.close_block()
        if count > 0:
            self.reset_lanes(reset)
        self.tape.commit_step(slot)
        memcpy(self.state, self.state_next, self.batch_size * self.S * self.item)
        self.steps += 1
        return 0

    cdef void copy_hidden(self, void *h) noexcept nogil:
        cdef int lane
        for lane in range(self.batch_size):
            memcpy(<char *> h + lane * self.n * self.item, <char *> self.state + lane * self.S * self.item,
                   self.n * self.item)

    # ---- gradients -------------------------------------------------------------------------------------------

    cdef int sweep(self, const void *dh, void *gradient, bint add) except -1 nogil:
        # gradient = credit . J for dh at the newest step, or for the tape's credits if dh is NULL; or += if add
        cdef bint finite
        cdef Py_ssize_t size = <Py_ssize_t> self.P * self.m
        self.tape.sweep(dh, self.delta, gradient, add, self.carry.needs_terms, threads_of(self.n_threads))
        self.carry.contract_lanes(self.delta, gradient)
        if self.cell.single:
            finite = all_finite[float](size, <float *> gradient)
        else:
            finite = all_finite[double](size, <double *> gradient)
        if not finite:
            if gradient == self.pending:  # these credits have no gradient, and must not poison the next
                memset(self.pending, 0, size * self.item)
            with gil:
                if not np.isfinite(self.tape.arrays["credit"]).all():
                    raise FloatingPointError(f"the sum of credits is not finite at step {self.steps}")
                self.raise_overflow(self.overflowing_lanes())
        return 0

    cdef int gradient_into(self, const void *dh, void *gradient) except -1 nogil:
        return self.sweep(dh, gradient, False)

    cdef int accumulate_credit(self, const void *dh) except -1 nogil:
        if self.tape.open_steps > 0:
            self.tape.add_credit(dh)
            return 0
        self.has_pending = True
        return self.sweep(dh, self.pending, True)  # the newest step, if there is one, is no longer on the tape

    cdef int sweep_credits(self) except -1 nogil:
        if self.tape.credited:
            try:
                self.has_pending = True
                self.sweep(NULL, self.pending, True)
            finally:
                self.tape.forget_credits()
        return 0

    cdef int flush_into(self, void *gradient) except -1 nogil:
        cdef Py_ssize_t size = <Py_ssize_t> self.P * self.m * self.item
        if self.tape.credited and not self.has_pending:  # straight into the gradient: it is large
            try:
                self.sweep(NULL, gradient, False)
            finally:
                self.tape.forget_credits()
            return 0
        self.sweep_credits()
        memcpy(gradient, self.pending, size)
        memset(self.pending, 0, size)
        self.has_pending = False
        return 0

    # ---- blocks and resets -----------------------------------------------------------------------------------

    cdef int close_block(self) except -1 nogil:
        # Sweep what waits, then let the carry absorb the tape, lanes spread over threads.
        cdef int lane, bad = 0
        self.sweep_credits()
        cdef int threads = threads_of(self.carry.n_threads)
        if not self.carry.compiled:
            with gil:
                self.absorb_in_python()
        elif self.carry.needs_terms and threads == 1:
            for lane in range(self.batch_size):
                self.infos[lane] = absorb(self, lane, 0)
        elif self.carry.needs_terms:
            for lane in prange(self.batch_size, num_threads=threads, schedule="dynamic"):
                self.infos[lane] = absorb_quietly(self, lane, threadid())
        self.tape.empty()
        for lane in range(self.batch_size):
            if self.infos[lane] != 0:  # only this lane's influence is lost; the others have gone on
                self.carry.zero_lane(lane)
                bad += 1
        if bad > 0:
            with gil:
                if self.failure is not None:
                    error, self.failure = self.failure, None
                    raise error
                self.raise_overflow(
                    [lane for lane in range(self.batch_size) if self.infos[lane]],
                    ", was set to zero, and the step was not taken")
        return 0

    cdef int absorb_in_python(self) except -1:
        # Every lane gets its turn, so that a block is never absorbed twice; the first exception waits in `failure`.
        cdef int lane
        for lane in range(self.batch_size):
            try:
                self.infos[lane] = absorb(self, lane, 0)
            except Exception as error:
                self.infos[lane] = 1
                self.failure = self.failure or error
        return 0

    cdef int reset_lanes(self, const unsigned char *mask) except -1 nogil:
        cdef int lane, count = 0
        for lane in range(self.batch_size):
            count += mask[lane] != 0
        if count == self.batch_size:  # nothing is left of the block, so a new one starts
            self.sweep_credits()
            for lane in range(self.batch_size):
                self.carry.zero_lane(lane)
            self.tape.empty()
        for lane in range(self.batch_size):
            if mask[lane]:
                memset(<char *> self.state + lane * self.S * self.item, 0, self.S * self.item)
                if count < self.batch_size:
                    self.tape.cut_lane(lane)
        return 0

    # ---- errors ----------------------------------------------------------------------------------------------

    cdef overflowing_lanes(self):
        # The lanes whose credit times influence is not finite
        cdef cnp.ndarray gradient = np.empty((self.P, self.m), self.cell.dtype)
        credits, lanes = self.delta_array.copy(), []
        for lane in range(self.batch_size):
            self.delta_array[...] = 0
            self.delta_array[lane] = credits[lane]
            gradient[...] = 0
            self.carry.contract_lanes(self.delta, cnp.PyArray_DATA(gradient))
            if not (np.isfinite(credits[lane]).all() and np.isfinite(gradient).all()):
                lanes.append(lane)
        return lanes

    cdef raise_overflow(self, lanes, remedy=""):
        if not lanes:
            where = "all lanes together"
        else:
            where = ("lane " if len(lanes) == 1 else "lanes ") + ", ".join(map(str, lanes))
        raise FloatingPointError(
            f"the influence of {where} is not finite at step {self.steps}{remedy}: the product of the state Jacobians "
            "grows without bound (reset the lane, or keep theta smaller)")

    cdef int check_made(self) except -1:
        if self.tape is None:
            raise RuntimeError(f"{type(self).__name__}.__init__ must call super().__init__")
        return 0

    # ---- for okcore.Estimator: restoring ---------------------------------------------------------------------

    def _restore(self, long long steps):
        self.steps, self.has_pending = steps, True


cdef int absorb(Engine e, int lane, int thread) except -1 nogil:
    # Hand the block of one lane to the carry, with its draws: 0, or 1 if something is not finite.
    cdef Py_ssize_t first = <Py_ssize_t> thread * e.rows + e.carry.kept_rows
    cdef char *phi = <char *> e.phi + <Py_ssize_t> thread * 2 * e.S * e.S * e.item
    cdef char *dense = <char *> e.dense + <Py_ssize_t> thread * e.S * e.n * e.item
    cdef char *u = <char *> e.columns + first * e.m * e.item
    cdef char *A = <char *> e.factors + first * (<Py_ssize_t> e.S * e.P) * e.item
    cdef double *draws = e.draws + thread * e.carry.n_draws
    cdef bitgen_t *bit_generator = e.bit_generators[lane]
    cdef void *transition = NULL
    cdef bint alive = True
    cdef int i, count
    for i in range(e.carry.n_draws):
        draws[i] = bit_generator.next_double(bit_generator.state)
    count = e.tape.lane_terms(lane, phi, dense, u, A, &alive, &transition)
    return e.carry.absorb_lane(lane, thread, alive, count, transition, u, A, draws)


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
