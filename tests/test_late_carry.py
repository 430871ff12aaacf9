"""`late_gradient`: what the carry adds to a gradient comes a block later, in as many shares as the block has steps."""

import copy

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES
from tests.helpers import assert_close, make_cell, stream
from tests.test_gradients import ALL

B, LENGTH = 3, 45


def taken(*arguments, **more):
    """Return a list of (x, dh, reset)."""
    return list(stream(*arguments, **more))


def quiet(steps):
    """Return the same inputs without credit or reset."""
    return [(x, np.zeros_like(dh), None) for x, dh, _ in steps]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", ALL)
def test_late_gradients_add_up_to_the_gradients(kind, name, dtype):
    cell = make_cell(name, 3, 5, dtype)
    steps = taken(cell, LENGTH, B, reset_rate=0.1)
    steps[20] = *steps[20][:2], np.ones(B, bool)  # all lanes: the block ends early
    at_once, late = ALL[kind](cell, B), ALL[kind](cell, B)
    expected, got = np.zeros(cell.theta.shape), np.zeros(cell.theta.shape)
    for x, dh, reset in steps + quiet(steps):
        at_once.step(x, reset)
        late.step(x, reset)
        expected += at_once.gradient(dh)
        got += late.late_gradient(dh)
    assert_close(got, expected, dtype)


