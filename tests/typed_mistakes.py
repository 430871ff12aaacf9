"""Mistakes that `mypy --strict` must report; where it does not, it reports that a comment ignores nothing.

test_types.py checks this file. It is not run.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import okcore

cell = okcore.RNN("4", 8)  # type: ignore[arg-type]
okcore.LSTM(4)  # type: ignore[call-arg]
okcore.GRU(4, 8, bias=False)  # type: ignore[call-arg]
okcore.GRU(4, 8, init="orthogonal")  # type: ignore[arg-type]
okcore.GRU(4, 8, rng="seed")  # type: ignore[arg-type]
cell.n_hidden = 9  # type: ignore[misc]
print(cell.hidden)  # type: ignore[attr-defined]

est = okcore.OK(cell, rank=4)
okcore.Rtrl(cell)  # type: ignore[attr-defined]
okcore.OK(cell)  # type: ignore[call-arg]
okcore.OK(est, rank=4)  # type: ignore[arg-type]
okcore.OK(cell, rank=4.0)  # type: ignore[arg-type]
okcore.OK(cell, rank=4, block="all")  # type: ignore[arg-type]
okcore.OK(cell, rank=4, mixing="sign")  # type: ignore[arg-type]
okcore.TBPTT(cell, block=4)  # type: ignore[call-arg]
okcore.UORO(cell, rank=4)  # type: ignore[call-arg]

x, dh = np.zeros((1, 4), np.float32), np.zeros((1, 8), np.float32)
est.step()  # type: ignore[call-arg]
est.step(cell)  # type: ignore[arg-type]
est.step(x, out=[[0.0]])  # type: ignore[arg-type]
est.gradient(dh, True)  # type: ignore[arg-type]
est.backward(dh)  # type: ignore[attr-defined]
est.steps = 0  # type: ignore[misc]
est.stats.mean()  # type: ignore[attr-defined]
loss: str = okcore.SoftmaxReadout(8, 2).loss(dh, x)[0]  # type: ignore[assignment]
h, gradient = est.run(x[None], dh[None], theta=cell.theta)  # type: ignore[call-arg]
state: list[float] = est.state_dict()  # type: ignore[assignment]

okcore.Adam("1e-3")  # type: ignore[arg-type]
okcore.Adam(1e-3).update("theta", est.gradient(dh))  # type: ignore[call-arg]
trainer = okcore.OnlineTrainer(cell, est, okcore.SoftmaxReadout(8, 2))  # type: ignore[call-arg]
okcore.OnlineTrainer(est, cell, okcore.SoftmaxReadout(8, 2), okcore.SGD(0.1))  # type: ignore[arg-type]
trainer.fit([(x, x, None)], 5)  # type: ignore[arg-type]
trainer.fit(okcore.tasks.Copy(1), steps="5")  # type: ignore[arg-type]
trainer.partial_fit(x)  # type: ignore[call-arg]
okcore.tasks.Copy(batch_size=None)  # type: ignore[arg-type]
okcore.kron.reduce(x, x[None], 4, mixing="mean")  # type: ignore[arg-type]
okcore.kron.contract(x, np.zeros((1, 4), np.int64), x[None])  # type: ignore[type-var]
okcore.load_runs(3)  # type: ignore[arg-type]
okcore.testing.check_cell(cell)  # type: ignore[arg-type]
okcore.testing.check_estimator(lambda cell: okcore.UORO(cell))  # type: ignore[arg-type, misc]
okcore.testing.check_estimator(lambda cell, lanes, rng: okcore.UORO(cell), expect="close")  # type: ignore[arg-type]


class Cell(okcore.Cell):
    def pointwise(self, pre: NDArray[Any]) -> NDArray[Any]:  # type: ignore[override]
        return pre


class Carry(okcore.Carry):
    def contract(self, delta: NDArray[Any]) -> float:  # type: ignore[override]
        return float(self.cell.theta.sum() + self.cell.thetas.sum())  # type: ignore[attr-defined]


class Estimator(okcore.Estimator):
    def __init__(self, cell: okcore.Cell) -> None:
        super().__init__(cell, Carry(cell), 1)  # type: ignore[call-arg]
