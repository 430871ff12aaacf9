"""The estimators: each algorithm is a carry behind the one engine."""

from __future__ import annotations

import copy
import copyreg
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from okcore import _validation
from okcore._carries.base import Carry
from okcore._carries.exact import ExactCarry
from okcore._carries.local import OwnUnitCarry
from okcore._carries.no_carry import NoCarry
from okcore._carries.optimal import OptimalKroneckerSumCarry
from okcore._carries.random_sign import RandomSignCarry
from okcore._carries.rank_one import RankOneCarry
from okcore._docstrings import fill
from okcore._engine.block_length import choose_block
from okcore._engine.engine import Engine
from okcore._random import as_states, get_states, lane_generators, set_states
from okcore._typing import FloatArray, RNGLike
from okcore.cells import Cell

__all__ = ["KFRTRL", "OK", "RTRL", "TBPTT", "UORO", "Estimator", "SnAp1"]

SHARED = """
    batch_size : int
        Lanes B: independent sequences side by side. They share theta and nothing else.
    n_threads : int
        Number of threads. Lanes are spread over them; with one lane, its products are. Results are bit-identical for
        any number. Hold BLAS to one thread meanwhile (``threadpoolctl.threadpool_limits(1, "blas")``), as the trainer
        does: BLAS threads under lane threads are slow.
    update_every : int
        How often gradients are wanted; a hint for ``block="auto"`` only.
    first_lane : int
        Number of the first lane in a batch that is spread over several estimators, in processes of their own, say.
"""
RNG = """
    rng : int, SeedSequence, Generator or None
        Lane b draws from child ``first_lane + b`` of its seed.
"""


# The axis of the lanes in a state's arrays; those of the carry have it first. What the lanes share is not here.
LANE_AXIS = {"state": 0, "rng": 0, "input_d": 0, "u_hat": 1, "d": 1, "c": 1, "cut": 1, "credit": 1}

SUMS = "pending", "late", "overflows"    # over lanes: gradients, and a count


