"""Readouts, norms and Adam in compiled code, against plain NumPy in float64: all remainders of vectors."""

import numpy as np
import pytest

import okcore
from okcore import _learning
from tests.conftest import DTYPES
from tests.helpers import INSTRUCTION_SETS, run_again_with


def eps(dtype, factor=8):
    return float(factor * np.finfo(dtype).eps)


def softmax_loss(h, y, weights):
    """Return loss in bits, dloss/dh, dloss/dweights."""
    h, weights, B = h.astype(float), weights.astype(float), len(h)
    h1 = np.hstack([h, np.ones((B, 1))])
    z = h1 @ weights.T
    z -= z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    credit = (np.exp(log_p) - np.eye(len(weights))[y]) / B
    return -log_p[np.arange(B), y].mean() / np.log(2), credit @ weights[:, :-1], credit.T @ h1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_out", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 100, 257])
@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_softmax_loss(lanes, n_out, dtype):
    rng = np.random.default_rng(n_out)
    for n, scale in ((1, 1), (5, 0.1), (19, 3)):
        readout = okcore.SoftmaxReadout(n, n_out, dtype=dtype, rng=0, init="normal", scale=scale)
        h, y = rng.normal(size=(lanes, n)).astype(dtype), rng.integers(n_out, size=lanes)
        loss, dh, dweights = readout.loss(h, y)
        expected = softmax_loss(h, y, readout.weights)
        size = 1 + np.abs(h).sum(axis=1).max() * np.abs(readout.weights).max()
        assert loss == pytest.approx(expected[0], rel=eps(dtype, 64), abs=eps(dtype, 8 * size))
        for found, wanted in ((dh, expected[1]), (dweights, expected[2])):
            assert found.dtype == dtype
            np.testing.assert_allclose(found, wanted, rtol=0, atol=eps(dtype, 16 * size * (1 + np.abs(wanted).max())))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_loss(dtype):
    rng = np.random.default_rng(0)
    for B, n, n_out in ((1, 1, 1), (3, 5, 4), (16, 19, 33)):
        readout = okcore.LinearReadout(n, n_out, dtype=dtype, rng=0)
        h, y = rng.normal(size=(B, n)).astype(dtype), rng.normal(size=(B, n_out)).astype(dtype)
        loss, dh, dweights = readout.loss(h, y)
        h1, weights = np.hstack([h, np.ones((B, 1))]).astype(float), readout.weights.astype(float)
        error = h1 @ weights.T - y
        assert loss == pytest.approx(0.5 * (error**2).sum() / B / np.log(2), rel=eps(dtype, 64))
        np.testing.assert_allclose(dh, error @ weights[:, :-1] / B, rtol=0, atol=eps(dtype, 64))
        np.testing.assert_allclose(dweights, error.T @ h1 / B, rtol=0, atol=eps(dtype, 64))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 0), (4, 2, 3)])
def test_outputs_of_any_shape(shape):
    readout = okcore.LinearReadout(5, 3, dtype=np.float64, rng=0)
    h = np.random.default_rng(0).normal(size=(*shape, 5))
    expected = h @ readout.weights[:, :-1].T + readout.weights[:, -1]
    assert readout.outputs(h).shape == expected.shape == readout.predict(h).shape
    np.testing.assert_allclose(readout.outputs(h), expected, rtol=0, atol=1e-14)


def test_targets_of_ones_own_are_checked_too():
    class Careless(okcore.SoftmaxReadout):
        def check_targets(self, y, batch_size):
            return np.asarray(y)

    readout, h = Careless(5, 3, rng=0), np.zeros((2, 5), np.float32)
    assert readout.loss(h, [0, 2])[0] > 0
    for wrong in ([0, 3], [-1, 0], [0], [[0, 1]], [0.0, 1.0], np.array([0, 9, 1])[::2]):
        with pytest.raises(ValueError, match="y must be"):
            readout.loss(h, wrong)


def test_weights_of_another_kind_are_refused():
    h = np.zeros((2, 5), np.float32)
    for weights in (np.zeros((3, 6)), np.zeros((3, 5), "f"), np.zeros((6, 3), "f").T, np.zeros(18, "f")):
        readout = okcore.SoftmaxReadout(5, 3, rng=0)
        readout.weights = weights
        with pytest.raises(ValueError):
            readout.loss(h, [0, 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 31, 32, 33, 65, 1000])
def test_norm(size, dtype):
    x = np.random.default_rng(0).normal(size=size).astype(dtype)
    assert _learning.norm(x) == pytest.approx(np.sqrt((x.astype(float) ** 2).sum()), rel=1e-12)
    x[:1] = np.nan
    assert np.isnan(_learning.norm(x)) == (size > 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 1001])
