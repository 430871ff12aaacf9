"""okcore.testing: our own classes pass through it, and what is broken is caught."""

import numpy as np
import pytest

import okcore
from okcore import testing
from tests.conftest import CELLS, EVERY_ESTIMATOR


@pytest.mark.parametrize("name", CELLS)
def test_our_cells_pass(name):
    testing.check_cell(CELLS[name])


@pytest.mark.parametrize("name", EVERY_ESTIMATOR)
def test_our_estimators_pass(name):
    quality = type(EVERY_ESTIMATOR[name](okcore.RNN(3, 4))).quality
    testing.check_estimator(EVERY_ESTIMATOR[name], None if quality == "biased" else quality)


# ---- cells -----------------------------------------------------------------------------------------------------------


class Leaky(okcore.Cell):
    """h = (1 - a) h' + a tanh(pre), a = 1/4: a sound cell, to be broken below."""

    def pointwise(self, pre, state):
        h, old = np.tanh(pre[:, 0]), state
        return 0.75 * old + 0.25 * h, 0.25 * (1 - h**2)[:, None, None], np.full_like(state, 0.75)[:, None]


def test_a_sound_cell_passes():
    testing.check_cell(Leaky)


class WrongD(Leaky):
    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        return new, 0.99 * d, c


class WrongC(Leaky):
    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        return new, d, 1.01 * c


class WrongOnlyForOldStates(Leaky):
    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        return new + 0.01 * state**2, d, c


class SeesItsNeighbours(Leaky):
    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        return new + 1e-3 * (pre.mean(axis=0) - pre)[:, 0], d, c


class Remembers(Leaky):
    steps = 0

    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        self.steps += 1
        return new + new.dtype.type(1e-3 * self.steps), d, c


class Casts(Leaky):
    def pointwise(self, pre, state):
        return tuple(array.astype(np.float64) for array in super().pointwise(pre, state))


class IgnoresItsSeed(Leaky):
    def __init__(self, n_in, n_hidden, dtype=np.float32, rng=None):
        super().__init__(n_in, n_hidden, dtype, 0)


class WrongInSingle(Leaky):
    def pointwise(self, pre, state):
        new, d, c = super().pointwise(pre, state)
        return new, (d if self.dtype == np.float64 else 2 * d), c


class Raises(Leaky):
    def pointwise(self, pre, state):
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize("cls, what", [
    (WrongD, "d, against"), (WrongC, "c, against"), (WrongOnlyForOldStates, "c, against"),
    (SeesItsNeighbours, "difference|lane"), (Remembers, "difference|lane|bits"), (Casts, "must be float32"),
    (IgnoresItsSeed, "two seeds"), (WrongInSingle, "float32"), (Raises, "ZeroDivisionError: mine"),
])  # fmt: skip
def test_a_broken_cell_is_caught(cls, what):
    with pytest.raises(AssertionError, match=f"{cls.__name__}: broken: .*({what})"):
        testing.check_cell(cls)


# ---- carries ---------------------------------------------------------------------------------------------------------


class Dense(okcore.Carry):
    """Exact RTRL in NumPy: a sound carry, to be broken below."""

    def __init__(self, cell, batch_size):
        super().__init__(cell, batch_size)
        self.J = self.keep("J", (cell.state_size, *cell.theta.shape))

    def absorb(self, lane, Phi, u, A):
        self.J[lane] = np.tensordot(Phi, self.J[lane], 1) + np.einsum("isp,im->spm", A, u)

    def contract(self, delta):
        return np.einsum("bs,bspm->pm", delta, self.J)


class NextLane(Dense):
    def absorb(self, lane, Phi, u, A):
        super().absorb(lane, Phi, u, A)
        self.J[(lane + 1) % self.batch_size] += 1e-3 * self.J[lane]


class FirstLaneOnly(Dense):
    def contract(self, delta):
        return np.einsum("bs,bspm->pm", delta[:1], self.J[:1])


class NotKept(Dense):
    def __init__(self, cell, batch_size):
        okcore.Carry.__init__(self, cell, batch_size)
        self.J = np.zeros((batch_size, cell.state_size, *cell.theta.shape), cell.dtype)


class WrongSign(Dense):
    def contract(self, delta):
        return -super().contract(delta)


class DenseOfItsOwn(Dense):
    def dense(self, lane):
        return 1.001 * self.J[lane]


