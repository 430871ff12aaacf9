"""A user's program, with annotations: `mypy --strict` must find nothing in it (test_types.py), and it runs."""

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import okcore
from okcore import kron, reference, tasks
from okcore.testing import check_cell, check_estimator

Floats: TypeAlias = NDArray[np.floating[Any]]


class UGRNN(okcore.Cell):
    """A cell in NumPy."""

    n_gates = 2

    def pointwise(self, pre: Floats, state: Floats) -> tuple[Floats, Floats, Floats]:
        old = state[:, 0]
        g, c = 1 / (1 + np.exp(-pre[:, 0, 0])), np.tanh(pre[:, 0, 1])
        h = g * old + (1 - g) * c
        d = np.stack([(old - c) * g * (1 - g), (1 - g) * (1 - c**2)], axis=1)
        return h[:, None], d[:, None, None], g[:, None, None]


class DenseCarry(okcore.Carry):
    """Exact RTRL in NumPy, by blocks."""

    def __init__(self, cell: okcore.Cell, batch_size: int) -> None:
        super().__init__(cell, batch_size)
        self.J = self.keep("J", (cell.state_size, *cell.theta.shape))
        self.absorbed = self.keep("absorbed", (), np.int64)

    def absorb(self, lane: int, Phi: NDArray[Any], u: NDArray[Any], A: NDArray[Any]) -> None:
        self.J[lane] = np.tensordot(Phi, self.J[lane], 1) + np.einsum("isp,im->spm", A, u)
        self.absorbed[lane] += len(u)
        self.generators[lane].random()

    def contract(self, delta: Floats) -> Floats:
        gradient: Floats = np.einsum("bs,bspm->pm", delta, self.J)
        return gradient

    @property
    def stats(self) -> dict[str, NDArray[Any]]:
        return {"absorbed": self.absorbed}


class DenseRTRL(okcore.Estimator):
    carry: DenseCarry
    quality = "exact"

    def __init__(self, cell: okcore.Cell, block: int = 1, batch_size: int = 1) -> None:
        super().__init__(cell, DenseCarry(cell, batch_size), block)

    def total(self) -> int:
        return int(self.carry.absorbed.sum())


