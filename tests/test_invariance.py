"""Truth 9: nothing depends on threads, on the layout of inputs, or on the neighbours of a lane."""

import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import okcore
from tests.conftest import CELLS, DTYPES, ESTIMATORS, EVERY_ESTIMATOR, RANDOM, maker
from tests.helpers import assert_close, make_cell, stream


def trace(estimator, reset_rate=0.1, learning_rate=0.01, steps=20):
    """Return all that comes out of a run, bitwise."""
    cell = estimator.cell
    start, out = cell.theta.copy(), []
    for x, dh, reset in stream(cell, steps, estimator.batch_size, reset_rate=reset_rate):
        out.append(estimator.step(x, reset).tobytes())
        gradient = estimator.gradient(dh)
        estimator.accumulate(dh)
        out.append(gradient.tobytes())
        cell.theta -= cell.dtype.type(learning_rate) * gradient
    out.append(estimator.flush().tobytes())
    out.append(estimator.influence().tobytes())
    cell.theta = start
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_threads_change_no_bit(name, dtype):
    cell = make_cell(name, n_hidden=9, dtype=dtype)
    for kind, make in EVERY_ESTIMATOR.items():
        alone = trace(make(cell, 5))
        for n_threads in (2, 3, 8):
            assert trace(make(cell, 5, n_threads=n_threads)) == alone, kind


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_threads_change_no_bit_where_sweeps_and_products_are_split(name, dtype):
    B, n = 19, 50  # large enough that threads pay, and no multiple of any block of rows or columns
    cell = make_cell(name, n_in=5, n_hidden=n, dtype=dtype)
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(41, B, 5)).astype(dtype), rng.normal(size=(41, B, n)).astype(dtype)
    expected = None
    for n_threads in (1, 2, 3, 7):
        estimator = okcore.OK(cell, 3, 40, batch_size=B, rng=0, n_threads=n_threads)
        hs, gradient = estimator.run(xs, dhs)
        later = estimator.gradient(dhs[0])
        found = [array.tobytes() for array in (hs, gradient, later, estimator.carry.arrays["A"])]
        expected = expected or found
        assert found == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_threads_inside_a_lane_change_no_bit(name, dtype):
    n = 20 + 80 // CELLS[name].n_gates  # large enough that threads pay
    cell = make_cell(name, n_in=5, n_hidden=n, dtype=dtype)
    rng = np.random.default_rng(0)
    xs, dhs = rng.normal(size=(13, 1, 5)).astype(dtype), rng.normal(size=(13, 1, n)).astype(dtype)
    for kind in ESTIMATORS:
        make, expected = maker(kind, rank=6), None
        for threads in (1, 2, 3, 16):
            estimator = make(cell, 1, n_threads=threads)
            hs, gradient = estimator.run(xs, dhs)
            arrays = hs, gradient, estimator.gradient(dhs[0]), *estimator.carry.arrays.values()
            found = [array.tobytes() for array in arrays]
            expected = expected or found
            assert found == expected, (kind, threads)


def test_threads_that_share_the_reading_of_an_influence_change_no_bit():
    cell = make_cell("RNN", n_in=5, n_hidden=140, dtype="float32")  # large enough that its columns are split
    rng = np.random.default_rng(0)
    xs, dh = rng.normal(size=(5, 1, 5)).astype("float32"), rng.normal(size=(1, 140)).astype("float32")
    gradients = set()
    for n_threads in (1, 2, 3):
        estimator = okcore.RTRL(cell, block=2, n_threads=n_threads)
        estimator.run(xs)
        gradients.add(estimator.gradient(dh).tobytes())
    assert len(gradients) == 1 and np.frombuffer(gradients.pop(), "float32").any()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6])
@pytest.mark.parametrize("name", CELLS)
def test_a_run_may_be_cut_anywhere(name, batch_size):
    cell = make_cell(name, n_in=3, n_hidden=18, dtype="float32")
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(12, batch_size, 3)).astype("float32")
    whole, parts = (okcore.OK(cell, 3, 4, batch_size=batch_size, rng=0) for _ in range(2))
    hs, _ = whole.run(xs)
    found = np.concatenate([parts.run(piece)[0] for piece in np.split(xs, [5, 6])])
    assert found.tobytes() == hs.tobytes()
    dh = rng.normal(size=(batch_size, 18)).astype("float32")
    assert whole.gradient(dh).tobytes() == parts.gradient(dh).tobytes()