@fill(rng=RNG)
class Estimator(Engine):
    """Base class: an engine with a carry, and the copying and saving that all algorithms share.

    A subclass makes its carry and calls this constructor. Its constructor's arguments must be readable as attributes of
    the same name: that is how `clone` and `state_dict` know them.

    Parameters
    ----------
    cell : Cell
    carry : okcore.Carry
        A new one, made for the same cell.
    block : int
        Steps K on the tape between two absorbs; 1 for a local carry.
    {rng}
    n_threads, update_every, first_lane : int

    Attributes
    ----------
    cell, carry, block, batch_size, n_threads, first_lane
    steps : int
        Time steps taken.
    block_goes_on : bool
        Set this before a step that resets all lanes here, but not all of the batch that is spread over several
        estimators: blocks restart only where all lanes are reset.
    on_overflow : {"raise", "forget"}
        What happens to the influence of a lane that overflows: a FloatingPointError, or it is set to zero, as by a
        reset, and training goes on; the lane's state stays.
    overflows : int
        How often an influence was forgotten: lanes, summed over all steps.
    generators : tuple of numpy.random.Generator
        One per lane.
    """

    # For the command line: which of its options are taken, {option: (argument of the constructor, what it means)}, and
    # what "--block auto" stands for where the constructor does not choose.
    options: dict[str, tuple[str, str]] = {}
    auto_block: int | None = None

    # Is the gradient "exact", "unbiased" or "biased"? The tests check the first two.
    quality: str = "biased"

    def __init__(
        self, cell: Cell, carry: Carry, block: int, rng: RNGLike | None = None, n_threads: int = 1,
        update_every: int = 1, first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        _validation.as_instance("carry", carry, Carry)
        if carry.cell is not cell:
            raise ValueError(f"carry must be made for this cell, got one for {carry.cell!r}")
        block = _validation.as_int("block", block, 1)
        n_threads = _validation.as_int("n_threads", n_threads, 1)
        self.update_every = _validation.as_int("update_every", update_every, 1)
        self.first_lane = _validation.as_int("first_lane", first_lane, 0)
        generators = tuple(lane_generators(rng, carry.batch_size, self.first_lane))
        super().__init__(cell, carry, block, generators, n_threads)

    @classmethod
    def from_options(
        cls, cell: Cell, options: Mapping[str, Any], rng: RNGLike | None = None, first_lane: int = 0
    ) -> Self:
        """Make the estimator from the options of a run.

        Parameters
        ----------
        cell : Cell
        options : dict
            ``batch``, ``threads``, ``update_every``, and those named in the class's `options`. The constructor takes
            the first three as ``batch_size``, ``n_threads`` and ``update_every``. Where an option of the class is
            missing (older runs do not have all of them), its argument's default holds.
        rng : int, SeedSequence, Generator or None
            For the algorithms that draw.
        first_lane : int
        """
        needed = ["batch", "threads", "update_every", *(name for name in cls.options if name == "block")]
        options = _validation.as_dict("options", options, needed, more=True)
        arguments = {argument: options[option] for option, (argument, _) in cls.options.items() if option in options}
        if "block" in cls.options and options["block"] == "auto" and cls.auto_block is not None:
            arguments[cls.options["block"][0]] = cls.auto_block
        if "rng" in inspect.signature(cls).parameters:
            arguments["rng"] = rng
        if first_lane > 0:  # a class of one's own need not take it
            arguments["first_lane"] = first_lane
        make: Callable[..., Self] = cls
        estimator = make(
            cell, **arguments,
            batch_size=options["batch"], n_threads=options["threads"], update_every=options["update_every"],
        )  # fmt: skip
        estimator.on_overflow = options.get("on_overflow") or "raise"
        return estimator

    @property
    def state(self) -> FloatArray:
        """State of every lane, (B, S): a copy. Setting it leaves the influence as it is."""
        return self._call(self._buffers["state"].copy)

    @state.setter
    def state(self, value: ArrayLike) -> None:
        shape = (self.batch_size, self.cell.state_size)
        value = _validation.as_floats("state", value, shape, self.cell.dtype, finite=True)
        self._call(np.copyto, self._buffers["state"], value)

    @property
    def stats(self) -> dict[str, NDArray[Any]]:
        """Figures about the last reduction, arrays of shape (B,).

        ``variance`` is s1^2 / k - s2, the expected squared error (Frobenius, whole influence) that it added;
        ``mixed_fraction`` is the share of the singular values that it mixed; ``rank`` is the number of Kronecker terms
        in use since. All are 0 before the first block ends. Empty for estimators that do not reduce.
        """
        return self.carry.stats

    def influence(self) -> FloatArray:
        """Return the dense influence matrix J = ds/dtheta that the estimator stands for now, (B, S, P, m).

        The open block is included, so ``gradient(dh)`` is the sum over lanes of ``[dh, 0] @ J``. Plain NumPy, for
        study and tests: n times the memory of a step of exact RTRL.
        """
        return self._call(self._influence)

    def _influence(self) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):
            J = np.stack([self.tape.extend_influence(lane, self.carry.dense(lane)) for lane in range(self.batch_size)])
        for lane in range(self.batch_size):
            if not np.isfinite(J[lane]).all():
                raise FloatingPointError(f"the influence of lane {lane} is not finite at step {self.steps}")
        return J

    def _config(self) -> dict[str, Any]:
        """Return the constructor's arguments, except cell and rng."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name not in ("self", "cell", "rng")}

    def clone(self) -> Self:
        """Return an estimator that shares the cell and is a copy of all else, random streams included."""
        return copy.deepcopy(self, {id(self.cell): self.cell})

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "cell": self.cell, "config": self._config(), "on_overflow": self.on_overflow, "state": self.state_dict(),
            "attributes": self.__dict__,
        }  # fmt: skip
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]  # typeshed has it not

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["cell"], **state["config"])  # type: ignore[misc]  # made anew, as by `copyreg.__newobj__`
        self.load_state_dict(state["state"])
        self.on_overflow = state["on_overflow"]
        self.__dict__.update(state["attributes"])

    def _identity(self) -> dict[str, Any]:
        """Return what a state must agree on to be loaded."""
        cell = self.cell
        identity = {
            "algorithm": type(self).__name__, "cell": type(cell).__name__, "dtype": cell.dtype.name,
            "n_in": cell.n_in, "n_hidden": cell.n_hidden, "batch_size": self.batch_size, "block": self.block,
        }
        left_out = {"n_threads", "update_every", "first_lane", "carry"}  # speed; streams are in the state; an object
        arguments = {f"argument.{name}": value for name, value in self._config().items() if name not in left_out}
        return identity | {"carry": type(self.carry).__name__} | arguments

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resume with bit-identical results needs, except theta: copies of arrays, plain scalars."""
        return self._call(self._state_dict)

    def _state_dict(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in self._identity().items() if value is not None},
            "steps": self.steps,
            "late_steps": self.late_steps,
            "overflows": self.overflows,
            **{name: buffer.copy() for name, buffer in self._buffers.items()},
            **self.tape.state_dict(),
            "rng": get_states(self.generators),
            **{f"carry.{name}": array.copy() for name, array in self.carry.arrays.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. A state of another kind or size is refused and changes nothing.

        Raises
        ------
        ValueError, TypeError
            Naming the entry, what was expected and what came.
        """
        self._call(self._load_state_dict, state)

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        template = self._state_dict()
        state = {"overflows": 0} | _validation.as_dict("state", state)  # older states do not count them
        for name, expected in self._identity().items():
            got: Any = state.get(name)
            if np.ndim(got) != 0 or got != expected:
                raise ValueError(f"state is of another estimator: {name} must be {expected!r}, got {got!r}")
        _validation.as_dict("state", state, template)
        steps = _validation.as_int("steps", state["steps"], 0, 2**63 - 1)
        late_steps = _validation.as_int("late_steps", state["late_steps"], 0, self.block)
        overflows = _validation.as_int("overflows", state["overflows"], 0, 2**63 - 1)
        tape = self.tape.checked_state(state)
        arrays = {
            name: _validation.as_floats(
                name, state[name], expected.shape, expected.dtype, finite=expected.dtype.kind == "f"
            )
            for name, expected in template.items()
            if name in self._buffers or name.startswith("carry.")
        }
        rng = as_states("rng", state["rng"], self.batch_size)
        self.carry.check_arrays({name: arrays[f"carry.{name}"] for name in self.carry.arrays})

        self.tape.restore(tape)
        for name, buffer in self._buffers.items():
            buffer[...] = arrays[name]
        for name, array in self.carry.arrays.items():
            array[...] = arrays[f"carry.{name}"]
        set_states(self.generators, rng)
        self._restore(steps, late_steps, overflows)

    @staticmethod
    def join_lanes(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of one estimator with the lanes of several: the opposite of `take_lanes`.

        Parameters
        ----------
        states : list of dict
            What `state_dict` returned, in the order of their lanes. The estimators must have taken the same number of
            steps with the same theta, and have the same steps in their open blocks (`block_goes_on`).

        Raises
        ------
        ValueError, TypeError
            Naming an entry that is missing, has other shapes, or must be the same in all states and is not.
        """
        if not isinstance(states, (list, tuple)) or not states:
            raise TypeError(f"states must be a list of states, got {_validation.describe(states)}")
        states = [_validation.as_dict("states", state) for state in states]
        states = [_validation.as_dict("states", state, states[0]) for state in states]
        joined: dict[str, Any] = {}
        for name, value in states[0].items():
            values = [state[name] for state in states]
            axis = _lane_axis(name)
            if axis is not None:
                try:
                    joined[name] = np.concatenate(values, axis)
                except ValueError as error:
                    raise ValueError(f"{name} must have a lane axis in all states: {error}") from None
            elif name in ("batch_size", "argument.batch_size", *SUMS):
                joined[name] = sum(values)
            elif name in ("credited", "late_credits"):
                joined[name] = any(values)
            elif all(np.array_equal(value, other) for other in values):
                joined[name] = value
            else:
                raise ValueError(f"{name} must be the same in all states")
        return joined

    @staticmethod
    def take_lanes(state: Mapping[str, Any], first: int, count: int) -> dict[str, Any]:
        """Return the state of an estimator with the lanes from `first` to ``first + count - 1`` of a larger one.

        Parameters
        ----------
        state : dict
            What `state_dict` returned. The gradient of its credits whose block has closed, a sum over lanes, goes to
            the estimator with lane 0; the others get zeros.
        first, count : int
        """
        taken = _validation.as_dict("state", state)
        batch_size = _validation.as_int("batch_size", taken.get("batch_size"), 1)
        first = _validation.as_int("first", first, 0, batch_size - 1)
        count = _validation.as_int("count", count, 1, batch_size - first)
        for name, value in taken.items():
            axis = _lane_axis(name)
            if axis is not None:
                value = _validation.as_array(name, value)
                if value.ndim <= axis or value.shape[axis] != batch_size:
                    raise ValueError(f"{name} must have {batch_size} lanes, got {_validation.describe(value)}")
                taken[name] = value.take(range(first, first + count), axis)
            elif name in ("batch_size", "argument.batch_size"):
                taken[name] = count
            elif name in SUMS and first > 0:
                taken[name] = 0 if np.ndim(value) == 0 else np.zeros_like(value)
        return taken

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._config().items())
        return f"{type(self).__name__}({self.cell!r}, {arguments})"


