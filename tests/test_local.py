"""Local rules: SnAp-1 is a dense masked RTRL, RFLO a dense RTRL without W_h; each takes in steps as they are taken."""

import numpy as np
import pytest

import okcore
from okcore import reference
from tests.conftest import CELLS, DTYPES
from tests.helpers import assert_close, gradients, make_cell, stream
from tests.test_extending import load
from tests.test_invariance import trace


def follow(cell, estimator, recur, steps=15, lanes=3):
    """Compare gradient and influence of every step with J <- recur(J, H, D, u), with resets, while theta changes."""
    probe, start = okcore.RTRL(cell, 1, lanes), cell.theta.copy()
    S, (P, m) = cell.state_size, cell.theta.shape
    J = np.zeros((lanes, S, P, m))
    for t, (x, dh, reset) in enumerate(stream(cell, steps, lanes, reset_rate=0.15)):
        J[reset] = 0
        estimator.step(x, reset)
        probe.step(x, reset)  # of the same states: it shows each step's Jacobians
        for lane in range(lanes):
            J[lane] = recur(J[lane], *probe.tape.jacobians(0, lane), probe.tape.augmented_inputs(0, lane))
        if t == 9:
            for reset_too in (estimator, probe):
                reset_too.reset(np.arange(lanes) == 1)
            J[1] = 0
        credit = np.concatenate([dh, np.zeros((lanes, S - cell.n_hidden))], axis=1)
        assert_close(estimator.gradient(dh), np.einsum("bs,bspm->pm", credit, J), "float64")
        assert_close(estimator.influence(), J, "float64")
        cell.theta -= 0.05 * estimator.gradient(dh)
    cell.theta = start


def outer(D, u):
    return np.einsum("jsp,jm->spm", D, u)


@pytest.mark.parametrize("name", CELLS)
def test_snap1_is_a_dense_masked_rtrl(name):
    cell = make_cell(name, gain=1.5)
    mask = (np.arange(cell.state_size)[:, None] % 5 == np.arange(cell.theta.shape[0]) % 5)[:, :, None]
    follow(cell, okcore.SnAp1(cell, 3), lambda J, H, D, u: mask * (np.tensordot(H, J, 1) + outer(D, u)))


@pytest.mark.parametrize("name", CELLS)
def test_rflo_is_a_dense_rtrl_without_its_recurrent_weights(name):
    cell = make_cell(name, gain=1.5)

    def recur(J, H, D, u):
        leak = H.copy()
        leak[:, :5] -= D[-1] @ cell.theta[:, 3:8]
        return np.tensordot(leak, J, 1) + outer(D, u)

    follow(cell, load("rflo").RFLO(cell, 3), recur)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CELLS if hasattr(reference, name)])
def test_snap1_is_its_reference(name, dtype):
    options = {"steps": 23, "learning_rate": 0.05, "reset_rate": 0.15}
    for lanes in (1, 4):
        compiled = gradients(okcore.SnAp1(make_cell(name, dtype=dtype), lanes), **options)
        plain = getattr(reference, name)(3, 5, dtype=dtype, rng=1)
        assert_close(compiled, gradients(reference.SnAp1(plain, lanes), **options), dtype, factor=10)


@pytest.mark.parametrize("name", CELLS)
def test_threads_change_no_bit_where_they_are_used(name):
    cell = make_cell(name, n_in=30, n_hidden=150, dtype="float32")  # large enough that threads pay
    expected = trace(okcore.SnAp1(cell, 5), steps=4)
    for n_threads in (2, 5):
        assert trace(okcore.SnAp1(cell, 5, n_threads=n_threads), steps=4) == expected


def test_a_local_influence_that_overflows_is_reported_and_only_that_lane_is_lost():
    class Exploding(okcore.Cell):
        """A state that stays 0 while its Jacobian is 1e160 times the input."""

        def pointwise(self, pre, state):
            return np.zeros_like(state), np.ones((len(pre), 1, 1, 1, 4)), 1e160 * pre

    cell = Exploding(3, 4, dtype="float64", init="zeros")
    cell.theta[:, 0] = 1
    x = np.zeros((2, 3))
    x[1, 0] = 1
    for estimator in (okcore.SnAp1(cell, 2), okcore.SnAp1(cell, 2, n_threads=2)):
        estimator.step(x)
        estimator.step(x)
        with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step 3.*zero.*was taken"):
            estimator.step(x)
        assert estimator.steps == 3
        influence = estimator.influence()
        assert influence[0].any() and not influence[1].any()
        x[1] = 0
        estimator.step(x)
        assert np.isfinite(estimator.gradient(np.ones((2, 4)))).all()
        x[1, 0] = 1


def test_a_local_rule_that_raises_loses_its_lane_only():
    rflo = load("rflo")

    class Faulty(rflo.LeakCarry):
        fail = False

        def absorb_step(self, lane, d, c, u):
            if self.fail and lane == 1:
                raise KeyError("mine")
            super().absorb_step(lane, d, c, u)

    cell = make_cell("LSTM")
    faulty, sound = okcore.Estimator(cell, Faulty(cell, 3), 1), rflo.RFLO(cell, 3)
    data = list(stream(cell, 6, 3))
    for t, (x, _, _) in enumerate(data):
        faulty.carry.fail = t == 4
        if t == 4:
            with pytest.raises(KeyError, match="mine"):
                faulty.step(x)
        else:
            faulty.step(x)
        sound.step(x)
    assert np.array_equal(faulty.state, sound.state)
    one, other = faulty.influence(), sound.influence()
    assert np.array_equal(one[[0, 2]], other[[0, 2]]) and not np.array_equal(one[1], other[1])


def test_a_local_carry_has_blocks_of_one_step():
    cell = make_cell("RNN")
    with pytest.raises(ValueError, match="block must be 1"):
        okcore.Estimator(cell, load("rflo").LeakCarry(cell, 2), 3)
    assert okcore.SnAp1(cell).block == 1