class LeakCarry(okcore.Carry):
    """RFLO, a local rule."""

    def __init__(self, cell: okcore.Cell, batch_size: int) -> None:
        super().__init__(cell, batch_size)
        m = cell.theta.shape[1]
        self.own = self.keep("own", (cell.n_state_blocks, cell.n_gates, cell.n_hidden, m))

    def absorb_step(
        self, lane: int, d: NDArray[np.float32], c: NDArray[np.float32], u: NDArray[np.float32]
    ) -> None:
        self.own[lane] = np.einsum("abi,bgim->agim", c, self.own[lane]) + np.einsum("jagi,jm->agim", d, u)

    def contract(self, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        k, n = self.own.shape[1], self.own.shape[3]
        gradient: NDArray[np.float32] = np.einsum("lai,lagim->gim", delta.reshape(-1, k, n), self.own)
        return gradient.reshape(self.cell.theta.shape)


class RFLO(okcore.Estimator):
    def __init__(self, cell: okcore.Cell, batch_size: int = 1) -> None:
        super().__init__(cell, LeakCarry(cell, batch_size), block=1)


class Momentum(okcore.Optimizer):
    """Overrides the update of one parameter."""

    def __init__(self, learning_rate: float, decay: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.decay, self.velocity = decay, dict[str, NDArray[Any]]()

    def update(self, name: str, parameter: NDArray[Any], gradient: NDArray[Any]) -> None:
        velocity = self.velocity.setdefault(name, np.zeros_like(parameter))
        velocity *= self.decay
        velocity += gradient
        parameter -= self.learning_rate * velocity


class ScaledReadout(okcore.SoftmaxReadout):
    """Overrides the loss."""

    def loss(
        self, h: NDArray[np.float32], y: NDArray[np.int64]
    ) -> tuple[float, Floats, Floats]:
        bits, dh, gradient = super().loss(h, y)
        return bits, 2 * dh, 2 * gradient


class Alternating(tasks.Task):
    """A task: the symbols 0 and 1 in turn."""

    n_in = n_out = 2

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.t, self.losses = batch_size, 0, list[float]()

    def __next__(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        x = np.full(self.batch_size, self.t % 2)
        self.t += 1
        return x, 1 - x, np.full(self.batch_size, self.t == 1)

    def observe(self, loss_bits: float) -> None:
        self.losses.append(loss_bits)


class Plain:
    """A task that is no subclass, and has no resets."""

    def __next__(self) -> tuple[list[int], list[int], None]:
        return [0, 1], [1, 0], None

    def observe(self, loss: float) -> None:
        pass


def by_hand(cell: okcore.Cell, est: okcore.Estimator, dtype: type[np.float32] | type[np.float64]) -> NDArray[Any]:
    """Use every call of an estimator."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(6, 2, cell.n_in)).astype(dtype)
    dhs = np.ones((6, 2, cell.n_hidden), dtype)
    h: Floats = est.step(xs[0], reset=np.array([True, False]))
    est.step(rng.integers(cell.n_in, size=2), out=h)
    g = est.gradient(h, out=np.empty_like(cell.theta))
    cell.theta -= 0.01 * g
    cell.theta[:] = np.clip(cell.theta, -1, 1)
    cell.theta = cell.theta * 0.5
    per_lane: Floats = est.gradient(h, per_lane=True)
    assert per_lane.shape == (2, *cell.theta.shape) and est.input_gradient(h).shape == (2, cell.n_in)
    for x, dh in zip(xs, dhs, strict=True):
        est.step(x)
        est.accumulate(dh)
    flushed = est.flush()
    hs, gradient = est.run(xs, dhs, resets=np.zeros((6, 2), bool))
    hs, _ = est.run(xs)
    assert est.influence().shape == (2, cell.state_size, *cell.theta.shape)
    norm: float = float(np.linalg.norm(gradient + flushed)) / (1 + len(hs))
    assert norm >= 0 and est.steps > 6 and est.batch_size == 2 and est.cell is cell and est.block >= 1
    est.on_overflow = "forget"
    assert est.on_overflow == "forget" and est.overflows == 0

    twin = est.clone()
    state: dict[str, Any] = est.state_dict()
    twin.load_state_dict(state)
    twin.state = est.state
    variance = est.stats.get("variance")
    assert variance is None or variance.shape == (2,)
    first = okcore.Estimator.take_lanes(state, 0, 1)
    okcore.Estimator.join_lanes([first, okcore.Estimator.take_lanes(state, 1, 1)])
    assert isinstance(est.carry, okcore.Carry) and est.generators[0].bit_generator is not None
    est.reset(np.array([True, False]))
    est.reset()
    return pickle.loads(pickle.dumps(copy.deepcopy(est))).influence()  # type: ignore[no-any-return]


def estimators(cell: okcore.Cell) -> list[okcore.Estimator]:
    return [
        okcore.OK(cell, rank=3, block="auto", mixing="signs", batch_size=2, rng=0, tolerance=0.1),
        okcore.OK(cell, 3, block=2, mixing="sampling", batch_size=2, rng=np.random.default_rng(0), first_lane=2),
        okcore.RTRL(cell, batch_size=2, n_threads=2),
        okcore.KFRTRL(cell, copies=2, block=1, batch_size=2, rng=np.random.SeedSequence(1)),
        okcore.UORO(cell, batch_size=2, rng=None),
        okcore.SnAp1(cell, batch_size=2, update_every=4),
        okcore.TBPTT(cell, horizon=5, batch_size=2),
        DenseRTRL(cell, 2, batch_size=2),
        RFLO(cell, batch_size=2),
    ]


def train(folder: Path) -> NDArray[np.float64]:
    task = tasks.Copy(batch_size=4, rng=0, length=2)
    cell = okcore.GRU(task.n_in, 8, dtype="float32", rng=1, init="normal", scale=0.1)
    estimator = okcore.OK(cell, rank=2, block=4, batch_size=4)
    readout = okcore.SoftmaxReadout(8, task.n_out, rng=2)
    trainer = okcore.OnlineTrainer(cell, estimator, readout, okcore.Adam(1e-3), clip=1.0, update_every=2)

    def stop(trainer: okcore.OnlineTrainer, loss_bits: float) -> bool:
        return trainer.steps > 20 and loss_bits < 0.01

    losses = trainer.fit(task, steps=30, progress=False, callback=stop)
    x, y, reset = next(task)
    loss: float = trainer.partial_fit(x, y, reset)
    p = trainer.predict(x, reset)
    assert p.shape == (4, 4) and loss > 0 and task.length >= 2 and task.running_loss > 0
    trainer.save(folder / "checkpoint.npz")
    trainer.load(str(folder / "checkpoint.npz"))
    trainer.load_state_dict(trainer.state_dict())
    bits = readout.bits(estimator.step(x), y).mean() + trainer.evaluate_bits(np.arange(20) % 4)
    assert bits > 0 and readout.weights.shape == (4, 9)
    return losses


def learn_by_hand() -> float:
    cell = okcore.RHN(n_in=4, n_hidden=8, rng=0)
    est = okcore.OK(cell, rank=8, block=16, batch_size=16, rng=0)
    readout = ScaledReadout(n_hidden=8, n_out=4, rng=0)
    adam, sgd = okcore.Adam(2e-3, beta1=0.8), okcore.SGD(1e-2)
    rng = np.random.default_rng(0)
    bits = 0.0
    for _ in range(10):
        x = rng.integers(4, size=16)
        bits, dh, gradient = readout.loss(est.step(x), (x + 1) % 4)
        adam.update("theta", cell.theta, est.gradient(dh))
        sgd.update_all({"readout": (readout.weights, gradient)})
    adam.load_state_dict(adam.state_dict(), {"theta": cell.theta})
    return bits


def reduce_by_hand() -> float:
    rng = np.random.default_rng(0)
    u, A = rng.normal(size=(5, 3)), rng.normal(size=(5, 4, 4))
    u_new, A_new = kron.reduce(u, A, rank=2, rng=0, mixing="signs", tolerance=0.1)
    kron.reduce(u, A, 2, signs=np.ones(5))
    kron.reduce(u, A, 2, mixing="sampling", start=0.5)
    J: NDArray[np.float64] = kron.to_dense(u_new, A_new)
    v: NDArray[np.float64] = kron.contract(np.ones(4), u, kron.left_multiply(np.eye(4), A))
    return float(J.sum() + v.sum())


def in_numpy(cell: okcore.Cell) -> NDArray[Any]:
    estimator = reference.OK(cell, rank=2, block=2, batch_size=2, rng=0)
    h = estimator.step(np.array([0, 1]))
    u, A, variance = reference.reduce(np.ones((3, 2)), np.ones((3, 2, 2)), 2, signs=np.ones(3))
    assert variance >= 0 and reference.to_dense(u, A).shape == (2, 2, 2)
    return estimator.gradient(h)


def rates(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for run in okcore.load_runs([folder / "*"]):
        name: str = run.options["estimator"]
        found[f"{run.folder.name} {name}"] = float(run.metrics["loss_bits"][-1])
    return found


def main(folder: Path) -> None:
    make: Callable[..., okcore.Cell]
    for make in (okcore.RNN, okcore.RHN, okcore.LSTM, okcore.GRU, UGRNN):
        for dtype in (np.float32, np.float64):
            cell = make(3, 4, dtype=dtype, rng=0)
            for est in estimators(cell):
                by_hand(cell, est, dtype)
    assert train(folder).shape == (30,) and learn_by_hand() > 0 and np.isfinite(reduce_by_hand())
    in_numpy(reference.RNN(2, 3))

    trainer = okcore.OnlineTrainer(
        cell := UGRNN(2, 4), RFLO(cell, 2), okcore.SoftmaxReadout(4, 2), Momentum(0.01), clip=None
    )
    trainer.fit(task := Alternating(2), 5)
    trainer.fit(Plain(), 5)
    assert len(task.losses) == 5

    wave = tasks.Series(tasks.mackey_glass(200), batch_size=2, dtype=np.float64)
    cell64 = okcore.LSTM(1, 4, np.float64)
    linear = okcore.LinearReadout(4, 1, dtype=np.float64, init="zeros")
    okcore.OnlineTrainer(cell64, okcore.SnAp1(cell64, 2), linear, okcore.SGD(0.01)).fit(wave, 5)
    text = tasks.Text(b"what is read again and again is read again and again", 2, valid=b"is read again")
    assert text.n_in == len(text.symbols) and tasks.Delay(2, delay=3).batch_size == 2 and len(tasks.python_docs()) > 9

    check_cell(UGRNN)
    check_estimator(lambda cell, batch_size, rng: RFLO(cell, batch_size))
    okcore.testing.check_estimator(lambda cell, batch_size, rng: DenseRTRL(cell, 3, batch_size), expect="exact")
    assert isinstance(okcore.__version__, str)
    okcore.show_config(sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
