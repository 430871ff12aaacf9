"""Readouts, optimizers and the trainer: derivatives, updates, and resuming bitwise from any step."""

import itertools
import math

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import okcore
from okcore import tasks
from tests.conftest import CELLS, DTYPES, ESTIMATORS
from tests.helpers import assert_same_state, flat_state

B, N, OUT = 3, 5, 4  # lanes, hidden units, outputs


def make_trainer(
    cell=okcore.RHN, estimator="ok", optimizer=okcore.Adam, readout=okcore.SoftmaxReadout, seed=0,
    dtype=np.float32, n_hidden=N, lr=0.1, **options,
):  # fmt: skip
    cell = cell(OUT, n_hidden, dtype=dtype, rng=seed)
    readout = readout(n_hidden, OUT, dtype=dtype, rng=seed + 1)
    return okcore.OnlineTrainer(cell, ESTIMATORS[estimator](cell, B, seed), readout, optimizer(lr), **options)


def stream(steps, seed=0):
    """Return steps of a Copy task, out of step between lanes."""
    task = tasks.Copy(B, rng=seed, length=5)
    return [next(task) for _ in range(steps)]


# ---- readouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [okcore.SoftmaxReadout, okcore.LinearReadout])
def test_readout_gradients_against_central_differences(kind):
    rng, step = np.random.default_rng(0), 1e-6
    readout = kind(N, OUT, dtype=np.float64, rng=0)
    h = rng.normal(size=(B, N))
    y = rng.integers(OUT, size=B) if kind is okcore.SoftmaxReadout else rng.normal(size=(B, OUT))
    _, dh, dweights = readout.loss(h, y)
    for array, derivative in ((h, dh), (readout.weights, dweights)):
        assert derivative.shape == array.shape
        assert derivative.dtype == array.dtype
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + step
            above = readout.loss(h, y)[0]
            array[place] = kept - step
            below = readout.loss(h, y)[0]
            array[place] = kept
            in_nats = (above - below) / (2 * step) * math.log(2)
            assert derivative[place] == pytest.approx(in_nats, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [okcore.SoftmaxReadout, okcore.LinearReadout])
def test_readouts_start_as_torchs(kind, dtype):
    # Within five standard errors of mean and deviation: a false alarm in a million, had the seed not been fixed.  Of M
    # uniform numbers the largest is within 1 % of the bound, but for a chance of 0.99^M = 1e-66.
    n, n_out = 100, 150
    weights = kind(n, n_out, dtype=dtype, rng=0).weights.astype(float)
    bound, M = 1 / math.sqrt(n), weights.size
    assert weights.shape == (n_out, n + 1) and len(np.unique(weights)) > 0.9 * M
    assert 0.99 * bound < np.abs(weights).max() <= bound * (1 + np.finfo(dtype).eps)
    assert weights.mean() == pytest.approx(0, abs=5 * bound / math.sqrt(3 * M))
    assert weights.std() == pytest.approx(bound / math.sqrt(3), rel=5 * math.sqrt(0.2 / M))
    for scale in (0.01, 0.5):
        normal = kind(n, n_out, dtype=dtype, rng=0, init="normal", scale=scale).weights.astype(float)
        assert normal.mean() == pytest.approx(0, abs=5 * scale / math.sqrt(M))
        assert normal.std() == pytest.approx(scale, rel=5 / math.sqrt(2 * M))
    by_default, said = (kind(n, n_out, rng=0, init="normal", **scale).weights for scale in ({}, {"scale": 0.01}))
    assert np.array_equal(by_default, said)
    assert not kind(n, n_out, init="zeros").weights.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_bits(dtype):
    rng = np.random.default_rng(0)
    readout = okcore.SoftmaxReadout(N, OUT, dtype=dtype, rng=0)
    h, y = rng.normal(size=(B, N)).astype(dtype), rng.integers(OUT, size=B)
    logits = h.astype(float) @ readout.weights[:, :-1].T.astype(float) + readout.weights[:, -1]
    expected = [math.log2(np.exp(row).sum()) - row[k] / math.log(2) for row, k in zip(logits, y, strict=True)]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(readout.bits(h, y), expected, rtol=tolerance)
    assert readout.loss(h, y)[0] == pytest.approx(np.mean(expected), rel=tolerance)
    probabilities = readout.predict(h)
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(-np.log2(probabilities[np.arange(B), y]), expected, rtol=10 * tolerance)


