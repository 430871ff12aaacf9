"""The tasks are what they say, step for step, and resume bitwise from any position."""

import itertools

import numpy as np
import pytest

import okcore
from okcore import tasks
from okcore.runs import checkpoint

START, BLANK = 2, 3
NOTHING, CUE = 2, 3  # in Delay


def take(task, steps, loss=1.0):
    """Return steps of a task as arrays (T, B), telling it the same loss after each."""
    taken = []
    for _ in range(steps):
        taken.append(next(task))
        task.observe(loss)
    return [np.array(column) for column in zip(*taken, strict=True)]


def sequences(x, y, reset):
    """Yield (inputs, targets) of every sequence that a lane has finished."""
    for lane in range(x.shape[1]):
        for start, end in itertools.pairwise(np.flatnonzero(reset[:, lane])):
            yield x[start:end, lane], y[start:end, lane]


# ---- Copy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 4, 9])
def test_copy_layout(length):
    task = tasks.Copy(batch_size=3, rng=0, length=length)
    assert (task.n_in, task.n_out, task.batch_size) == (4, 4, 3)
    count = 0
    for inputs, targets in sequences(*take(task, 600)):
        T = len(inputs) // 2 - 1
        bits, blanks = inputs[1 : T + 1], [BLANK] * (T + 1)
        assert set(bits) <= {0, 1}
        assert inputs.tolist() == [START, *bits, *blanks]
        assert targets.tolist() == [*blanks, START, *bits]
        count += 1
    assert count > 600 * 3 / (2 * length + 2) - 4


