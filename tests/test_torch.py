"""An independent judge: PyTorch's autograd through the whole sequence (where PyTorch is installed)."""

import numpy as np
import pytest

import okcore
from tests.helpers import assert_close, make_cell

torch = pytest.importorskip("torch")


def torch_gradient(name, cell, xs, dhs, resets):
    """Return the gradient by theta of sum(dh . h), by autograd; resets zero the state."""
    v, n = cell.n_in, cell.n_hidden
    theta = torch.tensor(cell.theta, requires_grad=True)
    W_x, W_h, b = theta[:, :v], theta[:, v : v + n], theta[:, v + n :]
    state = (torch.zeros(len(xs[0]), n, dtype=theta.dtype),) * 2
    total = 0
    for x, dh, reset in zip(map(torch.tensor, xs), map(torch.tensor, dhs), resets, strict=True):
        h, c = (s * torch.tensor(~reset)[:, None] for s in state)
        b_ih, b_hh = b[:, 0], b[:, 1] if name == "GRU" else torch.zeros_like(b[:, 0])
        if name == "RNN":
            h = torch.rnn_tanh_cell(x, h, W_x, W_h, b_ih, b_hh)
        elif name == "GRU":
            h = torch.gru_cell(x, h, W_x, W_h, b_ih, b_hh)
        elif name == "LSTM":
            h, c = torch.lstm_cell(x, (h, c), W_x, W_h, b_ih, b_hh)
        else:
            z, f = (x @ W_x.T + h @ W_h.T + b_ih).chunk(2, dim=1)
            f = torch.sigmoid(f)
            h = f * h + (1 - f) * (2 * torch.sigmoid(z) - 1)
        state = h, c
        total = total + (h * dh).sum()
    total.backward()
    return theta.grad.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["RNN", "RHN", "LSTM", "GRU"])
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
