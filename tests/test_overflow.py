"""What overflows, and a cell's nonsense: the error says which lane and step, and whatever is sound goes on."""

import pickle

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES, ESTIMATORS, EVERY_ESTIMATOR, maker
from tests.helpers import assert_same_state, other, spoil

B, V, N = 2, 3, 4  # lanes, inputs, hidden units
NAN, INF = np.nan, np.inf
LONG = {kind: maker(kind, rank=2, block=3) for kind in ESTIMATORS}


class Linear(okcore.Cell):
    """h = W_x x + W_h h' + b, with a Jacobian of `slope` (1 is the true one)."""

    slope = 1

    def pointwise(self, pre, state):
        d = np.full((len(pre), 1, 1, 1, N), self.slope, self.dtype)
        return pre[:, 0].copy(), d, np.zeros((len(pre), 1, 1, N), self.dtype)


class Exploding(okcore.Cell):
    """A state that stays 0 while its Jacobian is `growth` times the input."""

    def pointwise(self, pre, state):
        growth = {np.float32: 1e20, np.float64: 1e160}[self.dtype.type]
        d = np.ones((len(pre), 1, 1, 1, N), self.dtype)
        return np.zeros_like(state), d, self.dtype.type(growth) * pre


def only_lane_one(cell):
    """Return inputs that are 0 in lane 0 and 1 in lane 1, and a theta that passes them on."""
    cell.theta[...] = 0
    cell.theta[:, 0] = 1
    x = np.zeros((B, V), cell.dtype)
    x[1, 0] = 1
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_state_that_overflows(name, dtype):
    cell = Linear(V, N, dtype=dtype, init="zeros")
    cell.slope = 0  # the state overflows, the influence does not
    x = only_lane_one(cell)
    estimator = LONG[name](cell, B)
    cell.theta[:, V : V + N] = np.eye(N) * np.sqrt(np.finfo(dtype).max) * 2  # h: 1, 2 sqrt(max), infinite
    estimator.step(x)
    h = estimator.step(x)
    before = estimator.state_dict()
    with pytest.raises(FloatingPointError, match=r"state.*lane 1.*step 3"):
        estimator.step(x)
    assert_same_state(estimator.state_dict(), before)
    assert np.array_equal(estimator.state, h)
    estimator.reset()
    assert np.isfinite(estimator.step(x)).all()


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_theta_that_is_not_finite(name, cell, value):
    estimator = LONG[name](CELLS[cell](V, N, rng=0), B)
    estimator.step([0, 1])
    good = estimator.cell.theta.copy()
    estimator.cell.theta[...] = value
    with pytest.raises(FloatingPointError, match=r"lane 0.*step 2"):
        estimator.step([0, 1])
    estimator.cell.theta[...] = good
    assert np.isfinite(estimator.step([0, 1])).all()


@pytest.mark.parametrize("block", [1, 3])
def test_steps_that_fail_leave_the_gradient(block):
    # However often a step fails, whatever theta it fails with, the last good step keeps its gradient.
    cell = okcore.RNN(V, N, dtype=np.float64, rng=0)
    estimator = okcore.RTRL(cell, block=block, batch_size=B)
    for _ in range(4):
        h = estimator.step([0, 1])
    expected, good = estimator.gradient(h), cell.theta.copy()
    for attempt in range(block + 1):
        cell.theta[...] = attempt
        cell.theta[:, -1] = NAN
        with pytest.raises(FloatingPointError):
            estimator.step([0, 1])
    cell.theta[...] = good
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(estimator.gradient(h), expected, rtol=1e-12)


def remembers(make):
    return bool(make(okcore.RNN(1, 1)).carry.arrays)


