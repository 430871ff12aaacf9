from libc.string cimport memset

cimport numpy as cnp

import copyreg

import numpy as np

from okcore import _validation
from okcore._engine.buffers import aligned_zeros

from okcore._engine.buffers cimport Buffers, address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, RAISED, Block, Step

cnp.import_array()


cdef class Carry(Buffers):
    """What an algorithm keeps of the influence matrix J at the last block boundary; the base of one in NumPy.

    A subclass keeps arrays (`keep`) and defines two methods: `contract`, and either `absorb` or, if its rule is local,
    `absorb_step`. It belongs to one estimator. For a compiled carry see ``okcore/_carries/base.pxd``.

    Parameters
    ----------
    cell : okcore.Cell
    batch_size : int
        Lanes B.

    Attributes
    ----------
    cell, batch_size
    generators : tuple of numpy.random.Generator
        One per lane, there once an estimator has the carry. Draw from ``generators[lane]`` only in `absorb` and
        `absorb_step` of that lane: lanes then stay independent, and a resumed run draws the same numbers.
    arrays : dict of ndarray
        Everything the carry remembers, the lane as first axis: what a checkpoint holds and a reset zeroes. What was
        kept, unless a subclass overrides it.
    stats : dict of ndarray
        Figures about the last absorb, one per lane; empty unless a subclass overrides it.
    """

    def __init__(self, CellKernel cell, batch_size):
        self.cell = cell
        self.sizes, self.single, self.item = cell.sizes, cell.single, cell.item
        self.dtype = cell.dtype
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.delta = self.reserve((self.batch_size, self.sizes.S), None)
        if type(self).contract is not Carry.contract:  # a subclass in Python; a compiled one binds its own functions
            self.contract_lanes = contract_in_python
            if type(self).absorb_step is not Carry.absorb_step:
                self.absorb_lane_step = absorb_step_in_python
            elif type(self).absorb is not Carry.absorb:
                self.absorb_lane = absorb_in_python

    # ---- for subclasses ------------------------------------------------------------------------------------------

    def keep(self, name, shape, dtype=None):
        """Return a new array of zeros of shape (B, *shape) that is part of what the carry remembers.

        Parameters
        ----------
        name : str
            Its name in `arrays`.
        shape : tuple of int
            Per lane.
        dtype : optional
            The cell's unless given.
        """
        if self.tape is not None:
            raise RuntimeError("keep must be called in the constructor: the carry is in use")
        array = aligned_zeros((self.batch_size, *shape), self.dtype if dtype is None else dtype)
        self.keep_array(name, array)
        return array

    def absorb(self, lane, Phi, u, A):
        """Close a block of a lane: J <- Phi J + sum_i A_i (x) u_i.

        Parameters
        ----------
        lane : int
        Phi : (S, S) array
            The block's transition; zero if the lane was reset inside the block.
        u : (N, m) array
        A : (N, S, P) array
            The block's terms, newest first. They may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} must define absorb(lane, Phi, u, A)")

    def absorb_step(self, lane, d, c, u):
        """Take in the newest step of a lane: for a local rule, which needs no dense Jacobian.

        A class that defines this method is local: it gets each step as it is taken, in place of blocks of terms.

        Parameters
        ----------
        lane : int
        d : (q, k, G, n) array
            The diagonals of the immediate Jacobian: ``d[j, a, g, i]`` is d state[a, i] / d pre[j, g, i].
        c : (k, k, n) array
            ``c[a, b, i]`` is d state[a, i] / d old state[b, i], pre-activations held fixed.
        u : (q, m) array
            The augmented inputs. Theta as it was used in the step is in ``self.cell.theta``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define absorb_step(lane, d, c, u)")

    def contract(self, delta):
        """Return the sum over lanes of delta J, shape (P, m), for credits delta (B, S)."""
        raise NotImplementedError(f"{type(self).__name__} must define contract(delta)")

    @property
    def arrays(self):
        """Everything the carry remembers, by name, lanes first; writing into an array changes the carry."""
        return dict(self.kept)

    def zero(self, lane):
        """Forget a lane: J <- 0."""
        for array in self.arrays.values():
            array[lane] = 0

    def dense(self, lane):
        """Return J of a lane, shape (S, P, m), by S contractions."""
        S, P, m = self.sizes.S, self.sizes.P, self.sizes.m
        delta, J = self.view(self.delta, (self.batch_size, S)), np.empty((S, P, m), self.dtype)
        credit = delta.copy()
        for s in range(S):
            delta[...] = 0
            delta[lane, s] = 1
            self.contract_lanes(self, self.delta, address(J[s]), False)
        delta[...] = credit
        self.raise_failure()
        return J + 0  # -0.0, from a product of 0 and another lane's numbers, becomes 0.0

    @property
    def stats(self):
        return {}

    def check_arrays(self, arrays):
        """Raise ValueError if `arrays`, of the right shapes and finite, are still no state of this carry."""

    def __reduce__(self):
        if self.is_compiled():
            raise TypeError(f"a {type(self).__name__} cannot be pickled by itself: pickle its estimator")
        state = {"made for": (self.cell, self.batch_size), "kept": self.kept, "attributes": self.__dict__}
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        # The very arrays that were kept, so that attributes which name them still do
        Carry.__init__(self, *state["made for"])
        for name, array in state["kept"].items():
            self.keep_array(name, array)
        self.__dict__.update(state["attributes"])

    # ---- for the engine --------------------------------------------------------------------------------------------

    cdef int keep_array(self, name, array) except -1:
        cdef int index = self.n_kept
        if index == MOST_ARRAYS:
            raise ValueError(f"a carry keeps at most {MOST_ARRAYS} arrays")
        if name in self.kept:
            raise ValueError(f"name must be a new one, got {name!r}, which the carry keeps already")
        self.kept[name] = array
        self.kept_data[index] = <char *> address(array)
        self.kept_size[index] = array.nbytes // self.batch_size
        self.n_kept += 1
        return 0

    cdef int start(
        self, Buffers tape, tuple generators, int n_terms, int n_threads, int lane_threads,
    ) except -1:
        S, P, n, m = self.sizes.S, self.sizes.P, self.sizes.n, self.sizes.m
        if self.tape is not None:
            raise ValueError("carry must be a new one, got one that another estimator uses")
        if self.contract_lanes == NULL:
            self.contract(None)  # says that it must be defined
        if self.contract_lanes == contract_in_python and self.absorb_lane == NULL and self.absorb_lane_step == NULL:
            self.absorb(0, None, None, None)
        self.n_threads, self.lane_threads = n_threads, lane_threads
        self.prepare(n_terms, n_threads)
        self.draws = <double *> self.reserve((n_threads, self.n_draws), np.float64)
        if self.absorb_lane != NULL:
            self.room_rows = self.front_rows + n_terms
            self.u_room = self.reserve((n_threads, self.room_rows, m), None)
            self.A_room = self.reserve((n_threads, self.room_rows, S, P), None)
            self.phi_room = self.reserve((n_threads, 2, S, S), None)
            self.dense_room = self.reserve((n_threads, S, n), None)
        self.tape, self.generators = tape, generators
        return 0

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        return 0

    cdef bint is_local(self) noexcept nogil:
        return self.absorb_lane_step != NULL

    cdef bint is_compiled(self) noexcept nogil:
        return self.contract_lanes != contract_in_python

    cdef int zero_lane(self, int lane) except -1 nogil:
        cdef int i
        if self.is_compiled():
            for i in range(self.n_kept):
                memset(self.kept_data[i] + lane * self.kept_size[i], 0, self.kept_size[i])
        else:
            with gil:
                self.zero(lane)
        return 0

    cdef int raise_failure(self) except -1:
        if self.failure is not None:
            error, self.failure = self.failure, None
            raise error
        return 0


