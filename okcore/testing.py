"""The contract of a cell and of an algorithm as code: okcore's own pass through it, and so can yours.

    okcore.testing.check_cell(MyCell)
    okcore.testing.check_estimator(lambda cell, batch_size, rng: MyEstimator(cell, batch_size=batch_size, rng=rng))

Both return None, or raise AssertionError with what is broken. They need no test framework.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from okcore.cells import GRU, LSTM, RNN, Cell
from okcore.estimators import RTRL, TBPTT, Estimator

__all__ = ["check_cell", "check_estimator"]

N_IN, N_HIDDEN = 3, 4
ROUNDING = {"float32": 2e-4, "float64": 1e-9}  # relative to the largest entry, after some tens of steps
DIFFERENCE = 1e-6  # step of a difference quotient
FALSE_ALARM = 1e-6  # of the test for a bias
DRAWS = 2000
LONGEST_BLOCK = 100

MakeCell: TypeAlias = Callable[..., Cell]
MakeEstimator: TypeAlias = Callable[[Cell, int, int], Estimator]


def __dir__() -> list[str]:
    return __all__


def check_cell(cls: Callable[..., Cell]) -> None:
    """Check a cell against its own difference quotients, and that every estimator can rely on it.

    Parameters
    ----------
    cls : callable
        ``cls(n_in, n_hidden, dtype=..., rng=...)`` returns a cell: a subclass of `okcore.Cell`, say.

    Raises
    ------
    AssertionError
        If the cell breaks the contract: derivatives that are not those of its step, lanes that see each other,
        resets, dtypes, seeds, saving. The message says which part, and by how much.

    Notes
    -----
    Takes about a second. Difference quotients are taken in float64.

    Examples
    --------
    >>> import okcore
    >>> okcore.testing.check_cell(okcore.GRU)
    """
    name = getattr(cls, "__name__", repr(cls))
    _run(name, _CELL_CHECKS, cls)


def check_estimator(
    make: Callable[[Cell, int, int], Estimator], expect: Literal["exact", "unbiased"] | None = None
) -> None:
    """Check an algorithm: what every estimator promises, whether its gradient is exact, noisy or biased.

    Parameters
    ----------
    make : callable
        ``make(cell, batch_size, rng)`` returns an estimator for `cell`, whose random draws come from the int `rng`.
    expect : {None, "exact", "unbiased"}
        Also check that the gradient is that of exact RTRL, or has it as its mean over many draws (a z-test: an unbiased
        estimator fails with a probability of about 1e-6).

    Raises
    ------
    AssertionError
        If the estimator breaks the contract. The message says which part, and by how much.
    ValueError
        If its blocks are longer than 100 steps: the sequences tried would close none.

    Notes
    -----
    Takes a few seconds. Whatever the algorithm, the gradient of a step must be its credit times its influence, the
    first step after a reset must be exact, and what the carry adds to the open block's part of the gradient must on
    average point along what exact RTRL adds.

    Examples
    --------
    >>> import okcore
    >>> def make(cell, batch_size, rng):
    ...     return okcore.OK(cell, rank=2, block=3, batch_size=batch_size, rng=rng)
    >>> okcore.testing.check_estimator(make, expect="unbiased")
    """
    if expect not in (None, "exact", "unbiased"):
        raise ValueError(f"expect must be None, 'exact' or 'unbiased', got {expect!r}")
    more = {None: [], "exact": [_is_exact], "unbiased": [_is_unbiased]}[expect]
    _run(getattr(make, "__name__", repr(make)), [*_ESTIMATOR_CHECKS, *more], make)


def _run(name: str, checks: Sequence[Callable[[Any], None]], subject: Any) -> None:
    for check in checks:
        what = (check.__doc__ or check.__name__).partition("\n")[0].rstrip(".")  # python -OO has no docstrings
        try:
            check(subject)
        except _TooLong:
            raise
        except AssertionError as error:
            raise AssertionError(f"{name}: broken: {what}: {error}") from None
        except Exception as error:
            raise AssertionError(f"{name}: broken: {what}: it raised {type(error).__name__}: {error}") from error


# ---- small problems --------------------------------------------------------------------------------------------------


class _TooLong(ValueError):
    pass


def _length(make: MakeEstimator) -> int:
    """Return a number of steps in which at least two blocks close."""
    block = make(_cell(RNN), 1, 0).block
    if block > LONGEST_BLOCK:
        raise _TooLong(f"make must return an estimator with blocks of at most {LONGEST_BLOCK} steps, got {block}")
    return max(25, 2 * block + 3)


def _cell(cls: MakeCell, dtype: str = "float64", seed: int = 1, gain: float = 1.5) -> Cell:
    cell = cls(N_IN, N_HIDDEN, dtype=dtype, rng=seed)
    cell.theta *= cell.dtype.type(gain)
    return cell


def _stream(
    cell: Cell, steps: int, lanes: int, seed: int = 2, reset_rate: float = 0.0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Return inputs (T, B, n_in), credits (T, B, n) and resets (T, B)."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(steps, lanes, cell.n_in)).astype(cell.dtype)
    dhs = rng.normal(size=(steps, lanes, cell.n_hidden)).astype(cell.dtype)
    resets = rng.random((steps, lanes)) < min(reset_rate, 3 / steps)
    resets[resets.all(axis=1), 0] = False  # a reset of all lanes would restart the block, so that few would close
    return xs, dhs, resets


def _gradients(
    estimator: Estimator, xs: NDArray[Any], dhs: NDArray[Any], resets: NDArray[np.bool_], learning_rate: float = 0.0
) -> NDArray[Any]:
    """Return the gradient of every step; theta is updated between them and put back at the end."""
    cell, found = estimator.cell, []
    start = cell.theta.copy()
    for x, dh, reset in zip(xs, dhs, resets, strict=True):
        estimator.step(x, reset)
        found.append(estimator.gradient(dh))
        cell.theta -= cell.dtype.type(learning_rate) * found[-1]
    cell.theta = start
    return np.array(found)


def _assert_close(what: str, found: ArrayLike, expected: ArrayLike, tolerance: float) -> None:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    assert np.isfinite(found).all(), f"{what}: not finite"
    error = np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    assert error <= tolerance, f"{what}: relative error {error:.1e}, allowed {tolerance:.0e}"


def _assert_same_bits(what: str, found: ArrayLike, expected: ArrayLike) -> None:
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes(), f"{what}: not the same to the last bit"


def _quotient(function: Callable[[NDArray[Any]], NDArray[Any]], at: NDArray[Any]) -> NDArray[Any]:
    """Return d function / d at by central differences, the argument's axes last."""
    columns = []
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = DIFFERENCE
        columns.append((function(at + shift) - function(at - shift)) / (2 * DIFFERENCE))
    return np.moveaxis(np.array(columns), 0, -1).reshape(*columns[0].shape, *at.shape)