@pytest.mark.parametrize("length, expected", [
    (1, {1: 1}), (2, {1: 4 / 5, 2: 1 / 5}), (4, {1: 2 / 5, 2: 1 / 5, 3: 1 / 5, 4: 1 / 5}),
    (9, {5: 1 / 5, 6: 1 / 5, 7: 1 / 5, 8: 1 / 5, 9: 1 / 5}),
])  # fmt: skip
def test_copy_lengths_are_uniform_on_the_last_five(length, expected):
    stream = take(tasks.Copy(8, rng=1, length=length), 4000)
    drawn = [len(inputs) // 2 - 1 for inputs, _ in sequences(*stream)]
    lengths, counts = np.unique(drawn, return_counts=True)
    assert lengths.tolist() == list(expected)
    share = np.array(list(expected.values()))
    assert (np.abs(counts / len(drawn) - share) <= 4.5 * np.sqrt(share * (1 - share) / len(drawn))).all()


def test_copy_bits_are_fair():
    stream = take(tasks.Copy(8, rng=2), 4000)
    bits = np.concatenate([inputs[1 : len(inputs) // 2] for inputs, _ in sequences(*stream)])
    assert abs(bits.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(bits))


def test_copy_lanes_run_out_of_step():
    x, _, reset = take(tasks.Copy(batch_size=6, rng=0, length=6), 300)
    assert reset.dtype == bool
    assert reset[0].all()
    assert ((x == START) == reset).all()
    assert len({tuple(lane) for lane in reset.T}) == 6
    assert len({tuple(lane) for lane in x.T}) == 6


def test_copy_curriculum():
    task, rng = tasks.Copy(batch_size=5, rng=0), np.random.default_rng(1)
    L, e = 1, 1.0
    grown = 0
    for step in range(12_000):
        _, _, reset = next(task)
        for _ in range(reset.sum()):  # lane by lane: the first one that grows L restarts e for the others
            if e < 0.15:
                L, e, grown = L + 1, 0.3, grown + 1
        assert task.length == L
        loss = rng.uniform(0, 0.2) if step % 3000 < 2500 else 1.0
        task.observe(loss)
        e = 0.999 * e + 0.001 * loss
        assert task.running_loss == pytest.approx(e, rel=1e-12)
    assert grown >= 3


def test_copy_grows_by_one_even_if_all_lanes_start():
    task = tasks.Copy(batch_size=4, rng=0)
    task.running_loss = 0.1499
    next(task)
    assert (task.length, task.running_loss) == (2, 0.3)
    task = tasks.Copy(batch_size=4, rng=0)
    task.running_loss = 0.15
    next(task)
    assert (task.length, task.running_loss) == (1, 0.15)


SEEDS = {
    "int": lambda: 5,
    "SeedSequence": lambda: np.random.SeedSequence(5),
    "Generator": lambda: np.random.default_rng(5),
    "another bit generator": lambda: np.random.Generator(np.random.MT19937(5)),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_copy_seeds(seed):
    first, again, another = (
        take(tasks.Copy(3, rng=rng, length=5), 50) for rng in (SEEDS[seed](), SEEDS[seed](), 6)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], another[0])


# ---- Text ----------------------------------------------------------------------------------------

TEXT = bytes(np.random.default_rng(0).integers(97, 107, size=1060, dtype=np.uint8))  # 1007 train, 53 validate


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_text_stream(batch_size):
    task = tasks.Text(TEXT, batch_size)
    N, steps = len(task.train), 2300
    x, y, reset = take(task, steps)
    for lane in range(batch_size):
        start = lane * (N - 1) // max(batch_size - 1, 1)
        position = (start + np.arange(steps)) % N
        assert (x[:, lane] == task.train[position]).all()
        assert (y[:, lane] == task.train[(position + 1) % N]).all()
        assert (reset[:, lane] == (position % 100 == 0)).all()
    assert reset.dtype == bool


def test_text_starts_at_both_ends():
    task = tasks.Text(bytes(range(1, 101)), 4)  # every byte is its own position
    x, y, _ = next(task)
    assert x.tolist() == [0, 31, 62, 94]
    assert y.tolist() == [1, 32, 63, 0]


@pytest.mark.parametrize("size", [100, 1060, 1079])
def test_text_last_five_percent_validates(size):
    data = (TEXT * 2)[:size]
    task = tasks.Text(data, 2)
    held_out = int(0.05 * size)
    assert task.symbols[task.train].tobytes() == data[: size - held_out]
    assert task.symbols[task.valid].tobytes() == data[size - held_out :]


def test_text_symbols_are_the_bytes_of_both_texts(tmp_path):
    (tmp_path / "train").write_bytes("abcäa".encode())
    (tmp_path / "valid").write_bytes(b"xyz")
    task = tasks.Text(tmp_path / "train", 1, valid=str(tmp_path / "valid"))
    assert task.symbols.tobytes() == b"abcxyz\xa4\xc3"
    assert task.n_in == task.n_out == 8
    assert task.train.tolist() == [0, 1, 2, 7, 6, 0]
    assert task.valid.tolist() == [3, 4, 5]


def test_text_reset_every():
    _, _, reset = take(tasks.Text(TEXT, 1, reset_every=7), 50)
    assert np.flatnonzero(reset).tolist() == list(range(0, 50, 7))


def test_python_docs_are_text():
    data = tasks.python_docs()
    assert len(data) > 100_000
    assert b"\0" not in data and b"lambda" in data
    task = tasks.Text(data, 4)
    assert 50 < task.n_in < 256
    assert tasks.python_docs() == data


# ---- Delay ---------------------------------------------------------------------------------------


def delays(x, y, reset):
    """Return the delays of all finished sequences, after a check of each one's layout."""
    found = []
    for inputs, targets in sequences(x, y, reset):
        D, bits = len(inputs) - 8, inputs[:4]
        assert set(bits) <= {0, 1}
        assert inputs.tolist() == [*bits, *[NOTHING] * D, *[CUE] * 4]
        assert targets.tolist() == [*[NOTHING] * (D + 4), *bits]
        found.append(D)
    return np.array(found)


@pytest.mark.parametrize("delay", [1, 2, 30])
def test_a_delay_that_is_given_stays(delay):
    task = tasks.Delay(3, rng=0, delay=delay)
    assert (task.n_in, task.n_out, task.batch_size) == (4, 3, 3)
    stream = take(task, 500, loss=0.0)
    assert set(delays(*stream)) == {delay} and task.longest == delay
    bits = np.concatenate([inputs[:4] for inputs, _ in sequences(*stream)])
    assert abs(bits.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(bits))


def test_delays_are_drawn_from_the_upper_quarter():
    task = tasks.Delay(8, rng=0)
    task.longest = 21
    lengths, counts = np.unique(delays(*take(task, 20_000)), return_counts=True)
    assert lengths.tolist() == [16, 17, 18, 19, 20, 21]
    assert (np.abs(counts / counts.sum() - 1 / 6) < 4.5 * np.sqrt(1 / 6 * 5 / 6 / counts.sum())).all()


def test_a_delay_grows_by_an_eighth_when_little_is_lost():
    task, rng = tasks.Delay(5, rng=0), np.random.default_rng(1)
    mastered, longest, e, seen = 0, 1, 1.0, {1}
    for step in range(20_000):
        _, y, reset = next(task)
        for _ in range(reset.sum()):
            if e < 0.15:
                mastered, longest, e = longest, longest + max(1, longest // 8), 0.3
        assert (task.longest, task.mastered) == (longest, mastered)
        seen.add(longest)
        loss = rng.uniform(0, 0.05) if step % 3000 < 2500 else 1.0
        task.observe(loss)
        recalled = (y != NOTHING).sum()
        for _ in range(recalled):  # one bit after the other
            e = 0.995 * e + 0.005 * loss * 5 / recalled
        assert task.running_loss == pytest.approx(e, rel=1e-9)
    assert {2, 8, 9, 16, 18} <= seen


# ---- Series --------------------------------------------------------------------------------------


def test_series_stream():
    values = np.random.default_rng(0).normal(3, 2, 200)
    task = tasks.Series(values, 3, np.float64)
    train = (values[:180] - values[:180].mean()) / values[:180].std()
    x, y, reset = take(task, 400)
    for lane, start in enumerate((0, 179 // 3, 2 * 179 // 3)):
        here = (start + np.arange(400)) % 179
        assert np.allclose(x[:, lane, 0], train[here], rtol=0, atol=1e-14)
        assert np.allclose(y[:, lane, 0], train[here + 1], rtol=0, atol=1e-14)
        assert (reset[:, lane] == ((here == 0) | (np.arange(400) == 0))).all()
    assert x.dtype == np.float64 and np.allclose(task.mean + task.scale * task.valid, values[180:])


def test_mackey_glass_obeys_its_equation():
    coarse, fine = (tasks.mackey_glass(300, spacing=spacing) for spacing in (10, 40))
    assert coarse.shape == (300,) and 0.2 < coarse.min() < coarse.max() < 1.5 and coarse.std() > 0.1
    # The central difference of a fine solution is its slope
    x = tasks.mackey_glass(12_000, spacing=20)
    slope = (x[102:] - x[100:-2]) / 2
    expected = 0.2 * x[84:-18] / (1 + x[84:-18] ** 10) - 0.1 * x[101:-1]
    assert np.abs(slope - expected).max() < 5e-3
    assert not np.array_equal(coarse, fine)  # chaos: they part, sooner or later


def test_series_error_is_that_of_the_validation_part():
    values = np.sin(np.arange(400.0)) + np.random.default_rng(0).normal(0, 0.1, 400)
    task, cell = tasks.Series(values, 2), okcore.RNN(1, 5, rng=0)
    readout = okcore.LinearReadout(5, 1, rng=1)
    trainer = okcore.OnlineTrainer(cell, okcore.TBPTT(cell, 1, batch_size=2), readout, okcore.SGD(0.1))
    hidden = np.zeros(5, np.float32)
    predicted = []
    for x in np.concatenate([task.train[-100:], task.valid])[:-1]:
        hidden = np.tanh(cell.theta @ np.concatenate([[x], hidden, [1]]).astype(np.float32))
        predicted.append(readout.predict(hidden[None])[0, 0])
    error = np.sqrt(np.mean((np.array(predicted)[-40:] - task.valid) ** 2)) / task.valid.std()
    assert task.evaluate(trainer) == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("values, words", [
    ([1.0] * 30, "vary"), (np.ones((5, 5)), "at least 20"), ([1, 2], "at least 20"), ([0.0] * 29 + [np.nan], "finite"),
    (np.sin(np.arange(30)) * 1e300, "variance"), ([0.0, 1.0] * 15 + [1e300], "variance"),
])  # fmt: skip
def test_series_that_are_none(values, words):
    with pytest.raises(ValueError, match=words):
        tasks.Series(values, 2)


# ---- all -----------------------------------------------------------------------------------------

TASKS = {
    "copy": lambda seed: tasks.Copy(3, rng=seed),
    "long copy": lambda seed: tasks.Copy(1, rng=seed, length=12),
    "text": lambda seed: tasks.Text(TEXT, 3),
    "delay": lambda seed: tasks.Delay(3, rng=seed),
    "a given delay": lambda seed: tasks.Delay(2, rng=seed, delay=7),
    "series": lambda seed: tasks.Series(np.sin(np.arange(60.0)), 3),
}


@pytest.mark.parametrize("target_steps", [0, 17], ids=["into a new one", "into a used one"])
@pytest.mark.parametrize("steps", [0, 1, 4, 150])
@pytest.mark.parametrize("name", TASKS)
def test_resume_is_bitwise(name, steps, target_steps, tmp_path):
    path = tmp_path / "checkpoint.npz"
    task, resumed = TASKS[name](0), TASKS[name](1)
    take(task, steps, loss=0.01)
    take(resumed, target_steps)
    state = task.state_dict()
    kept = {key: np.copy(value) for key, value in state.items()}
    checkpoint.write(path, {"task": state})
    expected = take(task, 400, loss=0.01)
    assert all(np.array_equal(state[key], kept[key]) for key in kept)  # a snapshot, not a view
    resumed.load_state_dict(checkpoint.read(path)["task"])
    for ours, theirs in zip(take(resumed, 400, loss=0.01), expected, strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    final, expected = resumed.state_dict(), task.state_dict()
    assert all(np.array_equal(final[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", TASKS)
def test_what_was_yielded_is_not_written_again(name):
    task = TASKS[name](0)
    first = next(task)
    kept = [array.copy() for array in first]
    for _ in range(20):
        next(task)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_a_task_of_ones_own():
    class Counting(tasks.Task):
        n_in = n_out = 10
        batch_size = 1
        place = 0

        def __next__(self):
            self.place += 1
            return np.array([self.place % 10]), np.array([(self.place + 1) % 10]), None

    task = Counting()
    assert iter(task) is task
    assert [int(x[0]) for x, _, _ in itertools.islice(task, 3)] == [1, 2, 3]
    task.observe(0.5)
    assert task.state_dict() == {}
    with pytest.raises(NotImplementedError, match="Task must define __next__"):
        next(tasks.Task())


@pytest.mark.parametrize("loss", [1e308, -1e308])
def test_the_largest_losses_leave_the_running_loss_of_a_delay_finite(loss):
    task = tasks.Delay(16, rng=0)
    for _ in range(20):
        next(task)
        task.observe(loss)
    assert task.running_loss != 1 and np.isfinite(task.running_loss)
