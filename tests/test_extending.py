"""A cell and an algorithm that are not in the package fit in as one short file each (examples/)."""

import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import okcore
from tests.conftest import EVERY_ESTIMATOR
from tests.helpers import assert_close, gradients, make_cell, stream
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
    for kind, make in EVERY_ESTIMATOR.items():
        assert trace(make(cell, 3)) == trace(make(cell, 3, n_threads=2)), kind


def test_examples_run(capsys):
    load("ugrnn").main(steps=50)
    load("rflo").main(steps=20)
    assert capsys.readouterr().out


def test_an_encoder_learns():
    learned, fixed = load("encoder").main(steps=600)
    assert learned < 0.3 < 0.9 < fixed


def test_an_actor_critic_remembers():
    assert load("actor_critic").main(steps=1500) > 0.9


def test_an_adapter_for_river_learns_what_needs_memory():
    assert load("river_adapter").main(steps=800) < 0.1


def test_river_takes_the_adapter(monkeypatch):
    pytest.importorskip("river")
    from river import checks, evaluate, metrics, preprocessing, stream

    monkeypatch.syspath_prepend(EXAMPLES)  # it is pickled
    model = importlib.import_module("river_adapter").RNNRegressor()
    for check in checks.yield_checks(model):
        check(model.clone())
    x = np.random.default_rng(0).uniform(8, 12, 800)
    examples = stream.iter_array(x[1:, None], x[:-1])
    pipeline = preprocessing.StandardScaler() | preprocessing.TargetStandardScaler(regressor=model)
    assert evaluate.progressive_val_score(examples, pipeline, metrics.MAE()).get() < 0.5  # without memory it is 1


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


class Dense(okcore.Carry):
    """Exact RTRL in NumPy, which fails in lane 1 when it is told to."""

    fail = False

    def __init__(self, cell, batch_size):
        super().__init__(cell, batch_size)
        self.J = self.keep("J", (cell.state_size, *cell.theta.shape))

    def absorb(self, lane, Phi, u, A):
        if self.fail and lane == 1:
            raise KeyError("mine")
        self.J[lane] = np.tensordot(Phi, self.J[lane], 1) + np.einsum("isp,im->spm", A, u)

    def contract(self, delta):
        return np.einsum("bs,bspm->pm", delta, self.J)


def test_a_carry_that_raises_loses_its_lane_only():
    cell = make_cell("RNN")
    faulty, sound = (okcore.Estimator(cell, Dense(cell, 3), 1) for _ in range(2))
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


def test_a_carry_belongs_to_one_estimator():
    cell = make_cell("RNN")
    carry = Dense(cell, 2)
    okcore.Estimator(cell, carry, 1)
    with pytest.raises(ValueError, match="carry must be a new one"):
        okcore.Estimator(cell, carry, 5)


def test_views_outlive_their_estimator():
    kept = []

    class Hoarder(Dense):
        def absorb(self, lane, Phi, u, A):
            kept.extend([Phi, u, A])
            super().absorb(lane, Phi, u, A)

        def contract(self, delta):
            kept.append(delta)
            return super().contract(delta)

    class HoardingCell(load("ugrnn").UGRNN):
        def pointwise(self, pre, state):
            kept.extend([pre, state])
            return super().pointwise(pre, state)

    estimator = okcore.Estimator(cell := HoardingCell(3, 4, rng=0), Hoarder(cell, 2), 2)
    for x, dh, _ in stream(cell, 5, 2):
        estimator.step(x)
        estimator.gradient(dh)
    before = [array.copy() for array in kept]
    del estimator, cell
    gc.collect()
    filler = [np.full(1000, np.nan) for _ in range(100)]
    assert len(filler) == 100 and all(np.array_equal(*pair) for pair in zip(kept, before, strict=True))
    assert not kept[0].flags.writeable and not kept[-1].flags.writeable


def test_what_a_carry_lacks_is_named():
    cell = make_cell("RNN")

    class OnlyContracts(okcore.Carry):
        def contract(self, delta):
            return np.zeros(self.cell.theta.shape)

    class Vector(Dense):
        def contract(self, delta):
            return super().contract(delta)[0]

    with pytest.raises(NotImplementedError, match="contract"):
        okcore.Estimator(cell, okcore.Carry(cell, 1), 1)
    with pytest.raises(NotImplementedError, match="absorb"):
        okcore.Estimator(cell, OnlyContracts(cell, 1), 1)
    estimator = okcore.Estimator(cell, Vector(cell, 1), 1)
    with pytest.raises(ValueError, match="contract must return"):
        estimator.gradient(np.ones((1, 5)))


