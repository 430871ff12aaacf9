"""PyTorch and okcore at the same job: `horizon` time steps of every lane with a credit dl/dh at each, the gradient of all
of them, and one step of gradient descent. There is no readout.

An adapter is a class that is made from a Job and called once per repetition; `parameters()` returns theta (P, m) in okcore's
layout. All start from the same parameters, get the same inputs and credits, and keep the state between calls.
"""

from dataclasses import dataclass

import measure
import numpy as np
from scipy.linalg import blas

import okcore

RATE = np.float32(1e-6)


@dataclass(repr=False)
class Job:
    """Cell ("RNN", "LSTM" or "GRU"), hidden units, lanes, and steps per update."""

    cell: str
    n: int
    lanes: int
    horizon: int
    n_in: int = 16

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.xs = rng.normal(size=(self.horizon, self.lanes, self.n_in)).astype(np.float32)
        self.dhs = rng.normal(size=(self.horizon, self.lanes, self.n)).astype(np.float32)

    def __repr__(self):
        return f"{self.cell:<4} horizon {self.horizon:>2}  B = {self.lanes:>2}  n = {self.n:>3}"

    @property
    def target(self):
        """How many times as long PyTorch must take."""
        return 1 if self.horizon > 1 else 10 if self.lanes == 1 else 3

    def make_cell(self):
        """Return the cell with its initial parameters."""
        return getattr(okcore, self.cell)(self.n_in, self.n, rng=0)


def jobs(horizon):
    """Yield every job of row 8 (25 steps per update) or row 9 (1)."""
    for cell in ("RNN", "LSTM", "GRU"):
        for lanes in (1, 16):
            for n in (4,) if measure.TOY else (64, 128, 256) if horizon > 1 else (32, 64, 128):
                yield Job(cell, n, lanes, horizon)


class Okcore:
    """One `run` per job, or one `step` and one `gradient` if there is an update at every step."""

    def __init__(self, job):
        self.job = job
        self.cell = job.make_cell()
        self.estimator = okcore.TBPTT(self.cell, job.horizon, job.lanes)
        self.h, self.g = np.empty_like(job.dhs[0]), np.empty_like(self.cell.theta)

    def __call__(self):
        if self.job.horizon == 1:
            self.estimator.step(self.job.xs[0], out=self.h)
            gradient = self.estimator.gradient(self.job.dhs[0], out=self.g)
        else:
            _, gradient = self.estimator.run(self.job.xs, self.job.dhs)
        blas.saxpy(gradient.ravel(), self.cell.theta.ravel(), a=-RATE)  # in place, in one pass

    def parameters(self):
        return self.cell.theta


class PyTorch:
    """The same cell in torch.nn over the whole job, autograd, and an explicit update, which is faster than torch.optim."""

    def __init__(self, job):
        import torch

        from okcore.torch import to_torch

        torch.set_num_threads(1)
        self.torch, self.job, self.net = torch, job, to_torch(job.make_cell())
        self.weights = list(self.net.parameters())
        self.xs, self.dhs = torch.from_numpy(job.xs), torch.from_numpy(job.dhs)
        zeros = torch.zeros(1, job.lanes, job.n)
        self.state = (zeros, zeros) if job.cell == "LSTM" else zeros

    def __call__(self):
        hs, state = self.net(self.xs, self.state)
        hs.backward(self.dhs)
        self.state = tuple(s.detach() for s in state) if self.job.cell == "LSTM" else state.detach()
        with self.torch.no_grad():
            for weight in self.weights:
                weight.sub_(weight.grad, alpha=float(RATE))
                weight.grad = None

    def parameters(self):
        from okcore.torch import from_torch

        theta = from_torch(self.net).theta
        if self.job.cell != "GRU":  # one bias for two of torch, each with its gradient: their sum moves twice as far
            theta[:, -1] -= self.net.bias_hh_l0.detach().numpy()
        return theta