@pytest.mark.parametrize("make", [
    lambda cell: okcore.RTRL(cell, block=4, batch_size=B),
    lambda cell: okcore.OK(cell, rank=2, block=4, batch_size=B, rng=5),
])  # fmt: skip
def test_the_tapes_part_comes_at_once_and_the_carrys_in_equal_shares(make):
    cell = make_cell("GRU", 3, 5)
    at_once, late, window = make(cell), make(cell), okcore.TBPTT(cell, 4, batch_size=B)
    carried, expected = [], []
    for x, dh, _ in taken(cell, 24, B):
        for estimator in at_once, late, window:
            estimator.step(x)
        on_tape = window.gradient(dh)
        carried.append(at_once.gradient(dh) - on_tape)
        t = len(carried) - 1
        before = carried[4 * (t // 4) - 4 : 4 * (t // 4)]  # those of the block before
        expected.append(on_tape + sum(before) / 4)
        assert_close(late.late_gradient(dh), expected[-1], "float64")
    assert np.abs(carried[-1]).max() > 1e-9  # there is something to be late


@pytest.mark.parametrize("kind", ALL)
def test_sums_of_credits_go_beside_late_gradients(kind):
    cell = make_cell("LSTM", 3, 5)
    steps = taken(cell, LENGTH, B, reset_rate=0.1)
    at_once, both = ALL[kind](cell, B), ALL[kind](cell, B)
    expected, got, flushed, sums = 0, 0, 0, 0
    for t, (x, dh, reset) in enumerate(steps + quiet(steps)):
        at_once.step(x, reset)
        both.step(x, reset)
        gradient = at_once.gradient(dh)
        if t % 3 == 0 and t < LENGTH:  # each change of kind spreads what is left anew
            both.accumulate(dh)
            sums = sums + gradient
        else:
            got = got + both.late_gradient(dh)
            expected = expected + gradient
        if t % 7 == 0:
            flushed = flushed + both.flush()
    assert_close(got, expected, "float64")
    assert_close(flushed + both.flush(), sums, "float64")


@pytest.mark.parametrize("kind", ALL)
def test_copies_and_states_go_on_with_the_same_bits(kind):
    cell = make_cell("RHN", 3, 5, "float32")
    steps = taken(cell, LENGTH, B, reset_rate=0.1)
    for cut in 13, 18:
        estimator = ALL[kind](cell, B)
        for x, dh, reset in steps[:cut]:
            estimator.step(x, reset)
            estimator.late_gradient(dh)
        loaded = ALL[kind](cell, B)
        loaded.load_state_dict(estimator.state_dict())
        for other in estimator.clone(), loaded:
            original = copy.deepcopy(estimator, {id(cell): cell})
            for x, dh, reset in steps[cut:]:
                np.testing.assert_array_equal(original.step(x, reset), other.step(x, reset))
                np.testing.assert_array_equal(original.late_gradient(dh), other.late_gradient(dh))


def test_lanes_in_several_estimators_add_up():
    cell = make_cell("GRU", 3, 5)
    whole = okcore.OK(cell, rank=2, block=4, batch_size=4, rng=5)
    parts = [okcore.OK(cell, rank=2, block=4, batch_size=2, rng=5, first_lane=first) for first in (0, 2)]
    steps = taken(cell, 30, 4)
    for t, (x, dh, _) in enumerate(steps):
        whole.step(x)
        expected = whole.late_gradient(dh)
        for part, lanes in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
            part.step(x[lanes])
        assert_close(sum(p.late_gradient(dh[i]) for p, i in zip(parts, (slice(0, 2), slice(2, 4)), strict=True)),
                     expected, "float64")
        if t == 17:  # spread anew
            state = okcore.Estimator.join_lanes([part.state_dict() for part in parts])
            whole.load_state_dict(state)
            for part, first in zip(parts, (0, 2), strict=True):
                part.load_state_dict(okcore.Estimator.take_lanes(state, first, 2))


def test_a_part_that_overflows_is_dropped_and_reported():
    cell = make_cell("RNN", 3, 5, "float32")
    estimator = okcore.RTRL(cell, block=3, batch_size=1)
    steps = taken(cell, 20, 1)
    for x, dh, _ in steps[:4]:
        estimator.step(x)
        estimator.late_gradient(dh)
    for array in estimator.carry.arrays.values():
        array[...] = 1e30 if array.dtype.kind == "f" else array
    with pytest.raises(FloatingPointError, match="influence of lane 0 is not finite"):
        for x, dh, _ in steps[4:]:
            estimator.step(x)
            estimator.late_gradient(dh * np.float32(1e30))
    estimator.reset()
    for x, dh, _ in steps:
        estimator.step(x)
        assert np.isfinite(estimator.late_gradient(dh)).all()


def test_out_is_written_and_bad_credits_are_refused():
    cell = make_cell("RNN", 3, 5)
    estimator = okcore.RTRL(cell, batch_size=B)
    out = np.full(cell.theta.shape, np.nan)
    assert estimator.late_gradient(np.ones((B, 5)), out=out) is out
    assert not out.any()  # before the first step
    with pytest.raises(ValueError, match="dh must have shape"):
        estimator.late_gradient(np.ones((B, 4)))
    with pytest.raises(ValueError, match="late_steps"):
        estimator.load_state_dict(estimator.state_dict() | {"late_steps": estimator.block + 1})


def trainer_of(make, late_carry):
    """Return a trainer on Copy and its task."""
    task = okcore.tasks.Copy(batch_size=2, rng=0)
    cell = okcore.RHN(task.n_in, 8, rng=1)
    readout = okcore.SoftmaxReadout(8, task.n_out, rng=2)
    return okcore.OnlineTrainer(cell, make(cell), readout, okcore.Adam(1e-2), clip=1.0, late_carry=late_carry), task


def test_a_trainer_with_a_late_carry():
    windows = [trainer_of(lambda cell: okcore.TBPTT(cell, 5, batch_size=2), late) for late in (False, True)]
    for trainer, task in windows:
        trainer.fit(task, 60, progress=False)
    np.testing.assert_array_equal(windows[0][0].cell.theta, windows[1][0].cell.theta)  # nothing is carried

    def make(cell):
        return okcore.OK(cell, rank=3, block=4, batch_size=2, rng=3)

    (trainer, task), (other, same_task) = trainer_of(make, True), trainer_of(make, True)
    trainer.fit(task, 42, progress=False)
    other.fit(same_task, 42, progress=False)
    resumed, _ = trainer_of(make, True)
    resumed.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(trainer.fit(task, 50, progress=False), resumed.fit(same_task, 50, progress=False))
    np.testing.assert_array_equal(trainer.cell.theta, resumed.cell.theta)