def test_softmax_knows_nothing_at_zero():
    readout = okcore.SoftmaxReadout(N, 8, init="zeros")
    assert readout.loss(np.ones((B, N), np.float32), np.arange(B))[0] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", [50.0, 200.0, 2000.0])
def test_softmax_loss_of_what_was_held_impossible_is_finite(logit, dtype):
    readout = okcore.SoftmaxReadout(N, 2, dtype=dtype, init="zeros")
    readout.weights[0, -1] = logit
    h, y = np.zeros((1, N), dtype), np.array([1])
    loss, _, dweights = readout.loss(h, y)
    assert loss == pytest.approx(logit / math.log(2), rel=1e-6)
    assert readout.bits(h, y)[0] == pytest.approx(logit / math.log(2), rel=1e-6)
    assert dweights[:, -1].tolist() == [1, -1]


def test_linear_bits():
    rng = np.random.default_rng(0)
    readout = okcore.LinearReadout(N, OUT, dtype=np.float64, rng=0)
    h, y = rng.normal(size=(B, N)), rng.normal(size=(B, OUT))
    outputs = np.hstack([h, np.ones((B, 1))]) @ readout.weights.T
    np.testing.assert_allclose(readout.predict(h), outputs, rtol=1e-13)
    nats = 0.5 * ((outputs - y) ** 2).sum() / B
    assert readout.loss(h, y)[0] == pytest.approx(nats / math.log(2), rel=1e-13)


@pytest.mark.parametrize("kind", [okcore.SoftmaxReadout, okcore.LinearReadout])
def test_outputs_that_overflow_are_reported(kind):
    readout = kind(N, OUT, rng=0)
    readout.weights[...] = 3
    calls = [readout.predict]
    if kind is okcore.SoftmaxReadout:
        calls.append(lambda h: readout.bits(h, [0]))
    for call in calls:
        with pytest.raises(FloatingPointError, match="outputs are not finite"):
            call(np.full((1, N), 3e38, np.float32))


def test_softmax_at_the_ends_of_the_range():
    readout = okcore.SoftmaxReadout(1, 2, init="zeros")
    readout.weights[:, 0] = 1, -1
    far = np.full((1, 1), 3.4e38, np.float32)  # the outputs are finite, their difference is not
    assert readout.predict(far).tolist() == [[1, 0]] and readout.bits(far, [0]) == 0
    for h in (far, far / 2):  # the log-probability is not finite, or is in nats but not in bits
        with pytest.raises(FloatingPointError, match="not finite"):
            readout.bits(h, [1])


@pytest.mark.parametrize("kind", [okcore.SoftmaxReadout, okcore.LinearReadout])
def test_a_batch_without_lanes_is_refused(kind):
    y = np.zeros(0, int) if kind is okcore.SoftmaxReadout else np.zeros((0, OUT), np.float32)
    with pytest.raises(ValueError, match="h must hold at least one lane"):
        kind(N, OUT, rng=0).loss(np.zeros((0, N), np.float32), y)


def test_evaluate_bits_needs_a_readout_with_bits():
    with pytest.raises(TypeError, match="readout must have a method bits"):
        make_trainer(readout=okcore.LinearReadout).evaluate_bits([0, 1, 2])


