"""Cells, estimators and trainers can be pickled and copied, inside a block too, and go on with the same bits."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES, EVERY_ESTIMATOR
from tests.helpers import make_cell, stream
from tests.test_extending import Dense, load
from tests.test_invariance import trace

COPIES = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": lambda thing, p=p: pickle.loads(pickle.dumps(thing, p)) for p in range(2, 6)},
}


def running(make, cell, steps=6):
    estimator = make(cell)
    for x, dh, reset in stream(cell, steps, 2, reset_rate=0.2):
        estimator.step(x, reset)
        estimator.accumulate(dh)
    return estimator


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, dtype, how):
    cell = make_cell(name, dtype=dtype)
    cell.note = {"mine": [1, 2]}
    twin = COPIES[how](cell)
    assert type(twin) is type(cell) and twin.theta.tobytes() == cell.theta.tobytes() and twin.dtype == cell.dtype
    assert twin.note == cell.note and not np.shares_memory(twin.theta, cell.theta)
    twin.theta += 1
    assert not np.array_equal(twin.theta, cell.theta) and twin.theta.ctypes.data % 64 == 0


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_estimators_go_on_bitwise(kind, how):
    for steps in range(6):  # from anywhere in a block
        original = running(EVERY_ESTIMATOR[kind], make_cell("GRU"), steps)
        twin = COPIES[how](original)
        assert twin.cell is not original.cell and twin.steps == original.steps
        assert trace(twin) == trace(original)


@pytest.mark.parametrize("how", COPIES)
def test_what_is_pickled_together_stays_together(how):
    cell = make_cell("LSTM")
    first, second = running(EVERY_ESTIMATOR["ok"], cell), running(EVERY_ESTIMATOR["tbptt"], cell)
    found = COPIES[how]({"cell": cell, "estimators": [first, second]})
    assert all(estimator.cell is found["cell"] for estimator in found["estimators"])
    found["cell"].theta[...] = 0
    assert not found["estimators"][0].step(np.ones((2, 3)))[:, :0].any()
    assert cell.theta.any()


@pytest.mark.parametrize("how", COPIES)
def test_trainers_go_on_bitwise(how):
    task = okcore.tasks.Copy(2, rng=0, length=3)
    cell = make_cell("RHN", n_in=4, dtype="float32")
    trainer = okcore.OnlineTrainer(
        cell, EVERY_ESTIMATOR["ok"](cell), okcore.SoftmaxReadout(5, 4, rng=0), okcore.Adam(0.01), clip=1, update_every=3
    )
    trainer.fit(task, 10, progress=False)
    twin, twin_task = COPIES[how]((trainer, task))
    assert twin.estimator.cell is twin.cell
    losses = [one.fit(data, 20, progress=False) for one, data in ((trainer, task), (twin, twin_task))]
    assert losses[0].tobytes() == losses[1].tobytes() and twin.cell.theta.tobytes() == cell.theta.tobytes()


@pytest.mark.parametrize("how", COPIES)
def test_cells_and_carries_in_python(how):
    cell = load("ugrnn").UGRNN(3, 4, dtype="float64", rng=0)
    if how != "deepcopy":  # pickle finds classes by their module
        sys.modules["ugrnn"], sys.modules["rflo"] = load("ugrnn"), load("rflo")
        cell = sys.modules["ugrnn"].UGRNN(3, 4, dtype="float64", rng=0)
    rflo = sys.modules.get("rflo") or load("rflo")
    for make in (lambda cell: okcore.Estimator(cell, Dense(cell, 2), 3), lambda cell: rflo.RFLO(cell, 2)):
        original = running(make, cell)
        twin, clone = COPIES[how](original), original.clone()
        kept = twin.carry.J if hasattr(twin.carry, "J") else twin.carry.own
        assert any(kept is array for array in twin.carry.arrays.values())  # the attribute still is what is kept
        assert trace(twin) == trace(original) == trace(clone)


def test_a_clone_of_a_plain_estimator_has_a_carry_of_its_own():
    cell = make_cell("RNN")
    original = running(lambda cell: okcore.Estimator(cell, Dense(cell, 2), 2), cell)
    twin = original.clone()
    assert twin.cell is cell and twin.carry is not original.carry
    before = original.influence()
    twin.step(np.ones((2, 3)))
    twin.step(np.ones((2, 3)))
    assert np.array_equal(original.influence(), before)


def test_a_compiled_carry_says_what_to_pickle():
    with pytest.raises(TypeError, match="pickle its estimator"):
        pickle.dumps(EVERY_ESTIMATOR["ok"](make_cell("RNN")).carry)


def test_another_process_goes_on_bitwise(tmp_path):
    original = running(EVERY_ESTIMATOR["ok"], make_cell("GRU"))
    (tmp_path / "estimator.pickle").write_bytes(pickle.dumps(original))
    program = """
