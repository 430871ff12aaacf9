"""Gradients of single lanes, and gradients with respect to the input of the step."""

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES, EVERY_ESTIMATOR
from tests.helpers import assert_close, in_reference, make_cell, reference_of, stream
from tests.test_extending import Dense, MinimalGatedUnit, load

NUMPY_CARRIES = {
    "dense": lambda cell, batch_size: okcore.Estimator(cell, Dense(cell, batch_size), 3),
    "rflo": load("rflo").RFLO,
}
ALL = EVERY_ESTIMATOR | NUMPY_CARRIES
NUMPY_CELLS = {"ugrnn": load("ugrnn").UGRNN, "minimal": MinimalGatedUnit}


def some_cell(name, dtype="float64", n_in=3, n_hidden=5):
    """Return a built-in cell, or one in NumPy."""
    if name in NUMPY_CELLS:
        return NUMPY_CELLS[name](n_in, n_hidden, dtype=dtype, rng=1)
    return make_cell(name, n_in, n_hidden, dtype)


def alone(dh, lane):
    """Return the credits of one lane, none to the others."""
    return np.where(np.arange(len(dh))[:, None] == lane, dh, 0).astype(dh.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*CELLS, *NUMPY_CELLS])
@pytest.mark.parametrize("kind", ALL)
def test_a_lanes_gradient_is_its_credit_times_its_influence(kind, name, dtype):
    cell = some_cell(name, dtype)
    estimator, (P, m) = ALL[kind](cell, 3), cell.theta.shape
    out = np.empty((3, P, m), dtype)
    assert not estimator.gradient(np.ones((3, 5), dtype), per_lane=True).any()  # before the first step
    for x, dh, reset in stream(cell, 14, 3, reset_rate=0.2):
        estimator.step(x, reset)
        lanes = estimator.gradient(dh, per_lane=True)
        assert estimator.gradient(dh, out, per_lane=True) is out
        assert out.tobytes() == lanes.tobytes()  # pure
        expected = np.einsum("bi,bipm->bpm", dh, estimator.influence()[:, :5])
        size = np.abs(expected).max()
        assert_close(lanes / size, expected / size, dtype, factor=5)
        assert_close(lanes.sum(axis=0) / size, estimator.gradient(dh) / size, dtype, factor=5)
        for lane in range(3):
            assert_close(lanes[lane] / size, estimator.gradient(alone(dh, lane)) / size, dtype, factor=5)
        cell.theta -= cell.dtype.type(0.01) * lanes[0]
    estimator.reset(np.array([True, False, False]))
    lanes = estimator.gradient(dh, per_lane=True)
    assert not lanes[0].any() and lanes[1].any() and lanes[2].any()


@pytest.mark.parametrize("kind", ALL)
def test_a_lanes_gradient_does_not_see_its_neighbours(kind):
    cell, results = make_cell("GRU"), []
    for scale in (1, 3):
        estimator, out = ALL[kind](cell, 3), []
        for x, dh, _ in stream(cell, 14, 3):
            x[[0, 2]] *= scale
            dh[[0, 2]] *= scale
            estimator.step(x)
            out.append((estimator.gradient(dh, per_lane=True)[1] + 0).tobytes())  # -0.0 is 0.0
            out.append(estimator.input_gradient(dh)[1].tobytes())
        results.append(out)
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_threads_change_no_bit(name, dtype):
    B, n = 5, 60 // CELLS[name].n_gates  # large enough that threads pay
    cell = make_cell(name, 40, n, dtype)
    rng = np.random.default_rng(0)
    xs, dh = rng.normal(size=(9, B, 40)).astype(dtype), rng.normal(size=(B, n)).astype(dtype)
    for kind, make in EVERY_ESTIMATOR.items():
        expected = None
        for n_threads in (1, 2, 7):
            estimator = make(cell, B, n_threads=n_threads)
            estimator.run(xs)
            found = estimator.gradient(dh, per_lane=True).tobytes(), estimator.input_gradient(dh).tobytes()
            expected = expected or found
            assert found == expected, (kind, n_threads)


def test_an_overflowing_lane_is_named():
    cell = make_cell("RNN")
    estimator = okcore.RTRL(cell, 1, 3)
    estimator.run(np.zeros((3, 3, 3)))
    estimator.carry.arrays["influence"][1] = 1e308
    with pytest.raises(FloatingPointError, match="influence of lane 1 is not finite"):
        estimator.gradient(np.full((3, 5), 1e3), per_lane=True)