# ---- optimizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 3e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("arguments", [(), (0.01,), (0.1, 0.5, 0.9, 1e-3), (0.1, 0.0, 0.0)])
def test_adam(arguments, dtype, rtol):
    rng = np.random.default_rng(0)
    lr, b1, b2, eps = (*arguments, *(1e-3, 0.9, 0.999, 1e-8)[len(arguments) :])
    optimizer, parameters = okcore.Adam(*arguments), {"a": np.ones((2, 3), dtype), "b": np.zeros(4, dtype)}
    for name, parameter in parameters.items():
        expected, m, v = parameter.astype(float), 0, 0
        for t in range(1, 31):
            gradient = (rng.normal(size=parameter.shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype)
            kept = gradient.copy()
            optimizer.update(name, parameter, gradient)
            g = gradient.astype(float)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            expected -= lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
            assert np.array_equal(gradient, kept)
        np.testing.assert_allclose(parameter, expected, rtol=rtol, atol=rtol)
        assert parameter.dtype == dtype


def test_sgd():
    parameter, gradient = np.arange(6.0).reshape(2, 3), np.full((2, 3), 0.5)
    okcore.SGD(0.1).update("a", parameter, gradient)
    np.testing.assert_allclose(parameter, np.arange(6.0).reshape(2, 3) - 0.05, rtol=1e-15)
    assert (gradient == 0.5).all()


@pytest.mark.parametrize("make", [lambda: okcore.SGD(0.1), lambda: okcore.Adam(0.1)], ids=["SGD", "Adam"])
def test_optimizers_resume_bitwise(make):
    rng = np.random.default_rng(0)
    parameters = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
    optimizer, resumed = make(), make()
    for _ in range(3):
        optimizer.update("a", parameters["a"], rng.normal(size=(2, 3)).astype(np.float32))
    optimizer.update("b", parameters["b"], rng.normal(size=4).astype(np.float32))
    resumed.load_state_dict(optimizer.state_dict(), parameters)
    twins = {name: parameter.copy() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for _ in range(3):
            gradient = rng.normal(size=parameter.shape).astype(np.float32)
            optimizer.update(name, parameter, gradient)
            resumed.update(name, twins[name], gradient)
        assert np.array_equal(parameter, twins[name])


def copies(optimizer, *arrays):
    return [array.copy() for array in arrays], {k: np.copy(v) for k, v in optimizer.state_dict().items()}


def assert_same_copies(found, expected):
    assert all(np.array_equal(*pair) for pair in zip(found[0], expected[0], strict=True))
    assert found[1].keys() == expected[1].keys() and all(np.array_equal(found[1][k], expected[1][k]) for k in found[1])


@pytest.mark.parametrize("make, gradient", [
    (lambda: okcore.Adam(0.1), 2e19),  # its square is no float32
    (lambda: okcore.SGD(1e30), 1e30),
    (lambda: okcore.Adam(1e300), 1.0),
    (lambda: okcore.SGD(1e300), 1.0),
    (lambda: okcore.Adam(0.1), np.nan),
    (lambda: okcore.SGD(0.1), np.inf),
], ids=str)  # fmt: skip
def test_an_update_that_overflows_changes_nothing(make, gradient):
    optimizer, parameter = make(), np.ones((2, 3), np.float32)
    small = np.full((2, 3), 1e-30, np.float32)
    if optimizer.learning_rate < 1e100:
        optimizer.update("a", parameter, small)
    before = copies(optimizer, parameter)
    bad = small.copy()
    bad[1, 1] = gradient
    with pytest.raises(FloatingPointError, match="'a'"):
        optimizer.update("a", parameter, bad)
    assert_same_copies(copies(optimizer, parameter), before)
    if optimizer.learning_rate < 1e100:  # and the next update is as if it had never been
        twin, other = make(), np.ones((2, 3), np.float32)
        for _ in range(2):
            twin.update("a", other, small)
        optimizer.update("a", parameter, small)
        assert_same_copies(copies(optimizer, parameter), copies(twin, other))


@pytest.mark.parametrize("overridden", [False, True])
@pytest.mark.parametrize("update_every", [1, 3])
def test_a_gradient_of_the_readout_that_is_not_finite_moves_no_theta(update_every, overridden):
    class Broken(okcore.SoftmaxReadout):
        broken = False

        def loss(self, h, y):
            loss, dh, dweights = super().loss(h, y)
            return loss, dh, dweights * np.float32(np.inf if self.broken else 1)

    class Mine(okcore.Adam):
        def update(self, name, parameter, gradient):
            super().update(name, parameter, gradient)

    options = {"readout": Broken, "optimizer": Mine if overridden else okcore.Adam, "update_every": update_every}
    trainer, twin = make_trainer(**options), make_trainer(**options)
    rows = stream(5 * update_every)
    for row in rows[:update_every]:
        trainer.partial_fit(*row)
    before = copies(trainer.optimizer, trainer.cell.theta, trainer.readout.weights)
    trainer.readout.broken = True
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="'readout'"):
        for row in rows[update_every : 2 * update_every]:
            trainer.partial_fit(*row)
    assert trainer.steps == 2 * update_every
    assert_same_copies(copies(trainer.optimizer, trainer.cell.theta, trainer.readout.weights), before)
    trainer.readout.broken = False
    for row in rows[2 * update_every :]:
        trainer.partial_fit(*row)  # its gradient was dropped: the next update starts afresh
    for row in rows[:update_every]:
        twin.partial_fit(*row)
    for row in rows[update_every : 2 * update_every]:
        twin.estimator.step(row[0], row[2])
        twin.steps += 1
    for row in rows[2 * update_every :]:
        twin.partial_fit(*row)
    np.testing.assert_array_equal(trainer.cell.theta, twin.cell.theta)
    np.testing.assert_array_equal(trainer.readout.weights, twin.readout.weights)


# ---- updates -------------------------------------------------------------------------------------


def step_of(trainer, x, y, reset):
    """Return what one step of training changes: (loss, theta, weights)."""
    theta, weights = trainer.cell.theta.copy(), trainer.readout.weights.copy()
    loss = trainer.partial_fit(x, y, reset)
    return loss, trainer.cell.theta - theta, trainer.readout.weights - weights


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_is_loss_gradient_update(estimator):
    trainer = make_trainer(estimator=estimator, optimizer=okcore.SGD, dtype=np.float64, lr=0.5)
    twin, readout = trainer.estimator.clone(), trainer.readout
    for x, y, reset in stream(14):
        h = twin.step(x, reset)
        expected, dh, dweights = readout.loss(h, y)
        gradient = twin.gradient(dh)
        loss, dtheta, moved = step_of(trainer, x, y, reset)
        assert loss == expected
        np.testing.assert_allclose(dtheta, -0.5 * gradient, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(moved, -0.5 * dweights, rtol=1e-9, atol=1e-14)


def test_clip_bounds_the_recurrent_gradient_alone():
    clipped_steps = 0
    free = make_trainer(optimizer=okcore.SGD, dtype=np.float64, lr=1.0)
    clipped = make_trainer(optimizer=okcore.SGD, dtype=np.float64, lr=1.0, clip=0.15)
    for x, y, reset in stream(20):
        for trainer in (free, clipped):  # the same parameters before every step
            trainer.cell.theta = make_trainer(dtype=np.float64).cell.theta
            trainer.readout.weights[...] = make_trainer(dtype=np.float64).readout.weights
        _, dtheta, dweights = step_of(free, x, y, reset)
        _, dtheta_clipped, dweights_clipped = step_of(clipped, x, y, reset)
        norm = np.linalg.norm(dtheta)
        clipped_steps += norm > 0.15
        np.testing.assert_allclose(dtheta_clipped, dtheta * min(1, 0.15 / norm), rtol=1e-9, atol=1e-14)
        assert np.array_equal(dweights_clipped, dweights)
    assert 0 < clipped_steps < 20


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_clip_holds_for_norms_whose_square_is_no_float32(scale):
    class Scaled(okcore.LinearReadout):
        def loss(self, h, y):
            loss, dh, dweights = super().loss(h, y)
            return loss, dh * np.float32(scale), dweights

    trainer = make_trainer(optimizer=okcore.SGD, readout=Scaled, lr=1.0, clip=1e-3)
    _, dtheta, _ = step_of(trainer, [0, 1, 2], np.ones((B, OUT), np.float32), None)
    norm = np.linalg.norm(dtheta.astype(float))
    assert norm == pytest.approx(1e-3 if scale > 1 else 0, rel=1e-3, abs=1e-20)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("clip", [None, 0.01])
def test_update_every_averages(estimator, clip):
    U = 3
    trainer = make_trainer(
        estimator=estimator, optimizer=okcore.SGD, dtype=np.float64, lr=0.5, update_every=U, clip=clip
    )
    twin, readout, rows = trainer.estimator.clone(), trainer.readout, stream(12)
    for start in range(0, len(rows), U):
        gradients, dweights = [], []
        for x, y, reset in rows[start : start + U]:
            _, dh, of_readout = readout.loss(twin.step(x, reset), y)
            gradients.append(twin.gradient(dh))
            dweights.append(of_readout)
        for row in rows[start : start + U - 1]:
            _, dtheta, moved = step_of(trainer, *row)
            assert not dtheta.any() and not moved.any()
        _, dtheta, moved = step_of(trainer, *rows[start + U - 1])
        mean = np.mean(gradients, axis=0)
        mean *= 1 if clip is None else min(1, clip / np.linalg.norm(mean))
        # UORO and KF-RTRL compress at random: theirs agree as they draw the same signs
        np.testing.assert_allclose(dtheta, -0.5 * mean, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(moved, -0.5 * np.mean(dweights, axis=0), rtol=1e-9, atol=1e-14)


def test_predict_steps_and_learns_nothing():
    trainer, twin = make_trainer(), make_trainer()
    rows = stream(3)
    for x, _, reset in rows:
        theta, weights = trainer.cell.theta.copy(), trainer.readout.weights.copy()
        probabilities = trainer.predict(x, reset)
        assert np.array_equal(probabilities, trainer.readout.predict(twin.estimator.step(x, reset)))
        assert np.array_equal(trainer.cell.theta, theta)
        assert np.array_equal(trainer.readout.weights, weights)
    assert np.array_equal(trainer.estimator.state, twin.estimator.state)
    assert trainer.predict(rows[0][0]) is not trainer.predict(rows[0][0])


# ---- fit -----------------------------------------------------------------------------------------


class Listening(tasks.Copy):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.heard = []

    def observe(self, loss_bits):
        super().observe(loss_bits)
        self.heard.append(loss_bits)


def test_fit_returns_the_losses_of_its_steps():
    task, trainer, by_hand = Listening(B, rng=0, length=5), make_trainer(), make_trainer()
    losses = trainer.fit(task, 20)
    assert losses.shape == (20,) and losses.dtype == np.float64
    assert losses.tolist() == task.heard == [by_hand.partial_fit(*row) for row in stream(20)]
    assert_same_state(flat_state(trainer), flat_state(by_hand))
    assert trainer.fit(task, 0).shape == (0,)
    assert len(task.heard) == 20


def test_fit_calls_back_and_may_stop():
    heard, trainer = [], make_trainer()

    def callback(trainer, loss):
        heard.append((trainer.steps, loss))
        return trainer.steps == 7

    losses = trainer.fit(tasks.Copy(B, rng=0), 20, callback=callback)
    assert losses.shape == (7,)
    assert heard == list(zip(range(1, 8), losses, strict=True))
    assert trainer.steps == 7


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


class Failing(tasks.Copy):
    def observe(self, loss_bits):
        raise ZeroDivisionError


def test_fit_holds_blas_to_one_thread():
    class Watching(tasks.Copy):
        def observe(self, loss_bits):
            seen.append(blas_threads())

    with threadpool_limits(2, user_api="blas"):
        before, seen = blas_threads(), []
        if max(before, default=1) == 1:
            pytest.skip("BLAS has but one thread")
        make_trainer().fit(Watching(B, rng=0), 3)
        assert seen == [[1] * len(before)] * 3
        assert blas_threads() == before
        with pytest.raises(ZeroDivisionError):
            make_trainer().fit(Failing(B, rng=0), 3)
        assert blas_threads() == before


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fit_learns(estimator):
    cell = okcore.RHN(4, 16, rng=0)
    readout, task = okcore.SoftmaxReadout(16, 4, rng=1), tasks.Copy(B, rng=0)
    task.THRESHOLD = 0  # no curriculum
    trainer = okcore.OnlineTrainer(cell, ESTIMATORS[estimator](cell, B), readout, okcore.Adam(0.02), clip=1.0)
    losses = trainer.fit(task, 600, progress=False)
    assert losses[:20].mean() > 1
    assert losses[-100:].mean() < 0.5


def test_a_loss_that_is_not_finite_is_an_error():
    trainer = make_trainer(readout=okcore.LinearReadout)
    trainer.readout.weights[...] = np.inf
    with pytest.raises(FloatingPointError, match=r"loss.*step 1"):
        trainer.partial_fit([0, 1, 2], np.ones((B, OUT), np.float32))


@pytest.mark.parametrize("kind, h, weights, word", [
    *((kind, *row, "loss is") for kind in (okcore.SoftmaxReadout, okcore.LinearReadout)
      for row in ((3e38, 10.0), (1.0, np.inf), (1.0, np.nan))),
    (okcore.LinearReadout, 1e30, 1.0, "derivatives"),  # the loss, in float64, is finite
])  # fmt: skip
def test_a_loss_or_a_derivative_that_is_not_finite_is_an_error(kind, h, weights, word):
    readout = kind(N, OUT, rng=0)
    readout.weights[...] = weights
    y = [0] if kind is okcore.SoftmaxReadout else np.zeros((1, OUT), np.float32)
    with pytest.raises(FloatingPointError, match=word):
        readout.loss(np.full((1, N), h, np.float32), y)


def test_a_step_whose_loss_is_not_finite_is_counted():
    trainer = make_trainer(readout=okcore.LinearReadout)
    trainer.readout.weights[...] = np.inf
    with pytest.raises(FloatingPointError, match="loss is not finite at step 1"):
        trainer.partial_fit([0, 1, 2], np.ones((B, OUT), np.float32))
    assert trainer.steps == trainer.estimator.steps == 1


# ---- evaluate_bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("cell", CELLS.values())
def test_evaluate_bits_is_the_naive_loop(cell, dtype, rtol):
    trainer = make_trainer(cell, dtype=dtype)
    trainer.fit(tasks.Copy(B, rng=0), 10)
    before, symbols = flat_state(trainer), np.random.default_rng(0).integers(OUT, size=57)
    reader = okcore.TBPTT(trainer.cell, horizon=1)
    total = 0.0
    for now, then in itertools.pairwise(symbols):
        logits = trainer.readout.outputs(reader.step([now]))[0].astype(np.float64)
        total -= math.log2(np.exp(logits[then]) / np.exp(logits).sum())
    for chunk in (1, 7, 56, 57, 1000):
        assert trainer.evaluate_bits(symbols, chunk=chunk) == pytest.approx(total / 56, rel=rtol)
    assert_same_state(flat_state(trainer), before)


def test_evaluate_bits_takes_any_integers():
    trainer, symbols = make_trainer(), np.random.default_rng(0).integers(OUT, size=20)
    expected = trainer.evaluate_bits(symbols)
    assert trainer.evaluate_bits(symbols.astype(np.uint8)) == expected
    assert trainer.evaluate_bits(symbols.tolist()) == expected


# ---- save and load -------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS.values())
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_resume_is_bitwise_in_the_middle_of_a_block(estimator, cell, tmp_path):
    rows, options = stream(24), {"cell": cell, "estimator": estimator, "update_every": 3, "clip": 0.05}
    trainer = make_trainer(**options)
    for row in rows[:10]:  # 2 steps of a block of 4, 1 of an update of 3
        trainer.partial_fit(*row)
    path = tmp_path / "checkpoint.npz"
    trainer.save(path)
    resumed = make_trainer(**options, seed=7)
    for row in stream(5, seed=3):
        resumed.partial_fit(*row)
    resumed.load(path)
    assert_same_state(flat_state(resumed), flat_state(trainer))
    for row in rows[10:]:
        assert resumed.partial_fit(*row) == trainer.partial_fit(*row)
        assert np.array_equal(resumed.cell.theta, trainer.cell.theta)
    assert_same_state(flat_state(resumed), flat_state(trainer))
    assert resumed.steps == trainer.steps == 24


@pytest.mark.parametrize("steps", range(9))
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_resume_is_bitwise_from_any_step(estimator, steps, tmp_path):
    rows, options = stream(16), {"estimator": estimator, "optimizer": okcore.SGD, "dtype": np.float64}
    trainer = make_trainer(**options)
    resumed = make_trainer(**options, seed=7)
    for row in rows[:steps]:
        trainer.partial_fit(*row)
    trainer.save(tmp_path / "checkpoint.npz")
    resumed.load(tmp_path / "checkpoint.npz")
    for row in rows[steps:]:
        assert resumed.partial_fit(*row) == trainer.partial_fit(*row)
    assert_same_state(flat_state(resumed), flat_state(trainer))


def test_a_checkpoint_holds_plain_arrays(tmp_path):
    trainer = make_trainer()
    trainer.fit(tasks.Copy(B, rng=0), 5)
    trainer.save(tmp_path / "a name without a suffix")
    assert [file.name for file in tmp_path.iterdir()] == ["a name without a suffix"]
    with np.load(tmp_path / "a name without a suffix", allow_pickle=False) as file:
        assert np.array_equal(file["trainer/theta"], trainer.cell.theta)
        assert all(file[name].dtype.kind in "iufbU" for name in file.files)


FOREIGN = [
    ({"estimator": "rtrl"}, "algorithm"),
    ({"cell": okcore.GRU}, "theta"),
    ({"cell": type("Twin", (okcore.RHN,), {})}, "cell"),  # of the same size
    ({"n_hidden": N + 1}, "theta"),
    ({"dtype": np.float64}, "theta"),
    ({"optimizer": okcore.SGD}, "optimizer"),
    ({"readout": okcore.LinearReadout}, "readout"),
]


@pytest.mark.parametrize("difference, word", FOREIGN, ids=[str(row[0]) for row in FOREIGN])
def test_a_foreign_checkpoint_changes_nothing(difference, word, tmp_path):
    foreign, trainer = make_trainer(**difference, seed=5), make_trainer()
    targets = np.ones((B, OUT), foreign.cell.dtype) if "readout" in difference else [0, 1, 2]
    for x, y, reset in stream(6):
        foreign.partial_fit(x, targets, reset)
        trainer.partial_fit(x, y, reset)
    foreign.save(tmp_path / "foreign.npz")
    before, theta, weights = flat_state(trainer), trainer.cell.theta, trainer.readout.weights
    with pytest.raises((ValueError, TypeError), match=rf"\b{word} must"):
        trainer.load(tmp_path / "foreign.npz")
    assert_same_state(flat_state(trainer), before)
    assert trainer.cell.theta is theta and trainer.readout.weights is weights
    twin = make_trainer()
    for row in stream(6):
        twin.partial_fit(*row)
    for row in stream(6, seed=1):  # its random streams too are where they were
        assert trainer.partial_fit(*row) == twin.partial_fit(*row)


def test_parameters_stay_one_buffer(tmp_path):
    trainer = make_trainer()
    theta, weights = trainer.cell.theta, trainer.readout.weights
    trainer.fit(tasks.Copy(B, rng=0), 5)
    trainer.save(tmp_path / "checkpoint.npz")
    trainer.load(tmp_path / "checkpoint.npz")
    assert trainer.cell.theta is theta
    assert trainer.readout.weights is weights
