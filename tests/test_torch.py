"""An independent judge: PyTorch's autograd through the whole sequence (where PyTorch is installed)."""

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES
from tests.helpers import assert_close, make_cell

torch = pytest.importorskip("torch")


def highway(x, h, W_x, W_h, b_ih):
    z, f = (x @ W_x.T + h @ W_h.T + b_ih).chunk(2, dim=1)
    f = torch.sigmoid(f)
    return f * h + (1 - f) * (2 * torch.sigmoid(z) - 1)


# (x, (h, c), W_x, W_h, b_ih, b_hh) -> (h, c): the cells that torch has or that are a few lines of it
STEPS = {
    "RNN": lambda x, state, W_x, W_h, b_ih, b_hh: (torch.rnn_tanh_cell(x, state[0], W_x, W_h, b_ih, b_hh), state[1]),
    "GRU": lambda x, state, W_x, W_h, b_ih, b_hh: (torch.gru_cell(x, state[0], W_x, W_h, b_ih, b_hh), state[1]),
    "LSTM": lambda x, state, *parameters: torch.lstm_cell(x, state, *parameters),
    "RHN": lambda x, state, W_x, W_h, b_ih, b_hh: (highway(x, state[0], W_x, W_h, b_ih), state[1]),
}


def torch_gradient(name, cell, xs, dhs, resets):
    """Return the gradient by theta of sum(dh . h), by autograd; resets zero the state."""
    v, n = cell.n_in, cell.n_hidden
    theta = torch.tensor(cell.theta, requires_grad=True)
    W_x, W_h, b = theta[:, :v], theta[:, v : v + n], theta[:, v + n :]
    b_ih, b_hh = b[:, 0], b[:, 1] if cell.n_terms == 2 else torch.zeros_like(b[:, 0])
    state = (torch.zeros(len(xs[0]), n, dtype=theta.dtype),) * 2
    total = 0
    for x, dh, reset in zip(map(torch.tensor, xs), map(torch.tensor, dhs), resets, strict=True):
        state = tuple(s * torch.tensor(~reset)[:, None] for s in state)
        state = STEPS[name](x, state, W_x, W_h, b_ih, b_hh)
        total = total + (state[0] * dh).sum()
    total.backward()
    return theta.grad.numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CELLS if name in STEPS])
def test_exact_gradients_are_autograds(name, dtype):
    cell = make_cell(name, 4, 6, dtype, gain=1.5)
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(20, 3, 4)).astype(dtype), rng.normal(size=(20, 3, 6)).astype(dtype)
    resets = rng.random((20, 3)) < 0.1
    expected = torch_gradient(name, cell, xs, dhs, resets)
    for estimator in (
        okcore.RTRL(cell, 1, 3), okcore.RTRL(cell, 6, 3), okcore.TBPTT(cell, 20, 3),
        okcore.OK(cell, 20 * cell.n_terms, 5, batch_size=3),
    ):
        assert_close(estimator.run(xs, dhs, resets)[1], expected, dtype, factor=5)