class WrongShape(Dense):
    def contract(self, delta):
        return super().contract(delta).sum(axis=0)


class ChangedByReading(Dense):
    def contract(self, delta):
        result = super().contract(delta)
        self.J *= self.J.dtype.type(0.999)
        return result


class ChangesItsCredit(Dense):
    def contract(self, delta):
        delta *= 0.5
        return super().contract(delta)


class OneStream(Dense):
    """Random signs for all lanes from the first lane's stream."""

    def absorb(self, lane, Phi, u, A):
        super().absorb(lane, Phi, u, A)
        self.J[lane] *= self.J.dtype.type(1 + 0.1 * self.generators[0].normal())


class AnyStream(Dense):
    """Draws that no seed fixes."""

    def absorb(self, lane, Phi, u, A):
        super().absorb(lane, Phi, u, A)
        self.J[lane] *= self.J.dtype.type(1 + 0.1 * np.random.default_rng().normal())


class Raising(Dense):
    def absorb(self, lane, Phi, u, A):
        raise ZeroDivisionError("mine")


class Halved(Dense):
    """Biased: a part of the influence is lost at every block."""

    def absorb(self, lane, Phi, u, A):
        super().absorb(lane, Phi, u, A)
        self.J[lane] *= self.J.dtype.type(0.9)




class Own(okcore.Estimator):
    """An estimator of its own, so that it can be cloned."""

    carry_class, steps_of_block = Dense, 2

    def __init__(self, cell, batch_size=1, rng=None):
        super().__init__(cell, self.carry_class(cell, batch_size), self.steps_of_block, rng)


def own(carry, block=2):
    return type(carry.__name__, (Own,), {"carry_class": carry, "steps_of_block": block})


def test_a_sound_carry_passes():
    testing.check_estimator(own(Dense), "exact")
    testing.check_estimator(own(Dense, 1), "unbiased")
    testing.check_estimator(own(Halved))


@pytest.mark.parametrize("carry, what", [
    (NextLane, "lane"), (FirstLaneOnly, "the same data"), (NotKept, "reset|start"), (WrongSign, "cosine -"),
    (DenseOfItsOwn, "credit times"), (WrongShape, "shape"), (ChangedByReading, "read again|credit times"),
    (ChangesItsCredit, "ValueError|read again|credit times"), (OneStream, "lane"), (AnyStream, "last bit|reset"),
    (Raising, "ZeroDivisionError: mine"),
])  # fmt: skip
def test_a_broken_carry_is_caught(carry, what):
    with pytest.raises(AssertionError, match=f"{carry.__name__}: broken: .*({what})"):
        testing.check_estimator(own(carry))


class KeepsItOverResets(Dense):
    """Takes a transition of zeros for one of ones on the diagonal."""

    def absorb(self, lane, Phi, u, A):
        super().absorb(lane, Phi if Phi.any() else np.eye(len(Phi), dtype=Phi.dtype), u, A)


class WrongAfterABlock(Dense):
    def absorb(self, lane, Phi, u, A):
        self.J[lane] = -7


def test_what_only_long_blocks_show():
    with pytest.raises(AssertionError, match=r"broken: .*reset"):
        testing.check_estimator(own(KeepsItOverResets, 6))
    with pytest.raises(AssertionError, match="broken"):
        testing.check_estimator(own(WrongAfterABlock, 64), "exact")
    with pytest.raises(AssertionError, match="broken"):
        testing.check_estimator(
            lambda cell, batch_size, rng: okcore.OK(cell, 1, 64, batch_size=batch_size, rng=rng), "exact"
        )
    with pytest.raises(ValueError, match="blocks of at most"):
        testing.check_estimator(own(Dense, 1000))


@pytest.mark.parametrize("expect", ["exact", "unbiased"])
def test_a_bias_is_caught_where_none_is_expected(expect):
    with pytest.raises(AssertionError, match=r"Halved: broken: .*(RTRL|exact)"):
        testing.check_estimator(own(Halved), expect)
    with pytest.raises(AssertionError, match=r"make: broken: .*(RTRL|exact)"):
        testing.check_estimator(EVERY_ESTIMATOR["snap1"], expect)


def test_an_unknown_expectation_is_refused():
    with pytest.raises(ValueError, match="expect"):
        testing.check_estimator(own(Dense), "perfect")
