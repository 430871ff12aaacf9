"""A cell and an algorithm that are not in the package fit in as one short file each (examples/)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import okcore
from tests.helpers import CELLS, assert_close, every_estimator, gradients, make_cell, stream
from tests.test_cells import central_difference, state_after
from tests.test_invariance import trace

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class MinimalGatedUnit(okcore.Cell):
    """Two terms, with a second state block that only integrates: h = (1-f) h' + f tanh(x + f y), s = s'/2 + h."""

    n_gates, n_state_blocks, n_terms = 2, 2, 2

    def pointwise(self, pre, state):
        (x_f, x_n), (h_f, h_n) = np.moveaxis(pre, (1, 2), (0, 1))
        h, s = np.moveaxis(state, 1, 0)
        f = 1 / (1 + np.exp(-(x_f + h_f)))
        n = np.tanh(x_n + f * h_n)
        slope, bell = f * (1 - n**2), f * (1 - f)
        d_f = (n - h) * bell + slope * h_n * bell
        one = np.stack([d_f, slope], axis=1)
        two = np.stack([d_f, slope * f], axis=1)
        new = (1 - f) * h + f * n
        d = np.stack([np.stack([one, one], axis=1), np.stack([two, two], axis=1)], axis=1)
        keep = 1 - f
        c = np.stack([np.stack([keep, 0 * f], axis=1), np.stack([keep, 0 * f + 0.5], axis=1)], axis=1)
        return np.stack([new, 0.5 * s + new], axis=1), d, c


@pytest.mark.parametrize("make", [load("ugrnn").UGRNN, MinimalGatedUnit])
def test_a_cell_in_numpy_works_with_every_estimator(make):
    cell = make(3, 4, dtype="float64", rng=1)
    rng = np.random.default_rng(0)
    state, x = rng.normal(size=cell.state_size), rng.normal(size=3)
    exact = okcore.RTRL(cell, 1)
    exact.state = state[None]
    exact.step(x[None])
    F = central_difference(lambda theta: state_after(cell, theta, state, x), cell.theta.copy())
    np.testing.assert_allclose(exact.influence()[0], F, atol=1e-8)

    options = {"steps": 13, "learning_rate": 0.05, "reset_rate": 0.1}
    textbook = gradients(okcore.RTRL(cell, 1, 2), **options)
    assert_close(gradients(okcore.RTRL(cell, 4, 2), **options), textbook, "float64")
    assert_close(gradients(okcore.OK(cell, 40, 3, batch_size=2), **options), textbook, "float64")
    for kind, estimator in every_estimator(cell, 3).items():
        threaded = every_estimator(cell, 3, n_threads=2)[kind]
        assert trace(estimator) == trace(threaded), kind


@pytest.mark.parametrize("name", CELLS)
def test_an_algorithm_in_numpy_is_its_definition(name):
    # SnAp-1: J <- mask * (H J + F) at every step.
    SnAp1 = load("snap1").SnAp1
    cell = make_cell(name, gain=1.5)
    estimator, probe = SnAp1(cell, 2), okcore.RTRL(cell, 1, 2)
    S, P, m = cell.state_size, *cell.theta.shape
    mask = (np.arange(S)[:, None] % 5 == np.arange(P) % 5)[:, :, None]
    J = np.zeros((2, S, P, m))
    for t, (x, dh, reset) in enumerate(stream(cell, 9, 2, reset_rate=0.2)):
        reset[:] = reset if t else False
        J[reset] = 0
        J *= mask  # the published order reduces after the step; the newest step is exact here
        estimator.step(x, reset)
        probe.step(x, reset)
        for lane in range(2):
            H, D = probe.tape.jacobians(0, lane)
            J[lane] = np.tensordot(H, J[lane], 1) + sum(
                D_j[:, :, None] * u_j for D_j, u_j in zip(D, probe.tape.augmented_inputs(0, lane), strict=True)
            )
        padded = np.concatenate([dh, np.zeros((2, S - 5))], axis=1)
        assert_close(estimator.gradient(dh), np.einsum("bs,bspm->pm", padded, J), "float64")
        assert_close(estimator.influence(), J, "float64")
    twin = estimator.clone()
    assert trace(twin) == trace(estimator)


def test_examples_run(capsys):
    load("ugrnn").main(steps=50)
    load("snap1").main(steps=20)
    assert "copies strings" in capsys.readouterr().out


def test_errors_of_a_users_cell_name_what_is_wrong():
    def cell_that_returns(result):
        class Broken(okcore.Cell):
            def pointwise(self, pre, state):
                return result(state)

        return okcore.TBPTT(Broken(2, 3, dtype="float64"), 1)

    x = np.zeros((1, 2))
    for result, error, word in [
        (lambda s: s, TypeError, "must return"),
        (lambda s: (s, s, s), ValueError, "d must have shape"),
        (lambda s: (s.astype("f"), s[:, None, None], s[:, None]), TypeError, "state must be float64"),
        (lambda s: (s + np.nan, s[:, None, None], s[:, None]), FloatingPointError, "lane 0"),
        (lambda s: 1 / 0, ZeroDivisionError, "division"),
    ]:
        with pytest.raises(error, match=word):
            cell_that_returns(result).step(x)
    with pytest.raises(NotImplementedError, match="must define pointwise"):
        okcore.TBPTT(okcore.Cell(2, 3, dtype="float64"), 1).step(x)


def test_a_carry_that_raises_loses_its_lane_only():
    class Faulty(load("snap1").OwnUnitCarry):
        fail = False

        def absorb(self, lane, Phi, u, A):
            if self.fail and lane == 1:
                raise KeyError("mine")
            super().absorb(lane, Phi, u, A)

    cell = make_cell("RNN")
    faulty = okcore.Estimator(cell, Faulty(cell, 3), 1)
    sound = load("snap1").SnAp1(cell, 3)
    data = list(stream(cell, 5, 3))
    for x, _, _ in data[:4]:
        faulty.step(x)
        sound.step(x)
    faulty.carry.fail = True
    with pytest.raises(KeyError, match="mine"):
        faulty.step(data[4][0])
    faulty.carry.fail = False
    faulty.step(data[4][0])
    sound.step(data[4][0])
    one, other = faulty.influence(), sound.influence()
    assert np.array_equal(one[[0, 2]], other[[0, 2]]) and not np.array_equal(one[1], other[1])


def test_a_forgotten_constructor_is_an_error():
    class Forgetful(okcore.Estimator):
        def __init__(self, cell):
            pass

    estimator = Forgetful(make_cell("RNN"))
    x, dh = np.zeros((1, 3)), np.zeros((1, 5))
    for call in (lambda: estimator.step(x), lambda: estimator.gradient(dh), estimator.flush, estimator.reset):
        with pytest.raises(RuntimeError, match="super"):
            call()