# ---- with respect to the input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*CELLS, *NUMPY_CELLS])
@pytest.mark.parametrize("kind", ALL)
def test_input_gradients_are_differences(kind, name, dtype):
    cell = some_cell(name, dtype)
    double = type(cell)(3, 5, dtype="float64")
    estimator, judge = ALL[kind](cell, 2), okcore.TBPTT(double, 1, 2)
    assert not estimator.input_gradient(np.ones((2, 5), dtype)).any()  # before the first step
    out, eps = np.empty((2, 3), dtype), 1e-6
    for x, dh, reset in stream(cell, 9, 2, reset_rate=0.2):
        double.theta = cell.theta.astype("float64")
        state = np.where(reset[:, None], 0, estimator.state).astype("float64")

        def loss(x):
            judge.state = state  # noqa: B023 (called in this round only)
            return (judge.step(x) * dh).sum(axis=1)  # noqa: B023

        sides = [np.stack([loss(x + sign * eps * unit) for unit in np.eye(3)], axis=1) for sign in (1, -1)]
        estimator.step(x, reset)
        cell.theta *= cell.dtype.type(0.98)  # theta as it was in the step is what counts
        found = estimator.input_gradient(dh)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, (sides[0] - sides[1]) / (2 * eps), atol=1e-5 if dtype == "float32" else 1e-8)
        assert estimator.input_gradient(dh, out=out) is out
        assert out.tobytes() == found.tobytes()
    estimator.reset(np.array([True, False]))
    found = estimator.input_gradient(dh)
    assert not found[0].any() and found[1].any()
    estimator.reset()
    assert not estimator.input_gradient(dh).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_input_gradients_of_symbols_are_those_of_one_hot_rows(name, dtype):
    cell = make_cell(name, dtype=dtype)
    one, other = (okcore.OK(cell, 2, 3, batch_size=2, rng=0) for _ in range(2))
    for x, dh, reset in stream(cell, 7, 2, symbols=True, reset_rate=0.1):
        one.step(x, reset)
        other.step(np.eye(3, dtype=dtype)[x], reset)
        assert one.input_gradient(dh).tobytes() == other.input_gradient(dh).tobytes()
        assert one.input_gradient(dh).any()


@pytest.mark.parametrize("name", [name for name in CELLS if in_reference(name)])
def test_both_are_those_of_the_reference(name):
    cell = make_cell(name)
    for make in EVERY_ESTIMATOR.values():
        estimator = make(cell, 2)
        if not in_reference(type(estimator).__name__):
            continue
        reference = reference_of(estimator, getattr(okcore.reference, name)(3, 5, dtype="float64", rng=1), 7)
        for x, dh, reset in stream(cell, 9, 2, reset_rate=0.2):
            estimator.step(x, reset)
            reference.step(x, reset)
            lanes = reference.gradient(dh, per_lane=True)
            assert_close(estimator.gradient(dh, per_lane=True), lanes, "float64", factor=100)
            assert_close(estimator.input_gradient(dh), reference.input_gradient(dh), "float64")


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_input_gradients_after_run_and_after_loading(kind):
    cell = make_cell("GRU")
    xs, dhs, _ = map(np.array, zip(*stream(cell, 10, 2), strict=True))
    one, other = EVERY_ESTIMATOR[kind](cell), EVERY_ESTIMATOR[kind](cell)
    for part in xs[:4], xs[4:]:
        cell.theta *= 2
        for x in part:
            one.step(x)
        other.run(part)
    expected = one.input_gradient(dhs[0])
    cell.theta /= 4
    assert expected.any()
    assert_close(other.input_gradient(dhs[0]), expected, "float64")
    restored = EVERY_ESTIMATOR[kind](cell)
    restored.load_state_dict(one.state_dict())
    for estimator in (restored, one.clone()):
        assert estimator.input_gradient(dhs[0]).tobytes() == expected.tobytes()


def test_a_step_that_is_refused_leaves_the_input_gradient():
    cell = make_cell("RNN")
    for make in (okcore.SnAp1, lambda cell: okcore.OK(cell, 2, 1, rng=0), lambda cell: okcore.TBPTT(cell, 1)):
        estimator = make(cell)
        estimator.step(np.ones((1, 3)))
        before = estimator.input_gradient(np.ones((1, 5)))
        theta = cell.theta.copy()
        cell.theta[0, 0] = np.nan
        with pytest.raises(FloatingPointError):
            estimator.step(np.ones((1, 3)))
        cell.theta = theta
        assert before.any() and estimator.input_gradient(np.ones((1, 5))).tobytes() == before.tobytes()