REMEMBERING = {
    kind: make
    for kind, make in (
        EVERY_ESTIMATOR
        | {f"{kind}-3": make for kind, make in LONG.items()}
        | {"ok-exact": maker("ok", rank=20, block=3), "tbptt-5": maker("tbptt", block=5)}
    ).items()
    if remembers(make)
}
# Those that see no further than their window
WINDOWS = {
    kind: make
    for kind, make in (EVERY_ESTIMATOR | {"tbptt-3": LONG["tbptt"], "tbptt-5": maker("tbptt", block=5)}).items()
    if not remembers(make)
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", REMEMBERING)
def test_an_influence_that_overflows(kind, dtype):
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    x = only_lane_one(cell)
    estimator = REMEMBERING[kind](cell, B)
    with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step \d+"):
        for _ in range(60):
            estimator.step(x)
    x[1] = 0  # this input's Jacobian is zero: both lanes go on, and nothing that is not finite is left behind
    estimator.reset(np.array([False, True]))
    for _ in range(5):
        h = estimator.step(x)
        assert np.isfinite(estimator.gradient(h + 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", ["gradient", "flush"])
@pytest.mark.parametrize("kind", REMEMBERING | WINDOWS)
def test_a_gradient_that_overflows(kind, read, dtype):
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    x = only_lane_one(cell)
    estimator = (REMEMBERING | WINDOWS)[kind](cell, B)
    dh = np.ones((B, N), dtype)
    with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step \d+"):
        for _ in range(60):
            estimator.step(x)
            if read == "gradient":
                assert np.isfinite(estimator.gradient(dh)).all()
            else:
                estimator.accumulate(dh)
                assert np.isfinite(estimator.flush()).all()


def gradients(estimator, read, x, steps=60):
    """Yield the gradient after each step, of a loss in both lanes."""
    dh = np.arange(1, 1 + B * N).reshape(B, N).astype(estimator.cell.dtype)
    for _ in range(steps):
        estimator.step(x)
        if read == "flush":
            estimator.accumulate(dh)
            yield estimator.flush()
        else:
            yield getattr(estimator, read)(dh)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", ["gradient", "late_gradient", "flush"])
@pytest.mark.parametrize("kind", REMEMBERING | WINDOWS)
def test_an_influence_that_overflows_is_forgotten_if_wanted(kind, read, dtype):
    # Lane 1 is forgotten over and over; lane 0 has the gradients that it has beside a lane that is sound.
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    x = only_lane_one(cell)
    estimator, sound = ((REMEMBERING | WINDOWS)[kind](cell, B) for _ in range(2))
    estimator.on_overflow = "forget"
    for gradient in gradients(estimator, read, x):
        assert np.isfinite(gradient).all()
    assert estimator.steps == 60
    assert estimator.overflows >= 60 // (estimator.block + 2) / 2
    x[1] = 0  # this input's Jacobian is zero: the past of lane 1 is gone here too
    for found, expected in zip(gradients(estimator, read, x, 70), gradients(sound, read, x, 70), strict=True):
        last = found, expected
    np.testing.assert_allclose(*last, rtol=1e-3)


def test_other_lanes_are_not_forgotten():
    # Exact RTRL per lane: lane 0, which remembers, has the gradients it has alone, whatever lane 1 loses.
    cell = Exploding(V, N, dtype=np.float64, init="zeros")
    x = only_lane_one(cell)
    x[0, 0] = 1e-160  # a Jacobian of one
    for block in 1, 3:
        both, alone = okcore.RTRL(cell, block, B), okcore.RTRL(cell, block)
        both.on_overflow = "forget"
        dh = np.ones((B, N))
        for _ in range(20):
            both.step(x)
            alone.step(x[:1])
            np.testing.assert_allclose(both.gradient(dh, per_lane=True)[0], alone.gradient(dh[:1]), rtol=1e-12)
        assert both.overflows > 3


@pytest.mark.parametrize("read", ["gradient", "late_gradient", "flush"])
@pytest.mark.parametrize("kind", ["rtrl", "rtrl-3", "ok-3", "tbptt-3"])
def test_only_the_lane_whose_own_step_overflows_is_forgotten(kind, read):
    # An input near the end of the range: the part of the gradient that the tape holds overflows, not what it carries.
    make = {"rtrl": lambda cell: okcore.RTRL(cell, 1, B), "rtrl-3": lambda cell: okcore.RTRL(cell, 3, B),
            "ok-3": lambda cell: okcore.OK(cell, 9, 3, batch_size=B, rng=0),
            "tbptt-3": lambda cell: okcore.TBPTT(cell, 3, B)}[kind]  # fmt: skip
    cell = Linear(V, N, dtype=np.float64, rng=0)
    cell.theta[:, 0] = 0  # the state does not see this input
    forgetful, sound = make(cell), make(cell)
    forgetful.on_overflow = "forget"
    x, dh = np.ones((B, V)), np.full((B, N), 10.0)
    x[:, 0] = 0
    for t in range(8):
        x[1, 0] = 1e308 if t == 4 else 0
        found, expected = [], []
        for estimator, gradients in (forgetful, found), (sound, expected):
            estimator.step(x if estimator is forgetful else x * [[1], [0]])
            credit = dh if estimator is forgetful and t < 5 else dh * [[1], [0]]
            if read == "flush":
                estimator.accumulate(credit)
            if read != "flush" or t % 2:
                gradients.append(estimator.flush() if read == "flush" else getattr(estimator, read)(credit))
        if t == 5 - (read != "flush"):
            assert forgetful.overflows == 1
            if read != "late_gradient":
                np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_other_lanes_have_added_up_stays():
    # Credits of closed blocks wait as one sum; a lane that overflows later takes nothing of it along.
    cell = Exploding(V, N, dtype=np.float64, init="zeros")
    x = only_lane_one(cell)
    x[0, 0] = 1e-160  # a Jacobian of one
    for steps in range(1, 9):
        both, alone = okcore.RTRL(cell, 1, B), okcore.RTRL(cell, 1)
        both.on_overflow = "forget"
        credit = np.ones((B, N))
        for t in range(steps):
            credit[1] = 1 if t == steps - 1 else 0
            both.step(x)
            alone.step(x[:1])
            both.accumulate(credit)
            alone.accumulate(credit[:1])
        assert both.overflows == 0
        found, expected = both.flush(), alone.flush()
        if both.overflows:  # at the last credit
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            break
    assert steps > 2 and both.overflows == 1


def test_what_is_no_overflow_is_raised_though_overflows_are_forgotten():
    cell = Linear(V, N, init="zeros")
    estimator = okcore.OK(cell, 2, block=3, batch_size=B)
    estimator.on_overflow = "forget"
    with pytest.raises(ValueError, match="dh must be finite"):
        estimator.gradient(np.full((B, N), NAN, np.float32))
    cell.theta[...] = NAN
    with pytest.raises(FloatingPointError, match="state of lane 0"):
        estimator.step(only_lane_one(Linear(V, N)))
    assert estimator.overflows == 0
    for value in "reset", None, True:
        with pytest.raises((ValueError, TypeError), match="on_overflow must be"):
            estimator.on_overflow = value
    assert estimator.on_overflow == "forget"
    assert estimator.clone().on_overflow == "forget"


def test_overflows_are_counted_over_saving_and_splitting():
    cell = Exploding(V, N, init="zeros")
    estimator = okcore.RTRL(cell, 3, B)
    estimator.on_overflow = "forget"
    for _ in gradients(estimator, "gradient", only_lane_one(cell), 9):
        pass
    assert estimator.overflows > 0
    state = estimator.state_dict()
    parts = [estimator.take_lanes(state, lane, 1) for lane in range(B)]
    assert [part["overflows"] for part in parts] == [estimator.overflows, 0]
    restored = okcore.RTRL(cell, 3, B)
    restored.load_state_dict(estimator.join_lanes(parts))
    assert restored.overflows == pickle.loads(pickle.dumps(estimator)).overflows == estimator.overflows
    del state["overflows"]  # as a state of an older version
    restored.load_state_dict(state)
    assert restored.overflows == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_influence_that_overflows_inside_the_block(dtype):
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    estimator = okcore.RTRL(cell, 100, B)
    for _ in range(60):
        estimator.step(only_lane_one(cell))
    with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step 60"):
        estimator.influence()


@pytest.mark.parametrize("kind", LONG)
def test_factors_at_both_ends_of_the_range(kind):
    # An input of 1e38 times derivatives of 1e-38 and less: what balances the factors of a term leaves float32
    cell = okcore.RHN(1, 1, init="zeros")
    cell.theta[...] = [[1, 0, 0], [-83e-38, 0, -4]]
    estimator = LONG[kind](cell, 1)
    for x in (1e38, 1.0, 1.0, 1.0, 1.0, 1.0):
        estimator.step(np.full((1, 1), x, np.float32))
        assert np.isfinite(estimator.influence()).all()
        assert np.isfinite(estimator.gradient(np.ones((1, 1), np.float32))).all()


# ---- users' own cells -------------------------------------------------------------------------------


OWN_CELLS = [
    pytest.param(lambda s, d, c: s, TypeError, "pointwise", id="one array"),
    pytest.param(lambda s, d, c: (s, d), TypeError, "pointwise", id="two arrays"),
    pytest.param(lambda s, d, c: (s[:, 0], d, c), ValueError, "state", id="state[:, 0]"),
    pytest.param(lambda s, d, c: (s, d[:, 0], c), ValueError, "d", id="d[:, 0]"),
    pytest.param(lambda s, d, c: (s, d, c[:1]), ValueError, "c", id="c[:1]"),
    pytest.param(lambda s, d, c: (other(s), d, c), TypeError, "state", id="state in the other dtype"),
    pytest.param(lambda s, d, c: (s, d, other(c)), TypeError, "c", id="c in the other dtype"),
    pytest.param(lambda s, d, c: (spoil(s, NAN), d, c), FloatingPointError, "lane 1", id="state with a NaN"),
    pytest.param(lambda s, d, c: (s, spoil(d, NAN), c), FloatingPointError, "lane 1", id="d with a NaN"),
    pytest.param(lambda s, d, c: (s, d, spoil(c, INF)), FloatingPointError, "lane 1", id="c with an Inf"),
]


@pytest.mark.parametrize("spoiled, error, word", OWN_CELLS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_own_cells_that_return_nonsense(name, spoiled, error, word):
    class Own(Linear):
        broken = False

        def pointwise(self, pre, state):
            results = super().pointwise(pre, state)
            return spoiled(*results) if self.broken else results

    cell = Own(V, N, rng=0)
    estimator = LONG[name](cell, B)
    h = estimator.step([0, 1])
    cell.broken = True
    with pytest.raises(error, match=rf"\b{word}\b"):
        estimator.step([0, 1])
        estimator.gradient(h + 1)  # d and c are used no earlier
        estimator.step([0, 1])
        estimator.gradient(h + 1)