import pickle, sys
import numpy as np
estimator = pickle.load(open(sys.argv[1], "rb"))
hs, gradient = estimator.run(np.ones((9, 2, 3)), np.ones((9, 2, 5)))
sys.stdout.buffer.write(gradient.tobytes())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "estimator.pickle")]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    assert found == original.run(np.ones((9, 2, 3)), np.ones((9, 2, 5)))[1].tobytes()


# ---- objects that are made wrongly -----------------------------------------------------------------------------------


def test_a_cell_is_made_once():
    cell = make_cell("RNN")
    theta = cell.theta
    with pytest.raises(RuntimeError, match="once"):
        cell.__init__(30, 40)
    assert cell.theta is theta and cell.n_hidden == 5


@pytest.mark.parametrize("sizes, word", [
    ({"n_gates": 5}, "n_gates"), ({"n_state_blocks": 3}, "n_state_blocks"), ({"n_terms": 2}, "n_terms"),
])  # fmt: skip
def test_a_subclass_cannot_change_the_sizes_of_a_compiled_step(sizes, word):
    with pytest.raises(ValueError, match=f"{word} must be"):
        type("Odd", (okcore.LSTM,), sizes)(3, 4)


@pytest.mark.parametrize("sizes", [{"n_terms": 3}, {"n_terms": 0}, {"n_gates": 0}, {"n_state_blocks": 0}])
def test_sizes_of_a_cell_in_python_are_checked(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        type("Odd", (okcore.Cell,), sizes)(3, 4)


def test_a_subclass_may_replace_a_compiled_step():
    class Slow(okcore.RNN):
        def pointwise(self, pre, state):
            h = np.tanh(0.5 * pre[:, 0])
            return h, 0.5 * (1 - h**2)[:, None, None], np.zeros_like(state)[:, None]

    okcore.testing.check_cell(Slow)
    cell = Slow(3, 4, dtype="float64", rng=0)
    plain = okcore.RNN(3, 4, dtype="float64", rng=0)
    plain.theta *= 0.5
    x = np.ones((1, 3))
    np.testing.assert_allclose(okcore.RTRL(cell).step(x), okcore.RTRL(plain).step(x), rtol=1e-14)


def test_arrays_of_a_carry_may_hold_anything():
    cell = make_cell("GRU")
    for value in (100_000, -5):
        estimator = running(EVERY_ESTIMATOR["ok"], cell)
        estimator.carry.arrays["active"][...] = value
        for x, dh, _ in stream(cell, 12, 2):
            estimator.step(x)
            assert np.isfinite(estimator.gradient(dh)).all()


def test_generators_are_fixed():
    estimator = EVERY_ESTIMATOR["ok"](make_cell("RNN"))
    assert isinstance(estimator.generators, tuple)
    with pytest.raises(TypeError):
        estimator.generators[0] = np.random.default_rng(0)
    with pytest.raises(AttributeError):
        estimator.generators = ()


def test_keep_is_for_the_constructor_and_for_new_names():
    cell = make_cell("RNN")
    carry = Dense(cell, 2)
    with pytest.raises(ValueError, match="keeps already"):
        carry.keep("J", (3,))
    okcore.Estimator(cell, carry, 2)
    with pytest.raises(RuntimeError, match="constructor"):
        carry.keep("more", (3,))


def test_without_docstrings():
    program = """
import okcore
from okcore.runs import command_line
okcore.testing.check_cell(okcore.GRU)
command_line.make_parser()
"""
    subprocess.run([sys.executable, "-OO", "-c", program], check=True)