def _lane_axis(name: str) -> int | None:
    """Return the axis of the lanes in an entry of a state; None if the lanes share it."""
    return 0 if name.startswith("carry.") else LANE_AXIS.get(name)


# Every estimator, by the name the command line calls it. This is the one register: the command line's choices and help,
# the tests and the benchmarks follow it.
ESTIMATORS: dict[str, type[Estimator]] = {}

E = TypeVar("E", bound=type[Estimator])


def algorithm(name: str) -> Callable[[E], E]:
    """Register an estimator under its name on the command line."""

    def register(cls: E) -> E:
        ESTIMATORS[name] = cls
        return fill(shared=SHARED, rng=RNG)(cls)

    return register


@algorithm("ok")
class OK(Estimator):
    """Optimal Kronecker-sum approximation of RTRL: r Kronecker products, unbiased, of minimum variance.

    Parameters
    ----------
    cell : Cell
    rank : int
        Kronecker products r that are kept, at most.
    block : int or "auto"
        Steps K between two reductions, from r + K q terms to r. 1 is the paper's algorithm; longer blocks are both
        cheaper and less noisy. Every K-th step does the block's work.
    mixing : {"signs", "sampling"}
        How the tail of the singular values is mixed: by random signs (the squared error is the same for every
        draw) or by systematic sampling (components stay orthogonal).
    {rng}
    {shared}
    tolerance : float, optional
        At each end of a block, keep only as many products as it takes for the noise sqrt(s1^2 / k - s2) that the
        reduction adds to be at most `tolerance` times the norm of what is reduced (`rank` of them if that is not
        enough). ``stats["rank"]`` says how many. 0 drops what is exactly zero. By default `rank` are kept, where there
        are as many. The number depends on singular values alone, never on the draw: the gradient stays unbiased.

    Notes
    -----
    Per lane: 2 S^2 P r / K + 2 S^2 n flops per step, r (S P + m) floats of memory, and K q S P of workspace per thread.
    With a tolerance, r in the flops is the number of products in use.

    References
    ----------
    Benzing, F., Gauy, M. M., Mujika, A., Martinsson, A. & Steger, A. (2019). Optimal Kronecker-sum approximation
    of real time recurrent learning. ICML, arXiv 1902.03993.

    Examples
    --------
    >>> import numpy as np, okcore
    >>> cell = okcore.RHN(n_in=3, n_hidden=8, rng=0)
    >>> estimator = okcore.OK(cell, rank=4, block=4, rng=0)
    >>> h = estimator.step(np.array([2]))
    >>> cell.theta -= 0.01 * estimator.gradient(h)
    """

    quality = "unbiased"
    options = {
        "rank": ("rank", "Kronecker terms, at most"), "block": ("block", "steps per reduction"),
        "tolerance": ("tolerance", "noise of a reduction that fewer terms may add"),
    }  # fmt: skip

    carry: OptimalKroneckerSumCarry

    def __init__(
        self, cell: Cell, rank: int, block: int | Literal["auto"] = "auto",
        mixing: Literal["signs", "sampling"] = "signs", batch_size: int = 1, rng: RNGLike | None = None,
        n_threads: int = 1, update_every: int = 1, tolerance: float | None = None, first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        rank = _validation.as_int("rank", rank, 1)
        self.mixing = _validation.as_choice("mixing", mixing, ("signs", "sampling"))
        self.tolerance = None if tolerance is None else _validation.as_real("tolerance", tolerance, least=0)
        batch_size = _validation.as_int("batch_size", batch_size, 1)
        if isinstance(block, str):
            every = _validation.as_int("update_every", update_every, 1)
            block = choose_block("ok", block, cell, rank=rank, update_every=every)
        block = _validation.as_int("block", block, 1)
        carry = OptimalKroneckerSumCarry(cell, batch_size, rank, mixing, self.tolerance)
        super().__init__(cell, carry, block, rng, n_threads, update_every, first_lane)

    @property
    def rank(self) -> int:
        """Kronecker products that are kept, at most."""
        return self.carry.rank


@algorithm("rtrl")
class RTRL(Estimator):
    """Real-time recurrent learning: the exact gradient at every step, in blocks.

    Parameters
    ----------
    cell : Cell
    block : int or "auto"
        1 is the textbook algorithm, n^4 per step; K of the order of n makes it n^3. Gradients are the same to rounding,
        also when theta changes at every step. Every K-th step does the block's work.
    {shared}

    Notes
    -----
    Per lane: (2 S^2 P m + 2 K q S P m) / K + 2 S^2 n flops per step, S P m + K q S P floats of memory.

    References
    ----------
    Williams, R. J. & Zipser, D. (1989). A learning algorithm for continually running fully recurrent neural
    networks. Neural Computation 1(2). Schmidhuber, J. (1992). A fixed size storage O(n^3) time complexity
    learning algorithm for fully recurrent continually running networks. Neural Computation 4(2).

    Examples
    --------
    >>> import numpy as np, okcore
    >>> cell = okcore.RNN(n_in=3, n_hidden=8, rng=0)
    >>> estimator = okcore.RTRL(cell, block=4)
    >>> h = estimator.step(np.array([2]))
    >>> cell.theta -= 0.01 * estimator.gradient(h)
    """

    quality = "exact"
    options = {"block": ("block", "steps per block; 1 is the textbook algorithm, n^4")}

    def __init__(
        self, cell: Cell, block: int | Literal["auto"] = "auto", batch_size: int = 1, n_threads: int = 1,
        update_every: int = 1, first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        batch_size = _validation.as_int("batch_size", batch_size, 1)
        if isinstance(block, str):
            block = choose_block("rtrl", block, cell, update_every=_validation.as_int("update_every", update_every, 1))
        block = _validation.as_int("block", block, 1)
        super().__init__(cell, ExactCarry(cell, batch_size), block, 0, n_threads, update_every, first_lane)


@algorithm("kf-rtrl")
class KFRTRL(Estimator):
    """Kronecker-factored RTRL: the influence as one Kronecker product, or the mean of independent copies.

    Parameters
    ----------
    cell : Cell
    copies : int
        Independent estimates that are averaged.
    block : int
        Steps between two compressions; 1 is the published algorithm.
    {rng}
    {shared}

    Notes
    -----
    Per lane: 2 S^2 P copies / K + 2 S^2 n flops per step, copies (S P + m) floats of memory.

    References
    ----------
    Mujika, A., Meier, F. & Steger, A. (2018). Approximating real-time recurrent learning with random Kronecker
    factors. NeurIPS, arXiv 1805.10842.
    """

    quality = "unbiased"
    options = {"rank": ("copies", "copies that are averaged"), "block": ("block", "steps per compression")}
    auto_block = 1

    carry: RandomSignCarry

    def __init__(
        self, cell: Cell, copies: int = 1, block: int = 1, batch_size: int = 1, rng: RNGLike | None = None,
        n_threads: int = 1, update_every: int = 1, first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        copies = _validation.as_int("copies", copies, 1)
        carry = RandomSignCarry(cell, _validation.as_int("batch_size", batch_size, 1), copies)
        super().__init__(cell, carry, block, rng, n_threads, update_every, first_lane)

    @property
    def copies(self) -> int:
        """Independent estimates that are averaged."""
        return self.carry.rank


@algorithm("uoro")
class UORO(Estimator):
    """Unbiased online recurrent optimisation: the influence as one rank-one product; cheap and noisy.

    Parameters
    ----------
    cell : Cell
    {rng}
    {shared}

    Notes
    -----
    Per lane: O(P m + S P) flops per step, S + P m floats of memory.

    References
    ----------
    Tallec, C. & Ollivier, Y. (2018). Unbiased online recurrent optimization. ICLR, arXiv 1702.05043.
    """

    quality = "unbiased"

    def __init__(
        self, cell: Cell, batch_size: int = 1, rng: RNGLike | None = None, n_threads: int = 1, update_every: int = 1,
        first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        carry = RankOneCarry(cell, _validation.as_int("batch_size", batch_size, 1))
        super().__init__(cell, carry, 1, rng, n_threads, update_every, first_lane)


@algorithm("snap1")
class SnAp1(Estimator):
    """SnAp-1: of the influence only what a unit's own parameters do to that unit; a local rule, cheap and biased.

    Parameters
    ----------
    cell : Cell
    {shared}

    Notes
    -----
    J <- mask(H J + F) at every step, where the mask keeps what a unit's own rows of theta do to that unit's own state.
    Per lane: O(P m) flops per step, k P m floats of memory.

    References
    ----------
    Menick, J., Elsen, E., Evci, U., Osindero, S., Simonyan, K. & Graves, A. (2021). Practical real time recurrent
    learning with a sparse approximation. ICLR, arXiv 2006.07232.
    """

    def __init__(
        self, cell: Cell, batch_size: int = 1, n_threads: int = 1, update_every: int = 1, first_lane: int = 0
    ) -> None:
        _validation.as_instance("cell", cell, Cell)
        carry = OwnUnitCarry(cell, _validation.as_int("batch_size", batch_size, 1))
        super().__init__(cell, carry, 1, 0, n_threads, update_every, first_lane)


@algorithm("tbptt")
class TBPTT(Estimator):
    """Truncated backpropagation through time: the gradient stops at the last block boundary.

    Parameters
    ----------
    cell : Cell
    horizon : int
        The window grows over 1, 2, ... horizon steps and then restarts. Until it first restarts, the gradient is
        that of BPTT.
    {shared}

    Notes
    -----
    Cost: O(P m) per step and lane, O(K P n) per gradient. Biased.

    References
    ----------
    Williams, R. J. & Peng, J. (1990). An efficient gradient-based algorithm for on-line training of recurrent
    network trajectories. Neural Computation 2(4).

    Examples
    --------
    >>> import numpy as np, okcore
    >>> cell = okcore.RNN(n_in=3, n_hidden=8, rng=0)
    >>> estimator = okcore.TBPTT(cell, horizon=5)
    >>> h = estimator.step(np.array([2]))
    >>> estimator.gradient(np.ones_like(h)).shape
    (8, 12)
    """

    options = {"block": ("horizon", "the horizon")}
    auto_block = 25

    def __init__(
        self, cell: Cell, horizon: int, batch_size: int = 1, n_threads: int = 1, update_every: int = 1,
        first_lane: int = 0,
    ) -> None:  # fmt: skip
        _validation.as_instance("cell", cell, Cell)
        horizon = _validation.as_int("horizon", horizon, 1)
        carry = NoCarry(cell, _validation.as_int("batch_size", batch_size, 1))
        super().__init__(cell, carry, horizon, 0, n_threads, update_every, first_lane)

    @property
    def horizon(self) -> int:
        """Steps of the longest window."""
        return self.block