def test_a_carry_may_have_attributes_of_any_name():
    class Named(Dense):
        def __init__(self, cell, batch_size):
            for name in "rank m S P scratch n_draws compiled tape steps dtype kept single sizes".split():
                setattr(self, name, name)
            super().__init__(cell, batch_size)

    cell = make_cell("GRU")
    estimator = okcore.Estimator(cell, Named(cell, 2), 2)
    assert trace(estimator) == trace(okcore.Estimator(cell, Dense(cell, 2), 2)) and estimator.carry.tape == "tape"


def test_a_forgotten_constructor_is_an_error():
    class Forgetful(okcore.Estimator):
        def __init__(self, cell):
            pass

    estimator = Forgetful(make_cell("RNN"))
    x, dh = np.zeros((1, 3)), np.zeros((1, 5))
    for call in (lambda: estimator.step(x), lambda: estimator.gradient(dh), estimator.flush, estimator.reset):
        with pytest.raises(RuntimeError, match="super"):
            call()


# ---- what a carry in Python must not be able to break ----------------------------------------------------------------


def test_methods_may_be_attributes_of_the_object():
    class ByAttribute(okcore.Carry):
        def __init__(self, cell, batch_size):
            super().__init__(cell, batch_size)
            self.twin = Dense(cell, batch_size)
            self.J = self.keep("J", (cell.state_size, *cell.theta.shape))
            self.twin.J = self.J
            self.absorb, self.contract = self.twin.absorb, self.twin.contract

    cell = make_cell("LSTM")
    expected = trace(okcore.Estimator(cell, Dense(cell, 2), 3))
    assert trace(okcore.Estimator(cell, ByAttribute(cell, 2), 3)) == expected


def test_a_carry_without_methods_says_so():
    with pytest.raises(NotImplementedError, match="contract"):
        okcore.Carry(make_cell("RNN"), 1).dense(0)


def test_objects_are_initialised_once():
    cell = make_cell("RNN")
    estimator = okcore.Estimator(cell, Dense(cell, 2), 2)
    with pytest.raises(RuntimeError, match="once"):
        estimator.carry.__init__(cell, 3)
    for carry in (Dense(cell, 3), estimator.carry):
        with pytest.raises(RuntimeError, match="once"):
            okcore.Estimator.__init__(estimator, cell, carry, 7)
    assert estimator.batch_size == 2 and np.isfinite(estimator.step(np.ones((2, 3)))).all()


def test_a_subclass_of_a_compiled_carry_is_refused_by_name():
    cell = make_cell("RNN")
    compiled = type(okcore.RTRL(cell).carry)

    class Half(compiled):
        def contract(self, delta):
            return np.zeros(self.cell.theta.shape)

    with pytest.raises(TypeError, match="Half must not define contract"):
        okcore.Estimator(cell, Half(cell, 1), 1)


def test_a_carry_may_keep_many_arrays():
    class Many(Dense):
        def __init__(self, cell, batch_size):
            super().__init__(cell, batch_size)
            for i in range(40):
                self.keep(f"more {i}", (2,))

    cell = make_cell("RNN")
    estimator = okcore.Estimator(cell, Many(cell, 2), 2)
    assert len(estimator.state_dict()) > 40 and trace(estimator.clone()) == trace(estimator)


class Exploding(okcore.Cell):
    """A state that stays 0 while its Jacobian is 1e160 times the input."""

    def pointwise(self, pre, state):
        return np.zeros_like(state), np.ones((len(pre), 1, 1, 1, 4)), 1e160 * pre


@pytest.mark.parametrize("make", [lambda cell: okcore.Estimator(cell, Dense(cell, 2), 2), load("rflo").RFLO])
def test_an_influence_in_python_that_overflows_is_zeroed_and_reported(make):
    cell = Exploding(3, 4, dtype="float64", init="zeros")
    cell.theta[:, 0] = 1
    estimator = make(cell, 2) if make is not None and make.__name__ == "RFLO" else make(cell)
    x = np.zeros((2, 3))
    x[1, 0] = 1
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"influence of lane 1\b"):
        for _ in range(9):
            estimator.step(x)
    for array in estimator.carry.arrays.values():
        assert np.isfinite(array).all() and not array[1].any() and array[0].any()
    estimator.load_state_dict(estimator.state_dict())


