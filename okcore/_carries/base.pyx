from libc.string cimport memset

cimport numpy as cnp

import copyreg
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from okcore import _validation
from okcore._engine.buffers import aligned_zeros

from okcore._engine.buffers cimport Buffers, address
from okcore._engine.cell_kernel cimport CellKernel
from okcore._engine.messages cimport FINE, NOT_FINITE, RAISED, Block, Step

cnp.import_array()


cdef class Carry(Buffers):
    # What comes before the dashes is not part of the docstring: `inspect.signature` reads it.
    """Carry(cell, batch_size)\n--\n\nWhat an algorithm keeps of the influence matrix J at the last block boundary.

    The base of one in NumPy.

    A subclass keeps arrays (`keep`) and defines two methods: `contract`, and either `absorb` or, if its rule is local,
    `absorb_step`. It belongs to one estimator. If what it keeps of a lane is not finite after `absorb`, the lane is
    zeroed and reported. For a compiled carry see ``okcore/_carries/base.pxd``.

    Parameters
    ----------
    cell : okcore.Cell
    batch_size : int
        Lanes B.

    Attributes
    ----------
    cell, batch_size
    generators : tuple of numpy.random.Generator
        One per lane, set when an estimator takes the carry. Draw from ``generators[lane]`` only in `absorb` and
        `absorb_step` of that lane: lanes then stay independent, and a resumed run draws the same numbers.
    arrays : dict of ndarray
        Everything the carry remembers, the lane as first axis: what a checkpoint holds and a reset zeroes. What was
        kept, unless a subclass overrides it.
    stats : dict of ndarray
        Figures about the last absorb, one per lane; empty unless a subclass overrides it.
    """

    def __init__(self, CellKernel cell not None, batch_size):
        if self.cell is not None:
            raise RuntimeError(f"{type(self).__name__}.__init__ must be called once")
        self.batch_size = _validation.as_int("batch_size", batch_size, 1)
        self.cell, self.dtype = cell, cell.dtype
        self.sizes, self.single, self.item = cell.sizes, cell.single, cell.item
        self.delta = self.reserve((self.batch_size, self.sizes.S), None)
        self.contract_lanes = contract_in_python  # a compiled subclass binds its own functions after this

    # ---- for subclasses ------------------------------------------------------------------------------------------

    def keep(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Return a new array of zeros of shape ``(B, *shape)`` that is part of what the carry remembers.

        Parameters
        ----------
        name : str
            Its name in `arrays`.
        shape : tuple of int
            Per lane.
        dtype : optional
            The cell's unless given.
        """
        if self.generators is not None:
            raise RuntimeError("keep must be called in the constructor: the carry is in use")
        array = aligned_zeros((self.batch_size, *shape), self.dtype if dtype is None else dtype)
        self.keep_array(name, array)
        return array

    def absorb(self, lane: int, Phi: NDArray[Any], u: NDArray[Any], A: NDArray[Any]) -> None:
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

    def absorb_step(self, lane: int, d: NDArray[Any], c: NDArray[Any], u: NDArray[Any]) -> None:
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

    def contract(self, delta: NDArray[Any]) -> NDArray[Any]:
        """Return the sum over lanes of delta J, shape (P, m), for credits delta (B, S)."""
        raise NotImplementedError(f"{type(self).__name__} must define contract(delta)")

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything the carry remembers, by name, lanes first; writing into an array changes the carry."""
        return dict(self.kept)

    def zero(self, lane: int) -> None:
        """Forget a lane: J <- 0."""
        for array in self.arrays.values():
            array[lane] = 0

    def dense(self, lane: int) -> NDArray[Any]:
        """Return J of a lane, shape (S, P, m), by S contractions."""
        S, P, m = self.sizes.S, self.sizes.P, self.sizes.m
        delta, J = self.view(self.delta, (self.batch_size, S)), np.empty((S, P, m), self.dtype)
        credit = delta[lane].copy()
        try:
            for s in range(S):
                delta[lane] = 0
                delta[lane, s] = 1
                if self.contract_lanes(self, lane, lane + 1, self.delta, address(J[s]), False) != FINE:
                    break
        finally:
            delta[lane] = credit
        self.raise_failure()
        return J + 0  # -0.0, from a product of 0 and another lane's numbers, becomes 0.0

    @property
    def stats(self) -> dict[str, NDArray[Any]]:
        """Figures about the last absorb, one per lane."""
        return {}

    def check_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
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
        if name in self.kept:
            raise ValueError(f"name must be a new one, got {name!r}, which the carry keeps already")
        self.kept[name] = array
        if self.n_kept < MOST_ARRAYS:
            self.kept_data[self.n_kept] = <char *> address(array)
            self.kept_size[self.n_kept] = array.nbytes // self.batch_size
        self.n_kept += 1
        return 0

    cdef bint defines(self, name):
        # Does a subclass in Python, or the object itself, define this method?
        return name in getattr(self, "__dict__", {}) or getattr(type(self), name) is not getattr(Carry, name)

    cdef int start(self, tuple generators, int block, int n_threads) except -1:
        S, P, n, m = self.sizes.S, self.sizes.P, self.sizes.n, self.sizes.m
        cdef int n_terms, lanes_at_once = min(n_threads, self.batch_size)
        if self.generators is not None:
            raise ValueError("carry must be a new one, got one that another estimator uses")
        if self.is_compiled():
            for name in ("absorb", "absorb_step", "contract", "zero"):
                if self.defines(name):
                    raise TypeError(f"{type(self).__name__} must not define {name}: its base is compiled")
            if self.n_kept > MOST_ARRAYS:
                raise ValueError(f"a compiled carry keeps at most {MOST_ARRAYS} arrays, got {self.n_kept}")
        else:
            lanes_at_once = n_threads = 1  # methods in Python hold the interpreter's lock
            if not self.defines("contract"):
                raise NotImplementedError(f"{type(self).__name__} must define contract(delta)")
            if self.defines("absorb_step"):
                self.absorb_lane_step = absorb_step_in_python
            elif self.defines("absorb"):
                self.absorb_lane = absorb_in_python
            else:
                raise NotImplementedError(f"{type(self).__name__} must define absorb or absorb_step")
        if self.is_local() and block != 1:
            raise ValueError(f"block must be 1 for a carry that takes in each step at once, got {block}")
        n_terms = block * self.sizes.q
        self.n_threads, self.lane_threads = lanes_at_once, n_threads if self.batch_size == 1 else 1
        self.prepare(n_terms, lanes_at_once)
        self.draws = <double *> self.reserve((lanes_at_once, self.n_draws), np.float64)
        if self.absorb_lane != NULL:
            self.room_rows = n_terms
            self.u_room = self.reserve((lanes_at_once, n_terms, m), None)
            self.A_room = self.reserve((lanes_at_once, n_terms, S, P), None)
            self.phi_room = self.reserve((lanes_at_once, 2, S, S), None)
            self.dense_room = self.reserve((lanes_at_once, S, n), None)
        self.generators = generators
        return 0

    cdef int prepare(self, int n_terms, int n_threads) except -1:
        return 0

    cdef bint is_local(self) noexcept nogil:
        return self.absorb_lane_step != NULL

    cdef bint is_compiled(self) noexcept nogil:
        return self.contract_lanes != contract_in_python

    cdef bint lane_is_finite(self, int lane) except -1:
        return all(np.isfinite(array[lane]).all() for array in self.arrays.values() if array.dtype.kind == "f")

    cdef void zero_lane(self, int lane) noexcept nogil:
        cdef int i
        if self.is_compiled():
            for i in range(self.n_kept):
                memset(self.kept_data[i] + lane * self.kept_size[i], 0, self.kept_size[i])
        else:
            with gil:
                try:
                    self.zero(lane)
                except BaseException as error:
                    self.fail(error)

    cdef void fail(self, error) noexcept:
        # Keep the first exception of a call until every lane has had its turn
        if self.failure is None:
            self.failure = error

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
            return FINE if carry.lane_is_finite(block.lane) else NOT_FINITE
        except BaseException as error:
            carry.fail(error)
            return RAISED


cdef int absorb_step_in_python(
    Carry carry, const Step *step, const void *d, const void *c, const void *u,
) noexcept nogil:
    with gil:
        n, G, k, q = carry.sizes.n, carry.sizes.G, carry.sizes.k, carry.sizes.q
        try:
            views = (
                carry.tape.view(d, (q, k, G, n)), carry.tape.view(c, (k, k, n)), carry.tape.view(u, (q, carry.sizes.m)))
            carry.absorb_step(step.lane, *map(read_only, views))
            return FINE if carry.lane_is_finite(step.lane) else NOT_FINITE
        except BaseException as error:
            carry.fail(error)
            return RAISED


cdef int contract_in_python(
    Carry carry, int first, int end, const void *delta, void *gradient, bint add,
) noexcept nogil:
    cdef cnp.npy_intp shape[2]
    with gil:
        shape[0], shape[1] = carry.sizes.P, carry.sizes.m
        target = cnp.PyArray_SimpleNewFromData(2, shape, carry.cell.type_number, gradient)
        try:
            credit = carry.view(delta, (carry.batch_size, carry.sizes.S))
            if end - first < carry.batch_size:  # it sums over all lanes: give the others no credit
                lanes = credit[first:end]
                credit = np.zeros_like(credit)
                credit[first:end] = lanes
            result = np.asarray(carry.contract(read_only(credit)))
            if result.shape != target.shape:
                raise ValueError(
                    f"{type(carry).__name__}.contract must return an array of shape {target.shape}, got {result.shape}")
            np.add(target, result, out=target) if add else np.copyto(target, result, casting="same_kind")
        except BaseException as error:
            carry.fail(error)
            return RAISED
    return FINE
