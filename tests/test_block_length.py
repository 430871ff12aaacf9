"""block="auto" is a pure function of sizes: known choices, the cheapest that fits in memory, and where it must grow."""

import inspect

import pytest

import okcore
from okcore import estimators
from okcore._engine.block_length import CANDIDATES, choose_block, step_cost
from tests.conftest import CELLS

# The estimators that choose, by the name of their cost
AUTO = [
    name for name, cls in estimators.ESTIMATORS.items()
    if "block" in cls.options and inspect.signature(cls).parameters[cls.options["block"][0]].default == "auto"
]  # fmt: skip
SIZES = [(cell, n) for cell in CELLS for n in (1, 4, 16, 32, 64, 128, 256)]
# With 8 inputs; the terms of RTRL's blocks are soon as many as fit
KNOWN = [
    ("rtrl", "RNN", 16, 0, 1, 16), ("rtrl", "RNN", 128, 0, 1, 128), ("rtrl", "RHN", 64, 0, 1, 64),
    ("rtrl", "LSTM", 64, 0, 1, 64), ("rtrl", "GRU", 64, 0, 1, 32), ("rtrl", "RNN", 16, 0, 1000, 24),
    ("ok", "RNN", 16, 8, 1, 8), ("ok", "RNN", 128, 8, 1, 24), ("ok", "RHN", 64, 8, 1, 16),
    ("ok", "RHN", 128, 16, 1, 32), ("ok", "LSTM", 64, 8, 1, 24), ("ok", "GRU", 64, 8, 1, 8),
    ("ok", "GRU", 64, 8, 25, 12),
]  # fmt: skip


def make_cell(name, n, n_in=8):
    return CELLS[name](n_in, n, init="zeros")


def chosen(name, cell, rank, update_every):
    return choose_block(name, "auto", cell, rank, update_every)


def longest(name, cell, rank):
    """Return the block whose terms take as much memory as J (RTRL), as four carries (OK); at least 1."""
    terms = cell.theta.shape[1] if name == "rtrl" else 4 * rank
    return max(1, terms // cell.n_terms)


@pytest.mark.parametrize("name, cell, n, rank, update_every, expected", KNOWN)
def test_known_choices(name, cell, n, rank, update_every, expected):
    assert chosen(name, make_cell(cell, n), rank, update_every) == expected


@pytest.mark.parametrize("update_every", [1, 10, 1000])
@pytest.mark.parametrize("rank", [1, 8, 16])
@pytest.mark.parametrize("cell, n", SIZES)
@pytest.mark.parametrize("name", AUTO)
def test_it_is_the_cheapest_that_fits(name, cell, n, rank, update_every):
    cell = make_cell(cell, n)
    block, most = chosen(name, cell, rank, update_every), longest(name, cell, rank)
    assert block in CANDIDATES and block <= most
    assert block == chosen(name, cell, rank, update_every)
    cost = step_cost(name, block, cell, rank, update_every)
    assert all(cost <= step_cost(name, other, cell, rank, update_every) for other in CANDIDATES if other <= most)


@pytest.mark.parametrize("cell, n", [(cell, n) for cell, n in SIZES if n >= 32])
@pytest.mark.parametrize("name", AUTO)
def test_blocks_pay_where_networks_are_not_tiny(name, cell, n):
    for rank in (8, 16):
        assert chosen(name, make_cell(cell, n), rank, 1) > 1


@pytest.mark.parametrize("n", [16, 32, 64])
@pytest.mark.parametrize("cell", CELLS)
def test_rare_gradients_make_rtrls_blocks_longer(cell, n):
    # A gradient sweeps back over the whole block: where one is rarely wanted that costs next to nothing.  Many inputs,
    # so that memory does not bound both.
    cell = make_cell(cell, n, n_in=512)
    often, seldom, rarely = (chosen("rtrl", cell, 0, update_every) for update_every in (1, 10, 1000))
    assert 1 < often < seldom <= rarely


@pytest.mark.parametrize("name", AUTO)
def test_the_estimator_takes_what_is_chosen(name):
    cls, cell = estimators.ESTIMATORS[name], make_cell("RHN", 32)
    options = {"rank": 8, "block": "auto", "batch": 1, "threads": 1, "update_every": 10}
    assert cls.from_options(cell, options).block == chosen(name, cell, 8, 10) > 1


def test_hints_change_no_result():
    # update_every is a hint for the choice only.
    cell = make_cell("RNN", 4)
    assert okcore.RTRL(cell, 3, update_every=1).block == okcore.RTRL(cell, 3, update_every=100).block == 3
