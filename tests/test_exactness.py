"""Truths 2, 3, 4, 8: what is exact agrees to rounding, whichever way it is computed."""

import numpy as np
import pytest

import okcore
from okcore import reference
from tests.conftest import CELLS, DTYPES, EVERY_ESTIMATOR
from tests.helpers import assert_close, gradients, in_reference, make_cell, reference_of, stream


def loss(cell, steps, lanes, reset_rate):
    """Return sum over steps of dh . h with dh fixed: its derivative by theta is the summed gradient."""
    estimator = okcore.TBPTT(cell, 1, lanes)
    return sum(
        (dh * estimator.step(x, reset)).sum() for x, dh, reset in stream(cell, steps, lanes, reset_rate=reset_rate)
    )


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_is_the_derivative_of_the_whole_sequence(name):
    cell = make_cell(name, n_hidden=3, gain=2)
    for reset_rate in (0.0, 0.2):
        for block in (1, 4):
            total = gradients(okcore.RTRL(cell, block, 2), 12, reset_rate=reset_rate).sum(axis=0)
            rng = np.random.default_rng(5)
            start = cell.theta.copy()
            for _ in range(5):
                direction = rng.normal(size=cell.theta.shape)
                values = []
                for sign in (1, -1):
                    cell.theta = start + sign * 1e-6 * direction
                    values.append(loss(cell, 12, 2, reset_rate))
                cell.theta = start
                slope = (values[0] - values[1]) / 2e-6
                assert abs(slope - (direction * total).sum()) < 1e-6 * np.abs(total).max() * 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_rtrl_is_a_sequence_long_tape(name, dtype):
    cell = make_cell(name, dtype=dtype, gain=1.5)
    for symbols in (False, True):
        options = {"steps": 17, "symbols": symbols, "reset_rate": 0.1}
        exact = gradients(okcore.RTRL(cell, 3, 3), **options)
        tape = gradients(okcore.TBPTT(cell, 100, 3), **options)
        assert_close(exact, tape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_blocked_rtrl_is_unblocked_rtrl_while_theta_changes(name, dtype):
    cell = make_cell(name, dtype=dtype, gain=1.5)
    options = {"steps": 19, "learning_rate": 0.05, "reset_rate": 0.1}
    textbook = gradients(okcore.RTRL(cell, 1, 2), **options)
    for block in (2, 5, 7, 100):
        assert_close(gradients(okcore.RTRL(cell, block, 2), **options), textbook, dtype, factor=5)


@pytest.mark.parametrize("name", CELLS)
def test_theta_may_change_at_any_step_of_a_block(name):
    # Updates at some steps only, and of single entries: a snapshot is taken whenever W_h differs, and only then.
    cell = make_cell(name, gain=1.5)
    start = cell.theta.copy()
    results = []
    for block in (1, 3, 8):
        cell.theta = start
        estimator, out = okcore.RTRL(cell, block, 2), []
        for t, (x, dh, _) in enumerate(stream(cell, 20, 2)):
            estimator.step(x)
            out.append(estimator.gradient(dh))
            if t in (3, 4, 11):
                cell.theta[-1, 3 + t % 5] += 0.3
            if t == 15:
                cell.theta *= 0.9
        results.append(out)
    assert_close(results[1], results[0], "float64")
    assert_close(results[2], results[0], "float64")


@pytest.mark.parametrize("mixing", ["signs", "sampling"])
@pytest.mark.parametrize("name", CELLS)
def test_ok_of_full_rank_is_rtrl(name, mixing):
    cell = make_cell(name, gain=1.5)
    options = {"steps": 12, "learning_rate": 0.05, "reset_rate": 0.05}
    exact = gradients(okcore.RTRL(cell, 1, 2), **options)
    for seed in (0, 1):
        for block in (1, 4):
            rank = 12 * cell.n_terms
            ok = okcore.OK(cell, rank, block, mixing, 2, rng=seed)
            assert_close(gradients(ok, **options), exact, "float64")


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_ok_is_exact_on_the_first_steps_after_a_reset(name, block):
    cell = make_cell(name, gain=1.5)
    rank = 6
    first = rank // cell.n_terms
    ok, exact = okcore.OK(cell, rank, block, batch_size=2, rng=0), okcore.RTRL(cell, 1, 2)
    for t, (x, dh, _) in enumerate(stream(cell, 30, 2)):
        reset = np.array([t == 13, t == 13])
        ok.step(x, reset)
        exact.step(x, reset)
        if t < first or 13 <= t < 13 + first:
            assert_close(ok.gradient(dh), exact.gradient(dh), "float64")
    assert np.abs(ok.gradient(dh) - exact.gradient(dh)).max() > 1e-6  # and it is an estimate after that


@pytest.mark.parametrize("name", CELLS)
def test_ok_is_exact_where_the_influence_has_low_rank(name):
    # One input symbol, state at zero: all augmented inputs are equal up to h, so few directions exist.
    cell = make_cell(name, n_in=1, n_hidden=2)
    rank = cell.theta.shape[1]  # u has m entries: m terms always suffice
    ok, exact = okcore.OK(cell, rank, 4, rng=0), okcore.RTRL(cell, 4)
    for x, dh, _ in stream(cell, 25, 1):
        ok.step(x)
        exact.step(x)
        assert_close(ok.gradient(dh), exact.gradient(dh), "float64", factor=1e3)
    assert ok.stats["variance"][0] < 1e-12


@pytest.mark.parametrize("name", [name for name in CELLS if in_reference(name)])
@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_every_estimator_is_its_reference(kind, name):
    # Draw by draw: the same streams, the same signs, the same gradients.
    compiled = EVERY_ESTIMATOR[kind](make_cell(name), 3, rng=5)
    if not in_reference(type(compiled).__name__):
        pytest.skip("is not in okcore.reference")
    plain = reference_of(compiled, getattr(reference, name)(3, 5, dtype="float64", rng=1), rng=5)
    options = {"steps": 23, "learning_rate": 0.01, "reset_rate": 0.1}
    assert_close(gradients(compiled, **options), gradients(plain, **options), "float64", factor=100)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_is_credit_times_influence(name, dtype):
    cell = make_cell(name, dtype=dtype)
    for kind, make in EVERY_ESTIMATOR.items():
        estimator = make(cell)
        for t, (x, dh, reset) in enumerate(stream(cell, 11, 2, reset_rate=0.15)):
            estimator.step(x, reset)
            if t == 6:
                estimator.reset(np.array([True, False]))
            padded = np.concatenate([dh, np.zeros((2, cell.state_size - 5), dtype)], axis=1)
            expected = np.einsum("bs,bspm->pm", padded, estimator.influence())
            scale = 1 + np.abs(expected).max()
            error = np.abs(estimator.gradient(dh) - expected).max() / scale
            assert error < {"float32": 1e-5, "float64": 1e-12}[dtype], kind


@pytest.mark.parametrize("name", CELLS)
def test_flush_is_the_sum_of_gradients(name):
    cell = make_cell(name, gain=1.5)
    for make in EVERY_ESTIMATOR.values():
        one, other = make(cell), make(cell)
        total = np.zeros_like(cell.theta)
        start = cell.theta.copy()
        for t, (x, dh, reset) in enumerate(stream(cell, 25, 2, reset_rate=0.1)):
            if t == 9:
                reset[:] = True
            for estimator in (one, other):
                estimator.step(x, reset)
                if t == 14:
                    estimator.reset(np.array([False, True]))
            total += one.gradient(dh) + one.gradient(2 * dh)
            other.accumulate(dh)
            other.accumulate(2 * dh)
            if t in (0, 6, 7, 17, 24):
                assert_close(other.flush(), total, "float64", factor=10)
                assert not other.flush().any()
                total[...] = 0
            if t % 3 == 0:
                cell.theta *= 0.99
        cell.theta = start


@pytest.mark.parametrize("name", CELLS)
def test_run_is_step_accumulate_flush(name):
    cell = make_cell(name)
    for make in EVERY_ESTIMATOR.values():
        for symbols in (False, True):
            one, other = make(cell), make(cell)
            xs, dhs, resets = map(np.array, zip(*stream(cell, 13, 2, symbols=symbols, reset_rate=0.2), strict=True))
            hidden, gradient = one.run(xs, dhs, resets)
            for x, dh, reset, h in zip(xs, dhs, resets, hidden, strict=True):
                assert np.array_equal(other.step(x, reset), h)
                other.accumulate(dh)
            assert np.array_equal(other.flush(), gradient)
            only_states, nothing = one.run(xs)
            assert only_states.shape == hidden.shape and not nothing.any()


def test_symbols_are_one_hot_rows():
    cell = make_cell("LSTM", dtype="float32")
    one, other = okcore.RTRL(cell, 3, 4), okcore.RTRL(cell, 3, 4)
    rng = np.random.default_rng(0)
    for kind in ("int64", "int32", "uint8", "intc", "longlong"):
        x = rng.integers(3, size=4).astype(kind)
        assert np.array_equal(one.step(x), other.step(np.eye(3, dtype=np.float32)[x]))


def test_tbptt_window_grows_and_restarts():
    cell = make_cell("RNN", gain=1.5)
    estimator, exact = okcore.TBPTT(cell, 3), okcore.RTRL(cell, 1)
    for t, (x, dh, _) in enumerate(stream(cell, 9, 1)):
        if t % 3 == 0:  # a fresh exact estimator at each boundary, from the same state
            exact = okcore.RTRL(cell, 1)
            exact.state = estimator.state
        estimator.step(x)
        exact.step(x)
        assert_close(estimator.gradient(dh), exact.gradient(dh), "float64")


def test_zeros_before_the_first_step_and_after_a_reset():
    cell = make_cell("GRU")
    dh = np.ones((2, 5))
    for make in EVERY_ESTIMATOR.values():
        estimator = make(cell)
        assert not estimator.gradient(dh).any() and not estimator.flush().any()
        estimator.accumulate(dh)
        assert not estimator.flush().any()
        for x, _, _ in stream(cell, 6, 2):
            estimator.step(x)
        assert estimator.gradient(dh).any()
        estimator.reset()
        assert not estimator.gradient(dh).any() and not estimator.state.any() and not estimator.influence().any()
        estimator.accumulate(dh)
        assert not estimator.flush().any()


@pytest.mark.parametrize("name", CELLS)
def test_lanes_reset_independently(name):
    # A lane that was reset is a lane that starts, whatever the others do; and nothing of the others changes.
    cell = make_cell(name, gain=1.5)
    for block in (1, 3, 4):
        estimator, kept, fresh = okcore.RTRL(cell, block, 2), okcore.RTRL(cell, 1), None
        for t, (x, dh, _) in enumerate(stream(cell, 15, 2)):
            if t in (5, 8):
                fresh = okcore.RTRL(cell, 1)
                if t == 5:
                    estimator.reset(np.array([False, True]))
            estimator.step(x, np.array([False, t == 8]))
            kept.step(x[:1])
            expected = kept.gradient(dh[:1])
            if fresh is not None:
                fresh.step(x[1:])
                expected = expected + fresh.gradient(dh[1:])
                assert_close(estimator.gradient(dh), expected, "float64")


def test_setting_the_state_leaves_the_influence():
    cell = make_cell("LSTM")
    estimator = okcore.OK(cell, 3, 2, batch_size=2, rng=0)
    dh = np.ones((2, 5))
    for x, _, _ in stream(cell, 5, 2):
        estimator.step(x)
    before = estimator.gradient(dh)
    copy = estimator.state
    copy[...] = 7
    assert not (estimator.state == 7).any()
    estimator.state = np.full((2, 10), 0.5)
    assert np.array_equal(estimator.gradient(dh), before) and (estimator.state == 0.5).all()