# ---- a carry in Python: its methods, for the engine ------------------------------------------------------------------


cdef object read_only(array):
    array.flags.writeable = False
    return array


cdef int absorb_in_python(Carry carry, const Block *block, const void *Phi, void *u, void *A) noexcept nogil:
    with gil:
        S, P, m = carry.sizes.S, carry.sizes.P, carry.sizes.m
        try:
            transition = carry.view(Phi, (S, S)) if block.alive else np.zeros((S, S), carry.dtype)
            terms = carry.view(u, (block.n_terms, m)), carry.view(A, (block.n_terms, S, P))
            carry.absorb(block.lane, read_only(transition), *terms)
        except BaseException as error:
            carry.failure = carry.failure or error
            return RAISED
    return FINE


cdef int absorb_step_in_python(
    Carry carry, const Step *step, const void *d, const void *c, const void *u,
) noexcept nogil:
    with gil:
        n, G, k, q = carry.sizes.n, carry.sizes.G, carry.sizes.k, carry.sizes.q
        try:
            views = (
                carry.tape.view(d, (q, k, G, n)), carry.tape.view(c, (k, k, n)), carry.tape.view(u, (q, carry.sizes.m)))
            carry.absorb_step(step.lane, *map(read_only, views))
        except BaseException as error:
            carry.failure = carry.failure or error
            return RAISED
    return FINE


cdef int contract_in_python(Carry carry, const void *delta, void *gradient, bint add) noexcept nogil:
    cdef cnp.npy_intp shape[2]
    with gil:
        shape[0], shape[1] = carry.sizes.P, carry.sizes.m
        target = cnp.PyArray_SimpleNewFromData(2, shape, carry.cell.type_number, gradient)
        try:
            result = np.asarray(carry.contract(read_only(carry.view(delta, (carry.batch_size, carry.sizes.S)))))
            if result.shape != target.shape:
                raise ValueError(
                    f"{type(carry).__name__}.contract must return an array of shape {target.shape}, got {result.shape}")
            np.add(target, result, out=target) if add else np.copyto(target, result, casting="same_kind")
        except BaseException as error:
            carry.failure = carry.failure or error
            return RAISED
    return FINE
