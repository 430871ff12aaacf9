"""The registers are complete: every cell and estimator is in its register, public, and can be made from options."""

import inspect

import numpy as np
import pytest

import okcore
from okcore import cells, estimators
from okcore.runs.command_line import make_parser
from okcore.runs.options import resolve
from tests.conftest import CELLS, ESTIMATORS, EVERY_ESTIMATOR, arguments_of

SHARED = {"batch_size", "n_threads", "update_every"}


def subclasses(module, base):
    """Return the classes that a module defines on top of a base."""
    own = {thing for thing in vars(module).values() if inspect.isclass(thing) and thing.__module__ == module.__name__}
    return {cls for cls in own if issubclass(cls, base)} - {base}


@pytest.mark.parametrize("module, base, register", [
    pytest.param(cells, cells.Cell, cells.CELLS, id="cells"),
    pytest.param(estimators, estimators.Estimator, estimators.ESTIMATORS, id="estimators"),
])  # fmt: skip
def test_registers_are_complete(module, base, register):
    assert set(register.values()) == subclasses(module, base)
    assert len(set(register.values())) == len(register)
    assert set(module.__all__) == {base.__name__, *(cls.__name__ for cls in register.values())}
    for cls in (base, *register.values()):
        assert getattr(okcore, cls.__name__) is cls
        assert cls.__name__ in okcore.__all__


@pytest.mark.parametrize("name", ESTIMATORS)
def test_options_are_arguments_of_the_constructor(name):
    cls = estimators.ESTIMATORS[name]
    arguments = {argument for argument, _ in cls.options.values()}
    assert set(cls.options) <= {"rank", "block", "tolerance"}  # what the command line has
    assert arguments <= set(inspect.signature(cls).parameters)
    assert all(meaning for _, meaning in cls.options.values())
    assert cls.auto_block is None or "block" in cls.options


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_arguments_of_the_constructor_can_be_read(kind):
    # So that clone, state_dict and the command line know them.
    estimator = EVERY_ESTIMATOR[kind](CELLS["RHN"](2, 3, rng=0), 4, n_threads=2, update_every=5)
    assert set(arguments_of(EVERY_ESTIMATOR[kind])) >= SHARED
    assert (estimator.batch_size, estimator.n_threads, estimator.update_every) == (4, 2, 5)
    for argument in arguments_of(EVERY_ESTIMATOR[kind]):
        assert argument == "rng" or hasattr(estimator, argument)


@pytest.mark.parametrize("block", [6, "auto"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_made_from_options(name, block):
    cls = estimators.ESTIMATORS[name]
    options = {"rank": 5, "block": block, "tolerance": 0.5, "batch": 2, "threads": 2, "update_every": 4}
    estimator = cls.from_options(CELLS["GRU"](2, 3, rng=0), options, rng=1)
    assert type(estimator) is cls
    assert (estimator.batch_size, estimator.n_threads, estimator.update_every) == (2, 2, 4)
    for option, (argument, _) in cls.options.items():
        expected = options[option]
        if expected == "auto":
            assert getattr(estimator, argument) >= 1
            expected = cls.auto_block or getattr(estimator, argument)
        assert getattr(estimator, argument) == expected


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_tolerance_may_be_missing_from_options(name):
    # Runs that were started before there was one do not have it.
    options = {"rank": 5, "block": 6, "batch": 2, "threads": 2, "update_every": 4}
    estimator = estimators.ESTIMATORS[name].from_options(CELLS["GRU"](2, 3, rng=0), options)
    assert getattr(estimator, "tolerance", None) is None


@pytest.mark.parametrize("cell", cells.CELLS)
@pytest.mark.parametrize("estimator", estimators.ESTIMATORS)
def test_the_command_line_takes_what_the_registers_have(estimator, cell):
    said = make_parser().parse_args(["train", "copy", "--estimator", estimator, "--cell", cell])
    options = resolve(vars(said))
    assert (options["estimator"], options["cell"]) == (estimator, cell)


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_stats_are_figures_of_every_lane(kind):
    estimator = EVERY_ESTIMATOR[kind](CELLS["LSTM"](2, 3, rng=0), 4)
    for _ in range(9):
        estimator.step(np.zeros(4, int))
    for figures in estimator.stats.values():
        assert figures.shape == (4,) and np.isfinite(figures).all()
