"""An independent judge: PyTorch's autograd through the whole sequence (where PyTorch is installed); okcore.torch."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES
from tests.helpers import assert_close, make_cell
from tests.test_extending import load

torch = pytest.importorskip("torch")

from okcore.torch import OnlineRNN, from_torch, to_torch  # noqa: E402 (torch must be there)


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


# ---- okcore.torch ------------------------------------------------------------------------------------------------

B, V, D, N, T = 3, 7, 4, 5, 12  # lanes, symbols, inputs of the net, hidden units, steps
NETS = {"RNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}
nets = pytest.mark.parametrize("name", NETS)
either = pytest.mark.parametrize("symbols", [False, True], ids=["floats", "symbols"])


def modules(name, symbols=False, dtype=torch.float64):
    """Return a net with a long memory and, for symbols, an embedding."""
    torch.manual_seed(0)
    net = NETS[name](D, N, dtype=dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 1.5
    return net, torch.nn.Embedding(V, D, dtype=dtype) if symbols else None


def some_inputs(symbols, steps=T, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    if symbols:
        return torch.randint(V, (steps, B), generator=generator)
    return torch.randn(steps, B, D, generator=generator, dtype=dtype)


def full_sequence(net, embedding, xs, resets, parameters_at=None):
    """Return h after the last step, by torch's own step, with the parameters of each step (or always the net's)."""
    step, state = STEPS[type(net).__name__], (torch.zeros(B, N, dtype=torch.float64),) * 2
    for t, x in enumerate(xs):
        parameters = list(net.parameters()) if parameters_at is None else parameters_at[t]
        x = x if embedding is None else embedding(x)
        state = step(x, tuple(s * ~resets[t][:, None] for s in state), *parameters)
    return state[0]


@either
@nets
def test_gradients_are_those_of_the_whole_sequence(name, symbols):
    net, embedding = modules(name, symbols)
    online = OnlineRNN(net, "rtrl", B, embedding, block=4)
    xs, dhs = some_inputs(symbols), torch.randn(T, B, N, dtype=torch.float64)
    resets = torch.rand(T, B) < 0.1
    parameters = [*net.parameters(), *(embedding.parameters() if symbols else ())]
    assert [*online.parameters()] == parameters
    for t in range(T):
        h = online(xs[t], reset=resets[t])
        found = torch.autograd.grad((h * dhs[t]).sum(), parameters)
        judge = full_sequence(net, embedding, xs[: t + 1], resets)
        torch.testing.assert_close(h, judge, rtol=0, atol=1e-12)
        expected = torch.autograd.grad((judge * dhs[t]).sum(), parameters)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(gradient.abs().max() > 1e-3 for gradient in found)


@nets
def test_gradients_while_parameters_change(name):
    net, _ = modules(name)
    online = OnlineRNN(net, estimator="rtrl", batch_size=B, block=4)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    xs, dhs, resets = some_inputs(False), torch.randn(T, B, N, dtype=torch.float64), torch.rand(T, B) < 0.1
    used = []
    for t in range(T):
        used.append([p.detach().clone().requires_grad_() for p in net.parameters()])
        optimizer.zero_grad()
        (online(xs[t], resets[t]) * dhs[t]).sum().backward()
        judge = (full_sequence(net, None, xs[: t + 1], resets, used) * dhs[t]).sum()
        each = torch.autograd.grad(judge, [p for step in used for p in step], materialize_grads=True)
        for i, parameter in enumerate(net.parameters()):  # each step's own part, summed
            torch.testing.assert_close(parameter.grad, sum(each[i::4]), rtol=1e-12, atol=1e-12)
        optimizer.step()


@nets
def test_an_embeddings_gradient_while_parameters_change(name):
    # theta_x = W_ih E^T is what each step used; the last link of the chain is that of the newest step.
    net, embedding = modules(name, True)
    online = OnlineRNN(net, "rtrl", B, embedding, block=4)
    optimizer = torch.optim.Adam(online.parameters(), 0.02)
    twin = okcore.RTRL(copy.deepcopy(online.cell), 4, B)
    xs, dhs = some_inputs(True), torch.randn(T, B, N, dtype=torch.float64)
    for t in range(T):
        optimizer.zero_grad()
        (online(xs[t]) * dhs[t]).sum().backward()
        twin.cell.theta = online.cell.theta
        twin.step(xs[t].numpy())
        W, E = net.weight_ih_l0.detach(), embedding.weight.detach()
        np.testing.assert_allclose(twin.cell.theta[:, :V], W @ E.T, atol=1e-14)
        G_x = torch.from_numpy(twin.gradient(dhs[t].numpy()))[:, :V]
        torch.testing.assert_close(net.weight_ih_l0.grad, G_x @ E, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(embedding.weight.grad, G_x.T @ W, rtol=1e-12, atol=1e-12)
        optimizer.step()


@nets
def test_an_inputs_gradient_is_the_same_steps(name):
    net, _ = modules(name)
    online = OnlineRNN(net, "ok", B, rank=2, block=3, rng=0)
    xs, dh = some_inputs(False), torch.randn(B, N, dtype=torch.float64)
    for t in range(5):
        x = xs[t].clone().requires_grad_()
        (online(x) * dh).sum().backward()
    x_judge = xs[4].clone().requires_grad_()
    judge = full_sequence(net, None, torch.stack([*xs[:4], x_judge]), torch.zeros(5, B) > 0)
    (judge * dh).sum().backward()
    torch.testing.assert_close(x.grad, x_judge.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@nets
def test_there_and_back(name, dtype):
    net, _ = modules(name, dtype=dtype)
    cell = from_torch(net)
    assert type(cell).__name__ == name and str(dtype).endswith(cell.dtype.name)
    again, xs = to_torch(cell), some_inputs(False, dtype=dtype)
    assert type(again) is type(net) and np.array_equal(from_torch(again).theta, cell.theta)
    hs, _ = okcore.RTRL(cell, 1, B).run(xs.numpy())
    for module in (net, again):
        torch.testing.assert_close(module(xs)[0].detach(), torch.from_numpy(hs), rtol=1e-5, atol=1e-6)
    theta = cell.theta.copy()
    with torch.no_grad():
        net.weight_ih_l0.zero_()
        again.weight_ih_l0.zero_()
    assert np.array_equal(cell.theta, theta)  # copies


@either
@nets
def test_what_was_learned_is_a_plain_modules(name, symbols):
    net, embedding = modules(name, symbols, torch.float32)
    online = OnlineRNN(net, "uoro", B, embedding, rng=0)
    optimizer = torch.optim.Adam(online.parameters(), 0.01)
    xs = some_inputs(symbols, dtype=torch.float32)
    before = copy.deepcopy(net.state_dict())
    for x in xs:
        online(x).sum().backward()
        optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())
    online.reset()
    with torch.no_grad():
        hs = torch.stack([online(x) for x in xs])
    assert not hs.requires_grad
    plain = NETS[name](D, N)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(hs, plain(embedding(xs) if symbols else xs)[0].detach(), rtol=1e-4, atol=1e-5)


def test_only_the_newest_step_has_a_gradient():
    net, _ = modules("LSTM")
    online, xs = OnlineRNN(net, "rtrl", B), some_inputs(False)
    first, second = online(xs[0]), online(xs[1])
    with pytest.raises(RuntimeError, match="backward must come before the next step"):
        first.sum().backward()
    second.sum().backward(retain_graph=True)
    once = net.weight_hh_l0.grad.clone()
    second.sum().backward()
    torch.testing.assert_close(net.weight_hh_l0.grad, 2 * once)
    h = online(xs[2])
    with pytest.raises(ValueError, match="x must be"):
        online(xs[3][:1])
    h.sum().backward()  # the step was not taken
    h = online(xs[3])
    online.reset(torch.tensor([True, False, False]))
    with pytest.raises(RuntimeError, match="reset"):
        h.sum().backward()
    assert not online.estimator.state[0].any() and online.estimator.state[1].any()


def test_frozen_parameters_get_none():
    net, embedding = modules("GRU", True)
    net.requires_grad_(False)
    online = OnlineRNN(net, "rtrl", B, embedding)
    online(some_inputs(True)[0]).sum().backward()
    assert net.weight_ih_l0.grad is None and embedding.weight.grad.abs().max() > 0


@either
def test_saving_and_copying_go_on(symbols):
    net, embedding = modules("LSTM", symbols)
    online = OnlineRNN(net, "ok", B, embedding, rank=2, block=3, rng=0)
    xs, file = some_inputs(symbols), io.BytesIO()
    for x in xs[:5]:
        online(x)
    torch.save(online.state_dict(), file)
    file.seek(0)
    other = OnlineRNN(*modules("LSTM", symbols)[:1], "ok", B, modules("LSTM", symbols)[1], rank=2, block=3, rng=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(online)):
        assert twin.estimator.cell is twin.cell and twin.cell is not online.cell
    results = []
    for each in (copy.deepcopy(online), other, online):
        for x in xs[5:]:
            h = each(x)
        each.zero_grad()
        h.sum().backward()
        results.append([h.detach(), *(p.grad for p in each.parameters())])
    for found in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], found, strict=True))


@pytest.mark.parametrize("module, error, word", [
    (lambda: torch.nn.LSTM(D, N, num_layers=2), ValueError, "num_layers"),
    (lambda: torch.nn.GRU(D, N, bidirectional=True), ValueError, "bidirectional"),
    (lambda: torch.nn.LSTM(D, N, proj_size=2), ValueError, "proj_size"),
    (lambda: torch.nn.RNN(D, N, nonlinearity="relu"), ValueError, "nonlinearity"),
    (lambda: torch.nn.GRU(D, N, bias=False), ValueError, "bias"),
    (lambda: torch.nn.Linear(D, N), TypeError, "net"),
    (lambda: torch.nn.GRUCell(D, N), TypeError, "net"),
    (lambda: torch.nn.GRU(D, N, dtype=torch.float16), TypeError, "dtype"),
    (lambda: torch.nn.GRU(D, N, device="meta"), TypeError, "meta"),
])  # fmt: skip
def test_nets_that_are_refused(module, error, word):
    for make in (from_torch, lambda net: OnlineRNN(net, "rtrl")):
        with pytest.raises(error, match=word):
            make(module())


def test_bad_arguments_are_refused():
    net, embedding = modules("GRU", True)
    for options, error, word in [
        ({"estimator": "bptt"}, ValueError, "estimator"),
        ({"estimator": "ok"}, TypeError, "rank"),
        ({"estimator": "ok", "rank": 0}, ValueError, "rank"),
        ({"estimator": "rtrl", "horizon": 3}, TypeError, "horizon"),
        ({"estimator": "rtrl", "batch_size": 0}, ValueError, "batch_size"),
        ({"estimator": "rtrl", "embedding": torch.nn.Linear(V, D)}, TypeError, "embedding"),
        ({"estimator": "rtrl", "embedding": torch.nn.Embedding(V, D + 1)}, ValueError, "embedding_dim"),
        ({"estimator": "rtrl", "embedding": torch.nn.Embedding(V, D, padding_idx=0)}, ValueError, "padding_idx"),
        ({"estimator": "rtrl", "embedding": torch.nn.Embedding(V, D)}, TypeError, "embedding.weight"),  # float32
    ]:
        with pytest.raises(error, match=word):
            OnlineRNN(net, **options)
    online = OnlineRNN(net, "rtrl", B, embedding)
    for x in (torch.ones(B, V, dtype=torch.float64), np.zeros(B, int), torch.ones(B)):
        with pytest.raises(TypeError, match="x must be"):
            online(x)
    with pytest.raises(ValueError, match="symbols from 0 to 6"):
        online(torch.tensor([0, 1, 7]))
    with pytest.raises(TypeError, match="cell"):
        to_torch(okcore.RHN(2, 3))
    net.float()
    with pytest.raises(TypeError, match=r"net.weight_ih_l0 must be torch.float64 on the cpu, got torch.float32"):
        online(torch.zeros(B, dtype=torch.int64))
    assert online.estimator.steps == 0
    for name in okcore.estimators.ESTIMATORS:  # rng is accepted for all
        options = {"ok": {"rank": 2}, "tbptt": {"horizon": 3}}.get(name, {})
        OnlineRNN(modules("RNN")[0], name, rng=0, **options)


def test_without_torch_it_says_what_to_install():
    program = "import sys; sys.modules['torch'] = None\nimport okcore.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install okcore[torch]" in done.stderr.splitlines()[-1]


def test_an_lstm_learns_beyond_the_window_of_truncation():
    ok, tbptt = load("torch_delay").main(sequences=60)
    assert ok < 0.4 < 0.9 < tbptt