def test_adam_of_any_size(size, dtype):
    rng, optimizer = np.random.default_rng(0), okcore.Adam(0.01)
    parameter = rng.normal(size=size).astype(dtype)
    expected, m, v = parameter.astype(float), 0, 0
    for t in range(1, 6):
        g = (rng.normal(size=size) * 10.0 ** rng.integers(-3, 3, size=size)).astype(dtype)
        optimizer.update("a", parameter, g)
        g = g.astype(float)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(parameter, expected, rtol=0, atol=eps(dtype, 32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("what", ["square", "parameter"])
def test_adam_notices_each_entry_that_overflows(what, size, dtype):
    most = float(np.finfo(dtype).max)
    for place in range(size):
        optimizer = okcore.Adam(0.1 if what == "square" else 0.5 * most, beta1=0.0)
        parameter, gradient = np.zeros(size, dtype), np.zeros(size, dtype)
        optimizer.update("a", parameter, gradient)
        parameter[place], gradient[place] = (0, 0.5 * most) if what == "square" else (-0.9 * most, 1)
        before = parameter.copy(), optimizer.state_dict()
        with pytest.raises(FloatingPointError, match="'a' overflows"):
            optimizer.update("a", parameter, gradient)
        assert np.array_equal(parameter, before[0])
        assert all(np.array_equal(value, before[1][key]) for key, value in optimizer.state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_slots_of_a_parameter_without_gradients_become_zero(dtype):
    optimizer, parameter = okcore.Adam(0.1, beta2=0.9), np.ones(20, dtype)
    optimizer.update("a", parameter, np.linspace(-1, 1, 20).astype(dtype))
    for _ in range(20_000):  # 0.9 x a small denormal is that denormal again
        optimizer.update("a", parameter, np.zeros(20, dtype))
    assert not optimizer._slots["a"]["mean"].any() and not optimizer._slots["a"]["square"].any()


@pytest.mark.parametrize("make", [okcore.SGD, okcore.Adam])
def test_parameters_and_gradients_of_any_layout(make):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(4, 6)), rng.normal(size=(3, 4, 6))
    plain, optimizer = start.copy(), make(0.1)
    for gradient in gradients:
        optimizer.update("a", plain, gradient)
    wide, shifted = np.zeros((8, 12)), np.zeros(4 * 6 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(4, 6)
    for parameter in (np.asfortranarray(start), wide[::2, ::2], shifted):
        parameter[...] = start
        optimizer = make(0.1)
        for gradient in gradients:
            optimizer.update("a", parameter, np.asfortranarray(gradient))
        assert np.array_equal(parameter, plain)


class Momentum(okcore.Optimizer):
    slots = ("velocity",)

    def _move(self, parameter, gradient, count, slots, new, new_slots):
        np.add(0.9 * slots["velocity"], gradient, out=new_slots["velocity"])
        np.subtract(parameter, self.learning_rate * new_slots["velocity"], out=new)


def test_an_optimizer_of_ones_own():
    rng, optimizer = np.random.default_rng(0), Momentum(0.1)
    parameter, expected, velocity = np.ones(5), np.ones(5), 0
    for _ in range(4):
        gradient = rng.normal(size=5)
        optimizer.update("a", parameter, gradient)
        velocity = 0.9 * velocity + gradient
        expected -= 0.1 * velocity
    np.testing.assert_allclose(parameter, expected, rtol=1e-14)
    before = parameter.copy(), optimizer.state_dict()
    with pytest.raises(FloatingPointError, match="'b'"):
        optimizer.update_all({"a": (parameter, gradient), "b": (np.ones(2), np.full(2, np.inf))})
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match="'b' overflows"):
        optimizer.update_all({"a": (parameter, gradient), "b": (np.full(2, -1.7e308), np.full(2, 1.7e308))})
    assert np.array_equal(parameter, before[0])
    assert all(np.array_equal(value, before[1][key]) for key, value in optimizer.state_dict().items())


@pytest.mark.parametrize("kind", [okcore.SGD, okcore.Adam])
def test_all_updates_or_none(kind):
    optimizer, a, b = kind(0.1), np.ones(40, np.float32), np.ones(3, np.float32)
    optimizer.update_all({"a": (a, a.copy()), "b": (b, b.copy())})
    before, state = (a.copy(), b.copy()), optimizer.state_dict()
    with pytest.raises(FloatingPointError, match="'b'"):
        optimizer.update_all({"a": (a, a.copy()), "b": (b, np.array([1, 1, np.nan], "f"))})
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])
    assert all(np.array_equal(value, state[key]) for key, value in optimizer.state_dict().items())


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS[:-1])
def test_on_narrower_instructions(instructions):
    run_again_with(instructions, __file__)


def test_symbols_in_unaligned_memory_are_copied():
    readout = okcore.SoftmaxReadout(3, 4, rng=0)
    h, y = np.ones((2, 3), np.float32), np.array([1, 3])
    unaligned = np.frombuffer(b"." + y.tobytes(), np.uint8)[1:].view(np.int64)
    assert not unaligned.flags.aligned
    for one, other in zip(readout.loss(h, unaligned), readout.loss(h, y), strict=True):
        assert np.array_equal(one, other)
