"""Truth 1: H and F of every cell are the derivatives of its step; and the compiled cells are the NumPy ones."""

import numpy as np
import pytest

import okcore
from okcore import reference
from tests.conftest import CELLS, DTYPES
from tests.helpers import assert_close, in_reference, make_cell


def state_after(cell, theta, state, x):
    """Return the state after one step from `state` with `theta`, one lane."""
    before = cell.theta.copy()
    estimator = okcore.TBPTT(cell, 1)
    estimator.state = state[None]
    cell.theta = theta
    estimator.step(x[None])
    cell.theta = before
    return estimator.state[0]


def central_difference(function, at, step=1e-6):
    """Return d function / d at, the argument's axes last."""
    columns = []
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        columns.append((function(at + shift) - function(at - shift)) / (2 * step))
    return np.moveaxis(np.array(columns), 0, -1).reshape(len(columns[0]), *at.shape)


IN_REFERENCE = [name for name in CELLS if in_reference(name)]
BOTH = [
    *(pytest.param(okcore, name, id=f"{name}-compiled") for name in CELLS),
    *(pytest.param(reference, name, id=f"{name}-numpy") for name in IN_REFERENCE),
]


@pytest.mark.parametrize("module, name", BOTH)
def test_jacobians_are_the_derivatives(module, name):
    rng = np.random.default_rng(0)
    cell = getattr(module, name)(3, 4, dtype="float64", rng=1)
    cell.theta *= 2
    state, x = rng.normal(size=cell.state_size), rng.normal(size=3)

    exact = okcore.RTRL(cell, 1)
    exact.state = state[None]
    exact.step(x[None])
    F = central_difference(lambda theta: state_after(cell, theta, state, x), cell.theta.copy())
    np.testing.assert_allclose(exact.influence()[0], F, atol=1e-8)

    # H through the influence of the step before: J2 = H2 F1 + F2
    first = state_after(cell, cell.theta.copy(), state, x)
    H = central_difference(lambda s: state_after(cell, cell.theta.copy(), s, x), first)
    exact.step(x[None])
    F2 = central_difference(lambda theta: state_after(cell, theta, first, x), cell.theta.copy())
    np.testing.assert_allclose(exact.influence()[0], np.tensordot(H, F, 1) + F2, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", IN_REFERENCE)
def test_compiled_cells_are_the_numpy_cells(name, dtype):
    compiled, plain = (getattr(m, name)(3, 17, dtype=dtype, rng=1) for m in (okcore, reference))
    assert np.array_equal(compiled.theta, plain.theta)
    compiled.theta *= 3
    plain.theta *= 3
    one, other = okcore.RTRL(compiled, 2, 3), okcore.RTRL(plain, 2, 3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(size=(3, 3)).astype(dtype)
        assert_close(one.step(x), other.step(x), dtype)
    assert_close(one.influence(), other.influence(), dtype, factor=10)


def gru(x, h, before):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x, 3, axis=1), np.split(h, 3, axis=1)
    r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
    return (1 - z) * np.tanh(x_n + r * h_n) + z * before


# The hidden state from the halves of the pre-activations, W_x x + b_ih and W_h h + b_hh (a single bias is in the
# first), and from the state before, for cells whose state is h
STEPS = {"RNN": lambda x, h, before: np.tanh(x + h), "GRU": gru}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_forward_step_in_numpy(name, dtype):
    n, cell = 17, CELLS[name](3, 17, dtype=dtype, rng=1)
    cell.theta *= 3
    W_x, W_h, b_ih, *b_hh = np.split(cell.theta.astype(float), [3, 3 + n, *range(4 + n, 3 + n + cell.n_terms)], axis=1)
    rng, estimator, h = np.random.default_rng(0), okcore.TBPTT(cell, 1, 3), np.zeros((3, n))
    for _ in range(5):
        x = rng.normal(size=(3, 3)).astype(dtype)
        from_h = h @ W_h.T + (b_hh[0].T if b_hh else 0)
        h = STEPS[name](x @ W_x.T + b_ih.T, from_h, h)
        assert_close(estimator.step(x), h, dtype)


@pytest.mark.parametrize("name", CELLS)
def test_saturated_cells_stay_finite(name):
    cell = make_cell(name, dtype="float32", gain=1e4)
    estimator = okcore.RTRL(cell, 2)
    for sign in (1, -1, 1, -1):
        estimator.step(np.full((1, 3), sign * 1e3, np.float32))
    assert np.isfinite(estimator.gradient(np.ones((1, 5), np.float32))).all()


@pytest.mark.parametrize("name", CELLS)
def test_default_initialisation_is_torchs(name):
    cell = make_cell(name, n_in=20, n_hidden=100)
    assert np.abs(cell.theta).max() <= 0.1
    assert abs(cell.theta.std() - 0.1 / np.sqrt(3)) < 1e-3
    paper = getattr(okcore, name)(20, 100, dtype="float64", rng=1, init="normal")
    assert abs(paper.theta.std() - 0.01) < 1e-4 and abs(paper.theta.mean()) < 2e-4


def test_theta_is_one_buffer():
    cell = make_cell("GRU")
    buffer = cell.theta
    cell.theta -= 1.0
    cell.theta = np.ones_like(buffer)
    assert cell.theta is buffer and (buffer == 1).all()
    assert buffer.ctypes.data % 64 == 0 and buffer.flags.c_contiguous
    assert buffer.shape == (3 * 5, 3 + 5 + 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_tanh_are_exact_to_some_units_in_the_last_place(dtype):
    # Through cells: an RNN's step is tanh(x), an RHN's with f = 1/2 and h' = 0 is sigmoid(x) - 1/2.
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=2000) * 10.0 ** rng.uniform(-6, 2, 2000), [0, 0.625, -0.625, 100, -100]])
    x = x.astype(dtype)
    wide = x.astype(np.longdouble)
    for n in (len(x), 3):  # whole vectors, and less than one
        rnn = okcore.RNN(1, n, dtype=dtype, init="zeros")
        rnn.theta[:, -1] = x[:n]
        h = okcore.TBPTT(rnn, 1).step(np.zeros((1, 1), dtype))[0]
        np.testing.assert_allclose(h, np.tanh(wide[:n]), rtol=4 * np.finfo(dtype).eps)
        rhn = okcore.RHN(1, n, dtype=dtype, init="zeros")
        rhn.theta[:n, -1] = x[:n]
        h = okcore.TBPTT(rhn, 1).step(np.zeros((1, 1), dtype))[0]
        np.testing.assert_allclose(h, 1 / (1 + np.exp(-wide[:n])) - 0.5, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("make", [okcore.GRU, okcore.SoftmaxReadout], ids=lambda make: make.__name__)
def test_a_scale_beyond_float32_is_refused(make):
    with pytest.raises(ValueError, match=r"scale must be smaller than 1e\+37"):
        make(2, 1, init="normal", scale=1e308, rng=1)