class Falsy(Exception):
    def __bool__(self):
        raise ZeroDivisionError


def test_exceptions_of_any_kind_reach_the_caller_once():
    class Failing(Dense):
        absorb_error = zero_error = contract_error = None

        def absorb(self, lane, Phi, u, A):
            if self.absorb_error:
                raise self.absorb_error[0]
            super().absorb(lane, Phi, u, A)

        def zero(self, lane):
            super().zero(lane)
            if self.zero_error:
                raise self.zero_error[0]

        def contract(self, delta):
            if self.contract_error:
                raise self.contract_error[0]
            return super().contract(delta)

    cell, x, dh = make_cell("RNN"), np.ones((3, 3)), np.ones((3, 5))
    for first, second in (([KeyError("first")], [OSError("second")]), ([Falsy()], None), ([KeyboardInterrupt()], None)):
        estimator = okcore.Estimator(cell, Failing(cell, 3), 2)
        for _ in range(4):
            estimator.step(x)
        estimator.carry.absorb_error, estimator.carry.zero_error = first, second
        with pytest.raises(type(first[0])):
            estimator.step(x)
        estimator.carry.absorb_error = estimator.carry.zero_error = None
        assert not estimator.influence().any()  # every lane was forgotten, and no old exception turns up
        estimator.step(x)

    estimator = okcore.Estimator(cell, Failing(cell, 3), 2)
    for _ in range(3):
        estimator.step(x)
        estimator.accumulate(dh)
    estimator.carry.contract_error = [KeyError("mine")]
    with pytest.raises(KeyError, match="mine"):
        estimator.flush()
    estimator.carry.contract_error = None
    assert not estimator.flush().any()  # dropped, not half of them

    estimator.carry.zero_error = [KeyError("mine")]
    with pytest.raises(KeyError, match="mine"):
        estimator.reset()
    assert not estimator.state.any() and not estimator.influence().any()  # the reset is done


def test_a_reset_is_done_though_credits_overflow():
    cell = okcore.RNN(3, 4, rng=0)
    for make in (lambda: okcore.RTRL(cell, 4), lambda: okcore.OK(cell, 2, 4, rng=0)):
        for reset in (lambda e: e.reset(), lambda e: e.step(np.ones((1, 3), "f"), np.array([True]))):
            estimator = make()
            for _ in range(3):
                estimator.step(np.ones((1, 3), "f"))
                estimator.accumulate(np.full((1, 4), 3e38, "f"))
            with pytest.raises(FloatingPointError):
                reset(estimator)
            assert not estimator.state.any() and not estimator.influence().any()
            assert not estimator.flush().any()


def test_a_state_is_plain_and_arguments_may_have_any_name():
    class Named(okcore.Estimator):
        def __init__(self, cell, c=0.5, w=1, cut=2, credit=3, rank=4):
            self.c, self.w, self.cut, self.credit, self.rank = c, w, cut, credit, rank
            super().__init__(cell, Dense(cell, 2), 2)

    cell = make_cell("RNN")
    estimator = Named(cell, c=7)
    state = estimator.state_dict()
    assert all(isinstance(value, (np.ndarray, int, float, str, bool)) for value in state.values())
    Named(cell, c=7).load_state_dict(state)
    with pytest.raises(ValueError, match=r"argument\.c must be"):
        Named(cell).load_state_dict(state)
    assert estimator.clone().c == 7
    plain = okcore.Estimator(cell, Dense(cell, 2), 2)
    assert all(isinstance(value, (np.ndarray, int, float, str, bool)) for value in plain.state_dict().values())


def test_snapshots_in_another_order_are_refused():
    cell = make_cell("RNN")
    estimator = okcore.RTRL(cell, 4)
    for x, _, _ in stream(cell, 3, 1):
        estimator.step(x)
        cell.theta *= 0.9
    state = estimator.state_dict()
    assert state["w_slot"].tolist() == [0, 1, 2]
    order = [2, 0, 1]
    state["w_slot"], state["w"] = np.argsort(order).astype(np.intc), state["w"][order]
    with pytest.raises(ValueError, match="w_slot must rise"):
        estimator.load_state_dict(state)


def test_blocks_that_fit_into_no_memory():
    with pytest.raises(MemoryError, match=f"blocks of {2**31 - 1} steps"):
        okcore.TBPTT(okcore.RNN(30, 400), 2**31 - 1)