def test_threads_with_small_stacks():
    program = """
import threading
import numpy as np
import okcore
cell = okcore.GRU(3, 40, dtype="float64", rng=0)
estimator = okcore.OK(cell, 4, 4, batch_size=9, rng=0, n_threads=3)
threading.stack_size(192 * 1024)
thread = threading.Thread(target=estimator.run, args=(np.ones((20, 9, 3)),))
thread.start()
thread.join()
print(estimator.steps)
"""
    environment = os.environ | {"OMP_STACKSIZE": "160k"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "20\n", (done.returncode, done.stderr)


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_layout_of_inputs_changes_no_bit(kind):
    cell = make_cell("LSTM", dtype="float32")
    layouts = {
        "contiguous": lambda a: a.copy(),
        "fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        "reversed": lambda a: a[::-1].copy()[::-1],
        "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
        "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    }
    results = []
    for name, layout in layouts.items():
        estimator, out = EVERY_ESTIMATOR[kind](cell), []
        for x, dh, reset in stream(cell, 9, 2, reset_rate=0.2):
            if name == "big-endian":  # equal as a dtype only after conversion: refused like any other dtype
                with pytest.raises(TypeError, match="x must be float32"):
                    estimator.step(layout(x), reset)
                break
            out += [estimator.step(layout(x), reset), estimator.gradient(layout(dh))]
        else:
            results.append([array.tobytes() for array in out])
    assert all(result == results[0] for result in results[1:])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_a_lane_does_not_see_its_neighbours(kind, name):
    cell = make_cell(name)
    rng = np.random.default_rng(0)
    results = []
    for scale in (1, 3):  # other data in the other lanes
        estimator, out = EVERY_ESTIMATOR[kind](cell, 3), []
        for x, dh, _ in stream(cell, 14, 3):
            x[[0, 2]] *= scale * rng.random() + 0.1
            dh[[0, 2]] = 0
            out += [estimator.step(x)[1].tobytes(), estimator.influence()[1].tobytes()]
        results.append(out)
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_a_lane_does_not_depend_on_the_number_of_lanes(kind):
    cell = make_cell("GRU")
    few, many = EVERY_ESTIMATOR[kind](cell, 2), EVERY_ESTIMATOR[kind](cell, 7)
    for x, _, reset in stream(cell, 14, 7):
        reset[1] = x[1, 0] > 1
        assert_close(few.step(x[:2], reset[:2]), many.step(x, reset)[:2], "float64")
        assert_close(few.influence(), many.influence()[:2], "float64", factor=100)


def test_seeds():
    cell = make_cell("RHN")
    for estimator in RANDOM.values():
        make = partial(estimator, cell, 2)
        assert trace(make(3)) == trace(make(np.random.SeedSequence(3))) == trace(make(np.random.default_rng(3)))
        assert trace(make(3)) != trace(make(4))
        one, other = (make(None).generators[0].random() for _ in range(2))
        assert one != other  # traces may agree: few draws are distinct
        lanes = make(3).generators
        assert lanes[0].random() != lanes[1].random()
        legacy = np.random.Generator(np.random.MT19937(5))
        assert trace(make(legacy)) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_the_lanes_of_a_batch_can_be_spread_over_estimators(kind, dtype):
    cell = make_cell("GRU", dtype=dtype)
    whole = EVERY_ESTIMATOR[kind](cell, 16)
    parts = [EVERY_ESTIMATOR[kind](cell, 8, first_lane=first) for first in (0, 8)]
    halves = slice(0, 8), slice(8, 16)
    for x, _, reset in stream(cell, 23, 16, reset_rate=0.2):
        found = [part.step(x[half], reset[half]) for part, half in zip(parts, halves, strict=True)]
        assert np.concatenate(found).tobytes() == whole.step(x, reset).tobytes()
        assert np.concatenate([part.influence() for part in parts]).tobytes() == whole.influence().tobytes()
    if kind in RANDOM:
        last = [generator.random() for part in parts for generator in part.generators]
        assert last == [generator.random() for generator in whole.generators]


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_lanes_are_joined_and_taken_at_any_step(kind):
    # Parts with one lane are reset as a whole at most resets; credits wait, and theta moves inside blocks.
    cell = make_cell("LSTM")
    cuts = [(0, 1), (1, 3), (3, 4), (4, 7)]
    whole = EVERY_ESTIMATOR[kind](cell, 7)
    parts = [EVERY_ESTIMATOR[kind](cell, end - first, first_lane=first) for first, end in cuts]
    for x, dh, reset in stream(cell, 30, 7, reset_rate=0.25):
        reset |= x[0, 0] > 1  # sometimes all lanes: a new block for all
        whole.step(x, reset)
        whole.accumulate(dh)
        for part, (first, end) in zip(parts, cuts, strict=True):
            part.block_goes_on = not reset.all()
            part.step(x[first:end], reset[first:end])
            part.accumulate(dh[first:end])
        state, joined = whole.state_dict(), okcore.Estimator.join_lanes([part.state_dict() for part in parts])
        assert joined.keys() == state.keys()
        for name, value in state.items():
            if np.asarray(value).dtype.kind == "f":
                assert_close(joined[name], value, "float64")
            else:
                np.testing.assert_array_equal(joined[name], value, name)
        for part, (first, end) in zip(parts, cuts, strict=True):
            part.load_state_dict(okcore.Estimator.take_lanes(state, first, end - first))
        assert_close(sum(part.gradient(dh[a:b]) for part, (a, b) in zip(parts, cuts, strict=True)),
                     whole.gradient(dh), "float64")
        if x[1, 0] > 0.5:
            assert_close(sum(part.flush() for part in parts), whole.flush(), "float64")
        cell.theta *= 0.99
    with pytest.raises(ValueError, match="steps must be the same"):
        okcore.Estimator.join_lanes([whole.state_dict(), EVERY_ESTIMATOR[kind](cell).state_dict()])
    with pytest.raises(ValueError, match="count must be at most 2"):
        okcore.Estimator.take_lanes(whole.state_dict(), 5, 3)
    with pytest.raises(ValueError, match="rng must have 7 lanes"):
        okcore.Estimator.take_lanes(whole.state_dict() | {"rng": np.zeros((6, 6))}, 5, 2)


def test_first_lanes():
    cell = make_cell("RHN")
    with pytest.raises(ValueError, match="first_lane must be at least 0, got -1"):
        okcore.OK(cell, 2, first_lane=-1)
    for estimator in RANDOM.values():
        def draw(rng, estimator=estimator, **options):
            return [generator.random() for generator in estimator(cell, rng=rng, **options).generators]

        for seed in 3, np.random.SeedSequence(3), np.random.default_rng(3):
            assert draw(seed, batch_size=2, first_lane=3) == draw(3, batch_size=5)[3:]
        copied = estimator(cell, first_lane=3).clone()
        assert copied.first_lane == 3
        copied.load_state_dict(estimator(cell).state_dict())  # the streams move with the state
        assert [generator.random() for generator in copied.generators] == draw(7)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_clone_and_state_dict_go_on_bitwise(kind, name):
    cell = make_cell(name)
    for stop in range(11):
        original, other = EVERY_ESTIMATOR[kind](cell), EVERY_ESTIMATOR[kind](cell)
        start = cell.theta.copy()
        for x, dh, reset in stream(cell, stop, 2, reset_rate=0.2):
            original.step(x, reset)
            original.accumulate(dh)
            cell.theta *= 0.99
        state = original.state_dict()
        assert all(isinstance(v, (np.ndarray, int, float, str, bool)) for v in state.values())
        assert not any(v.dtype.hasobject for v in state.values() if isinstance(v, np.ndarray))
        other.load_state_dict(state)
        twin = original.clone()
        assert twin.cell is cell
        theta = cell.theta.copy()
        traces = []
        for estimator in (original, other, twin):
            cell.theta = theta
            traces.append(trace(estimator, steps=9))
        assert traces[0] == traces[1] == traces[2]
        cell.theta = start


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 2, 3, 2), (4, 1, 1, 1)])
def test_smallest_sizes(sizes):
    n_in, n, B, rank = sizes
    for name in CELLS:
        for dtype in DTYPES:
            cell = make_cell(name, n_in, n, dtype)
            exact = okcore.RTRL(cell, 1, B)
            others = [okcore.RTRL(cell, 2, B), okcore.OK(cell, 40, 3, batch_size=B), okcore.TBPTT(cell, 99, B)]
            noisy = [maker(kind, rank=rank, block=1)(cell, B) for kind in ESTIMATORS]
            for x, dh, _ in stream(cell, 9, B):
                exact.step(x)
                for estimator in others + noisy:
                    estimator.step(x)
                for estimator in others:
                    assert_close(estimator.gradient(dh), exact.gradient(dh), dtype, factor=10)
                for estimator in noisy:
                    assert np.isfinite(estimator.gradient(dh)).all()