# ---- cells -----------------------------------------------------------------------------------------------------------


def _cell_is_made_from_its_seed(cls: MakeCell) -> None:
    """One seed gives one theta, another seed another; both dtypes can be had."""
    for dtype in ("float32", "float64"):
        one, same, other = (cls(N_IN, N_HIDDEN, dtype=dtype, rng=seed) for seed in (1, 1, 2))
        assert one.dtype == dtype and one.theta.dtype == dtype, f"dtype {one.theta.dtype}, asked for {dtype}"
        shape = (one.n_gates * N_HIDDEN, N_IN + N_HIDDEN + one.n_terms)
        assert one.theta.shape == shape, f"theta has shape {one.theta.shape}, expected {shape}"
        _assert_same_bits("theta for one seed", one.theta, same.theta)
        assert not np.array_equal(one.theta, other.theta), "theta is the same for two seeds"


def _state_after(cell: Cell, theta: NDArray[Any], state: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return the state (S,) after a step of one lane from `state` with `theta`."""
    start = cell.theta.copy()
    estimator = TBPTT(cell, 1)
    estimator.state = state[None]
    cell.theta = theta
    try:
        estimator.step(x[None])
    finally:
        cell.theta = start
    return estimator.state[0]


def _jacobians_are_derivatives(cls: MakeCell) -> None:
    """The diagonals d and c are the derivatives of the step."""
    cell, rng = _cell(cls), np.random.default_rng(0)
    theta, state, x = cell.theta.copy(), rng.normal(size=cell.state_size), rng.normal(size=N_IN)
    exact = RTRL(cell, 1)
    exact.state = state[None]
    exact.step(x[None])
    F = _quotient(lambda theta: _state_after(cell, theta, state, x), theta)
    _assert_close("d, against a difference quotient by theta", exact.influence()[0], F, 1e-6)
    first = exact.state[0]
    H = _quotient(lambda state: _state_after(cell, theta, state, x), first)
    exact.step(x[None])
    F_next = _quotient(lambda theta: _state_after(cell, theta, first, x), theta)
    expected = np.tensordot(H, F, 1) + F_next
    _assert_close("c, against a difference quotient by the state", exact.influence()[0], expected, 1e-6)


def _whole_sequence_is_differentiated(cls: MakeCell) -> None:
    """The gradient summed over a sequence with resets is the difference quotient of its loss."""
    cell = _cell(cls)
    data, start = _stream(cell, 12, 2, reset_rate=0.2), cell.theta.copy()
    xs, dhs, resets = data
    total = _gradients(RTRL(cell, 3, 2), *data).sum(axis=0)

    def loss(theta: NDArray[Any]) -> NDArray[Any]:
        cell.theta = theta
        hs, _ = TBPTT(cell, 1, 2).run(xs, None, resets)
        cell.theta = start
        return np.array((dhs * hs).sum())

    direction = np.random.default_rng(5).normal(size=start.shape)
    slope = (loss(start + DIFFERENCE * direction) - loss(start - DIFFERENCE * direction)) / (2 * DIFFERENCE)
    _assert_close("slope along a random direction", (total * direction).sum(), slope, 1e-6)


def _blocks_change_nothing(cls: MakeCell) -> None:
    """Blocked RTRL is unblocked RTRL, with resets, while theta changes at every step."""
    cell = _cell(cls)
    data = _stream(cell, 19, 2, reset_rate=0.1)
    textbook = _gradients(RTRL(cell, 1, 2), *data, learning_rate=0.03)
    for block in (2, 5, 100):
        found = _gradients(RTRL(cell, block, 2), *data, learning_rate=0.03)
        _assert_close(f"blocks of {block}", found, textbook, ROUNDING["float64"])


def _cell_lanes_are_apart(cls: MakeCell) -> None:
    """A lane's states depend neither on the data nor on the number of the other lanes."""
    cell = _cell(cls)
    xs, _, _ = _stream(cell, 9, 3)
    hs, _ = TBPTT(cell, 4, 3).run(xs)
    others = xs.copy()
    others[:, [0, 2]] *= -2
    found, _ = TBPTT(cell, 4, 3).run(others)
    _assert_same_bits("lane 1 beside other data", found[:, 1], hs[:, 1])
    alone, _ = TBPTT(cell, 4).run(np.ascontiguousarray(xs[:, 1:2]))
    _assert_close("lane 1 alone", alone[:, 0], hs[:, 1], ROUNDING["float64"])


def _cell_resets(cls: MakeCell) -> None:
    """A lane that is reset goes on as a new one."""
    cell = _cell(cls)
    xs, dhs, resets = _stream(cell, 9, 2)
    resets[5, 1] = True
    both = RTRL(cell, 4, 2)
    hs, _ = both.run(xs, dhs, resets)
    fresh, _ = RTRL(cell, 4).run(np.ascontiguousarray(xs[5:, 1:]))
    _assert_close("states after the reset", hs[5:, 1], fresh[:, 0], ROUNDING["float64"])


def _cell_dtypes_agree(cls: MakeCell) -> None:
    """float32 gives what float64 gives, to rounding."""
    wide, narrow = _cell(cls), _cell(cls, "float32")
    narrow.theta = wide.theta.astype(np.float32)
    xs, dhs, _ = _stream(wide, 12, 2)
    one, other = RTRL(wide, 3, 2), RTRL(narrow, 3, 2)
    (hs, gradient), found = one.run(xs, dhs), other.run(xs.astype(np.float32), dhs.astype(np.float32))
    assert found[0].dtype == found[1].dtype == np.float32, f"got {found[0].dtype} and {found[1].dtype}"
    _assert_close("states", found[0], hs, ROUNDING["float32"])
    _assert_close("gradient", found[1], gradient, ROUNDING["float32"])


def _cell_is_saved(cls: MakeCell) -> None:
    """A state that is saved inside a block and loaded goes on with the same bits."""
    _goes_on(lambda cell, batch_size, rng: RTRL(cell, 4, batch_size), _cell(cls, "float32"))


_CELL_CHECKS = [
    _cell_is_made_from_its_seed, _jacobians_are_derivatives, _whole_sequence_is_differentiated, _blocks_change_nothing,
    _cell_lanes_are_apart, _cell_resets, _cell_dtypes_agree, _cell_is_saved,
]  # fmt: skip


# ---- estimators ------------------------------------------------------------------------------------------------------

SHAPES = (RNN, LSTM, GRU)  # one term, two state blocks, two terms


def _is_made(make: MakeEstimator) -> None:
    """It can be made for any cell, with the lanes that were asked for, and knows its cell."""
    for cls in SHAPES:
        for lanes in (1, 3):
            cell = _cell(cls)
            estimator = make(cell, lanes, 0)
            assert isinstance(estimator, Estimator), f"got {type(estimator).__name__}, expected an okcore.Estimator"
            assert estimator.cell is cell, "it is of another cell"
            assert estimator.batch_size == lanes, f"batch_size {estimator.batch_size}, asked for {lanes}"


def _is_credit_times_influence(make: MakeEstimator) -> None:
    """The gradient of a step is its credit times the influence, lane by lane and summed; reading it changes nothing."""
    for cls in SHAPES:
        cell = _cell(cls)
        estimator = make(cell, 2, 7)
        for x, dh, reset in zip(*_stream(cell, _length(make), 2, reset_rate=0.1), strict=True):
            estimator.step(x, reset)
            credit = np.zeros((2, cell.state_size))
            credit[:, : cell.n_hidden] = dh
            gradient = estimator.gradient(dh)
            lanes = estimator.gradient(dh, per_lane=True)
            expected = np.einsum("bs,bspm->bpm", credit, estimator.influence())
            size = np.abs(expected).max() + 1e-9
            _assert_close(f"{cls.__name__}", gradient / size, expected.sum(axis=0) / size, ROUNDING["float64"])
            _assert_close(f"{cls.__name__}, per lane", lanes / size, expected / size, ROUNDING["float64"])
            _assert_same_bits("gradient, read again", estimator.gradient(dh), gradient)


def _starts_exactly(make: MakeEstimator) -> None:
    """Zero before the first step and after a reset; the first step of a lane is exact."""
    for cls in SHAPES:
        cell = _cell(cls)
        estimator, exact = make(cell, 2, 7), RTRL(cell, 1, 2)
        xs, dhs, _ = _stream(cell, 9, 2)
        assert not estimator.gradient(dhs[0]).any(), "the gradient before the first step is not zero"
        for t, x in enumerate(xs):
            reset = np.array([False, t == 6])
            estimator.step(x, reset)
            exact.step(x, reset)
            for lane in range(2) if t == 0 else [1] if t == 6 else []:
                what = f"{cls.__name__}, influence of lane {lane} one step after its start"
                _assert_close(what, estimator.influence()[lane], exact.influence()[lane], ROUNDING["float64"])
        estimator.reset(np.array([True, False]))
        assert not estimator.influence()[0].any(), "a lane that was reset keeps an influence"
        assert estimator.influence()[1].any(), "a reset of lane 0 takes the influence of lane 1"
        estimator.reset()
        assert not estimator.gradient(dhs[0]).any() and not estimator.state.any(), "a reset leaves something"


def _forgets_at_a_reset(make: MakeEstimator) -> None:
    """A reset inside a block cuts a lane off: nothing from before it is left in the influence."""
    cell = _cell(GRU)
    block = make(cell, 1, 0).block
    xs, _, _ = _stream(cell, 3 * block + 4, 2)
    other = xs.copy()
    for at in sorted({block, block + 1, block + block // 2, 2 * block}):
        other[:at, 1] = -xs[:at, 1]
        resets = np.zeros(xs.shape[:2], bool)
        resets[at, 1] = True
        influences = []
        for data in (xs, other):
            estimator = make(cell, 2, 7)
            estimator.run(data, None, resets)
            influences.append(estimator.influence()[1])
        _assert_close(f"influence after a reset at step {at}", influences[0], influences[1], 1e-12)


def _lanes_are_apart(make: MakeEstimator) -> None:
    """A lane depends neither on the data, the resets nor the number of the other lanes."""
    cell = _cell(GRU)
    xs, _, _ = _stream(cell, _length(make), 5)
    results = []
    for lanes, scale, reset in ((3, 1, False), (3, -2, True), (5, 1, False)):
        estimator, found = make(cell, lanes, 7), []
        for t, x in enumerate(xs[:, :lanes]):
            x = np.ascontiguousarray(x)
            x[[0, 2]] *= scale
            mask = np.zeros(lanes, bool)
            mask[0] = reset and t in (4, 9)
            estimator.step(x, mask)
            found.append(estimator.influence()[1])
        results.append(np.array(found))
    _assert_same_bits("influence of lane 1 beside other data and resets", results[1], results[0])
    _assert_close("influence of lane 1 beside more lanes", results[2], results[0], ROUNDING["float64"])


def _lanes_are_alike(make: MakeEstimator) -> None:
    """Lanes with the same data get the same influence, or, where it is drawn, none is left out."""
    cell = _cell(LSTM)
    xs = np.repeat(_stream(cell, _length(make), 1)[0], 3, axis=1)
    influences = []
    for seed in (7, 8):
        estimator = make(cell, 3, seed)
        estimator.run(xs)
        influences.append(estimator.influence())
    tape = TBPTT(cell, estimator.block, 3)
    tape.run(xs)
    for lane in (1, 2):
        if np.array_equal(influences[0], influences[1]):
            _assert_close(f"influence of lane {lane}", influences[0][lane], influences[0][0], ROUNDING["float64"])
        else:
            parts = [np.abs(influences[0][b] - tape.influence()[b]).max() for b in (0, lane)]
            assert bool(parts[0]) == bool(parts[1]), f"the carry is in use in lane {lane if parts[1] else 0} only"


def _calls_agree(make: MakeEstimator) -> None:
    """`run` is `step` and `accumulate` one after the other, then `flush`; `flush` is the sum of the gradients."""
    for cls in SHAPES:
        cell = _cell(cls)
        data = _stream(cell, _length(make), 2, reset_rate=0.1)
        one, other, third = (make(cell, 2, 7) for _ in range(3))
        hs, total = one.run(*data)
        states = []
        for x, dh, reset in zip(*data, strict=True):
            states.append(other.step(x, reset))
            other.accumulate(dh)
        _assert_close("states of run and of step", hs, states, ROUNDING["float64"])
        flushed = other.flush()
        _assert_close("gradient of run and of flush", total, flushed, ROUNDING["float64"])
        assert not other.flush().any(), "a second flush gives something"
        _assert_close("flush", flushed, _gradients(third, *data).sum(axis=0), ROUNDING["float64"])


def _dtypes(make: MakeEstimator) -> None:
    """Both dtypes work, and what comes out has the cell's."""
    for dtype in ("float32", "float64"):
        cell = _cell(LSTM, dtype)
        hs, gradient = make(cell, 2, 7).run(*_stream(cell, _length(make), 2, reset_rate=0.1))
        assert hs.dtype == gradient.dtype == dtype, f"{dtype} in, {hs.dtype} and {gradient.dtype} out"
        assert np.isfinite(gradient).all(), f"the gradient in {dtype} is not finite"


def _seeds(make: MakeEstimator) -> None:
    """The same seed gives the same bits."""
    cell = _cell(RNN)
    data = _stream(cell, _length(make), 2)
    one, other = (_gradients(make(cell, 2, 7), *data, learning_rate=0.01) for _ in range(2))
    _assert_same_bits("gradients for one seed", one, other)


def _goes_on(make: MakeEstimator, cell: Cell) -> None:
    block = make(cell, 1, 0).block
    xs, dhs, resets = _stream(cell, 2 * block + 9, 2, reset_rate=0.1)
    start = cell.theta.copy()
    for stop in sorted({0, 1, 2, 3, block // 2, block - 1, block, block + 1, block + 2}):  # anywhere in a block
        original = make(cell, 2, 7)
        for x, dh, reset in zip(xs[:stop], dhs, resets, strict=False):
            original.step(x, reset)
            original.accumulate(dh)
            cell.theta *= cell.dtype.type(0.99)
        theta = cell.theta.copy()
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **original.state_dict())
        file.seek(0)
        restored = make(cell, 2, 8)
        with np.load(file, allow_pickle=False) as state:
            restored.load_state_dict(state)
        results = []
        for estimator in (original, restored, original.clone()):  # all three are there before one of them goes on
            cell.theta = theta
            gradients = _gradients(estimator, xs[stop:], dhs[stop:], resets[stop:], 0.01)
            results.append([estimator.influence(), gradients, estimator.flush(), estimator.state])
        names = ("influence", "gradients", "flush", "state")
        for how, others in (("saving and loading", results[1]), ("clone", results[2])):
            for name, found, expected in zip(names, others, results[0], strict=True):
                _assert_same_bits(f"{name} after {how} at step {stop}", found, expected)
        cell.theta = start


def _is_saved(make: MakeEstimator) -> None:
    """A state that is saved anywhere in a block and loaded goes on with the same bits; so does a clone."""
    for cls in (RNN, GRU):
        _goes_on(make, _cell(cls))


def _carry_parts(
    make: MakeEstimator, steps: int, cls: MakeCell, draws: int, seed: int = 2
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what the carry, and exact RTRL, add to the open block's part of the last gradient, for all draws."""
    cell = cls(2, 3, dtype="float64", rng=1)
    cell.theta *= 1.5
    xs, dhs, _ = _stream(cell, steps, 1, seed)
    estimators = [make(cell, 1, 100 + draw) for draw in range(draws)]
    exact, tape = RTRL(cell, 1), TBPTT(cell, estimators[0].block)
    for x in xs:
        for estimator in (*estimators, exact, tape):
            estimator.step(x)
    without = tape.gradient(dhs[-1])
    parts = np.array([estimator.gradient(dhs[-1]) for estimator in estimators]) - without
    return parts, exact.gradient(dhs[-1]) - without


def _points_along_the_gradient(make: MakeEstimator) -> None:
    """What the carry adds to the open block's part points, on average, along what exact RTRL adds."""
    steps = 2 * make(_cell(RNN), 1, 0).block + 2
    for cls in (RNN, GRU):
        means, exacts = [], []
        for seed in range(5):  # sequences
            parts, exact = _carry_parts(make, steps, cls, 50, seed)
            means.append(parts.mean(axis=0))
            exacts.append(exact)
        product, size = np.vdot(means, exacts), np.linalg.norm(means) * np.linalg.norm(exacts)
        nothing = np.linalg.norm(means) <= ROUNDING["float64"] * np.linalg.norm(exacts)  # as for TBPTT
        assert nothing or product > 0, f"{cls.__name__}: cosine {product / size:.2f}"


_ESTIMATOR_CHECKS = [
    _is_made, _is_credit_times_influence, _starts_exactly, _forgets_at_a_reset, _lanes_are_apart, _lanes_are_alike,
    _calls_agree, _dtypes, _seeds, _is_saved, _points_along_the_gradient,
]  # fmt: skip


def _is_exact(make: MakeEstimator) -> None:
    """Its gradients are those of exact RTRL, with resets, while theta changes at every step."""
    for cls in SHAPES:
        cell = _cell(cls)
        data = _stream(cell, _length(make), 2, reset_rate=0.1)
        expected = _gradients(RTRL(cell, 1, 2), *data, learning_rate=0.03)
        found = _gradients(make(cell, 2, 7), *data, learning_rate=0.03)
        _assert_close(cls.__name__, found, expected, ROUNDING["float64"])


def _is_unbiased(make: MakeEstimator) -> None:
    """The mean of its gradients over draws is that of exact RTRL."""
    for cls in (RNN, GRU):
        parts, exact = _carry_parts(make, 2 * make(_cell(RNN), 1, 0).block + 2, cls, DRAWS)
        directions = np.random.default_rng(4).normal(size=(20, *exact.shape))
        projected = np.tensordot(parts - exact, directions, axes=((1, 2), (1, 2)))
        error = projected.std(axis=0, ddof=1) / np.sqrt(len(parts)) + 1e-12
        z = np.abs(projected.mean(axis=0) / error).max()
        limit = NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / len(directions) / 2)
        assert z < limit, f"{cls.__name__}: the mean is {z:.1f} standard errors off, allowed {limit:.1f}"