@pytest.mark.parametrize("kind", EVERY_ESTIMATOR)
def test_a_state_goes_through_npz(kind, tmp_path):
    cell = make_cell("GRU")
    original, other = EVERY_ESTIMATOR[kind](cell), EVERY_ESTIMATOR[kind](cell)
    for x, dh, _ in stream(cell, 6, 2):
        original.step(x)
        original.accumulate(dh)
    np.savez(tmp_path / "state.npz", allow_pickle=False, **original.state_dict())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        other.load_state_dict(state)
    assert trace(original) == trace(other)


def test_a_forked_child_goes_on():
    cell = make_cell("RHN", n_hidden=32)
    estimator = okcore.OK(cell, 4, 2, batch_size=4, rng=0, n_threads=2)
    data = list(stream(cell, 12, 4))
    for x, _, _ in data[:6]:
        estimator.step(x)
    expected = estimator.clone()
    for x, dh, _ in data[6:]:  # noqa: B007 (the last dh is what counts)
        expected.step(x)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a hang is a failure, not a hang of the tests
        for x, dh, _ in data[6:]:  # noqa: B007
            estimator.step(x)
        os.write(write, estimator.gradient(dh).tobytes())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == expected.gradient(dh).tobytes()
    os.waitpid(child, 0)


def test_a_seed_sequence_is_not_used_up():
    cell, seed = make_cell("RHN"), np.random.SeedSequence(3)
    traces = [trace(okcore.OK(cell, 2, 2, batch_size=2, rng=rng)) for rng in (seed, seed, 3)]
    assert traces[0] == traces[1] == traces[2]
